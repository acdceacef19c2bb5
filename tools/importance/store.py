"""What a long run has found so far, in one .npz file, with a mark that says whose it is."""

from __future__ import annotations

import hashlib
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...handlers import raised_in_handler
from ...loader.files import printable, regular_size
from ...loader.write import new_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["read_arrays", "write_arrays"]


def write_arrays(file: Path, mark: str, **arrays: Any) -> None:  # noqa: ANN401 - arrays, or what becomes one
    """Whole or not at all. Errors: `InputError` where the file cannot be written; an old one stays then."""
    with new_file(file) as f:
        np.savez(f, mark=np.array([mark, _digest(arrays)]), **arrays)


def read_arrays(file: Path, mark: str) -> dict[str, NDArray[Any]]:
    """What `write_arrays` wrote. Errors: `InputError` for another file, a damaged one, and one of another mark."""
    regular_size(file, InputError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged headers
            with file.open("rb") as f, np.load(f, allow_pickle=False) as stored:
                arrays = dict(stored)
        whose, digest = map(str, arrays.pop("mark"))
        whole = digest == _digest(arrays)
    except Exception as e:
        raised_in_handler(e)
        why = f" ({printable(e)})" if isinstance(e, OSError) else ""  # NumPy's own words are of pickles
        msg = f"{file}: no statistics that this version reads{why}; remove it, or name another file"
        raise InputError(msg) from e
    if not whole:
        msg = f"{file}: damaged since it was written: its arrays are not those that it was written with; remove it"
        raise InputError(msg)
    if whose != mark:
        msg = f"{file}: statistics of another model, text or method; remove it, or name another file"
        raise InputError(msg)
    return arrays


def _digest(arrays: Mapping[str, Any]) -> str:
    """SHA-256 of every name, dtype, shape and number."""
    h = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        array = np.ascontiguousarray(value)
        h.update(f"{name} {array.dtype.str} {np.shape(value)}\n".encode())
        h.update(array.reshape(-1).view(np.uint8).data)
    return h.hexdigest()
