"""What an answer may be: at each place a mask of the ids that may come next, and whether the text may end there.

The runtime knows masks only. What a schema, a grammar or a list of choices allows is worked out elsewhere
(`loader/text/grammar.py`, `choices.py`) and is asked here, one id after the other. An id that ends the answer may come
where the text may end, and nowhere else; it must, where nothing else may.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np

from ..errors import InputError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from .parameters import GenerateKwargs

__all__ = ["CONSTRAINTS", "Constraint", "Steered", "Walk", "constraint_of"]

#: Parameters of which a call takes one: what its answer must be.
CONSTRAINTS = ("schema", "grammar", "regex", "choices")


class Walk(Protocol):
    """One answer's way through what is allowed."""

    def fill(self) -> tuple[NDArray[np.uint32], bool]:
        """Ids that may come next, a bit each as in `Sampler.mask`, and whether the text may end here.

        The mask is there until the next call, and its reader may change it. No id that ends an answer is in it.
        """

    def advance(self, token: int) -> None:
        """Go on with an id that the last mask allows."""

    def check(self, text: str) -> None:
        """Errors: `BackendError` where a text that ended is not what was asked for all the same."""


@runtime_checkable
class Constraint(Protocol):
    """What an answer may be; compiled once, for any number of answers, in several threads. `name`: the caller's."""

    @property
    def name(self) -> str:
        """The parameter that asked for it."""

    def begin(self, before: Sequence[int], n_vocab: int) -> Walk:
        """An answer's way, after these ids of its text; `n_vocab`: of a mask, the tokenizer's or more."""


class Steered:
    """The mask of the next id of one answer; it changes with each id that is observed.

    `whole`: nothing may come but an end. `mask`: as the sampler's.
    """

    def __init__(
        self, constraint: Constraint, before: Sequence[int], n_vocab: int, ends: Sequence[int], first: int | None = None
    ) -> None:
        """`ends`: ids that end the answer; `first`: the id that a rule forces at its beginning, and that has no text."""
        self.name, self._n_vocab = constraint.name, n_vocab
        self._ends = np.array(sorted({i for i in ends if i < n_vocab}), np.int64)
        self._walk, self._first, self._n_new = constraint.begin(before, n_vocab), first, 0
        self.mask: NDArray[np.uint32]
        self.whole = False
        self._fill()

    def observe(self, token: int) -> None:
        """Go on with an id that was drawn; no other may be drawn after one that ends the answer."""
        first, self._first = self._first, None
        if token in self._ends:
            return
        if token != first:
            self._walk.advance(token)
        self._n_new += 1
        self._fill()

    def check(self, text: str) -> None:
        """Of an answer that ended as it should. Errors: `BackendError`."""
        self._walk.check(text)

    def _fill(self) -> None:
        self.mask, may_end = self._walk.fill()
        if self._first is not None:
            _set(self.mask, np.array([self._first]), only=True)
            return
        goes_on = bool(self.mask.any())
        self.whole = may_end and not goes_on
        if may_end:
            _set(self.mask, self._ends)
        elif not goes_on:
            msg = (
                f"{self.name}: after {self._n_new} tokens of the answer no token of the vocabulary can go on as is asked "
                "for; the vocabulary lacks a character that must come, or was cut (prune): ask for other characters"
            )
            raise InputError(msg)


def _set(mask: NDArray[np.uint32], ids: NDArray[np.int64], *, only: bool = False) -> None:
    if only:
        mask[:] = 0
    np.bitwise_or.at(mask, ids >> 5, np.uint32(1) << (ids & 31).astype(np.uint32))


def constraint_of(
    parameters: GenerateKwargs, compiled: Callable[[str, object], Constraint] | None
) -> tuple[GenerateKwargs, Constraint | None]:
    """The parameters without what an answer must be, and that; `compiled` makes it of a name and a value.

    Errors: `InputError`: two are given, or the model has no tokenizer; what `compiled` raises.
    """
    asked: Mapping[str, Any] = cast("Mapping[str, Any]", parameters)
    given = {name: asked[name] for name in CONSTRAINTS if asked.get(name) is not None}
    if not given:
        return parameters, None
    if len(given) > 1:
        msg = f"{' and '.join(given)}: an answer is held to one of them; give one"
        raise InputError(msg)
    [(name, value)] = given.items()
    left = cast("GenerateKwargs", {n: v for n, v in parameters.items() if n not in CONSTRAINTS})
    if isinstance(value, Constraint):
        if value.name != name:
            msg = f"{name}: {shown(value)} was made for {value.name}; give it as {value.name}"
            raise InputError(msg)
        if compiled is None:
            return left, value
    if compiled is None:
        msg = f"{name}: this model has no tokenizer, so its answers have no text that could be held to it"
        raise InputError(msg)
    return left, compiled(name, value)
