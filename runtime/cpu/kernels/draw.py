"""An id drawn from each row of logits that is to be drawn from: the one that `Sampler` (`runtime/sampling.py`) draws.

Rows are handed out to threads; each has scratch of its own (`runtime/drawing.py`). A row that is drawn alone is weighed
by all of them. Nothing is sorted: where top-k or top-p ends, `draw_boundary.py` finds it. Weights are whole numbers, so
that any order of adding them has the definition's sum.

| in a row | |
|---|---|
| `_edited` | scores: the mask of ids, penalties and rules, in a copy |
| `largest_of` | of a copy: of logits `argmax` has it; no id where it is NaN or infinite: the definition says why |
| `weighed` | weights of the scores that top-k leaves, nearly, and sums by level where top-p asks for them |
| `boundary_of` | the score where a sum of the largest reaches what is wanted |
| `_picked` | the id at which a uniform number of the sum falls |
| `_exactly` | all that again with the weights themselves, where those are too near a border |

Where other stages are asked for, `draw_stages.py` weighs the row in the place of `weighed` and `boundary_of`.
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
    DRAW_WORDS,
    DRAWS,
    I_N,
    I_PHASE,
    I_SCRATCH,
    I_SIZE,
    I_SLOTS,
    I_X,
    LEVELS,
    PART,
    PREPARES,
    SAMPLED,
    SHARED,
    WEIGHS,
)
from ...exact import NEGLIGIBLE
from ...step import S_DRAWN, S_DRAWS, S_N_DRAWS, S_RESULTS
from ..draw_lanes import (
    MANY,
    allowed,
    equal_to,
    equal_to_many,
    fraction,
    ld_f64,
    popcount,
    weight_above,
    weight_above_many,
)
from ..lanes import ld, ldf, load_tail, splat, st, stf, store_tail
from .base import arg, jit, kernel, plain, share
from .draw_base import DIGITS_AT, LOW, WEIGHTS_AT, D, F, first_of, largest_of, random_of, scores_of
from .draw_boundary import boundary_of, count_levels, deepest_of, scale_of
from .draw_stages import observe, staged
from .draw_weights import narrowed, nearly, slack, weighed

#: What they tell each other, words of each one's scratch where later digits are counted: the address of the scores (0:
#: nothing can be drawn), bits of their largest, of top-k's floor, of where levels start and of their scale; and its sum
#: of weights.
SHARED_X, SHARED_LARGEST, SHARED_FLOOR, SHARED_START, SHARED_SCALE, SHARED_TOTAL = range(DIGITS_AT, DIGITS_AT + 48, 8)


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


# ---------------------------------------------------------------------------------------------- the id
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
def _picked(words: Any, x: Any, n: Any, s: Any, bound: Any, tie: Any, ties: Any, total: Any, off: Any) -> Any:
    """The first id at which the sum of what is left is over the uniform number's part of all, `total` before min-p.

    -1 where sums that may be off by so much do not say it for sure.
    """
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
                    return i if reached - w + off <= target < reached - off or off == 0 else -1
        reached, ties = reached + part, left
    return -1


# ---------------------------------------------------------------------------------------------- rows
@jit
def _begun(words: Any, logits: Any, n: Any, s: Any, greedy: Any) -> Any:
    """Address of the scores and their largest. `greedy`: the id of the largest logit, -1 where one is NaN."""
    x, highest = _edited(words, logits, n, s), F(np.nan)
    if x != logits:
        highest = largest_of(x, n)
    elif greedy >= 0:
        highest = ldf(logits + 4 * greedy)
    return x, highest


@jit
def _limits(words: Any, x: Any, n: Any, s: Any, highest: Any) -> Any:
    """The score below which top-k leaves nothing; where top-p's levels start, and their scale."""
    temperature, top_k = ld_f64(words + 8 * D_TEMPERATURE), ld(words + 8 * D_TOP_K)
    floor, complement, start, scale = LOW, ld(words + 8 * D_COMPLEMENT), highest, F(0.0)
    if top_k != 0:
        scale = scale_of(x, n, highest, temperature, -NEGLIGIBLE)
        count_levels(x, n, s, highest, scale)
        floor = ldf(x + 4 * boundary_of(x, n, s, highest, scale, top_k, False)[0])
    if complement != 0:
        scale = scale_of(x, n, highest, temperature, deepest_of(n, complement))
        if n >= SAMPLED:
            start, scale = narrowed(words, x, n, s, highest, floor, scale)
    return floor, start, scale


@jit
def _ended(words: Any, x: Any, n: Any, s: Any, start: Any, scale: Any, total: Any, near: Any) -> Any:
    """The id, once the row is weighed. -1 where weights that are near do not say it for sure."""
    bound, tie, ties, complement = LOW, 0, 0, ld(words + 8 * D_COMPLEMENT)
    off = slack(total, n) if near else 0
    if complement != 0:
        wanted = total - fraction(total, complement)
        at, above = boundary_of(x, n, s, start, scale, wanted, True)
        bound, tie = ldf(x + 4 * at), ld(s + WEIGHTS_AT + 8 * at)
        ties = (wanted - above + tie - 1) // tie
        short, total = above + ties * tie - wanted, above + ties * tie
        if near and not off <= short < tie - off:
            return -1
    return _picked(words, x, n, s, bound, tie, ties, total, off)


@jit
def _exactly(words: Any, x: Any, n: Any, s: Any, highest: Any, floor: Any, start: Any, scale: Any) -> Any:
    """The id, of weights that are right: where those that are nearly so do not say it for sure."""
    near = plain(0) != 0
    total = weighed(words, x, plain(0), n, s + WEIGHTS_AT, s, highest, floor, start, scale, near)
    return _ended(words, x, n, s, start, scale, total, near)


@jit
def _drawn(words: Any, logits: Any, n: Any, s: Any, greedy: Any) -> Any:
    """The id; -1 where none can be drawn."""
    x, highest = _begun(words, logits, n, s, greedy)
    if not abs(highest) < np.inf:
        return -1
    if ld(words + 8 * D_GREEDY) != 0:
        return first_of(x, n, highest)
    if ld(words + 8 * D_STAGES) != 0:
        total = staged(words, x, n, s)
        i = _picked(words, x, n, s, LOW, plain(0), plain(0), total, plain(0))
        if i >= 0 and ld(words + 8 * D_SURPRISES) != 0:
            observe(words, ld(s + WEIGHTS_AT + 8 * i), total)
        return i
    floor, start, scale = _limits(words, x, n, s, highest)
    near = nearly(words)
    total = weighed(words, x, plain(0), n, s + WEIGHTS_AT, s, highest, floor, start, scale, near)
    i = _ended(words, x, n, s, start, scale, total, near)
    return _exactly(words, x, n, s, highest, floor, start, scale) if i < 0 and near else i


# ---------------------------------------------------------------------------------------------- a row of all threads
@jit
def _prepared(words: Any, logits: Any, n: Any, s: Any, greedy: Any) -> None:
    """Tell the others what weights are made by; `s`: the first thread's scratch."""
    x, highest = _begun(words, logits, n, s, greedy)
    if abs(highest) < np.inf:
        floor, start, scale = _limits(words, x, n, s, highest)
        stf(s + SHARED_LARGEST, highest)
        stf(s + SHARED_FLOOR, floor)
        stf(s + SHARED_START, start)
        stf(s + SHARED_SCALE, scale)
        st(s + SHARED_X, x)
    else:
        st(s + SHARED_X, 0)


@jit
def _weighed_part(words: Any, n: Any, s: Any, size: Any, t: Any, slots: Any) -> None:
    """Weigh a thread's share; its sums lie in its own scratch."""
    x, own = ld(s + SHARED_X), s + t * size
    if x != 0:
        first, last = share(n, PART, t, slots), share(n, PART, t + 1, slots)
        highest, floor, start, scale = (
            ldf(s + SHARED_LARGEST), ldf(s + SHARED_FLOOR), ldf(s + SHARED_START), ldf(s + SHARED_SCALE)
        )  # fmt: skip
        total = weighed(words, x, first, last, s + WEIGHTS_AT, own, highest, floor, start, scale, nearly(words))
        st(own + SHARED_TOTAL, total)


@jit
def _gathered(words: Any, n: Any, s: Any, size: Any, slots: Any) -> Any:
    """The id, from the sums of all threads."""
    x, start, scale, total = ld(s + SHARED_X), ldf(s + SHARED_START), ldf(s + SHARED_SCALE), ld(s + SHARED_TOTAL)
    if x == 0:
        return -1
    for t in range(1, slots):
        other = s + t * size
        total += ld(other + SHARED_TOTAL)
        if ld(words + 8 * D_COMPLEMENT) != 0:
            for i in range(LEVELS):
                st(s + 8 * i, ld(s + 8 * i) + ld(other + 8 * i))
    highest, floor, near = ldf(s + SHARED_LARGEST), ldf(s + SHARED_FLOOR), nearly(words)  # digits are counted over them
    i = _ended(words, x, n, s, start, scale, total, near)
    return _exactly(words, x, n, s, highest, floor, start, scale) if i < 0 and near else i


@kernel
def draw(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Write the id of every draw of the step to the place of its row of logits; -1: the definition says why.

    In three instructions, before each of which the threads wait for one another: the first two weigh a row that is
    drawn alone, which all of them share; the last draws from it, or from several rows.
    """
    n, slots, size, count = arg(p, I_N), min(nt, arg(p, I_SLOTS)), arg(p, I_SIZE), ld(step + 8 * S_N_DRAWS)
    words, scratch, phase = ld(step + 8 * S_DRAWS), base + arg(p, I_SCRATCH), arg(p, I_PHASE)
    row = ld(words + 8 * D_ROW)
    logits, greedy = base + arg(p, I_X) + 4 * n * row, ld(ld(step + 8 * S_RESULTS) + 8 * row)
    drawn = ld(step + 8 * S_DRAWN)
    if count == 1 and slots > 1 and n >= SHARED and ld(words + 8 * D_GREEDY) == 0 and ld(words + 8 * D_STAGES) == 0:
        if phase == PREPARES and t == 0:
            _prepared(words, logits, n, scratch, greedy)
        elif phase == WEIGHS and t < slots:
            _weighed_part(words, n, scratch, size, t, slots)
        elif phase == DRAWS and t == 0:
            st(drawn + 8 * row, _gathered(words, n, scratch, size, slots))
    elif phase == DRAWS and t < slots:
        for i in range(t, count, slots):
            words = ld(step + 8 * S_DRAWS) + 8 * DRAW_WORDS * i
            row = ld(words + 8 * D_ROW)
            logits, greedy = base + arg(p, I_X) + 4 * n * row, ld(ld(step + 8 * S_RESULTS) + 8 * row)
            st(drawn + 8 * row, _drawn(words, logits, n, scratch + t * size, greedy))
