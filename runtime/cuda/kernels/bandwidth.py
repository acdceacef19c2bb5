"""What the machine can do, measured by kernels of ours: copying and reading memory, and starting a kernel.

They are of no op: figures are held against them. A thread has four loads of 16 bytes under way, as decode's products
do; sizes are whole `unit`s of the grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..primitives import block, blocks, ld4_u32, st4_u32, st_i32, thread, threads, weights4
from .base import Kernel

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["COPY", "MEASURES", "NOTHING", "READ", "unit"]

THREADS, UNDER_WAY = 256, 4
FIELDS = ("n:to", "n:source", "n:nbytes")


def unit(blocks: int) -> int:
    """Bytes that a grid takes in one round."""
    return 16 * UNDER_WAY * THREADS * blocks


def _copy(arena: Any, step: Any, rows: Any, to: Any, source: Any, nbytes: Any) -> None:
    """`to` = `source`."""
    hop = 16 * blocks() * threads()
    for at in range(16 * (block() * threads() + thread()), nbytes, 4 * hop):
        a, b = ld4_u32(source + at), ld4_u32(source + at + hop)
        c, d = ld4_u32(source + at + 2 * hop), ld4_u32(source + at + 3 * hop)
        st4_u32(to + at, a)
        st4_u32(to + at + hop, b)
        st4_u32(to + at + 2 * hop, c)
        st4_u32(to + at + 3 * hop, d)


def _read(arena: Any, step: Any, rows: Any, to: Any, source: Any, nbytes: Any) -> None:
    """to[thread of the grid] = exclusive or of the words of 32 bits that it reads."""
    hop, me, total = 16 * blocks() * threads(), block() * threads() + thread(), 0
    for at in range(16 * me, nbytes, 4 * hop):
        a, b = weights4(source + at), weights4(source + at + hop)
        c, d = weights4(source + at + 2 * hop), weights4(source + at + 3 * hop)
        total ^= a[0] ^ a[1] ^ a[2] ^ a[3] ^ b[0] ^ b[1] ^ b[2] ^ b[3]
        total ^= c[0] ^ c[1] ^ c[2] ^ c[3] ^ d[0] ^ d[1] ^ d[2] ^ d[3]
    st_i32(to + 4 * me, total)


def _nothing(arena: Any, step: Any, rows: Any) -> None:
    """Begin, and end."""


def _one(_rows: int, _values: Mapping[str, int]) -> int:
    return 1


COPY = Kernel("measure_copy", _copy, THREADS, _one, lambda _: 0, FIELDS)
READ = Kernel("measure_read", _read, THREADS, _one, lambda _: 0, FIELDS)
NOTHING = Kernel("measure_nothing", _nothing, 32, _one, lambda _: 0, ())
#: Kernels that are of no op.
MEASURES = {k.name: k for k in (COPY, READ, NOTHING)}
