"""A plugin of pytest: which lines of the package each test runs, for `mutants.py` to choose tests by.

`pytest -p mutant_lines` with `MIAOTUI_MUTANT_LINES=FOLDER` writes a file there for each process. A function's lines are
followed in its first few calls in a test, which costs little; kernels are machine code, of which nothing is seen.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import CodeType, FrameType

__all__ = ["FOLDER"]

#: The variable that names the folder.
FOLDER = "MIAOTUI_MUTANT_LINES"
#: Calls of a function, in one test, whose lines are followed.
CALLS = 4
#: Tests, by their ids: `seconds`, `passed`, `kernels` that it asked for, by their names, and `lines`: file -> its lines
#: as the bits of a number, in hexadecimal.
TOLD: dict[str, dict[str, Any]] = {}


class _Follower:
    """The trace function, and what it saw since `begin`."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.files: dict[
            int, tuple[str | None, CodeType]
        ] = {}  # id of code -> file; the code stays, so its id does too
        self.begin()

    def begin(self) -> None:
        self.left: dict[int, int] = {}
        self.seen: dict[str, set[int]] = {}
        self.kernels: set[str] = set()

    def call(self, frame: FrameType, event: str, arg: object) -> Callable[..., Any] | None:  # noqa: ARG002 - Python's
        code = frame.f_code
        n = self.left.get(id(code), CALLS)
        if n == 0:
            return None
        known = self.files.get(id(code))
        if known is None:
            name = code.co_filename
            known = self.files[id(code)] = name[len(self.root) :] if name.startswith(self.root) else None, code
        if known[0] is None or code.co_name == "<module>":
            self.left[id(code)] = 0
            return None
        self.left[id(code)] = n - 1
        add = self.seen.setdefault(known[0], set()).add
        add(frame.f_lineno)

        def line(frame: FrameType, event: str, arg: object) -> Callable[..., Any]:  # noqa: ARG001 - Python's
            add(frame.f_lineno)
            return line

        return line


def pytest_configure() -> None:
    """Make the follower, where the package is."""
    import miaotui
    from miaotui.runtime.cpu import link

    global _FOLLOWER  # noqa: PLW0603 - one for a process
    _FOLLOWER = follower = _Follower(f"{Path(str(miaotui.__file__)).parent}{os.sep}")
    linked = link._linked

    def told(names: list[str]) -> dict[str, int]:
        follower.kernels.update(names)
        return linked(names)

    link._linked = told


_FOLLOWER: _Follower


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Follow a test, with what it sets up."""
    TOLD[item.nodeid] = {"seconds": 0.0, "passed": False, "lines": {}}
    _FOLLOWER.begin()
    threading.settrace(_FOLLOWER.call)
    sys.settrace(_FOLLOWER.call)
    try:
        return (yield)
    finally:
        sys.settrace(None)
        threading.settrace(None)
        lines = {file: f"{sum(1 << line for line in lines):x}" for file, lines in list(_FOLLOWER.seen.items())}
        TOLD[item.nodeid] |= {"lines": lines, "kernels": sorted(_FOLLOWER.kernels)}
        if len(TOLD) % 100 == 0:
            _write()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add what it took; a test that passed has done so in its call."""
    if (told := TOLD.get(report.nodeid)) is not None:
        told["seconds"] = round(told["seconds"] + report.duration, 3)
        told["passed"] = told["passed"] or (report.when == "call" and report.passed)


def pytest_sessionfinish() -> None:
    """Write the rest."""
    _write()


def _write() -> None:
    """Write, if there is something: the process that hands out tests runs none."""
    lines = {test: told for test, told in TOLD.items() if told["lines"] or told["seconds"]}
    if lines and FOLDER in os.environ:
        Path(os.environ[FOLDER], f"{os.getpid()}.json").write_text(json.dumps(lines), encoding="utf-8")
