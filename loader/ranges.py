"""Kept indices as ranges [start, stop), ascending and apart: what plans are written in and bytes are read by."""

from __future__ import annotations

import re
from itertools import islice, pairwise
from typing import TYPE_CHECKING

import numpy as np

from ..errors import MiaotuiError, PlanError
from .files import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

__all__ = [
    "MAX_INDEX",
    "Ranges",
    "as_indices",
    "as_ranges",
    "count_named",
    "last_named",
    "read_indices",
    "read_order",
    "read_ranges",
    "show",
    "spread",
]

Ranges = tuple[tuple[int, int], ...]

#: Most indices in one set: above any vocabulary and width, below what would hurt to write out.
MAX_INDICES = 2**22
_DIGITS = 9
_PIECE = re.compile(rf"([0-9]{{1,{_DIGITS}}})(?:\s*-\s*([0-9]{{1,{_DIGITS}}}))?")


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
    if not ranges:
        return np.empty(0, np.int64)
    starts, stops = np.array(ranges, np.int64).T
    lengths = stops - starts
    found: NDArray[np.int64] = np.arange(lengths.sum()) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return found


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
        raise error(_twice(what, twice))
    return tuple(ascending)


def read_ranges(value: object, what: str, error: type[MiaotuiError] = PlanError) -> Ranges:
    """As `read_indices`, as ranges: those of a text are not written out."""
    if not isinstance(value, str):
        return as_ranges(read_indices(value, what, error))
    spans = []
    for piece, first, last in _pieces(value):
        if last < first:
            raise error(_no_range(what, piece, value))
        spans.append((first, last + 1))
    ranges: list[tuple[int, int]] = []
    for first, stop in sorted(spans):
        if ranges and first < ranges[-1][1]:
            raise error(_twice(what, first))
        before = ranges.pop()[0] if ranges and first == ranges[-1][1] else first  # neighbours join
        ranges.append((before, stop))
    return tuple(ranges)


def _twice(what: str, index: int) -> str:
    return f"{what}: {index} is named twice; name each index once"


def read_order(value: object, what: str, error: type[MiaotuiError] = PlanError) -> tuple[int, ...]:
    """Indices as `read_indices` reads them, in the order given; any may come twice."""
    if isinstance(value, str):
        indices = _from_text(value, what, error)
    elif isinstance(value, int | np.integer) and not isinstance(value, bool):
        indices = [int(value)]
    else:
        try:
            listed = list(islice(value, MAX_INDICES + 1))  # type: ignore[call-overload]  # what cannot be is refused
        except TypeError:
            listed = [None]
        if any(isinstance(i, bool) or not isinstance(i, int | np.integer) for i in listed):
            msg = f"{what}: found {quote(value)}; expected indices, for instance '0-2,5' or [0, 1, 2, 5]"
            raise error(msg)
        if len(listed) > MAX_INDICES:
            raise error(_too_many(what))
        indices = [int(i) for i in listed]
    if indices and min(indices) < 0:
        msg = f"{what}: {quote(min(indices))} is negative; indices count from 0"
        raise error(msg)
    if indices and max(indices) > MAX_INDEX:
        msg = f"{what}: found {quote(max(indices))}; expected indices of at most 2**40"
        raise error(msg)
    return tuple(indices)


def _from_text(text: str, what: str, error: type[MiaotuiError]) -> list[int]:
    if count_named(text) > MAX_INDICES:
        raise error(_too_many(what))
    plain = _plain(text)
    if plain is not None:
        return list(map(int, plain))
    indices: list[int] = []
    for piece, first, last in _pieces(text):
        if last < first:
            raise error(_no_range(what, piece, text))
        indices.extend(range(first, last + 1))
    return indices


def _too_many(what: str) -> str:
    return f"{what}: names more than {MAX_INDICES} indices; expected no more"


def _plain(text: str) -> list[str] | None:
    """The pieces of a text that is indices and commas alone; None of another. A million take a tenth of a second."""
    pieces = text.split(",")
    if not text.isascii() or not text.replace(",", "").isdigit():
        return None
    lengths = set(map(len, pieces))
    return pieces if min(lengths) >= 1 and max(lengths) <= _DIGITS else None


def _no_range(what: str, piece: str, text: str) -> str:
    return f"{what}: {quote(piece)} in {quote(text)} is no index or range such as 3 or 0-2"


def _pieces(text: str) -> Iterator[tuple[str, int, int]]:
    """Every piece of "0-2,5", its first and its last index, nothing written out; last < first: it is neither."""
    for piece in text.split(",") if text.strip() else ():
        match = _PIECE.fullmatch(piece.strip())
        yield piece, *((int(match[1]), int(match[2] or match[1])) if match else (1, 0))


def last_named(value: object) -> int | None:
    """The largest index in "0-2,5", which is not written out for it; None of what is no such text."""
    if not isinstance(value, str):
        return None
    return max((last for _, first, last in _pieces(value) if first <= last), default=None)


def count_named(value: object) -> int:
    """How many indices "0-2,5", a list or a tuple names; nothing is written out for it. 0 of anything else.

    Of a text with more commas than a set may have indices, how many there are at least.
    """
    if isinstance(value, str):
        commas = value.count(",")
        if commas >= MAX_INDICES or _plain(value) is not None:
            return commas + 1
        return sum(max(0, last + 1 - first) for _, first, last in _pieces(value))
    return len(value) if isinstance(value, list | tuple | range) else 0
