"""What a bulk copy must know of a matrix: a map, which the host makes and a kernel names by its address."""

from __future__ import annotations

from ...dataclass import dataclass

__all__ = ["COLUMNS", "MAP_ALIGN", "MAP_BYTES", "PATTERN", "TensorMap"]

#: Bytes of a map in device memory, and what its address is a multiple of; numbers of a box's row, which are 128 bytes;
#: bytes that swizzled rows repeat after.
MAP_BYTES, MAP_ALIGN, COLUMNS, PATTERN = 128, 64, 64, 1024
MOST_ROWS, STEP, MOST = 256, 16, 1 << 32


@dataclass(frozen=True)
class TensorMap:
    """A matrix of bfloat16 in device memory, and boxes of `box_rows` x 64 of it."""

    address: int
    rows: int
    columns: int
    stride: int  # bytes from row to row
    box_rows: int

    @property
    def box_bytes(self) -> int:
        """What a copy brings, zeros counted."""
        return self.box_rows * 2 * COLUMNS

    @property
    def nbytes(self) -> int:
        """From the first number to the last."""
        return (self.rows - 1) * self.stride + 2 * self.columns

    @property
    def wrong(self) -> str:
        """What the hardware has no map for; empty if it has one."""
        if self.address % STEP or self.stride % STEP:
            return f"a matrix at {self.address:#x}, rows {self.stride} bytes apart; expected multiples of {STEP}"
        if not (0 < self.rows <= MOST and 0 < self.columns <= MOST and 2 * self.columns <= self.stride):
            return f"a matrix of {self.rows} rows and {self.columns} columns, {self.stride} bytes apart"
        if not 0 < self.box_rows <= MOST_ROWS:
            return f"a box of {self.box_rows} rows; expected 1 to {MOST_ROWS}"
        return ""
