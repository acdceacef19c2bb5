"""Two trees of sources by turns: decode after many keys and prefill, with the CPU time of each; packed prompts.

    python -m miaotui.tools.bench.trees --before FOLDER --out docs/benchmarks/trees.json

FOLDER holds a `miaotui` to compare with. Each tree is a process of its own with random weights at SmolLM2-135M's shape.
A pair runs both once, in turn; what counts are the median and the quartiles of before / after: over 1 is faster than
before. CPU time is the process's own and that of its threads, per token. Packed prompts are this tree's alone: several
prompts in one pass against one by one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import BackendError
from .roofline import machine, versions
from .shapes import make_checkpoint
from .shared import paired, print_out, public_command

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Tree", "main"]

SHAPE, CONTEXT = "smollm2-135m", 8192
#: Tokens of a turn where one is decoded at a time; seconds before a turn, for the other side's threads to fall asleep.
TURN, PAUSE = 6, 0.25
PACKED = ((8, 1), (8, 4), (8, 64))
#: It runs in trees of either kind, so it is no module of this one.
WORKER = """
import json, resource, sys, time
import numpy as np
import miaotui

def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime

model = None
for line in sys.stdin:
    command, *rest = json.loads(line)
    said = None
    if command == "load":
        path, threads, how, context = rest
        if model is not None:
            model.close()
        model = miaotui.load(path, threads=threads, max_context=context, **how)
        session = model.session
        getattr(session, "backend", session).arena[:] = 0  # memory that was never written is one page of zeros
    elif command == "decode":
        keys, turn = rest
        session.step([1], keys - 1)
        used, began = cpu(), time.perf_counter()
        for at in range(keys, keys + turn):
            session.step([1], at)
        said = [(time.perf_counter() - began) / turn, (cpu() - used) / turn]
    elif command == "prefill":
        ids = [1 + i % 100 for i in range(rest[0])]
        used, began = cpu(), time.perf_counter()
        session.step(ids, 0)
        said = [(time.perf_counter() - began) / len(ids), (cpu() - used) / len(ids)]
    elif command == "packed":
        prompts = [[1 + (7 * i + j) % 100 for j in range(rest[1])] for i in range(rest[0])]
        began = time.perf_counter()
        together = model.last_logits(prompts)
        middle = time.perf_counter()
        alone = [model.last_logits([p])[0] for p in prompts]
        said = [time.perf_counter() - middle, middle - began, bool(np.array_equal(together, alone))]
    print(json.dumps(said), flush=True)
"""


class Tree:
    """A process that runs the `miaotui` of a folder."""

    def __init__(self, name: str, folder: Path, worker: str = WORKER) -> None:
        """Start it: `worker` is a script that answers a line of JSON with another."""
        self.name = name
        self._process = subprocess.Popen(  # noqa: S603 - our own text
            [sys.executable, "-c", worker],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(folder), "MIAOTUI_QUIET": "1", "HOME": str(Path.home())},
        )

    def ask(self, *command: object) -> Any:  # noqa: ANN401 - what JSON holds
        """Send a command, wait for its answer. BackendError: the process ended."""
        if self._process.stdin is None or self._process.stdout is None:
            msg = f"{self.name}: the process has no pipes"
            raise BackendError(msg)
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            msg = f"{self.name}: the process ended at {command}"
            raise BackendError(msg)
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def by_turns(before: Tree, after: Tree, pairs: int, *command: object) -> dict[str, Any]:
    """One point: seconds and CPU seconds a token of both, and their ratios."""
    seconds: dict[str, list[list[float]]] = {"before": [], "after": []}
    for i in range(pairs + 1):
        for tree in (before, after) if i % 2 else (after, before):
            time.sleep(PAUSE)
            took = tree.ask(*command)
            if i:  # the first pair warms up
                seconds[tree.name].append(took)
    ours, theirs = (np.array(seconds[name]) for name in ("after", "before"))
    return {
        "before_ms": 1e3 * float(np.median(theirs[:, 0])),
        "after_ms": 1e3 * float(np.median(ours[:, 0])),
        "ratio": paired(ours[:, 0].tolist(), theirs[:, 0].tolist()),
        "cpu_before_ms": 1e3 * float(np.median(theirs[:, 1])),
        "cpu_after_ms": 1e3 * float(np.median(ours[:, 1])),
        "cpu_ratio": paired(ours[:, 1].tolist(), theirs[:, 1].tolist()),
    }


def packed(after: Tree, pairs: int, prompts: int, each: int) -> dict[str, Any]:
    """Several prompts in one pass against one by one."""
    rows = []
    for _ in range(pairs):
        time.sleep(PAUSE)
        alone, together, same = after.ask("packed", prompts, each)
        if not same:
            msg = f"{prompts} prompts of {each} tokens in one pass differ from each alone"
            raise BackendError(msg)
        rows.append((alone, together))
    return paired([b for _, b in rows], [a for a, _ in rows])


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m miaotui.tools.bench.trees", description="this tree against another"
    )
    parser.add_argument("--before", type=Path, required=True, metavar="FOLDER", help="it holds a miaotui")
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="bf16")
    parser.add_argument("--quantize", metavar="HOW", help="as load takes it")
    parser.add_argument("--keys", type=int, nargs="*", default=[64, 2048, 8000], help="keys before a token is decoded")
    parser.add_argument("--prefill", type=int, nargs="*", default=[128, 512], help="tokens of a prompt")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args(argv)
    how = {} if args.quantize is None else {"quantize": args.quantize}
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        path = str(make_checkpoint(Path(work) / "weights", SHAPE, args.dtype))
        package = Path(work) / "after"
        package.mkdir()
        (package / "miaotui").symlink_to(Path(__file__).parents[2])
        before, after = Tree("before", args.before), Tree("after", package)
        for threads in args.threads:
            for tree in (before, after):
                tree.ask("load", path, threads, how, CONTEXT)
            points = [("decode", keys, TURN) for keys in args.keys] + [("prefill", n) for n in args.prefill]
            for point in points:
                row = {
                    "threads": threads,
                    "what": point[0],
                    "n": point[1],
                    **by_turns(before, after, args.pairs, *point),
                }
                results.append(row)
                print_out(
                    f"{threads} threads, {point[0]} {point[1]}: {row['before_ms']:.3f} -> {row['after_ms']:.3f} ms, "
                    f"ratio {_quartiles(row['ratio'])}, CPU {_quartiles(row['cpu_ratio'])}"
                )
            for prompts, each in PACKED:
                ratio = packed(after, max(5, args.pairs // 4), prompts, each)
                results.append({"threads": threads, "what": "packed", "prompts": prompts, "n": each, "ratio": ratio})
                print_out(f"{threads} threads, {prompts} prompts of {each} in one pass: {_quartiles(ratio)}")
        for tree in (before, after):
            tree.close()
    command = public_command("python -m miaotui.tools.bench.trees", sys.argv if argv is None else argv)
    shape = {"shape": SHAPE, "weights": args.dtype, "quantize": args.quantize, "context": CONTEXT, "pairs": args.pairs}
    record = {"command": command, "machine": machine(), "versions": versions(), **shape, "results": results}
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def _quartiles(ratio: dict[str, Any]) -> str:
    low, high = ratio["quartiles"]
    return f"{ratio['median']:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    sys.exit(main())
