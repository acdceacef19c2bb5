"""Soaks, and that they tell what they did. `./dev soak chunking` runs the first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import miaotui
import numpy as np
import pytest
import soak
from checkpoints import FAMILIES, models, write_checkpoint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.soak("chunking")
@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_bits_do_not_depend_on_chunks_threads_or_what_came_before(data: st.DataObject) -> None:
    """A random model of any family, dtype, rounding and cache: its logits and a drawn answer, however they are made."""
    drawn = data.draw(st.sampled_from(FAMILIES).flatmap(models))
    n_vocab = drawn.config["vocab_size"]
    ids = data.draw(st.lists(st.integers(0, n_vocab - 1), min_size=1, max_size=drawn.longest - 8))
    how: dict[str, Any] = {
        "quantize": data.draw(st.sampled_from([None, "int8", "int4", "int4a", "int4,embed=int8"])),
        "kv_cache": data.draw(st.sampled_from(["f32", "bf16", "int8"])),
        "max_context": drawn.longest,
    }
    asked: dict[str, Any] = {"max_new_tokens": 8, "ignore_eos": True, "seed": data.draw(st.integers(0, 2**32))}
    asked |= data.draw(st.sampled_from([{}, {"temperature": 1.5}, {"top_k": 5, "repetition_penalty": 1.2}]))
    with TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), drawn)
        with miaotui.load(folder, threads=1, prefill_chunk=128, **how) as model:
            logits, answer = model.logits(ids), model.generate(ids, **asked).ids
        for _ in range(data.draw(st.integers(1, 3))):
            threads, chunk = data.draw(st.integers(1, 4)), data.draw(st.integers(1, len(ids) + 1))
            with miaotui.load(folder, threads=threads, prefill_chunk=chunk, **how) as model:
                first = data.draw(st.integers(1, len(ids)))
                assert np.array_equal(model.logits(ids[:first]), logits[:first])
                assert model.generate(ids, **asked).ids == answer
                assert np.array_equal(model.logits([*ids, *answer])[: len(ids)], logits)
                assert np.array_equal(model.last_logits([ids])[0], logits[-1])
            soak.count("ways compared")
    soak.count("models")


def run(tmp_path: Path, *words: str) -> tuple[int, dict[str, Any]]:
    out = tmp_path / "deep" / "result.json"
    command = [sys.executable, soak.__file__, *words, "--out", out]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(out.read_text()) if out.is_file() else {"said": done.stdout + done.stderr}


@pytest.mark.soak("self")
@given(st.integers(0, 2**64))
def test_the_soak_that_the_tests_run(n: int) -> None:
    soak.count("examples")
    soak.count("sum", n)


@pytest.mark.soak("self-that-fails")
@given(st.integers())
def test_the_soak_that_fails(n: int) -> None:
    assert n < 1000


def test_a_soak_tells_commit_seed_and_what_it_did(tmp_path: Path) -> None:
    code, told = run(tmp_path, "self", "--minutes", "0", "--seed", "11")
    assert (code, told.get("passed")) == (0, True), told
    assert (told["name"], told["seed"], len(told["rounds"])) == ("self", 11, 1)
    assert told["commit"] is None or len(told["commit"]) == 40
    [only] = told["rounds"]
    assert (only["seed"], only["exit"], only["outcomes"]) == (11, 0, {"passed": 1})
    assert only["counted"]["examples"] >= 100
    again = run(tmp_path, "self", "--minutes", "0", "--seed", "11")[1]["rounds"][0]
    other = run(tmp_path, "self", "--minutes", "0", "--seed", "12")[1]["rounds"][0]
    assert again["counted"] == only["counted"] != other["counted"]


def test_a_soak_that_fails_says_so_and_one_that_is_not_there_too(tmp_path: Path) -> None:
    code, told = run(tmp_path, "self-that-fails", "--minutes", "60")
    assert (code, told["passed"], told["rounds"][0]["outcomes"]) == (1, False, {"failed": 1})
    assert "n=1000" in next(iter(told["rounds"][0]["failures"].values()))
    code, told = run(tmp_path / "deep", "nothing")
    assert code == 1
    assert {"chunking", "cuda", "recipes"} < {*soak.names()}  # a mark, one of some cases, one whose line is broken
    assert f"nothing: no test is marked so; expected one of {', '.join(soak.names())}" in told["said"]


def test_examples_are_those_of_every_file_that_draws_some() -> None:
    chosen = soak.selection(soak.EXAMPLES)
    names = {Path(word).name for word in chosen if word.endswith(".py")}
    assert {"test_ops.py", "test_prune.py", "test_families.py"} <= names
    assert "test_goldens.py" not in names
