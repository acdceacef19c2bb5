"""The draw block: what the kernels that draw an id (`kernels/draw.py`) share with the host, and where it lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..drawing import D_UNIT, parameter_words
from ..sampling import Sampler, SamplingParams

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "BINS",
    "DIGITS",
    "D_COUNT",
    "D_COUNTS",
    "D_FLOOR",
    "D_LAST",
    "D_MASS",
    "D_MASSES",
    "D_SUMS",
    "D_TIES",
    "D_TOP",
    "D_WORDS",
    "KEYS_AT",
    "draw_bytes",
    "draw_words",
    "seen_at",
    "weights_at",
]

#: A key's digits, and the values of each; ids are looked at in as many groups.
DIGITS, BINS = 4, 256
#: Words of the block, int64. First the host's (`drawing.py`). The device's: the largest key, the least key that is kept
#: and the last id that has it; and of either search, for each digit and after the last, the digits that are known and
#: what is still wanted of those that begin so.
D_TOP, D_FLOOR, D_LAST, D_COUNT, D_MASS = 8, 9, 10, 16, 32
#: Counts and weights by digit, 256 for each of four; then, by group of ids: those that tie at a nucleus' boundary, and
#: the weights of those that are kept.
D_COUNTS = 64
D_MASSES, D_TIES, D_SUMS, D_WORDS = (D_COUNTS + BINS * i for i in (DIGITS, 2 * DIGITS, 2 * DIGITS + 1, 2 * DIGITS + 2))
#: Byte of the block where the keys begin, uint32[n].
KEYS_AT = 8 * D_WORDS
_GREEDY = 5e-324  # of a nucleus: the first of the largest


def weights_at(n: int) -> int:
    """Byte where the weights begin, int64[n]."""
    return KEYS_AT + (4 * n + 7) // 8 * 8


def seen_at(n: int) -> int:
    """Byte where it stands which ids were seen, uint8[n]."""
    return weights_at(n) + 8 * n


def draw_bytes(n: int) -> int:
    """Bytes of the block for a vocabulary of n."""
    return seen_at(n) + n


def draw_words(sampler: Sampler) -> NDArray[np.int64]:
    """int64 [D_WORDS]: the block as a step finds it."""
    params = sampler.params
    if params.greedy:
        params = SamplingParams(top_p=_GREEDY, repetition_penalty=params.repetition_penalty, do_sample=True, seed=0)
    words = np.zeros(D_WORDS, np.int64)
    words[: D_UNIT + 1] = parameter_words(Sampler(sampler.n_vocab, params, sequence=sampler.sequence))
    return words
