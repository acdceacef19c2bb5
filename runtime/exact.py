"""Arithmetic with the same bits on every machine: random numbers by a counter, exp, log, and sums of whole numbers.

IEEE +, -, *, / and integers alone. Functions of plain numbers (`philox`, `exp_of`, `log_of`) are compiled as they stand
(`cpu/kernels/`); those of arrays have lanes for a twin.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "LN2_HIGH",
    "LN2_LOW",
    "NEGLIGIBLE",
    "OF_TOP_H",
    "PER_LN2",
    "ROUNDS",
    "TAYLOR",
    "allowed_of",
    "exp",
    "exp_of",
    "log_of",
    "mask_words",
    "nucleus",
    "nucleus_part",
    "philox",
    "power",
    "random_bits",
    "uniform",
    "uniform_bits",
    "unit_bits",
]

_U32 = 0xFFFFFFFF
_U64 = 0xFFFFFFFFFFFFFFFF
#: Weights below exp(-40) of the largest are less than half a unit, which is 2^-55 of it at least: none.
NEGLIGIBLE = -40.0
#: Top-h looks at this many of the largest logits, as in transformers.
OF_TOP_H = 100
_BLOCK = 8192  # elements of `exp` worked on at a time: its three buffers stay in the second-level cache
_LEVELS = 4096  # a nucleus' boundary is searched by counting into this many levels of score ...
_SORTED = 1024  # ... until so few candidates are left; these are sorted


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10: four random 32-bit words, a function of counter and key (Salmon et al. 2011, SC'11)."""
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        left, right = a * 0xD2511F53, c * 0xCD9E8D57
        # The upper half is cut to its 32 bits for where a product wraps at 64 (`cuda/kernels/draw.py`).
        a, b, c, d = (right >> 32 & _U32) ^ b ^ k, right & _U32, (left >> 32 & _U32) ^ d ^ m, left & _U32
        k, m = (k + 0x9E3779B9) & _U32, (m + 0xBB67AE85) & _U32
    return a, b, c, d


def uniform(seed: int, sequence: int, position: int) -> float:
    """Return a multiple of 2**-53 in [0, 1): the draw of (seed, sequence, position), each modulo 2**64."""
    return float(uniform_bits(seed, sequence, position)) * 2.0**-53


def uniform_bits(seed: int, sequence: int, position: int) -> int:
    """`uniform` in units of 2**-53."""
    return random_bits(seed, sequence, position)[0]


def random_bits(seed: int, sequence: int, position: int) -> tuple[int, int]:
    """Two numbers of 53 bits that have nothing to do with each other: the draw's, and that of a decision before it."""
    seed, sequence, position = seed & _U64, sequence & _U64, position & _U64
    counter = (position & _U32, position >> 32, sequence & _U32, sequence >> 32)
    a, b, c, d = philox(counter, (seed & _U32, seed >> 32))
    return ((a << 32) | b) >> 11, ((c << 32) | d) >> 11


def unit_bits(n_vocab: int) -> int:
    """Weights are whole numbers of 2^-this of the largest: as fine as lets the sum of them all fit an int64."""
    return 62 - n_vocab.bit_length()


def mask_words(n_vocab: int) -> int:
    """Words of a mask of ids, uint32."""
    return (n_vocab + 31) // 32


def allowed_of(mask: NDArray[np.uint32], n_vocab: int) -> NDArray[np.bool_]:
    """[n_vocab]: which ids a mask lets come."""
    return np.unpackbits(mask.astype("<u4", copy=False).view(np.uint8), count=n_vocab, bitorder="little").view(np.bool_)


def nucleus_part(top_p: float) -> int:
    """`top_p` in units of 2**-53, rounded up: at least one."""
    return max(1, math.ceil(top_p * 2.0**53))


# exp(x) = 2^k exp(r), |r| <= ln(2) / 2; ln(2) in two parts, the first short enough that k times it is exact.
PER_LN2 = 1.4426950408889634
LN2_HIGH = 6.93147180369123816490e-01
LN2_LOW = 1.90821492927058770002e-10
TAYLOR = tuple(1.0 / math.factorial(n) for n in range(13, -1, -1))  # the rest is under 2^-57


def exp(x: NDArray[np.float64], out: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """e^x for -708 <= x <= 709, within about one unit in the last place, with the same bits on every machine.

    Multiplications, additions, `rint` and integer operations only: libm's exp, and NumPy's, differ between builds.
    `out` may be `x`.
    """
    out = np.empty_like(x) if out is None else out
    powers, rest, terms = (np.empty(min(_BLOCK, x.size)) for _ in range(3))
    for start in range(0, x.size, _BLOCK):
        part = x[start : start + _BLOCK]
        k, r, t = powers[: part.size], rest[: part.size], terms[: part.size]
        np.rint(np.multiply(part, PER_LN2, out=k), out=k)
        np.subtract(part, np.multiply(k, LN2_HIGH, out=t), out=r)
        np.subtract(r, np.multiply(k, LN2_LOW, out=t), out=r)
        np.multiply(r, TAYLOR[0], out=t)
        for coefficient in TAYLOR[1:-1]:
            t += coefficient
            t *= r
        t += TAYLOR[-1]
        np.add(t.view(np.int64), k.astype(np.int64) << 52, out=out[start : start + _BLOCK].view(np.int64))
    return out


def nucleus(scores: NDArray[np.float32], weights: NDArray[np.int64], top_p: float) -> NDArray[np.int64]:
    """Find the indices, ascending, of the smallest set of largest scores whose weights reach top_p of the total.

    Holtzman et al. 2020 (arXiv:1904.09751); among equal scores the lower index goes first. Candidates are counted into
    levels of score, the level where the boundary falls is counted again, and only the last few are sorted: which are
    looked at decides nothing.
    """
    active, s, w = np.arange(scores.size), scores, weights
    needed = -(-int(weights.sum()) * nucleus_part(top_p) >> 53)  # of what is not above the active candidates
    while active.size > _SORTED:
        depth = np.subtract(s.max(), s, dtype=np.float64)
        deepest = float(depth.max())
        if deepest == 0:
            break  # all equal: already in order
        level = np.multiply(depth, (_LEVELS - 1) / deepest, out=depth).astype(np.int32)
        reached = np.cumsum(np.bincount(level, w, _LEVELS))  # in float64: near enough to say which level to look at
        boundary = min(int(np.searchsorted(reached, float(needed), side="left")), _LEVELS - 1)
        chosen, above = np.flatnonzero(level == boundary), int(w @ (level < boundary))
        if not above < needed <= above + int(w[chosen].sum()):
            break
        active, s, w, needed = active[chosen], s[chosen], w[chosen], needed - above
    order = np.argsort(-s, kind="stable")
    last = int(np.searchsorted(np.cumsum(w[order]), needed, side="left"))
    inside = scores > s[order[last]]
    inside[active[order[: last + 1]]] = True
    return np.flatnonzero(inside)


#: Added to a number below 2^51 and taken off again, it leaves the nearest whole one.
ROUNDS = 1.5 * 2.0**52
_ODD = tuple(1.0 / n for n in range(23, 0, -2))  # of atanh's series: the rest is under 2^-58
_SQRT2, _LOW_EXPONENT, _HIGH_EXPONENT = 1.4142135623730951, -700.0, 709.0


def exp_of(x: float) -> float:
    """e^x of one number: `exp`'s polynomial; 0 below -700."""
    if x < _LOW_EXPONENT:
        return 0.0
    x = min(x, _HIGH_EXPONENT)
    k = (x * PER_LN2 + ROUNDS) - ROUNDS
    r = x - k * LN2_HIGH
    r -= k * LN2_LOW
    t = r * TAYLOR[0]
    for coefficient in TAYLOR[1:-1]:
        t = (t + coefficient) * r
    t += TAYLOR[-1]
    while k > 0:
        t, k = t * 2.0, k - 1.0
    while k < 0:
        t, k = t * 0.5, k + 1.0
    return t


def log_of(x: float) -> float:
    """Natural logarithm of a normal number above 0, within about two units in the last place.

    x = 2^e m with m near 1; log m = 2 atanh((m - 1) / (m + 1)).
    """
    e = 0.0
    while x > _SQRT2:
        x, e = x * 0.5, e + 1.0
    while x < 0.5 * _SQRT2:
        x, e = x * 2.0, e - 1.0
    s = (x - 1.0) / (x + 1.0)
    square = s * s
    t = square * _ODD[0]
    for coefficient in _ODD[1:-1]:
        t = (t + coefficient) * square
    return e * LN2_HIGH + (e * LN2_LOW + 2.0 * (s + s * t))


def power(base: float, n: int) -> float:
    """base^n for n >= 0 by multiplications: +inf where it overflows."""
    result = 1.0
    while n > 0:
        if n & 1:
            result *= base
        base, n = base * base, n >> 1
    return result
