"""Encoders and encoder-decoders against peers: the tool does what it says; nothing asserts how fast anything is."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers
from miaotui.errors import InputError
from miaotui.tools.bench import compare, encoders, run_all, shapes
from miaotui.tools.bench.encoder_shapes import ENCODERS, SEQ2SEQ, WIKITEXT_LENGTHS
from miaotui.tools.bench.peers import ENCODER_PEERS, SEQ2SEQ_PEERS
from miaotui.tools.bench.peers import worker as peer_worker
from miaotui.tools.bench.peers.encoder_ort import padded
from tolerance import bound

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "PAUSE", 0.0)


def test_texts_survive_the_way_to_a_worker() -> None:
    texts = [[5, 6, 7], [8], [9, 10]]
    assert peer_worker.texts_of(encoders._words(texts)) == texts
    ids, mask = padded(texts)
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0], [9, 10, 0]]
    assert mask.sum(1).tolist() == [3, 1, 2]


def test_an_encoder_of_random_weights_has_the_rows_of_transformers(tmp_path: Path) -> None:
    path = shapes.make_checkpoint(tmp_path / "tiny-bert", "tiny-bert")
    texts = [[5, 6, 7, 8], [9], [10, 11]]
    ours = encoders.OurEncoder(path, 1)
    assert peer_worker.answer(ours, f"encode {' '.join(map(str, encoders._words(texts)))}")["seconds"][0] > 0
    rows = np.frombuffer(base64.b64decode(peer_worker.answer(ours, "hidden")["logits"]), np.float32).reshape(7, -1)
    model, told = transformers.BertModel.from_pretrained(path, output_loading_info=True)
    assert not any(told.values())
    with torch.no_grad():
        theirs = np.concatenate([model.eval()(torch.tensor([t])).last_hidden_state[0].numpy() for t in texts])
    assert np.abs(rows - theirs).max() < bound("model", "f32", 2, float(np.abs(theirs).max()))


@pytest.mark.parametrize("shape", ["tiny-t5", pytest.param("tiny-bart", marks=pytest.mark.ci)])  # 5 s
def test_an_answer_of_random_weights_is_that_of_transformers(tmp_path: Path, shape: str) -> None:
    path = shapes.make_checkpoint(tmp_path / shape, shape)
    source = list(range(5, 25))
    said = peer_worker.answer(encoders.OurAnswerer(path, 1), f"answer 8 {' '.join(map(str, source))}")
    model, told = transformers.AutoModelForSeq2SeqLM.from_pretrained(path, output_loading_info=True)
    assert not any(told.values())
    ids = [model.config.decoder_start_token_id]
    with torch.no_grad():
        for _ in range(8):
            logits = model.eval()(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([ids])).logits
            ids.append(int(logits[0, -1].argmax()))
    assert said["ids"] == ids[1:]


@pytest.mark.parametrize("shape", ["tiny-bert", "tiny-t5"])
def test_a_peer_that_is_not_there_is_left_out_and_the_file_says_why(tmp_path: Path, shape: str) -> None:
    out = tmp_path / "deep" / "out.json"
    words = ["--shape", shape, "--quick", "--rounds", "1", "--threads", "1", "--peer-python", str(tmp_path / "none")]
    assert encoders.main([*words, "--work", str(tmp_path / "work"), "--out", str(out)]) == 0
    record: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    assert {s["peer"] for s in record["skipped"]} == set(SEQ2SEQ_PEERS if shape in SEQ2SEQ else ENCODER_PEERS)
    assert all("--peer-python" in s["reason"] for s in record["skipped"])
    assert [r["what"] for r in record["results"]] == [p.name for p in encoders.points(shape, quick=True)]
    assert all(r["ours_ms"] > 0 and r["peers"] == {} for r in record["results"])
    assert str(tmp_path) not in record["command"]


class Counted:
    """A side that says how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def ask(self, command: str, ids: object = ()) -> dict[str, Any]:
        assert (command, bool(ids)) == ("encode", True)
        self.asked += 1
        return {"seconds": [float(self.asked)]}


def test_the_peers_pad_in_batches_and_ours_packs() -> None:
    sentences = next(p for p in encoders.points("minilm-l6") if p.name == "sentences")
    ours, theirs = Counted(), Counted()
    seconds = encoders.by_turns([ours, theirs], sentences, 3)  # type: ignore[list-item]  # what it needs of a worker
    assert (ours.asked, theirs.asked) == (3 * 2, 3 * 2 * 2)
    assert [len(s) for s in seconds] == [3, 3]
    assert sentences.facts["tokens"] == sum(WIKITEXT_LENGTHS[: encoders.N_TEXTS])


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        encoders.main(["--rounds", "0"])
    with pytest.raises(InputError, match="bert-base"):
        shapes.make_checkpoint("nowhere", "bert-huge")


def test_every_file_of_encoders_is_made_by_run_all() -> None:
    names = {job.name for job in run_all.jobs() if job.module.endswith(".encoders")}
    assert {"encoders-minilm-l6-f32", "encoders-bert-base-int8", "encoders-t5-small-f32"} <= names
    assert {n.rsplit("-", 1)[0].removeprefix("encoders-") for n in names} <= set(ENCODERS | SEQ2SEQ)
