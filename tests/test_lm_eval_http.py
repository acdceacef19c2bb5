"""lm-evaluation-harness through the server, and through Python: the same answers.

`pip install 'lm-eval[api]'`, and `./dev soak lm-eval-http --minutes 0`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import miaotui as mt
import pytest
from miaotui.tools import demo
from serve_processes import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Tokens of a request, its answer's one included: the model reads two less of a text through Python to see the same.
LENGTH = 256
CHOICES = [
    {"question": "Once upon a time there was a little", "choices": [" the of and", " girl named Lily."], "answer": 1},
    {"question": "Tom had a red ", "choices": ["ball.", "because.", "very. "], "answer": 0},
    {"question": "", "choices": ["Once upon a time", "ball ball"], "answer": 0},
    {"question": "Tom had a red ball. He liked it. " * 30, "choices": ["Tom was happy.", "very"], "answer": 0},
]
TEXTS = [{"text": "Once upon a time there was a cat."}, {"text": "Tom had a red ball. He liked it. " * 60}]
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
    return pytest.importorskip("lm_eval", reason="the harness is not installed: pip install 'lm-eval[api]'")


def task(tmp_path: Path, name: str, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    file = tmp_path / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"data_files": {"test": str(file)}, "cache_dir": str(tmp_path / "cache")}
    return {"task": name, "dataset_path": "json", "dataset_kwargs": data, "test_split": "test"} | more


def args_of(model: str, port: int) -> dict[str, Any]:
    """`--model_args` of the command on docs/clients.md, with this server's port."""
    page = (Path(__file__).resolve().parent.parent / "docs" / "clients.md").read_text(encoding="utf-8")
    [text] = re.findall(rf"^lm_eval --model {model} .*--model_args (\S+)$", page, re.MULTILINE)
    args: dict[str, Any] = dict(pair.split("=") for pair in text.replace(":8000/", f":{port}/").split(","))
    return args | ({"add_bos_token": True} if args.get("add_bos_token") == "True" else {})


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
    """Texts, and log-probabilities to the last bit, however many are asked for at once."""
    from miaotui.tools.lm_eval import MiaotuiLM

    made = task(
        tmp_path, "made", [{"q": q, "a": "."} for q in OPENINGS], output_type="generate_until", doc_to_text="{{q}}",
        doc_to_target="{{a}}", metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        generation_kwargs={"until": ["."], "max_gen_toks": 24, "do_sample": False, "temperature": 0},
    )  # fmt: skip
    mean = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    choices = task(
        tmp_path, "choices", CHOICES, output_type="multiple_choice", doc_to_text="{{question}}",
        doc_to_choice="choices", doc_to_target="answer", target_delimiter="", metric_list=mean,
    )  # fmt: skip
    rolling = task(
        tmp_path, "rolling", TEXTS, output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}",
        metric_list=[{"metric": "bits_per_byte"}],
    )  # fmt: skip
    told = {"bootstrap_iters": 0, "log_samples": True}
    served = args_of("local-completions", port) | {
        "tokenizer": str(demo.path()), "num_concurrent": concurrent, "max_length": LENGTH, "max_retries": 1,
    }  # fmt: skip
    without = {name: value for name, value in served.items() if name != "add_bos_token"}
    with mt.load(demo.path(), max_context=LENGTH - 2) as model:
        lm = MiaotuiLM(model)  # before the harness's own models are asked for: it must not hide them
        for tasks, args in (([made, choices], served), ([rolling], without)):
            alone = harness.simple_evaluate(lm, tasks=tasks, **told)
            http = harness.simple_evaluate("local-completions", model_args=args, tasks=tasks, **told)
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
    served = args_of("local-chat-completions", port) | {"num_concurrent": 1, "max_retries": 1}
    with mt.load(demo.path("chat")) as model:
        alone = harness.simple_evaluate(MiaotuiLM(model), **told)
    http = harness.simple_evaluate("local-chat-completions", model_args=served, **told)
    assert answers_of(http) == answers_of(alone)
