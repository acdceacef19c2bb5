"""POST /v1/messages, and /v1/messages/count_tokens: Anthropic's."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from .conversations import Conversation, ask_of, prompt_of
from .errors import Problem, RequestError
from .events import Event
from .fields import Field, Schema, array
from .generating import MODEL, STOP, TEXT, parameters_of
from .wires import Wire, Work

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from .admission import Ticket
    from .answers import Answer, Answering, Ask, Finish, Piece
    from .state import State

__all__ = ["COUNT", "WIRE"]

#: Accepted on blocks and tools: what begins alike is reused without being told to.
_CACHE: dict[str, Schema] = {"cache_control": {"anyOf": [{"type": "object"}, {"type": "null"}]}}


def _block(kind: str, fields: dict[str, Schema], required: list[str]) -> Schema:
    return {
        "type": "object",
        "properties": {"type": {"enum": [kind]}, **fields, **_CACHE},
        "required": ["type", *required],
        "additionalProperties": False,
    }


_TEXT_BLOCK = _block("text", {"text": TEXT, "citations": {"type": "null"}}, ["text"])
_RESULT: dict[str, Schema] = {
    "tool_use_id": TEXT,
    "content": {"anyOf": [TEXT, array(_TEXT_BLOCK)]},
    "is_error": {"type": "boolean"},
}
_BLOCK: Schema = {
    "anyOf": [
        _TEXT_BLOCK,
        _block("tool_use", {"id": TEXT, "name": TEXT, "input": {"type": "object"}}, ["id", "name", "input"]),
        _block("tool_result", _RESULT, ["tool_use_id"]),
        _block("thinking", {"thinking": TEXT, "signature": TEXT}, ["thinking"]),
    ]
}
_MESSAGE: Schema = {
    "type": "object",
    "properties": {"role": {"enum": ["user", "assistant"]}, "content": {"anyOf": [TEXT, array(_BLOCK, least=1)]}},
    "required": ["role", "content"],
    "additionalProperties": False,
}
_TOOL: Schema = {
    "type": "object",
    "properties": {
        "type": {"anyOf": [{"enum": ["custom"]}, {"type": "null"}]},
        "name": {"type": "string", "minLength": 1, "maxLength": 128},
        "description": TEXT,
        "input_schema": {"type": "object"},
        "strict": {"type": "boolean"},
        **_CACHE,
    },
    "required": ["name", "input_schema"],
    "additionalProperties": False,
}
_PARALLEL: dict[str, Schema] = {"disable_parallel_tool_use": {"type": "boolean"}}
_CHOICE: Schema = {
    "anyOf": [
        {
            "type": "object",
            "properties": {"type": {"enum": ["auto", "any", "none"]}, **_PARALLEL},
            "required": ["type"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"type": {"enum": ["tool"]}, "name": TEXT, **_PARALLEL},
            "required": ["type", "name"],
            "additionalProperties": False,
        },
    ]
}
_SAID = (
    MODEL,
    Field("messages", array(_MESSAGE, least=1, most=1 << 16), "The conversation.", required=True),
    Field("system", {"anyOf": [TEXT, array(_TEXT_BLOCK)]}, "What the model is told before it."),
    Field("tools", array(_TOOL, most=128), "What the model may call."),
    Field("tool_choice", _CHOICE, "auto, any (call one), tool (this one) or none."),
    Field(
        "thinking",
        {
            "type": "object",
            "properties": {"type": {"enum": ["disabled"]}},
            "required": ["type"],
            "additionalProperties": False,
        },
        "disabled: the template is told enable_thinking=false.",
        refused="a model reasons as its chat template tells it to, without a budget",
    ),
    Field(
        "output_config",
        {
            "type": "object",
            "properties": {
                "format": {
                    "type": "object",
                    "properties": {"type": {"enum": ["json_schema"]}, "schema": {"type": "object"}},
                    "required": ["type", "schema"],
                    "additionalProperties": False,
                }
            },
            "additionalProperties": False,
        },
        "format: JSON of a schema.",
    ),
)
FIELDS = (
    *_SAID,
    Field(
        "max_tokens",
        {"type": "integer", "minimum": 1, "maximum": 2**31},
        "Tokens of the answer, at most.",
        "max_new_tokens",
        required=True,
    ),
    Field("stream", {"type": "boolean"}, "Send the answer in pieces, as server-sent events."),
    Field("stop_sequences", array(STOP, most=16), "End before the first of these.", "stop"),
    Field("temperature", {"type": "number", "minimum": 0, "maximum": 100}, "0: the likeliest token.", "temperature"),
    Field("top_p", {"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "Draw from this share.", "top_p"),
    Field("top_k", {"type": "integer", "minimum": 0}, "Draw from the k likeliest tokens; 0 is off.", "top_k"),
    Field("seed", {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}, "Which of the possible answers.", "seed"),
    Field("metadata", {"type": "object"}, "Has no effect."),
    Field("service_tier", {"enum": ["auto", "standard_only"]}, "Has no effect.", refused="there is one tier"),
)
NAMES = {"schema": "output_config.format.schema", "prompt": "messages"}
_STOPS: dict[Finish, str] = {
    "stop": "end_turn", "length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use",
}  # fmt: skip
#: Anthropic's words for kinds of errors, by status.
_KINDS = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip


def conversation_of(given: Mapping[str, Any]) -> Conversation:
    """What a request says. Errors: `RequestError`."""
    messages: list[dict[str, Any]] = []
    if system := given.get("system"):
        messages.append({"role": "system", "content": _joined(system)})
    for i, message in enumerate(given["messages"]):
        messages += _messages(message, i)
    choice = given.get("tool_choice", {"type": "auto"})
    kinds: dict[str, Any] = {"any": "required", "tool": (choice.get("name", ""),)}
    return Conversation(
        messages,
        [{**tool, "parameters": tool["input_schema"]} for tool in given.get("tools", ())],
        kinds.get(choice["type"], choice["type"]),
        several=not choice.get("disable_parallel_tool_use", False),
        template={"template_variables": {"enable_thinking": False}} if "thinking" in given else {},
        tool_field="tools[{}].{}",
        names=NAMES,
    )


def _joined(content: Any) -> str:  # noqa: ANN401 - a text, or blocks of it
    return content if isinstance(content, str) else "".join(block["text"] for block in content)


def _messages(message: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    """A message as templates read it: results of tools are messages of their own, before what the user says."""
    role, content = message["role"], message["content"]
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    made, texts, calls, thoughts = list[dict[str, Any]](), list[str](), list[dict[str, Any]](), list[str]()
    for i, block in enumerate(content):
        kind = block["type"]
        if role != ("user" if kind == "tool_result" else role if kind == "text" else "assistant"):
            where = f"messages[{number}].content[{i}].type"
            msg = f"{where}: {kind} found in a message of the {role}'s, where it cannot be"
            raise RequestError(msg, param=where, code="invalid_value")
        if kind == "text":
            texts.append(block["text"])
        elif kind == "thinking":
            thoughts.append(block["thinking"])
        elif kind == "tool_use":
            function = {"name": block["name"], "arguments": json.dumps(block["input"], ensure_ascii=False)}
            calls.append({"id": block["id"], "type": "function", "function": function})
        else:
            result = _joined(block.get("content", ""))
            said = f"Error: {result}" if block.get("is_error") else result
            made.append({"role": "tool", "tool_call_id": block["tool_use_id"], "content": said})
    if texts or calls or thoughts or not made:
        own: dict[str, Any] = {"role": role, "content": "".join(texts)}
        own |= {"tool_calls": calls} if calls else {}
        made.append(own | ({"reasoning_content": "".join(thoughts)} if thoughts else {}))
    return made


def ask(given: dict[str, Any], state: State) -> Ask:
    """What a request asks of the engine. Errors: `RequestError`, and those of templates and constraints."""
    entry = state.served.writer(given.get("model"))
    conversation = conversation_of(given)
    parameters = parameters_of(FIELDS, given, entry.model.generation_defaults, state.settings)
    if output := given.get("output_config", {}).get("format"):
        parameters["schema"] = output["schema"]
    return ask_of(
        entry,
        conversation,
        parameters,
        stream=given.get("stream", False),
        more={"stops": given.get("stop_sequences", [])},
    )


def whole(answering: Answering, answers: list[Answer]) -> dict[str, Any]:
    """The body of an answer."""
    [answer] = answers
    blocks: list[dict[str, Any]] = []
    if answer.reasoning:
        blocks.append({"type": "thinking", "thinking": answer.reasoning, "signature": ""})
    if answer.content:
        blocks.append({"type": "text", "text": answer.content})
    for call in answer.tool_calls:
        function = call["function"]
        used = {"id": call["id"], "name": function["name"], "input": json.loads(function["arguments"])}
        blocks.append({"type": "tool_use", **used})
    head = _head(answering)
    return {**head, "content": blocks, **_stop(answering, answer.finish, answer.ids), "usage": _usage(answering)}


def _head(answering: Answering) -> dict[str, Any]:
    entry = answering.ask.entry
    return {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant", "model": entry.name}


def _usage(answering: Answering) -> dict[str, Any]:
    usage = answering.usage
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.completion,
    }


def _stop(answering: Answering, finish: Finish, ids: list[int]) -> dict[str, Any]:
    """Why an answer ended, and with which of the texts that end one."""
    stops = answering.ask.more["stops"]
    text = answering.ask.entry.model.tokenizer.decode(ids, skip_special_tokens=False) if stops else ""
    found = min(((text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text), default=None)
    if finish == "stop" and found is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": found[2]}
    return {"stop_reason": _STOPS[finish], "stop_sequence": None}


async def events(answering: Answering) -> AsyncIterator[Event]:
    """The events of a stream: blocks one after the other."""
    blocks, ids = _Blocks(), list[int]()
    n_prompt = sum(len(prompt.ids) for prompt in answering.ask.prompts)
    usage = {
        "input_tokens": n_prompt,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": 0,
    }
    nothing: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    yield _event("message_start", message={**_head(answering), **nothing})
    yield _event("ping")
    last: Piece | None = None
    async for piece in answering.pieces():
        ids += piece.ids
        last = piece
        for delta in piece.deltas:
            for event in blocks.add(delta.reasoning, delta.content, delta.tool_calls):
                yield event
    for event in blocks.close():
        yield event
    if last is not None and last.finish is not None:
        yield _event("message_delta", delta=_stop(answering, last.finish, ids), usage=_usage(answering))
    yield _event("message_stop")


class _Blocks:
    """Deltas to the events of blocks. `kind`: of the block that is open."""

    def __init__(self) -> None:
        self._index, self._kind = -1, ""

    def add(self, reasoning: str, content: str, calls: tuple[dict[str, Any], ...]) -> list[Event]:
        made: list[Event] = []
        if reasoning:
            made += self._open("thinking", thinking="", signature="")
            made.append(self._delta("thinking_delta", thinking=reasoning))
        if content:
            made += self._open("text", text="")
            made.append(self._delta("text_delta", text=content))
        for call in calls:
            made += self.close()
            made += self._open("tool_use", id=call["id"], name=call["function"]["name"], input={})
            made.append(self._delta("input_json_delta", partial_json=call["function"]["arguments"]))
            made += self.close()
        return made

    def close(self) -> list[Event]:
        """End the block that is open."""
        if not self._kind:
            return []
        signed = [self._delta("signature_delta", signature="")] if self._kind == "thinking" else []
        self._kind = ""
        return [*signed, _event("content_block_stop", index=self._index)]

    def _open(self, kind: str, **fields: Any) -> list[Event]:  # noqa: ANN401 - JSON
        if self._kind == kind:
            return []
        made = self.close()
        self._index, self._kind = self._index + 1, kind
        return [*made, _event("content_block_start", index=self._index, content_block={"type": kind, **fields})]

    def _delta(self, kind: str, **fields: Any) -> Event:  # noqa: ANN401 - JSON
        return _event("content_block_delta", index=self._index, delta={"type": kind, **fields})


def _event(kind: str, **fields: Any) -> Event:  # noqa: ANN401 - JSON
    return Event({"type": kind, **fields}, kind)


def error(problem: Problem) -> dict[str, Any]:
    """As Anthropic's API tells errors."""
    kind = _KINDS.get(problem.status, "api_error" if problem.status >= 500 else "invalid_request_error")  # noqa: PLR2004 - HTTP's
    return {"type": "error", "error": {"type": kind, "message": problem.message}}


def _failed(problem: Problem, _: int) -> Event:
    return Event(error(problem), "error")


async def count(given: dict[str, Any], state: State, _: Ticket) -> dict[str, int]:
    """How many tokens a conversation is."""

    def counted() -> int:
        entry = state.served.find(given.get("model"))
        return len(prompt_of(entry, conversation_of(given)))

    return {"input_tokens": await state.prepare(counted)}


WIRE = Wire(
    "/v1/messages",
    "Answer a conversation, in Anthropic's words.",
    FIELDS,
    ask,
    whole,
    events,
    error,
    NAMES,
    b"",
    _failed,
)
COUNT = Work("/v1/messages/count_tokens", "Count a conversation's tokens.", _SAID, count, error, NAMES)
