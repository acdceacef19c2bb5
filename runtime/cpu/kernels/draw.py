"""An id drawn from each row of logits that is to be drawn from: the one that `Sampler` (`runtime/sampling.py`) draws.

Rows are handed out to threads; each has scratch of its own (`runtime/drawing.py`). Nothing is sorted. Where top-k or
top-p ends is looked for by sums over levels of score, then over the digits of those on one level; weights are whole
numbers, so that any order of adding them has the definition's sum.

| in a row | |
|---|---|
| `_edited` | scores: the mask of ids, penalties and rules, in a copy |
| `largest_of` | of a copy: of logits `argmax` has it; no id where it is NaN or infinite: the definition says why |
| `_weighed` | weights of the scores that top-k leaves, and sums by level where top-p asks for them |
| `_boundary` | the score where a sum of the largest reaches what is wanted |
| `_picked` | the id at which a uniform number of the sum falls |

Where other stages are asked for, `draw_stages.py` weighs the row in the place of `_weighed` and `_boundary`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...drawing import (
    D_BIAS,
    D_COMPLEMENT,
    D_COUNTED,
    D_EDITS,
    D_ENDS,
    D_FORCED,
    D_GREEDY,
    D_GROWTH,
    D_HISTORY,
    D_LEAST,
    D_MASK,
    D_N_BIAS,
    D_N_COUNTED,
    D_N_EDITS,
    D_N_ENDS,
    D_N_HISTORY,
    D_N_REPEATED,
    D_N_SOURCE,
    D_PENALTY,
    D_REPEATED,
    D_ROW,
    D_SOURCE,
    D_SOURCE_PENALTY,
    D_STAGES,
    D_SURPRISES,
    D_TEMPERATURE,
    D_TOP_K,
    D_UNIT,
    DRAW_WORDS,
    I_N,
    I_SCRATCH,
    I_SIZE,
    I_SLOTS,
    I_X,
    LEVELS,
    PART,
)
from ...exact import NEGLIGIBLE
from ...step import S_DRAWN, S_DRAWS, S_N_DRAWS, S_RESULTS
from ..draw_lanes import (
    MANY,
    above_last,
    above_last_many,
    allowed,
    equal_to,
    equal_to_many,
    finite_or,
    fraction,
    ld_f64,
    ld_u32,
    lowest_bit,
    on_level,
    on_level_many,
    popcount,
    st_i32,
    store_levels,
    weigh,
    weigh_many,
    weight_above,
    weight_above_many,
)
from ..lanes import (
    between,
    largest,
    ld,
    ld_i32,
    ldf,
    load_tail,
    maximum,
    splat,
    st,
    stf,
    store_tail,
    sub,
    zero,
)  # fmt: skip
from .base import arg, jit, kernel
from .draw_base import (
    DIGITS,
    DIGITS_AT,
    LEVELS_AT,
    LOW,
    WEIGHTS_AT,
    D,
    F,
    candidates_of,
    first_of,
    key_of,
    largest_of,
    log,
    random_of,
    scores_of,
)
from .draw_stages import observe, staged

#: Of a score, so that its product with a depth of 0 is a number.
STEEPEST = 1e30


# ---------------------------------------------------------------------------------------------- scores
@jit
def _scaled(words: Any, y: Any, ids: Any, count: Any, penalty: Any) -> None:
    """`penalties.scaled`, of ids in a list; the words at which it and the penalty stand."""
    at, p = ld(words + 8 * ids), D(ldf(words + 8 * penalty))
    for i in range(ld(words + 8 * count)):
        x = y + 4 * ld(at + 8 * i)
        v = D(ldf(x))
        stf(x, F(v * p) if v < 0 else F(v / p))


@jit
def _added(words: Any, y: Any, first: Any) -> None:
    """Amounts of a list: the word at which its ids stand, then those of the amounts and of their number."""
    ids, amounts = ld(words + 8 * first), ld(words + 8 * first + 8)
    for i in range(ld(words + 8 * first + 16)):
        x = y + 4 * ld(ids + 8 * i)
        stf(x, F(D(ldf(x)) + ld_f64(amounts + 8 * i)))


@jit
def _edited(words: Any, x: Any, n: Any, s: Any) -> Any:
    """Address of the scores: the logits where they are as they were, else a copy."""
    edits, n_edits, forced = ld(words + 8 * D_EDITS), ld(words + 8 * D_N_EDITS), ld(words + 8 * D_FORCED)
    mask, lists = ld(words + 8 * D_MASK), n_edits + ld(words + 8 * D_N_HISTORY) + ld(words + 8 * D_N_BIAS)
    lists += ld(words + 8 * D_N_COUNTED) + ld(words + 8 * D_N_REPEATED)
    lists += ld(words + 8 * D_N_SOURCE) + ld(words + 8 * D_N_ENDS)
    if lists == 0 and mask == 0 and ld(words + 8 * D_STAGES) == 0:
        return x
    y = scores_of(s, n)
    for j in range(0, n, 16):
        v = splat(LOW) if forced != 0 else load_tail(x + 4 * j, n - j)
        store_tail(y + 4 * j, v if mask == 0 else allowed(v, mask + j // 8), n - j)
    if forced == 0:
        _added(words, y, D_BIAS)
        _scaled(words, y, D_SOURCE, D_N_SOURCE, D_SOURCE_PENALTY)
        _scaled(words, y, D_HISTORY, D_N_HISTORY, D_PENALTY)
        _added(words, y, D_COUNTED)
        _added(words, y, D_REPEATED)
    for i in range(n_edits):
        stf(y + 4 * ld(edits + 8 * i), F(0.0) if forced != 0 else LOW)
    if forced == 0:
        ends, growth = ld(words + 8 * D_ENDS), ld_f64(words + 8 * D_GROWTH)
        for i in range(ld(words + 8 * D_N_ENDS)):
            at = y + 4 * ld(ends + 8 * i)
            v = D(ldf(at))
            if v > LOW:
                stf(at, F(v + abs(v) * growth))
    return y


@jit
def _low(x: Any, n: Any) -> Any:
    """The least score but -inf, of every sixteenth sixteen: it says how fine levels are, and changes no id."""
    bottom = splat(LOW)
    for j in range(0, n, 256):
        bottom = maximum(finite_or(sub(zero(), between(load_tail(x + 4 * j, n - j), 0, n - j, LOW)), LOW), bottom)
    return F(-largest(bottom))


@jit
def _scale(x: Any, n: Any, highest: Any, temperature: Any, depth: Any) -> Any:
    """Levels for a unit of score: they span what is so deep at most, in units of the temperature, or what there is."""
    span = min(depth * temperature, D(highest) - D(_low(x, n)))
    return F(min((LEVELS - 1) / span, STEEPEST)) if span > 0 else F(0.0)


@jit
def _deepest(n: Any, complement: Any) -> Any:
    """How deep top-p's boundary lies at most, in units of the temperature.

    What is lighter than the complement's n-th part of the largest weight is, all together, less than what is left out.
    """
    return min(-NEGLIGIBLE, log(D(n) * D(1 << 53) / D(complement)))


# ---------------------------------------------------------------------------------------------- a boundary
@jit
def _clear(s: Any) -> None:
    for i in range(LEVELS):
        st(s + 8 * i, 0)


@jit
def _count(x: Any, n: Any, s: Any, highest: Any, scale: Any) -> None:
    """How many scores each level has."""
    _clear(s)
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
def _boundary(x: Any, n: Any, s: Any, highest: Any, scale: Any, wanted: Any, weighed: Any) -> Any:
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


# ---------------------------------------------------------------------------------------------- weights
@jit
def _levelled(mask: Any, x: Any, w: Any, s: Any, highest: Any, scale: Any) -> None:
    """Add weights of scores above the last level, those of a mask, to the sums of their levels."""
    while mask != 0:
        i = lowest_bit(mask)
        at = s + 8 * int((highest - ldf(x + 4 * i)) * scale)
        st(at, ld(at) + ld(w + 8 * i))
        mask &= mask - 1


@jit
def _weighed(words: Any, x: Any, n: Any, s: Any, highest: Any, floor: Any, scale: Any) -> Any:
    """The sum of all weights."""
    temperature, unit, total = ld_f64(words + 8 * D_TEMPERATURE), ld(words + 8 * D_UNIT), 0
    by_level = ld(words + 8 * D_COMPLEMENT) != 0
    if by_level:
        _clear(s)
    for first in range(0, n, PART):
        end, w = min(n, first + PART), s + WEIGHTS_AT + 8 * first
        whole = first + (end - first) // MANY * MANY
        for j in range(first, whole, MANY):
            total += weigh_many(x + 4 * j, highest, floor, temperature, unit, w + 8 * (j - first))
        for j in range(whole, end, 16):
            total += weigh(x + 4 * j, n - j, highest, floor, temperature, unit, w + 8 * (j - first))
        if by_level:
            for j in range(first, whole, MANY):
                above = above_last_many(x + 4 * j, highest, scale)
                if popcount(above) > MANY // 2:
                    for i in range(0, MANY, 16):
                        store_levels(x + 4 * (j + i), n, highest, scale, s + LEVELS_AT + 4 * i)
                    for i in range(MANY):
                        at = s + 8 * ld_i32(s + LEVELS_AT + 4 * i)
                        st(at, ld(at) + ld(w + 8 * (j - first + i)))
                else:
                    _levelled(above, x + 4 * j, w + 8 * (j - first), s, highest, scale)
            for j in range(whole, end, 16):
                above = above_last(x + 4 * j, n - j, highest, scale)
                _levelled(above, x + 4 * j, w + 8 * (j - first), s, highest, scale)
    return total


@jit
def _part(x: Any, n: Any, s: Any, first: Any, bound: Any, least: Any, tie: Any, ties: Any) -> Any:
    """Of a part of the row, from `first` on: the sum of the weights that are left, and ties that it leaves for others.

    `ties`: how many of the next scores that are the bound are kept, each of weight `tie`.
    """
    total, taken, end = 0, 0, min(n, first + PART)
    whole, w = first + (end - first) // MANY * MANY, s + WEIGHTS_AT
    for j in range(first, whole, MANY):
        total += weight_above_many(w + 8 * j, x + 4 * j, bound, least)
    for j in range(whole, end, 16):
        total += weight_above(w + 8 * j, x + 4 * j, n - j, bound, least)
    if ties > 0:
        for j in range(first, whole, MANY):
            taken += popcount(equal_to_many(x + 4 * j, bound))
        for j in range(whole, end, 16):
            taken += popcount(equal_to(x + 4 * j, n - j, bound))
        taken = min(ties, taken)
        if tie >= least:
            total += taken * tie
    return total, ties - taken


@jit
def _picked(words: Any, x: Any, n: Any, s: Any, bound: Any, tie: Any, ties: Any, total: Any) -> Any:
    """The first id at which the sum of what is left is over the uniform number's part of all, `total` before min-p."""
    least = ld(words + 8 * D_LEAST)
    if least > 1:
        total, left = 0, ties
        for first in range(0, n, PART):
            part, left = _part(x, n, s, first, bound, least, tie, left)
            total += part
    target, reached = fraction(total, random_of(words)[0]), 0
    for first in range(0, n, PART):
        part, left = _part(x, n, s, first, bound, least, tie, ties)
        if reached + part > target:
            for i in range(first, min(n, first + PART)):
                v, w = ldf(x + 4 * i), 0
                if v > bound:
                    w = ld(s + WEIGHTS_AT + 8 * i)
                elif v == bound and ties > 0:
                    w, ties = tie, ties - 1
                if w >= least:
                    reached += w
                if reached > target:
                    return i
        reached, ties = reached + part, left
    return -1


@jit
def _drawn(words: Any, logits: Any, n: Any, s: Any, greedy: Any) -> Any:
    """The id; -1 where none can be drawn. `greedy`: that of the largest logit, -1 where one is NaN."""
    x, highest = _edited(words, logits, n, s), F(np.nan)
    if x != logits:
        highest = largest_of(x, n)
    elif greedy >= 0:
        highest = ldf(logits + 4 * greedy)
    if not abs(highest) < np.inf:
        return -1
    if ld(words + 8 * D_GREEDY) != 0:
        return first_of(x, n, highest)
    if ld(words + 8 * D_STAGES) != 0:
        total = staged(words, x, n, s)
        i = _picked(words, x, n, s, LOW, 0, 0, total)
        if i >= 0 and ld(words + 8 * D_SURPRISES) != 0:
            observe(words, ld(s + WEIGHTS_AT + 8 * i), total)
        return i
    floor, top_k, complement, scale = LOW, ld(words + 8 * D_TOP_K), ld(words + 8 * D_COMPLEMENT), F(0.0)
    if top_k != 0:
        scale = _scale(x, n, highest, ld_f64(words + 8 * D_TEMPERATURE), -NEGLIGIBLE)
        _count(x, n, s, highest, scale)
        floor = ldf(x + 4 * _boundary(x, n, s, highest, scale, top_k, False)[0])
    if complement != 0:
        scale = _scale(x, n, highest, ld_f64(words + 8 * D_TEMPERATURE), _deepest(n, complement))
    total = _weighed(words, x, n, s, highest, floor, scale)
    bound, tie, ties = LOW, 0, 0
    if complement != 0:
        wanted = total - fraction(total, complement)
        at, above = _boundary(x, n, s, highest, scale, wanted, True)
        bound, tie = ldf(x + 4 * at), ld(s + WEIGHTS_AT + 8 * at)
        ties = (wanted - above + tie - 1) // tie
        total = above + ties * tie
    return _picked(words, x, n, s, bound, tie, ties, total)


@kernel
def draw(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Write the id of every draw of the step to the place of its row of logits; -1: the definition says why."""
    n, slots = arg(p, I_N), min(nt, arg(p, I_SLOTS))
    if t < slots:
        s = base + arg(p, I_SCRATCH) + t * arg(p, I_SIZE)
        for i in range(t, ld(step + 8 * S_N_DRAWS), slots):
            words = ld(step + 8 * S_DRAWS) + 8 * DRAW_WORDS * i
            row = ld(words + 8 * D_ROW)
            logits = base + arg(p, I_X) + 4 * n * row
            greedy = ld(ld(step + 8 * S_RESULTS) + 8 * row)
            st(ld(step + 8 * S_DRAWN) + 8 * row, _drawn(words, logits, n, s, greedy))
