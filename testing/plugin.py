"""pytest's option `--runner`, of `conformance`: `-p miaotui.testing.plugin`.

No entry point names it: pytest would then rewrite every module of the package, in each of its users' test runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

__all__ = ["pytest_addoption"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare it."""
    parser.addoption("--runner", metavar="MODULE:FUNCTION", help="whose ops are compared with miaotui's reference")
