"""Functions that several objects bring under one name: a linker takes the first, so all must be the same code.

Reads what compilers write for ELF machines of 64 bits with addends next to relocations (elf(5)).
"""

from __future__ import annotations

import bisect
import struct
from typing import TYPE_CHECKING, NamedTuple

from ..errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["check_clashes", "definitions"]

SYMBOLS, RELOCATIONS = 2, 4  # kinds of sections
WRITTEN, RUN = 1, 4  # what may be done with a section
MERGED = 0x10  # a section of constants of one size: each entry is known by its bytes alone
X86, PC32 = 62, 2  # a machine, and how its code refers to data: from the end of the field, which is four bytes
LINE = 64  # bytes of the longest vector
LOCAL, SECTION = 0, 3  # a symbol's binding, and its kind
UNDEFINED, SPECIAL = 0, 0xFF00  # numbers of sections


class _Section(NamedTuple):
    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry: int


class _Symbol(NamedTuple):
    name: str
    info: int
    section: int
    value: int
    size: int


def check_clashes(library: str, objects: Iterable[Path]) -> None:
    """Errors: `BackendError`: two of these objects have one name for different code."""
    first: dict[str, tuple[Path, tuple[object, ...]]] = {}
    for file in objects:
        for name, code in definitions(file.read_bytes()).items():
            other, its = first.setdefault(name, (file, code))
            if its != code:
                msg = (
                    f"{library}: {other.name} and {file.name} both define {name}, and not with the same code: of two "
                    "functions one would run in the other's place; give them different names"
                )
                raise BackendError(msg)


class _Reference(NamedTuple):
    """A relocation: where in its section, of what kind, what it names, and how far from it."""

    place: int
    kind: int
    symbol: _Symbol
    addend: int


def definitions(data: bytes) -> dict[str, tuple[object, ...]]:
    """What an object offers to others: by its name a function's bytes, and what they refer to.

    A constant counts by its value, wherever it lies. One of 64 bytes lies among tables of jumps, where nothing says how
    long it is: there the bytes count up to the next place that something refers to. Not compared: data that may be
    written, functions that nobody else sees, and a table that only another one leads to. ValueError: no such object.
    """
    if data[:6] != b"\x7fELF\x02\x01":
        msg = "compiled code is no ELF object of 64 bits"
        raise ValueError(msg)
    read = _Object(data)
    found: dict[str, tuple[object, ...]] = {}
    for s in read.symbols:
        if s.info >> 4 != LOCAL and UNDEFINED < s.section < SPECIAL:
            start, end = s.value, s.value + s.size
            at = read.sections[s.section].offset
            inside = sorted(r for r in read.references.get(s.section, ()) if start <= r.place < end)
            told = [(r.place - start, r.kind, *read.meaning(s.section, r, s)) for r in inside]
            found[s.name] = (data[at + start : at + end], *told)
    return found


class _Object:
    """An object's tables, and what its relocations refer to, said alike for any object."""

    def __init__(self, data: bytes) -> None:
        (self.machine,), (table,) = struct.unpack_from("<H", data, 18), struct.unpack_from("<Q", data, 40)
        size, count = struct.unpack_from("<HH", data, 58)
        self.data = data
        self.sections = [_Section(*struct.unpack_from("<IIQQQQIIQQ", data, table + i * size)) for i in range(count)]
        self.symbols = [s for one in self.sections if one.kind == SYMBOLS for s in _symbols(data, one, self.sections)]
        self.references: dict[int, list[_Reference]] = {}
        for section in self.sections:
            for at in range(section.offset, section.offset + section.size, 24) if section.kind == RELOCATIONS else ():
                place, what, addend = struct.unpack_from("<QQq", data, at)
                its = _Reference(place, what & 0xFFFFFFFF, self.symbols[what >> 32], addend)
                self.references.setdefault(section.info, []).append(its)
        places: dict[int, set[int]] = {}
        for of, several in self.references.items():
            for r in several:
                if self.constant(r.symbol.section):
                    places.setdefault(r.symbol.section, set()).add(self.place(of, r))
        self.places = {section: sorted(those) for section, those in places.items()}

    def constant(self, section: int) -> bool:
        """Whether it holds data that nobody writes, of any length."""
        return UNDEFINED < section < SPECIAL and not self.sections[section].flags & (WRITTEN | RUN | MERGED)

    def place(self, of: int, r: _Reference) -> int:
        """Where in a section of constants the one begins that a reference in section `of` means."""
        if r.symbol.info & 15 != SECTION:
            return r.symbol.value
        if self.machine != X86 or r.kind != PC32 or not self.sections[of].flags & RUN:
            return r.addend
        # x86 counts from the instruction's end: after the field may come a byte that says what is done with a vector
        place = r.addend + 4
        return place + 1 if self.sections[r.symbol.section].align >= LINE and (place + 1) % LINE == 0 else place

    def meaning(self, of: int, r: _Reference, function: _Symbol) -> tuple[object, ...]:
        """What a reference in section `of` means: a name or a constant, and how far from it."""
        s = r.symbol
        if s.info >> 4 != LOCAL or not UNDEFINED < s.section < SPECIAL:
            return s.name, r.addend
        section = self.sections[s.section]
        if section.flags & MERGED:
            # x86 counts from the instruction's end, and names each constant; ARM counts from the section's start
            within, rest = (r.addend, 0) if s.info & 15 == SECTION else (s.value, r.addend)
            return self.data[section.offset + within : section.offset + within + section.entry], rest
        if self.constant(s.section) and self.sections[of].flags & RUN:
            return *self.value(s.section, self.place(of, r), function), 0 if s.info & 15 == SECTION else r.addend
        if s.section == function.section and section.flags & RUN and not self.sections[of].flags & RUN:
            return "a place in it", s.value + r.addend - function.value  # of a table of jumps
        return "of its own", 0  # a function that nobody else sees, or what may be written

    def value(self, number: int, start: int, function: _Symbol) -> tuple[object, ...]:
        """The bytes of a constant that a function refers to, without zeros after them, and what they refer to."""
        section, places = self.sections[number], self.places[number]
        after = bisect.bisect_right(places, start)
        end = places[after] if after < len(places) else section.size
        inside = sorted(r for r in self.references.get(number, ()) if start <= r.place < end)
        return (
            self.data[section.offset + start : section.offset + end].rstrip(b"\0"),
            *((r.place - start, r.kind, *self.meaning(number, r, function)) for r in inside),
        )


def _symbols(data: bytes, section: _Section, sections: list[_Section]) -> list[_Symbol]:
    strings, found = sections[section.link].offset, []
    for at in range(section.offset, section.offset + section.size, 24):
        begin, info, _, where, value, size = struct.unpack_from("<IBBHQQ", data, at)
        name = data[strings + begin : data.index(b"\0", strings + begin)].decode()
        found.append(_Symbol(name, info, where, value, size))
    return found
