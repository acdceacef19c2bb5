"""Each op of a Transformer on plain arrays, in float64: NumPy, slow, and meant to be read.

Arrays may be of any float dtype, and lists will do; everything is computed and returned in float64. The maths is
`runtime/formulas.py`, the very code that miaotui's own kernels are tested against. Errors: `InputError` for shapes that
do not fit, and names what does not.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..errors import InputError, shown
from ..runtime import formulas
from ..runtime.quantized import GROUP, quantized_shape, unpack_parts
from .checked import array, by_rows, count, divides, last, number, one_of, perhaps, same, vector

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from ..runtime.spec import Activation

    Array = NDArray[np.float64]

__all__ = [
    "ACTIVATIONS",
    "activation",
    "attention",
    "attention_relative",
    "dequantize",
    "embed",
    "gated",
    "layer_norm",
    "linear",
    "lora",
    "moe",
    "moe_route",
    "quantize",
    "rms_norm",
    "rope",
    "rope_frequencies",
    "round_bf16",
    "soft_cap",
    "softmax",
    "xielu",
]

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2", "tanh")
KINDS = ("int8", "int4", "int4a")


def linear(x: ArrayLike, w: ArrayLike, b: ArrayLike | None = None) -> Array:
    """y = x wᵀ + b. `x` [..., k], `w` [n, k] as Hugging Face stores it, `b` [n] -> [..., n].

    The trap: GPT-2 stores its matrices turned, [k, n].
    """
    x, w = array("x", x), array("w", w, 2)
    same("w's columns", w.shape[1], "x's last axis", last(x))
    return by_rows(x, lambda rows: formulas.linear(rows, w, perhaps("b", b, len(w))))


def embed(ids: ArrayLike, table: ArrayLike) -> Array:
    """Row i of `table` [n, d] for each of `ids` [...] -> [..., d]."""
    rows, at = array("table", table, 2), np.asarray(ids)
    if at.dtype.kind not in "iu" or (at.size and not 0 <= at.min() <= at.max() < len(rows)):
        msg = f"ids: {shown(at)}: expected whole numbers from 0 to {len(rows) - 1}"
        raise InputError(msg)
    found: Array = rows[at]
    return found


def rms_norm(x: ArrayLike, w: ArrayLike, eps: float = 1e-6, groups: int = 1) -> Array:
    """y = x / sqrt(mean(x²) + eps) * w, over the last axis, or each of its `groups` (Zhang & Sennrich 2019, eq. 4).

    `x` [..., d], `w` [d]. The traps: eps stands under the root; Gemma's files hold w - 1; a mean of squares in float16
    overflows from |x| = 256 on.
    """
    x = array("x", x)
    gains = vector("w", w, last(x))
    divides("groups", groups, "x's last axis", last(x))
    return by_rows(x, lambda rows: formulas.rms_norm(rows, gains.reshape(groups, -1), eps, groups))


def layer_norm(x: ArrayLike, w: ArrayLike, b: ArrayLike | None = None, eps: float = 1e-5) -> Array:
    """y = (x - mean) / sqrt(var + eps) * w + b over the last axis (Ba et al. 2016). `x` [..., d], `w` and `b` [d].

    The traps: the variance divides by d, not d - 1; E[x²] - E[x]² loses every digit where the mean is large.
    """
    x = array("x", x)
    gains, biases = vector("w", w, last(x)), perhaps("b", b, last(x))
    return by_rows(x, lambda rows: formulas.layer_norm(rows, gains, biases, eps))


def softmax(x: ArrayLike) -> Array:
    """exp(x) / sum(exp(x)) over the last axis. The trap: without the largest taken away first, exp overflows."""
    x = array("x", x)
    if not last(x):
        msg = "x: its last axis is empty; a softmax needs a number"
        raise InputError(msg)
    return formulas.softmax(x)


def activation(x: ArrayLike, kind: str) -> Array:
    """One of `ACTIVATIONS`, of each number (Hendrycks & Gimpel 2016; Ramachandran et al. 2017; So et al. 2021).

    silu x / (1 + exp(-x)); gelu x Phi(x), by erf; gelu_tanh its form with tanh; relu; relu2 its square; tanh. The trap:
    gelu and gelu_tanh part by up to 5e-4; config.json's "gelu_new", "gelu_fast" and "gelu_pytorch_tanh" are the latter.
    """
    one_of("kind", kind, ACTIVATIONS)
    known: Activation = kind  # type: ignore[assignment]  # just looked up
    with np.errstate(over="ignore"):  # exp of a large one: the quotient is 0
        return formulas.activation(array("x", x), known)


def gated(x: ArrayLike, gate: ArrayLike, up: ArrayLike, down: ArrayLike, kind: str = "silu") -> Array:
    """down (act(gate x) * up x): SwiGLU for silu, GeGLU for gelu (Shazeer 2020, eq. 5 and 6). [..., d] -> [..., d]."""
    return linear(activation(linear(x, gate), kind) * linear(x, up), down)


def soft_cap(x: ArrayLike, cap: float) -> Array:
    """cap tanh(x / cap), within (-cap, cap): Gemma 2's scores and logits. The trap: it comes before a mask."""
    number("cap", cap, 0)
    y: Array = cap * np.tanh(array("x", x) / cap)
    return y


def xielu(x: ArrayLike, p: float, n: float, beta: float = 0.5, eps: float = -1e-6) -> Array:
    """xIELU (Huang & Schlag 2024): p x² + beta x above 0, else n (exp(min(x, eps)) - 1) - n x + beta x.

    `p` and `n` as they are used, positive. The traps: a file holds them before a softplus, and n less `beta`; near 0
    exp(x) - 1 - x loses every digit, expm1 does not.
    """
    for name, value in (("p", p), ("n", n), ("beta", beta), ("eps", eps)):
        number(name, value)
    return formulas.xielu(array("x", x), *(np.array([v]) for v in (p, n - beta, beta, eps)))


def lora(x: ArrayLike, w: ArrayLike, a: ArrayLike, b: ArrayLike, scale: float = 1.0) -> Array:
    """x wᵀ + scale (x aᵀ) bᵀ (Hu et al. 2021, eq. 3). `w` [n, k], `a` [r, k], `b` [n, r] -> [..., n].

    The trap: PEFT's scale is lora_alpha / r, or / sqrt(r) with use_rslora.
    """
    number("scale", scale)
    return linear(x, w) + scale * linear(linear(x, a), b)


def moe(  # noqa: PLR0913, PLR0917 - what a mixture is of
    x: ArrayLike,
    ids: ArrayLike,
    weights: ArrayLike,
    gates: ArrayLike,
    ups: ArrayLike,
    downs: ArrayLike,
    kind: str = "silu",
) -> Array:
    """Of each token its experts' sum of weight * down_e (act(gate_e x) * up_e x) (Shazeer et al. 2017, eq. 1).

    `x` [T, d], `ids` and `weights` [T, chosen] as `moe_route` gives them, `gates` and `ups` [experts, d_ff, d], `downs`
    [experts, d, d_ff] -> [T, d]. The trap: a checkpoint may hold gate and up in one tensor, and transposed.
    """
    x, by = array("x", x, 2), array("weights", weights, 2)
    gate, up, down = (array(name, w, 3) for name, w in (("gates", gates), ("ups", ups), ("downs", downs)))
    n = min(len(gate), len(up), len(down))
    at = np.asarray(ids)
    same("ids' shape", at.shape, "weights'", by.shape)
    if at.dtype.kind not in "iu" or (at.size and not 0 <= at.min() <= at.max() < n):
        msg = f"ids: {shown(at)}: expected whole numbers from 0 to {n - 1}, the experts"
        raise InputError(msg)
    same("weights' rows", len(by), "x's", len(x))
    y = np.zeros((len(x), down.shape[1]))
    for token, (row, chosen, share) in enumerate(zip(x, at, by, strict=True)):
        for e, weight in zip(chosen, share, strict=True):
            y[token] += weight * gated(row[None], gate[e], up[e], down[e], kind)[0]
    return y


def rope_frequencies(
    d_rotary: int, theta: float = 10_000.0, precision: Literal["float64", "float32"] = "float64"
) -> Array:
    """theta^(-2 i / d_rotary) for i < d_rotary / 2 (Su et al. 2021, section 3.2.2).

    The trap: most engines round them to float32 before they multiply by the position. The angle is then wrong by up to
    2^-25 of itself: 7e-4 radians at position 32,000. "float32" is what those compute, "float64" what the paper says.
    """
    if d_rotary != 0:
        count("d_rotary", d_rotary)
    if d_rotary % 2:
        msg = f"d_rotary={d_rotary}: expected an even number"
        raise InputError(msg)
    number("theta", theta, 0)
    one_of("precision", precision, ("float64", "float32"))
    exact = theta ** (-np.arange(0, d_rotary, 2) / max(d_rotary, 1))
    return exact.astype(np.float32).astype(np.float64) if precision == "float32" else exact


def rope(  # noqa: PLR0913 - what tells the kinds apart
    x: ArrayLike,
    positions: ArrayLike,
    *,
    theta: float = 10_000.0,
    d_rotary: int | None = None,
    interleaved: bool = False,
    frequencies: ArrayLike | Literal["float64", "float32"] = "float64",
) -> Array:
    """Turn pairs of each head by position times frequency (Su et al. 2021, eq. 34). `x` [T, heads, d], `positions` [T].

    The first `d_rotary` of a head are turned (None: all). Pairs are (i, i + d_rotary / 2), as Hugging Face's Llama has
    them, or with `interleaved` (2 i, 2 i + 1), as the paper and GPT-J do. `frequencies`: as `rope_frequencies`, or the
    numbers themselves, scaled as YaRN or Llama 3 would. The traps: which pairs; and the frequencies' precision.
    """
    x, at = array("x", x, 3), array("positions", positions, 1)
    same("positions", len(at), "x's rows", len(x))
    r = x.shape[2] if d_rotary is None else d_rotary
    if not isinstance(r, int | np.integer) or not 0 <= r <= x.shape[2] or r % 2:
        msg = f"d_rotary={r}: expected an even number, at most {x.shape[2]}"
        raise InputError(msg)
    if isinstance(frequencies, str):
        frequencies = rope_frequencies(r, theta, frequencies)  # type: ignore[arg-type]  # one of two words, or refused
    known = array("frequencies", frequencies, 1)
    same("frequencies", len(known), "half of d_rotary", r // 2)
    angle = at[:, None] * known
    return formulas.rotated(x, np.stack([np.cos(angle), np.sin(angle)], -1), interleaved=interleaved)


def attention(  # noqa: PLR0913 - what becomes of a score takes this much
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    causal: bool = True,
    window: int | None = None,
    bias: ArrayLike | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    first: int | None = None,
) -> Array:
    """softmax(scale q kᵀ) v, a head at a time (Vaswani et al. 2017, eq. 1).

    `q` [T, heads, d], `k` and `v` [S, kv_heads, d] -> [T, heads, d]. Head h reads keys of h // (heads / kv_heads)
    (grouped-query attention, Ainslie et al. 2023). The queries are the last T of S positions, or begin at `first`.
    `causal`: a query sees keys up to its own; `window`: so many positions, its own included; without `causal` so many
    on both sides. Scores are scaled (None: 1 / sqrt(d)),
    capped by `soft_cap` tanh(s / soft_cap) (Gemma 2), and `bias` [heads or 1, T or 1, S] is added, in this order. The
    traps: heads that share a key are neighbours; the window counts the query's own position; masks are -inf and no
    large number, which a bias may reach; a query that sees nothing gives NaN.
    """
    q, k, v = array("q", q, 3), array("k", k, 3), array("v", v, 3)
    same("k's shape", k.shape[:2], "v's", v.shape[:2])
    same("k's last axis", k.shape[2], "q's", q.shape[2])
    if not k.shape[1] or q.shape[1] % k.shape[1]:
        msg = f"q has {q.shape[1]} heads, k {k.shape[1]}; expected a multiple"
        raise InputError(msg)
    if not q.shape[2] or (len(q) and not len(k)):
        msg = f"q has shape {q.shape}, k {k.shape}; expected a key, and numbers in it"
        raise InputError(msg)
    if window is not None:
        count("window", window)  # a query's own position is one of it
    for name, given in (("scale", scale), ("soft_cap", soft_cap)):
        if given is not None:
            number(name, given, 0 if name == "soft_cap" else -math.inf)
    if first is not None and (isinstance(first, bool) or not isinstance(first, int | np.integer) or first < 0):
        msg = f"first={shown(first)}: expected a whole number, at least 0"
        raise InputError(msg)
    biases = None if bias is None else _for_scores(bias, (q.shape[1], len(q), len(k)))
    if not len(q):
        return np.zeros((0, q.shape[1], v.shape[2]))
    with np.errstate(invalid="ignore"):
        return formulas.attended(
            q, k, v, scale=1 / math.sqrt(q.shape[2]) if scale is None else scale, first=first, causal=causal,
            window=window, soft_cap=soft_cap, bias=biases,
        )[0]  # fmt: skip


def attention_relative(  # noqa: PLR0913 - what becomes of a score takes this much
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    row: ArrayLike,
    *,
    c2p: ArrayLike | None = None,
    p2c: ArrayLike | None = None,
    scale: float | None = None,
    causal: bool = False,
) -> Array:
    """softmax(scale (q kᵀ + c2p + p2c)) v: DeBERTa's disentangled attention (He et al. 2021, eq. 2).

    `q` [T, heads, d], `k` and `v` [T, kv_heads, d], `row` [T, T] which of R distances a query and key have; `c2p` [T,
    heads, R] products of queries with distances' keys, `p2c` [T, kv_heads, R] those of keys with distances' queries.
    `scale` None: 1 / sqrt(d (1 + terms)). The trap: p2c is looked up by the key's row, at the distance of query - key.
    """
    q, k, v = array("q", q, 3), array("k", k, 3), array("v", v, 3)
    same("k's shape", k.shape[:2], "v's", v.shape[:2])
    same("k's axes but its heads", (len(k), k.shape[2]), "q's", (len(q), q.shape[2]))
    divides("heads of keys", k.shape[1], "heads of queries", q.shape[1])
    terms, at = [], np.asarray(row)
    same("row's shape", at.shape, "T by T", (len(q), len(q)))
    for name, given, heads in (("c2p", c2p, q.shape[1]), ("p2c", p2c, k.shape[1])):
        x = None if given is None else array(name, given, 3)
        if x is not None:
            same(f"{name}'s first axes", x.shape[:2], "T and heads", (len(q), heads))
            if at.dtype.kind not in "iu" or (at.size and not 0 <= at.min() <= at.max() < x.shape[2]):
                msg = f"row: expected whole numbers from 0 to {x.shape[2] - 1}, {name}'s distances"
                raise InputError(msg)
        terms.append(x)
    parts = 1 + sum(x is not None for x in terms)
    by = 1 / math.sqrt(q.shape[2] * parts) if scale is None else scale
    return formulas.attended_relative(q, k, v, at, scale=by, causal=causal, c2p=terms[0], p2c=terms[1])[0]


def _for_scores(bias: ArrayLike, shape: tuple[int, ...]) -> Array:
    known = array("bias", bias)
    try:
        return np.broadcast_to(known, shape)
    except ValueError as e:
        msg = f"bias: has shape {known.shape}; expected [heads or 1, T or 1, S], of {shape}"
        raise InputError(msg) from e


def moe_route(
    x: ArrayLike, chosen: int, *, bias: ArrayLike | None = None, sigmoid: bool = False, normalized: bool = True
) -> tuple[NDArray[np.int64], Array]:
    """Scores [T, experts] -> the `chosen` experts of each token and their weights, [T, chosen] (Shazeer et al. 2017).

    Weights are a softmax over all experts (or `sigmoid`), divided by their sum where `normalized`; `bias` chooses, and
    weighs nothing (DeepSeek-V3, eq. 16). The traps: of equal scores the first expert; a softmax over the chosen alone
    is the same only where it is normalized.
    """
    x = array("x", x, 2)
    count("chosen", chosen)
    if chosen > x.shape[1]:
        msg = f"chosen={chosen}: expected 1 to {x.shape[1]}, the experts"
        raise InputError(msg)
    return formulas.routed(x, perhaps("bias", bias, x.shape[1]), chosen, sigmoid=sigmoid, normalized=normalized)


def round_bf16(x: ArrayLike) -> Array:
    """To the nearest bfloat16, of two the even one; NaN stays NaN. The trap: cutting low bits off rounds to zero."""
    return formulas.round_bf16(array("x", x))


def quantize(x: ArrayLike, kind: str = "int8") -> tuple[NDArray[np.int8], Array, Array]:
    """Groups of 32 along the last axis -> whole numbers, scales and smallest numbers; x is about scale q + low.

    `x` [n, k] -> [n, k], [n, groups], [n, groups]. "int8" and "int4" are symmetric, low is 0; "int4a" is not. What is
    stored is what miaotui's loader stores: scales are float16 and those of the least squared error among a few trials.
    The trap: max|x| / 7 is not the best scale of four bits.
    """
    x = array("x", x, 2)
    one_of("kind", kind, KINDS)
    if not x.size:
        groups = (len(x), -(-x.shape[1] // GROUP))
        return np.zeros(x.shape, np.int8), np.zeros(groups), np.zeros(groups)
    from ..loader.quantize import pack_rows  # noqa: PLC0415 - the only one that needs the loader

    packed = np.empty(quantized_shape(kind, x.shape), np.uint8)
    if not pack_rows(x.astype(np.float32), "F32", kind, packed):
        msg = "x: holds NaN, infinity, or numbers too large for a float16 scale"
        raise InputError(msg)
    return unpack_parts(packed, kind, x.shape)


def dequantize(q: ArrayLike, scale: ArrayLike, low: ArrayLike | None = None) -> Array:
    """scale q + low. `q` [n, k], `scale` and `low` [n, groups of 32] -> [n, k]."""
    numbers, scales = array("q", q, 2), array("scale", scale, 2)
    groups = len(numbers), -(-numbers.shape[1] // GROUP)
    same("scale's columns", scales.shape[1], "groups", groups[1])
    same("scale's rows", len(scales), "q's", groups[0])
    lows = np.zeros(groups) if low is None else array("low", low, 2)
    same("low's shape", lows.shape, "scale's", groups)
    scales, lows = (np.repeat(x, GROUP, axis=1)[:, : numbers.shape[1]] for x in (scales, lows))
    return numbers * scales + lows
