"""Trained models and their stored outputs: the texts, the logits, the perplexity, the sorted letters."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from real_files import real

if TYPE_CHECKING:
    from pathlib import Path


def expected(name: str) -> tuple[Path, dict[str, Any]]:
    """The directory and its stored outputs."""
    path = real("models", name)
    return path, json.loads((path / "expected.json").read_text())


@pytest.mark.parametrize("threads", [1, 2])
def test_stories260k_tells_its_stories(threads: int) -> None:
    path, stored = expected("stories260K-hf")
    with miaotui.load(path, threads=threads) as model:
        for case in stored["greedy"]:
            assert model.tokenizer.encode(case["prompt"]) == case["prompt_ids"]
            answer = model.generate(case["prompt_ids"], max_new_tokens=len(case["new_ids"]), ignore_eos=True)
            assert answer.ids == case["new_ids"]
            logits = model.logits(case["prompt_ids"])[-1]
            assert np.abs(logits - np.array(case["last_prompt_logits"])).max() < 1e-4


def test_stories260k_perplexity() -> None:
    path, stored = expected("stories260K-hf")
    case = next(c for c in stored["perplexity"] if c["name"] == "short")
    with miaotui.load(path) as model:
        logits = model.logits(case["ids"]).astype(np.float64)
    log_sum = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    nll = (log_sum[:-1] - logits[np.arange(len(logits) - 1), case["ids"][1:]]).mean()
    assert nll == pytest.approx(case["nll_per_token"], abs=1e-5)


def test_capp_plans_processes() -> None:
    path, stored = expected("capp-gpt2-hf")
    with miaotui.load(path) as model:
        for case in stored["greedy"]:
            answer = model.generate(case["prompt_ids"], max_new_tokens=len(case["new_ids"]), ignore_eos=True)
            assert answer.ids == case["new_ids"]
        got = model.logits(stored["logits_for_ids"])
        assert np.abs(got - np.array(stored["logits"])).max() < 1e-4


def test_nano_gpt_sorts_729_of_729() -> None:
    path, stored = expected("nano-gpt-sort-hf")
    letters = "ABC"
    with miaotui.load(path, threads=1) as model:
        for case in stored["all_729"]:
            ids = [letters.index(c) for c in case]
            answer = model.generate(ids[:6], max_new_tokens=6)
            # the context of 11 holds six letters and five answers: the sixth is drawn, never fed
            assert "".join(letters[i] for i in ids[:6] + answer.ids) == case
        got = np.array([model.logits(ids) for ids in stored["reference_idx"]])
        assert np.abs(got - np.array(stored["reference_logits_from_llm_viz"])).max() < 1e-4
