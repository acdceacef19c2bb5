"""The maths of the ops on plain arrays, in float64: what `Reference` computes, and what `miaotui.testing` publishes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .quantized import GROUP

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .spec import Activation

    Array = NDArray[np.float64]

__all__ = [
    "activation",
    "attended",
    "attended_relative",
    "layer_norm",
    "linear",
    "rms_norm",
    "rotated",
    "round_bf16",
    "routed",
    "softmax",
    "whole_numbers",
    "xielu",
]

#: Beyond every bfloat16, and what rounds to it.
LARGEST_BF16 = 2.0**128


def linear(x: Array, w: Array, b: Array | None = None) -> Array:
    """[t, k], [n, k] -> [t, n]."""
    y: Array = x @ w.T
    return y if b is None else y + b


def activation(x: Array, kind: Activation) -> Array:
    """Silu x sigmoid(x); gelu x Phi(x); gelu_tanh its tanh form; relu; its square; tanh."""
    y: Array = np.maximum(x, 0)
    if kind == "silu":
        y = x / (1 + np.exp(-x))
    elif kind == "gelu":
        y = 0.5 * x * (1 + np.vectorize(math.erf, otypes=[float])(x / math.sqrt(2)))
    elif kind == "tanh":
        y = np.tanh(x)
    elif kind == "relu2":
        y = y * y
    elif kind == "gelu_tanh":
        y = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return y


def xielu(x: Array, p: Array, n: Array, beta: Array, eps: Array) -> Array:
    """A square above 0, an exponential below; its first derivative is beta at 0 on both sides."""
    below = (n + beta) * (np.expm1(np.minimum(x, eps)) - x)
    return np.where(x > 0, p * x * x, below) + beta * x


def rms_norm(x: Array, w: Array, eps: float, groups: int = 1) -> Array:
    """Each of `groups` pieces of a row on its own."""
    g = x.reshape(len(x), groups, x.shape[1] // groups)  # [t, groups * d] -> [t, groups, d]
    y: Array = g / np.sqrt((g * g).mean(-1, keepdims=True) + eps) * w
    return y.reshape(x.shape)


def layer_norm(x: Array, w: Array, b: Array | None, eps: float, groups: int = 1) -> Array:
    """Biased variance, as everywhere; each of `groups` pieces of a row on its own, with its gains or one piece's."""
    g = x.reshape(len(x), groups, x.shape[1] // groups)  # [t, groups * d] -> [t, groups, d]
    c = g - g.mean(-1, keepdims=True)
    gains, biases = (np.resize(v, g.shape[1:]) for v in (w, np.zeros(1) if b is None else b))
    y: Array = c / np.sqrt((c * c).mean(-1, keepdims=True) + eps) * gains + biases
    return y.reshape(x.shape)


def rotated(x: Array, turns: Array, *, interleaved: bool = False) -> Array:
    """[t, heads, d], cos and sin [t, r/2, 2] -> the first r of every head turned: pairs (i, i + r/2), or neighbours."""
    y, r = x.copy(), 2 * turns.shape[1]
    first, second = (slice(0, r, 2), slice(1, r, 2)) if interleaved else (slice(r // 2), slice(r // 2, r))
    a, b = y[..., first].copy(), y[..., second].copy()
    cos, sin = np.moveaxis(turns[:, None], -1, 0)
    y[..., first], y[..., second] = a * cos - b * sin, b * cos + a * sin
    return y


def softmax(x: Array) -> Array:
    """Of the last axis; the largest is subtracted first."""
    e = np.exp(x - x.max(-1, keepdims=True))
    y: Array = e / e.sum(-1, keepdims=True)
    return y


def attended(  # noqa: PLR0913 - what becomes of a score takes this much
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    first: int | None = None,
    causal: bool = True,
    window: int | None = None,
    soft_cap: float | None = None,
    bias: Array | None = None,
    rounded: Callable[[Array], Array] | None = None,
) -> tuple[Array, Array]:
    """[t, heads, d], two times [s, kv_heads, d] -> [t, heads, d], and each query's weights [heads, t, s].

    Query i stands at position `first` + i (None: the last t of s); head h reads keys of h // (heads / kv_heads). Scores
    are scaled, capped, and `bias` [heads, t, s] is added, in this order. A query sees keys up to its own (causal), and
    of `window` positions, its own included; without `causal` so many on both sides. `rounded`: what queries, and
    weights before they are divided, go through.
    """
    t, s = len(q), len(k)
    q = q if rounded is None else rounded(q)
    k, v = (np.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
    scores = np.einsum("thd,shd->hts", q, k) * scale
    scores = scores if soft_cap is None else soft_cap * np.tanh(scores / soft_cap)
    scores = scores if bias is None else scores + bias
    key, pos = np.arange(s)[None], (s - t if first is None else first) + np.arange(t)[:, None]
    reach = window or s + t
    scores[:, (key > pos if causal else key >= pos + reach) | (key <= pos - reach)] = -np.inf
    e = np.exp(scores - scores.max(-1, keepdims=True))
    weights = (e if rounded is None else rounded(e)) / e.sum(-1, keepdims=True)
    y: Array = np.einsum("hts,shd->thd", weights, v)
    return y, weights


def attended_relative(  # noqa: PLR0913 - what becomes of a score takes this much
    q: Array,
    k: Array,
    v: Array,
    row: NDArray[np.int64],
    *,
    scale: float,
    causal: bool = False,
    c2p: Array | None = None,
    p2c: Array | None = None,
) -> tuple[Array, Array]:
    """As `attended`, of a whole text: to each score come c2p [t, heads, n] and p2c [t, kv_heads, n] at `row` [t, t]."""
    t, n = len(q), q.shape[1] // k.shape[1]
    k, v = (np.repeat(x, n, axis=1) for x in (k, v))
    scores = np.einsum("thd,shd->hts", q, k)
    at, key = np.arange(t)[:, None], np.arange(t)[None]
    scores = scores if c2p is None else scores + c2p[at, :, row].transpose(2, 0, 1)
    scores = scores if p2c is None else scores + np.repeat(p2c, n, axis=1)[key, :, row].transpose(2, 0, 1)
    scores = scores * scale
    scores[:, causal & (key > at)] = -np.inf
    weights = softmax(scores)
    y: Array = np.einsum("hts,shd->thd", weights, v)
    return y, weights


def routed(
    x: Array, b: Array | None, chosen: int, *, sigmoid: bool = False, normalized: bool = True
) -> tuple[NDArray[np.int64], Array]:
    """[t, experts] -> ids and weights [t, chosen]: of equal scores the first; of NaN the first, and no weight."""
    with np.errstate(over="ignore", invalid="ignore"):
        scores = 1 / (1 + np.exp(-x)) if sigmoid else softmax(x)
    keys = x if b is None else scores + b  # both grow with x; scores of float32 are equal sooner
    bad = np.isnan(scores).any(-1, keepdims=True)
    ids = np.argsort(-np.where(bad, 0, keys), axis=-1, kind="stable")[:, :chosen]
    weights = np.where(bad, np.nan, np.take_along_axis(scores, ids, -1))
    return ids, weights / weights.sum(-1, keepdims=True) if normalized else weights


def round_bf16(x: Array) -> Array:
    """To nearest even, in one step; NaN stays NaN."""
    quantum = np.exp2(np.maximum(np.frexp(x)[1] - 1, -126) - 7.0)  # eight bits of each number, fewer of denormals
    y: Array = np.rint(x / quantum) * quantum
    return np.where(np.abs(y) >= LARGEST_BF16, np.copysign(np.inf, y), y)


def whole_numbers(x: Array, most: int, least: float = 0.0) -> Array:
    """Each 32 of a row, in float32, to whole numbers up to `most` times a scale; to 0 where none exceeds `least`."""
    t, k = x.shape
    g = np.pad(x.astype(np.float32), ((0, 0), (0, -k % GROUP))).reshape(t, -1, GROUP)
    largest = np.abs(g).max(-1, keepdims=True)
    inverse = np.divide(np.float32(most), largest, out=np.zeros_like(largest), where=largest > least)
    y: Array = np.rint(g * inverse).astype(np.float64) * (largest / np.float32(most))
    return y.reshape(t, -1)[:, :k]
