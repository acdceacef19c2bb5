"""Starts: from nothing to the first token, by kernels that came compiled and by those that Numba compiled here.

    python -m miaotui.tools.bench.start [--rounds N] [--model DIR …] [--cold DIR] [--out FILE]

A start is a fresh process that loads a model and draws one token; its seconds run from just before it is asked for to
that token, and its peak is the largest resident set (`VmHWM`). The included story model starts by turns with the
package's own kernels and with those in Numba's cache (`MIAOTUI_CPU=jit`), which a start before filled. `--model`:
seconds from `load` to the likeliest id after two, in a process that has imported the package, files in the page cache;
reading the tokenizer is timed apart, afterwards. `--cold`: the same with nothing of the model's files in the page
cache (what `posix_fadvise` lets go of), next to the time that reading these files from end to end takes, from as cold;
by turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ...errors import BackendError, InputError
from ...runtime.cpu import shipped
from ..demo import path as demo_path
from .roofline import machine, versions
from .shared import paired, print_out, public_command

__all__ = ["main"]

#: What runs the package's own kernels, and what Numba's.
WAYS = {"shipped": "", "jit": "jit"}
PROMPT = "Once upon a time"
READ = 2**22  # bytes at a time
#: Of a start: when the first token was there, by the clock that its parent reads too; the peak. As a user's script is.
FIRST_TOKEN = f"""
import sys, miaotui
with miaotui.load(sys.argv[1]) as model:
    next(iter(model.stream({PROMPT!r}, max_new_tokens=1)))
import json, time
at = time.clock_gettime(time.CLOCK_MONOTONIC)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(json.dumps({{"at": at, "peak": int(peak.split()[1]) * 1024}}))
"""
#: Of loading: seconds to a token after two ids, and of the tokenizer.
LOADING = """
import json, sys, time, numpy, miaotui, miaotui.model, miaotui.runtime.session
began = time.perf_counter()
with miaotui.load(sys.argv[1], max_context=256) as model:
    ready = time.perf_counter()
    int(model.last_logits([[1, 2]])[0].argmax())  # a stream would read the tokenizer first
    done = time.perf_counter()
    model.tokenizer.encode("a")
    read = time.perf_counter()
print(json.dumps({"load": ready - began, "first_token": done - began, "tokenizer": read - done}))
"""


def _child(script: str, model: Path, way: str = "") -> tuple[float, dict[str, float]]:
    """A fresh process; when it was asked for, and what it says. Errors: `BackendError`: it failed."""
    command = [sys.executable, "-c", script, str(model)]
    here = {name: value for name, value in os.environ.items() if name != "MIAOTUI_CPU"}
    asked = time.clock_gettime(time.CLOCK_MONOTONIC)
    done = subprocess.run(  # noqa: S603 - our own script
        command, capture_output=True, text=True, check=False, env=here | ({"MIAOTUI_CPU": way} if way else {})
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        msg = f"{model.name}: the measured process ended with {done.returncode}: {last}"
        raise BackendError(msg)
    facts: dict[str, float] = json.loads(done.stdout)
    return asked, facts


def starts(rounds: int) -> dict[str, Any]:
    """The included model by both ways, by turns."""
    model, seconds, peaks = demo_path(), {way: list[float]() for way in WAYS}, {way: list[float]() for way in WAYS}
    for _ in range(1 + rounds):
        for name, way in WAYS.items():
            asked, facts = _child(FIRST_TOKEN, model, way)
            seconds[name].append(facts["at"] - asked)
            peaks[name].append(facts["peak"])
    told: dict[str, Any] = {
        name: {
            "first": taken[0],
            "best": min(taken[1:]),
            "median": statistics.median(taken[1:]),
            "peak_bytes": max(peaks[name]),
        }
        for name, taken in seconds.items()
    }
    return told | {"jit_over_shipped": paired(seconds["shipped"][1:], seconds["jit"][1:])}


def warm(model: Path, rounds: int) -> dict[str, float]:
    """Loading with the model's files in memory: medians."""
    _child(LOADING, model)
    every = [_child(LOADING, model)[1] for _ in range(rounds)]
    return {name: statistics.median(facts[name] for facts in every) for name in every[0]}


def cold(model: Path, rounds: int) -> dict[str, Any]:
    """Loading with none of them in memory, and reading them from end to end."""
    files = sorted(model.glob("*.safetensors"))
    read, loaded = list[float](), list[float]()
    for _ in range(rounds):
        _let_go(files)
        began = time.perf_counter()
        for file in files:
            with file.open("rb", buffering=0) as f:
                while f.read(READ):
                    continue
        read.append(time.perf_counter() - began)
        _let_go(files)
        loaded.append(_child(LOADING, model)[1]["first_token"])
    facts: dict[str, Any] = {"bytes": sum(file.stat().st_size for file in files), "read": statistics.median(read)}
    return facts | {"first_token": statistics.median(loaded), "first_token_over_read": paired(read, loaded)}


def _let_go(files: list[Path]) -> None:
    """Have the system drop these files from its cache. Errors: `BackendError`: there is no way to."""
    if not hasattr(os, "posix_fadvise"):
        msg = "--cold: this system cannot be told to drop a file from its cache"
        raise BackendError(msg)
    for file in files:
        with file.open("rb") as f:
            os.fsync(f.fileno())
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.bench.start", description="from nothing to a token")
    parser.add_argument("--rounds", type=int, default=15, help="starts of each kind (default: 15)")
    parser.add_argument("--model", type=Path, action="append", default=[], help="load this too; may be repeated")
    parser.add_argument("--cold", type=Path, help="load this with none of its files in the page cache")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    args = _parser().parse_args(argv)
    if args.rounds < 1:
        msg = f"--rounds {args.rounds}: expected at least 1"
        raise InputError(msg)
    if args.cold is not None and not list(args.cold.glob("*.safetensors")):
        msg = f"--cold {args.cold.name}: has no .safetensors to read"
        raise InputError(msg)
    if shipped.chosen() is None:
        msg = (
            "no kernels that came compiled are used here, so there is no start to measure: run ./dev kernels in a "
            "clone (again after each change of a kernel), and leave "
            f"{shipped.CPU}={shipped.JIT}, MIAOTUI_DEBUG and NUMBA_CPU_NAME unset"
        )
        raise BackendError(msg)
    facts: dict[str, Any] = {"start": starts(args.rounds)}
    facts["warm"] = {model.name: warm(model, min(5, args.rounds)) for model in args.model}
    if args.cold is not None:
        facts["cold"] = {args.cold.name: cold(args.cold, min(3, args.rounds))}
    for name, way in facts["start"].items():
        if name in WAYS:
            print_out(
                f"{name}: first token after {way['median']:.3f} s (best {way['best']:.3f}, the first start "
                f"{way['first']:.3f}); at most {way['peak_bytes'] / 1e6:.0f} MB"
            )
    for kind in ("warm", "cold"):
        for name, told in facts.get(kind, {}).items():
            print_out(f"{name}, {kind}: {', '.join(f'{k} {v:.3f}' for k, v in told.items() if isinstance(v, float))}")
    if args.out:
        command = public_command("python -m miaotui.tools.bench.start", argv if argv is not None else sys.argv)
        record = {"command": command, "machine": machine(), "versions": versions(), **facts}
        args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
