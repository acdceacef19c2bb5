"""Handlers of signals may raise anything, anywhere: who catches whatever a library raises must let that through."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import CodeType

__all__ = ["raised_in_handler"]


def raised_in_handler(e: BaseException) -> None:
    """Raise `e`, or what led to it, again where a handler of a signal raised it."""
    codes = _codes()
    one: BaseException | None = e
    seen = set[int]()
    while one is not None and codes and id(one) not in seen:
        seen.add(id(one))
        at = one.__traceback__
        while at is not None:
            if at.tb_frame.f_code in codes:
                raise one
            at = at.tb_next
        one = one.__cause__ or one.__context__


def _codes() -> set[CodeType]:
    """The code of every handler that is set, be it a function, a method or an object that is called."""
    codes = set()
    for handler in map(signal.getsignal, signal.valid_signals()):
        if callable(handler) and handler is not signal.default_int_handler:
            function = getattr(handler, "__func__", handler)
            function = function if hasattr(function, "__code__") else type(function).__call__
            codes |= {function.__code__} if hasattr(function, "__code__") else set()
    return codes
