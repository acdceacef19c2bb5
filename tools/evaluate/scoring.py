"""What a model itself says, without a pipeline: likelihoods of continuations and texts, and how alike two texts are."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from ...errors import InputError
from ...runtime.sampling import damaged
from ..perplexity import check_predicts, measure
from .measured import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ...model import Model
    from .examples import Choice, Similar, Text

__all__ = ["choices", "likelihoods", "similarities", "texts"]


def likelihoods(model: Model, context: Sequence[int], asked: Iterable[Sequence[int]]) -> list[tuple[float, bool]]:
    """log p (nats) of each continuation's ids after the context's, and whether greedy decoding would write them.

    The context is computed once, and every continuation forks it. Errors: `InputError`, also where the context has no
    token, or does not fit the model's together with a continuation.
    """
    return [(score.sum, score.greedy) for score in model.score(list(context), [list(ids) for ids in asked])]


def choices(model: Model, examples: Iterable[Choice], template: str) -> Iterator[Outcome]:
    """The number of the likeliest choice after the question, and log p of each; scores by number.

    `template`: what the model reads before a choice, with {question} in it; a space parts them. Scores ending in
    "/byte" are log p over the bytes of the choice, which favours no short one.
    """
    check_predicts(model.config, "multiple-choice")
    for example in examples:
        prompt = template.replace("{question}", example.question)
        whole = [model.tokenizer.encode(f"{prompt} {choice}") for choice in example.choices]
        shared = min(_agree(ids, model.tokenizer.encode(prompt)) for ids in whole)
        if not shared or any(len(ids) == shared for ids in whole):
            what = "the question has no token to begin with" if not shared else "a choice has no token"
            msg = f"{example.place}: {what}; leave the example out, or use another --template"
            raise InputError(msg)
        logs = [log for log, _ in likelihoods(model, whole[0][:shared], [ids[shared:] for ids in whole])]
        scores = {str(i): log for i, log in enumerate(logs)}
        scores |= {
            f"{i}/byte": s / max(len(c.encode()), 1) for i, (s, c) in enumerate(zip(logs, example.choices, strict=True))
        }
        best = int(np.argmax(logs))
        yield Outcome(best, logs[best], scores)


def _agree(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def similarities(model: Model, examples: Sequence[Similar]) -> Iterator[Outcome]:
    """How alike the texts of each pair are: the cosine of their vectors, or the score of a cross-encoder."""
    head = model.config.head
    if head is not None and head.kind == "classes":
        if len(model.config.labels) != 1:
            msg = f"sentence-similarity: the model gives a pair {len(model.config.labels)} scores, expected one"
            raise InputError(msg)
        pairs = iter([(e.first, e.second) for e in examples])
        yield from (Outcome(None, float(np.ravel(score)[0])) for score in model.predict(pairs))
        return
    vectors = iter(model.encode(text for e in examples for text in (e.first, e.second)))
    for first in vectors:
        a, b = first.astype(np.float64), next(vectors).astype(np.float64)
        lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
        if not np.isfinite(lengths):
            what = "sentence-similarity: the vectors are not numbers (NaN), so nothing is like anything"
            raise damaged(what)
        yield Outcome(None, float(a @ b) / lengths if lengths else 0.0)


def texts(model: Model, examples: Iterable[Text], window: int) -> Iterator[Outcome]:
    """Nats, tokens and bytes of each text; the score is nats a token. Windows as in `miaotui perplexity`."""
    check_predicts(model.config, "perplexity")
    for example in examples:
        told = measure(model, example.text, window=window, name=example.place)
        nats = told["nll_per_token"] * told["n_tokens"]
        yield Outcome((nats, told["n_tokens"], len(example.text.encode())), told["nll_per_token"])
