"""An answer, or vectors, that come one by one, as an iterator whose errors are typed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, NoReturn, Self, TypeVar

from ..errors import InputError
from .memory import memory_named

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["Stream", "VectorStream"]

R = TypeVar("R")
T = TypeVar("T")


class Stream(Iterator[T], Generic[T]):
    """What a generator makes. Any thread may read it, one at a time; dropped or closed, it computes nothing more.

    Errors: `InputError` where another thread is inside, or was when the process forked; `MemoryLimitError`.
    """

    def __init__(self, made: Generator[T, None, None]) -> None:
        """Made by `stream`, `tokens` and `encode`."""
        self._made = made

    @memory_named("the next token")
    def __next__(self) -> T:
        """Compute the next piece."""
        return self._alone(self._made.__next__)

    @memory_named("close")
    def close(self) -> None:
        """End it. Harmless when done twice."""
        self._alone(self._made.close)

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refused: `pickle`, `copy`, `deepcopy`."""
        msg = "a stream cannot be copied or pickled; make another, or a list of what it returns"
        raise InputError(msg)

    @staticmethod
    def _alone(act: Callable[[], R]) -> R:
        try:
            return act()
        except ValueError as e:
            if str(e) != "generator already executing":
                raise
            msg = (
                "another thread is reading this stream, or was when this process forked; give each thread its own "
                "stream, and make streams after the fork"
            )
            raise InputError(msg) from None


class VectorStream(Stream[T]):
    """As `Stream`, of `encode`."""

    @memory_named("the next vector")
    def __next__(self) -> T:
        """Compute the next vector."""
        return self._alone(self._made.__next__)
