"""What every op computes, as hashes: cases are drawn once, and repeated on another CPU or without a compiler.

`python tests/op_bits.py FILE` repeats what `drawn` wrote there, each case near its reference too, and prints JSON: the
level that ran, and for each op a SHA-256 of all bytes that its kernels gave.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from miaotui.runtime.cpu import shipped
from test_ops import CASES, ROWS, THREADS, Draw, checked

__all__ = ["drawn", "repeated"]


class Drawn(NamedTuple):
    """A case of an op: what was drawn for it, in order."""

    name: str
    variant: str
    threads: int
    values: list[Any]


def drawn(file: Path, each: int) -> int:
    """Draw `each` cases of every op and write them; how many there are."""
    found = [case for name, variant in ROWS for case in _cases(name, variant, each)]
    file.write_bytes(pickle.dumps(found))
    return len(found)


def _cases(name: str, variant: str, each: int) -> list[Drawn]:
    found: list[Drawn] = []

    @settings(max_examples=each, phases=[Phase.generate], database=None, deadline=None)
    @given(st.data(), THREADS)
    def noted(data: st.DataObject, threads: int) -> None:
        values: list[Any] = []

        def noting(strategy: st.SearchStrategy[Any]) -> Any:
            values.append(data.draw(strategy))
            return values[-1]

        draw: Any = noting
        CASES[name](Draw(draw), variant)
        found.append(Drawn(name, variant, threads, values))

    noted()
    return found


def repeated(file: Path) -> dict[str, str]:
    """Run what `drawn` wrote: op and variant, and the hash of its bytes."""
    hashes: dict[str, Any] = {}
    for case in pickle.loads(file.read_bytes()):  # noqa: S301 - the caller's own file
        got = checked(case.name, case.variant, _again(case.values), case.threads)
        hashes.setdefault(f"{case.name} {case.variant}", hashlib.sha256()).update(got)
    return {name: h.hexdigest() for name, h in hashes.items()}


def _again(values: list[Any]) -> Any:
    """What draws the same again."""
    left = iter(values)

    def draw(_: object) -> Any:
        return next(left)

    return draw


if __name__ == "__main__":
    chosen = shipped.chosen()
    told = {"level": chosen and chosen.name, "numba": "numba" in sys.modules, "digests": repeated(Path(sys.argv[1]))}
    sys.stdout.write(json.dumps(told) + "\n")
