"""What the machine that we compile for can do, and the name under which its code is kept."""

from __future__ import annotations

import hashlib
import platform
import sys
from functools import cache
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm
import numba

__all__ = ["attention_shape", "byte_dot", "code_key", "integer_tile_shape", "native_half", "tile_shape"]


@cache
def _features() -> dict[str, bool]:
    """Features of the host, or none where the user names another CPU: then only what every CPU has is assumed."""
    if numba.config.CPU_NAME is not None or numba.config.CPU_FEATURES is not None:
        return {}
    return dict(llvm.get_host_cpu_features())


def native_half() -> bool:
    """Whether float16 widens in hardware. Elsewhere LLVM calls a function that the process may not have."""
    return platform.machine() in ("aarch64", "arm64") or _features().get("f16c", False)


def byte_dot() -> bool:
    """Whether the CPU multiplies bytes by fours into sixteen int32 (AVX-512 VNNI). The bits do not depend on it."""
    return _features().get("avx512vnni", False)


def integer_tile_shape() -> tuple[int, int]:
    """Panels of sixteen rows by tokens of a quantised prefill tile."""
    return (2, 5) if _features().get("avx512f", False) else (1, 2)


def tile_shape() -> tuple[int, int]:
    """Weight rows by tokens of a prefill tile: accumulators must fit the register file. Bits do not depend on it."""
    return (8, 3) if _features().get("avx512f", False) else (2, 2)


def attention_shape() -> tuple[int, int]:
    """Queries by vectors of an attention tile: accumulators must fit the register file. Bits do not depend on it."""
    return (4, 4) if _features().get("avx512f", False) else (2, 2)


@cache
def code_key() -> str:
    """Names compiled code by everything it depends on: sources, versions, CPU."""
    h = hashlib.sha256()
    here = Path(__file__).parent
    for f in sorted([*here.rglob("*.py"), *(here.parent / f"{name}.py" for name in ("kvcache", "ops", "packed"))]):
        h.update(f.read_bytes())
    cpu = numba.config.CPU_NAME or llvm.get_host_cpu_name()
    features = numba.config.CPU_FEATURES or llvm.get_host_cpu_features().flatten()
    versions = sys.version_info[:3], numba.__version__, llvmlite.__version__
    h.update(repr((*versions, platform.machine(), cpu, features)).encode())
    return h.hexdigest()[:20]
