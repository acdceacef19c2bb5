"""Encoders against `transformers` in float64: hidden states of every family, packed texts, pooling, bad input."""

from __future__ import annotations

import ctypes
import json
import math
import platform
import shutil
import sys
import tracemalloc
import weakref
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from checkpoints import ENCODERS as FAMILIES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miaotui.errors import BackendError, InputError, MiaotuiError, PlanError
from miaotui.runtime.encoding import Whole, encoded, scored
from miaotui.tools import demo
from miaotui.tools.prune import prune
from real_files import real
from tolerance import bound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

SETTINGS = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False)
LONGEST = 70


def bert_like(draw: st.DrawFn, **more: Any) -> dict[str, Any]:
    """Sizes that BERT and its kin share."""
    n_heads = draw(st.integers(1, 4))
    return {
        "vocab_size": draw(st.integers(6, 131)),
        "hidden_size": n_heads * draw(st.sampled_from([1, 3, 8, 16, 17])),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": n_heads,
        "intermediate_size": draw(st.integers(1, 67)),
        "hidden_act": draw(st.sampled_from(["gelu", "gelu_new", "relu", "silu"])),
        "max_position_embeddings": LONGEST + 2,
        "type_vocab_size": draw(st.integers(1, 3)),
        "layer_norm_eps": draw(st.sampled_from([1e-12, 1e-5])),
    } | more


@st.composite
def configs(draw: st.DrawFn, family: str, **more: Any) -> Any:
    """A config of `transformers`."""
    said = bert_like(draw, **more)
    if family in {"roberta", "xlm-roberta", "camembert"}:
        pad = draw(st.integers(0, 3))
        said |= {"max_position_embeddings": LONGEST + pad + 1, "pad_token_id": pad}
    if family in {"electra", "albert"}:
        said["embedding_size"] = draw(st.sampled_from([said["hidden_size"], 1, 5, 17]))
    if family == "albert":
        said["num_hidden_groups"] = draw(st.integers(1, said["num_hidden_layers"]))
    if family == "distilbert":
        names = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
        names |= {"intermediate_size": "hidden_dim", "hidden_act": "activation"}
        said = {names.get(key, key): value for key, value in said.items()}
        said["activation"] = draw(st.sampled_from(["gelu", "relu"]))
        del said["type_vocab_size"], said["layer_norm_eps"]
    if family == "mpnet":
        said |= {"max_position_embeddings": LONGEST + 2, "pad_token_id": 1}
        del said["type_vocab_size"]
    if family in ROTARY:
        rotary(draw, family, said)
    if family == "deberta-v2":
        said |= distances(draw)
    return transformers.CONFIG_MAPPING[family](**said)


def distances(draw: st.DrawFn) -> dict[str, Any]:
    """What DeBERTa says of relative positions, and of what is added to the embedding."""
    buckets = draw(st.sampled_from([-1, 2, 8, 17, 64]))
    return {
        "relative_attention": draw(st.integers(0, 3)) > 0,
        "pos_att_type": draw(st.sampled_from([["c2p", "p2c"], "p2c|c2p", ["c2p"], ["p2c"], None])),
        "position_buckets": buckets,
        "max_relative_positions": draw(st.sampled_from([-1, 35, 64] if buckets > 0 else [-1, 1, 9])),
        "norm_rel_ebd": draw(st.sampled_from(["none", "layer_norm"])),
        "share_att_key": draw(st.booleans()),
        "position_biased_input": draw(st.booleans()),
        "type_vocab_size": draw(st.integers(0, 2)),
        "pooler_hidden_act": draw(st.sampled_from(["gelu", "silu", "relu"])),
        "legacy": draw(st.booleans()),
        "conv_kernel_size": draw(st.sampled_from([0, 0, 1, 3, 5])),
        "conv_act": draw(st.sampled_from(["tanh", "gelu", "silu"])),
    }


ROTARY = ("modernbert", "nomic_bert", "eurobert")


def rotary(draw: st.DrawFn, family: str, said: dict[str, Any]) -> None:
    """Heads of even width; what these families say in other words."""
    said["hidden_size"] = said["num_attention_heads"] * draw(st.sampled_from([2, 6, 8, 16, 18]))
    said["pad_token_id"] = 0
    flags = {"modernbert": ("norm_bias", "attention_bias", "mlp_bias", "decoder_bias", "classifier_bias")}
    flags["eurobert"] = ("attention_bias", "mlp_bias")
    said |= {key: draw(st.booleans()) for key in flags.get(family, ())}
    if family == "modernbert":
        said |= {"hidden_activation": said.pop("hidden_act"), "norm_eps": said.pop("layer_norm_eps")}
        said |= {"local_attention": draw(st.sampled_from([0, 2, 5, 16, 33, 64])), "num_hidden_layers": 2}
        said["global_attn_every_n_layers"] = draw(st.integers(1, 2))
        said["classifier_pooling"] = draw(st.sampled_from(["cls", "mean"]))
        said |= {"bos_token_id": 0, "eos_token_id": 0, "cls_token_id": 0, "sep_token_id": 0}
    elif family == "eurobert":
        said["rms_norm_eps"] = said.pop("layer_norm_eps")
        said["num_key_value_heads"] = draw(
            st.sampled_from([n for n in (1, 2, 3, 4) if said["num_attention_heads"] % n == 0])
        )
        said |= {
            "bos_token_id": 0,
            "eos_token_id": 0,
            "classifier_pooling": draw(st.sampled_from(["bos", "mean", "late"])),
        }
    if family != "nomic_bert":
        del said["type_vocab_size"]


HEADS = {
    "MaskedLM": FAMILIES,
    "SequenceClassification": FAMILIES,
    "TokenClassification": FAMILIES,
    "QuestionAnswering": tuple(f for f in FAMILIES if f not in {"nomic_bert", "eurobert"}),
    "MultipleChoice": tuple(f for f in FAMILIES if f not in {"electra", "nomic_bert", "eurobert"}),
}


def made(config: Any, directory: Path, seed: int = 0, dtype: Any = None, kind: str = "") -> Any:
    """A random model of a config, written to a directory; it is returned in float64, with the numbers of the file."""
    torch.manual_seed(seed)
    auto = getattr(transformers, f"AutoModel{'For' if kind else ''}{kind}")
    model = auto.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for p in model.parameters():  # norms and biases too, which begin at 1 and 0
            p.copy_(torch.randn_like(p) * 0.3 + (p if p.dim() == 1 else 0))
            p.data = p.to(dtype or torch.float32)  # not model.to: it rounds the frequencies of RoPE, no part of a file
    model.save_pretrained(directory)
    return model.double().eval()


def theirs(model: Any, ids: list[int], types: list[int] | None = None) -> np.ndarray:
    """[T, d_model] in float64."""
    given = {} if types is None else {"token_type_ids": torch.tensor([types])}
    with torch.no_grad():
        out = model(torch.tensor([ids]), **given)
    if hasattr(out, "start_logits"):
        return torch.stack([out.start_logits[0], out.end_logits[0]], -1).numpy()
    return out[0][0].numpy()


def near(config: Any, wanted: np.ndarray) -> float:
    """LayerNorm of few numbers divides by a small spread."""
    width = min(config.hidden_size, getattr(config, "embedding_size", 64))
    scale = float(np.abs(wanted).max())
    return (1 + 16 / np.sqrt(width)) * bound("model", "f32", config.num_hidden_layers + 2, scale=scale)


def ids_of(rng: np.random.Generator, n_vocab: int, n: int, pad: int | None = None) -> list[int]:
    """Ids without the padding token, which has no position in RoBERTa."""
    ids = rng.integers(0, n_vocab, n)
    return [int(i) if i != pad else int((i + 1) % n_vocab) for i in ids]


@pytest.mark.parametrize(
    "family", [f if f in {"bert", "albert"} else pytest.param(f, marks=pytest.mark.ci) for f in FAMILIES]
)
def test_hidden_states_are_those_of_transformers(family: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    @SETTINGS
    @given(configs(family), st.data())
    def holds(config: Any, data: st.DataObject) -> None:
        directory = tmp_path_factory.mktemp(family)
        dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
        model = made(config, directory, data.draw(st.integers(0, 99)), dtype)
        n = data.draw(st.integers(1, LONGEST))
        rng = np.random.default_rng(n)
        ids = ids_of(rng, config.vocab_size, n, config.pad_token_id)
        n_types = getattr(config, "type_vocab_size", 0)
        types = rng.integers(0, n_types, n).tolist() if n_types else None
        with miaotui.load(directory, threads=data.draw(st.integers(1, 2))) as ours:
            got = ours.hidden(ids, token_types=types)
        wanted = theirs(model, ids, types)
        assert np.abs(got - wanted).max() <= near(config, wanted)

    holds()


CASES = [(kind, family) for kind, of in HEADS.items() for family in of]


@pytest.mark.parametrize(
    ("kind", "family"), [c if c[1] == "bert" else pytest.param(*c, marks=pytest.mark.ci) for c in CASES]
)
def test_heads_give_what_transformers_gives(kind: str, family: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    @settings(SETTINGS, max_examples=3)
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        n_labels = data.draw(st.integers(1, 5))
        more = {"num_labels": n_labels} if "Classification" in kind else {}
        config = data.draw(configs(family, **more))
        config.tie_word_embeddings = data.draw(st.booleans())
        if kind == "MultipleChoice" and family == "modernbert":
            config.classifier_pooling = "cls"  # transformers takes no mean without a mask there
        directory = tmp_path_factory.mktemp(family)
        model = made(config, directory, data.draw(st.integers(0, 99)), kind=kind)
        n = data.draw(st.integers(1, LONGEST))
        ids = ids_of(np.random.default_rng(n), config.vocab_size, n, config.pad_token_id)
        with miaotui.load(directory) as ours:
            got = ours.logits(ids)
            assert len(ours.config.labels) == more.get("num_labels", 0)
        if kind == "MultipleChoice":
            with torch.no_grad():
                wanted = model(torch.tensor([[ids]])).logits[0].numpy()
        else:
            wanted = theirs(model, ids)
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).max() <= near(config, wanted)

    holds()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers whose texts have up to 40 tokens."""
    directory = tmp_path_factory.mktemp("bert")
    config = transformers.BertConfig(
        vocab_size=53, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=37,
        max_position_embeddings=40, type_vocab_size=2,
    )  # fmt: skip
    made(config, directory)
    return directory


@SETTINGS
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    seed=st.integers(0, 99),
    chunk=st.sampled_from([1, 64, 512]),
    pairs=st.booleans(),
)
def test_a_packed_text_has_the_bits_of_the_text_alone(
    small: Path, *, lengths: list[int], seed: int, chunk: int, pairs: bool
) -> None:
    """`pairs`: with what lets a decoder's attention add by pairs."""
    rng, how = np.random.default_rng(seed), {"kv_cache": "bf16", "precision": "fast"} if pairs else {}
    texts = [Whole(ids_of(rng, 53, n), rng.integers(0, 2, n).tolist()) for n in lengths]
    with (
        miaotui.load(small, threads=2, prefill_chunk=chunk, **how) as many,
        miaotui.load(small, threads=1, **how) as one,
    ):
        together = list(encoded(many.session, texts, np.copy))
        for text, rows in zip(texts, together, strict=True):
            alone = one.hidden(text.ids, token_types=text.types)
            assert rows.tobytes() == alone.tobytes()


def test_texts_are_taken_as_passes_need_them(small: Path) -> None:
    taken = []

    def texts() -> Any:
        for n in range(10_000):
            taken.append(n)
            yield Whole([1] * 40)

    with miaotui.load(small, prefill_chunk=80) as model:
        rows = encoded(model.session, texts(), np.copy)
        next(rows)
        assert len(taken) <= 8


@pytest.mark.parametrize("family", ["roberta", "mpnet"])
def test_padding_inside_a_text_has_no_position(family: str, tmp_path: Path) -> None:
    """It takes the row of its number, and the tokens after it count on without it; also where vocabulary was cut."""
    config = transformers.CONFIG_MAPPING[family](
        vocab_size=31, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20,
        max_position_embeddings=18, pad_token_id=1,
    )  # fmt: skip
    model = made(config, tmp_path)
    with miaotui.load(tmp_path) as ours, miaotui.load(tmp_path, prune={"vocab": "1-30"} | PLAN) as cut:
        for ids in ([1], [5, 1, 6], [1, 5, 6, 1, 1], [5, 6, 1, 1, 1, 7, 8]):
            wanted, got = theirs(model, ids), ours.hidden(ids)
            assert np.abs(got - wanted).max() <= near(config, wanted)
            assert np.array_equal(cut.hidden([i - 1 for i in ids]), got)
    with miaotui.load(tmp_path, prune={"vocab": "2-30"} | PLAN) as cut:  # no id is padding
        assert np.abs(cut.hidden([3, 4]) - theirs(model, [5, 6])).max() <= near(config, theirs(model, [5, 6]))


PLAN = {"format": "miaotui-prune", "version": 1}


def test_positions_of_roberta_begin_after_the_padding_row(tmp_path: Path) -> None:
    """Rows 0 and 1 are no token's; texts of 1, 7 and 16 tokens in one pass, in every order; 17 are too many."""
    config = transformers.RobertaConfig(
        vocab_size=31, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20,
        max_position_embeddings=18, pad_token_id=1, type_vocab_size=1,
    )  # fmt: skip
    model = made(config, tmp_path)
    rng = np.random.default_rng(0)
    texts = [ids_of(rng, 31, n, 1) for n in (1, 7, 16)]
    with torch.no_grad():
        model.embeddings.position_embeddings.weight[:2] = float("nan")
    model.float().save_pretrained(tmp_path)
    model.double()
    with miaotui.load(tmp_path) as ours:
        alone = [ours.hidden(ids) for ids in texts]
        for order in ([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]):
            together = list(encoded(ours.session, [Whole(texts[i]) for i in order], np.copy))
            assert all(rows.tobytes() == alone[i].tobytes() for i, rows in zip(order, together, strict=True))
        for ids, rows in zip(texts, alone, strict=True):
            wanted = theirs(model, ids)
            assert np.abs(rows - wanted).max() <= bound("model", "f32", 2, scale=float(np.abs(wanted).max()))
        with pytest.raises(InputError, match="16"):
            ours.hidden(texts[2] + [3])


def test_reactions_with_a_token_masked() -> None:
    """A trained ALBERT, one layer's weights for all twelve: goldens, fill-mask, and what is held of it."""
    directory = real("models", "rxnmapper-albert-hf")
    expected = json.loads((directory / "expected.json").read_text())
    with miaotui.load(directory) as model:
        assert model.memory["weights_resident"] == 0
        assert len({id(layer) for layer in model._plan.layers}) == 1
        mask = model.tokenizer.token_to_id("[MASK]")
        assert mask is not None
        hits = total = 0
        for case in expected["cases"]:
            ids, wanted = case["ids"], case["argmax_when_that_token_is_masked"]
            assert model.logits(ids).argmax(1).tolist() == case["unmasked_logits_argmax"]
            first = model.hidden(ids)[0, :8]
            assert np.abs(first - case["first_token_last_hidden_first8"]).max() < 1e-4
            texts = [Whole([*ids[:i], mask, *ids[i + 1 :]]) for i in range(1, len(ids) - 1)]
            rows = scored(model.session, model.config, texts)
            best = [int(logits[i].argmax()) for i, logits in enumerate(rows, 1)]
            assert best == wanted
            hits, total = hits + sum(a == b for a, b in zip(best, ids[1:-1], strict=True)), total + len(best)
        assert [hits, total] == expected["masked_top1"]


def test_older_names_of_a_layer_norm(small: Path, tmp_path: Path) -> None:
    """bert-base-uncased and its kin say gamma and beta."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = load_file(tmp_path / "model.safetensors")
    for new, old in names.items():
        tensors = {name.replace(new, old): x for name, x in tensors.items()}
    assert any(name.endswith("gamma") for name in tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with miaotui.load(small) as model, miaotui.load(tmp_path) as older:
        assert model.hidden([1, 2, 3]).tobytes() == older.hidden([1, 2, 3]).tobytes()


# ---------------------------------------------------------------- sentences


def word_pieces(directory: Path, words: int = 300) -> None:
    """A tokenizer of whole words, framed by [CLS] and [SEP], with padding and truncation baked into the file."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocab = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(words))])}
    t = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))  # noqa: S106 - a token of a vocabulary
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    t.enable_padding(length=128)
    t.enable_truncation(128)
    t.save(str(directory / "tokenizer.json"))


def sentence_files(directory: Path, **pooling: Any) -> None:
    """As sentence-transformers writes them."""
    steps = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(steps)
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir(exist_ok=True)
    said = {"pooling_mode_mean_tokens": not pooling} | (pooling or {"word_embedding_dimension": 16})
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(said))
    (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 256}))


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 512 positions with a tokenizer and sentence-transformers' files."""
    directory = tmp_path_factory.mktemp("sentences")
    config = transformers.BertConfig(
        vocab_size=304, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20
    )
    made(config, directory)
    word_pieces(directory)
    sentence_files(directory)
    return directory


def test_padding_and_truncation_of_the_file_are_not_used(sentences: Path) -> None:
    """Texts of 3, 202 and 400 pieces have 5, 204 and 256 tokens, [SEP] last; the mean is over those alone."""
    texts = [" ".join(f"w{i % 300}" for i in range(n)) for n in (3, 202, 400)]
    model = transformers.AutoModel.from_pretrained(sentences, dtype=torch.float64)
    with miaotui.load(sentences) as ours:
        vectors = ours.encode(texts)
        assert isinstance(vectors, np.ndarray)
        for text, n, vector in zip(texts, (5, 204, 256), vectors, strict=True):
            ids = [2, *(4 + i % 300 for i in range(n - 2)), 3]
            mean = theirs(model, ids).mean(0)
            assert np.abs(vector - mean / np.linalg.norm(mean)).max() < 1e-6
            assert abs(float(np.linalg.norm(vector.astype(np.float64))) - 1) < 1e-6
            assert np.array_equal(ours.encode(text), vector)
        for order in ([2, 0, 1], [1, 2, 0]):
            assert np.array_equal(ours.encode([texts[i] for i in order]), vectors[order])
        assert all(np.array_equal(a, b) for a, b in zip(ours.encode(iter(texts)), vectors, strict=True))
        plain = ours.encode(texts, normalize=False)
        assert np.array_equal(ours.encode(texts, truncate_dim=3, normalize=False), plain[:, :3])
        assert abs(float(np.linalg.norm(plain[0])) - 1) > 1e-3


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the mode's number is known there"
)
def test_a_rounding_mode_changes_no_bit_of_a_vector(sentences: Path) -> None:
    libm, up = ctypes.CDLL("libm.so.6"), 0x800
    texts = ["w1 w2 w3 w4 w5 w6 w7", "w9 " * 40]
    with miaotui.load(sentences) as model:
        wanted = np.array(model.encode(texts))
        libm.fesetround(up)
        try:
            vectors = model.encode(texts)
            each = list(model.encode(iter(texts)))
        finally:
            libm.fesetround(0)
    assert np.array_equal(vectors, wanted)
    assert np.array_equal(each, wanted)


class Counted(str):
    """A text of which is known whether it is there."""

    __slots__ = ("__weakref__",)


@pytest.mark.ci  # 7 s
def test_any_number_of_texts_streams_through(tmp_path: Path) -> None:
    """Thirty thousand: in order, a pass at a time, and no text stays; the caller stops half-way."""
    config = transformers.BertConfig(
        vocab_size=304, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4
    )
    made(config, tmp_path)
    word_pieces(tmp_path)
    n, kinds, taken, there = 30_000, 300, 0, weakref.WeakSet[Counted]()

    def texts() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            text = Counted(f"w{taken % kinds} w{taken % 7}")
            there.add(text)
            yield text

    with miaotui.load(tmp_path, prefill_chunk=512) as model:
        every = math.lcm(kinds, 7)
        wanted = model.encode([f"w{i % kinds} w{i % 7}" for i in range(1, every + 1)])
        source = texts()
        vectors = model.encode(source)
        most = held = 0
        for i in range(n):
            vector = next(vectors)
            assert np.array_equal(vector, wanted[i % every])
            if i % 1000 == 999:
                most = max(most, taken - i, len(there))
                if i == 9999:
                    tracemalloc.start()
                    held = tracemalloc.get_traced_memory()[0]
        grown = tracemalloc.get_traced_memory()[0] - held
        tracemalloc.stop()
        assert most <= 2 * 512 // 4  # of four tokens each: a pass, and what was taken for the next
        assert grown < 2**18
        stopped = taken
        vectors.close()  # type: ignore[union-attr]
        with pytest.raises(StopIteration):
            next(vectors)
        assert taken == stopped
        assert len(there) <= 1  # the source's own, where it stands
        assert next(source) == f"w{(stopped + 1) % kinds} w{(stopped + 1) % 7}"
        assert np.array_equal(model.encode(["w1 w1"])[0], wanted[0])


def test_an_iterator_of_vectors_is_read_by_one(sentences: Path) -> None:
    with miaotui.load(sentences) as model:
        refused: list[str] = []

        def texts() -> Iterator[str]:
            with pytest.raises(InputError) as e:
                next(vectors)
            refused.append(str(e.value))
            yield "w1"

        vectors = model.encode(texts())
        assert next(vectors).shape == (16,)
        assert "reading this stream" in refused[0]


POOLED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "pooling_mode_cls_token": lambda h: h[0],
    "pooling_mode_max_tokens": lambda h: h.max(0),
    "pooling_mode_mean_tokens": lambda h: h.mean(0),
    "pooling_mode_mean_sqrt_len_tokens": lambda h: h.sum(0) / np.sqrt(len(h)),
    "pooling_mode_weightedmean_tokens": lambda h: (
        (h * np.arange(1, len(h) + 1)[:, None]).sum(0) / np.arange(1, len(h) + 1).sum()
    ),
    "pooling_mode_lasttoken": lambda h: h[-1],
}


@given(st.sets(st.sampled_from(sorted(POOLED)), min_size=1))
@SETTINGS
def test_kinds_of_pooling_stand_side_by_side(
    sentences: Path, tmp_path_factory: pytest.TempPathFactory, modes: set[str]
) -> None:
    directory = tmp_path_factory.mktemp("pooled")
    shutil.copytree(sentences, directory, dirs_exist_ok=True)
    sentence_files(directory, word_embedding_dimension=16, **dict.fromkeys(modes, True))
    with miaotui.load(directory) as model:
        h = model.hidden([2, 9, 17, 5, 3]).astype(np.float64)
        wanted = np.concatenate([f(h) for mode, f in POOLED.items() if mode in modes])
        got = model.encode("w5 w13 w1", normalize=False)
        assert got.shape == (16 * len(modes),)
        assert np.abs(got - wanted).max() <= 1e-5


@pytest.mark.parametrize("named", ["cls", ["lasttoken", "mean_sqrt_len_tokens", "cls"]])
def test_kinds_of_pooling_by_name(sentences: Path, tmp_path: Path, named: str | list[str]) -> None:
    """As newer versions write it: side by side in the order of the names; keys of before do not count then."""
    shutil.copytree(sentences, tmp_path, dirs_exist_ok=True)
    sentence_files(tmp_path, embedding_dimension=16, pooling_mode=named, pooling_mode_max_tokens=True)
    kinds = {"cls": "cls_token"}
    with miaotui.load(tmp_path) as model:
        h = model.hidden([2, 9, 17, 5, 3]).astype(np.float64)
        modes = [named] if isinstance(named, str) else named
        wanted = np.concatenate([POOLED[f"pooling_mode_{kinds.get(mode, mode)}"](h) for mode in modes])
        assert np.abs(model.encode("w5 w13 w1", normalize=False) - wanted).max() <= 1e-5


def test_two_texts(sentences: Path) -> None:
    """Framed together, the second with types of its own, as transformers takes them."""
    model = transformers.AutoModel.from_pretrained(sentences, dtype=torch.float64)
    with miaotui.load(sentences) as ours:
        ids, types = ours.tokenizer.framed("w1 w2", pair="w3")
        assert (ids, types) == ([2, 5, 6, 3, 7, 3], [0, 0, 0, 0, 1, 1])
        wanted = theirs(model, ids, types)
        assert np.abs(ours.hidden(ids, token_types=types) - wanted).max() <= near(model.config, wanted)
        ids, types = ours.tokenizer.framed("w1 " * 400, pair="w3 " * 200)
        with pytest.raises(InputError, match="more than the context of 512"):
            ours.hidden(ids, token_types=types)


def test_prompts(sentences: Path, tmp_path: Path) -> None:
    shutil.copytree(sentences, tmp_path, dirs_exist_ok=True)
    said = {"prompts": {"query": "w1 w2 ", "passage": "w3 "}, "default_prompt_name": "query"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(said))
    with miaotui.load(tmp_path) as model:
        assert np.array_equal(model.encode("w7"), model.encode("w1 w2 w7", prompt=""))
        assert np.array_equal(model.encode("w7", prompt_name="passage"), model.encode("w3 w7", prompt=""))
        with pytest.raises(InputError, match=r"\['query', 'passage'\]"):
            model.encode("w7", prompt_name="other")
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True, "include_prompt": False}
    sentence_files(tmp_path, **pooling)
    with miaotui.load(tmp_path) as model:
        h = model.hidden([2, 5, 6, 11, 3]).astype(np.float64)  # [CLS] w1 w2 | w7 [SEP]
        assert np.abs(model.encode("w7", normalize=False) - h[3:].mean(0)).max() < 1e-5


def test_texts_are_read_as_sentence_transformers_reads_them(sentences: Path, tmp_path: Path) -> None:
    """Without spaces around them, in lower case where a file says so; a mode that is not denied, the mean, is taken."""
    from tokenizers import Tokenizer, pre_tokenizers

    shutil.copytree(sentences, tmp_path, dirs_exist_ok=True)
    t = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    t.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")  # a space is a token
    t.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    pooling = {"word_embedding_dimension": 16, "pooling_mode_cls_token": True}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    with miaotui.load(tmp_path) as model:
        h = model.hidden([2, 9, 1, 17, 3])
        got = model.encode(" W5 w13\n ", normalize=False)
        assert got.shape == (32,)
        assert np.abs(got - np.concatenate([h[0], h.mean(0)])).max() <= 1e-5
        assert np.array_equal(model.encode("w5 w13", prompt=" "), model.encode("w5 w13"))


LENGTHS_SAID: list[tuple[dict[str, dict[str, Any]], int]] = [
    ({"tokenizer_config.json": {"model_max_length": 9}}, 9),  # as of sentence-transformers 6.2
    ({"sentence_bert_config.json": {"do_lower_case": False}, "tokenizer_config.json": {"model_max_length": 9}}, 9),
    ({"sentence_bert_config.json": {"max_seq_length": 11}, "tokenizer_config.json": {"model_max_length": 9}}, 11),
    ({"sentence_roberta_config.json": {"max_seq_length": 7}, "tokenizer_config.json": {"model_max_length": 9}}, 7),
    ({"sentence_distilbert_config.json": {"max_seq_length": 7}}, 7),
    ({"sentence_xlm-roberta_config.json": {"max_seq_length": 7}, "sentence_bert_config.json": {}}, 7),
    ({"tokenizer_config.json": {"model_max_length": 10**30}}, 30),
    ({"tokenizer_config.json": {"model_max_length": 1e30}}, 30),
    ({"tokenizer_config.json": {"model_max_length": None}}, 30),
    ({"sentence_bert_config.json": {"max_seq_length": 600}}, 30),
]


@pytest.mark.parametrize(("files", "most"), LENGTHS_SAID, ids=range(len(LENGTHS_SAID)))
def test_where_a_text_is_cut(sentences: Path, tmp_path: Path, files: dict[str, dict[str, Any]], most: int) -> None:
    """To max_seq_length, else to the tokenizer's model_max_length, and always to the context: `max_context` here."""
    shutil.copytree(sentences, tmp_path, dirs_exist_ok=True)
    (tmp_path / "sentence_bert_config.json").unlink()
    for name, said in files.items():
        (tmp_path / name).write_text(json.dumps(said))
    ids = [2, *range(4, 44), 3]
    with miaotui.load(tmp_path, max_context=30) as model:
        got = model.encode(" ".join(f"w{i}" for i in range(40)), normalize=False)
        h = model.hidden([*ids[: most - 1], 3]).astype(np.float64)
        assert np.abs(got - h.mean(0)).max() < 1e-5


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("1_Pooling/config.json", '{"word_embedding_dimension": 17, "pooling_mode_mean_tokens": true}', "17"),
        ("1_Pooling/config.json", "{}", "no pooling_mode is true"),
        ("1_Pooling/config.json", '{"pooling_mode_mean_tokens": 1}', "true or false"),
        ("1_Pooling/config.json", '{"pooling_mode_attention": true}', "pooling_mode_attention"),
        ("1_Pooling/config.json", '{"embedding_dimension": 17, "pooling_mode": "mean"}', "embedding_dimension is 17"),
        ("1_Pooling/config.json", '{"pooling_mode": ["mean", "attention"]}', "attention"),
        ("1_Pooling/config.json", '{"pooling_mode": []}', "pooling_mode has"),
        ("1_Pooling/config.json", '{"pooling_mode": {"mean": 1}}', "pooling_mode has"),
        ("1_Pooling/config.json", '{"pooling_mode": ["mean", "mean"]}', "twice"),
        ("modules.json", "[1]", "type and path"),
        ("modules.json", '[{"type": "a.Pooling", "path": "../x"}]', "a folder here"),
        ("modules.json", '[{"type": "a.Transformer", "path": ""}]', "no Pooling"),
        ("modules.json", '[{"type": "a.Dense", "path": "2"}]', r"no Pooling among its steps \(Dense\)"),
        ("modules.json", '[{"type": "a.Pooling", "path": "1_Pooling"}, {"type": "a.LSTM", "path": "2"}]', "LSTM"),
        ("sentence_bert_config.json", '{"max_seq_length": 0}', "max_seq_length"),
        ("sentence_bert_config.json", '{"do_lower_case": 1}', "do_lower_case"),
        ("sentence_bert_config.json", '{"max_seq_length": true}', "max_seq_length is True"),
        ("config_sentence_transformers.json", '{"default_prompt_name": "x"}', "default_prompt_name"),
    ],
)
def test_sentence_files_that_make_no_sense(sentences: Path, tmp_path: Path, name: str, text: str, says: str) -> None:
    shutil.copytree(sentences, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_text(text)
    with miaotui.load(tmp_path) as model, pytest.raises(MiaotuiError, match=says):
        model.encode("w1")


@pytest.mark.parametrize("said", [0, "512", True, float("nan"), [512], -3.0])
def test_a_model_max_length_that_is_none(sentences: Path, tmp_path: Path, said: Any) -> None:
    shutil.copytree(sentences, tmp_path, dirs_exist_ok=True)
    (tmp_path / "sentence_bert_config.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": said}))
    with (
        miaotui.load(tmp_path) as model,
        pytest.raises(MiaotuiError, match=r"tokenizer_config.json: (model_max_length|.*NaN)"),
    ):
        model.encode("w1")


# ---------------------------------------------------------------- what is refused


def test_an_encoder_writes_no_text_and_a_decoder_no_vectors(small: Path) -> None:
    with miaotui.load(small) as model:
        for call in (
            lambda: model.generate([1]),
            lambda: list(model.stream([1])),
            lambda: model.last_logits([[1]]),
            model.sequence,
        ):
            with pytest.raises(InputError, match="bert is an encoder"):
                call()
        with pytest.raises(InputError, match="no head"):
            model.logits([1])
    with miaotui.load(demo.path()) as model:
        with pytest.raises(InputError, match="is a decoder"):
            model.encode("once")
        with pytest.raises(InputError, match="token_types"):
            model.hidden([1], token_types=[0])


@pytest.mark.parametrize(
    ("ids", "types", "says"),
    [
        ([], None, "0 tokens|empty|at least one"),
        ([53], None, "53"),
        ([1] * 41, None, "40"),
        ([1, 2], [0], "2 tokens and 1"),
        ([1, 2], [0, 2], "token type 2"),
    ],
)
def test_bad_ids_and_types(small: Path, ids: list[int], types: list[int] | None, says: str) -> None:
    with miaotui.load(small) as model, pytest.raises(InputError, match=says):
        model.hidden(ids, token_types=types)


def test_what_the_cuda_path_lacks_is_said(small: Path) -> None:
    from miaotui.limits import Request
    from miaotui.loader.open import open_model
    from miaotui.prepare import prepare

    with open_model(small) as opened, pytest.raises(BackendError, match="encoder"):
        prepare(opened, Request(device="cuda"))


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_quantised_and_pruned(small: Path, quantize: str) -> None:
    ids = list(range(1, 30))
    with miaotui.load(small) as model:
        exact = model.hidden(ids)
    with miaotui.load(small, quantize=quantize) as model:
        near = model.hidden(ids)
    size = float(np.abs(exact).mean())
    assert 0 < np.abs(near - exact).mean() < {"int8": 0.05, "int4": 0.6}[quantize] * size
    with miaotui.load(small, prune="keep-layers=0; ffn=0.5") as model:
        assert model.config.n_layers == 1
        assert np.isfinite(model.hidden(ids)).all()


def test_layers_that_share_their_weights_are_quantised_by_the_first(tmp_path: Path) -> None:
    sizes = {"vocab_size": 53, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3}
    sizes |= {"intermediate_size": 37, "max_position_embeddings": 42, "embedding_size": 12}
    made(transformers.AlbertConfig(**sizes), tmp_path)
    with miaotui.load(tmp_path, quantize="0.down=int8") as model:
        assert {w.name: w.dtype for w in model.session.weights if w.quantized} == {"layers.0.down": "int8"}
    with pytest.raises(PlanError, match="layer 2 has the weights of layer 0; name that one, or a role"):
        miaotui.load(tmp_path, quantize="0=int4,2.down=int8")


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_plan_leaves_can_be_written_and_is_read_by_transformers(family: str, tmp_path: Path) -> None:
    """Layers and neurons: the export gives the bits of the plan, and transformers the same numbers."""
    sizes = {"vocab_size": 53, "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3}
    sizes |= {"intermediate_size": 37, "max_position_embeddings": 42, "embedding_size": 12}
    if family == "distilbert":
        sizes = {"vocab_size": 53, "dim": 24, "n_layers": 4, "n_heads": 3, "hidden_dim": 37}
    elif family not in {"electra", "albert"}:
        del sizes["embedding_size"]
    if family in ROTARY:
        sizes |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
        sizes |= {"local_attention": 10} if family == "modernbert" else {}
    if family == "deberta-v2":
        sizes |= {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8}
    config = transformers.CONFIG_MAPPING[family](**sizes)
    made(config, tmp_path / "whole", kind="MaskedLM")
    ids, plan = list(range(4, 30)), "keep-layers=0,2; ffn=0.5"
    with miaotui.load(tmp_path / "whole", prune=plan) as model:
        wanted = model.logits(ids)
    prune(tmp_path / "whole", tmp_path / "cut", plan)
    with miaotui.load(tmp_path / "cut") as model:
        assert model.logits(ids).tobytes() == wanted.tobytes()
    again, info = transformers.AutoModelForMaskedLM.from_pretrained(
        tmp_path / "cut", dtype=torch.float64, output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert np.abs(theirs(again.eval(), ids) - wanted).max() < 1e-4


def test_an_export_takes_the_files_of_a_sentence_along(sentences: Path, tmp_path: Path) -> None:
    prune(sentences, tmp_path / "cut", "keep-layers=0")
    with miaotui.load(sentences, prune="keep-layers=0") as model, miaotui.load(tmp_path / "cut") as cut:
        assert np.array_equal(model.encode("w1 w2"), cut.encode("w1 w2"))
