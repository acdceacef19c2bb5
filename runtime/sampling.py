"""One token from one row of logits: the same token on every machine.

float32[n_vocab] logits, the ids so far and (seed, sequence, position) go in; an id comes out. The stages and their
order are Hugging Face's (`transformers.generation.logits_process`): repetition penalty, temperature, top-k, top-p,
min-p. Every stage is IEEE +, -, *, / and `exp` our own polynomial; its values, the weights, are then rounded to whole
numbers, whose sums are exact in any order; and the uniform comes from a counter. So neither libm, nor the NumPy build,
nor how many threads share the work (a GPU: `cuda/kernels/draw.py`), nor what else is in the batch can change a text.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

__all__ = [
    "LN2_HIGH",
    "LN2_LOW",
    "NEGLIGIBLE",
    "PER_LN2",
    "TAYLOR",
    "NotNumbersError",
    "Sampler",
    "SamplingParams",
    "damaged",
    "exp",
    "fresh_seed",
    "not_numbers",
    "nucleus_part",
    "philox",
    "real",
    "sample",
    "uniform",
    "uniform_bits",
    "unit_bits",
]

_U32 = 0xFFFFFFFF
_U64 = 0xFFFFFFFFFFFFFFFF
#: Weights below exp(-40) of the largest are less than half a unit, which is 2^-55 of it at least: none.
NEGLIGIBLE = -40.0
_BLOCK = 8192  # elements of `exp` worked on at a time: its three buffers stay in the second-level cache
_NO_IDS = np.zeros(0, np.int64)
_LEVELS = 4096  # a nucleus' boundary is searched by counting into this many levels of score ...
_SORTED = 1024  # ... until so few candidates are left; these are sorted

_F32 = np.finfo(np.float32)
#: Parameter -> (an integer?, may it be?, what is expected).
_RANGES: dict[str, tuple[bool, Callable[[float], bool], str]] = {
    "temperature": (False, lambda t: t >= 0, "a finite number >= 0 (0 is greedy)"),
    "top_k": (True, lambda k: k >= 0, "an integer >= 0 (0 is off)"),
    "top_p": (False, lambda p: 0 < p <= 1, "a number in (0, 1] (1 is off)"),
    "min_p": (False, lambda p: 0 <= p <= 1, "a number in [0, 1] (0 is off)"),
    "repetition_penalty": (
        False,
        lambda p: float(_F32.tiny) <= p <= float(_F32.max),
        "a number > 0 that float32 can hold (1 is off)",
    ),
    "seed": (True, lambda _: True, "an integer, or None (drawn afresh)"),
}


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen; names and meanings of Hugging Face's `GenerationConfig`, defaults that do nothing.

    Greedy (the first of the largest logits) unless `do_sample`; `temperature=0` is greedy too. `top_k=0` is off.
    `seed` is any integer, taken modulo 2**64. None draws one afresh where sampling needs one: it can be read back, and
    the same parameters with it give the same text. Errors: `InputError` names the parameter, the value and the range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    do_sample: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check every value, and store plain Python numbers; draw the seed that is not given."""
        if not isinstance(self.do_sample, bool | np.bool_):
            what = "do_sample"
            raise _refusal(what, self.do_sample, "True or False")
        object.__setattr__(self, "do_sample", bool(self.do_sample))
        for name, (integral, allowed, wanted) in _RANGES.items():
            value = getattr(self, name)
            if name == "seed" and value is None:
                continue
            number = _integer(value) if integral else real(value)
            if number is None or not allowed(number):
                raise _refusal(name, value, wanted)
            object.__setattr__(self, name, number)
        if self.seed is None and not self.greedy:
            object.__setattr__(self, "seed", fresh_seed())

    @property
    def drawn_by(self) -> int | None:
        """The seed that the text depends on; None where it is greedy, and depends on none."""
        return None if self.greedy else self.seed

    @property
    def greedy(self) -> bool:
        """Whether the largest logit wins, with no randomness."""
        return not self.do_sample or self.temperature == 0

    @property
    def plain(self) -> bool:
        """Greedy on the logits as they are: the id is their argmax."""
        return self.greedy and self.repetition_penalty == 1


@dataclass(frozen=True)
class _Scratch:
    """What draws in Python need: 32 bytes per entry of the vocabulary, which a kernel's draws do not."""

    scores: NDArray[np.float32]
    ranked: NDArray[np.float32]
    exponents: NDArray[np.float64]
    reached: NDArray[np.int64]
    ids: NDArray[np.int64]


class Sampler:
    """Draws the tokens of one sequence; knows the ids seen so far. In NumPy: what kernels draw is tested against it.

    `observe` every id of the prompt and of the answer (only the repetition penalty looks at them), `draw` per token.
    """

    #: Whether a backend that draws ahead, with no word from the host, would draw other ids.
    host_only = False
    #: Whether functions of the caller's change a row, so that no backend draws from it.
    calls_python = False
    #: Whether `rewind` undoes all that a draw depends on, so that rows after drafted ids can be drawn from in one pass.
    rewinds = True
    #: What the CPU's kernel is told (`drawing.py`), once it was; and arrays whose addresses several rows' words hold.
    words: NDArray[np.int64] | None = None
    held: Sequence[NDArray[np.int64]] = ()

    def __init__(self, n_vocab: int, params: SamplingParams, *, sequence: int = 0) -> None:
        """Nothing is seen yet."""
        self.n_vocab, self.params, self.sequence = n_vocab, params, sequence
        self.seed = params.drawn_by or 0  # greedy: no draw reads it
        self.unit = unit_bits(n_vocab)
        #: Weights below it are left out; the largest is exp(0) = 1.
        self.least = max(1, round(params.min_p * 2**self.unit))
        #: 2^53 less top-p's part of it: 0 where all is kept.
        self.complement = (1 << 53) - nucleus_part(params.top_p)
        counts = params.repetition_penalty != 1
        self._seen = np.zeros(n_vocab, np.bool_)
        self._history = np.empty(n_vocab if counts else 0, np.int64)  # each id once, in the order of first sight
        self._n_history = 0

    @property
    def seen(self) -> NDArray[np.bool_]:
        """[n_vocab]: which ids the repetition penalty bears on."""
        return self._seen

    @property
    def history(self) -> NDArray[np.int64]:
        """Those ids, each once: a view."""
        return self._history[: self._n_history]

    def edits(self) -> tuple[NDArray[np.int64], bool]:
        """Ids that may not come next, or, if it says so, of which one must: of a row before the penalty."""
        return _NO_IDS, False

    @property
    def edited(self) -> NDArray[np.int64]:
        """What `edits` returned last."""
        return _NO_IDS

    @cached_property
    def _scratch(self) -> _Scratch:
        n, f32 = self.n_vocab, np.float32
        return _Scratch(np.empty(n, f32), np.empty(n, f32), np.empty(n), np.empty(n, np.int64), np.arange(n))

    def observe(self, ids: Iterable[int]) -> None:
        """Add ids (0 <= id < n_vocab) to those that the repetition penalty bears on."""
        if self.params.repetition_penalty == 1:
            return
        for i in ids:
            if not self._seen[i]:
                self._seen[i] = True
                self._history[self._n_history] = i
                self._n_history += 1

    def mark(self) -> tuple[int, ...]:
        """What `rewind` needs to forget the ids that are observed from now on. All that depends on ids is undone."""
        return (self._n_history,)

    def rewind(self, mark: tuple[int, ...]) -> None:
        """Be as at the mark. Arrays keep what lies after their end, so that words made meanwhile hold."""
        self._seen[self._history[mark[0] : self._n_history]] = False
        self._n_history = mark[0]

    def draw(self, logits: NDArray[np.float32], position: int) -> int:
        """Id of the token at `position`. logits: [n_vocab]; -inf is never drawn; NaN and +inf are an `InputError`."""
        if self.params.greedy:
            scores, _ = self._penalised(logits, position)
            return int(scores.argmax())
        ids, weights = self.candidates(logits, position)
        reached = np.cumsum(weights, out=self._scratch.reached[: weights.size])
        target = int(reached[-1]) * uniform_bits(self.seed, self.sequence, position) >> 53
        return int(ids[np.searchsorted(reached, target, side="right")])

    def candidates(
        self, logits: NDArray[np.float32], position: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
        """Ids that may be drawn, ascending, and their weights, exp((score - max) / temperature) in units of 2^-`unit`.

        What rounds to none is left out. Ranks are taken before the division by the temperature, in float32; the
        exponent is float64, so no temperature above 0 overflows. Ids may be a view of scratch: they last until the next
        call. `position`, the token's that is to be drawn, is for the words of an error.
        """
        params, scratch = self.params, self._scratch
        scores, largest = self._penalised(logits, position)
        if 0 < params.top_k < scores.size:
            np.copyto(scratch.ranked, scores)
            at = scores.size - params.top_k
            scratch.ranked.partition(at)
            ids = np.flatnonzero(scores >= scratch.ranked[at])  # what ties with the k-th stays, as in transformers
            kept = scores[ids]
        else:
            ids, kept = scratch.ids, scores
        exponents = np.subtract(kept, largest, out=scratch.exponents[: kept.size], dtype=np.float64)
        with np.errstate(over="ignore"):
            exponents /= params.temperature
        alive = exponents >= NEGLIGIBLE
        if not alive.all():
            chosen = np.flatnonzero(alive)
            ids, kept, exponents = ids[chosen], kept[chosen], exponents[chosen]
        floats = np.multiply(exp(exponents, out=exponents), 2.0**self.unit, out=exponents)
        weights = np.rint(floats, out=floats).astype(np.int64)
        if params.top_p < 1:
            chosen = _nucleus(kept, weights, params.top_p)
            ids, weights = ids[chosen], weights[chosen]
        if not (enough := weights >= self.least).all():
            chosen = np.flatnonzero(enough)
            ids, weights = ids[chosen], weights[chosen]
        return ids, weights

    def _penalised(self, logits: NDArray[np.float32], position: int) -> tuple[NDArray[np.float32], float]:
        """Scores after the repetition penalty p: x / p where x >= 0, x * p where x < 0; and their maximum.

        Keskar et al. 2019 (arXiv:1909.05858), with transformers' treatment of negative logits and its float32.
        """
        row = np.asarray(logits)
        if row.shape != (self.n_vocab,):
            msg = f"logits have shape {row.shape}, expected ({self.n_vocab},): one row of the vocabulary"
            raise InputError(msg)
        scores = row if row.dtype == np.float32 else row.astype(np.float32)
        penalty = self.params.repetition_penalty
        if self._n_history:
            np.copyto(self._scratch.scores, scores)
            scores, history = self._scratch.scores, self.history
            p = float(np.float32(penalty))
            old = scores[history].astype(np.float64)
            with np.errstate(over="ignore"):
                scores[history] = np.where(old < 0, old * p, old / p)
        largest = float(scores.max()) if scores.size else -math.inf
        if math.isnan(largest):
            raise not_numbers(position - 1)
        if math.isinf(largest):
            what = "hold +inf" if largest > 0 else "are all -inf"
            where = f", with repetition_penalty={penalty}," if self._n_history else ""
            msg = (
                f"the logits after position {position - 1}{where} {what}, so no token can be drawn: the model's "
                "weights or its input are damaged"
            )
            raise InputError(msg)
        return scores, largest


class NotNumbersError(InputError):
    """Logits are NaN: nothing was refused, and what was asked for has no answer."""


def not_numbers(position: int, so: str = "no token can be drawn") -> NotNumbersError:
    """What to raise where logits are NaN: greedy or sampled, no id is the right one, and no loss is one."""
    return damaged(f"the logits after position {position} are not numbers (NaN), so {so}")


def damaged(what: str) -> NotNumbersError:
    """What to raise where `what` is wrong: results that are not numbers, and would pass for an answer."""
    msg = (
        f"{what}: the checkpoint is damaged, or its numbers overflow float32. Compare the file with its publisher's "
        "checksum; where it was quantised, pruned or merged, try the original"
    )
    return NotNumbersError(msg)


def sample(
    logits: NDArray[np.float32],
    history: Sequence[int],
    params: SamplingParams,
    *,
    position: int,
    sequence: int = 0,
) -> int:
    """Id drawn from float32[n_vocab] logits after `history`; a function of its arguments alone, on every machine.

    The parameters are among them, with the seed that they hold, given or drawn.
    """
    sampler = Sampler(len(logits), params, sequence=sequence)
    sampler.observe(history)
    return sampler.draw(logits, position)


def fresh_seed() -> int:
    """63 random bits of the operating system's: one that no earlier answer had, as good as surely."""
    return int.from_bytes(os.urandom(8)) >> 1  # a seed that any language's int64 holds


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
    seed, sequence, position = seed & _U64, sequence & _U64, position & _U64
    counter = (position & _U32, position >> 32, sequence & _U32, sequence >> 32)
    high, low, _, _ = philox(counter, (seed & _U32, seed >> 32))
    return ((high << 32) | low) >> 11


def unit_bits(n_vocab: int) -> int:
    """Weights are whole numbers of 2^-this of the largest: as fine as lets the sum of them all fit an int64."""
    return 62 - n_vocab.bit_length()


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


def _nucleus(scores: NDArray[np.float32], weights: NDArray[np.int64], top_p: float) -> NDArray[np.int64]:
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


def real(value: object) -> float | None:
    """Return a finite float, or None where `value` is none."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _integer(value: object) -> int | None:
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool | np.bool_) else None


def _refusal(name: str, value: object, wanted: str) -> InputError:
    return InputError(f"{name}={shown(value, 60)}: expected {wanted}")
