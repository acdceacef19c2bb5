"""Rules about ids that may not come, and about one that must: what is set to -inf in a row of logits before it is read.

Names, order and meaning are Hugging Face's (`transformers.generation.logits_process`). A forced id's score is 0.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dataclass import dataclass
from ..errors import InputError, is_iterable, shown
from .processors import processed
from .sampling import Sampler

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from .penalties import Changes
    from .processors import Processor
    from .sampling import SamplingParams

__all__ = ["RULES", "Ruled", "Rules", "rules_from"]

#: `GenerationConfig`'s name -> the field of `Rules`.
RULES = {
    "no_repeat_ngram_size": "no_repeat",
    "encoder_no_repeat_ngram_size": "no_repeat_of_source",
    "bad_words_ids": "never",
    "min_new_tokens": "at_least",
    "min_length": "at_least_in_all",
    "suppress_tokens": "suppressed",
    "begin_suppress_tokens": "suppressed_first",
    "forced_decoder_ids": "forced_at",
    "forced_bos_token_id": "forced_bos",
    "forced_eos_token_id": "forced_eos",
}


@dataclass(frozen=True)
class Rules:
    """All of them off as they stand. `ends`: the ids that end an answer."""

    no_repeat: int = 0  # no run of n ids comes twice
    never: tuple[tuple[int, ...], ...] = ()  # runs that never come
    at_least: int = 0  # ids before one that ends
    forced_bos: int | None = None  # what follows an answer's only id so far
    forced_eos: tuple[int, ...] = ()  # the last id that there is room for
    ends: tuple[int, ...] = ()
    no_repeat_of_source: int = 0  # no run of this many ids of what was asked comes: of `source`
    source: tuple[int, ...] = ()  # what an encoder reads, or a decoder's prompt
    at_least_in_all: int = 0  # as `at_least`, with those before the answer (an encoder-decoder's are the decoder's)
    suppressed: tuple[int, ...] = ()  # ids that never come
    suppressed_first: tuple[int, ...] = ()  # ids that do not come first
    forced_at: tuple[tuple[int, int], ...] = ()  # number in the text, and the id that stands there

    @property
    def off(self) -> bool:
        """Whether no row is changed."""
        return self == Rules(ends=self.ends)

    def forced(self, n: int, *, last: bool) -> tuple[int, ...]:
        """Ids of which one must follow `n` others; empty: any may. `last`: there is room for one more."""
        if last and self.forced_eos:
            return self.forced_eos
        if n == 1 and self.forced_bos is not None:
            return (self.forced_bos,)
        return tuple(i for at, i in self.forced_at if at == n)[:1]

    def apply(self, scores: NDArray[np.float32], ids: Sequence[int], n_new: int, *, last: bool) -> None:
        """Change [n_vocab] scores of what follows `ids`, of which the last `n_new` are the answer's."""
        chosen, forced = self.edits(ids, n_new, len(scores), last=last)
        if forced:
            scores[:] = -np.inf
        scores[chosen] = 0 if forced else -np.inf

    def edits(self, ids: Sequence[int], n_new: int, n_vocab: int, *, last: bool) -> tuple[list[int], bool]:
        """As `apply`: ids whose score becomes -inf; or, if it says so, 0, and that of all others -inf."""
        forced = self.forced(len(ids), last=last)
        return (list(forced), True) if forced else (self.barred(ids, n_new, n_vocab), False)

    def barred(self, ids: Sequence[int], n_new: int, n_vocab: int) -> list[int]:
        """Ids whose score becomes -inf where none is forced; arguments as of `apply`."""
        chosen = _repeating(ids, ids, self.no_repeat) if self.no_repeat else []
        if self.no_repeat_of_source:
            again = _repeating(self.source, ids, self.no_repeat_of_source)
            chosen += [i for i in again if i < n_vocab]  # an encoder may have a larger vocabulary
        ends = {(end,) for end in self.ends}  # which `never` cannot name
        chosen += [word[-1] for word in self.never if word not in ends and _continues(ids, word)]
        chosen += self.suppressed
        begins = 1 if self.forced_bos is not None and len(ids) - n_new <= 1 else 0  # as transformers' `begin_index`
        chosen += self.suppressed_first if n_new == begins else ()
        early = n_new < self.at_least or len(ids) < self.at_least_in_all
        return chosen + [end for end in self.ends if early and end < n_vocab]


def _repeating(text: Sequence[int], ids: Sequence[int], n: int) -> list[int]:
    """Ids that after `ids` would make a run of `n` that is in `text`."""
    if len(ids) + 1 < n:
        return []
    prefix = list(ids[len(ids) - n + 1 :])
    return [text[i + n - 1] for i in range(len(text) - n + 1) if list(text[i : i + n - 1]) == prefix]


def _continues(ids: Sequence[int], word: tuple[int, ...]) -> bool:
    """Whether the last of a run would come next; as in transformers, only where the text is as long as the run."""
    before = len(word) - 1
    return before == 0 or (len(ids) > before and tuple(ids[-before:]) == word[:-1])


class Ruled(Sampler):
    """A sampler of rows that were changed first, by functions of the caller's and then by rules; perhaps greedy."""

    constant = False

    def __init__(  # noqa: PLR0913 - keywords
        self,
        n_vocab: int,
        params: SamplingParams,
        rules: Rules,
        *,
        ids: Sequence[int],
        limit: int,
        sequence: int = 0,
        processors: Sequence[Processor] = (),
        changes: Changes | None = None,
    ) -> None:
        """`ids`: the text before the answer; `limit`: ids of the answer, at most; `processors`: the caller's."""
        super().__init__(n_vocab, params, sequence=sequence, changes=changes)
        super().observe(ids, answer=False)
        self._rules, self._text, self._n_before, self._limit = rules, list(ids), len(ids), limit
        self.processors = processors
        self._edits = np.zeros(0, np.int64)

    def observe(self, ids: Iterable[int], *, answer: bool = True) -> None:
        """As the sampler's: ids of the answer."""
        wanted = list(ids)
        super().observe(wanted, answer=answer)
        self._text += wanted

    def mark(self) -> tuple[int, ...]:
        """As the sampler's."""
        return (*super().mark(), len(self._text))

    def rewind(self, mark: tuple[int, ...]) -> None:
        """As the sampler's."""
        super().rewind(mark)
        del self._text[mark[1] :]

    def draw(self, logits: NDArray[np.float32], position: int) -> int:
        """As the sampler's, of what the processors leave."""
        if not self.processors:
            np.copyto(self._row, logits)
            return super().draw(self._row, position)
        row = np.array(logits, np.float32)  # a new one each time: they may keep it
        return super().draw(processed(self.processors, self._text, row, repairs=self.repairs), position)

    def _stand_alone(self) -> None:
        super()._stand_alone()
        self._text = list(self._text)

    def edits(self) -> tuple[NDArray[np.int64], bool]:
        """As the sampler's: what the rules say now. The array is there until the next call.

        A mask comes before them: an id that it forbids is not forced, and where that leaves none, none is. Where it
        leaves but an end, that comes, however short the answer is.
        """
        if self.must_end:
            self._edits = np.zeros(0, np.int64)
            return self._edits, False
        n_new = len(self._text) - self._n_before
        ids, forced = self._rules.edits(self._text, n_new, self.n_vocab, last=n_new == self._limit - 1)
        if forced and self.mask is not None:
            _check_rows("", ids, self.n_vocab)
            ids = [i for i in ids if self.allows(i)]
            forced = bool(ids)
            if not forced:
                ids = self._rules.barred(self._text, n_new, self.n_vocab)
        _check_rows("", ids, self.n_vocab)  # a kernel writes where they say
        self._edits = np.array(ids, np.int64)
        return self._edits, forced

    @property
    def edited(self) -> NDArray[np.int64]:
        """As the sampler's."""
        return self._edits

    @property
    def host_only(self) -> bool:
        """No backend knows rules but the CPU."""
        return True

    @cached_property
    def _row(self) -> NDArray[np.float32]:
        return np.empty(self.n_vocab, np.float32)


def rules_from(given: Mapping[str, Any], defaults: Rules, n_vocab: int | None = None) -> Rules:
    """The model's own rules, with those that a caller gave in their places. Errors: `InputError`."""
    checked: dict[str, Any] = {}
    for name, value in given.items():
        if name in {"no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_new_tokens", "min_length"}:
            if not _whole(value):
                msg = f"{name}={shown(value)}: expected an integer >= 0"
                raise InputError(msg)
            checked[RULES[name]] = int(value)
        elif name == "bad_words_ids":
            checked["never"] = _words(value)
            for at, word in enumerate(checked["never"]):
                _check_rows(f"{name}[{at}]={shown(list(word))}: ", word, n_vocab)
        elif name == "forced_decoder_ids":
            checked["forced_at"] = _places(value)
            _check_rows(f"{name}={shown(value)}: ", [i for _, i in checked["forced_at"]], n_vocab)
        else:
            ids = tuple(int(i) for i in _ids(name, value))
            _check_rows(f"{name}={shown(value)}: ", ids, n_vocab)
            checked[RULES[name]] = (ids[0] if ids else None) if name == "forced_bos_token_id" else ids
    rules = replace(defaults, **checked)
    _check_rows("", [*rules.forced_eos, rules.forced_bos or 0, *(i for word in rules.never for i in word)], n_vocab)
    return rules


def _check_rows(where: str, ids: Iterable[int], n_vocab: int | None) -> None:
    """InputError, which begins with `where`, for an id that has no logit."""
    highest = max(ids, default=0)
    if n_vocab is not None and highest >= n_vocab:
        msg = f"{where}token id {shown(highest)} is outside the vocabulary 0 .. {n_vocab - 1}"
        raise InputError(msg)


def _ids(name: str, value: object) -> list[Any]:
    ids = list(value) if is_iterable(value) and not isinstance(value, str | bytes) else [value]
    one = name == "forced_bos_token_id"
    if not all(_whole(i) for i in ids) or (one and len(ids) != 1):
        msg = f"{name}={shown(value)}: expected a token id{'' if one else ' or a list of them'}"
        raise InputError(msg)
    return ids


def _words(value: object) -> tuple[tuple[int, ...], ...]:
    words = list(value) if is_iterable(value) and not isinstance(value, str | bytes) else [None]
    lists = [list(w) if is_iterable(w) and not isinstance(w, str | bytes) else [] for w in words]
    if not all(word and all(_whole(i) for i in word) for word in lists):
        msg = f"bad_words_ids={shown(value)}: expected a list of lists of token ids"
        raise InputError(msg)
    return tuple(tuple(int(i) for i in word) for word in lists)


def _places(value: object) -> tuple[tuple[int, int], ...]:
    pairs = list(value) if is_iterable(value) and not isinstance(value, str | bytes) else [None]
    lists = [list(p) if is_iterable(p) and not isinstance(p, str | bytes) else [] for p in pairs]
    if not all(len(pair) == 2 and all(_whole(i) for i in pair) for pair in lists):  # noqa: PLR2004 - a pair
        msg = f"forced_decoder_ids={shown(value)}: expected a list of pairs: an id's number in the text, and the id"
        raise InputError(msg)
    return tuple((int(at), int(i)) for at, i in lists)


def _whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool | np.bool_) and int(value) >= 0
