"""Checked values of `config.json`: one checker a kind of value, so that a family can be a table.

A checker takes what JSON gave and returns the value to use, or raises `Unfit` with what it expected. Types are strict:
a bool is no integer, a float is no integer, NaN and infinity are no numbers. Limits hold before anything is allocated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...dataclass import dataclass
from ...errors import ConfigError
from ..files import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ACTIVATIONS",
    "MAX_SIZE",
    "Key",
    "Unfit",
    "activation",
    "anything",
    "checked",
    "flag",
    "names",
    "number",
    "optional",
    "read",
    "size",
    "token_ids",
]

Checker = Callable[[object], Any]

#: No dimension is larger; 32-bit signed sizes are what every kernel and file can hold.
MAX_SIZE = 2**31 - 1

#: Spellings of activations -> ours. The last four are one formula, written with different constants' digits.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "relu2": "relu2",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
}


class Unfit(ValueError):  # noqa: N818 - raised and caught inside the loader; its text is what was expected
    """A value is not what the key needs."""


@dataclass(frozen=True)
class Key:
    """One key of `config.json`: what a missing key means, and what a present one must be."""

    default: object
    check: Checker


def checked(name: str, value: object, check: Checker, where: str) -> Any:  # noqa: ANN401 - JSON
    """`check(value)`; raises `ConfigError` naming the key, the value found and what was expected."""
    try:
        return check(value)
    except Unfit as unfit:
        msg = f"{where}: {name} is {quote(value)}; expected {unfit}. Correct the file or fetch it again"
        raise ConfigError(msg) from None


def read(raw: Mapping[str, object], keys: Mapping[str, Key], where: str) -> dict[str, Any]:
    """Every key of the table, checked, defaults filled in (a default is taken as it is)."""
    return {
        name: checked(name, raw[name], key.check, where) if name in raw else key.default for name, key in keys.items()
    }


def size(high: int = MAX_SIZE, low: int = 1) -> Checker:
    """Make a checker of an integer in low..high."""

    def check(value: object) -> int:
        if type(value) is not int or not low <= value <= high:
            msg = f"an integer from {low} to {high}"
            raise Unfit(msg)
        return value

    return check


def number(low: float, high: float, *, above: bool = False) -> Checker:
    """Make a checker of a finite number in [low, high], or (low, high] with `above`."""

    def check(value: object) -> float:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        if not fits or (above and value == low):
            msg = f"a number {'above' if above else 'from'} {low:g} {'and at most' if above else 'to'} {high:g}"
            raise Unfit(msg)
        return float(value)  # type: ignore[arg-type]  # `fits` has seen that it is a number

    return check


def flag(value: object) -> bool:
    """Pass `true` or `false`."""
    if not isinstance(value, bool):
        msg = "true or false"
        raise Unfit(msg)
    return value


def activation(value: object) -> str:
    """Translate the name of an activation that we compute."""
    if not isinstance(value, str) or value not in ACTIVATIONS:
        msg = "one of " + ", ".join(ACTIVATIONS)
        raise Unfit(msg)
    return ACTIVATIONS[value]


def token_ids(value: object) -> tuple[int, ...]:
    """Pass an integer, a list of integers, or null (none)."""
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if any(type(i) is not int for i in ids):
        msg = "an integer, a list of integers, or null"
        raise Unfit(msg)
    return tuple(ids)


def names(value: object) -> tuple[str, ...]:
    """Pass a list of texts, or null (none)."""
    texts = [] if value is None else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        msg = "a list of names, or null"
        raise Unfit(msg)
    return tuple(texts)


def optional(check: Checker) -> Checker:
    """Make a checker that passes null as None."""

    def maybe(value: object) -> Any:  # noqa: ANN401 - JSON
        try:
            return None if value is None else check(value)
        except Unfit as unfit:
            msg = f"{unfit}, or null"
            raise Unfit(msg) from None

    return maybe


def anything(value: object) -> object:
    """Pass everything: the family's function checks it."""
    return value
