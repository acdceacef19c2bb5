"""Typed errors: one base class, one class per cause.

Every message says what was found, what was expected, where, and what to do next; one about an option or argument begins
with it, as it was typed. A call that Python itself refuses (a missing argument) is Python's TypeError, and Ctrl-C its
KeyboardInterrupt.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "HALF_IMPORTED",
    "LIMITS",
    "BackendError",
    "CheckpointError",
    "ConfigError",
    "HubError",
    "InputError",
    "MemoryLimitError",
    "MiaotuiError",
    "MiaotuiWarning",
    "PlanError",
    "ProfileError",
    "SequenceFileError",
    "TokenizerError",
    "WorkerError",
    "is_iterable",
    "numbered",
    "shown",
]


#: What may stand in the way of memory that the machine has.
LIMITS = "ulimit -v, ulimit -l where memory is locked, or the container's limit"
#: How Python says that a module's code has not run to its end.
HALF_IMPORTED = "partially initialized module"


class MiaotuiError(Exception):
    """Base of every error that miaotui raises on purpose."""


class MiaotuiWarning(UserWarning):
    """Something was done otherwise than its caller may think; the message says what, and what to do about it."""


class CheckpointError(MiaotuiError):
    """A checkpoint's files are missing, damaged or inconsistent."""


class ConfigError(MiaotuiError):
    """A `config.json` is malformed, out of range, or asks for maths that is not supported."""


class TokenizerError(MiaotuiError):
    """A tokenizer file is missing or broken, or a text or id cannot be converted."""


class HubError(MiaotuiError):
    """A hub name could not be resolved or downloaded."""


class PlanError(MiaotuiError):
    """A plan does not fit the checkpoint, or a program does not fit the op table."""


class ProfileError(MiaotuiError):
    """A profile that `miaotui tune` wrote is missing or damaged, or is for another model."""


class SequenceFileError(MiaotuiError):
    """A saved sequence is missing or damaged, or was saved by another model."""


class MemoryLimitError(MiaotuiError):
    """More memory than the caller's limit, than the GPU has free, or than the system gives."""


class InputError(MiaotuiError, ValueError):
    """An argument from outside is out of range: ids, positions, sampling parameters."""


class BackendError(MiaotuiError):
    """The machine cannot run what was asked: a missing extra, driver or instruction."""


class WorkerError(MiaotuiError):
    """A process that worked for this one ended, again and again."""


def shown(value: object, limit: int = 200) -> str:
    """An argument as a message shows it: its repr, cut short, and its type where it has none (10**5000 has none)."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a caller's object may raise anything
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def spelled_like(word: str, known: Iterable[str], count: int = 3, cutoff: float = 0.6) -> list[str]:
    """Of known words, those that are spelled most like this one, the nearest first: what a message may propose."""
    from difflib import get_close_matches  # noqa: PLC0415 - 0.1 MB, and for an error alone

    return get_close_matches(word, list(known), count, cutoff)


def is_iterable(value: object) -> TypeGuard[Iterable[Any]]:
    """Whether an argument holds others: an array of no dimensions is an `Iterable` that cannot be iterated."""
    if not isinstance(value, Iterable):
        return False
    try:
        iter(value)
    except TypeError:
        return False
    return True


@contextmanager
def numbered(number: int | None, place: str) -> Iterator[None]:
    """An error about one of several inputs says which, by `place`: "item {} of the input". None: there is only one."""
    try:
        yield
    except (InputError, TokenizerError) as e:
        if number is None:
            raise
        msg = f"{e} ({place.format(number)}, counted from 0)"
        raise type(e)(msg) from None
