"""Register tiles of attention: several queries against the sixteen keys of a block, and sums of values over keys.

The one reduction order, with no shuffle: lane l of the order is an accumulator of its own, and a register holds it for
sixteen keys (scores) or sixteen dimensions (values). The tree that folds lanes is then plain additions of registers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.core import cgutils

from ..kvcache import DIMS, KEYS, KV_BYTES, PAGE, PAIRS
from .emitters import (
    F32,
    I32,
    VI,
    ZERO,
    N,
    V,
    bare_ptr,
    ir_fma,
    ir_least,
    ir_load,
    ir_most,
    ir_prefetch,
    ir_splat,
    ir_store,
    off,
    ptr,
    shuffle,
)
from .flow import I64, c64, ir_choose, ir_function, ir_loop, ir_while
from .lanes import i64, op, void
from .target import attention_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Queries at once, and vectors of sixteen dimensions at once.
TILE, VECTORS = attention_shape()
#: Blocks of keys at once, so that a query's number that is loaded serves several times: TILE * BLOCKS * 2 accumulators.
BLOCKS = VECTORS // 2
#: Vectors that a function of values takes, the most first; where in the table (`tiles_of`) functions stand, in bytes.
WIDTHS = tuple(sorted({VECTORS, VECTORS // 2, 1} - {0}, reverse=True))
SCORES, SCORES_OF_BLOCK, SCORES_OF_ONE, BY_PAGE = 0, 8, 16, 24
BY_LANE = BY_PAGE + 8 * len(WIDTHS)
OF_ONE = 2 * 8 * len(WIDTHS)  # further on: of one query
LINE = 64
BOUND = 32  # bytes of a query's bounds
#: Bytes that keys and values are asked for in advance, at most a page's; half or a quarter of it is slower by 10 to
#: 40 %, most where neighbouring pages are none in memory (docs/benchmarks/kv-pages.json).
AHEAD = 8192


def ir_load_kv(b: Any, addr: Any, kind: str) -> Any:
    """Sixteen numbers of the cache, widened; int8 without its scale."""
    if kind != "int8":
        return ir_load(b, addr, kind)
    bytes16 = ir.VectorType(ir.IntType(8), N)
    return b.sitofp(b.sext(b.load(ptr(b, addr, bytes16), align=1), VI), V)


def _ahead(b: Any, page: Any) -> Any:
    """`AHEAD`, or the bytes of a page's numbers where these are fewer: the page after the next is not looked up."""
    return ir_least(b, c64(AHEAD), page)


def _splat_at(b: Any, addr: Any) -> Any:
    return ir_splat(b, b.load(ptr(b, addr, F32), align=4))


def ir_tree(b: Any, xs: Sequence[Any]) -> Any:
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


def _scores_tile(rows: int, blocks: int, kind: str) -> tuple[str, Any, int]:
    """sum_d q[m, d] k[d, 0:16] for blocks of keys, each `rows` vectors as `_interleave` makes them, `ldo` bytes apart.

    (q, k, scales, d, out, ldo, left, jump, part): q [d/16][rows][16], d a multiple of sixteen; `scales`: of int8 keys.
    What is asked for in advance lies `jump` bytes further on where it would be after the `left` bytes of the keys.
    `part`: memory for sums of half the lanes: kept in registers by LLVM's choice they would push accumulators out.
    """
    size, count = KV_BYTES[kind], rows * blocks

    def tile(
        b: Any, q: Any, k: Any, scales: Any, d_pad: Any, out: Any, ldo: Any, left: Any, jump: Any, part: Any
    ) -> None:
        ahead = _ahead(b, b.mul(d_pad, c64(PAGE * size)))
        following = b.add(ahead, b.select(b.icmp_signed("<=", left, ahead), jump, c64(0)))
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
            return [ir_tree(b, acc[i::count]) for i in range(count)]

        def sums(c: int, step: int, depth: int) -> list[Any]:
            """`ir_tree` over pairs c, c + step, ..., a half after the other: they come in the order of `PAIRS`."""
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

    return f"scores_{kind}_{rows}_{blocks}", tile, 9


def tiles_of(kind: str) -> Any:
    """Operation: address of a table, as long as the kernel runs, of the functions for a cache of this kind.

    The walk calls them by address, so that those of all kinds have one walk. At `SCORES`, `SCORES_OF_BLOCK` and
    `SCORES_OF_ONE`: `_scores_tile`; from `BY_PAGE`, `BY_LANE` and `BY_PAGE` + `OF_ONE` on: `_values_tiles` for `WIDTHS`
    vectors.
    """
    scores = [_scores_tile(TILE, BLOCKS, kind), _scores_tile(TILE, 1, kind), _scores_tile(1, 1, kind)]
    of_tile, of_one = ([_values_tiles(rows, n, kind) for n in WIDTHS] for rows in (TILE, 1))
    values = [pair[which] for pairs, which in ((of_tile, 0), (of_tile, 1), (of_one, 0)) for pair in pairs]
    functions = [*scores, *values]

    @op(i64)
    def tiles(b: Any) -> Any:
        table = b.ptrtoint(cgutils.alloca_once(b, ir.ArrayType(I64, len(functions))), I64)
        for i, (name, f, n_args) in enumerate(functions):
            address = b.ptrtoint(ir_function(b, name, f, [I64] * n_args), I64)
            b.store(address, bare_ptr(b, b.add(table, c64(8 * i)), I64))
        return table

    return tiles


def _caller(n_args: int) -> Any:
    @op(void, *[i64] * (1 + n_args))
    def call(b: Any, address: Any, *args: Any) -> None:
        kind = ir.FunctionType(ir.VoidType(), [I64] * n_args)
        b.call(b.inttoptr(address, kind.as_pointer()), args)

    return call


#: Operations (address, ...): a function of a table.
call_scores, call_by_lane, call_by_page = _caller(9), _caller(12), _caller(15)


def _values_tiles(rows: int, vectors: int, kind: str) -> tuple[tuple[str, Any, int], tuple[str, Any, int]]:
    """out[lane, m, v] = sum of p[m, j] v[j, 16 v :] over the keys j = lane mod 16, for the lanes of the order.

    Two functions: one page for the lanes from `begin` to `stop`, added to what `out` holds (to 0 if `fresh` is not 0),
    which reads a page from front to back; and one lane over all pages, which keeps its sums in registers, for keys that
    many queries share.

    (p, ldp, pool, table, page_bytes, row, column, bounds, edges, page, out, stride, fresh, begin, stop), or a lane for
    the page and none of the last three: p [group of keys, `ldp`
    bytes apart][block][16 / rows keys][rows]; `pool`: page 0 of the head's values; `column`: bytes to the first of the
    dimensions; `edges`: four numbers of blocks; those from the second to the third are every query's; of those from the
    first to the second, and from the third to the last, a query takes the keys that bounds[m] says alone (its block's
    first, end, first), and no other's value reaches it. `out` has its lanes `stride` bytes apart.
    """
    size, blocks, each = KV_BYTES[kind], PAGE // KEYS, KEYS // rows  # each: keys of a vector of weights

    def page_at(b: Any, pool: Any, table: Any, page_bytes: Any, page: Any) -> Any:
        number = b.sext(b.load(ptr(b, off(b, table, page, 4), I32), align=4), I64)
        return b.add(pool, b.mul(number, page_bytes))

    def spans(b: Any, edges: Any, page: Any) -> tuple[list[Any], Any]:
        """The edges as blocks of a page, and whether every query sees all of it."""
        words = (b.load(ptr(b, b.add(edges, c64(8 * i)), I64), align=8) for i in range(4))
        inside = [ir_least(b, c64(blocks), ir_most(b, c64(0), b.sub(e, b.mul(page, c64(blocks))))) for e in words]
        return inside, b.and_(b.icmp_signed("==", inside[1], c64(0)), b.icmp_signed("==", inside[2], c64(blocks)))

    def lane_sums(
        b: Any, p: Any, ldp: Any, row: Any, bounds: Any, page: Any, at: Any, lane: Any, column: Any, soon: Any
    ) -> Any:
        """What adds a lane's blocks of the page at `at`; `soon`: what is asked for while its first is taken."""
        first = b.mul(page, c64(blocks))
        w = b.add(p, b.mul(b.udiv(lane, c64(each)), ldp))
        w = b.add(off(b, w, b.urem(lane, c64(each)), 4 * rows), b.mul(first, c64(4 * N)))
        v = b.add(b.add(at, column), b.mul(b.mul(lane, c64(blocks)), row))
        scales = off(b, b.add(at, b.mul(row, c64(PAGE))), lane, 4)

        def seen(block: Any, m: int) -> Any:
            key = b.add(b.mul(b.add(first, block), c64(KEYS)), lane)
            low, end = (b.load(ptr(b, b.add(bounds, c64(BOUND * m + i)), I64), align=8) for i in (16, 8))
            return b.and_(b.icmp_signed("<=", low, key), b.icmp_signed("<", key, end))

        def take(start: Any, stop: Any, acc: list[Any], *, bounded: bool) -> list[Any]:
            def body(block: Any, acc: list[Any]) -> list[Any]:
                down = b.mul(block, row)
                for line in range(0, vectors * N * size, LINE):
                    ir_prefetch(b, b.add(b.add(soon, down), c64(line)))
                values = [ir_load_kv(b, b.add(b.add(v, down), c64(i * N * size)), kind) for i in range(vectors)]
                if kind == "int8":
                    scale = _splat_at(b, off(b, scales, block, 4 * KEYS))
                    values = [b.fmul(x, scale) for x in values]
                new, weights = [], off(b, w, block, 4 * N)
                for m in range(rows):
                    pv = _splat_at(b, b.add(weights, c64(4 * m)))
                    old = acc[m * vectors : (m + 1) * vectors]
                    summed = [ir_fma(b, pv, x, a) for x, a in zip(values, old, strict=True)]
                    if bounded:
                        sees = seen(block, m)
                        summed = [b.select(sees, x, a) for x, a in zip(summed, old, strict=True)]
                    new += summed
                return new

            return ir_loop(b, start, stop, 1, acc, body)

        def whole(acc: list[Any]) -> list[Any]:
            return take(c64(0), c64(blocks), acc, bounded=False)

        def part(limits: list[Any], acc: list[Any]) -> list[Any]:
            """Blocks of the first edge and those of all; then, with the same code, those of the last edge."""
            last = limits[3]

            def turn(state: list[Any]) -> list[Any]:
                start, inside, stop, *acc = state
                acc = take(start, inside, acc, bounded=True)
                return [stop, last, last, *take(inside, stop, acc, bounded=False)]

            return ir_while(b, [*limits[:3], *acc], lambda s: b.icmp_signed("<", s[0], last), turn)[3:]

        return whole, part

    def by_page(
        b: Any, p: Any, ldp: Any, pool: Any, table: Any, page_bytes: Any, row: Any, column: Any, bounds: Any,
        edges: Any, page: Any, out: Any, stride: Any, fresh: Any, begin: Any, stop: Any,
    ) -> None:  # fmt: skip
        at, numbers, (limits, inside) = (
            page_at(b, pool, table, page_bytes, page),
            b.mul(row, c64(PAGE)),
            spans(b, edges, page),
        )
        last = b.load(ptr(b, b.add(edges, c64(24)), I64), align=8)
        last = b.sdiv(b.sub(last, c64(1)), c64(blocks))
        following = page_at(b, pool, table, page_bytes, ir_least(b, last, b.add(page, c64(1))))
        run = b.mul(row, c64(blocks))  # bytes of a lane
        first_lane, end = b.add(at, b.mul(begin, run)), b.add(at, b.mul(stop, run))
        jump = b.sub(b.add(following, b.sub(first_lane, at)), end)
        ahead = _ahead(b, b.sub(end, first_lane))
        if kind == "int8":
            for line in range(0, 4 * PAGE, LINE):
                ir_prefetch(b, b.add(b.add(following, numbers), c64(line)))

        def before(to: Any) -> list[Any]:
            return [ir_load(b, b.add(to, c64(4 * N * i))) for i in range(rows * vectors)]

        def lanes(*, all_seen: bool) -> list[Any]:
            def one(lane: Any, _: list[Any]) -> list[Any]:
                to = b.add(out, b.mul(lane, stride))
                soon = b.add(b.add(b.add(at, column), b.mul(lane, run)), ahead)
                soon = b.select(b.icmp_signed("<", soon, end), soon, b.add(soon, jump))
                whole, part = lane_sums(b, p, ldp, row, bounds, page, at, lane, column, soon)
                first = b.icmp_signed("!=", fresh, c64(0))
                acc = ir_choose(b, first, lambda: [ZERO] * (rows * vectors), lambda: before(to))
                for i, a in enumerate(whole(acc) if all_seen else part(limits, acc)):
                    ir_store(b, a, b.add(to, c64(4 * N * i)))
                return []

            return ir_loop(b, begin, stop, 1, [], one)

        ir_choose(b, inside, lambda: lanes(all_seen=True), lambda: lanes(all_seen=False))

    def by_lane(
        b: Any, p: Any, ldp: Any, pool: Any, table: Any, page_bytes: Any, row: Any, column: Any, bounds: Any,
        edges: Any, lane: Any, out: Any, stride: Any,
    ) -> None:  # fmt: skip
        begin, end = (b.load(ptr(b, b.add(edges, c64(8 * i)), I64), align=8) for i in (0, 3))
        begin, end = b.sdiv(begin, c64(blocks)), b.sdiv(b.add(end, c64(blocks - 1)), c64(blocks))

        def one(page: Any, acc: list[Any]) -> list[Any]:
            at, (limits, inside) = page_at(b, pool, table, page_bytes, page), spans(b, edges, page)
            following = page_at(b, pool, table, page_bytes, ir_least(b, b.sub(end, c64(1)), b.add(page, c64(1))))
            soon = b.add(b.add(following, column), b.mul(lane, b.mul(row, c64(blocks))))
            whole, part = lane_sums(b, p, ldp, row, bounds, page, at, lane, column, soon)
            return ir_choose(b, inside, lambda: whole(acc), lambda: part(limits, acc))

        for i, a in enumerate(ir_loop(b, begin, end, 1, [ZERO] * (rows * vectors), one)):
            ir_store(b, a, b.add(b.add(out, b.mul(lane, stride)), c64(4 * N * i)))

    name = f"values_{kind}_{rows}_{vectors}"
    return (f"{name}_by_page", by_page, 15), (f"{name}_by_lane", by_lane, 12)


assert DIMS >= VECTORS * N  # noqa: S101 - what the recorder reserves
