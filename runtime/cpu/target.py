"""What the CPU that we compile for can do, and the name under which its code is kept.

That is this machine's, unless a build aims at another (`aim`), or code that came with the package is what runs
(`shipped.py`). Numba is not imported, and llvmlite only where something is compiled.
"""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ...digest import sha256
from ...errors import BackendError
from ..memory import LIMITS
from . import shipped
from .environment import SETTINGS, debugging, named_cpu, sources

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import ModuleType

__all__ = [
    "BF16_DOT",
    "BYTE_DOT",
    "EXPANDS_BYTES",
    "SHARED",
    "aim",
    "apart",
    "attention_shape",
    "bf16_dot",
    "bit_masks",
    "byte_dot",
    "code_key",
    "draw_lanes",
    "expands",
    "expands_bytes",
    "integer_tile_shape",
    "llvm_binding",
    "machine",
    "masked_moves",
    "native_half",
    "tells_flushes",
    "tile_shape",
    "wide_lanes",
]

#: Lanes of an ordinary vector (`emitters.N`).
SIXTEEN = 16
#: How symbols begin that kernels of a library share.
SHARED = "miaotui."
#: What our emitters ask for, in LLVM's words.
F16C, AVX512, BYTE_DOT, EXPANDS_BYTES, BF16_DOT = FEATURES = (
    "f16c", "avx512f", "avx512vnni", "avx512vbmi2", "avx512bf16",
)  # fmt: skip
#: What a build aims at: a machine, and features.
_AIMED: list[tuple[str, Collection[str]]] = []
#: Functions that kernels share, so far, and the features that each was compiled for.
_APART: dict[str, frozenset[str]] = {}


def aim(machine: str, features: Collection[str]) -> None:
    """Answer for another CPU from now on. Before any kernel is imported: tiles take their shapes then."""
    _AIMED[:] = [(machine, features)]


def apart(name: str, by: Collection[str] = ()) -> tuple[str, str, bool]:
    """Of a function that a kernel calls: its symbol, its linkage, and whether it is to be emitted here.

    Kernels that are compiled ahead become one library, and share such functions: the first of a process that calls one
    holds it. `by`: features that change its code. Errors: `BackendError`: its holder was compiled for more.
    """
    if not _AIMED:
        return name, "internal", True
    features = frozenset(_AIMED[0][1])
    shared = ".".join([f"{SHARED}{name}", *sorted(features.intersection(by))])
    here = shared not in _APART
    if not _APART.setdefault(shared, features) <= features:
        msg = f"{name}: of a kernel that was compiled for {', '.join(sorted(_APART[shared]))}, which not every CPU has"
        raise BackendError(msg)
    return shared, "weak_odr", here


def machine() -> str:
    """What `platform.machine` says of the CPU that we compile for, in Linux' words."""
    name = _AIMED[0][0] if _AIMED else platform.machine()
    return {"AMD64": "x86_64", "arm64": "aarch64"}.get(name, name)


def llvm_binding() -> ModuleType:
    """`llvmlite.binding`. Errors: `BackendError`: it is not installed, or cannot be loaded."""
    try:
        import llvmlite.binding  # noqa: PLC0415 - 20 ms and 40 MB, and only for what is compiled here
    except ModuleNotFoundError as e:
        raise BackendError(shipped.needs_compiler()) from e
    except (ImportError, OSError) as e:  # OSError: its library could not be mapped
        msg = (
            f"llvmlite, which loads compiled code, cannot be loaded ({str(e)[:100]}): where memory is limited, see "
            f"{LIMITS}; otherwise install it again (pip install --force-reinstall llvmlite)"
        )
        raise BackendError(msg) from e
    binding: ModuleType = llvmlite.binding
    return binding


@cache
def _host_features() -> dict[str, bool]:
    """Features of the host, or none where the user names another CPU: then only what every CPU has is assumed."""
    return dict(llvm_binding().get_host_cpu_features()) if named_cpu() == (None, None) else {}


def _has(feature: str) -> bool:
    """Whether there is a feature, by LLVM's name of it."""
    if _AIMED:
        return feature in _AIMED[0][1]
    chosen = shipped.chosen()
    return feature in chosen.has if chosen else _host_features().get(feature, False)


def native_half() -> bool:
    """Whether float16 widens in hardware. Elsewhere LLVM calls a function that the process may not have."""
    return machine() == "aarch64" or _has(F16C)


def byte_dot() -> bool:
    """Whether the CPU multiplies bytes by fours into sixteen int32 (AVX-512 VNNI). The bits do not depend on it."""
    return _has(BYTE_DOT)


def expands() -> bool:
    """Whether the CPU spreads sixteen numbers over the lanes of a mask (AVX-512 F). The bits do not depend on it."""
    return _has(AVX512)


def bit_masks() -> bool:
    """Whether a mask of lanes is a register of bits (AVX-512 F). The bits of results do not depend on it."""
    return _has(AVX512)


def masked_moves(count: int) -> bool:
    """Whether LLVM moves some of this many lanes in a few instructions; else it writes a branch for every lane.

    It does that for 16 bits in AVX2, too: there it costs less than a call, around which accumulators are spilled.
    """
    return machine() == "x86_64" and (count <= SIXTEEN or bit_masks())


def expands_bytes() -> bool:
    """Whether the CPU spreads 64 bytes over a mask (AVX-512 VBMI2). The bits do not depend on it."""
    return _has(EXPANDS_BYTES)


def bf16_dot() -> bool:
    """Whether the CPU multiplies pairs of BF16 into float32 (AVX-512 BF16), by the name that LLVM 20 and later give it.

    Elsewhere plain steps make the same bits (`pairs.py`).
    """
    return _has(BF16_DOT) and (bool(_AIMED) or shipped.chosen() is not None or _new_llvm())


def tells_flushes() -> bool:
    """Whether code that we compile can ask the CPU if it flushed a result to zero: on aarch64, by a new LLVM."""
    return machine() == "aarch64" and _new_llvm()


def _new_llvm() -> bool:
    return bool(llvm_binding().llvm_version_info[0] >= 20)


def integer_tile_shape(planes: int = 1) -> tuple[int, int]:
    """Panels of sixteen rows by tokens of a quantised prefill tile; an input of two planes takes more registers."""
    return (2, 5 if planes == 1 else 4) if _has(AVX512) else (1, 2)


def tile_shape() -> tuple[int, int]:
    """Weight rows by tokens of a prefill tile: accumulators must fit the register file. Bits do not depend on it."""
    return (8, 3) if _has(AVX512) else (2, 2)


def attention_shape() -> tuple[int, int]:
    """Queries by vectors of an attention tile: accumulators must fit the register file. Bits do not depend on it."""
    return (4, 4) if _has(AVX512) else (2, 2)


def wide_lanes() -> int:
    """Lanes that take the many dependent steps of an activation together, if there are registers for them.

    Bits do not depend on it.
    """
    return 128 if _has(AVX512) else 16


def draw_lanes() -> int:
    """Scores that are weighed together where an id is drawn, at most 64. Bits do not depend on it."""
    return 64 if _has(AVX512) else 16


def _numba_version() -> bytes:
    """What names Numba's version: its file of it, or the distribution's version where there is no such file."""
    spec = find_spec("numba")
    if spec is None:
        raise BackendError(shipped.needs_compiler())
    file = Path(spec.origin).with_name("_version.py") if spec.origin else None
    if file is not None and file.is_file():
        return file.read_bytes()
    from importlib.metadata import version  # noqa: PLC0415 - 20 ms

    return version("numba").encode()


def _llvmlite_version() -> str:
    import llvmlite  # noqa: PLC0415 - as in `llvm_binding`

    return str(llvmlite.__version__)


@cache
def code_key() -> str:
    """Names compiled code by everything it depends on: sources, versions, CPU, Numba's settings."""
    llvm = llvm_binding()
    h = sha256(_numba_version() + sources())
    host = machine(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    used = sorted(feature for feature in FEATURES if _has(feature))
    settings = named_cpu(), [os.environ.get(name) for name in SETTINGS], debugging()
    h.update(repr((sys.version_info[:3], _llvmlite_version(), host, settings, used)).encode())
    return h.hexdigest()[:20]
