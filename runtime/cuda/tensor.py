"""What a kernel may ask of the tensor core besides `primitives.py`: the same facade, its second page."""

from __future__ import annotations

from .primitives import Primitive


# ---------------------------------------------------------------------------------------------- mma.sync
@Primitive
def ld_matrix4_t(shared):
    """*warp* As `ld_matrix4`, turned: word i of thread t: rows 2 (t mod 4) and the next of column t / 4 of matrix i."""


@Primitive
def mma_f16(a, b0, b1, c):
    """*warp* As `mma_bf16`, of float16."""


@Primitive
def tf32(word):
    """Bits of the nearest TF32 to a float32's: 10 after the point, ties away from zero; as int64."""


@Primitive
def mma_tf32(a, b0, b1, c):
    """*warp* As `mma_bf16`, of TF32: a [16, 8], b [8, 8].

    a's words have columns t mod 4 of rows t / 4 and t / 4 + 8, then those four further; b's rows t mod 4, and four on.
    """


@Primitive
def mma_bytes(a, b0, b1, c):
    """*warp* a b + c, exact: a [16, 32] signed bytes, b [32, 8] unsigned ones, c [16, 8] integers of 32 bits.

    Four bytes of a row of a, or of a column of b, are a word: a's words have columns 4 (t mod 4) and on of rows t / 4
    and t / 4 + 8, then those sixteen further; b's likewise of column t / 4; c and the result as `mma_bf16`.
    """


@Primitive
def copy4(shared, address):
    """As `copy16`, 4 bytes."""


@Primitive
def pack_f16(low, high):
    """Two float32 as float16, to nearest even, in one word; as int64."""


@Primitive
def quad_sum(value):
    """*warp* Sum of the float32 of threads 4 i to 4 i + 3, in all four: with the one 2 away, then 1."""


@Primitive
def quad_max(value):
    """*warp* The largest float32 of threads 4 i to 4 i + 3, in all four; a NaN loses."""


@Primitive
def pack_bf16(low, high):
    """Two float32 as bfloat16, to nearest even, in one word; as int64."""


@Primitive
def sst4_i32(address, a, b, c, d):
    """Four words at once, 16 bytes of shared memory."""


@Primitive
def larger(a, b):
    """The larger float32; a NaN loses."""


@Primitive
def quotient(a, b):
    """A / b within 2 units in the last place, for |b| below 2^126."""


@Primitive
def divided(a, b):
    """A // b of numbers from 0 to 2^31 - 1, b > 0: 32 bits, where `//` has 64 and is a call."""


@Primitive
def exp2(x):
    """2^x by the special function unit: within 2^-22 of itself; what is not normal is 0."""


# ---------------------------------------------------------------------------------------------- wgmma, sm_90a
# A warpgroup is four warps, the first of which has a number that is a multiple of four.
@Primitive
def window(shared):
    """Address in the shared window of a byte of shared memory, as descriptors have it."""


@Primitive
def fence_async():
    """What this thread wrote to shared memory is seen by products that read it, after a barrier."""


@Primitive
def wgmma_fence():
    """*warpgroup* Products begun after it take the registers as they are now."""


@Primitive
def wgmma_bf16(acc, count, a, b):
    """*warpgroup* Begin acc += a b^T: a [64, 16] and b [2 count, 16] bfloat16 in shared memory, by descriptors.

    acc: `count` float32, a constant; thread t of warp w has in 4 j and 4 j + 1: row 16 w + t / 4, columns
    8 j + 2 (t mod 4) and the next; in 4 j + 2 and 4 j + 3: eight rows on. They are not to be touched before
    `wgmma_finish`, nor what the descriptors name before `wgmma_wait`.
    """


@Primitive
def wgmma_close():
    """*warpgroup* Products begun since the last time are one group."""


@Primitive
def wgmma_wait(left):
    """*warpgroup* Wait until at most `left` groups are under way."""


@Primitive
def wgmma_finish(acc, count):
    """*warpgroup* Wait for all groups; `acc` has their sums."""


# ---------------------------------------------------------------------------------------------- bulk copies, sm_90a
# An mbarrier is eight bytes of shared memory, in phases: one ends when all its arrivals and all bytes have come that
# were announced for it. A map says of a matrix of 16 bits where it lies and how large a box of it is
# (`tensor_map.py`); 128 bytes in device memory.
@Primitive
def mbarrier_init(barrier, count):
    """Make it one of `count` arrivals, in phase 0: for copies after this thread's `fence_async`, for all a barrier."""


@Primitive
def mbarrier_arrive(barrier):
    """One arrival: who waits for the end of the phase sees what this thread has done and seen."""


@Primitive
def mbarrier_expect(barrier, nbytes):
    """As `mbarrier_arrive`, and `nbytes` bytes of copies belong to the phase."""


@Primitive
def mbarrier_wait(barrier, parity):
    """Wait while the barrier is in a phase whose number is even (parity 0) or odd (1)."""


@Primitive
def map_acquire(place):
    """Copies of this thread find the map as the host wrote it before the launch."""


@Primitive
def copy_box(shared, place, column, row, barrier):
    """Begin to copy the box of a map that begins at this row and column; zeros where the matrix has nothing.

    It lies there from a multiple of 1024 on, 128 bytes a row: piece c (16 bytes) of row r in place c xor (r mod 8). Its
    bytes come for the barrier's phase; who waits for that sees them, products too, with no `fence_async`.
    """
