"""Floats in, packed int8 or int4 out: what loading does to a matrix that the plan quantises.

int8 takes the largest of 32 numbers to 127. int4 tries several scales for each 32 and keeps the one with the least
squared error, the scale being the least-squares one for the integers found: with x ~ s q, s = sum(x q) / sum(q q) and
the error is sum(x x) - sum(x q)^2 / sum(q q).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import PlanError
from ..runtime.packed import GROUP, PANEL, QUANTIZED, SCALE_BYTES, packed_shape

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    F32 = NDArray[np.float32]

__all__ = ["BLOCK_ROWS", "MATRICES", "pack_matrix", "parse_quantize"]

#: Roles that can be quantised; a tied head is the embedding.
MATRICES = ("embed", "head", "q", "k", "v", "o", "gate", "up", "down")

#: Rows that are quantised at a time: few megabytes, and NumPy's calls long enough for threads to run beside each other.
BLOCK_ROWS = 256
#: int4: to how much the largest number of a group is taken, before the scale is fitted.
REACH = (-8.0, -7.6, -7.2, -6.8, -8.5, 7.0, 7.5)


def parse_quantize(wanted: str | None) -> dict[str, str]:
    """Role -> "int8" or "int4", from "int8" (every matrix), "int4,embed=int8", "gate=int4,up=int4,down=none".

    A role's own word wins over the general one. Errors: `PlanError` for what is neither.
    """
    chosen: dict[str, str] = {}
    if wanted is None:
        return chosen
    words = [word.strip() for word in wanted.split(",")] if isinstance(wanted, str) else [repr(wanted)]
    for word in sorted(words, key=lambda w: "=" in w):  # the general one first
        role, _, dtype = word.rpartition("=")
        if dtype not in (*QUANTIZED, "none") or (role and role not in MATRICES):
            msg = (
                f"quantize={wanted!r}: {word!r} is not understood; expected int8, int4 or none for all matrices, and "
                f"ROLE=int8 and so on for one of {', '.join(MATRICES)}, joined by commas"
            )
            raise PlanError(msg)
        chosen |= dict.fromkeys([role] if role else MATRICES, dtype)
    return {role: dtype for role, dtype in chosen.items() if dtype != "none"}


def pack_matrix(
    rows: Callable[[slice], F32], shape: tuple[int, ...], dtype: str, out: NDArray[np.uint8], *, threads: int = 1
) -> bool:
    """Quantise [n, k] into `out`, uint8 `packed_shape`; whether all numbers were finite and every scale fits float16.

    `rows(span)` gives rows as float32; it is asked for `BLOCK_ROWS` at a time, so that little is held at once.
    """
    n, k = shape
    _, groups, _ = packed_shape(dtype, shape)

    def work(first: int) -> bool:
        part = rows(slice(first, min(n, first + BLOCK_ROWS)))
        whole = -(-len(part) // PANEL) * PANEL
        block = np.zeros((whole, groups * GROUP), np.float32)
        block[: len(part), :k] = part
        with np.errstate(over="ignore", invalid="ignore"):
            q, scale = (_int8 if dtype == "int8" else _int4)(block.reshape(whole, groups, GROUP))
            fine = bool(np.isfinite(scale).all() and np.isfinite(part).all())
        if fine:
            _lay(q, scale, dtype, out[first // PANEL : (first + whole) // PANEL])
        return fine

    firsts = range(0, n, BLOCK_ROWS)
    if threads == 1:
        return all(map(work, firsts))
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - 4 ms that only those who quantise should pay

    with ThreadPoolExecutor(threads) as pool:
        return all(pool.map(work, firsts))


def _int8(x: F32) -> tuple[F32, NDArray[np.float16]]:
    """[rows, groups, 32] -> q, the same shape, whole numbers; scale [rows, groups]."""
    scale = (np.abs(x).max(-1) / np.float32(127)).astype(np.float16)
    return np.clip(np.rint(x * _inverse(scale)[..., None]), -127, 127), scale


def _int4(x: F32) -> tuple[F32, NDArray[np.float16]]:
    """As `_int8`, by trial."""
    at = np.abs(x).argmax(-1)[..., None]
    largest = np.take_along_axis(x, at, -1)  # with its sign
    inverse = _inverse(largest[..., 0])[..., None]
    best_q, best_gain = np.zeros_like(x), np.full(x.shape[:-1], -1, np.float32)
    best_scale = np.zeros(x.shape[:-1], np.float32)
    for reach in REACH:
        q = np.clip(np.rint(x * (np.float32(reach) * inverse)), -8, 7)
        xq, qq = np.einsum("rgk,rgk->rg", x, q), np.einsum("rgk,rgk->rg", q, q)
        scale = xq / np.maximum(qq, np.float32(1e-30))
        gain = xq * scale
        better = gain > best_gain
        best_gain, best_scale = np.where(better, gain, best_gain), np.where(better, scale, best_scale)
        np.copyto(best_q, q, where=better[..., None])
    return best_q, best_scale.astype(np.float16)


def _inverse(x: NDArray[np.floating]) -> F32:
    """1 / x, or 0 for 0."""
    wide = x.astype(np.float32)
    return np.divide(np.float32(1), wide, out=np.zeros_like(wide), where=wide != 0)


def _lay(q: F32, scale: NDArray[np.float16], dtype: str, out: NDArray[np.uint8]) -> None:
    """Numbers [rows, groups, 32] and scales [rows, groups] to their places (`runtime/packed.py`)."""
    rows, groups, _ = q.shape
    panels = rows // PANEL
    scales = np.ascontiguousarray(scale.reshape(panels, PANEL, groups).transpose(0, 2, 1))
    out[..., :SCALE_BYTES] = scales.view(np.uint8)
    stored = (q + QUANTIZED[dtype]).astype(np.uint8)
    # [P, row, G, step, 4] -> [P, G, step, row, 4]
    steps: NDArray[np.uint8] = stored.reshape(panels, PANEL, groups, GROUP // 4, 4).transpose(0, 2, 3, 1, 4)
    if dtype == "int4":
        half = GROUP // 8
        steps = steps[:, :, :half] | np.left_shift(steps[:, :, half:], 4)
    out[..., SCALE_BYTES:] = steps.reshape(panels, groups, -1)
