"""Register tiles of attention: several queries against the sixteen keys of a block, and sums of values over keys.

The one reduction order, with no shuffle: lane l of the order is an accumulator of its own, and a register holds it for
sixteen keys (scores) or sixteen dimensions (values). The tree that folds lanes is then plain additions of registers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir

from ..kvcache import DIMS, KEYS, KV_BYTES, PAIRS
from .emitters import (
    F32,
    VI,
    ZERO,
    N,
    V,
    c64,
    const,
    ir_fma,
    ir_load,
    ir_loop,
    ir_prefetch,
    ir_splat,
    ir_store,
    off,
    ptr,
    shuffle,
)
from .lanes import f32, i64, lanes, op, outlined
from .target import attention_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Queries at once, and vectors of sixteen dimensions at once.
TILE, VECTORS = attention_shape()
#: Blocks of keys at once, so that a query's number that is loaded serves several times: TILE * BLOCKS * 2 accumulators.
BLOCKS = VECTORS // 2
LINE = 64
BOUND = 32  # bytes of a query's bounds
#: Bytes that keys and values are asked for in advance; further on, the hardware's own prefetcher loses the stream.
AHEAD = 2048


def ir_load_kv(b: Any, addr: Any, kind: str) -> Any:
    """Sixteen numbers of the cache, widened; int8 without its scale."""
    if kind != "int8":
        return ir_load(b, addr, kind)
    bytes16 = ir.VectorType(ir.IntType(8), N)
    return b.sitofp(b.sext(b.load(ptr(b, addr, bytes16), align=1), VI), V)


def _splat_at(b: Any, addr: Any) -> Any:
    return ir_splat(b, b.load(ptr(b, addr, F32), align=4))


def _tree(b: Any, xs: Sequence[Any]) -> Any:
    """Add the lanes of the order as `ir_fold` does: i + (i + half), again and again."""
    xs = list(xs)
    while len(xs) > 1:
        half = len(xs) // 2
        xs = [b.fadd(xs[i], xs[i + half]) for i in range(half)]
    return xs[0]


def _interleave(b: Any, xs: Sequence[Any]) -> list[Any]:
    """Rows of sixteen keys -> as many vectors, each of 16 / rows keys by all rows, the rows of a key side by side."""
    if len(xs) == 1:
        return list(xs)
    even, odd = _interleave(b, xs[::2]), _interleave(b, xs[1::2])
    halves = [[i for pair in ((j, N + j) for j in range(h, h + N // 2)) for i in pair] for h in (0, N // 2)]
    return [shuffle(b, x, y, half) for x, y in zip(even, odd, strict=True) for half in halves]


def scores_tile(rows: int, blocks: int, kind: str) -> Any:
    """sum_d q[m, d] k[d, 0:16] for blocks of keys, each `rows` vectors as `_interleave` makes them, `ldo` bytes apart.

    (q, k, scales, d, out, ldo, left, jump, part): q [d/16][rows][16], d a multiple of sixteen; `scales`: of int8 keys.
    What is asked for in advance lies `jump` bytes further on where it would be behind the `left` bytes of the keys.
    `part`: memory for sums of half the lanes: kept in registers by LLVM's choice they would push accumulators out.
    """
    size, count = KV_BYTES[kind], rows * blocks

    @outlined(f"scores_{kind}_{rows}_{blocks}", 9)
    def tile(
        b: Any, q: Any, k: Any, scales: Any, d_pad: Any, out: Any, ldo: Any, left: Any, jump: Any, part: Any
    ) -> None:
        over = b.icmp_signed("<=", left, c64(AHEAD))
        following = b.add(c64(AHEAD), b.select(over, jump, c64(0)))
        starts = [b.add(k, b.mul(d_pad, c64(i * size * KEYS))) for i in range(blocks)]

        def one_pass(c: int) -> list[Any]:
            """Lanes c and c + 8: row by row and block by block, folded."""
            place = b.mul(d_pad, c64(PAIRS.index(c) * 2 * size))
            pairs = [b.add(a, place) for a in starts]

            def body(d: Any, acc: list[Any]) -> list[Any]:
                new, queries = [], off(b, q, d, 4 * rows)
                tops = [off(b, a, d, 2 * size) for a in pairs]
                for a in tops:
                    for line in range(0, 2 * size * KEYS, LINE):
                        ir_prefetch(b, b.add(b.add(a, following), c64(line)))
                for s, lane in enumerate((c, c + N // 2)):
                    keys = [ir_load_kv(b, b.add(a, c64(s * size * KEYS)), kind) for a in tops]
                    for m in range(rows):
                        qv = _splat_at(b, b.add(queries, c64(4 * (N * m + lane))))
                        new += [ir_fma(b, x, qv, acc[s * count + m * blocks + i]) for i, x in enumerate(keys)]
                return new

            acc = ir_loop(b, c64(0), d_pad, N, [ZERO] * (2 * count), body)
            return [_tree(b, acc[i::count]) for i in range(count)]

        def sums(c: int, step: int, depth: int) -> list[Any]:
            """`_tree` over pairs c, c + step, ..., a half after the other: they come in the order of `PAIRS`."""
            if step == len(PAIRS):
                return one_pass(c)
            for i, x in enumerate(sums(c, 2 * step, depth + 1)):
                ir_store(b, x, b.add(part, c64(4 * N * (depth * count + i))))
            totals = sums(c + step, 2 * step, depth + 1)
            halves = [ir_load(b, b.add(part, c64(4 * N * (depth * count + i)))) for i in range(count)]
            return [b.fadd(x, y) for x, y in zip(halves, totals, strict=True)]

        totals = sums(0, 1, 0)
        for i in range(blocks):
            block = totals[i::blocks]
            if kind == "int8":
                block = [b.fmul(x, ir_load(b, b.add(scales, c64(4 * KEYS * i)))) for x in block]
            for g, x in enumerate(_interleave(b, block)):
                ir_store(b, x, b.add(b.add(out, b.mul(ldo, c64(g))), c64(4 * N * i)))

    return tile


def values_tile(rows: int, vectors: int, kind: str) -> Any:
    """out[m, v] = sum of p[m, j] v[j, 16 v :] over the keys j = lane mod 16 of blocks, for one lane of the order.

    (p, lane, v, row, next, scales, bounds, b0, b1, b2, b3, out): p [block][16], the lane's own weights first; blocks b1
    to b2 are every query's; of b0 to b1 and b2 to b3 a query takes the keys bounds[m] = (first, end) alone, and no
    other's value reaches it. `v`: the lane's first row; `next`: how far the next lane's is; `scales`: of int8 values.
    """
    size = KV_BYTES[kind]

    @outlined(f"values_{kind}_{rows}_{vectors}", 12)
    def tile(
        b: Any, p: Any, lane: Any, v: Any, row: Any, following: Any, scales: Any, bounds: Any,
        b0: Any, b1: Any, b2: Any, b3: Any, out: Any,
    ) -> None:  # fmt: skip
        end = b.add(v, b.mul(b3, row))
        jump = b.sub(following, b.mul(b.sub(b3, b0), row))
        firsts, ends = (
            [b.load(ptr(b, b.add(bounds, c64(BOUND * m + 8 * e)), ir.IntType(64)), align=8) for m in range(rows)]
            for e in (0, 1)
        )

        def step(*, bounded: bool) -> Any:
            def body(block: Any, acc: list[Any]) -> list[Any]:
                at, w = b.add(v, b.mul(block, row)), off(b, p, block, 4 * N)
                soon = b.add(at, c64(AHEAD))
                soon = b.select(b.icmp_signed("<", soon, end), soon, b.add(soon, jump))
                for line in range(0, vectors * N * size, LINE):
                    ir_prefetch(b, b.add(soon, c64(line)))
                values = [ir_load_kv(b, b.add(at, c64(i * N * size)), kind) for i in range(vectors)]
                if kind == "int8":
                    scale = _splat_at(b, off(b, scales, b.add(b.mul(block, c64(KEYS)), lane), 4))
                    values = [b.fmul(x, scale) for x in values]
                new = []
                for m in range(rows):
                    pv = _splat_at(b, b.add(w, c64(4 * m)))
                    for i in range(vectors):
                        old = acc[m * vectors + i]
                        summed = ir_fma(b, pv, values[i], old)
                        if bounded:
                            key = b.add(b.mul(block, c64(KEYS)), lane)
                            seen = b.and_(b.icmp_signed("<=", firsts[m], key), b.icmp_signed("<", key, ends[m]))
                            summed = b.select(seen, summed, old)
                        new.append(summed)
                return new

            return body

        acc = ir_loop(b, b0, b1, 1, [ZERO] * (rows * vectors), step(bounded=True))
        acc = ir_loop(b, b1, b2, 1, acc, step(bounded=False))
        acc = ir_loop(b, b2, b3, 1, acc, step(bounded=True))
        for i, a in enumerate(acc):
            ir_store(b, a, b.add(out, c64(4 * N * i)))

    return tile


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
        v, h = _tree(b, [ir_load(b, b.add(at, c64(4 * N * g))) for g in range(rows)]), N // 2
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
    """The order's sixteen lanes, each a vector `stride` bytes behind the last, folded."""
    return _tree(b, [ir_load(b, b.add(at, b.mul(stride, c64(r)))) for r in range(N)])


assert DIMS >= VECTORS * N  # noqa: S101 - what the recorder reserves
