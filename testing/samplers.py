"""How the next id is chosen, in float64: what each filter leaves of a row of logits, and the draw.

Filters set to minus infinity what they take away, and go one after the other, as Hugging Face orders them: repetition
penalty, temperature, top-k, top-p, min-p, typical-p. What miaotui's own sampler draws is tested against these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, shown
from ..runtime import formulas
from .checked import array, count, last, number

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]

__all__ = ["draw", "min_p", "repetition_penalty", "temperature", "top_k", "top_p", "typical_p"]


def temperature(logits: ArrayLike, t: float) -> Array:
    """logits / t (Ackley et al. 1985). The trap: t = 0 is no division but the largest, the first of equals."""
    number("t", t, 0)
    return _logits(logits) / t


def repetition_penalty(logits: ArrayLike, ids: ArrayLike, penalty: float) -> Array:
    """Of each id that was there: divided by `penalty` above zero, multiplied below (Keskar et al. 2019, section 4.1).

    `logits` [n_vocab], `ids` [T]. The traps: an id counts once, however often it was there; the sign decides, so a
    shift of all logits changes the result.
    """
    x, at = _logits(logits), np.unique(np.asarray(ids, np.int64))
    number("penalty", penalty, 0)
    if x.ndim != 1 or (at.size and not 0 <= at[0] <= at[-1] < len(x)):
        msg = f"ids: {shown(ids)}: expected ids of one row's {last(x)}"
        raise InputError(msg)
    x[at] = np.where(x[at] > 0, x[at] / penalty, x[at] * penalty)
    return x


def top_k(logits: ArrayLike, k: int) -> Array:
    """The k largest, and what equals the least of them (Fan et al. 2018, section 5.1)."""
    count("k", k)
    x = _logits(logits)
    least = np.sort(x, -1)[..., max(0, last(x) - k), None]
    left: Array = np.where(x >= least, x, -np.inf)
    return left


def top_p(logits: ArrayLike, p: float) -> Array:
    """The fewest, largest first, whose probabilities reach p (Holtzman et al. 2020, eq. 2); of equals the lower ids.

    The trap: the one that reaches p is kept, so that one always is.
    """
    _share("p", p)
    return _ranked(_logits(logits), p, lambda y: -y)


def min_p(logits: ArrayLike, p: float) -> Array:
    """Those whose probability is at least p of the largest's (Nguyen et al. 2024, section 3)."""
    _share("p", p)
    x = _logits(logits)
    with np.errstate(divide="ignore"):
        return np.where(x - x.max(-1, keepdims=True) >= np.log(p), x, -np.inf)


def typical_p(logits: ArrayLike, p: float) -> Array:
    """As `top_p`, nearest to the row's entropy first: by |H + log q| (Meister et al. 2023, eq. 8)."""
    _share("p", p)

    def away(x: Array) -> Array:
        q = formulas.softmax(x)
        with np.errstate(divide="ignore", invalid="ignore"):
            surprise = -np.log(q)
            entropy = np.where(q > 0, q * surprise, 0).sum(-1, keepdims=True)
        off: Array = np.abs(surprise - entropy)
        return off

    return _ranked(_logits(logits), p, away)


def draw(logits: ArrayLike, u: ArrayLike) -> NDArray[np.int64]:
    """The first id, in the order of ids, at which the sum of probabilities exceeds `u` in [0, 1) (inversion).

    `logits` [..., n_vocab], `u` [...] -> [...]. The trap: the last sum may be below 1 by rounding; an id that a filter
    took away must not come then.
    """
    x, at = _logits(logits), np.asarray(u, np.float64)
    if at.shape != x.shape[:-1] or not np.all((at >= 0) & (at < 1)):
        msg = f"u={shown(u)}: expected for each row a number from 0 to below 1"
        raise InputError(msg)
    reached = np.cumsum(formulas.softmax(x), -1)
    ids: NDArray[np.int64] = (reached > (at * reached[..., -1])[..., None]).argmax(-1)
    return ids


def _ranked(x: Array, p: float, key: Callable[[Array], Array]) -> Array:
    """What comes first by `key`, until its probabilities reach p."""
    order = np.argsort(key(x), -1, kind="stable")
    q = np.take_along_axis(formulas.softmax(x), order, -1)
    before = np.cumsum(q, -1) - q
    kept = np.zeros(x.shape, bool)
    np.put_along_axis(kept, order, (before < p) & (q > 0), -1)
    return np.where(kept, x, -np.inf)


def _share(name: str, p: float) -> None:
    number(name, p, 0)
    if p > 1:
        msg = f"{name}={p}: expected at most 1"
        raise InputError(msg)


def _logits(value: ArrayLike) -> Array:
    """A copy. Minus infinity is an id that cannot come; one must be able to."""
    x = array("logits", value).copy()
    if not last(x) or not np.isfinite(x.max(-1)).all():
        msg = "logits: expected of each row numbers, minus infinity among them, and one that is finite"
        raise InputError(msg)
    return x
