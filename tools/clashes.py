"""Functions that several objects bring under one name: a linker takes the first, so all must be the same code.

Reads what compilers write for ELF machines of 64 bits with addends next to relocations (elf(5)).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from ..errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["check_clashes", "definitions"]

SYMBOLS, RELOCATIONS = 2, 4  # kinds of sections
MERGED = 0x10  # a section of constants: each entry is known by its bytes alone
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


def definitions(data: bytes) -> dict[str, tuple[object, ...]]:
    """What an object offers to others: by its name a function's bytes, and what they refer to.

    A constant counts by its value, wherever it lies. ValueError: it is no such object.
    """
    if data[:6] != b"\x7fELF\x02\x01":
        msg = "compiled code is no ELF object of 64 bits"
        raise ValueError(msg)
    (table,), (size, count) = struct.unpack_from("<Q", data, 40), struct.unpack_from("<HH", data, 58)
    sections = [_Section(*struct.unpack_from("<IIQQQQIIQQ", data, table + i * size)) for i in range(count)]
    symbols = [s for section in sections if section.kind == SYMBOLS for s in _symbols(data, section, sections)]
    refers: dict[int, list[tuple[int, int, str | bytes, int]]] = {}
    for section in sections:
        for at in range(section.offset, section.offset + section.size, 24) if section.kind == RELOCATIONS else ():
            place, what, addend = struct.unpack_from("<QQq", data, at)
            target = _meaning(data, symbols[what >> 32], addend, sections)
            refers.setdefault(section.info, []).append((place, what & 0xFFFFFFFF, *target))
    found: dict[str, tuple[object, ...]] = {}
    for s in symbols:
        if s.info >> 4 != LOCAL and UNDEFINED < s.section < SPECIAL:
            start, end = s.value, s.value + s.size
            at = sections[s.section].offset
            inside = [(p - start, *rest) for p, *rest in refers.get(s.section, ()) if start <= p < end]
            found[s.name] = (data[at + start : at + end], *sorted(inside, key=lambda one: one[0]))
    return found


def _symbols(data: bytes, section: _Section, sections: list[_Section]) -> list[_Symbol]:
    strings, found = sections[section.link].offset, []
    for at in range(section.offset, section.offset + section.size, 24):
        begin, info, _, where, value, size = struct.unpack_from("<IBBHQQ", data, at)
        name = data[strings + begin : data.index(b"\0", strings + begin)].decode()
        found.append(_Symbol(name, info, where, value, size))
    return found


def _meaning(data: bytes, s: _Symbol, addend: int, sections: list[_Section]) -> tuple[str | bytes, int]:
    """What a relocation refers to, said alike for any object: a name or a constant, and how far from it."""
    if s.info >> 4 != LOCAL or not UNDEFINED < s.section < SPECIAL:
        return s.name, addend
    section = sections[s.section]
    if not section.flags & MERGED:
        return "of its own", 0  # a table of jumps, or a function that nobody else sees
    # x86 counts from the instruction's end, and names each constant; ARM counts from the section's start
    within, rest = (addend, 0) if s.info & 15 == SECTION else (s.value, addend)
    return data[section.offset + within : section.offset + within + section.entry], rest
