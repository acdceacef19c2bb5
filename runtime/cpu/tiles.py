"""Register tiles: loops whose accumulators must stay in registers, emitted whole.

The one reduction order: lane l of an accumulator takes k = l, l + 16, l + 32, ... by fused multiply-add, and
`ir_fold` adds the lanes. A tile's shape changes how often an operand is loaded, never a bit of the result.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ..ops import FAST
from .lanes import (
    I32,
    SIZES,
    ZERO,
    N,
    c64,
    i64,
    ir_below,
    ir_dot_pairs,
    ir_fma,
    ir_fold,
    ir_load,
    ir_load_pairs,
    ir_loop,
    ir_prefetch,
    off,
    op,
    outlined,
    ptr,
    shuffle,
    void,
)


def groups_of(n: int) -> list[int]:
    """Sizes that `ir_fold` takes, covering n accumulators."""
    sizes = []
    while n:
        s = next(s for s in (16, 8, 4, 2, 1) if s <= n)
        sizes.append(s)
        n -= s
    return sizes


def dot_tile(rows: int, tokens: int, kind: str, unroll: int = 1, ahead: int = 0, *, apart: bool = False) -> Any:
    """y[m, r] = sum_k w[r, k] x[m, k] for `rows` weight rows and `tokens` tokens; strides in bytes.

    `ahead`: prefetch the weights so many bytes further on, or 0. `apart`: a token's results do not lie side by side.

    (w, ldw, x, ldx, K, y, ldy, ldr): rows lie ldw apart, tokens ldx apart, results ldy (token) and ldr (row) apart.
    FAST takes pairs of BF16 of both, a lane l and l + 1 of 32; x is then filled up with zeros to whole 32s.
    """
    size, fast = SIZES[kind], kind == FAST
    step, x_size = (2 * N, 2) if fast else (N, 4)

    def tile(b: Any, w: Any, ldw: Any, x: Any, ldx: Any, k_dim: Any, y: Any, ldy: Any, ldr: Any) -> None:
        ws = [b.add(w, b.mul(ldw, c64(r))) for r in range(rows)]
        xs = [b.add(x, b.mul(ldx, c64(m))) for m in range(tokens)]

        def body(k: Any, acc: list[Any], mask: Any = None, times: int = 1) -> list[Any]:
            acc = list(acc)
            for j in range(times):
                kj = b.add(k, c64(step * j))
                places = [off(b, a, kj, x_size) for a in xs]
                xv = [ir_load_pairs(b, a) if fast else ir_load(b, a, mask=mask) for a in places]
                for r in range(rows):
                    at = off(b, ws[r], kj, size)
                    if ahead and (size * step * j) % 64 == 0:
                        ir_prefetch(b, b.add(at, c64(ahead)))
                    wv = ir_load_pairs(b, at, mask) if fast else ir_load(b, at, kind, mask)
                    for m in range(tokens):
                        i = m * rows + r
                        acc[i] = ir_dot_pairs(b, acc[i], wv, xv[m]) if fast else ir_fma(b, wv, xv[m], acc[i])
            return acc

        acc, start = [ZERO] * (rows * tokens), c64(0)
        if unroll > 1:
            stop = b.and_(k_dim, c64(-step * unroll))
            acc = ir_loop(b, start, stop, step * unroll, acc, lambda k, a: body(k, a, times=unroll))
            start = stop
        full = b.and_(k_dim, c64(-step))
        acc = ir_loop(b, start, full, step, acc, body)
        acc = ir_loop(b, full, k_dim, step, acc, lambda k, a: body(k, a, ir_below(b, b.sub(k_dim, k), step)))
        at = 0
        for n in groups_of(len(acc)):
            v, j = ir_fold(b, acc[at : at + n]), 0
            while j < n:
                m, r = divmod(at + j, rows)
                dst = b.add(b.add(y, b.mul(ldy, c64(m))), b.mul(ldr, c64(r)))
                many = 1 if apart else min(n - j, rows - r)
                part = b.extract_element(v, ir.Constant(I32, j)) if many == 1 else shuffle(b, v, v, range(j, j + many))
                b.store(part, ptr(b, dst, part.type), align=4)
                j += many
            at += n

    return outlined(f"dot_{kind}_{rows}_{tokens}", 8)(tile) if tokens > 1 else op(void, *[i64] * 8)(tile)
