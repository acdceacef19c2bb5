"""Which format a model writes calls in: its chat template says, where it shows the model how to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ....errors import InputError, shown
from .bare_json import LLAMA3_JSON
from .hermes import HERMES
from .marked import MISTRAL
from .parser import Format
from .pythonic import PYTHONIC
from .tagged import QWEN3_CODER

if TYPE_CHECKING:
    from collections.abc import Generator

    from .parser import Parser

__all__ = ["FORMATS", "PLAIN", "format_named", "format_of", "thinks_at_end", "without_calls"]


def _none(parser: Parser) -> Generator[None, None, int | None]:
    """Nothing begins a call."""
    yield from ()
    return parser.reading.at


#: No calls; reasoning is told apart from content all the same.
PLAIN = Format("none", (), _none, special=("<think>", "</think>"))
FORMATS = {form.name: form for form in (HERMES, QWEN3_CODER, LLAMA3_JSON, MISTRAL, PYTHONIC, PLAIN)}
#: What a template writes, the first that it has counts -> the format.
_SIGNS = (
    ("[TOOL_CALLS]", MISTRAL), ("<function=", QWEN3_CODER), ("<tool_call>", HERMES), ("<|python_start|>", PYTHONIC),
    ("<|python_tag|>", LLAMA3_JSON), ('"parameters": ', LLAMA3_JSON),
)  # fmt: skip


def format_of(template: str | None) -> Format:
    """The format of a chat template; `PLAIN`: it shows none that is known."""
    text = template or ""
    return next((form for sign, form in _SIGNS if sign in text), PLAIN)


def without_calls(form: Format) -> Format:
    """Where nothing may be called: reasoning is told apart, and what looks like a call is a text."""
    words = tuple(word for pair in form.think for word in pair)
    return replace(form, openers=(), bare="", read=_none, breaks_off="", special=words)


def format_named(name: str) -> Format:
    """Errors: `InputError`: there is no such format."""
    if name not in FORMATS:
        msg = f"tool_call_format={shown(name)}: expected one of {', '.join(FORMATS)}"
        raise InputError(msg)
    return FORMATS[name]


def thinks_at_end(form: Format, prompt: str) -> str | None:
    """What opened the reasoning that a prompt's text ends with, where its template began it; None: it did not."""
    text = prompt.rstrip()
    return next((opener for opener, _ in form.think if text.endswith(opener)), None)
