"""Plans, receipts and importance of encoders and encoder-decoders: each stack is cut by itself."""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from miaotui.errors import CheckpointError, InputError, PlanError
from miaotui.limits import Request
from miaotui.loader.open import open_model
from miaotui.loader.prune.options import parse_prune
from miaotui.loader.prune.plan import PrunePlan
from miaotui.loader.source import spans_by_file
from miaotui.prepare import prepare
from miaotui.tools.cli import main
from miaotui.tools.commands.inspect import facts, lines
from miaotui.tools.importance.calibrate import calibrate
from miaotui.tools.importance.depth import block_influence
from miaotui.tools.importance.methods import Text, Wish, find
from miaotui.tools.prune import prune
from test_encoders import sentence_files, word_pieces
from test_pages_read import PAGE, resident
from test_seq2seq import norm_over
from tolerance import bound

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def made(config: Any, directory: Path, kind: str) -> Any:
    """A random model, written with a tokenizer of words; as transformers computes it in float64."""
    torch.manual_seed(3)
    model = getattr(transformers, f"AutoModelFor{kind}").from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.copy_(torch.randn_like(p) * 0.3 + (p if p.dim() == 1 else 0))
    model.save_pretrained(directory)
    word_pieces(directory)
    return model.double().eval()


def t5(**more: Any) -> Any:
    said = {"num_layers": 4, "num_decoder_layers": 3, "d_model": 24, "d_kv": 8, "num_heads": 4, "d_ff": 37}
    return transformers.T5Config(vocab_size=304, decoder_start_token_id=0, **said | more)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("t5")
    made(t5(), directory, "Seq2SeqLM")
    return directory


def small_bert(**more: Any) -> Any:
    return transformers.BertConfig(
        vocab_size=304, hidden_size=24, num_hidden_layers=4, num_attention_heads=3, intermediate_size=37,
        max_position_embeddings=40, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bert")
    made(small_bert(), directory, "MaskedLM")
    vocabulary = json.loads((directory / "tokenizer.json").read_text())
    vocabulary["model"]["vocab"]["[MASK]"] = vocabulary["model"]["vocab"].pop("w299")
    (directory / "tokenizer.json").write_text(json.dumps(vocabulary))
    return directory


SOURCE, TARGET = list(range(4, 33)), [0, 7, 19, 33]
BOTH = {
    "format": "miaotui-prune",
    "version": 1,
    "layers": "0,2",
    "cross_heads": {"0": "1-3", "2": ""},
    "encoder": {"order": "3,0", "heads": {"0": "0,1"}, "ffn": {"3": "0-9"}, "sparsity": {"down": "0.5"}},
}


def test_forms_files_and_records_say_the_same(two: Path, tmp_path: Path) -> None:
    plan = PrunePlan.from_dict(BOTH)
    assert PrunePlan.from_dict(json.loads(plan.to_json())) == plan
    assert plan.encoder is not None
    assert plan.encoder.order == (3, 0)
    assert "of the encoder" in str(plan)
    plan.save(tmp_path / "plan.json")
    text = "keep-layers=0,2; drop-cross-heads=0:0; drop-cross-attention=2; "
    text += "encoder-keep-layers=0,1,3; encoder-drop-heads=0:2,3"
    with open_model(two) as opened:
        short, file = (parse_prune(wish, opened) for wish in (text, tmp_path / "plan.json"))
        assert file is not None
        assert short is not None
        assert (short.layers, short.cross_heads) == (file.layers, file.cross_heads)
        assert short.encoder is not None
        assert (short.encoder.layers, short.encoder.heads) == ((0, 1, 3), {0: (0, 1)})
        after = parse_prune({"plan": str(tmp_path / "plan.json"), "encoder_drop_layers": "0"}, opened)
        assert after is not None
        assert after.encoder is not None
        assert after.encoder.run == (0,)


def test_composing_is_one_plan_for_each_stack() -> None:
    first = PrunePlan(encoder=PrunePlan(layers=(1, 3), ffn={3: (0, 2, 4)}), cross_heads={1: (0, 2)})
    second = PrunePlan(encoder=PrunePlan(layers=(1,), ffn={1: (1, 2)}), cross_heads={1: (1,)})
    both = first.then(second)
    assert both.encoder == PrunePlan(layers=(3,), ffn={3: (2, 4)})
    assert both.cross_heads == {1: (2,)}
    with pytest.raises(PlanError, match=r"encoder\.layers: the second plan keeps 3"):
        first.then(PrunePlan(encoder=PrunePlan(layers=(3,))))
    with pytest.raises(PlanError, match=r"encoder\.sparsity of q: .*width cuts"):
        PrunePlan(encoder=PrunePlan(sparsity={"q": "2:4"})).then(PrunePlan(width=(0, 1)))


def test_each_stack_is_cut_by_itself(two: Path) -> None:
    """Against the whole model with zeros where a head, a neuron or a whole sublayer is cut."""
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(two, dtype=torch.float64, attn_implementation="eager")
    stacks = model.encoder.block, model.decoder.block
    with torch.no_grad():
        stacks[0][1].layer[1].DenseReluDense.wo.weight[:, 10:] = 0
        stacks[0][2].layer[0].SelfAttention.o.weight[:, :8] = 0
        stacks[1][1].layer[1].EncDecAttention.o.weight[:, 16:] = 0
        stacks[1][2].layer[1].EncDecAttention.o.weight[:] = 0
        wanted = model(torch.tensor([SOURCE]), decoder_input_ids=torch.tensor([TARGET]))
    of = PrunePlan(ffn={1: range(10)}, heads={2: (1, 2, 3)})  # type: ignore[dict-item]  # a range is a set, too
    plan = PrunePlan(cross_heads={1: (0, 1), 2: ()}, encoder=of)
    with miaotui.load(two, prune=plan) as cut, miaotui.load(two, prune=plan, threads=1, prefill_chunk=3) as other:
        got, hidden = cut.logits(SOURCE, decoder_ids=TARGET), cut.hidden(SOURCE)
        assert np.abs(hidden - wanted.encoder_last_hidden_state[0].numpy()).max() < 1e-4
        assert np.abs(got - wanted.logits[0].numpy()).max() < 1e-3
        assert other.logits(SOURCE, decoder_ids=TARGET).tobytes() == got.tobytes()
        assert not any(e.weight.startswith("layers.2.cross") for e in cut.receipt.entries)
        names = {e.weight: e.shape for e in cut.receipt.entries}
        assert names["encoder.layers.1.down"] == (24, 10)
        assert names["layers.1.cross_o"] == (24, 16)
        assert names["layers.1.down"] == (24, 37)


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_one_stack_is_written_and_read_by_transformers(stack: str, tmp_path: Path) -> None:
    """T5's layers; neurons and heads are said of both stacks, and cut of one refused by name."""
    made(t5(), tmp_path / "whole", "Seq2SeqLM")
    plan = PrunePlan(layers=(0, 2)) if stack == "decoder" else PrunePlan(encoder=PrunePlan(layers=(1, 2)))
    prune(tmp_path / "whole", tmp_path / "left", plan)
    again = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "left", dtype=torch.float64)
    with torch.no_grad():
        wanted = again(torch.tensor([SOURCE]), decoder_input_ids=torch.tensor([TARGET]))
    with miaotui.load(tmp_path / "whole", prune=plan) as cut:
        assert np.abs(cut.logits(SOURCE, decoder_ids=TARGET) - wanted.logits[0].numpy()).max() < 1e-3
        assert np.abs(cut.hidden(SOURCE) - wanted.encoder_last_hidden_state[0].numpy()).max() < 1e-4
    ffn = dict.fromkeys(range(4), tuple(range(9)))
    one = {0: (0, 1)}
    for other in (
        PrunePlan(encoder=PrunePlan(ffn=ffn)), PrunePlan(cross_heads=dict.fromkeys(range(3), (0, 1))),
        PrunePlan(heads=one), PrunePlan(encoder=PrunePlan(heads=one)),
    ):  # fmt: skip
        with pytest.raises(PlanError, match=r"(d_ff|num_heads) is one number for all of .*: cut each of them alike"):
            prune(tmp_path / "whole", tmp_path / "other", other)


def test_uneven_layers_of_an_encoder_are_written_for_ourselves(tmp_path: Path) -> None:
    config = transformers.BartConfig(
        vocab_size=304, d_model=24, encoder_layers=3, decoder_layers=2, encoder_attention_heads=3,
        decoder_attention_heads=2, encoder_ffn_dim=37, decoder_ffn_dim=31, max_position_embeddings=60,
    )  # fmt: skip
    made(config, tmp_path / "whole", "Seq2SeqLM")
    plan = PrunePlan(encoder=PrunePlan(ffn={0: (0, 1, 2), 1: ()}, heads={2: ()}))
    _, _, refused = prune(tmp_path / "whole", tmp_path / "left", plan)
    assert refused is not None
    assert "encoder_per_layer_config" in refused
    with miaotui.load(tmp_path / "whole", prune=plan) as cut, miaotui.load(tmp_path / "left") as left:
        assert cut.config == left.config
        assert cut.hidden(SOURCE).tobytes() == left.hidden(SOURCE).tobytes()
        assert cut.logits(SOURCE, decoder_ids=TARGET).tobytes() == left.logits(SOURCE, decoder_ids=TARGET).tobytes()


BAD: list[tuple[Any, str]] = [
    ("encoder-keep-layers=9", r'prune="encoder-keep-layers=9": there is no layer 9; the model has 4 \(0 to 3\)'),
    ("encoder-drop-heads=0:9", r'prune="encoder-drop-heads=0:9": there is no head 9 in layer 0; it has 4'),
    ("drop-cross-heads=0:4", r'prune="drop-cross-heads=0:4": there is no head 4 in layer 0; it has 4'),
    ("encoder-ffn=2", r'prune="encoder-ffn=2": .*above 0 and at most 1'),
    ("encoder-vocab=x", "'encoder_vocab' is not understood"),
    ("decoder-keep-layers=0", r"did you mean (encoder-)?keep-layers"),
    ({**BOTH, "encoder": {"width": "0-3"}}, "encoder: unknown key 'width'; expected some of layers"),
    ({**BOTH, "encoder": {"layers": "0-9"}}, r"encoder\.layers: there is no layer 9"),
    ({**BOTH, "encoder": 3}, "encoder: found 3"),
    ({**BOTH, "cross_heads": {"0": "9"}}, "cross_heads of layer 0: there is no head 9; it has 4"),
    ({**BOTH, "encoder": {"heads": {"0": ""}, "ffn": {"0": ""}}}, "encoder: layer 0 would keep neither"),
]


@pytest.mark.parametrize(("wish", "says"), BAD, ids=range(len(BAD)))
def test_bad_plans_are_refused_by_name(two: Path, wish: Any, says: str) -> None:
    with open_model(two) as opened, pytest.raises(PlanError, match=says):
        parse_prune(wish, opened)


def test_an_encoder_alone_has_no_encoder_of_its_own(one: Path) -> None:
    for wish in ("encoder-ffn=0.5", PrunePlan(encoder=PrunePlan(layers=(0,)))):
        with pytest.raises(PlanError, match="bert is not an encoder-decoder"):
            miaotui.load(one, prune=wish)
    with pytest.raises(PlanError, match="cross_heads of layer 0: there is no head 1; it has none"):
        miaotui.load(one, prune=PrunePlan(cross_heads={0: (1,)}))


def test_sinusoids_are_of_a_whole_width(tmp_path: Path) -> None:
    config = transformers.M2M100Config(
        vocab_size=53, d_model=24, encoder_layers=1, decoder_layers=1, encoder_attention_heads=3,
        decoder_attention_heads=2, encoder_ffn_dim=37, decoder_ffn_dim=31, max_position_embeddings=60,
    )  # fmt: skip
    made(config, tmp_path, "Seq2SeqLM")
    with pytest.raises(PlanError, match=r'"width=0.5": positions of this m2m_100 .* \(sinusoids\)'):
        miaotui.load(tmp_path, prune="width=0.5")


@pytest.mark.skipif(sys.platform != "linux", reason="counts Linux's pages")
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_the_encoder_alone_reads_no_page_of_the_decoder(family: str, tmp_path: Path) -> None:
    """By the system's account: after a cold load and `hidden`, no page is in memory that holds decoders' matrices."""
    if family == "t5":
        config = t5(d_model=256, d_kv=64, d_ff=512)
    else:
        config = transformers.BartConfig(
            vocab_size=304, d_model=256, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=512, decoder_ffn_dim=512, max_position_embeddings=64,
        )  # fmt: skip
    made(config, tmp_path, "Seq2SeqLM")
    file = tmp_path / "model.safetensors"
    with miaotui.load(tmp_path, threads=1) as model, file.open("rb+") as f:
        assert model._plan.encoder is not None
        encoder = [s for s in model._plan.encoder if s.role != "embed"]
        own = {id(s) for s in model._plan.encoder}
        decoder = [s for s in model._plan if id(s) not in own and len(s.shape) > 1]
        model._opened.checkpoint.expect({file: []})  # the system reads nothing ahead
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        before = resident(file)  # T5's tables of distances, which loading looks at
        if len(before) > 8:
            pytest.skip(f"this file system keeps {len(before)} pages of a file that is let go of")
        model.hidden(SOURCE)
        held = resident(file)
    inside = {
        page
        for spans in spans_by_file(decoder).values()
        for first, stop in spans
        for page in range(-(-first // PAGE), stop // PAGE)
    }
    assert len(inside) > 100
    assert not (held - before) & inside
    needed = {first // PAGE for spans in spans_by_file(encoder).values() for first, _ in spans}
    assert needed <= held


def test_inspect_tells_both_stacks(two: Path, one: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = facts(two, Request(prune=PrunePlan(layers=(0,), encoder=PrunePlan(ffn={1: (0, 1)}))), receipt="plain")
    told = "\n".join(lines(known))
    assert "encoder: 4 layers of width 24" in told
    assert "decoder: 1 layer of width 24" in told
    assert "encoder: layer 1: 4 heads on 4, feed-forward 2" in told
    assert "decoder: attention to the encoder: 4 heads" in told
    assert "biases by distance" in told
    for path in (two, one):
        assert main(["inspect", str(path), "--json"]) == 0
        said = json.loads(capsys.readouterr().out)["config"]
        assert ("decoder" in said) == (path == two)
    assert said["head"]["kind"] == "masked_lm"
    assert main(["inspect", str(one)]) == 0
    assert "head: masked lm, 304 results" in capsys.readouterr().out


def test_what_is_asked_of_the_wrong_kind_is_said(two: Path, one: Path, tmp_path: Path) -> None:
    with miaotui.load(two) as model:
        for call, said in (
            (lambda: model.encode("w1"), "encode: t5 is an encoder-decoder"),
            (lambda: model.last_logits([[1]]), r"last_logits: .*use logits\(ids, decoder_ids"),
            (lambda: model.hidden([1] * 600), "ids: 600 tokens, 88 more than the context of 512; give fewer$"),
        ):
            with pytest.raises(InputError, match=said):
                call()
    sentences = {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True}
    sentence_files(one, **sentences)
    with miaotui.load(one, max_context=20) as model:
        with pytest.raises(InputError, match="bert is an encoder, which writes no text; use encode, hidden or logits"):
            model.generate([1])
        with pytest.raises(InputError, match=r"found, expected texts; a pair of them is framed by"):
            model.encode([("w1", "w2")])  # type: ignore[list-item]
        pair, types = model.tokenizer.framed("w1 " * 20, pair="w2 " * 20)
        with pytest.raises(
            InputError, match="43 tokens, 23 more than the context of 20; give fewer, or load with max_context=40"
        ):
            model.logits(pair, token_types=types)
    made(small_bert(num_labels=3), tmp_path, "SequenceClassification")
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({k: v for k, v in raw.items() if not k.endswith(("2id", "2label"))})
    )
    with pytest.raises(CheckpointError, match=r"It knows 2 labels \(id2label.*name all 3 there"):
        miaotui.load(tmp_path)


#: Twelve lines of words, for what methods look at.
TEXT = "\n".join(" ".join(f"w{(7 * i + j) % 290}" for j in range(5 + i % 9)) for i in range(12))
PAIRS = "\n".join(f"{line}\tw{i} w{i + 3} w{i + 9}" for i, line in enumerate(TEXT.splitlines()))


def cosines(hidden: Any) -> np.ndarray:
    """Between what enters a layer and what leaves it, summed over the tokens, by layer."""
    states = [h[0].numpy() for h in hidden]
    return np.array(
        [((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).sum() for a, b in pairwise(states)]
    )


def test_statistics_of_an_encoder_are_those_of_transformers(one: Path) -> None:
    model = transformers.AutoModelForMaskedLM.from_pretrained(one, dtype=torch.float64, attn_implementation="eager")
    with miaotui.load(one) as ours:
        windows = Text(TEXT, window=9).windows(ours)
        assert max(map(len, windows)) == 9
        got = calibrate(ours, windows)
    wanted, squares, n = np.zeros(4), np.zeros(24), 0
    for ids in windows:
        with torch.no_grad():
            hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        wanted, n = wanted + cosines(hidden), n + len(ids)
        squares += (hidden[2][0].numpy() ** 2).sum(0)
    assert got.n == n
    np.testing.assert_allclose(block_influence(got), 1 - wanted / n, atol=1e-5)
    np.testing.assert_allclose(got.squares["layers.2.attn_in"], squares, rtol=1e-4)


def test_statistics_of_two_stacks_are_those_of_transformers(tmp_path: Path) -> None:
    config = transformers.BartConfig(
        vocab_size=304, d_model=24, encoder_layers=3, decoder_layers=2, encoder_attention_heads=3,
        decoder_attention_heads=2, encoder_ffn_dim=37, decoder_ffn_dim=31, max_position_embeddings=60,
    )  # fmt: skip
    model = made(config, tmp_path, "Seq2SeqLM")
    with miaotui.load(tmp_path) as ours:
        windows = Text(PAIRS).windows(ours)
        got = calibrate(ours, windows)
    assert got.encoder is not None
    wanted, n = [np.zeros(3), np.zeros(2)], [0, 0]
    for source, target in windows:
        with torch.no_grad():
            out = model(
                torch.tensor([source]), decoder_input_ids=torch.tensor([target[:-1]]), output_hidden_states=True
            )
        for i, (states, ids) in enumerate(
            ((out.encoder_hidden_states, source), (out.decoder_hidden_states, target[1:]))
        ):
            wanted[i], n[i] = wanted[i] + cosines(states), n[i] + len(ids)
    for seen, cosine, count in zip((got.encoder, got), wanted, n, strict=True):
        assert seen.n == count
        np.testing.assert_allclose(block_influence(seen), 1 - cosine / count, atol=1e-5)


CUTS = [
    Wish("block-influence", keep=2), Wish("first", keep=1), Wish("greedy", keep=3), Wish("activation", ffn=0.5),
    Wish("wanda-sp", ffn=0.5, heads=0.34), Wish("flap", ffn=0.5), Wish("activation", width=0.5),
]  # fmt: skip


@pytest.mark.parametrize("wish", CUTS, ids=str)
def test_methods_find_plans_of_encoders(one: Path, wish: Wish) -> None:
    found = find(one, wish, Text(TEXT))
    with miaotui.load(one, prune=found.plan) as cut:
        assert np.isfinite(cut.logits(SOURCE)).all()
        assert cut.config.n_layers == (wish.keep or 4)
        halves = [cut.config.stack.feed_forward(i) for i in range(cut.config.n_layers)]
        widths = [half.d_ff for half in halves if half is not None]
        if wish.method == "flap":  # a share of all neurons, whatever their layer
            assert (len(widths), sum(widths)) == (4, 74)
        else:
            assert widths == [37 if wish.ffn is None else 19] * len(halves)


def test_a_masked_head_is_as_wide_as_what_it_reads(one: Path) -> None:
    """Its product before the last one loses the same dimensions, and its norm is over those that are left."""
    kept = [*range(7), *range(9, 14)]
    model = transformers.AutoModelForMaskedLM.from_pretrained(one, attn_implementation="eager").double().eval()
    norm_over(model, kept)
    with torch.no_grad():
        wanted = model(torch.tensor([SOURCE])).logits[0].numpy()
    with miaotui.load(one, prune={"width": kept}) as cut:
        assert cut.config.head is not None
        assert (cut.config.head.width, cut.config.d_model) == (12, 12)
        near = (1 + 16 / np.sqrt(12)) * bound("model", "f32", 6, scale=float(np.abs(wanted).max()))
        assert np.abs(cut.logits(SOURCE) - wanted).max() <= near


def test_a_layer_without_its_attention_to_the_encoder_cannot_be_written(two: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no words for a layer that lacks its attention to the encoder"):
        prune(two, tmp_path / "left", PrunePlan(cross_heads={1: ()}))
    assert not (tmp_path / "left").exists()


@pytest.mark.parametrize("wish", [*CUTS[:2], Wish("greedy", keep=2), *CUTS[3:5], CUTS[6]], ids=str)
def test_methods_find_plans_of_both_stacks(two: Path, wish: Wish) -> None:
    found = find(two, wish, Text(PAIRS))
    assert (found.plan.encoder is None) == (wish.width is not None)  # of both stacks, and named outside
    with miaotui.load(two, prune=found.plan) as cut:
        assert np.isfinite(cut.logits(SOURCE, decoder_ids=TARGET)).all()
        assert cut.config.encoder is not None
        for stack, n in ((cut.config.encoder, 4), (cut.config.decoder, 3)):
            assert stack.n_layers == (wish.keep or n)
            assert stack.d_model == (12 if wish.width else 24)


def nll(path: Path, plan: PrunePlan) -> float:
    """Of the answers of `PAIRS`, summed."""
    total = 0.0
    with miaotui.load(path, prune=plan) as model:
        for source, target in Text(PAIRS).windows(model):
            z = model.logits(source, decoder_ids=target[:-1]).astype(np.float64)
            total += (np.log(np.exp(z).sum(1)) - z[range(len(z)), target[1:]]).sum()
    return float(total)


@pytest.mark.ci  # 4 s
def test_greedy_leaves_out_the_cheapest_layer_of_either_stack(tmp_path: Path) -> None:
    made(t5(num_layers=3, num_decoder_layers=2), tmp_path, "Seq2SeqLM")
    found = find(tmp_path, Wish("greedy", keep=1), Text(PAIRS))
    assert found.plan.encoder is not None
    steps = found.scores["steps"]
    assert [len(s["kept"]) + len(s["encoder"]) for s in steps] == [4, 3, 2]
    with miaotui.load(tmp_path) as model:
        count = sum(len(target) - 1 for _, target in Text(PAIRS).windows(model))
    first: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}
    for gone in range(5):
        decoder, encoder = ([i for i in range(n) if i + at != gone] for n, at in ((2, 0), (3, 2)))
        plan = PrunePlan(layers=tuple(decoder), encoder=PrunePlan(layers=tuple(encoder)))
        first[tuple(decoder), tuple(encoder)] = nll(tmp_path, plan)
    (kept, encoder), least = min(first.items(), key=lambda item: item[1])
    assert (tuple(steps[0]["kept"]), tuple(steps[0]["encoder"])) == (kept, encoder)
    assert steps[0]["nll"] == pytest.approx(least / count, rel=1e-4)


def small_bart() -> Any:
    return transformers.BartConfig(
        vocab_size=304, d_model=24, encoder_layers=3, decoder_layers=2, encoder_attention_heads=3,
        decoder_attention_heads=2, encoder_ffn_dim=37, decoder_ffn_dim=31, max_position_embeddings=60,
    )  # fmt: skip


def read_by(model: Any, directory: Path) -> dict[str, np.ndarray]:
    """Name of a linear module -> what it reads over all of `PAIRS`, [tokens, in]."""
    seen: dict[str, list[np.ndarray]] = {}

    def hook(name: str) -> Any:
        return lambda _, inputs: seen.setdefault(name, []).append(inputs[0][0].detach().numpy())

    hooks = [
        module.register_forward_pre_hook(hook(name))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    with miaotui.load(directory) as ours, torch.no_grad():
        for source, target in Text(PAIRS).windows(ours):
            model(torch.tensor([source]), decoder_input_ids=torch.tensor([target[:-1]]))
    for each in hooks:
        each.remove()
    return {name: np.concatenate(rows) for name, rows in seen.items()}


@pytest.mark.parametrize("method", ["magnitude", "wanda", pytest.param("sparsegpt", marks=pytest.mark.ci)])
@pytest.mark.parametrize("family", ["t5", pytest.param("bart", marks=pytest.mark.ci)])
def test_zeros_by_a_method_reach_every_matrix_of_both_stacks(family: str, method: str, tmp_path: Path) -> None:
    """Against what transformers' modules read: the numbers that stay, in cross attention too."""
    model = made(t5() if family == "t5" else small_bart(), tmp_path / "whole", "Seq2SeqLM")
    (tmp_path / "text.txt").write_text(PAIRS)
    asked = ["prune", str(tmp_path / "whole"), str(tmp_path / "cut"), "--method", method, "--sparsity", "0.5"]
    more = [] if method == "magnitude" else ["--one-pass", "--text", str(tmp_path / "text.txt")]
    assert main([*asked, *more]) == 0
    cut = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "cut", dtype=torch.float64)
    reads = read_by(model, tmp_path / "whole")
    names = [name for name in reads if name != "lm_head"]
    assert sum("EncDecAttention" in name or "encoder_attn" in name for name in names) == (12 if family == "t5" else 8)
    for name in names:
        w, new = (dict(m.named_modules())[name].weight.detach().numpy() for m in (model, cut))
        if method == "magnitude":
            kept = np.abs(w) > np.sort(np.abs(w).ravel())[w.size // 2 - 1]
            np.testing.assert_array_equal(new != 0, kept)
        elif method == "wanda":
            score = np.abs(w) * np.linalg.norm(reads[name], axis=0)
            kept = score > np.sort(score, 1)[:, [w.shape[1] // 2 - 1]]
            assert ((new != 0) != kept).mean() < 0.01  # scores that float32 moves past each other
            assert (new != 0).sum(1).tolist() == kept.sum(1).tolist()
            np.testing.assert_array_equal(new[new != 0], w[new != 0])
        else:
            x = reads[name]
            assert (new == 0).mean() == pytest.approx(0.5, abs=0.03)
            assert ((x @ (w - new).T) ** 2).sum() < ((x @ (w - np.where(new == 0, 0, w)).T) ** 2).sum()
    with miaotui.load(tmp_path / "cut") as ours, torch.no_grad():
        wanted = cut(torch.tensor([SOURCE]), decoder_input_ids=torch.tensor([TARGET])).logits[0].numpy()
        assert np.abs(ours.logits(SOURCE, decoder_ids=TARGET) - wanted).max() < 1e-3
    for bias in (n for n, _ in model.named_parameters() if n.endswith("bias")):
        np.testing.assert_array_equal(*(dict(m.named_parameters())[bias].detach().numpy() for m in (model, cut)))


def test_flap_moves_biases_of_both_stacks(tmp_path: Path) -> None:
    """b + W_gone mean(x_gone), by what transformers' modules read."""
    model = made(small_bart(), tmp_path / "whole", "Seq2SeqLM")
    reads = read_by(model, tmp_path / "whole")
    found = find(tmp_path / "whole", Wish("flap", ffn=0.5, uniform=True), Text(PAIRS))
    assert found.plan.encoder is not None
    assert "biases take up what goes" in found.plan.notes[0]
    prune(tmp_path / "whole", tmp_path / "cut", found.plan, found.rewrite)
    cut = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "cut", dtype=torch.float64)
    for side, plan, d_ff in (("encoder", found.plan.encoder, 37), ("decoder", found.plan, 31)):
        for i, kept in plan.ffn.items():
            name = f"model.{side}.layers.{i}.fc2"
            old, new = (dict(m.named_modules())[name] for m in (model, cut))
            gone = sorted(set(range(d_ff)) - set(kept))
            w, mean = old.weight.detach().numpy(), reads[name].mean(0)
            wanted = old.bias.detach().numpy() + w[:, gone] @ mean[gone]
            np.testing.assert_allclose(new.bias.detach().numpy(), wanted, atol=1e-5)
            np.testing.assert_array_equal(new.weight.detach().numpy(), w[:, list(kept)])
            assert len(kept) == (d_ff + 1) // 2


def test_layers_that_share_their_weights_are_cut_alike(tmp_path: Path) -> None:
    config = transformers.AlbertConfig(
        vocab_size=304, embedding_size=12, hidden_size=24, num_hidden_layers=4, num_attention_heads=3,
        intermediate_size=36, max_position_embeddings=40,
    )  # fmt: skip
    made(config, tmp_path / "whole", "MaskedLM")
    found = find(tmp_path / "whole", Wish("activation", ffn=0.5), Text(TEXT))
    assert len({found.plan.ffn[i] for i in range(4)}) == 1
    with miaotui.load(tmp_path / "whole", prune=found.plan) as cut:
        assert len({id(layer) for layer in cut.session.weights.stack.layers}) == 1
    scores = find(tmp_path / "whole", Wish("block-influence", keep=2), Text(TEXT)).scores["layers"]
    assert len(set(scores)) == 4
    with pytest.raises(PlanError, match=r"share their weights.* add --no-compensation"):
        find(tmp_path / "whole", Wish("flap", ffn=0.5), Text(TEXT))
    without = find(tmp_path / "whole", Wish("flap", ffn=0.5, compensate=False, uniform=True), Text(TEXT)).plan
    assert len({without.ffn[i] for i in range(4)}) == 1


@pytest.mark.parametrize(("family", "tied"), [("eurobert", False), ("eurobert", True), ("starcoder2", True)])
def test_a_key_of_biases_stands_for_all_of_them(family: str, *, tied: bool, tmp_path: Path) -> None:
    """EuroBERT's mlp_bias is of its head, too, StarCoder2's use_bias of attention: the others are zeros."""
    sizes = {
        "vocab_size": 304, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 36,
        "num_key_value_heads": 3, "max_position_embeddings": 40, "tie_word_embeddings": tied,
    }  # fmt: skip
    if family == "eurobert":
        made(transformers.EuroBertConfig(**sizes, pad_token_id=0), tmp_path / "whole", "MaskedLM")
    else:
        made(transformers.Starcoder2Config(**sizes, use_bias=False), tmp_path / "whole", "CausalLM")
    chosen = find(tmp_path / "whole", Wish("flap", ffn=0.5, uniform=True), Text(TEXT, window=16))
    prune(tmp_path / "whole", tmp_path / "cut", chosen.plan, chosen.rewrite)
    auto = transformers.AutoModelForMaskedLM if family == "eurobert" else transformers.AutoModelForCausalLM
    theirs, told = auto.from_pretrained(tmp_path / "cut", dtype=torch.float64, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    compensated, others = ("mlp.down_proj.bias", "lm_head.bias")
    if family == "starcoder2":
        compensated, others = ("mlp.c_proj.bias", "self_attn.o_proj.bias")
    biases = {name: bool(value.any()) for name, value in theirs.state_dict().items()}
    assert {any_set for name, any_set in biases.items() if name.endswith(compensated)} == {True}
    assert {any_set for name, any_set in biases.items() if name.endswith(others)} == {False}
    with miaotui.load(tmp_path / "cut") as cut, torch.no_grad():
        wanted = theirs(torch.tensor([SOURCE])).logits[0].numpy()
        assert np.abs(cut.logits(SOURCE) - wanted).max() < 1e-3


def test_what_no_method_does_is_said(two: Path, one: Path, tmp_path: Path) -> None:
    from miaotui.tools.importance.masks import parse_sparsity

    half = parse_sparsity("0.5")
    for path, wish, text, says in (
        (two, Wish("wanda", sparsity=half), PAIRS, "add --one-pass"),
        (two, Wish("slicegpt", width=0.5), PAIRS, "t5 is an encoder-decoder, which has no such basis.*--width"),
        (two, Wish("flap", ffn=0.5), PAIRS, "no such bias.*--no-compensation"),
        (one, Wish("sparsegpt", sparsity=half), TEXT, "add --one-pass"),
        (one, Wish("slicegpt", width=0.5), TEXT, "bert is an encoder"),
    ):
        with pytest.raises(PlanError, match=says):
            find(path, wish, Text(text))
    with pytest.raises(InputError, match="line 1 of the text: found no tab"):
        find(two, Wish("block-influence", keep=1), Text(TEXT))
    with pytest.raises(InputError, match="--statistics"):
        find(two, Wish("block-influence", keep=1), Text(PAIRS, file=tmp_path / "x.npz"))
    with pytest.raises(InputError, match="--method greedy --keep 1: the text has no masked token to ask for; expected"):
        find(one, Wish("greedy", keep=1), Text(TEXT, window=3))
    with pytest.raises(InputError, match="the text has no line"):
        find(one, Wish("block-influence", keep=1), Text("\n"))


def test_zeros_of_an_encoder_in_one_pass(one: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    asked = ["prune", str(one), str(tmp_path / "cut"), "--method", "wanda", "--sparsity", "0.5", "--one-pass"]
    assert main([*asked, "--text", str(tmp_path / "text.txt")]) == 0
    with miaotui.load(tmp_path / "cut") as cut:
        down = {w.name: w for w in cut.session.weights}["layers.1.down"].f64()
        assert (down == 0).mean() == pytest.approx(0.5, abs=0.02)


# ---------------------------------------------------------------- the encoder alone

ALONE = PrunePlan(only="encoder", encoder=PrunePlan(layers=(1, 3), ffn={1: tuple(range(30)), 3: tuple(range(5, 35))}))


@pytest.mark.parametrize("family", ["t5", "umt5", "bart"])
def test_the_encoder_alone_is_a_model(family: str, tmp_path: Path) -> None:
    """Its vectors are those of the cut encoder in the whole model, and of transformers' class for what is written."""
    if family == "bart":
        config = small_bart()
    else:
        kind = transformers.T5Config if family == "t5" else transformers.UMT5Config
        config = kind(
            vocab_size=304, num_layers=4, num_decoder_layers=2, d_model=24, d_kv=8, num_heads=4, d_ff=37,
            decoder_start_token_id=0, feed_forward_proj="gated-gelu" if family == "umt5" else "relu",
        )  # fmt: skip
    made(config, tmp_path / "whole", "Seq2SeqLM")
    wish = ALONE if family != "bart" else PrunePlan(only="encoder", encoder=PrunePlan(layers=(0, 2)))
    with miaotui.load(tmp_path / "whole", prune=PrunePlan(encoder=wish.encoder)) as both:
        wanted = both.hidden(SOURCE)
    with (
        miaotui.load(tmp_path / "whole", prune=wish) as cut,
        miaotui.load(tmp_path / "whole", prune=wish, threads=3) as m,
    ):
        assert cut.config.decoder is None
        assert cut.hidden(SOURCE).tobytes() == wanted.tobytes() == m.hidden(SOURCE).tobytes()
        ids = cut.tokenizer.encode("w5 w9 w17")
        mean = cut.hidden(ids).astype(np.float64).mean(0)
        assert np.abs(cut.encode("w5 w9 w17") - mean).max() < 1e-5
        texts = ["w1", "w2 w3 w4", "w5 w9 w17"]
        assert [v.tobytes() for v in cut.encode(iter(texts))] == [cut.encode(t).tobytes() for t in texts]
        assert cut.memory["weights_mapped"] < both.memory["weights_mapped"]
        assert cut.receipt.plan.startswith("keep the encoder alone; of the encoder layers")
        decoders = [n for n in cut.receipt.untouched if "decoder" in n]
        assert len(decoders) > 10
        assert not any("decoder" in e.tensor or e.weight.startswith("encoder.") for e in cut.receipt.entries)
        with pytest.raises(InputError, match="is an encoder, which writes no text"):
            cut.generate("w1")
    if family == "bart":
        with pytest.raises(PlanError, match="as a bart checkpoint: transformers has no class for its encoder alone"):
            prune(tmp_path / "whole", tmp_path / "left", wish)
        return
    _, written, refused = prune(tmp_path / "whole", tmp_path / "left", wish)
    assert refused is None
    assert written < (tmp_path / "whole" / "model.safetensors").stat().st_size / 2
    assert not (tmp_path / "left" / "generation_config.json").exists()
    raw = json.loads((tmp_path / "left" / "config.json").read_text())
    assert raw["architectures"] == [f"{family.upper()}EncoderModel"]
    kind = getattr(transformers, raw["architectures"][0])
    theirs, told = kind.from_pretrained(tmp_path / "left", dtype=torch.float64, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    with torch.no_grad():
        assert np.abs(theirs(torch.tensor([SOURCE])).last_hidden_state[0].numpy() - wanted).max() < 1e-4
    with miaotui.load(tmp_path / "left") as again:
        assert again.hidden(SOURCE).tobytes() == wanted.tobytes()
    second = PrunePlan(layers=(1,), ffn={1: (0, 1, 2)}, vocab=tuple(range(4, 60)))
    both_plans = wish.then(second)
    assert both_plans.only == "encoder"
    assert both_plans.encoder is not None
    assert (both_plans.encoder.layers, both_plans.encoder.ffn) == ((3,), {3: (5, 6, 7)})
    assert PrunePlan.from_dict(json.loads(both_plans.to_json())) == both_plans
    with miaotui.load(tmp_path / "left", prune=second) as a, miaotui.load(tmp_path / "whole", prune=both_plans) as b:
        assert a.hidden([1, 5, 9]).tobytes() == b.hidden([1, 5, 9]).tobytes()


@pytest.mark.parametrize(
    "how",
    [
        "only=encoder",
        "only=encoder; encoder-ffn=0.5",
        "only=encoder; width=0.5; encoder-ffn=0.5; encoder-sparsity=0.5",
        "only=encoder; encoder-sparsity=stored",
    ],
)
@pytest.mark.parametrize("quantize", [None, pytest.param("int8", marks=pytest.mark.ci)])
def test_forms_of_the_encoder_alone(two: Path, tmp_path: Path, how: str, quantize: str | None) -> None:
    """Shares are ranked by the encoder alone; what is written computes the same; what is predicted is taken."""
    with open_model(two) as opened:
        predicted = prepare(opened, Request(prune=how, quantize=quantize)).memory
    with miaotui.load(two, prune=how, quantize=quantize) as cut:
        wanted = cut.hidden(SOURCE)
        assert cut.memory == predicted
        assert (cut.config.d_model, cut.config.n_layers) == (12 if "width" in how else 24, 4)
    if quantize is None:
        prune(two, tmp_path / "left", how)
        with miaotui.load(tmp_path / "left") as again:
            assert again.hidden(SOURCE).tobytes() == wanted.tobytes()


@pytest.mark.skipif(sys.platform != "linux", reason="counts Linux's pages")
def test_the_encoder_alone_with_a_plan_reads_no_byte_of_the_decoder(tmp_path: Path) -> None:
    """By the system's account, in BF16 too, whose norms are copied while loading; shares rank the encoder's alone."""
    model = made(t5(d_model=256, d_kv=64, d_ff=512, num_layers=2, num_decoder_layers=2), tmp_path, "Seq2SeqLM")
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    before: set[int] = set()
    for _ in range(20):  # pages that were just written may wait in another core's list
        with file.open("rb+") as f:
            os.fsync(f.fileno())
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if not (before := resident(file)):
            break
        time.sleep(0.1)
    if before:
        pytest.skip(f"this file system keeps {len(before)} pages of a file that is let go of")
    how = "only=encoder; encoder-keep-layers=0; encoder-ffn=0.5; width=0.75"
    with miaotui.load(tmp_path, prune=how, threads=1) as model:
        model.hidden(SOURCE)
        model.encode("w4 w8")
        held = resident(file)
        tensors = model._opened.checkpoint.tensors
    decoder = [info for name, info in tensors.items() if name.startswith("decoder.")]
    inside = {page for t in decoder for page in range(-(-t.start // PAGE), t.stop // PAGE)}
    assert len(inside) > 100
    assert not held & inside


ALONE_BAD: list[tuple[Any, str]] = [
    ("only=decoder", "prune=\"only=decoder\": expected 'encoder', or nothing"),
    ("only=encoder; keep-layers=0", r"the encoder alone is kept, and layers is of the decoder; name it in encoder"),
    ("only=encoder; drop-cross-heads=0:1", "cross_heads is of the decoder"),
    ("only=encoder; ffn=0.5", "ffn is of the decoder"),
    ("only=encoder; encoder-keep-layers=9", "there is no layer 9; the model has 4"),
    ({"format": "miaotui-prune", "version": 1, "only": ["encoder"]}, "only: found"),
    ({**BOTH, "only": "encoder"}, "layers is of the decoder"),
    (PrunePlan(encoder=PrunePlan(layers=(0,)), only="encoder", experts={0: (0,)}), "experts"),
]


@pytest.mark.parametrize(("wish", "says"), ALONE_BAD, ids=range(len(ALONE_BAD)))
def test_bad_plans_of_one_stack_are_refused_by_name(two: Path, wish: Any, says: str) -> None:
    with open_model(two) as opened, pytest.raises(PlanError, match=says):
        parse_prune(wish, opened)


def test_only_is_for_two_stacks(one: Path, two: Path, tmp_path: Path) -> None:
    with pytest.raises(
        PlanError, match='prune="only=encoder": bert is no encoder-decoder, of which one stack could stay'
    ):
        miaotui.load(one, prune="only=encoder")
    with pytest.raises(PlanError, match="encoder: the first plan leaves the encoder alone"):
        ALONE.then(PrunePlan(encoder=PrunePlan(layers=(0,))))
    (tmp_path / "text.txt").write_text(TEXT)
    asked = ["prune", str(two), str(tmp_path / "cut"), "--only", "encoder", "--method", "wanda-sp", "--ffn", "0.5"]
    assert main([*asked, "--text", str(tmp_path / "text.txt")]) == 0
    with miaotui.load(tmp_path / "cut") as cut:
        assert cut.config.decoder is None
        assert {cut.config.stack.feed_forward(i).d_ff for i in range(4)} == {19}  # type: ignore[union-attr]
    asked = ["prune", str(two), str(tmp_path / "thin"), "--only", "encoder", "--method", "wanda", "--sparsity", "0.5"]
    assert main([*asked, "--one-pass", "--text", str(tmp_path / "text.txt")]) == 0
    with miaotui.load(tmp_path / "thin") as thin:
        down = {w.name: w for w in thin.session.weights}["layers.1.down"].f64()
        assert (down == 0).mean() == pytest.approx(0.5, abs=0.03)
