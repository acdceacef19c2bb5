"""Scales that are too small for float16: noticed while a matrix is quantised.

A group's scale is a float16. Its spacing below 2**-14 is 2**-24, so that a scale of less than `LEAST_SCALE` is off by
several per cent, or is 0 and the group with it. `up * s` and `down / s` compute the same for every s: small numbers are
no sign that they do not matter. Down to each value here the divergence from the exact model grows by about a quarter at
most, and below it by a half or more (the sweep is in docs/decisions.md, "A scale that float16 cannot hold").
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..runtime.quantized import GROUP, LEVELS, PANEL, SCALE_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LEAST_SCALE", "NOTHING", "TOKENS", "Faint", "Underflow", "widened"]

#: The smallest scale that is taken.
LEAST_SCALE = {"int8": 2.0**-20, "int4": 2.0**-22, "int4a": 2.0**-21}
#: Groups of smaller numbers count as zero: rows that training let go of are such, and no s of a real model makes any.
NOTHING = 2.0**-40
#: Rows of a table of tokens that are judged together.
TOKENS = 256


class Faint(NamedTuple):
    """A group whose scale is too small: its row, its first column, and its largest number by magnitude."""

    row: int
    column: int
    largest: float


class Underflow:
    """What the blocks of one matrix have shown; they may come from several threads, in any order.

    `tokens`: its rows stand for tokens. Rows of tokens that were never trained are small in many checkpoints, and an
    error in a logit counts by itself, not by the row's size: then only `TOKENS` rows in which no group is large enough
    are at fault.
    """

    def __init__(self, dtype: str, *, tokens: bool = False) -> None:
        """`dtype`: "int8" or so on."""
        self._dtype, self._tokens = dtype, tokens
        self._sound: set[int] = set()  # blocks of tokens in which a group is large enough
        self._faint: list[Faint] = []  # the first of each part of rows that was looked at

    def look(self, first: int, numbers: NDArray[Any], stored: str, packed: NDArray[np.uint8]) -> None:
        """Rows `first` and on: the numbers [rows, k] as the file has them, and what they were packed to."""
        panels, groups, _ = packed.shape
        scale = np.abs(packed[..., :SCALE_BYTES].view(np.float16)).transpose(0, 2, 1).reshape(panels * PANEL, groups)
        small = scale[: len(numbers)] < np.float16(LEAST_SCALE[self._dtype])
        largest = _largest(widened(numbers, stored)) if small.any() else np.zeros_like(small, np.float32)
        if self._dtype == "int4a":  # a range may be small where the numbers are not
            small &= largest < LEAST_SCALE["int4a"] * (LEVELS["int4a"][1] + 1)
        each = TOKENS if self._tokens else len(numbers)
        at = 0
        while at < len(numbers):
            here = slice(at, at + each - (first + at) % each if self._tokens else at + each)
            if self._tokens and not small[here].all():
                self._sound.add((first + at) // TOKENS)
            rows, columns = np.nonzero(small[here] & (largest[here] >= NOTHING))
            if len(rows):
                row, column = at + int(rows[0]), int(columns[0])
                self._faint.append(Faint(first + row, GROUP * column, float(largest[row, column])))
            at = here.stop

    def first(self) -> Faint | None:
        """The first group at fault, once all rows were seen."""
        return min((f for f in self._faint if f.row // TOKENS not in self._sound), default=None)


def widened(numbers: NDArray[Any], stored: str) -> NDArray[np.float32]:
    """Numbers as the file has them, BF16 as its bits, in float32."""
    bf16 = stored == "BF16"
    wide: NDArray[np.float32]
    wide = np.left_shift(numbers, 16, dtype=np.uint32).view(np.float32) if bf16 else numbers.astype(np.float32)
    return wide


def _largest(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """[rows, k] -> of each group by magnitude, [rows, groups]."""
    rows, k = x.shape
    block = np.zeros((rows, -(-k // GROUP) * GROUP), np.float32)
    np.abs(x, out=block[:, :k])
    largest: NDArray[np.float32] = block.reshape(rows, -1, GROUP).max(2)
    return largest
