"""One pass of a program by itself: its arena and batch live no longer. For traces and for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..kvcache import pages_of
from . import link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from ..arena import Tensor
    from ..program import Program
    from ..step import Batch

__all__ = ["page_tables", "run_alone", "written"]

ALIGN = 64


def page_tables(program: Program) -> NDArray[np.int32]:
    """One text's, int32 [groups, pages]: page i is its i-th."""
    return np.tile(np.arange(pages_of(program.n_context), dtype=np.int32), (max(1, len(program.groups)), 1))


def run_alone(
    program: Program, fill: Callable[[int], Batch], inputs: Iterable[tuple[Tensor, NDArray[np.float32]]] = ()
) -> NDArray[np.uint8]:
    """The arena after a pass. `fill`: from the address of the page tables to the batch. Errors: `BackendError`."""
    code = program.encode(link.addresses(i.kernel for i in program.code).__getitem__)
    block = np.zeros(program.arena_bytes + ALIGN, np.uint8)
    arena = block[-block.ctypes.data % ALIGN :]
    tables = page_tables(program)
    batch = fill(tables.ctypes.data)
    for place, x in inputs:
        arena[place.offset : place.offset + x.nbytes] = np.frombuffer(x.tobytes(), np.uint8)
    executor = link.executor(program.threads, (program, code, block, batch, tables))
    try:
        executor.bind(code.ctypes.data, len(code), arena.ctypes.data, batch.address)
        executor.step()
    finally:
        executor.close()
    return arena


def written(arena: NDArray[np.uint8], y: Tensor, rows: int) -> NDArray[np.uint8]:
    """A tensor's first rows, as bytes: a copy."""
    return arena[y.offset : y.offset + 4 * rows * y.width].reshape(rows, -1).copy()
