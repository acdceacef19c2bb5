"""Experts: which of them a token goes to, products with the matrices of those, and their weighted sum.

A product walks the experts that the step's tokens go to, one after the other, and nothing of another is touched. Each
thread puts the pairs (token, its n-th expert) in the order of experts in its own scratch, and computes its share of
every matrix's rows: a pair alone walks them as two streams, as `linear` does; for several pairs a few rows stay in the
first cache while all of them pass by. Nothing of this changes a bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...experts import order_floats, route_floats
from ...ops import slots
from ...quantized import GROUP, GROUP_BYTES, PANEL
from ..emitters import SIZES
from ..integer import integer_tile
from ..lanes import (
    add,
    between,
    div,
    fma,
    fold,
    largest,
    ld,
    ldf,
    load_tail,
    mul,
    splat,
    st,
    stf,
    store_tail,
    sub,
    zero,
)
from ..target import integer_tile_shape, tile_shape
from ..tiles import dot_tile
from .base import arg, jit, kernel, rows_of, share, template
from .elementwise import activated, exp
from .quantized import AHEAD

F = np.float32
R_Y, R_SCRATCH, R_X, R_B, R_EXPERTS, R_CHOSEN, R_SIGMOID, R_NORMALIZED = slots("route")
L_Y, L_SCRATCH, L_X, L_ROUTES, L_TABLE, L_TIMES, L_N, L_K, L_EXPERTS, L_CHOSEN, L_APART, L_ACT = slots("expert_linear")
S_Y, S_X, S_ROUTES, S_SHARED, S_MIX, S_RESIDUAL, S_D, S_CHOSEN = slots("expert_sum")
ROWS, _ = tile_shape()
STREAMS = 2
_route_floats, _order_floats = jit(route_floats), jit(order_floats)


@jit
def _sigmoid(x: Any) -> Any:
    one = splat(F(1.0))
    return div(one, add(one, exp(sub(zero(), x))))


@jit
def _score(x: Any, n: Any, sigmoid: Any, scores: Any) -> Any:
    """Scores of a token's n experts, and their sum: NaN where one of them is."""
    least, top = F(-np.inf), splat(F(0.0))
    if sigmoid == 0:
        most = splat(least)
        for j in range(0, n, 16):
            v = between(load_tail(x + 4 * j, n - j), 0, n - j, least)
            most = splat(max(largest(v), largest(most)))
        top = most
    total = zero()
    for j in range(0, n, 16):
        v = load_tail(x + 4 * j, n - j)
        v = between(_sigmoid(v) if sigmoid != 0 else exp(sub(v, top)), 0, n - j, F(0.0))
        total = add(total, v)
        store_tail(scores + 4 * j, v, n - j)
    whole = fold(total)
    if sigmoid == 0:
        for j in range(0, n, 16):
            store_tail(scores + 4 * j, div(load_tail(scores + 4 * j, n - j), splat(whole)), n - j)
    return whole


@kernel
def route(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """The experts of the largest scores, of equals the first; where a score is NaN the first experts, and no weight."""
    rows, n, chosen, b = rows_of(p, step), arg(p, R_EXPERTS), arg(p, R_CHOSEN), arg(p, R_B)
    size = _route_floats(n)
    scores = base + arg(p, R_SCRATCH) + 4 * t * size
    keys, taken = scores + 4 * (size // 3), scores + 4 * (size // 3 * 2)
    for r in range(share(rows, 1, t, nt), share(rows, 1, t + 1, nt)):
        x, ids = base + arg(p, R_X) + 4 * r * n, base + arg(p, R_Y) + 8 * r * chosen
        weights = ids + 4 * chosen
        total = _score(x, n, arg(p, R_SIGMOID), scores)
        bad = total != total  # noqa: PLR0124 - NaN
        for j in range(0, n, 16):
            v = (
                load_tail(x + 4 * j, n - j)
                if b == 0
                else add(load_tail(scores + 4 * j, n - j), load_tail(b + 4 * j, n - j))
            )
            store_tail(keys + 4 * j, v, n - j)
            store_tail(taken + 4 * j, zero(), n - j)
        whole = F(0.0)
        for j in range(chosen):
            best: Any = np.int64(-1)
            for e in range(n):
                free = ldf(taken + 4 * e) == F(0.0)
                if free and (best < 0 or (not bad and ldf(keys + 4 * e) > ldf(keys + 4 * best))):
                    best = e
            stf(taken + 4 * best, F(1.0))
            stf(ids + 4 * j, F(best))
            weight = F(np.nan) if bad else ldf(scores + 4 * best)
            stf(weights + 4 * j, weight)
            whole = F(whole + weight)
        if arg(p, R_NORMALIZED) != 0:
            for j in range(chosen):
                stf(weights + 4 * j, F(ldf(weights + 4 * j) / whole))


@jit
def _expert_of(routes: Any, pair: Any, chosen: Any) -> Any:
    """Of token pair // chosen its (pair % chosen)-th."""
    return np.int64(ldf(routes + 4 * (pair // chosen * 2 * chosen + pair % chosen)))


@jit
def _in_order(routes: Any, pairs: Any, chosen: Any, experts: Any, order: Any) -> None:
    """Where each expert's pairs end in what follows: the pairs, by expert, then as they come."""
    for e in range(experts):
        st(order + 8 * e, 0)
    for pair in range(pairs):
        at = order + 8 * _expert_of(routes, pair, chosen)
        st(at, ld(at) + 1)
    begin = np.int64(0)
    for e in range(experts):
        count = ld(order + 8 * e)
        st(order + 8 * e, begin)
        begin += count
    for pair in range(pairs):
        at = order + 8 * _expert_of(routes, pair, chosen)
        place = ld(at)
        st(order + 8 * (experts + place), pair)
        st(at, place + 1)


@jit
def _finish(p: Any, base: Any, pair: Any, n0: Any, n1: Any) -> None:
    """act(y) * times on columns n0 to n1 of a pair that were just written."""
    act, times, row = arg(p, L_ACT), arg(p, L_TIMES), 4 * pair * arg(p, L_N)
    if act == 0 and times < 0:
        return
    for n in range(n0, n1, 16):
        at, left = row + 4 * n, n1 - n
        v = activated(load_tail(base + arg(p, L_Y) + at, left), act)
        if times >= 0:
            v = mul(v, load_tail(base + times + at, left))
        store_tail(base + arg(p, L_Y) + at, v, left)


def _walk(unit: int, ldx: Any, alone: Any, several: Any) -> Any:
    """The body of a product; threads share rows in whole `unit`s.

    `ldx(k)`: bytes of a pair's input. `alone(p, w, x, y, n0, n1)` computes rows n0 to n1 for one pair;
    `several(p, base, w, x, ldx, pairs, count, n0, n1)` for `count` of them, whose numbers lie at `pairs`.
    """

    @template
    def body(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
        n, chosen, experts, apart = arg(p, L_N), arg(p, L_CHOSEN), arg(p, L_EXPERTS), arg(p, L_APART)
        pairs, routes, size = rows_of(p, step) * chosen, base + arg(p, L_ROUTES), ldx(arg(p, L_K))
        order = base + arg(p, L_SCRATCH) + 4 * t * _order_floats(experts, pairs)
        _in_order(routes, pairs, chosen, experts, order)
        n0, n1, x = share(n, unit, t, nt), share(n, unit, t + 1, nt), base + arg(p, L_X)
        begin = np.int64(0)
        for e in range(experts):
            end = ld(order + 8 * e)
            if end > begin and n1 > n0:
                w, at = ld(arg(p, L_TABLE) + 8 * e), order + 8 * (experts + begin)
                if end == begin + 1:
                    pair = ld(at)
                    place = pair if apart != 0 else pair // chosen
                    alone(p, w, x + place * size, base + arg(p, L_Y) + 4 * pair * n, n0, n1)
                    _finish(p, base, pair, n0, n1)
                else:
                    several(p, base, w, x, size, at, end - begin, n0, n1)
            begin = end

    return body


@jit
def _input(p: Any, x: Any, size: Any, pair: Any) -> Any:
    """Where a pair's input lies."""
    return x + (pair if arg(p, L_APART) != 0 else pair // arg(p, L_CHOSEN)) * size


def _floats(kind: str, unroll: int, ahead: int) -> Any:
    width = SIZES[kind]
    row, rows, tile = dot_tile(1, kind), dot_tile(STREAMS, kind, unroll, ahead), dot_tile(ROWS, kind)

    @template
    def ldx(k: Any) -> Any:
        return 4 * k

    @template
    def alone(p: Any, w: Any, x: Any, y: Any, n0: Any, n1: Any) -> None:
        k, h = arg(p, L_K), (n1 - n0) // STREAMS
        rest = n0 + STREAMS * h
        rows(w + n0 * k * width, h * k * width, x, k, y + 4 * n0, 4 * h, h)
        row(w + rest * k * width, 0, x, k, y + 4 * rest, 4, n1 - rest)

    @template
    def several(p: Any, base: Any, w: Any, x: Any, size: Any, pairs: Any, count: Any, n0: Any, n1: Any) -> None:
        k, n_all = arg(p, L_K), arg(p, L_N)
        ldw = k * width
        for a in range(n0, n1, ROWS):
            b = min(n1, a + ROWS)
            for i in range(count):
                pair = ld(pairs + 8 * i)
                place, y = _input(p, x, size, pair), base + arg(p, L_Y) + 4 * pair * n_all
                if b == a + ROWS:
                    tile(w + a * ldw, ldw, place, k, y + 4 * a, 4, 1)
                else:
                    row(w + a * ldw, 0, place, k, y + 4 * a, 4, b - a)
                _finish(p, base, pair, a, b)

    return _walk(ROWS, ldx, alone, several)


def _integers(kind: str, planes: int = 1) -> Any:
    width, (n_panels, _) = GROUP_BYTES[kind], integer_tile_shape(planes)
    stream, one = integer_tile(STREAMS, 1, kind, AHEAD, planes), integer_tile(1, 1, kind, planes=planes)
    tile = stream if planes > 1 and n_panels == STREAMS else integer_tile(n_panels, 1, kind, planes=planes)
    x_bytes = GROUP * planes + 8  # of a group of the input: bytes, scale, sum

    @template
    def ldx(k: Any) -> Any:
        return (k + GROUP - 1) // GROUP * x_bytes

    @template
    def alone(p: Any, w: Any, x: Any, y: Any, n0: Any, n1: Any) -> None:
        n, groups, row = arg(p, L_N), (arg(p, L_K) + GROUP - 1) // GROUP, 4 * PANEL
        p0, p1, panel = n0 // PANEL, (n1 + PANEL - 1) // PANEL, (arg(p, L_K) + GROUP - 1) // GROUP * width
        h = (p1 - p0) // STREAMS
        for i in range(p0, p0 + h):
            stream(w + i * panel, h * panel, x, 0, groups, y + row * i, 0, row * h, n - PANEL * i, 1)
        for i in range(p0 + STREAMS * h, p1):
            one(w + i * panel, 0, x, 0, groups, y + row * i, 0, row, n - PANEL * i, 1)

    @template
    def several(p: Any, base: Any, w: Any, x: Any, size: Any, pairs: Any, count: Any, n0: Any, n1: Any) -> None:
        n, groups, row = arg(p, L_N), (arg(p, L_K) + GROUP - 1) // GROUP, 4 * PANEL
        panel = groups * width
        for a in range(n0, n1, PANEL * n_panels):
            b, i = min(n1, a + PANEL * n_panels), a // PANEL
            for j in range(count):
                pair = ld(pairs + 8 * j)
                place, y = _input(p, x, size, pair), base + arg(p, L_Y) + 4 * pair * n
                if b > a + PANEL * (n_panels - 1):
                    tile(w + i * panel, panel, place, 0, groups, y + row * i, 0, row, n - PANEL * i, 1)
                else:
                    one(w + i * panel, 0, place, 0, groups, y + row * i, 0, row, n - PANEL * i, 1)
                _finish(p, base, pair, a, b)

    return _walk(PANEL, ldx, alone, several)


_f32 = _floats("f32", unroll=4, ahead=1536)
_bf16, _f16 = (_floats(kind, unroll=2, ahead=3072) for kind in ("bf16", "f16"))
_int8, _int4, _int4a = map(_integers, ("int8", "int4", "int4a"))
_int8_planes, _int4_planes, _int4a_planes = (_integers(kind, 2) for kind in ("int8", "int4", "int4a"))


@kernel
def expert_linear_f32(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """F32 weights."""
    _f32(p, base, step, t, nt)


@kernel
def expert_linear_bf16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """BF16 weights, widened in registers."""
    _bf16(p, base, step, t, nt)


@kernel
def expert_linear_f16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """F16 weights, widened in registers."""
    _f16(p, base, step, t, nt)


@kernel
def expert_linear_int8(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """8.5 bits a weight."""
    _int8(p, base, step, t, nt)


@kernel
def expert_linear_int4(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """4.5 bits a weight."""
    _int4(p, base, step, t, nt)


@kernel
def expert_linear_int4a(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """5 bits a weight."""
    _int4a(p, base, step, t, nt)


@kernel
def expert_linear_int8_planes(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """With an input of two planes."""
    _int8_planes(p, base, step, t, nt)


@kernel
def expert_linear_int4_planes(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """With an input of two planes."""
    _int4_planes(p, base, step, t, nt)


@kernel
def expert_linear_int4a_planes(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """With an input of two planes."""
    _int4a_planes(p, base, step, t, nt)


@kernel
def expert_sum(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """By the weights in `routes`, in the order that they stand in; then the shared expert's, then the residual."""
    rows, d, chosen = rows_of(p, step), arg(p, S_D), arg(p, S_CHOSEN)
    shared, mix, residual = arg(p, S_SHARED), arg(p, S_MIX), arg(p, S_RESIDUAL)
    each = (d + 15) // 16  # vectors of a row
    for item in range(share(rows * each, 1, t, nt), share(rows * each, 1, t + 1, nt)):
        r, j = item // each, item % each * 16
        left, at = d - j, 4 * (item // each * d + item % each * 16)
        x, weights = base + arg(p, S_X) + 4 * (r * chosen * d + j), base + arg(p, S_ROUTES) + 4 * (2 * r + 1) * chosen
        v = zero()
        for c in range(chosen):
            v = fma(splat(ldf(weights + 4 * c)), load_tail(x + 4 * c * d, left), v)
        if shared >= 0:
            more = load_tail(base + shared + at, left)
            if mix >= 0:
                more = mul(more, _sigmoid(splat(ldf(base + mix + 4 * r))))
            v = add(v, more)
        if residual >= 0:
            v = add(load_tail(base + residual + at, left), v)
        store_tail(base + arg(p, S_Y) + at, v, left)
