"""`tensor.py` for numba-cuda: its primitives as LLVM and PTX, in `intrinsics.py`'s table."""

from __future__ import annotations

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from .intrinsics import (
    BINDING,
    F32,
    I8,
    I32,
    I64,
    VOID,
    _shared,
    _shuffle,
    _words,
    asm,
    c32,
    call,
    f32,
    i64,
    multiply,
    op,
    void,
)

__all__ = ["BINDING"]


# ---------------------------------------------------------------------------------------------- mma.sync
@op(types.UniTuple(i64, 4), i64)
def ld_matrix4_t(b, a):
    place = b.ptrtoint(_shared(b, a, I8), I32)
    text = "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {$0,$1,$2,$3}, [$4];"
    r = asm(b, text, "=r,=r,=r,=r,r,~{memory}", ir.LiteralStructType([I32] * 4), place, effect=True)
    return [b.zext(b.extract_value(r, i), I64) for i in range(4)]


def _quad(b, v, join):
    for step in (2, 1):
        v = join(v, _shuffle(b, "bfly", "f32", v, c32(step)))
    return v


@op(f32, f32)
def quad_sum(b, v):
    return _quad(b, v, b.fadd)


@op(f32, f32)
def quad_max(b, v):
    return _quad(b, v, lambda x, y: larger(b, x, y))


@op(f32, f32, f32)
def larger(b, x, y):
    return call(b, "llvm.nvvm.fmax.f", F32, x, y)


@op(f32, f32, f32)
def quotient(b, x, y):
    return asm(b, "div.full.f32 $0, $1, $2;", "=f,f,f", F32, x, y)


@op(i64, i64, i64)
def divided(b, x, y):
    return b.zext(b.udiv(b.trunc(x, I32), b.trunc(y, I32)), I64)


@op(f32, f32)
def exp2(b, x):
    return asm(b, "ex2.approx.ftz.f32 $0, $1;", "=f,f", F32, x)


def _pack(b, kind, low, high):
    return b.zext(asm(b, f"cvt.rn.{kind}.f32 $0, $2, $1;", "=r,f,f", I32, low, high), I64)


@op(i64, f32, f32)
def pack_bf16(b, low, high):
    return _pack(b, "bf16x2", low, high)


@op(i64, f32, f32)
def pack_f16(b, low, high):
    return _pack(b, "f16x2", low, high)


@op(types.UniTuple(f32, 4), types.UniTuple(i64, 4), i64, i64, types.UniTuple(f32, 4))
def mma_f16(b, x, b0, b1, c):
    return multiply(b, "f16", x, b0, b1, c)


@op(i64, i64)
def tf32(b, word):
    return b.zext(asm(b, "cvt.rna.tf32.f32 $0, $1;", "=r,f", I32, b.bitcast(b.trunc(word, I32), F32)), I64)


@op(types.UniTuple(f32, 4), types.UniTuple(i64, 4), i64, i64, types.UniTuple(f32, 4))
def mma_tf32(b, x, b0, b1, c):
    return multiply(b, "tf32", x, b0, b1, c, 8)


@op(types.UniTuple(i64, 4), types.UniTuple(i64, 4), i64, i64, types.UniTuple(i64, 4))
def mma_bytes(b, x, b0, b1, c):
    args = [*_words(b, x, I32, 4), b.trunc(b0, I32), b.trunc(b1, I32), *_words(b, c, I32, 4)]
    text = "mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};"
    r = asm(b, text, "=r,=r,=r,=r,r,r,r,r,r,r,r,r,r,r", ir.LiteralStructType([I32] * 4), *args, effect=True)
    return [b.sext(b.extract_value(r, i), I64) for i in range(4)]


@op(void, i64, i64)
def copy4(b, to, a):
    place = b.ptrtoint(_shared(b, to, I8), I32)
    asm(b, "cp.async.ca.shared.global [$0], [$1], 4;", "r,l,~{memory}", VOID, place, a, effect=True)


@op(void, i64, i64, i64, i64, i64)
def sst4_i32(b, a, *words):
    kind = ir.VectorType(I32, 4)
    v = ir.Constant(kind, ir.Undefined)
    for i, w in enumerate(words):
        v = b.insert_element(v, b.trunc(w, I32), c32(i))
    b.store(v, _shared(b, a, kind), align=16)


# ---------------------------------------------------------------------------------------------- wgmma, sm_90a
@op(i64, i64)
def window(b, a):
    return b.zext(b.ptrtoint(_shared(b, a, I8), I32), I64)


@op(void)
def fence_async(b):
    asm(b, "fence.proxy.async.shared::cta;", "~{memory}", VOID, effect=True)


@op(void)
def wgmma_fence(b):
    asm(b, "wgmma.fence.sync.aligned;", "~{memory}", VOID, effect=True)


@op(void)
def wgmma_close(b):
    asm(b, "wgmma.commit_group.sync.aligned;", "~{memory}", VOID, effect=True)


# ---------------------------------------------------------------------------------------------- bulk copies, sm_90a
def _place(b, a):
    return b.ptrtoint(_shared(b, a, I8), I32)


@op(void, i64, i64)
def mbarrier_init(b, a, count):
    asm(b, "mbarrier.init.shared::cta.b64 [$0], $1;", "r,r,~{memory}", VOID, _place(b, a), b.trunc(count, I32),
        effect=True)  # fmt: skip


@op(void, i64)
def mbarrier_arrive(b, a):
    asm(b, "mbarrier.arrive.shared::cta.b64 _, [$0];", "r,~{memory}", VOID, _place(b, a), effect=True)


@op(void, i64, i64)
def mbarrier_expect(b, a, n):
    text = "mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;"
    asm(b, text, "r,r,~{memory}", VOID, _place(b, a), b.trunc(n, I32), effect=True)


@op(void, i64, i64)
def mbarrier_wait(b, a, parity):
    text = "{ .reg .pred over; again: mbarrier.try_wait.parity.shared::cta.b64 over, [$0], $1; @!over bra again; }"
    asm(b, text, "r,r,~{memory}", VOID, _place(b, a), b.trunc(parity, I32), effect=True)


@op(void, i64)
def map_acquire(b, a):
    asm(b, "fence.proxy.tensormap::generic.acquire.sys [$0], 128;", "l,~{memory}", VOID, a, effect=True)


@op(void, i64, i64, i64, i64, i64)
def copy_box(b, to, a, column, row, barrier):
    text = "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [$0], [$1, {$2, $3}], [$4];"
    args = _place(b, to), a, b.trunc(column, I32), b.trunc(row, I32), _place(b, barrier)
    asm(b, text, "r,l,r,r,r,~{memory}", VOID, *args, effect=True)


@intrinsic
def wgmma_wait(typingctx, left):
    def codegen(ctx, b, sig, args):
        asm(b, f"wgmma.wait_group.sync.aligned {left.literal_value};", "~{memory}", VOID, effect=True)
        return ctx.get_dummy_value()

    return (void(left), codegen) if isinstance(left, types.IntegerLiteral) else None


def _through(b, acc, n, text, constraints, *args):
    """PTX in which the n numbers of acc are read and written, as $0 and on."""
    places = [b.gep(acc, [c32(i)]) for i in range(n)]
    every = ",".join(["=f"] * n + [str(i) for i in range(n)] + [*constraints, "~{memory}"])
    r = asm(b, text, every, ir.LiteralStructType([F32] * n), *map(b.load, places), *args, effect=True)
    for i, place in enumerate(places):
        b.store(b.extract_value(r, i), place)


@intrinsic
def wgmma_bf16(typingctx, acc, count, x, y):
    def codegen(ctx, b, sig, args):
        n = count.literal_value
        text = (
            "{ .reg .pred add; setp.ne.b32 add, 1, 0; "
            f"wgmma.mma_async.sync.aligned.m64n{2 * n}k16.f32.bf16.bf16 {{{','.join(f'${i}' for i in range(n))}}}, "
            f"${2 * n}, ${2 * n + 1}, add, 1, 1, 0, 0; }}"
        )
        _through(b, args[0], n, text, ("l", "l"), args[2], args[3])
        return ctx.get_dummy_value()

    return (void(acc, count, i64, i64), codegen) if isinstance(count, types.IntegerLiteral) else None


@intrinsic
def wgmma_finish(typingctx, acc, count):
    def codegen(ctx, b, sig, args):
        _through(b, args[0], count.literal_value, "wgmma.wait_group.sync.aligned 0;", ())
        return ctx.get_dummy_value()

    return (void(acc, count), codegen) if isinstance(count, types.IntegerLiteral) else None


BINDING |= {"wgmma_wait": wgmma_wait, "wgmma_bf16": wgmma_bf16, "wgmma_finish": wgmma_finish}
