"""pytest's option `--runner`, of `conformance`: declared where that is asked for, since others may have one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

__all__ = ["pytest_addoption"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare it."""
    if any("miaotui.testing" in word and not word.endswith("plugin") for word in sys.argv):
        parser.addoption("--runner", metavar="MODULE:FUNCTION", help="whose ops are compared with miaotui's reference")
