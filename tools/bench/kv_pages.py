"""How many positions a page of the KV cache holds: one token after many keys, page sizes and another tree by turns.

    python -m miaotui.tools.bench.kv_pages --before TREE --pages 16 32 64 128 256 --out docs/benchmarks/kv-pages.json

TREE is a folder that holds a `miaotui` to compare with; each page size is a copy of this package with another `PAGE`
(`runtime/kvcache.py`), `--variant NAME=TREE` is one more. Every tree is a process of its own, with random weights at
SmolLM2-135M's shape and a cache whose every page was written. A round runs each of them once, in random order; what
counts are the medians and quartiles of before / after within a round: over 1 is faster than before. Two things are
timed: "attention", all attention instructions of a step without the others, and "token", the whole step. "shuffled"
draws the page table; "consecutive" counts up.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import BackendError
from .roofline import machine, versions
from .shapes import make_checkpoint
from .shared import print_out, public_command
from .trees import Tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["main"]

SHAPE, DTYPE, CONTEXT = "smollm2-135m", "bf16", 8192
KEYS, CACHES, THREADS = (64, 2048, 8000), ("f32", "bf16", "int8"), (1, 2)
LEAST = 0.004  # seconds of a turn: short steps are run several times
#: The other side: it runs in trees of either kind, so it is no module of this one.
WORKER = """
import json, sys, time
import numpy as np
import miaotui
from miaotui.runtime.cpu import link

model, executor, kept = None, None, None
for line in sys.stdin:
    command, *rest = json.loads(line)
    said = None
    if command == "load":
        if model is not None:
            model.close()
        path, kv_cache, threads, context = rest
        model = miaotui.load(path, threads=threads, max_context=context, kv_cache=kv_cache)
        session = model.session
        machine = getattr(session, 'backend', session)
        machine.arena[:] = 0  # pages of memory that were never written are all one, in the cache
        whole = machine.code
        part = np.ascontiguousarray(whole[[i.op == "attention" for i in session.program.code]])
    elif command == "point":
        keys, what, shuffled = rest
        code = part if what == "attention" else whole
        try:
            from miaotui.runtime.step import Batch
        except ImportError:  # before there were batches: tokens, position, rows of logits, address of the ids
            ids, words = np.ones(1, np.int64), np.zeros(16, np.int64)
            words[:4] = 1, keys - 1, 1, ids.ctypes.data
            kept, step = (ids, words), words.ctypes.data
        else:
            program = session.program
            table = np.arange(program.n_pages, dtype=np.int32)
            if shuffled:
                np.random.default_rng(0).shuffle(table)
            batch = Batch(1, 1)
            batch.add([1], keys - 1, table.ctypes.data, 1)
            kept, step = (table, batch), batch.address
    elif command == "run":
        executor = link.executor(session.threads)
        executor.bind(code.ctypes.data, len(code), machine.arena.ctypes.data, step)
        executor.step()
        began = time.perf_counter()
        for _ in range(rest[0]):
            executor.step()
        said = (time.perf_counter() - began) / rest[0]
        executor.close()  # its threads would spin next to the others' turns
    print(json.dumps(said), flush=True)
"""


def copy_with_page(package: Path, folder: Path, page: int) -> Path:
    """The package, copied into `folder`, with pages of another size."""
    keep = shutil.ignore_patterns(".*", "tests", "docs", "__pycache__")
    copy = Path(shutil.copytree(package, folder / "miaotui", ignore=keep))
    source = copy / "runtime" / "kvcache.py"
    text, count = re.subn(r"^PAGE = \d+$", f"PAGE = {page}", source.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if count != 1:
        msg = f"{source}: {count} lines say PAGE = ..., expected 1"
        raise BackendError(msg)
    source.write_text(text, encoding="utf-8")
    return folder


def rounds(trees: Sequence[Tree], count: int, seed: int) -> dict[str, list[float]]:
    """Seconds of a step, of each tree in each round."""
    rng, order = random.Random(seed), list(trees)  # noqa: S311 - an order, no secret
    seconds: dict[str, list[float]] = {tree.name: [] for tree in trees}
    times = max(1, round(LEAST / max(1e-6, trees[0].ask("run", 3))))
    for _ in range(count):
        rng.shuffle(order)
        for tree in order:
            seconds[tree.name].append(tree.ask("run", times))
    return seconds


def compared(seconds: dict[str, list[float]]) -> Iterator[dict[str, Any]]:
    """Of every tree but the first: medians in ms, and the quartiles of before / after."""
    before, *others = seconds
    for name in others:
        low, middle, high = np.quantile(np.divide(seconds[before], seconds[name]), (0.25, 0.5, 0.75))
        yield {
            "tree": name,
            "before_ms": round(1e3 * float(np.median(seconds[before])), 4),
            "after_ms": round(1e3 * float(np.median(seconds[name])), 4),
            "ratio": {"median": round(float(middle), 4), "quartiles": [round(float(low), 4), round(float(high), 4)]},
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", type=Path, required=True, metavar="TREE", help="a folder that holds a miaotui")
    parser.add_argument("--pages", type=int, nargs="*", default=[], help="page sizes of copies of this package")
    parser.add_argument("--variant", nargs="*", default=[], metavar="NAME=TREE", help="further trees")
    parser.add_argument("--what", nargs="+", default=["attention", "token"], choices=("attention", "token"))
    parser.add_argument("--keys", type=int, nargs="+", default=list(KEYS))
    parser.add_argument("--kv-cache", nargs="+", default=list(CACHES), choices=CACHES)
    parser.add_argument("--threads", type=int, nargs="+", default=list(THREADS))
    parser.add_argument("--order", nargs="+", default=["consecutive", "shuffled"], choices=("consecutive", "shuffled"))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, help="write the figures as JSON, with those of other points that are there")
    args = parser.parse_args(argv)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        path = make_checkpoint(Path(work) / "weights", SHAPE, DTYPE)
        folders = {"before": args.before} | dict(v.split("=", 1) for v in args.variant)
        package = Path(__file__).parents[2]
        folders |= {f"pages of {n}": copy_with_page(package, Path(work) / f"page{n}", n) for n in args.pages}
        trees = [Tree(name, Path(folder), WORKER) for name, folder in folders.items()]
        for kv_cache in args.kv_cache:
            for threads in args.threads:
                for tree in trees:
                    tree.ask("load", str(path), kv_cache, threads, CONTEXT)
                for keys, what, order in ((k, w, o) for k in args.keys for w in args.what for o in args.order):
                    for tree in trees:
                        tree.ask("point", keys, what, order == "shuffled")
                    point = {"kv_cache": kv_cache, "threads": threads, "keys": keys, "what": what, "order": order}
                    for row in compared(rounds(trees, args.rounds, seed=keys)):
                        results.append(point | row)
                        ratio = row["ratio"]
                        what_was = f"{' '.join(map(str, point.values())):40s} {row['tree']:20s}"
                        print_out(f"{what_was} {row['after_ms']:9.3f} ms {ratio['median']:.3f} {ratio['quartiles']}")
        for tree in trees:
            tree.close()
    if args.out:
        command = public_command("python -m miaotui.tools.bench.kv_pages", sys.argv if argv is None else argv)
        record = added(args.out, command, [row | {"rounds": args.rounds} for row in results])
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def added(file: Path, command: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """The record of a run, with what the file has already of other points and trees."""
    old = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"commands": [], "results": []}
    point = itemgetter("kv_cache", "threads", "keys", "what", "order", "tree")
    new = {point(row) for row in results}
    return {
        "commands": [*(c for c in old["commands"] if c != command), command],
        "machine": machine(),
        "versions": versions(),
        "shape": SHAPE,
        "weights": DTYPE,
        "results": [row for row in old["results"] if point(row) not in new] + results,
    }


if __name__ == "__main__":
    sys.exit(main())
