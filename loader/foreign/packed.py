"""`Packed`: parts of a matrix that others quantised, read from the mapped file and widened only then.

w = (q - zero) * scale in float32. Of at most 8 bits and scales of F16 or BF16 that is exact; a product with an F32
scale is rounded once. 8-bit floats are multiplied in float32 too, and rounded to BF16, as their publishers' own
conversions do (`fp8_cast_bf16.py`, transformers' `dequantize=True` of a BF16 model).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import CheckpointError
from ...once import once
from ..header import DTYPES
from ..merge import rounded
from ..underflow import widened

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import DTypeLike, NDArray

    from ..header import TensorInfo
    from .coded import Coded

    Indices = NDArray[np.int64]
    F32 = NDArray[np.float32]

__all__ = ["Packed", "e4m3"]

#: Bits of a word.
WORD = 32


class Packed:
    """A matrix of the file. `view` gives a tensor of it as it lies."""

    def __init__(self, info: Coded, view: Callable[[TensorInfo], NDArray[Any]]) -> None:
        """Nothing is read yet."""
        self.info, self._view = info, view

    @property
    def shape(self) -> tuple[int, ...]:
        """As the family's files have it."""
        return self.info.shape

    @property
    def nbytes(self) -> int:
        """Once they are widened."""
        return math.prod(self.shape) * DTYPES[self.info.dtype]

    def __len__(self) -> int:
        """Of the first axis."""
        return self.shape[0]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: FBT001 - NumPy's
        """The whole, widened."""
        del copy  # it always is one
        whole = self.part(np.arange(self.info.matrix[0]), None)
        return np.ascontiguousarray(whole.T if self.info.turned else whole).astype(dtype or whole.dtype, copy=False)

    @once
    def groups(self) -> Indices:
        """The group of every input. Errors: `CheckpointError` for one that has no scale."""
        n, info = self.info.matrix[1], self.info.order
        in_order = np.arange(n) // self.info.block[1]
        if info is None:
            return in_order
        given = self._view(info).astype(np.int64)
        if (given == -1).all():  # not used
            return in_order
        bad = np.flatnonzero((given < 0) | (given >= self.info.n_groups))
        if len(bad):
            msg = (
                f"{info.file}: tensor {info.name}[{bad[0]}] is {given[bad[0]]}; expected a group, 0 to "
                f"{self.info.n_groups - 1}: the file is damaged; download it again"
            )
            raise CheckpointError(msg)
        return given

    def part(self, rows: Indices, columns: Indices | None) -> NDArray[Any]:
        """These outputs and inputs [rows, columns], in the dtype that `info.dtype` says, BF16 as its bits.

        Errors: `CheckpointError` for one whose scale is NaN or infinite.
        """
        self.check_sizes()
        codes, groups = self.codes(rows, columns), self.groups if columns is None else self.groups[columns]
        scales = self.scales(rows)
        self.check_scales(scales, rows, groups)
        with np.errstate(invalid="ignore", over="ignore"):  # as of any file's numbers
            if self.info.layout.floats:
                wide = e4m3()[codes]
            else:
                wide = np.subtract(codes, _of(self.zeros(rows), groups), dtype=np.int16).astype(np.float32)
            wide *= _of(scales, groups)
            return rounded(wide, self.info.dtype) if self.info.dtype == "BF16" else wide

    def codes(self, rows: Indices, columns: Indices | None) -> NDArray[np.uint8]:
        """What is stored of these outputs and inputs, as a number from 0 on."""
        layout, each = self.info.layout, WORD // self.info.bits
        stored = self._outputs_first(self._view(self.info.codes))
        columns = np.arange(self.info.matrix[1]) if columns is None else columns
        if layout.codes == "bytes":
            part = _taken(stored, rows, columns)
            return _unsigned(part) if layout.signed else part.view(np.uint8)
        if layout.codes == "inputs":
            words, at = _words(columns, each)
            fields = _fields(_taken(stored, rows, words), self.info.bits)  # [rows, words, each]
            return fields.reshape(len(rows), -1)[:, _slice(at)]
        words, at = _words(rows, each)
        fields = self._ordered(_fields(_taken(stored, words, columns), self.info.bits))
        return fields.transpose(0, 2, 1).reshape(-1, len(columns))[at]

    def scales(self, rows: Indices) -> F32:
        """[rows, groups]; [rows, 1] where all inputs share one."""
        stored = self._view(self.info.scales)
        if stored.ndim < 2:  # noqa: PLR2004 - one for each output, or one in all
            part = stored.reshape(-1, 1)[rows // self.info.block[0]]
        else:
            part = self._outputs_first(stored)[rows // self.info.block[0]][:, : self.info.n_groups]
        return widened(part, self.info.scales.dtype)

    def check_scales(self, scales: F32, rows: Indices, groups: Indices) -> None:
        """CheckpointError where one of these groups' scales [rows, groups] is NaN or infinite."""
        if np.isfinite(scales).all():
            return
        used = scales if scales.shape[1] == 1 else scales[:, np.unique(groups)]
        bad = np.argwhere(~np.isfinite(used))
        if len(bad):
            info = self.info.scales
            msg = (
                f"{info.file}: tensor {info.name}, output {rows[bad[0, 0]]}: a scale is {used[tuple(bad[0])]}; "
                "expected finite numbers: the file is damaged: compare it with its publisher's checksum"
            )
            raise CheckpointError(msg)

    def zeros(self, rows: Indices) -> NDArray[np.int16]:
        """Zero points [rows, groups], counted as `codes` are; [1, 1] where all are one."""
        info, layout, each = self.info.zeros, self.info.layout, WORD // self.info.bits
        if info is None:
            return np.full((1, 1), 1 << self.info.bits - 1, np.int16)
        stored = self._view(info)
        if layout.zeros == "bytes":
            stored = stored.reshape(-1, 1) if stored.ndim < 2 else stored  # noqa: PLR2004 - as of scales
            return _unsigned(stored[rows // self.info.block[0]]).astype(np.int16)
        stored = self._outputs_first(stored)
        if layout.zeros == "groups":
            fields = _fields(_taken(stored, rows, np.arange(stored.shape[1])), self.info.bits)
            part = fields.reshape(len(rows), -1)[:, : self.info.n_groups]
        else:
            words, at = _words(rows, each)
            fields = self._ordered(_fields(_taken(stored, words, np.arange(stored.shape[1])), self.info.bits))
            part = fields.transpose(0, 2, 1).reshape(-1, stored.shape[1])[at]
        return (part.astype(np.int16) + layout.plus) & (1 << self.info.bits) - 1

    def _outputs_first(self, stored: NDArray[Any]) -> NDArray[Any]:
        return stored if self.info.layout.outputs_first else stored.T

    def _ordered(self, fields: NDArray[np.uint8]) -> NDArray[np.uint8]:
        order = self.info.layout.order
        return fields[..., np.argsort(order)] if order else fields

    def check_sizes(self) -> None:
        """CheckpointError where the tensor that says [out, in] says another."""
        info = self.info.sizes
        if info is not None and tuple(self._view(info).tolist()) != self.info.matrix:
            msg = (
                f"{info.file}: tensor {info.name} holds {self._view(info).tolist()}, but {self.info.codes.name} "
                f"{list(self.info.codes.shape)} makes it {list(self.info.matrix)}: they do not belong together; "
                "download the checkpoint again"
            )
            raise CheckpointError(msg)


def _of(by_group: NDArray[Any], groups: Indices) -> NDArray[Any]:
    """[rows, groups] -> each input's; one that all share is left to broadcasting."""
    return by_group if by_group.shape[1] == 1 else by_group[:, groups]


def _words(indices: Indices, each: int) -> tuple[Indices, Indices]:
    """The words that hold these numbers, each once, and where the numbers are among all of theirs."""
    words = np.unique(indices // each)
    return words, np.searchsorted(words, indices // each) * each + indices % each


def _taken(stored: NDArray[Any], rows: Indices, columns: Indices) -> NDArray[Any]:
    """These of both axes, C-contiguous; nothing else is touched."""
    across, along = _slice(rows), _slice(columns)
    if isinstance(across, slice) or isinstance(along, slice):
        return np.ascontiguousarray(stored[across, along])
    return np.ascontiguousarray(stored[np.ix_(across, along)])


def _slice(wanted: Indices) -> Indices | slice:
    """Neighbours as a slice."""
    if len(wanted) and wanted[-1] - wanted[0] + 1 == len(wanted):
        return slice(int(wanted[0]), int(wanted[-1]) + 1)
    return wanted


def _fields(words: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Words of 32 bits -> the numbers in each, the lowest bits first: [..., 32 / bits]."""
    as_bytes = words.view(np.uint8).reshape(*words.shape, WORD // 8)
    if bits == 8:  # noqa: PLR2004 - a byte
        return as_bytes
    out = np.empty((*words.shape, WORD // 4), np.uint8)
    np.bitwise_and(as_bytes, 15, out=out[..., ::2])
    np.right_shift(as_bytes, 4, out=out[..., 1::2])
    return out


def _unsigned(numbers: NDArray[Any]) -> NDArray[np.uint8]:
    """Two's complement, 128 more."""
    return np.ascontiguousarray(numbers).view(np.uint8) ^ np.uint8(128)


def e4m3() -> F32:
    """The 256 numbers of an F8_E4M3 byte: 1 bit of sign, 4 of exponent (bias 7), 3 of fraction; no infinities."""
    byte = np.arange(256)
    exponent, fraction = byte >> 3 & 15, byte & 7
    size = np.where(exponent == 0, fraction * 2.0**-9, (8 + fraction) * 2.0 ** (exponent - 10.0))
    size[byte & 127 == 127] = np.nan  # noqa: PLR2004 - all ones
    return np.where(byte & 128, -size, size).astype(np.float32)
