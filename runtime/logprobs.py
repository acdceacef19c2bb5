"""Log-probabilities: the natural logarithm of the softmax of a row of raw logits, as float64.

log p_i = (z_i - max z) - log sum_j exp(z_j - max z), z as the model gives them: before rules, penalties, temperature
and whatever else changes a row before an id is drawn. The sum is taken exactly, in whole numbers, so that it has the
same bits in any order; `exp` is our own polynomial.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dataclass import dataclass
from ..errors import InputError, shown
from .sampling import exp, not_numbers, unit_bits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["LOGPROBS", "LogProbs", "Logprob", "LogprobParams", "logprobs_from", "told_of"]

#: The parameters that ask for them.
LOGPROBS = ("logprobs", "top_logprobs", "echo")
#: `exp` takes no less, and e to it rounds to none of the units that are added.
_LEAST = -700.0


@dataclass(frozen=True)
class Logprob:
    """An id of a text, and how likely it was: None where nothing stands before it.

    `top_logprobs`: the likeliest ids in its place and their log-probabilities, the likeliest first, the lower id first
    among equals.
    """

    id: int
    logprob: float | None
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class LogprobParams:
    """What is told of each id: the `n_top` likeliest in its place; `echo`: of the prompt's ids too."""

    n_top: int = 0
    echo: bool = False


class LogProbs:
    """log p by one row of logits."""

    def __init__(self, row: NDArray[np.float32], position: int, so: str = "no id has a log-probability") -> None:
        """`row`: [n_vocab], which is read by every call; `position`: that of the id which it follows.

        Errors: `InputError` where a logit is NaN or +inf, or all are -inf: `so` says what comes of it.
        """
        self._row, self._largest = row, float(row.max())
        if not math.isfinite(self._largest):
            raise not_numbers(position, so)
        self._log_sum = math.log(_exact_sum(row.astype(np.float64) - self._largest))

    def of(self, token: int) -> float:
        """Of an id."""
        return (float(self._row[token]) - self._largest) - self._log_sum

    def told(self, token: int, n_top: int = 0) -> Logprob:
        """Of an id, with the `n_top` likeliest."""
        return Logprob(token, self.of(token), tuple((i, self.of(i)) for i in self._top(n_top)))

    def _top(self, n: int) -> list[int]:
        if n < 1:
            return []
        row = self._row
        least = np.partition(row, row.size - n)[row.size - n]
        ids = np.flatnonzero(row >= least)  # ascending: with what ties with the n-th
        order: list[int] = ids[np.argsort(-row[ids], kind="stable")][:n].tolist()
        return order


def _exact_sum(exponents: NDArray[np.float64]) -> float:
    """Sum of e to each, all of them at most 0: of values rounded to 2^-88 at least, added without error."""
    unit = unit_bits(exponents.size)
    powers = exp(np.maximum(exponents, _LEAST, out=exponents), out=exponents)
    powers *= 2.0**unit
    whole = np.rint(powers)
    powers -= whole  # exact
    powers *= 2.0**unit
    high, low = int(whole.astype(np.int64).sum()), int(np.rint(powers).astype(np.int64).sum())
    return ((high << unit) + low) / (1 << 2 * unit)


def logprobs_from(given: Mapping[str, Any], n_vocab: int | None = None) -> LogprobParams | None:
    """From the parameters `LOGPROBS`: any of them asks for log-probabilities. None: none does. Errors: `InputError`."""
    asked = _flag(given, "logprobs")
    echo, n_top = _flag(given, "echo"), given.get("top_logprobs", 0)
    most = math.inf if n_vocab is None else n_vocab
    whole = isinstance(n_top, Integral) and not isinstance(n_top, bool | np.bool_)
    if not whole or not 0 <= n_top <= most:
        upto = "an integer >= 0" if n_vocab is None else f"an integer from 0 to {n_vocab}, the vocabulary"
        msg = f"top_logprobs={shown(n_top)}: expected {upto}"
        raise InputError(msg)
    if asked is False and (echo or n_top):
        what = "echo=True" if echo else f"top_logprobs={shown(n_top)}"
        msg = f"logprobs=False: {what} asks for log-probabilities; leave one of them out"
        raise InputError(msg)
    return LogprobParams(int(n_top), bool(echo)) if asked or echo or n_top else None


def _flag(given: Mapping[str, Any], name: str) -> bool | None:
    value = given.get(name)
    if value is not None and not isinstance(value, bool | np.bool_):
        several = name == "logprobs" and isinstance(value, Integral)
        how = f"; top_logprobs={shown(value)} tells the likeliest ids too" if several else ""
        msg = f"{name}={shown(value)}: expected True or False{how}"
        raise InputError(msg)
    return None if value is None else bool(value)


def told_of(rows: NDArray[np.float32], ids: Sequence[int], first: int, params: LogprobParams) -> tuple[Logprob, ...]:
    """Of the ids from `first` on of a text, each by its row of [ids, n_vocab]: that of the id before it."""
    return tuple(
        LogProbs(row, first + i - 1).told(token, params.n_top)
        for i, (row, token) in enumerate(zip(rows, ids, strict=True))
    )
