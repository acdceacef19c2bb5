"""Classes on the layers of decoders and encoder-decoders (`...ForSequenceClassification`) against transformers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import miaotui as mt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miaotui.errors import BackendError, CheckpointError, ConfigError, InputError, PlanError
from miaotui.loader.config import parse_config
from miaotui.runtime.encoding import Whole, scored
from miaotui.tools.commands.quantize import quantize
from miaotui.tools.prune import prune
from task_models import byte_pieces
from test_decoders import MOE, SETTINGS, configs, near, small, theirs

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

#: Norms of sums and of inputs, learned positions and rotation, fused and turned matrices, soft caps and windows.
FAST = ("llama", "qwen3", "gpt2", "gemma2")
OTHERS = ("mistral", "qwen2", "gemma", "gemma3_text", "phi3", "glm", "olmo2", "gpt_neox", "gptj", "gpt_neo", "opt")
OTHERS += ("gpt_bigcode", "bloom", "mpt", "falcon", "stablelm", "starcoder2", "smollm3", "qwen3_moe", "mixtral")
PAD = 5
CLASSES, TOKENS = "AutoModelForSequenceClassification", "AutoModelForTokenClassification"


def made(config: Any, directory: Path, kind: str = CLASSES, seed: int = 0) -> Any:
    """A random model of a config, written to a directory; it is returned in float64, with the numbers of the file."""
    torch.manual_seed(seed)
    model = getattr(transformers, kind).from_config(config)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.3 + (p if p.dim() == 1 else 0))
    model.save_pretrained(directory)
    return oracle(directory, kind)


def oracle(directory: Path, kind: str = CLASSES) -> Any:
    raw = json.loads((directory / "config.json").read_text())
    how: dict[str, Any] = {"attn_implementation": "sdpa" if raw["model_type"] == "falcon" else "eager"}
    if raw["model_type"] in MOE:
        how["experts_implementation"] = "eager"  # the other has no float64
    auto = getattr(transformers, kind)
    model, info = auto.from_pretrained(directory, dtype=torch.float64, output_loading_info=True, **how)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def ids_of(n: int, seed: int = 0) -> list[int]:
    """Without the id of padding."""
    ids: list[int] = np.random.default_rng([n, seed]).integers(PAD + 1, 50, n).tolist()
    return ids


@pytest.mark.parametrize("family", [*FAST, *(pytest.param(f, marks=pytest.mark.ci) for f in OTHERS)])
def test_logits_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    config = small(family)
    config.num_labels, config.pad_token_id = 3, PAD
    model = made(config, tmp_path)
    with mt.load(tmp_path) as ours:
        assert (ours.config.kind, ours.config.labels) == ("a classifier", ("LABEL_0", "LABEL_1", "LABEL_2"))
        for ids in (ids_of(1), ids_of(6), ids_of(20), [*ids_of(9), PAD, PAD], [PAD, *ids_of(3)], [PAD, PAD]):
            wanted = theirs(model, ids)
            got = ours.logits(ids)
            assert got.shape == wanted.shape == (3,)
            assert np.abs(got - wanted).max() <= near(model, ids, wanted), (family, ids)


@pytest.mark.ci  # 15 s
@pytest.mark.parametrize("family", FAST[1:])
def test_logits_of_any_sizes_are_those_of_transformers(family: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    @SETTINGS
    @given(configs(family), st.integers(1, 5), st.integers(1, 20))
    def holds(config: Any, labels: int, n: int) -> None:
        directory = tmp_path_factory.mktemp(family)
        config.num_labels, config.pad_token_id = labels, None
        model = made(config, directory)
        ids = np.random.default_rng(n).integers(0, config.vocab_size, n).tolist()
        wanted = theirs(model, ids)
        with mt.load(directory) as ours:
            assert np.abs(ours.logits(ids) - wanted).max() <= near(model, ids, wanted)

    holds()


@pytest.mark.parametrize("family", ["llama", "gpt2"])  # `score`, and `classifier`
def test_each_token_has_classes_of_its_own(family: str, tmp_path: Path) -> None:
    config = small(family)
    config.num_labels, config.pad_token_id = 4, PAD
    model = made(config, tmp_path, TOKENS)
    with mt.load(tmp_path) as ours:
        for n in (1, 20):
            wanted = theirs(model, ids_of(n))
            got = ours.logits(ids_of(n))
            assert got.shape == wanted.shape == (n, 4)
            assert np.abs(got - wanted).max() <= near(model, ids_of(n), wanted)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("kv_cache", ["f32", "int8"])
def test_bits_do_not_depend_on_neighbours_or_threads(family: str, kv_cache: Any, tmp_path: Path) -> None:
    config = small(family)
    config.num_labels = 3
    made(config, tmp_path)
    texts = [ids_of(n, n) for n in (7, 20, 1, 16, 33, 2)]
    with mt.load(tmp_path, threads=1, kv_cache=kv_cache) as one:
        alone = [one.logits(ids).tobytes() for ids in texts]
    assert len({*alone}) == len(texts)
    for threads in (1, 2, 3):
        with mt.load(tmp_path, threads=threads, kv_cache=kv_cache) as model:
            together = scored(model.session, model.config, map(Whole, texts))
            assert [row.tobytes() for row in together] == alone


def test_keys_are_held_for_one_layer_at_a_time(tmp_path: Path) -> None:
    config = small("llama")
    made(config, tmp_path)
    with mt.load(tmp_path) as model:
        assert model.memory["kv_cache"] == 0


def with_text(directory: Path, labels: tuple[str, ...], **more: Any) -> Any:
    """A model with a tokenizer, whose texts have no frame but <s> and </s>; it is returned in float64."""
    config = small("qwen3", vocab_size=len(byte_pieces(directory)))
    config.id2label, config.pad_token_id = dict(enumerate(labels)), 1
    for name, value in more.items():
        setattr(config, name, value)
    return made(config, directory)


TEXTS = ["Ana flew to Berlin.", "a very good film 😀", "", "tea makes poor politics"]


@pytest.mark.parametrize(
    ("labels", "kind", "function"),
    [
        (("bad", "fair", "good"), "single_label_classification", lambda x: torch.softmax(x, -1)),
        (("bad", "fair", "good"), "multi_label_classification", torch.sigmoid),
        (("stars",), "regression", lambda x: x),
        (("spam",), None, torch.sigmoid),
    ],
)
def test_texts_have_the_labels_of_transformers(labels: Any, kind: Any, function: Any, tmp_path: Path) -> None:
    model = with_text(tmp_path, labels, problem_type=kind)
    with mt.pipeline(model=tmp_path) as classify:
        assert classify.task == "text-classification"
        for text, got in zip(TEXTS, classify(TEXTS, top_k=None), strict=True):
            ids, _ = classify.model.tokenizer.framed(text)
            wanted = function(torch.tensor(theirs(model, ids))).numpy()
            assert {each["label"] for each in got} == {*labels}
            assert max(abs(each["score"] - wanted[labels.index(each["label"])]) for each in got) < 1e-5
            assert [each["score"] for each in got] == sorted((each["score"] for each in got), reverse=True)


def test_documents_are_ranked_by_a_decoder(tmp_path: Path) -> None:
    model = with_text(tmp_path, ("relevant",))
    query, documents = "who makes tea", TEXTS
    with mt.pipeline("text-ranking", tmp_path) as rank:
        got = rank(query, documents)
        pairs = [rank.model.tokenizer.framed(query, pair=text)[0] for text in documents]
        wanted = [1 / (1 + np.exp(-theirs(model, ids)[0])) for ids in pairs]
        assert [each["corpus_id"] for each in got] == np.argsort(wanted)[::-1].tolist()
        assert max(abs(each["score"] - wanted[each["corpus_id"]]) for each in got) < 1e-5
        assert rank.model.predict([(query, text) for text in documents]).tolist() == [
            next(each["score"] for each in got if each["corpus_id"] == i) for i in range(len(documents))
        ]


def test_what_a_classifier_cannot_do_is_said(tmp_path: Path) -> None:
    with_text(tmp_path, ("bad", "good"))
    with mt.load(tmp_path) as model:
        for call in (model.generate, model.stream, model.tokens):
            with pytest.raises(InputError, match="qwen3 is a classifier, which writes no text; use encode, hidden or"):
                call("Ana")
        with pytest.raises(InputError, match="last_logits: qwen3 is a classifier"):
            model.last_logits([[4, 5]])
        with pytest.raises(InputError, match="text-generation: this qwen3 model is a classifier"):
            mt.pipeline("text-generation", model)
        with pytest.raises(InputError, match="classifier whose head is for classes; expected an encoder"):
            mt.pipeline("fill-mask", model)


def test_configs_and_tensors_that_contradict_a_head_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with_text(tmp_path / "a", ("bad", "fair", "good"))
    file = tmp_path / "a" / "config.json"
    raw = json.loads(file.read_text())
    for labels in ({"id2label": {"0": "a", "1": "b"}}, {"id2label": None}):
        file.write_text(json.dumps(raw | labels | {"label2id": None}))
        with pytest.raises(CheckpointError, match=r"score.weight has shape \[3, 32\].* It knows 2 labels"):
            mt.load(tmp_path / "a")
    for value in (
        3,
        "Qwen3ForSequenceClassification",
        ["Qwen3ForCausalLM", 10**5000],
    ):  # as before: what is no name says nothing
        assert parse_config(raw | {"architectures": value}, "config.json").head is None
    for wrong in (
        {"pad_token_id": 0.5},
        {"id2label": [1]},
        {"num_labels": -1},
        {"id2label": None, "num_labels": 2**20 + 1},
    ):
        with pytest.raises(ConfigError, match=[*wrong][-1]):
            parse_config(raw | wrong, "config.json")
    assert len(parse_config(raw | {"id2label": None, "num_labels": 2**20}, "config.json").labels) == 2**20
    file.write_text(json.dumps(raw | {"architectures": ["Qwen3ForCausalLM"]}))
    with pytest.raises(CheckpointError, match=r"lm_head.weight"):
        mt.load(tmp_path / "a")
    projected = small("opt", word_embed_proj_dim=12).to_dict() | {"architectures": ["OPTForSequenceClassification"]}
    with pytest.raises(ConfigError, match="embeddings of width 12 in layers of 32"):
        parse_config(projected, "config.json")


def test_a_gpu_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(small("llama"), tmp_path)
    monkeypatch.setattr("miaotui.model._free_bytes", lambda: 2**40)
    with pytest.raises(BackendError, match="llama is a classifier, which the CUDA path cannot run yet"):
        mt.load(tmp_path, device="cuda")


@pytest.mark.parametrize("family", ["llama", pytest.param("gemma2", marks=pytest.mark.ci)])
def test_what_is_left_or_rounded_is_written_and_read_again(family: str, tmp_path: Path) -> None:
    config = small(family)
    config.num_labels, config.pad_token_id = 3, PAD
    made(config, tmp_path / "whole")
    plan = mt.PrunePlan(layers="0,2-3", ffn={0: "0-19", 2: "4-23", 3: "0-19"}, vocab="3-52")
    ids = [*(i - 3 for i in ids_of(9)), PAD - 3]
    with mt.load(tmp_path / "whole", prune=plan) as cut:
        wanted = cut.logits(ids)
        assert np.array_equal(wanted, cut.logits(ids[:-1]))
    prune(tmp_path / "whole", tmp_path / "cut", plan)
    with mt.load(tmp_path / "cut") as again:
        assert np.array_equal(again.logits(ids), wanted)
    left = oracle(tmp_path / "cut")
    exact = theirs(left, ids)
    assert np.abs(wanted - exact).max() <= near(left, ids, exact)
    quantize(tmp_path / "whole", tmp_path / "int8", "int8")
    with mt.load(tmp_path / "whole", quantize="int8") as a, mt.load(tmp_path / "int8") as b:
        assert np.array_equal(a.logits(ids), b.logits(ids))


# ---------------------------------------------------------------- encoder-decoders

BARTS = ("bart", "mbart")
END = 2


def small_bart(family: str, **more: Any) -> Any:
    said: dict[str, Any] = {
        "vocab_size": 53, "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 20, "max_position_embeddings": 64,
        "num_labels": 3,
    }  # fmt: skip
    return transformers.CONFIG_MAPPING[family](**said | more)


#: A text's usual form; the last of several ends; what stands after it; nothing else.
ENDED = ([0, *ids_of(7), END], [0, 7, 9, END, END, 9, 8, END], [8, 7, END, 9], [END], [0, *ids_of(30), END])


@pytest.mark.parametrize("family", BARTS)
def test_an_encoder_decoder_s_classes_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    model = made(small_bart(family), tmp_path)
    with mt.load(tmp_path, threads=1) as ours:
        assert ours.config.kind == "a classifier"
        alone = [ours.logits(ids) for ids in ENDED]
        for ids, got in zip(ENDED, alone, strict=True):
            wanted = theirs(model, ids)
            assert got.shape == wanted.shape == (3,)
            assert np.abs(got - wanted).max() <= near(model, ids, wanted), ids
    for how in ({"threads": 2}, {"threads": 3, "prefill_chunk": 5}):
        with mt.load(tmp_path, **how) as again:
            rows = scored(again.session, again.config, map(Whole, ENDED))
            assert [row.tobytes() for row in rows] == [row.tobytes() for row in alone]


def test_zero_shot_labels_are_those_of_a_bart(tmp_path: Path) -> None:
    labels = ("contradiction", "neutral", "entailment")
    config = small_bart("bart", vocab_size=len(byte_pieces(tmp_path)))
    config.id2label = dict(enumerate(labels))
    model = made(config, tmp_path)
    text, candidates = "Ana flew to Berlin.", ["sport", "politics", "science"]
    with mt.pipeline("zero-shot-classification", tmp_path) as judge:
        got = judge(text, candidates)
        framed = [judge.model.tokenizer.framed(text, pair=f"This example is {c}.")[0] for c in candidates]
        entailed = torch.tensor([theirs(model, ids)[2] for ids in framed])
        wanted = dict(zip(candidates, torch.softmax(entailed, 0).tolist(), strict=True))
        assert got["labels"] == sorted(candidates, key=wanted.__getitem__, reverse=True)
        assert max(abs(s - wanted[c]) for s, c in zip(got["scores"], got["labels"], strict=True)) < 1e-5
        assert mt.pipeline(model=judge.model).task == "text-classification"


def test_what_an_encoder_decoder_with_classes_cannot_do_is_said(tmp_path: Path) -> None:
    made(small_bart("bart", decoder_start_token_id=3), tmp_path)
    with mt.load(tmp_path) as model:
        with pytest.raises(
            InputError, match=r"text 0 lacks the id 2 \(eos_token_id\), at whose last place this bart's"
        ):
            model.logits([0, 7, 8])
        with pytest.raises(InputError, match="decoder_ids: bart is a classifier, whose decoder reads ids; leave them"):
            model.logits(ENDED[0], decoder_ids=[2])
        with pytest.raises(
            InputError, match="generate: bart is a classifier, which writes no text; use logits or pred"
        ):
            model.generate([0, 7, 2])
        with pytest.raises(InputError, match=r"encode: bart is an encoder-decoder.* logits its classes"):
            model.encode("Ana")
        with pytest.raises(InputError, match="text2text-generation: this bart model is a classifier"):
            mt.pipeline("text2text-generation", model)
        assert model.hidden(ENDED[0]).shape == (len(ENDED[0]), 32)
    with pytest.raises(PlanError, match="token 2 ends the texts of which the head says something, but is cut"):
        mt.load(tmp_path, prune=mt.PrunePlan(vocab="0-1,3-52"))
    raw = json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(ConfigError, match=r"eos_token_id is \[2, 3\]; expected one id"):
        parse_config(raw | {"eos_token_id": [2, 3]}, "config.json")
    with pytest.raises(ConfigError, match="architectures"):
        parse_config(raw | {"architectures": ["BartForQuestionAnswering"]}, "config.json")


@pytest.mark.parametrize("family", BARTS)
def test_what_is_left_of_an_encoder_decoder_is_written_and_read_again(family: str, tmp_path: Path) -> None:
    made(small_bart(family), tmp_path / "whole")
    plan = mt.PrunePlan(layers="0,2", ffn={0: "0-15", 2: "4-19"}, vocab="0-45")
    ids = [0, 7, 8, 9, END]
    with mt.load(tmp_path / "whole", prune=plan) as cut:
        wanted = cut.logits(ids)
    prune(tmp_path / "whole", tmp_path / "cut", plan)
    with mt.load(tmp_path / "cut") as again:
        assert np.array_equal(again.logits(ids), wanted)
    left = oracle(tmp_path / "cut")
    exact = theirs(left, ids)
    assert np.abs(wanted - exact).max() <= near(left, ids, exact)
    quantize(tmp_path / "whole", tmp_path / "int8", "int8")
    with mt.load(tmp_path / "whole", quantize="int8") as a, mt.load(tmp_path / "int8") as b:
        assert np.array_equal(a.logits(ids), b.logits(ids))
