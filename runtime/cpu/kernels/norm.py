"""RMSNorm and LayerNorm: a thread owns whole rows, sums in the one order."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ops import slots
from ..lanes import add, between, fma, fold, load_tail, mul, splat, store_tail, sub, zero
from .base import arg, farg, jit, kernel, rows_of, share

F = np.float32
R_Y, R_X, R_W, R_D, R_GROUPS, R_EPS = slots("rms_norm")
L_Y, L_X, L_W, L_B, L_D, L_EPS = slots("layer_norm")
H_Y, H_X, H_W, H_B, H_D, H_GROUPS, H_OWN, H_EPS = slots("layer_norm_heads")


@jit
def _mean_square(x: Any, d: Any) -> Any:
    acc = zero()
    for j in range(0, d, 16):
        v = load_tail(x + 4 * j, d - j)
        acc = fma(v, v, acc)
    return F(fold(acc) / F(d))


@kernel
def rms_norm(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Y = x / sqrt(mean(x^2) + eps) * w, over each piece of d."""
    d, w = arg(p, R_D), arg(p, R_W)
    pieces = rows_of(p, step) * arg(p, R_GROUPS)
    for r in range(share(pieces, 1, t, nt), share(pieces, 1, t + 1, nt)):
        x, y = base + arg(p, R_X) + 4 * r * d, base + arg(p, R_Y) + 4 * r * d
        s = splat(F(F(1.0) / F(math.sqrt(F(_mean_square(x, d) + farg(p, R_EPS))))))
        for j in range(0, d, 16):
            left = d - j
            store_tail(y + 4 * j, mul(mul(load_tail(x + 4 * j, left), s), load_tail(w + 4 * j, left)), left)


@jit
def _normed_row(y: Any, x: Any, w: Any, b: Any, d: Any, eps: Any) -> None:
    """Y = (x - mean) / sqrt(var + eps) * w + b of one row, the variance about the mean (two passes)."""
    acc = zero()
    for j in range(0, d, 16):
        acc = add(acc, load_tail(x + 4 * j, d - j))
    mean = splat(F(fold(acc) / F(d)))
    acc = zero()
    for j in range(0, d, 16):
        c = between(sub(load_tail(x + 4 * j, d - j), mean), 0, d - j, F(0.0))
        acc = fma(c, c, acc)
    s = splat(F(F(1.0) / F(math.sqrt(F(F(fold(acc) / F(d)) + eps)))))
    for j in range(0, d, 16):
        left = d - j
        v = mul(mul(sub(load_tail(x + 4 * j, left), mean), s), load_tail(w + 4 * j, left))
        if b != 0:
            v = add(v, load_tail(b + 4 * j, left))
        store_tail(y + 4 * j, v, left)


@kernel
def layer_norm(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Every row is normed, and its gains and biases applied."""
    d, rows = arg(p, L_D), rows_of(p, step)
    for r in range(share(rows, 1, t, nt), share(rows, 1, t + 1, nt)):
        x, y = base + arg(p, L_X) + 4 * r * d, base + arg(p, L_Y) + 4 * r * d
        _normed_row(y, x, arg(p, L_W), arg(p, L_B), d, farg(p, L_EPS))


@kernel
def layer_norm_heads(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """The same of each piece of d, with gains and biases of its own or those of all."""
    d, groups, own, b = arg(p, H_D), arg(p, H_GROUPS), arg(p, H_OWN), arg(p, H_B)
    pieces = rows_of(p, step) * groups
    for r in range(share(pieces, 1, t, nt), share(pieces, 1, t + 1, nt)):
        x, y, at = base + arg(p, H_X) + 4 * r * d, base + arg(p, H_Y) + 4 * r * d, 4 * d * own * (r % groups)
        _normed_row(y, x, arg(p, H_W) + at, b + at if b != 0 else b, d, farg(p, H_EPS))
