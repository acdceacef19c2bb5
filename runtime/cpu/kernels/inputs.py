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
P_Y, P_X, P_K, P_PARTS = slots("quantize_parts")  # and of `quantize_planes`
_, quantize32, quantize_tail = quantizing(1)


def _walk(planes: int) -> Any:
    """The body that rounds each 32 floats of `count` rows of k."""
    together, one, last = quantizing(planes)
    width = GROUP * planes

    @template
    def body(x: Any, y: Any, k: Any, count: Any, t: Any, nt: Any) -> None:
        groups = (k + GROUP - 1) // GROUP
        whole, items = k // GROUP, count * groups
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


_one, _two = _walk(1), _walk(2)


@kernel
def quantize(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """To bytes."""
    _one(base + arg(p, Q_X), base + arg(p, Q_Y), arg(p, Q_K), rows_of(p, step), t, nt)


@kernel
def quantize_planes(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """To two bytes a number; of a group the high ones come first."""
    _two(base + arg(p, P_X), base + arg(p, P_Y), arg(p, P_K), rows_of(p, step) * arg(p, P_PARTS), t, nt)


@kernel
def quantize_parts(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Each part of a row as `quantize` does a row."""
    parts, k = rows_of(p, step) * arg(p, P_PARTS), arg(p, P_K)
    groups = (k + GROUP - 1) // GROUP
    for item in range(share(parts * groups, 1, t, nt), share(parts * groups, 1, t + 1, nt)):
        r, g = item // groups, item % groups
        y, src = base + arg(p, P_Y) + r * groups * (GROUP + 8), base + arg(p, P_X) + 4 * (r * k + GROUP * g)
        scale = y + groups * GROUP + 4 * g
        if k - GROUP * g >= GROUP:
            quantize32(src, y + GROUP * g, scale, scale + 4 * groups)
        else:
            quantize_tail(src, k - GROUP * g, y + GROUP * g, scale, scale + 4 * groups)
