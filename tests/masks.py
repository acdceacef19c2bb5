"""A constraint without a text, for tests of what the engine does with masks: which ids may come depends on the last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["ByTheLast"]


class ByTheLast:
    """Two of three ids may follow another, and one alone after every fifth. It has no end."""

    name = "schema"

    def begin(self, before: Sequence[int], n_vocab: int) -> _Walk:
        """After these ids."""
        return _Walk(before[-1], n_vocab)


class _Walk:
    def __init__(self, last: int, n_vocab: int) -> None:
        self._last, self._n = last, n_vocab

    def ahead(self, drafted: Sequence[int]) -> list[tuple[NDArray[np.uint32], bool]]:
        last, made = self._last, []
        for token in drafted:
            if not self._may(token):
                break
            self._last = token
            made.append(self.fill())
        self._last = last
        return made

    def fill(self) -> tuple[NDArray[np.uint32], bool]:
        bits = np.zeros(-(-self._n // 32) * 32, np.bool_)
        bits[: self._n] = [self._may(i) for i in range(self._n)]
        return np.packbits(bits, bitorder="little").view(np.uint32), False

    def advance(self, token: int) -> None:
        assert self._may(token)
        self._last = token

    def _may(self, i: int) -> bool:
        if self._last % 5 == 0:
            return i == (3 * self._last + 1) % self._n
        return (i * 7 + self._last) % 3 > 0

    def check(self, text: str) -> None:
        assert not text
