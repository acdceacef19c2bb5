"""The facade for numba-cuda: every primitive as LLVM or PTX. Needs the "cuda" extra; compiles without a GPU.

PTX ISA: https://docs.nvidia.com/cuda/parallel-thread-execution/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import cuda
from numba.cuda import types
from numba.cuda.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BINDING"]

I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
F16, F32, VOID = ir.HalfType(), ir.FloatType(), ir.VoidType()
i64, f32, u32, void = types.int64, types.float32, types.uint32, types.void
SHARED = 3  # address space
FULL = ir.Constant(I32, -1)
#: What a collective's call must not be moved across.
TOGETHER = ("convergent",)

BINDING: dict[str, Any] = {}


def op(ret: Any, *args: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make an intrinsic from an emitter f(builder, *values), under its name. Intrinsics want fixed arity: the exec."""

    def deco(f: Callable[..., Any]) -> Callable[..., Any]:
        names = "".join(f", a{i}" for i in range(len(args)))
        scope: dict[str, Any] = {"sig": ret(*args), "f": f, "finish": _finish}
        source = (
            f"def {f.__name__}(typingctx{names}):\n    def codegen(ctx, b, s, a):\n"
            "        return finish(ctx, b, s, f(b, *a))\n    return sig, codegen"
        )
        exec(source, scope)  # noqa: S102 - our own text; the arity is the only thing that varies
        BINDING[f.__name__] = intrinsic(scope[f.__name__])
        return f

    return deco


def _finish(ctx: Any, b: Any, sig: Any, result: Any) -> Any:
    if isinstance(result, list):
        return ctx.make_tuple(b, sig.return_type, result)
    return ctx.get_dummy_value() if result is None else result


def c32(v: int) -> Any:
    """int32 constant."""
    return ir.Constant(I32, v)


def call(b: Any, name: str, ret: Any, *args: Any, together: bool = False) -> Any:
    """Call an LLVM intrinsic."""
    kind = ir.FunctionType(ret, [a.type for a in args])
    f = b.module.globals.get(name) or ir.Function(b.module, kind, name)
    return b.call(f, args, attrs=TOGETHER if together else ())


def asm(b: Any, text: str, constraints: str, ret: Any, *args: Any, effect: bool = False) -> Any:
    """PTX in its own words; what is "aligned" wants all threads of a warp."""
    kind = ir.FunctionType(ret, [a.type for a in args])
    attrs = TOGETHER if ".aligned" in text else ()
    return b.call(ir.InlineAsm(kind, text, constraints, side_effect=effect), args, attrs=attrs)


def at(b: Any, address: Any, kind: Any, space: int = 1) -> Any:
    """The address as a pointer: 1 is device memory, 3 shared."""
    return b.inttoptr(address, kind.as_pointer(space))


# ---------------------------------------------------------------------------------------------- who is running
def _register(name: str) -> Callable[[Any], Any]:
    return lambda b: b.zext(call(b, f"llvm.nvvm.read.ptx.sreg.{name}", I32), I64)


for _name, _place in (("thread", "tid.x"), ("threads", "ntid.x"), ("block", "ctaid.x"), ("blocks", "nctaid.x")):
    _f = _register(_place)
    _f.__name__ = _name
    op(i64)(_f)


# ---------------------------------------------------------------------------------------------- device memory
@op(i64, i64)
def ld_i64(b, a):
    return b.load(at(b, a, I64), align=8)


@op(i64, i64)
def ld_i32(b, a):
    return b.sext(b.load(at(b, a, I32), align=4), I64)


@op(i64, i64)
def ld_u32(b, a):
    return b.zext(b.load(at(b, a, I32), align=4), I64)


@op(i64, i64)
def ld_u16(b, a):
    return b.zext(b.load(at(b, a, I16), align=2), I64)


@op(i64, i64)
def ld_u8(b, a):
    return b.zext(b.load(at(b, a, I8), align=1), I64)


@op(i64, i64)
def ld_i8(b, a):
    return b.sext(b.load(at(b, a, I8), align=1), I64)


@op(f32, i64)
def ld_f32(b, a):
    return b.load(at(b, a, F32), align=4)


@op(f32, i64)
def ld_bf16(b, a):
    return _bf16(b, b.zext(b.load(at(b, a, I16), align=2), I32))


@op(f32, i64)
def ld_f16(b, a):
    return _f16(b, b.load(at(b, a, I16), align=2))


@op(void, i64, i64)
def st_i64(b, a, v):
    b.store(v, at(b, a, I64), align=8)


@op(void, i64, i64)
def st_i32(b, a, v):
    b.store(b.trunc(v, I32), at(b, a, I32), align=4)


@op(void, i64, i64)
def st_u16(b, a, v):
    b.store(b.trunc(v, I16), at(b, a, I16), align=2)


@op(void, i64, i64)
def st_u8(b, a, v):
    b.store(b.trunc(v, I8), at(b, a, I8), align=1)


@op(void, i64, f32)
def st_f32(b, a, v):
    b.store(v, at(b, a, F32), align=4)


@op(types.UniTuple(f32, 4), i64)
def ld4_f32(b, a):
    v = b.load(at(b, a, ir.VectorType(F32, 4)), align=16)
    return [b.extract_element(v, c32(i)) for i in range(4)]


@op(types.UniTuple(i64, 4), i64)
def ld4_u32(b, a):
    v = b.load(at(b, a, ir.VectorType(I32, 4)), align=16)
    return [b.zext(b.extract_element(v, c32(i)), I64) for i in range(4)]


@op(types.UniTuple(i64, 4), i64)
def weights4(b, a):
    kind = ir.LiteralStructType([I32] * 4)
    r = asm(b, "ld.global.nc.L1::no_allocate.v4.u32 {$0,$1,$2,$3}, [$4];", "=r,=r,=r,=r,l", kind, a)
    return [b.zext(b.extract_value(r, i), I64) for i in range(4)]


@op(void, i64, types.UniTuple(i64, 4))
def st4_u32(b, a, words):
    v = ir.Constant(ir.VectorType(I32, 4), ir.Undefined)
    for i, word in enumerate(_words(b, words, I32, 4)):
        v = b.insert_element(v, word, c32(i))
    b.store(v, at(b, a, ir.VectorType(I32, 4)), align=16)


# ---------------------------------------------------------------------------------------------- shared memory
def _shared(b: Any, a: Any, kind: Any) -> Any:
    """Where byte `a` of the block's shared memory lies; its size is the launch's."""
    name = "miaotui_shared"
    block = b.module.globals.get(name)
    if block is None:
        block = ir.GlobalVariable(b.module, ir.ArrayType(I8, 0), name, addrspace=SHARED)
        block.align = 1024  # a pattern of swizzled rows (`kernels/hopper.py`)
    return b.bitcast(b.gep(block, [c32(0), b.trunc(a, I32)]), kind.as_pointer(SHARED))


@op(i64, i64, i64)
def anew(b, v, a):  # a function of what lies there, as far as the compiler knows
    return asm(b, "mov.u64 $0, $1;", "=l,l,l", I64, v, b.load(_shared(b, a, I64), align=8))


@op(void)
def rolled(b):
    asm(b, r".pragma \22nounroll\22;", "", VOID, effect=True)


@op(f32, i64)
def sld_f32(b, a):
    return b.load(_shared(b, a, F32), align=4)


@op(types.UniTuple(f32, 4), i64)
def sld4_f32(b, a):
    v = b.load(_shared(b, a, ir.VectorType(F32, 4)), align=16)
    return [b.extract_element(v, c32(i)) for i in range(4)]


@op(void, i64, f32)
def sst_f32(b, a, v):
    b.store(v, _shared(b, a, F32), align=4)


@op(i64, i64)
def sld_i32(b, a):
    return b.sext(b.load(_shared(b, a, I32), align=4), I64)


@op(void, i64, i64)
def sst_i32(b, a, v):
    b.store(b.trunc(v, I32), _shared(b, a, I32), align=4)


@op(i64, i64)
def sld_i64(b, a):
    return b.load(_shared(b, a, I64), align=8)


@op(void, i64, i64)
def sst_i64(b, a, v):
    b.store(v, _shared(b, a, I64), align=8)


@op(void)
def barrier(b):
    call(b, "llvm.nvvm.barrier0", VOID, together=True)


@op(void)
def warp_barrier(b):
    call(b, "llvm.nvvm.bar.warp.sync", VOID, FULL, together=True)


# ---------------------------------------------------------------------------------------------- the grid
@op(void, i64, i64)
def release_add(b, a, v):
    asm(b, "red.release.gpu.global.add.u64 [$0], $1;", "l,l,~{memory}", VOID, a, v, effect=True)


@op(i64, i64)
def acquire_i64(b, a):
    return asm(b, "ld.acquire.gpu.global.u64 $0, [$1];", "=l,l,~{memory}", I64, a, effect=True)


@op(void, i64)
def prefetch(b, a):
    asm(b, "prefetch.global.L2 [$0];", "l", VOID, a, effect=True)


# ---------------------------------------------------------------------------------------------- the warp
def _shuffle(b: Any, how: str, kind: str, v: Any, lane: Any, clamp: int = 31) -> Any:
    name = f"llvm.nvvm.shfl.sync.{how}.{kind}"
    return call(b, name, F32 if kind == "f32" else I32, FULL, v, lane, c32(clamp), together=True)


def _all(b: Any, v: Any, kind: str, join: Callable[[Any, Any], Any]) -> Any:
    for step in (16, 8, 4, 2, 1):
        v = join(v, _shuffle(b, "bfly", kind, v, c32(step)))
    return v


def _larger_word(b: Any, x: Any, y: Any) -> Any:
    return b.select(b.icmp_unsigned(">", x, y), x, y)


@op(f32, f32)
def warp_sum(b, v):
    return _all(b, v, "f32", b.fadd)


@op(f32, f32)
def warp_max(b, v):
    return _all(b, v, "f32", lambda x, y: call(b, "llvm.nvvm.fmax.f", F32, x, y))


@op(f32, f32)
def warp_max_size(b, v):
    return b.bitcast(_all(b, b.bitcast(v, I32), "i32", lambda x, y: _larger_word(b, x, y)), F32)


@op(i64, i64)
def warp_sum_i(b, v):
    return b.sext(_all(b, b.trunc(v, I32), "i32", b.add), I64)


@op(f32, f32, i64)
def warp_take(b, v, lane):
    return _shuffle(b, "idx", "f32", v, b.trunc(lane, I32))


@op(i64, i64, i64)
def warp_take_i(b, v, lane):
    return b.sext(_shuffle(b, "idx", "i32", b.trunc(v, I32), b.trunc(lane, I32)), I64)


@op(i64, i64)
def warp_before_i(b, v):
    lane = call(b, "llvm.nvvm.read.ptx.sreg.laneid", I32)
    mine = total = b.trunc(v, I32)
    for step in (1, 2, 4, 8, 16):
        other = _shuffle(b, "up", "i32", total, c32(step), 0)
        total = b.add(total, b.select(b.icmp_signed(">=", lane, c32(step)), other, c32(0)))
    return b.sext(b.sub(total, mine), I64)


# ---------------------------------------------------------------------------------------------- the tensor core
def _words(b: Any, values: Any, kind: Any, n: int) -> list[Any]:
    """The parts of a tuple, integers cut to 32 bits."""
    parts = [b.extract_value(values, i) for i in range(n)]
    return [b.trunc(p, I32) for p in parts] if kind is I32 else parts


@op(void, i64, i64, i64)
def copy16(b, to, a, count):
    place = b.ptrtoint(_shared(b, to, I8), I32)
    text = "cp.async.cg.shared.global [$0], [$1], 16, $2;"
    asm(b, text, "r,l,r,~{memory}", VOID, place, a, b.trunc(count, I32), effect=True)


@op(void)
def copies_close(b):
    asm(b, "cp.async.commit_group;", "~{memory}", VOID, effect=True)


@op(types.UniTuple(i64, 4), i64)
def ld_matrix4(b, a):
    place = b.ptrtoint(_shared(b, a, I8), I32)
    text = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0,$1,$2,$3}, [$4];"
    r = asm(b, text, "=r,=r,=r,=r,r,~{memory}", ir.LiteralStructType([I32] * 4), place, effect=True)
    return [b.zext(b.extract_value(r, i), I64) for i in range(4)]


def multiply(b: Any, kind: str, x: Any, b0: Any, b1: Any, c: Any, depth: int = 16) -> list[Any]:
    """The product of numbers of a kind, `depth` of them a row."""
    args = [*_words(b, x, I32, 4), b.trunc(b0, I32), b.trunc(b1, I32), *_words(b, c, F32, 4)]
    text = (
        f"mma.sync.aligned.m16n8k{depth}.row.col.f32.{kind}.{kind}.f32 "
        "{$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};"
    )
    r = asm(b, text, "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f", ir.LiteralStructType([F32] * 4), *args, effect=True)
    return [b.extract_value(r, i) for i in range(4)]


@op(types.UniTuple(f32, 4), types.UniTuple(i64, 4), i64, i64, types.UniTuple(f32, 4))
def mma_bf16(b, x, b0, b1, c):
    return multiply(b, "bf16", x, b0, b1, c)


@intrinsic
def copies_wait(typingctx, left):
    def codegen(ctx, b, sig, args):
        asm(b, f"cp.async.wait_group {left.literal_value};", "~{memory}", VOID, effect=True)
        return ctx.get_dummy_value()

    return (void(left), codegen) if isinstance(left, types.IntegerLiteral) else None


@intrinsic
def registers(typingctx, count):
    def codegen(ctx, b, sig, args):
        with b.goto_entry_block():
            place = b.alloca(ir.ArrayType(F32, count.literal_value))
        return b.bitcast(place, F32.as_pointer())

    return (types.CPointer(f32)(count), codegen) if isinstance(count, types.IntegerLiteral) else None


BINDING |= {"copies_wait": copies_wait, "registers": registers}


# ---------------------------------------------------------------------------------------------- numbers
def _bf16(b: Any, low: Any) -> Any:
    return b.bitcast(b.shl(low, c32(16)), F32)


def _f16(b: Any, half: Any) -> Any:
    return asm(b, "cvt.f32.f16 $0, $1;", "=f,h", F32, half)


@op(f32, f32, f32, f32)
def fma(b, x, y, z):
    return call(b, "llvm.nvvm.fma.rn.f", F32, x, y, z)


@op(f32, f32)
def sqrt(b, x):
    return call(b, "llvm.nvvm.sqrt.rn.f", F32, x)


@op(f32, f32, f32)
def larger_size(b, x, y):
    return b.bitcast(_larger_word(b, b.bitcast(x, I32), b.bitcast(y, I32)), F32)


@op(f32, f32)
def rint(b, x):
    return asm(b, "cvt.rni.f32.f32 $0, $1;", "=f,f", F32, x)


@op(i64, f32)
def to_int(b, x):
    return b.sext(asm(b, "cvt.rzi.s32.f32 $0, $1;", "=r,f", I32, x), I64)


@op(i64, f32)
def bits(b, x):
    return b.zext(b.bitcast(x, I32), I64)


@op(f32, i64)
def from_bits(b, x):
    return b.bitcast(b.trunc(x, I32), F32)


@op(f32, i64)
def low_bf16(b, x):
    return _bf16(b, b.trunc(x, I32))


@op(f32, i64)
def high_bf16(b, x):
    return b.bitcast(b.and_(b.trunc(x, I32), c32(0xFFFF0000)), F32)


@op(f32, i64)
def low_f16(b, x):
    return _f16(b, b.trunc(x, I16))


@op(f32, i64)
def high_f16(b, x):
    return _f16(b, b.trunc(b.lshr(x, ir.Constant(I64, 16)), I16))


@op(i64, f32)
def to_bf16(b, x):
    return b.zext(asm(b, "cvt.rn.bf16.f32 $0, $1;", "=h,f", I16, x), I64)


@op(i64, i64)
def ones(b, x):
    return b.zext(call(b, "llvm.ctpop.i32", I32, b.trunc(x, I32)), I64)


@op(i64, i64)
def first_one(b, x):
    return b.zext(call(b, "llvm.cttz.i32", I32, b.trunc(x, I32), ir.Constant(I1, 1)), I64)


@op(i64, i64, i64, i64)
def dot4(b, unsigned, signed, total):
    args = (b.trunc(v, I32) for v in (unsigned, signed, total))
    return b.sext(asm(b, "dp4a.u32.s32 $0, $1, $2, $3;", "=r,r,r,r", I32, *args), I64)


def helper(f: Callable[..., Any]) -> Any:
    """A function that kernels call, for the compiler."""
    return cuda.jit(device=True)(f)
