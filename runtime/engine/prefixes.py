"""Texts that begin alike: whose pages of the cache a new text may share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Sequence as Ids

    from ..pages import Table

__all__ = ["LEAST", "begins_like", "best"]

#: Fewer tokens are computed as fast as a page is copied.
LEAST = 16
#: Ids that are compared at once.
_BLOCK = 64


def begins_like(a: Ids[int], b: Ids[int], most: int) -> int:
    """How many of the first `most` ids are the same in both."""
    most = min(most, len(a), len(b))
    at = 0
    while at < most and a[at : at + _BLOCK] == b[at : at + _BLOCK]:
        at += _BLOCK
    while at < most and a[at] == b[at]:
        at += 1
    return min(at, most)


def best(table: Table, ids: Ids[int], tables: Iterable[Table], most: int) -> tuple[Table | None, int]:
    """Of tables, the one that holds most of the beginning of a text, and how many of its ids; at most `most`."""
    donor, n = None, LEAST - 1
    for other in tables:
        if other is table or other.cached <= n or other.gap:  # what has a gap does not begin like its text
            continue
        if other.kind == table.kind:
            alike = begins_like(other.ids, ids, min(other.cached, most))
            if alike > n:
                donor, n = other, alike
    return donor, n if donor is not None else 0
