"""What integer products read: rows of floats, rounded to whole numbers of one byte or two.

A row holds all its bytes, then its groups' scales, then the sums of their numbers (`quantizing.py`).
"""

from __future__ import annotations

from typing import Any

from ...ops import slots
from ...quantized import GROUP
from ..quantizing import TOGETHER, quantizing
from .base import arg, kernel, rows_of, share, template

Q_Y, Q_X, Q_K = slots("quantize")
P_Y, P_X, P_K, P_PARTS = slots("quantize_parts")


def _quantize(planes: int) -> Any:
    """The body that rounds each 32 floats of a row; a row holds all its bytes, then its scales, then its sums."""
    together, one, last = quantizing(planes)
    width = GROUP * planes

    @template
    def body(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
        rows, k, x, y = rows_of(p, step), arg(p, Q_K), base + arg(p, Q_X), base + arg(p, Q_Y)
        groups = (k + GROUP - 1) // GROUP
        whole, items = k // GROUP, rows * groups
        i, end = share(items, 1, t, nt), share(items, 1, t + 1, nt)
        while i < end:  # a row, or what of it is this thread's
            r = i // groups
            g0 = i - r * groups
            g1 = min(groups, g0 + end - i)
            data, src = y + r * groups * (width + 8), x + 4 * r * k
            scale = data + groups * width
            several = g0 + (min(g1, whole) - g0) // TOGETHER * TOGETHER if g0 < whole else g0
            for g in range(g0, several, TOGETHER):
                together(src + 4 * GROUP * g, data + width * g, scale + 4 * g, scale + 4 * (groups + g))
            for g in range(several, min(g1, whole)):
                one(src + 4 * GROUP * g, data + width * g, scale + 4 * g, scale + 4 * (groups + g))
            for g in range(max(g0, whole), g1):
                left = k - GROUP * g
                last(src + 4 * GROUP * g, left, data + width * g, scale + 4 * g, scale + 4 * (groups + g))
            i += g1 - g0

    return body


def _quantize_parts(planes: int) -> Any:
    """Each part of a row as `quantize` does a row: all its bytes, then its scales, then its sums."""
    _, whole, tail = quantizing(planes)
    width = GROUP * planes

    @template
    def body(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
        parts, k = rows_of(p, step) * arg(p, P_PARTS), arg(p, P_K)
        groups = (k + GROUP - 1) // GROUP
        for item in range(share(parts * groups, 1, t, nt), share(parts * groups, 1, t + 1, nt)):
            r, g = item // groups, item % groups
            y, src = base + arg(p, P_Y) + r * groups * (width + 8), base + arg(p, P_X) + 4 * (r * k + GROUP * g)
            scale = y + groups * width + 4 * g
            if k - GROUP * g >= GROUP:
                whole(src, y + width * g, scale, scale + 4 * groups)
            else:
                tail(src, k - GROUP * g, y + width * g, scale, scale + 4 * groups)

    return body


_one, _planes = _quantize(1), _quantize(2)
_parts_one, _parts_planes = _quantize_parts(1), _quantize_parts(2)


@kernel
def quantize(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """To bytes."""
    _one(p, base, step, t, nt)


@kernel
def quantize_planes(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """To two bytes a number; of a group the high ones come first."""
    _planes(p, base, step, t, nt)


@kernel
def quantize_parts(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """To bytes."""
    _parts_one(p, base, step, t, nt)


@kernel
def quantize_parts_planes(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """To two bytes a number; of a group the high ones come first."""
    _parts_planes(p, base, step, t, nt)
