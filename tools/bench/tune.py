"""Whether tuning finds the best: `miaotui tune`'s search next to all points of its space, measured one by one.

    python -m miaotui.tools.bench.tune [--model DIR] [--text FILE] [--minutes M] --journal GRID.jsonl [--out FILE]

The search runs three times: twice from nothing, and then with the first's choice known, as `--out` keeps it. Every
point of the grid is then measured with as many pairs as the search gives all whom it may choose, and its loss as
there. All of it is kept in the journal, and a run that ended (`--minutes`) goes on when the same command is given
again. In the end the chosen point and the grid's best are measured by turns, nine pairs each with the reference, so
that luck in one of many measurements decides nothing. Without a text: the demo model's stories. The grid is a part
of what `miaotui tune` looks at, which would take days: the record says which levels, and how many combinations
there are (`--whole`).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError, MiaotuiError
from ...loader.open import open_model
from ...loader.text.tokenizer import Tokenizer
from ...loader.write import write_whole
from ...profiles import identity
from ..demo import path as demo_path
from ..demo.corpus import held_out
from ..tuning.knobs import knobs_of
from ..tuning.measure import ModelMeter
from ..tuning.records import Limits
from ..tuning.search import search
from ..tuning.subject import TextSubject
from ..tuning.ties import LEAST
from .roofline import machine, versions
from .shared import print_out, public_command

if TYPE_CHECKING:
    from ...loader.open import Opened
    from ..tuning.knobs import Knobs
    from ..tuning.space import Point

__all__ = ["Grid", "main"]

PAIRS, FINAL, SEARCHES = LEAST, 9, 3
#: Levels of the grid, where `--whole` does not ask for all of them.
LEVELS = {
    "prefill_chunk": (128, 64),
    "kv_cache": ("f32", "int8"),
    "embed": ("none", "int8"),
    "attention": ("none", "int8", "int4"),
    "ffn": ("none", "int8", "int4"),
}
VARY = ("threads", "prefill_chunk", "kv_cache", "embed", "attention", "ffn")


class Grid:
    """Every point, measured: rows by point, kept in a file as they come."""

    def __init__(self, file: Path, of: dict[str, Any]) -> None:
        """Go on with a file. InputError: it is of another model, or of other settings."""
        self.file, self.rows, self.seconds = file, dict[tuple[int, ...], dict[str, Any]](), 0.0
        self.searches: list[dict[str, Any]] = []
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        if lines and json.loads(lines[0]) != of:
            msg = f"--journal {file}: is of another model, text or space; name another file"
            raise InputError(msg)
        if not lines:
            file.write_text(json.dumps(of) + "\n", encoding="utf-8")
        for line in lines[1:]:
            self._add(json.loads(line))

    def _add(self, row: dict[str, Any]) -> None:
        if "search" in row:
            self.searches.append(row["search"])
            return
        self.rows[tuple(row["point"])] = row
        self.seconds += row["took"]

    def keep(self, row: dict[str, Any]) -> None:
        """Add a row, or a search, to what there is and to the file."""
        self._add(row)
        with self.file.open("a", encoding="utf-8") as f:
            f.write(json.dumps(row) + "\n")

    def measure(self, meter: ModelMeter, knobs: Knobs, end: float) -> None:
        """What is left of it, until `end`; in an order of its own, so that a part of it is a fair sample."""
        points = list(knobs.space.points())
        random.Random(0).shuffle(points)  # noqa: S311 - an order
        losses = {knobs.space.lossy(p): row["loss"] for p, row in self.rows.items()}
        for point in points:
            if point in self.rows or time.perf_counter() > end:
                continue
            row: dict[str, Any] = {"point": point, "settings": knobs.space.label(point)}
            began = time.perf_counter()
            key = knobs.space.lossy(point)
            try:
                row["memory"] = meter.memory(point)
                row["loss"] = losses[key] = losses[key] if key in losses else meter.loss(key)
                row["pairs"] = [meter.pair(point) for _ in range(PAIRS)]
            except MiaotuiError as e:
                row |= {"why": str(e), "pairs": [], "loss": math.inf, "memory": 0}
            self.keep(row | {"took": time.perf_counter() - began})

    def best(self, limits: Limits) -> Point | None:
        """The fastest within the limits."""
        able = [
            r for r in self.rows.values() if r["pairs"] and r["loss"] <= limits.loss and r["memory"] <= limits.memory
        ]
        best = min(able, key=lambda row: statistics.median(a / b for a, b in row["pairs"]), default=None)
        return None if best is None else tuple(best["point"])


def _searched(
    opened: Opened, knobs: Knobs, subject: TextSubject, limits: Limits, previous: Point | None
) -> dict[str, Any]:
    began = time.perf_counter()
    with ModelMeter(opened.directory, opened, knobs, subject) as meter:
        result = search(knobs.space, meter, limits, previous=previous)
    took = time.perf_counter() - began
    if result.chosen is None:
        msg = "nothing within the limits was measured; allow more"
        raise InputError(msg)
    row, label = result.chosen, knobs.space.label(result.chosen.point)
    pairs = sum(len(r.pairs) for r in result.rows)
    print_out(f"search: {took:.1f} s, {pairs} pairs: {label}   {1 / row.ratio:.2f}x, KL {row.loss:.4f}")
    within = (row.loss or 0.0) <= limits.loss and (row.memory or 0) <= limits.memory
    return {
        "point": row.point, "settings": label, "seconds": took, "pairs": pairs, "ratio": row.ratio, "loss": row.loss,
        "memory": row.memory, "within_limits": within, "ended": result.ended,
    }  # fmt: skip


def _by_turns(meter: ModelMeter, chosen: Point, best: Point) -> float:
    """The chosen's time over the best's: median of ratios to the reference, taken by turns."""
    ratios: dict[Point, list[float]] = {chosen: [], best: []}
    for _ in range(FINAL):
        for point, seen in ratios.items():
            a, b = meter.pair(point)
            seen.append(a / b)
    return statistics.median(ratios[chosen]) / statistics.median(ratios[best])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m miaotui.tools.bench.tune", description="tuning next to a full grid"
    )
    parser.add_argument("--model", type=Path, default=demo_path(), help="a checkpoint (default: the demo model)")
    parser.add_argument("--text", type=Path, help="a text (default: stories that the demo model has not seen)")
    parser.add_argument("--whole", action="store_true", help="all levels of all settings, not a part of them")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt (default: 128)")
    parser.add_argument("--new", type=int, default=32, help="tokens of an answer (default: 32)")
    parser.add_argument("--max-kl", type=float, default=0.02, help="as of miaotui tune (default: 0.02)")
    parser.add_argument("--max-memory", type=int, help="bytes, as of miaotui tune (default: no limit)")
    parser.add_argument("--minutes", type=float, default=4, help="end the grid after so long; go on later (default: 4)")
    parser.add_argument("--journal", type=Path, required=True, help="the grid's rows, JSON lines")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Search, measure the grid, compare; 0, or 3 where the grid is not done yet."""
    args = _parser().parse_args(argv)
    end = time.perf_counter() + 60 * args.minutes
    limits = Limits(memory=args.max_memory or math.inf, loss=args.max_kl)
    with open_model(args.model) as opened:
        text = "\n".join(held_out(40)) if args.text is None else args.text.read_text(encoding="utf-8")
        subject = TextSubject(Tokenizer.from_directory(opened.directory).encode(text), prompt=args.prompt, new=args.new)
        shape = {"prompt": args.prompt, "new": args.new}
        knobs = knobs_of(opened, **shape) if args.whole else knobs_of(opened, vary=VARY, levels=LEVELS, **shape)
        axes = {axis.name: [axis.label(i) for i in range(len(axis.levels))] for axis in knobs.space.axes}
        model = identity(opened)
        grid = Grid(args.journal, {"model": model["tensors"], "axes": axes, **shape, "tokens": len(subject.ids)})
        record: dict[str, Any] = {
            "command": public_command("python -m miaotui.tools.bench.tune", argv if argv is not None else sys.argv),
            "machine": machine(), "versions": versions(), "model": model["name"], "axes": axes,
            "points": knobs.space.size, "points_of_all_levels": knobs_of(opened, **shape).space.size,
            "prompt": args.prompt, "new": args.new, "text_tokens": len(subject.ids),
            "limits": {"kl": args.max_kl, "memory": args.max_memory},
        }  # fmt: skip
        while len(grid.searches) < SEARCHES:
            before = tuple(grid.searches[0]["point"]) if len(grid.searches) == SEARCHES - 1 else None
            grid.keep({"search": _searched(opened, knobs, subject, limits, before)})
        with ModelMeter(args.model, opened, knobs, subject) as meter:
            grid.measure(meter, knobs, end)
            best, (chosen, *others) = grid.best(limits), [tuple(s["point"]) for s in grid.searches]
            if len(grid.rows) < knobs.space.size or best is None:
                left = f"{len(grid.rows)} of {knobs.space.size} points are measured"
                print_out(f"{left}; the same command goes on" if best else f"{left}, none within the limits")
                return 3
            record["over_best"] = 1.0 if best == chosen else _by_turns(meter, chosen, best)
    record |= {
        "grid": {"seconds": grid.seconds, "points": len(grid.rows), "best": knobs.space.label(best)},
        "searches": grid.searches,
        "share_of_time": grid.searches[0]["seconds"] / grid.seconds,
        "chosen_again": others[0] == chosen,
        "kept": others[1] == chosen,
        "within_limits": all(s["within_limits"] for s in grid.searches),
    }
    print_out(
        f"grid: {len(grid.rows)} points, {grid.seconds:.1f} s: best {record['grid']['best']}\n"
        f"chosen takes {record['over_best']:.3f} of the best's time, found in {record['share_of_time']:.3f} of the "
        f"grid's; chosen again: {record['chosen_again']}, kept where it was known: {record['kept']}"
    )
    if args.out:
        write_whole(args.out, json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
