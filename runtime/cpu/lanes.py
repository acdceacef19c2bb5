"""Sixteen virtual float32 lanes for Numba, or several sixteens at once, and the operations on them that kernels call.

They are made of `emitters.py`, which says how lanes lower. An operation with a count `n` touches lanes below `n` only;
absent lanes load as +0. What takes many dependent steps (an activation) is done for `WIDE` lanes at once, so that a
step of one sixteen does not wait for the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from .emitters import (
    F32,
    I8,
    I32,
    VB,
    ZERO,
    N,
    alike,
    as_ints,
    bare_ptr,
    ext,
    ir_below,
    ir_fma,
    ir_fold,
    ir_larger_size,
    ir_largest_size,
    ir_load,
    ir_mode,
    ir_prefetch,
    ir_repeat,
    ir_restore_mode,
    ir_rint,
    ir_splat,
    ir_store,
    ir_to_bf16,
    ir_to_whole,
    ptr,
    shuffle,
)
from .flow import I64, Builder, Value, ir_apart
from .target import machine, wide_lanes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


class Lanes(types.Type):
    """Numba's name for a vector of float32."""

    def __init__(self, count: int) -> None:
        super().__init__(name=f"lanes{count}f32")
        self.count = count


WIDE = wide_lanes()
lanes, wide = Lanes(N), Lanes(WIDE)


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    """Lanes live in registers, as an LLVM vector of as many floats."""

    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(F32, fe_type.count))


i64, f32, void = types.int64, types.float32, types.void


def _intrinsic(f: Callable[..., Any], count: int, signed: Callable[..., Any]) -> Any:
    """A Numba intrinsic from an emitter f(builder, *values); `signed`: its signature, from the arguments' types.

    Intrinsics want fixed arity, hence the exec.
    """
    names = ", ".join(f"a{i}" for i in range(count))
    scope: dict[str, Any] = {"signed": signed, "f": f}
    source = (
        f"def {f.__name__}(typingctx, {names}):\n    def codegen(ctx, b, s, a):\n        r = f(b, *a)\n"
        f"        return ctx.get_dummy_value() if r is None else r\n    return signed({names}), codegen"
    )
    exec(source, scope)  # noqa: S102 (our own text; the arity is the only thing that varies)
    return intrinsic(scope[f.__name__])


def op(ret: Any, *args: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make an operation of these types from an emitter f(builder, *values)."""
    return lambda f: _intrinsic(f, len(args), lambda *_: ret(*args))


def each(*args: Any) -> Callable[[Callable[..., Any]], Any]:
    """As `op`, of what every lane does alone: for `lanes` or for `wide`, whichever it is given.

    Where it is given both, sixteen lanes stand for as many of them as the wide ones have: they are a number's splat.
    """

    def deco(f: Callable[..., Any]) -> Any:
        def signed(*given: Any) -> Any:
            own = [given[i] if t is lanes else t for i, t in enumerate(args)]
            return max((t for t in own if isinstance(t, Lanes)), key=lambda t: t.count)(*own)

        def widened(b: Builder, *values: Value) -> Value:
            count = max(v.type.count for v, t in zip(values, args, strict=True) if t is lanes)
            return f(b, *(ir_repeat(b, v, count) if t is lanes else v for v, t in zip(values, args, strict=True)))

        widened.__name__ = f.__name__
        return _intrinsic(widened, len(args), signed)

    return deco


def outlined(name: str, n_args: int, by: Collection[str] = ()) -> Callable[[Callable[..., None]], Any]:
    """Make an operation of int64 arguments from an emitter, compiled as a function of its own (`ir_apart`).

    Pasted into a large kernel, a loop shares the registers with all that surrounds it, and its addresses are spilled.
    """

    def deco(f: Callable[..., None]) -> Any:
        def call(b: Builder, *args: Value) -> None:
            ir_apart(b, name, f, *args, by=by)

        call.__name__ = f.__name__
        return op(void, *[i64] * n_args)(call)

    return deco


@op(lanes, i64)
def load(b, a):
    return ir_load(b, a)


@op(wide, i64)
def load_wide(b, a):
    return b.load(ptr(b, a, ir.VectorType(F32, WIDE)), align=4)


@op(void, i64, wide)
def store_wide(b, a, v):
    b.store(v, ptr(b, a, v.type), align=4)


@op(lanes, i64)
def load_bf16(b, a):
    return ir_load(b, a, "bf16")


@op(lanes, i64)
def load_f16(b, a):
    return ir_load(b, a, "f16")


@op(lanes, i64, i64)
def load_tail(b, a, n):
    return ir_load(b, a, mask=ir_below(b, n))


@op(lanes, i64, i64)
def load_tail_bf16(b, a, n):
    return ir_load(b, a, "bf16", ir_below(b, n))


@op(lanes, i64, i64)
def load_tail_f16(b, a, n):
    return ir_load(b, a, "f16", ir_below(b, n))


@op(void, i64, lanes)
def store(b, a, v):
    ir_store(b, v, a)


@op(void, i64, lanes, i64)
def store_tail(b, a, v, n):
    ir_store(b, v, a, ir_below(b, n))


@op(void, i64, lanes)
def store_bf16(b, a, v):
    ir_store(b, ir_to_bf16(b, v), a)


@op(void, i64, lanes)
def store_int8(b, a, v):
    ir_store(b, b.trunc(ir_to_whole(b, v), VB), a)


@op(void, i64, f32)
def st_bf16(b, a, x):
    ir_store(b, b.extract_element(ir_to_bf16(b, ir_splat(b, x)), ir.Constant(I32, 0)), a)


@op(void, i64, f32)
def st_int8(b, a, x):
    ir_store(b, b.trunc(b.extract_element(ir_to_whole(b, ir_splat(b, x)), ir.Constant(I32, 0)), I8), a)


@op(lanes)
def zero(b):
    return ZERO


@op(lanes, f32)
def splat(b, x):
    return ir_splat(b, x)


@each(lanes, lanes, lanes)
def fma(b, x, y, z):
    return ir_fma(b, x, y, z)


@each(lanes, lanes)
def add(b, x, y):
    return b.fadd(x, y)


@each(lanes, lanes)
def sub(b, x, y):
    return b.fsub(x, y)


@each(lanes, lanes)
def mul(b, x, y):
    return b.fmul(x, y)


@each(lanes, lanes)
def div(b, x, y):
    return b.fdiv(x, y)


@each(lanes, lanes)
def maximum(b, x, y):
    """X where x > y, else y: where one of them is NaN, y."""
    return b.select(b.fcmp_ordered(">", x, y), x, y)


@each(lanes, lanes)
def minimum(b, x, y):
    """X where x < y, else y: where one of them is NaN, y."""
    return b.select(b.fcmp_ordered("<", x, y), x, y)


@each(lanes, lanes)
def nan_or(b, x, y):
    """X where it is NaN, else y."""
    return b.select(b.fcmp_unordered("uno", x, x), x, y)


@each(lanes, f32, lanes, lanes)
def where_below(b, x, limit, y, other):
    """Lanes of y where x < limit or x is NaN, of `other` elsewhere."""
    return b.select(b.fcmp_unordered("<", x, ir_splat(b, limit, x.type.count)), y, other)


@op(lanes, lanes, lanes)
def larger_size(b, x, y):
    """The larger of two that `absolute` made; where one of them is NaN, NaN."""
    return ir_larger_size(b, x, y)


@each(lanes)
def absolute(b, x):
    bits = as_ints(b, x)
    return b.bitcast(b.and_(bits, alike(bits.type, 0x7FFFFFFF)), x.type)


@each(lanes, lanes)
def copysign(b, x, y):
    size, sign = as_ints(b, x), as_ints(b, y)
    keep, top = alike(size.type, 0x7FFFFFFF), alike(size.type, -0x80000000)
    return b.bitcast(b.or_(b.and_(size, keep), b.and_(sign, top)), x.type)


@op(lanes, lanes, i64, i64, f32)
def between(b, v, lo, hi, other):
    """Lanes lo <= i < hi of v, `other` elsewhere."""
    inside = b.and_(ir_below(b, hi), b.not_(ir_below(b, lo)))
    return b.select(inside, v, ir_splat(b, other))


@op(f32, lanes)
def fold(b, v):
    return b.extract_element(ir_fold(b, [v]), ir.Constant(I32, 0))


@op(f32, lanes)
def largest(b, v):
    """Of lanes that are numbers."""
    for h in (8, 4, 2, 1):
        lo, hi = shuffle(b, v, v, range(h)), shuffle(b, v, v, range(h, 2 * h))
        v = b.select(b.fcmp_ordered(">", lo, hi), lo, hi)
    return b.extract_element(v, ir.Constant(I32, 0))


@op(f32, lanes)
def largest_size(b, v):
    """Of lanes that `absolute` made; NaN where one of them is."""
    return ir_largest_size(b, v)


@each(lanes)
def rint(b, v):
    return ir_rint(b, v)


@each(lanes)
def pow2(b, v):
    """2^v for whole v in [-126, 127]; of NaN some number, where a conversion to an integer would be undefined."""
    low_bits = as_ints(b, b.fadd(v, alike(v.type, 1.5 * 2.0**23)))  # v + 127 in the lowest nine, once that is added
    bits = b.shl(b.add(low_bits, alike(low_bits.type, 127)), alike(low_bits.type, 23))
    return b.bitcast(bits, v.type)


@op(i64, i64)
def ld(b, a):
    return b.load(ptr(b, a, I64), align=8)


@op(void, i64, i64)
def st(b, a, v):
    b.store(v, ptr(b, a, I64), align=8)


@op(i64, i64)
def ld_i32(b, a):
    return b.sext(b.load(ptr(b, a, I32), align=4), I64)


@op(f32, i64)
def ldf(b, a):
    return b.load(ptr(b, a, F32), align=4)


@op(void, i64, f32)
def stf(b, a, v):
    b.store(v, ptr(b, a, F32), align=4)


@op(void, i64)
def prefetch(b, a):
    ir_prefetch(b, a)


@op(i64, i64)
def peek(b, a):
    """`ld` and `st` of the team's own words."""
    return b.load(bare_ptr(b, a, I64), align=8)


@op(void, i64, i64)
def poke(b, a, v):
    b.store(v, bare_ptr(b, a, I64), align=8)


@op(i64, i64)
def atomic_load(b, a):
    """All of them are sequentially consistent: what a thread stores is seen before what it loads afterwards."""
    return b.load_atomic(bare_ptr(b, a, I64), "seq_cst", 8)


@op(void, i64, i64)
def atomic_store(b, a, v):
    b.store_atomic(v, bare_ptr(b, a, I64), "seq_cst", 8)


@op(i64, i64, i64)
def atomic_swap(b, a, v):
    """Store v; what was there."""
    return b.atomic_rmw("xchg", bare_ptr(b, a, I64), v, "seq_cst")


@op(i64, i64, i64, i64)
def atomic_claim(b, a, old, new):
    """Store `new` where `old` is; 1 if it was."""
    both = b.cmpxchg(bare_ptr(b, a, I64), old, new, "seq_cst", "seq_cst")
    return b.zext(b.extract_value(both, 1), I64)


@op(i64, i64, i64)
def atomic_add(b, a, v):
    """Add v; what was there."""
    return b.atomic_rmw("add", bare_ptr(b, a, I64), v, "seq_cst")


@op(void)
def pause(b):
    if machine() == "x86_64":
        b.call(ext(b, "llvm.x86.sse2.pause", ir.VoidType(), []), [])
    elif machine() == "aarch64":
        b.call(ext(b, "llvm.aarch64.hint", ir.VoidType(), [I32]), [ir.Constant(I32, 1)])


@op(i64)
def usual_mode(b):
    """Round to nearest, keep denormals, trap nothing, in this thread; the mode before, for `restore_mode`."""
    return ir_mode(b)


@op(void, i64)
def restore_mode(b, mode):
    ir_restore_mode(b, mode)


@op(void, i64, i64, i64, i64, i64, i64)
def call_kernel(b, fn, p, base, step, t, nt):
    """An instruction's first slot is its kernel's address."""
    b.call(b.inttoptr(fn, ir.FunctionType(ir.VoidType(), [I64] * 5).as_pointer()), [p, base, step, t, nt])
