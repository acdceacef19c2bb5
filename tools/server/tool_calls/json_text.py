"""JSON in an answer: where it ends, and what it says, to the letter."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Generator

    from .reading import Reading

__all__ = ["arguments_of", "members", "parsed", "read_value"]

#: Deepest nesting.
_DEPTH = 100
_CLOSES = {"{": "}", "[": "]"}
_IN_STRING = re.compile(r'[^"\\]*')
#: Outside a string, what is no bracket: the letters of true, false and null, numbers, and what parts them.
_PLAIN = re.compile(r"[ \t\r\n,:0-9+\-.eEtrufalsn]*")


def read_value(reading: Reading) -> Generator[None, None, str | None]:
    """Read an object or an array, from its bracket to the one that closes it; None, where that is no JSON.

    What was read of it by then stays read. `Reading.ended` and all of it read: it is cut off.
    """
    start, open_ = reading.at, list[str]()
    while (yield from reading.has(1)):
        c = reading.text[reading.at]
        if c == '"':
            reading.at += 1
            if not (yield from _read_string(reading)):
                return None
        elif c in _CLOSES:
            reading.at += 1
            open_.append(_CLOSES[c])
            if len(open_) > _DEPTH:
                return None
        elif c in "}]":
            if not open_ or open_.pop() != c:
                return None
            reading.at += 1
            if not open_:
                return reading.text[start : reading.at]
        else:
            end = _PLAIN.match(reading.text, reading.at)
            if end is None or end.end() == reading.at:
                return None
            reading.at = end.end()
    return None


def _read_string(reading: Reading) -> Generator[None, None, bool]:
    """Read a string, after its first quotation mark; whether it ends."""
    while True:
        end = _IN_STRING.match(reading.text, reading.at)
        reading.at = reading.at if end is None else end.end()
        if not (yield from reading.has(1)):
            return False
        if reading.text[reading.at] == '"':
            reading.at += 1
            return True
        if reading.text[reading.at] == "\\":
            if not (yield from reading.has(2)):
                reading.at += 1
                return False
            reading.at += 2


def _refused(name: str) -> NoReturn:
    msg = f"{name} is no JSON"
    raise ValueError(msg)


def _finite(text: str) -> float:
    """A number that is read as infinite would be written as no JSON."""
    value = float(text)
    if not math.isfinite(value):
        _refused(text[:80])
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        msg = "a key comes twice"
        raise ValueError(msg)
    return made


_STRICT = json.JSONDecoder(parse_constant=_refused, parse_float=_finite, object_pairs_hook=_once)
#: Line breaks in strings too, which models write.
_LENIENT = json.JSONDecoder(parse_constant=_refused, parse_float=_finite, object_pairs_hook=_once, strict=False)


def parsed(text: str) -> Any:  # noqa: ANN401 - JSON's
    """The value of JSON text, without NaN, numbers beyond a float's and keys that come twice. Errors: `ValueError`."""
    try:
        return _STRICT.decode(text)
    except RecursionError as e:
        msg = "nested too deep"
        raise ValueError(msg) from e


def members(text: str) -> dict[str, str] | None:
    """The keys of an object, and the JSON text of each value as it was written; None: it is no such object."""
    try:
        if not isinstance(_LENIENT.decode(text), dict):
            return None
        return dict(_pairs(text))
    except (ValueError, RecursionError):
        return None


def _pairs(text: str) -> Generator[tuple[str, str], None, None]:
    at = text.index("{") + 1
    while (at := _blank(text, at)) < len(text) and text[at] == '"':
        key, at = _LENIENT.raw_decode(text, at)
        start = _blank(text, _blank(text, at) + 1)
        at = _LENIENT.raw_decode(text, start)[1]
        yield key, text[start:at]
        at = _blank(text, at)
        at += text[at] == ","


def _blank(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def arguments_of(text: str) -> str | None:
    """Arguments as a client parses them: an object's JSON text, to the letter where that is strict; None: no object.

    Some models write the object as a string, or line breaks in strings as they are.
    """
    try:
        value = _LENIENT.decode(text)
        if isinstance(value, str):
            text, value = value, _LENIENT.decode(value)
        if not isinstance(value, dict):
            return None
        try:
            parsed(text)
        except ValueError:
            return json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None
    return text
