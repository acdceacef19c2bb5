"""Where the numbers of a quantised matrix may lie: the scale, and of int4a the smallest number, of each 32 of a row.

int8 and int4 try several scales for each 32 and keep the one with the least squared error: a trial takes the largest
to a given number, x / unit = q + e with q whole, and the best scale for these q is unit (1 + sum(e q) / sum(q q)), with
an error of unit^2 (sum(e e) - sum(e q)^2 / sum(q q)). int4a tries several ranges and fits scale and smallest number:
with x ~ s q + low, s = cov(x, q) / var(q), and the error is less by cov^2 / var. Scale and smallest number are then
rounded to float16, and the numbers to what lies nearest on that grid. Where columns have weights, each term of each sum
is multiplied by its column's, and n is their sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..dataclass import dataclass
from ..runtime.quantized import GROUP, HEAD_BYTES, INT4A_TRIALS, LEVELS, PANEL, QUANTIZED, SCALE_BYTES, TRIALS
from .underflow import widened

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    F16 = NDArray[np.float16]
    F32 = NDArray[np.float32]

__all__ = ["Grid", "grid_of", "inverse", "lay"]

#: Less than the sum of a group's weighted squares, where any is not 0.
TINY = 1e-30


@dataclass(frozen=True)
class Grid:
    """Numbers float32 [32, rows, groups], a group's columns first, and what each group's are made of.

    `scale` and `low` float16 [rows, groups]: a whole number q within `levels` stands for q * scale + low.
    """

    x: F32
    scale: F16
    low: F16
    levels: tuple[int, int]

    @property
    def head(self) -> list[F16]:
        """What stands before a group's numbers."""
        return [self.scale, self.low] if self.levels[0] == 0 else [self.scale]

    def nearest(self) -> F32:
        """The whole numbers nearest to `x`."""
        q: F32 = np.clip(np.rint((self.x - self.low.astype(np.float32)) * inverse(self.scale)), *self.levels)
        return q


def grid_of(numbers: NDArray[Any], stored: str, dtype: str, panels: int, weight: F32 | None = None) -> Grid | None:
    """Scales that fit [n, k] best, rows filled up to whole panels; None as `pack_rows` says."""
    n, k = numbers.shape
    groups = -(-k // GROUP)
    scale, low = np.zeros((2, panels * PANEL, groups), np.float32)
    block = np.zeros((panels * PANEL, groups * GROUP), np.float32)
    counts = None
    if weight is not None:  # [k] -> [32, 1, groups]
        counts = np.pad(weight, (0, groups * GROUP - k)).reshape(groups, GROUP).T[:, None]
    with np.errstate(all="ignore"):  # what is not finite shows in the end
        block[:n, :k] = widened(numbers, stored)
        # [rows, groups * 32] -> [32, rows, groups]
        x = np.ascontiguousarray(block.reshape(len(block), groups, GROUP).transpose(2, 0, 1))
        for span, width in ((slice(k // GROUP), GROUP), (slice(k // GROUP, groups), k % GROUP)):
            if width:
                h = None if counts is None else counts[:width, :, span]
                scale[:, span], low[:, span] = _fit(x[:width, :, span], dtype, h)
        grid = Grid(x, scale.astype(np.float16), low.astype(np.float16), LEVELS[dtype])
    return grid if all(np.isfinite(part).all() for part in (block, grid.scale, grid.low)) else None


def _sum(columns: F32, h: F32 | None = None) -> F32:
    """One column after the other, each times its weight: NumPy's own sums choose their order by the CPU."""
    terms = columns if h is None else columns * h
    total: F32 = np.zeros_like(terms[0])
    for term in terms:
        total += term
    return total


def _fit(x: F32, dtype: str, h: F32 | None) -> tuple[F32, F32]:
    """[columns, rows, groups] -> scale and smallest number, each [rows, groups]. `h`: weights [columns, 1, groups]."""
    if dtype == "int4a":
        return _fit_int4a(x, h)
    # With its sign, the first of equals; + 0, so that -0 is none.
    largest = np.take_along_axis(x, np.abs(x).argmax(0)[None], 0)[0] + np.float32(0)
    best, best_error = largest / np.float32(TRIALS[dtype][0]), np.full_like(largest, np.inf)
    least = np.float32(1 if h is None else TINY)
    for reach in TRIALS[dtype]:
        unit = largest / np.float32(reach)
        steps = x * inverse(unit)
        q = np.clip(np.rint(steps), *LEVELS[dtype])
        e = steps - q
        qq, eq, ee = _sum(q * q, h), _sum(e * q, h), _sum(e * e, h)
        more = eq / np.maximum(qq, least)
        error = (ee - eq * more) * (unit * unit)
        better = error < best_error
        best_error, best = np.where(better, error, best_error), np.where(better, unit + unit * more, best)
    return best, np.zeros_like(best)


def _fit_int4a(x: F32, h: F32 | None) -> tuple[F32, F32]:
    """As `_fit`; before the first trial, smallest and largest are taken to 0 and 15."""
    n, bottom = np.float32(len(x)) if h is None else _sum(h), x.min(0)
    y, width = x - bottom, x.max(0) - bottom
    by, sum_y = inverse(width), _sum(y, h)
    best, best_low, best_gain = width / np.float32(15), np.zeros_like(width), np.full_like(width, -1)
    for first, reach in INT4A_TRIALS:
        q = np.clip(np.rint(y * (np.float32(reach) * by) + np.float32(first)), *LEVELS["int4a"])
        sum_q = _sum(q, h)
        cov, var = _sum(y * q, h) - sum_y * sum_q / n, _sum(q * q, h) - sum_q * sum_q / n
        scale = cov / var
        gain = cov * scale
        better = gain > best_gain
        best_gain, best = np.where(better, gain, best_gain), np.where(better, scale, best)
        best_low = np.where(better, (sum_y - scale * sum_q) / n, best_low)
    return best, bottom + best_low


def inverse(x: NDArray[np.floating]) -> F32:
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
