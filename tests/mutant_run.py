"""Which of our own lines could be wrong without a test that notices: mutants, each in a copy of the tree.

    python tests/mutant_run.py --collect                      once: which lines each test of ring fast runs (a long run)
    python tests/mutant_run.py --minutes 40 --out FILE        a sample of lines; JSON
    python tests/mutant_run.py --again FILE --out FILE2       what a report has not as killed; the rest is taken over

A mutant is killed by a test that fails, by a run that takes too long, and by a module that cannot be imported. One that
survives the nearest tests meets others. A test that fails in the unchanged tree as well has killed nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import soak
from mutant_choice import Choice, read_lines
from mutant_lines import FOLDER
from mutants import Mutant, modules, sample

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

__all__ = ["LINES", "PACKAGES", "Outcome", "Tree", "collect", "main", "report", "run"]

ROOT = Path(__file__).resolve().parent.parent
#: Where it is kept which lines each test runs.
LINES = ROOT / "build" / "mutants" / "lines"
PACKAGES = ("runtime", "loader")
#: Its tests run an emulated GPU: minutes each.
SLOW = "runtime/cuda/"
#: Seconds of tests that a mutant meets: first, and where it survives these.
BUDGETS = (15.0, 90.0)
#: A run may take this many times what its tests took when they were followed, and this many seconds more.
TIMES, MORE = 4, 60
#: Seconds more where kernels are compiled again.
COMPILING = 300
#: Test files that change what lies around a test, or only do what others do, at length.
NO_TESTS = re.compile(r"test_(bench|cuda|soak|mutants)")
FEWEST_LINES = 20
OK, FAILED, NONE_LEFT = 0, 1, 5
NOT_RUN = "not run"


@dataclass
class Outcome:
    """What became of a mutant: killed, timed out, survived or not run; `by`: the test, or what pytest said."""

    mutant: Mutant
    outcome: str
    by: str
    tests: int
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether something noticed."""
        return self.outcome in ("killed", "timed out")


class Tree:
    """A copy of the tree, of which each mutant has a copy, and how pytest runs in one."""

    def __init__(self, root: Path, at: Path) -> None:
        self.root, self.at = root, at
        self.plain = at / "plain" / "miaotui"
        for name in _files(root):
            (self.plain / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, self.plain / name)
        compiled = Path("runtime", "cpu", "compiled")
        if (root / compiled).is_dir():
            shutil.copytree(root / compiled, self.plain / compiled)

    def prepare(self, tests: Collection[str]) -> tuple[set[str], dict[str, str]]:
        """Which of these tests there still are, and the kernels: name -> file. It also compiles all of Python."""
        files = sorted({test.partition("::")[0] for test in tests})
        files = [file for file in files if (self.plain / file).is_file()]
        listed = subprocess.run(
            [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files],
            cwd=self.plain, env=self._environment(self.plain), capture_output=True, text=True, check=False,
        )  # fmt: skip
        there = {line for line in listed.stdout.splitlines() if "::" in line}
        code = (
            "import json, inspect, miaotui.runtime.cpu.kernels as k, miaotui.runtime.cpu.kernels.base as b, pkgutil, "
            "importlib\n"
            "for m in pkgutil.iter_modules(k.__path__): importlib.import_module(f'{k.__name__}.{m.name}')\n"
            "print(json.dumps({n: f.__code__.co_filename for n, f in b.KERNELS.items()}))"
        )
        said = subprocess.run(
            [sys.executable, "-c", code], cwd=self.at, env=self._environment(self.plain), capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        kernels = json.loads(said.stdout) if said.returncode == 0 else {}
        return there & {*tests}, {name: os.path.relpath(file, self.plain) for name, file in kernels.items()}

    def sources(self) -> Collection[str]:
        """Files that kernels are compiled of: once one is changed, nothing that was compiled ahead is used."""
        from miaotui.runtime.cpu.environment import _OUTSIDE

        cpu = (str(path.relative_to(self.plain)) for path in (self.plain / "runtime" / "cpu").rglob("*.py"))
        return {*cpu, *(f"runtime/{name}.py" for name in _OUTSIDE)}

    def run(self, mutant: Mutant | None, tests: Sequence[str], limit: float) -> tuple[int | None, str]:
        """Exit code of a run that ends with the first failure, and the last lines; None: it took too long.

        Without a mutant all tests run, and every failure is told.
        """
        with tempfile.TemporaryDirectory(dir=self.at) as folder:
            tree = Path(folder) / "miaotui"
            shutil.copytree(self.plain, tree)
            if mutant is not None:
                path = tree / mutant.file
                path.write_text(mutant.apply(path.read_text(encoding="utf-8")), encoding="utf-8")
                for old in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
                    old.unlink()
                if mutant.file in self.compiled:
                    shutil.rmtree(tree / "runtime" / "cpu" / "compiled", ignore_errors=True)
            (Path(folder) / "tests").write_text("\n".join(tests), encoding="utf-8")
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", "-rfE"]
            command += [*(["-x"] if mutant else []), f"@{folder}/tests"]
            said = Path(folder) / "said"
            with said.open("w") as out:
                child = subprocess.Popen(
                    command, cwd=tree, env=self._environment(tree), stdout=out, stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip
                try:
                    code = child.wait(limit)
                except subprocess.TimeoutExpired:
                    code = None
                finally:  # and what it started
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
            return code, said.read_text(encoding="utf-8", errors="replace")

    @property
    def compiled(self) -> Collection[str]:
        """`sources`, found once."""
        if not hasattr(self, "_compiled"):
            self._compiled = self.sources()
        return self._compiled

    def _environment(self, tree: Path) -> dict[str, str]:
        """The tree is the package, and has a directory of compiled code of its own."""
        shared = os.environ.get("MIAOTUI_SHARED") or str(self.root.parent / "shared")
        temporary = tree.parent / "tmp"
        temporary.mkdir(exist_ok=True)
        return os.environ | {
            "PYTHONPATH": str(tree.parent), "MIAOTUI_CACHE_DIR": str(tree.parent / "cache"), "MIAOTUI_SHARED": shared,
            "TMPDIR": str(temporary), "PYTHONFAULTHANDLER": "1",
        }  # fmt: skip


def _files(root: Path) -> list[str]:
    """Those of the commit and those that were added to it; outside of a clone, all."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],  # noqa: S607 - git
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    every = (str(path.relative_to(root)) for path in root.rglob("*"))
    names = listed.stdout.split("\0") if listed.returncode == 0 else every
    return [name for name in names if name and (root / name).is_file()]


def run(tree: Tree, choice: Choice, mutant: Mutant, budgets: Sequence[float] = BUDGETS) -> Outcome:
    """The nearest tests, then others, until one notices."""
    began, met = time.monotonic(), list[str]()
    for budget in budgets:
        tests = choice.of(mutant, budget, met)
        if not tests:
            break
        met += tests
        seconds = sum(choice.tests[test].seconds for test in tests)
        limit = TIMES * seconds + MORE + (COMPILING if mutant.file in tree.compiled else 0)
        code, said = tree.run(mutant, tests, limit)
        if code not in (OK, NONE_LEFT):
            named = re.search(r"^(?:FAILED|ERROR) (\S.*?)(?: - .*)?$", said, re.MULTILINE)
            last = named[1] if named else (said.strip().splitlines() or [f"exit {code}"])[-1]
            by = "timeout" if code is None else last if code == FAILED else f"exit {code}: {last}"
            outcome = "timed out" if code is None else "killed"
            return Outcome(mutant, outcome, by, len(met), round(time.monotonic() - began, 1))
    return Outcome(mutant, "survived", "", len(met), round(time.monotonic() - began, 1))


def doubtful(tree: Tree, outcomes: Iterable[Outcome]) -> set[str]:
    """Tests that killed mutants and fail in the unchanged tree too."""
    killers = sorted({o.by for o in outcomes if o.outcome == "killed" and "::" in o.by and not o.by.startswith("exit")})
    if not killers:
        return set()
    code, said = tree.run(None, killers, MORE + 60 * len(killers))
    if code not in (OK, FAILED):
        msg = f"the tests that killed mutants could not be run in the unchanged tree (exit {code}): {said[-2000:]}"
        raise RuntimeError(msg)
    return {killer for killer in killers if re.search(rf"^(?:FAILED|ERROR) {re.escape(killer)}", said, re.MULTILINE)}


def report(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Counts, the score in per cent by package, module and kind, and every mutant."""
    ran = [o for o in outcomes if o.outcome != NOT_RUN]

    def score(chosen: Sequence[Outcome]) -> dict[str, Any]:
        killed = sum(o.killed for o in chosen)
        share = round(100 * killed / len(chosen), 1) if chosen else None
        return {"mutants": len(chosen), **Counter(o.outcome for o in chosen), "score": share}

    def by(key: Callable[[Mutant], str]) -> dict[str, Any]:
        keys = sorted({key(o.mutant) for o in ran})
        return {each: score([o for o in ran if key(o.mutant) == each]) for each in keys}

    return {
        "all": score(ran),
        "packages": by(lambda mutant: mutant.file.partition("/")[0]),
        "kinds": by(lambda mutant: mutant.what),
        "modules": by(lambda mutant: mutant.file),
        "survivors": [str(o.mutant) for o in ran if not o.killed],
        "mutants": [asdict(o.mutant) | {k: v for k, v in asdict(o).items() if k != "mutant"} for o in outcomes],
    }


def collect(words: Sequence[str]) -> int:
    """Follow tests (default: ring fast's) and keep which lines they run, next to what is known of others."""
    LINES.mkdir(parents=True, exist_ok=True)
    chosen = list(words) or [str(p) for p in sorted((ROOT / "tests").glob("test_*.py")) if not NO_TESTS.search(p.name)]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not ci and not gpu", "-p", "mutant_lines"]
    paths = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT / "tests")]))
    environment = os.environ | {FOLDER: str(LINES), "PYTHONPATH": paths}
    workers = ["-n", str(min(4, os.cpu_count() or 1)), "--dist", "worksteal"]
    return subprocess.run([*command, *workers, *chosen], cwd=ROOT, env=environment, check=False).returncode


def main(argv: Sequence[str] | None = None) -> int:
    """Collect, or sample and run; 0."""
    args = _arguments(argv)
    if args.collect is not None:
        return collect(args.collect)
    told = read_lines(LINES)
    if len(told) < FEWEST_LINES:
        msg = f"{LINES}: it is not known which lines tests run; first: python tests/mutant_run.py --collect"
        raise SystemExit(msg)
    seed = secrets.randbelow(2**32) if args.seed is None else args.seed
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Tree(ROOT, Path(folder))
        there, kernels = tree.prepare(told)
        choice = Choice(tree.plain, {test: told[test] for test in there}, kernels)
        before = _read(args.again, tree) if args.again else _sampled(tree, args.n, seed)
        if args.plain:
            before = [outcome for outcome in before if outcome.mutant.file not in tree.compiled]
        print(f"{len(before)} mutants, {len(there)} tests, {len(kernels)} kernels, seed {seed}", flush=True)  # noqa: T201
        told_of = {"seed": seed, **soak._source(), **soak._machine()}
        out = args.out or ROOT / "build" / "mutants" / "report.json"
        out.parent.mkdir(parents=True, exist_ok=True)

        def write(outcomes: Sequence[Outcome]) -> dict[str, Any]:
            result = told_of | report(outcomes)
            out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            return result

        outcomes = many(tree, choice, before, args.minutes, args.jobs, write)
        unsure = doubtful(tree, outcomes)
    for outcome in outcomes:
        if outcome.by in unsure:
            outcome.outcome, outcome.by = "survived", f"not by {outcome.by}, which fails in the unchanged tree too"
    result = write(outcomes)
    print(f"{json.dumps(result['all'])}; {out}")  # noqa: T201 - a command
    return 0


def many(
    tree: Tree,
    choice: Choice,
    outcomes: Sequence[Outcome],
    minutes: float,
    jobs: int = 1,
    write: Callable[[Sequence[Outcome]], object] = lambda _: None,
) -> list[Outcome]:
    """Those that were not killed are run, as many as begin in this time; `write` is called after each."""
    end, now = time.monotonic() + 60 * minutes, list(outcomes)

    def one(at: int) -> None:
        if now[at].killed or time.monotonic() > end:
            return
        outcome = now[at] = run(tree, choice, now[at].mutant)
        how = f"{outcome.seconds:.0f} s, {outcome.tests} tests"
        print(f"{outcome.outcome:9} {outcome.mutant}  [{how}] {outcome.by}", flush=True)  # noqa: T201 - a command
        write(now)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, range(len(now))))
    return now


def _sampled(tree: Tree, n: int, seed: int) -> list[Outcome]:
    """In an order in which those that begin in time are spread over the modules."""
    mutants = sample(tree.plain, [f for f in modules(tree.plain, PACKAGES) if not f.startswith(SLOW)], n, seed)
    Random(seed).shuffle(mutants)  # noqa: S311 - no secret
    return [Outcome(mutant, NOT_RUN, "", 0, 0.0) for mutant in mutants]


def _read(path: Path, tree: Tree) -> list[Outcome]:
    """Those of a report, at the nearest line that reads as theirs did; those whose line is gone are left out."""
    found = []
    for told in json.loads(path.read_text(encoding="utf-8"))["mutants"]:
        plain = {name: told[name] for name in ("file", "line", "what", "before", "after")}
        mutant = Mutant(**plain, within=told["within"] and tuple(told["within"]), names=tuple(told["names"]))
        lines = (tree.plain / mutant.file).read_text(encoding="utf-8").split("\n")
        same = [at for at, line in enumerate(lines, 1) if line == mutant.before]
        if same:
            moved = min((at - mutant.line for at in same), key=abs)
            within = mutant.within and (mutant.within[0] + moved, mutant.within[1] + moved)
            mutant = replace(mutant, line=mutant.line + moved, within=within)
            found.append(Outcome(mutant, *(told[name] for name in ("outcome", "by", "tests", "seconds"))))
    return found


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/mutant_run.py", description="Mutants of our own lines; JSON.")
    parser.add_argument("--collect", nargs="*", metavar="FILE", help="follow these test files (default: ring fast)")
    parser.add_argument("--minutes", type=float, default=40, metavar="M", help="begin no mutant later (default: 40)")
    parser.add_argument("--n", type=int, default=150, metavar="N", help="mutants in the sample (default: 150)")
    parser.add_argument("--seed", type=int, metavar="N", help="of the sample (default: a new one, which is told)")
    parser.add_argument("--plain", action="store_true", help="leave out kernels and what is compiled with them")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="mutants at a time (default: 1)")
    parser.add_argument("--again", type=Path, metavar="FILE", help="of this report, in the place of a sample")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the report (default: build/mutants/report.json)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
