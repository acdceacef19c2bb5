"""Options that a command would not read as it was called: refused by name, so that nobody believes them heard."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ...errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["refuse_given"]


def refuse_given(
    args: argparse.Namespace, declare: Callable[[argparse.ArgumentParser], None], names: Iterable[str], why: str
) -> None:
    """InputError, with `why`, for the first of these options that is not as `declare` has it without one."""
    parser = argparse.ArgumentParser()
    declare(parser)
    options = {action.dest: action.option_strings for action in parser._actions}  # noqa: SLF001 - has no public name
    for name in names:
        value, usual = getattr(args, name), parser.get_default(name)
        if value != usual and options.get(name):
            msg = f"{options[name][0]}{_as_typed(value)}: {why}"
            raise InputError(msg)


def _as_typed(value: object) -> str:
    """What stands after the option."""
    if isinstance(value, bool):
        return ""
    if isinstance(value, list):
        return "".join(map(_as_typed, value))
    if isinstance(value, float):
        return f" {value:g}"
    return f" {getattr(value, 'typed', None) or value}"
