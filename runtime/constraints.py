"""What an answer may be: at each place a mask of the ids that may come next, and whether the text may end there.

The runtime knows masks only. What a schema, a grammar or a list of choices allows is worked out elsewhere
(`loader/text/grammar.py`, `choices.py`) and is asked here, one id after the other. An id that ends the answer may come
where the text may end, and nowhere else; it must, where nothing else may.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np

from ..errors import InputError, shown
from .sampling import Sampler

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

        The mask is there until the next call, and its reader may change it. An id that ends this answer may be in it.
        """

    def advance(self, token: int) -> None:
        """Go on with an id that the last mask allows."""

    def ahead(self, drafted: Sequence[int]) -> list[tuple[NDArray[np.uint32], bool]]:
        """What `fill` would return after each of these ids, up to the first that may not come; nothing goes on.

        These masks are the caller's; the last one that `fill` returned stays as it is.
        """

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
    """One answer on its way: its sampler's mask changes with each id. `whole`: nothing may come but an end."""

    def __init__(
        self, constraint: Constraint, before: Sequence[int], sampler: Sampler, ends: Sequence[int], first: int | None
    ) -> None:
        """`ends`: ids that end the answer; `first`: an id without a text that a rule forces at its beginning."""
        n_vocab = sampler.n_vocab
        self._name, self._sampler, self._first = constraint.name, sampler, first
        self._walk, self._pieces = constraint.begin(before, n_vocab), list[str]()
        self._ends, self._n_new = np.array(sorted({i for i in ends if i < n_vocab}), np.int64), 0
        words = np.unique(self._ends >> 5)
        self._end_bits = words, np.array([_bits(self._ends[self._ends >> 5 == word]) for word in words], np.uint32)
        self.whole = False
        # rules, penalties and functions of the caller's may forbid what alone is left: a draw then says so
        self._alone = type(sampler) is Sampler and sampler.changes is None and sampler.tells_ahead
        sampler.constrained_by = constraint.name
        self._fill()

    def ends_with(self, token: int, piece: str) -> bool:
        """Go on with an id that was drawn and the text that it completed; whether nothing may come but an end."""
        first, self._first = self._first, None
        self._pieces.append(piece)
        if token not in self._ends:
            if token != first:
                self._walk.advance(token)
            self._n_new += 1
            self._fill()
        return self.whole

    def forced(self) -> int | None:
        """The only id that may come next, so that no pass need draw it; None: there are several, or others have a say.

        A row that is not computed cannot be NaN, nor tell a log-probability.
        """
        if not self._alone:
            return None
        words = np.flatnonzero(self._mask)
        if words.size != 1:
            return None
        word = int(self._mask[words[0]])
        return None if word & (word - 1) else 32 * int(words[0]) + word.bit_length() - 1

    def ahead(self, drafted: Sequence[int]) -> list[NDArray[np.uint32]]:
        """The mask of the row after each of these ids, up to the first that may not come, or that leaves but an end."""
        if self.whole or self._first is not None:
            return []
        masks: list[NDArray[np.uint32]] = []
        end = next((i for i, token in enumerate(drafted) if token in self._ends), len(drafted))  # no text goes on by it
        for mask, may_end in self._walk.ahead(drafted[:end]):
            if not mask.any():
                break
            self._with_ends(mask, may_end=may_end)
            if not mask.any():
                break
            masks.append(mask)
        return masks

    def check(self, rest: str, reason: str) -> None:
        """Of an answer that ended as it should; `rest`: what its text still had. Errors: `BackendError`."""
        if reason in {"eos", "stop"}:
            self._walk.check("".join(self._pieces) + rest)

    def _fill(self) -> None:
        mask, may_end = self._walk.fill()
        self._sampler.mask = self._mask = mask
        self._sampler.must_end = False
        if self._first is not None:
            mask[:] = 0
            mask[self._first >> 5] = 1 << (self._first & 31)
            return
        self._with_ends(mask, may_end=False)
        goes_on = bool(mask.any())
        self.whole = self._sampler.must_end = may_end and not goes_on
        if may_end:
            self._with_ends(mask, may_end=True)
        elif not goes_on:
            msg = (
                f"{self._name}: after {self._n_new} tokens of the answer no token of the vocabulary can go on as is "
                "asked for: it lacks a character that must come, or was cut (prune), or ends the answer (eos_token_id)"
                "; ask for other characters"
            )
            raise InputError(msg)

    def _with_ends(self, mask: NDArray[np.uint32], *, may_end: bool) -> None:
        """Ids that end the answer are no text of it: they come where the text may end, and nowhere else."""
        words, bits = self._end_bits
        mask[words] = mask[words] | bits if may_end else mask[words] & ~bits


def _bits(ids: NDArray[np.int64]) -> int:
    """Of ids of one word of a mask."""
    return sum(1 << int(i) for i in ids & 31)


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
    if isinstance(value, Constraint) and value.name != name:
        msg = f"{name}: {shown(value)} was made for {value.name}; give it as {value.name}"
        raise InputError(msg)
    if compiled is None and isinstance(value, Constraint):
        return left, value  # of ids, and not of a text
    if compiled is None:
        msg = f"{name}: this model has no tokenizer, so its answers have no text that could be held to it"
        raise InputError(msg)
    return left, compiled(name, value)
