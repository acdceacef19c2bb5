"""What attention does with sixteen scores at once, of several queries: biases, numbers of keys, sums, the largest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir

from .attention_tiles import BOUND, ir_tree
from .emitters import F32, N, V, const, ir_load, ir_splat, off, ptr, shuffle
from .flow import I64, c64
from .lanes import f32, i64, lanes, op

if TYPE_CHECKING:
    from collections.abc import Sequence


def bias_tile(rows: int) -> Any:
    """Operation (at, key): numbers of 16 / rows keys from `key` on by rows, as `_interleave` makes them.

    `at`: where the first row's word is that holds the address of its key 0; the others' are `BOUND` bytes apart.
    """
    each = N // rows
    part = ir.VectorType(F32, each)

    def interleave(b: Any, xs: Sequence[Any]) -> Any:
        if len(xs) == 1:
            return xs[0]
        x, y = interleave(b, xs[::2]), interleave(b, xs[1::2])
        n = x.type.count
        return shuffle(b, x, y, [i for j in range(n) for i in (j, n + j)])

    @op(lanes, i64, i64)
    def biases(b: Any, at: Any, key: Any) -> Any:
        words = (b.load(ptr(b, b.add(at, c64(BOUND * m)), I64), align=8) for m in range(rows))
        return interleave(b, [b.load(ptr(b, off(b, word, key, 4), part), align=4) for word in words])

    return biases


def tile_folds(rows: int) -> tuple[Any, Any, Any]:
    """Operations on vectors of 16 / rows keys by rows, as `_interleave` makes them.

    keys(first): the number of each lane's key; fold(at): of `rows` vectors in a row the sums over keys, in the one
    order, row m's in lane m; top(v): the largest of each row, in all of its lanes.
    """

    @op(lanes, f32)
    def keys(b: Any, first: Any) -> Any:
        return b.fadd(ir_splat(b, first), const(V, [float(i // rows) for i in range(N)]))

    @op(lanes, i64)
    def fold(b: Any, at: Any) -> Any:
        v, h = ir_tree(b, [ir_load(b, b.add(at, c64(4 * N * g))) for g in range(rows)]), N // 2
        while h >= rows:
            v, h = b.fadd(v, shuffle(b, v, v, [(i + h) % N for i in range(N)])), h // 2
        return v

    @op(lanes, lanes)
    def top(b: Any, v: Any) -> Any:
        h = N // 2
        while h >= rows:
            other = shuffle(b, v, v, [(i + h) % N for i in range(N)])
            v, h = b.select(b.fcmp_ordered(">", v, other), v, other), h // 2
        return v

    return keys, fold, top


@op(lanes, lanes, lanes, lanes, lanes, f32)
def within(b: Any, v: Any, key: Any, first: Any, end: Any, other: Any) -> Any:
    """Lanes of v with first <= key < end, `other` elsewhere."""
    inside = b.and_(b.fcmp_ordered(">=", key, first), b.fcmp_ordered("<", key, end))
    return b.select(inside, v, ir_splat(b, other))


@op(lanes, i64, i64)
def fold_lanes(b: Any, at: Any, stride: Any) -> Any:
    """The order's sixteen lanes, each a vector `stride` bytes after the last, folded."""
    return ir_tree(b, [ir_load(b, b.add(at, b.mul(stride, c64(r)))) for r in range(N)])
