"""Every family: what a plan leaves of layers, heads, neurons and ids is written, read by transformers, and quantised.

What a family's config.json has no words for is refused by name; it can be cut while loading, as zeros show.
"""

from __future__ import annotations

import json
from inspect import signature
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from checkpoints import DECODERS, ENCODERS, SEQ2SEQ
from checkpoints import FAMILIES as FIRST
from miaotui.errors import PlanError
from miaotui.limits import Request
from miaotui.loader.families import FAMILIES as REGISTRY
from miaotui.loader.open import open_model
from miaotui.loader.prune.plan import PrunePlan
from miaotui.prepare import prepare
from miaotui.tools.commands.quantize import quantize
from miaotui.tools.prune import prune
from safetensors.torch import load_file, save_file
from tolerance import U, bound

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

#: Families of ring `fast`: an encoder, and an encoder-decoder.
FAST = ("bert", "t5")
FAMILIES = (*FIRST, *DECODERS, *ENCODERS, *SEQ2SEQ)
EVERY = [f if f in FAST else pytest.param(f, marks=pytest.mark.ci) for f in FAMILIES]  # 3 s each
#: transformers has no class of theirs (nemotron-nas: tests/test_prune_export.py).
ELSEWHERE = {"nemotron-nas"}
#: Whose config.json says how wide a head is, so that fewer of them can be written.
HEADS = {
    *("llama", "mistral", "qwen2", "qwen3", "seed_oss", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "ernie4_5"),
    *("hunyuan_v1_dense", "ministral", "t5", "mt5", "umt5", "phi", "phi3", "starcoder2", "smollm3", "granite"),
    *("arcee", "exaone4", "nomic_bert", "eurobert", "mixtral", "qwen3_moe"),
}
#: With experts.
MOE = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe")
#: transformers builds a feed-forward four times as wide as the model, whatever config.json says.
FOUR_TIMES = ("bloom", "mpt")
#: Queries and keys are normed across heads: fewer of them are another model, and zeros do not show it.
ACROSS = ("olmo2", "olmo3", "olmoe")
LAYERS, KEPT, NEURONS, IDS = (0, 2), (2, 3), tuple(range(0, 24, 2)), tuple(range(40))


def test_no_family_is_left_out() -> None:
    known = {transformers.CONFIG_MAPPING[f].model_type for f in FAMILIES}
    assert known == {name for name in REGISTRY if name not in ELSEWHERE}


def kind_of(family: str) -> str:
    """What class of transformers computes its logits."""
    return "MaskedLM" if family in ENCODERS else "Seq2SeqLM" if family in SEQ2SEQ else "CausalLM"


def config_of(family: str) -> Any:
    """Four layers of each stack, four heads in two groups where they are grouped, 24 neurons, 53 ids."""
    said: dict[str, Any] = {
        "vocab_size": 53, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8, "max_position_embeddings": 64, "tie_word_embeddings": False, "bos_token_id": 0,
        "eos_token_id": None, "pad_token_id": None, "sliding_window": 5, "attention_types": [[["global", "local"], 2]],
        "window_size": 5, "rotary_dim": 4, "intermediate_size": 24, "ffn_dim": 24, "n_inner": 24,
    }  # fmt: skip
    if family in ENCODERS:
        said |= {"embedding_size": 12, "dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 24, "local_attention": 10}
        said |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
        said |= {"tie_word_embeddings": True}
    if family in SEQ2SEQ:
        said |= {"d_model": 32, "d_kv": 8, "d_ff": 24, "num_layers": 4, "num_decoder_layers": 4, "num_heads": 4}
        for side in ("encoder", "decoder"):
            said |= {f"{side}_layers": 4, f"{side}_attention_heads": 4, f"{side}_ffn_dim": 24}
        said |= {"decoder_start_token_id": 2, "pad_token_id": 1, "eos_token_id": 2, "forced_eos_token_id": None}
        said |= {"tie_word_embeddings": family in {"mt5", "marian"}}
    if family == "helium":
        said["num_key_value_heads"] = 4
    if family == "falcon":
        said |= {"ffn_hidden_size": 24, "alibi": True, "new_decoder_architecture": True, "num_kv_heads": 2}
    kind = transformers.CONFIG_MAPPING[family]
    known = {*signature(kind).parameters, *kind.attribute_map}
    return kind(**{name: value for name, value in said.items() if name in known})


def made(family: str, directory: Path) -> Any:
    """A random model, written; as transformers reads it."""
    torch.manual_seed(0)
    auto = getattr(transformers, f"AutoModelFor{kind_of(family)}")
    model = auto.from_config(config_of(family))
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:  # not sinusoids
                p.copy_(torch.randn_like(p) * 0.3 + (p if p.dim() == 1 else 0))
    model.save_pretrained(directory)
    return oracle(family, directory)


def oracle(family: str, directory: Path) -> Any:
    """Loaded in float64; every tensor is used and none invented."""
    how = "sdpa" if family == "falcon" else "eager"  # whose eager path adds its linear biases twice
    auto = getattr(transformers, f"AutoModelFor{kind_of(family)}")
    more = {"experts_implementation": "eager"} if family in MOE else {}  # the other has no float64
    model, info = auto.from_pretrained(
        directory, dtype=torch.float64, attn_implementation=how, output_loading_info=True, **more
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


SOURCE, TARGET = list(range(4, 33)), [2, 7, 19, 33]


def theirs(family: str, model: Any) -> list[np.ndarray]:
    """Logits; of two stacks what the encoder gives, too."""
    more = {"decoder_input_ids": torch.tensor([TARGET])} if family in SEQ2SEQ else {}
    if family == "xglm":  # whose mask is made in the default dtype, which must hold it
        torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            out = model(torch.tensor([SOURCE]), **more)
    finally:
        torch.set_default_dtype(torch.float32)
    return [out.logits[0].numpy()] + ([out.encoder_last_hidden_state[0].numpy()] if family in SEQ2SEQ else [])


def ours(family: str, model: miaotui.Model) -> list[np.ndarray]:
    """The same."""
    if family in SEQ2SEQ:
        return [model.logits(SOURCE, decoder_ids=TARGET), model.hidden(SOURCE)]
    return [model.logits(SOURCE)]


def check_near(family: str, model: Any, got: list[np.ndarray]) -> None:
    """As near as rounding allows; a norm over few numbers divides by their size, and enlarges an error."""
    wanted, table = theirs(family, model), model.get_input_embeddings().weight
    kept, sign = table.detach().clone(), np.random.default_rng(0).choice([-1.0, 1.0], tuple(table.shape))
    with torch.no_grad():
        table *= torch.tensor(1 + 16 * U * sign)
        others = theirs(family, model)
        table.copy_(kept)
    for a, b, other in zip(got, wanted, others, strict=True):
        moved = float(np.abs(other - b).max()) / 16
        assert np.abs(a - b).max() <= bound("model", "f32", 16, scale=max(float(np.abs(b).max()), moved / U))


def plan_of(family: str, *, heads: bool, layers: tuple[int, ...] = LAYERS, neurons: bool = True) -> PrunePlan:
    """Both stacks are cut; where one key of config.json is said of both, alike."""
    both: dict[str, Any] = {"layers": layers}
    both |= {"heads": dict.fromkeys(layers, KEPT)} if heads else {}
    both |= {"ffn": dict.fromkeys(layers, NEURONS)} if neurons and family not in FOUR_TIMES else {}
    if family not in SEQ2SEQ:
        return PrunePlan(**both, vocab=IDS)
    cross = dict.fromkeys(layers, KEPT) if heads else {}
    return PrunePlan(**both, cross_heads=cross, encoder=PrunePlan(**both), vocab=IDS)


@pytest.mark.parametrize("family", EVERY)
def test_what_a_plan_leaves_is_written_read_by_transformers_and_quantised(family: str, tmp_path: Path) -> None:
    made(family, tmp_path / "whole")
    plan = plan_of(family, heads=family in HEADS)
    _, _, refused = prune(tmp_path / "whole", tmp_path / "left", plan)
    assert refused is None
    with miaotui.load(tmp_path / "whole", prune=plan) as cut, miaotui.load(tmp_path / "left") as left:
        got = ours(family, cut)
        assert cut.config == left.config
        assert all(a.tobytes() == b.tobytes() for a, b in zip(got, ours(family, left), strict=True))
        check_receipt(cut)
    check_near(family, oracle(family, tmp_path / "left"), got)
    for how in ("int8", "int4"):
        quantize(tmp_path / "left", tmp_path / how, how)
        with miaotui.load(tmp_path / "left", quantize=how) as here, miaotui.load(tmp_path / how) as there:
            again = ours(family, here)
            assert all(a.tobytes() == b.tobytes() for a, b in zip(again, ours(family, there), strict=True))
            assert 0 < np.abs(again[0] - got[0]).mean() < np.abs(got[0]).mean()
            for model, path, options in ((here, "left", {"quantize": how}), (there, how, {})):
                check_memory(model, tmp_path / path, Request(**options))


def check_receipt(model: miaotui.Model) -> None:
    """It has every weight of every stack as it is, and the bytes that the memory has."""
    told, weights = model.receipt, tuple(model.session.weights)
    entries = {e.weight: (e.shape, e.dtype) for e in told.entries}
    there = {w.name: (w.shape, w.dtype) for w in weights if "positions" not in w.name and "norm" not in w.name}
    assert there.items() <= entries.items()
    assert any(name.startswith("encoder.") for name in there) == (model.config.seq2seq)
    assert told.read_bytes + told.untouched_bytes <= told.file_bytes
    assert (told.mapped_bytes, told.resident_bytes) == tuple(
        model.memory[f"weights_{x}"] for x in ("mapped", "resident")
    )


def check_memory(model: miaotui.Model, path: Path, request: Request) -> None:
    """What was predicted is what there is."""
    with open_model(path) as opened:
        assert prepare(opened, request).memory == model.memory
    weights = tuple(model.session.weights)
    resident = {w.array.ctypes.data: -(-w.nbytes // 64) * 64 for w in weights if w.array is not None and not w.mapped}
    assert model.memory["weights_resident"] == sum(resident.values())
    mapped = sum(w.nbytes for w in weights if w.mapped)
    for stack in (model.session.weights.decoder, model.session.weights.encoder):
        if stack is not None and stack.positions is not None:  # rows before that of position 0
            mapped += (model.config.positions or 0) * stack.positions.nbytes // stack.positions.shape[0]
    assert model.memory["weights_mapped"] == mapped


@pytest.mark.parametrize(
    "family", [f if f in FAST else pytest.param(f, marks=pytest.mark.ci) for f in FAMILIES if f not in ACROSS]
)
def test_heads_that_are_cut_add_nothing(family: str, tmp_path: Path) -> None:
    """Against transformers with zeros in the columns of every product that takes them back to the stream."""
    made(family, tmp_path / "whole")
    with open_model(tmp_path / "whole") as opened:
        file = opened.model_tensors
        stacks = [file] if file.encoder is None else [file, file.encoder]
        roles = [(of, role, of.layer[role]) for of in stacks for role in ("o", "cross_o") if role in of.layer]
        names = {of.name(role, part, i) for of, role, part in roles for i in range(4)}
    tensors = load_file(tmp_path / "whole" / "model.safetensors")
    for name in names:
        columns = tensors[name].T if family == "gpt2" else tensors[name]  # which is stored turned
        columns[:, : columns.shape[1] // 2] = 0
    (tmp_path / "zeros").mkdir()
    (tmp_path / "zeros" / "config.json").write_bytes((tmp_path / "whole" / "config.json").read_bytes())
    save_file(tensors, tmp_path / "zeros" / "model.safetensors", {"format": "pt"})
    plan = plan_of(family, heads=True, layers=tuple(range(4)), neurons=False)
    plan = PrunePlan(heads=plan.heads, cross_heads=plan.cross_heads, encoder=plan.encoder)
    with miaotui.load(tmp_path / "whole", prune=plan) as cut:
        check_near(family, oracle(family, tmp_path / "zeros"), ours(family, cut))


#: Why heads cannot be written, as the error says it.
WHY = {
    **dict.fromkeys(FAMILIES, "heads cannot go"),
    **dict.fromkeys(("bloom", "mpt", "falcon"), "heads cannot"),
    "helium": "n_heads|head",
}


@pytest.mark.parametrize(
    "family", [f if f in FAST else pytest.param(f, marks=pytest.mark.ci) for f in FAMILIES if f not in HEADS]
)
def test_heads_that_config_json_has_no_words_for_are_refused_by_name(family: str, tmp_path: Path) -> None:
    made(family, tmp_path / "whole")
    plan = plan_of(family, heads=True, neurons=False)
    if family == "gpt2":
        _, _, refused = prune(tmp_path / "whole", tmp_path / "left", plan)
        assert refused is not None
        assert "pruned_heads" in json.loads((tmp_path / "left" / "config.json").read_text())
        return
    with pytest.raises(
        PlanError,
        match=f"cannot be written as a {transformers.CONFIG_MAPPING[family].model_type} checkpoint: .*{WHY[family]}",
    ):
        prune(tmp_path / "whole", tmp_path / "left", plan)
    assert not (tmp_path / "left").exists()


@pytest.mark.parametrize(
    "family", ["albert", pytest.param("electra", marks=pytest.mark.ci), pytest.param("opt", marks=pytest.mark.ci)]
)
def test_a_share_of_the_width_where_the_embedding_has_its_own(family: str, tmp_path: Path) -> None:
    """Dimensions into which nothing is written go first: rows of zeros in what turns the embedding, in o and down."""
    torch.manual_seed(0)
    config = config_of(family)
    if family == "opt":
        config.word_embed_proj_dim, config.do_layer_norm_before = 12, False
    auto = getattr(transformers, f"AutoModelFor{kind_of(family)}")
    model, gone = auto.from_config(config), list(range(1, 32, 2))
    writers = (
        "project_in",
        "embedding_hidden_mapping_in",
        "embeddings_project",
        "attention.dense",
        "attention.output.dense",
    )
    writers += ("ffn_output", "output.dense", "out_proj", "fc2", "embed_positions")
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * 0.3 + (p if p.dim() == 1 else 0))
            if name.rpartition(".")[0].endswith(writers):
                p[(..., gone) if "embed_positions" in name else gone] = 0
    model.save_pretrained(tmp_path / "whole")
    with miaotui.load(tmp_path / "whole", prune="width=0.5") as cut:
        assert cut.config.d_model == 16
        assert np.isfinite(cut.logits(SOURCE)).all()
        with open_model(tmp_path / "whole") as opened:
            assert prepare(opened, Request(prune="width=0.5")).prune.width == tuple(range(0, 32, 2))
    with pytest.raises(PlanError, match="a head's width is the model's divided by the heads"):
        prune(tmp_path / "whole", tmp_path / "left", "width=0.5")


@pytest.mark.ci  # 4 s
def test_heads_of_single_layers_of_umt5_are_written(tmp_path: Path) -> None:
    """Each of its layers has a table of distances of its own, which has as many columns as the layer heads."""
    made("umt5", tmp_path / "whole")
    plan = "drop-heads=1:0,1; encoder-drop-heads=0:1+2:0,3"
    prune(tmp_path / "whole", tmp_path / "left", plan)
    with miaotui.load(tmp_path / "whole", prune=plan) as cut, miaotui.load(tmp_path / "left") as left:
        assert cut.config == left.config
        assert cut.logits(SOURCE, decoder_ids=TARGET).tobytes() == left.logits(SOURCE, decoder_ids=TARGET).tobytes()
        tables = {e.weight: e.shape for e in left.receipt.entries if e.weight.endswith("own_bias")}
        assert [tables[f"layers.{i}.own_bias"][1] for i in range(4)] == [4, 2, 4, 4]
        assert [tables[f"encoder.layers.{i}.own_bias"][1] for i in range(4)] == [3, 4, 2, 4]
