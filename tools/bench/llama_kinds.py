"""llama.cpp's files of a checkpoint, rounded by llama.cpp's own programs, llama-imatrix and llama-quantize."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from ...errors import BackendError
from .compare import worker_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["KINDS", "dressed", "matrices", "requantized"]

#: What people take, smallest first.
KINDS = ("Q4_0", "Q4_K_M", "Q5_K_M", "Q8_0")
#: Of the text that the importance of columns is taken from: tokens at once.
WINDOW = 512


def dressed(python: str, base: Path, model: Path, folder: Path) -> Path:
    """The GGUF file `base` with the matrices of `model` in F32. BackendError: they do not fit."""
    out = folder / f"{model.name}-F32.gguf"
    _run(worker_command(python, "dress", "llama.cpp", base.resolve(), model.resolve(), out.resolve()))
    return out


def requantized(
    programs: Path, file: Path, calibration: Path, chunks: int, kinds: tuple[str, ...]
) -> Iterator[tuple[str, Path]]:
    """Of `file`: kind and file, next to it; it is removed when the next is asked for. `chunks`: of 512 tokens."""
    importance = file.with_suffix(".imatrix.gguf")
    words = ["-m", str(file), "-f", str(calibration), "-o", str(importance), "-c", str(WINDOW), "--chunks", str(chunks)]
    _run([str(programs / "llama-imatrix"), *words])
    for kind in kinds:
        out = file.with_suffix(f".{kind}.gguf")
        _run([str(programs / "llama-quantize"), "--imatrix", str(importance), str(file), str(out), kind])
        yield kind, out
        out.unlink()
    importance.unlink()


def matrices(python: str, file: Path) -> dict[str, tuple[int, int]]:
    """Of a GGUF file, by name: numbers and bytes."""
    found: dict[str, tuple[int, int]] = json.loads(_run(worker_command(python, "matrices", "llama.cpp", file)))
    return found


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - its user named it
    except OSError as e:
        msg = f"{command[0]} cannot be run ({e.strerror})"
        raise BackendError(msg) from e
    if done.returncode:
        last = " ".join(done.stderr.strip().splitlines()[-1:])
        msg = f"{command[0]} ended with {done.returncode} ({last}): run it by hand: {' '.join(command)}"
        raise BackendError(msg)
    return done.stdout
