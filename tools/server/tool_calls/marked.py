"""`[TOOL_CALLS]` and then a list of calls as JSON, or `name[ARGS]{…}`, once for each: Mistral's.

Between name and arguments there may be `[CALL_ID]` with an id, or nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .hermes import read_call
from .json_text import arguments_of, read_value
from .parser import Format
from .reading import BLANKS

if TYPE_CHECKING:
    from collections.abc import Generator

    from .parser import Parser

__all__ = ["MISTRAL"]

_OPEN, _ARGS, _ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"


def _read(parser: Parser) -> Generator[None, None, int | None]:
    reading = parser.reading
    start = reading.at - len(_OPEN)
    yield from reading.skip_blanks()
    if (yield from reading.peek()) == "[":
        return (yield from _list(parser, start))
    name = yield from reading.until(lambda c: c in "[{<" or c in BLANKS)
    if not name:
        return start
    if (yield from reading.take(_ID)):
        yield from reading.until(lambda c: not c.isalnum())
    yield from reading.take(_ARGS)
    yield from reading.skip_blanks()
    if (yield from reading.peek()) != "{":
        return start
    text = yield from read_value(reading)
    arguments = None if text is None else arguments_of(text)
    if arguments is None:
        return start
    parser.call(name, arguments)
    return None


def _list(parser: Parser, start: int) -> Generator[None, None, int | None]:
    """Calls in brackets: each is told once it is whole."""
    reading, after = parser.reading, start
    reading.at += 1
    while True:
        yield from reading.skip_blanks()
        if (yield from reading.peek()) != "{" or not (yield from read_call(parser)):
            return after
        after = reading.at
        yield from reading.skip_blanks()
        if (yield from reading.take("]")):
            return None
        if not (yield from reading.take(",")):
            return after


MISTRAL = Format(
    "mistral", (_OPEN,), _read, think=(("[THINK]", "[/THINK]"), ("<think>", "</think>")), tidy=False,
    special=(_OPEN, _ARGS, _ID, "[THINK]", "[/THINK]"), short_ids=True,
)  # fmt: skip
