"""`miaotui.tools.lm_eval` in EleutherAI's harness itself, on tasks made of local files.

`./dev soak lm-eval --minutes 0`. The harness takes 500 MB: pip install 'miaotui[lm-eval]'.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from typing import TYPE_CHECKING, Any

import miaotui as mt
import numpy as np
import pytest
from miaotui.errors import BackendError, InputError
from miaotui.tools import demo
from miaotui.tools.demo.recipes.chat import TEMPLATE
from miaotui.tools.perplexity import losses
from task_models import write_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROWS = [
    {"question": "Once upon a time there was a little", "choices": [" the of and", " girl named Lily."], "answer": 1},
    {"question": "Tom had a red", "choices": [" ball.", " because.", " very."], "answer": 0},
    {"question": "The cat was very", "choices": [" ball ball.", " happy."], "answer": 1},
]


def test_without_the_harness_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    monkeypatch.delitem(sys.modules, "miaotui.tools.lm_eval", raising=False)
    with pytest.raises(BackendError, match=r"needs lm-eval: pip install 'miaotui\[lm-eval\]'"):
        import miaotui.tools.lm_eval  # noqa: F401


@pytest.fixture
def stories() -> Iterator[mt.Model]:
    with mt.load(demo.path()) as model:
        yield model


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return pytest.importorskip("lm_eval", reason="the harness is not installed: pip install 'miaotui[lm-eval]'")


def task(tmp_path: Path, name: str, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    file = tmp_path / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"data_files": {"test": str(file)}, "cache_dir": str(tmp_path / "cache")}
    return {"task": name, "dataset_path": "json", "dataset_kwargs": data, "test_split": "test"} | more


@pytest.mark.soak("lm-eval")
@pytest.mark.filterwarnings("default")
def test_two_tasks_of_local_files(stories: mt.Model, harness: Any, tmp_path: Path) -> None:
    """Choices by log p, and perplexity of texts: the harness's numbers are those that our logits give."""
    from miaotui.tools.lm_eval import MiaotuiLM

    mean = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    choices = task(
        tmp_path, "choices", ROWS, output_type="multiple_choice", doc_to_text="{{question}}", doc_to_choice="choices",
        doc_to_target="answer", target_delimiter="", metric_list=mean,
    )  # fmt: skip
    texts = [{"text": "Once upon a time there was a cat."}, {"text": "Tom had a red ball. He liked it. " * 12}]
    rolling = task(
        tmp_path, "rolling", texts, output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}",
        metric_list=[{"metric": "bits_per_byte"}],
    )  # fmt: skip
    with mt.load(demo.path(), max_context=64) as short:
        got = harness.simple_evaluate(MiaotuiLM(short), tasks=[choices, rolling], bootstrap_iters=0)["results"]
    right = 0
    for row in ROWS:
        logs = []
        for choice in row["choices"]:
            n = len(stories.tokenizer.encode(row["question"]))
            logs.append(-losses(stories, stories.tokenizer.encode(row["question"] + choice))[n - 1 :].sum())
        right += int(np.argmax(logs)) == row["answer"]
    assert got["choices"]["acc,none"] == right / 3 == 1
    nats = 0.0
    for text in texts:
        ids = [stories.config.bos_ids[0], *stories.tokenizer.encode(text["text"], add_special_tokens=False)]
        nats += losses(stories, ids[:65]).sum()
        for begin in range(65, len(ids), 64):
            end = min(begin + 64, len(ids))
            nats += losses(stories, ids[end - 65 : end])[begin - end :].sum()
    size = sum(len(text["text"].encode()) for text in texts)
    assert got["rolling"]["bits_per_byte,none"] == pytest.approx(nats / math.log(2) / size, rel=1e-6)


@pytest.mark.soak("lm-eval")
@pytest.mark.filterwarnings("default")
def test_generation_in_the_harness(stories: mt.Model, harness: Any, tmp_path: Path) -> None:
    """Our own answers as targets match exactly; another target does not."""
    from miaotui.tools.lm_eval import MiaotuiLM

    prompts = ["Once upon a time", "Tom had a red ball."]
    answers = [stories.generate(p, max_new_tokens=24, stop_strings=["."]).text for p in prompts]
    rows = [{"q": p, "a": a} for p, a in zip(prompts, answers, strict=True)] + [{"q": prompts[0], "a": "else"}]
    made = task(
        tmp_path, "made", rows, output_type="generate_until", doc_to_text="{{q}}", doc_to_target="{{a}}",
        generation_kwargs={"until": ["."], "max_gen_toks": 24, "do_sample": False, "temperature": 0},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )  # fmt: skip
    got = harness.simple_evaluate(MiaotuiLM(stories), tasks=[made], bootstrap_iters=0)["results"]
    assert got["made"]["exact_match,none"] == pytest.approx(2 / 3)


@pytest.mark.soak("lm-eval")
@pytest.mark.filterwarnings("default")
def test_the_adapter_s_own_rules(stories: mt.Model, harness: Any, tmp_path: Path) -> None:
    from lm_eval.api.registry import get_model
    from miaotui.tools.lm_eval import MiaotuiLM

    assert harness is not None
    assert get_model("miaotui") is MiaotuiLM
    lm = MiaotuiLM(stories)
    assert lm.tok_encode("Tom") == stories.tokenizer.encode("Tom")
    assert lm.tok_encode("Tom", add_special_tokens=False) == stories.tokenizer.encode("Tom", add_special_tokens=False)
    ids = stories.tokenizer.encode("Tom had a ball. " * 40)
    [cut] = lm._loglikelihood_tokens([(("", ""), ids * 20, [5, 6])])
    room = stories.n_context + 1 - 2
    assert cut == lm._loglikelihood_tokens([(("", ""), (ids * 20)[-room:], [5, 6])])[0]
    with pytest.raises(InputError, match="a continuation of 9999 tokens does not fit the context"):
        lm._loglikelihood_tokens([(("", ""), ids, [5] * 9999)])
    with pytest.raises(InputError, match="threads: an option of load, and this model is loaded"):
        MiaotuiLM(stories, threads=1)
    by_path = MiaotuiLM.create_from_arg_string(f"pretrained={demo.path()},threads=1", {"batch_size": 1, "device": None})
    with by_path.model:
        assert by_path.model.threads == 1
    encoder = write_model(tmp_path / "encoder", "bert", "masked_lm")
    with mt.load(encoder) as model, pytest.raises(InputError, match="lm-evaluation-harness: bert is an encoder"):
        MiaotuiLM(model)


@pytest.mark.soak("lm-eval")
@pytest.mark.filterwarnings("default")
def test_conversations_in_the_harness(stories: mt.Model, harness: Any, tmp_path: Path) -> None:
    """With `apply_chat_template` a task's text is a message: answers are those of `chat`, and `<s>` is not doubled."""
    from miaotui.tools.lm_eval import MiaotuiLM

    folder = tmp_path / "talks"
    shutil.copytree(demo.path(), folder)
    said = json.loads((folder / "tokenizer_config.json").read_text()) | {"chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    asked = ["Once upon a time", "What does Lily have?"]
    with mt.load(folder) as model:
        answers = [model.chat([{"role": "user", "content": q}], max_new_tokens=24).text for q in asked]
        rows = [{"q": q, "a": a.strip().split("\n")[0]} for q, a in zip(asked, answers, strict=True)]
        made = task(
            tmp_path, "talks", rows, output_type="generate_until", doc_to_text="{{q}}", doc_to_target="{{a}}",
            generation_kwargs={"until": ["</s>"], "max_gen_toks": 24}, filter_list=[{"name": "strip", "filter": [
                {"function": "regex", "regex_pattern": r"^\s*(.*)$"}, {"function": "take_first"},
            ]}],
            metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        )  # fmt: skip
        lm = MiaotuiLM(model)
        got = harness.simple_evaluate(lm, tasks=[made], bootstrap_iters=0, apply_chat_template=True)
        assert got["results"]["talks"]["exact_match,strip"] == 1
        assert lm.chat_template(chat_template=True) == model.tokenizer.chat_template
        history = [{"role": "user", "content": asked[0]}]
        assert lm.tok_encode(lm.apply_chat_template(history)) == model.tokenizer.chat_ids(history)
        history.append({"role": "assistant", "content": "Lily has"})
        assert lm.apply_chat_template(history, add_generation_prompt=False).endswith("Assistant: Lily has")
        assert lm.chat_template(chat_template=False) is None
        with pytest.raises(InputError, match="chat_template='rag': expected one of default"):
            lm.chat_template("rag")
        with pytest.raises(InputError, match="knows the roles user and assistant, not system"):
            lm.apply_chat_template([{"role": "system", "content": "Be kind."}, *history])
    with pytest.raises(InputError, match="has no chat template"):
        MiaotuiLM(stories).apply_chat_template(history)
