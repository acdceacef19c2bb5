"""Rounding the input of integer products: groups of 32 floats to whole numbers of one byte or two, and a scale."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from llvmlite import ir

from ..quantized import GROUP
from .emitters import (
    F32,
    VB,
    VI,
    N,
    V,
    alike,
    as_ints,
    const,
    ir_below,
    ir_fold,
    ir_larger_size,
    ir_load,
    ir_store,
    ir_to_whole,
    ptr,
    shuffle,
)
from .flow import c64
from .lanes import i64, op, void

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Planes of an input -> its largest number, and the largest |x| of a group that is taken for 0.
MOST = {1: (127.0, 0.0), 2: (32639.0, 2.0**-111)}


def _quantize(b: Any, x: Any, groups: Sequence[list[Any]], data: Any, scale: Any, total: Any, planes: int) -> None:
    """Groups of thirty-two floats, side by side, to numbers q, their scales max|x| / `MOST` and the sums of q.

    q is a byte, or two: then all high ones of a group come first. `groups`: of each the masks of its two vectors; a
    float is 0 where its mask is off. Bytes cannot say that a number is none, so the scale does: NaN where one of the
    floats is NaN or infinite, and so is every product with them.
    """
    most, least = MOST[planes]
    count, one = len(groups), ir.VectorType(F32, len(groups))
    at = [b.add(x, c64(4 * GROUP * i)) for i in range(count)]
    halves = [[ir_load(b, b.add(a, c64(4 * N * h)), mask=mask) for h, mask in enumerate(masks)]
              for a, masks in zip(at, groups, strict=True)]  # fmt: skip
    keep = alike(VI, 0x7FFFFFFF)
    sizes = [[b.bitcast(b.and_(as_ints(b, v), keep), V) for v in pair] for pair in halves]
    largest = ir_fold(b, [ir_larger_size(b, *pair) for pair in sizes], partial(ir_larger_size, b))
    of, zeros = alike(one, most), alike(one, 0.0)
    inverse = b.select(b.fcmp_ordered(">", largest, alike(one, least)), b.fdiv(of, largest), zeros)
    nan_or_zero = b.fsub(largest, largest)
    b.store(b.fadd(b.fdiv(largest, of), nan_or_zero), ptr(b, scale, one), align=4)
    added = []
    for i, pair in enumerate(halves):
        by = shuffle(b, inverse, inverse, [i] * N)
        integers = [ir_to_whole(b, b.fmul(v, by), most) for v in pair]  # beyond it only after a NaN, and so everywhere
        for h, q in enumerate(integers):
            at = b.add(data, c64(GROUP * planes * i + N * h))
            if planes > 1:  # the low byte is what its eight bits say, so the high one is rounded
                high = b.ashr(b.add(q, const(VI, [128] * N)), const(VI, [8] * N))
                ir_store(b, b.trunc(high, VB), at)
                at = b.add(at, c64(GROUP))
            ir_store(b, b.trunc(q, VB), at)
        added.append(b.add(*integers))
    sums = ir_fold(b, added, b.add)
    b.store(sums, ptr(b, total, sums.type), align=4)


#: Whole groups that are rounded together.
TOGETHER = 4


def quantizing(planes: int) -> tuple[Any, Any, Any]:
    """Operations that round to so many planes: `TOGETHER` whole groups, one, and a row's last one.

    (x, data, scale, total); of the last (x, left, data, scale, total), with `left` floats.
    """

    @op(void, i64, i64, i64, i64)
    def several(b: Any, x: Any, data: Any, scale: Any, total: Any) -> None:
        _quantize(b, x, [[None, None]] * TOGETHER, data, scale, total, planes)

    @op(void, i64, i64, i64, i64)
    def whole(b: Any, x: Any, data: Any, scale: Any, total: Any) -> None:
        _quantize(b, x, [[None, None]], data, scale, total, planes)

    @op(void, i64, i64, i64, i64, i64)
    def tail(b: Any, x: Any, left: Any, data: Any, scale: Any, total: Any) -> None:
        masks = [ir_below(b, b.sub(left, c64(N * h))) for h in range(GROUP // N)]
        _quantize(b, x, [masks], data, scale, total, planes)

    return several, whole, tail
