"""An id drawn on the device: the one that the CPU's sampler (`runtime/sampling.py`) draws from the same logits.

Nothing is sorted. A float32 is turned into a key, an unsigned number of the same order, and a key that is wanted (the
k-th largest; where the largest have a share of the weight) is found digit by digit: all blocks count the keys that
begin with the digits known so far by their next one, 256 sums from which the next digit is read. Weights are whole
numbers, so whoever adds them, in whatever order, has the CPU's sums.

| kernel | |
|---|---|
| draw_keys | repetition penalty; keys, and the largest |
| draw_count0 to 3 | top-k: how many keys |
| draw_weights | exp((score - largest) / temperature), the CPU's polynomial: float64, as nothing else here |
| draw_mass0 to 3 | top-p: how much weight |
| draw_ties | of the nucleus' least key: where its ids are; the first of them are in |
| draw_sums | weights that are left, by group of ids |
| draw_pick | one block: the group, then the id, at which a uniform number of the sum falls |

Vocabulary ids lie in 256 groups, one for each thread of a block that looks for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...drawing import D_COMPLEMENT, D_LEAST, D_PENALTY, D_SEED, D_SEQUENCE, D_TEMPERATURE, D_TOP_K, D_UNIT
from ...sampling import LN2_HIGH, LN2_LOW, NEGLIGIBLE, PER_LN2, TAYLOR, philox
from ..draw import (
    BINS,
    D_COUNT,
    D_COUNTS,
    D_FLOOR,
    D_LAST,
    D_MASS,
    D_MASSES,
    D_SUMS,
    D_TIES,
    D_TOP,
    D_WORDS,
    DIGITS,
    KEYS_AT,
    seen_at,
    weights_at,
)
from ..primitives import (
    WARP,
    barrier,
    bits,
    block,
    blocks,
    from_bits,
    ld_f32,
    ld_i64,
    ld_u8,
    ld_u32,
    sld_i64,
    sst_i64,
    st_i32,
    st_i64,
    st_u8,
    thread,
    threads,
)
from ..step import S_RESULT, S_START
from ..tensor import divided
from ..whole import add_i64, double, double_bits, fraction, most_i64, sadd_i64, whole
from .base import F, Kernel, all_warps, ceil, first_item, lane
from .scan import hit, scan

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DRAWS"]

D = np.float64
THREADS = BINS
U32, SIGN, INFINITE = 0xFFFFFFFF, 0x80000000, 0xFF800000
#: Ids of a block.
SHARE = 1024
#: Kernels in their order.
DRAWS: list[Kernel] = []


def _draw(name: str, function: Callable[..., None], *, one: bool = False, double: bool = False) -> None:
    count = (lambda *_: 1) if one else (lambda _, v: ceil(v["n"], SHARE))
    fields = ("w:draw", "i:x", "n:n")
    DRAWS.append(Kernel(f"draw_{name}", function, THREADS, count, lambda _: 8 * BINS, fields, double=double))


# ---------------------------------------------------------------------------------------------- keys and weights
def key_of(v: Any) -> Any:
    """A number of 32 bits: larger for a larger float32, the same for both zeros, the largest for NaN."""
    if v != v:  # noqa: PLR0124 - so is NaN
        return U32
    u = bits(v + F(0.0))
    return u ^ U32 if u >= SIGN else u | SIGN


def value_of(key: Any) -> Any:
    """The float32 of a key."""
    return from_bits(key ^ SIGN if key >= SIGN else key ^ U32)


def weight_of(key: Any, top: Any, temperature: Any, unit: Any) -> Any:
    """exp((score - largest) / temperature) in units of 2^-unit: `sampling.exp`, for one number."""
    x = (D(value_of(key)) - D(value_of(top))) / temperature
    if not x >= NEGLIGIBLE:  # NaN has none
        return 0
    k = whole(x * PER_LN2)
    r = x - D(k) * LN2_HIGH
    r -= D(k) * LN2_LOW
    t = r * TAYLOR[0]
    for coefficient in TAYLOR[1:-1]:
        t += coefficient
        t *= r
    t += TAYLOR[-1]
    return whole(double(double_bits(t) + ((k + unit) << 52)))


def _keys(arena: Any, step: Any, rows: Any, draw: Any, x: Any, n: Any) -> None:
    me, penalty, best = thread(), from_bits(ld_i64(draw + 8 * D_PENALTY)), 0
    i = block() * threads() + me
    while i < n:
        v = ld_f32(arena + x + 4 * i)
        if ld_u8(draw + seen_at(n) + i) != 0:
            v = v * penalty if v < F(0.0) else v / penalty
        key = key_of(v)
        st_i32(draw + KEYS_AT + 4 * i, key)
        best = max(best, key)
        i += blocks() * threads()
    sst_i64(8 * me, best)
    barrier()
    half = threads() // 2
    while half > 0:
        if me < half:
            best = max(best, sld_i64(8 * (me + half)))
            sst_i64(8 * me, best)
        barrier()
        half //= 2
    if me == 0:
        most_i64(draw + 8 * D_TOP, best)


def _weights(arena: Any, step: Any, rows: Any, draw: Any, x: Any, n: Any) -> None:
    floor = 0
    if ld_i64(draw + 8 * D_TOP_K) != 0:
        floor = known(draw, D_COUNT, D_COUNTS, DIGITS)[0]
    top, unit = ld_i64(draw + 8 * D_TOP), ld_i64(draw + 8 * D_UNIT)
    temperature = double(ld_i64(draw + 8 * D_TEMPERATURE))
    i = block() * threads() + thread()
    while i < n:
        key = ld_u32(draw + KEYS_AT + 4 * i)
        st_i64(draw + weights_at(n) + 8 * i, weight_of(key, top, temperature, unit) if key >= floor else 0)
        i += blocks() * threads()


# ---------------------------------------------------------------------------------------------- a key, digit by digit
def known(draw: Any, state: Any, sums: Any, digit: Any) -> Any:
    """*block* The first digits of the key that is looked for, and what is wanted of those that begin so.

    Of `digit` - 1 digits block 0 left it there; the sums by the last of these say the next. What is wanted at first:
    of counts top-k, of weights top-p's part of all.
    """
    me, before = thread(), draw + 8 * (state + 2 * (digit - 1))
    mine = ld_i64(draw + 8 * (sums + BINS * (digit - 1) + BINS - 1 - me))  # thread 0: the largest digit
    upto, total = scan(mine)
    if digit > 1:
        prefix, wanted = ld_i64(before), ld_i64(before + 8)
    else:
        prefix, wanted = 0, ld_i64(draw + 8 * D_TOP_K)
        if state == D_MASS:
            wanted = total - fraction(total, ld_i64(draw + 8 * D_COMPLEMENT))
    is_known = hit(upto, mine, wanted)
    prefix, wanted = prefix * BINS + BINS - 1 - is_known[0], wanted - is_known[1]
    if block() == 0 and me == 0:
        st_i64(before + 16, prefix)
        st_i64(before + 24, wanted)
    return prefix, wanted


def _search(digit: int, state: int, sums: int, switch: int, weighed: bool) -> Callable[..., None]:
    def body(arena: Any, step: Any, rows: Any, draw: Any, x: Any, n: Any) -> None:
        if ld_i64(draw + 8 * switch) != 0:
            me, prefix = thread(), 0
            if digit > 0:
                prefix = known(draw, state, sums, digit)[0]
            sst_i64(8 * me, 0)
            barrier()
            i = block() * threads() + me
            while i < n:
                key = ld_u32(draw + KEYS_AT + 4 * i)
                if key >> 32 - 8 * digit == prefix:
                    part = 1
                    if weighed:
                        part = ld_i64(draw + weights_at(n) + 8 * i)
                    if part != 0:
                        sadd_i64(8 * (key >> 24 - 8 * digit & BINS - 1), part)
                i += blocks() * threads()
            barrier()
            total = sld_i64(8 * me)
            if total != 0:
                add_i64(draw + 8 * (sums + BINS * digit + me), total)
            barrier()

    return body


# ---------------------------------------------------------------------------------------------- who is left
def span_of(n: Any) -> Any:
    """Ids of a group."""
    return (n + BINS - 1) // BINS


def _ties(arena: Any, step: Any, rows: Any, draw: Any, x: Any, n: Any) -> None:
    if ld_i64(draw + 8 * D_COMPLEMENT) != 0:
        floor = known(draw, D_MASS, D_MASSES, DIGITS)[0]
        i, span = block() * threads() + thread(), span_of(n)
        while i < n:
            if ld_u32(draw + KEYS_AT + 4 * i) == floor:
                add_i64(draw + 8 * (D_TIES + divided(i, span)), 1)
            i += blocks() * threads()


def last_tie(draw: Any, n: Any, floor: Any) -> Any:
    """*block* The last id that a nucleus has of its least key: as many of the first as reach what is wanted."""
    me, span = thread(), span_of(n)
    unit, temperature = ld_i64(draw + 8 * D_UNIT), double(ld_i64(draw + 8 * D_TEMPERATURE))
    weight, wanted = weight_of(floor, ld_i64(draw + 8 * D_TOP), temperature, unit), 0
    if weight > 0:
        wanted = (ld_i64(draw + 8 * (D_MASS + 2 * DIGITS + 1)) + weight - 1) // weight
    mine = ld_i64(draw + 8 * (D_TIES + me))
    group = hit(scan(mine)[0], mine, wanted)
    each = span_of(span)
    first = group[0] * span + me * each
    end, mine = min(first + each, (group[0] + 1) * span, n), 0
    for i in range(first, end):
        if ld_u32(draw + KEYS_AT + 4 * i) == floor:
            mine += 1
    part = hit(scan(mine)[0], mine, wanted - group[1])
    first, count, last = group[0] * span + part[0] * each, group[1] + part[1], -1
    for i in range(first, min(first + each, n)):
        if ld_u32(draw + KEYS_AT + 4 * i) == floor:
            count += 1
            if count == wanted:
                last = i
    return last


def left(draw: Any, n: Any, i: Any, floor: Any, last: Any) -> Any:
    """The weight of an id, if it is kept."""
    weight, key = ld_i64(draw + weights_at(n) + 8 * i), ld_u32(draw + KEYS_AT + 4 * i)
    inside = key > floor or (key == floor and i <= last)
    return weight if inside and weight >= ld_i64(draw + 8 * D_LEAST) else 0


def _sums(arena: Any, step: Any, rows: Any, draw: Any, x: Any, n: Any) -> None:
    floor, last, span = 0, n, span_of(n)
    if ld_i64(draw + 8 * D_COMPLEMENT) != 0:
        floor = ld_i64(draw + 8 * (D_MASS + 2 * DIGITS))
        last = last_tie(draw, n, floor)
    if block() == 0 and thread() == 0:
        st_i64(draw + 8 * D_FLOOR, floor)
        st_i64(draw + 8 * D_LAST, last)
    group = first_item()
    while group < BINS:
        mine = 0
        for i in range(group * span + lane(), min((group + 1) * span, n), WARP):
            mine += left(draw, n, i, floor, last)
        if mine != 0:
            add_i64(draw + 8 * (D_SUMS + group), mine)
        group += all_warps()


def uniform(draw: Any, position: Any) -> Any:
    """53 bits: `sampling.uniform_bits`."""
    seed, sequence = ld_i64(draw + 8 * D_SEED), ld_i64(draw + 8 * D_SEQUENCE)
    counter = position & U32, position >> 32 & U32, sequence & U32, sequence >> 32 & U32
    random = philox(counter, (seed & U32, seed >> 32 & U32))
    return random[0] << 21 | random[1] >> 11


def _pick(arena: Any, step: Any, rows: Any, draw: Any, x: Any, n: Any) -> None:
    if block() == 0:
        me, span = thread(), span_of(n)
        floor, last = ld_i64(draw + 8 * D_FLOOR), ld_i64(draw + 8 * D_LAST)
        mine = ld_i64(draw + 8 * (D_SUMS + me))
        upto, total = scan(mine)
        wanted = fraction(total, uniform(draw, ld_i64(step + 8 * S_START) + 1)) + 1
        group = hit(upto, mine, wanted)
        each = span_of(span)
        first = group[0] * span + me * each
        end, mine = min(first + each, (group[0] + 1) * span, n), 0
        for i in range(first, end):
            mine += left(draw, n, i, floor, last)
        part = hit(scan(mine)[0], mine, wanted - group[1])
        if me == 0:
            first, reached, picked = group[0] * span + part[0] * each, group[1] + part[1], -1
            if total > 0 and ld_i64(draw + 8 * D_TOP) < INFINITE:
                for i in range(first, min(first + each, n)):
                    reached += left(draw, n, i, floor, last)
                    if picked < 0 and reached >= wanted:
                        picked = i
            st_i64(step + 8 * S_RESULT, picked)
            if picked >= 0:
                st_u8(draw + seen_at(n) + picked, 1)
            st_i64(draw + 8 * D_TOP, 0)
        barrier()
        for i in range(D_COUNTS + me, D_WORDS, threads()):  # as the next step finds them
            st_i64(draw + 8 * i, 0)


_draw("keys", _keys)
for _digit in range(DIGITS):
    _draw(f"count{_digit}", _search(_digit, D_COUNT, D_COUNTS, D_TOP_K, weighed=False))
_draw("weights", _weights, double=True)
for _digit in range(DIGITS):
    _draw(f"mass{_digit}", _search(_digit, D_MASS, D_MASSES, D_COMPLEMENT, weighed=True))
_draw("ties", _ties)
_draw("sums", _sums, double=True)
_draw("pick", _pick, one=True)
