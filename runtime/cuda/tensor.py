"""What a kernel may ask of the tensor core beside `primitives.py`: the same facade, its second page."""

from __future__ import annotations

from .primitives import Primitive


# ---------------------------------------------------------------------------------------------- mma.sync
@Primitive
def ld_matrix4_t(shared):
    """*warp* As `ld_matrix4`, turned: word i of thread t: rows 2 (t mod 4) and the next of column t / 4 of matrix i."""


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
def exp2(x):
    """2^x by the special function unit: within 2^-22 of itself; what is not normal is 0."""
