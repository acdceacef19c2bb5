"""Holding an answer to a call: `tool_choice` "required" or a function by name, and functions that are `strict`.

An answer that must be a call is begun for the model, up to where it chooses; a grammar allows the rest. Formats that
write Python or tags are held to JSON, of which a schema says all: a model that can call at all writes that too.
"""

from __future__ import annotations

import json
from dataclasses import field
from typing import TYPE_CHECKING, Any

from ....dataclass import dataclass
from ....errors import InputError
from ....loader.text.grammar import embedded
from .bare_json import LLAMA3_JSON
from .hermes import HERMES
from .marked import MISTRAL
from .pythonic import PYTHONIC

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .parser import Format

__all__ = ["Function", "FunctionError", "Held", "forced", "guarded"]

#: Any arguments.
_ANY = {"type": "object"}
#: Before the first call, before each further one, before and after a call's name, and after its arguments.
_WAYS = {
    HERMES.name: ("<tool_call>\n", "\n<tool_call>\n", '{"name": "', '", "arguments": ', "}\n</tool_call>"),
    LLAMA3_JSON.name: ("", "; ", '{"name": "', '", "parameters": ', "}"),
    MISTRAL.name: ("[TOOL_CALLS][", ", ", '{"name": "', '", "arguments": ', "}"),
}


@dataclass(frozen=True)
class Function:
    """What a model may call."""

    name: str
    parameters: dict[str, Any] = field(default_factory=dict)
    strict: bool = False


class FunctionError(InputError):
    """`field`, of the function with this name, asks for what cannot be: `why`."""

    def __init__(self, function: Function, field: str, why: str) -> None:
        """The message names both."""
        super().__init__(f"{function.name}: {field}: {why}")
        self.name, self.field, self.why = function.name, field, why


@dataclass(frozen=True)
class Held:
    """What an answer is held to. `form` reads it; `begins`: its beginning, which the prompt ends with."""

    form: Format
    begins: str
    grammar: str


def forced(form: Format, functions: Sequence[Function], *, several: bool, template: str = "") -> Held:
    """An answer that is a call of one of these functions; `several`: or several calls, one after the other.

    Errors: `FunctionError`: a schema that no grammar is made of.
    """
    if form is MISTRAL and len(functions) == 1 and "[ARGS]" in template:
        [one] = functions
        return Held(form, f"[TOOL_CALLS]{one.name}[ARGS]", f"start: {_arguments(0)}\n{_rules(functions)}")
    form = LLAMA3_JSON if form in {PYTHONIC, LLAMA3_JSON} else form if form is MISTRAL else HERMES
    first, between, *_ = _WAYS[form.name]
    more = f" ({_text(between)} call)*" if several else ""
    last = f" {_text(']')}" if form is MISTRAL else ""
    return Held(form, first, f"start: call{more}{last}\n{_calls(form, functions, all_strict=True)}")


def guarded(form: Format, functions: Sequence[Function], *, several: bool) -> Held | None:
    """An answer that may be a text, with calls in it, whose arguments are those that strict functions ask for.

    None: no function is strict. Errors: `FunctionError`, as `forced`, and where a special token begins calls.
    """
    if not any(function.strict for function in functions):
        return None
    if form is MISTRAL:
        strict = next(function for function in functions if function.strict)
        why = (
            "calls of this model begin with a special token, which a grammar cannot allow; ask for a call with "
            "tool_choice, or leave it out"
        )
        raise FunctionError(strict, "strict", why)
    calls = _calls(HERMES if form not in {PYTHONIC, LLAMA3_JSON} else LLAMA3_JSON, functions, all_strict=False)
    if form in {PYTHONIC, LLAMA3_JSON}:
        more = ' ("; " call)*' if several else ""
        return Held(LLAMA3_JSON, "", f"start: call{more} | text?\ntext: /[^{{\\[](?s:.*)/\n{calls}")
    whole = 'start: (upto "\\n" call)* rest?' if several else 'start: upto "\\n" call | rest?'
    return Held(HERMES, "", f"{whole}\nupto[lazy]: /(?s:.*)<tool_call>/\nrest: /(?s:.*)/\n{calls}")


def _calls(form: Format, functions: Sequence[Function], *, all_strict: bool) -> str:
    """Rules for a call of any of the functions."""
    _, _, before, after, end = _WAYS[form.name]
    ways = (f"{_text(before + each.name + after)} {_arguments(i)} {_text(end)}" for i, each in enumerate(functions))
    return f"call: {' | '.join(ways)}\n{_rules(functions, all_strict=all_strict)}"


def _rules(functions: Sequence[Function], *, all_strict: bool = True) -> str:
    made = []
    for i, function in enumerate(functions):
        schema = function.parameters if function.parameters and (all_strict or function.strict) else _ANY
        try:
            rule = embedded(schema)
        except InputError as e:
            raise FunctionError(function, "parameters", str(e).removeprefix("schema: ")) from None
        made.append(f"{_arguments(i)}: {rule}\n")
    return "".join(made)


def _arguments(i: int) -> str:
    return f"arguments_{i}"


def _text(text: str) -> str:
    """A text in a grammar."""
    return json.dumps(text, ensure_ascii=False)
