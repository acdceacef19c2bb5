"""Handlers of signals may raise anything, anywhere: who catches whatever a library raises must let that through."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import CodeType

__all__ = ["raised_in_handler"]


def raised_in_handler(e: BaseException) -> None:
    """Raise `e`, or what led to it, again where a handler of a signal raised it."""
    one: BaseException | None = e
    codes, seen = _codes(), set[int]()
    try:
        while one is not None and codes and id(one) not in seen:
            seen.add(id(one))
            if _passed_by(one, codes):
                raise one
            one = one.__cause__ or one.__context__
    finally:
        del e, one  # an exception whose calls hold it keeps all that they hold, until the collector comes


def _passed_by(e: BaseException, codes: set[CodeType]) -> bool:
    """Whether it came through one of these functions."""
    at = e.__traceback__
    while at is not None:
        if at.tb_frame.f_code in codes:
            return True
        at = at.tb_next
    return False


def _codes() -> set[CodeType]:
    """The code of every handler that is set, be it a function, a method or an object that is called."""
    codes = set()
    for handler in map(signal.getsignal, signal.valid_signals()):
        if callable(handler) and handler is not signal.default_int_handler:
            function = getattr(handler, "__func__", handler)
            function = function if hasattr(function, "__code__") else type(function).__call__
            codes |= {function.__code__} if hasattr(function, "__code__") else set()
    return codes
