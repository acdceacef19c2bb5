"""Kept indices as ranges [start, stop), ascending and apart: what plans are written in and bytes are read by."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ..errors import MiaotuiError, PlanError
from .files import quote

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ["MAX_INDEX", "Ranges", "as_indices", "as_ranges", "read_indices", "read_order", "show", "spread"]

Ranges = tuple[tuple[int, int], ...]

#: Most indices in one set: above any vocabulary and width, below what would hurt to write out.
MAX_INDICES = 2**22
_PIECE = re.compile(r"([0-9]{1,9})(?:\s*-\s*([0-9]{1,9}))?")


def as_ranges(indices: Iterable[int]) -> Ranges:
    """Ascending indices -> ranges; neighbours join."""
    ranges: list[tuple[int, int]] = []
    for i in indices:
        if ranges and ranges[-1][1] == i:
            ranges[-1] = (ranges[-1][0], i + 1)
        else:
            ranges.append((i, i + 1))
    return tuple(ranges)


def as_indices(ranges: Ranges) -> NDArray[np.int64]:
    """Ranges -> int64 [n]."""
    return np.concatenate([np.arange(*r) for r in ranges]) if ranges else np.empty(0, np.int64)


def spread(ranges: Ranges, each: int, base: int = 0) -> Ranges:
    """Ranges of pieces -> ranges of their elements: each piece has `each`, the first begins at `base`."""
    if each == 1 and base == 0:
        return ranges  # thousands of them, where a cut is scattered: one copy serves every weight
    return tuple((base + a * each, base + b * each) for a, b in ranges)


def show(indices: Iterable[int]) -> str:
    """Ascending indices as text: "0-2,5"."""
    return ",".join(f"{a}-{b - 1}" if b - a > 1 else str(a) for a, b in as_ranges(indices))


#: Beyond any model's.
MAX_INDEX = 2**40


def read_indices(value: object, what: str, error: type[MiaotuiError] = PlanError) -> tuple[int, ...]:
    """A set of indices from "0-2,5", an iterable of integers, or one integer -> ascending, each once.

    Raises `error` for what is none of these, for a negative index and for one that is named twice.
    """
    indices = read_order(value, what, error)
    ascending = sorted(indices)
    twice = next((a for a, b in pairwise(ascending) if a == b), None)
    if twice is not None:
        msg = f"{what}: {twice} is named twice; name each index once"
        raise error(msg)
    return tuple(ascending)


def read_order(value: object, what: str, error: type[MiaotuiError] = PlanError) -> tuple[int, ...]:
    """Indices as `read_indices` reads them, in the order given; any may come twice."""
    if isinstance(value, str):
        indices = _from_text(value, what, error)
    elif isinstance(value, int | np.integer) and not isinstance(value, bool):
        indices = [int(value)]
    else:
        try:
            listed = list(value)  # type: ignore[call-overload]  # what cannot be iterated is refused below
        except TypeError:
            listed = [None]
        if any(isinstance(i, bool) or not isinstance(i, int | np.integer) for i in listed):
            msg = f"{what}: found {quote(value)}; expected indices, for instance '0-2,5' or [0, 1, 2, 5]"
            raise error(msg)
        indices = [int(i) for i in listed]
    if indices and min(indices) < 0:
        msg = f"{what}: {quote(min(indices))} is negative; indices count from 0"
        raise error(msg)
    if indices and max(indices) > MAX_INDEX:
        msg = f"{what}: found {quote(max(indices))}; expected indices of at most 2**40"
        raise error(msg)
    return tuple(indices)


def _from_text(text: str, what: str, error: type[MiaotuiError]) -> list[int]:
    indices: list[int] = []
    for piece in text.split(",") if text.strip() else ():
        match = _PIECE.fullmatch(piece.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first or len(indices) + last - first >= MAX_INDICES:
            msg = f"{what}: {quote(piece)} in {quote(text)} is no index or range such as 3 or 0-2"
            raise error(msg)
        indices.extend(range(first, last + 1))
    return indices
