"""What parsing JSON will take, told from its bytes before any object is made.

Three bytes, `[],`, become an object of 80: a file within its bound could take thirty times its size. Brackets, colons,
commas and strings are counted outside strings, a piece at a time, and each is charged with what CPython makes of it.
"""

from __future__ import annotations

import numpy as np

from ..dataclass import dataclass

__all__ = ["Counts", "count"]

PIECE = 2**18  # bytes looked at at a time

#: Bytes of an object on 64-bit CPython 3.11 to 3.14, with its place in what holds it, as tracemalloc sees them.
LIST, OBJECT, ITEM, VALUE, STRING = 80, 184, 60, 40, 56

#: Signs that are counted, in the order of `Counts`.
SIGNS = b"[{:,"


@dataclass(frozen=True)
class Counts:
    """Of a JSON text: lists, objects, their items (a key with its value), commas, and strings."""

    lists: int
    objects: int
    items: int
    commas: int
    strings: int

    @property
    def values(self) -> int:
        """About how many values there are."""
        return self.commas + self.lists + self.objects

    @property
    def taken(self) -> int:
        """Bytes that the parsed objects take, about; the characters of strings are not in it."""
        listed = max(0, self.commas - self.items + self.objects)  # commas in lists, at most: numbers take memory there
        return LIST * self.lists + OBJECT * self.objects + ITEM * self.items + VALUE * listed + STRING * self.strings


def count(data: bytes) -> Counts:
    """Count a JSON text's brackets, colons and commas outside strings, and the strings."""
    if b"\\" in data:  # in this order: a quote after an even number of backslashes ends the string
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    bare, quotes, inside = np.zeros(len(SIGNS), np.int64), 0, np.uint8(0)
    for at in range(0, len(data), PIECE):
        piece = np.frombuffer(data, np.uint8, min(PIECE, len(data) - at), at)
        ends = piece == ord('"')
        within = np.cumsum(ends, dtype=np.uint8) + inside & 1  # wraps at 256, which is even
        outside = piece[within == 0]
        bare += [np.count_nonzero(outside == sign) for sign in SIGNS]
        quotes, inside = quotes + int(ends.sum()), within[-1]
    lists, objects, items, commas = map(int, bare)
    return Counts(lists, objects, items, commas, quotes // 2)
