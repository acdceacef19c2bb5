"""docs/pipelines.md: its Python runs from top to bottom and prints what it says, and its table has every task."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from generation_models import write_writer
from miaotui.tools.pipelines.registry import TASKS
from task_models import write_model

if TYPE_CHECKING:
    import pytest

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "pipelines.md").read_text(encoding="utf-8")
#: Those that the page calls models/...: head and labels. All others are included.
MODELS = {"ranking": ("classes", ("score",)), "inference": ("classes", ("contradiction", "neutral", "entailment"))}


def test_the_page_s_python_runs_and_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, (head, labels) in MODELS.items():
        write_model(tmp_path / "models" / name, "bert", head, labels=labels)
    for name, kind in {"summarizer": "t5", "translator": "nllb"}.items():
        write_writer(tmp_path / "models" / name, kind)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert len(blocks) > 7
    namespace: dict[str, object] = {}
    compared = 0
    for block in blocks:
        exec(compile(block, "docs/pipelines.md", "exec"), namespace)  # noqa: S102 - it is our own page
        printed = iter(capsys.readouterr().out.splitlines())
        for told in re.findall(r"^ *# (.*)$", block, re.MULTILINE):  # a line of its own says what was printed
            wanted = ".*".join(map(re.escape, told.split("…")))
            assert any(re.fullmatch(wanted, line) for line in printed), f"printed by no line, or earlier: {told}"
            compared += 1
    assert compared > 20


def test_the_table_has_every_task_with_its_other_names() -> None:
    rows = {line.split("|")[1].strip(): line for line in PAGE.splitlines() if line.startswith("| `")}
    for task in TASKS:
        assert f"`{task.name}`" in PAGE
        assert all(f"`{alias}`" in rows.get(f"`{task.name}`", PAGE) for alias in task.aliases)
