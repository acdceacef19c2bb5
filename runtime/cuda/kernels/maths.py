"""exp, erf and the activations: the CPU's polynomials, a number at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...ops import ACTS
from ..primitives import fma, from_bits, rint, to_int
from ..tensor import quotient
from .base import F

if TYPE_CHECKING:
    from collections.abc import Callable

SILU, GELU, GELU_TANH, RELU = (ACTS.index(act) + 1 for act in ("silu", "gelu", "gelu_tanh", "relu"))


def exp(x: Any) -> Any:
    """e^x within 2 ulp for x in [-87, 88], clamped outside: 2^n times a polynomial of degree 6 on [-ln2/2, ln2/2].

    NaN stays NaN: it is neither above nor below, where `min` and `max` would return the other.
    """
    x = F(88.0) if x > F(88.0) else x  # noqa: FURB136 - NaN
    x = F(-87.0) if x < F(-87.0) else x  # noqa: FURB136 - NaN
    n = rint(x * F(1.44269504088896341))
    r = fma(n, F(2.12194440e-4), fma(n, F(-0.693359375), x))
    y = fma(F(1.9875691500e-4), r, F(1.3981999507e-3))
    y = fma(y, r, F(8.3334519073e-3))
    y = fma(y, r, F(4.1665795894e-2))
    y = fma(y, r, F(1.6666665459e-1))
    y = fma(y, r, F(5.0000001201e-1))
    return (fma(y, r * r, r) + F(1.0)) * from_bits((to_int(n) + 127) << 23)


def activation(divide: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The activations, with this quotient in them."""

    def erf(x: Any) -> Any:
        """Error function within 2e-7: Chebyshev fit of erfc (Press et al., Numerical Recipes, 6.2.2)."""
        z = abs(x)
        u = divide(F(1.0), fma(F(0.5), z, F(1.0)))
        y = fma(F(0.17087277), u, F(-0.82215223))
        y = fma(y, u, F(1.48851587))
        y = fma(y, u, F(-1.13520398))
        y = fma(y, u, F(0.27886807))
        y = fma(y, u, F(-0.18628806))
        y = fma(y, u, F(0.09678418))
        y = fma(y, u, F(0.37409196))
        y = fma(y, u, F(1.00002368))
        y = fma(y, u, F(-1.26551223))
        size = F(1.0) - u * exp(y - z * z)
        return -size if x < F(0.0) else size

    def activated(x: Any, act: Any) -> Any:
        """The activation with this number in `ACTS`, from 1; 0: none."""
        if act == SILU:
            x = divide(x, F(1.0) + exp(-x))
        elif act == GELU:
            x = F(0.5) * x * (F(1.0) + erf(x * F(0.70710678118654752)))
        elif act == GELU_TANH:  # 0.5 x (1 + tanh(u)) = x sigmoid(2u)
            u2 = F(1.5957691216057308) * fma(F(0.044715), x * x * x, x)
            x = divide(x, F(1.0) + exp(-u2))
        elif act == RELU:
            x = F(0.0) if x <= F(0.0) else x  # noqa: FURB136 - NaN stays
        return x

    return activated


def _exact(a: Any, b: Any) -> Any:
    return a / b


activated = activation(_exact)
#: Within 2 units in the last place. A quotient that is rounded right is a call on the device, and where there is one,
#: `wgmma` runs one product at a time (`hopper.py`).
activated_fast = activation(quotient)
