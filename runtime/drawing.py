"""What a backend is told that draws ids by itself: the words of a row's draw, and where a CPU's thread does it.

The first eight words are the same on the CPU (`cpu/kernels/draw.py`) and on the GPU (`cuda/draw.py`). Both draw what
`Sampler` (`sampling.py`), the definition, draws from the same logits.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from .ops import HEADER

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .sampling import Sampler

__all__ = [
    "DRAW",
    "DRAW_WORDS",
    "D_COMPLEMENT",
    "D_EDITS",
    "D_FORCED",
    "D_GREEDY",
    "D_HISTORY",
    "D_LEAST",
    "D_MASK",
    "D_N_EDITS",
    "D_N_HISTORY",
    "D_PENALTY",
    "D_POSITION",
    "D_ROW",
    "D_SEED",
    "D_SEQUENCE",
    "D_TEMPERATURE",
    "D_TOP_K",
    "D_UNIT",
    "I_N",
    "I_SCRATCH",
    "I_SIZE",
    "I_SLOTS",
    "I_X",
    "LEVELS",
    "MOST_SLOTS",
    "PART",
    "candidates_at",
    "parameter_words",
    "row_words",
    "scores_at",
    "scratch_bytes",
    "scratch_slots",
    "slot_bytes",
    "weights_at",
]

#: The CPU's kernel.
DRAW = "draw"
#: Words, int64: top-k (0 is off), temperature (bits of a float64), 2^53 less top-p's part (0 is off), the least weight,
#: penalty (bits of a float32), seed, sequence, and the bits of a weight's unit.
D_TOP_K, D_TEMPERATURE, D_COMPLEMENT, D_LEAST, D_PENALTY, D_SEED, D_SEQUENCE, D_UNIT = range(8)
#: The CPU's: the row of logits; the token's position; whether the largest is taken; ids that the penalty bears on
#: (address of int64, how many); ids whose score a rule sets to -inf (as before), or, where it says that one of them
#: must come, whose score alone is 0.
D_ROW, D_POSITION, D_GREEDY, D_HISTORY, D_N_HISTORY, D_EDITS, D_N_EDITS, D_FORCED = range(8, 16)
#: Address of a bit for each id, uint32 words from the lowest bit on: ids without it never come. 0: all may.
D_MASK = 16
DRAW_WORDS = 24
#: Slots of the CPU's instruction: logits, their width, the threads' scratch, bytes of a thread's, how many have one.
I_X, I_N, I_SCRATCH, I_SIZE, I_SLOTS = range(len(HEADER), len(HEADER) + 5)

#: A boundary of score is looked for among this many levels of it, then digit by digit in one of them.
LEVELS = 2048
#: Logits that are weighed together: a multiple of the lanes.
PART = 1024
#: Threads that draw, at most: a large vocabulary's scratch is 16 bytes an entry for each.
MOST_SLOTS = 16
_DIGITS = 256
_LARGEST = 1 << 64


def weights_at() -> int:
    """Byte of a thread's scratch where the weights begin, int64[n]; before them: sums by level and digit, levels."""
    return 8 * (LEVELS + _DIGITS) + 4 * PART


def candidates_at(n: int) -> int:
    """Byte where ids of one level begin, int32[n]."""
    return weights_at() + 8 * _whole(n)


def scores_at(n: int) -> int:
    """Byte where scores begin that are not the logits, float32[n]."""
    return candidates_at(n) + 4 * _whole(n)


def slot_bytes(n: int) -> int:
    """Bytes of a thread's scratch for a vocabulary of n."""
    return scores_at(n) + 4 * _whole(n)


def scratch_slots(threads: int, n_logits: int) -> int:
    """Threads that draw rows of a pass."""
    return min(threads, n_logits, MOST_SLOTS)


def scratch_bytes(n: int, threads: int, n_logits: int) -> int:
    """Bytes for all of them."""
    return scratch_slots(threads, n_logits) * slot_bytes(n)


def _whole(n: int) -> int:
    return -(-n // 16) * 16


def parameter_words(sampler: Sampler) -> NDArray[np.int64]:
    """int64 [8]: what does not change from token to token."""
    params, words = sampler.params, np.zeros(8, np.int64)
    words[D_TOP_K] = params.top_k if params.top_k < sampler.n_vocab else 0
    words[D_TEMPERATURE : D_TEMPERATURE + 1] = np.float64(params.temperature).view(np.int64)
    words[D_COMPLEMENT] = sampler.complement
    words[D_LEAST] = sampler.least
    words[D_PENALTY] = struct.unpack("<I", struct.pack("<f", params.repetition_penalty))[0]
    for at, number in ((D_SEED, sampler.seed), (D_SEQUENCE, sampler.sequence)):
        words[at] = np.uint64(number % _LARGEST).astype(np.int64)
    words[D_UNIT] = sampler.unit
    return words


def row_words(sampler: Sampler, position: int) -> NDArray[np.int64] | None:
    """int64 [DRAW_WORDS] for the token at `position`, which hold until the sampler's next; None: Python draws it.

    They hold addresses of the sampler's arrays: keep it until the pass ended.
    """
    if sampler.calls_python:
        return None
    words = sampler.words
    if words is None:
        words = sampler.words = np.zeros(DRAW_WORDS, np.int64)
        words[: D_UNIT + 1] = parameter_words(sampler)
        words[D_GREEDY] = sampler.params.greedy
    history, (edits, forced) = sampler.history, sampler.edits()
    words[D_POSITION] = position
    words[D_HISTORY], words[D_N_HISTORY] = history.ctypes.data, history.size
    words[D_EDITS], words[D_N_EDITS], words[D_FORCED] = edits.ctypes.data, edits.size, forced
    words[D_MASK] = 0 if sampler.mask is None else sampler.checked_mask().ctypes.data
    return words
