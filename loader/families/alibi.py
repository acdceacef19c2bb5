"""Slopes of attention with linear biases (Press et al. 2021), as their families compute them: in float32."""

from __future__ import annotations

import math
import struct

__all__ = ["halved_slopes", "interleaved_slopes"]


def _f32(x: float) -> float:
    value: float = struct.unpack("<f", struct.pack("<f", x))[0]
    return value


def halved_slopes(n_heads: int) -> tuple[float, ...]:
    """Powers of a base for the largest power of two of heads, odd powers of its root for the rest (BLOOM, Falcon)."""
    most = 2 ** int(math.log2(n_heads))
    base, root = (_f32(2.0 ** -(8 / n)) for n in (most, 2 * most))
    return tuple(_f32(base ** (i + 1)) if i < most else _f32(root ** (2 * (i - most) + 1)) for i in range(n_heads))


def interleaved_slopes(n_heads: int) -> tuple[float, ...]:
    """Those of the next power of two of heads, every second one first (MPT)."""
    n = 2 ** math.ceil(math.log2(n_heads))
    every = [_f32(2.0 ** -_f32((i + 1) * (8 / n))) for i in range(n)]
    return tuple(every if n == n_heads else [*every[1::2], *every[::2]][:n_heads])
