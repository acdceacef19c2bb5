"""Floats to packed int8 and int4 (`runtime/quantized.py`): what `loader/quantize.py` defines, bit for bit.

A lane is a row: sums run over the columns, one after the other, in all sixteen rows of a panel at once. `p` is no
instruction but the ten words of `layout.PACK_WORDS`; a panel's group lies in the scratch as [32 columns][16 rows]
float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...quantized import GROUP, GROUP_BYTES, HEAD_BYTES, INT4A_TRIALS, LEVELS, PANEL, QUANTIZED, SCALE_BYTES, TRIALS
from ..lanes import (
    absolute,
    add,
    div,
    fold,
    ld,
    load,
    load_f16,
    load_tail,
    load_tail_bf16,
    load_tail_f16,
    maximum,
    minimum,
    mul,
    rint,
    splat,
    stf,
    store,
    sub,
    zero,
)
from ..layout import PACK_SCRATCH as SCRATCH
from ..rounding import store_bytes, store_half, store_nibbles, turn16, where_greater
from .base import jit, kernel, template

F = np.float32
COLUMN = 4 * PANEL  # bytes of a column in the scratch
RAW = GROUP * COLUMN  # where the scratch holds the group as rows
assert SCRATCH == 2 * RAW  # noqa: S101 - what packer.py reserves
A_FIRST, A_REACH = (tuple(trial[i] for trial in INT4A_TRIALS) for i in range(2))


@jit
def _load(at: Any, left: Any, size: Any, bf16: Any) -> Any:
    if size == 4:
        return load_tail(at, left)
    return load_tail_bf16(at, left) if bf16 != 0 else load_tail_f16(at, left)


@jit
def _fill(p: Any, i: Any, g: Any, width: Any) -> None:
    """Panel i's group g to the scratch; what is not there is zero."""
    by_row, by_column, size, bf16, scratch = ld(p + 8), ld(p + 16), ld(p + 40), ld(p + 48), ld(p + 64)
    rows, at = ld(p + 24) - PANEL * i, ld(p) + PANEL * i * by_row + GROUP * g * by_column
    if by_row == size:  # turned: a column's rows lie side by side
        for c in range(GROUP):
            store(scratch + COLUMN * c, _load(at + c * by_column, rows if c < width else 0, size, bf16))
        return
    raw = scratch + RAW
    for r in range(PANEL):
        for h in range(0, GROUP, 16):
            left = width - h if r < rows else 0
            store(raw + 4 * (GROUP * r + h), _load(at + r * by_row + h * size, left, size, bf16))
    for h in range(0, GROUP, 16):
        turn16(raw + 4 * h, 4 * GROUP, scratch + COLUMN * h)


@jit
def _inverse(x: Any) -> Any:
    """1 / x, or 0 for 0."""
    return where_greater(absolute(x), zero(), div(splat(F(1)), x), zero())


@jit
def _clip(x: Any, low: Any, high: Any) -> Any:
    """As NumPy's: NaN stays."""
    return minimum(splat(F(high)), maximum(splat(F(low)), x))


@jit
def _largest(x: Any, width: Any) -> Any:
    """Of each row, with its sign; the first of equals."""
    top, signed = zero(), zero()
    for c in range(width):
        v = load(x + COLUMN * c)
        signed = where_greater(absolute(v), top, v, signed)
        top = maximum(absolute(v), top)
    return signed


@jit
def _trial(x: Any, width: Any, unit: Any, low: Any, high: Any) -> Any:
    """sum(q q), sum(e q), sum(e e) of x / unit = q + e."""
    inverse, qq, eq, ee = _inverse(unit), zero(), zero(), zero()
    for c in range(width):
        steps = mul(load(x + COLUMN * c), inverse)
        q = _clip(rint(steps), low, high)
        e = sub(steps, q)
        qq, eq, ee = add(qq, mul(q, q)), add(eq, mul(e, q)), add(ee, mul(e, e))
    return qq, eq, ee


def _symmetric(kind: str) -> Any:
    trials, (low, high) = TRIALS[kind], LEVELS[kind]

    @template
    def fit(x: Any, width: Any) -> Any:
        largest = _largest(x, width)
        best, best_error = div(largest, splat(F(trials[0]))), splat(F(np.inf))
        for reach in trials:
            unit = div(largest, splat(F(reach)))
            qq, eq, ee = _trial(x, width, unit, low, high)
            more = div(eq, maximum(qq, splat(F(1))))
            error = mul(sub(ee, mul(eq, more)), mul(unit, unit))
            best = where_greater(best_error, error, add(unit, mul(unit, more)), best)
            best_error = where_greater(best_error, error, error, best_error)
        return best, zero()

    return fit


@jit
def _fit_int4a(x: Any, width: Any) -> Any:
    """Scale and smallest number."""
    n, bottom, top, sum_y = splat(F(width)), load(x), load(x), zero()
    for c in range(1, width):
        bottom, top = minimum(load(x + COLUMN * c), bottom), maximum(load(x + COLUMN * c), top)
    for c in range(width):
        sum_y = add(sum_y, sub(load(x + COLUMN * c), bottom))
    span = sub(top, bottom)
    inverse = _inverse(span)
    best, best_low, best_gain = div(span, splat(F(15))), zero(), splat(F(-1))
    for i in range(len(A_REACH)):
        by, first = mul(splat(F(A_REACH[i])), inverse), splat(F(A_FIRST[i]))
        sum_q, yq, qq = zero(), zero(), zero()
        for c in range(width):
            y = sub(load(x + COLUMN * c), bottom)
            q = _clip(rint(add(mul(y, by), first)), 0, 15)
            sum_q, yq, qq = add(sum_q, q), add(yq, mul(y, q)), add(qq, mul(q, q))
        cov, var = sub(yq, div(mul(sum_y, sum_q), n)), sub(qq, div(mul(sum_q, sum_q), n))
        scale = div(cov, var)
        gain = mul(cov, scale)
        best = where_greater(gain, best_gain, scale, best)
        best_low = where_greater(gain, best_gain, div(sub(sum_y, mul(scale, sum_q)), n), best_low)
        best_gain = where_greater(gain, best_gain, gain, best_gain)
    return best, add(bottom, best_low)


@jit
def _stored(x: Any, c: Any, low: Any, inverse: Any, least: Any, most: Any, offset: Any) -> Any:
    """Column c on the grid, as it is stored."""
    return add(_clip(rint(mul(sub(load(x + COLUMN * c), low), inverse)), least, most), splat(F(offset)))


def _pack(kind: str, fit: Any) -> Any:
    size, head, offset, (least, most) = GROUP_BYTES[kind], HEAD_BYTES[kind], QUANTIZED[kind], LEVELS[kind]
    wide, lowest, half = kind == "int8", head > SCALE_BYTES, GROUP // 2

    @template
    def body(p: Any) -> None:
        rows, columns, out, x = ld(p + 24), ld(p + 32), ld(p + 56), ld(p + 64)
        groups, wrong = (columns + GROUP - 1) // GROUP, zero()
        for i in range((rows + PANEL - 1) // PANEL):
            for g in range(groups):
                width, at = min(GROUP, columns - GROUP * g), out + (i * groups + g) * size
                _fill(p, i, g, width)
                for c in range(width):  # NaN where it is not finite
                    wrong = add(wrong, sub(load(x + COLUMN * c), load(x + COLUMN * c)))
                scale, low = fit(x, width)
                store_half(at, scale)
                scale = load_f16(at)
                if lowest:
                    store_half(at + SCALE_BYTES, low)
                    low = load_f16(at + SCALE_BYTES)
                wrong = add(wrong, add(sub(scale, scale), sub(low, low)))
                by = _inverse(scale)
                for c in range(0, GROUP if wide else half, 4):
                    to = at + head + 16 * c
                    store_bytes(
                        to,
                        _stored(x, c, low, by, least, most, offset),
                        _stored(x, c + 1, low, by, least, most, offset),
                        _stored(x, c + 2, low, by, least, most, offset),
                        _stored(x, c + 3, low, by, least, most, offset),
                    )
                    if not wide:
                        store_nibbles(
                            to,
                            _stored(x, c + half, low, by, least, most, offset),
                            _stored(x, c + half + 1, low, by, least, most, offset),
                            _stored(x, c + half + 2, low, by, least, most, offset),
                            _stored(x, c + half + 3, low, by, least, most, offset),
                        )
        stf(p + 72, fold(wrong))

    return body


_pack_int8, _pack_int4 = _pack("int8", _symmetric("int8")), _pack("int4", _symmetric("int4"))
_pack_int4a = _pack("int4a", _fit_int4a)


@kernel
def pack_int8(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """8.5 bits a weight."""
    _pack_int8(p)


@kernel
def pack_int4(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """4.5 bits a weight."""
    _pack_int4(p)


@kernel
def pack_int4a(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """5 bits a weight."""
    _pack_int4a(p)
