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

import time
from typing import TYPE_CHECKING, NamedTuple

from ...errors import BackendError, InputError
from ..drawing import row_words
from .costs import BUDGET, RARELY, SLOPE, Acceptance, Credit
from .drafts import NgramDrafter
from .first_layers import FirstLayers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ..pages import Pages
    from ..pools import Part
    from ..sampling import Sampler, SamplingParams
    from .costs import Costs
    from .drafts import Drafter
    from .wants import Want

__all__ = ["MOST", "NGRAM", "Begun", "Drafting", "Speculation", "block_words", "with_drafts"]

#: `draft`: what the text repeats.
NGRAM = "ngram"

#: Ids that are drafted for a pass, at most.
MOST = 15
#: How much a pass of an answer changes what is expected of others.
_SLOWLY = 1 / 16
#: Of an id more, below which no further ones are looked at.
_HARDLY = 0.05
#: What is expected of the first drafts of all; and how much more than is thought a pass of two tokens may take until it
#: is measured, where a draft is not expected to gain.
_HOPE, _UNSURE = 0.5, 0.5


class Speculation:
    """What is drafted for one answer, and what came of it."""

    def __init__(
        self, drafter: Drafter, costs: Costs, expected: dict[int, float], n_rows: int, credit: Credit | None = None
    ) -> None:
        """`expected`: how often drafts of each kind were right in other answers; it learns from this one.

        `n_rows`: rows of logits that a pass has, for all texts. `credit`: what may be lost, of all answers.
        """
        self._drafter, self._costs, self._expected, self._n_rows = drafter, costs, expected, n_rows
        self._seen: dict[int, Acceptance] = {}
        self._kind, self._n_texts = 0, 1  # of the last that were drafted
        self._credit, self._gained = Credit() if credit is None else credit, 0.0
        self.computes = drafter.computes  # whether drafting takes time
        self.n_drafted = self.n_accepted = 0

    @property
    def in_pass(self) -> FirstLayers | None:
        """What drafts in the turn of the pass that checks it, if this does; `drafted` guesses nothing then."""
        return self._drafter if isinstance(self._drafter, FirstLayers) else None

    def drafted(self, ids: Sequence[int], most: int, n_texts: int = 1) -> list[int]:
        """Ids that may follow: as many as pay, at most `most`. `n_texts`: that share a pass."""
        n = self.length(ids, most, n_texts)
        return self.guessed(ids, n) if n else []

    def length(self, ids: Sequence[int], most: int, n_texts: int = 1) -> int:
        """How many ids are to be drafted."""
        kind = self._drafter.kind(ids)
        if kind is None or most < 1:
            return 0
        self._kind, self._n_texts = kind, n_texts
        seen = self._seen.get(kind)
        if seen is None:
            seen = self._seen[kind] = Acceptance(self._expected.get(kind, _HOPE))
        self._credit.add(BUDGET / n_texts)
        read = self._reads(ids, n_texts)
        n, gain = self._length(seen, min(most, MOST, self._n_rows // n_texts - 1), n_texts)
        return n if n and self._pays(read, most * (1 - 1 / gain)) else self._tried(seen, read, n_texts)

    def guessed(self, ids: Sequence[int], n: int) -> list[int]:
        """So many ids that may follow. What it takes to read the text first counts as lost."""
        if not self.computes:
            return self._drafter.draft(ids, n)
        unit, began = self._costs.seconds(self._n_texts), time.perf_counter()
        drafted = self._drafter.draft(ids, n)
        if unit:
            took = self._n_texts * (time.perf_counter() - began) / unit
            self._gain(min(0.0, len(drafted) * self._drafter.cost(self._n_texts, unit) - took))
        return drafted

    def _length(self, seen: Acceptance, most: int, n_texts: int) -> tuple[int, float]:
        """How many drafted ids yield most, of those that may all be wrong; and how much more than none."""
        best, length, yields, rate = 1.0, 0, 1.0, seen.rate
        for k in range(1, most + 1):
            yields += rate**k
            cost = self._cost(k, n_texts)
            if yields > best * cost and self._may_lose((cost - 1) / n_texts):
                best, length = yields / cost, k
            if rate**k < _HARDLY:
                break
        return length, best

    def _may_lose(self, units: float) -> bool:
        """Of what this answer gained by drafts, or of what all may."""
        return units <= max(self._credit.left, self._gained)

    def _reads(self, ids: Sequence[int], n_texts: int) -> float:
        """What it takes the drafter to read what it has not read of a text."""
        n, unit = self._drafter.missing(ids), self._costs.seconds(n_texts)
        if n <= 1:  # which it reads with the first guess
            return 0.0
        each = self._drafter.read_s / unit if unit else 0.0
        return n * (each or SLOPE * self._drafter.cost(n_texts, unit))

    def _pays(self, read: float, gain: float) -> bool:
        """Whether a text is worth reading: others told so, or none told anything yet."""
        known = self._expected.get(self._kind)
        return self._may_lose(read / self._n_texts) or known is None or (known > _HOPE and gain > read)

    def _tried(self, seen: Acceptance, read: float, n_texts: int) -> int:
        """1 where it is time to try one, though none pays; else 0."""
        seen.waited += 1
        unsure = 0.0 if self._costs.seconds(2 * n_texts) else _UNSURE
        price = max(self._cost(1, n_texts) - 1, SLOPE) + read + unsure
        if seen.waited * BUDGET < seen.rarely * price or not self._may_lose(price / n_texts):
            return 0
        seen.waited = 0
        return 1

    def _cost(self, k: int, n_texts: int) -> float:
        """Of a pass with k drafted ids for each text, as a multiple of one without."""
        unit = self._costs.seconds(n_texts)
        return self._costs.of(n_texts * (1 + k), n_texts) + k * self._drafter.cost(n_texts, unit)

    def _gain(self, units: float) -> None:
        self._gained += units / self._n_texts
        self._credit.add(units / self._n_texts)

    def learn(self, n_checked: int, n_right: int) -> None:
        """What a pass said of the last that were drafted."""
        seen = self._seen[self._kind]
        seen.saw(n_checked, n_right)
        seen.rarely = RARELY[0] if n_right else min(RARELY[1], 2 * seen.rarely)
        self.n_drafted += n_checked
        self.n_accepted += n_right
        n, unit = self._n_texts, self._costs.seconds(self._n_texts)
        spent = self._costs.spent(n * (1 + n_checked), n) + n_checked * self._drafter.cost(n, unit)
        self._gain(1 + n_right - spent)
        before = self._expected.get(self._kind, _HOPE)
        self._expected[self._kind] = before + _SLOWLY * (seen.rate - before)


class Begun(NamedTuple):
    """An answer that begins: what an encoder reads, how it is drawn, and its number among several.

    `before`: what the encoder reads, where its ids are the decoder's too. `adapter`, `salt`: the text's.
    """

    source: Sequence[int] | None
    before: Sequence[int]
    sampling: SamplingParams
    number: int
    adapter: str | None = None
    salt: str = ""


class Drafting:
    """Who drafts for the answers of a session, and how often drafts were right."""

    def __init__(self, costs: Costs | None, n_rows: int, backend: str) -> None:
        """`costs`: of the session's passes; None: its backend has one text at a time, and drafts nothing."""
        self._costs, self._n_rows, self._backend = costs, n_rows, backend
        self._expected: dict[str, tuple[dict[int, float], Credit]] = {}
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
        expected, credit = self._expected.setdefault(name, ({}, Credit()))
        return Speculation(made, self._costs, expected, self._n_rows, credit)


def ngrams(begun: Begun) -> Drafter:
    """What drafts from the text itself."""
    return NgramDrafter(begun.before)


def block_words(
    sampler: Sampler, position: int, drafted: Sequence[int], masks: Sequence[NDArray[np.uint32]] = ()
) -> list[NDArray[np.int64]]:
    """As `row_words`, for the token at `position` and for those after it, each as if the drafted ids before it came.

    `masks`: of those after it, of a sampler that has one. Empty: Python draws the first, and the others are not known.
    The sampler is as it was.
    """
    of_each = [sampler.mask] + (list(masks) if masks else [sampler.mask] * len(drafted))
    if sampler.changes is not None:  # whose counts are not undone
        return _words_of_each(sampler, position, drafted, of_each)
    rows: list[NDArray[np.int64]] = []
    held: list[object] = [masks]
    mark = sampler.mark()
    try:
        for i, mask in enumerate(of_each):
            sampler.mask = mask
            words = row_words(sampler, position + i)
            if words is None:
                return []
            rows.append(words.copy())
            held.append(sampler.edited)
            sampler.observe(drafted[i : i + 1])
    finally:
        sampler.mask = of_each[0]
        sampler.rewind(mark)
    sampler.held = held
    return rows


def _words_of_each(
    sampler: Sampler, position: int, drafted: Sequence[int], masks: Sequence[NDArray[np.uint32] | None]
) -> list[NDArray[np.int64]]:
    """The same, by a sampler for each row, with its mask."""
    each = [sampler]
    for token, mask in zip(drafted, masks[1:], strict=True):
        each.append(each[-1].ahead([token]))
        each[-1].mask = mask
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
