"""Low-rank adapters of one product, kept apart from its matrix: the table that kernels find them by.

An adapter has a number, the place of its name in `Weights.adapters` counted from 1: 0 means none. A step says which
one each sequence has (`step.Q_ADAPTER`), so that sequences of different adapters share passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, shown
from ..once import once
from .spec import Adapter, Weight, weights_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["L_DOWN", "L_RANK", "L_RATIO", "L_SCALE", "L_UP", "L_WORDS", "LoraTable", "number_of", "rank_of"]

#: Words of an adapter in the table: addresses of both matrices, its factor (the bits of a float32), the address of the
#: factors of rows (0: none), and its rank (0: this product has none of this adapter).
L_DOWN, L_UP, L_SCALE, L_RATIO, L_RANK = range(5)
L_WORDS = 8
WORD = 8


def rank_of(adapters: Sequence[Adapter | None]) -> int:
    """The largest."""
    return max(a.down.shape[0] for a in adapters if a is not None)


def number_of(names: Sequence[str], adapter: object, call: str) -> int:
    """An adapter's number, 0 for None. Errors: `InputError`, which begins with the `call`, and says which there are."""
    if adapter is None:
        return 0
    if isinstance(adapter, str) and adapter in names:
        return names.index(adapter) + 1
    there = f"it has {', '.join(map(shown, names))}" if names else "it was loaded without any: load(adapters={...})"
    msg = f"{call}: adapter={shown(adapter)}: the model has no such adapter; {there}"
    raise InputError(msg)


@dataclass(frozen=True, eq=False)
class LoraTable:
    """Of one product, each adapter's part in the order of their numbers; None for one that leaves it as it is."""

    adapters: tuple[Adapter | None, ...]

    @property
    def name(self) -> str:
        """Of the first one's matrix, and how many there are."""
        return f"{self.weights[0].name} x{sum(a is not None for a in self.adapters)}"

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Every matrix and vector."""
        return tuple(weights_in(self.adapters))

    @once
    def weight(self) -> Weight:
        """Their words, int64; the record keeps the matrices alive."""
        words: NDArray[np.int64] = np.array(list(self._words()), np.int64).reshape(-1)
        return Weight("adapters", "f32", (2 * len(words),), words, mapped=False)

    def _words(self) -> Iterator[tuple[int, ...]]:
        for a in self.adapters:
            if a is None:
                yield (0,) * L_WORDS
                continue
            scale, ratio = int(np.float32(a.scale).view(np.uint32)), 0 if a.ratio is None else a.ratio.address
            yield (a.down.address, a.up.address, scale, ratio, a.down.shape[0], *(0,) * (L_WORDS - L_RANK - 1))

    @property
    def nbytes(self) -> int:
        """Bytes of `weight`."""
        return WORD * L_WORDS * len(self.adapters)
