"""A property that is computed at first use and kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["once"]

T = TypeVar("T")


class once(Generic[T]):  # noqa: N801 - a decorator, as `property`
    """As `functools.cached_property`, which in Python 3.11 has a lock: a fork leaves it held in the child for ever.

    Threads that meet may each compute the value; what the first of them kept is everybody's.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        """`make(instance)` computes it."""
        self._make, self.__doc__ = make, make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        """Where an instance keeps it: there it hides this descriptor."""
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type | None = None) -> T: ...

    def __get__(self, instance: object | None, owner: type | None = None) -> T | Self:
        """Compute it, and keep it."""
        if instance is None:
            return self
        kept: T = vars(instance).setdefault(self._name, self._make(instance))
        return kept
