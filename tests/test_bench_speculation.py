"""The benchmark of speculation: what it writes is of what it did; no figure is asserted."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest
from miaotui.errors import InputError
from miaotui.tools import demo
from miaotui.tools.bench import speculation

if TYPE_CHECKING:
    from pathlib import Path


def test_every_row_is_measured_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "speculation.json"
    command = f"--model {demo.path()} --rounds 1 --new 8 --depths 2 5 --plans keep-layers=0-1,5 --out {out}"
    assert speculation.main(shlex.split(command)) == 0
    known = json.loads(out.read_text(encoding="utf-8"))
    drafts = [(row["draft"], row["prompt"]) for row in known["results"]]
    assert drafts == [
        ("ngram", "code"), ("ngram", "summary"), ("ngram", "prose"), ("wrong", "prose"),
        ("keep-layers=0-1", "code"), ("keep-layers=0-1", "prose"), ("keep-layers=0-4", "code"),
        ("keep-layers=0-4", "prose"), ("keep-layers=0-1,5", "code"), ("keep-layers=0-1,5", "prose"),
    ]  # fmt: skip
    assert known["bars"] == speculation.BARS
    for row in known["results"]:
        assert row["faster"]["pairs"] == 1
        assert 0 <= row["accepted_per_token"] <= row["drafted_per_token"]
    shallow, deep, _ = (row["early_exit"]["kl_nats"] for row in known["results"][4::2])
    assert shallow > deep > 0
    shallow, deep, _ = (row["early_exit"]["agrees"] for row in known["results"][5::2])
    assert 0 <= shallow < deep <= 1
    assert len(capsys.readouterr().out.splitlines()) == len(drafts)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(InputError, match="--new: at least 2"):
        speculation.main(["--model", str(demo.path()), "--new", "1"])
    with pytest.raises(InputError, match="--depths: expected at least 1"):
        speculation.main(["--model", str(demo.path()), "--depths", "0"])
