"""The benchmark of `miaotui run`: its model, its texts, its comparison; and itself where the peer is installed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import miaotui
import numpy as np
import pytest
from miaotui.errors import InputError
from miaotui.tools.bench.lines import LABELS, agreement, main, ours, sentences, with_head
from task_models import write_model

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """\
= Heading =

Ana Ruiz flew to Berlin . It was a very good film ! Yes .

= = Other = =
Who was it that flew to Paris ?
"""


def test_sentences_of_a_text() -> None:
    assert sentences(TEXT, 3) == [
        "Ana Ruiz flew to Berlin .", "It was a very good film !", "Who was it that flew to Paris ?",
    ]  # fmt: skip
    with pytest.raises(InputError, match="3 sentences, expected 4"):
        sentences(TEXT, 4)


@pytest.mark.ci  # 8 s
def test_an_encoder_gets_a_head_and_our_side_labels_by_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = with_head(write_model(tmp_path / "encoder", "bert"), tmp_path / "model")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(model).eval()
    with miaotui.load(model) as loaded:
        ids = loaded.tokenizer.encode("Ana flew to Berlin.")
        with torch.no_grad():
            wanted = theirs(torch.tensor([ids])).logits[0].numpy()
        assert np.abs(loaded.logits(ids) - wanted).max() < 1e-5
        assert loaded.config.labels == LABELS
    (tmp_path / "texts.txt").write_text("\n".join(sentences(TEXT, 3)) + "\n")
    seconds = ours(model, tmp_path / "texts.txt", tmp_path / "out.jsonl", 1)
    assert 0 < seconds < 60
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    rows[1]["output"]["score"] += 0.25
    rows[2]["output"]["label"] = "other"
    (tmp_path / "peer.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    agreed = agreement(tmp_path / "out.jsonl", tmp_path / "peer.jsonl")
    assert agreed == {"texts": 3, "same_label": 2, "max_abs_difference": pytest.approx(0.25)}


@pytest.mark.soak("lines")
def test_the_comparison_itself(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    write_model(tmp_path / "encoder", "bert")
    (tmp_path / "text").write_text(TEXT * 10)
    words = ["--model", str(tmp_path / "encoder"), "--text", str(tmp_path / "text"), "--n", "20", "--rounds", "1"]
    assert main([*words, "--out", str(tmp_path / "out.json")]) == 0
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["agreement"]["same_label"] == 20
    assert record["agreement"]["max_abs_difference"] < 1e-4
