"""What a chat template may spend: processor time, characters, and the size of any one value.

A template is a program from outside. Jinja's sandbox keeps it from Python's internals and bounds `range`; nothing there
bounds a loop in a loop, a text that doubles, or a width of a thousand million. So every turn of a loop, call, filter,
operator and output asks a `Meter`, and what could make a value too large is judged before it is made.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

__all__ = ["MAX_COUNT", "Meter", "SpentError", "check_method", "check_operator", "current", "metered", "size"]

T = TypeVar("T")

#: Most items of a range, and the greatest width, indent or number of copies: Jinja's own bound of a range.
MAX_COUNT = 100_000
#: Characters of any one value, the rendered text among them: these, and `TIMES` what went in.
FREE, TIMES = 2**20, 8
#: Characters made altogether: as many times the largest value.
WORK = 64
#: Most bits of a whole number.
MAX_BITS = 2**16
#: What a value that is no text costs.
_OTHER = 8
_WIDE = re.compile(r"\d{6}")
_NESTED = re.compile(r"\{[^{}]*:[^{}]*\{")


class SpentError(Exception):
    """A template went over a bound; the text says which."""


class Meter:
    """What is left. `n_input`: characters of the template and of what it is given; `seconds` of processor time."""

    def __init__(self, n_input: int, seconds: float) -> None:
        """Time runs from here, in this thread."""
        self.most = FREE + TIMES * n_input
        self._left = WORK * self.most
        self._seconds, self._until = seconds, time.thread_time() + seconds

    def spend(self, n: int = 1) -> None:
        """Note that this many characters, or items, were made. Errors: `SpentError`."""
        self._left -= n
        if self._left < 0:
            msg = f"it makes more than {WORK * self.most:,} characters on its way"
            raise SpentError(msg)
        if time.thread_time() > self._until:
            msg = f"it computes for more than {self._seconds:g} seconds"
            raise SpentError(msg)

    def room(self, n: int) -> None:
        """Refuse a value of this many characters before it is made. Errors: `SpentError`."""
        if n > self.most:
            msg = f"it makes a value of more than {self.most:,} characters or items"
            raise SpentError(msg)

    def checked(self, value: T) -> T:
        """A value that was made, where it and what it holds is not too large. Errors: `SpentError`."""
        self.room(size(value, self.most))
        self.spend(1 + (len(value) if isinstance(value, str | bytes | list | tuple | dict) else 0))
        return value


_METER: ContextVar[Meter | None] = ContextVar("meter", default=None)


def current() -> Meter:
    """The meter of the rendering that runs. Errors: `SpentError` where none does: nothing is computed beforehand."""
    meter = _METER.get()
    if meter is None:
        msg = "no template is being rendered"
        raise SpentError(msg)
    return meter


@contextmanager
def metered(meter: Meter) -> Generator[Meter, None, None]:
    """While it is entered, this meter counts."""
    token = _METER.set(meter)
    try:
        yield meter
    finally:
        _METER.reset(token)


def size(value: object, limit: int) -> int:
    """Characters and items of a value and of all that it holds, each reference counted; stops above `limit`."""
    total, todo = 0, [value]
    while todo and total <= limit:
        one = todo.pop()
        if isinstance(one, str | bytes):
            total += 1 + len(one)
        elif isinstance(one, Mapping):
            total += _OTHER
            todo += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            total += _OTHER
            todo += one
        else:
            total += _OTHER
    return total


def check_operator(meter: Meter, operator: str, left: Any, right: Any) -> None:  # noqa: ANN401 - a template's values
    """Refuse what an operator would make too large: `*`, `**`, `%`. Errors: `SpentError`."""
    meter.spend()
    if operator == "*":
        for one, other in ((left, right), (right, left)):
            if isinstance(other, int) and isinstance(one, str | bytes | list | tuple):
                meter.room(size(one, meter.most) * max(0, other))
    if operator in {"*", "**"} and isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if bits > MAX_BITS:
            msg = f"it makes a number of more than {MAX_BITS:,} bits"
            raise SpentError(msg)
    if operator == "%" and isinstance(left, str | bytes):
        check_percent(meter, str(left), right)


def check_percent(meter: Meter, form: str, right: object) -> None:
    """`form % right`. Errors: `SpentError`."""
    values = (
        list(right.values()) if isinstance(right, Mapping) else list(right) if isinstance(right, tuple) else [right]
    )
    if _WIDE.search(form) or ("*" in form and any(map(_is_large, values))):
        raise _too_wide()
    meter.room(len(form) + form.count("%") * size(right, meter.most))


def check_method(meter: Meter, name: str, text: str | bytes, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse what a text's method would make too large. Errors: `SpentError`."""
    check = _METHODS.get(name)
    if check is not None:
        check(meter, text, [*args, *kwargs.values()])


def _padded(meter: Meter, text: str | bytes, values: Sequence[Any]) -> None:
    del text
    meter.spend()
    if any(map(_is_large, values)):
        raise _too_wide()


def _tabs(meter: Meter, text: Any, values: Sequence[Any]) -> None:  # noqa: ANN401 - text or bytes
    _padded(meter, text, values)
    width = max((v for v in values if isinstance(v, int)), default=8)
    meter.room(len(text) + text.count("\t" if isinstance(text, str) else b"\t") * max(0, width))


def _replaced(meter: Meter, text: Any, values: Sequence[Any]) -> None:  # noqa: ANN401 - as above
    old, new = [*values, "", ""][:2]
    if type(old) is type(text) and isinstance(new, str | bytes):
        meter.room(len(text) + text.count(old) * len(new))


def _joined(meter: Meter, text: str | bytes, values: Sequence[Any]) -> None:
    for items in values:
        if isinstance(items, list | tuple | dict):
            meter.room(size(items, meter.most) + len(text) * len(items))
        elif not isinstance(items, str | bytes):
            meter.room(len(text) * MAX_COUNT)  # a generator: of a range, or of what is bounded itself
        else:
            meter.room((len(text) + 1) * len(items))


def _formatted(meter: Meter, text: Any, values: Sequence[Any]) -> None:  # noqa: ANN401 - as above
    form = str(text)
    if _WIDE.search(form) or (_NESTED.search(form) and any(map(_is_large, values))):
        raise _too_wide()
    meter.room(len(form) + form.count("{") * size(list(values), meter.most))


def _translated(meter: Meter, text: str | bytes, values: Sequence[Any]) -> None:
    longest = max((len(v) for table in values if isinstance(table, dict) for v in table.values() if isinstance(v, str)),
                  default=1)  # fmt: skip
    meter.room(len(text) * max(1, longest))


_METHODS: dict[str, Callable[[Meter, Any, Sequence[Any]], None]] = {
    "center": _padded, "ljust": _padded, "rjust": _padded, "zfill": _padded, "expandtabs": _tabs,
    "replace": _replaced, "join": _joined, "format": _formatted, "format_map": _formatted, "translate": _translated,
}  # fmt: skip


def _is_large(value: object) -> bool:
    return isinstance(value, int) and abs(value) > MAX_COUNT


def _too_wide() -> SpentError:
    return SpentError(f"it asks for a width, or a number of copies, above {MAX_COUNT:,}")
