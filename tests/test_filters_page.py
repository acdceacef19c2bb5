"""docs/filters.md: its Python runs from top to bottom and prints what it says, and its file of rules is understood."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import miaotui as mt

if TYPE_CHECKING:
    import pytest

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "filters.md").read_text(encoding="utf-8")


def test_the_page_s_python_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    blocks = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert len(blocks) == PAGE.count("```python") == 3
    for python, said in blocks:
        exec(compile(python, "docs/filters.md", "exec"), names)  # noqa: S102 - it is our own page
        assert capsys.readouterr().out == said
    names["model"].close()


def test_the_page_s_file_of_rules(tmp_path: Path) -> None:
    [toml] = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (tmp_path / "rules.toml").write_text(toml, encoding="utf-8")
    (tmp_path / "insults.txt").write_text("nincompoop\n", encoding="utf-8")
    filters = mt.Filters.from_file(tmp_path / "rules.toml")
    assert filters.apply("1234-5678 9012-3456, Nincompoop").text == "[card], ***"
