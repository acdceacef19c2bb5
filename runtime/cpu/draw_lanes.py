"""What the draw of an id does with sixteen scores or weights at once (`kernels/draw.py`).

Weights are the whole numbers of `sampling.py`, by its own polynomial in float64: no fused multiply-add, so that they
have NumPy's bits. Where a count `n` is given, lanes from it on are absent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir
from numba import types

from ..drawing import LEVELS
from ..sampling import LN2_HIGH, LN2_LOW, NEGLIGIBLE, PER_LN2, TAYLOR
from .emitters import I16, I32, I64, VI, N, V, c64, const, ext, ir_below, ir_choose, ir_load, ir_splat, ptr
from .lanes import each, f32, i64, lanes, op, void

if TYPE_CHECKING:
    from .emitters import Builder, Value

f64 = types.float64
F64, I128 = ir.DoubleType(), ir.IntType(128)
VD, VQ = ir.VectorType(F64, N), ir.VectorType(I64, N)
#: Added to a small number, it leaves the nearest whole one in the lowest bits.
ROUNDS = 1.5 * 2.0**52
MANTISSA = 52


def _all(value: float) -> Value:
    return const(VD, [value] * N)


def _bits(b: Builder, mask: Value) -> Value:
    return b.zext(b.bitcast(mask, I16), I64)


def ir_exp(b: Builder, x: Value, unit: Value) -> Value:
    """`sampling.exp` times 2^unit."""
    shifted = b.fadd(b.fmul(x, _all(PER_LN2)), _all(ROUNDS))
    k = b.fsub(shifted, _all(ROUNDS))
    r = b.fsub(x, b.fmul(k, _all(LN2_HIGH)))
    r = b.fsub(r, b.fmul(k, _all(LN2_LOW)))
    t = b.fmul(r, _all(TAYLOR[0]))
    for coefficient in TAYLOR[1:-1]:
        t = b.fmul(b.fadd(t, _all(coefficient)), r)
    t = b.fadd(t, _all(TAYLOR[-1]))
    power = b.add(b.bitcast(shifted, VQ), ir_splat(b, unit))
    return b.bitcast(b.add(b.bitcast(t, VQ), b.shl(power, const(VQ, [MANTISSA] * N))), VD)


@op(i64, i64, i64, f32, f32, f64, i64, i64)
def weigh(b, x, n, largest, floor, temperature, unit, out):
    """Store weights of scores at x, int64; their sum. Those below the floor have none."""
    here = ir_below(b, n)
    v = ir_load(b, x, mask=here)
    wide, top = b.fpext(v, VD), ir_splat(b, b.fpext(largest, F64))
    exponent = b.fdiv(b.fsub(wide, top), ir_splat(b, temperature))
    alive = b.and_(b.and_(here, b.fcmp_ordered(">=", v, ir_splat(b, floor))),
                   b.fcmp_ordered(">=", exponent, _all(NEGLIGIBLE)))  # fmt: skip
    none = const(VQ, [0] * N)

    def weighed() -> list[Value]:
        e = ir_exp(b, b.select(alive, exponent, _all(0.0)), unit)
        whole = b.call(ext(b, f"llvm.nearbyint.v{N}f64", VD, [VD]), [e])
        return [b.select(alive, b.fptosi(whole, VQ), none)]

    (weights,) = ir_choose(b, b.icmp_unsigned("!=", _bits(b, alive), c64(0)), weighed, lambda: [none])
    b.store(weights, ptr(b, out, VQ), align=8)
    return _total(b, weights)


def _total(b: Builder, v: Value) -> Value:
    return b.call(ext(b, f"llvm.vector.reduce.add.v{N}i64", I64, [VQ]), [v])


def ir_level(b: Builder, v: Value, largest: Value, scale: Value) -> Value:
    """int32 lanes: from 0 for the largest to LEVELS - 1; of two scores the lower has no lower level."""
    depth = b.fmul(b.fsub(ir_splat(b, largest), v), ir_splat(b, scale))
    deepest = const(V, [float(LEVELS - 1)] * N)
    return b.fptosi(b.select(b.fcmp_ordered("<", depth, deepest), depth, deepest), VI)


@op(void, i64, i64, f32, f32, i64)
def store_levels(b, x, n, largest, scale, out):
    """Levels of scores at x, int32; of absent ones that of zero."""
    v = ir_level(b, ir_load(b, x, mask=ir_below(b, n)), largest, scale)
    low = b.select(b.icmp_signed(">", v, const(VI, [0] * N)), v, const(VI, [0] * N))
    b.store(low, ptr(b, out, VI), align=4)


@op(i64, i64, i64, f32, f32, i64)
def on_level(b, x, n, largest, scale, level):
    """Mask of scores at x that have this level."""
    here = ir_below(b, n)
    v = ir_level(b, ir_load(b, x, mask=here), largest, scale)
    return _bits(b, b.and_(here, b.icmp_signed("==", v, ir_splat(b, b.trunc(level, I32)))))


@op(i64, i64, i64, i64, f32, i64)
def weight_above(b, weights, x, n, bound, least):
    """The sum of weights, those that are `least` at least, of scores above the bound."""
    here = ir_below(b, n)
    w = b.load(ptr(b, weights, VQ), align=8)
    above = b.fcmp_ordered(">", ir_load(b, x, mask=here), ir_splat(b, bound))
    chosen = b.and_(b.and_(here, above), b.icmp_signed(">=", w, ir_splat(b, least)))
    return _total(b, b.select(chosen, w, const(VQ, [0] * N)))


@op(i64, i64, i64, f32)
def equal_to(b, x, n, bound):
    """Mask of scores at x that are the bound."""
    here = ir_below(b, n)
    return _bits(b, b.and_(here, b.fcmp_ordered("==", ir_load(b, x, mask=here), ir_splat(b, bound))))


@each(lanes, f32)
def finite_or(b, v, other):
    """Lanes below +inf, `other` in the place of the rest."""
    return b.select(b.fcmp_ordered("<", v, const(v.type, [float("inf")] * v.type.count)),
                    v, ir_splat(b, other, v.type.count))  # fmt: skip


@op(i64, i64)
def popcount(b, v):
    return b.call(ext(b, "llvm.ctpop.i64", I64, [I64]), [v])


@op(i64, i64)
def lowest_bit(b, v):
    """Number of the lowest bit that is set, of a mask that is not 0."""
    return b.call(ext(b, "llvm.cttz.i64", I64, [I64, ir.IntType(1)]), [v, ir.Constant(ir.IntType(1), 0)])


@op(i64, i64, i64)
def fraction(b, total, part):
    """Floor of total * part / 2^53, both at least 0."""
    product = b.mul(b.zext(total, I128), b.zext(part, I128))
    return b.trunc(b.lshr(product, ir.Constant(I128, 53)), I64)


@op(f64, i64)
def ld_f64(b, a):
    return b.load(ptr(b, a, F64), align=8)


@op(void, i64, i64)
def st_i32(b, a, v):
    b.store(b.trunc(v, I32), ptr(b, a, I32), align=4)


@op(i64, i64)
def ld_u32(b, a):
    return b.zext(b.load(ptr(b, a, I32), align=4), I64)
