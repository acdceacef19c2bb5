"""docs/pipelines.md: its Python runs from top to bottom, and its table has every task."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from generation_models import write_writer
from miaotui.tools.pipelines.registry import TASKS
from task_models import ENTITIES, write_model

if TYPE_CHECKING:
    import pytest

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "pipelines.md").read_text(encoding="utf-8")
MODELS = {
    "sentiment": ("classes", ("negative", "neutral", "positive")), "entities": ("token_classes", ENTITIES),
    "answers": ("spans", ()), "masks": ("masked_lm", ()), "sentences": ("", ()), "ranking": ("classes", ("score",)),
    "inference": ("classes", ("contradiction", "neutral", "entailment")),
}  # fmt: skip


def test_the_page_s_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, (head, labels) in MODELS.items():
        write_model(tmp_path / "models" / name, "bert", head, labels=labels)
    for name, kind in {"writer": "llama", "summarizer": "t5", "translator": "nllb"}.items():
        write_writer(tmp_path / "models" / name, kind)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert len(blocks) > 7
    exec(compile("\n".join(blocks), "docs/pipelines.md", "exec"), {})  # noqa: S102 - it is our own page
    printed = capsys.readouterr().out
    assert "text-classification ('negative', 'neutral', 'positive')" in printed
    assert "\n1000\n" in printed
    assert "(1, 5, 32)" in printed


def test_the_table_has_every_task_with_its_other_names() -> None:
    rows = {line.split("|")[1].strip(): line for line in PAGE.splitlines() if line.startswith("| `")}
    for task in TASKS:
        assert f"`{task.name}`" in PAGE
        assert all(f"`{alias}`" in rows.get(f"`{task.name}`", PAGE) for alias in task.aliases)
