"""The applications of docs/examples: one command each, and what it prints is so."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import miaotui
import pytest
from miaotui.tools import demo

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"


def _example(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_assistant_answers_what_it_knows_and_hands_over_the_rest(capsys):
    service = _example("customer_service")
    assert service.main([]) == 0
    said = capsys.readouterr().out.split("\n\n")[:-1]
    assert len(said) == len(service.ASKED)
    handed = [question for question, text in zip(service.ASKED, said, strict=True) if "colleague" in text]
    assert handed == list(service.ASKED[-2:])
    listed = ("My order is late. What can I do?", "How do I return an item?", "Do you ship to other countries?")
    assert all(entry in text for entry, text in zip(listed, said, strict=False))


def test_the_assistant_takes_another_list_and_threshold(tmp_path, capsys):
    service = _example("customer_service")
    file = tmp_path / "faq.json"
    file.write_text(json.dumps([{"question": "Where is my parcel?", "answer": "On its way."}]))
    assert service.main(["Where is my parcel?", "--faq", str(file)]) == 0
    assert capsys.readouterr().out == "> Where is my parcel?\n  [1.00, Where is my parcel?]\n  On its way.\n\n"
    assert service.main(["Is this shop open?", "--faq", str(file), "--threshold", "1.1"]) == 0
    assert "colleague" in capsys.readouterr().out
    with miaotui.load(demo.path("encoder")) as model:
        reply = service.Assistant(model, [("Where is my parcel?", "On its way.")]).reply("Where is my parcel?")
    assert reply.answer == "On its way."
    assert reply.nearness == pytest.approx(1)


def test_the_monitor_raises_the_alarm_for_the_surge_alone(capsys):
    monitor = _example("finance_monitor")
    assert monitor.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    alarms = [line for line in lines if "surges" in line]
    assert alarms
    assert all(monitor.TOPICS[2] in line for line in alarms)
    assert int(alarms[0].split()[1].rstrip(":")) > 400 * 2 // 3
    assert [line.strip().startswith(topic) for line, topic in zip(lines[-4:], monitor.TOPICS, strict=True)] == [
        True
    ] * 4


def test_the_monitor_reads_a_file_a_line_at_a_time(tmp_path, capsys):
    monitor = _example("finance_monitor")
    file = tmp_path / "headlines.txt"
    file.write_text("Acme profits rise\n\nAcme losses rise\nAcme names new chairman\n")
    assert monitor.main(["--input", str(file), "--topics", "Acme", "--window", "2"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert sum(int(part.split()[0]) for part in out[0].split(", ")) == 3
    assert len(out) == 2


def test_a_topic_s_surge_is_said_once_and_only_above_what_is_usual():
    monitor = _example("finance_monitor")
    topic = monitor.Topic(4)
    assert not any(topic.add(label) for label in ["positive", "negative", "positive", "positive", "neutral"] * 3)
    assert [topic.add("negative") for _ in range(6)].count(True) == 1
    always = monitor.Topic(4)
    assert not any(always.add("negative") for _ in range(20))  # nothing new
    assert set(always.chart()) == {"█"}
