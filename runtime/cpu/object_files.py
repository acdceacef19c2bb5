"""From object code to an address, with llvmlite alone: no Numba, no compiler.

MCJIT ends the process where a symbol cannot be found, so the object's symbol table is read first.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import TYPE_CHECKING

from .cache import read
from .shipped import symbol
from .target import llvm_binding

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

__all__ = ["SECTION_UNDEFINED", "kept", "load", "symbols", "undefined"]

SYMBOL_TABLE, SECTION_UNDEFINED = 2, 0


def kept(directory: Path, name: str) -> int | None:
    """Address of a kernel whose code is kept, is whole, and finds here all that it calls; else None."""
    code = read(directory, name)
    return None if code is None else load(code, name)


def load(code: bytes, name: str) -> int | None:
    """Address of a kernel in its ELF object; None where it, or anything that the object calls, is not to be found.

    The memory is never given back: threads may be inside at the very end of the process.
    """
    llvm = _initialised()
    try:
        machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(jit=True)
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)  # opens the process's own symbols too
        if any(llvm.address_of_symbol(needed) is None for needed in undefined(code)):
            return None
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        address = int(engine.get_function_address(symbol(name)))
    except (RuntimeError, ValueError):  # LLVM's, or no such object
        return None
    engine.detach()
    return address or None


@cache
def _initialised() -> ModuleType:
    llvm = llvm_binding()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


def undefined(code: bytes) -> list[str]:
    """Symbols that an ELF object of 64 bits expects elsewhere. ValueError: it is none."""
    return [name for name, section in symbols(code) if section == SECTION_UNDEFINED]


def symbols(code: bytes) -> list[tuple[str, int]]:
    """Names in an ELF object of 64 bits, and their sections' numbers. ValueError: it is none. Source: elf(5)."""
    order = {b"\x7fELF\x02\x01": "<", b"\x7fELF\x02\x02": ">"}.get(code[:6], "no such order")
    try:
        (table,) = struct.unpack_from(f"{order}Q", code, 40)
        size, count = struct.unpack_from(f"{order}HH", code, 58)
        # of a section: name, kind, flags, address, offset, bytes, linked section, ...
        sections = [struct.unpack_from(f"{order}IIQQQQI", code, table + i * size) for i in range(count)]
        found = []
        for section in sections:
            if section[1] != SYMBOL_TABLE:
                continue
            strings = sections[section[6]][4]
            for at in range(section[4], section[4] + section[5], 24):
                name, _, _, where = struct.unpack_from(f"{order}IBBH", code, at)
                if name:
                    found.append((code[strings + name : code.index(b"\0", strings + name)].decode(), where))
    except (struct.error, IndexError) as e:
        msg = "compiled code is no ELF object of 64 bits"
        raise ValueError(msg) from e
    return found
