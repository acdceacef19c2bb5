"""What a kernel may ask of the device for whole numbers and, where an id is drawn, float64: the facade's third page."""

from __future__ import annotations

from .primitives import Primitive


# ---------------------------------------------------------------------------------------------- many add to one
@Primitive
def add_i64(address, value):
    """Add to eight bytes, others may at once; the sum is there for who meets the grid, or for the next kernel."""


@Primitive
def most_i64(address, value):
    """As `add_i64`: leave the larger of what is there and the integer."""


@Primitive
def sadd_i64(address, value):
    """Add to eight bytes of shared memory, other threads may at once; the sum is there after a barrier."""


# ---------------------------------------------------------------------------------------------- numbers
@Primitive
def fraction(total, part):
    """Floor(total * part / 2^53), exact; both from 0 to 2^63 - 1."""


@Primitive
def double(word):
    """The float64 of 64 bits."""


@Primitive
def double_bits(x):
    """The 64 bits of a float64, as int64."""


@Primitive
def whole(x):
    """The nearest whole number of a float64 below 2^63, as int64; ties to even."""
