"""`<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen 2.5 and 3, and many more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .json_text import arguments_of, members, parsed, read_value
from .parser import Format

if TYPE_CHECKING:
    from collections.abc import Generator

    from .parser import Parser

__all__ = ["HERMES", "named", "read_call"]

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


def named(text: str) -> str | None:
    """The name that a JSON string has; None: it has none."""
    try:
        name = parsed(text)
        if isinstance(name, str) and name:
            name.encode()
            return name
    except ValueError:
        return None
    return None


def read_call(parser: Parser, *, offered: bool = False) -> Generator[None, None, bool]:
    """Read an object that is a call, from its bracket, and tell it; whether it was one.

    `offered`: a call of another function than those of the request is none, nor is one without arguments.
    """
    text = yield from read_value(parser.reading)
    found = None if text is None else members(text)
    if found is None or "name" not in found:
        return False
    name = named(found["name"])
    keys = [key for key in ("arguments", "parameters") if key in found]
    if name is None or (offered and (name not in parser.tools or not keys)):
        return False
    arguments = arguments_of(found[keys[0]]) if keys else "{}"
    if arguments is None:
        return False
    parser.call(name, arguments)
    return True


def _read(parser: Parser) -> Generator[None, None, int | None]:
    reading = parser.reading
    start = reading.at - len(_OPEN)
    n = 0
    while True:
        blanks = yield from reading.blanks_ahead()
        after = start if not n else reading.at
        reading.at += blanks
        if n and (yield from reading.take(_CLOSE)):
            return None
        if (yield from reading.peek()) != "{":
            if n:
                reading.at -= blanks  # the tag that closes it was left out
                return None
            return after
        if not (yield from read_call(parser)):
            return after
        n += 1


HERMES = Format("hermes", (_OPEN,), _read, special=(_OPEN, _CLOSE, "<think>", "</think>"))
