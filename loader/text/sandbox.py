"""Jinja2's immutable sandbox, as transformers sets it up for chat templates, with every step metered.

What templates get is what transformers gives them: blocks trimmed, `break` and `continue`, `tojson` as plain JSON,
`raise_exception`, `strftime_now`, a `dict` that only makes dicts, a `namespace` without names that begin with `_`, and
`{% generation %}`, which marks what a model is trained on and changes no text. Jinja's `lipsum` is left out. Nothing is
computed while a template is compiled. Source: transformers 5.24, `utils/chat_template_utils.py`.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, NoReturn

import jinja2
from jinja2 import filters, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from .meter import MAX_COUNT, SpentError, check_method, check_operator, check_percent, current
from .metered_nodes import CHECKED, TICK, Meters

if TYPE_CHECKING:
    from collections.abc import Callable

    from jinja2.parser import Parser
    from jinja2.runtime import Context, Macro, Undefined

if tuple(map(int, jinja2.__version__.split(".")[:3])) < (3, 1, 6):  # older ones have known ways out of the sandbox
    msg = f"jinja2 {jinja2.__version__} was found"
    raise ImportError(msg)

__all__ = ["RaisedError", "compiled", "dated", "strftime_now"]

#: Templates kept compiled.
KEPT = 32
#: Filters whose whole numbers are widths or counts.
_COUNTS = frozenset({"center", "indent", "batch", "slice", "wordwrap", "truncate", "format"})
_MAX_INDENT = 64
#: Characters that are copied in the time of one that is made.
_COPIED = 32
_WIDTH = re.compile(r"%\D?\d{3}")
_LONGEST_DATE = 64  # characters of one part of a date


class RaisedError(Exception):
    """What a template said with `raise_exception`."""


@lru_cache(KEPT)
def compiled(template: str) -> jinja2.Template:
    """A template, ready to render under a `Meter`. Errors: jinja2's `TemplateSyntaxError`, or any of its compiler."""
    return _Environment().from_string(template)


def strftime_now(form: str) -> str:
    """The local time, by a format."""
    return datetime.now().strftime(form)  # noqa: DTZ005 - a template asks for the reader's own date, as transformers'


def dated(tell: Callable[[str], str]) -> Callable[[object], str]:
    """What a template calls as `strftime_now`: formats without widths, which C's `strftime` would obey."""

    def told(form: object) -> str:
        current().room(_LONGEST_DATE * len(str(form)))
        if _WIDTH.search(str(form)):
            msg = f"it asks strftime_now for a width: {str(form)!r}"
            raise SpentError(msg)
        return str(tell(str(form)))

    return told


class _Environment(ImmutableSandboxedEnvironment):
    """As transformers', metered."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_finalized,
            extensions=[_Generation, loopcontrols],
        )
        for table in (self.filters, self.tests):
            every: dict[str, Any] = dict(table)
            table.update({name: _metered(name, function) for name, function in every.items()})
        own: dict[str, Callable[..., Any]] = {"tojson": _tojson, "join": _join, "replace": _replace}
        self.filters.update({**own, TICK: _tick, CHECKED: _checked})
        self.globals.update(raise_exception=_raise, dict=_Dict(), namespace=_Namespace)
        del self.globals["lipsum"]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        Meters(self).visit(tree)
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401 - jinja2's
        """Refuse what would be too large."""
        check_operator(current(), operator, left, right)
        return current().checked(super().call_binop(context, operator, left, right))

    def call(self, context: Context, called: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - jinja2's
        """Call a macro, a method or a function."""
        meter = current()
        meter.spend()
        method = getattr(called, "__wrapped__", called)  # str.format is wrapped
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str | bytes):
            check_method(meter, method.__name__, owner, args, kwargs)
        return meter.checked(super().call(context, called, *args, **kwargs))

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:  # noqa: ANN401 - jinja2's
        """Refused at once, where jinja2 waits for its use."""
        msg = f"{attribute!r} of a {type(obj).__name__} is not safe"
        raise jinja2.exceptions.SecurityError(msg)


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`: its text, as it is."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's

    def parse(self, parser: Parser) -> nodes.CallBlock:
        """A block that calls `_same`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_same"), [], [], body, lineno=line)

    def _same(self, caller: Macro) -> str:
        text: str = caller()
        return text


class _Dict:
    """What `dict` is to a template: it makes dicts, and leads to no class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:  # noqa: ANN401 - as `dict`
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:  # noqa: ANN401 - as `dict`
        """As `dict.fromkeys`."""
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """jinja2's, without names that begin with `_`."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - so that `namespace(self=1)` works
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:  # noqa: ANN401 - any value
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"  # one may hold others, over and over


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        msg = f"a namespace holds no name that begins with an underscore: {name!r}"
        raise jinja2.exceptions.SecurityError(msg)


def _metered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test of jinja2 that asks the meter before and after."""

    @wraps(function)  # with the attribute that says what jinja2 passes first
    def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - any filter
        meter = current()
        meter.spend()
        values = [
            *(args[1:] if hasattr(function, "jinja_pass_arg") else args),
            *kwargs.values(),
        ]
        if name in _COUNTS and any(isinstance(v, int) and abs(v) > MAX_COUNT for v in values):
            msg = f"it asks {name} for more than {MAX_COUNT:,}"
            raise SpentError(msg)
        if name == "format":
            check_percent(meter, str(values[0]), tuple(values[1:]))
        if name in {"indent", "wordwrap"} and isinstance(values[0], str):
            width = max(
                (v if isinstance(v, int) else len(v) for v in values[1:] if isinstance(v, int | str)), default=4
            )
            turns = len(values[0]) if name == "wordwrap" else values[0].count("\n") + 1
            meter.room(len(values[0]) + turns * width)
        if name == "wordwrap" and isinstance(values[0], str):  # each line of a long word copies what is left of it
            widths = [v for v in values[1:] if isinstance(v, int) and not isinstance(v, bool)]
            copied = sum(len(word) ** 2 for word in values[0].split()) // max(1, min(widths, default=79))
            meter.spend(copied // _COPIED)
        return meter.checked(function(*args, **kwargs))

    return call


def _finalized(value: Any) -> Any:  # noqa: ANN401 - whatever is written
    """What is written is paid for; constants of the template are written while it is compiled."""
    if isinstance(value, str):
        try:
            meter = current()
        except SpentError:
            return value
        meter.spend(1 + len(value))
    return value


def _tick(cost: int) -> bool:
    current().spend(cost)
    return True


def _checked(value: Any) -> Any:  # noqa: ANN401 - any value
    return current().checked(value)


def _raise(message: object = "") -> NoReturn:
    raise RaisedError(str(message))


def _tojson(
    x: object,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - a filter's
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002 - a filter's
) -> str:
    """Plain JSON, where jinja2's own escapes for HTML."""
    if (indent if isinstance(indent, int) else len(indent or "")) > _MAX_INDENT:
        msg = f"it asks tojson for an indent above {_MAX_INDENT}"
        raise SpentError(msg)
    meter, pieces, total = current(), list[str](), 0
    how = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    for piece in how.iterencode(x):
        total += len(piece)
        meter.room(total)
        meter.spend(len(piece))
        pieces.append(piece)
    return "".join(pieces)


@jinja2.pass_environment
def _join(environment: jinja2.Environment, value: Any, d: str = "", attribute: str | int | None = None) -> str:  # noqa: ANN401 - any iterable
    """As jinja2's, of texts that are not escaped."""
    if attribute is not None:
        value = map(filters.make_attrgetter(environment, attribute), value)
    meter, items, total, between = current(), list[str](), 0, str(d)
    for item in value:
        items.append(str(item))
        total += len(items[-1]) + len(between)
        meter.room(total)
        meter.spend()
    meter.spend(total)
    return between.join(items)


def _replace(s: object, old: object, new: object, count: int | None = None) -> str:
    """As jinja2's, of texts that are not escaped."""
    text, meter = str(s), current()
    check_method(meter, "replace", text, (str(old), str(new)), {})
    meter.spend(len(text))
    return meter.checked(text.replace(str(old), str(new), -1 if count is None else count))
