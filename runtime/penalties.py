"""What is added to scores, or scales them, before an id is drawn: by what the text has so far.

In the order of transformers' `_get_logits_processor`: biases, the penalty for what the source lacks, [the repetition
penalty, of `sampling.py`], frequency, presence and DRY, [rules, of `rules.py`], what grows with the answer's length.
Each step is float64 arithmetic on a float32 score, rounded to float32: `Changes.apply` is the definition, and
`cpu/kernels/draw.py` does the same with the same lists.
"""

from __future__ import annotations

from copy import copy
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..dataclass import dataclass
from .exact import power

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    Ids = NDArray[np.int64]
    Amounts = NDArray[np.float64]

__all__ = ["Changes", "Dry", "Lists", "Penalties", "scaled"]

_LARGEST = 1e30
_NO_IDS, _NOTHING = np.zeros(0, np.int64), np.zeros(0, np.float64)


@dataclass(frozen=True)
class Dry:
    """DRY, "Don't Repeat Yourself" (p-e-w, text-generation-webui #5677, 2024): against going on with what was written.

    An id that came after what now stands at the end, n ids long, gets multiplier * base^(n - allowed) taken off, where
    n is `allowed` at least and the longest. What matches holds no breaker, and lies in the text's last `last_n` ids
    (-1: the whole text).
    """

    multiplier: float = 0.0
    base: float = 1.75
    allowed: int = 2
    last_n: int = -1
    breakers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Penalties:
    """All of them off as they stand."""

    frequency: float = 0.0  # OpenAI's: taken off for each time that the answer has an id
    presence: float = 0.0  # OpenAI's: taken off once, where it has it
    biases: tuple[tuple[tuple[int, ...], float], ...] = ()  # added to the last id of a run, where the others came
    source_penalty: float = 1.0  # `encoder_repetition_penalty`: above 1 favours ids of what was asked
    decay: tuple[int, float] | None = None  # from this id of the answer on, ends are likelier by this factor for each
    dry: Dry = field(default_factory=Dry)

    @property
    def off(self) -> bool:
        """Whether no row is changed."""
        on = self.frequency or self.presence or self.biases or self.source_penalty != 1 or self.decay
        return not on and self.dry.multiplier == 0

    def renumbered(self, new: dict[int, int]) -> Penalties:
        """Of a cut vocabulary: what speaks of ids that are gone is gone."""
        kept = tuple((tuple(new[i] for i in run), by) for run, by in self.biases if all(i in new for i in run))
        return replace(self, biases=kept)


class Lists(NamedTuple):
    """What changes one row: ids (each once in a list), and by how much. They are there until the next row's."""

    bias: tuple[Ids, Amounts] = (_NO_IDS, _NOTHING)
    source: Ids = _NO_IDS
    counted: tuple[Ids, Amounts] = (_NO_IDS, _NOTHING)
    repeated: tuple[Ids, Amounts] = (_NO_IDS, _NOTHING)
    ends: Ids = _NO_IDS
    growth: float = 0.0


class Changes:
    """The penalties of one answer, which knows its text so far. `source`: what was asked, if not the prompt."""

    def __init__(
        self, n_vocab: int, penalties: Penalties, ends: Sequence[int] = (), source: Sequence[int] | None = None
    ) -> None:
        """`ends`: ids that end the answer."""
        self.penalties, self._n_vocab, self._n_new = penalties, n_vocab, 0
        self._ends = np.array(sorted({i for i in ends if i < n_vocab}), np.int64)
        self._text: list[int] = []
        self._given_source = source
        self._source = _NO_IDS if source is None else _once(source, n_vocab)
        counts = penalties.frequency != 0 or penalties.presence != 0
        self._counts = np.zeros(n_vocab if counts else 0, np.int64)
        self._counted = np.empty(n_vocab if counts else 0, np.int64)  # each id of the answer once
        self._n_counted = 0
        self._dry = None if penalties.dry.multiplier == 0 else _Repeats(penalties.dry)
        self._alone = {run[0]: 0.0 for run, _ in penalties.biases if len(run) == 1}
        for run, by in penalties.biases:
            if len(run) == 1:
                self._alone[run[0]] += by
        self._runs = [(run, by) for run, by in penalties.biases if len(run) > 1]
        self._bias = _pairs(self._alone)

    def observe(self, ids: Iterable[int], *, answer: bool) -> None:
        """Add ids of the prompt, or of the answer."""
        new = list(ids)
        if self._runs:
            self._text += new
        if self._dry is not None:
            self._dry.observe(new)
        if not answer:
            if self._given_source is None and self.penalties.source_penalty != 1:
                self._source = np.union1d(self._source, _once(new, self._n_vocab))
            return
        self._n_new += len(new)
        if self._counts.size:
            for i in new:
                if self._counts[i] == 0:
                    self._counted[self._n_counted] = i
                    self._n_counted += 1
                self._counts[i] += 1

    def copy(self) -> Changes:
        """Another that goes on from here by itself."""
        twin = copy(self)
        twin._stand_alone()  # noqa: SLF001 - of this class
        return twin

    def _stand_alone(self) -> None:
        self._text, self._counts, self._counted = list(self._text), self._counts.copy(), self._counted.copy()
        self._dry = None if self._dry is None else self._dry.copy()

    def lists(self) -> Lists:
        """What changes the next row."""
        how, growth = self.penalties, 0.0
        counted = self._counted[: self._n_counted]
        times = self._counts[counted] if counted.size else _NO_IDS
        taken = -(times.astype(np.float64) * how.frequency + how.presence)
        if how.decay is not None and self._n_new > how.decay[0]:
            growth = (
                min(power(how.decay[1], self._n_new - how.decay[0]), _LARGEST) - 1
            )  # of 0 there is no infinite part
        source = self._source if how.source_penalty != 1 else _NO_IDS
        repeated = (_NO_IDS, _NOTHING) if self._dry is None else self._dry.taken()
        return Lists(self._biased(), source, (counted, taken), repeated, self._ends if growth else _NO_IDS, growth)

    def _biased(self) -> tuple[Ids, Amounts]:
        """transformers' `SequenceBiasLogitsProcessor`: biases of runs whose beginning ends the text, and of ids."""
        if not self._runs:
            return self._bias
        by, text = dict(self._alone), self._text
        for run, amount in self._runs:
            before = len(run) - 1
            if len(text) > before and tuple(text[-before:]) == run[:-1]:
                by[run[-1]] = by.get(run[-1], 0.0) + amount
        return _pairs(by)

    def apply(self, scores: NDArray[np.float32], lists: Lists, part: int) -> None:
        """Change [n_vocab] scores: part 0 before the repetition penalty, 1 after it, 2 after the rules."""
        with np.errstate(over="ignore", invalid="ignore"):
            if part == 0:
                _add(scores, *lists.bias)
                scaled(scores, lists.source, 1.0 / self.penalties.source_penalty)
            elif part == 1:
                _add(scores, *lists.counted)
                _add(scores, *lists.repeated)
            else:
                old = scores[lists.ends].astype(np.float64)
                scores[lists.ends] = np.where(old > -np.inf, old + np.abs(old) * lists.growth, old)


def scaled(scores: NDArray[np.float32], ids: Ids, penalty: float) -> None:
    """Scores x of ids by a penalty p: x / p where x >= 0, x * p where x < 0.

    Keskar et al. 2019 (arXiv:1909.05858), with transformers' treatment of negative logits and its float32.
    """
    p = float(np.float32(penalty))
    old = scores[ids].astype(np.float64)
    with np.errstate(over="ignore"):
        scores[ids] = np.where(old < 0, old * p, old / p)


def _add(scores: NDArray[np.float32], ids: Ids, amounts: Amounts) -> None:
    scores[ids] = scores[ids].astype(np.float64) + amounts


def _once(ids: Iterable[int], n_vocab: int) -> Ids:
    return np.array(sorted({i for i in ids if i < n_vocab}), np.int64)  # an encoder may have a larger vocabulary


def _pairs(by: dict[int, float]) -> tuple[Ids, Amounts]:
    return np.array(list(by), np.int64), np.array(list(by.values()), np.float64)


class _Repeats:
    """How many ids before each place of the text are those before its end: all that DRY asks of it."""

    def __init__(self, how: Dry) -> None:
        self._how, self._breakers = how, frozenset(how.breakers)
        self._ids, self._alike, self._n = np.empty(256, np.int64), np.empty(256, np.int64), 0

    def copy(self) -> _Repeats:
        twin = copy(self)
        twin._ids, twin._alike = self._ids.copy(), self._alike.copy()  # noqa: SLF001 - of this class
        return twin

    def observe(self, ids: Sequence[int]) -> None:
        while self._n + len(ids) > self._ids.size:
            self._ids, self._alike = (np.concatenate([each, each]) for each in (self._ids, self._alike))
        for i in ids:
            n = self._n
            alike = self._alike[:n]
            if i in self._breakers:
                alike[:] = 0
            else:  # the match that ends at a place is one longer than the one that ended before it
                alike[1:] = alike[:-1] + 1
                alike[:1] = 1
                alike[self._ids[:n] != i] = 0
            self._ids[n], self._alike[n], self._n = i, 0, n + 1

    def taken(self) -> tuple[Ids, Amounts]:
        """Ids, ascending, and what is added to their scores."""
        how, n = self._how, self._n
        if n == 0:
            return _NO_IDS, _NOTHING
        first = 0 if how.last_n < 0 else max(0, n - how.last_n)
        alike = np.minimum(self._alike[first : n - 1], np.arange(1, max(n - first, 1)))
        at = np.flatnonzero(alike >= max(how.allowed, 1))
        longest: dict[int, int] = {}
        for i, length in zip(self._ids[first + at + 1].tolist(), alike[at].tolist(), strict=True):
            longest[i] = max(longest.get(i, 0), length)
        by: dict[int, Any] = {i: -how.multiplier * power(how.base, longest[i] - how.allowed) for i in sorted(longest)}
        return _pairs(by)
