"""Statistics files as a mutation has them: of `mutation_kinds.py`."""

from __future__ import annotations

import io
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
from miaotui.tools.importance.calibrate import read_statistics
from miaotui.tools.importance.store import write_arrays
from mutations import mutated_bytes, mutated_text, words_of

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from mutations import Case, Draw

__all__ = ["statistics"]


def statistics(folder: Path) -> Draw:
    """Statistics that a calibration goes on from: damaged, or written whole with other arrays in them."""
    file = folder / "statistics.npz"
    places = {f"{kind}/layers.0.ffn_in": np.arange(12.0) for kind in ("total", "squares")}
    good: dict[str, Any] = {"done": np.int64(1), "n": np.int64(7), "cosine": np.ones(2), **places}
    good["hessian/layers.0.ffn_in"] = np.eye(12)
    write_arrays(file, "mark", **good)
    whole = file.read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as stored:
        members = {name: stored.read(name) for name in stored.namelist()}
    words = words_of(list(members), ["<f8", "descr", "fortran_order", "shape", "True", "|O", "(2,)", "mark"])

    def draw(rng: Random) -> Case:
        way = rng.random()
        if way < 0.4:
            file.write_bytes(mutated_bytes(rng, whole, words))
        elif way < 0.7:
            file.write_bytes(_zipped(rng, members, words))
        else:
            write_arrays(file, "mark", **_other_arrays(rng, good))
        return lambda: read_statistics(file, "mark"), (str(file),)

    return draw


def _zipped(rng: Random, members: dict[str, bytes], words: tuple[str, ...]) -> bytes:
    """An archive that is right, of members that are not."""
    out, method = (
        io.BytesIO(),
        rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)),
    )
    names = list(members)
    one = rng.choice(names)
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", method) as archive:
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name in names + rng.choice(([], [], [one])):
            data, called = members[name], name
            if name == one:
                data = rng.choice(
                    (data, mutated_bytes(rng, data, words), mutated_bytes(rng, data[:128], words) + data[128:])
                )
                called = rng.choice((name, name, name, mutated_text(rng, name, words)))
            try:
                archive.writestr(called, data)
            except (IndexError, UnicodeEncodeError, ValueError):  # no name that a zip can have
                archive.writestr(name, data)
    return out.getvalue()


def _other_arrays(rng: Random, good: dict[str, Any]) -> dict[str, Any]:
    """Arrays that the writer would never write, with the right digest."""
    arrays = dict(good)
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(list(arrays))
        value = np.asarray(arrays.pop(name))
        with np.errstate(invalid="ignore"):
            kinds = ("f4", "i8", "?", "S8", "U8", "c16") if value.dtype.kind in "fi" else ("S8", "U8")
            cast = value.astype(rng.choice(kinds))
        changed = (
            *(cast, value[None], value.reshape(-1)[:0], value.T, value.reshape(-1)[::-1]),
            *(
                np.float64("nan"),
                np.int64(2**62),
                np.int64(-1),
                np.arange(3),
                np.array(["x"]),
                np.full(value.shape, np.nan),
            ),
        )
        if rng.random() < 0.8:
            arrays[name if rng.random() < 0.7 else rng.choice((*good, "x", "total/", "/x", "n/", "other/x"))] = (
                rng.choice(changed)
            )
    return arrays
