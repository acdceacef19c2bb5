"""Writing a checkpoint: a directory that appears whole or not at all, with the files that go along as they are."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckpointError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    #: Name, dtype and shape, known ahead, and what gives the numbers when they are to be written.
    Tensor = tuple[str, str, tuple[int, ...], Callable[[], NDArray[np.generic]]]

__all__ = ["copy_along", "new_directory", "write_json", "write_safetensors"]

#: Files that go along as they are.
ALONG = (
    *("generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.*", "merges.txt", "*.jinja", "kept_vocab.json"),
)
ALIGN = 64


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """A directory to fill, which becomes `out` at the end; nothing of it is left where that fails.

    A killed run leaves at most a hidden directory beside `out`, never half of `out`. Errors: `InputError` where `out`
    is there: a checkpoint is never written over, its source least of all.
    """
    if out.exists() or out.is_symlink():
        msg = f"{out} exists; name a directory that is not there yet"
        raise InputError(msg)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        made = Path(scratch) / out.name
        made.mkdir()
        yield made
        made.rename(out)


def copy_along(source: Path, made: Path) -> None:
    """Copy the tokenizer's files and their like."""
    for pattern in ALONG:
        for file in source.glob(pattern):
            shutil.copyfile(file, made / file.name)


def write_json(file: Path, value: Any) -> None:  # noqa: ANN401 - JSON
    """Write an object as Hugging Face's files are written."""
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_safetensors(file: Path, tensors: Iterable[Tensor], form: str) -> int:
    """Length of the header, header, data in the header's order, nothing between (the format's own description).

    `form` is the metadata's "format": "pt" where other programs are to read it. Bytes of tensors written.
    Errors: `CheckpointError` where numbers are not of the size that was promised for them.
    """
    from ..loader.header import DTYPES  # noqa: PLC0415 - help must not wait for it

    header: dict[str, Any] = {"__metadata__": {"format": form}}
    calls, at = [], 0
    for name, dtype, shape, call in tensors:
        size = DTYPES[dtype] * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        calls.append((name, size, call))
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % ALIGN)  # the data begin on a cache line
    with file.open("wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for name, size, call in calls:
            data = np.ascontiguousarray(call())
            if data.nbytes != size:
                msg = f"{name}: {data.nbytes} bytes were made, and its dtype and shape are {size}; nothing is written"
                raise CheckpointError(msg)
            f.write(data.data)
    return at
