"""Tiles of sparse rows (`runtime/sparse.py`): a group's kept numbers are spread in a register, then as `dot_tile`.

The one reduction order (`tiles.py`), with a product for every column, kept or not: the bits of the dense matrix.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from llvmlite import ir

from ..sparse import LANES
from .emitters import (
    I1,
    I16,
    I32,
    SIZES,
    VI,
    VM,
    ZERO,
    N,
    V,
    ext,
    ir_below,
    ir_fma,
    ir_fold,
    ir_load,
    ir_prefetch,
    ir_store,
    ir_widen,
    off,
    ptr,
)
from .flow import I64, c64, ir_loop
from .lanes import i64, op, void
from .target import expands, expands_bytes

MASK_AHEAD = 512  # bytes: the masks are a ninth of what is read
MANY = 4  # groups taken at a time, with one load of their bits


def ir_spread(b: Any, at: Any, bits: Any, kind: str) -> Any:
    """Sixteen numbers as stored: those from `at` on, one for each bit that is set, in its lane; +0 in the others."""
    size, number, mask = SIZES[kind], I32 if kind == "f32" else I16, b.bitcast(bits, VM)
    ty = ir.VectorType(number, N)
    if expands_bytes() or (expands() and kind == "f32"):
        f = ext(b, f"llvm.x86.avx512.mask.expand.v16i{8 * size}", ty, [ty, ty, VM])
        v = b.call(f, [b.load(ptr(b, at, ty), align=size), ir.Constant(ty, None), mask])
    elif expands():
        f = ext(b, "llvm.x86.avx512.mask.expand.v16i32", VI, [VI, VI, VM])
        v = b.trunc(b.call(f, [b.zext(b.load(ptr(b, at, ty), align=size), VI), ir.Constant(VI, None), mask]), ty)
    else:
        v = ir.Constant(ty, None)
        for lane in range(N):
            bit = b.trunc(b.lshr(bits, ir.Constant(I16, lane)), I1)
            one = b.select(bit, b.load(ptr(b, at, number), align=size), ir.Constant(number, 0))
            v = b.insert_element(v, one, ir.Constant(I32, lane))
            at = b.add(at, b.select(bit, c64(size), c64(0)))
    return b.bitcast(v, V) if kind == "f32" else v


def _places(b: Any, w: Any, n: Any, row: Any, k_dim: Any) -> tuple[Any, Any]:
    """Where a row's numbers and its masks begin."""
    masks = b.mul(b.sdiv(b.add(k_dim, c64(LANES - 1)), c64(LANES)), c64(2))
    begin = b.load(ptr(b, off(b, w, row, 8), I64), align=8)
    return b.add(w, begin), b.add(off(b, w, b.add(n, c64(1)), 8), b.mul(row, masks))


def _groups(b: Any, place: Any, mask: Any, k: Any, kind: str, count: int) -> tuple[list[Any], Any]:
    """`count` groups of sixteen stored numbers of a row, from column k on, and where the numbers after them begin."""
    word = ir.IntType(16 * count)
    bits = b.zext(b.load(ptr(b, b.add(mask, b.ashr(k, c64(3))), word), align=2), I64)
    vectors, at = [], place
    for j in range(count):
        vectors.append(ir_spread(b, at, b.trunc(b.lshr(bits, c64(N * j)), I16), kind))
        upto = bits if j == count - 1 else b.and_(bits, c64((1 << N * (j + 1)) - 1))
        at = b.add(place, b.mul(b.call(ext(b, "llvm.ctpop.i64", I64, [I64]), [upto]), c64(SIZES[kind])))
    return vectors, at


def _by_groups(b: Any, k_dim: Any, state: list[Any], body: Any) -> tuple[Any, list[Any]]:
    """`body(k, state, groups)` over whole groups, four at a time first; the last column of these, and the state."""
    start = c64(0)
    for count in (MANY, 1):
        stop = b.and_(k_dim, c64(-N * count))
        state = ir_loop(b, start, stop, N * count, state, partial(body, count=count))
        start = stop
    return start, state


def spread_row(kind: str) -> Any:
    """(w, n, row, K, out, ahead): a row of the matrix w of n rows as a dense one, filled up with zeros to whole groups.

    Numbers `ahead` bytes further on are asked for: they come while what is spread is multiplied.
    """
    size = SIZES[kind]

    @op(void, *[i64] * 6)
    def spread(b: Any, w: Any, n: Any, row: Any, k_dim: Any, out: Any, ahead: Any) -> None:
        place, mask = _places(b, w, n, row, k_dim)

        def body(k: Any, state: list[Any], count: int) -> list[Any]:
            for line in range(size if count > 1 else 0):
                ir_prefetch(b, b.add(state[0], b.add(ahead, c64(64 * line))), 2)
            vectors, behind = _groups(b, state[0], mask, k, kind, count)
            for j, v in enumerate(vectors):
                ir_store(b, v, b.add(off(b, out, k, size), c64(size * N * j)))
            return [behind]

        _by_groups(b, b.and_(b.add(k_dim, c64(N - 1)), c64(-N)), [place], body)

    return spread


def sparse_rows(rows: int, kind: str, ahead: int = 0) -> Any:
    """y[r] = sum_k w[r, k] x[k] for `rows` rows, `step` apart from `row` on.

    (w, n, row, step, x, K, y, ldr): w is the whole matrix of n rows; results lie ldr bytes apart. `ahead`: prefetch the
    numbers this many bytes further on, or 0.
    """

    @op(void, *[i64] * 8)
    def tile(b: Any, w: Any, n: Any, row: Any, step: Any, x: Any, k_dim: Any, y: Any, ldr: Any) -> None:
        at = [_places(b, w, n, b.add(row, b.mul(step, c64(r))), k_dim) for r in range(rows)]

        def body(k: Any, state: list[Any], count: int, mask: Any = None) -> list[Any]:
            acc, places = list(state[:rows]), list(state[rows:])
            xs = [ir_load(b, b.add(off(b, x, k, 4), c64(4 * N * j)), mask=mask) for j in range(count)]
            for r, (_, masks) in enumerate(at):
                if ahead and count > 1:
                    for line in range(SIZES[kind]):  # as many as the step takes where nothing is zero
                        ir_prefetch(b, b.add(places[r], c64(ahead + 64 * line)))
                    ir_prefetch(b, b.add(masks, b.add(b.ashr(k, c64(3)), c64(MASK_AHEAD))))
                vectors, places[r] = _groups(b, places[r], masks, k, kind, count)
                for v, xv in zip(vectors, xs, strict=True):
                    acc[r] = ir_fma(b, ir_widen(b, v, kind), xv, acc[r])
            return [*acc, *places]

        full, state = _by_groups(b, k_dim, [*[ZERO] * rows, *(place for place, _ in at)], body)
        acc = ir_loop(b, full, k_dim, N, state, lambda k, s: body(k, s, 1, ir_below(b, b.sub(k_dim, k))))[:rows]
        v = ir_fold(b, acc)
        for r in range(rows):
            ir_store(b, b.extract_element(v, ir.Constant(I32, r)), b.add(y, b.mul(ldr, c64(r))))

    return tile
