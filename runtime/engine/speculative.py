"""Exact speculation: a pass reads the text's last id and drafted ones, and its rows say which of these were right.

Every row is drawn from as the plain run would: an id depends on its number and its logits alone, and these have the
same bits in a pass of one id and of several. So a drafted id is accepted exactly where the plain run would have drawn
it, greedy or sampled (in Leviathan et al. 2023, arXiv:2211.17192, the distribution is kept, and not the text); what
follows the last that was right comes with the same pass.

How many are drafted is what yields most ids a second: with a part a of them accepted, k give
E(k) = (1 - a^(k+1)) / (1 - a) ids a pass (Leviathan's equation 1), for the seconds that passes of so many tokens took
here, times the texts that share them (Liu et al. 2024, arXiv:2406.14066: the goodput). Where that is none, one is
tried now and then, for `BUDGET` of the time at most, less often after each failure.
"""

from __future__ import annotations

import statistics
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from ...errors import BackendError, InputError
from ..drawing import row_words
from .drafts import NgramDrafter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ..pages import Pages
    from ..pools import Part
    from ..sampling import Sampler, SamplingParams
    from .drafts import Drafter
    from .wants import Want

__all__ = ["MOST", "NGRAM", "Acceptance", "Begun", "Costs", "Drafting", "Speculation", "block_words", "with_drafts"]

#: `draft`: what the text repeats.
NGRAM = "ngram"

#: Ids that are drafted for a pass, at most.
MOST = 15
#: Of the time, for trying whether drafts are accepted again; and how much less often than that after failures, from the
#: first on.
BUDGET, RARELY = 0.015, (0.25, 8.0)
#: What is taken for a token more in a pass, as a part of one token's time, until passes were measured; and at least.
_SLOPE, _LEAST = 0.1, 0.03
#: Passes of a size that are remembered, and guesses that are put among them.
_SAMPLES, _GUESSES = 9, 2
#: What is left of an observation's weight with each further one; the weight of what other answers saw, and how much a
#: pass of this one changes that.
_FADE, _WEIGHT, _SLOWLY = 0.85, 3.0, 1 / 16
#: Of an id more, below which no further ones are looked at.
_HARDLY = 0.05
#: What is expected of the first drafts of all.
_HOPE = 0.5


class Costs:
    """Seconds of passes that only go on with answers, by their tokens: the median of the last."""

    def __init__(self) -> None:
        """Nothing is known."""
        self._seconds: dict[int, deque[float]] = {}
        self._median: dict[int, float] = {}

    def add(self, n_tokens: int, seconds: float) -> None:
        """A pass took so long."""
        there = self._seconds.setdefault(n_tokens, deque(maxlen=_SAMPLES))
        there.append(seconds)
        self._median[n_tokens] = statistics.median(there)

    def of(self, n_tokens: int, base: int) -> float:
        """Of a pass, as a multiple of one of `base` tokens. One that was never seen grows by `_SLOPE` of one token."""
        unit, there = self.seconds(base), self._seconds.get(n_tokens)
        least = 1 + _LEAST * (n_tokens - base) / base  # whatever was measured while others used the machine
        if there and len(there) == _SAMPLES and unit:
            return max(least, self._median[n_tokens] / unit)
        guess = (1 + _SLOPE * (n_tokens - 1)) / (1 + _SLOPE * (base - 1))
        if not there or not unit:
            return guess
        # One slow pass decides nothing.
        return max(least, statistics.median([guess * unit] * _GUESSES + list(there)) / unit)

    def seconds(self, n_tokens: int) -> float:
        """Of a pass; 0 where none was seen."""
        return self._median.get(n_tokens, 0.0)


class Acceptance:
    """How often a drafted id is right where those before it were, the newest observations first."""

    def __init__(self, expected: float) -> None:
        """`expected`: what others saw."""
        self._right, self._n = expected * _WEIGHT, _WEIGHT
        self.waited = 0  # tokens since one was tried though it did not pay
        self.rarely = RARELY[0]  # how much less often than the budget allows

    @property
    def rate(self) -> float:
        """Between 0 and 1."""
        return self._right / self._n

    def saw(self, n_checked: int, n_right: int) -> None:
        """Of these drafted ids the first were right."""
        for right in [1.0] * n_right + [0.0] * (n_right < n_checked):
            self._right, self._n = self._right * _FADE + right, self._n * _FADE + 1


class Speculation:
    """What is drafted for one answer, and what came of it."""

    def __init__(self, drafter: Drafter, costs: Costs, expected: dict[int, float], n_rows: int) -> None:
        """`expected`: how often drafts of each kind were right in other answers; it learns from this one.

        `n_rows`: rows of logits that a pass has, for all texts.
        """
        self._drafter, self._costs, self._expected, self._n_rows = drafter, costs, expected, n_rows
        self._seen: dict[int, Acceptance] = {}
        self._kind = 0
        self.computes = drafter.computes  # whether drafting takes time
        self.n_drafted = self.n_accepted = 0

    def drafted(self, ids: Sequence[int], most: int, n_texts: int = 1) -> list[int]:
        """Ids that may follow: as many as pay, at most `most`. `n_texts`: that share a pass."""
        kind = self._drafter.kind(ids)
        if kind is None or most < 1:
            return []
        self._kind = kind
        seen = self._seen.get(kind)
        if seen is None:
            seen = self._seen[kind] = Acceptance(self._expected.get(kind, _HOPE))
        n = self._length(seen, min(most, MOST, self._n_rows // n_texts - 1), n_texts)
        if not n and most > 0:
            n = self._tried(seen, self._drafter.missing(ids), n_texts)
        return self._drafter.draft(ids, n) if n else []

    def _length(self, seen: Acceptance, most: int, n_texts: int) -> int:
        """How many drafted ids yield most."""
        best, length, yields, rate = 1.0, 0, 1.0, seen.rate
        for k in range(1, most + 1):
            yields += rate**k
            gain = yields / self._cost(k, n_texts)
            if gain > best:
                best, length = gain, k
            if rate**k < _HARDLY:
                break
        return length

    def _tried(self, seen: Acceptance, missing: int, n_texts: int) -> int:
        """1 where it is time to try one, though none pays; else 0."""
        seen.waited += 1
        unit = self._costs.seconds(n_texts)
        read = missing * self._drafter.read_s / unit if unit else 0.0
        if seen.waited * BUDGET < seen.rarely * (max(self._cost(1, n_texts) - 1, _SLOPE) + read):
            return 0
        seen.waited = 0
        return 1

    def _cost(self, k: int, n_texts: int) -> float:
        """Of a pass with k drafted ids for each text, as a multiple of one without."""
        unit = self._costs.seconds(n_texts)
        drafts = n_texts * k * self._drafter.draft_s / unit if unit else 0.0
        return self._costs.of(n_texts * (1 + k), n_texts) + drafts

    def learn(self, n_checked: int, n_right: int) -> None:
        """What a pass said of the last that were drafted."""
        seen = self._seen[self._kind]
        seen.saw(n_checked, n_right)
        seen.rarely = RARELY[0] if n_right else min(RARELY[1], 2 * seen.rarely)
        self.n_drafted += n_checked
        self.n_accepted += n_right
        before = self._expected.get(self._kind, _HOPE)
        self._expected[self._kind] = before + _SLOWLY * (seen.rate - before)


class Begun(NamedTuple):
    """An answer that begins: what an encoder reads, how it is drawn, and its number among several.

    `before`: what the encoder reads, where its ids are the decoder's too. `adapter`: the name of the text's.
    """

    source: Sequence[int] | None
    before: Sequence[int]
    sampling: SamplingParams
    number: int
    adapter: str | None = None


class Drafting:
    """Who drafts for the answers of a session, and how often drafts were right."""

    def __init__(self, costs: Costs | None, n_rows: int, backend: str) -> None:
        """`costs`: of the session's passes; None: its backend has one text at a time, and drafts nothing."""
        self._costs, self._n_rows, self._backend = costs, n_rows, backend
        self._expected: dict[str, dict[int, float]] = {}
        #: What drafts where a call says nothing, by its name, and what makes one for an answer.
        self.default: tuple[str, Callable[[Begun], Drafter]] | None = None

    def begin(self, draft: bool | str | None, begun: Begun) -> Speculation | None:  # noqa: FBT001 - as a caller gives it
        """For an answer; None: nothing is drafted. Errors: `BackendError`, `InputError`."""
        if draft is False or (draft is None and self.default is None):
            return None
        if self._costs is None:
            msg = f"draft={draft!r}: on {self._backend} every id is drawn by itself; use device='cpu', or leave it out"
            raise BackendError(msg)
        if draft == NGRAM:
            name, made = NGRAM, ngrams(begun)
        elif self.default is not None:
            name, made = self.default[0], self.default[1](begun)
        else:
            msg = f"draft=True: the model was loaded without a draft; use draft={NGRAM!r}, or load(..., draft=...)"
            raise InputError(msg)
        return Speculation(made, self._costs, self._expected.setdefault(name, {}), self._n_rows)


def ngrams(begun: Begun) -> Drafter:
    """What drafts from the text itself."""
    return NgramDrafter(begun.before)


def block_words(sampler: Sampler, position: int, drafted: Sequence[int]) -> list[NDArray[np.int64]]:
    """As `row_words`, for the token at `position` and for those after it, each as if the drafted ids before it came.

    Empty: Python draws the first, and the others are not known. The sampler is as it was.
    """
    if sampler.changes is not None:  # whose counts are not undone
        return _words_of_each(sampler, position, drafted)
    rows: list[NDArray[np.int64]] = []
    held: list[NDArray[np.int64]] = []
    mark = sampler.mark()
    try:
        for i in range(len(drafted) + 1):
            words = row_words(sampler, position + i)
            if words is None:
                return []
            rows.append(words.copy())
            held.append(sampler.edited)
            sampler.observe(drafted[i : i + 1])
    finally:
        sampler.rewind(mark)
    sampler.held = held
    return rows


def _words_of_each(sampler: Sampler, position: int, drafted: Sequence[int]) -> list[NDArray[np.int64]]:
    """The same, by a sampler for each row."""
    each = [sampler]
    for token in drafted:
        each.append(each[-1].ahead([token]))
    rows = [row_words(one, position + i) for i, one in enumerate(each)]
    sampler.held = each[1:]
    return [words.copy() for words in rows if words is not None]  # none, where Python draws


def with_drafts(pages: Pages, chosen: list[tuple[Want, Part]], left: int, rows: int) -> list[tuple[Want, Part]]:
    """The parts of a pass, with drafted ids where tokens, rows of logits and free pages are left for them."""
    made: list[tuple[Want, Part]] = []
    for want, part in chosen:
        table, ids, at, n_rows = part
        end, k = at + len(ids), min(len(want.drafted), left, rows) if n_rows else 0
        if k and not pages.reserve(table, end + k):
            k = max(0, min(k, min(table.high) * pages.size + table.gap - end))
            k = k if k and pages.reserve(table, end + k) else 0
        want.n_checked = table.unsure = k
        left, rows = left - k, rows - k
        made.append((want, (table, [*ids, *want.drafted[:k]], at, n_rows + k) if k else part))
    return made
