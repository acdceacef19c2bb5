"""How far a float32 result may lie from the exact one, and why; and a check that says where it lies further.

u = 2^-24 is half a unit in the last place of float32. A sum of k products, one after the other, is in error by at most
k u of the sum of their magnitudes (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), and by about
sqrt(k) u as a rule, since roundings go both ways (section 2.8). Kernels add in lanes and trees, which is less.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, shown
from .checked import one_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["U_BF16", "U", "assert_close", "bound", "reason"]

U = 2.0**-24
#: Half a unit in the last place of a bfloat16.
U_BF16 = 2.0**-9

#: op -> rounding steps besides the sum, and what they are.
STEPS = {
    "sum": (1, "the last rounding"),
    **dict.fromkeys(("linear", "rope"), (1, "the last rounding")),
    "exp": (4, "polynomial, reduction and scaling: under 2 ulp, twice that allowed"),
    "act": (8, "exp or erf (2e-7), a division and a product"),
    "norm": (6, "a root, a division, two products"),
    "attention": (16, "a softmax over sums, then sums: exp of a score in error by (k/16+5) u |score|"),
    "model": (64, "per layer: six matrix products, two norms, a softmax, an activation, each amplified by the next"),
    "flash": (0, "weights of a softmax rounded to bfloat16, each by itself"),
}
DTYPES = ("f32", "bf16", "f16", "int8", "int4", "int4a")


def bound(op: str, dtype: str, k: int, scale: float = 1.0, *, worst: bool = False) -> float:
    """Absolute bound for an op that sums `k` terms in float32, with results of size `scale`; of "model", `k` layers.

    `op`: a key of `STEPS`; "sum" is of any op whose sum is all that rounds. `dtype`: of the weights, which are exact in
    every one. Quantised: dots of integers are exact; two roundings for each group of 32 stand for the 32 of floats.

    What roundings in both directions come to, in lanes and trees: numbers that are chosen against it, or a thousand of
    one sign added one by one, can lie further off. `worst`: what nothing exceeds, however it adds, where `scale` is the
    sum of the terms' magnitudes: k + the same steps. Errors: `InputError` for another op or dtype, `k` below 0, or a
    `scale` that is no number.
    """
    one_of("op", op, tuple(STEPS))
    if k < 0 or not scale >= 0:
        msg = f"k={k}, scale={scale}: expected at least 0"
        raise InputError(msg)
    if dtype not in DTYPES:
        msg = f"dtype={shown(dtype)}: no tolerance for {dtype}; expected one of {', '.join(DTYPES)}"
        raise InputError(msg)
    steps = STEPS[op][0]
    if op == "flash":  # values up to `scale`
        return U_BF16 * scale
    if op == "model":  # errors add in random directions through the residual stream
        return steps * U * (k + 1) * max(scale, 1.0) * 4
    return ((k if worst else math.sqrt(k)) + 5 + steps) * 2 * U * max(scale, 1e-6)


def reason(op: str, k: int) -> str:
    """Why `bound` is what it is, in words. Errors: `InputError` for another op."""
    one_of("op", op, tuple(STEPS))
    steps, why = STEPS[op]
    if op == "flash":
        return f"2^-9 of the values: {why}"
    if op == "model":
        return f"{steps} roundings in each of {k + 1} layers, four times over: {why}"
    return f"sqrt({k}) + 5 roundings of the sum and {steps} more ({why}), twice over, 2^-24 each"


def assert_close(got: ArrayLike, want: ArrayLike, bound: ArrayLike, what: str = "") -> None:
    """AssertionError where |got - want| exceeds `bound` (a number, or one for each), NaN where there is none.

    It says how many do, and of the worst where it is, both values, and how many units in float32's last place they are
    apart. `what`: begins the message. A result of another shape is too far. Errors: `InputError` for what is no number.
    """
    __tracebackhide__ = True  # pytest shows the test's own lines
    x, y = (_real(name, value) for name, value in (("got", got), ("want", want)))
    if x.shape != y.shape:
        msg = f"{what}{': ' if what else ''}got has shape {x.shape}; expected {y.shape}, as want"
        raise AssertionError(msg)
    try:
        allowed = np.broadcast_to(np.asarray(bound, np.float64), x.shape)
    except ValueError as e:
        msg = f"bound={shown(bound)}: expected a number, or an array that fits {x.shape}"
        raise InputError(msg) from e
    if (allowed < 0).any():
        msg = f"bound={shown(bound)}: expected at least 0"
        raise InputError(msg)
    with np.errstate(invalid="ignore"):
        away = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0, np.abs(x - y))
        wrong = ~(away <= allowed)
    if not wrong.any():
        return
    beyond = np.where(wrong, np.where(np.isnan(away), np.inf, away) / np.maximum(allowed, np.finfo(float).tiny), -1)
    at = tuple(map(int, np.unravel_index(int(beyond.argmax()), x.shape)))
    where = f" at [{', '.join(map(str, at))}]" if at else ""
    ulp = float(np.spacing(np.float32(abs(y[at])))) if np.isfinite(y[at]) else math.nan
    msg = (
        f"{what}{': ' if what else ''}{int(wrong.sum()):,} of {x.size:,} are too far; the worst{where} is {x[at]:.9g} "
        f"for {y[at]:.9g}: {_apart(away[at], ulp)}; {allowed[at]:.3g} is allowed"
    )
    raise AssertionError(msg)


def _real(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """float64, of any shape."""
    try:
        x = np.asarray(value)
        known = x.dtype.kind in "fiub"
        x = x.astype(np.float64) if known else x
    except (TypeError, ValueError):
        known = False
    if not known:
        msg = f"{name}: {shown(value)}: expected real numbers"
        raise InputError(msg)
    return x


def _apart(away: float, ulp: float) -> str:
    return f"{away:.3g} apart, {away / ulp:,.0f} ulps of float32" if np.isfinite(away / ulp) else "no distance"
