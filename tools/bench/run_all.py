"""Every figure of docs/benchmarks in one command, a file at a time.

    python -m miaotui.tools.bench.run_all --peer-python PEER/bin/python --work WORK --out docs/benchmarks [--quick]

A file that is there is not made again: delete it to have it taken again, or go on after a break. Each is made by the
command that it names. At the end the tables (`tables.md`) and the picture (`peers.svg`) are made from what is there.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ...dataclass import dataclass
from .compare import QUANTIZED, pythons
from .gemm import table as gemm_table
from .peers import PEERS
from .plot import draw, gather
from .shapes import make_checkpoint
from .shared import print_out
from .table import read_reports, summary

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Job", "jobs", "main"]

LARGE = ("smollm2-135m", "qwen2.5-0.5b")
ANY_SHAPE = [name for name in PEERS if name != "llama2.c"]  # that one has its RoPE's base built in
EVERY_DTYPE = ("f32", "bf16", *QUANTIZED)
QUICK = {"--rounds": "2", "--new": "32", "--repeat": "2"}


@dataclass(frozen=True)
class Job:
    """One file: its name, the module that makes it, and that one's arguments."""

    name: str
    module: str
    words: tuple[str, ...]
    shape: str = ""  # of a job that wants a checkpoint of this shape and dtype as --model
    dtype: str = ""


def jobs(*, quick: bool = False) -> Iterator[Job]:
    """Every file, the comparisons first."""
    for job in _all():
        words = list(job.words)
        for option, value in QUICK.items() if quick else ():
            if option in words and int(words[words.index(option) + 1]) > int(value):
                words[words.index(option) + 1] = value
        yield Job(job.name, job.module, tuple(words), job.shape, job.dtype)


def _all() -> Iterator[Job]:
    for shape in LARGE:
        for dtype in EVERY_DTYPE:
            for prompt, threads in ((128, "1 2"), (512, "2")):
                words = f"--shape {shape} --dtype {dtype} --threads {threads} --prompt {prompt} --new 64 --rounds 5"
                words += "" if dtype == "f32" else " --kv-cache bf16"  # the peers' is of 16 bits too
                yield _peers(f"peers-{shape}-{dtype}-{prompt}", f"--peer {' '.join(ANY_SHAPE)} {words}")
    stories = "--shape stories15m --dtype f32 int8 int4 --threads 2 --prompt 128 --new 128 --turn 128 --rounds 5"
    yield _peers("stories15m", f"--peer llama.cpp llama2.c {stories}")
    words = "--peer llama.cpp --threads 2"
    for dtype in EVERY_DTYPE:
        far = f"{words} --shape smollm2-135m --dtype {dtype} --prompt 8000 --new 64 --rounds 1 --prefills 1"
        yield _peers(f"long-smollm2-135m-{dtype}", far)
    for dtype in ("bf16", "int8"):
        words = f"--shape smollm2-135m --dtype {dtype} --threads 2 --prompt 128 --new 48 --rounds 5"
        yield Job(f"prune-speed-smollm2-135m-{dtype}", "miaotui.tools.bench.prune", tuple(words.split()))
    for shape, dtype in itertools.product(("minilm-l6", "bert-base"), ("f32", "int8")):
        yield _encoders(shape, dtype, 5)
    for shape in ("t5-small", "bart-base"):
        yield _encoders(shape, "f32", 15)
    words = "--only together curve threads draws turn --rounds 9"  # load wants a text and a server: by hand
    yield Job("engine-smollm2-135m", "miaotui.tools.bench.engine", tuple(words.split()))
    yield Job("gemm", "miaotui.tools.bench.gemm", ("--threads", "1", "2", "--rounds", "7"))
    for dtype in EVERY_DTYPE:
        rounded = ("--quantize", dtype) if dtype in QUANTIZED else ()
        words_alone = ("--threads", "1", "2", "--repeat", "5", *rounded)
        yield Job(f"smollm2-135m-{dtype}", "miaotui", ("bench", *words_alone), "smollm2-135m", dtype)


def _encoders(shape: str, dtype: str, rounds: int) -> Job:
    words = f"--shape {shape} --dtype {dtype} --rounds {rounds}"
    return Job(f"encoders-{shape}-{dtype}", "miaotui.tools.bench.encoders", tuple(words.split()))


def _peers(name: str, words: str) -> Job:
    return Job(name, "miaotui.tools.bench.compare", tuple(words.split()))


def command(job: Job, args: argparse.Namespace) -> list[str]:
    """Give the words that make the job's file."""
    words = [*args.under, sys.executable, "-m", job.module, *job.words]
    file = str(args.out / f"{job.name}.json")
    if job.shape:
        stored = "bf16" if job.dtype in QUANTIZED else job.dtype
        model = args.work / f"{job.shape}-{stored}"
        return [*words, "--model", str(model), "--json", file]
    if job.module.endswith((".compare", ".prune", ".encoders", ".engine")):
        words += ["--work", str(args.work)]
    if job.module.endswith(".compare") and args.peer_python:
        words += ["--peer-python", *args.peer_python]
    if job.module.endswith((".encoders", ".engine")) and args.peer_python:
        python = pythons(args.peer_python)
        words += ["--peer-python", python.get("llama.cpp" if job.module.endswith(".engine") else "", python[""])]
    return [*words, "--out", file]


def finish(out: Path) -> None:
    """Make tables and picture from the comparisons that are there."""
    files = sorted(out.glob("peers-*.json"))
    reports = [r for r in read_reports(files) if r["results"]]
    text = "# Tables\n\nMade by `python -m miaotui.tools.bench.run_all` from the files next to this one.\n"
    if reports:
        draw(gather(reports), out / "peers.svg", "two threads, against every peer")
        text += f"\n{summary(sorted(reports, key=lambda r: LARGE.index(r['shape'])))}"
    for name in ("stories15m", *(f"long-smollm2-135m-{d}" for d in EVERY_DTYPE)):
        file = out / f"{name}.json"
        if file.exists():
            text += f"\n{summary(read_reports([file]))}"
    if (out / "gemm.json").exists():
        text += f"\n{gemm_table(json.loads((out / 'gemm.json').read_text(encoding='utf-8')))}"
    (out / "tables.md").write_text(text, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Make what is missing; 1 if a file could not be made."""
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.bench.run_all", description="every figure")
    parser.add_argument(
        "--peer-python", nargs="+", default=[], metavar="[PEER=]PYTHON", help="as tools.bench.compare takes it"
    )
    parser.add_argument("--work", type=Path, required=True, help="checkpoints and the peers' conversions are kept here")
    parser.add_argument("--out", type=Path, required=True, help="where the files go")
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that all works, not for figures")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="of the files' names, for instance 'peers-*'")
    parser.add_argument("--under", type=shlex.split, default=[], metavar="WORDS", help="put before each command")
    parser.add_argument("--list", action="store_true", help="print the commands that are left, run none")
    args = parser.parse_args(argv)
    failed = []
    args.out.mkdir(parents=True, exist_ok=True)
    for job in jobs(quick=args.quick):
        if not fnmatch.fnmatch(job.name, args.only) or (args.out / f"{job.name}.json").exists():
            continue
        words = command(job, args)
        print_out(f"{job.name}: {shlex.join(words)}")
        if args.list:
            continue
        if job.shape:
            stored = "bf16" if job.dtype in QUANTIZED else job.dtype
            make_checkpoint(args.work / f"{job.shape}-{stored}", job.shape, stored)
        if subprocess.run(words, check=False).returncode:  # noqa: S603 - this package's commands
            failed.append(job.name)
    if not args.list:
        finish(args.out)
    print_out(f"not made: {', '.join(failed)}" if failed else "all made")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
