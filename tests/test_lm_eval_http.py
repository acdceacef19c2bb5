"""lm-evaluation-harness through the server, and through Python: the same answers.

`pip install 'lm-eval[api]'`, and `./dev soak lm-eval-http --minutes 0`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import miaotui as mt
import pytest
from miaotui.tools import demo
from serve_processes import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPENINGS = ["Once upon a time there was a little", "Tom had a red", "The cat was very", "Lily and Ben went to the"]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving() as (_, port):
        yield port


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    pytest.importorskip("tenacity", reason="the harness's clients are not installed: pip install 'lm-eval[api]'")
    pytest.importorskip("lm_eval.models", reason="the harness is not installed: pip install 'lm-eval[api]'")
    return pytest.importorskip("lm_eval")  # which looks for its own models only where none is registered


def task(tmp_path: Path, name: str, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    file = tmp_path / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"data_files": {"test": str(file)}, "cache_dir": str(tmp_path / "cache")}
    return {"task": name, "dataset_path": "json", "dataset_kwargs": data, "test_split": "test"} | more


def answers_of(told: Any) -> dict[str, list[Any]]:
    """What the model said to each request of each task, before any metric."""
    return {
        name: [sample["resps"] for sample in sorted(samples, key=lambda sample: sample["doc_id"])]
        for name, samples in told["samples"].items()
    }


def results_of(told: Any) -> dict[str, Any]:
    return {name: {k: v for k, v in row.items() if "stderr" not in k} for name, row in told["results"].items()}


@pytest.mark.soak("lm-eval-http")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("concurrent", [1, 8])
def test_completions_through_the_server_are_those_of_python(
    harness: Any, tmp_path: Path, port: int, concurrent: int
) -> None:
    """Answers: the same texts, however many are asked for at once."""
    from miaotui.tools.lm_eval import MiaotuiLM

    made = task(
        tmp_path, "made", [{"q": q, "a": "."} for q in OPENINGS], output_type="generate_until", doc_to_text="{{q}}",
        doc_to_target="{{a}}", metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        generation_kwargs={"until": ["."], "max_gen_toks": 24, "do_sample": False, "temperature": 0},
    )  # fmt: skip
    tasks = [made]
    told = {"bootstrap_iters": 0, "log_samples": True}
    served = {
        "model": "story", "base_url": f"http://127.0.0.1:{port}/v1/completions", "tokenizer": str(demo.path()),
        "num_concurrent": concurrent, "max_length": 256, "max_retries": 1,
    }  # fmt: skip
    with mt.load(demo.path()) as model:
        assert model.n_context >= 256
        alone = harness.simple_evaluate(MiaotuiLM(model), tasks=tasks, **told)
    http = harness.simple_evaluate("local-completions", model_args=served, tasks=tasks, **told)
    assert answers_of(http) == answers_of(alone)
    assert results_of(http) == results_of(alone)


@pytest.mark.soak("lm-eval-http")
@pytest.mark.filterwarnings("default")
def test_conversations_through_the_server_are_those_of_python(harness: Any, tmp_path: Path, port: int) -> None:
    from miaotui.tools.lm_eval import MiaotuiLM

    asked = ["Tom had a red ball. What did Tom have?", "Mia likes to eat honey cake. What does Mia eat?"]
    made = task(
        tmp_path, "talks", [{"q": q, "a": "."} for q in asked], output_type="generate_until", doc_to_text="{{q}}",
        doc_to_target="{{a}}", metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        generation_kwargs={"until": ["</s>"], "max_gen_toks": 24},
    )  # fmt: skip
    told = {"bootstrap_iters": 0, "log_samples": True, "apply_chat_template": True, "tasks": [made]}
    served = {"model": "chat", "base_url": f"http://127.0.0.1:{port}/v1/chat/completions", "max_retries": 1}
    with mt.load(demo.path("chat")) as model:
        alone = harness.simple_evaluate(MiaotuiLM(model), **told)
    http = harness.simple_evaluate("local-chat-completions", model_args=served, **told)
    assert answers_of(http) == answers_of(alone)
