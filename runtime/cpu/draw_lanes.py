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
from .emitters import F32, F64, I32, VI, N, V, alike, const, ext, ir_below, ir_load, ir_splat, ptr
from .flow import I64, c64, ir_choose
from .lanes import each, f32, i64, lanes, op, void
from .target import draw_lanes

if TYPE_CHECKING:
    from .flow import Builder, Value

f64 = types.float64
I128 = ir.IntType(128)
VQ = ir.VectorType(I64, N)
#: Scores that `weigh_many` and its like take: as many as hide how long the polynomial's steps wait for one another.
MANY = draw_lanes()
SCORES = ir.VectorType(F32, MANY)
#: Added to a small number, it leaves the nearest whole one in the lowest bits.
ROUNDS = 1.5 * 2.0**52
MANTISSA = 52
#: Beyond these a temperature makes the same weights: those of scores that differ are none, or alike.
LEAST, MOST = 1e-100, 1e100
#: 2^this of the largest is no weight, whatever its unit.
NONE = -64.0
#: Of r for 2^r, |r| <= 1/2, from the highest power on: the polynomial through it at Chebyshev's points.
POWERS = (
    1.5303701023152426e-05, 1.5469729215637713e-04, 1.3333478472326247e-03, 9.618025613309008e-03,
    5.5504109063275894e-02, 2.4022651213498245e-01, 6.931471805568318e-01, 9.999999999595618e-01,
)  # fmt: skip
#: 2^-this of it is how far it is off at most.
NEARLY = 34


def _bits(b: Builder, mask: Value) -> Value:
    """A mask of 64 lanes at most, as an int64."""
    bits = b.bitcast(mask, ir.IntType(mask.type.count))
    return bits if mask.type.count == I64.width else b.zext(bits, I64)


def ir_exp(b: Builder, x: Value, unit: Value) -> Value:
    """`sampling.exp` times 2^unit."""
    rounds, integers = alike(x.type, ROUNDS), ir.VectorType(I64, x.type.count)
    shifted = b.fadd(b.fmul(x, alike(x.type, PER_LN2)), rounds)
    k = b.fsub(shifted, rounds)
    r = b.fsub(x, b.fmul(k, alike(x.type, LN2_HIGH)))
    r = b.fsub(r, b.fmul(k, alike(x.type, LN2_LOW)))
    t = b.fmul(r, alike(x.type, TAYLOR[0]))
    for coefficient in TAYLOR[1:-1]:
        t = b.fmul(b.fadd(t, alike(x.type, coefficient)), r)
    t = b.fadd(t, alike(x.type, TAYLOR[-1]))
    power = b.shl(b.add(b.bitcast(shifted, integers), ir_splat(b, unit, x.type.count)), alike(integers, MANTISSA))
    return b.bitcast(b.add(b.bitcast(t, integers), power), x.type)


def ir_divided(b: Builder, a: Value, divisor: Value) -> Value:
    """`a / divisor`, rounded as a division is, without one: lanes have few dividers.

    The product with the rounded reciprocal is one and a half units off at most, the first correction leaves less than
    one, and the second the nearest number (Markstein 1990, IBM J. Res. Dev. 34-1). The divisor is 1e-100 to 1e100.
    """
    count = a.type.count
    fma = ext(b, f"llvm.fma.v{count}f64", a.type, [a.type] * 3)
    less = ir_splat(b, b.fneg(divisor), count)
    reciprocal = ir_splat(b, b.fdiv(ir.Constant(F64, 1.0), divisor), count)
    q = b.fmul(a, reciprocal)
    for _ in range(2):
        q = b.call(fma, [b.call(fma, [less, q, a]), reciprocal, q])
    return q


def ir_weigh(
    b: Builder, v: Value, here: Value | None, top: Value, floor: Value, temperature: Value, unit: Value, out: Value
) -> Value:
    """Store weights of scores, int64, and return their sum. Absent ones, and those below the floor, have none."""
    count = v.type.count
    doubles, integers = ir.VectorType(F64, count), ir.VectorType(I64, count)
    wide = b.fsub(b.fpext(v, doubles), ir_splat(b, b.fpext(top, F64), count))
    least, most = ir.Constant(F64, LEAST), ir.Constant(F64, MOST)
    within = b.select(b.fcmp_ordered(">", temperature, least), temperature, least)
    exponent = ir_divided(b, wide, b.select(b.fcmp_ordered("<", within, most), within, most))
    alive = b.and_(b.fcmp_ordered(">=", v, ir_splat(b, floor, count)),
                   b.fcmp_ordered(">=", exponent, alike(doubles, NEGLIGIBLE)))  # fmt: skip
    alive = alive if here is None else b.and_(here, alive)
    none = ir.Constant(integers, None)

    def weighed() -> list[Value]:
        e = ir_exp(b, b.select(alive, exponent, ir.Constant(doubles, None)), unit)
        whole = b.call(ext(b, f"llvm.nearbyint.v{count}f64", doubles, [doubles]), [e])
        return [b.select(alive, b.fptosi(whole, integers), none)]

    (weights,) = ir_choose(b, b.icmp_unsigned("!=", _bits(b, alive), c64(0)), weighed, lambda: [none])
    b.store(weights, ptr(b, out, integers), align=8)
    return _total(b, weights)


def _total(b: Builder, v: Value) -> Value:
    return b.call(ext(b, f"llvm.vector.reduce.add.v{v.type.count}i64", I64, [v.type]), [v])


@op(i64, i64, i64, f32, f32, f64, i64, i64)
def weigh(b, x, n, largest, floor, temperature, unit, out):
    """Store weights of scores at x, int64; their sum. Those below the floor have none."""
    here = ir_below(b, n)
    return ir_weigh(b, ir_load(b, x, mask=here), here, largest, floor, temperature, unit, out)


@op(i64, i64, f32, f32, f64, i64, i64)
def weigh_many(b, x, largest, floor, temperature, unit, out):
    """As `weigh`, of MANY."""
    return ir_weigh(b, b.load(ptr(b, x, SCORES), align=4), None, largest, floor, temperature, unit, out)


def ir_power(b: Builder, y: Value) -> Value:
    """2^y, nearly, for -1000 <= y <= 1000."""
    rounds, integers = alike(y.type, ROUNDS), ir.VectorType(I64, y.type.count)
    fma = ext(b, f"llvm.fma.v{y.type.count}f64", y.type, [y.type] * 3)
    shifted = b.fadd(y, rounds)
    r, t = b.fsub(y, b.fsub(shifted, rounds)), alike(y.type, POWERS[0])
    for coefficient in POWERS[1:]:
        t = b.call(fma, [t, r, alike(y.type, coefficient)])
    power = b.shl(b.bitcast(shifted, integers), alike(integers, MANTISSA))
    return b.bitcast(b.add(b.bitcast(t, integers), power), y.type)


def ir_weigh_near(
    b: Builder, v: Value, here: Value | None, top: Value, floor: Value, pace: Value, unit: Value, out: Value
) -> Value:
    """As `ir_weigh`, but nearly. `pace`: log2(e) for a temperature."""
    count = v.type.count
    doubles, integers = ir.VectorType(F64, count), ir.VectorType(I64, count)
    y = b.fmul(b.fsub(b.fpext(v, doubles), ir_splat(b, b.fpext(top, F64), count)), ir_splat(b, pace, count))
    alive = b.and_(b.fcmp_ordered(">=", v, ir_splat(b, floor, count)),
                   b.fcmp_ordered(">=", y, alike(doubles, NEGLIGIBLE * PER_LN2)))  # fmt: skip
    alive = alive if here is None else b.and_(here, alive)
    none = ir.Constant(integers, None)

    def weighed() -> list[Value]:
        e = ir_power(b, b.fadd(b.select(alive, y, alike(doubles, NONE)), ir_splat(b, b.sitofp(unit, F64), count)))
        return [b.fptosi(e, integers)]

    (weights,) = ir_choose(b, b.icmp_unsigned("!=", _bits(b, alive), c64(0)), weighed, lambda: [none])
    b.store(weights, ptr(b, out, integers), align=8)
    return _total(b, weights)


@op(i64, i64, i64, f32, f32, f64, i64, i64)
def weigh_near(b, x, n, largest, floor, pace, unit, out):
    """As `weigh`, in half the time, but each weight may be off: by 2^-NEARLY of it and some two units."""
    here = ir_below(b, n)
    return ir_weigh_near(b, ir_load(b, x, mask=here), here, largest, floor, pace, unit, out)


@op(i64, i64, f32, f32, f64, i64, i64)
def weigh_near_many(b, x, largest, floor, pace, unit, out):
    """As `weigh_near`, of MANY."""
    return ir_weigh_near(b, b.load(ptr(b, x, SCORES), align=4), None, largest, floor, pace, unit, out)


def ir_level(b: Builder, v: Value, start: Value, scale: Value) -> Value:
    """int32 lanes: 0 from `start` on, to LEVELS - 1; of two scores the lower has no lower level."""
    depth, zeros = ir_depth(b, v, start, scale), ir.Constant(ir.VectorType(I32, v.type.count), None)
    deepest = alike(v.type, float(LEVELS - 1))
    level = b.fptosi(b.select(b.fcmp_ordered("<", depth, deepest), depth, deepest), zeros.type)
    return b.select(b.icmp_signed(">", level, zeros), level, zeros)


def ir_depth(b: Builder, v: Value, start: Value, scale: Value) -> Value:
    """How many levels below the start."""
    return b.fmul(b.fsub(ir_splat(b, start, v.type.count), v), ir_splat(b, scale, v.type.count))


def ir_on_levels(b: Builder, v: Value, here: Value | None, start: Value, scale: Value) -> Value:
    """Mask of scores that are neither above the start nor on the last level."""
    chosen = b.and_(
        b.fcmp_ordered("<=", v, ir_splat(b, start, v.type.count)),
        b.fcmp_ordered("<", ir_depth(b, v, start, scale), alike(v.type, float(LEVELS - 1))),
    )
    return _bits(b, chosen if here is None else b.and_(here, chosen))


@op(void, i64, i64, f32, f32, i64)
def store_levels(b, x, n, start, scale, out):
    """Levels of scores at x, int32; of absent ones that of zero."""
    b.store(ir_level(b, ir_load(b, x, mask=ir_below(b, n)), start, scale), ptr(b, out, VI), align=4)


@op(i64, i64, i64, f32, f32)
def on_levels(b, x, n, start, scale):
    """Mask of scores at x that are neither above the start nor on the last level."""
    here = ir_below(b, n)
    return ir_on_levels(b, ir_load(b, x, mask=here), here, start, scale)


@op(i64, i64, f32, f32)
def on_levels_many(b, x, start, scale):
    """As `on_levels`, of MANY."""
    return ir_on_levels(b, b.load(ptr(b, x, SCORES), align=4), None, start, scale)


def ir_on_level(b: Builder, v: Value, here: Value | None, start: Value, scale: Value, level: Value) -> Value:
    """Mask of scores that have this level."""
    v = ir_level(b, v, start, scale)
    chosen = b.icmp_signed("==", v, ir_splat(b, b.trunc(level, I32), v.type.count))
    return _bits(b, chosen if here is None else b.and_(here, chosen))


@op(i64, i64, i64, f32, f32, i64)
def on_level(b, x, n, start, scale, level):
    """Mask of scores at x that have this level."""
    here = ir_below(b, n)
    return ir_on_level(b, ir_load(b, x, mask=here), here, start, scale, level)


@op(i64, i64, f32, f32, i64)
def on_level_many(b, x, start, scale, level):
    """As `on_level`, of MANY."""
    return ir_on_level(b, b.load(ptr(b, x, SCORES), align=4), None, start, scale, level)


def ir_weight_above(b: Builder, w: Value, v: Value, here: Value | None, bound: Value, least: Value) -> Value:
    """The sum of weights, those that are `least` at least, of scores above the bound."""
    count = v.type.count
    chosen = b.and_(
        b.fcmp_ordered(">", v, ir_splat(b, bound, count)), b.icmp_signed(">=", w, ir_splat(b, least, count))
    )
    chosen = chosen if here is None else b.and_(here, chosen)
    return _total(b, b.select(chosen, w, ir.Constant(w.type, None)))


@op(i64, i64, i64, i64, f32, i64)
def weight_above(b, weights, x, n, bound, least):
    here = ir_below(b, n)
    return ir_weight_above(b, b.load(ptr(b, weights, VQ), align=8), ir_load(b, x, mask=here), here, bound, least)


@op(i64, i64, i64, f32, i64)
def weight_above_many(b, weights, x, bound, least):
    w = b.load(ptr(b, weights, ir.VectorType(I64, MANY)), align=8)
    return ir_weight_above(b, w, b.load(ptr(b, x, SCORES), align=4), None, bound, least)


@op(i64, i64, i64, f32)
def equal_to(b, x, n, bound):
    """Mask of scores at x that are the bound."""
    here = ir_below(b, n)
    return _bits(b, b.and_(here, b.fcmp_ordered("==", ir_load(b, x, mask=here), ir_splat(b, bound))))


@op(i64, i64, f32)
def equal_to_many(b, x, bound):
    return _bits(b, b.fcmp_ordered("==", b.load(ptr(b, x, SCORES), align=4), ir_splat(b, bound, MANY)))


@each(lanes, f32)
def finite_or(b, v, other):
    """Lanes below +inf, `other` in the place of the rest."""
    return b.select(b.fcmp_ordered("<", v, const(v.type, [float("inf")] * v.type.count)),
                    v, ir_splat(b, other, v.type.count))  # fmt: skip


@op(lanes, lanes, i64)
def allowed(b, v, at):
    """Lanes whose bit is set among the sixteen at `at`, -inf in the place of the rest."""
    bits = b.bitcast(b.load(ptr(b, at, ir.IntType(N)), align=2), ir.VectorType(ir.IntType(1), N))
    return b.select(bits, v, const(V, [float("-inf")] * N))


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


@op(i64, f64)
def double_bits(b, v):
    return b.bitcast(v, I64)


@op(f64, f64)
def nearest(b, v):
    """The nearest whole number; of two, the even one."""
    return b.call(ext(b, "llvm.nearbyint.f64", F64, [F64]), [v])


@op(void, i64, i64)
def st_i32(b, a, v):
    b.store(b.trunc(v, I32), ptr(b, a, I32), align=4)


@op(i64, i64)
def ld_u32(b, a):
    return b.zext(b.load(ptr(b, a, I32), align=4), I64)
