"""Writing a checkpoint: a directory that appears whole or not at all, with the files that go along as they are."""

from __future__ import annotations

import fnmatch
import glob
import json
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckpointError, InputError
from ..loader.files import quote, reason
from ..loader.paths import as_path, is_there, listed
from ..loader.write import flushed

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    #: Name, dtype and shape, known ahead, and what gives the numbers when they are to be written.
    Tensor = tuple[str, str, tuple[int, ...], Callable[[], NDArray[np.generic]]]

__all__ = ["check_new", "copy_along", "new_directory", "write_json", "write_safetensors"]

#: Files that go along as they are: what a tokenizer's `save_pretrained` writes, the terms of use, how
#: a sentence's vector is made.
ALONG = (
    *("generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "tekken.json"),
    *("vocab.*", "merges.txt", "*.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),
    *("kept_vocab.json", "LICENSE*", "NOTICE*"),
    *("modules.json", "sentence_*_config.json", "config_sentence_transformers.json"),
    *("[0-9]*_*/config.json", "[0-9]*_*/model.safetensors"),
)
ALIGN = 64
#: In a hidden directory that is being filled: locked by its process.
LOCK = ".lock"


def check_new(out: str | os.PathLike[str]) -> Path:
    """The place of a new directory. `InputError` where it is there, or where the nearest folder is not to be written.

    For what takes long, before it is begun.
    """
    place = as_path(out, "OUT")
    if is_there(place, InputError):
        msg = f"{quote(str(place), 300)[1:-1]} exists; name a directory that is not there yet"
        raise InputError(msg)
    folder = next((p for p in place.absolute().parents if is_there(p, InputError)), None)
    if folder is not None and not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        why = "may not be written by this user" if folder.is_dir() else "is no directory"
        msg = f"{quote(str(place), 300)}: cannot be written ({folder} {why})"
        raise InputError(msg)
    return place


@contextmanager
def new_directory(out: str | os.PathLike[str]) -> Iterator[Path]:
    """A directory to fill, which becomes `out` at the end, on the disk; nothing of it is left where that fails.

    A killed run leaves a hidden directory next to `out`, never half of `out`; the next run for `out` removes it.
    Errors: `InputError` where `out` is there (a checkpoint is never written over, its source least of all), or the
    system refuses.
    """
    place = check_new(out)
    start = f".{os.fsdecode(os.fsencode(place.name)[:200])}-"  # names have 255 bytes at most
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _sweep(place.parent, start)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=start) as scratch, _locked(Path(scratch) / LOCK):
            made = Path(scratch) / "made"
            made.mkdir()
            yield made
            for folder, _, files in os.walk(made):
                for name in (*files, ""):
                    flushed(Path(folder) / name)
            made.rename(place)
            flushed(place.parent)
    except OSError as e:
        what = f"{e.filename}: {reason(e)}" if e.filename and str(e.filename) != str(place) else reason(e)
        msg = f"{quote(str(place), 300)}: cannot be written ({what}); nothing of it is left"
        raise InputError(msg) from e


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold a lock that ends with this process, however it ends."""
    with file.open("wb") as f:
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _sweep(parent: Path, start: str) -> None:
    """Remove what killed runs for the same place left: hidden directories whose lock nobody holds."""
    if fcntl is None:
        return
    for lock in parent.glob(f"{glob.escape(start)}*/{LOCK}"):
        with suppress(OSError), lock.open("rb") as f:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError: its process lives
            shutil.rmtree(lock.parent)


def copy_along(source: Path, made: Path) -> None:
    """Copy the tokenizer's files and their like. `CheckpointError`: one is a link to nothing, or cannot be read."""
    for pattern in ALONG:
        there, _, last = pattern.rpartition("/")
        folders = fnmatch.filter(listed(source), there) if there else [""]
        for folder in (name for name in folders if (source / name).is_dir()):
            for name in fnmatch.filter(listed(source / folder), last):
                file = source / folder / name
                if is_there(file) and file.is_file():  # a directory or a pipe of such a name is none of them
                    (made / folder).mkdir(exist_ok=True)
                    shutil.copyfile(file, made / folder / name)


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
