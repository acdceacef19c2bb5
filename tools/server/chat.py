"""POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from .conversations import FUNCTION, Conversation, ask_of
from .errors import RequestError
from .events import Event
from .fields import Field, Schema, array
from .generating import MODEL, OWN, SAMPLING, STREAM, TEXT, parameters_of
from .response_format import RESPONSE_FORMAT, hold_to
from .told import chat_logprobs, origin_of, usage_of
from .wires import Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .answers import Answer, Answering, Ask, Delta, Piece
    from .state import State

__all__ = ["MESSAGE", "TOOL", "WIRE", "check_said"]

#: Roles of OpenAI's that have a content. Others are the template's, and what they have is too.
ROLES = ("user", "assistant", "system", "developer", "tool")
_TOKENS: Schema = {"type": "integer", "minimum": 1, "maximum": 2**31}
_PART: Schema = {
    "type": "object", "properties": {"type": {"enum": ["text"]}, "text": TEXT}, "required": ["type", "text"],
}  # fmt: skip
_CALL: Schema = {
    "type": "object",
    "properties": {
        "id": TEXT,
        "type": {"enum": ["function"]},
        "function": {
            "type": "object",
            "properties": {"name": TEXT, "arguments": TEXT},
            "required": ["name", "arguments"],
        },
    },
    "required": ["function"],
}
TOOL: Schema = {
    "type": "object",
    "properties": {
        "type": {"enum": ["function"]},
        "function": {
            "type": "object",
            "properties": FUNCTION,
            "required": ["name"],
            "additionalProperties": False,
        },
    },
    "required": ["type", "function"],
    "additionalProperties": False,
}
_CHOICE: Schema = {
    "anyOf": [
        {"enum": ["none", "auto", "required"]},
        {
            "type": "object",
            "properties": {
                "type": {"enum": ["function"]},
                "function": {"type": "object", "properties": {"name": TEXT}, "required": ["name"]},
            },
            "required": ["type", "function"],
        },
    ]
}
MESSAGE: Schema = {
    "type": "object",
    "properties": {
        "role": {"anyOf": [{"enum": list(ROLES)}, {"type": "string", "minLength": 1, "maxLength": 64}]},
        "content": {"anyOf": [TEXT, array(_PART), {"type": "null"}]},
        "tool_calls": {"anyOf": [array(_CALL), {"type": "null"}]},
        "tool_call_id": {"anyOf": [TEXT, {"type": "null"}]},
    },
    "required": ["role"],
}
FIELDS = (
    MODEL,
    Field("messages", array(MESSAGE, least=1, most=1 << 16), "The conversation.", required=True),
    Field("max_tokens", _TOKENS, "Tokens of the answer, at most.", "max_new_tokens"),
    Field("max_completion_tokens", _TOKENS, "The same."),
    *STREAM,
    *SAMPLING,
    Field("logprobs", {"type": "boolean"}, "Tell the log-probability of each token.", "logprobs"),
    Field(
        "top_logprobs",
        {"type": "integer", "minimum": 0, "maximum": 20},
        "And so many of the likeliest tokens in its place.",
        "top_logprobs",
    ),
    RESPONSE_FORMAT,
    Field("tools", array(TOOL, most=128), "What the model may call."),
    Field(
        "tool_choice",
        _CHOICE,
        "none: the model is told of no tool; auto: it may call; required: it must; a function: it must call this one.",
    ),
    Field("parallel_tool_calls", {"type": "boolean"}, "false: one call at most."),
    Field("documents", array({"type": "object"}, most=1 << 10), "Texts that a template for grounded answers reads."),
    Field("chat_template_kwargs", {"type": "object"}, "What else the template reads, as enable_thinking."),
    Field("continue_final_message", {"type": "boolean"}, "Go on with the last message."),
    Field("safety_identifier", TEXT, "Has no effect."),
    Field("prompt_cache_key", TEXT, "Has no effect: what begins alike is reused."),
    Field("service_tier", {"enum": ["auto", "default"]}, "Has no effect.", refused="there is one tier"),
    Field("store", {"enum": [False]}, "Nothing is stored.", refused="nothing is stored"),
    Field("modalities", {"type": "array", "items": {"enum": ["text"]}}, "Text.", refused="answers are texts"),
    *OWN,
)
#: Names that an assistant's reasoning may have.
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
#: What is called otherwise than its parameter.
NAMES = {
    "schema": "response_format", "prompt": "messages", "template_variables": "chat_template_kwargs",
    "stop_strings": "stop",
}  # fmt: skip


def ask(given: dict[str, Any], state: State) -> Ask:
    """What a request asks of the engine. Errors: `RequestError`, and those of templates and constraints."""
    entry = state.served.writer(given.get("model"), given.get("adapter"))
    model = entry.model
    parameters = parameters_of(FIELDS, given, model.generation_defaults, state.settings)
    if "max_completion_tokens" in given:
        if "max_tokens" in given:
            msg = "max_tokens and max_completion_tokens are the same; give one of them"
            raise RequestError(msg, param="max_tokens")
        parameters["max_new_tokens"] = given["max_completion_tokens"]
    parameters.setdefault("max_new_tokens", state.settings.max_tokens)
    if "top_logprobs" in given and not given.get("logprobs"):
        msg = "top_logprobs: needs logprobs to be true"
        raise RequestError(msg, param="top_logprobs")
    if given.get("logprobs"):
        entry.spelled.read()
    hold_to(parameters, given.get("response_format"))
    check_said(given["messages"])
    choice = given.get("tool_choice", "auto")
    conversation = Conversation(
        given["messages"],
        [tool["function"] for tool in given.get("tools", ())],
        choice if isinstance(choice, str) else (choice["function"]["name"],),
        several=given.get("parallel_tool_calls", True),
        template={
            "documents": given.get("documents"),
            "continue_final_message": given.get("continue_final_message"),
            "template_variables": given.get("chat_template_kwargs"),
        },
        names=NAMES,
    )
    return ask_of(
        entry,
        conversation,
        parameters,
        n=given.get("n", 1),
        stream=given.get("stream", False),
        include_usage=given.get("stream_options", {}).get("include_usage", False),
    )


def check_said(messages: list[dict[str, Any]]) -> None:
    """Every message of OpenAI's roles says something; an assistant's may be calls. Errors: `RequestError`."""
    for i, message in enumerate(messages):
        instead = ("tool_calls", *THOUGHTS) if message["role"] == "assistant" else ()
        if message["role"] in ROLES and all(message.get(name) is None for name in ("content", *instead)):
            where = f"messages[{i}].content"
            msg = f"{where}: this field is missing; expected a text or a list of parts"
            raise RequestError(msg, param=where, code="missing_required_parameter")


def whole(answering: Answering, answers: list[Answer]) -> dict[str, Any]:
    """The answer's body."""
    asked = answering.ask
    logprobs = bool(asked.parameters.get("logprobs"))
    choices = [
        {
            "index": answer.index,
            "message": _message(answer),
            "logprobs": chat_logprobs(asked.entry, answer.logprobs) if logprobs else None,
            "finish_reason": answer.finish,
            **origin_of(answer),
        }
        for answer in answers
    ]
    return {**_head(asked, "chat.completion"), "choices": choices, "usage": usage_of(answering.usage)}


def _head(asked: Ask, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": asked.entry.name,
    }  # fmt: skip


def _message(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.content, "refusal": None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.tool_calls:
        message |= {"tool_calls": answer.tool_calls, "content": answer.content or None}
    return message


async def events(answering: Answering) -> AsyncIterator[Event]:
    """The events of a stream."""
    asked = answering.ask
    head = _head(asked, "chat.completion.chunk")
    head |= {"usage": None} if asked.include_usage else {}
    begun = set[int]()

    def chunk(piece: Piece, delta: dict[str, Any], **more: Any) -> Event:  # noqa: ANN401 - JSON
        choice = {"index": piece.index, "delta": delta, "logprobs": None, "finish_reason": None, **more}
        return Event({**head, "choices": [choice]})

    async for piece in answering.pieces():
        if piece.index not in begun:
            begun.add(piece.index)
            yield chunk(piece, {"role": "assistant", "content": "", "refusal": None})
        told = chat_logprobs(asked.entry, piece.logprobs) if piece.logprobs else None
        deltas = [_delta(delta) for delta in piece.deltas] or ([{"content": ""}] if told else [])
        for i, delta in enumerate(deltas):
            yield chunk(piece, delta, logprobs=None if i else told)
        if piece.finish is not None:
            yield chunk(piece, {}, finish_reason=piece.finish, **origin_of(piece))
    if asked.include_usage:
        yield Event({**head, "choices": [], "usage": usage_of(answering.usage)})


def _delta(delta: Delta) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if delta.content:
        made["content"] = delta.content
    if delta.reasoning:
        made["reasoning_content"] = delta.reasoning
    if delta.tool_calls:
        made["tool_calls"] = list(delta.tool_calls)
    return made


WIRE = Wire(
    "/v1/chat/completions", "Answer the last message of a conversation.", FIELDS, ask, whole, events, names=NAMES
)
