"""`{"name": …, "parameters": {…}}` as the whole answer, perhaps after `<|python_tag|>`: Llama 3.1 and later.

Such an answer may be JSON that somebody asked for, so that only a function which was offered makes a call of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .hermes import read_call
from .parser import Format

if TYPE_CHECKING:
    from collections.abc import Generator

    from .parser import Parser

__all__ = ["LLAMA3_JSON"]

_TAG = "<|python_tag|>"


def _read(parser: Parser) -> Generator[None, None, int | None]:
    """Calls with semicolons between them."""
    reading = parser.reading
    start = reading.at - (len(_TAG) if reading.text.endswith(_TAG, 0, reading.at) else 0)
    n = 0
    while True:
        after = reading.at if n else start
        blanks = yield from reading.blanks_ahead()
        reading.at += blanks
        if n and (yield from reading.take(";")):
            yield from reading.skip_blanks()
        if (yield from reading.peek()) != "{":
            if n:
                reading.at = after
                return None
            return start
        if not (yield from read_call(parser, offered=True)):
            return after
        n += 1


LLAMA3_JSON = Format("llama3_json", (_TAG,), _read, bare="{", tidy=False, special=(_TAG,))
