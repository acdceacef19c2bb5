"""RMSNorm and LayerNorm: a block of threads for each row."""

from __future__ import annotations

from typing import Any

from ..primitives import block, blocks, fma, ld_f32, sqrt, st_f32, thread, threads
from .base import F, block_sum, kernel, rows_of

THREADS = 256
WARPS_BYTES = 4 * THREADS // 32


def rms_scale(src: Any, d: Any, eps: Any) -> Any:
    """*block* 1 / sqrt(mean(x^2) + eps) of d numbers at `src`."""
    total = F(0.0)
    for j in range(thread(), d, threads()):
        v = ld_f32(src + 4 * j)
        total = fma(v, v, total)
    return F(1.0) / sqrt(block_sum(total) / F(d) + eps)


def mean_and_scale(src: Any, d: Any, eps: Any) -> Any:
    """*block* mean(x), 1 / sqrt(var(x) + eps)."""
    total = F(0.0)
    for j in range(thread(), d, threads()):
        total += ld_f32(src + 4 * j)
    mean = block_sum(total) / F(d)
    total = F(0.0)
    for j in range(thread(), d, threads()):
        v = ld_f32(src + 4 * j) - mean
        total = fma(v, v, total)
    return mean, F(1.0) / sqrt(block_sum(total) / F(d) + eps)


def layer_value(x: Any, mean: Any, scale: Any, w: Any, b: Any, j: Any) -> Any:
    """(x - mean) * scale * w[j] + b[j]."""
    v = (x - mean) * scale * ld_f32(w + 4 * j)
    return v + ld_f32(b + 4 * j) if b != 0 else v


@kernel(THREADS, lambda rows, v: rows * v["groups"], WARPS_BYTES)
def rms_norm(arena: Any, step: Any, rows: Any, y: Any, x: Any, w: Any, d: Any, groups: Any, eps: Any) -> None:
    """y = x / sqrt(mean(x^2) + eps) * w, over each d."""
    item, n = block(), rows_of(step, rows) * groups
    while item < n:
        src, dst = arena + x + 4 * item * d, arena + y + 4 * item * d
        scale = rms_scale(src, d, eps)
        for j in range(thread(), d, threads()):
            st_f32(dst + 4 * j, ld_f32(src + 4 * j) * scale * ld_f32(w + 4 * j))
        item += blocks()


@kernel(THREADS, lambda rows, _: rows, WARPS_BYTES)
def layer_norm(arena: Any, step: Any, rows: Any, y: Any, x: Any, w: Any, b: Any, d: Any, eps: Any) -> None:
    """y = (x - mean(x)) / sqrt(var(x) + eps) * w + b."""
    item, n = block(), rows_of(step, rows)
    while item < n:
        src, dst = arena + x + 4 * item * d, arena + y + 4 * item * d
        moments = mean_and_scale(src, d, eps)
        for j in range(thread(), d, threads()):
            st_f32(dst + 4 * j, layer_value(ld_f32(src + 4 * j), moments[0], moments[1], w, b, j))
        item += blocks()
