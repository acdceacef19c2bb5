"""pytest's option `--runner`, of `conformance`: `-p miaotui.testing.plugin`.

No entry point names it: pytest would then rewrite every module of the package, in each of its users' test runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

    from .conformance import Answers

__all__ = ["ANSWERS", "pytest_addoption", "pytest_sessionfinish", "pytest_terminal_summary"]


#: Of each op, how many problems a runner took; `conformance` puts it here, whatever it is imported as.
ANSWERS: dict[str, Answers] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare it."""
    parser.addoption("--runner", metavar="MODULE:FUNCTION", help="whose ops are compared with miaotui's reference")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run that compared nothing has failed."""
    if ANSWERS and not any(counts.given for counts in ANSWERS.values()):
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was not compared."""
    none = [op for op, counts in ANSWERS.items() if not counts.given]
    if none:
        terminalreporter.write_line(f"not compared, since the runner has none: {', '.join(none)}")
    for op, counts in ANSWERS.items():
        if counts.given and counts.passed_over:
            total = counts.given + counts.passed_over
            terminalreporter.write_line(
                f"{op}: {counts.passed_over} of {total} problems passed over{counts.why and f' ({counts.why})'}"
            )
