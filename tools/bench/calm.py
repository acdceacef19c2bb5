"""Threads next to a busy process: the default, and 1, 2 and 4 threads, alone and next to one, in turns.

    python -m miaotui.tools.bench.calm --shape smollm2-135m --out docs/benchmarks/calm-smollm2-135m-bf16.json

Without `--shape` or `--model` it is the included model. All settings are loaded in one process, and each decodes the
same text for some time; threads of those that wait are ended. A round has a turn of each setting alone and one next to
a process that computes without an end, which this command starts and ends. All answers must have the same ids. What
counts is the median over the rounds of the ratio of tokens a second to the best of 1 thread and 2 in the same round.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...errors import InputError
from ...model import load
from ..demo import path as included
from .roofline import machine, versions
from .shapes import DTYPES, SHAPES, make_checkpoint
from .shared import print_out, public_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ...model import Model

__all__ = ["busy", "main", "measured"]

Setting = int | Literal["auto"]
#: As of load; what the others are compared with are FIXED.
SETTINGS: tuple[Setting, ...] = ("auto", 1, 2, 4)
FIXED = (1, 2)
#: Of the default next to a busy process, and of four threads, at least, as a share of the best of FIXED.
BAR = 0.8
PROMPT = [1, 2, 3, 4]
BUSY = "print(flush=True)\nwhile True: pass"


@contextmanager
def busy() -> Iterator[None]:
    """Another process computes meanwhile, without a pause."""
    command = [sys.executable, "-I", "-S", "-c", BUSY]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603 - our own
        try:
            assert process.stdout is not None  # noqa: S101 - as asked
            process.stdout.readline()  # it runs
            yield
        finally:
            process.kill()


def turn(model: Model, new: int, seconds: float) -> tuple[float, list[int]]:
    """Tokens a second after the first, of answers that take some seconds together, and the ids of one."""
    tokens, took, ids = 0, 0.0, list[int]()
    while not tokens or took < seconds:
        answer = model.generate(PROMPT, max_new_tokens=new, ignore_eos=True)
        tokens, took, ids = tokens + new - 1, took + answer.timings.decode_s, answer.ids
    model.session.rest()
    return tokens / took, ids


def measured(models: Mapping[Setting, Model], new: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """A row for each setting, alone and next to a busy process. Errors: `InputError`: ids differ."""
    speeds: dict[tuple[bool, Setting], list[float]] = {(beside, s): [] for beside in (False, True) for s in models}
    wanted = turn(models[FIXED[0]], new, 0.0)[1]
    for model in models.values():
        turn(model, new, 0.0)  # its kernels and its cache are there
    for i in range(rounds):
        order = list(models)[i % len(models) :] + list(models)[: i % len(models)]
        for beside in (i % 2 == 1, i % 2 == 0):
            with ExitStack() as meanwhile:
                if beside:
                    meanwhile.enter_context(busy())
                for setting in order:
                    speed, ids = turn(models[setting], new, seconds)
                    if ids != wanted:
                        msg = f"threads={setting}: the answer is another; this is a fault of miaotui, please report it"
                        raise InputError(msg)
                    speeds[beside, setting].append(speed)
    rows: list[dict[str, Any]] = []
    for (beside, setting), own in speeds.items():
        best = np.max([speeds[beside, n] for n in FIXED], axis=0)
        low, middle, high = np.quantile(np.divide(own, best), (0.25, 0.5, 0.75))
        ratio = {"median": float(middle), "quartiles": [float(low), float(high)], "rounds": rounds}
        rows.append({"threads": setting, "busy": beside, "tokens_per_s": float(np.median(own)), "of_best": ratio})
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m miaotui.tools.bench.calm", description="threads next to a busy process"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", type=Path, help="a decoder (default: the included one)")
    which.add_argument("--shape", choices=SHAPES, help="random weights of this shape")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="of a shape")
    parser.add_argument("--quantize", help="as of load")
    parser.add_argument("--new", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn, at least")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and print a line for each setting."""
    args = _parser().parse_args(argv)
    if min(args.rounds, args.new - 1) < 1 or args.seconds < 0:
        msg = "--rounds: expected at least 1; --new: at least 2; --seconds: at least 0"
        raise InputError(msg)
    with tempfile.TemporaryDirectory() as work, ExitStack() as open_models:
        path = args.model or included()
        if args.shape:
            path = make_checkpoint(Path(work) / args.shape, args.shape, args.dtype)
        how: dict[str, Any] = {"quantize": args.quantize, "max_context": len(PROMPT) + args.new}
        models = {s: open_models.enter_context(load(path, threads=s, **how)) for s in SETTINGS}
        rows = measured(models, args.new, args.rounds, args.seconds)
    for row in rows:
        low, high = row["of_best"]["quartiles"]
        print_out(
            f"threads={row['threads']!s:5s} {'next to a busy process' if row['busy'] else 'alone':23s} "
            f"{row['tokens_per_s']:9.1f} tokens/s, {row['of_best']['median']:.2f} ({low:.2f} to {high:.2f}) of the best"
        )
    if args.out:
        command = public_command("python -m miaotui.tools.bench.calm", sys.argv if argv is None else list(argv))
        about = {"command": command, "machine": machine(), "versions": versions(), "bar": BAR}
        of = {"model": args.shape or path.name, "dtype": args.dtype if args.shape else None, "quantize": args.quantize}
        args.out.write_text(json.dumps(about | of | {"results": rows}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
