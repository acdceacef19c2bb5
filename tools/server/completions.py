"""POST /v1/completions: a text, or ids, or a list of either, goes on."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any, cast

from ...dataclass import dataclass
from ...loader.text.fim import infill_of, infills
from ...runtime.generate import check_ids
from .answers import Ask, Prompt
from .errors import RequestError
from .events import Event
from .fields import Field, Schema, array
from .generating import MODEL, OWN, SAMPLING, STREAM, TEXT, check_answers, check_length, compiled, parameters_of
from .response_format import RESPONSE_FORMAT, hold_to
from .told import legacy_logprobs, origin_of, usage_of
from .wires import Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ...model import Model
    from ...runtime.logprobs import Logprob
    from ...runtime.parameters import GenerateKwargs
    from .answers import Answer, Answering
    from .state import State

__all__ = ["WIRE"]

_IDS: Schema = array({"type": "integer", "minimum": 0}, least=1)
#: Tokens of an answer where a request gives no number: OpenAI's.
DEFAULT_TOKENS = 16
FIELDS = (
    MODEL,
    Field(
        "prompt",
        {"anyOf": [TEXT, _IDS, array(TEXT, least=1), array(_IDS, least=1)]},
        "A text, a list of token ids, or a list of either.",
        required=True,
    ),
    Field("max_tokens", {"type": "integer", "minimum": 0, "maximum": 2**31}, "New tokens, at most (default: 16).",
          "max_new_tokens"),
    Field("suffix", TEXT, "Fill in the middle: what comes after the answer (code models)."),
    Field("echo", {"type": "boolean"}, "Begin the answer with the prompt; with logprobs, tell its tokens' too."),
    Field(
        "logprobs",
        {"type": "integer", "minimum": 0, "maximum": 20},
        "Tell log-probabilities, and those of so many of the likeliest tokens in each place.",
    ),
    Field("best_of", {"enum": [1]}, "1.", refused="all answers are returned; use n"),
    *STREAM,
    *SAMPLING,
    RESPONSE_FORMAT,
    *OWN,
)  # fmt: skip


@dataclass
class _Told:
    """How far the log-probabilities of an answer have come."""

    offset: int = 0


def ask(given: dict[str, Any], state: State) -> Ask:
    """What a request asks of the engine. Errors: `RequestError`, and those of the tokenizer."""
    entry = state.served.writer(given.get("model"), given.get("adapter"))
    model, n = entry.model, given.get("n", 1)
    parameters = parameters_of(FIELDS, given, model.generation_defaults, state.settings)
    parameters.setdefault("max_new_tokens", DEFAULT_TOKENS)
    hold_to(parameters, given.get("response_format"))
    echo, stream = given.get("echo", False), given.get("stream", False)
    if "logprobs" in given:
        entry.spelled.read()
        parameters |= {"logprobs": True, "top_logprobs": given["logprobs"], "echo": echo}
        if echo and stream and n > 1:
            msg = "echo: with logprobs and n above 1 it is not streamed; leave one of them out"
            raise RequestError(msg, param="echo")
    prompts: tuple[Prompt, ...]
    if "suffix" in given:
        prompts = (_infilled(model, given["prompt"], given["suffix"], parameters),)
    else:
        listed = _listed(given["prompt"])
        check_answers(n * len(listed), state.settings)
        prompts = tuple(_prompt(model, each, parameters, echo=echo) for each in listed)
    return Ask(
        entry,
        prompts,
        compiled(model, parameters, prompts[0].ids),
        n=n,
        stream=stream,
        include_usage=given.get("stream_options", {}).get("include_usage", False),
        more={"echo": echo, "logprobs": "logprobs" in given},
    )


def _listed(prompt: Any) -> list[str | list[int]]:  # noqa: ANN401 - JSON, checked
    return [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt


def _prompt(model: Model, prompt: str | list[int], parameters: GenerateKwargs, *, echo: bool) -> Prompt:
    """Ids, and the text where it is shown. Errors: `RequestError` for a text that cannot fit, before it is read."""
    check_length(model, len(prompt), parameters, "prompt", ids=not isinstance(prompt, str))
    if isinstance(prompt, str):
        return Prompt(model.tokenizer.encode(prompt), prompt)
    return Prompt(
        check_ids(prompt, model.config.n_vocab),
        model.tokenizer.decode(prompt, skip_special_tokens=False) if echo else "",
    )


def _infilled(model: Model, prompt: object, suffix: str, parameters: GenerateKwargs) -> Prompt:
    if not isinstance(prompt, str):
        msg = "suffix: the prompt must be one text, which comes before the answer"
        raise RequestError(msg, param="suffix")
    if not infills(model.tokenizer):
        msg = "suffix: this model has no tokens to fill in the middle with; leave it out, or ask a code model that has"
        raise RequestError(msg, param="suffix", code="not_supported")
    asked = infill_of(model.tokenizer, prompt, suffix)
    if parameters.get("eos_token_id") is None:
        parameters["eos_token_id"] = [*model.config.eos_ids, *asked.ends]
    return Prompt(asked.ids, prompt)


def _head(asked: Ask) -> dict[str, Any]:
    return {
        "id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time()),
        "model": asked.entry.name,
    }  # fmt: skip


def whole(answering: Answering, answers: list[Answer]) -> dict[str, Any]:
    """The answer's body; choices in the order of their numbers."""
    asked = answering.ask
    echo = asked.more["echo"]
    choices = [
        {
            "index": answer.index,
            "text": (asked.prompts[answer.index // asked.n].text if echo else "") + answer.content,
            "logprobs": legacy_logprobs(asked.entry, answer.logprobs) if asked.more["logprobs"] else None,
            "finish_reason": answer.finish,
            **origin_of(answer),
        }
        for answer in answers
    ]
    return {**_head(asked), "choices": choices, "usage": usage_of(answering.usage)}


async def events(answering: Answering) -> AsyncIterator[Event]:
    """The events of a stream."""
    asked = answering.ask
    head = _head(asked) | ({"usage": None} if asked.include_usage else {})
    told: dict[int, _Told] = {}
    async for piece in answering.pieces():
        text = "".join(delta.content for delta in piece.deltas)
        if piece.index not in told:
            told[piece.index] = _Told()
            text = asked.prompts[piece.index // asked.n].text + text if asked.more["echo"] else text
        logprobs = _further(asked, piece.logprobs, told[piece.index]) if asked.more["logprobs"] else None
        if not text and not piece.logprobs and piece.finish is None:
            continue
        choice = {
            "index": piece.index, "text": text, "logprobs": logprobs, "finish_reason": piece.finish,
            **origin_of(piece),
        }  # fmt: skip
        yield Event({**head, "choices": [choice]})
    if asked.include_usage:
        yield Event({**head, "choices": [], "usage": usage_of(answering.usage)})


def _further(asked: Ask, logprobs: tuple[Logprob, ...], told: _Told) -> dict[str, Any]:
    made = legacy_logprobs(asked.entry, logprobs, told.offset)
    told.offset += sum(map(len, cast("list[str]", made["tokens"])))
    return made


WIRE = Wire(
    "/v1/completions",
    "Go on with a text, token ids, or several of them.",
    FIELDS,
    ask,
    whole,
    events,
    names={"schema": "response_format", "stop_strings": "stop"},
)
