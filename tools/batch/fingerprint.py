"""Whether a model's files are those of before, told without reading all of them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ...errors import CheckpointError
from ...loader.files import quote, reason
from ...loader.paths import listed

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["fingerprint"]

ENDINGS = (".json", ".txt", ".model", ".jinja", ".safetensors")
#: A file up to this size is read whole; of a larger one its ends and samples between them, evenly spread.
WHOLE, SAMPLE, SAMPLES = 2**24, 4096, 256


def fingerprint(directory: Path) -> str:
    """16 hexadecimal digits of the names, sizes and samples of a checkpoint's files. `CheckpointError`: unreadable.

    A model that was trained further differs in every sample; a few weights that were edited by hand may lie in none.
    """
    total = hashlib.sha256()
    folders = [directory, *(directory / name for name in listed(directory) if (directory / name).is_dir())]
    for folder in folders:
        for name in listed(folder):
            file = folder / name
            if file.suffix in ENDINGS and file.is_file():
                total.update(f"{file.relative_to(directory)}\0".encode("utf-8", "surrogateescape"))
                total.update(_sampled(file))
    return total.hexdigest()[:16]


def _sampled(file: Path) -> bytes:
    try:
        with file.open("rb") as f:
            size = f.seek(0, 2)
            some = hashlib.sha256(str(size).encode())
            places = [0] if size <= WHOLE else [(size - SAMPLE) * i // SAMPLES for i in range(SAMPLES + 1)]
            for at in places:
                f.seek(at)
                some.update(f.read(WHOLE if size <= WHOLE else SAMPLE))
            return some.digest()
    except OSError as e:
        msg = f"{quote(str(file), 300)}: cannot be read ({reason(e)})"
        raise CheckpointError(msg) from e
