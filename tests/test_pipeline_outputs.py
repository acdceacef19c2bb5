"""What our pipelines give, key by key, is what transformers 4.57.6 gave (tests/pipeline_outputs.py).

Texts, offsets and order are equal, scores within 1e-5.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import warnings
from pathlib import Path
from typing import Any

import miaotui as mt
import pytest
import soak
from pipeline_outputs import Case, cases, stored_form

CASES = cases()
STORED = json.loads((Path(__file__).parent / "data" / "pipelines.json").read_text(encoding="utf-8"))
NEAR = 1e-5


def same(ours: Any, theirs: Any, where: str) -> None:
    """Equal, numbers but for `NEAR`."""
    if isinstance(theirs, float):
        assert isinstance(ours, float), where
        assert abs(ours - theirs) <= NEAR * max(1.0, abs(theirs)), f"{where}: {ours} {theirs}"
    elif isinstance(theirs, dict):
        assert isinstance(ours, dict), where
        assert list(ours) == list(theirs), where
        for key, value in theirs.items():
            same(ours[key], value, f"{where}[{key!r}]")
    elif isinstance(theirs, list):
        assert isinstance(ours, list), where
        assert len(ours) == len(theirs), f"{where}: {ours} {theirs}"
        for i, value in enumerate(theirs):
            same(ours[i], value, f"{where}[{i}]")
    else:
        assert type(ours) is type(theirs), where
        assert ours == theirs, where


def compare(case: Case, wanted: list[Any], folder: Path) -> None:
    assert len(wanted) == len(case.calls)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # long texts are cut, a head's last label counts: the cases' aim
        with mt.pipeline(case.task, case.write(folder), **case.made_with) as pipe:
            for (args, keywords), theirs in zip(case.calls, wanted, strict=True):
                same(stored_form(pipe(*args, **keywords)), theirs, f"{case.task} {args} {keywords}")


IDS = [f"{case.kind}-{case.task}-{len(case.labels)}" for case in CASES]
SLOW = [() if case.kind == "bert" else pytest.mark.ci for case in CASES]  # 5 s together


@pytest.mark.parametrize("n", [pytest.param(n, marks=SLOW[n], id=IDS[n]) for n in range(len(CASES))])
def test_outputs_are_those_of_transformers(n: int, tmp_path: Path) -> None:
    compare(CASES[n], STORED["outputs"][n], tmp_path)


@pytest.mark.soak("pipelines")
def test_outputs_of_new_texts_are_those_of_transformers(tmp_path: Path) -> None:
    python = os.environ.get("MIAOTUI_TRANSFORMERS4")
    if not python:
        pytest.skip("MIAOTUI_TRANSFORMERS4 names no Python with transformers 4.57.6 (tests/pipeline_outputs.py)")
    seed, n, script = secrets.randbelow(2**31), 40, Path(__file__).parent / "pipeline_outputs.py"
    environment = os.environ | {"PYTHONPATH": str(script.parent)}
    command = [python, str(script), str(tmp_path / "out.json"), str(seed), str(n)]
    subprocess.run(command, check=True, env=environment)
    outputs = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["outputs"]
    for case, wanted in zip(cases(seed, n), outputs, strict=True):
        compare(case, wanted, tmp_path)
    soak.count("texts", n)


def test_the_stored_outputs_are_of_the_last_release_with_all_tasks() -> None:
    assert STORED["versions"]["transformers"] == "4.57.6"
    assert len(STORED["outputs"]) == len(CASES)
