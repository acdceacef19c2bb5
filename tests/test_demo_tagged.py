"""The entities model's recipe on a file of words and tags, and on WNUT-17."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING

import pytest
from miaotui.errors import InputError
from miaotui.tools import cli, demo
from miaotui.tools.demo import train
from real_files import real

if TYPE_CHECKING:
    from pathlib import Path

TALK = """Zoë B-person
Ruiz I-person
flew O
to O
Malmö B-creative-work
. O

the O
smörgås O
of O
Zoë B-person
"""


def made(data: Path, out: Path, *words: str) -> int:
    pytest.importorskip("torch")
    return train.main(["entities", str(out), "--data", str(data), *words])


@pytest.mark.ci  # 6 s
def test_a_file_of_tags_makes_a_model_that_evaluate_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "talk.conll", tmp_path / "made"
    data.write_text(TALK, encoding="utf-8")
    assert made(data, out, "--steps", "100") == 0
    assert capsys.readouterr().out.startswith(f"{data}: 2 texts, 3 names\n")
    config, shipped = (
        json.loads((at / "config.json").read_text(encoding="utf-8")) for at in (out, demo.path("entities"))
    )
    kinds = ("creative-work", "person")
    assert list(config["id2label"].values()) == ["O", *(f"{bio}-{kind}" for kind in kinds for bio in "BI")]
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "architectures"):
        assert config[name] == shipped[name]
    card = (out / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(data.read_bytes()).hexdigest() in card
    assert "demo.train entities OUT --data talk.conll --steps 100\n" in card
    report = tmp_path / "report.json"
    words = ["--data", str(data), "--model", str(out), "--json", str(report)]
    assert cli.main(["evaluate", "token-classification", *words]) == 0
    assert json.loads(report.read_text(encoding="utf-8"))["metrics"]["f1"] == 1.0  # learnt by heart


@pytest.mark.ci  # 4 s
def test_a_file_gives_the_same_model_each_time(tmp_path: Path) -> None:
    data = tmp_path / "talk.conll"
    data.write_text(TALK, encoding="utf-8")
    for name in ("one", "two"):
        assert made(data, tmp_path / name, "--steps", "2") == 0
    for file in ("model.safetensors", "tokenizer.json", "config.json", "README.md"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_what_cannot_be_learnt_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "talk.conll", tmp_path / "made"
    data.write_text("Ana O\nflew O\n", encoding="utf-8")
    for given, says in (
        (data, r"--data .*talk\.conll: no word of it has another tag than O"),
        (tmp_path / "none.conll", r"none\.conll"),
        (tmp_path, "cannot be read|is a directory"),
    ):
        with pytest.raises(InputError, match=says):
            train.main(["entities", str(out), "--data", str(given)])
    with pytest.raises(SystemExit):
        train.main(["sentiment", str(out), "--data", str(data)])
    assert "only entities is trained on a file; sentiment makes its texts itself" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.soak("wnut17")
def test_wnut17_has_the_f1_that_the_page_says(tmp_path: Path) -> None:
    page = (demo.path().parent / "README.md").read_text(encoding="utf-8")
    said = re.search(r"\*\*F1 (0\.\d+)\*\*", page)
    steps = re.search(r"demo\.train entities OUT --data wnut17train\.conll(.*)", page)
    assert said is not None
    assert steps is not None
    out, report = tmp_path / "made", tmp_path / "report.json"
    assert made(real("text", "wnut17", "wnut17train.conll"), out, *steps[1].split()) == 0
    test = real("text", "wnut17", "emerging.test.annotated")
    words = ["--data", str(test), "--model", str(out), "--json", str(report)]
    assert cli.main(["evaluate", "token-classification", *words]) == 0
    got = json.loads(report.read_text(encoding="utf-8"))["metrics"]["f1"]
    assert abs(got - float(said[1])) < 0.02  # another torch may differ in the last bits, and then in a few names
