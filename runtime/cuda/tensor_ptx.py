"""`tensor.py` for numba-cuda: its primitives as LLVM and PTX, in `intrinsics.py`'s table."""

from __future__ import annotations

from llvmlite import ir

from .intrinsics import BINDING, F32, I8, I32, VOID, _shared, _shuffle, asm, at, c32, call, f32, i64, op, types, void

__all__ = ["BINDING"]


# ---------------------------------------------------------------------------------------------- mma.sync
@op(types.UniTuple(i64, 4), i64)
def ld_matrix4_t(b, a):
    place = b.ptrtoint(_shared(b, a, I8), I32)
    text = "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {$0,$1,$2,$3}, [$4];"
    r = asm(b, text, "=r,=r,=r,=r,r,~{memory}", ir.LiteralStructType([I32] * 4), place, effect=True)
    return [b.zext(b.extract_value(r, i), ir.IntType(64)) for i in range(4)]


def _quad(b, v, join):
    for step in (2, 1):
        v = join(v, _shuffle(b, "bfly", "f32", v, c32(step)))
    return v


@op(f32, f32)
def quad_sum(b, v): return _quad(b, v, b.fadd)
@op(f32, f32)
def quad_max(b, v): return _quad(b, v, lambda x, y: larger(b, x, y))
@op(f32, f32, f32)
def larger(b, x, y): return call(b, "llvm.nvvm.fmax.f", F32, x, y)
@op(f32, f32)
def exp2(b, x): return asm(b, "ex2.approx.ftz.f32 $0, $1;", "=f,f", F32, x)


@op(i64, f32, f32)
def pack_bf16(b, low, high):
    return b.zext(asm(b, "cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,f,f", I32, low, high), ir.IntType(64))


@op(void, i64, i64, i64, i64, i64)
def sst4_i32(b, a, *words):
    kind = ir.VectorType(I32, 4)
    v = ir.Constant(kind, ir.Undefined)
    for i, w in enumerate(words):
        v = b.insert_element(v, b.trunc(w, I32), c32(i))
    b.store(v, _shared(b, a, kind), align=16)
