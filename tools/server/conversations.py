"""A conversation to an `Ask`: its prompt, the tools that may be called, and what reads the answer.

Chat completions, messages and responses say the same things in three ways. Each makes a `Conversation` of its fields;
this is what all three do with it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import field
from typing import TYPE_CHECKING, Any, cast

from ...dataclass import dataclass
from ...runtime.constraints import CONSTRAINTS
from .answers import Ask, Delta, Prompt
from .errors import RequestError
from .generating import check_length, compiled
from .parsing import parse_object
from .tool_calls import (
    PLAIN,
    Call,
    Content,
    Function,
    FunctionError,
    Held,
    Parser,
    forced,
    format_named,
    format_of,
    guarded,
    thinks_at_end,
    without_calls,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...runtime.parameters import GenerateKwargs
    from .answers import Reader
    from .fields import Schema
    from .served import Entry
    from .tool_calls import Delta as Read
    from .tool_calls import Format

__all__ = ["FUNCTION", "Conversation", "ask_of", "prompt_of", "readable", "thoughts_of", "tool_of"]

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
#: Ids of a prompt that are read for the reasoning that its template may have begun.
_TAIL = 16
#: Of an `Ask`'s `more`: what reads its answers.
_READINGS = "readings"
#: A function's own fields.
FUNCTION: dict[str, Schema] = {
    "name": {"type": "string", "minLength": 1, "maxLength": 128},
    "description": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    "parameters": {"anyOf": [{"type": "object"}, {"type": "null"}]},
    "strict": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
}


@dataclass(frozen=True)
class Conversation:
    """What a request says.

    `messages`: as chat templates read them. `tools`: functions, with the fields of `FUNCTION`. `choice`: "none",
    "auto", "required", or a function's name in a tuple of one. `several`: whether an answer may call more than once.
    `template`: more arguments of `chat_ids`. `tool_field`: what the request calls a field of a tool, by the tool's
    number and the field's name. `names`: what it calls parameters of `generate`.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)
    choice: str | tuple[str] = "auto"
    several: bool = True
    template: dict[str, Any] = field(default_factory=dict)
    tool_field: str = "tools[{}].function.{}"
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def functions(self) -> list[Function]:
        """What may be called."""
        return [_function(tool) for tool in self.tools] if self.choice != "none" else []


def _function(given: Mapping[str, Any]) -> Function:
    return Function(given["name"], given.get("parameters") or {}, strict=given.get("strict") is True)


def tool_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as templates read it."""
    parameters = given.get("parameters") or {"type": "object", "properties": {}}
    described = {"description": given["description"]} if given.get("description") else {}
    return {"type": "function", "function": {"name": given["name"], **described, "parameters": parameters}}


@dataclass(frozen=True)
class _Said:
    """A prompt, and how its answer is read. `held`: what the answer is held to."""

    ids: list[int]
    form: Format
    thinks: str | None
    held: Held | None


def prompt_of(entry: Entry, conversation: Conversation) -> list[int]:
    """The prompt's ids. Errors: as `ask_of`."""
    return _said(entry, conversation, constraint=None).ids


def ask_of(entry: Entry, conversation: Conversation, parameters: GenerateKwargs, **more: Any) -> Ask:  # noqa: ANN401 - of `Ask`
    """What is asked of the engine.

    Errors: `RequestError`, `InputError`, and those of templates and constraints.
    """
    model = entry.model
    made: dict[str, Any] = dict(parameters)
    constraint = next((name for name in CONSTRAINTS if made.get(name) is not None), None)
    length = sum(len(text) for message in conversation.messages for text in _texts(message))
    check_length(model, length, made, conversation.names.get("prompt", "messages"))
    said = _said(entry, conversation, constraint)
    if said.held is not None:
        made["grammar"] = said.held.grammar
    special = frozenset(model.tokenizer.special_ids)
    if shows := [word for word in said.form.special if model.tokenizer.token_to_id(word) in special]:
        made["show_tokens"] = shows
    key = hashlib.sha256(f"{made.get('seed')} {said.ids}".encode()).hexdigest()
    offered = {function.name: function.parameters for function in conversation.functions}

    readings: list[_Reading] = []

    def reader(index: int) -> Reader:
        parser = Parser(said.form, offered, f"{key} {index}", thinks=said.thinks)
        begins = "" if said.held is None else said.held.begins
        readings.append(_Reading(parser, begins, several=conversation.several))
        return readings[-1]

    more["more"] = {**more.get("more", {}), _READINGS: readings}
    return Ask(
        entry, (Prompt(said.ids),), compiled(model, cast("GenerateKwargs", made), said.ids), reader=reader, **more
    )


def _texts(message: Mapping[str, Any]) -> list[str]:
    """What a message says."""
    content = message.get("content")
    return [content] if isinstance(content, str) else [part["text"] for part in content or ()]


def thoughts_of(ask: Ask) -> int:
    """How many tokens of the answers were reasoning."""
    return sum(reading.n_thoughts for reading in ask.more[_READINGS])


def _said(entry: Entry, conversation: Conversation, constraint: str | None) -> _Said:
    """`constraint`: the parameter that the answer is held to, if it is."""
    entry.check_talks()
    tokenizer, functions = entry.model.tokenizer, conversation.functions
    _, template = tokenizer.templates.chosen(conversation.template.get("chat_template"), tools=bool(functions))
    form = format_of(template) if entry.tool_calls is None else format_named(entry.tool_calls)
    if functions:
        _check(conversation, functions, template, form)
    messages = [readable(message, i) for i, message in enumerate(conversation.messages)]
    if any(message.get("tool_calls") for message in messages) and "tool_calls" not in template:
        msg = "messages: this model's chat template has no place for calls of tools; leave them out"
        raise RequestError(msg, param="messages", code="unsupported_value")
    tools = [tool_of(tool) for tool in conversation.tools] if functions else None
    ids = tokenizer.chat_ids(messages, tools=tools, **conversation.template)
    held = _held(conversation, functions, form, template)
    if functions and constraint is not None:
        name = conversation.names.get(constraint, constraint)
        msg = f"{name}: an answer that must be this can call nothing; leave it out, or set tool_choice to none"
        raise RequestError(msg, param=name, code="unsupported_value")
    form = held.form if held is not None else form if functions else without_calls(form)
    thinks = thinks_at_end(form, tokenizer.spelled(ids[-_TAIL:], skip_special_tokens=False))
    begins = "" if held is None else held.begins
    if thinks is not None and (constraint is not None or (held is not None and conversation.choice != "auto")):
        begins = f"\n{dict(form.think)[thinks]}\n\n{begins}"  # an answer that is held to something has no thoughts
        thinks = None
    return _Said([*ids, *tokenizer.encode(begins, add_special_tokens=False)], form, thinks, held)


def _check(conversation: Conversation, functions: Sequence[Function], template: str, form: Format) -> None:
    """Errors: `RequestError`."""
    names = [function.name for function in functions]
    for i, name in enumerate(names):
        where = conversation.tool_field.format(i, "name")
        if not _NAME.fullmatch(name):
            msg = f"{where}: {name[:80]!r} found, expected letters, digits, _, - and ."
            raise RequestError(msg, param=where, code="invalid_value")
        if name in names[:i]:
            msg = f"{where}: there is another {name!r}; give each function a name of its own"
            raise RequestError(msg, param=where, code="invalid_value")
    if "tools" not in template:
        msg = "tools: this model's chat template tells it of none; ask another model, or leave them out"
        raise RequestError(msg, param="tools", code="unsupported_value")
    if form is PLAIN and conversation.choice == "auto":
        msg = "tools: how this model writes calls is not known, so they could not be read; ask for one with tool_choice"
        raise RequestError(msg, param="tools", code="unsupported_value")


def _held(conversation: Conversation, functions: Sequence[Function], form: Format, template: str) -> Held | None:
    """What tool_choice and strict functions ask for."""
    choice = conversation.choice
    if not functions:
        if choice not in {"none", "auto"}:
            msg = "tool_choice: there are no tools to choose from; give some, or leave it out"
            raise RequestError(msg, param="tool_choice", code="invalid_value")
        return None
    if isinstance(choice, tuple):
        functions = [function for function in functions if function.name == choice[0]]
        if not functions:
            msg = f"tool_choice: there is no function {choice[0][:80]!r} among the tools"
            raise RequestError(msg, param="tool_choice", code="invalid_value")
    held = None
    try:
        if choice == "auto":
            held = guarded(form, functions, several=conversation.several)
        else:
            held = forced(form, functions, several=conversation.several and choice == "required", template=template)
    except FunctionError as e:
        number = next(i for i, tool in enumerate(conversation.tools) if tool["name"] == e.name)
        where = conversation.tool_field.format(number, e.field)
        msg = f"{where}: {e.why}"
        raise RequestError(msg, param=where, code="invalid_value") from e
    return held


def readable(message: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A message as templates read it: one text, and arguments as an object. Errors: `RequestError`."""
    made = dict(message)
    if made.get("role") == "developer":
        made["role"] = "system"
    if isinstance(made.get("content"), list):
        made["content"] = "".join(part["text"] for part in made["content"])
    calls = []
    for i, call in enumerate(made.get("tool_calls") or ()):
        function = dict(call["function"])
        where = f"messages[{number}].tool_calls[{i}].function.arguments"
        function["arguments"] = parse_object(function["arguments"]) if function["arguments"] else {}
        if function["arguments"] is None:
            msg = f"{where}: expected the JSON text of an object"
            raise RequestError(msg, param=where, code="invalid_value")
        calls.append({**call, "function": function})
    return made | ({"tool_calls": calls} if calls else {})


class _Reading:
    """A `Reader` of one answer. `several`: calls after the first are told."""

    def __init__(self, parser: Parser, begins: str, *, several: bool) -> None:
        self._parser, self._several, self.called, self.n_thoughts = parser, several, False, 0
        self._first = parser.feed(begins) if begins else []

    def feed(self, text: str) -> Sequence[Delta]:
        """What is known after another piece."""
        first, self._first = self._first, []
        told = [*self._told(first), *self._told(self._parser.feed(text))]
        self.n_thoughts += self._parser.thinking
        return told

    def end(self, *, cut: bool = False) -> Sequence[Delta]:
        """What was held back; `cut`: a limit ended the answer."""
        return self._told(self._parser.end(cut=cut))

    def _told(self, read: Sequence[Read]) -> list[Delta]:
        made: list[Delta] = []
        for each in read:
            if self.called and not self._several:
                return made
            if isinstance(each, Call):
                self.called = True
                function = {"name": each.name, "arguments": each.arguments}
                made.append(
                    Delta(tool_calls=({"index": each.index, "id": each.id, "type": "function", "function": function},))
                )
            else:
                made.append(Delta(each.text) if isinstance(each, Content) else Delta(reasoning=each.text))
        return made
