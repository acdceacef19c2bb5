"""`Coded`: a matrix that others quantised, in the table of tensors under the name that it had.

Its numbers are w = (q - zero) * scale, or of 8-bit floats w = q * scale: q lies in one tensor, packed or a byte each;
scales and zero points in others, one for each block of outputs and inputs. To the loader it is a float matrix,
[out, in] or as the family's files have it; `packed.py` reads parts of it.
"""

from __future__ import annotations

from dataclasses import dataclass as slotted
from typing import TYPE_CHECKING, ClassVar, Literal

from ...dataclass import dataclass
from ..header import DTYPES, TensorInfo
from ..ranges import as_ranges

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..ranges import Ranges

__all__ = ["Coded", "Layout"]

#: Along which axis words of 32 bits hold several numbers; "bytes": each has a byte.
Along = Literal["inputs", "outputs", "groups", "bytes"]


@dataclass(frozen=True)
class Layout:
    """How the tensors lie. `outputs_first`: [out, in], else [in, out], scales and zero points alike.

    `codes`, `zeros`: along what they are packed. `order`: which of a word's numbers is the first, second, ... of the
    matrix. `plus`: added to a stored zero point, within its bits. `signed`: bytes are two's complement.
    """

    outputs_first: bool
    codes: Along
    zeros: Along = "bytes"
    order: tuple[int, ...] = ()
    plus: int = 0
    signed: bool = False
    floats: bool = False


@slotted(frozen=True, slots=True)  # as its parent
class Coded(TensorInfo):
    """`dtype`: of the numbers once they are widened; `start` and `stop`: from 0 to the bytes of all its tensors.

    `told`: what it is, in words. `block`: outputs and inputs that share a scale. `order`: the group of each input,
    where they are not one after the other; `sizes`: a tensor that says [out, in]. `turned`: `shape` is [in, out].
    """

    coded: ClassVar[bool] = True

    told: str
    layout: Layout
    bits: int
    block: tuple[int, int]
    codes: TensorInfo
    scales: TensorInfo
    zeros: TensorInfo | None = None
    order: TensorInfo | None = None
    sizes: TensorInfo | None = None
    turned: bool = False

    @property
    def matrix(self) -> tuple[int, int]:
        """Outputs and inputs."""
        a, b = self.shape
        return (b, a) if self.turned else (a, b)

    @property
    def pieces(self) -> tuple[TensorInfo, ...]:
        """The tensors of the file."""
        return tuple(t for t in (self.codes, self.scales, self.zeros, self.order, self.sizes) if t is not None)

    @property
    def stored_as(self) -> str:
        """What the file holds, in words."""
        return self.told

    @property
    def by_rows(self) -> tuple[TensorInfo, ...]:
        """Those whose rows are the matrix's."""
        return (self.codes,) if self.layout.outputs_first and self.layout.codes != "outputs" else ()

    @property
    def n_groups(self) -> int:
        """Groups of inputs."""
        return -(-self.matrix[1] // self.block[1])

    def spans(self, rows: Ranges, columns: Ranges | None) -> Iterator[tuple[TensorInfo, Ranges]]:
        """[start, stop) bytes of each tensor that outputs `rows` and inputs `columns` are made from."""
        each, layout = 32 // self.bits, self.layout
        outs = _coarser(rows, each) if layout.codes == "outputs" else rows
        ins = _coarser(columns, each) if layout.codes == "inputs" and columns is not None else columns
        yield self.codes, self._spans(self.codes, outs, ins)
        of_scales = _coarser(rows, self.block[0])
        yield self.scales, self._spans(self.scales, of_scales, None)
        if self.zeros is not None:
            of_zeros = _coarser(rows, each) if layout.zeros == "outputs" else of_scales
            yield self.zeros, self._spans(self.zeros, of_zeros, None)
        for info in (self.order, self.sizes):
            if info is not None:
                yield info, ((info.start, info.stop),)

    def _spans(self, info: TensorInfo, outs: Ranges | None, ins: Ranges | None) -> Ranges:
        """As `Source.spans`: of one tensor."""
        if len(info.shape) < 2:  # noqa: PLR2004 - scales that are no matrix
            return ((info.start, info.stop),)
        across, along = (outs, ins) if self.layout.outputs_first else (ins, outs)
        n, wide = info.shape
        item = DTYPES[info.dtype]
        first, last = (along[0][0] * item, (wide - along[-1][1]) * item) if along else (0, 0)
        whole = ((0, n),) if across is None or not across or across[-1][1] > n else across
        row = wide * item
        return tuple((info.start + a * row + first, info.start + b * row - last) for a, b in whole)


def _coarser(ranges: Ranges, each: int) -> Ranges:
    """Ranges of numbers -> of the blocks of `each` that hold them."""
    if each == 1:
        return ranges
    return as_ranges(sorted({i for a, b in ranges for i in range(a // each, -(-b // each))}))
