"""Small files: read whole within a bound, parsed strictly, and quoted with care. Every one is read through this module.

A file is data from outside. It must be a regular file of bounded size, it must be UTF-8, a JSON key may be given once,
and what JSON makes of its bytes is bounded before it is made. What is wrong is said with the error class that the
caller names: what the file looks like instead, or what was expected where. `quote` is how a message shows what a file
says.
"""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

from ..errors import BackendError, CheckpointError, MiaotuiError
from .json_cost import count

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "first_bytes",
    "looks_like",
    "parse_json",
    "printable",
    "quote",
    "read_bytes",
    "read_json_object",
    "read_text",
    "read_yaml_object",
    "reason",
    "regular_size",
]

#: Most bytes of a text that a user names: a corpus, a vocabulary's text.
MAX_TEXT = 2**30
PIECE = 2**20  # bytes asked for at a time
#: Parsed JSON may take `FREE` bytes, or `TIMES` its file; with its bytes and its text that is ten times.
FREE, TIMES = 64 * 2**20, 8
#: PyYAML is written in Python: a megabyte takes seconds, and a hundred of memory.
MAX_YAML = 2**20

#: What a file that is not what it should be usually is: its first bytes, in lower case -> what to say.
LOOKS: tuple[tuple[bytes, str], ...] = (
    (
        b"version https://git-lfs",
        "it is a git-lfs pointer, not the file itself: run `git lfs pull` in the repository, or download the file",
    ),
    (b"<!doctype", "it is an HTML page: the download saved a web page; download the file itself"),
    (b"<html", "it is an HTML page: the download saved a web page; download the file itself"),
    (b"<?xml", "it is an XML page: the download saved an error page; download the file itself"),
    (b"gguf", "it is a GGUF file: miaotui reads Hugging Face safetensors checkpoints"),
    *(
        (magic, "it is a GGML file of llama.cpp or whisper.cpp: get the original safetensors checkpoint")
        for magic in (b"lmgg", b"tjgg", b"fmgg")
    ),
    (b"\x89hdf", "it is an HDF5 file, probably TensorFlow weights: save them as safetensors with transformers"),
    (b"pk\x03\x04", "it is a zip archive, probably a PyTorch .bin file: save it as safetensors with transformers"),
    (b"\x1f\x8b", "it is a gzip archive: unpack it first"),
    (b"{", "it begins with JSON text, where safetensors has an 8-byte length: download the file again"),
)


def quote(value: object, limit: int = 80) -> str:
    """`repr(value)`, cut to `limit` characters: what a file says is quoted, never printed as it is.

    Costs no more than what it shows, however large or deep the value is.
    """
    text = ""
    try:
        for piece in _repr_pieces(value, limit):
            text += piece
            if len(text) > limit:
                return text[: limit - 3] + "..."
    except Exception:  # noqa: BLE001 - an object's own repr may raise anything; an integer of over 4300 digits has none
        return f"a {type(value).__name__}"
    return text


def _repr_pieces(value: object, limit: int) -> Iterator[str]:
    """The pieces of `repr(value)`, made as they are asked for: YAML's aliases can make it longer than memory is."""
    if isinstance(value, str):
        yield repr(value[: limit + 1])
    elif type(value) in (list, tuple):
        yield "[" if isinstance(value, list) else "("
        for i, item in enumerate(value):  # type: ignore[arg-type, var-annotated]  # mypy does not read `type() in`
            yield ", " if i else ""
            yield from _repr_pieces(item, limit)
        yield "]" if isinstance(value, list) else ",)" if len(value) == 1 else ")"  # type: ignore[arg-type]  # as above
    elif type(value) is dict:
        yield "{"
        for i, (key, item) in enumerate(value.items()):
            yield ", " if i else ""
            yield from _repr_pieces(key, limit)
            yield ": "
            yield from _repr_pieces(item, limit)
        yield "}"
    else:
        yield repr(value)


def reason(e: Exception) -> str:
    """What an `OSError` says, without its number and its file's name."""
    return getattr(e, "strerror", None) or str(e)


def printable(text: object, limit: int = 300) -> str:
    """A library's or a caller's words inside a message: cut to `limit`, and escaped where they cannot be printed."""
    some = str(text)[: limit + 1]
    some = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in some)
    return some if len(some) <= limit else some[: limit - 3] + "..."


def looks_like(start: bytes, *, want_json: bool = False) -> str:
    """What the file is, when its first bytes tell that it is not what was expected; or "". `want_json`: JSON was."""
    text = start[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((what for magic, what in LOOKS if text.startswith(magic) and not (want_json and magic == b"{")), "")


def regular_size(path: Path, error: type[MiaotuiError] = CheckpointError) -> int:
    """Size in bytes of a regular file; `error` when it is missing, unreadable, or a directory, pipe or device."""
    try:
        info = path.stat()
    except (OSError, ValueError) as e:  # ValueError: a NUL byte in the name
        msg = f"{quote(str(path), 300)}: cannot be read ({reason(e)}); check the path and the download"
        raise error(msg) from e
    if not stat.S_ISREG(info.st_mode):
        msg = f"{path}: expected a regular file, found something else (a directory, a pipe or a device)"
        raise error(msg)
    return info.st_size


def read_bytes(path: Path, limit: int, error: type[MiaotuiError]) -> bytes:
    """The bytes of a regular file; `error` where it has more than `limit`, also where it grew meanwhile."""
    size = regular_size(path, error)
    data = first_bytes(path, limit + 1, error) if size <= limit else b""
    size = max(size, len(data))
    if size > limit:
        msg = f"{path}: has {size} bytes, expected at most {limit}; this is no {path.name}"
        raise error(msg)
    return data


def read_text(path: Path, error: type[MiaotuiError]) -> str:
    """A text in UTF-8 that the user named, as it is; a pipe will do. `error` over `MAX_TEXT` bytes."""
    data = first_bytes(path, MAX_TEXT + 1, error)
    if len(data) > MAX_TEXT:
        msg = f"{path}: has more than {MAX_TEXT} bytes; expected a text of at most as many"
        raise error(msg)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as e:
        msg = f"{path}: byte {e.start} is not UTF-8; expected a text file"
        raise error(msg) from e


def first_bytes(path: Path, count: int, error: type[MiaotuiError]) -> bytes:
    """At most `count` bytes, and all where there are fewer."""
    try:
        with path.open("rb", buffering=0) as f:
            data = bytearray()  # grows with what there is: `read(count)` would allocate what there may be
            while len(data) < count and (piece := f.read(min(PIECE, count - len(data)))):
                data += piece
            return bytes(data)
    except (OSError, ValueError) as e:  # ValueError: a NUL byte in the name
        msg = f"{quote(str(path), 300)}: cannot be read ({reason(e)})"
        raise error(msg) from e


def parse_json(data: bytes, where: str, error: type[MiaotuiError], *, constants: bool = False) -> Any:  # noqa: ANN401
    """JSON in UTF-8, strictly: a key given twice is refused, and NaN and Infinity unless `constants`.

    Refused before anything is made of it where that would take more than `TIMES` its size, and more than `FREE` bytes.
    """
    counts, most = count(data), max(FREE, TIMES * len(data))
    if counts.taken > most:
        msg = (
            f"{where}: about {counts.values:,} values in {len(data):,} bytes, which would take about "
            f"{counts.taken:,} bytes of memory; expected at most {most:,}: {FREE >> 20} MiB, or {TIMES} times the "
            "file. It is damaged, or was made to do harm"
        )
        raise error(msg)

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(items)
        if len(table) != len(items):
            seen: set[str] = set()
            twice = next(name for name, _ in items if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            msg = f"the key {quote(twice)} is given twice"
            raise ValueError(msg)
        return table

    def constant(name: str) -> float:
        if not constants:
            msg = f"{name} is not a JSON number"
            raise ValueError(msg)
        return float(name)

    try:
        text = data.decode("utf-8")
        parsed = json.loads(text, parse_constant=constant)
        if _n_items(parsed) == counts.items:
            return parsed
        json.loads(text, parse_constant=constant, object_pairs_hook=pairs)  # says which key
    except UnicodeDecodeError as e:
        msg = f"{where}: expected JSON in UTF-8, found byte 0x{data[e.start]:02x} at {e.start}; download it again"
    except RecursionError:
        msg = f"{where}: JSON is nested too deep; the file is damaged or was made to do harm"
    except ValueError as e:
        msg = f"{where}: {looks_like(data, want_json=True) or f'not valid JSON ({e})'}; download it again or repair it"
    raise error(msg)


def _n_items(parsed: object) -> int:
    """Keys in all objects together: fewer than there are colons, where one was given twice."""
    items, todo = 0, [parsed]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            items += len(value)
            todo.extend(v for v in value.values() if isinstance(v, dict | list))
        elif isinstance(value, list):
            todo.extend(v for v in value if isinstance(v, dict | list))
    return items


def read_json_object(path: Path, limit: int, error: type[MiaotuiError]) -> dict[str, Any]:
    """A JSON file of at most `limit` bytes that holds one object. NaN and Infinity pass: its reader judges values."""
    parsed = parse_json(read_bytes(path, limit, error), str(path), error, constants=True)
    if not isinstance(parsed, dict):
        msg = f"{path}: expected a JSON object, found {quote(parsed)}"
        raise error(msg)
    return parsed


def read_yaml_object(path: Path, limit: int, error: type[MiaotuiError]) -> dict[str, Any]:
    """A YAML file of at most `limit` bytes, and of `MAX_YAML`, that holds one mapping, by PyYAML's safe loader.

    `BackendError` where PyYAML, of the extra `yaml`, is not installed.
    """
    try:
        import yaml  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra
    except ImportError as e:
        msg = f"{path}: reading YAML needs PyYAML: pip install 'miaotui[yaml]'; or write the file as JSON"
        raise BackendError(msg) from e
    if (size := regular_size(path, error)) > MAX_YAML:
        msg = f"{path}: has {size} bytes; YAML is read up to {MAX_YAML}: write it as JSON"
        raise error(msg)
    data = read_bytes(path, limit, error)
    try:
        parsed = yaml.safe_load(data)
    except (ValueError, RecursionError, yaml.YAMLError) as e:
        msg = f"{path}: cannot be read as YAML ({printable(' '.join(str(e).split()), 200)})"
        raise error(msg) from e
    if not isinstance(parsed, dict):
        msg = f"{path}: expected a YAML mapping, found {quote(parsed)}"
        raise error(msg)
    return parsed
