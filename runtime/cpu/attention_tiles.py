"""Register tiles of attention: several queries against the sixteen keys of a block, and sums of values over keys.

The one reduction order, with no shuffle: lane l of the order is an accumulator of its own, and a register holds it for
sixteen keys (scores) or sixteen dimensions (values). The tree that folds lanes is then plain additions of registers.

FAST takes BF16 caches by pairs (`pairs.py`, `../bf16_dot.py`): of a key dimensions c and c + 8 of each sixteen, of
values keys j and j + 16, the second being the odd one. Queries and weights come as words of two (`pair_words`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.core import cgutils

from ..kvcache import DIMS, KEYS, KV_BYTES, PAGE, PAIRS
from ..ops import FAST
from .emitters import (
    F32,
    I16,
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
    ir_to_bf16,
    off,
    ptr,
    shuffle,
)
from .emitters import PAIRS as WORDS
from .flow import I64, c64, ir_choose, ir_function, ir_loop, ir_while
from .lanes import i64, lanes, op, void
from .pairs import ir_dot_pairs
from .target import BF16_DOT, attention_shape, machine

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Queries at once, and vectors of sixteen dimensions at once.
TILE, VECTORS = attention_shape()
#: Blocks of keys at once, so that a query's number that is loaded serves several times: TILE * BLOCKS * 2 accumulators.
BLOCKS = VECTORS // 2
#: Vectors that a function of values takes, the most first; where in the table (`tiles_of`) functions stand, in bytes.
WIDTHS = tuple(sorted({VECTORS, VECTORS // 2, 1} - {0}, reverse=True))
SCORES, SCORES_OF_BLOCK, SCORES_OF_ONE, VALUES = 0, 8, 16, 24
OF_ONE = 8 * len(WIDTHS)  # further on: of one query
LINE = 64
BOUND = 32  # bytes of a query's bounds
#: Bytes that keys and values are asked for in advance, at most a page's; half or a quarter of it is slower by 10 to
#: 40 %, most where neighbouring pages are none in memory (docs/benchmarks/kv-pages.json).
AHEAD = 8192
#: Into the second cache (`ir_prefetch`): the first one's few places for lines on their way are then free for what is
#: read, and the time to read is hidden by the sums. Into the first: a quarter to a third longer behind 4,000 tokens.
NEAR = 2


def _bytes_of(kind: str) -> int:
    return KV_BYTES["bf16" if kind == FAST else kind]


def _side_by_side(b: Any, x: Any, y: Any, first: int = 0) -> Any:
    """Sixteen pairs (x[i], y[i]) from i = `first` on, of vectors of BF16, for `ir_dot_pairs`."""
    return shuffle(b, x, y, [i for n in range(first, first + N) for i in (n, n + x.type.count)])


def _word_at(b: Any, addr: Any, mask: Any = None) -> Any:
    """Sixteen times the word of two BF16 at an address; `mask`: its bits that count."""
    word = b.load(ptr(b, addr, I32), align=4)
    return b.bitcast(ir_splat(b, word if mask is None else b.and_(word, mask)), WORDS)


def _dot(b: Any, acc: Any, x: Any, y: Any) -> Any:
    """A step of sums by pairs; on aarch64 with a look at each, since there it is not asked afterwards."""
    return ir_dot_pairs(b, acc, x, y, careful=machine() == "aarch64")


@op(void, i64, lanes, lanes)
def pair_words(b: Any, addr: Any, even: Any, odd: Any) -> None:
    """Store words of two: BF16 of a lane of `even`, and above it of `odd`."""
    low, high = (b.zext(ir_to_bf16(b, v), VI) for v in (even, odd))
    ir_store(b, b.or_(low, b.shl(high, ir.Constant(VI, [16] * N))), addr)


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
    FAST: q holds words of dimensions c and c + 8, the first eight of each sixteen.
    """
    size, count = _bytes_of(kind), rows * blocks
    fast = kind == FAST  # a pass then takes two words instead of two numbers
    last_step = len(PAIRS) // 2 if fast else len(PAIRS)

    def tile(
        b: Any, q: Any, k: Any, scales: Any, d_pad: Any, out: Any, ldo: Any, left: Any, jump: Any, part: Any
    ) -> None:
        ahead = _ahead(b, b.mul(d_pad, c64(PAGE * size)))
        following = b.add(ahead, b.select(b.icmp_signed("<=", left, ahead), jump, c64(0)))
        starts = [b.add(k, b.mul(d_pad, c64(i * size * KEYS))) for i in range(blocks)]

        def one_pass(c: int) -> list[Any]:
            """Lanes c and c + 8, or words c and c + 4: row by row and block by block, folded."""
            place = b.mul(d_pad, c64(PAIRS.index(c) * 2 * size))
            pairs = [b.add(a, place) for a in starts]

            def asked(a: Any) -> None:
                for line in range(0, 2 * size * KEYS, LINE):
                    ir_prefetch(b, b.add(b.add(a, following), c64(line)), NEAR)

            def body(d: Any, acc: list[Any]) -> list[Any]:
                new, queries = [], off(b, q, d, 4 * rows)
                tops = [off(b, a, d, 2 * size) for a in pairs]
                for a in tops:
                    asked(a)
                for s, lane in enumerate((c, c + N // 2)):
                    keys = [ir_load_kv(b, b.add(a, c64(s * size * KEYS)), kind) for a in tops]
                    for m in range(rows):
                        qv = _splat_at(b, b.add(queries, c64(4 * (N * m + lane))))
                        new += [ir_fma(b, x, qv, acc[s * count + m * blocks + i]) for i, x in enumerate(keys)]
                return new

            def by_words(d: Any, acc: list[Any]) -> list[Any]:
                new, queries = [], off(b, q, d, 4 * rows)
                for s, word in enumerate((c, c + N // 4)):
                    keys = []
                    for start in pairs:
                        a = b.add(off(b, start, d, 2 * size), b.mul(d_pad, c64(s * 2 * size)))
                        asked(a)
                        both = b.load(ptr(b, a, WORDS), align=2)
                        keys.append(shuffle(b, both, both, [i for n in range(N) for i in (n, n + N)]))
                    for m in range(rows):
                        qv = _word_at(b, b.add(queries, c64(4 * (N * m + word))))
                        new += [_dot(b, acc[s * count + m * blocks + i], x, qv) for i, x in enumerate(keys)]
                return new

            acc = ir_loop(b, c64(0), d_pad, N, [ZERO] * (2 * count), by_words if fast else body)
            return [ir_tree(b, acc[i::count]) for i in range(count)]

        def sums(c: int, step: int, depth: int) -> list[Any]:
            """`ir_tree` over pairs c, c + step, ..., a half after the other: they come in the order of `PAIRS`."""
            if step == last_step:
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
    `SCORES_OF_ONE`: `_scores_tile`; from `VALUES` and `VALUES` + `OF_ONE` on: `_values_tile` for `WIDTHS` vectors. FAST
    has none of one query, which is a tile's with absent ones.
    """
    single = 1 if kind != FAST else TILE
    scores = [_scores_tile(TILE, BLOCKS, kind), _scores_tile(TILE, 1, kind), _scores_tile(single, 1, kind)]
    functions = [*scores, *(_values_tile(rows, n, kind) for rows in (TILE, single) for n in WIDTHS)]
    by = (BF16_DOT,) if kind == FAST else ()

    @op(i64)
    def tiles(b: Any) -> Any:
        table = b.ptrtoint(cgutils.alloca_once(b, ir.ArrayType(I64, len(functions))), I64)
        for i, (name, f, n_args) in enumerate(functions):
            address = b.ptrtoint(ir_function(b, name, f, [I64] * n_args, by=by), I64)
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
call_scores, call_values = _caller(9), _caller(16)


def _values_by_pairs(b: Any, rows: list[Any], vectors: int) -> list[Any]:
    """Pairs of the numbers of two rows, `vectors` vectors of sixteen; read two vectors at a time where there are."""
    wide = 2 if vectors % 2 == 0 else 1
    out = []
    for i in range(0, vectors, wide):
        kind = ir.VectorType(I16, wide * N)
        x, y = (b.load(ptr(b, b.add(a, c64(2 * N * i)), kind), align=2) for a in rows)
        out += [_side_by_side(b, x, y, N * j) for j in range(wide)]
    return out


def _values_tile(rows: int, vectors: int, kind: str) -> tuple[str, Any, int]:
    """out[lane, m, v] = sum of p[m, j] v[j, 16 v :] over the keys j = lane mod 16, for lanes of the order.

    Of the lanes from `begin` to `stop` one after the other, over the pages from `page` to `pages`, added to what `out`
    holds (to 0 if `fresh` is not 0). All lanes of one page are read from front to back; one lane of many pages keeps
    its sums in registers, which is for keys that many queries share.

    (p, ldp, pool, table, page_bytes, row, column, bounds, edges, page, pages, out, stride, fresh, begin, stop): p
    [group of keys, `ldp` bytes apart][block][16 / rows keys][rows]; `pool`: page 0 of the head's values; `column`:
    bytes to the first of the dimensions; `edges`: four numbers of blocks; those from the second to the third are every
    query's; of those from the first to the second, and from the third to the last, a query takes the keys that
    bounds[m] says alone (its block's first, end, first), and no other's value reaches it. `out` has its lanes `stride`
    bytes apart. FAST takes two blocks at a time, the first being an even one, whose weights are words.
    """
    size, blocks, each = _bytes_of(kind), PAGE // KEYS, KEYS // rows  # each: keys of a vector of weights
    fast = kind == FAST

    def page_at(b: Any, pool: Any, table: Any, page_bytes: Any, page: Any) -> Any:
        number = b.sext(b.load(ptr(b, off(b, table, page, 4), I32), align=4), I64)
        return b.add(pool, b.mul(number, page_bytes))

    def spans(b: Any, edges: Any, page: Any) -> list[Any]:
        """The edges as blocks of a page."""
        words = (b.load(ptr(b, b.add(edges, c64(8 * i)), I64), align=8) for i in range(4))
        inside = [ir_least(b, c64(blocks), ir_most(b, c64(0), b.sub(e, b.mul(page, c64(blocks))))) for e in words]
        if fast:
            down, up = (lambda x: b.and_(x, c64(-2))), (lambda x: b.and_(b.add(x, c64(1)), c64(-2)))
            all_from = up(inside[1])
            return [down(inside[0]), all_from, ir_most(b, all_from, down(inside[2])), up(inside[3])]
        return inside

    def lane_sums(
        b: Any, p: Any, ldp: Any, row: Any, bounds: Any, page: Any, at: Any, lane: Any, column: Any, soon: Any,
        limits: list[Any], acc: list[Any],
    ) -> list[Any]:  # fmt: skip
        """Add a lane's blocks of the page at `at`; `soon`: what is asked for while its first is taken."""
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
                    ir_prefetch(b, b.add(b.add(soon, down), c64(line)), NEAR)
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

            def two(block: Any, acc: list[Any]) -> list[Any]:
                rows_of_both = [b.add(v, b.mul(x, row)) for x in (block, b.add(block, c64(1)))]
                for i in (0, 1):
                    for line in range(0, vectors * N * size, LINE):
                        ir_prefetch(b, b.add(b.add(soon, b.mul(b.add(block, c64(i)), row)), c64(line)), NEAR)
                values = _values_by_pairs(b, rows_of_both, vectors)
                new, weights = [], off(b, w, block, 4 * N)
                for m in range(rows):
                    at, old = b.add(weights, c64(4 * m)), acc[m * vectors : (m + 1) * vectors]
                    if not bounded:
                        pv = _word_at(b, at)
                        new += [_dot(b, a, x, pv) for x, a in zip(values, old, strict=True)]
                        continue
                    sees = [seen(b.add(block, c64(i)), m) for i in (0, 1)]
                    halves = (b.select(one, ir.Constant(I32, bits), ir.Constant(I32, 0)) for one, bits in
                              zip(sees, (0xFFFF, -0x10000), strict=True))  # fmt: skip
                    mask = b.or_(*halves)
                    pv, wide = _word_at(b, at, mask), b.bitcast(ir_splat(b, mask), WORDS)
                    summed = [_dot(b, a, b.and_(x, wide), pv) for x, a in zip(values, old, strict=True)]
                    new += [b.select(b.or_(*sees), x, a) for x, a in zip(summed, old, strict=True)]
                return new

            return ir_loop(b, start, stop, 2, acc, two) if fast else ir_loop(b, start, stop, 1, acc, body)

        # blocks of the first edge and those of all; then, with the same code, those of the last edge
        last = limits[3]

        def turn(state: list[Any]) -> list[Any]:
            start, inside, stop, *acc = state
            acc = take(start, inside, acc, bounded=True)
            return [stop, last, last, *take(inside, stop, acc, bounded=False)]

        return ir_while(b, [*limits[:3], *acc], lambda s: b.icmp_signed("<", s[0], last), turn)[3:]

    def tile(
        b: Any, p: Any, ldp: Any, pool: Any, table: Any, page_bytes: Any, row: Any, column: Any, bounds: Any,
        edges: Any, page: Any, pages: Any, out: Any, stride: Any, fresh: Any, begin: Any, stop: Any,
    ) -> None:  # fmt: skip
        last = b.load(ptr(b, b.add(edges, c64(24)), I64), align=8)
        last = b.sdiv(b.sub(last, c64(1)), c64(blocks))
        run = b.mul(row, c64(blocks))  # bytes of a lane
        ahead = _ahead(b, b.mul(b.sub(stop, begin), run))

        def after(page: Any) -> Any:
            return page_at(b, pool, table, page_bytes, ir_least(b, last, b.add(page, c64(1))))

        def before(to: Any) -> list[Any]:
            return [ir_load(b, b.add(to, c64(4 * N * i))) for i in range(rows * vectors)]

        if kind == "int8":
            numbers = b.add(after(page), b.mul(row, c64(PAGE)))
            for line in range(0, 4 * PAGE, LINE):
                ir_prefetch(b, b.add(numbers, c64(line)), NEAR)

        def of_lane(lane: Any, _: list[Any]) -> list[Any]:
            def of_page(page: Any, acc: list[Any]) -> list[Any]:
                at = page_at(b, pool, table, page_bytes, page)
                jump = b.sub(after(page), b.add(at, b.mul(b.sub(stop, begin), run)))
                soon = b.add(b.mul(lane, run), ahead)
                soon = b.select(b.icmp_signed("<", soon, b.mul(stop, run)), soon, b.add(soon, jump))
                soon = b.add(b.add(at, column), soon)
                limits = spans(b, edges, page)
                return lane_sums(b, p, ldp, row, bounds, page, at, lane, column, soon, limits, acc)

            to = b.add(out, b.mul(lane, stride))
            first = b.icmp_signed("!=", fresh, c64(0))
            acc = ir_choose(b, first, lambda: [ZERO] * (rows * vectors), lambda: before(to))
            for i, a in enumerate(ir_loop(b, page, pages, 1, acc, of_page)):
                ir_store(b, a, b.add(to, c64(4 * N * i)))
            return []

        ir_loop(b, begin, stop, 1, [], of_lane)

    return f"values_{kind}_{rows}_{vectors}", tile, 16


assert DIMS >= VECTORS * N  # noqa: S101 - what the recorder reserves
