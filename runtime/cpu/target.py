"""What the machine that we compile for can do, and the name under which its code is kept. Numba is not imported."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ...errors import BackendError
from ..memory import LIMITS

try:
    import llvmlite
    import llvmlite.binding as llvm
except (ImportError, OSError) as e:  # OSError: its library could not be mapped
    msg = (
        f"llvmlite, which loads compiled code, cannot be loaded ({str(e)[:100]}): where memory is limited, see "
        f"{LIMITS}; otherwise install it again (pip install --force-reinstall llvmlite)"
    )
    raise BackendError(msg) from e

__all__ = [
    "attention_shape",
    "bf16_dot",
    "byte_dot",
    "code_key",
    "debugging",
    "draw_lanes",
    "expands",
    "expands_bytes",
    "integer_tile_shape",
    "native_half",
    "tile_shape",
    "wide_lanes",
]

#: Numba's other settings that change the code which it makes.
_SETTINGS = ("NUMBA_ENABLE_AVX", "NUMBA_OPT", "NUMBA_LOOP_VECTORIZE", "NUMBA_SLP_VECTORIZE", "NUMBA_BOUNDSCHECK")


def _named_cpu() -> tuple[str | None, str | None]:
    """Name and features that the user asks Numba for: its own word where it is loaded or has a file to read."""
    if "numba" in sys.modules or Path(".numba_config.yaml").exists():
        from numba import config  # noqa: PLC0415 - 0.3 s, and rarely needed

        return config.CPU_NAME, config.CPU_FEATURES
    name, features = os.environ.get("NUMBA_CPU_NAME"), os.environ.get("NUMBA_CPU_FEATURES")
    return name, "" if features is None and str(name).lower() == "generic" else features


@cache
def _features() -> dict[str, bool]:
    """Features of the host, or none where the user names another CPU: then only what every CPU has is assumed."""
    return dict(llvm.get_host_cpu_features()) if _named_cpu() == (None, None) else {}


def native_half() -> bool:
    """Whether float16 widens in hardware. Elsewhere LLVM calls a function that the process may not have."""
    return platform.machine() in ("aarch64", "arm64") or _features().get("f16c", False)


def byte_dot() -> bool:
    """Whether the CPU multiplies bytes by fours into sixteen int32 (AVX-512 VNNI). The bits do not depend on it."""
    return _features().get("avx512vnni", False)


def expands() -> bool:
    """Whether the CPU spreads sixteen numbers over the lanes of a mask (AVX-512 F). The bits do not depend on it."""
    return _features().get("avx512f", False)


def expands_bytes() -> bool:
    """Whether the CPU spreads 64 bytes over a mask (AVX-512 VBMI2). The bits do not depend on it."""
    return _features().get("avx512vbmi2", False)


def bf16_dot() -> bool:
    """Whether the CPU multiplies pairs of BF16 into float32 (AVX-512 BF16), by the name that LLVM 20 and later give it.

    How it rounds is its own: only `precision="fast"` asks for it.
    """
    return _features().get("avx512bf16", False) and llvm.llvm_version_info[0] >= 20


def integer_tile_shape() -> tuple[int, int]:
    """Panels of sixteen rows by tokens of a quantised prefill tile."""
    return (2, 5) if _features().get("avx512f", False) else (1, 2)


def debugging() -> bool:
    """Whether MIAOTUI_DEBUG asks kernels to check where they read and write (`bounds.py`)."""
    return os.environ.get("MIAOTUI_DEBUG", "0") not in ("", "0")


def tile_shape() -> tuple[int, int]:
    """Weight rows by tokens of a prefill tile: accumulators must fit the register file. Bits do not depend on it."""
    return (8, 3) if _features().get("avx512f", False) else (2, 2)


def attention_shape() -> tuple[int, int]:
    """Queries by vectors of an attention tile: accumulators must fit the register file. Bits do not depend on it."""
    return (4, 4) if _features().get("avx512f", False) else (2, 2)


def wide_lanes() -> int:
    """Lanes that take the many dependent steps of an activation together, if there are registers for them.

    Bits do not depend on it.
    """
    return 128 if _features().get("avx512f", False) else 16


def draw_lanes() -> int:
    """Scores that are weighed together where an id is drawn, at most 64. Bits do not depend on it."""
    return 64 if _features().get("avx512f", False) else 16


def _numba_version() -> bytes:
    """What names Numba's version: its file of it, or the distribution's version where there is no such file."""
    spec = find_spec("numba")
    file = Path(spec.origin).with_name("_version.py") if spec is not None and spec.origin else None
    if file is not None and file.is_file():
        return file.read_bytes()
    from importlib.metadata import version  # noqa: PLC0415 - 20 ms

    return version("numba").encode()


@cache
def code_key() -> str:
    """Names compiled code by everything it depends on: sources, versions, CPU, Numba's settings."""
    h = hashlib.sha256(_numba_version())
    here = Path(__file__).parent
    names = (
        "blocking", "drawing", "exact", "experts", "kvcache", "ops", "quantized", "sampling", "sampling_params",
        "sparse", "sparse_int8", "step",
    )  # fmt: skip
    beside = (here.parent / f"{name}.py" for name in names)
    for f in sorted([*here.rglob("*.py"), *beside]):
        h.update(f.read_bytes())
    host = platform.machine(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    settings = _named_cpu(), [os.environ.get(name) for name in _SETTINGS], debugging()
    h.update(repr((sys.version_info[:3], llvmlite.__version__, host, settings)).encode())
    return h.hexdigest()[:20]
