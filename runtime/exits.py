"""Several context managers that are left together, and what is raised meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Self

__all__ = ["Exits"]

T = TypeVar("T")


class Exits:
    """As `contextlib.ExitStack`, of which nothing stays behind.

    What is raised as an `ExitStack` is left is in a circle with the call of its `__exit__`, which holds what it was
    about to leave, too: a text that Ctrl-C kept from closing would hold its pages until the garbage collector comes.
    None of its managers may swallow an exception.
    """

    def __init__(self) -> None:
        """Nothing is to be left."""
        self._exits: list[Callable[..., object]] = []

    def enter_context(self, manager: AbstractContextManager[T, Any]) -> T:
        """Enter it; it is left before those that were entered earlier."""
        value = manager.__enter__()
        self._exits.append(manager.__exit__)
        return value

    def callback(self, work: Callable[..., object], *arguments: object) -> None:
        """Do work as this is left."""
        self._exits.append(lambda *_: work(*arguments))

    def close(self) -> None:
        """Leave them all."""
        self.__exit__(None, None, None)

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave them, the last first. Each is told of the last exception, which is raised when all are left."""
        last, leave = error, None
        try:
            while self._exits:
                leave = self._exits.pop()
                try:
                    leave(None if last is None else type(last), last, None if last is None else last.__traceback__)
                except BaseException as e:  # noqa: BLE001 - raised below
                    last = e
            if last is not None and last is not error:
                raise last
        finally:
            del last, leave, error, traceback
