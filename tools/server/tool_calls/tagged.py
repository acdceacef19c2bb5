"""`<tool_call><function=name><parameter=key>value</parameter></function></tool_call>`: Qwen3-Coder, Qwen 3.5 and later.

Values are plain text, so that one may have such tags in it: a tag ends a value only where the next one follows it.
Models leave out `<tool_call>` or a `</parameter>` now and then; what was meant is clear then, and is read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .coerce import coerced, spelled
from .parser import Format

if TYPE_CHECKING:
    from collections.abc import Generator

    from .parser import Parser
    from .reading import Reading

__all__ = ["QWEN3_CODER"]

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_FUNCTION, _END = "<function=", "</function>"
_PARAMETER, _VALUE_END = "<parameter=", "</parameter>"
_PLAIN = re.compile("[^<]*")


def _read(parser: Parser) -> Generator[None, None, int | None]:
    reading = parser.reading
    tagged = reading.text.endswith(_OPEN, 0, reading.at)
    start = reading.at - len(_OPEN if tagged else _FUNCTION)
    if tagged:
        yield from reading.skip_blanks()
        if not (yield from reading.take(_FUNCTION)):
            return start
    name = yield from _name(reading)
    if not name or not (tagged or name in parser.tools):
        return start
    found = yield from _parameters(reading)
    if found is None:
        return start
    schema = parser.tools.get(name, {})
    properties = schema.get("properties")
    of = properties if isinstance(properties, dict) else {}
    values = {key: coerced(text, of.get(key), schema) for key, text in found.items()}
    parser.call(name, "{" + ", ".join(f"{spelled(key)}: {value}" for key, value in values.items()) + "}")
    blanks = yield from reading.blanks_ahead()
    if (yield from reading.ahead((_CLOSE,), blanks)):
        reading.at += blanks + len(_CLOSE)
    return None


def _name(reading: Reading) -> Generator[None, None, str]:
    """Read a name and the bracket after it; "": there is none."""
    name = yield from reading.until(lambda c: c in "<>\n")
    return name if (yield from reading.take(">")) else ""


def _parameters(reading: Reading) -> Generator[None, None, dict[str, str] | None]:
    """Read values by name, and the end of the function; None: that is not what comes."""
    found = dict[str, str]()
    while True:
        yield from reading.skip_blanks()
        if (yield from reading.take(_END)):
            return found
        if found and (yield from reading.ahead((_CLOSE,))):
            return found
        if not (yield from reading.take(_PARAMETER)):
            return None
        key = yield from _name(reading)
        value = (yield from _value(reading)) if key else None
        if value is None:
            return None
        found[key] = value


def _value(reading: Reading) -> Generator[None, None, str | None]:
    """Read a value and the tag that ends it, or what tells that it was left out; None: nothing ends it."""
    lines = yield from reading.take("\n")
    start = reading.at
    while True:
        end = _PLAIN.match(reading.text, reading.at)
        reading.at = reading.at if end is None else end.end()
        if not (yield from reading.has(1)):
            return None
        if reading.text[reading.at] != "<":
            continue
        tag = yield from reading.ahead((_VALUE_END, _PARAMETER, _END))
        new_line = reading.text[reading.at - 1] == "\n"
        if tag == _VALUE_END:
            ends = yield from _ends(reading, strict=lines and not new_line)
        elif tag == _PARAMETER:
            ends = lines and new_line
        elif tag == _END:
            ends = lines and new_line and (yield from _closes(reading))
        else:
            ends = False
        if ends:
            value = reading.text[start : reading.at]
            reading.at += len(tag) if tag == _VALUE_END else 0
            return value.removesuffix("\n")
        reading.at += 1


def _ends(reading: Reading, *, strict: bool) -> Generator[None, None, bool]:
    """Whether a tag that may end a value does: another follows it, in another line where that is `strict`."""
    after = len(_VALUE_END)
    blanks = yield from reading.blanks_ahead(after)
    if strict and "\n" not in reading.text[reading.at + after : reading.at + after + blanks]:
        return False
    found = yield from reading.ahead((_PARAMETER, _END, _CLOSE), after + blanks)
    return bool(found)


def _closes(reading: Reading) -> Generator[None, None, bool]:
    """Whether a call ends after the function's end."""
    blanks = yield from reading.blanks_ahead(len(_END))
    there = yield from reading.has(len(_END) + blanks + 1)
    return not there or bool((yield from reading.ahead((_CLOSE,), len(_END) + blanks)))


QWEN3_CODER = Format(
    "qwen3_coder", (_OPEN, _FUNCTION), _read, breaks_off=_FUNCTION, special=(_OPEN, _CLOSE, "<think>", "</think>")
)
