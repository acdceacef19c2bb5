"""Guesses of the ids that come next: from the text itself, or by a smaller model. What they are worth a pass finds out.

Ids go in and come out. A drafter belongs to one answer, whose text only grows while it asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SIZES", "Drafter", "NgramDrafter"]

#: Ids at the end of a text that are looked up, the longest first: the longer, the surer is what followed.
SIZES = (3, 2)
_BITS = 32  # of an id in a key


class Drafter(Protocol):
    """What guesses how a text goes on.

    `computes`: it takes passes of its own. `read_s`: seconds of an id that it must read.
    """

    computes: bool
    read_s: float

    def cost(self, n_texts: int, unit: float) -> float:
        """Of a guessed id for each of so many texts, as a multiple of `unit` seconds; 0 of these: it is not known."""

    def missing(self, ids: Sequence[int]) -> int:
        """Ids that it must read before it guesses."""

    def kind(self, ids: Sequence[int]) -> int | None:
        """Of which kind the guess for this text would be; None: there is none. Kinds are accepted more or less often.

        Called for every token of the answer, before `draft`.
        """

    def draft(self, ids: Sequence[int], most: int) -> list[int]:
        """At most this many ids that may follow; perhaps fewer."""


class NgramDrafter:
    """What followed the last ids where they stood before: prompt look-up (Saxena 2023, prompt-lookup-decoding).

    Runs of `SIZES` ids are kept by what they are, with the place after the last of each, as llama.cpp's lookup does:
    a token costs a few steps, however long the text is. A text that repeats itself is continued in its period.
    """

    computes = False
    read_s = 0.0

    def __init__(self, before: Sequence[int] = ()) -> None:
        """`before`: ids that are looked in too, and are no part of the text: what an encoder reads."""
        self._before, self._n_known, self._at = list(before), 0, -1
        self._after: dict[int, dict[int, int]] = {n: {} for n in SIZES}
        self._learn(self._before, 0, len(self._before))

    def cost(self, n_texts: int, unit: float) -> float:  # noqa: ARG002 - as of all drafters
        """Next to none."""
        return 0.0

    def missing(self, ids: Sequence[int]) -> int:  # noqa: ARG002 - as of all drafters
        """None: it reads a token in next to no time."""
        return 0

    def kind(self, ids: Sequence[int]) -> int | None:
        """The length of the run at the end that stood before."""
        n, offset = len(ids), len(self._before)
        self._learn(ids, offset, n)
        for size in SIZES:
            if n >= size:
                at = self._after[size].get(_key(ids, n, size))
                if at is not None:
                    self._at = at
                    return size
        return None

    def draft(self, ids: Sequence[int], most: int) -> list[int]:
        """What followed that run."""
        at, n_before = self._at, len(self._before)
        if at < n_before:
            return self._before[at : at + most]
        drafted = list(ids[at - n_before : at - n_before + most])
        period = len(drafted)
        while period and len(drafted) < most:
            drafted.append(drafted[-period])
        return drafted

    def _learn(self, ids: Sequence[int], offset: int, end: int) -> None:
        """Runs that end before `end`: what follows them is there."""
        for at in range(max(1, self._n_known - offset + 1), end):
            for size in SIZES:
                if at >= size:
                    self._after[size][_key(ids, at, size)] = offset + at
        self._n_known = max(self._n_known, offset + end - 1)


def _key(ids: Sequence[int], end: int, size: int) -> int:
    """The run that ends before `end`."""
    key = 0
    for token in ids[end - size : end]:
        key = key << _BITS | token
    return key
