"""Where top-k or top-p ends: by sums over levels of score, then over the digits of those on one level."""

from __future__ import annotations

from typing import Any

from ...drawing import LEVELS, PART
from ...exact import NEGLIGIBLE
from ..draw_lanes import MANY, finite_or, ld_u32, lowest_bit, on_level, on_level_many, st_i32, store_levels
from ..lanes import between, largest, ld, ld_i32, load_tail, maximum, splat, st, sub, zero
from .base import jit
from .draw_base import DIGITS, DIGITS_AT, LEVELS_AT, LOW, WEIGHTS_AT, D, F, candidates_of, key_of, log

#: Of a score, so that its product with a depth of 0 is a number.
STEEPEST = 1e30


@jit
def _low(x: Any, n: Any) -> Any:
    """The least score but -inf, of every sixteenth sixteen: it says how fine levels are, and changes no id."""
    bottom = splat(LOW)
    for j in range(0, n, 256):
        bottom = maximum(finite_or(sub(zero(), between(load_tail(x + 4 * j, n - j), 0, n - j, LOW)), LOW), bottom)
    return F(-largest(bottom))


@jit
def scale_of(x: Any, n: Any, highest: Any, temperature: Any, depth: Any) -> Any:
    """Levels for a unit of score: they span what is so deep at most, in units of the temperature, or what there is."""
    span = min(depth * temperature, D(highest) - D(_low(x, n)))
    return F(min((LEVELS - 1) / span, STEEPEST)) if span > 0 else F(0.0)


@jit
def deepest_of(n: Any, complement: Any) -> Any:
    """How deep top-p's boundary lies at most, in units of the temperature.

    What is lighter than the complement's n-th part of the largest weight is, all together, less than what is left out.
    """
    return min(-NEGLIGIBLE, log(D(n) * D(1 << 53) / D(complement)))


@jit
def clear(s: Any) -> None:
    for i in range(LEVELS):
        st(s + 8 * i, 0)


@jit
def count_levels(x: Any, n: Any, s: Any, highest: Any, scale: Any) -> None:
    """How many scores each level has."""
    clear(s)
    for first in range(0, n, PART):
        end = min(n, first + PART)
        for j in range(first, end, 16):
            store_levels(x + 4 * j, n - j, highest, scale, s + LEVELS_AT + 4 * (j - first))
        for i in range(end - first):
            at = s + 8 * ld_i32(s + LEVELS_AT + 4 * i)
            st(at, ld(at) + 1)


@jit
def _listed(mask: Any, first: Any, ids: Any, count: Any) -> Any:
    """How many ids are in a list, after those of a mask from `first` on."""
    while mask != 0:
        st_i32(ids + 4 * count, first + lowest_bit(mask))
        count += 1
        mask &= mask - 1
    return count


@jit
def boundary_of(x: Any, n: Any, s: Any, highest: Any, scale: Any, wanted: Any, weighed: Any) -> Any:
    """The score at which the sum of all from the largest on reaches what is wanted, and the sum of those above it.

    Sums by level are there: of weights, or counts.
    """
    level, above = 0, 0
    while level < LEVELS - 1 and above + ld(s + 8 * level) < wanted:
        above += ld(s + 8 * level)
        level += 1
    ids, count, whole = candidates_of(s, n), 0, n // MANY * MANY
    for j in range(0, whole, MANY):
        count = _listed(on_level_many(x + 4 * j, highest, scale, level), j, ids, count)
    for j in range(whole, n, 16):
        count = _listed(on_level(x + 4 * j, n - j, highest, scale, level), j, ids, count)
    shift = 24
    while shift >= 0 and count > 1:
        for i in range(DIGITS):
            st(s + DIGITS_AT + 8 * i, 0)
        for i in range(count):
            each = ld_i32(ids + 4 * i)
            at = s + DIGITS_AT + 8 * (key_of(ld_u32(x + 4 * each)) >> shift & DIGITS - 1)
            st(at, ld(at) + (ld(s + WEIGHTS_AT + 8 * each) if weighed else 1))
        digit = DIGITS - 1
        while digit > 0 and above + ld(s + DIGITS_AT + 8 * digit) < wanted:
            above += ld(s + DIGITS_AT + 8 * digit)
            digit -= 1
        left = 0
        for i in range(count):
            each = ld_i32(ids + 4 * i)
            if key_of(ld_u32(x + 4 * each)) >> shift & DIGITS - 1 == digit:
                st_i32(ids + 4 * left, each)
                left += 1
        count, shift = left, shift - 8
    return ld_i32(ids), above
