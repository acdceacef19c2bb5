"""POST /v1/responses: OpenAI's newer form of a conversation. Nothing is stored: every request says all of it."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

from .conversations import FUNCTION, Conversation, ask_of
from .errors import Problem, RequestError
from .events import Event
from .fields import Field, Schema, array
from .generating import MODEL, OWN, TEXT, parameters_of
from .response_events import Items, response_events
from .wires import Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from .answers import Answer, Answering, Ask
    from .state import State

__all__ = ["WIRE"]

_NULL: Schema = {"type": "null"}
_FLAG: Schema = {"type": "boolean"}


def _object(properties: dict[str, Schema], required: list[str]) -> Schema:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


_STATUS: dict[str, Schema] = {"status": {"anyOf": [TEXT, _NULL]}, "id": {"anyOf": [TEXT, _NULL]}}
_IN = _object({"type": {"enum": ["input_text", "text"]}, "text": TEXT}, ["type", "text"])
_OUT = _object(
    {"type": {"enum": ["output_text"]}, "text": TEXT, "annotations": {"type": "array"}, "logprobs": {"type": "array"}},
    ["type", "text"],
)
_THOUGHT = _object({"type": {"enum": ["reasoning_text", "summary_text"]}, "text": TEXT}, ["type", "text"])
_ITEM: Schema = {
    "anyOf": [
        _object(
            {
                "type": {"enum": ["message"]},
                "role": {"enum": ["user", "assistant", "system", "developer"]},
                "content": {"anyOf": [TEXT, array({"anyOf": [_IN, _OUT]})]},
                "phase": {"anyOf": [TEXT, _NULL]},
                **_STATUS,
            },
            ["role", "content"],
        ),
        _object(
            {"type": {"enum": ["function_call"]}, "call_id": TEXT, "name": TEXT, "arguments": TEXT, **_STATUS},
            ["type", "call_id", "name", "arguments"],
        ),
        _object(
            {
                "type": {"enum": ["function_call_output"]},
                "call_id": TEXT,
                "output": {"anyOf": [TEXT, array(_IN)]},
                **_STATUS,
            },
            ["type", "call_id", "output"],
        ),
        _object(
            {
                "type": {"enum": ["reasoning"]},
                "summary": array(_THOUGHT),
                "content": {"anyOf": [array(_THOUGHT), _NULL]},
                "encrypted_content": _NULL,
                **_STATUS,
            },
            ["type"],
        ),
    ]
}
_TOOL = _object({"type": {"enum": ["function"]}, **FUNCTION}, ["type", "name"])
_FORMAT: Schema = {
    "anyOf": [
        _object({"type": {"enum": ["text", "json_object"]}}, ["type"]),
        _object(
            {
                "type": {"enum": ["json_schema"]},
                "name": TEXT,
                "description": {"anyOf": [TEXT, _NULL]},
                "schema": {"type": "object"},
                "strict": {"anyOf": [_FLAG, _NULL]},
            },
            ["type", "schema"],
        ),
    ]
}
FIELDS = (
    MODEL,
    Field(
        "input", {"anyOf": [TEXT, array(_ITEM, least=1, most=1 << 16)]}, "A text, or the conversation.", required=True
    ),
    Field("instructions", TEXT, "What the model is told before it."),
    Field(
        "max_output_tokens",
        {"type": "integer", "minimum": 1, "maximum": 2**31},
        "Tokens of the answer, at most.",
        "max_new_tokens",
    ),
    Field("stream", _FLAG, "Send the answer in pieces, as server-sent events."),
    Field("stream_options", _object({"include_obfuscation": {"enum": [False]}}, []), "Has no effect."),
    Field("temperature", {"type": "number", "minimum": 0, "maximum": 100}, "0: the likeliest token.", "temperature"),
    Field("top_p", {"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "Draw from this share.", "top_p"),
    Field("seed", {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}, "Which of the possible answers.", "seed"),
    Field("tools", array(_TOOL, most=128), "What the model may call."),
    Field(
        "tool_choice",
        {
            "anyOf": [
                {"enum": ["none", "auto", "required"]},
                _object({"type": {"enum": ["function"]}, "name": TEXT}, ["type", "name"]),
            ]
        },
        "none, auto, required (it must call), or a function that it must call.",
    ),
    Field("parallel_tool_calls", _FLAG, "false: one call at most."),
    Field("text", _object({"format": _FORMAT}, []), "format: JSON, or JSON of a schema."),
    Field("metadata", {"type": "object", "additionalProperties": TEXT}, "Comes back with the answer."),
    Field("user", TEXT, "Has no effect."),
    Field("safety_identifier", TEXT, "Has no effect."),
    Field("prompt_cache_key", TEXT, "Has no effect: what begins alike is reused."),
    Field("store", {"enum": [False]}, "Nothing is stored.", refused="nothing is stored; send the whole conversation"),
    Field("background", {"enum": [False]}, "Answers are waited for.", refused="answers are waited for"),
    Field("truncation", {"enum": ["disabled"]}, "Has no effect.", refused="a conversation is not cut; see overflow"),
    Field("service_tier", {"enum": ["auto", "default"]}, "Has no effect.", refused="there is one tier"),
    Field(
        "include",
        {"type": "array", "items": TEXT, "maxItems": 0},
        "Nothing more is told.",
        refused="nothing more is told",
    ),
    *OWN,
)
NAMES = {"schema": "text.format", "prompt": "input", "messages": "input"}


def conversation_of(given: Mapping[str, Any]) -> Conversation:
    """What a request says."""
    said = given["input"]
    messages = [{"role": "system", "content": given["instructions"]}] if "instructions" in given else []
    messages += [{"role": "user", "content": said}] if isinstance(said, str) else _messages(said)
    choice = given.get("tool_choice", "auto")
    return Conversation(
        messages,
        given.get("tools", []),
        choice if isinstance(choice, str) else (choice["name"],),
        several=given.get("parallel_tool_calls", True),
        tool_field="tools[{}].{}",
        names=NAMES,
    )


def _messages(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Items as templates read them: reasoning and calls are parts of the assistant's message around them."""
    made: list[dict[str, Any]] = []
    thought = ""
    for item in items:
        kind = item.get("type", "message")
        if kind == "reasoning":
            thought += _joined(item.get("content") or item.get("summary") or "")
        elif kind == "function_call_output":
            made.append({"role": "tool", "tool_call_id": item["call_id"], "content": _joined(item["output"])})
        elif kind == "function_call":
            if not made or made[-1]["role"] != "assistant" or thought:
                made.append({"role": "assistant", "content": ""})
            function = {"name": item["name"], "arguments": item["arguments"]}
            made[-1].setdefault("tool_calls", []).append(
                {"id": item["call_id"], "type": "function", "function": function}
            )
        else:
            made.append({"role": item["role"], "content": _joined(item["content"])})
        if thought and made and made[-1]["role"] == "assistant" and kind != "reasoning":
            made[-1]["reasoning_content"], thought = thought, ""
    return made


def _joined(content: Any) -> str:  # noqa: ANN401 - a text, or parts of it
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def ask(given: dict[str, Any], state: State) -> Ask:
    """What a request asks of the engine. Errors: `RequestError`, and those of templates and constraints."""
    entry = state.served.writer(given.get("model"), given.get("adapter"))
    parameters = parameters_of(FIELDS, given, entry.model.generation_defaults, state.settings)
    parameters.setdefault("max_new_tokens", state.settings.max_tokens)
    wanted = given.get("text", {}).get("format", {"type": "text"})
    if wanted["type"] != "text":
        parameters["schema"] = wanted["schema"] if wanted["type"] == "json_schema" else {"type": "object"}
    conversation = conversation_of(given)
    if not conversation.messages:
        msg = "input: there is no message in it; give one"
        raise RequestError(msg, param="input", code="invalid_value")
    return ask_of(
        entry, conversation, parameters, stream=given.get("stream", False), more={"given": given, "format": wanted}
    )


def head_of(ask: Ask) -> dict[str, Any]:
    """A response, but for what it says."""
    given, parameters = ask.more["given"], ask.parameters
    return {
        "id": f"resp_{uuid.uuid4().hex}", "object": "response", "created_at": int(time.time()), "error": None,
        "incomplete_details": None, "instructions": given.get("instructions"),
        "max_output_tokens": given.get("max_output_tokens"), "metadata": given.get("metadata", {}),
        "model": ask.entry.name, "parallel_tool_calls": given.get("parallel_tool_calls", True),
        "previous_response_id": None, "background": False, "service_tier": "default", "store": False,
        "temperature": parameters.get("temperature"), "text": {"format": ask.more["format"]},
        "tool_choice": given.get("tool_choice", "auto"),
        "tools": [
            {"description": None, "parameters": {}, "strict": False, **tool} for tool in given.get("tools", ())
        ],
        "top_p": parameters.get("top_p", 1.0), "truncation": "disabled", "user": given.get("user"),
    }  # fmt: skip


def whole(answering: Answering, answers: list[Answer]) -> dict[str, Any]:
    """The body of an answer."""
    [answer] = answers
    items = Items()
    items.add(answer.reasoning, answer.content, answer.tool_calls)
    items.close(answer.finish)
    return items.response(head_of(answering.ask), answering, answer.finish)


def events(answering: Answering) -> AsyncIterator[Event]:
    """The events of a stream."""
    return response_events(head_of(answering.ask), answering)


def _failed(problem: Problem, number: int) -> Event:
    told = {"code": problem.code, "message": problem.message, "param": problem.param, "sequence_number": number}
    return Event({"type": "error", **told}, "error")


WIRE = Wire(
    "/v1/responses",
    "Answer a conversation, in the words of OpenAI's responses.",
    FIELDS,
    ask,
    whole,
    events,
    names=NAMES,
    done=b"",
    failed=_failed,
)
