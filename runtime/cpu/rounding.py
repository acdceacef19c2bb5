"""What rounding matrices takes besides the lanes' operations: turning, float16, and bytes to their places."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from ..kvcache import KV_BYTES, PAIRS
from .emitters import I16, VH, VI, N, V, const, ir_load, ir_store, ir_to_bf16, ptr, shuffle
from .flow import c64
from .lanes import i64, lanes, op, outlined, void
from .target import native_half

F16S = ir.VectorType(ir.HalfType(), N)


def ir_turned(b: Any, rows: list[Any]) -> list[Any]:
    """Sixteen rows of sixteen numbers, turned."""
    rows = list(rows)
    for h in (8, 4, 2, 1):  # swap the halves of ever smaller squares
        low = [i + N - h if i & h else i for i in range(N)]
        high = [i + N if i & h else i + h for i in range(N)]
        for i in range(N):
            if not i & h:
                x, y = rows[i], rows[i + h]
                rows[i], rows[i + h] = shuffle(b, x, y, low), shuffle(b, x, y, high)
    return rows


@op(void, i64, i64, i64)
def turn16(b: Any, source: Any, ld: Any, out: Any) -> None:
    """[16][16] float32 with rows ld bytes apart -> turned, rows 64 bytes apart."""
    rows = [ir_load(b, b.add(source, b.mul(ld, c64(i)))) for i in range(N)]
    for i, row in enumerate(ir_turned(b, rows)):
        ir_store(b, row, b.add(out, c64(4 * N * i)))


def turn_keys(kind: str) -> Any:
    """Operation (x, ldx, block, place): sixteen dimensions of a block's keys to where they lie (`kvcache.py`).

    x [16 keys][16] float32, ldx bytes apart; `block`: where the first of the dimensions lies; `place`: bytes of a pair.
    """

    @outlined(f"turn_{kind}", 4)
    def turn(b: Any, x: Any, ldx: Any, block: Any, place: Any) -> None:
        rows = [ir_load(b, b.add(x, b.mul(ldx, c64(i)))) for i in range(N)]
        for d, keys in enumerate(ir_turned(b, rows)):
            at = b.add(block, b.mul(place, c64(PAIRS.index(d % 8))))
            numbers = ir_to_bf16(b, keys) if kind == "bf16" else keys
            ir_store(b, numbers, b.add(at, c64(d // 8 * N * KV_BYTES[kind])))

    return turn


@op(lanes, lanes, lanes, lanes, lanes)
def where_greater(b: Any, x: Any, y: Any, this: Any, other: Any) -> Any:
    """Of `this` and `other`, the first where x > y."""
    return b.select(b.fcmp_ordered(">", x, y), this, other)


@op(void, i64, lanes)
def store_half(b: Any, addr: Any, x: Any) -> None:
    """Sixteen numbers as float16, to nearest, ties to even; the same bits where no instruction does it."""
    if native_half():
        half = b.bitcast(b.fptrunc(x, F16S), VH)
    else:
        bits = b.bitcast(x, VI)
        size = b.and_(bits, const(VI, [0x7FFFFFFF] * N))
        sign = b.and_(b.lshr(bits, const(VI, [16] * N)), const(VI, [0x8000] * N))
        odd = b.and_(b.lshr(size, const(VI, [13] * N)), const(VI, [1] * N))
        normal = b.add(b.add(size, const(VI, [0xFFF - (112 << 23)] * N)), odd)
        normal = b.lshr(normal, const(VI, [13] * N))
        # below 2^-14 a float16 counts steps of 2^-24, as a float32 does from 0.5 on
        small = b.bitcast(b.fadd(b.bitcast(size, V), const(V, [0.5] * N)), VI)
        small = b.sub(small, const(VI, [0x3F000000] * N))
        result = b.select(b.icmp_unsigned("<", size, const(VI, [0x38800000] * N)), small, normal)
        infinite = b.icmp_unsigned(">=", size, const(VI, [0x477FF000] * N))
        result = b.select(infinite, const(VI, [0x7C00] * N), result)
        result = b.select(b.icmp_unsigned(">", size, const(VI, [0x7F800000] * N)), const(VI, [0x7E00] * N), result)
        half = b.trunc(b.or_(result, sign), VH)
    b.store(half, ptr(b, addr, ir.VectorType(I16, N)), align=2)


def _bytes(b: Any, parts: tuple[Any, ...]) -> Any:
    """Four vectors of whole numbers 0 .. 255 as the four bytes of each lane, the first lowest."""
    word = b.fptosi(parts[0], VI)
    for i, part in enumerate(parts[1:], 1):
        word = b.or_(word, b.shl(b.fptosi(part, VI), const(VI, [8 * i] * N)))
    return word


@op(void, i64, lanes, lanes, lanes, lanes)
def store_bytes(b: Any, addr: Any, *parts: Any) -> None:
    """Four columns of sixteen rows."""
    b.store(_bytes(b, parts), ptr(b, addr, VI), align=1)


@op(void, i64, lanes, lanes, lanes, lanes)
def store_nibbles(b: Any, addr: Any, *parts: Any) -> None:
    """Four columns more, in the upper halves of bytes that stand there."""
    p = ptr(b, addr, VI)
    b.store(b.or_(b.load(p, align=1), b.shl(_bytes(b, parts), const(VI, [4] * N))), p, align=1)
