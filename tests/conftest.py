"""Settings for all tests: rings, Hypothesis' profiles, what is said at the end, and how pytest sees the root.

A test without a mark is of the ring `fast`; one that takes seconds is marked `ci`; `./dev test` and `./dev test ci` run
them. One that is marked `soak` runs by hand alone (`soak.py`).
"""

from __future__ import annotations

import gc
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings
from soak import COUNTED, EXAMPLES

ROOT = Path(__file__).resolve().parent.parent

# The first example of a test may compile kernels: no deadline. The examples are the same every time, but in a soak.
settings.register_profile("same", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("new", deadline=None, derandomize=False, database=None, print_blob=True)


class _PlainRoot:
    """Collects the repository root as a directory. pytest would import it as a package named after its folder."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what `soak.py` calls with."""
    group = parser.getgroup("soak", "tests that run by hand: ./dev soak NAME")
    group.addoption("--soak", metavar="NAME", help="draw new examples; of tests marked soak run NAME's, and no others")
    group.addoption("--soak-report", metavar="FILE", type=Path, help="what came of it, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the examples, and register what must act above this file's own directory."""
    settings.load_profile("same" if config.option.soak is None else "new")
    config.pluginmanager.register(_PlainRoot(), "miaotui-plain-root")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out soaks that were not asked for, and in a soak by name all else."""
    names = {item: mark.args[0] for item in items if (mark := item.get_closest_marker("soak")) is not None}
    name = config.option.soak if config.option.soak != EXAMPLES else None
    kept = [item for item in items if names.get(item) == name]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept


def pytest_collection_finish() -> None:
    """Leave what was imported to no collection any more: a test that collects need not walk torch's million objects."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say why tests were skipped, and how often the devices' greedy ids were equal (`greedy.py`)."""
    stats = terminalreporter.stats
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in stats.get("skipped", ()))
    for reason, n in reasons.most_common():
        terminalreporter.write_line(f"{n} skipped: {reason}")
    counted = list(getattr(sys.modules.get("greedy"), "COUNTED", {}).values())
    if counted:
        total = sum(counted[1:], counted[0])
        terminalreporter.write_line(f"GPU against CPU: {total} ({len(counted)} tests)")
    if config.option.soak_report is not None:
        outcomes = {name: len(stats[name]) for name in ("passed", "failed", "error", "skipped") if name in stats}
        failures = {
            report.nodeid: report.longreprtext for name in ("failed", "error") for report in stats.get(name, ())
        }
        told = {"outcomes": outcomes, "counted": COUNTED, "failures": failures, "skipped": dict(reasons)}
        config.option.soak_report.write_text(json.dumps(told), encoding="utf-8")
