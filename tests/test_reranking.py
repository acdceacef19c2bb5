"""Documents by their scores: as `predict`, as vectors, as likelihoods; ids in place of texts for vectors."""

from __future__ import annotations

import json
import math
import shutil
from typing import TYPE_CHECKING

import miaotui
import numpy as np
import pytest
from miaotui.errors import InputError
from miaotui.tools import demo
from miaotui.tools.reranking import ranked, ranker_of
from task_models import write_model

if TYPE_CHECKING:
    from pathlib import Path

QUERY, DOCUMENTS = (
    "Who flew to Berlin?",
    ["Ana flew to Berlin.", "Bread is made of flour.", "Ru makes tea in Paris. " * 30],
)


def test_a_cross_encoder_scores_pairs_and_cuts_the_longer_text(tmp_path: Path) -> None:
    write_model(tmp_path, "bert", "classes", labels=("LABEL_0",))
    with miaotui.load(tmp_path) as model, miaotui.CrossEncoder(model) as judge:
        scores, n = ranker_of(model).scores(QUERY, DOCUMENTS)
        assert scores == [float(x) for x in judge.predict([(QUERY, document) for document in DOCUMENTS])]
        assert (
            n
            == sum(len(model.tokenizer.framed(QUERY, pair=document)[0]) for document in DOCUMENTS[:2]) + model.n_context
        )
        wanted = [each["corpus_id"] for each in judge.rank(QUERY, DOCUMENTS)]
        assert ranked(scores) == wanted


def test_vectors_are_compared_with_the_prompts_that_the_directory_has(tmp_path: Path) -> None:
    directory = tmp_path / "encoder"
    shutil.copytree(demo.path("encoder"), directory)
    said = {"prompts": {"query": "ask: ", "passage": "tell: "}}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(said))
    pooling = json.loads((directory / "1_Pooling" / "config.json").read_text()) | {"include_prompt": False}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    with miaotui.load(directory) as model:
        scores, _ = ranker_of(model).scores(QUERY, DOCUMENTS)
        a, b = model.encode(QUERY, prompt_name="query"), model.encode(DOCUMENTS, prompt_name="passage")
        assert scores == pytest.approx((b @ a) / np.linalg.norm(a) / np.linalg.norm(b, axis=1))
        assert ranked(scores, 1) == [0]


def test_ids_have_the_vectors_of_their_text() -> None:
    with miaotui.load(demo.path("encoder")) as model:
        ids = [model.vectors.framed(text) for text in DOCUMENTS]
        wanted = np.asarray(model.encode(DOCUMENTS))
        assert np.array_equal(model.vectors.of_ids(ids), wanted)
        assert len(model.vectors.framed(DOCUMENTS[2], cut=False)) > len(ids[2]) == model.vectors.max_tokens
        cut = model.vectors.of_ids(ids[:1], truncate_dim=5, normalize=True)
        assert cut[0] == pytest.approx(wanted[0, :5] / np.linalg.norm(wanted[0, :5]))
        with pytest.raises(InputError, match="takes 1 to 64"):
            model.vectors.of_ids([[5] * (model.n_context + 1)])


def test_a_model_that_writes_ranks_by_how_likely_the_query_is() -> None:
    with miaotui.load(demo.path()) as model:
        scores, n = ranker_of(model).scores("Tom had a red ball.", ["Tom had a red ball.", "The sky is blue today."])
        told = [
            model.tokenizer.encode(f"Passage: {text}\nPlease write a question based on this passage.\nAnswer:")
            for text in ("Tom had a red ball.", "The sky is blue today.")
        ]
        query = model.tokenizer.encode(" Tom had a red ball.", add_special_tokens=False)
        assert scores == pytest.approx([math.exp(model.score(ids, [query])[0].mean) for ids in told])
        assert n == sum(map(len, told)) + 2 * len(query)


def test_what_cannot_rank_is_refused() -> None:
    with pytest.raises(InputError, match="none of which is a score"), miaotui.load(demo.path("sentiment")) as model:
        ranker_of(model)
    with pytest.raises(InputError), miaotui.load(demo.path("dates")) as model:
        ranker_of(model)
    with pytest.raises(InputError, match="no order"):
        ranked([1.0, math.nan])
    assert ranked([1.0, 2.0, 1.0, 2.0]) == [1, 3, 0, 2]
