"""A runner of NumPy one-liners for `miaotui.testing.conformance`, and ten of the usual mistakes, each alone.

`PLANTED` names the one that is made; without it the runner is right.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

PLANTED = os.environ.get("PLANTED", "")
F = np.float32
#: The mistake, and the ops that it is in.
MISTAKES = {
    "rope pairing": "rope",
    "eps outside the root": "rms_norm",
    "softmax without maximum": "softmax",
    "order of grouped heads": "attention",
    "window off by one": "attention",
    "tanh for erf": "activation",
    "bias forgotten": "linear",
    "a sum in half precision": "linear",
    "mask by -1e4": "attention",
    "wrong scale": "attention",
}


def run(op: str, **inputs: Any) -> Any:
    """One op."""
    if op not in RIGHT:
        raise NotImplementedError(op)
    return RIGHT[op](**inputs)


def linear(x: Any, w: Any, b: Any) -> Any:
    if PLANTED == "a sum in half precision":
        return x.astype(np.float16) @ w.astype(np.float16).T + b
    return x @ w.T + (0 if PLANTED == "bias forgotten" else b)


def rms_norm(x: Any, w: Any, eps: float) -> Any:
    mean = (x * x).mean(-1, keepdims=True)
    return x / ((np.sqrt(mean) + F(eps)) if PLANTED == "eps outside the root" else np.sqrt(mean + F(eps))) * w


def layer_norm(x: Any, w: Any, b: Any, eps: float) -> Any:
    c = x - x.mean(-1, keepdims=True)
    return c / np.sqrt((c * c).mean(-1, keepdims=True) + F(eps)) * w + b


def softmax(x: Any) -> Any:
    with np.errstate(over="ignore", invalid="ignore"):
        e = np.exp(x if PLANTED == "softmax without maximum" else x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)


def activation(x: Any, kind: str) -> Any:
    erf = np.vectorize(math.erf, otypes=[np.float32])
    with np.errstate(over="ignore"):
        return {
            "silu": lambda: x / (1 + np.exp(-x)),
            "gelu": lambda: by_tanh(x) if PLANTED == "tanh for erf" else F(0.5) * x * (1 + erf(x / F(math.sqrt(2)))),
            "gelu_tanh": lambda: by_tanh(x),
            "relu": lambda: np.maximum(x, 0),
            "relu2": lambda: np.maximum(x, 0) ** 2,
            "tanh": lambda: np.tanh(x),
        }[kind]()


def by_tanh(x: Any) -> Any:
    return F(0.5) * x * (1 + np.tanh(F(math.sqrt(2 / math.pi)) * (x + F(0.044715) * x**3)))


def rope(x: Any, positions: Any, theta: float, d_rotary: int | None, *, interleaved: bool, frequencies: str) -> Any:
    assert frequencies == "float32"
    r = x.shape[-1] if d_rotary is None else d_rotary
    angle = positions[:, None] * (theta ** (-np.arange(0, r, 2) / r)).astype(np.float32).astype(np.float64)
    cos, sin = np.cos(angle)[:, None].astype(np.float32), np.sin(angle)[:, None].astype(np.float32)
    y = x.copy()
    neighbours = interleaved != (PLANTED == "rope pairing")
    a, b = (slice(0, r, 2), slice(1, r, 2)) if neighbours else (slice(r // 2), slice(r // 2, r))
    y[..., a], y[..., b] = x[..., a] * cos - x[..., b] * sin, x[..., b] * cos + x[..., a] * sin
    return y


def attention(
    q: Any, k: Any, v: Any, *, causal: bool, scale: float | None, window: int | None, soft_cap: float | None,
    bias: Any = None,
) -> Any:  # fmt: skip
    t, s, n = len(q), len(k), q.shape[1] // k.shape[1]
    grouped = np.tile if PLANTED == "order of grouped heads" else lambda x, reps: np.repeat(x, reps[1], axis=1)
    k, v = (grouped(x, (1, n, 1)) for x in (k, v))
    wanted = 1 / q.shape[2] if PLANTED == "wrong scale" else 1 / math.sqrt(q.shape[2])
    scores = np.einsum("thd,shd->hts", q, k) * F(wanted if scale is None else scale)
    scores = scores if soft_cap is None else F(soft_cap) * np.tanh(scores / F(soft_cap))
    scores = scores if bias is None else scores + bias
    at, key = s - t + np.arange(t)[:, None], np.arange(s)[None]
    reach = s + t if window is None else window + (PLANTED == "window off by one")
    hidden = (key > at if causal else key >= at + reach) | (key <= at - reach)
    scores = np.where(hidden, F(-1e4) if PLANTED == "mask by -1e4" else -np.inf, scores)
    if PLANTED == "mask by -1e4":
        scores = scores.astype(np.float32)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hts,shd->thd", e / e.sum(-1, keepdims=True), v)


RIGHT = {f.__name__: f for f in (linear, rms_norm, layer_norm, softmax, activation, rope, attention)}
