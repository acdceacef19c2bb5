"""From tags of words (B-PER I-PER O) to entities, by the rules of conlleval, which seqeval has too.

IOB1, IOB2, IOBES and BILOU are read alike: an entity ends where its type changes, and where its tag or the next one
says so.
Source: Sang and Buchholz 2000, conlleval.pl.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["entities_of", "parted"]

#: Begin, inside, end and last, single and unit.
PREFIXES = "BIELSU"


def parted(tag: str) -> tuple[str, str]:
    """Prefix and type of a tag: ("B", "PER") of B-PER, ("O", "") of O; one without a prefix is inside of its type."""
    if tag in ("O", ""):
        return "O", ""
    prefix, _, kind = tag.partition("-")
    return (prefix, kind or "_") if len(prefix) == 1 and prefix in PREFIXES else ("I", tag)


def entities_of(tags: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Type, first and last word of each entity."""
    before, of, first = "O", "", 0
    for i, tag in enumerate((*tags, "O")):
        prefix, kind = parted(tag)
        inside = before != "O"
        if inside and (kind != of or before in "ELSU" or prefix in "BSU"):
            yield of, first, i - 1
            inside = False
        if not inside:
            first = i
        before, of = prefix, kind
