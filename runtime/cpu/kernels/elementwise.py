"""Residual addition and activations. exp and erf are our own lane polynomials: the same bits on every machine."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ops import ACTS, slots
from ..lanes import (
    absolute,
    add,
    copysign,
    div,
    fma,
    ldf,
    load_tail,
    maximum,
    minimum,
    mul,
    nan_or,
    pow2,
    rint,
    splat,
    store_tail,
    sub,
    where_below,
    zero,
)
from .base import arg, farg, jit, kernel, rows_of, share

F = np.float32
A_Y, A_A, A_B, A_D = slots("add")
P_Y, P_X, P_B, P_UNITS, P_EACH, P_STRIDE, P_BASE = slots("pick")
S_Y, S_X, S_D, S_FACTOR = slots("scale")
C_Y, C_X, C_D, C_CAP = slots("soft_cap")
L_Y, L_X, L_D, L_LIMIT = slots("clip")
X_Y, X_X, X_P, X_N, X_BETA, X_EPS, X_D = slots("xielu")
SILU, GELU, GELU_TANH, RELU, TANH, RELU2 = range(1, len(ACTS) + 1)


@jit
def exp(x: Any) -> Any:
    """e^x within 2 ulp for x in [-87, 88], clamped outside: 2^n times a polynomial of degree 6 on [-ln2/2, ln2/2].

    NaN stays NaN: `minimum` and `maximum` return their second where they cannot compare.
    """
    x = maximum(splat(F(-87.0)), minimum(splat(F(88.0)), x))
    n = rint(mul(x, splat(F(1.44269504088896341))))
    r = fma(n, splat(F(2.12194440e-4)), fma(n, splat(F(-0.693359375)), x))
    return mul(add(fma(_exp_tail(r), mul(r, r), r), splat(F(1.0))), pow2(n))


@jit
def _exp_tail(r: Any) -> Any:
    """(e^r - 1 - r) / r^2 on [-ln2/2, ln2/2], a polynomial of degree 5."""
    y = fma(splat(F(1.9875691500e-4)), r, splat(F(1.3981999507e-3)))
    y = fma(y, r, splat(F(8.3334519073e-3)))
    y = fma(y, r, splat(F(4.1665795894e-2)))
    y = fma(y, r, splat(F(1.6666665459e-1)))
    return fma(y, r, splat(F(5.0000001201e-1)))


@jit
def _exp_beyond(x: Any) -> Any:
    """e^x - 1 - x for x <= 0; near 0 from the polynomial, which keeps small numbers. NaN stays NaN."""
    far = sub(sub(exp(x), splat(F(1.0))), x)
    return where_below(x, F(-0.34), far, mul(_exp_tail(x), mul(x, x)))


@jit
def erf(x: Any) -> Any:
    """Error function within 2e-7: Chebyshev fit of erfc (Press et al., Numerical Recipes, 6.2.2)."""
    z = absolute(x)
    u = div(splat(F(1.0)), fma(splat(F(0.5)), z, splat(F(1.0))))
    y = fma(splat(F(0.17087277)), u, splat(F(-0.82215223)))
    y = fma(y, u, splat(F(1.48851587)))
    y = fma(y, u, splat(F(-1.13520398)))
    y = fma(y, u, splat(F(0.27886807)))
    y = fma(y, u, splat(F(-0.18628806)))
    y = fma(y, u, splat(F(0.09678418)))
    y = fma(y, u, splat(F(0.37409196)))
    y = fma(y, u, splat(F(1.00002368)))
    y = fma(y, u, splat(F(-1.26551223)))
    return copysign(sub(splat(F(1.0)), mul(u, exp(sub(y, mul(z, z))))), x)


@jit
def silu(x: Any) -> Any:
    """X * sigmoid(x)."""
    return div(x, add(splat(F(1.0)), exp(sub(zero(), x))))


@jit
def gelu(x: Any) -> Any:
    """X * Phi(x)."""
    return mul(mul(splat(F(0.5)), x), add(splat(F(1.0)), erf(mul(x, splat(F(0.70710678118654752))))))


@jit
def gelu_tanh(x: Any) -> Any:
    """0.5 x (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)."""
    cube = mul(mul(x, x), x)
    u2 = mul(splat(F(1.5957691216057308)), fma(splat(F(0.044715)), cube, x))
    return div(x, add(splat(F(1.0)), exp(sub(zero(), u2))))


@jit
def tanh(x: Any) -> Any:
    """1 - 2 / (e^2x + 1); below 5/8 an odd polynomial, which keeps small numbers (Moshier, Cephes, tanhf)."""
    size, z = absolute(x), mul(x, x)
    y = fma(splat(F(-5.70498872745e-3)), z, splat(F(2.06390887954e-2)))
    y = fma(y, z, splat(F(-5.37397155531e-2)))
    y = fma(y, z, splat(F(1.33314422036e-1)))
    y = fma(y, z, splat(F(-3.33332819422e-1)))
    y = fma(mul(y, z), size, size)
    large = sub(splat(F(1.0)), div(splat(F(2.0)), add(exp(add(size, size)), splat(F(1.0)))))
    return copysign(where_below(size, F(0.625), y, large), x)


@jit
def relu(x: Any) -> Any:
    """max(x, 0); NaN stays NaN."""
    return nan_or(x, maximum(x, zero()))


@jit
def relu2(x: Any) -> Any:
    """max(x, 0)^2; NaN stays NaN."""
    y = relu(x)
    return mul(y, y)


@jit
def activated(v: Any, act: Any) -> Any:
    """By its number in `ops.ACTS`; 0 is none."""
    if act == SILU:
        v = silu(v)
    elif act == GELU:
        v = gelu(v)
    elif act == GELU_TANH:
        v = gelu_tanh(v)
    elif act == RELU:
        v = relu(v)
    elif act == TANH:
        v = tanh(v)
    elif act == RELU2:
        v = relu2(v)
    return v


@kernel
def add_(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Y = a + b."""
    n = rows_of(p, step) * arg(p, A_D)
    a, b, y = base + arg(p, A_A), base + arg(p, A_B), base + arg(p, A_Y)
    for j in range(share(n, 16, t, nt), share(n, 16, t + 1, nt), 16):
        store_tail(y + 4 * j, add(load_tail(a + 4 * j, n - j), load_tail(b + 4 * j, n - j)), n - j)


@kernel
def pick(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Of every `stride` numbers of a row `each`, from `base` on, and a bias added."""
    units, each, stride, b = arg(p, P_UNITS), arg(p, P_EACH), arg(p, P_STRIDE), arg(p, P_B)
    items = rows_of(p, step) * units
    for item in range(share(items, 1, t, nt), share(items, 1, t + 1, nt)):
        x, y = base + arg(p, P_X) + 4 * (item * stride + arg(p, P_BASE)), base + arg(p, P_Y) + 4 * item * each
        for j in range(0, each, 16):
            v = load_tail(x + 4 * j, each - j)
            if b != 0:
                v = add(v, load_tail(b + 4 * (item % units * each + j), each - j))
            store_tail(y + 4 * j, v, each - j)


@kernel
def scale(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Y = factor x."""
    n, factor = rows_of(p, step) * arg(p, S_D), splat(farg(p, S_FACTOR))
    x, y = base + arg(p, S_X), base + arg(p, S_Y)
    for j in range(share(n, 16, t, nt), share(n, 16, t + 1, nt), 16):
        store_tail(y + 4 * j, mul(load_tail(x + 4 * j, n - j), factor), n - j)


@kernel
def soft_cap(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Y = cap tanh(x / cap)."""
    n, cap = rows_of(p, step) * arg(p, C_D), splat(farg(p, C_CAP))
    x, y = base + arg(p, C_X), base + arg(p, C_Y)
    for j in range(share(n, 16, t, nt), share(n, 16, t + 1, nt), 16):
        store_tail(y + 4 * j, mul(cap, tanh(div(load_tail(x + 4 * j, n - j), cap))), n - j)


@kernel
def clip(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Y = min(max(x, -limit), limit); NaN stays NaN."""
    n, limit = rows_of(p, step) * arg(p, L_D), splat(farg(p, L_LIMIT))
    x, y, least = base + arg(p, L_X), base + arg(p, L_Y), sub(zero(), limit)
    for j in range(share(n, 16, t, nt), share(n, 16, t + 1, nt), 16):
        v = load_tail(x + 4 * j, n - j)
        store_tail(y + 4 * j, nan_or(v, maximum(least, minimum(limit, v))), n - j)


@kernel
def xielu(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """Y = p x^2 + beta x above 0, else (n + beta) (e^m - 1 - m + (m - x)) + beta x, m = min(x, eps)."""
    n, square, beta = rows_of(p, step) * arg(p, X_D), splat(ldf(arg(p, X_P))), splat(ldf(arg(p, X_BETA)))
    slope, eps = add(splat(ldf(arg(p, X_N))), beta), splat(ldf(arg(p, X_EPS)))
    x, y = base + arg(p, X_X), base + arg(p, X_Y)
    for j in range(share(n, 16, t, nt), share(n, 16, t + 1, nt), 16):
        v = load_tail(x + 4 * j, n - j)
        least = minimum(eps, v)
        below = mul(slope, add(_exp_beyond(least), sub(least, v)))
        curve = where_below(sub(zero(), v), F(0.0), mul(square, mul(v, v)), below)
        store_tail(y + 4 * j, fma(beta, v, curve), n - j)
