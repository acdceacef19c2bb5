"""What is told of an answer besides its text: log-probabilities and usage, in OpenAI's forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...runtime.logprobs import Logprob
    from .answers import Answer, Piece, Usage
    from .served import Entry

__all__ = ["chat_logprobs", "legacy_logprobs", "origin_of", "usage_of"]


def usage_of(usage: Usage) -> dict[str, Any]:
    """Tokens that were used."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }


def origin_of(answer: Answer | Piece) -> dict[str, float]:
    """Our own fields of a choice: with which seed it was drawn, or, found by a search, its score."""
    told = {"seed": answer.seed, "score": answer.score}
    return {name: value for name, value in told.items() if value is not None}


def chat_logprobs(entry: Entry, told: Sequence[Logprob]) -> dict[str, Any]:
    """As chat completions tell them."""

    def token(token_id: int, logprob: float | None) -> dict[str, Any]:
        text, data = entry.spelled.token(token_id)
        return {"token": text, "logprob": logprob, "bytes": list(data)}

    content = [
        {**token(each.id, each.logprob), "top_logprobs": [token(*other) for other in each.top_logprobs]}
        for each in told
    ]
    return {"content": content, "refusal": None}


def legacy_logprobs(entry: Entry, told: Sequence[Logprob], offset: int = 0) -> dict[str, Any]:
    """As completions tell them. The token itself is among the top ones, as in OpenAI's; `offset`: of the first."""
    made: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for each in told:
        text, _ = entry.spelled.token(each.id)
        made["tokens"].append(text)
        made["token_logprobs"].append(each.logprob)
        made["text_offset"].append(offset)
        made["top_logprobs"].append(None if each.logprob is None else _top(entry, each, text))
        offset += len(text)
    return made


def _top(entry: Entry, each: Logprob, text: str) -> dict[str, float | None]:
    """The likeliest first; of tokens that are spelled alike the likeliest."""
    top: dict[str, float | None] = {}
    for other, logprob in each.top_logprobs:
        top.setdefault(entry.spelled.token(other)[0], logprob)
    top.setdefault(text, each.logprob)
    return top
