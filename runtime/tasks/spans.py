"""From logits of where an answer starts and ends to spans of tokens.

P(start) and P(end) are softmaxes over the context's tokens and the first one (CLS), which stands for "no answer"; a
span's score is P(start) P(end) (Devlin et al. 2018, sections 4.2 and 4.3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...dataclass import dataclass
from .labels import softmax

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ["Answer", "Spans", "best_answers", "best_spans"]

#: What is given back: score, start and end (characters of the context), answer.
Answer = dict[str, Any]


@dataclass(frozen=True)
class Spans:
    """(first token, last token, score), the best first; `null`: the score of "no answer"."""

    spans: list[tuple[int, int, float]]
    null: float


def best_spans(logits: NDArray[np.float32], context: NDArray[np.bool_], n: int, max_answer_len: int) -> Spans:
    """[T, 2] logits, and which tokens are the context's [T] -> the best `n` spans of at most `max_answer_len` tokens.

    A span with a score of 0 is none.
    """
    counted = context.copy()
    counted[0] = True
    first, last = np.where(counted, softmax(np.where(counted, logits.T.astype(np.float64), -np.inf)), 0)
    null = float(first[0] * last[0])
    inside = np.flatnonzero(context)
    first, last = np.where(context, first, 0), np.where(context, last, 0)
    steps = np.arange(min(max_answer_len, len(context)))
    ends = inside[:, None] + steps  # [context tokens, lengths]
    scores = first[inside, None] * np.append(last, 0)[np.minimum(ends, len(context))]
    order = np.argsort(-scores.ravel(), kind="stable")[:n]
    spans = [(int(inside[i // len(steps)]), int(ends.ravel()[i]), float(scores.ravel()[i])) for i in order]
    return Spans([span for span in spans if span[2] > 0], null)


def best_answers(places: Iterable[tuple[int, int, float]], text: str, top_k: int, null: float | None) -> list[Answer]:
    """(start, end, score) in characters of a text -> at most `top_k` answers, the best first.

    What reads alike, upper and lower case apart, is one answer with the sum of the scores: pieces of one word, and what
    several windows saw. `null`: the score of no answer, where that may be one.
    """
    answers: dict[str, Answer] = {}
    for start, end, score in places:
        answer = answers.setdefault(
            text[start:end].lower(), {"score": 0.0, "start": start, "end": end, "answer": text[start:end]}
        )
        answer["score"] += score
    out = list(answers.values())
    if null is not None:
        out.append({"score": null, "start": 0, "end": 0, "answer": ""})
    return sorted(out, key=lambda answer: -answer["score"])[:top_k]
