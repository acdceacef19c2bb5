"""SynthID's watermark of texts (Dathathri et al. 2024, Nature 634, 818-823): ids that win a tournament are likelier.

Each layer has a key. The ids before, an id and the key are hashed to a place in a table of bits; the bit there is the
id's g in that layer. A layer turns probabilities p into p (1 + g - m), m the sum of p g: two ids are drawn from p, and
the one with the larger g wins. Hash, table, and what is done with a context that comes again are those of transformers'
`SynthIDTextWatermarkLogitsProcessor`, bit for bit.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dataclass import dataclass
from ..errors import InputError, is_iterable
from .exact import NEGLIGIBLE, exp, log_of, unit_bits
from .marking import NAME
from .mersenne import words
from .sampling_params import integer, refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    Ids = NDArray[np.int64]
    Bits = NDArray[np.bool_]

__all__ = ["Played", "Tournament", "margins", "tournament_from"]

#: The hash of x: h <- (h + x) times this, plus 1, modulo 2^64; it begins with 1.
_FACTOR, _U64 = 6364136223846793005, 2**64 - 1
_LARGEST = 2**63
#: What a call may ask for: each layer takes time for each id.
MOST_KEYS, LONGEST, LARGEST_TABLE = 256, 1024, 2**20


@dataclass(frozen=True)
class Tournament:
    """How a text is marked. `kept`: a cut vocabulary's ids in the whole one."""

    length: int  # ids that are hashed: the new one, and those before it
    keys: tuple[int, ...]  # one for each layer
    history: int = 1024  # contexts that are remembered
    seed: int = 0  # of the table
    size: int = 2**16  # bits of the table
    skips: bool = False  # ids are marked only once the answer has a whole context
    debug: bool = False  # all ids that may come are equally likely before they are marked
    kept: tuple[int, ...] | None = None

    def begin(self) -> Played:
        """On an answer of which nothing is seen yet."""
        return Played(self)

    @cached_property
    def _kept(self) -> Ids | None:
        return None if self.kept is None else np.array(self.kept, np.int64)

    def layers(self, context: int, rows: Ids) -> list[Bits]:
        """[n] of each layer: g of these rows' ids, after ids with this hash."""
        ids = rows if self._kept is None else self._kept[rows]
        table, factor = _table(self.seed, self.size), np.int64(_FACTOR)
        # Products of arrays wrap around, as PyTorch's do. (h + key) a + 1 is h a and a number of the layer's own.
        joined = ((ids + _signed(context)) * factor + 1) * factor
        own = np.array(self.keys, np.int64) * factor + 1
        if self.size & (self.size - 1):
            return [table[(joined + each) % self.size] for each in own]
        return [table[(joined + each) & (self.size - 1)] for each in own]  # the same, and 25 times as fast


class Played:
    """A tournament on one answer, whose ids it is told. What it does follows from them alone.

    Before the answer's first id stand zeros: as in transformers, the text before the answer has no part in it.
    """

    def __init__(self, how: Tournament) -> None:
        """Nothing is seen yet."""
        self._how, self._context, self._n_ids = how, [0] * (how.length - 1), 0
        self._used, self._n_used = dict[int, int](), 0  # hash of a context that an id was drawn after -> when last

    def observe(self, ids: Iterable[int], *, answer: bool) -> None:
        """Add ids: of the answer, or of the text before it."""
        kept = self._how.kept
        for i in ids if answer else ():
            if not self._skips:
                self._used[hash_of(self._context)] = self._n_used
                self._n_used += 1
            self._context = [*self._context, i if kept is None else kept[i]][1:]
            self._n_ids += 1

    def copy(self) -> Played:
        """Another that goes on from here by itself."""
        twin = Played(self._how)
        twin._context, twin._n_ids = self._context, self._n_ids
        twin._n_used, twin._used = self._n_used, dict(self._used)
        return twin

    @property
    def _skips(self) -> bool:
        return self._how.skips and self._n_ids < self._how.length - 1

    def _repeats(self, context: int) -> bool:
        """Whether one of the last contexts was this one. Those that there were not yet have the hash 0."""
        missing = self._n_used < self._how.history
        at = self._used.get(context)
        return (context == 0 and missing) or (at is not None and at >= self._n_used - self._how.history)

    def mark(self, scores: NDArray[np.float32]) -> None:
        """Make the scores logarithms of what the tournament leaves; -inf stays."""
        if self._how.debug:
            scores[scores > -np.inf] = 1
        if self._skips or self._repeats(context := hash_of(self._context)):
            return
        rows = np.flatnonzero(scores > -np.inf)
        if rows.size:
            with np.errstate(over="ignore"):
                scores[rows] = margins(scores[rows], self._how.layers(context, rows))


def margins(scores: NDArray[np.float32], layers: Sequence[Bits]) -> NDArray[np.float64]:
    """[n] logarithms of the probabilities of finite scores after the tournament.

    Each layer adds log (2 - m), or log (1 - m) where g is 0. Sums are of whole numbers (`sampling.py`).
    """
    x = scores.astype(np.float64) - float(scores.max())
    near = np.flatnonzero(x >= NEGLIGIBLE)
    scale: float = 2.0 ** unit_bits(scores.size)
    shares = np.zeros(x.size)
    shares[near] = exp(x[near]) * scale
    made = x - log_of(float(np.rint(shares).astype(np.int64).sum()) / scale)
    for bits in layers:
        parts = np.rint(shares).astype(np.int64)
        total = int(parts.sum())
        lose = float(total - int((parts * bits).sum())) / float(total)  # 1 - m
        shares *= bits + lose
        if lose > 0:
            made += log_of(lose)
            made += bits * (log_of(1.0 + lose) - log_of(lose))
        else:  # those that may come all have the same g
            made[~bits] = -np.inf
    return made


def hash_of(ids: Iterable[int]) -> int:
    """What ids come to, modulo 2^64."""
    made = 1
    for i in ids:
        made = ((made + i) * _FACTOR + 1) & _U64
    return made


def _signed(hashed: int) -> np.int64:
    return np.int64(hashed - 2**64 if hashed >= _LARGEST else hashed)


@lru_cache(maxsize=2)
def _table(seed: int, size: int) -> Bits:
    """`torch.randint(0, 2, (size,))` by a generator of this seed."""
    return (words(seed, size) & 1).astype(np.bool_)


#: Field of `SynthIDTextWatermarkingConfig` -> of `Tournament`, the least and the largest number.
_NUMBERS = {
    "ngram_len": ("length", 1, LONGEST), "context_history_size": ("history", 0, _LARGEST - 1),
    "sampling_table_seed": ("seed", 0, _LARGEST - 1), "sampling_table_size": ("size", 1, LARGEST_TABLE),
}  # fmt: skip
_SWITCHES = {"skip_first_ngram_calls": "skips", "debug_mode": "debug"}


def tournament_from(value: Mapping[str, object], kept: tuple[int, ...] | None = None) -> Tournament:
    """From `SynthIDTextWatermarkingConfig` as a dict with no other fields. Errors: `InputError`."""
    for name, what in (("ngram_len", "how many ids are hashed, such as 5"), ("keys", "a list of integers")):
        if name not in value:
            msg = f"{NAME}: SynthID's watermark needs {name!r} too, {what}"
            raise InputError(msg)
    fields: dict[str, Any] = {}
    for name, given in value.items():
        where = f"{NAME}[{name!r}]"
        if name == "keys":
            fields["keys"] = _keys(where, given)
        elif name in _SWITCHES:
            if not isinstance(given, bool | np.bool_):
                raise refusal(where, given, "True or False")
            fields[_SWITCHES[name]] = bool(given)
        else:
            (field, least, most), number = _NUMBERS[name], integer(given)
            if number is None or not least <= number <= most:
                end = "2^63 - 1" if most == _LARGEST - 1 else str(most)
                raise refusal(where, given, f"an integer from {least} to {end}")
            fields[field] = number
    return Tournament(kept=kept, **fields)


def _keys(where: str, value: object) -> tuple[int, ...]:
    """Errors: `InputError`."""
    if isinstance(value, str | bytes) or not is_iterable(value):
        raise refusal(where, value, f"a list of 1 to {MOST_KEYS} integers, one for each layer")
    given = list(value)
    if not 1 <= len(given) <= MOST_KEYS:
        msg = f"{where}: {len(given)} keys found, expected 1 to {MOST_KEYS}, one for each layer"
        raise InputError(msg)
    keys = []
    for i, each in enumerate(given):
        number, place = integer(each), f"{where}[{i}]"
        if number is None or not -_LARGEST <= number < _LARGEST:
            raise refusal(place, each, "an integer from -2^63 to 2^63 - 1")
        keys.append(number)
    return tuple(keys)
