"""Pipelines and `miaotui run` with adapters that are kept apart: each call may name one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from adapters_apart import write_adapter
from helpers import complaint
from miaotui.errors import InputError
from miaotui.tools import cli, demo

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ["The soup was cold.", "We loved every minute of it."]


def test_a_call_names_the_adapter(tmp_path: Path) -> None:
    base = demo.path("sentiment")
    paths = {name: write_adapter(tmp_path / name, base, "query", "value", seed=i) for i, name in enumerate("ab")}
    with miaotui.pipeline("text-classification", base, adapters=paths, top_k=None) as pipe:
        plain, of_a = pipe(TEXTS), pipe(TEXTS, adapter="a")
        assert of_a != plain
        assert pipe(TEXTS, adapter="b") not in (plain, of_a)
        assert pipe(TEXTS, adapter=None) == plain
        with miaotui.pipeline("text-classification", pipe.model, adapter="a", top_k=None) as other:
            assert other(TEXTS) == of_a
            assert other(iter(TEXTS), adapter=None) is not None
        for bad in ("c", 3):
            with pytest.raises(InputError, match=r"text-classification: adapter=.*it has 'a', 'b'"):
                pipe(TEXTS, adapter=bad)
        logits = pipe.model.logits(pipe.model.tokenizer.encode(TEXTS[0]), adapter="a")
        scores = np.exp(logits - logits.max())
        best = max(of_a[0], key=lambda one: float(one["score"]))
        assert abs(best["score"] - (scores / scores.sum()).max()) < 1e-5


def test_vectors_and_texts_take_one_too(tmp_path: Path) -> None:
    base = demo.path("encoder")
    path = write_adapter(tmp_path / "a", base, "query", "value")
    with miaotui.load(base, adapters={"a": path}) as model:
        features = miaotui.pipeline("feature-extraction", model, return_tensors=True)
        got: Any = features(TEXTS[0], adapter="a")
        assert np.array_equal(got[0], model.hidden(model.tokenizer.encode(TEXTS[0]), adapter="a"))
        near = miaotui.pipeline("sentence-similarity", model)
        item = {"source_sentence": TEXTS[0], "sentences": TEXTS}
        assert near(item, adapter="a") != near(item)
    base = demo.path("story")
    path = write_adapter(tmp_path / "c", base, "q_proj", "down_proj")
    with miaotui.load(base, adapters={"c": path}) as model:
        pipe = miaotui.pipeline("text-generation", model, max_new_tokens=6, do_sample=False)
        wanted = model.generate("The sea", max_new_tokens=6, adapter="c").ids
        [told] = pipe("The sea", adapter="c", return_tensors=True)
        assert told["generated_token_ids"][-len(wanted) :] == wanted


def test_run_takes_adapters_and_an_audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = demo.path("story")
    paths = {name: write_adapter(tmp_path / name, base, "q_proj", "v_proj", seed=i) for i, name in enumerate("ab")}
    (tmp_path / "in.txt").write_text("Once upon a time\nThe cat\n")
    (tmp_path / "rules.json").write_text(json.dumps({"rules": [{"name": "all", "regex": "[aeiou]", "action": "mask"}]}))
    given = [word for name, path in paths.items() for word in ("--adapters", f"{name}={path}")]

    def run(*words: str) -> tuple[int, str]:
        files = ["--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out.jsonl"), "--restart"]
        how = ["--set", "max_new_tokens=6", "--set", "do_sample=false"]
        code = cli.main(["run", "text-generation", "--model", str(base), *files, *how, *words])
        return code, complaint(capsys.readouterr().err)

    audit, rules = str(tmp_path / "audit.jsonl"), ["--filters", str(tmp_path / "rules.json")]
    results = []
    for more in ([], given, [*given, "--adapter-name", "b"]):
        assert run(*more, *rules, "--audit", audit, "--audit-text")[0] == 0
        results.append((tmp_path / "out.jsonl").read_text())
    assert len(set(results)) == len(results)
    records = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [record["adapter"] for record in records] == [None, None, "a", "a", "b", "b"]
    assert all(record["findings"] and record["unfiltered"] for record in records)
    for more, says in (
        (["--audit", audit], "--audit"),
        ([*rules, "--audit-text"], "--audit-text"),
        ([*rules, "--audit", str(tmp_path / "in.txt")], "--audit"),
        ([*given, "--adapter-name", "c"], "--adapter-name c: there is no such adapter; expected one of a, b"),
        ([*given, "--set", "adapter=a"], "--set adapter=a: it has an option of its own"),
    ):
        code, err = run(*more)
        assert code == 2
        assert says in err
