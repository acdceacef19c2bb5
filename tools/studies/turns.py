"""What taking turns costs: tokens a second of n threads that generate at once, and of the same calls one by one.

    python -m miaotui.tools.studies.turns [--threads T] [--seconds S]

Both ways use one model (the demo's) and as many Python threads; "one by one" holds a lock of ours for a whole answer,
so that nobody waits for a turn inside it. They alternate, and the median of the ratios is told. JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ...model import Model, load

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

ROUNDS = 5


def rate(model: Model, n: int, seconds: float, guard: AbstractContextManager[object]) -> float:
    """Tokens a second of n threads together."""
    counts, end = [0] * n, time.perf_counter() + seconds

    def work(i: int) -> None:
        while time.perf_counter() < end:
            with guard:
                counts[i] += len(model.generate("Once upon a time", max_new_tokens=48, ignore_eos=True).ids)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(n)]
    began = time.perf_counter()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return sum(counts) / (time.perf_counter() - began)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.studies.turns")
    parser.add_argument("--threads", type=int, default=1, metavar="T", help="threads of a step (default: 1)")
    parser.add_argument("--seconds", type=float, default=1, metavar="S", help="of each measurement (default: 1)")
    args = parser.parse_args()
    demo = Path(__file__).resolve().parents[1] / "demo" / "model"
    told = []
    with load(demo, threads=args.threads, max_context=64, cache_tokens=4096) as model:
        for n in (1, 2, 8):
            pairs = [
                [rate(model, n, args.seconds, guard) for guard in (contextlib.nullcontext(), threading.Lock())]
                for _ in range(ROUNDS)
            ]
            turns, one_by_one = (round(statistics.median(side)) for side in zip(*pairs, strict=True))
            ratio = round(statistics.median(a / b for a, b in pairs), 3)
            told.append({"callers": n, "by turns": turns, "one by one": one_by_one, "ratio": ratio})
    print(json.dumps({"threads": args.threads, "tokens a second": told}, indent=1))


if __name__ == "__main__":
    main()
