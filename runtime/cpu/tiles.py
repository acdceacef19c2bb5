"""Register tiles: loops whose accumulators must stay in registers, emitted whole.

The one reduction order: lane l of an accumulator takes k = l, l + 16, l + 32, ... by fused multiply-add, and
`ir_fold` adds the lanes. A tile's shape changes how often an operand is loaded, never a bit of the result.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .lanes import (
    F32,
    I32,
    SIZES,
    ZERO,
    N,
    c64,
    i64,
    ir_below,
    ir_fma,
    ir_fold,
    ir_load,
    ir_loop,
    ir_prefetch,
    off,
    op,
    ptr,
    void,
)


def _groups(n: int) -> list[int]:
    """Sizes that `ir_fold` takes, covering n accumulators."""
    sizes = []
    while n:
        s = next(s for s in (16, 8, 4, 2, 1) if s <= n)
        sizes.append(s)
        n -= s
    return sizes


def dot_tile(rows: int, tokens: int, kind: str, unroll: int = 1, ahead: int = 0) -> Any:
    """y[m, r] = sum_k w[r, k] x[m, k] for `rows` weight rows and `tokens` tokens; strides in bytes.

    `ahead`: prefetch the weights so many bytes further on, or 0.

    (w, ldw, x, ldx, K, y, ldy, ldr): rows lie ldw apart, tokens ldx apart, results ldy (token) and ldr (row) apart.
    """
    size = SIZES[kind]

    @op(void, *[i64] * 8)
    def tile(b: Any, w: Any, ldw: Any, x: Any, ldx: Any, k_dim: Any, y: Any, ldy: Any, ldr: Any) -> None:
        ws = [b.add(w, b.mul(ldw, c64(r))) for r in range(rows)]
        xs = [b.add(x, b.mul(ldx, c64(m))) for m in range(tokens)]

        def body(k: Any, acc: list[Any], mask: Any = None, times: int = 1) -> list[Any]:
            acc = list(acc)
            for j in range(times):
                kj = b.add(k, c64(N * j))
                xv = [ir_load(b, off(b, a, kj, 4), mask=mask) for a in xs]
                for r in range(rows):
                    if ahead and (size * N * j) % 64 == 0:
                        ir_prefetch(b, b.add(off(b, ws[r], kj, size), c64(ahead)))
                    wv = ir_load(b, off(b, ws[r], kj, size), kind, mask)
                    for m in range(tokens):
                        acc[m * rows + r] = ir_fma(b, wv, xv[m], acc[m * rows + r])
            return acc

        acc, start = [ZERO] * (rows * tokens), c64(0)
        if unroll > 1:
            stop = b.and_(k_dim, c64(-N * unroll))
            acc = ir_loop(b, start, stop, N * unroll, acc, lambda k, a: body(k, a, times=unroll))
            start = stop
        full = b.and_(k_dim, c64(-N))
        acc = ir_loop(b, start, full, N, acc, body)
        acc = ir_loop(b, full, k_dim, N, acc, lambda k, a: body(k, a, ir_below(b, b.sub(k_dim, k))))
        at = 0
        for n in _groups(len(acc)):
            v = ir_fold(b, acc[at : at + n])
            for j in range(n):
                m, r = divmod(at + j, rows)
                dst = b.add(b.add(y, b.mul(ldy, c64(m))), b.mul(ldr, c64(r)))
                b.store(b.extract_element(v, ir.Constant(I32, j)), ptr(b, dst, F32), align=4)
            at += n

    return tile
