"""Arrays that a program saved as safetensors, whatever they are: activations, for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import CheckpointError
from .checkpoint import Checkpoint
from .header import read_header
from .paths import as_path
from .underflow import widened

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

__all__ = ["read_activations"]

#: Kinds that are numbers, and no codes of others.
READ = ("F64", "F32", "F16", "BF16")


def read_activations(path: str | os.PathLike[str]) -> dict[str, NDArray[np.float64]]:
    """Name -> float64 array, of the file's floats. Errors: `CheckpointError` for none, and for a damaged file."""
    file = as_path(path, "file of activations", CheckpointError)
    with Checkpoint(file.parent, {}, None, {file.name: read_header(file)}) as held:
        found = {name: info.dtype for name, info in held.tensors.items() if info.dtype in READ}
        if not found:
            msg = f"{file}: holds no floats; expected activations by name, as {', '.join(READ)}"
            raise CheckpointError(msg)
        return {
            name: np.array(held.array(name) if dtype == "F64" else widened(held.array(name), dtype), np.float64)
            for name, dtype in found.items()
        }
