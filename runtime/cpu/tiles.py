"""Register tiles: loops whose accumulators must stay in registers, emitted whole.

The one reduction order: lane l of an accumulator takes k = l, l + 16, l + 32, ... by fused multiply-add, and
`ir_fold` adds the lanes. A tile's shape changes how often an operand is loaded, never a bit of the result.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ..blocking import PANEL_ROWS
from ..ops import FAST
from .emitters import (
    F32,
    I1,
    I32,
    SIZES,
    ZERO,
    N,
    V,
    ir_below,
    ir_fma,
    ir_fold,
    ir_least,
    ir_load,
    ir_prefetch,
    ir_store,
    off,
    ptr,
    shuffle,
)
from .flow import c64, ir_loop
from .lanes import outlined
from .pairs import ir_dot_pairs, ir_load_pairs
from .target import BF16_DOT

LINE = 64  # bytes of a cache line
#: Bytes that a tile of eight rows without a panel prefetches with each step. One line is too late, four crowd out
#: loads.
SPREAD = 2 * LINE


def groups_of(n: int) -> list[int]:
    """Sizes that `ir_fold` takes, covering n accumulators."""
    sizes = []
    while n:
        s = next(s for s in (16, 8, 4, 2, 1) if s <= n)
        sizes.append(s)
        n -= s
    return sizes


def _multiply(
    b: Any,
    kind: str,
    ws: list[Any],
    xs: list[Any],
    acc: list[Any],
    masks: tuple[Any, Any],
    *,
    careful: bool = False,
) -> list[Any]:
    """One step of every accumulator [token][row]: the weights at `ws` times the numbers at `xs`; masks of both."""
    acc, fast = list(acc), kind == FAST
    xv = [ir_load_pairs(b, a) if fast else ir_load(b, a, mask=masks[1]) for a in xs]
    for r, at in enumerate(ws):
        wv = ir_load_pairs(b, at, masks[0]) if fast else ir_load(b, at, kind, masks[0])
        for m, x in enumerate(xv):
            i = m * len(ws) + r
            acc[i] = ir_dot_pairs(b, acc[i], wv, x, careful=careful) if fast else ir_fma(b, wv, x, acc[i])
    return acc


def _steps(kind: str) -> tuple[int, int]:
    """Columns of one step, and bytes of an input's number."""
    return (2 * N, 2) if kind == FAST else (N, 4)


def _by(kind: str) -> tuple[str, ...]:
    """Features that change a tile's code (`ir_apart`)."""
    return (BF16_DOT,) if kind == FAST else ()


def dot_tile(rows: int, kind: str, unroll: int = 1, ahead: int = 0, *, careful: bool = False) -> Any:
    """y[r] = sum_k w[r, k] x[k] for `rows` weight rows, then for those after each, `count` times; strides in bytes.

    (w, ldw, x, K, y, ldy, count): rows lie ldw apart, results ldy. `ahead`: prefetch this many bytes further on, or 0.
    FAST takes pairs of BF16 of both, a lane l and l + 1 of 32; x is then filled up with zeros to whole 32s.
    `careful`: see `pairs.py`.
    """
    size = SIZES[kind]
    step, x_size = _steps(kind)

    @outlined(f"dot_{kind}_{rows}_{unroll}_{ahead}{'_careful' if careful else ''}", 7, by=_by(kind))
    def tile(b: Any, w: Any, ldw: Any, x: Any, k_dim: Any, y: Any, ldy: Any, count: Any) -> None:
        def one(i: Any, _: list[Any]) -> list[Any]:
            first, to = b.add(w, b.mul(b.mul(k_dim, c64(size)), i)), off(b, y, i, 4)
            ws = [b.add(first, b.mul(ldw, c64(r))) for r in range(rows)]

            def body(k: Any, acc: list[Any], mask: Any = None, times: int = 1) -> list[Any]:
                for j in range(times):
                    kj = b.add(k, c64(step * j))
                    places = [off(b, a, kj, size) for a in ws]
                    if ahead and (size * step * j) % 64 == 0:
                        for at in places:
                            ir_prefetch(b, b.add(at, c64(ahead)))
                    acc = _multiply(b, kind, places, [off(b, x, kj, x_size)], acc, (mask, mask), careful=careful)
                return acc

            acc, start = [ZERO] * rows, c64(0)
            if unroll > 1:
                start = b.and_(k_dim, c64(-step * unroll))
                acc = ir_loop(b, c64(0), start, step * unroll, acc, lambda k, a: body(k, a, times=unroll))
            full = b.and_(k_dim, c64(-step))
            acc = ir_loop(b, start, full, step, acc, body)
            acc = ir_loop(b, full, k_dim, step, acc, lambda k, a: body(k, a, ir_below(b, b.sub(k_dim, k), step)))
            v = ir_fold(b, acc)
            for r in range(rows):
                place = ptr(b, b.add(to, b.mul(ldy, c64(r))), F32)
                b.store(b.extract_element(v, ir.Constant(I32, r)), place, align=4)
            return []

        ir_loop(b, c64(0), count, 1, [], one)

    return tile


def pack_tile(rows: int, kind: str) -> Any:
    """Columns of `rows` weight rows, widened to float32 (FAST: as they are), to a panel [step][row][16 or 32 columns].

    (w, ldw, left, K, panel): `left` rows are there; the last stands for those that are not. Absent columns are zero.
    """
    size, (step, _) = SIZES[kind], _steps(kind)

    def tile(b: Any, w: Any, ldw: Any, left: Any, k_dim: Any, panel: Any) -> None:
        last = b.sub(left, c64(1))
        ws = [b.add(w, b.mul(ldw, ir_least(b, c64(r), last))) for r in range(rows)]

        def body(k: Any, _: list[Any], mask: Any = None) -> list[Any]:
            to = b.add(panel, b.mul(k, c64(64 * rows // step)))
            for r, a in enumerate(ws):
                at = off(b, a, k, size)
                ir_store(b, ir_load_pairs(b, at, mask) if kind == FAST else ir_load(b, at, kind, mask),
                         b.add(to, c64(64 * r)))  # fmt: skip
            return []

        full = b.and_(k_dim, c64(-step))
        ir_loop(b, c64(0), full, step, [], body)
        ir_loop(b, full, k_dim, step, [], lambda k, a: body(k, a, ir_below(b, b.sub(k_dim, k), step)))

    return outlined(f"pack_{kind}_{rows}", 5)(tile)


def product_tile(rows: int, tokens: int, kind: str, *, packed: bool) -> Any:
    """y[m, r] = sum_k w[r, k] x[m, k] for `rows` rows and `tokens` tokens, or a piece of that sum; strides in bytes.

    (w, ldw, rows_left, x, ldx, tokens_left, K, y, ldy, carry, part, ahead, much): this many rows and tokens are there;
    the last stands for those that are not. `packed`: w is a panel that `pack_tile` wrote, and ldw means nothing.
    K: columns of this piece. part: 1 where it is the first, + 2 where it is the last; what lies between goes through
    `carry`. `much` bytes from `ahead` on are prefetched. Without a panel that is most of what is read, and at once they
    would wait for each other and the loads for them: `SPREAD` bytes go with each step. (Of two rows, all at once is not
    much.)
    """
    if packed and kind != FAST:
        kind = "f32"
    size, (step, x_size) = SIZES[kind], _steps(kind)

    def tile(b: Any, w: Any, ldw: Any, rows_left: Any, x: Any, ldx: Any, tokens_left: Any, k_dim: Any, y: Any,
             ldy: Any, carry: Any, part: Any, ahead: Any, much: Any) -> None:  # fmt: skip
        def prefetch(k: Any, _: list[Any]) -> list[Any]:
            ir_prefetch(b, b.add(ahead, k))
            return []

        spread = 0 if packed or rows < PANEL_ROWS else SPREAD
        ir_loop(b, b.mul(b.sdiv(k_dim, c64(step)), c64(spread)), much, LINE, [], prefetch)
        index = [ir_least(b, c64(m), b.sub(tokens_left, c64(1))) for m in range(tokens)]
        xs = [b.add(x, b.mul(ldx, m)) for m in index]
        ws = [b.add(w, b.mul(ldw, ir_least(b, c64(r), b.sub(rows_left, c64(1))))) for r in range(rows)]

        def body(k: Any, acc: list[Any], mask: Any = None) -> list[Any]:
            if packed:
                at = b.add(w, b.mul(k, c64(64 * rows // step)))
                places = [b.add(at, c64(64 * r)) for r in range(rows)]
            else:
                places = [off(b, a, k, size) for a in ws]
                for line in range(0, spread, LINE):
                    ir_prefetch(b, b.add(off(b, ahead, k, spread // step), c64(line)), 2)
            return _multiply(b, kind, places, [off(b, a, k, x_size) for a in xs], acc, (None if packed else mask, mask))

        full = b.and_(k_dim, c64(-step))
        acc = ir_loop(b, c64(0), full, step, _taken_up(b, rows * tokens, carry, part), body)
        acc = ir_loop(b, full, k_dim, step, acc, lambda k, a: body(k, a, ir_below(b, b.sub(k_dim, k), step)))
        done, keep, end = (b.function.append_basic_block() for _ in range(3))
        b.cbranch(b.trunc(b.lshr(part, c64(1)), I1), done, keep)
        b.position_at_end(keep)
        for i, v in enumerate(acc):
            ir_store(b, v, b.add(carry, c64(64 * i)))
        b.branch(end)
        b.position_at_end(done)
        there, first = ir_below(b, rows_left, rows), 0
        for n in groups_of(len(acc)):
            v = ir_fold(b, acc[first : first + n])
            for j in range(0, n, rows):
                to = b.add(y, b.mul(ldy, index[(first + j) // rows]))
                ir_store(b, shuffle(b, v, v, range(j, j + rows)), to, there)
            first += n
        b.branch(end)
        b.position_at_end(end)

    return outlined(f"product_{kind}_{rows}_{tokens}{'_packed' if packed else ''}", 13, by=_by(kind))(tile)


def _taken_up(b: Any, count: int, carry: Any, part: Any) -> list[Any]:
    """Accumulators: zero in a first piece, else as the piece before left them."""
    before, resume, start = b.block, b.function.append_basic_block(), b.function.append_basic_block()
    b.cbranch(b.trunc(part, I1), start, resume)
    b.position_at_end(resume)
    kept = [ir_load(b, b.add(carry, c64(64 * i))) for i in range(count)]
    b.branch(start)
    b.position_at_end(start)
    acc = [b.phi(V) for _ in kept]
    for phi, v in zip(acc, kept, strict=True):
        phi.add_incoming(ZERO, before)
        phi.add_incoming(v, resume)
    return acc
