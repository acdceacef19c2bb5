"""Trained checkpoints and real texts: `$MIAOTUI_SHARED`, or ../shared next to the repository.

Without the folder their tests are skipped. With it they are not: what it lacks fails them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

__all__ = ["SHARED", "real"]

_NAMED = os.environ.get("MIAOTUI_SHARED")
SHARED = Path(_NAMED) if _NAMED else Path(__file__).resolve().parents[2] / "shared"


def real(*parts: str) -> Path:
    """A file or folder of it. Skips where there is no such folder at all; fails where it lacks this."""
    path = SHARED.joinpath(*parts)
    if not _NAMED and not SHARED.is_dir():
        pytest.skip("no trained checkpoints and real texts: MIAOTUI_SHARED names no folder, and there is no ../shared")
    if not path.exists():
        pytest.fail(f"{path} is not there, and so what {Path(*parts)} should show is not shown")
    return path
