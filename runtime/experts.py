"""A layer's matrices of one kind, one of each expert: the addresses that kernels find them by, and their scratch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..dataclass import dataclass
from ..errors import PlanError
from ..once import once
from .spec import Weight

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ExpertTable", "order_floats", "route_floats"]

ADDRESS = 8
LANES = 16


@dataclass(frozen=True, eq=False)
class ExpertTable:
    """Matrices [n, k] of one shape and dtype, which lie anywhere. Errors: `PlanError` where they differ."""

    weights: tuple[Weight, ...]

    def __post_init__(self) -> None:
        """One product computes them all."""
        first = self.weights[0]
        other = next((w for w in self.weights if (w.dtype, w.shape) != (first.dtype, first.shape)), None)
        if other is not None:
            msg = (
                f"{first.name} is {first.dtype} {list(first.shape)}, {other.name} {other.dtype} {list(other.shape)}; "
                "experts of a layer must be alike: store them in one dtype, or quantise all of them"
            )
            raise PlanError(msg)

    @property
    def name(self) -> str:
        """The first one's, and how many there are."""
        return f"{self.weights[0].name} x{len(self.weights)}"

    @property
    def dtype(self) -> str:
        """Of every one."""
        return self.weights[0].dtype

    @once
    def weight(self) -> Weight:
        """Their addresses, int64; the record keeps the matrices alive."""
        addresses: NDArray[np.int64] = np.array([w.address for w in self.weights], np.int64)
        return Weight("experts", "f32", (2 * len(addresses),), addresses, mapped=False)

    @property
    def nbytes(self) -> int:
        """Bytes of `weight`."""
        return ADDRESS * len(self.weights)


def order_floats(experts: int, pairs: int) -> int:
    """A thread's scratch for pairs (token, expert) in the order of experts: words of 8 bytes, a count of each too."""
    return 2 * (experts + pairs)


def route_floats(experts: int) -> int:
    """A thread's scratch for a token's scores, what they are chosen by, and which are taken; whole vectors."""
    return 3 * -(-experts // LANES) * LANES
