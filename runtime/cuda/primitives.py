"""What a kernel may ask of the device, by name: the one facade, which each binding implements.

Kernels import these names and call them; `bind.py` puts a binding's own functions in their place (`intrinsics.py`
for Numba, `emulator/` for tests). Called unbound they refuse. Of Python's own functions kernels use `abs`, `max` and
`min`; of two float32, of which one is NaN, the last two return the other, as the hardware does.

Addresses are integers of 64 bits, in bytes; those of shared memory count from its beginning, and their operations
begin with `s`. Numbers are float32 and integers. A load or store wants an address that is a multiple of its size. A
warp is 32 threads; what is marked *warp* or *block* must be reached by every thread of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PRIMITIVES", "WARP", "Primitive"]

#: Threads of a warp.
WARP = 32
#: Every primitive, by name.
PRIMITIVES: dict[str, Primitive] = {}


class Primitive:
    """A name and what it means."""

    def __init__(self, f: Callable[..., Any]) -> None:
        """Registers itself."""
        self.name, self.__doc__ = f.__name__, f.__doc__
        PRIMITIVES[self.name] = self

    def __call__(self, *_: object) -> Any:
        """Refuse: TypeError."""
        msg = f"{self.name} runs on a device or in the emulator: bind the kernel first"
        raise TypeError(msg)


# ---------------------------------------------------------------------------------------------- who is running
@Primitive
def thread():
    """Number of this thread in its block."""


@Primitive
def rolled():
    """Begins a loop's body: the assembler does not unroll it further."""


@Primitive
def anew(value, shared):
    """The integer. What is computed of it is not kept where these eight bytes of shared memory may have changed."""


@Primitive
def threads():
    """Threads of a block."""


@Primitive
def block():
    """Number of this block in the grid."""


@Primitive
def blocks():
    """Blocks of the grid."""


# ---------------------------------------------------------------------------------------------- device memory
@Primitive
def ld_i64(address):
    """Eight bytes."""


@Primitive
def ld_i32(address):
    """Four bytes, signed."""


@Primitive
def ld_u32(address):
    """Four bytes, unsigned, as int64."""


@Primitive
def ld_u16(address):
    """Two bytes, unsigned, as int64."""


@Primitive
def ld_u8(address):
    """A byte, unsigned, as int64."""


@Primitive
def ld_i8(address):
    """A byte, signed, as int64."""


@Primitive
def ld_f32(address):
    """A float32."""


@Primitive
def ld_bf16(address):
    """A bfloat16, widened."""


@Primitive
def ld_f16(address):
    """A float16, widened."""


@Primitive
def ld4_f32(address):
    """Four float32 at once, 16 bytes."""


@Primitive
def ld4_u32(address):
    """Four unsigned words at once, 16 bytes, as int64."""


@Primitive
def weights4(address):
    """As `ld4_u32`, of what no kernel writes: read once, they leave the first cache to others."""


@Primitive
def st4_u32(address, words):
    """Four words at once, 16 bytes: what `ld4_u32` gives."""


@Primitive
def st_i64(address, value):
    """Eight bytes."""


@Primitive
def st_i32(address, value):
    """Four bytes."""


@Primitive
def st_u16(address, value):
    """The low two bytes."""


@Primitive
def st_u8(address, value):
    """The low byte."""


@Primitive
def st_f32(address, value):
    """A float32."""


# ---------------------------------------------------------------------------------------------- shared memory
@Primitive
def sld_f32(address):
    """A float32."""


@Primitive
def sld4_f32(address):
    """Four float32 at once, 16 bytes."""


@Primitive
def sst_f32(address, value):
    """A float32."""


@Primitive
def sld_i32(address):
    """Four bytes, signed, as int64."""


@Primitive
def sst_i32(address, value):
    """Four bytes."""


@Primitive
def sld_i64(address):
    """Eight bytes."""


@Primitive
def sst_i64(address, value):
    """Eight bytes."""


@Primitive
def barrier():
    """*block* What was written before it is seen after it."""


@Primitive
def warp_barrier():
    """*warp* What was written before it is seen after it."""


# ---------------------------------------------------------------------------------------------- the grid
@Primitive
def release_add(address, value):
    """Add to eight bytes. Who acquires the sum sees what this thread saw before, or its block before a barrier."""


@Primitive
def acquire_i64(address):
    """Eight bytes, and all that was released to them is seen; by the whole block after a barrier."""


@Primitive
def prefetch(address):
    """Ask for the 128 bytes around an address to come to the second cache."""


# ---------------------------------------------------------------------------------------------- the warp
@Primitive
def warp_sum(value):
    """*warp* Sum of the float32 of 32 threads, in all of them: with the one 16 lanes away, then 8, 4, 2, 1."""


@Primitive
def warp_max(value):
    """*warp* The largest float32 of 32 threads, in all of them; a NaN loses."""


@Primitive
def warp_max_size(value):
    """*warp* As `larger_size`, of 32 threads, in all of them."""


@Primitive
def warp_sum_i(value):
    """*warp* Sum of 32 integers below 2^31, in all threads."""


@Primitive
def warp_before_i(value):
    """*warp* Sum of the integers of the threads before this one in the warp."""


@Primitive
def warp_take(value, lane):
    """*warp* The float32 that thread `lane` of the warp has."""


@Primitive
def warp_take_i(value, lane):
    """*warp* The integer, below 2^31, that thread `lane` of the warp has."""


# ---------------------------------------------------------------------------------------------- the tensor core
@Primitive
def copy16(shared, address, count):
    """Begin to copy 16 bytes to shared memory: `count` (0 or 16) of them, and zeros. Not there before `copies_wait`."""


@Primitive
def copies_close():
    """What this thread began to copy since the last time is one group."""


@Primitive
def copies_wait(left):
    """Wait until at most `left` groups of this thread are under way; others see the copies after a barrier."""


@Primitive
def ld_matrix4(shared):
    """*warp* Four 8 x 8 matrices of 16 bits: thread 8 i + r gives the address of row r of matrix i, 16 bytes.

    Word i of thread t: columns 2 (t mod 4) and the next of row t / 4 of matrix i.
    """


@Primitive
def mma_bf16(a, b0, b1, c):
    """*warp* a b + c: a [16, 16] and b [16, 8] bfloat16, c [16, 8] float32, as PTX's mma.m16n8k16 has them.

    a: four words; c and the result: four float32, of rows t / 4 and t / 4 + 8, columns 2 (t mod 4) and the next.
    """


@Primitive
def registers(count):
    """Float32 of a thread's own, to be indexed; `count` is a constant. They hold anything at first."""


# ---------------------------------------------------------------------------------------------- numbers
@Primitive
def fma(a, b, c):
    """a * b + c, rounded once."""


@Primitive
def sqrt(x):
    """Rounded to nearest."""


@Primitive
def larger_size(a, b):
    """The larger of two float32 whose sign bit is 0, by their bits: a NaN is larger than every number."""


@Primitive
def rint(x):
    """The nearest whole number, as float32; ties to even."""


@Primitive
def to_int(x):
    """A float32 that is whole, as the nearest integer of 32 bits; NaN gives 0."""


@Primitive
def bits(x):
    """The 32 bits of a float32, unsigned, as int64."""


@Primitive
def from_bits(x):
    """The float32 of the low 32 bits."""


@Primitive
def low_bf16(pair):
    """The lower half of 32 bits, a bfloat16, widened."""


@Primitive
def high_bf16(pair):
    """The upper half of 32 bits, a bfloat16, widened."""


@Primitive
def low_f16(pair):
    """The lower half of 32 bits, a float16, widened."""


@Primitive
def high_f16(pair):
    """The upper half of 32 bits, a float16, widened."""


@Primitive
def to_bf16(x):
    """Bits of the nearest bfloat16, ties to even; as int64."""


@Primitive
def dot4(unsigned, signed, total):
    """Total + the products of four unsigned and four signed bytes: 32 bits, exact."""


@Primitive
def ones(x):
    """How many of the low 32 bits are set."""


@Primitive
def first_one(x):
    """Number of the lowest bit that is set, of 32 of which one is."""
