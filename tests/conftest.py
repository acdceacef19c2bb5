"""Settings for all tests: Hypothesis' profiles, the folder of real checkpoints, and how pytest sees the root."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# The first example of a test may compile kernels: no deadline. In CI the examples are the same every time.
settings.register_profile("miaotui", deadline=None)
settings.register_profile("miaotui-ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("miaotui-ci" if os.environ.get("CI") else "miaotui")


class _PlainRoot:
    """Collects the repository root as a directory. pytest would import it as a package named after its folder."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_configure(config: pytest.Config) -> None:
    """Register what must act above this file's own directory."""
    config.pluginmanager.register(_PlainRoot(), "miaotui-plain-root")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how often the devices' greedy ids were equal (`greedy.py`)."""
    counted = list(getattr(sys.modules.get("greedy"), "COUNTED", {}).values())
    if counted:
        total = sum(counted[1:], counted[0])
        terminalreporter.write_line(f"GPU against CPU: {total} ({len(counted)} tests)")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder with `models/` and `text/`: $MIAOTUI_SHARED, or ../shared beside the repository."""
    path = Path(os.environ.get("MIAOTUI_SHARED", ROOT.parent / "shared"))
    if not (path / "models").is_dir():
        pytest.skip(f"no real checkpoints: {path.name}/models not found; MIAOTUI_SHARED names the folder")
    return path
