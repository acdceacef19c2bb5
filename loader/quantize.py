"""Floats in, packed int8 or int4 out: what loading does to a matrix that the plan quantises.

int8 and int4 try several scales for each 32 and keep the one with the least squared error: a trial takes the largest
to a given number, x / unit = q + e with q whole, and the best scale for these q is unit (1 + sum(e q) / sum(q q)), with
an error of unit^2 (sum(e e) - sum(e q)^2 / sum(q q)). int4a tries several ranges and fits scale and smallest number:
with x ~ s q + low, s = cov(x, q) / var(q), and the error is less by cov^2 / var. Scale and smallest number are then
rounded to float16, and the numbers to what lies nearest on that grid.

`pack_rows` is the definition, in float32 and in one order: sums run over the columns, one after the other.
`runtime/cpu/kernels/packing.py` does the same, gives the same bytes, and is what `load` hands in.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..errors import PlanError
from ..runtime.quantized import (
    GROUP,
    HEAD_BYTES,
    INT4A_TRIALS,
    LEVELS,
    PANEL,
    QUANTIZED,
    SCALE_BYTES,
    TRIALS,
    quantized_shape,
)
from ..runtime.sparse_int8 import pack_sparse_int8
from .files import quote
from .roles import MATRICES
from .underflow import widened

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
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

__all__ = ["BLOCK_ROWS", "lay", "pack_matrix", "pack_rows", "pack_sparse_matrix", "parse_quantize", "plain_roles"]

#: Most rows that are quantised at a time: what is held besides the result stays small.
BLOCK_ROWS = 256


def parse_quantize(wanted: str | None) -> dict[str, str]:
    """Role -> "int8", "int4" or "int4a", from "int8" (every matrix), "int4,embed=int8", "gate=int4,down=none".

    A role's own word wins over the general one. Errors: `PlanError` for what is neither.
    """
    return {role: dtype for role, dtype in _chosen(wanted).items() if dtype != "none"}


def plain_roles(wanted: str | None) -> frozenset[str]:
    """Roles that are said to stay floats ("none"). Errors: as above."""
    return frozenset(role for role, dtype in _chosen(wanted).items() if dtype == "none")


def _chosen(wanted: str | None) -> dict[str, str]:
    chosen: dict[str, str] = {}
    if wanted is None:
        return chosen
    words = [word.strip() for word in wanted.split(",")] if isinstance(wanted, str) else [quote(wanted)]
    named = set[str]()
    for word in sorted(words, key=lambda w: "=" in w):  # the general one first
        role, by_role, dtype = word.rpartition("=")
        if dtype not in (*QUANTIZED, "none") or (by_role and role not in MATRICES):
            msg = (
                f"quantize={quote(wanted)}: {quote(word)} is not understood; expected {', '.join(QUANTIZED)} or none "
                f"for all matrices, and ROLE=int8 and so on for one of {', '.join(MATRICES)}, joined by commas"
            )
            raise PlanError(msg)
        if role in named:
            msg = f"quantize={quote(wanted)}: {quote(role) if role else 'all matrices'} named twice"
            raise PlanError(msg)
        named.add(role)
        chosen |= dict.fromkeys([role] if role else MATRICES, dtype)
    return chosen


def pack_rows(numbers: NDArray[Any], stored: str, dtype: str, out: NDArray[np.uint8]) -> bool:
    """Quantise [n, k], as the file stores it, into `out`, uint8 `quantized_shape`.

    False where a number is not finite or a scale does not fit float16; `out` then holds nothing of use.
    """
    n, k = numbers.shape
    panels, groups, _ = out.shape
    scale, low = np.zeros((2, panels * PANEL, groups), np.float32)
    block = np.zeros((panels * PANEL, groups * GROUP), np.float32)
    with np.errstate(all="ignore"):  # what is not finite shows in the end
        block[:n, :k] = widened(numbers, stored)
        # [rows, groups * 32] -> [32, rows, groups]
        x = np.ascontiguousarray(block.reshape(len(block), groups, GROUP).transpose(2, 0, 1))
        for span, width in ((slice(k // GROUP), GROUP), (slice(k // GROUP, groups), k % GROUP)):
            if width:
                scale[:, span], low[:, span] = _fit(x[:width, :, span], dtype)
        half_scale, half_low = scale.astype(np.float16), low.astype(np.float16)
        q = np.clip(np.rint((x - half_low.astype(np.float32)) * _inverse(half_scale)), *LEVELS[dtype])
    fine = bool(all(np.isfinite(part).all() for part in (block, half_scale, half_low)))
    if fine:
        lay(q, [half_scale, half_low][: HEAD_BYTES[dtype] // SCALE_BYTES], dtype, out)
    return fine


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


def _sum(columns: Sequence[F32] | F32) -> F32:
    """One column after the other: NumPy's own sums choose their order by the CPU."""
    total = np.zeros_like(columns[0])
    for column in columns:
        total += column
    return total


def _fit(x: F32, dtype: str) -> tuple[F32, F32]:
    """[columns, rows, groups] -> scale and smallest number, each [rows, groups]."""
    if dtype == "int4a":
        return _fit_int4a(x)
    # With its sign, the first of equals; + 0, so that -0 is none.
    largest = np.take_along_axis(x, np.abs(x).argmax(0)[None], 0)[0] + np.float32(0)
    best, best_error = largest / np.float32(TRIALS[dtype][0]), np.full_like(largest, np.inf)
    for reach in TRIALS[dtype]:
        unit = largest / np.float32(reach)
        steps = x * _inverse(unit)
        q = np.clip(np.rint(steps), *LEVELS[dtype])
        e = steps - q
        qq, eq, ee = _sum(q * q), _sum(e * q), _sum(e * e)
        more = eq / np.maximum(qq, np.float32(1))
        error = (ee - eq * more) * (unit * unit)
        better = error < best_error
        best_error, best = np.where(better, error, best_error), np.where(better, unit + unit * more, best)
    return best, np.zeros_like(best)


def _fit_int4a(x: F32) -> tuple[F32, F32]:
    """As `_fit`; before the first trial, smallest and largest are taken to 0 and 15."""
    n, bottom = np.float32(len(x)), x.min(0)
    y, width = x - bottom, x.max(0) - bottom
    inverse, sum_y = _inverse(width), _sum(y)
    best, best_low, best_gain = width / np.float32(15), np.zeros_like(width), np.full_like(width, -1)
    for first, reach in INT4A_TRIALS:
        q = np.clip(np.rint(y * (np.float32(reach) * inverse) + np.float32(first)), *LEVELS["int4a"])
        sum_q = _sum(q)
        cov, var = _sum(y * q) - sum_y * sum_q / n, _sum(q * q) - sum_q * sum_q / n
        scale = cov / var
        gain = cov * scale
        better = gain > best_gain
        best_gain, best = np.where(better, gain, best_gain), np.where(better, scale, best)
        best_low = np.where(better, (sum_y - scale * sum_q) / n, best_low)
    return best, bottom + best_low


def _inverse(x: NDArray[np.floating]) -> F32:
    """1 / x, or 0 for 0."""
    wide = x.astype(np.float32)
    return np.divide(np.float32(1), wide, out=np.zeros_like(wide), where=wide != 0)


def lay(q: NDArray[Any], head: list[NDArray[np.float16]], dtype: str, out: NDArray[np.uint8]) -> None:
    """Numbers [32, rows, groups] and what stands before them, [rows, groups] each, to their places (`quantized.py`)."""
    _, rows, groups = q.shape
    panels = rows // PANEL
    for i, part in enumerate(head):
        halves = np.ascontiguousarray(part.reshape(panels, PANEL, groups).transpose(0, 2, 1))
        out[..., i * SCALE_BYTES : (i + 1) * SCALE_BYTES] = halves.view(np.uint8)
    stored = (q + QUANTIZED[dtype]).astype(np.uint8)
    # [step, 4, P, row, G] -> [P, G, step, row, 4]
    steps: NDArray[np.uint8] = stored.reshape(GROUP // 4, 4, panels, PANEL, groups).transpose(2, 4, 0, 3, 1)
    if dtype != "int8":
        half = GROUP // 8
        steps = steps[:, :, :half] | np.left_shift(steps[:, :, half:], 4)
    out[..., HEAD_BYTES[dtype] :] = steps.reshape(panels, groups, -1)
