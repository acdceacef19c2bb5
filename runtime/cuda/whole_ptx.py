"""`whole.py` for numba-cuda: its primitives as LLVM and PTX, in `intrinsics.py`'s table."""

from __future__ import annotations

from llvmlite import ir
from numba.cuda import types

from .intrinsics import I8, I32, I64, VOID, _shared, asm, i64, op, void
from .tensor_ptx import BINDING

__all__ = ["BINDING"]

I128, F64, f64 = ir.IntType(128), ir.DoubleType(), types.float64


@op(void, i64, i64)
def add_i64(b, a, v):
    asm(b, "red.relaxed.gpu.global.add.u64 [$0], $1;", "l,l,~{memory}", VOID, a, v, effect=True)


@op(void, i64, i64)
def most_i64(b, a, v):
    asm(b, "red.relaxed.gpu.global.max.s64 [$0], $1;", "l,l,~{memory}", VOID, a, v, effect=True)


@op(void, i64, i64)
def sadd_i64(b, a, v):
    place = b.ptrtoint(_shared(b, a, I8), I32)
    asm(b, "red.relaxed.cta.shared.add.u64 [$0], $1;", "r,l,~{memory}", VOID, place, v, effect=True)


@op(i64, i64, i64)
def fraction(b, total, part):
    product = b.mul(b.zext(total, I128), b.zext(part, I128))
    return b.trunc(b.lshr(product, ir.Constant(I128, 53)), I64)


@op(f64, i64)
def double(b, word):
    return b.bitcast(word, F64)


@op(i64, f64)
def double_bits(b, x):
    return b.bitcast(x, I64)


@op(i64, f64)
def whole(b, x):
    return asm(b, "cvt.rni.s64.f64 $0, $1;", "=l,d", I64, x)
