"""The one tolerance function: how far a float32 result may lie from the exact one, and why.

A sum of k products in float32, in sixteen lanes and a tree, has relative error about (k/16 + 5) units in the last
place of the largest partial sum in the worst case and its square root as a rule; u = 2^-24. Overrides stand with
their reasons.
"""

from __future__ import annotations

import math

U = 2.0**-24
#: Half a unit in the last place of a bfloat16.
U_BF16 = 2.0**-9

#: op -> rounding steps besides the sum, with the reason.
STEPS = {
    "exp": 4,  # polynomial, reduction and scaling: under 2 ulp, twice that allowed
    "act": 8,  # exp or erf (2e-7), a division and a product
    "norm": 6,  # root, division, two products
    "attention": 16,  # a softmax over sums, then sums: exp of a score in error by (k/16+5) u |score|
    "model": 64,  # per layer: six matrix products, two norms, a softmax and an activation, each amplified by the next
}


def bound(op: str, dtype: str, k: int, scale: float = 1.0) -> float:
    """Absolute bound for an op that sums k terms, results of size `scale`. Weights are exact in every dtype.

    Quantised: dots of integers are exact; two roundings for each group of 32 stand for the 32 of floats.
    """
    if dtype not in ("f32", "bf16", "f16", "int8", "int4", "int4a"):
        msg = f"no tolerance for {dtype}"
        raise ValueError(msg)
    if op == "flash":  # weights of a softmax rounded to bfloat16, each by itself; values up to `scale`
        return U_BF16 * scale
    if op == "model":  # k layers; errors add in random directions through the residual stream
        return STEPS[op] * U * (k + 1) * max(scale, 1.0) * 4
    return (math.sqrt(k) + 5 + STEPS.get(op, 1)) * 2 * U * max(scale, 1e-6)
