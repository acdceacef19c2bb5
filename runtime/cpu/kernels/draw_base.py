"""What the ways through a draw (`draw.py`, `draw_stages.py`) share: a thread's scratch, keys, the largest, chance."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...drawing import D_POSITION, D_SEED, D_SEQUENCE, LEVELS, PART
from ...exact import log_of, philox
from ..lanes import between, fold, largest, ld, ldf, load_tail, maximum, nan_or, splat, zero
from .base import jit

F, D = np.float32, np.float64
LOW = F(-np.inf)
DIGITS, SIGN, U32 = 256, 0x80000000, 0xFFFFFFFF
#: Bytes of a thread's scratch where its parts begin, the later ones for a vocabulary of n.
DIGITS_AT = 8 * LEVELS
LEVELS_AT = DIGITS_AT + 8 * DIGITS
WEIGHTS_AT = LEVELS_AT + 4 * PART

_philox, log = jit(philox), jit(log_of)


@jit
def candidates_of(s: Any, n: Any) -> Any:
    """Address of the ids on one level (`drawing.candidates_at`)."""
    return s + WEIGHTS_AT + 8 * ((n + 15) // 16 * 16)


@jit
def scores_of(s: Any, n: Any) -> Any:
    """Address of scores that are not the logits (`drawing.scores_at`)."""
    return candidates_of(s, n) + 4 * ((n + 15) // 16 * 16)


@jit
def largest_of(x: Any, n: Any) -> Any:
    """The largest score, NaN where one is."""
    top, wrong = splat(LOW), zero()
    for j in range(0, n, 16):
        v = load_tail(x + 4 * j, n - j)
        top, wrong = maximum(between(v, 0, n - j, LOW), top), nan_or(v, wrong)
    return largest(top) if fold(wrong) == F(0.0) else F(np.nan)


@jit
def first_of(x: Any, n: Any, highest: Any) -> Any:
    """The first id that has the highest score."""
    i = 0
    while i < n and ldf(x + 4 * i) != highest:
        i += 1
    return i


@jit
def key_of(v: Any) -> Any:
    """Of a float32's bits: larger for a larger number, the same for both zeros."""
    if v == SIGN:
        v = 0
    return v ^ U32 if v >= SIGN else v | SIGN


@jit
def random_of(words: Any) -> Any:
    """Twice 53 bits: `exact.random_bits`."""
    seed, sequence, position = ld(words + 8 * D_SEED), ld(words + 8 * D_SEQUENCE), ld(words + 8 * D_POSITION)
    counter = position & U32, position >> 32 & U32, sequence & U32, sequence >> 32 & U32
    random = _philox(counter, (seed & U32, seed >> 32 & U32))
    return random[0] << 21 | random[1] >> 11, random[2] << 21 | random[3] >> 11
