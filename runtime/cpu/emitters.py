"""Emitters: functions that write LLVM IR for sixteen virtual float32 lanes; tiles and operations are made of them.

`<16 x float>` lowers to one AVX-512 register, two of AVX2, four of SSE or NEON, always with the same bits: no fastmath,
every fused multiply-add explicit. Addresses are int64; loads and stores need no alignment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.core import cgutils

from ..ops import FAST
from . import target
from .environment import debugging
from .layout import INSIDE
from .target import machine, native_half

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
N = 16
V, VI, VH, VB, VM = (ir.VectorType(t, N) for t in (F32, I32, I16, I8, I1))
PAIRS = ir.VectorType(I16, 2 * N)
SIZES = {"f32": 4, "bf16": 2, "f16": 2, FAST: 2}

Builder = Any
Value = Any


def c64(v: int) -> Value:
    """int64 constant."""
    return ir.Constant(I64, v)


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
    """Mask of lanes < n, of `count`."""
    return b.icmp_signed("<", const(ir.VectorType(I64, count), range(count)), ir_splat(b, n, count))


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
    if mask is None:
        v = b.load(p, align=SIZES[kind])
    else:
        name = "llvm.masked.load.v16f32.p0" if kind == "f32" else "llvm.masked.load.v16i16.p0"
        absent = ZERO if kind == "f32" else ir.Constant(ty, None)
        v = b.call(ext(b, name, ty, [p.type, I32, VM, ty]), [p, ir.Constant(I32, SIZES[kind]), mask, absent])
    return ir_widen(b, v, kind)


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
    else:
        name = f"llvm.masked.store.v{v.type.count}f32.p0"
        f = ext(b, name, ir.VoidType(), [v.type, p.type, I32, mask.type])
        b.call(f, [v, p, ir.Constant(I32, 4), mask])


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


def ir_loop(b: Builder, start: Value, stop: Value, step: int, accs: Sequence[Value],
            body: Callable[[Value, list[Value]], list[Value]]) -> list[Value]:  # fmt: skip
    """`for k in range(start, stop, step): accs = body(k, accs)`; the final accs."""
    f, before = b.function, b.block
    head, blk, end = (f.append_basic_block(s) for s in ("head", "body", "end"))
    b.branch(head)
    b.position_at_end(head)
    k = b.phi(I64)
    k.add_incoming(start, before)
    phis = [b.phi(a.type) for a in accs]
    for p, a in zip(phis, accs, strict=True):
        p.add_incoming(a, before)
    b.cbranch(b.icmp_signed("<", k, stop), blk, end)
    b.position_at_end(blk)
    new = body(k, phis)
    k.add_incoming(b.add(k, c64(step)), b.block)
    for p, a in zip(phis, new, strict=True):
        p.add_incoming(a, b.block)
    b.branch(head)
    b.position_at_end(end)
    return phis


def ir_choose(b: Builder, condition: Value, yes: Callable[[], list[Value]],
              no: Callable[[], list[Value]]) -> list[Value]:  # fmt: skip
    """`yes() if condition else no()`: as many values, of the same types."""
    f = b.function
    blocks, end, ways = [f.append_basic_block(s) for s in ("yes", "no")], f.append_basic_block("end"), []
    b.cbranch(condition, *blocks)
    for block, emit in zip(blocks, (yes, no), strict=True):
        b.position_at_end(block)
        ways.append((emit(), b.block))
        b.branch(end)
    b.position_at_end(end)
    phis = [b.phi(v.type) for v in ways[0][0]]
    for values, block in ways:
        for phi, v in zip(phis, values, strict=True):
            phi.add_incoming(v, block)
    return phis


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


def ir_apart(b: Builder, name: str, f: Callable[..., None], *args: Value) -> None:
    """Call what `f` emits, of int64 arguments, as a function of its own.

    Where kernels are compiled ahead they share it: the first that calls it holds it.
    """
    name, linkage, here = target.apart(name)
    fn = cgutils.get_or_insert_function(b.module, ir.FunctionType(ir.VoidType(), [I64] * len(args)), name)
    if fn.is_declaration and here:
        fn.linkage = linkage
        fn.attributes.add("noinline")
        inner = ir.IRBuilder(fn.append_basic_block())
        f(inner, *fn.args)
        inner.ret_void()
    b.call(fn, args)


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
