"""The long way through a draw: stages in any order, the compiled twin of `runtime/stages.py`, the definition.

`y` are the scores, a copy in the thread's scratch (-inf: out); weights, int64, lie in their place of the scratch
(0: none). They are made when a stage first asks for them, again after the temperature changed, and a stage that takes
ids out sets both. Nothing is sorted but top-h's few: where a sum by rank ends, `_search` finds it among levels of a
key, then by its digits.
"""

from __future__ import annotations

import math
from typing import Any

from ...drawing import (
    D_ADAPTIVE,
    D_AIM,
    D_COMPLEMENT,
    D_EPSILON,
    D_ETA,
    D_EXPONENT,
    D_MIN_P,
    D_PACE,
    D_RANGE,
    D_SIGMAS,
    D_STAGES,
    D_SURPRISES,
    D_TEMPERATURE,
    D_TOP_H,
    D_TOP_K,
    D_TYPICAL,
    D_UNIT,
    D_XTC,
    D_XTC_THRESHOLD,
    LEVELS,
)
from ...exact import OF_TOP_H, PER_LN2, exp_of, power
from ...sampling_params import ORDER
from ..draw_lanes import MANY, double_bits, fraction, ld_f64, ld_u32, nearest, st_i32, weigh, weigh_many
from ..lanes import ld, ld_i32, ldf, st, stf
from .base import jit, plain
from .draw_base import (
    DIGITS,
    DIGITS_AT,
    LOW,
    U32,
    WEIGHTS_AT,
    D,
    candidates_of,
    first_of,
    key_of,
    largest_of,
    log,
    random_of,
)

(TEMPERATURE, TOP_N_SIGMA, TOP_H, TOP_K, TOP_P, MIN_P, TYPICAL_P, EPSILON_CUTOFF, ETA_CUTOFF, XTC, MIROSTAT) = (
    1 + ORDER.index(name)
    for name in (
        "temperature", "top_n_sigma", "top_h", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff",
        "xtc", "mirostat",
    )
)  # fmt: skip
#: What `_search` goes by: the largest scores first, counted; the same, weighed; the least distances first, weighed.
BY_COUNT, BY_SCORE, BY_DISTANCE = range(3)
#: What the levels of a search span: scores in units of the temperature, and distances. They change no id.
DEEP, NEAR = 24.0, 8.0
LN2 = 0.6931471805599453
ONE = 1 << 53

_exp, _power = jit(exp_of), jit(power)


# ---------------------------------------------------------------------------------------------- weights
@jit
def _weighed(words: Any, y: Any, n: Any, s: Any, top: Any, temperature: Any) -> None:
    unit, w = ld(words + 8 * D_UNIT), s + WEIGHTS_AT
    whole = n // MANY * MANY
    for j in range(0, whole, MANY):
        weigh_many(y + 4 * j, top, LOW, temperature, unit, w + 8 * j)
    for j in range(whole, n, 16):
        weigh(y + 4 * j, n - j, top, LOW, temperature, unit, w + 8 * j)


@jit
def _total(s: Any, n: Any) -> Any:
    total = 0
    for i in range(n):
        total += ld(s + WEIGHTS_AT + 8 * i)
    return total


@jit
def _heaviest(s: Any, n: Any) -> Any:
    most = 0
    for i in range(n):
        most = max(most, ld(s + WEIGHTS_AT + 8 * i))
    return most


@jit
def _exponent(y: Any, i: Any, top: Any, temperature: Any) -> Any:
    return (D(ldf(y + 4 * i)) - D(top)) / temperature


@jit
def _depth(y: Any, n: Any, s: Any, top: Any, temperature: Any, total: Any) -> Any:
    """`Standing.depth`."""
    mass = 0
    for i in range(n):
        w = ld(s + WEIGHTS_AT + 8 * i)
        if w > 0:
            mass += int(nearest(D(w) * -_exponent(y, i, top, temperature)))
    return D(mass) / D(total)


@jit
def _out(y: Any, s: Any, i: Any) -> None:
    stf(y + 4 * i, LOW)
    st(s + WEIGHTS_AT + 8 * i, 0)


@jit
def _part_of(share: Any) -> Any:
    """`stages.part_of`."""
    exact = min(share, D(1.0)) * D(ONE)
    part = int(exact)
    if D(part) < exact:
        part += 1
    return max(part, 1)


@jit
def _upper(total: Any, part: Any) -> Any:
    """The least whole number that is part / 2^53 of the total at least."""
    return total - fraction(total, ONE - part)


@jit
def _lighter_out(y: Any, n: Any, s: Any, least: Any) -> None:
    least = max(least, 1)
    for i in range(n):
        if ld(s + WEIGHTS_AT + 8 * i) < least:
            _out(y, s, i)


@jit
def _at_least(y: Any, n: Any, s: Any, part: Any) -> None:
    """`Standing.at_least`."""
    _lighter_out(y, n, s, min(_upper(_total(s, n), part), _heaviest(s, n)))


# ---------------------------------------------------------------------------------------------- a sum by rank
@jit
def _rank(by: Any, y: Any, i: Any, top: Any, temperature: Any, mean: Any) -> Any:
    """A key that is the smaller the earlier an id comes."""
    if by == BY_DISTANCE:
        return double_bits(abs(_exponent(y, i, top, temperature) - mean))
    return U32 - key_of(ld_u32(y + 4 * i))


@jit
def _level(by: Any, y: Any, i: Any, top: Any, temperature: Any, mean: Any) -> Any:
    """From 0 for the first keys to LEVELS - 1: no later key has a lower one."""
    if by == BY_DISTANCE:
        depth = abs(_exponent(y, i, top, temperature) - mean) * ((LEVELS - 1) / NEAR)
    else:
        depth = (D(top) - D(ldf(y + 4 * i))) * ((LEVELS - 1) / (DEEP * temperature))
    return int(depth) if depth < LEVELS - 1 else LEVELS - 1


@jit
def _search(by: Any, y: Any, n: Any, s: Any, top: Any, temperature: Any, mean: Any, wanted: Any) -> Any:
    """An id at whose key the sum of the first keys reaches what is wanted, and the sum of those before that key.

    First among levels, then by the digits of the keys on one level.
    """
    for i in range(LEVELS):
        st(s + 8 * i, 0)
    for i in range(n):
        w = ld(s + WEIGHTS_AT + 8 * i) if by != BY_COUNT else 1 if ldf(y + 4 * i) > LOW else 0
        if w > 0:
            at = s + 8 * _level(by, y, i, top, temperature, mean)
            st(at, ld(at) + w)
    level, before, ids, count, shift = 0, 0, candidates_of(s, n), 0, 24
    while level < LEVELS - 1 and before + ld(s + 8 * level) < wanted:
        before += ld(s + 8 * level)
        level += 1
    for i in range(n):
        w = ld(s + WEIGHTS_AT + 8 * i) if by != BY_COUNT else 1 if ldf(y + 4 * i) > LOW else 0
        if w > 0 and _level(by, y, i, top, temperature, mean) == level:
            st_i32(ids + 4 * count, i)
            count += 1
    if by == BY_DISTANCE:
        shift = 56
    while shift >= 0 and count > 1:
        for i in range(DIGITS):
            st(s + DIGITS_AT + 8 * i, 0)
        for j in range(count):
            i = ld_i32(ids + 4 * j)
            at = s + DIGITS_AT + 8 * (_rank(by, y, i, top, temperature, mean) >> shift & DIGITS - 1)
            st(at, ld(at) + (1 if by == BY_COUNT else ld(s + WEIGHTS_AT + 8 * i)))
        digit = 0
        while digit < DIGITS - 1 and before + ld(s + DIGITS_AT + 8 * digit) < wanted:
            before += ld(s + DIGITS_AT + 8 * digit)
            digit += 1
        left = 0
        for j in range(count):
            i = ld_i32(ids + 4 * j)
            if _rank(by, y, i, top, temperature, mean) >> shift & DIGITS - 1 == digit:
                st_i32(ids + 4 * left, i)
                left += 1
        count, shift = left, shift - 8
    return ld_i32(ids), before


# ---------------------------------------------------------------------------------------------- stages
@jit
def _tempered(words: Any, y: Any, n: Any, s: Any, top: Any, temperature: Any) -> Any:
    """`stages.tempered`; `temperature`: that of the weights, which are there."""
    wanted, r, h = ld_f64(words + 8 * D_TEMPERATURE), ld_f64(words + 8 * D_RANGE), ld_f64(words + 8 * D_ADAPTIVE)
    total, m = _total(s, n), 0
    entropy = log(D(total) / _power(2.0, ld(words + 8 * D_UNIT))) + _depth(y, n, s, top, temperature, total)
    if h > 0:
        return wanted * min(max(entropy / h - 0.5, 0.0), 1.0)
    for i in range(n):
        if ldf(y + 4 * i) > LOW:
            m += 1
    if m < 2:
        return wanted
    ratio, low, high = min(max(entropy / log(D(m)), 0.0), 1.0), max(0.0, wanted - r), wanted + r
    share = 0.0
    if ratio > 1e-300:
        share = _exp(ld_f64(words + 8 * D_EXPONENT) * log(ratio))
    return low + (high - low) * share


@jit
def _top_n_sigma(words: Any, y: Any, n: Any, s: Any) -> None:
    top, bottom, m = D(largest_of(y, n)), D(math.inf), 0
    for i in range(n):
        v = ldf(y + 4 * i)
        if v > LOW:
            bottom = min(bottom, D(v))
            m += 1
    span = top - bottom
    if span > 0:
        scale, sums, squares = _power(2.0, ld(words + 8 * D_UNIT) // 2) / span, 0, 0
        for i in range(n):
            v = ldf(y + 4 * i)
            if v > LOW:
                part = int(nearest((top - D(v)) * scale))
                sums += part
                squares += part * part
        mean = D(sums) / D(m)
        bound = ld_f64(words + 8 * D_SIGMAS) * math.sqrt(max(D(squares) / D(m) - mean * mean, 0.0))
        for i in range(n):
            if not (top - D(ldf(y + 4 * i))) * scale <= bound:
                _out(y, s, i)


@jit
def _cut(y: Any, n: Any, s: Any, bound: Any, ties: Any) -> None:
    """Keep what is above the bound, and the first so many that are equal to it."""
    for i in range(n):
        v = ldf(y + 4 * i)
        if v == bound:
            ties -= 1
        if v < bound or (v == bound and ties < 0):
            _out(y, s, i)


@jit
def _top_k(y: Any, n: Any, s: Any, k: Any, ties: Any) -> None:
    """Keep the k largest and what ties with the last, so many at least."""
    m = 0
    for i in range(n):
        if ldf(y + 4 * i) > LOW:
            m += 1
    if 0 < k < m:
        at, above = _search(plain(BY_COUNT), y, n, s, largest_of(y, n), D(1.0), D(0.0), k)
        _cut(y, n, s, ldf(y + 4 * at), max(k - above, ties))


@jit
def _top_h(words: Any, y: Any, n: Any, s: Any, top: Any, temperature: Any) -> None:
    """The ids that are left lie in their order where `_search` has candidates, sums up to each where it has levels."""
    _top_k(y, n, s, plain(OF_TOP_H), plain(0))
    _lighter_out(y, n, s, plain(1))
    ids, count, total, reached, kept = candidates_of(s, n), 0, _total(s, n), 0.0, 1
    for i in range(n):
        v = ldf(y + 4 * i)
        if v > LOW:
            j = count
            while j > 0 and ldf(y + 4 * ld_i32(ids + 4 * j - 4)) < v:
                st_i32(ids + 4 * j, ld_i32(ids + 4 * j - 4))
                j -= 1
            st_i32(ids + 4 * j, i)
            count += 1
    whole = log(D(total) / _power(2.0, ld(words + 8 * D_UNIT)))
    for j in range(count):
        i = ld_i32(ids + 4 * j)
        reached += D(ld(s + WEIGHTS_AT + 8 * i)) / D(total) * (whole - _exponent(y, i, top, temperature))
        st(s + 8 * j, double_bits(reached))
    while kept < count and ld_f64(s + 8 * kept) <= ld_f64(words + 8 * D_TOP_H) * reached:
        kept += 1
    for j in range(kept, count):
        _out(y, s, ld_i32(ids + 4 * j))


@jit
def _top_p(words: Any, y: Any, n: Any, s: Any, temperature: Any) -> None:
    total = _total(s, n)
    wanted = total - fraction(total, ld(words + 8 * D_COMPLEMENT))
    at, above = _search(plain(BY_SCORE), y, n, s, largest_of(y, n), temperature, D(0.0), wanted)
    tie = ld(s + WEIGHTS_AT + 8 * at)
    _cut(y, n, s, ldf(y + 4 * at), (wanted - above + tie - 1) // tie)


@jit
def _typical_p(words: Any, y: Any, n: Any, s: Any, top: Any, temperature: Any) -> None:
    total = _total(s, n)
    mean, wanted = -_depth(y, n, s, top, temperature, total), total - fraction(total, ld(words + 8 * D_TYPICAL))
    at = _search(plain(BY_DISTANCE), y, n, s, top, temperature, mean, wanted)[0]
    bound = _rank(BY_DISTANCE, y, at, top, temperature, mean)
    for i in range(n):
        if ld(s + WEIGHTS_AT + 8 * i) == 0 or _rank(BY_DISTANCE, y, i, top, temperature, mean) > bound:
            _out(y, s, i)


@jit
def _eta(words: Any, y: Any, n: Any, s: Any, top: Any, temperature: Any) -> Any:
    """The probability that eta cutoff keeps at least."""
    epsilon, total = ld_f64(words + 8 * D_ETA), _total(s, n)
    certainty = _exp(-_depth(y, n, s, top, temperature, total)) * (_power(2.0, ld(words + 8 * D_UNIT)) / D(total))
    return min(epsilon, math.sqrt(epsilon) * certainty)


@jit
def _xtc(words: Any, y: Any, n: Any, s: Any) -> None:
    if random_of(words)[1] >= ld(words + 8 * D_XTC):
        return
    bound = max(1, _upper(_total(s, n), ld(words + 8 * D_XTC_THRESHOLD)))
    last, least = -1, 0
    for i in range(n):
        w = ld(s + WEIGHTS_AT + 8 * i)
        if w >= bound and (last < 0 or w <= least):
            last, least = i, w
    for i in range(n):
        if ld(s + WEIGHTS_AT + 8 * i) >= bound and i != last:
            _out(y, s, i)


@jit
def _first_alone(y: Any, n: Any, s: Any) -> None:
    first = first_of(y, n, largest_of(y, n))
    for i in range(n):
        if i != first:
            _out(y, s, i)


@jit
def staged(words: Any, y: Any, n: Any, s: Any) -> Any:
    """The sum of the weights that the row's stages leave."""
    stages, temperature, top, weighed = ld(words + 8 * D_STAGES), D(1.0), largest_of(y, n), False
    follows = ld_f64(words + 8 * D_RANGE) > 0 or ld_f64(words + 8 * D_ADAPTIVE) > 0
    while stages != 0:
        stage, stages = stages & 15, stages >> 4
        if not weighed and (stage == TOP_H or stage > TOP_K or (stage == TEMPERATURE and follows)):
            top, weighed = largest_of(y, n), True
            _weighed(words, y, n, s, top, temperature)
        if stage == TEMPERATURE:
            wanted = _tempered(words, y, n, s, top, temperature) if follows else ld_f64(words + 8 * D_TEMPERATURE)
            if wanted > 0:
                temperature, weighed = wanted, False
            else:
                _first_alone(y, n, s)
        elif stage == TOP_N_SIGMA:
            _top_n_sigma(words, y, n, s)
        elif stage == TOP_H:
            _top_h(words, y, n, s, top, temperature)
        elif stage == TOP_K:
            _top_k(y, n, s, ld(words + 8 * D_TOP_K), n)
        elif stage == TOP_P:
            _top_p(words, y, n, s, temperature)
        elif stage == MIN_P:
            _lighter_out(y, n, s, int(nearest(ld_f64(words + 8 * D_MIN_P) * D(_heaviest(s, n)))))
        elif stage == TYPICAL_P:
            _typical_p(words, y, n, s, top, temperature)
        elif stage == EPSILON_CUTOFF:
            _at_least(y, n, s, _part_of(ld_f64(words + 8 * D_EPSILON)))
        elif stage == ETA_CUTOFF:
            _at_least(y, n, s, _part_of(_eta(words, y, n, s, top, temperature)))
        elif stage == XTC:
            _xtc(words, y, n, s)
        elif stage == MIROSTAT:
            mu = ld_f64(ld(words + 8 * D_SURPRISES))
            _at_least(y, n, s, _part_of(_exp(-mu * LN2) if mu > 0 else 1.0))
    if not weighed:
        _weighed(words, y, n, s, largest_of(y, n), temperature)
    return _total(s, n)


@jit
def observe(words: Any, weight: Any, total: Any) -> None:
    """Write Mirostat's next bound on the surprise, once an id of this weight is drawn."""
    at = ld(words + 8 * D_SURPRISES)
    off = log(D(total) / D(weight)) * PER_LN2 - ld_f64(words + 8 * D_AIM)
    st(at + 8, double_bits(ld_f64(at) - ld_f64(words + 8 * D_PACE) * off))
