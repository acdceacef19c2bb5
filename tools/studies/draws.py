"""What drawing an id costs, one row on one thread: the kernel's microseconds by what is asked for, and NumPy's.

    python -m miaotui.tools.studies.draws [--vocab N]

Rows are normal numbers, three wide; the least of many draws is told, so that a busy machine shows less. JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from ...runtime.cpu import link
from ...runtime.cpu.draw import draw_lines
from ...runtime.cpu.team import aligned
from ...runtime.drawing import DRAW, row_words, scratch_bytes
from ...runtime.sampling import Sampler, SamplingParams
from ...runtime.step import Batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

DRAWS, IN_NUMPY = 300, 5
WAYS: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.8},
    "temperature, top_p": {"temperature": 0.8, "top_p": 0.95},
    "top_p, temperature": {"temperature": 0.8, "top_p": 0.95, "sampler_order": ("top_p", "temperature")},
    "top_n_sigma": {"top_n_sigma": 1.0},
    "top_h": {"top_h": 0.4},
    "typical_p": {"typical_p": 0.9},
    "epsilon_cutoff": {"epsilon_cutoff": 3e-4},
    "eta_cutoff": {"eta_cutoff": 3e-4},
    "xtc": {"xtc_probability": 1.0},
    "mirostat": {"mirostat": 2},
    "dynatemp": {"dynatemp_range": 0.5},
    "adaptive": {"adaptive": 1.0},
}
ALL: dict[str, Any] = {
    "temperature": 0.8, "dynatemp_range": 0.2, "top_n_sigma": 2.0, "top_k": 200, "top_p": 0.95, "min_p": 0.001,
    "typical_p": 0.95, "epsilon_cutoff": 1e-4, "eta_cutoff": 1e-4, "xtc_probability": 1.0, "mirostat": 2,
}  # fmt: skip


def in_kernel(sampler: Sampler, row: NDArray[np.float32]) -> float:
    """Seconds of a draw."""
    n, at = row.size, 64
    scratch = at + -(-row.nbytes // 64) * 64
    arena = aligned(scratch + scratch_bytes(n, 1, 1))
    arena[at : at + row.nbytes] = row.view(np.uint8)
    lines, batch = draw_lines(link.addresses([DRAW])[DRAW], at, n, scratch, 1), Batch(1, 1)
    words = row_words(sampler, 5)
    assert words is not None  # noqa: S101 - no function of a caller's
    batch.n_logits, batch.results[0] = 1, row.argmax()
    batch.draw(0, words)
    team = link.executor(1)
    team.bind(lines.ctypes.data, len(lines), int(arena.ctypes.data), batch.address)
    try:
        return least(team.step, DRAWS)
    finally:
        team.close()


def least(work: Callable[[], object], times: int) -> float:
    """Of the seconds that it takes."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.studies.draws")
    parser.add_argument("--vocab", type=int, default=49_152, metavar="N", help="logits of a row (default: 49152)")
    n = parser.parse_args().vocab
    row = (np.random.default_rng(1).standard_normal(n) * 3).astype(np.float32)
    told = {}
    for name, how in {**WAYS, "all of them": ALL}.items():
        sampler = Sampler(n, SamplingParams(do_sample=True, seed=1, **how))
        numpy = least(lambda sampler=sampler: sampler.draw(row, 5), IN_NUMPY)  # type: ignore[misc]
        told[name] = {"kernel": round(in_kernel(sampler, row) * 1e6), "numpy": round(numpy * 1e6)}
    print(json.dumps({"vocab": n, "microseconds": told}, indent=1))


if __name__ == "__main__":
    main()
