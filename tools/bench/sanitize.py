"""The tests that need a GPU, under NVIDIA's compute-sanitizer: whatever it finds fails.

    python -m miaotui.tools.bench.sanitize                             # memcheck, racecheck, synccheck, all gpu tests
    python -m miaotui.tools.bench.sanitize --tool racecheck -k "linear and bf16"

memcheck: loads and stores out of bounds or not aligned; racecheck: races in shared memory; synccheck: barriers
that not all threads reach. The tool is NVIDIA's (https://docs.nvidia.com/compute-sanitizer/) and comes with the CUDA
toolkit. Run in a clone of the repository: the tests are not part of the package. Exit codes: 0 clean, 1 not.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ...dataclass import dataclass
from ...errors import BackendError
from .shared import print_out

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Verdict", "find", "main", "read", "run"]

NAME = "compute-sanitizer"
TOOLS = {"memcheck": ("--leak-check", "no"), "racecheck": ("--racecheck-report", "all"), "synccheck": ()}
TESTS = Path(__file__).resolve().parents[2] / "tests"
FOUND = 86  # its exit code where it found something: no code of pytest's
SHOWN = 40  # lines of a report that are repeated at the end
_SUMMARY = re.compile(r"^=+ (?:ERROR|RACECHECK|SYNCCHECK) SUMMARY: (\d+) (?:errors?|hazards?)", re.MULTILINE)
_PASSED = re.compile(r"\b(\d+) passed\b")


@dataclass(frozen=True)
class Verdict:
    """What one tool said: how many errors, of how many tests that ran, and its own words."""

    tool: str
    errors: int
    passed: int
    status: int
    report: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether tests ran, none failed, and nothing was found."""
        return not self.errors and self.passed > 0 and self.status == 0

    def __str__(self) -> str:
        """One line."""
        said = "clean" if self.clean else f"NOT CLEAN (status {self.status})"
        return f"{self.tool}: {self.errors} errors, {self.passed} tests passed: {said}"


def find(binary: str | None = None) -> str:
    """The tool: as named, on the PATH, in the toolkit, or of a wheel. BackendError: none, and what to install."""
    toolkits = [os.environ.get(name, "") for name in ("CUDA_HOME", "CUDA_PATH")] + ["/usr/local/cuda"]
    wheels = [p for root in sys.path for p in Path(root).glob(f"nvidia/*/bin/{NAME}")]
    places = [binary] if binary else [NAME, *(f"{t}/bin/{NAME}" for t in toolkits if t), *map(str, wheels)]
    for place in places:
        tool = shutil.which(place)
        if tool:
            return tool
    msg = (
        f"no {NAME} at {', '.join(places)}: it comes with the CUDA toolkit (its package cuda-sanitizer); "
        "name it by --binary, or the toolkit by CUDA_HOME"
    )
    raise BackendError(msg)


def run(binary: str, tool: str, select: str | None, python: str = sys.executable) -> Verdict:
    """Run the gpu tests under a tool, all that they print as it comes. BackendError: no tests, or it said no result."""
    if not TESTS.is_dir():
        msg = f"no {TESTS.name}/ next to the package: run this in a clone of the repository"
        raise BackendError(msg)
    words = [binary, "--tool", tool, *TOOLS[tool], "--error-exitcode", str(FOUND), "--target-processes", "all"]
    words += [python, "-m", "pytest", "-m", "gpu", "-q", "-rs", "-p", "no:cacheprovider", str(TESTS)]
    words += ["-k", select] if select else []
    text = []
    with subprocess.Popen(  # noqa: S603 - its user named it
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", cwd=TESTS.parent
    ) as process:
        for line in process.stdout or ():
            print_out(line.rstrip("\n"))
            text.append(line)
        status = process.wait()
    return read(tool, "".join(text), status)


def read(tool: str, text: str, status: int) -> Verdict:
    """What a run printed, and its status, as a verdict. BackendError: it has no result, or no test ran."""
    counts = _SUMMARY.findall(text)
    passed = sum(map(int, _PASSED.findall(text)))
    if not counts:
        last = " ".join(text.strip().splitlines()[-1:])
        msg = f"{NAME} --tool {tool} ended with status {status} and no summary ({last}): expected 'ERROR SUMMARY'"
        raise BackendError(msg)
    if not passed and status == 0:
        skipped = " ".join(re.findall(r"^SKIPPED.*", text, re.MULTILINE)[:1])
        msg = f"{tool}: no test ran ({skipped or 'none was selected'}): expected a GPU, and -k to select some"
        raise BackendError(msg)
    report = tuple(line for line in text.splitlines() if line.startswith("=" * 9))
    return Verdict(tool, sum(map(int, counts)), passed, status, report)


def main(argv: Sequence[str] | None = None) -> int:
    """Run every tool that was asked for; 1 where anything was found."""
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.bench.sanitize", description=f"tests under {NAME}")
    parser.add_argument("--tool", choices=TOOLS, nargs="+", default=list(TOOLS))
    parser.add_argument("-k", dest="select", metavar="EXPRESSION", help="which tests, as pytest's -k")
    parser.add_argument("--binary", metavar="PATH", help=f"the {NAME} to run")
    args = parser.parse_args(argv)
    try:
        binary = find(args.binary)
        verdicts = [run(binary, tool, args.select) for tool in args.tool]
    except BackendError as e:
        print(f"sanitize: error: {e}", file=sys.stderr)
        return 1
    for v in verdicts:
        if not v.clean:
            print_out("\n".join(v.report[:SHOWN]))
        print_out(str(v))
    return 0 if all(v.clean for v in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
