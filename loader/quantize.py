"""Floats in, packed int8 or int4 out: what loading does to a matrix that the plan quantises.

`pack_rows` is the definition (with `grid.py`, where scales are chosen), in float32 and in one order: sums run over the
columns, one after the other.
`runtime/cpu/kernels/packing.py` does the same, gives the same bytes, and is what `load` hands in.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np

from ..errors import PlanError
from ..runtime.quantized import PANEL, QUANTIZED, quantized_shape
from ..runtime.sparse_int8 import pack_sparse_int8
from .files import quote
from .grid import grid_of, lay
from .roles import MATRICES, ROLES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor
    from typing import Any, Protocol

    from numpy.typing import NDArray

    from .underflow import Underflow

    F32 = NDArray[np.float32]

    class Sliced(Protocol):
        """Rows [n, k], a slice of them at a time."""

        def __len__(self) -> int: ...
        def __getitem__(self, span: slice, /) -> NDArray[Any]: ...

    #: (numbers [n, k] as stored, the file's dtype, "int8" and so on, packed bytes to write) -> whether all is finite
    PackRows = Callable[[NDArray[Any], str, str, NDArray[np.uint8]], bool]

__all__ = [
    "BLOCK_ROWS",
    "OF_LAYERS",
    "of_layer",
    "pack_matrix",
    "pack_rows",
    "pack_sparse_matrix",
    "parse_quantize",
    "plain_roles",
]

#: Most rows that are quantised at a time: what is held besides the result stays small.
BLOCK_ROWS = 256


def parse_quantize(wanted: str | None) -> dict[str, str]:
    """Role -> "int8", "int4" or "int4a", from "int8" (every matrix), "int4,embed=int8", "gate=int4,down=none".

    And "3.down" -> the same or "none", from "3=int8" (every matrix of the layer), "0-2.down=int8", "encoder.0-2=int8".
    The narrower word wins: a layer's role, a layer, a role, all. Errors: `PlanError` for what is none of these.
    """
    return {name: dtype for name, dtype in _chosen(wanted).items() if dtype != "none" or "." in name}


def plain_roles(wanted: str | None) -> frozenset[str]:
    """Roles that are said to stay floats ("none"). Errors: as above."""
    return frozenset(name for name, dtype in _chosen(wanted).items() if dtype == "none" and "." not in name)


def _chosen(wanted: str | None) -> dict[str, str]:
    chosen: dict[str, str] = {}
    if wanted is None:
        return chosen
    words = [word.strip() for word in wanted.split(",")] if isinstance(wanted, str) else [quote(wanted)]
    read = [(*_named(word, wanted), word) for word in words]
    for width in range(4):  # the narrower one wins
        here: dict[str, str] = {}
        for narrow, names, dtype, word in read:
            for name in names if narrow == width else ():
                if name in here:
                    what = word.rpartition("=")[0]
                    msg = f"quantize={quote(wanted)}: {quote(what) if what else 'all matrices'} named twice"
                    raise PlanError(msg)
                here[name] = dtype
        chosen |= here
    return chosen


def of_layer(quantize: Mapping[str, str], role: str, layer: str) -> str | None:
    """What becomes of a layer's matrix: `layer` is "3", or "encoder.3"; None: it stays as it is."""
    dtype = quantize.get(f"{layer}.{role}", quantize.get(role))
    return None if dtype == "none" else dtype


#: "0-2.down", "3", "encoder.0-2"; the rest is a role.
_LAYERS = re.compile(r"(encoder\.)?([0-9]{1,4})(?:-([0-9]{1,4}))?(?:\.([a-z_]+))?")
#: Those that a layer has.
OF_LAYERS = tuple(role for role in MATRICES if ROLES[role].sublayer)


def _named(word: str, wanted: object) -> tuple[int, tuple[str, ...], str]:
    """How narrow a word is, 0 to 3, what it names, and as what. Errors: `PlanError`."""
    left, _, dtype = word.rpartition("=")
    layers = _LAYERS.fullmatch(left)
    if dtype in (*QUANTIZED, "none") and "=" not in left:
        if not left and "=" not in word:
            return 0, MATRICES, dtype
        if left in MATRICES:
            return 1, (left,), dtype
        if layers is not None and layers[4] in (None, *OF_LAYERS) and int(layers[2]) <= int(layers[3] or layers[2]):
            at = range(int(layers[2]), int(layers[3] or layers[2]) + 1)
            roles = OF_LAYERS if layers[4] is None else (layers[4],)
            names = tuple(f"{layers[1] or ''}{i}.{role}" for i in at for role in roles)
            return 2 + (layers[4] is not None), names, dtype
    msg = (
        f"quantize={quote(wanted)}: {quote(word)} is not understood; expected {', '.join(QUANTIZED)} or none for all "
        f"matrices, and ROLE=int8, LAYERS=int8 or LAYERS.ROLE=int8 and so on, for layers such as 3 or 0-2 and one of "
        f"{', '.join(MATRICES)}, joined by commas"
    )
    raise PlanError(msg)


def pack_rows(
    numbers: NDArray[Any], stored: str, dtype: str, out: NDArray[np.uint8], weight: F32 | None = None
) -> bool:
    """Quantise [n, k], as the file stores it, into `out`, uint8 `quantized_shape`.

    `weight` float32 [k]: what an error in each column counts; None: all alike. False where a number is not finite or a
    scale does not fit float16; `out` then holds nothing of use.
    """
    grid = grid_of(numbers, stored, dtype, out.shape[0], weight)
    if grid is not None:
        lay(grid.nearest(), grid.head, dtype, out)
    return grid is not None


def pack_matrix(  # noqa: PLR0913 - what and how
    numbers: Sliced,
    stored: str,
    dtype: str,
    out: NDArray[np.uint8],
    *,
    pool: Executor | None = None,
    threads: int = 1,
    pack: PackRows = pack_rows,
    done: Callable[[slice], None] | None = None,
    underflow: Underflow | None = None,
) -> bool:
    """`pack_rows`, at most `BLOCK_ROWS` at a time, next to each other in the pool's `threads`.

    `done` is told which rows have been read; `underflow` looks at what they were packed to.
    """
    n = len(numbers)
    parts = threads * -(-n // (BLOCK_ROWS * threads))
    step = -(-n // (parts * PANEL)) * PANEL

    def work(first: int) -> bool:
        span = slice(first, min(n, first + step))
        part, packed = numbers[span], out[first // PANEL : -(-span.stop // PANEL)]
        fine = pack(part, stored, dtype, packed)
        if underflow is not None and fine:
            underflow.look(first, part, stored, packed)
        if done is not None:
            done(span)
        return fine

    return all((map if pool is None else pool.map)(work, range(0, n, step)))


def pack_sparse_matrix(  # noqa: PLR0913 - as `pack_matrix`
    read: Callable[[slice], tuple[NDArray[Any], NDArray[np.bool_]]],
    shape: tuple[int, ...],
    stored: str,
    out: NDArray[np.uint8],
    *,
    together: int = 1,
    pool: Executor | None = None,
    threads: int = 1,
    pack: PackRows = pack_rows,
    done: Callable[[slice], None] | None = None,
    underflow: Underflow | None = None,
) -> bool:
    """As `pack_matrix`, to int8 of which those numbers are held that stay (`runtime/sparse_int8.py`).

    `read` gives rows [rows, k] and what stays of them, bool; `together`: rows that are best read this many at a time.
    As many blocks as there are threads are quantised next to each other, and laid down one after the other.
    """
    n = shape[0]
    step = math.lcm(PANEL, together)
    step *= max(1, BLOCK_ROWS // step)

    def work(first: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_], bool]:
        span = slice(first, min(n, first + step))
        numbers, stays = read(span)
        packed = np.empty(quantized_shape("int8", stays.shape), np.uint8)
        part = np.where(stays, numbers, numbers.dtype.type(0))
        fine = pack(part, stored, "int8", packed)
        if underflow is not None and fine:
            underflow.look(first, part, stored, packed)
        if done is not None:
            done(span)
        return packed, stays, fine

    firsts = range(0, n, step)
    for at in range(0, len(firsts), threads):
        some = firsts[at : at + threads]
        for first, (packed, stays, fine) in zip(some, (map if pool is None else pool.map)(work, some), strict=True):
            if not fine:
                return False
            pack_sparse_int8(packed, stays, out, n, first)
    return True
