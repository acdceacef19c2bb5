"""From a kernel to a cubin for an architecture, with no GPU: Numba to PTX, nvJitLink to machine code.

PTX is made once, for the least architecture that has what the kernel uses; the same text is assembled for each GPU.
Cubins are kept in the directory of compiled code (`runtime/cpu/cache.py`): what is damaged or of another version is
built again.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from ...dataclass import dataclass
from ...errors import BackendError
from ..cpu.cache import cache_directory, read, write
from ..locks import Lock
from .bind import bind
from .kernels.base import TURING

if TYPE_CHECKING:
    from .kernels.base import Kernel

__all__ = ["ARCHITECTURES", "TURING", "Cubin", "assemble", "check", "cubin", "least", "symbol", "to_ptx"]

#: What is built ahead and tested: Ampere (A100; RTX 30), Ada (RTX 40), Hopper (H100, H200).
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90a")
#: Turing's, which is for kernels that use none of these primitives: they came with Ampere.
LEAST = (7, 5)
AMPERE = frozenset(
    {
        *("to_bf16", "pack_bf16", "tf32", "copy16", "copy4", "copies_close", "copies_wait"),
        *("mma_bf16", "mma_bytes", "mma_f16", "mma_tf32"),
    }
)
HOPPER = (9, 0, "a")
_LOCK = Lock()


@dataclass(frozen=True)
class Cubin:
    """Machine code of one kernel for one architecture, and what the assembler said of it."""

    code: bytes
    log: str


def symbol(name: str) -> str:
    """The kernel's name in PTX and cubin."""
    return f"miaotui_{name}"


class _Asked(dict[str, str]):
    """A binding that writes down what is asked of it."""

    def __missing__(self, name: str) -> str:
        return self.setdefault(name, name)


def least(kernel: Kernel) -> tuple[int, int] | tuple[int, int, str]:
    """The least capability that a kernel runs on, by the primitives that it names; or the only one."""
    if kernel.only:
        return HOPPER
    asked = _Asked()
    bind(kernel.function, asked)
    return (8, 0) if AMPERE & set(asked) else LEAST


def check(kernel: Kernel, architecture: str) -> None:
    """Refuse a kernel that a GPU lacks the instructions for: BackendError."""
    if architecture == TURING and least(kernel) != LEAST:
        msg = (
            f"{kernel.name} needs Ampere (8.0) or later, and this GPU is Turing (7.5): precision='exact' and "
            "kv_cache='f32' or 'int8' run there"
        )
        raise BackendError(msg)


def to_ptx(kernel: Kernel) -> str:
    """PTX text. Errors: `BackendError` without the extra."""
    try:
        import numba.cuda.cudadrv.nvvm as nvvm  # noqa: PLC0415, PLR0402 - the extra, where it is used
        import numba.cuda.dispatcher as dispatcher  # noqa: PLC0415, PLR0402 - the extra, where it is used
        from numba import cuda  # noqa: PLC0415
        from numba.cuda import types  # noqa: PLC0415

        from .intrinsics import helper  # noqa: PLC0415
        from .whole_ptx import BINDING  # noqa: PLC0415
    except ImportError as e:
        msg = f"compiling for CUDA needs the cuda extra (pip install 'miaotui[cuda]'): {e}"
        raise BackendError(msg) from e
    capability = least(kernel)
    slots = tuple(types.float32 if f[0] == "f" else types.int64 for f in kernel.fields)
    signature = (types.int64,) * 3 + slots + (types.int64,) * len(kernel.maps)

    def compiled() -> str:
        # A function that kernels call is typed for the current device, and there may be none.
        current, compile_ir = dispatcher.get_current_device, nvvm.compile_ir
        # a * b + c is rounded twice, as it stands, or the bits would depend on what surrounds it.
        nvvm.compile_ir = partial(compile_ir, fma=False)
        dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability[:2])
        try:
            function = bind(kernel.function, BINDING, helper)
            text, _ = cuda.compile(
                function,
                signature,
                device=False,
                abi="numba",
                cc=capability,
                launch_bounds=(kernel.threads, kernel.at_once),
            )
        finally:
            dispatcher.get_current_device, nvvm.compile_ir = current, compile_ir
        return str(text)

    text = _LOCK.held(compiled)
    (mangled,) = re.findall(r"\.visible \.entry (\w+)\(", text)
    return text.replace(mangled, symbol(kernel.name))


def assemble(ptx: str, architecture: str) -> Cubin:
    """Machine code. Errors: `BackendError`, with the assembler's words."""
    from cuda.bindings import nvjitlink  # noqa: PLC0415 - as above

    data = ptx.encode()
    handle = nvjitlink.create(3, [f"-arch={architecture}", "-O3", "-verbose"])
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, data, len(data), "miaotui")
        nvjitlink.complete(handle)
        code = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, code)
        log = bytearray(nvjitlink.get_info_log_size(handle))
        nvjitlink.get_info_log(handle, log)
    except nvjitlink.nvJitLinkError as e:
        log = bytearray(nvjitlink.get_error_log_size(handle))
        nvjitlink.get_error_log(handle, log)
        msg = f"nvJitLink refused a kernel for {architecture}: {e}: {log.decode(errors='replace')}"
        raise BackendError(msg) from e
    finally:
        nvjitlink.destroy(handle)
    return Cubin(bytes(code), log.decode(errors="replace").rstrip("\0"))


def cubin(kernel: Kernel, architecture: str) -> bytes:
    """Machine code, from the cache where it is there. Errors: `BackendError`."""
    check(kernel, architecture)
    key, name = _key(), f"{kernel.name}.{architecture}"
    directory = cache_directory(key)
    kept = None if directory is None else read(directory, name, key)
    if kept is not None:
        return kept
    code = assemble(to_ptx(kernel), architecture).code
    if directory is not None:
        write(directory, name, code, key)
    return code


@cache
def _key() -> str:
    """Names cubins by everything they depend on but their architecture: sources, constants, versions."""
    here = Path(__file__).parent
    shared = [*here.parent.glob("*.py"), here.parent / "cpu" / "layout.py"]
    h = hashlib.sha256()
    for f in sorted([*here.rglob("*.py"), *shared]):
        h.update(f.read_bytes())
    for package in ("numba-cuda", "llvmlite", "cuda-bindings", "nvidia-nvjitlink", "nvidia-nvvm"):
        h.update(f"{package} {_version(package)}\n".encode())
    return f"cuda-{h.hexdigest()[:20]}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"  # the toolkit of the machine
