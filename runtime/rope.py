"""Rotary frequencies and their table, the same bits on every machine.

Frequencies theta^(-2i/d) come from `decimal` (libm's pow differs between machines) and are rounded to float32, as the
checkpoints were trained with. Sine and cosine are float64 polynomials after a three-part reduction by pi/2, from
IEEE additions and multiplications alone, rounded to float32 at the end.

Sources: Su et al. 2021 (RoPE); kaiokendev 2023 (linear); "NTK-aware" dynamic scaling, bloc97 2023; Llama 3.1 model
card (llama3); Peng et al. 2023, arXiv:2309.00071 (yarn); Ding et al. 2024, arXiv:2402.13753 (longrope).
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING

import numpy as np

from ..dataclass import dataclass
from ..once import once
from .spec import Weight

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .spec import Config, Rope

    Array = NDArray[np.float64]

__all__ = ["LONGEST", "RopeTable", "frequencies", "rope_tables", "sincos"]

#: Positions whose angles `sincos` is exact for, where no frequency is above 1: of a text that outgrows its context.
LONGEST = 2**20

#: Angles of the table that are made at a time; they take about 100 bytes each on the way.
BLOCK = 2**15

# pi/2 in three parts of at most 33 bits, so that n * part is exact for n < 2^20
_PIO2 = (1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21)
_SIN = (1.58969099521155010221e-10, -2.50507602534068634195e-08, 2.75573137070700676789e-06,
        -1.98412698298579493134e-04, 8.33333333332248946124e-03, -1.66666666666666324348e-01)  # fmt: skip
_COS = (-1.13596475577881948265e-11, 2.08757232129817482790e-09, -2.75573143513906633035e-07,
        2.48015872894767294178e-05, -1.38888888888741095749e-03, 4.16666666666666019037e-02)  # fmt: skip


def sincos(x: Array) -> tuple[Array, Array]:
    """Sine and cosine of x >= 0 (radians, below 1.6e6), within 1e-15: float64, polynomials of fdlibm's degree."""
    n = np.rint(x * (2 / math.pi))
    r = ((x - n * _PIO2[0]) - n * _PIO2[1]) - n * _PIO2[2]
    z = r * r
    s, c = np.full_like(z, _SIN[0]), np.full_like(z, _COS[0])
    for a, b in zip(_SIN[1:], _COS[1:], strict=True):
        s, c = s * z + a, c * z + b
    s, c = r + r * z * s, 1 - (0.5 * z - z * z * c)
    odd, q = (n % 2).astype(bool), n % 4
    sin = np.where(odd, c, s) * np.where(q >= 2, -1.0, 1.0)  # noqa: PLR2004 (quadrants two and three)
    cos = np.where(odd, s, c) * np.where((q == 1) | (q == 2), -1.0, 1.0)  # noqa: PLR2004
    return sin, cos


def _powers(theta: float, d: int) -> Array:
    """theta^(-2i/d) for i < d/2, correctly rounded to float64."""
    with localcontext() as ctx:
        ctx.prec = 40
        base = Decimal(theta)
        return np.array([float(base ** (Decimal(-2 * i) / Decimal(d))) for i in range(d // 2)])


def _ln(x: float) -> float:
    with localcontext() as ctx:
        ctx.prec = 40
        return float(Decimal(x).ln())


def _yarn(rope: Rope, d: int) -> Array:
    """Arxiv:2309.00071, eq. 23: interpolate low frequencies, keep high ones, a linear ramp between."""
    base = _powers(rope.theta, d)

    def dimension(turns: float) -> float:
        return d * _ln(rope.original_context / (turns * 2 * math.pi)) / (2 * _ln(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, d - 1)
    ramp: Array = np.clip((np.arange(d // 2) - low) / (high - low or 0.001), 0, 1)
    return base / rope.factor * ramp + base * (1 - ramp)


def _llama3(rope: Rope, d: int) -> Array:
    base = _powers(rope.theta, d)
    wavelength = 2 * math.pi / base
    low, high = rope.low_freq_factor, rope.high_freq_factor
    smooth = (rope.original_context / wavelength - low) / (high - low)
    mixed = (1 - smooth) * base / rope.factor + smooth * base
    scaled = np.where(wavelength > rope.original_context / low, base / rope.factor, mixed)
    return np.where(wavelength < rope.original_context / high, base, scaled)


def frequencies(rope: Rope, d: int, length: int = 0) -> Array:
    """Radians per position for each of d/2 pairs, float32 values in float64; `length` of a text (dynamic, longrope)."""
    if rope.kind == "yarn":
        f = _yarn(rope, d)
    elif rope.kind == "llama3":
        f = _llama3(rope, d)
    elif rope.kind == "linear":
        f = _powers(rope.theta, d) / rope.factor
    elif rope.kind == "longrope":
        f = _powers(rope.theta, d) / (rope.long_factors if length > rope.original_context else rope.short_factors)
    elif rope.kind == "dynamic" and length > rope.original_context and d > 2:  # noqa: PLR2004 (one pair: no base)
        grow = rope.factor * length / rope.original_context - (rope.factor - 1)
        with localcontext() as ctx:
            ctx.prec = 40
            f = _powers(float(Decimal(rope.theta) * Decimal(grow) ** (Decimal(d) / Decimal(d - 2))), d)
    else:
        f = _powers(rope.theta, d)
    return f.astype(np.float32).astype(np.float64)


@dataclass(frozen=True)
class RopeTable:
    """cos and sin for positions 0 .. n_context-1: [n_context, d_rotary/2, 2].

    "dynamic" scaling is by position: position p uses the frequencies for a text of max(p + 1, original) tokens. This
    is what token-by-token decoding computes elsewhere, and it does not depend on how a prompt was cut.

    "longrope" has two frequencies for a position, of short texts and of long ones: where `n_context` reaches beyond
    `turning`, the table goes on after that row with the positions of long texts, from 0. Who feeds a text says which.

    The last `spare` rows are those of the tokens of one pass whose positions lie beyond the table (`fill`).
    """

    rope: Rope
    n_context: int
    spare: int = 0

    def exact(self, start: int, stop: int) -> Array:
        """Positions `start` to `stop` - 1 in float64, computed again: [stop - start, d_rotary/2, 2]."""
        rope, d = self.rope, self.rope.d_rotary
        if rope.kind == "longrope":
            return self._long(start, stop)
        end = rope.original_context if rope.kind == "dynamic" else stop  # from there on each has its own frequencies
        n = min(max(start, end), stop)
        angle = np.arange(start, n)[:, None] * self._frequencies
        late = [p * frequencies(rope, d, p + 1) for p in range(n, stop)]
        sin, cos = sincos(np.concatenate([angle, late]) if late else angle)
        return np.stack([cos, sin], -1) * rope.attention_factor

    @once
    def _frequencies(self) -> Array:
        return frequencies(self.rope, self.rope.d_rotary)

    def fill(self, row: int, start: int, stop: int) -> None:
        """Make spare rows, from `row` on, those of positions `start` to `stop` - 1: the bits of a longer table."""
        table = self.weight.array
        assert table is not None  # noqa: S101 - as it was made
        table[row : row + stop - start] = self.exact(start, stop)

    def _long(self, start: int, stop: int) -> Array:
        """Rows of short texts, and after them those of long ones."""
        rope, d, n = self.rope, self.rope.d_rotary, self.turning or self.n_context
        rows = np.arange(start, stop)
        short, long = rows[rows < n], rows[rows >= n] - n
        angles = short[:, None] * frequencies(rope, d), long[:, None] * frequencies(rope, d, rope.original_context + 1)
        sin, cos = sincos(np.concatenate(angles))
        return np.stack([cos, sin], -1) * rope.attention_factor

    @property
    def turning(self) -> int:
        """Tokens beyond which a text is rotated by its long factors; 0: no text is."""
        rope = self.rope
        return rope.original_context if rope.kind == "longrope" and self.n_context > rope.original_context else 0

    @once
    def weight(self) -> Weight:
        """As the kernels read it: float32. A few positions at a time, so that making it takes no more than it does."""
        table = np.empty(self.shape, np.float32)
        step = max(1, BLOCK // (self.shape[1] or 1))
        for at in range(0, len(table), step):
            stop = min(at + step, len(table))
            table[at:stop] = self.exact(at, stop)
        return Weight("rope", "f32", self.shape, table, mapped=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """[n_context + spare, d_rotary/2, 2]; with positions of long texts, as many more rows as short ones have."""
        return (self.turning + self.n_context + self.spare, self.rope.d_rotary // 2, 2)

    @property
    def nbytes(self) -> int:
        """Bytes of `weight`."""
        return math.prod(self.shape) * 4


def rope_tables(config: Config, n_context: int, spare: int = 0) -> tuple[RopeTable, ...]:
    """One for each of the config's `ropes`; none where positions are learned. `spare`: rows of positions beyond."""
    return tuple(RopeTable(rope, n_context, spare) for rope in config.ropes)
