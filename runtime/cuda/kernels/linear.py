"""y = act(x w^T + b) * times + residual: a warp for each row of the weights, which are read once for four tokens.

Each thread takes 16 bytes of the row at a time where rows are whole 16 bytes (`row_dot`), else a number at a time.
The order of a sum is fixed by k alone, so a token's bits depend on no other token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...ops import FAST
from ..primitives import (
    fma,
    from_bits,
    high_bf16,
    high_f16,
    ld4_f32,
    ld4_u32,
    ld_bf16,
    ld_f16,
    ld_f32,
    low_bf16,
    low_f16,
    registers,
    st_f32,
    warp_sum,
    weights4,
)
from ..tensor import divided
from .base import F, Kernel, all_warps, always, ceil, fields_of, first_item, kernel, lane, rows_of, special
from .maths import activated, activated_fast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

THREADS, WARPS = 256, 8
#: Tokens that a warp walks through with its four rows, and from how many they are many.
RUN, MANY = 32, 8


def _finish(activated: Callable[[Any, Any], Any]) -> Callable[..., None]:
    def finish(
        arena: Any, m: Any, n: Any, value: Any, width: Any, y: Any, b: Any, times: Any, residual: Any, act: Any
    ) -> None:
        """Write y[m, n] = act(value + b) * times + residual; `width` numbers a row."""
        at = arena + 4 * (m * width + n)
        if b != 0:
            value += ld_f32(b + 4 * n)
        value = activated(value, act)
        if times >= 0:
            value *= ld_f32(at + times)
        if residual >= 0:
            value += ld_f32(at + residual)
        st_f32(at + y, value)

    return finish


finish, finish_fast = _finish(activated), _finish(activated_fast)


# Sixteen bytes of a row, loaded as four words, times as many numbers of x, added to `total`.
def dot_floats(load4: Any = ld4_f32) -> Callable[..., Any]:
    """Four of each; `load4`: where x lies."""

    def dot(a: Any, x: Any, total: Any) -> Any:
        p = load4(x)
        total = fma(from_bits(a[0]), p[0], total)
        total = fma(from_bits(a[1]), p[1], total)
        total = fma(from_bits(a[2]), p[2], total)
        return fma(from_bits(a[3]), p[3], total)

    return dot


def dot_halves(low: Any, high: Any, load4: Any = ld4_f32) -> Callable[..., Any]:
    """Eight of each, 16-bit by float32; `load4`: where x lies."""

    def dot(a: Any, x: Any, total: Any) -> Any:
        p, q = load4(x), load4(x + 16)
        total = fma(low(a[0]), p[0], total)
        total = fma(high(a[0]), p[1], total)
        total = fma(low(a[1]), p[2], total)
        total = fma(high(a[1]), p[3], total)
        total = fma(low(a[2]), q[0], total)
        total = fma(high(a[2]), q[1], total)
        total = fma(low(a[3]), q[2], total)
        return fma(high(a[3]), q[3], total)

    return dot


def dot_fast(a: Any, x: Any, total: Any) -> Any:
    """Eight bfloat16 of each."""
    p = ld4_u32(x)
    for i in range(4):
        total = fma(low_bf16(a[i]), low_bf16(p[i]), total)
        total = fma(high_bf16(a[i]), high_bf16(p[i]), total)
    return total


def row_dot(
    dot: Any, load: Any, size: int, load_x: Any, x_size: int, first: Callable[[], None] = lambda: None
) -> Callable[..., Any]:
    """A thread's part of a row of weights times x; `first` begins the bodies of its loops."""
    each = 16 // size  # numbers of 16 bytes

    def by_16(w: Any, x: Any, k: Any) -> Any:
        """Rows are whole 16 bytes. Four loads are under way at once."""
        total, j, stride = F(0.0), lane() * each, 32 * each
        while j + 3 * stride < k:
            first()
            a, b = weights4(w + size * j), weights4(w + size * (j + stride))
            c, d = weights4(w + size * (j + 2 * stride)), weights4(w + size * (j + 3 * stride))
            total = dot(a, x + x_size * j, total)
            total = dot(b, x + x_size * (j + stride), total)
            total = dot(c, x + x_size * (j + 2 * stride), total)
            total = dot(d, x + x_size * (j + 3 * stride), total)
            j += 4 * stride
        while j < k:
            first()
            total = dot(weights4(w + size * j), x + x_size * j, total)
            j += stride
        return total

    def part(w: Any, x: Any, k: Any) -> Any:
        if k % each == 0:
            return by_16(w, x, k)
        total = F(0.0)
        for j in range(lane(), k, 32):  # rows begin anywhere
            total = fma(load(w + size * j), load_x(x + x_size * j), total)
        return total

    return part


def _linear(dot: Any, load: Any, size: int, load_x: Any, x_size: int) -> Callable[..., None]:
    each = 16 // size
    part = row_dot(dot, load, size, load_x, x_size)

    def four_by_16(w: Any, x: Any, ldx: Any, k: Any) -> Any:
        """Four tokens at once, of rows that are whole 16 bytes; sums as `row_dot` has them."""
        t0, t1, t2, t3 = F(0.0), F(0.0), F(0.0), F(0.0)
        for j in range(lane() * each, k, 32 * each):
            a, at = weights4(w + size * j), x + x_size * j
            t0, t1 = dot(a, at, t0), dot(a, at + ldx, t1)
            t2, t3 = dot(a, at + 2 * ldx, t2), dot(a, at + 3 * ldx, t3)
        return t0, t1, t2, t3

    def body(
        arena: Any, step: Any, rows: Any, y: Any, scratch: Any, x: Any, w: Any, b: Any, times: Any, residual: Any,
        n: Any, k: Any, act: Any,
    ) -> None:  # fmt: skip
        tokens, whole = rows_of(step, rows), k % each == 0
        ldx = (k + 31) // 32 * 64 if x_size == 2 else 4 * k
        i = first_item()
        while i < n:
            row, m = w + i * k * size, 0
            while m < tokens:
                src = arena + x + m * ldx
                if whole and m + 4 <= tokens:
                    t = four_by_16(row, src, ldx, k)
                    s0, s1, s2, s3 = warp_sum(t[0]), warp_sum(t[1]), warp_sum(t[2]), warp_sum(t[3])
                    if lane() == 0:
                        finish(arena, m, i, s0, n, y, b, times, residual, act)
                        finish(arena, m + 1, i, s1, n, y, b, times, residual, act)
                        finish(arena, m + 2, i, s2, n, y, b, times, residual, act)
                        finish(arena, m + 3, i, s3, n, y, b, times, residual, act)
                    m += 4
                else:
                    total = warp_sum(part(row, src, k))
                    if lane() == 0:
                        finish(arena, m, i, total, n, y, b, times, residual, act)
                    m += 1
            i += all_warps()

    return body


def _many(dot: Any, size: int) -> Callable[..., None]:
    """The same sums, for many tokens of float32: four rows of weights meet four tokens in registers.

    A warp takes four rows and walks through `RUN` tokens; the warps of a block take the same tokens, which come to
    their cache once.
    """
    each = 16 // size

    def meet(w: Any, x: Any, k: Any, row: Any, rows: Any, token: Any, tokens: Any, acc: Any) -> None:
        """Each thread's part of four rows by four tokens; those that do not exist are the last one again."""
        w0, w1 = w + size * k * row, w + size * k * min(row + 1, rows - 1)
        w2, w3 = w + size * k * min(row + 2, rows - 1), w + size * k * min(row + 3, rows - 1)
        x0, x1 = x + 4 * k * token, x + 4 * k * min(token + 1, tokens - 1)
        x2, x3 = x + 4 * k * min(token + 2, tokens - 1), x + 4 * k * min(token + 3, tokens - 1)
        for i in range(16):
            acc[i] = F(0.0)
        for j in range(lane() * each, k, 32 * each):
            a = weights4(w0 + size * j), weights4(w1 + size * j), weights4(w2 + size * j), weights4(w3 + size * j)
            at = x0 + 4 * j, x1 + 4 * j, x2 + 4 * j, x3 + 4 * j
            for r in range(4):
                for t in range(4):
                    acc[4 * r + t] = dot(a[r], at[t], acc[4 * r + t])

    def body(
        arena: Any, step: Any, rows: Any, y: Any, scratch: Any, x: Any, w: Any, b: Any, times: Any, residual: Any,
        n: Any, k: Any, act: Any,
    ) -> None:  # fmt: skip
        tokens, across = rows_of(step, rows), (n + 3) // 4
        acc = registers(16)
        item = first_item()
        while item < across * ((tokens + RUN - 1) // RUN):
            turn = divided(item, across)
            row, first = (item - turn * across) * 4, turn * RUN
            for token in range(first, min(first + RUN, tokens), 4):
                meet(w, arena + x, k, row, n, token, tokens, acc)
                mine, at_row, at_token = F(0.0), row + lane() // 4, token + lane() % 4
                for i in range(16):
                    total = warp_sum(acc[i])
                    mine = total if lane() == i else mine
                if lane() < 16 and at_row < n and at_token < tokens:
                    finish(arena, at_token, at_row, mine, n, y, b, times, residual, act)
            item += all_warps()

    return body


def _fits(each: int) -> Callable[[int, Mapping[str, int]], bool]:
    return lambda rows, v: rows >= MANY and v["k"] % each == 0


for _kind, _dot, _load, _size in (
    ("f32", dot_floats(), ld_f32, 4),
    ("bf16", dot_halves(low_bf16, high_bf16), ld_bf16, 2),
    ("f16", dot_halves(low_f16, high_f16), ld_f16, 2),
):
    _name = f"linear_{_kind}"
    kernel(THREADS, lambda _, v: ceil(v["n"], WARPS), name=_name)(_linear(_dot, _load, _size, ld_f32, 4))
    _body = _many(_dot, _size)
    special(_name, Kernel(
        f"{_name}_many", _body, THREADS,
        lambda rows, v: ceil(ceil(v["n"], 4) * ceil(rows, RUN), WARPS), always(0), fields_of(_name, _body),
        _fits(16 // _size), at_once=2,
    ))  # fmt: skip
kernel(THREADS, lambda _, v: ceil(v["n"], WARPS), name=f"linear_{FAST}")(_linear(dot_fast, ld_bf16, 2, ld_bf16, 2))
