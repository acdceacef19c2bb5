"""Emitters: functions that write LLVM IR for sixteen virtual float32 lanes; tiles and operations are made of them.

`<16 x float>` lowers to one AVX-512 register, two of AVX2, four of SSE or NEON, always with the same bits: no fastmath,
every fused multiply-add explicit. Addresses are int64; loads and stores need no alignment.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.core import cgutils

from ..ops import FAST
from .environment import debugging
from .flow import I64, Builder, Value, c64, ir_apart, ir_choose
from .layout import INSIDE
from .target import bit_masks, machine, masked_moves, native_half

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

I1, I8, I16, I32 = (ir.IntType(bits) for bits in (1, 8, 16, 32))
F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
N = 16
V, VI, VH, VB, VM = (ir.VectorType(t, N) for t in (F32, I32, I16, I8, I1))
PAIRS = ir.VectorType(I16, 2 * N)
SIZES = {"f32": 4, "bf16": 2, "f16": 2, FAST: 2}


def const(vec: Any, vals: Sequence[float]) -> Value:
    """Vector constant."""
    return ir.Constant(vec, list(vals))


ZERO = const(V, [0.0] * N)


def ptr(b: Builder, addr: Value, ty: Any, mask: Value | None = None) -> Value:
    """The address as a pointer to `ty`, of which lanes of the mask are touched; checked where MIAOTUI_DEBUG asks."""
    if debugging():
        number, count = (ty.element, ty.count) if isinstance(ty, ir.VectorType) else (ty, 1)
        size = {F16: 2, F32: 4, F64: 8}.get(number) or number.width // 8
        nbytes = c64(size * count)
        if mask is not None:
            bits = b.zext(b.bitcast(mask, ir.IntType(count)), I64)
            nbytes = b.mul(b.call(ext(b, "llvm.ctpop.i64", I64, [I64]), [bits]), c64(size))
        addr = b.call(ext(b, INSIDE, I64, [I64, I64]), [addr, nbytes])
    return bare_ptr(b, addr, ty)


def bare_ptr(b: Builder, addr: Value, ty: Any) -> Value:
    """The address as a pointer to `ty`, never checked: for prefetches, the stack and the team's own words."""
    return b.inttoptr(addr, ty.as_pointer())


def off(b: Builder, addr: Value, k: Value, size: int) -> Value:
    """Addr + k * size."""
    return b.add(addr, b.mul(k, c64(size)))


def ext(b: Builder, name: str, ret: Any, args: Sequence[Any]) -> Value:
    """Declare an LLVM intrinsic."""
    return cgutils.get_or_insert_function(b.module, ir.FunctionType(ret, list(args)), name)


def shuffle(b: Builder, x: Value, y: Value, idx: Sequence[int]) -> Value:
    """Lanes `idx` of the concatenation x, y."""
    return b.shuffle_vector(x, y, const(ir.VectorType(I32, len(idx)), idx))


def ir_splat(b: Builder, s: Value, count: int = N) -> Value:
    """A scalar in every lane."""
    v = b.insert_element(ir.Constant(ir.VectorType(s.type, count), ir.Undefined), s, ir.Constant(I32, 0))
    return shuffle(b, v, v, [0] * count)


def ir_larger_size(b: Builder, x: Value, y: Value) -> Value:
    """The larger of x and y, float32 whose sign bit is 0, by their bits: a NaN is larger than every number."""
    as_integers = [b.bitcast(v, ir.VectorType(I32, v.type.count)) for v in (x, y)]
    return b.select(b.icmp_signed(">", *as_integers), x, y)


def ir_largest_size(b: Builder, v: Value) -> Value:
    """`ir_larger_size` of all lanes, a scalar."""
    for h in (8, 4, 2, 1):
        v = ir_larger_size(b, shuffle(b, v, v, range(h)), shuffle(b, v, v, range(h, 2 * h)))
    return b.extract_element(v, ir.Constant(I32, 0))


def ir_fma(b: Builder, x: Value, y: Value, z: Value) -> Value:
    """X * y + z, rounded once."""
    return b.call(ext(b, f"llvm.fma.v{x.type.count}f32", x.type, [x.type] * 3), [x, y, z])


def ir_rint(b: Builder, v: Value) -> Value:
    """The nearest whole number, of two the even one."""
    return b.call(ext(b, f"llvm.nearbyint.v{v.type.count}f32", v.type, [v.type]), [v])


def ir_repeat(b: Builder, v: Value, count: int) -> Value:
    """Lanes of v, again and again until there are `count`."""
    n = v.type.count
    return v if n == count else shuffle(b, v, v, [i % n for i in range(count)])


def alike(vec: Any, value: float) -> Value:
    """Vector constant of one number."""
    return const(vec, [value] * vec.count)


def as_ints(b: Builder, v: Value) -> Value:
    """The bits of float32 lanes."""
    return b.bitcast(v, ir.VectorType(I32, v.type.count))


def ir_below(b: Builder, n: Value, count: int = N) -> Value:
    """Mask of lanes < n, of `count`: by bits where masks are registers, else in lanes as wide as a float's."""
    n = ir_most(b, c64(0), ir_least(b, n, c64(count)))
    if bit_masks() and count < I64.width:
        bits = b.xor(b.shl(c64(-1), n), c64(-1))
        return b.bitcast(b.trunc(bits, ir.IntType(count)), ir.VectorType(I1, count))
    kind = ir.VectorType(I32, count)
    return b.icmp_signed("<", const(kind, range(count)), ir_splat(b, b.trunc(n, I32), count))


def ir_least(b: Builder, x: Value, y: Value) -> Value:
    """The smaller of two int64."""
    return b.select(b.icmp_signed("<", x, y), x, y)


def ir_most(b: Builder, x: Value, y: Value) -> Value:
    """The larger of two int64."""
    return b.select(b.icmp_signed(">", x, y), x, y)


def ir_widen_half(b: Builder, h: Value) -> Value:
    """F16 bits -> float32: an instruction where there is one, else exact integer and float steps with the same bits."""
    if native_half():
        return b.fpext(b.bitcast(h, ir.VectorType(F16, N)), V)
    w = b.zext(h, VI)
    body = b.shl(b.and_(w, const(VI, [0x7FFF] * N)), const(VI, [13] * N))
    finite = b.bitcast(b.fmul(b.bitcast(body, V), const(V, [2.0**112] * N)), VI)
    special = b.or_(body, const(VI, [0x7F800000] * N))
    is_special = b.icmp_unsigned(">=", body, const(VI, [0x0F800000] * N))
    sign = b.shl(b.and_(w, const(VI, [0x8000] * N)), const(VI, [16] * N))
    return b.bitcast(b.or_(b.select(is_special, special, finite), sign), V)


def ir_widen(b: Builder, v: Value, kind: str) -> Value:
    """Sixteen values as stored -> float32."""
    if kind == "bf16":
        return b.bitcast(b.shl(b.zext(v, VI), const(VI, [16] * N)), V)
    return ir_widen_half(b, v) if kind == "f16" else v


def ir_load(b: Builder, addr: Value, kind: str = "f32", mask: Value | None = None) -> Value:
    """Sixteen values widened to float32; with a mask, absent lanes are +0 and their memory is not touched."""
    ty = V if kind == "f32" else VH
    p = ptr(b, addr, ty, mask)
    return ir_widen(b, b.load(p, align=SIZES[kind]) if mask is None else ir_load_masked(b, p, ty, mask), kind)


def ir_load_masked(b: Builder, p: Value, ty: Any, mask: Value) -> Value:
    """A vector as stored, of which lanes of the mask are read; others are +0.

    Where no instruction does it, LLVM writes a branch for every lane: those stand once, in a function.
    """
    if masked_moves(ty.count):
        return _load_masked(b, p, ty, mask)
    name = f"load_masked_{ty.count}_{SIZES['f32' if ty.element == F32 else 'bf16']}"
    return ir_apart(b, name, partial(_load_apart, ty), b.ptrtoint(p, I64), _bits_of(b, mask), returns=ty)


def _bits_of(b: Builder, mask: Value) -> Value:
    return b.zext(b.bitcast(mask, ir.IntType(mask.type.count)), I64)


def _mask_of(b: Builder, bits: Value, count: int) -> tuple[Value, Value]:
    """A mask from its bits, and whether it is of all lanes."""
    mask = b.bitcast(b.trunc(bits, ir.IntType(count)), ir.VectorType(I1, count))
    return mask, b.icmp_unsigned("==", bits, c64((1 << count) - 1))


def _load_masked(b: Builder, p: Value, ty: Any, mask: Value) -> Value:
    name = f"llvm.masked.load.v{ty.count}{'f32' if ty.element == F32 else 'i16'}.p0"
    align = ir.Constant(I32, 4 if ty.element == F32 else 2)
    return b.call(ext(b, name, ty, [p.type, I32, mask.type, ty]), [p, align, mask, ir.Constant(ty, None)])


def _load_apart(ty: Any, b: Builder, addr: Value, bits: Value) -> Value:
    p, (mask, whole) = bare_ptr(b, addr, ty), _mask_of(b, bits, ty.count)
    align = 4 if ty.element == F32 else 2
    (v,) = ir_choose(b, whole, lambda: [b.load(p, align=align)], lambda: [_load_masked(b, p, ty, mask)])
    return v


def ir_prefetch(b: Builder, addr: Value, near: int = 3) -> None:
    """Ask for the cache line at an address, read once: soon (3), or some time later (2); any address is allowed."""
    p = bare_ptr(b, addr, F32)
    f = ext(b, "llvm.prefetch.p0", ir.VoidType(), [p.type, I32, I32, I32])
    b.call(f, [p, *(ir.Constant(I32, v) for v in (0, near, 1))])


def ir_store(b: Builder, v: Value, addr: Value, mask: Value | None = None) -> None:
    """Store values (of any type, or one), or those float32 of the mask."""
    p = ptr(b, addr, v.type, mask)
    if mask is None:
        b.store(v, p, align=4 if v.type == V else 1)
    elif masked_moves(v.type.count):
        _store_masked(b, v, p, mask)
    else:
        ir_apart(b, f"store_masked_{v.type.count}", _store_apart, v, b.ptrtoint(p, I64), _bits_of(b, mask))


def _store_masked(b: Builder, v: Value, p: Value, mask: Value) -> None:
    f = ext(b, f"llvm.masked.store.v{v.type.count}f32.p0", ir.VoidType(), [v.type, p.type, I32, mask.type])
    b.call(f, [v, p, ir.Constant(I32, 4), mask])


def _store_apart(b: Builder, v: Value, addr: Value, bits: Value) -> None:
    p, (mask, whole) = bare_ptr(b, addr, v.type), _mask_of(b, bits, v.type.count)

    def all_of_it() -> list[Value]:
        b.store(v, p, align=4)
        return []

    def some() -> list[Value]:
        _store_masked(b, v, p, mask)
        return []

    ir_choose(b, whole, all_of_it, some)


def ir_to_bf16(b: Builder, v: Value) -> Value:
    """float32 -> bfloat16 bits, to nearest, ties to even; a NaN stays one."""
    bits = b.bitcast(v, VI)
    odd = b.and_(b.lshr(bits, const(VI, [16] * N)), const(VI, [1] * N))
    rounded = b.lshr(b.add(b.add(bits, const(VI, [0x7FFF] * N)), odd), const(VI, [16] * N))
    return b.trunc(b.select(b.fcmp_unordered("uno", v, v), const(VI, [0x7FC0] * N), rounded), VH)


def ir_to_whole(b: Builder, v: Value, most: float = 127.0) -> Value:
    """Whole numbers -most .. most nearest to v, as int32; also after a NaN the same everywhere."""
    v = ir_rint(b, v)
    for sign, edge in ((">", -most), ("<", most)):
        v = b.select(b.fcmp_ordered(sign, v, const(V, [edge] * N)), v, const(V, [edge] * N))
    return b.fptosi(v, VI)


def ir_fold(b: Builder, vs: Sequence[Value], join: Callable[[Value, Value], Value] | None = None) -> Value:
    """THE reduction tree, for 1, 2, 4, 8 or 16 accumulators at once: value i of the result is the fold of vs[i].

    One accumulator: x[i] + x[i+8], then +4, +2, +1. Several share the shuffles; each keeps exactly that tree. `join`:
    what takes the place of the float32 sum.
    """
    join = b.fadd if join is None else join
    vs, g = list(vs), N
    while g > 1:
        h, width = g // 2, vs[0].type.count
        pairs = list(zip(vs[::2], vs[1::2], strict=True)) if len(vs) > 1 else [(vs[0], vs[0])]
        span = 2 * width if len(vs) > 1 else width
        low = [s + j for s in range(0, span, g) for j in range(h)]
        vs = [join(shuffle(b, x, y, low), shuffle(b, x, y, [i + h for i in low])) for x, y in pairs]
        g = h
    return vs[0]


#: x86-64's MXCSR as a process begins: to nearest, denormals are numbers, every exception masked. FPCR of aarch64: 0.
USUAL_MXCSR = 0x1F80


def ir_mode(b: Builder, mxcsr: int = USUAL_MXCSR, fpcr: int = 0) -> Value:
    """Set this thread's rounding and denormal mode, by default IEEE 754's; the mode that it had, int64.

    No call that computes may be pasted in between this and `ir_restore_mode`: LLVM does not know that the mode matters.
    Where the CPU is neither x86-64 nor aarch64, nothing is done, and the mode is the caller's.
    """
    if machine() == "x86_64":
        slot = cgutils.alloca_once(b, I32)
        b.call(ext(b, "llvm.x86.sse.stmxcsr", ir.VoidType(), [slot.type]), [slot])
        mode = b.zext(b.load(slot), I64)
        ir_restore_mode(b, c64(mxcsr))
        return mode
    if machine() == "aarch64":
        mode = b.call(ext(b, "llvm.aarch64.get.fpcr", I64, []), [])
        ir_restore_mode(b, c64(fpcr))
        return mode
    return c64(0)


def ir_restore_mode(b: Builder, mode: Value) -> None:
    """Set what `ir_mode` returned."""
    if machine() == "x86_64":
        slot = cgutils.alloca_once(b, I32)
        b.store(b.trunc(mode, I32), slot)
        b.call(ext(b, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [slot.type]), [slot])
    elif machine() == "aarch64":
        b.call(ext(b, "llvm.aarch64.set.fpcr", ir.VoidType(), [I64]), [mode])
