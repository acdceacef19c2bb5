"""What `reference` and `kernels` are given: looked at, and in float64. Errors: `InputError`, which names it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]

__all__ = ["array", "by_rows", "count", "divides", "last", "number", "one_of", "perhaps", "same", "vector"]


def array(name: str, value: ArrayLike, ndim: int | None = None) -> Array:
    """float64, of `ndim` dimensions, of one at least."""
    try:
        x = np.asarray(value)
        if x.dtype.kind != "c":
            x = x.astype(np.float64) if x.dtype.kind in "fiub" else np.asarray(value, np.float64)
    except (TypeError, ValueError) as e:
        msg = f"{name}: {shown(value)} is no array of numbers ({e})"
        raise InputError(msg) from e
    if x.dtype.kind == "c" or isinstance(value, np.ma.MaskedArray):
        msg = f"{name}: is {'complex' if x.dtype.kind == 'c' else 'masked'}; expected real numbers, every one"
        raise InputError(msg)
    if ndim is not None and x.ndim != ndim:
        msg = f"{name}: has shape {x.shape}; expected {ndim} dimensions"
        raise InputError(msg)
    if x.ndim == 0:
        msg = f"{name}: is one number; expected an array"
        raise InputError(msg)
    return x


def vector(name: str, value: ArrayLike, n: int) -> Array:
    """float64 [n]."""
    x = array(name, value, 1)
    same(name, len(x), "what it belongs to", n)
    return x


def perhaps(name: str, value: ArrayLike | None, n: int) -> Array | None:
    """The same; None for None."""
    return None if value is None else vector(name, value, n)


def same(what: str, found: object, of: str, wanted: object) -> None:
    """Say where two sizes differ."""
    if found != wanted:
        msg = f"{what}: {found}; expected {wanted}, as {of}"
        raise InputError(msg)


def divides(what: str, n: int, of: str, whole: int) -> None:
    """Say where something cannot be cut into `n` equal pieces."""
    count(what, n)
    if whole % n:
        msg = f"{what}={n}: expected a divisor of {whole}, {of}"
        raise InputError(msg)


def count(what: str, n: object) -> None:
    """Say where a number is no whole one, or below 1."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        msg = f"{what}={shown(n)}: expected a whole number, at least 1"
        raise InputError(msg)


def number(what: str, x: object, least: float = -math.inf) -> None:
    """Say where something is no finite number above `least`."""
    if isinstance(x, bool) or not isinstance(x, int | float | np.number) or not math.isfinite(x) or x <= least:
        above = "" if least == -math.inf else f" above {least:g}"
        msg = f"{what}={shown(x)}: expected a finite number{above}"
        raise InputError(msg)


def one_of(what: str, value: object, known: tuple[str, ...]) -> None:
    """Say where a word is none of those known."""
    if not isinstance(value, str) or value not in known:
        msg = f"{what}={shown(value)}: expected one of {', '.join(known)}"
        raise InputError(msg)


def last(x: Array) -> int:
    """Size of the last axis."""
    return int(x.shape[-1])


def by_rows(x: Array, op: Callable[[Array], Array]) -> Array:
    """An op of rows [t, d], for any axes before the last."""
    y = op(x.reshape(-1, x.shape[-1]) if x.size else np.zeros((math.prod(x.shape[:-1]), x.shape[-1])))
    return y.reshape(*x.shape[:-1], y.shape[-1])
