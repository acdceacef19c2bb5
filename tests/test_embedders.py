"""Vectors by decoders (Qwen3-Embedding), Dense steps, scores of pairs (CrossEncoder, Qwen3-Reranker), and refusals."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError, MiaotuiError
from miaotui.runtime.encoding import Whole, fed
from miaotui.runtime.spec import Dense
from miaotui.runtime.tasks.dense import activated, dense
from miaotui.tools import demo
from miaotui.tools.prune import prune
from safetensors.numpy import save_file
from test_encoders import SETTINGS, made, sentence_files, word_pieces
from tolerance import bound

if TYPE_CHECKING:
    from collections.abc import Mapping

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

END = 3
SIZES: dict[str, Any] = {
    "vocab_size": 304, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "intermediate_size": 40, "max_position_embeddings": 512,
}  # fmt: skip


def ending(directory: Path) -> None:
    """A tokenizer of words that puts [SEP] after a text and nothing before it, as Qwen3-Embedding's does."""
    word_pieces(directory)
    said = json.loads((directory / "tokenizer.json").read_text())
    said["post_processor"]["single"] = [part for part in said["post_processor"]["single"] if "[CLS]" not in str(part)]
    (directory / "tokenizer.json").write_text(json.dumps(said))


def steps(directory: Path, *kinds: str) -> None:
    """modules.json: a Transformer, a Pooling, and these in folders 2_KIND, 3_KIND, ..."""
    every = [("Transformer", ""), ("Pooling", "1_Pooling"), *((kind, f"{i}_{kind}") for i, kind in enumerate(kinds, 2))]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(every)
    ]
    (directory / "modules.json").write_text(json.dumps(modules))


@pytest.fixture(scope="module", params=["tied", "without a head"])
def embedder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 of two layers whose last token is a text's vector: with its head, or as Qwen3-Embedding-8B without."""
    directory = tmp_path_factory.mktemp("embedder")
    tied = request.param == "tied"
    config = transformers.Qwen3Config(**SIZES, tie_word_embeddings=tied)
    made(config, directory, kind="CausalLM" if tied else "")
    said = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(said | {"architectures": ["Qwen3ForCausalLM"]}))
    ending(directory)
    sentence_files(directory, word_embedding_dimension=32, pooling_mode_lasttoken=True)
    prompts = {"prompts": {"query": "w1 w2 ", "document": ""}, "default_prompt_name": None}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return directory


def words(*lengths: int) -> list[str]:
    return [" ".join(f"w{(7 * n + i) % 300}" for i in range(n)) for n in lengths]


def test_the_last_token_of_a_decoder_is_the_vector(embedder: Path) -> None:
    """Equal to transformers', with the tokenizer's last token, prompts, in any batch the bits of the text alone."""
    model = transformers.AutoModel.from_pretrained(embedder, dtype=torch.float64).eval()
    texts = words(3, 1, 202, 40, 17, 90, 0)
    with miaotui.load(embedder, threads=2) as ours, miaotui.load(embedder, threads=1, prefill_chunk=7) as other:
        plain = ours.encode(texts, normalize=False)
        assert isinstance(plain, np.ndarray)
        for text, vector in zip(texts, plain, strict=True):
            ids = [4 + int(word[1:]) for word in text.split()] + [END]
            with torch.no_grad():
                wanted = model(torch.tensor([ids]))[0][0, -1].numpy()
            assert np.abs(vector - wanted).max() <= bound("model", "f32", 2, scale=float(np.abs(wanted).max()))
            assert np.array_equal(ours.encode(text, normalize=False), vector)
        assert np.array_equal(other.encode(texts, normalize=False), plain)
        assert np.array_equal(ours.encode(texts[::-1], normalize=False), plain[::-1])
        assert all(np.array_equal(a, b) for a, b in zip(ours.encode(iter(texts), normalize=False), plain, strict=True))
        assert np.abs(np.linalg.norm(np.asarray(ours.encode(texts)), axis=1) - 1).max() < 1e-6
        asked = ours.encode("w7", prompt_name="query")
        assert np.array_equal(asked, ours.encode("w1 w2 w7"))
        assert np.array_equal(ours.encode("w7", prompt_name="document"), ours.encode("w7"))


@settings(SETTINGS, max_examples=5)
@given(st.lists(st.integers(0, 120), min_size=1, max_size=40), st.sampled_from(["lasttoken", "mean_tokens"]))
def test_texts_of_a_decoder_together_have_the_bits_of_each_alone(
    embedder: Path, tmp_path_factory: pytest.TempPathFactory, lengths: list[int], mode: str
) -> None:
    directory = tmp_path_factory.mktemp("copy")
    shutil.copytree(embedder, directory, dirs_exist_ok=True)
    sentence_files(directory, word_embedding_dimension=32, **{f"pooling_mode_{mode}": True})
    texts = words(*lengths)
    with miaotui.load(directory, threads=2, cache_tokens=2048) as many, miaotui.load(directory, threads=1) as one:
        for text, vector in zip(texts, many.encode(texts), strict=True):
            assert np.array_equal(one.encode(text), vector)
            if mode == "mean_tokens":
                rows = one.hidden(one.tokenizer.framed(text)[0]).astype(np.float64)
                got = one.encode(text, normalize=False)
                assert np.abs(got - rows.mean(0)).max() < 1e-5


def test_a_vector_does_not_disturb_a_text_that_is_being_written(embedder: Path) -> None:
    with miaotui.load(embedder, max_context=64) as model:
        if not model.config.lm_head:
            for call in (
                lambda: model.logits([1]),
                lambda: model.generate([1]),
                lambda: model.last_logits([[1]]),
                model.sequence,
            ):
                with pytest.raises(InputError, match="has no head"):
                    call()
            assert model.hidden([1, 2]).shape == (2, 32)
            return
        alone = model.generate([5, 6], max_new_tokens=8, ignore_eos=True).ids
        sequence = model.sequence()
        ids = []
        for token in sequence.tokens([5, 6], max_new_tokens=8, ignore_eos=True):
            ids.append(token.id)
            model.encode("w9 w8")
        assert ids == alone


def test_a_decoder_without_modules_writes_no_vectors(embedder: Path, tmp_path: Path) -> None:
    shutil.copytree(embedder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "modules.json").unlink()
    if "lm_head.weight" not in str(json.loads((tmp_path / "config.json").read_text())):
        said = json.loads((tmp_path / "config.json").read_text())
        if not said["tie_word_embeddings"]:
            with pytest.raises(MiaotuiError, match=r"lm_head\.weight"):
                miaotui.load(tmp_path)
            return
    with miaotui.load(tmp_path) as model, pytest.raises(InputError, match=r"modules\.json"):
        model.encode("w1")


# ---------------------------------------------------------------- Qwen3-Reranker, as docs/embeddings.md has it


def test_a_reranker_is_two_of_the_logits_after_the_last_token(tmp_path: Path) -> None:
    model = made(transformers.Qwen3Config(**SIZES, tie_word_embeddings=True), tmp_path, kind="CausalLM")
    word_pieces(tmp_path)
    before, after, query = "w1 w2 ", " w3 w4", "w5 w6"
    texts = words(2, 30, 7)
    with miaotui.load(tmp_path) as ours:
        t = ours.tokenizer
        no, yes = t.token_to_id("w8"), t.token_to_id("w9")
        prompts = [t.encode(f"{before}{query} {text}{after}", add_special_tokens=False) for text in texts]
        two = ours.last_logits(prompts)[:, [no, yes]].astype(np.float64)
        scores = 1 / (1 + np.exp(two[:, 0] - two[:, 1]))
        for ids, got, score in zip(prompts, two, scores, strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1, [no, yes]]
            wanted = float(torch.softmax(logits, 0)[1])
            assert abs(score - wanted) < 1e-5
            assert np.array_equal(ours.last_logits([ids])[0, [no, yes]], got.astype(np.float32))
        assert len(set(scores)) == len(texts)


# ---------------------------------------------------------------- Dense


TORCH = {
    "identity": "torch.nn.modules.linear.Identity",
    "tanh": "torch.nn.modules.activation.Tanh",
    "sigmoid": "torch.nn.modules.activation.Sigmoid",
    "relu": "torch.nn.modules.activation.ReLU",
    "silu": "torch.nn.modules.activation.SiLU",
}
THEIRS = {
    "identity": torch.nn.Identity(),
    "tanh": torch.nn.Tanh(),
    "sigmoid": torch.nn.Sigmoid(),
    "relu": torch.nn.ReLU(),
    "silu": torch.nn.SiLU(),
}


@pytest.mark.parametrize("act", TORCH)
def test_activations_are_those_of_torch(act: Any) -> None:
    ends = [0.0, -0.0, 1e-30, -1e-9, 1e-4, 9.9e-5, 1e30, -1e30, np.inf, -np.inf, np.nan, 88.8, -104.0]
    x = np.array([*ends, *np.linspace(-20, 20, 4001)], np.float32)
    wanted = THEIRS[act](torch.tensor(x.astype(np.float64))).numpy()
    got = activated(x, act)
    assert got.dtype == np.float32
    kept = np.isfinite(wanted) & ((np.abs(x) < 1e30) | (act != "silu"))  # x times what is 0, or nearly
    assert np.all(np.abs(got[kept] - wanted[kept]) <= 2.0**-23 * np.abs(wanted[kept]) + 1e-37)
    assert np.isnan(got[10])
    if act != "silu":
        assert np.array_equal(np.isfinite(got), np.isfinite(wanted))


@given(st.integers(1, 70), st.integers(1, 70), st.booleans(), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_product_of_a_vector(n: int, k: int, biased: bool, seed: int) -> None:  # noqa: FBT001 - drawn
    rng = np.random.default_rng(seed)
    w, b, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((n, k), n, k))
    exact = w.astype(np.float64) @ x + (b if biased else 0)
    size = np.abs(w).astype(np.float64) @ np.abs(x) + np.abs(b)
    got = dense(x, Dense(w, b if biased else None, "identity"))
    assert np.all(np.abs(got - exact) <= bound("linear", "f32", k) * 2 * size)


def write_dense(folder: Path, w: np.ndarray, b: np.ndarray | None, act: str, **more: Any) -> None:
    folder.mkdir(exist_ok=True)
    said = {"in_features": w.shape[1], "out_features": w.shape[0], "bias": b is not None}
    (folder / "config.json").write_text(json.dumps(said | {"activation_function": TORCH[act]} | more))
    tensors = {"linear.weight": w} | ({} if b is None else {"linear.bias": b})
    save_file(tensors, folder / "model.safetensors")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 16 wide vectors, with sentence-transformers' files."""
    directory = tmp_path_factory.mktemp("plain")
    config = transformers.BertConfig(
        vocab_size=304, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20
    )
    made(config, directory)
    word_pieces(directory)
    sentence_files(directory)
    return directory


ORDERS = [("Dense",), ("Dense", "Normalize"), ("Normalize", "Dense"), ("Dense", "Dense", "Normalize"),
          ("Normalize", "Dense", "Normalize", "Dense")]  # fmt: skip


@pytest.mark.parametrize("kinds", ORDERS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_steps_run_in_their_order(plain: Path, tmp_path: Path, kinds: tuple[str, ...], dtype: str) -> None:
    shutil.copytree(plain, tmp_path, dirs_exist_ok=True)
    steps(tmp_path, *kinds)
    rng, width, layers = np.random.default_rng(0), 16, {}
    for i, kind in enumerate(kinds, 2):
        if kind == "Dense":
            b = rng.standard_normal(width + i).astype(dtype) if i % 2 else None
            layers[i] = rng.standard_normal((width + i, width)).astype(dtype), b, ["tanh", "identity"][len(layers) % 2]
            write_dense(tmp_path / f"{i}_Dense", *layers[i])
            width += i
    texts = words(3, 40, 1)
    with miaotui.load(plain) as model:
        vectors = model.encode(texts, normalize=False)
    with miaotui.load(tmp_path) as model:
        got = model.encode(texts)
        assert isinstance(got, np.ndarray)
        for x, y in zip(vectors, got, strict=True):
            wanted = x.astype(np.float64)
            for i, kind in enumerate(kinds, 2):
                if kind == "Dense":
                    w, b, act = layers[i]
                    z = w.astype(np.float64) @ wanted + (0 if b is None else b)
                    wanted = np.tanh(z) if act == "tanh" else z
                else:
                    wanted = wanted / np.linalg.norm(wanted)
            assert np.abs(y - wanted).max() <= 1e-5 * max(1, np.abs(wanted).max())
        assert np.array_equal(model.encode(texts[1]), got[1])
        assert np.array_equal(model.encode(texts, truncate_dim=3), got[:, :3])
        again = model.encode(texts, truncate_dim=3, normalize=True)
        assert np.abs(np.linalg.norm(np.asarray(again), axis=1) - 1).max() < 1e-6
        unscaled = model.encode(texts, normalize=False)
        assert np.array_equal(unscaled, got) == (kinds[-1] != "Normalize")
        with pytest.raises(InputError, match=f"1 to {width}"):
            model.encode(texts, truncate_dim=width + 1)
        with pytest.raises(InputError, match="normalize"):
            model.encode(texts, normalize=1)  # type: ignore[arg-type]
    prune(tmp_path, tmp_path / "cut", "ffn=0.5")
    with miaotui.load(tmp_path, prune="ffn=0.5") as model, miaotui.load(tmp_path / "cut") as cut:
        assert np.array_equal(model.encode(texts), cut.encode(texts))


BAD: dict[str, tuple[Mapping[str, Any], str]] = {
    "a width that the step before lacks": ({"in_features": 17}, "in_features is 17.*16"),
    "a width that the file lacks": ({"out_features": 5}, r"linear\.weight F32 \[4, 16\].*\[5, 16\]"),
    "no width": ({"out_features": "4"}, "out_features"),
    "a bias that is not there": ({"bias": True}, r"linear\.bias"),
    "a bias that is no flag": ({"bias": 1}, "bias is 1"),
    "a function that is not computed": ({"activation_function": "os.system"}, "os.system"),
    "tokens' vectors": ({"module_input_name": "token_embeddings"}, "token_embeddings"),
}


@pytest.mark.parametrize("name", BAD)
def test_dense_files_that_make_no_sense(plain: Path, tmp_path: Path, name: str) -> None:
    said, says = BAD[name]
    shutil.copytree(plain, tmp_path, dirs_exist_ok=True)
    steps(tmp_path, "Dense")
    write_dense(tmp_path / "2_Dense", np.ones((4, 16), np.float32), None, "tanh", **said)
    with miaotui.load(tmp_path) as model, pytest.raises(MiaotuiError, match=says):
        model.encode("w1")


def test_dense_that_lacks_its_weights_or_stands_before_pooling(plain: Path, tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path, dirs_exist_ok=True)
    steps(tmp_path, "Dense")
    write_dense(tmp_path / "2_Dense", np.ones((4, 16), np.float32), None, "tanh")
    (tmp_path / "2_Dense" / "model.safetensors").rename(tmp_path / "2_Dense" / "pytorch_model.bin")
    with miaotui.load(tmp_path) as model, pytest.raises(MiaotuiError, match=r"pytorch_model\.bin"):
        model.encode("w1")
    modules = json.loads((tmp_path / "modules.json").read_text())
    (tmp_path / "modules.json").write_text(json.dumps([modules[0], modules[2], modules[1]]))
    with miaotui.load(tmp_path) as model, pytest.raises(MiaotuiError, match="Dense before Pooling"):
        model.encode("w1")


# ---------------------------------------------------------------- scores of pairs


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT that gives a pair of texts one number."""
    directory = tmp_path_factory.mktemp("judge")
    config = transformers.BertConfig(
        vocab_size=304, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20, num_labels=1,
        max_position_embeddings=64,
    )  # fmt: skip
    made(config, directory, kind="SequenceClassification")
    word_pieces(directory)
    return directory


def their_logit(model: Any, a: str, b: str) -> float:
    first, second = ([4 + int(word[1:]) for word in text.split()] for text in (a, b))
    types = [0] * (len(first) + 2) + [1] * (len(second) + 1)
    with torch.no_grad():
        return float(model(torch.tensor([[2, *first, 3, *second, 3]]), token_type_ids=torch.tensor([types])).logits)


@pytest.mark.parametrize(
    ("said", "act"),
    [
        ({}, "sigmoid"),
        ({"sentence_transformers": {"activation_fn": TORCH["identity"], "version": "5.0.0"}}, "identity"),
        ({"sbert_ce_default_activation_function": TORCH["identity"]}, "identity"),
        ({"sbert_ce_default_activation_function": None, "sentence_transformers": {"version": "4.1.0"}}, "sigmoid"),
        (
            {
                "sentence_transformers": {"activation_fn": TORCH["tanh"]},
                "sbert_ce_default_activation_function": TORCH["identity"],
            },
            "tanh",
        ),
    ],
)
def test_a_pair_has_the_score_of_a_cross_encoder(judge: Path, tmp_path: Path, said: dict[str, Any], act: str) -> None:
    shutil.copytree(judge, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | said))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(judge, dtype=torch.float64).eval()
    pairs = [("w1 w2", "w3"), ("w1 w2", "w3 w4 w5 w6"), ("w9", "w1")]
    with miaotui.load(tmp_path) as ours:
        got = ours.predict(pairs)
        assert isinstance(got, np.ndarray)
        assert got.shape == (3,)
        wanted = [float(THEIRS[act](torch.tensor(their_logit(model, *pair)))) for pair in pairs]
        assert np.abs(got - wanted).max() < 1e-5
        assert np.array_equal(ours.predict([pairs[2]])[0], got[2])  # type: ignore[index]
        assert [float(x[0]) for x in ours.predict(iter(pairs))] == got.tolist()


def test_pairs_that_cannot_be_scored(judge: Path, plain: Path, tmp_path: Path) -> None:
    with miaotui.load(judge) as model:
        with pytest.raises(InputError, match="text 1 has 65 tokens; this model takes 1 to 64"):
            model.predict([("w1", "w2"), ("w1 " * 60, "w2 w3")])
        for wrong in ("w1", b"w1", 3, ["w1"], [("w1",)], [("w1", 2)]):
            with pytest.raises(InputError, match="pairs"):
                model.predict(wrong)  # type: ignore[arg-type]
    with (
        miaotui.load(plain) as model,
        pytest.raises(InputError, match=r"not a classifier of texts .*use encode or hidden"),
    ):
        model.predict([("w1", "w2")])
    with (
        miaotui.load(demo.path()) as model,
        pytest.raises(InputError, match=r"not a classifier of texts .*last_logits"),
    ):
        model.predict([("w1", "w2")])
    shutil.copytree(judge, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    for said, says in (({"activation_fn": "builtins.eval"}, "builtins.eval"), ("x", "expected an object")):
        (tmp_path / "config.json").write_text(json.dumps(config | {"sentence_transformers": said}))
        with miaotui.load(tmp_path) as model, pytest.raises(MiaotuiError, match=says):
            model.predict([("w1", "w2")])


def test_a_cross_encoder_is_a_classifier(plain: Path) -> None:
    with pytest.raises(InputError, match=r"this bert model is not a classifier of texts .*; use encode or hidden"):
        miaotui.CrossEncoder(plain)
    with pytest.raises(InputError, match=r"this llama model is not a classifier of texts .*; use logits"):
        miaotui.CrossEncoder(demo.path())
    with miaotui.load(plain) as model:
        with pytest.raises(InputError, match="not a classifier"):
            miaotui.CrossEncoder(model)
        assert len(model.encode(["a"])) == 1  # it is the caller's, and stays open


def test_the_page_s_snippets_import_what_they_use_and_the_first_runs(
    plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "embeddings.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    used = [block for block in blocks if "miaotui." in block]
    assert len(used) > 3
    assert all(re.search(r"^import miaotui$", block, re.MULTILINE) for block in used)
    code = blocks[0].replace("path/to/all-MiniLM-L6-v2", str(plain))
    assert code != blocks[0]
    exec(compile(code, "docs/embeddings.md", "exec"), {})  # noqa: S102 - it is our own page
    printed = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\(3, \d+\) float32", printed[0])
    assert printed[1].startswith("[")


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([], "text 1 has 0 tokens; this model takes 1 to"),
        ([1, -1], "text 1: token id -1 is outside the vocabulary"),
        ([1, 10**6], "text 1: token id 1000000 is outside the vocabulary"),
        ([1] * 10**6, "text 1 has 1000000 tokens; this model takes 1 to"),
    ],
)
def test_a_text_that_a_decoder_cannot_be_fed_is_refused_by_its_number(ids: list[int], said: str, *, last: bool) -> None:
    with miaotui.load(demo.path(), threads=1) as model, pytest.raises(InputError, match=f"^{said}"):
        list(fed(model.session, [Whole([1, 2]), Whole(ids)], np.copy, last=last))
