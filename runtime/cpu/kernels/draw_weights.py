"""Weights of a row's scores, and their sums by level where top-p asks for them."""

from __future__ import annotations

import math
from typing import Any

from ...drawing import D_COMPLEMENT, D_LEAST, D_TEMPERATURE, D_UNIT, LEVELS, PART, SAMPLE
from ...exact import PER_LN2, exp_of, power
from ..draw_lanes import (
    LEAST,
    MANY,
    MOST,
    NEARLY,
    ld_f64,
    lowest_bit,
    on_levels,
    on_levels_many,
    popcount,
    store_levels,
    weigh,
    weigh_many,
    weigh_near,
    weigh_near_many,
    weight_above,
    weight_above_many,
)
from ..lanes import ld, ld_i32, ldf, st
from .base import jit
from .draw_base import LEVELS_AT, WEIGHTS_AT, D, F
from .draw_boundary import STEEPEST, clear

#: How far the sample may be off, in standard deviations; and the share of the weights beyond which it says too little.
SURE, VAGUE = 3.0, 0.03

_exp, _power = jit(exp_of), jit(power)


@jit
def _levelled(mask: Any, x: Any, w: Any, s: Any, start: Any, scale: Any) -> None:
    """Add weights of scores that are on levels but the last, those of a mask, to the sums of their levels."""
    while mask != 0:
        i = lowest_bit(mask)
        at = s + 8 * int((start - ldf(x + 4 * i)) * scale)
        st(at, ld(at) + ld(w + 8 * i))
        mask &= mask - 1


@jit
def pace_of(temperature: Any) -> Any:
    """Halvings of a weight for a unit of score. Beyond 1e-100 and 1e100 weights stay as they are (`ir_weigh`)."""
    return PER_LN2 / min(max(temperature, LEAST), MOST)


@jit
def nearly(words: Any) -> Any:
    """Whether weights may be off: where none is compared with a least one."""
    return ld(words + 8 * D_LEAST) <= 1


@jit
def slack(total: Any, n: Any) -> Any:
    """How far sums may be off, of weights that are nearly right, and what is made of two such sums.

    Each is off by 2^-NEARLY of it and two units; five, of two or three weights, whose unit is under what is negligible.
    """
    return 3 * ((total >> NEARLY) + 2 * n + 8)


@jit
def weighed(
    words: Any,
    x: Any,
    first: Any,
    last: Any,
    w: Any,
    s: Any,
    highest: Any,
    floor: Any,
    start: Any,
    scale: Any,
    near: Any,
) -> Any:
    """The sum of the weights from one entry to another; `w`: of the row's first, `s`: of the sums by level.

    `near`: weights may be off; `slack` says how far their sum is.

    Those on the last level are in no sum. Where levels start below the largest score, what is above them is added up
    in lanes, and counts for the first level.
    """
    temperature, unit, total, over = ld_f64(words + 8 * D_TEMPERATURE), ld(words + 8 * D_UNIT), 0, 0
    by_level, pace = ld(words + 8 * D_COMPLEMENT) != 0, pace_of(temperature)
    if by_level:
        clear(s)
    for begin in range(first, last, PART):
        end = min(last, begin + PART)
        whole = begin + (end - begin) // MANY * MANY
        if near:
            for j in range(begin, whole, MANY):
                total += weigh_near_many(x + 4 * j, highest, floor, pace, unit, w + 8 * j)
            for j in range(whole, end, 16):
                total += weigh_near(x + 4 * j, last - j, highest, floor, pace, unit, w + 8 * j)
        else:
            for j in range(begin, whole, MANY):
                total += weigh_many(x + 4 * j, highest, floor, temperature, unit, w + 8 * j)
            for j in range(whole, end, 16):
                total += weigh(x + 4 * j, last - j, highest, floor, temperature, unit, w + 8 * j)
        if by_level:
            for j in range(begin, whole, MANY):
                mask = on_levels_many(x + 4 * j, start, scale)
                if start < highest:
                    over += weight_above_many(w + 8 * j, x + 4 * j, start, 1)
                if start == highest and popcount(mask) > MANY // 2:
                    for i in range(0, MANY, 16):
                        store_levels(x + 4 * (j + i), last, start, scale, s + LEVELS_AT + 4 * i)
                    for i in range(MANY):
                        at = s + 8 * ld_i32(s + LEVELS_AT + 4 * i)
                        st(at, ld(at) + ld(w + 8 * (j + i)))
                else:
                    _levelled(mask, x + 4 * j, w + 8 * j, s, start, scale)
            for j in range(whole, end, 16):
                if start < highest:
                    over += weight_above(w + 8 * j, x + 4 * j, last - j, start, 1)
                _levelled(on_levels(x + 4 * j, last - j, start, scale), x + 4 * j, w + 8 * j, s, start, scale)
    if by_level:
        st(s, ld(s) + over)
    return total


@jit
def _reached(s: Any, wanted: Any) -> Any:
    """The level at which the sum of all from the first on is what is wanted."""
    level, reached = 0, D(0.0)
    while level < LEVELS - 1 and reached + D(ld(s + 8 * level)) < wanted:
        reached += D(ld(s + 8 * level))
        level += 1
    return level


@jit
def narrowed(words: Any, x: Any, n: Any, s: Any, highest: Any, floor: Any, scale: Any) -> Any:
    """Where levels start, and their scale: near where a sample says that top-p's boundary is. They change no id.

    The sample's error is that of a sum in which every entry was drawn or not: its variance is at most the largest
    weight's part of the sum, of what is above the boundary and of what is below. Where few scores are on any level but
    the last, or few weigh most, levels stay as they are.
    """
    stride, total, dense = n // PART // SAMPLE * PART, 0, 0
    temperature, w = ld_f64(words + 8 * D_TEMPERATURE), s + WEIGHTS_AT
    pace = pace_of(temperature)
    for i in range(SAMPLE):
        for j in range(i * stride, i * stride + PART, MANY):
            dense += popcount(on_levels_many(x + 4 * j, highest, scale))
    if 2 * dense < SAMPLE * PART or not scale > 0:
        return highest, scale
    for i in range(LEVELS):
        st(s + 8 * i, 0)
    for i in range(SAMPLE):
        begin = i * stride
        for j in range(begin, begin + PART, MANY):
            total += weigh_near_many(x + 4 * j, highest, floor, pace, ld(words + 8 * D_UNIT), w + 8 * j)
            _levelled(on_levels_many(x + 4 * j, highest, scale), x + 4 * j, w + 8 * j, s, highest, scale)
    if total == 0:
        return highest, scale
    left_out = D(ld(words + 8 * D_COMPLEMENT)) / D(1 << 53)
    wanted = 1.0 - left_out
    at = _reached(s, wanted * D(total))
    top = _power(2.0, ld(words + 8 * D_UNIT)) / D(total)
    below = top * _exp(max(-D(at) / D(scale) / temperature, -40.0))
    off = SURE * math.sqrt(left_out * left_out * wanted * top + wanted * wanted * left_out * below)
    if off > VAGUE:
        return highest, scale
    start = F(D(highest) - D(_reached(s, (wanted - off) * D(total))) / D(scale))
    end = D(highest) - D(_reached(s, (wanted + off) * D(total)) + 1) / D(scale)
    if not D(start) > end:
        return highest, scale
    return start, F(min((LEVELS - 1) / (D(start) - end), STEEPEST))
