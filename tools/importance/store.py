"""What a long run has found so far, in one .npz file, with a mark that says whose it is."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["read_arrays", "write_arrays"]


def write_arrays(file: Path, mark: str, **arrays: Any) -> None:  # noqa: ANN401 - arrays, or what becomes one
    """Whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}-", suffix=".npz", delete=False) as scratch:
        try:
            np.savez(scratch, mark=mark, **arrays)
            scratch.close()
            Path(scratch.name).replace(file)
        except BaseException:
            os.unlink(scratch.name)  # noqa: PTH108 - a name, not a path
            raise


def read_arrays(file: Path, mark: str) -> dict[str, NDArray[Any]]:
    """What `write_arrays` wrote. Errors: `InputError` for another file, and for one of another mark."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
        same = str(arrays.pop("mark")) == mark
    except (OSError, ValueError, KeyError) as e:
        msg = f"{file}: no statistics that this version reads ({e}); remove it, or name another file"
        raise InputError(msg) from e
    if not same:
        msg = f"{file}: statistics of another model, text or method; remove it, or name another file"
        raise InputError(msg)
    return arrays
