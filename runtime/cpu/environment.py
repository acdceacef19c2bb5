"""What compiled code depends on besides the CPU: our sources, and what the user asks of Numba."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from ...digest import sha256

__all__ = ["SETTINGS", "debugging", "named_cpu", "sources"]

#: Numba's settings that change the code which it makes, apart from the CPU's name.
SETTINGS = ("NUMBA_ENABLE_AVX", "NUMBA_OPT", "NUMBA_LOOP_VECTORIZE", "NUMBA_SLP_VECTORIZE", "NUMBA_BOUNDSCHECK")

#: Modules of `runtime/` that kernels take constants and functions from.
_OUTSIDE = (
    "blocking", "drawing", "exact", "experts", "kvcache", "ops", "quantized", "sampling", "sampling_params", "sparse",
    "sparse_int8", "step",
)  # fmt: skip


def debugging() -> bool:
    """Whether MIAOTUI_DEBUG asks kernels to check where they read and write (`bounds.py`)."""
    return os.environ.get("MIAOTUI_DEBUG", "0") not in ("", "0")


def named_cpu() -> tuple[str | None, str | None]:
    """Name and features that the user asks Numba for: its own word where it is loaded or has a file to read."""
    if "numba" in sys.modules or Path(".numba_config.yaml").exists():
        with contextlib.suppress(ModuleNotFoundError):  # the file is another program's
            from numba import config  # noqa: PLC0415 - 0.3 s, and rarely needed

            return config.CPU_NAME, config.CPU_FEATURES
    name, features = os.environ.get("NUMBA_CPU_NAME"), os.environ.get("NUMBA_CPU_FEATURES")
    return name, "" if features is None and str(name).lower() == "generic" else features


def sources() -> bytes:
    """A hash of every file that compiled code is made of."""
    here, h = Path(__file__).parent, sha256()
    for f in sorted([*here.rglob("*.py"), *(here.parent / f"{name}.py" for name in _OUTSIDE)]):
        h.update(f.read_bytes())
    return h.digest()
