"""From a function's name to object code: the only door to Numba on the way to a token (but for `prange.py`).

Numba's `cfunc` would add a path that calls back into Python when an exception arises; it names symbols of Numba's own,
which a start without Numba does not have. Kernels raise nothing, so our entry is two instructions: call, return. How
to get at the code is no public interface of Numba: where that fails, `in_memory` uses the public one and nothing is
kept.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llvmlite.binding as llvm
import numba
from llvmlite import ir
from numba import types

from .cache import write
from .interpreter import CODE
from .kernels import KERNELS
from .layout import ARGUMENTS, REQUEST, ROOTS
from .shipped import symbol
from .target import SHARED, code_key

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["in_memory", "main", "object_code"]

_KEPT: list[Any] = []


def _function(name: str) -> Callable[..., None]:
    return CODE[name] if name in ROOTS else KERNELS[name]


def object_code(name: str, twin: str = "", *, linked: bool = False) -> bytes:
    """Compile a kernel or a root; an ELF object whose `symbol(name, twin)` is void(int64, ...).

    `linked`: to be linked with others. What they share (`target.apart`) is seen by them alone, all else by nobody.
    """
    from numba.core import compiler  # noqa: PLC0415 - private: where it has moved, in_memory still works
    from numba.core.compiler_lock import global_compiler_lock  # noqa: PLC0415 - as above
    from numba.core.registry import cpu_target  # noqa: PLC0415 - as above

    function, args = _function(name), (types.int64,) * ARGUMENTS
    with global_compiler_lock:
        flags = compiler.Flags()
        cpu_target.options.parse_as_flags(flags, {"nopython": True, "error_model": "numpy"})
        flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
        made = compiler.compile_extra(
            cpu_target.typing_context, cpu_target.target_context, function, args, types.void, flags, {}
        )
        context, library = made.target_context, made.library
        library.add_ir_module(_entry(context, made.fndesc, symbol(name, twin)))
        library.finalize()
        module = library._final_module  # noqa: SLF001 - see the head
        module = _shared(module, symbol(name, twin)) if linked else module
        return bytes(library.codegen._tm.emit_object(module))  # noqa: SLF001 - see the head


def _shared(module: Any, entry: str) -> Any:
    """The module, to be linked with others: what they have in common is linked once, and all of it is hidden."""
    for f in module.functions:
        f.add_function_attribute("nounwind")  # no exception passes through: no tables are needed that say how
        if f.name.startswith(SHARED):
            f.visibility = "hidden"
        elif not f.is_declaration and f.name != entry and f.linkage != llvm.Linkage.linkonce_odr:
            f.linkage = "internal"
    # such functions may stand in several modules; a linker drops all but one where they are groups of one name
    text = str(module)
    groups = "".join(f"${name} = comdat any\n" for name in _ONCE.findall(text))
    return llvm.parse_assembly(_ONCE.sub(r"\g<0> comdat", text) + groups)


#: The head of a function that may stand in several modules, up to its body: its name.
_ONCE = re.compile(r"^define (?:linkonce|weak)_odr .*?@(\"[^\"]+\"|[\w.$-]+)\(.*(?= \{$)", re.MULTILINE)


def _entry(context: Any, described: Any, name: str) -> Any:
    """void name(int64, ...): calls Numba's function, whose own signature has room for a result and an exception."""
    module = context.create_module(name)
    kind = context.call_conv.get_function_type(described.restype, described.argtypes)
    inner = ir.Function(module, kind, described.llvm_func_name)
    outer_kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * len(described.argtypes))
    outer = ir.Function(module, outer_kind, name)
    b = ir.IRBuilder(outer.append_basic_block("entry"))
    status, _ = context.call_conv.call_function(b, inner, described.restype, described.argtypes, outer.args)
    with b.if_then(status.is_error, likely=False):  # nobody could catch it: end here rather than go on wrong
        b.call(ir.Function(module, ir.FunctionType(ir.VoidType(), []), "llvm.trap"), [])
    b.ret_void()
    return module


def in_memory(name: str) -> int:
    """Address of a kernel or a root, compiled for this process alone, through Numba's public interface."""
    made = numba.cfunc(f"void({', '.join(['int64'] * ARGUMENTS)})", error_model="numpy")(_function(name))
    _KEPT.append(made)
    return int(made.address)


def main(arguments: list[str]) -> None:
    """Workers: take names from standard input until there are no more, keep each one's code, and say so.

    The process splits once Numba has filled its tables, which takes it longer than a small kernel.
    """
    directory, key, count = Path(arguments[0]), arguments[1], int(arguments[2])
    if key != code_key():
        sys.exit("this interpreter would make other code")
    first = True
    while request := os.read(0, REQUEST):  # they share the pipe: whoever is free takes the next
        name = request.decode().strip()
        if write(directory, name, object_code(name)):
            os.write(1, f"{name}\n".encode())
        if first:
            first = False
            any(os.fork() == 0 for _ in range(count - 1))  # a child splits no further
    os._exit(0)  # there is nothing to tidy up, and Numba would take 0.3 s for it
