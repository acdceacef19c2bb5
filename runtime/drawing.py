"""What a backend is told that draws ids by itself: the words of a row's draw, and where a CPU's thread does it.

The first eight words are the same on the CPU (`cpu/kernels/draw.py`) and on the GPU (`cuda/draw.py`). Both draw what
`Sampler` (`sampling.py`), the definition, draws from the same logits.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from .exact import nucleus_part
from .ops import HEADER
from .sampling_params import ORDER

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .penalties import Changes, Lists
    from .sampling import Sampler

__all__ = [
    "DRAW",
    "DRAWS",
    "DRAW_WORDS",
    "D_ADAPTIVE",
    "D_AIM",
    "D_BIAS",
    "D_BIASES",
    "D_COMPLEMENT",
    "D_COUNTED",
    "D_COUNTS_OFF",
    "D_EDITS",
    "D_ENDS",
    "D_EPSILON",
    "D_ETA",
    "D_EXPONENT",
    "D_FORCED",
    "D_GREEDY",
    "D_GROWTH",
    "D_HISTORY",
    "D_LEAST",
    "D_MASK",
    "D_MIN_P",
    "D_N_BIAS",
    "D_N_COUNTED",
    "D_N_EDITS",
    "D_N_ENDS",
    "D_N_HISTORY",
    "D_N_REPEATED",
    "D_N_SOURCE",
    "D_PACE",
    "D_PENALTY",
    "D_POSITION",
    "D_RANGE",
    "D_REPEATED",
    "D_REPEATED_OFF",
    "D_ROW",
    "D_SEED",
    "D_SEQUENCE",
    "D_SIGMAS",
    "D_SOURCE",
    "D_SOURCE_PENALTY",
    "D_STAGES",
    "D_SURPRISES",
    "D_TEMPERATURE",
    "D_TOP_H",
    "D_TOP_K",
    "D_TYPICAL",
    "D_UNIT",
    "D_XTC",
    "D_XTC_THRESHOLD",
    "I_N",
    "I_PHASE",
    "I_SCRATCH",
    "I_SIZE",
    "I_SLOTS",
    "I_X",
    "LEVELS",
    "MOST_SLOTS",
    "PART",
    "PHASES",
    "PREPARES",
    "SAMPLE",
    "SAMPLED",
    "SHARED",
    "WEIGHS",
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
#: What `penalties.py` adds before and after the repetition penalty (addresses of int64 ids and float64 amounts, how
#: many); ids of the source, how many, and their penalty (bits of a float32); ids that end the answer, how many, and
#: what part of their scores' size they get on top (bits of a float64).
D_BIAS, D_BIASES, D_N_BIAS, D_COUNTED, D_COUNTS_OFF, D_N_COUNTED, D_REPEATED, D_REPEATED_OFF, D_N_REPEATED = range(
    17, 26
)
D_SOURCE, D_N_SOURCE, D_SOURCE_PENALTY, D_ENDS, D_N_ENDS, D_GROWTH = range(26, 32)
#: Stages of the long way (`stages.py`), four bits each from the first on, 1 + its number in `ORDER`; 0: the short way.
D_STAGES = 32
#: Bits of float64: min-p, epsilon, eta, top-n-sigma's n, `dynatemp_range`, its exponent, `adaptive`.
D_MIN_P, D_EPSILON, D_ETA, D_SIGMAS, D_RANGE, D_EXPONENT, D_ADAPTIVE = range(33, 40)
#: Shares in units of 2^-53: 2^53 less typical-p's; XTC's probability and threshold.
D_TYPICAL, D_XTC, D_XTC_THRESHOLD = range(40, 43)
#: Mirostat's two numbers (address of float64: the bound, and where the next one goes), its aim and its pace.
D_SURPRISES, D_AIM, D_PACE = range(43, 46)
#: Bits of a float64: top-h's part of the entropy.
D_TOP_H = 46
DRAW_WORDS = 48
#: Slots of the CPU's instructions: logits, their width, the threads' scratch, bytes of a thread's, how many have one,
#: and which of the instructions it is, in their order.
I_X, I_N, I_SCRATCH, I_SIZE, I_SLOTS, I_PHASE = range(len(HEADER), len(HEADER) + 6)
PREPARES, WEIGHS, DRAWS = PHASES = range(3)

#: A boundary of score is looked for among this many levels of it, then digit by digit in one of them.
LEVELS = 2048
#: Logits that are weighed together: a multiple of the lanes.
PART = 1024
#: Logits from which on it pays to look at a sample before levels are chosen, and parts of the row that make one.
SAMPLED, SAMPLE = 64 * PART, 8
#: Logits from which on threads share a row that is drawn alone.
SHARED = 16 * PART
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
    words[D_PENALTY] = _float_bits(params.repetition_penalty)
    for at, number in ((D_SEED, sampler.seed), (D_SEQUENCE, sampler.sequence)):
        words[at] = np.uint64(number % _LARGEST).astype(np.int64)
    words[D_UNIT] = sampler.unit
    return words


def _stage_words(sampler: Sampler, words: NDArray[np.int64]) -> None:
    """What the long way through a draw is told, if it is taken."""
    how = sampler.params
    if not how.stages:
        return
    words[D_STAGES] = sum(ORDER.index(name) + 1 << 4 * at for at, name in enumerate(how.stages))
    words[D_LEAST] = 1  # min-p is a stage like any other
    floats = words.view(np.float64)
    floats[D_MIN_P : D_ADAPTIVE + 1] = (
        how.min_p, how.epsilon_cutoff, how.eta_cutoff, how.top_n_sigma, how.dynatemp_range, how.dynatemp_exponent,
        how.adaptive,
    )  # fmt: skip
    words[D_TYPICAL] = (1 << 53) - nucleus_part(how.typical_p)
    words[D_XTC], words[D_XTC_THRESHOLD] = nucleus_part(how.xtc_probability), nucleus_part(how.xtc_threshold)
    words[D_SURPRISES] = 0 if sampler.tells_ahead else sampler.surprises.ctypes.data
    floats[D_AIM], floats[D_PACE], floats[D_TOP_H] = how.mirostat_tau, how.mirostat_eta, how.top_h


def _list_words(changes: Changes, words: NDArray[np.int64]) -> Lists:
    """What the row's penalties are; the lists must be there as long as the words."""
    lists = changes.lists()
    for at, (ids, amounts) in ((D_BIAS, lists.bias), (D_COUNTED, lists.counted), (D_REPEATED, lists.repeated)):
        words[at : at + 3] = ids.ctypes.data, amounts.ctypes.data, ids.size
    words[D_SOURCE], words[D_N_SOURCE] = lists.source.ctypes.data, lists.source.size
    words[D_SOURCE_PENALTY] = _float_bits(1.0 / changes.penalties.source_penalty)
    words[D_ENDS], words[D_N_ENDS] = lists.ends.ctypes.data, lists.ends.size
    words.view(np.float64)[D_GROWTH] = lists.growth
    return lists


def _float_bits(number: float) -> int:
    bits: int = struct.unpack("<I", struct.pack("<f", number))[0]
    return bits


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
        _stage_words(sampler, words)
    history, (edits, forced) = sampler.history, sampler.edits()
    words[D_POSITION] = position
    words[D_HISTORY], words[D_N_HISTORY] = history.ctypes.data, history.size
    words[D_EDITS], words[D_N_EDITS], words[D_FORCED] = edits.ctypes.data, edits.size, forced
    if sampler.changes is not None:
        sampler.lists = _list_words(sampler.changes, words)
    words[D_MASK] = 0 if sampler.mask is None else sampler.checked_mask().ctypes.data
    return words
