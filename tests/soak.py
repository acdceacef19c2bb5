"""What takes long, run by hand: `./dev soak NAME`, rounds of tests with examples that are new each time.

NAME is that of tests marked `@pytest.mark.soak("NAME")` and of cases in `soak.rest("NAME", …)`, or "examples": every
test of the files that draw examples. A round is a run of pytest; its seed is the first one's plus its number, so
`--seed` repeats a round. The result is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import secrets
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["COUNTED", "EXAMPLES", "count", "main", "names", "rest", "selection"]

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
EXAMPLES = "examples"
VERSIONS = ("hypothesis", "llvmlite", "numba", "numpy", "pytest")

#: Where a soak is named.
_MARK = r'(?:^ *@pytest\.mark\.soak|\bsoak\.rest)\(\s*"{}"'
#: What a round's tests counted, by what it is; `conftest.py` puts it into the round's report.
COUNTED: dict[str, int] = {}


def count(what: str, n: int = 1) -> None:
    """Count what the result should tell."""
    COUNTED[what] = COUNTED.get(what, 0) + n


def rest(name: str, cases: Iterable[Any], but: Iterable[Any]) -> list[Any]:
    """Cases of one parameter: those in `but` run in a ring, all others in this soak. ValueError: no such case."""
    cases, taken = list(cases), list(but)
    if absent := [case for case in taken if case not in cases]:
        msg = f"{absent}: not among {cases}"
        raise ValueError(msg)
    by_hand = pytest.mark.soak(name)
    return [case if case in taken else pytest.param(case, marks=by_hand) for case in cases]


def names() -> list[str]:
    """What can be asked for: the marks in the tests, but for those of the soak's own test, and `EXAMPLES`."""
    files = (path.read_text(encoding="utf-8") for path in TESTS.glob("test_*.py"))
    marks = {name for text in files for name in re.findall(_MARK.format(r"([\w-]+)"), text, re.MULTILINE)}
    return [*sorted(name for name in marks if not name.startswith("self")), EXAMPLES]


def selection(name: str) -> list[str]:
    """pytest's arguments for the tests of a soak: the files that may have some. SystemExit: none has."""
    mark = re.compile("hypothesis" if name == EXAMPLES else _MARK.format(re.escape(name)), re.MULTILINE)
    files = [str(path) for path in sorted(TESTS.glob("test_*.py")) if mark.search(path.read_text(encoding="utf-8"))]
    if not files:
        msg = f"soak {name}: no test is marked so; expected one of {', '.join(names())}"
        raise SystemExit(msg)
    return ["--soak", name, *files]


def main(argv: Sequence[str] | None = None) -> int:
    """Run rounds until the time is over or one fails; 0, or pytest's exit code of the round that failed."""
    args = _arguments(argv)
    out = args.out or ROOT / "build" / "soak" / f"{args.name}.json"
    seed = secrets.randbelow(2**32) if args.seed is None else args.seed
    result = {"name": args.name, **_source(), **_machine(), "seed": seed, "rounds": (rounds := list[dict[str, Any]]())}
    began, code = time.monotonic(), 0
    chosen = selection(args.name)
    out.parent.mkdir(parents=True, exist_ok=True)
    while not code and (not rounds or time.monotonic() - began < 60 * args.minutes):
        print(f"soak {args.name}: round {len(rounds)}, seed {seed + len(rounds)}", flush=True)  # noqa: T201 - a command
        code, told = _round(seed + len(rounds), [*chosen, *args.pytest])
        rounds.append(told)
        result |= {"seconds": round(time.monotonic() - began, 1), "passed": code == 0}
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"soak {args.name}: {'passed' if code == 0 else 'FAILED'} after {len(rounds)} rounds; {out}")  # noqa: T201
    return code


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev soak", description="Rounds of tests with new examples; JSON.")
    parser.add_argument("name", metavar="NAME", nargs="?", help=f"one of {', '.join(names())}")
    parser.add_argument("--minutes", type=float, default=10, metavar="M", help="begin no round later (default: 10)")
    parser.add_argument("--seed", type=int, metavar="N", help="of the first round (default: a new one, which is told)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the result (default: build/soak/NAME.json)")
    parser.add_argument("pytest", nargs="*", metavar="ARGUMENT", help="after --: pytest's own, for instance -n 2")
    given = list(sys.argv[1:] if argv is None else argv)
    end = given.index("--") if "--" in given else len(given)
    args = parser.parse_args(given[:end])
    args.pytest += given[end + 1 :]  # argparse takes no second part of them
    if args.name is None:
        parser.error(f"name one of {', '.join(names())}")
    return args


def _round(seed: int, chosen: Sequence[str]) -> tuple[int, dict[str, Any]]:
    """Exit code, and what a run of pytest told. KeyboardInterrupt ends all."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        words = [f"--soak-report={report}", f"--hypothesis-seed={seed}", "-q", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", *words, *chosen]
        began = time.monotonic()
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        told = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
    return code, {"seed": seed, "exit": code, "seconds": round(time.monotonic() - began, 1), **told}


def _source() -> dict[str, Any]:
    """The commit, and whether the tree differs from it; None outside of a clone."""
    head, changes = (
        subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607 - git
        for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
    )
    commit = head.stdout.strip() if head.returncode == 0 else None
    return {"commit": commit, "changed": bool(changes.stdout.strip()) if commit else None}


def _machine() -> dict[str, Any]:
    return {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()}",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONS}},
    }


if __name__ == "__main__":
    raise SystemExit(main())
