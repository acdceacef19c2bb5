"""`[name(key="value"), …]`, perhaps between `<|python_start|>` and `<|python_end|>`: Llama 4, and Llama 3.2 for some.

Python's literals are read, and nothing is run. An answer may be such a list that is no call, so that only functions
which were offered make calls of it.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

from .coerce import spelled
from .json_text import parsed
from .parser import Format

if TYPE_CHECKING:
    from collections.abc import Generator

    from .parser import Parser
    from .reading import Reading

__all__ = ["PYTHONIC"]

_OPEN, _CLOSE = "<|python_start|>", "<|python_end|>"
#: Deepest nesting, and most characters of a list of calls: Python's own parser is asked.
_DEPTH, _LONGEST = 32, 2**18
_CLOSES = {"[": "]", "(": ")", "{": "}"}
_IN_STRING = re.compile(r"[^'\"\\]*")


def _read(parser: Parser) -> Generator[None, None, int | None]:
    reading = parser.reading
    marked = reading.text.endswith(_OPEN, 0, reading.at)
    start = reading.at - (len(_OPEN) if marked else 0)
    yield from reading.skip_blanks()
    text = yield from _bracketed(reading)
    calls = _calls(text, parser) if text else []
    if not calls:
        return start
    for name, arguments in calls:
        parser.call(name, arguments)
    blanks = yield from reading.blanks_ahead()
    if (yield from reading.ahead((_CLOSE,), blanks)):
        reading.at += blanks + len(_CLOSE)
    return None


def _bracketed(reading: Reading) -> Generator[None, None, str]:
    """Read a list of calls up to the bracket that closes it; "": it cannot be one."""
    start = reading.at
    begins = yield from reading.take("[")
    yield from reading.skip_blanks()
    yield from reading.until(lambda c: not (c.isalnum() or c in "_."))
    if not begins or (yield from reading.peek()) != "(":
        return ""
    open_ = ["]"]
    while open_ and (yield from reading.has(1)):
        c = reading.text[reading.at]
        if c in "'\"":
            if not (yield from _string(reading, c)):
                return ""
            continue
        if c in _CLOSES:
            open_.append(_CLOSES[c])
        elif c in "])}" and open_.pop() != c:
            return ""
        reading.at += 1
        if len(open_) > _DEPTH or reading.at - start > _LONGEST:
            return ""
    return "" if open_ else reading.text[start : reading.at]


def _string(reading: Reading, quote: str) -> Generator[None, None, bool]:
    """Read a string; whether it ends."""
    reading.at += 1
    while True:
        end = _IN_STRING.match(reading.text, reading.at)
        reading.at = reading.at if end is None else end.end()
        there = yield from reading.has(1)
        escapes = there and reading.text[reading.at] == "\\"
        if not there or (escapes and not (yield from reading.has(2))):
            reading.at = len(reading.text)
            return False
        c = reading.text[reading.at]
        reading.at += 2 if escapes else 1
        if c == quote:
            return True


def _calls(text: str, parser: Parser) -> list[tuple[str, str]]:
    """Names and arguments; none: it is something else."""
    try:
        tree = ast.parse(text, mode="eval").body
        items = tree.elts if isinstance(tree, ast.List) else []
        made = [_call(item) for item in items]
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return []
    return made if all(name in parser.tools for name, _ in made) else []


def _call(item: ast.expr) -> tuple[str, str]:
    """Errors: `ValueError`, `TypeError`: it is no call of a function by its name with literals by theirs."""
    if not isinstance(item, ast.Call) or item.args or not isinstance(item.func, ast.Name | ast.Attribute):
        msg = "no call"
        raise ValueError(msg)
    values: dict[str, Any] = {}
    for keyword in item.keywords:
        if keyword.arg is None or keyword.arg in values:
            msg = "no keyword, or one twice"
            raise ValueError(msg)
        values[keyword.arg] = ast.literal_eval(keyword.value)
    arguments = spelled(values)
    parsed(arguments)
    return ast.unparse(item.func), arguments


PYTHONIC = Format("pythonic", (_OPEN,), _read, bare="[", tidy=False, special=(_OPEN, _CLOSE))
