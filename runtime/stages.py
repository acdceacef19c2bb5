"""What is left of a distribution before an id is drawn from it: temperature and truncations, one after the other.

This is the definition, in NumPy; `cpu/kernels/draw_stages.py` is its compiled twin. Scores are float32 (-inf: out),
weights whole numbers of 2^-unit of the largest (`sampling.py`), so that the sums are exact in any order; p below is a
weight's share of their sum. Whatever a stage takes out, the largest stay. docs/sampling.md has the formulas.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .exact import NEGLIGIBLE, OF_TOP_H, PER_LN2, exp, exp_of, log_of, nucleus, nucleus_part, unit_bits

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .sampling_params import SamplingParams

__all__ = ["Standing", "part_of", "staged", "tempered"]

_LN2 = 0.6931471805599453


def part_of(share: float) -> int:
    """A share in [0, 1] in units of 2^-53, rounded up; none is below one unit."""
    return nucleus_part(min(share, 1.0))


class Standing:
    """A row while its stages go on: which ids are left, and their weights at the temperature so far."""

    def __init__(self, scores: NDArray[np.float32], temperature: float = 1.0) -> None:
        """[n_vocab] scores, which are kept and changed."""
        self.scores, self.temperature, self.unit = scores, temperature, unit_bits(scores.size)
        self._weights: NDArray[np.int64] | None = None
        self._exponents = np.empty(0)

    @property
    def alive(self) -> NDArray[np.bool_]:
        """[n_vocab]: who is left."""
        return self.scores > -np.inf

    @property
    def weights(self) -> NDArray[np.int64]:
        """[n_vocab]; made at the first use since the temperature changed, against the largest score that is left."""
        if self._weights is None:
            largest = float(self.scores.max())
            with np.errstate(over="ignore"):
                x = (self.scores.astype(np.float64) - largest) / self.temperature
            x[~(x >= NEGLIGIBLE)] = -np.inf
            weights, near = np.zeros(x.size, np.int64), np.flatnonzero(x > -np.inf)
            weights[near] = np.rint(exp(x[near]) * 2.0**self.unit).astype(np.int64)
            self._weights, self._exponents = weights, x
        return self._weights

    @property
    def exponents(self) -> NDArray[np.float64]:
        """[n_vocab]: x of the weights e^x; -inf where there is none."""
        assert self._weights is not None  # noqa: S101 - who asks has weighed
        return self._exponents

    @property
    def total(self) -> int:
        """Sum of the weights."""
        return int(self.weights.sum())

    def keep(self, left: NDArray[np.bool_]) -> None:
        """Take all others out; weights of those that stay do not change."""
        self.scores[~left] = -np.inf
        if self._weights is not None:
            self._weights[~left] = 0

    def heat(self, temperature: float) -> None:
        """Another temperature; at 0 the first of the largest is left alone."""
        if temperature > 0:
            self.temperature, self._weights = temperature, None
        else:
            self.keep(np.arange(self.scores.size) == self.scores.argmax())

    def settled(self) -> NDArray[np.float32]:
        """The scores over the temperature, less the largest: to be changed; the temperature is 1 from now on."""
        with np.errstate(over="ignore"):
            depth = (self.scores.astype(np.float64) - float(self.scores.max())) / self.temperature
            self.scores = depth.astype(np.float32)
        self.temperature, self._weights = 1.0, None
        return self.scores

    def depth(self) -> float:
        """The mean of -x by weight, x <= 0 being the exponents: entropy less the logarithm of the weights' sum."""
        weights = self.weights
        near = weights > 0
        sums = np.rint(weights[near].astype(np.float64) * -self.exponents[near]).astype(np.int64)
        return float(int(sums.sum())) / float(self.total)

    def at_least(self, share: int) -> None:
        """Keep p >= share / 2^53, and the largest."""
        weights = self.weights
        least = min(-(-self.total * share >> 53), int(weights.max()))
        self.keep(weights >= max(least, 1))


def entropy(row: Standing) -> float:
    """-sum p log p, in nats."""
    scale: float = 2.0**row.unit
    return log_of(float(row.total) / scale) + row.depth()


def tempered(temperature: float, how: SamplingParams, row: Standing) -> float:
    """The temperature, where it follows the entropy H of what is left, m ids.

    `dynatemp_range` r: from T - r to T + r by (H / log m)^exponent (llama.cpp's `temp_ext`; kalomaze's "entropy
    sampling"). `adaptive` h: T times H / h - 1/2, between 0 and 1: greedy up to H = h / 2, T from 3 h / 2 on.
    """
    if how.adaptive > 0:
        return temperature * min(max(entropy(row) / how.adaptive - 0.5, 0.0), 1.0)
    if how.dynatemp_range > 0:
        m = int(row.alive.sum())
        if m < 2:  # noqa: PLR2004 - log 1 is 0
            return temperature
        ratio = min(max(entropy(row) / log_of(float(m)), 0.0), 1.0)
        low, high = max(0.0, temperature - how.dynatemp_range), temperature + how.dynatemp_range
        return low + (high - low) * (exp_of(how.dynatemp_exponent * log_of(ratio)) if ratio > 1e-300 else 0.0)  # noqa: PLR2004 - normal numbers
    return temperature


def top_n_sigma(row: Standing, n: float) -> None:
    """Keep scores within n standard deviations of the largest (Tang et al. 2024, arXiv:2411.07641, algorithm 1).

    The deviation is that of all scores that are left, divided by their number. Depths below the largest are rounded to
    whole parts of their span, so that sums of squares are exact.
    """
    alive = row.alive
    largest = float(row.scores.max())
    depth = largest - row.scores[alive].astype(np.float64)
    span = float(depth.max())
    if span == 0:
        return
    scale = 2.0 ** (row.unit // 2) / span
    parts = np.rint(depth * scale).astype(np.int64)
    mean = float(int(parts.sum())) / float(parts.size)
    variance = float(int((parts * parts).sum())) / float(parts.size) - mean * mean
    bound = n * math.sqrt(max(variance, 0.0))
    alive[alive] = depth * scale <= bound
    row.keep(alive)


def top_h(row: Standing, h: float) -> None:
    """Of the 100 largest keep the likeliest whose -p log p sum to h times that of all 100 at most, and the first.

    Baghaei Potraghloo et al. 2025, arXiv:2509.02510, as transformers' `TopHLogitsWarper` has it: p is the share among
    the 100. Of equals the lower id goes first. The sums are of floats, in this order.
    """
    ids = np.argsort(-row.scores, kind="stable")[:OF_TOP_H]
    ids = ids[row.weights[ids] > 0]
    weights = row.weights[ids].astype(np.float64)
    total = float(int(row.weights[ids].sum()))
    surprises = log_of(total / 2.0**row.unit) - row.exponents[ids]
    reached = np.cumsum(weights / total * surprises)
    over = np.flatnonzero(reached[1:] > h * reached[-1])
    left = np.zeros(row.scores.size, np.bool_)
    left[ids[: 1 + (over[0] if over.size else ids.size)]] = True
    row.keep(left)


def top_k(row: Standing, k: int) -> None:
    """Keep the k largest scores, and what ties with the last (Fan et al. 2018, arXiv:1805.04833, section 5)."""
    alive = row.scores[row.alive]
    if k < alive.size:
        row.keep(row.scores >= np.partition(alive, alive.size - k)[alive.size - k])


def top_p(row: Standing, p: float) -> None:
    """Keep the fewest of the largest that have p of the weight (Holtzman et al. 2020, arXiv:1904.09751, 3.1)."""
    near = np.flatnonzero(row.weights)
    left = np.zeros(row.scores.size, np.bool_)
    left[near[nucleus(row.scores[near], row.weights[near], p)]] = True
    row.keep(left)


def min_p(row: Standing, p: float) -> None:
    """Keep weights of p times the largest at least (Nguyen et al. 2024, arXiv:2407.01082, section 3)."""
    row.keep(row.weights >= max(1, int(np.rint(p * float(row.weights.max())))))


def typical_p(row: Standing, p: float) -> None:
    """Keep those whose surprise -log p is nearest to the entropy, until they have p of the weight.

    Meister et al. 2022, arXiv:2202.00666, section 3; of equals all, as transformers' `TypicalLogitsWarper`. The
    distance is |x - mean of x|: the logarithm of the sum is in both.
    """
    weights, mean = row.weights, -row.depth()
    near = np.flatnonzero(weights)
    distance = np.abs(row.exponents[near] - mean)
    order = np.argsort(distance, kind="stable")
    needed = -(-row.total * nucleus_part(p) >> 53)
    last = int(np.searchsorted(np.cumsum(weights[near][order]), needed, side="left"))
    left = np.zeros(weights.size, np.bool_)
    left[near[distance <= distance[order[last]]]] = True
    row.keep(left)


def epsilon_cutoff(row: Standing, epsilon: float) -> None:
    """Keep p >= epsilon (Hewitt et al. 2022, arXiv:2210.15191, section 3.2)."""
    row.at_least(part_of(epsilon))


def eta_cutoff(row: Standing, epsilon: float) -> None:
    """Keep p >= min(epsilon, sqrt(epsilon) e^-H) (Hewitt et al. 2022, arXiv:2210.15191, section 3.3)."""
    certainty = exp_of(-row.depth()) * (2.0**row.unit / float(row.total))  # e^-H
    row.at_least(part_of(min(epsilon, math.sqrt(epsilon) * certainty)))


def xtc(row: Standing, probability: float, threshold: float, chance: int) -> None:
    """Perhaps take out all but the least likely of those with p >= threshold, where there are two at least.

    "Exclude Top Choices", p-e-w, text-generation-webui #6335 (2024). `chance`: 53 random bits; below the probability,
    it is done. Of equals the last id is the least likely.
    """
    if chance >= part_of(probability):
        return
    likely = row.weights >= max(1, -(-row.total * part_of(threshold) >> 53))
    if likely.sum() > 1:
        rank = np.where(likely, row.weights, np.iinfo(np.int64).max)
        likely[likely.size - 1 - int(rank[::-1].argmin())] = False
        row.keep(~likely)


def mirostat(row: Standing, mu: float) -> None:
    """Keep a surprise -log2 p of mu at most (Basu et al. 2021, arXiv:2007.14966, in llama.cpp's version 2)."""
    row.at_least(part_of(exp_of(-mu * _LN2) if mu > 0 else 1.0))


def surprise(weight: int, total: int) -> float:
    """-log2 of a weight's share."""
    return log_of(float(total) / float(weight)) * PER_LN2


def staged(row: Standing, stages: tuple[str, ...], how: SamplingParams, chance: int, mu: float) -> None:
    """Let a row's stages go on, in their order. `chance`, `mu`: as of `xtc`, `mirostat`."""
    steps: dict[str, Callable[[], None]] = {
        "temperature": lambda: row.heat(tempered(how.temperature, how, row)),
        "top_n_sigma": lambda: top_n_sigma(row, how.top_n_sigma),
        "top_h": lambda: top_h(row, how.top_h),
        "top_k": lambda: top_k(row, how.top_k),
        "top_p": lambda: top_p(row, how.top_p),
        "min_p": lambda: min_p(row, how.min_p),
        "typical_p": lambda: typical_p(row, how.typical_p),
        "epsilon_cutoff": lambda: epsilon_cutoff(row, how.epsilon_cutoff),
        "eta_cutoff": lambda: eta_cutoff(row, how.eta_cutoff),
        "xtc": lambda: xtc(row, how.xtc_probability, how.xtc_threshold, chance),
        "mirostat": lambda: mirostat(row, mu),
    }
    for name in stages:
        steps[name]()
