"""Mutations in processes of their own, so that an abort, a hang or a peak of memory is seen and can be had again.

    python tests/mutation_run.py KIND SEED N      N cases from SEED on; with N 1, its error is raised

A case ends well with a `MiaotuiError` that is short, printable and names the file or argument, or with something read.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

__all__ = ["DEADLINE", "PEAK", "Outcome", "run"]

#: Seconds of one case: of processor time, which a busy machine leaves as it is (a load may compile a kernel); and
#: twenty times as many by the clock, for what waits for ever.
DEADLINE = 60
#: Bytes that reading one case may take: the largest set of indices that a plan may hold (2**22, `loader/ranges.py`) as
#: Python's integers, three times; everything else is far below.
PEAK = 512 * 2**20
LONGEST = 2000
#: Address space of a process of cases, beyond what it has when it begins: what wants more is refused, or aborts.
ROOM = 8 * 2**30
BATCH = 2000
MEMORY = "/dev/shm"  # noqa: S108 - a file system in memory: a hundred thousand files are no work for a disk
#: How a process of cases ends where this file or `mutation_kinds.py` is at fault.
BROKEN = 3


@dataclass
class Outcome:
    """What cases did: how many were refused, by error, and read; largest peak; most seconds; what went wrong."""

    cases: int = 0
    read: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    peak: int = 0
    peak_seed: int = 0
    slowest: float = 0.0
    failures: dict[str, str] = field(default_factory=dict)  # what and where -> how to have it again, and more
    n_failures: int = 0

    def add(self, other: Outcome) -> None:
        """Count the other's, too."""
        self.cases, self.read, self.n_failures = (
            self.cases + other.cases, self.read + other.read, self.n_failures + other.n_failures,
        )  # fmt: skip
        for name, n in other.refused.items():
            self.refused[name] = self.refused.get(name, 0) + n
        if other.peak > self.peak:
            self.peak, self.peak_seed = other.peak, other.peak_seed
        self.slowest = max(self.slowest, other.slowest)
        self.failures = other.failures | self.failures

    def fail(self, what: str, again: str) -> None:
        """Keep the first of each."""
        self.n_failures += 1
        self.failures.setdefault(what, again)


def run(kind: str, seed: int, n: int, *, processes: int = 1, batch: int = BATCH) -> Outcome:
    """Cases seed .. seed + n - 1, in batches."""
    total = Outcome()
    with ThreadPoolExecutor(processes) as pool:
        firsts = range(seed, seed + n, batch)
        for outcome in pool.map(lambda at: _batch(kind, at, min(batch, seed + n - at)), firsts):
            total.add(outcome)
    return total


def _batch(kind: str, seed: int, n: int) -> Outcome:
    """One process; where it dies, another goes on after the case that killed it."""
    total = Outcome()
    with TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
        at = Path(folder) / "at"
        while total.cases < n:
            words = [sys.executable, __file__, kind, str(seed + total.cases), str(n - total.cases), folder]
            done = subprocess.run(words, capture_output=True, check=False, env=os.environ | {"RUST_BACKTRACE": "0"})
            if done.returncode == BROKEN:
                raise RuntimeError(done.stderr.decode(errors="replace"))
            if done.returncode == 0:
                total.add(Outcome(**json.loads(done.stdout.splitlines()[-1])))
                break
            last = int(at.read_text() or -1) if at.is_file() else -1
            if last < seed + total.cases:  # it did not come so far
                raise RuntimeError(done.stderr.decode(errors="replace"))
            end = done.stderr.decode(errors="replace")[-1500:]
            total.fail(f"the process ended with {done.returncode}", f"{kind} {last} 1: {end}")
            total.cases = last + 1 - seed
            at.unlink()
    return total


def cases(kind: str, seed: int, n: int, folder: Path) -> Outcome:
    """In this process."""
    from miaotui.errors import MiaotuiError
    from mutation_kinds import KINDS

    home = folder / kind
    home.mkdir(exist_ok=True)
    os.chdir(home)
    draw, outcome = KINDS[kind](home), Outcome()
    faulthandler.register(signal.SIGPROF, chain=True)  # tells where it is, and the process ends
    with (folder / "at").open("w") as at:
        for case in range(seed, seed + n):
            os.pwrite(at.fileno(), f"{case:<24}".encode(), 0)
            read, names = draw(Random(f"{kind} {case}"))  # noqa: S311 - damage, no secret
            faulthandler.dump_traceback_later(20 * DEADLINE, exit=True)
            signal.setitimer(signal.ITIMER_PROF, DEADLINE)
            before, began = _reset_peak(), time.process_time()
            try:
                read()
                outcome.read += 1
            except MiaotuiError as e:
                name, said = type(e).__name__, str(e)
                outcome.refused[name] = outcome.refused.get(name, 0) + 1
                if wrong := _wrong(said, names):
                    outcome.fail(f"{wrong}: {name} {said[:60]!a}", f"{kind} {case} 1: {said[:3000]!a}")
                    if n == 1:
                        raise
            except BaseException as e:  # a panic of Rust's is no Exception
                where = traceback.extract_tb(e.__traceback__)
                ours = next((f for f in reversed(where) if "/tests/" not in f.filename), where[-1])
                what = f"{type(e).__name__} in {Path(ours.filename).name}: {ours.name}"
                outcome.fail(what, f"{kind} {case} 1: {str(e)[:300]!a}")
                if n == 1:
                    raise
            took, peak = time.process_time() - began, _peak() - before
            signal.setitimer(signal.ITIMER_PROF, 0)
            faulthandler.cancel_dump_traceback_later()
            outcome.cases += 1
            outcome.slowest = max(outcome.slowest, took)
            if peak > outcome.peak:
                outcome.peak, outcome.peak_seed = peak, case
            if peak > PEAK:
                outcome.fail("over the peak", f"{kind} {case} 1: {peak:,} bytes")
    return outcome


def _wrong(said: str, names: tuple[str, ...]) -> str:
    """What is wrong with a message, or ""."""
    if not 0 < len(said) <= LONGEST:
        return f"{len(said)} characters"
    if not said.isprintable():
        return "not printable"
    return "" if any(name in said for name in names) else "names nothing"


def _status(name: str) -> int:
    with open("/proc/self/status") as f:  # noqa: PTH123 - ten times as fast, and once a case
        return next(1024 * int(line.split()[1]) for line in f if line.startswith(name))


def _peak() -> int:
    return _status("VmHWM:")


def _reset_peak() -> int:
    """Begin a new peak, at what the process has now."""
    with open("/proc/self/clear_refs", "w") as f:  # noqa: PTH123 - as above
        f.write("5")
    return _peak()


def main(argv: list[str]) -> None:
    """A batch; its outcome is the last line printed."""
    kind, seed, n = argv[0], int(argv[1]), int(argv[2])
    warnings.simplefilter("error")
    with TemporaryDirectory() as other:
        folder = Path(argv[3]) if len(argv) > 3 else Path(other)
        import mutation_kinds  # noqa: F401 - what it maps is no case's

        room = _status("VmSize:") + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (room, resource.getrlimit(resource.RLIMIT_AS)[1]))
        try:
            outcome = cases(kind, seed, n, folder)
        except Exception:
            if n == 1:
                raise
            traceback.print_exc()
            raise SystemExit(BROKEN) from None
        out: dict[str, Any] = vars(outcome)
        print(json.dumps(out))  # noqa: T201 - read by the parent


if __name__ == "__main__":
    main(sys.argv[1:])
