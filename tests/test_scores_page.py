"""docs/scores.md: its Python runs from top to bottom, and prints what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "scores.md").read_text(encoding="utf-8")


def test_the_page_s_python_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    blocks = re.findall(r"^```python\n(.*?)^```(?:\n\n```text\n(.*?)^```)?", PAGE, re.DOTALL | re.MULTILINE)
    assert sum(bool(said) for _, said in blocks) == 5
    for python, said in blocks:
        exec(compile(python, "docs/scores.md", "exec"), names)  # noqa: S102 - it is our own page
        assert capsys.readouterr().out == said
    names["model"].close()
