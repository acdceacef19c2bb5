"""The monitor of docs/examples: it runs by one command, and says what it should and no more."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers import complaint

if TYPE_CHECKING:
    from types import ModuleType

FILE = Path(__file__).resolve().parent.parent / "docs" / "examples" / "monitor" / "monitor.py"


@pytest.fixture(scope="module")
def monitor() -> ModuleType:
    spec = importlib.util.spec_from_file_location("monitor", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.ci  # 5 s
def test_the_alarm_is_of_the_surge_alone(monitor: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert monitor.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    alarms = [line for line in lines if "surges" in line]
    assert alarms
    assert all(f"bad news of {monitor.TOPICS[2]} surges" in line for line in alarms)
    assert int(alarms[0].split()[1].rstrip(":")) > 400 * 2 // 3
    rows = lines[-len(monitor.TOPICS) :]
    assert [row.strip().startswith(topic) for row, topic in zip(rows, monitor.TOPICS, strict=True)] == [True] * 4
    assert len({row.index("%") for row in rows}) == 1  # time is the same for all
    assert sum(int(part.split()[0]) for part in lines[-5].split(", ")) == 400


def test_it_reads_a_file_and_standard_input_a_line_at_a_time(
    monitor: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "headlines.txt"
    file.write_text("Acme profits rise\n\nAcme losses rise\nOther costs rise\n")
    assert monitor.main(["--input", str(file), "--topics", "Acme", "Oz", "--window", "2"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == ["2 negative, 1 positive", "Acme ▁▅▅ 50% bad", "  Oz ▁▁▁ 0% bad"]
    with file.open() as lines:
        monkeypatch.setattr("sys.stdin", lines)
        assert monitor.main(["--input", "-", "--topics", "Acme", "Oz", "--window", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == out
    assert monitor.main(["--input", str(tmp_path / "none.txt")]) == 1
    assert "monitor: [Errno 2] No such file or directory" in complaint(capsys.readouterr().err)
    with pytest.raises(SystemExit):
        monitor.main(["--window", "0"])


def test_a_surge_is_said_once_and_only_above_what_is_usual(monitor: Any) -> None:
    topic = monitor.Topic(4)
    assert not any(topic.add(label) for label in ["positive", "negative", "positive", "positive", "neutral"] * 3)
    assert [topic.add("negative") for _ in range(6)].count(True) == 1
    always = monitor.Topic(4)
    assert not any(always.add("negative") for _ in range(20))  # nothing new
    always.history = [1.0] * 200
    assert set(always.chart()) == {"█"}
    assert len(always.chart()) <= monitor.COLUMNS
