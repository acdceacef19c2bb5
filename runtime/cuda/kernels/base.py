"""What every kernel uses: the table of kernels, its launch, and how a block sums.

A kernel's arguments are (arena, step, rows, *slots): addresses of the arena and of the step block, whether its rows are
T or R (0 or 1), and those of the op's slots that it takes, by the op table's names. Kernels stride over their items, so
every grid is right: with `while`, since Numba counts the steps of a range by a division of 64 bits, which wants many
registers on a GPU.
"""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np

from ....dataclass import dataclass
from ...ops import OPS
from ..primitives import WARP, barrier, block, blocks, ld_i64, sld_f32, sst_f32, thread, threads, warp_sum
from ..step import S_ROWS, S_START, S_T, S_TOKENS, T_POSITION, TOKEN_WORDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..tensor_map import TensorMap

__all__ = [
    "KERNELS",
    "SIZES",
    "SPECIAL",
    "TURING",
    "F",
    "Kernel",
    "all_warps",
    "always",
    "block_sum",
    "ceil",
    "chosen",
    "fields_of",
    "first_item",
    "kernel",
    "lane",
    "position_of",
    "rows_of",
    "small",
    "special",
]

F = np.float32
#: The oldest GPU that there are kernels for, and that some are not for.
TURING = "sm_75"
#: Sizes and numbers of items are below this.
SIZES = 1 << 31


@dataclass(frozen=True)
class Kernel:
    """A kernel and how it is launched; `values` are its slots by name."""

    name: str
    function: Callable[..., None]
    threads: int
    blocks: Callable[[int, Mapping[str, int]], int]  # (rows, values)
    shared: Callable[[Mapping[str, int]], int]  # bytes of shared memory, of values
    fields: tuple[str, ...]  # kind:name, as in the op table
    fits: Callable[[int, Mapping[str, int]], bool] = lambda *_: True  # of a special kernel: whether it takes this
    then: Kernel | None = None  # what ends its work, launched after it with the same arguments
    together: bool = False  # its blocks wait for each other: all must be running at once
    at_once: int = 1  # blocks of it that a processor shall have registers for
    fast: bool = False  # it rounds to bfloat16: for programs that were recorded so
    only: str = ""  # the one architecture that has its instructions; none: all
    ampere: bool = False  # of special kernels: not for older GPUs
    double: bool = False  # it computes in float64
    batches: bool = True  # it knows what a batch says of its tokens
    stays: bool = False  # a block takes one item after the other: no more of them than run at once
    #: Maps of what its copies read, whose addresses are arguments after the slots; of (arena, rows it holds, values).
    maps: tuple[Callable[[int, int, Mapping[str, int]], TensorMap], ...] = ()


#: A kernel for every op and variant.
KERNELS: dict[str, Kernel] = {}
#: What is run in the place of a kernel of the same name where it fits, the first that does: for many rows, or for one.
SPECIAL: dict[str, tuple[Kernel, ...]] = {}


def kernel(
    threads: int,
    blocks: Callable[[int, Mapping[str, int]], int],
    shared: Callable[[Mapping[str, int]], int] | int = 0,
    name: str = "",
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a kernel under its own name, or `name`: an op of the table, or op_variant."""

    def register(f: Callable[..., None]) -> Callable[..., None]:
        called = name or f.__name__.rstrip("_")
        need = shared if callable(shared) else lambda _, n=shared: n
        KERNELS[called] = Kernel(called, f, threads, blocks, need, fields_of(called, f))
        return f

    return register


def special(name: str, kernel: Kernel) -> None:
    """Register a kernel for some of the rows or sizes that `name` takes: of one architecture first, then fast ones."""
    SPECIAL[name] = tuple(sorted((*SPECIAL.get(name, ()), kernel), key=lambda k: (not k.only, not k.fast)))


def fields_of(name: str, function: Callable[..., None]) -> tuple[str, ...]:
    """Kind:name of the slots of the op that a kernel of this name takes, in the order of its arguments."""
    (fields,) = (op.fields for op in OPS.values() if name in op.kernels)
    kinds = {f[2:]: f for f in fields}
    return tuple(kinds[argument] for argument in signature(function).parameters if argument in kinds)


def chosen(
    name: str, rows: int, values: Mapping[str, int], *, fast: bool = False, architecture: str = "",
    batched: bool = False,
) -> Kernel:  # fmt: skip
    """The kernel that takes this many rows, in a `fast` program or another, on a GPU of this architecture."""
    for k in SPECIAL.get(name, ()):
        if k.batches < batched or k.fast > fast or (k.ampere and architecture == TURING):
            continue
        if k.only in {"", architecture} and k.fits(rows, values):
            return k
    return KERNELS[name]


def always(n: int) -> Callable[[Mapping[str, int]], int]:
    """As many bytes of shared memory, whatever the sizes."""
    return lambda _: n


def ceil(n: int, unit: int) -> int:
    """Units that hold n."""
    return -(-n // unit)


# ---------------------------------------------------------------------------------------------- on the device
def rows_of(step: Any, rows: Any) -> Any:
    """Rows of this instruction's output in this step."""
    return ld_i64(step + 8 * (S_ROWS if rows != 0 else S_T))


def position_of(step: Any, r: Any) -> Any:
    """Position of token r in its sequence."""
    tokens = ld_i64(step + 8 * S_TOKENS)
    if tokens != 0:
        return ld_i64(tokens + 8 * (TOKEN_WORDS * r + T_POSITION))
    return ld_i64(step + 8 * S_START) + r


def small(n: Any) -> Any:
    """The same, of 0 to `SIZES`; its upper half needs no register, and a quotient of two such is one of 32 bits."""
    return n & (SIZES - 1)


def lane() -> Any:
    """Number of this thread in its warp."""
    return thread() & (WARP - 1)


def first_item() -> Any:
    """Number of this warp in the grid; warps take items this far apart: `all_warps()`."""
    return block() * (threads() // WARP) + thread() // WARP


def all_warps() -> Any:
    """Warps of the grid."""
    return blocks() * (threads() // WARP)


def block_sum(value: Any) -> Any:
    """*block* Sum over all threads, in all of them: each warp's, then these in order. 4 bytes shared for each warp."""
    total = warp_sum(value)
    if thread() % WARP == 0:
        sst_f32(thread() // WARP * 4, total)
    barrier()
    total = F(0.0)
    for i in range(threads() // WARP):
        total += sld_f32(4 * i)
    barrier()
    return total
