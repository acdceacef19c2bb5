"""One token from one row of logits: the same token on every machine.

float32[n_vocab] logits, the ids so far and (seed, sequence, position) go in; an id comes out. Scores are changed first
(a mask, `penalties.py`, the repetition penalty, `rules.py`); then come temperature, top-k, top-p and min-p, as Hugging
Face has them (`transformers.generation.logits_process`), or the stages of `stages.py`, where others are asked for.
Every step is IEEE +, -, *, / and `exp` our own polynomial (`exact.py`); its values, the weights, are then rounded to
whole numbers, whose sums are exact in any order; and the uniform comes from a counter. So neither libm, nor the NumPy
build, nor how many threads share the work (a GPU: `cuda/kernels/draw.py`), nor what else is in the batch can change a
text.
"""

from __future__ import annotations

import copy
import math
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np

from ..dataclass import dataclass
from ..errors import InputError
from .exact import (
    LN2_HIGH,
    LN2_LOW,
    NEGLIGIBLE,
    PER_LN2,
    TAYLOR,
    allowed_of,
    exp,
    mask_words,
    nucleus,
    nucleus_part,
    philox,
    random_bits,
    uniform,
    uniform_bits,
    unit_bits,
)
from .penalties import scaled
from .sampling_params import SamplingParams, fresh_seed, real
from .stages import Standing, staged, surprise

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from .marking import Marking
    from .penalties import Changes, Lists
    from .processors import Processor

__all__ = [
    "LN2_HIGH",
    "LN2_LOW",
    "NEGLIGIBLE",
    "PER_LN2",
    "TAYLOR",
    "NotNumbersError",
    "Sampler",
    "SamplingParams",
    "all_forbidden",
    "allowed_of",
    "damaged",
    "exp",
    "fresh_seed",
    "mask_words",
    "not_numbers",
    "nucleus_part",
    "philox",
    "real",
    "repaired",
    "sample",
    "uniform",
    "uniform_bits",
    "unit_bits",
]

_RULES = "bad_words_ids, suppress_tokens, min_new_tokens or a rule about n-grams"
_NO_IDS = np.zeros(0, np.int64)


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

    #: Functions of the caller's that change a row.
    processors: Sequence[Processor] = ()
    #: What the CPU's kernel is told (`drawing.py`), once it was; and arrays whose addresses several rows' words hold.
    words: NDArray[np.int64] | None = None
    held: Sequence[object] = ()
    #: The arrays that they have addresses of (`penalties.py`).
    lists: Lists | None = None
    #: Whether logits that are no numbers are drawn from all the same; what marks the text, and whether a row is made of
    #: more than the text's own logits (`guidance.py`). Each is set before an id is observed.
    repairs = False
    marking: Marking | None = None
    guided = False
    #: uint32 [ceil(n_vocab / 32)], C-contiguous: bit i % 32 of word i // 32 says that id i may come, and no other ever
    #: does, whatever else is asked. It is read again for each draw; None: all may.
    mask: NDArray[np.uint32] | None = None
    #: Whose mask it is, for errors.
    constrained_by = "the mask of allowed ids"
    #: Whether the mask has ids that end the answer and no others, so that no rule has a say.
    must_end = False

    def __init__(
        self, n_vocab: int, params: SamplingParams, *, sequence: int = 0, changes: Changes | None = None
    ) -> None:
        """Nothing is seen yet. `changes`: penalties that have seen nothing yet either."""
        self.n_vocab, self.params, self.sequence, self.changes = n_vocab, params, sequence, changes
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
        #: Mirostat's bound on the surprise, and what it is once the last id that was drawn is observed.
        self.surprises = np.full(2, 2 * params.mirostat_tau)

    @property
    def seen(self) -> NDArray[np.bool_]:
        """[n_vocab]: which ids the repetition penalty bears on."""
        return self._seen

    @property
    def history(self) -> NDArray[np.int64]:
        """Those ids, each once: a view."""
        return self._history[: self._n_history]

    @property
    def calls_python(self) -> bool:
        """Whether a row is changed in ways that no kernel knows, so that no backend draws from it."""
        return bool(self.processors) or self.repairs or self.guided or self.marking is not None

    @property
    def host_only(self) -> bool:
        """Whether a backend that draws ahead, with no word from the host, would draw other ids."""
        changed = self.mask is not None or self.changes is not None or self.calls_python
        return changed or bool(self.params.stages)

    @property
    def tells_ahead(self) -> bool:
        """Whether ids alone decide what comes, so that rows after drafted ids can be drawn from in one pass.

        Mirostat follows the probabilities of each draw.
        """
        return "mirostat" not in self.params.stages

    @property
    def constant(self) -> bool:
        """Whether every id is drawn alike, whatever came before it: its row and its position alone decide."""
        counts = self.params.repetition_penalty != 1 or self.changes is not None or self.mask is not None
        return self.tells_ahead and not counts and not self.calls_python

    def ahead(self, ids: Iterable[int]) -> Self:
        """Another sampler, as this one will be once it has observed these ids of the answer; this one stays as it is.

        The mask, which is somebody else's, is the same array. Only where it `tells_ahead`.
        """
        twin = copy.copy(self)
        twin._stand_alone()  # noqa: SLF001 - of this class
        twin.observe(ids)
        return twin

    def _stand_alone(self) -> None:
        """Share nothing that changes with the sampler that this one is a copy of."""
        self.words, self.surprises = None, self.surprises.copy()
        self._seen, self._history = self._seen.copy(), self._history.copy()
        self.changes = None if self.changes is None else self.changes.copy()
        self.marking = None if self.marking is None else self.marking.copy()

    def checked_mask(self) -> NDArray[np.uint32]:
        """The mask, which there is. Errors: `InputError`: it is not what a kernel can read."""
        mask, size = self.mask, mask_words(self.n_vocab)
        if mask is None or mask.dtype != np.uint32 or mask.shape != (size,) or not mask.flags.c_contiguous:
            shape = None if mask is None else f"{mask.dtype} {list(mask.shape)}"
            msg = f"mask: {shape} found, expected uint32 [{size}] in one piece: a bit for each of {self.n_vocab} ids"
            raise InputError(msg)
        return mask

    def allows(self, i: int) -> bool:
        """Whether the mask lets an id come."""
        return self.mask is None or bool(self.checked_mask()[i >> 5] >> (i & 31) & 1)

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

    def observe(self, ids: Iterable[int], *, answer: bool = True) -> None:
        """Add ids (0 <= id < n_vocab) to those that penalties bear on: of the answer, or of the text before it."""
        if answer:
            self.surprises[0] = self.surprises[1]
        if self.changes is not None or self.marking is not None:
            ids = list(ids)
        if self.changes is not None:
            self.changes.observe(ids, answer=answer)
        if self.marking is not None:
            self.marking.observe(ids, answer=answer)
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
            scores, _ = self._changed(logits, position)
            if self.marking is not None:
                scores = scores.copy()
                self.marking.mark(scores)
            return int(scores.argmax())
        ids, weights = self.candidates(logits, position)
        reached = np.cumsum(weights, out=self._scratch.reached[: weights.size])
        target = int(reached[-1]) * uniform_bits(self.seed, self.sequence, position) >> 53
        at = int(np.searchsorted(reached, target, side="right"))
        if not self.tells_ahead:
            off = surprise(int(weights[at]), int(reached[-1])) - self.params.mirostat_tau
            self.surprises[1] = self.surprises[0] - self.params.mirostat_eta * off
        return int(ids[at])

    def candidates(
        self, logits: NDArray[np.float32], position: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
        """Ids that may be drawn, ascending, and their weights, exp((score - max) / temperature) in units of 2^-`unit`.

        What rounds to none is left out. Ranks are taken before the division by the temperature, in float32; the
        exponent is float64, so no temperature above 0 overflows. Ids may be a view of scratch: they last until the next
        call. `position`, the token's that is to be drawn, is for the words of an error.
        """
        params, scratch = self.params, self._scratch
        scores, largest = self._changed(logits, position)
        if params.stages or self.marking is not None:
            return self._staged(scores, position)
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
            chosen = nucleus(kept, weights, params.top_p)
            ids, weights = ids[chosen], weights[chosen]
        if not (enough := weights >= self.least).all():
            chosen = np.flatnonzero(enough)
            ids, weights = ids[chosen], weights[chosen]
        return ids, weights

    def _staged(self, scores: NDArray[np.float32], position: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As `candidates`, by the stages that the parameters ask for."""
        row, chance = Standing(scores.copy()), random_bits(self.seed, self.sequence, position)[1]
        staged(row, self.params.every_stage, self.params, chance, float(self.surprises[0]))
        if self.marking is not None:
            self.marking.mark(row.settled())
        ids = np.flatnonzero(row.weights)
        return ids, row.weights[ids]

    def _changed(self, logits: NDArray[np.float32], position: int) -> tuple[NDArray[np.float32], float]:
        """Scores after mask, penalties and rules; and their maximum. Ids that are forced have 0, and no penalty."""
        row = np.asarray(logits)
        if row.shape != (self.n_vocab,):
            msg = f"logits have shape {row.shape}, expected ({self.n_vocab},): one row of the vocabulary"
            raise InputError(msg)
        scores = row if row.dtype == np.float32 else row.astype(np.float32)
        (edits, forced), changes = self.edits(), self.changes
        if self._n_history or self.mask is not None or changes is not None or edits.size or self.repairs:
            np.copyto(self._scratch.scores, scores)
            scores = self._scratch.scores
        if forced:
            scores[:], scores[edits] = -np.inf, 0
            return scores, 0.0
        if self.mask is not None:
            scores[~allowed_of(self.checked_mask(), self.n_vocab)] = -np.inf
        lists = None if changes is None else changes.lists()
        if changes is not None and lists is not None:
            changes.apply(scores, lists, 0)
        if self._n_history:
            scaled(scores, self.history, self.params.repetition_penalty)
        if changes is not None and lists is not None:
            changes.apply(scores, lists, 1)
        scores[edits] = -np.inf
        self._repair(scores)
        if changes is not None and lists is not None:
            changes.apply(scores, lists, 2)
        largest = float(scores.max()) if scores.size else -math.inf
        if not math.isfinite(largest):
            raise self._impossible(row, largest, position, ruled=edits.size > 0)
        return scores, largest

    def _repair(self, scores: NDArray[np.float32]) -> None:
        """transformers' `InfNanRemoveLogitsProcessor`, where it is asked for; what a mask forbids stays as it is."""
        if not self.repairs:
            return
        repaired(scores)
        if self.mask is not None:
            scores[~allowed_of(self.checked_mask(), self.n_vocab)] = -np.inf

    def _impossible(self, row: NDArray[np.float32], largest: float, position: int, *, ruled: bool) -> InputError:
        """Why nothing can be drawn of scores whose largest is no number, or none is left."""
        own, after = float(row.max()), f"after position {position - 1}"
        if math.isnan(largest) and not math.isfinite(own):
            return not_numbers(position - 1)
        if math.isfinite(own) and not (largest < 0 and (self.mask is not None or ruled)):
            penalty = f"repetition_penalty={self.params.repetition_penalty}"
            whose = [penalty] * bool(self._n_history) + ["penalties and biases"] * (self.changes is not None)
            return InputError(
                f"no token can be drawn {after}: {', '.join(whose)} make numbers of the logits that float32 cannot "
                "hold; use smaller ones"
            )
        if largest < 0 and float(row.max()) > largest:
            if self.mask is not None:
                also = f" that {_RULES} does not forbid; leave one out" if ruled else " that could"
                return InputError(f"no id may come {after}: {self.constrained_by} leaves none{also}")
            if ruled:
                return all_forbidden(position - 1)
        what = "hold +inf" if largest > 0 else "are all -inf"
        with_it = f", with repetition_penalty={self.params.repetition_penalty}," if self._n_history else ""
        with_it += ", with penalties and biases," if self.changes is not None else ""
        return InputError(
            f"the logits {after}{with_it} {what}, so no token can be drawn: the model's weights or its input are "
            "damaged"
        )


def repaired(scores: NDArray[np.float32]) -> None:
    """NaN becomes 0, and what is infinite the largest or least finite number, in place."""
    limit = float(np.finfo(np.float32).max)
    np.nan_to_num(scores, copy=False, nan=0.0, posinf=limit, neginf=-limit)


def all_forbidden(position: int) -> InputError:
    """What to raise where rules leave no id to come after this position."""
    return InputError(f"no id may come after position {position}: {_RULES} forbids each that could; leave one out")


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
