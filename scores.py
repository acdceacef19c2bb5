"""How likely a model finds texts: `score`, `choose`, `perplexity`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from .arrays import Arrays
from .dataclass import dataclass
from .errors import InputError, TokenizerError, shown
from .runtime.floats import usual_floats
from .runtime.generate import check_ids
from .runtime.memory import memory_named
from .runtime.parameters import priority_of, salt_of
from .runtime.sampling import exp
from .runtime.sequence import Sequence

if TYPE_CHECKING:
    from collections.abc import Sequence as Ids

    from numpy.typing import NDArray

    from .perplexity import Perplexity
    from .runtime.scoring import Score

    Prompt = str | Ids[int] | NDArray[np.integer[Any]]

__all__ = ["Choice", "Scores"]

#: What `exp` takes; e to less is none next to 1.
_LEAST = -700.0


@dataclass(frozen=True)
class Choice:
    """Which of several options a model finds likeliest, and how likely each is next to the others."""

    choice: str
    probabilities: dict[str, float]


class Scores(Arrays):
    """Of `Model`: the calls that say how likely a text is."""

    @memory_named("score")
    def score(
        self,
        prompt: Prompt,
        candidates: Iterable[Prompt],
        *,
        adapter: str | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> list[Score]:
        """How likely each of several continuations of a prompt is: `.sum`, `.mean`, `.ids`, `.logprobs`, `.greedy`.

        Log-probabilities are natural logarithms of the softmax of the model's raw logits. The prompt is read once, and
        its candidates share passes; each gets the bits that it gets alone. A candidate that is a text has the tokens
        that it adds to the prompt's, where the text of both begins with these; else, or after ids, its own. What an
        encoder-decoder's encoder reads is the prompt, and its candidates are what the decoder may write. `adapter`: as
        in `generate`. `priority`: of several calls that wait for room, the higher number goes first
        (docs/concurrency.md). `cache_salt`: as in `generate`. Errors: `InputError`, which names the candidate by its
        number.
        """
        self._check_kind("score", encoder=False)
        place, number = priority_of(priority), self._session.adapters.number(adapter, "score")
        listed = _listed(candidates, "candidates")
        return self._scored(prompt, listed, "candidate", number, place, salt_of(cache_salt))

    def _scored(  # noqa: PLR0913, PLR0917 - as `score`, checked
        self, prompt: Prompt, candidates: list[Prompt], what: str, adapter: int, priority: int, salt: str = ""
    ) -> list[Score]:
        """As `score`; errors call a candidate `what`."""
        from .runtime.scoring import scores  # noqa: PLC0415 - few need it

        text, ids = self._first_of(prompt, adapter, salt)
        with text:
            text.append(ids)
            each = enumerate(candidates)
            wanted = [self._continuation(prompt, ids, one, len(ids), f"{what} {i}") for i, one in each]
            return scores(self._session, text, wanted, priority)

    async def ascore(
        self,
        prompt: Prompt,
        candidates: Iterable[Prompt],
        *,
        adapter: str | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> list[Score]:
        """As `score`, for coroutines: a thread of the event loop's executor asks, in passes that all share."""
        from .runtime.asynchronous import in_thread  # noqa: PLC0415 - imports asyncio

        asked = partial(self.score, prompt, candidates, adapter=adapter, priority=priority, cache_salt=cache_salt)
        return await in_thread(asked)

    def _first_of(self, prompt: Prompt, adapter: int, salt: str) -> tuple[Sequence, list[int]]:
        """A sequence, and what it begins with."""
        decoding = self.config.decoding
        if decoding is not None:
            source = self._source(prompt)
            return Sequence(self._session, self._text, source=source, adapter=adapter, salt=salt), [decoding.start]
        ids: object = prompt
        if isinstance(prompt, str):
            ids = self.tokenizer.encode(prompt) or list(self.config.bos_ids[:1])
        return Sequence(self._session, self._text, adapter=adapter, salt=salt), self._ids(ids, "prompt")

    def _continuation(self, prompt: Prompt, before: list[int], wanted: Prompt, n: int, what: str) -> list[int]:
        """A candidate's ids, after the `n` that the decoder begins with."""
        ids: object = wanted
        if isinstance(wanted, str):
            joined = isinstance(prompt, str) and self.config.decoding is None
            try:
                whole = self.tokenizer.encode(f"{prompt}{wanted}") if joined else []
                parts = len(whole) > n and whole[:n] == before
                ids = whole[n:] if parts else self.tokenizer.encode(wanted, add_special_tokens=False)
            except TokenizerError as e:
                msg = f"{what}: {e}"
                raise TokenizerError(msg) from None
            if not ids:
                msg = f"{what}: {shown(wanted)} has no tokens; expected a text that has one at least"
                raise InputError(msg)
        checked = check_ids(ids, self.config.n_vocab, what=what)
        over = n + len(checked) - 1 - self.n_context  # the last id is predicted, and not read
        if over > 0:
            msg = f"{what}: {len(checked)} tokens after the prompt's {n}: {over} more than the context of "
            msg += f"{self.n_context} takes; shorten one of them, or load with a larger max_context"
            raise InputError(msg)
        self._session.check_room(n + len(checked) - 1)
        return checked

    @memory_named("choose")
    def choose(
        self,
        question: str,
        options: Iterable[str],
        *,
        normalize: Literal["tokens"] | None = None,
        adapter: str | None = None,
        priority: int = 0,
    ) -> Choice:
        """Which option a model finds likeliest after a question: `.choice`, and `.probabilities` of all.

        The options are not written into the question: each continues it, by `score`, and the softmax of their `sum`s
        are the probabilities; with `normalize="tokens"` that of their `mean`s, which favours no short one. Its sum is
        exact, so that the options' order changes no bit. A model with a head for classes reads each option as the
        second text of a pair: its logit is the score, that of the label "entailment" where there are several.
        `adapter`: as in `generate`. `priority`: as in `score`; of such a head, whose texts wait for no room, it changes
        nothing.
        Errors: `InputError`.
        """
        listed = _listed(options, "options")
        wrong = next((i for i, option in enumerate(listed) if not isinstance(option, str)), None)
        if not isinstance(question, str) or wrong is not None:
            what, value = ("question", question) if wrong is None else (f"option {wrong}", listed[wrong])
            msg = f"{what}: {shown(value)} found, expected a text"
            raise InputError(msg)
        twice = next((option for option, n in Counter(listed).items() if n > 1), None)
        if not listed or twice is not None:
            what = "no options; expected one at least" if twice is None else f"{shown(twice)} is there twice"
            msg = f"options: {what}"
            raise InputError(msg)
        if normalize is not None and (not isinstance(normalize, str) or normalize != "tokens"):
            msg = f"normalize={shown(normalize)}: expected None, or 'tokens'"
            raise InputError(msg)
        place, head = priority_of(priority), self.config.head
        if head is not None and head.kind == "classes":
            likely = self._judged(question, listed, normalize, self._session.adapters.number(adapter, "choose"))
        else:
            self._check_kind("choose", encoder=False)
            made = self._scored(question, listed, "option", self._session.adapters.number(adapter, "choose"), place)
            likely = [s.sum if normalize is None else s.mean for s in made]
        return Choice(listed[int(np.argmax(likely))], dict(zip(listed, _softmax(likely), strict=True)))

    async def achoose(
        self,
        question: str,
        options: Iterable[str],
        *,
        normalize: Literal["tokens"] | None = None,
        adapter: str | None = None,
        priority: int = 0,
    ) -> Choice:
        """As `choose`, for coroutines; see `ascore`."""
        from .runtime.asynchronous import in_thread  # noqa: PLC0415 - imports asyncio

        asked = partial(self.choose, question, options, normalize=normalize, adapter=adapter, priority=priority)
        return await in_thread(asked)

    def _judged(self, question: str, options: list[str], normalize: str | None, adapter: int) -> list[float]:
        """Each pair's logit."""
        if normalize is not None:
            msg = f"normalize={normalize!r}: of models that write; a head for classes scores each option as a whole"
            raise InputError(msg)
        labels = self.config.labels
        at = next((i for i, label in enumerate(labels) if label.lower().startswith("entail")), None)
        if len(labels) != 1 and at is None:
            msg = f"choose: this model's head has the labels {shown(list(labels))}; expected one, or one of them "
            msg += "called entailment: use predict"
            raise InputError(msg)
        pairs = [(question, option) for option in options]
        rows = np.asarray(self.pairs.of(pairs, act="identity", adapter=adapter))
        return [float(x) for x in (rows if rows.ndim == 1 else rows[:, at or 0])]

    @overload
    def perplexity(  # type: ignore[overload-overlap]  # a text is an iterable of texts
        self, texts: str, *, window: int = 256
    ) -> Perplexity: ...
    @overload
    def perplexity(self, texts: Iterable[str], *, window: int = 256) -> list[Perplexity]: ...
    @memory_named("perplexity")
    def perplexity(self, texts: str | Iterable[str], *, window: int = 256) -> Perplexity | list[Perplexity]:
        """How well a decoder predicts a text: `.ppl`, `.nll_per_token`, `.bits_per_byte`; of several texts, a list.

        As `miaotui perplexity`: in windows of `window` predictions, nothing before which is seen. Errors: `InputError`,
        which names the text by its number.
        """
        from .perplexity import check_predicts, measured  # noqa: PLC0415 - few need it

        check_predicts(self.config, "perplexity")
        if isinstance(texts, str):
            return measured(self, texts, window=window)
        listed = _listed(texts, "texts")
        for i, text in enumerate(listed):
            if not isinstance(text, str):
                msg = f"text {i}: {shown(text)} found, expected a text"
                raise InputError(msg)
        return [measured(self, text, window=window, name=f"text {i}") for i, text in enumerate(listed)]


def _listed(several: object, what: str) -> list[Any]:
    """InputError for what is not several things."""
    scalar = isinstance(several, np.ndarray) and not several.ndim
    if scalar or isinstance(several, str | bytes | Mapping) or not isinstance(several, Iterable):
        msg = f"{what}: {shown(several)} found, expected a list of them"
        raise InputError(msg)
    return list(several)


@usual_floats()
def _softmax(likely: list[float]) -> list[float]:
    """e^x / sum e^x, its sum rounded once. Errors: `InputError` where none is finite, or one is NaN."""
    largest = max(likely, key=lambda x: math.inf if math.isnan(x) else x)
    if not math.isfinite(largest):
        msg = f"choose: the options' scores are {shown(likely)}: none is a finite number, so none can be chosen"
        raise InputError(msg)
    shifted = np.array(likely, np.float64) - largest
    powers = np.where(shifted < _LEAST, 0.0, exp(np.maximum(shifted, _LEAST)))
    total = math.fsum(powers)
    return [float(power) / total for power in powers]
