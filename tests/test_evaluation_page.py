"""docs/evaluation.md from top to bottom: its files are written, its commands run, and what it shows is what comes."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import complaint
from miaotui.tools import cli
from task_models import write_model

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "evaluation.md"
EXAMPLE = ROOT / "docs" / "examples" / "qa_evaluation"


def test_the_page_is_what_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    told, compared, ran = "", 0, 0
    blocks = re.findall(r"^```(\w+) ?([^\n]*)\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    for kind, about, text in blocks:
        if kind == "text":
            assert told == text
            compared += 1
        elif kind == "sh":
            told = ""
            for line in text.splitlines():
                words = shlex.split(line)[1:]
                if "path/to" in line and not about:  # a model of the reader's own
                    assert cli._parser(words).parse_args(words).command == "evaluate"
                    continue
                assert cli.main(words) == (1 if about == "fails" else 0)
                captured = capsys.readouterr()
                told += complaint(captured.err) + captured.out
                ran += 1
        elif kind == "python" and about != "no-run":
            exec(compile(text, str(PAGE), "exec"), namespace)  # noqa: S102 - it is our own page
            told = capsys.readouterr().out
        elif about and kind != "python":
            Path(about).write_text(text, encoding="utf-8")
    assert (ran, compared) == (4, 5)


@pytest.mark.ci  # 5 s
def test_the_example_goes_from_texts_to_a_report(tmp_path: Path) -> None:
    """With a model of random weights: the form of the report, not its numbers."""
    pytest.importorskip("sklearn")
    pytest.importorskip("tqdm")
    model = write_model(tmp_path / "qa", "bert", "spans", max_position_embeddings=64)
    command = [sys.executable, str(EXAMPLE / "qa_evaluation.py"), "--model", str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("black", "white", "red", "silver", "precision", "support", "exact match 0.", "F1 0."):
        assert word in done.stdout
    assert "12/12" in done.stderr
    code = (EXAMPLE / "qa_evaluation.py").read_text(encoding="utf-8")
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
