"""A Hugging Face directory: config.json and safetensors files, one or sharded; tensors mapped, never copied.

Opening reads config.json, the index and every header; no tensor data. `Checkpoint.array` maps a file when one of its
tensors is first asked for, and gives a read-only view of the mapping: the file must not change while it is in use.
"""

from __future__ import annotations

import contextlib
import errno
import math
import mmap
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from ..digest import sha256
from ..errors import CheckpointError, ConfigError
from ..once import once
from ..runtime.memory import refused
from .files import first_bytes, looks_like, quote, read_json_object
from .formats import other_format
from .header import Header, TensorInfo, read_header
from .paths import as_path, is_there, listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from .foreign.coded import Coded

__all__ = ["CONFIG", "MEMORY", "MODULES", "Checkpoint", "again", "open_checkpoint"]

CONFIG, GENERATION, MODULES = "config.json", "generation_config.json", "modules.json"
#: The directory of a model that is in memory (`given.py`), in errors.
MEMORY = Path("<memory>")
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
#: What a directory of an adapter is told.
ADAPTER = "is a PEFT adapter, not a model: give its base model, which it is merged into with adapter=... (--adapter)"
MAX_CONFIG = 16_000_000
#: Bytes asked for at a time: Linux cuts a longer request down to its read-ahead, at least this many.
READ_AHEAD = 128 * 1024
MAX_INDEX = 100_000_000

#: Bytes that Linux maps around a page of a file that is touched, at most: 64 KiB, or since 6.18 a whole large folio.
AROUND = 2**21

#: safetensors dtype -> the NumPy type that holds the bits; BF16 and F8 have none of their own.
_NUMPY: dict[str, type[np.generic]] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F8_E4M3": np.uint8,
    "F8_E5M2": np.uint8, "F8_E8M0": np.uint8, "C64": np.complex64, "I64": np.int64, "I32": np.int32, "I16": np.int16,
    "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


def again(place: Path | str) -> str:
    """What to do about tensors at a place that do not belong together, or to their config."""
    return "give the model's own tensors" if str(place) == str(MEMORY) else "fetch the checkpoint again"


class Checkpoint:
    """An open directory. `config` and `generation` are the files' own dicts; `tensors` spans all shards."""

    #: Whether its tensors are files, which can be opened again.
    on_disk: ClassVar[bool] = True
    #: Bytes of tensors that were copied because they did not lie as in a file: of one that is held.
    copied: int = 0

    def __init__(
        self, directory: Path, config: dict[str, Any], generation: dict[str, Any] | None, headers: Mapping[str, Header]
    ) -> None:
        """Join the shards' tables; a name in two shards is refused."""
        self.directory = directory
        self.config = config
        self.generation = generation
        self.tensors: dict[str, TensorInfo] = {}
        self.file_bytes = sum(h.file_bytes for h in headers.values())
        self._sizes = {h.file: h.file_bytes for h in headers.values()}
        self._maps: dict[Path, mmap.mmap] = {}
        self._closed = False
        self.fetched = False  # whether all of it is being read ahead already
        for header in headers.values():
            for name, tensor in header.tensors.items():
                if name in self.tensors:
                    first = self.tensors[name].file.name
                    msg = f"{directory}: tensor {quote(name)} is in two shards, {first} and {header.file.name}"
                    msg = f"{msg}; download the checkpoint again"
                    raise CheckpointError(msg)
                self.tensors[name] = tensor

    @once
    def layout(self) -> str:
        """SHA-256 over every tensor's name, dtype and shape, by name: which model this is, whatever its numbers."""
        digest = sha256()
        for name in sorted(self.tensors):
            t = self.tensors[name]
            digest.update(f"{t.name} {t.dtype} {list(t.shape)}\n".encode())
        return digest.hexdigest()

    def array(self, name: str) -> NDArray[np.generic]:
        """The tensor as a read-only view of the mapped file, in its own shape; unaligned where the file is.

        BF16 comes as uint16 and F8 as uint8: the bits, not the values. What others quantised comes as `Packed`, which
        `source.read` reads, and which NumPy makes an array of.
        """
        tensor = self.tensors.get(name)
        if tensor is None:
            msg = f"{self.directory}: no tensor {quote(name)}; the checkpoint has {len(self.tensors)} others"
            raise CheckpointError(msg)
        if tensor.coded:
            from .foreign.packed import Packed  # noqa: PLC0415 - few have any

            return cast("NDArray[np.generic]", Packed(cast("Coded", tensor), self._view))
        return self._view(tensor)

    def _view(self, tensor: TensorInfo) -> NDArray[np.generic]:
        """As `array`, of a tensor that is one in its file."""
        mapping = self._map(tensor.file)
        view: NDArray[np.generic]
        if tensor.start == tensor.stop:
            view = np.empty(tensor.shape, _NUMPY[tensor.dtype])
        else:
            dtype = np.dtype(_NUMPY[tensor.dtype]).newbyteorder("<")
            view = np.ndarray(tensor.shape, dtype, buffer=mapping, offset=tensor.start)
        view.flags.writeable = False
        return view

    def adopt(self, tensors: Mapping[str, TensorInfo], sizes: Mapping[Path, int]) -> None:
        """Put tensors, of other files too, in place of those of these names; `sizes`: bytes of these files.

        Which model this is stays as it was (`layout`): what an adapter has in place of the base's weights.
        """
        self.layout  # noqa: B018 - computed now, and kept
        self._sizes |= sizes
        self.tensors |= {name: replace(info, name=name) for name, info in tensors.items()}

    def present(self, matrices: Mapping[str, Coded]) -> None:
        """Put matrices that others quantised in place of the tensors of which they are. `layout` stays as it was."""
        self.layout  # noqa: B018 - as above
        parts = {piece.name for info in matrices.values() for piece in info.pieces}
        self.tensors = {name: info for name, info in self.tensors.items() if name not in parts} | dict(matrices)

    def release(self, name: str, first: int = 0, stop: int | None = None) -> None:
        """Let the system drop the pages of a tensor, or of its rows first to stop, from this process.

        And `AROUND` on both sides, since touching a page brings its neighbours in. All come back when touched again.
        """
        tensor = self.tensors[name]
        if not tensor.coded:
            self._release(tensor, first, stop)
            return
        whole = stop is None
        for piece in tensor.pieces if whole else cast("Coded", tensor).by_rows:
            self._release(piece, first, stop)

    def _release(self, tensor: TensorInfo, first: int, stop: int | None) -> None:
        if tensor.start == tensor.stop or not hasattr(mmap, "MADV_DONTNEED"):
            return
        stack = len(tensor.shape) == 3  # noqa: PLR2004 - of experts, whose rows are counted through
        n_rows = math.prod(tensor.shape[:-1]) if stack else tensor.shape[0] if tensor.shape else 1
        row = tensor.nbytes // n_rows
        at = max(0, tensor.start + first * row - AROUND) // mmap.PAGESIZE * mmap.PAGESIZE
        end = AROUND + (tensor.stop if stop is None else tensor.start + stop * row)
        mapping = self._map(tensor.file)
        with contextlib.suppress(OSError):  # locked pages (mlockall) stay
            mapping.madvise(mmap.MADV_DONTNEED, at, min(end, len(mapping)) - at)

    def expect(self, spans: Mapping[Path, Sequence[tuple[int, int]]]) -> None:
        """Have the system fetch these bytes of each file, ahead and exactly; reading on past them is switched off.

        Its own guess, a window around every page that is touched, would bring in what a plan cuts away.
        """
        if not hasattr(mmap, "MADV_WILLNEED"):
            return
        page = mmap.PAGESIZE
        for file, wanted in spans.items():
            mapping = self._map(file)
            with contextlib.suppress(OSError):  # no more than advice
                mapping.madvise(mmap.MADV_RANDOM)
                for start, stop in wanted:
                    for at in range(start // page * page, stop, READ_AHEAD):
                        mapping.madvise(mmap.MADV_WILLNEED, at, min(READ_AHEAD, stop - at))

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def close(self) -> None:
        """Release the mappings; one that still has views lives until the last view is gone.

        Never `mmap.close`: NumPy keeps the mmap object alive but not its export, so views of a closed one would crash.
        """
        self._closed = True
        self._maps = {}

    def __enter__(self) -> Self:
        """`with open_checkpoint(path) as checkpoint:` closes at the end."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close."""
        self.close()

    def _map(self, file: Path) -> mmap.mmap:
        """A file's mapping. No lock, which a fork might leave held: of two that threads make at once one is kept."""
        maps = self._maps  # `close` leaves this one to whoever is here
        if self._closed:
            msg = f"{self.directory}: the checkpoint is closed; open it again"
            raise CheckpointError(msg)
        if file not in maps:
            maps.setdefault(file, self._mapped(file))
        return maps[file]

    def _mapped(self, file: Path) -> mmap.mmap:
        try:
            with file.open("rb") as f:
                mapping = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as e:  # ValueError: the file is empty now
            if getattr(e, "errno", None) in (errno.ENOMEM, errno.EAGAIN):
                raise refused(self._sizes[file], f"{file}: mapping it") from e
            msg = f"{file}: cannot be mapped ({e}); check that it is still there"
            raise CheckpointError(msg) from e
        if len(mapping) != self._sizes[file]:
            msg = f"{file}: has {len(mapping)} bytes, had {self._sizes[file]} when opened: it changed; load it again"
            raise CheckpointError(msg)
        return mapping


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a directory: read config.json, generation_config.json, the index and all headers, and no data.

    What config.json means is `open_model`'s part. Errors: `CheckpointError` for missing or damaged files, `ConfigError`
    for a JSON file that is none.
    """
    if isinstance(path, str | Path) and "\0" in str(path):
        msg = f"{quote(str(path), 300)}: no such directory; a name cannot hold a NUL byte"
        raise CheckpointError(msg)
    directory = as_path(path, "checkpoint")
    _check_directory(directory)
    config = read_json_object(directory / CONFIG, MAX_CONFIG, ConfigError)
    generation = None
    if is_there(directory / GENERATION):
        generation = read_json_object(directory / GENERATION, MAX_CONFIG, ConfigError)
    if is_there(directory / SINGLE):
        headers = {SINGLE: read_header(directory / SINGLE)}
    elif is_there(directory / INDEX):
        headers = _sharded(directory)
    else:
        raise CheckpointError(_no_weights(directory))
    return Checkpoint(directory, config, generation, headers)


def _check_directory(directory: Path) -> None:
    """The path must be a directory with a config.json; otherwise say what to give instead."""
    if not is_there(directory):
        msg = f"{quote(str(directory), 300)}: no such directory; give a directory with {CONFIG} and {SINGLE}"
        raise CheckpointError(msg)
    if directory.is_file():
        kind = other_format([directory.name]) or looks_like(_start(directory), want_json=True)
        msg = f"{directory}: {kind}" if kind else f"{directory}: is a file"
        msg = f"{msg}; give the directory that holds a safetensors checkpoint together with {CONFIG}"
        raise CheckpointError(msg)
    if not directory.is_dir():
        msg = f"{directory}: is a pipe or a device; give a directory with {CONFIG} and {SINGLE}"
        raise CheckpointError(msg)
    if is_there(directory / CONFIG):
        return
    msg = f"{directory}: no {CONFIG}; expected a Hugging Face directory with {CONFIG} and {SINGLE}"
    if _is_adapter(listed(directory)):
        msg = f"{directory}: {ADAPTER}"
    elif other := other_format(listed(directory)):
        msg = f"{directory}: {other}"
    elif inside := next((name for name in listed(directory) if _is_model(directory / name)), None):
        msg = f"{msg}; {quote(inside)} in it is one: give {directory / inside}"
        if is_there(directory / MODULES):  # as sentence-transformers wrote it once
            msg += f", or move its files up, next to {MODULES}, which says how texts are pooled"
    raise CheckpointError(msg)


def _is_model(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and ((folder / SINGLE).is_file() or (folder / INDEX).is_file())


def _start(file: Path) -> bytes:
    """What tells a file's kind; nothing where it cannot be read."""
    try:
        return first_bytes(file, 512, CheckpointError)
    except CheckpointError:
        return b""


def _is_adapter(names: list[str]) -> bool:
    return any(name.startswith(("adapter_config.", "adapter_model.")) for name in names)


def _no_weights(directory: Path) -> str:
    """What to do about a directory without safetensors weights, from what it holds instead."""
    names = listed(directory)
    if _is_adapter(names):
        what = ADAPTER
    elif any(name.startswith("consolidated") and name.endswith(".safetensors") for name in names):
        what = (
            "holds weights in Mistral's own format (consolidated*.safetensors), whose tensors have other names; "
            f"expected {SINGLE}, or shards with {INDEX}: get the repository's files for transformers"
        )
    elif others := [n for n in names if n.endswith(".safetensors")]:
        what = f"found {', '.join(others[:3])}, expected {SINGLE}, or shards with {INDEX}; rename it or add the index"
    else:
        what = other_format(names) or (
            f"no weights: expected {SINGLE}, or shards with {INDEX}; download the checkpoint again"
        )
    return f"{directory}: {what}"


def _sharded(directory: Path) -> dict[str, Header]:
    """The headers of all shards that the index names; each tensor must be where the index says."""
    path = directory / INDEX
    table = read_json_object(path, MAX_INDEX, CheckpointError).get("weight_map")
    if not isinstance(table, dict) or not table:
        msg = f"{path}: expected weight_map to map tensor names to shard files, found {quote(table)}"
        raise CheckpointError(msg)
    shards: dict[str, None] = {}  # an ordered set
    for name, shard in table.items():
        _check_shard_name(path, name, shard)
        shards[shard] = None
    missing = [s for s in shards if not is_there(directory / s)]
    if missing:
        msg = f"{directory}: {len(missing)} of {len(shards)} shards are missing: {', '.join(missing[:5])}"
        msg = f"{msg}{', ...' if len(missing) > 5 else ''}; download them"  # noqa: PLR2004
        raise CheckpointError(msg)
    headers = {s: read_header(directory / s) for s in shards}
    for name, shard in table.items():
        if name not in headers[shard].tensors:
            msg = f"{path}: promises tensor {quote(name)} in {shard}, which lacks it; download both again"
            raise CheckpointError(msg)
    return headers


def _check_shard_name(path: Path, tensor: str, shard: object) -> None:
    """A plain file name in the directory. A symbolic link is followed: the hub's cache is made of them."""
    plain = (
        isinstance(shard, str)
        and shard.endswith(".safetensors")
        and len(shard) <= 255  # noqa: PLR2004 - the longest file name of common file systems
        and shard.isprintable()
        and not any(c in shard for c in "/\\:")
    )
    if not plain:
        msg = f"{path}: tensor {quote(tensor)}: a shard must be a plain .safetensors file name in the same directory"
        msg = f"{msg}, found {quote(shard)}; refused"
        raise CheckpointError(msg)
