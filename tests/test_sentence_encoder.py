"""`SentenceEncoder` and `CrossEncoder` in the place of sentence-transformers': its numbers, its parameters."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import miaotui as mt
import numpy as np
import pytest
import soak
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from miaotui.errors import BackendError, ConfigError, InputError
from miaotui.runtime.tasks.precision import rounded
from miaotui.runtime.tasks.similarity import pairwise, similarity
from sentence_outputs import CALLS, ENCODERS, JUDGES, PAIRS, RANKED, TEXTS, as_array, write_encoder, write_judge

if TYPE_CHECKING:
    from collections.abc import Iterator

STORED = json.loads((Path(__file__).parent / "data" / "sentences.json").read_text(encoding="utf-8"))
NEAR = 1e-5


@pytest.fixture(scope="module", params=list(ENCODERS))
def named(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    """Each encoder, with its name."""
    with mt.SentenceEncoder(write_encoder(tmp_path_factory.mktemp("e") / request.param, request.param)) as encoder:
        yield request.param, encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with mt.SentenceEncoder(write_encoder(tmp_path_factory.mktemp("e") / "mean", "mean")) as encoder:
        yield encoder


def near(ours: Any, theirs: np.ndarray, where: object) -> None:
    assert ours.dtype == theirs.dtype, where
    assert ours.shape == theirs.shape, where
    if theirs.dtype == np.float32:
        assert np.abs(ours - theirs).max(initial=0) <= NEAR * max(1, np.abs(theirs).max(initial=0)), where
        return
    steps = np.abs(ours.astype(int) - theirs.astype(int))  # a number at a step's edge falls to either side
    assert np.mean(steps != 0) < 0.03, where
    if theirs.shape[1] == ours.shape[1] > 8:
        assert steps.max() <= 1, where


def test_vectors_are_those_of_sentence_transformers(named: tuple[str, Any]) -> None:
    name, encoder = named
    stored = STORED["encoders"][name]
    for (method, how), theirs in zip(CALLS, stored["results"], strict=True):
        ours = getattr(encoder, method)(TEXTS, **how)
        if isinstance(theirs, list):
            for x, y in zip(ours, theirs, strict=True):
                near(x, as_array(y), (name, method, how))
            continue
        near(ours, as_array(theirs), (name, method, how))
        if "precision" not in how:  # of one text, of a tuple, of a bar
            assert np.array_equal(getattr(encoder, method)(TEXTS[3], **how), ours[3])
            assert np.array_equal(getattr(encoder, method)(tuple(TEXTS), show_progress_bar=True, **how), ours)


def test_facts_are_those_of_sentence_transformers(named: tuple[str, Any]) -> None:
    name, encoder = named
    stored = STORED["encoders"][name]
    assert encoder.max_seq_length == stored["max_seq_length"]
    assert encoder.prompts == stored["prompts"]
    assert encoder.get_embedding_dimension() == encoder.get_sentence_embedding_dimension() == stored["dimension"]
    assert encoder.similarity_fn_name == stored["similarity_fn_name"]
    vectors = encoder.encode(TEXTS)
    near(encoder.similarity(vectors, vectors[:3]), as_array(stored["similarity"]), name)
    near(encoder.similarity_pairwise(vectors[:4], vectors[4:]), as_array(stored["pairwise"]), name)
    assert encoder.similarity(vectors[0], vectors[1]).shape == (1, 1)


def test_arguments_are_the_caller_s(named: tuple[str, Any], tmp_path: Path) -> None:
    name, encoder = named
    other = mt.SentenceEncoder(
        encoder.model, prompts={"q": "who "}, default_prompt_name="q", similarity_fn_name="dot", truncate_dim=8
    )
    assert np.array_equal(other.encode(TEXTS), encoder.encode(TEXTS, prompt="who ", truncate_dim=8))
    assert other.similarity_fn_name == "dot"
    assert other.get_embedding_dimension() == 8
    other.close()
    assert encoder.encode("the model of another is left open").shape == (STORED["encoders"][name]["dimension"],)
    before = encoder.max_seq_length
    encoder.max_seq_length = 6
    assert len(encoder.encode(TEXTS[0], output_value="token_embeddings")) == 6
    assert encoder.model.vectors.max_tokens == before
    encoder.max_seq_length = before
    with mt.SentenceEncoder(write_encoder(tmp_path / "x", name), threads=1) as loaded:
        assert np.array_equal(loaded.encode(TEXTS), encoder.encode(TEXTS))
        assert "SentenceEncoder" in repr(loaded)


def test_forms_of_input_and_output(encoder: Any) -> None:
    plain = encoder.encode(TEXTS)
    for form in (np.array(TEXTS), iter(TEXTS), (text for text in TEXTS)):
        assert np.array_equal(encoder.encode(form), plain)
    assert np.array_equal(encoder.encode(sentences=TEXTS, task="query", chunk_size=3, device="cpu"), plain)
    assert encoder.encode([]).shape == (0, 32)
    assert encoder.encode([], precision="int8").shape == (0, 32)
    assert encoder.encode([], show_progress_bar=True).shape == (0, 32)
    assert encoder.encode([], output_value="token_embeddings") == []


def test_tensors(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    plain = encoder.encode(TEXTS)
    tensor = encoder.encode(TEXTS, convert_to_tensor=True)
    assert torch.equal(tensor, torch.from_numpy(plain))
    several = encoder.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(several, list)
    assert all(torch.equal(x, y) for x, y in zip(several, tensor, strict=True))
    assert torch.equal(encoder.encode(TEXTS[0], convert_to_tensor=True), tensor[0])
    assert np.array_equal(encoder.similarity(tensor, several), encoder.similarity(plain, plain))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendError, match="pip install torch"):
        encoder.encode(TEXTS, convert_to_tensor=True)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"inputs": 3}, "inputs: 3 found"), ({"inputs": {"a": "b"}}, "inputs"), ({"inputs": [3]}, "texts: 3 found"),
    ({"inputs": None}, "inputs: None"), ({"inputs": "x", "prompt_name": "none"}, "prompt_name='none': expected one of"),
    ({"inputs": "x", "prompt": 3}, "prompt=3"), ({"inputs": "x", "batch_size": 0}, "batch_size=0"),
    ({"inputs": "x", "output_value": None}, "output_value=None: expected"), ({"inputs": "x", "pool": {}}, "pool="),
    ({"inputs": "x", "precision": "int4"}, "precision='int4': expected one of float32"),
    ({"inputs": "x", "precision": "int8"}, "one vector has no range"),
    ({"inputs": "x", "truncate_dim": 0}, "truncate_dim=0"),
    ({"inputs": "x", "device": "cuda:1"}, "device='cuda:1'.*computes on cpu"),
    ({"inputs": "x", "pooling": 1}, "pooling=1"),
]  # fmt: skip


@pytest.mark.parametrize(("how", "says"), WRONG, ids=[says for _, says in WRONG])
def test_what_is_refused_by_name(encoder: Any, how: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        encoder.encode(**how)


def test_what_cannot_be_made(encoder: Any, tmp_path: Path) -> None:
    for how, says in (
        ({"prompts": {"a": 3}}, r"prompts=\{'a': 3\}: expected texts"), ({"prompts": 3}, "prompts=3"),
        ({"default_prompt_name": "x"}, "default_prompt_name='x'"),
        ({"similarity_fn_name": "x"}, "similarity_fn_name='x'"), ({"truncate_dim": -1}, "truncate_dim=-1"),
        ({"threads": 1}, "threads: the model is loaded"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says):
            mt.SentenceEncoder(encoder.model, **how)
    for value in (0, True, 65, "x"):
        with pytest.raises(InputError, match="max_seq_length"):
            encoder.max_seq_length = value
    folder = write_encoder(tmp_path / "bad", "mean")
    (folder / "config_sentence_transformers.json").write_text('{"truncate_dim": "x"}')
    with pytest.raises(ConfigError, match="truncate_dim is 'x'"):
        mt.SentenceEncoder(folder)
    with pytest.raises(InputError, match="is a decoder"):
        mt.SentenceEncoder(Path(mt.__file__).parent / "tools" / "demo" / "model")


# ---------------------------------------------------------------- pairs


@pytest.mark.parametrize("name", JUDGES)
def test_scores_are_those_of_sentence_transformers(name: str, tmp_path: Path) -> None:
    stored = STORED["judges"][name]
    with mt.CrossEncoder(write_judge(tmp_path / "judge", name)) as judge:
        assert judge.max_seq_length == stored["max_seq_length"]
        assert judge.num_labels == len(JUDGES[name][0])
        near(judge.predict(PAIRS), as_array(stored["scores"]), name)
        near(judge.predict(PAIRS, apply_softmax=True), as_array(stored["softmax"]), name)
        near(np.asarray(judge.predict(PAIRS[0])), as_array(stored["alone"]), name)
        assert np.array_equal(judge.predict(sentences=iter(PAIRS)), judge.predict(PAIRS))
        if stored["ranked"] is None:
            with pytest.raises(InputError, match="has 3 labels"):
                judge.rank("x", ["y"])
            return
        ours = judge.rank("who flew?", RANKED, return_documents=True)
        assert [(x["corpus_id"], x["text"]) for x in ours] == [(x["corpus_id"], x["text"]) for x in stored["ranked"]]
        assert all(abs(x["score"] - y["score"]) < NEAR for x, y in zip(ours, stored["ranked"], strict=True))
        assert judge.rank("who flew?", RANKED, top_k=2) == [
            {"corpus_id": x["corpus_id"], "score": x["score"]} for x in ours[:2]
        ]
        assert judge.rank("q", []) == []
        for how, says in (({"top_k": 0}, "top_k=0"), ({"prompt": "x"}, "prompt='x'"), ({"pool": {}}, "pool")):
            with pytest.raises(InputError, match=says):
                judge.rank("q", RANKED, **how)


def test_functions_of_logits(tmp_path: Path) -> None:
    folder = write_judge(tmp_path / "judge", "one")
    with mt.load(folder) as model:
        judge = mt.CrossEncoder(model, max_length=64)
        logits = judge.predict(PAIRS[:2], activation_fn="identity")
        assert np.abs(judge.predict(PAIRS[:2]) - 1 / (1 + np.exp(-logits.astype(float)))).max() < 1e-6
        assert np.array_equal(judge.predict(PAIRS[:2]), model.predict(PAIRS[:2]))
        torch = pytest.importorskip("torch")
        assert np.array_equal(judge.predict(PAIRS[:2], activation_fn=torch.nn.Identity()), logits)
        assert torch.equal(judge.predict(PAIRS[:2], convert_to_tensor=True), torch.from_numpy(judge.predict(PAIRS[:2])))
        with pytest.raises(InputError, match=r"activation_fn=.*expected one of identity"):
            judge.predict(PAIRS, activation_fn=lambda x: x)
        with pytest.raises(InputError, match="max_length=65"):
            mt.CrossEncoder(model, max_length=65)
        with pytest.raises(InputError, match="64"):  # Model.predict does not cut
            model.predict(PAIRS)


# ---------------------------------------------------------------- arrays

floats = st.floats(-100, 100, width=32)
rows = st.integers(1, 6).flatmap(lambda d: st.tuples(*[arrays(np.float32, (n, d), elements=floats) for n in (3, 4)]))


@settings(deadline=None)
@given(rows)
def test_similarities_are_what_they_are_called(both: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = both[0].astype(float), both[1].astype(float)
    size = max(1.0, float(np.abs(a).max()) * float(np.abs(b).max())) * a.shape[1]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            assert abs(similarity(a, b, "dot")[i, j] - sum(x * y)) <= 1e-6 * size
            assert abs(similarity(a, b, "manhattan")[i, j] + sum(abs(x - y))) <= 1e-6 * size * 4
            assert abs(similarity(a, b, "euclidean")[i, j] + sum((x - y) ** 2) ** 0.5) <= 1e-6 * size * 4
    assert np.abs(similarity(a, b, "cosine")).max() <= 1 + 1e-6
    for kind in ("cosine", "dot", "euclidean", "manhattan"):
        assert np.allclose(pairwise(a, b[:3], kind), np.diag(similarity(a, b[:3], kind)), rtol=1e-6, atol=1e-6)  # type: ignore[arg-type]


def test_vectors_that_cannot_be_compared() -> None:
    for a, b in (([[1, 2]], [[1, 2, 3]]), (3, [1]), ("x", [1]), ([[[1]]], [1])):
        with pytest.raises(InputError, match="embeddings"):
            similarity(a, b, "cosine")
    with pytest.raises(InputError, match="do not go together"):
        pairwise([[1.0], [2.0]], [[1.0]], "dot")


@settings(deadline=None)
@given(arrays(np.float32, (5, 11), elements=floats))
def test_fewer_bits(vectors: np.ndarray) -> None:
    unsigned, signed = rounded(vectors, "uint8"), rounded(vectors, "int8")
    assert np.array_equal(unsigned.astype(int) - 128, signed)
    low, high = vectors.min(0), vectors.max(0)
    back = low + (unsigned.astype(np.float64) + 0.5) * (high - low) / 255
    assert np.all(np.abs(back - vectors) <= (high - low) / 255 * 1.01 + 1e-5)
    bits = rounded(vectors, "ubinary")
    assert np.array_equal(np.unpackbits(bits, axis=1)[:, :11], vectors > 0)
    assert np.array_equal(bits.astype(int) - 128, rounded(vectors, "binary"))


# ---------------------------------------------------------------- the classes themselves


@pytest.mark.soak("sentence-transformers")
def test_signatures_are_those_of_sentence_transformers() -> None:
    theirs: Any = pytest.importorskip("sentence_transformers")
    for ours, of in ((mt.SentenceEncoder, theirs.SentenceTransformer), (mt.CrossEncoder, theirs.CrossEncoder)):
        for method in ("encode", "predict"):
            if not hasattr(ours, method):
                continue
            mine, its = (
                list(inspect.signature(inspect.unwrap(getattr(x, method))).parameters.values()) for x in (ours, of)
            )
            assert [p.name for p in mine[:-1]] == [p.name for p in its[:-1]]
            assert [p.default for p in mine[2:-1]] == [p.default for p in its[2:-1]]


@pytest.mark.soak("sentence-transformers")
def test_stored_results_are_what_it_gives(tmp_path: Path) -> None:
    """Made again, by the installed release."""
    pytest.importorskip("sentence_transformers")
    script = Path(__file__).parent / "sentence_outputs.py"
    done = subprocess.run([sys.executable, script, tmp_path / "x.json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "x.json").read_text())
    for name, each in STORED["encoders"].items():
        for (method, how), x, y in zip(CALLS, each["results"], again["encoders"][name]["results"], strict=True):
            if not isinstance(x, list):
                near(as_array(x), as_array(y), (name, method, how))
    soak.count("results", len(CALLS) * len(STORED["encoders"]))


# ---------------------------------------------------------------- docs/embeddings.md


def block(title: str) -> dict[str, Any]:
    """The names that the Python under a title of the page makes."""
    page = (Path(mt.__file__).parent / "docs" / "embeddings.md").read_text(encoding="utf-8")
    made: dict[str, Any] = {}
    exec(re.search(rf"### {title}\n.*?```python\n(.*?)```", page, re.DOTALL)[1], made)  # type: ignore[index]  # noqa: S102 - our own page
    return made


@pytest.mark.soak("mteb")
@pytest.mark.filterwarnings("ignore")  # mteb's own
def test_the_page_s_adapter_has_the_scores_of_sentence_transformers(tmp_path: Path) -> None:
    mteb: Any = pytest.importorskip("mteb")
    mocks: Any = pytest.importorskip("mteb.mocks")
    theirs: Any = pytest.importorskip("sentence_transformers")
    kinds = "STS Retrieval Classification Clustering PairClassification Reranking BitextMining Summarization".split()  # noqa: SIM905 - shorter
    folder = write_encoder(tmp_path / "encoder", "mean")
    with mt.SentenceEncoder(folder) as encoder:
        tasks = [getattr(mocks, f"Mock{kind}Task")() for kind in kinds if hasattr(mocks, f"Mock{kind}Task")]
        assert len(tasks) >= 6
        for task in tasks:
            ours, wanted = (
                mteb.evaluate(model, [task], cache=None).task_results[0]
                for model in (
                    block("MTEB")["ForMteb"](encoder, "x/y"),
                    theirs.SentenceTransformer(str(folder), device="cpu"),
                )
            )
            assert abs(ours.get_score() - wanted.get_score()) < 1e-4, task
            soak.count("tasks")


@pytest.mark.soak("mteb")
def test_the_page_s_other_adapters(encoder: Any) -> None:
    pytest.importorskip("langchain_core")
    chain = block("LangChain")["ForLangChain"](encoder)
    assert chain.embed_documents(TEXTS) == encoder.encode(TEXTS).tolist()
    assert chain.embed_query(TEXTS[0]) == encoder.encode(TEXTS[0]).tolist()
    pytest.importorskip("llama_index.core")
    index = block("LlamaIndex")["ForLlamaIndex"](encoder)
    assert index.get_text_embedding(TEXTS[0]) == encoder.encode(TEXTS[0]).tolist()
    assert index.get_text_embedding_batch(TEXTS) == encoder.encode(TEXTS).tolist()
    assert index.get_query_embedding(TEXTS[0]) == encoder.encode(TEXTS[0]).tolist()
