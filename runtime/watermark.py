"""A watermark (Kirchenbauer et al. 2023, arXiv:2301.10226): which ids are green, and so a little likelier.

Green ids are the first of a permutation of the vocabulary that the ids before seed: PyTorch's on a CPU, which is
MT19937 (Matsumoto and Nishimura 1998) and the shuffle of Fisher and Yates, so that transformers' detector finds them.
Schemes, and their names, are transformers' `WatermarkLogitsProcessor`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dataclass import dataclass
from ..errors import InputError, shown
from .marking import GREEN, NAME, SYNTHID
from .mersenne import words
from .sampling_params import integer, real, refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from .marking import Watermark

    Ids = NDArray[np.int64]

__all__ = ["GreenLists", "Greened", "green_from", "permuted", "watermark_from"]

SCHEMES = ("lefthash", "selfhash")
#: Entries of the table that "selfhash" looks ids up in, and how many of the likeliest ids it asks.
_TABLE, _TRIED = 1_000_003, 40
_LARGEST, _LARGEST_F32 = 2**63, float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class GreenLists:
    """How a text is marked. `n_vocab`: entries of the vocabulary that is shuffled; `kept`: a cut one's ids in it."""

    n_vocab: int
    ratio: float = 0.25  # of the vocabulary is green
    bias: float = 2.0  # of a green id's score
    key: int = 15485863
    scheme: str = "lefthash"
    width: int = 1  # ids that seed the shuffle
    kept: tuple[int, ...] | None = None

    def begin(self) -> Greened:
        """On a text of which nothing is seen yet."""
        return Greened(self)

    @property
    def n_green(self) -> int:
        """Green ids of a whole vocabulary."""
        return int(self.n_vocab * self.ratio)

    @cached_property
    def _rows(self) -> Ids:
        """[n_vocab]: rows of ids; -1: cut."""
        rows = np.full(self.n_vocab, -1, np.int64)
        rows[np.array(self.kept, np.int64)] = np.arange(len(self.kept or ()))
        return rows

    def green(self, before: Sequence[int], scores: NDArray[np.float32]) -> Ids:
        """Rows of what is green after `before`, the text's last `width` rows; none where it has fewer."""
        if len(before) < self.width:
            return np.zeros(0, np.int64)
        text = [i if self.kept is None else self.kept[i] for i in before]
        if self.scheme == SCHEMES[0]:
            ids = permuted(self.key * text[-1], self.n_vocab, self.n_green)
        else:
            ids = self._of_the_likeliest(text, scores)
        if self.kept is None:
            return ids[ids < scores.size]
        rows = self._rows[ids]
        return rows[rows >= 0]

    def _of_the_likeliest(self, text: list[int], scores: NDArray[np.float32]) -> Ids:
        """Of "selfhash": those of the likeliest ids that are green in the shuffle that they seed themselves."""
        table = _hashes(self.key)
        likely = np.argsort(-scores, kind="stable")[:_TRIED]
        tried = likely if self.kept is None else np.array(self.kept, np.int64)[likely]
        green = [i for i in tried.tolist() if i < self.n_vocab and self._is_green(table, text, i)]
        return np.array(green, np.int64)

    def _is_green(self, table: Ids, text: list[int], token: int) -> bool:
        window = np.array([*text, token][-self.width :], np.int64) % _TABLE
        with np.errstate(over="ignore"):  # as an int64 of PyTorch's wraps around
            seeds = np.int64(self.key) * (table[window] + 1) * (table[token % _TABLE] + 1)
        return _comes(_swaps(int(seeds.min()), self.n_vocab, self.n_green), token)


class Greened:
    """Green lists on one text, whose ids it is told: the answer's, and those before it."""

    def __init__(self, how: GreenLists) -> None:
        """Nothing is seen yet."""
        self._how, self._before = how, list[int]()

    def observe(self, ids: Iterable[int], *, answer: bool = True) -> None:  # noqa: ARG002 - as any marking's
        """Add ids of the text."""
        self._before = [*self._before, *ids][-self._how.width :]

    def copy(self) -> Greened:
        """Another that goes on from here by itself."""
        twin = Greened(self._how)
        twin.observe(self._before)
        return twin

    def mark(self, scores: NDArray[np.float32]) -> None:
        """Add the bias to [n_vocab] scores of what comes next, the last of all that changes them."""
        scores[self._how.green(self._before, scores)] += np.float32(self._how.bias)


def _swaps(seed: int, n: int, k: int) -> Ids:
    """With which place each of the first k of n changes places, one after the other."""
    at = np.arange(k)
    return at + words(seed, k).astype(np.int64) % (n - at)


def permuted(seed: int, n: int, k: int) -> Ids:
    """The first k numbers of `torch.randperm(n)` on a CPU, by a generator of this seed.

    Step i swaps places i and j[i] >= i. What lies at a place is what the last step that swapped with it left there: the
    number that its own place had. So each number comes from a chain of earlier steps, which are followed for all places
    at once, each time twice as far.
    """
    j, at = _swaps(seed, n, k), np.arange(k)
    order = np.argsort(j, kind="stable")
    alike = j[order[1:]] == j[order[:-1]]
    before = np.full(k, -1, np.int64)  # the last step before i that swapped with the place of step i's partner
    before[order[1:][alike]] = order[:-1][alike]
    had = at.copy()  # step i's own place: who swapped with it last, and before; or itself
    inside = (j < k) & (j > at)
    last = np.full(k, -1, np.int64)
    last[j[inside]] = at[inside]  # of equal places the last one's stays
    had[last >= 0] = last[last >= 0]
    while (further := had[had]).tobytes() != had.tobytes():
        had = further
    made = np.where(before >= 0, had[before], j)
    return np.where(j == at, had, made)


def _comes(j: Ids, token: int) -> bool:
    """Whether a number is among the first, once these swaps are done: it is followed from place to place."""
    place, step = token, 0
    while True:
        hits = np.flatnonzero(j[step : place + 1] == place)
        if hits.size:
            return True
        if place >= j.size:
            return False
        place, step = int(j[place]), place + 1


@lru_cache(maxsize=2)
def _hashes(key: int) -> Ids:
    return permuted(key, _TABLE, _TABLE)


#: Field of `WatermarkingConfig` -> field of `GreenLists`.
_FIELDS = dict(zip(GREEN, ("ratio", "bias", "key", "scheme", "width"), strict=True))


def green_from(value: Mapping[str, object], n_vocab: int, kept: tuple[int, ...] | None = None) -> GreenLists:
    """From `WatermarkingConfig` as a dict with no other fields. Errors: `InputError`."""
    fields: dict[str, Any] = {}
    for name, given in value.items():
        where = f"{NAME}[{name!r}]"
        if name == "seeding_scheme":
            if given not in SCHEMES:
                raise refusal(where, given, "'lefthash' or 'selfhash'")
            fields["scheme"] = str(given)
        elif name in {"hashing_key", "context_width"}:
            least, number = 0 if name == "hashing_key" else 1, integer(given)
            if number is None or not least <= number < _LARGEST:
                raise refusal(where, given, f"an integer from {least} to 2^63 - 1")
            fields[_FIELDS[name]] = number
        else:
            share = real(given)
            if share is None or (name == "greenlist_ratio" and not 0 < share < 1) or abs(share) > _LARGEST_F32:
                raise refusal(where, given, "a number between 0 and 1" if name == "greenlist_ratio" else "a number")
            fields[_FIELDS[name]] = share
    return GreenLists(n_vocab, kept=kept, **fields)


def watermark_from(value: object, n_vocab: int, kept: Sequence[int] | None = None) -> Watermark:
    """From one of transformers' two configs as a dict. `kept`: ids of a cut vocabulary. Errors: `InputError`."""
    if not isinstance(value, Mapping):
        raise refusal(NAME, value, "a dict such as {'bias': 2.0, 'greenlist_ratio': 0.25}, or None")
    unknown = [name for name in value if name not in GREEN + SYNTHID]
    if unknown:
        msg = f"{NAME}: unknown field {shown(unknown[0])}; known are {', '.join(GREEN)}; or, of SynthID's watermark, "
        msg += ", ".join(SYNTHID)
        raise InputError(msg)
    synthid, green = ([name for name in value if name in of] for of in (SYNTHID, GREEN))
    if synthid and green:
        msg = f"{NAME}: {green[0]!r} is a field of green lists, and {synthid[0]!r} one of SynthID's watermark; "
        msg += "leave out those of one"
        raise InputError(msg)
    ids = None if kept is None else tuple(kept)
    if synthid:
        from .synthid import tournament_from  # noqa: PLC0415 - few need it

        return tournament_from(value, ids)
    return green_from(value, n_vocab, ids)
