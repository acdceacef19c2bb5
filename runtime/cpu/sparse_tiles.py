"""Tiles of sparse rows (`runtime/sparse.py`): a group's kept numbers are spread in a register, then as `dot_tile`.

The one reduction order (`tiles.py`), with a product for every column, kept or not: the bits of the dense matrix.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ..sparse import LANES
from .lanes import (
    F32,
    I1,
    I16,
    I32,
    I64,
    SIZES,
    VH,
    VI,
    VM,
    ZERO,
    N,
    V,
    c64,
    const,
    ext,
    i64,
    ir_below,
    ir_fma,
    ir_fold,
    ir_load,
    ir_loop,
    ir_prefetch,
    ir_widen_half,
    off,
    op,
    outlined,
    ptr,
    void,
)
from .target import expands
from .tiles import groups_of

MASK_AHEAD = 512  # bytes: the masks are a ninth of what is read


def ir_spread(b: Any, at: Any, bits: Any, kind: str) -> Any:
    """Sixteen float32: the numbers from `at` on, one for each bit that is set, in its lane; +0 in the others."""
    if expands():
        mask = b.bitcast(bits, VM)
        return b.call(ext(b, "llvm.x86.avx512.mask.expand.v16f32", V, [V, V, VM]), [ir_load(b, at, kind), ZERO, mask])
    size = SIZES[kind]
    number = I32 if kind == "f32" else I16
    v = ir.Constant(ir.VectorType(number, N), None)
    for lane in range(N):
        bit = b.trunc(b.lshr(bits, ir.Constant(I16, lane)), I1)
        one = b.select(bit, b.load(ptr(b, at, number), align=size), ir.Constant(number, 0))
        v = b.insert_element(v, one, ir.Constant(I32, lane))
        at = b.add(at, b.select(bit, c64(size), c64(0)))
    if kind == "f32":
        return b.bitcast(v, V)
    if kind == "f16":
        return ir_widen_half(b, b.bitcast(v, VH))
    return b.bitcast(b.shl(b.zext(v, VI), const(VI, [16] * N)), V)


def sparse_tile(rows: int, tokens: int, kind: str, ahead: int = 0) -> Any:
    """y[m, r] = sum_k w[r, k] x[m, k] for `rows` rows, `step` apart from `row` on, and `tokens` tokens.

    (w, n, row, step, x, ldx, K, y, ldy, ldr): w is the whole matrix of n rows; tokens lie ldx bytes apart, results ldy
    (token) and ldr (row) apart. `ahead`: prefetch the numbers so many bytes further on, or 0.
    """
    size = SIZES[kind]

    def tile(b: Any, w: Any, n: Any, row: Any, step: Any, x: Any, ldx: Any, k_dim: Any, y: Any, ldy: Any,
             ldr: Any) -> None:  # fmt: skip
        at = [b.add(row, b.mul(step, c64(r))) for r in range(rows)]
        begins = [b.add(w, b.load(ptr(b, off(b, w, r, 8), I64), align=8)) for r in at]
        ldm = b.mul(b.sdiv(b.add(k_dim, c64(LANES - 1)), c64(LANES)), c64(2))
        masks = [b.add(off(b, w, b.add(n, c64(1)), 8), b.mul(r, ldm)) for r in at]
        xs = [b.add(x, b.mul(ldx, c64(m))) for m in range(tokens)]

        def body(k: Any, state: list[Any], mask: Any = None) -> list[Any]:
            acc, places = list(state[:-rows]), list(state[-rows:])
            xv = [ir_load(b, off(b, a, k, 4), mask=mask) for a in xs]
            for r in range(rows):
                here = b.add(masks[r], b.ashr(k, c64(3)))
                bits = b.load(ptr(b, here, I16), align=2)
                if ahead:
                    ir_prefetch(b, b.add(places[r], c64(ahead)))
                    ir_prefetch(b, b.add(here, c64(MASK_AHEAD)))
                wv = ir_spread(b, places[r], bits, kind)
                count = b.zext(b.call(ext(b, "llvm.ctpop.i32", I32, [I32]), [b.zext(bits, I32)]), I64)
                places[r] = b.add(places[r], b.mul(count, c64(size)))
                for m in range(tokens):
                    acc[m * rows + r] = ir_fma(b, wv, xv[m], acc[m * rows + r])
            return [*acc, *places]

        full = b.and_(k_dim, c64(-N))
        state = ir_loop(b, c64(0), full, N, [*[ZERO] * (rows * tokens), *begins], body)
        acc = ir_loop(b, full, k_dim, N, state, lambda k, s: body(k, s, ir_below(b, b.sub(k_dim, k))))[:-rows]
        first = 0
        for count in groups_of(len(acc)):
            v = ir_fold(b, acc[first : first + count])
            for j in range(count):
                m, r = divmod(first + j, rows)
                dst = b.add(b.add(y, b.mul(ldy, c64(m))), b.mul(ldr, c64(r)))
                b.store(b.extract_element(v, ir.Constant(I32, j)), ptr(b, dst, F32), align=4)
            first += count

    if tokens > 1:
        return outlined(f"sparse_{kind}_{rows}_{tokens}", 10)(tile)
    return op(void, *[i64] * 10)(tile)
