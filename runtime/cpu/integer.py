"""Integer dots: tiles of sixteen-row panels by tokens (`runtime/quantized.py`).

For a row and a group of 32 columns the dot of the integers is exact, so its order does not matter. The one order of
the whole: groups in increasing order, y = fma(float(dot), scale_w * scale_x, y). Weights are stored with an offset
added; their input's sum, times the offset, is taken away before the first product. int4a has no offset, and right after
a group's dot comes its smallest number: y = fma(float(sum of the input's integers), low_w * scale_x, y).

An input has one plane of bytes, q, or two, q = 256 high + low, and then dot = 256 (w . high) + w . low. That is below
2^28, so it is exact in an int32 too, and rounded once, by float(dot).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from ..quantized import GROUP, GROUP_BYTES, HEAD_BYTES, QUANTIZED, SCALE_BYTES
from ..sparse_int8 import BITS_BYTES, SPARSE_INT8
from .emitters import (
    F32,
    I1,
    I8,
    I16,
    I32,
    PAIRS,
    VH,
    VI,
    ZERO,
    N,
    V,
    bare_ptr,
    const,
    ext,
    ir_below,
    ir_fma,
    ir_load,
    ir_prefetch,
    ir_splat,
    ir_store,
    ir_widen_half,
    off,
    ptr,
    shuffle,
)
from .flow import I64, c64, ir_apart, ir_loop
from .lanes import f32, i64, op, outlined, void
from .target import BYTE_DOT, EXPANDS_BYTES, byte_dot, expands_bytes

#: log2 of what is added to a stored number: times the input's sum it is a shift.
OFFSET_BITS = {name: offset.bit_length() - 1 for name, offset in QUANTIZED.items() if offset}
STEP = 4 * N  # bytes of one step: four columns of sixteen rows
WIDE = ir.VectorType(I32, 2 * N)
HALF_FULL = SCALE_BYTES + BITS_BYTES + (GROUP_BYTES["int8"] - SCALE_BYTES) // 2  # bytes of a sparse group, half zeros
BYTES = ir.VectorType(I8, STEP)


def ir_dot4(b: Any, acc: Any, u: Any, s: Any) -> Any:
    """Lane by lane acc + the four products of unsigned bytes u and signed bytes s; int32, exact."""
    if byte_dot():
        return b.call(ext(b, "llvm.x86.avx512.vpdpbusd.512", VI, [VI, VI, VI]), [acc, u, s])
    u, s = b.bitcast(u, PAIRS), b.bitcast(s, PAIRS)
    eight = const(PAIRS, [8] * 2 * N)
    evens = b.and_(u, const(PAIRS, [255] * 2 * N)), b.ashr(b.shl(s, eight), eight)
    odds = b.lshr(u, eight), b.ashr(s, eight)
    return _dot_pairs(b, acc, evens, odds)


def _dot_pairs(b: Any, acc: Any, *pairs: tuple[Any, Any]) -> Any:
    """Lane by lane acc + the products of pairs of 16 bits; one instruction (pmaddwd) for each where there is one."""
    for x, y in pairs:
        p = b.mul(b.sext(x, WIDE), b.sext(y, WIDE))
        acc = b.add(acc, b.add(shuffle(b, p, p, range(0, 2 * N, 2)), shuffle(b, p, p, range(1, 2 * N, 2))))
    return acc


def ir_dots4(b: Any, accs: list[Any], u: Any, planes: list[Any]) -> list[Any]:
    """`ir_dot4` with each plane of s, the lowest first; where no instruction does it, with all planes at once."""
    if len(planes) == len(accs):
        return [ir_dot4(b, acc, u, s) for acc, s in zip(accs, planes, strict=True)]
    u, low, high = (b.bitcast(v, PAIRS) for v in (u, *planes))
    eight, upper = const(PAIRS, [8] * 2 * N), const(PAIRS, [-256] * 2 * N)
    evens = b.and_(u, const(PAIRS, [255] * 2 * N)), b.add(b.shl(high, eight), b.ashr(b.shl(low, eight), eight))
    odds = b.lshr(u, eight), b.add(b.and_(high, upper), b.ashr(low, eight))
    return [_dot_pairs(b, accs[0], evens, odds)]


def _sums(planes: int) -> int:
    """Accumulators of one dot: a plane's each, or one where 16 bits of the input are multiplied at once."""
    return planes if byte_dot() else 1


def _whole_dot(b: Any, accs: list[Any]) -> Any:
    """What the planes' accumulators come to."""
    low, *high = accs
    return b.add(low, b.shl(high[0], const(VI, [8] * N))) if high else low


def _splat_int(b: Any, addr: Any) -> Any:
    """Four bytes, in every lane."""
    return ir_splat(b, b.load(ptr(b, addr, I32), align=4))


def _spread_alone(b: Any, out: Any, at: Any, bits: Any) -> None:
    """`ir_spread_bytes` into memory, one byte after the other."""

    def body(k: Any, state: list[Any]) -> list[Any]:
        bit = b.trunc(b.lshr(bits, k), I1)
        one = b.select(bit, b.load(ptr(b, state[0], I8), align=1), ir.Constant(I8, QUANTIZED["int8"]))
        b.store(one, bare_ptr(b, b.add(out, k), I8), align=1)
        return [b.add(state[0], b.zext(bit, I64))]

    ir_loop(b, c64(0), c64(STEP), 1, [at], body)


def ir_spread_bytes(b: Any, at: Any, bits: Any) -> Any:
    """A step of 64 stored bytes: those from `at` on, one for each bit that is set, in its place; 0's in the others."""
    if expands_bytes():
        zeros, mask = const(BYTES, [QUANTIZED["int8"]] * STEP), b.bitcast(bits, ir.VectorType(I1, STEP))
        f = ext(b, "llvm.x86.avx512.mask.expand.v64i8", BYTES, [BYTES, BYTES, mask.type])
        return b.bitcast(b.call(f, [b.load(ptr(b, at, BYTES), align=1), zeros, mask]), VI)
    out = b.ptrtoint(cgutils.alloca_once(b, BYTES), I64)
    ir_apart(b, "spread_bytes", _spread_alone, out, at, bits)
    return b.load(bare_ptr(b, out, VI), align=1)


class Steps:
    """The groups of one panel, one after the other, a load of 64 bytes at a time."""

    def __init__(self, b: Any, kind: str, at: Any) -> None:
        """`at`: where the group begins."""
        self.b, self.kind, self.at = b, kind, at
        self.numbers = b.add(at, c64(HEAD_BYTES["int8"] + BITS_BYTES)) if kind == SPARSE_INT8 else None

    def weights(self, step: int) -> list[tuple[Any, int]]:
        """(unsigned bytes, first column) for what one load holds."""
        if self.numbers is None:
            return _weights(self.b, self.at, self.kind, step)
        b = self.b
        bits = b.load(ptr(b, b.add(self.at, c64(HEAD_BYTES["int8"] + 8 * step)), I64), align=1)
        v = ir_spread_bytes(b, self.numbers, bits)
        self.numbers = b.add(self.numbers, b.call(ext(b, "llvm.ctpop.i64", I64, [I64]), [bits]))
        return [(v, 4 * step)]

    @property
    def behind(self) -> Any:
        """Where the next group begins, once all of this one has been taken."""
        return self.b.add(self.at, c64(GROUP_BYTES[self.kind])) if self.numbers is None else self.numbers


def _weights(b: Any, at: Any, kind: str, step: int) -> list[tuple[Any, int]]:
    v = b.load(ptr(b, b.add(at, c64(HEAD_BYTES[kind] + STEP * step)), VI), align=1)
    if kind == "int8":
        return [(v, 4 * step)]
    low, four = const(VI, [0x0F0F0F0F] * N), const(VI, [4] * N)
    return [(b.and_(v, low), 4 * step), (b.and_(b.lshr(v, four), low), GROUP // 2 + 4 * step)]


def integer_tile(panels: int, tokens: int, kind: str, ahead: int = 0, planes: int = 1, *, pasted: bool = False) -> Any:
    """y[m, 16 p + l] for `panels` panels and `tokens` tokens, then for the tokens after these, `count` times.

    `ahead`: prefetch the weights this many bytes further on, or 0. `planes`: of x. `pasted`: into the kernel, no
    function of its own. Strides are in bytes.

    (w, ldw, x, ldx, groups, y, ldy, ldp, left, count): panels lie ldw apart and their results ldp, tokens ldx and ldy;
    `left` counts the matrix's rows from the first panel's first. x: `quantize`'s rows: bytes, then scales, then sums;
    of two planes `quantize_planes`'s.
    """
    dense = "int8" if kind == SPARSE_INT8 else kind
    size, steps = GROUP_BYTES[dense], (GROUP_BYTES[dense] - HEAD_BYTES[dense]) // STEP
    lowest = HEAD_BYTES[dense] > SCALE_BYTES
    read, width = size if kind == dense else HALF_FULL, GROUP * planes
    lowest_first = [GROUP * i for i in reversed(range(planes))]
    by = (BYTE_DOT,) if kind == dense else (BYTE_DOT, EXPANDS_BYTES)

    def sums_of(b: Any, ws: list[Any], x: Any, ldx: Any, groups: Any) -> list[Any]:
        xs = [b.add(x, b.mul(ldx, c64(m))) for m in range(tokens)]
        scales = [b.add(a, b.mul(groups, c64(width))) for a in xs]
        sums = [b.add(a, b.mul(groups, c64(4))) for a in scales]

        def body(g: Any, state: list[Any]) -> list[Any]:
            acc, at = state[:-panels], state[-panels:]
            places = [Steps(b, kind, a) for a in at]
            for line in range(0, read, 64) if ahead else ():
                for a in at:
                    ir_prefetch(b, b.add(a, c64(ahead + line)))
            total = [_splat_int(b, off(b, a, g, 4)) for a in sums]
            none = const(VI, [0] * N)
            start = [none if lowest else b.sub(none, b.shl(s, const(VI, [OFFSET_BITS[dense]] * N))) for s in total]
            dots = [[[s, *[none] * (_sums(planes) - 1)] for s in start] for _ in range(panels)]
            for step in range(steps):
                for i in range(panels):
                    for u, column in places[i].weights(step):
                        for m in range(tokens):
                            at_m = off(b, xs[m], g, width)
                            xv = [_splat_int(b, b.add(at_m, c64(plane + column))) for plane in lowest_first]
                            dots[i][m] = ir_dots4(b, dots[i][m], u, xv)
            new = []
            for i in range(panels):
                sw = ir_widen_half(b, b.load(ptr(b, at[i], VH), align=1))
                for m in range(tokens):
                    sx = ir_splat(b, b.load(ptr(b, off(b, scales[m], g, 4), F32), align=4))
                    dot = b.sitofp(_whole_dot(b, dots[i][m]), V)
                    y = ir_fma(b, dot, b.fmul(sw, sx), acc[i * tokens + m])
                    if lowest:
                        low = ir_load(b, b.add(at[i], c64(SCALE_BYTES)), "f16")
                        y = ir_fma(b, b.sitofp(total[m], V), b.fmul(low, sx), y)
                    new.append(y)
            return [*new, *(place.behind for place in places)]

        return ir_loop(b, c64(0), groups, 1, [*[ZERO] * (panels * tokens), *ws], body)

    def tile(
        b: Any, w: Any, ldw: Any, x: Any, ldx: Any, groups: Any, y: Any, ldy: Any, ldp: Any, left: Any, count: Any
    ) -> None:
        ws = [b.add(w, b.mul(ldw, c64(i))) for i in range(panels)]

        def turn(_: Any, at: list[Any]) -> list[Any]:
            acc = sums_of(b, ws, at[0], ldx, groups)
            for i in range(panels):
                mask = ir_below(b, b.sub(left, b.sdiv(b.mul(ldp, c64(i)), c64(4))))
                for m in range(tokens):
                    to = b.add(b.add(at[1], b.mul(ldy, c64(m))), b.mul(ldp, c64(i)))
                    ir_store(b, acc[i * tokens + m], to, mask)
            return [b.add(a, b.mul(ld, c64(tokens))) for a, ld in zip(at, (ldx, ldy), strict=True)]

        ir_loop(b, c64(0), count, 1, [x, y], turn)

    if pasted:
        return op(void, *[i64] * 10)(tile)
    name = f"integer_{kind}_{panels}_{tokens}_{ahead}{'_planes' if planes > 1 else ''}"
    return outlined(name, 10, by=by)(tile)


@op(void, i64, i64, i64, i64)
def spread_panel(b: Any, w: Any, groups: Any, out: Any, ahead: Any) -> None:
    """A sparse int8 panel, as a dense one. What lies `ahead` bytes further on comes while this one is multiplied."""

    def body(g: Any, state: list[Any]) -> list[Any]:
        place, to = Steps(b, SPARSE_INT8, state[0]), off(b, out, g, GROUP_BYTES["int8"])
        ir_store(b, b.load(ptr(b, place.at, VH), align=1), to)
        for line in range(0, HALF_FULL, 64):
            ir_prefetch(b, b.add(place.at, b.add(ahead, c64(line))), 2)
        for step in range(GROUP // 4):
            ((v, _),) = place.weights(step)
            ir_store(b, v, b.add(to, c64(SCALE_BYTES + STEP * step)))
        return [place.behind]

    ir_loop(b, c64(0), groups, 1, [w], body)


@op(i64, i64)
def ld_byte(b: Any, a: Any) -> Any:
    """An unsigned byte."""
    return b.zext(b.load(ptr(b, a, ir.IntType(8)), align=1), I64)


@op(f32, i64)
def ld_half(b: Any, a: Any) -> Any:
    """A float16, widened."""
    bits = ir_splat(b, b.load(ptr(b, a, I16), align=1))
    return b.extract_element(ir_widen_half(b, bits), ir.Constant(I32, 0))
