"""`logits_processor`: functions of the caller's own that change a row of logits before an id is drawn from it."""

from __future__ import annotations

import math
from opcode import opmap
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    #: `f(ids, row)`: the whole text's ids so far, and float32 [n_vocab], which it may change, or return another of.
    Processor = Callable[[list[int], NDArray[np.float32]], NDArray[np.float32] | None]

__all__ = ["ends_one_text", "processed", "processors_from"]

_NAME = "logits_processor"
_RAISE = opmap["RAISE_VARARGS"]


def processors_from(value: object) -> tuple[Processor, ...]:
    """One function, or several, which run in their order. Errors: `InputError`."""
    if value is None:
        return ()
    several = tuple(value) if isinstance(value, list | tuple) else (value,)
    for i, each in enumerate(several):
        if not callable(each):
            where = f"[{i}]" if isinstance(value, list | tuple) else ""
            msg = f"{_NAME}{where}={shown(each)}: expected a function f(ids, row), or a list of them"
            raise InputError(msg)
    return several


def processed(
    processors: Iterable[Processor], ids: Sequence[int], row: NDArray[np.float32], *, repairs: bool = False
) -> NDArray[np.float32]:
    """What they leave of [n_vocab] logits of what follows `ids`. The row is theirs: they may change and keep it.

    `repairs`: they may leave what is no number. Errors: `InputError` where one leaves, or returns, something else than
    such a row, or one that no id can be drawn from; whatever a function raises.
    """
    shape, dtype = row.shape, row.dtype
    for i, each in enumerate(processors):
        made: Any = each(list(ids), row)
        how = "left" if made is None or made is row else "returned"
        made = row if made is None else made
        if not isinstance(made, np.ndarray) or made.dtype != dtype or made.shape != shape:
            msg = f"{_called(i, each)} {how} {_kind(made)}; expected None, or {dtype} of shape {shape}"
            raise InputError(msg)
        if made is not row or not row.flags.writeable:
            row = np.array(made)
        largest = float(row.max())
        if not repairs and not math.isfinite(largest):
            what = "NaN in its row" if math.isnan(largest) else "+inf in its row" if largest > 0 else "-inf alone"
            msg = f"{_called(i, each)} left {what} after position {len(ids) - 1}, so no token can be drawn; leave a "
            msg += "finite logit for at least one, and -inf for what must not come"
            raise InputError(msg)
    return row


def ends_one_text(e: BaseException) -> bool:
    """Whether what came of handing a row to a text is that text's alone.

    Any `Exception` is, and what is none (`SystemExit`, a class of its own) where a caller's function raised it.

    A function runs in the thread that takes the pass, which may be another caller's. Ctrl-C that strikes there is that
    thread's own: Python raises it between two instructions, and a function its own `KeyboardInterrupt` by a `raise`.
    """
    at, inside = e.__traceback__, False
    try:
        while at is not None and at.tb_next is not None:
            inside = inside or at.tb_frame.f_code is processed.__code__
            at = at.tb_next
        if isinstance(e, Exception) or at is None or not inside:
            return isinstance(e, Exception)
        return not isinstance(e, KeyboardInterrupt) or at.tb_frame.f_code.co_code[at.tb_lasti] == _RAISE
    finally:
        del e, at  # an exception whose calls hold it keeps all that they hold


def _called(i: int, function: Processor) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    return f"{_NAME} {i} ({name})"


def _kind(value: object) -> str:
    return f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else f"{type(value).__name__}"
