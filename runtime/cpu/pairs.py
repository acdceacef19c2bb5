"""Products of BF16 by pairs, with the same bits on every CPU.

A lane holds a pair of numbers. Its sum takes the odd one first: `fma(x0, y0, fma(x1, y1, acc))`. Each step rounds once,
to nearest, ties to even, as if exponents had no lower end; what is then smaller than 2^-126 becomes a zero of its sign,
and so does a denormal number that comes in. AVX-512 BF16 does that by one instruction, x86-64 by plain multiply-adds
while `flush_mode` holds. aarch64 flushes a result by its size *before* it is rounded: what rounds up to 2^-126 is lost.
So it is asked afterwards whether it flushed any; if it did, the sums are made again, by steps that look (`careful`).
tests/test_bf16_dot.py draws what the rule says.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .emitters import (
    PAIRS,
    USUAL_MXCSR,
    VI,
    V,
    alike,
    as_ints,
    ext,
    ir_fma,
    ir_load_masked,
    ir_mode,
    ir_restore_mode,
    ptr,
)
from .flow import I64, Builder, Value, c64
from .lanes import i64, op
from .target import bf16_dot, machine, tells_flushes

__all__ = ["flush_mode", "ir_dot_pairs", "ir_load_pairs", "leave_flush_mode"]

#: Denormal results and operands are zeros: FTZ and DAZ of x86-64, FZ of aarch64. Where aarch64 says that it flushed.
MXCSR, FPCR, UNDERFLOW = USUAL_MXCSR | 0x8040, 1 << 24, 1 << 3
#: Below all that is flushed once it is scaled up: far enough that a step there rounds as if exponents had no lower end.
SCALE = 64


def ir_load_pairs(b: Builder, addr: Value, mask: Value | None = None) -> Value:
    """Thirty-two BF16 as they are; with a mask, absent ones are +0 and their memory is not touched."""
    p = ptr(b, addr, PAIRS, mask)
    return b.load(p, align=2) if mask is None else ir_load_masked(b, p, PAIRS, mask)


def ir_dot_pairs(b: Builder, acc: Value, x: Value, y: Value, *, careful: bool = False) -> Value:
    """Lane by lane acc + x[2l + 1] y[2l + 1] + x[2l] y[2l] of BF16; `careful`: looking at what aarch64 would flush."""
    if bf16_dot():
        return b.call(ext(b, "llvm.x86.avx512bf16.dpbf16ps.512", V, [V, PAIRS, PAIRS]), [acc, x, y])
    step = _careful_fma if careful or (machine() == "aarch64" and not tells_flushes()) else ir_fma
    x, y = b.bitcast(x, VI), b.bitcast(y, VI)
    (x1, y1), (x0, y0) = (
        [b.bitcast(part(v), V) for v in (x, y)]
        for part in (lambda v: b.and_(v, alike(VI, -0x10000)), lambda v: b.shl(v, alike(VI, 16)))
    )
    return step(b, x0, y0, step(b, x1, y1, acc))


def _careful_fma(b: Builder, x: Value, y: Value, z: Value) -> Value:
    """X * y + z in a flushing mode of aarch64's, and +-2^-126 where that is what it rounds to.

    The same sum times 2^64 shows it. Where a factor overflows by that, the sum is far from being flushed.
    """
    up = alike(V, 2.0 ** (SCALE // 2))
    scaled = ir_fma(b, b.fmul(x, up), b.fmul(y, up), b.fmul(z, alike(V, 2.0**SCALE)))
    size = b.bitcast(b.and_(as_ints(b, scaled), alike(VI, 0x7FFFFFFF)), V)
    least = b.fcmp_ordered("==", size, alike(V, 2.0 ** (SCALE - 126)))
    return b.select(least, b.fmul(scaled, alike(V, 2.0**-SCALE)), ir_fma(b, x, y, z))


@op(i64)
def flush_mode(b):
    """Let denormal numbers be zeros, in this thread; the mode before, for `leave_flush_mode`.

    In between only functions that are not inlined may compute: LLVM does not know that the mode matters.
    """
    mode = ir_mode(b, MXCSR, FPCR)
    if tells_flushes():
        flags = b.call(ext(b, "llvm.aarch64.get.fpsr", I64, []), [])
        _set_flags(b, b.and_(flags, c64(~UNDERFLOW)))
        mode = b.or_(mode, b.shl(b.and_(flags, c64(UNDERFLOW)), c64(32)))
    return mode


@op(i64, i64)
def leave_flush_mode(b, mode):
    """Set the mode that there was. Not 0: a result was flushed that other CPUs might have kept."""
    if not tells_flushes():
        ir_restore_mode(b, mode)
        return c64(0)
    flags = b.call(ext(b, "llvm.aarch64.get.fpsr", I64, []), [])
    _set_flags(b, b.or_(flags, b.lshr(mode, c64(32))))
    ir_restore_mode(b, b.and_(mode, c64(0xFFFFFFFF)))
    return b.and_(flags, c64(UNDERFLOW))


def _set_flags(b: Any, flags: Any) -> None:
    b.call(ext(b, "llvm.aarch64.set.fpsr", ir.VoidType(), [I64]), [flags])
