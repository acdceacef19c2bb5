"""Decoders against `transformers` in float64: logits and greedy ids of every family; pruned, quantised, exported."""

from __future__ import annotations

import json
from inspect import signature
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from checkpoints import DECODERS as FAMILIES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miaotui.errors import BackendError, ConfigError, PlanError
from miaotui.limits import Request
from miaotui.loader.config import parse_config
from miaotui.loader.families import FAMILIES as REGISTRY
from miaotui.loader.load_plan import make_load_plan
from miaotui.loader.open import open_model
from miaotui.loader.prune.plan import PrunePlan
from miaotui.loader.roles import EACH
from miaotui.prepare import prepare
from miaotui.tools.commands.quantize import quantize
from miaotui.tools.importance.calibrate import Statistics, calibrate
from miaotui.tools.importance.depth import block_influence
from miaotui.tools.importance.layers import through_layers
from miaotui.tools.importance.methods import Text
from miaotui.tools.importance.slicegpt import can_turn
from miaotui.tools.prune import prune
from miaotui.tools.rounding.folds import folds_of
from tolerance import U, bound

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

SETTINGS = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False)
LONGEST, NEW = 70, 6
#: Families of ring `fast`: fused by head and parallel; normed after, and whole.
FAST = ("olmo2", "gpt_neox", "qwen2_moe")
#: Kin of GPT-2.
GPT_LIKE = ("opt", "gptj", "gpt_neo", "gpt_bigcode", "xglm")
#: Their config has no width of a head.
DIVIDED = ("olmo", "olmo2", "olmo3", "stablelm", "gpt_neox", "cohere", "cohere2", "opt", "gptj", "gpt_neo")
DIVIDED += ("gpt_bigcode", "exaone4", "granite", "smollm3", "phi3", "phi", "starcoder2", "arcee", "helium")
DIVIDED += ("bloom", "mpt", "falcon", "apertus", "xglm", "qwen2_moe", "olmoe")
#: With experts; their sizes below.
MOE = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe")


@st.composite
def llama_like(draw: st.DrawFn, family: str) -> dict[str, Any]:
    """Sizes, biases and windows, as most families name them."""
    n_layers, n_kv_heads = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    n_heads, d_head = n_kv_heads * draw(st.integers(1, 3)), draw(st.sampled_from([4, 8, 12, 16, 20]))
    width = d_head if family in DIVIDED else draw(st.sampled_from([4, 5, 11, 16]))
    said: dict[str, Any] = {
        "vocab_size": draw(st.integers(6, 131)),
        "hidden_size": n_heads * width,
        "intermediate_size": draw(st.integers(1, 67)),
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads,
        "head_dim": d_head,
        "hidden_act": draw(st.sampled_from(["silu", "gelu_pytorch_tanh", "relu"])),
        "max_position_embeddings": 128,
    }
    if family in {"gemma2", "gemma3_text"}:
        said |= {"sliding_window": draw(st.sampled_from([1, 5, 19, 200])), "query_pre_attn_scalar": 7}
        said |= {"hidden_activation": said["hidden_act"], "final_logit_softcapping": draw(st.sampled_from([None, 2.0]))}
    if family == "gemma2":
        said["attn_logit_softcapping"] = draw(st.sampled_from([None, 0.5, 50.0]))
    if family in {"bloom", "mpt"}:
        said["intermediate_size"] = None
    if family == "mpt":
        said |= {"max_seq_len": 128, "attn_config": {"softmax_scale": draw(st.sampled_from([None, 0.3]))}}
        said["attn_config"]["clip_qkv"] = draw(st.sampled_from([None, 0.5, 6.0]))
    if family == "falcon":
        flags = ("alibi", "new_decoder_architecture", "multi_query", "parallel_attn", "bias")
        said |= {name: draw(st.booleans()) for name in flags}
        said |= {"num_kv_heads": n_kv_heads if said["new_decoder_architecture"] else None}
        said["ffn_hidden_size"] = said["intermediate_size"]
    said |= draw(expert_keys(n_layers)) if family in MOE else {}
    if family in DIVIDED and family != "helium":
        del said["head_dim"]
    for name in ("attention_bias", "mlp_bias", "use_qkv_bias", "attention_out_bias", "use_bias"):
        said[name] = draw(st.booleans())
    if family in {"ministral", "exaone4", "cohere2", "olmo3", "starcoder2", "phi3"}:
        said["sliding_window"] = draw(st.sampled_from([1, 5, 19, 200]))
    if family in {"ministral", "exaone4", "cohere2", "olmo3", "gemma2", "gemma3_text"} and draw(st.booleans()):
        kinds = st.sampled_from(["full_attention", "sliding_attention"])
        said["layer_types"] = draw(st.lists(kinds, min_size=n_layers, max_size=n_layers))
    return said


@st.composite
def expert_keys(draw: st.DrawFn, n_layers: int) -> dict[str, Any]:
    """Experts, layers that have none, and windows."""
    n = draw(st.integers(1, 7))
    return {
        "num_experts": n,
        "num_local_experts": n,
        "num_experts_per_tok": draw(st.integers(1, n)),
        "moe_intermediate_size": draw(st.integers(1, 67)),
        "norm_topk_prob": draw(st.booleans()),
        "shared_expert_intermediate_size": draw(st.integers(1, 67)),
        "qkv_bias": draw(st.booleans()),
        "sliding_window": draw(st.sampled_from([1, 5, 200])),
        "use_sliding_window": draw(st.booleans()),
        "decoder_sparse_step": draw(st.integers(1, 2)),
        "max_window_layers": draw(st.integers(0, n_layers)),
        "mlp_only_layers": sorted(draw(st.sets(st.integers(0, n_layers - 1), max_size=1))),
    }


@st.composite
def gpt_like(draw: st.DrawFn, family: str) -> dict[str, Any]:
    """The same of GPT-2's kin."""
    n_heads, d_head = draw(st.integers(1, 4)), draw(st.sampled_from([2, 4, 8, 10, 16]))
    n_layers = draw(st.integers(1, 3))
    said: dict[str, Any] = {
        "vocab_size": draw(st.integers(6, 131)),
        "hidden_size": n_heads * d_head,
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "max_position_embeddings": 80,
        "activation_function": draw(st.sampled_from(["gelu_new", "gelu", "relu"])),
    }
    d_ff = {"opt": "ffn_dim", "xglm": "ffn_dim", "gpt_neo": "intermediate_size"}.get(family, "n_inner")
    said[d_ff] = draw(st.integers(1, 67) if d_ff == "ffn_dim" else st.none() | st.integers(1, 67))
    if family == "xglm":
        said["scale_embedding"] = draw(st.booleans())
    if family == "gptj":
        said["rotary_dim"] = 2 * draw(st.integers(1, d_head // 2))
    if family == "gpt_neo":
        said["window_size"] = draw(st.sampled_from([1, 5, 19]))
        said["attention_types"] = [[[draw(st.sampled_from(["global", "local"]))], 1] for _ in range(n_layers)]
    if family == "gpt_bigcode":
        said |= {"multi_query": draw(st.booleans()), "scale_attn_weights": draw(st.booleans())}
    if family == "opt":
        said |= {"enable_bias": draw(st.booleans()), "do_layer_norm_before": draw(st.booleans())}
        said["word_embed_proj_dim"] = draw(st.sampled_from([said["hidden_size"], 3, 20]))
        said["_remove_final_layer_norm"] = draw(st.booleans())
    return said


@st.composite
def variants(draw: st.DrawFn, family: str) -> dict[str, Any]:
    """What few models of a family have."""
    said: dict[str, Any] = {}
    if family == "apertus" and draw(st.booleans()):
        said["hidden_act"] = "xielu"
    if family in {"phi", "cohere"}:
        said |= dict.fromkeys(("qk_layernorm", "use_qk_norm"), draw(st.booleans()))
    if family == "stablelm":
        said["use_parallel_residual"] = draw(st.booleans())
        said["qk_layernorm"] = draw(st.booleans())
    if family == "olmo":
        said["clip_qkv"] = draw(st.sampled_from([None, 0.5, 8.0]))
    return said


@st.composite
def configs(draw: st.DrawFn, family: str) -> Any:
    """A config of `transformers`: what its class has no word for is left out."""
    said = draw(gpt_like(family) if family in GPT_LIKE else llama_like(family))
    said |= {"tie_word_embeddings": draw(st.booleans()), "bos_token_id": 0, "eos_token_id": None, "pad_token_id": None}
    kind = transformers.CONFIG_MAPPING[family]
    if family in {"stablelm", "phi", "glm", "glm4", "phi3"}:
        part = draw(st.sampled_from([0.5, 1.0]))
        said["rope_parameters"] = {"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": part}
    if family == "gpt_neox":
        part = draw(st.sampled_from([0.5, 1.0]))
        said["rope_parameters"] = {"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": part}
        said["use_parallel_residual"] = draw(st.booleans())
    if family == "granite":
        said |= {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "logits_scaling": 6.0}
        said["attention_multiplier"] = draw(st.sampled_from([0.1, 0.5]))
    if family == "smollm3":
        n = said["num_hidden_layers"]
        said["no_rope_layers"] = draw(st.none() | st.lists(st.integers(0, 1), min_size=n, max_size=n))
        said |= {"use_sliding_window": draw(st.booleans()), "sliding_window": 5}
    if family == "hunyuan_v1_dense" and draw(st.booleans()):
        rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "alpha": 1000.0, "factor": 1.0}
        said["rope_parameters"] = rope | {"beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}
    if family == "arcee":
        said["hidden_act"] = "relu2"
    said |= draw(variants(family))
    if family in {"cohere", "cohere2"}:
        said["logit_scale"] = draw(st.sampled_from([0.0625, 0.5, 1.0]))
    if family == "helium":
        said["num_key_value_heads"] = said["num_attention_heads"]
    if family == "xglm":
        said |= {"pad_token_id": 1, "hidden_size": max(4, said["hidden_size"])}
        said["hidden_size"] += -said["hidden_size"] % said["num_attention_heads"]
    known = {*signature(kind).parameters, *kind.attribute_map}
    known |= {"head_dim"} if family == "qwen3_moe" else set()  # its class takes it and does not name it
    return kind(**{name: value for name, value in said.items() if name in known})


def made(config: Any, directory: Path, seed: int = 0, dtype: Any = None) -> Any:
    """A random model of a config, written to a directory; it is returned in float64, with the numbers of the file."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for p in model.parameters():  # norms and biases too, which begin at 1 and 0
            p.copy_(torch.randn_like(p) * 0.3 + (p if p.dim() == 1 else 0))
    model.to(dtype or torch.float32).save_pretrained(directory)
    return oracle(directory)


def oracle(directory: Path) -> Any:
    """Loaded in float64, not cast: that rounds frequencies, too. Every tensor is used and none invented."""
    # Falcon's eager path adds its linear biases twice
    raw = json.loads((directory / "config.json").read_text())
    how = "sdpa" if raw["model_type"] == "falcon" else "eager"
    more = {"experts_implementation": "eager"} if "num_experts_per_tok" in raw else {}  # the other has no float64
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float64, attn_implementation=how, output_loading_info=True, **more
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def theirs(model: Any, ids: list[int]) -> np.ndarray:
    """[T, n_vocab] in float64."""
    if model.config.model_type == "xglm":  # whose mask is made in the default dtype, which must hold it
        torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0].numpy()
    finally:
        torch.set_default_dtype(torch.float32)


def near(model: Any, ids: list[int], wanted: np.ndarray) -> float:
    """A norm over few numbers divides by their size, and enlarges an error: as `sensitivity` of tests/test_families.

    transformers rounds to float32 on the way, in norms, softmax and rotation; so the tolerance is of the model's size.
    """
    table = model.get_input_embeddings().weight
    kept, sign = table.detach().clone(), np.random.default_rng(0).choice([-1.0, 1.0], tuple(table.shape))
    with torch.no_grad():
        table *= torch.tensor(1 + 16 * U * sign)
        moved = float(np.abs(theirs(model, ids) - wanted).max()) / 16
        table.copy_(kept)
    scale = max(float(np.abs(wanted).max()), moved / U)
    return bound("model", "f32", model.config.num_hidden_layers, scale=scale)


@pytest.mark.parametrize("family", [f if f in FAST else pytest.param(f, marks=pytest.mark.ci) for f in FAMILIES])
def test_logits_and_greedy_ids_are_those_of_transformers(family: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    @SETTINGS
    @given(configs(family), st.data())
    def holds(config: Any, data: st.DataObject) -> None:
        directory = tmp_path_factory.mktemp(family)
        dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
        model = made(config, directory, data.draw(st.integers(0, 99)), dtype)
        n = data.draw(st.integers(1, LONGEST))
        ids = np.random.default_rng(n).integers(0, config.vocab_size, n).tolist()
        options = {"threads": data.draw(st.integers(1, 2)), "prefill_chunk": data.draw(st.sampled_from([5, 32, 128]))}
        with miaotui.load(directory, **options) as ours:
            got = ours.logits(ids)
            new = ours.generate(ids, max_new_tokens=NEW, do_sample=False).ids
        wanted = theirs(model, ids)
        limit = near(model, ids, wanted)
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).max() <= limit
        after = theirs(model, [*ids, *new])[n - 1 : -1]
        assert len(new) == NEW
        assert (after.max(axis=1) - after[np.arange(NEW), new] <= 2 * limit).all()

    holds()


def small(family: str, **more: Any) -> Any:
    """A fixed config: four layers, two groups of two queries where they are grouped."""
    said: dict[str, Any] = {
        "vocab_size": 53, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8, "max_position_embeddings": 64, "tie_word_embeddings": False, "bos_token_id": 0,
        "eos_token_id": None, "pad_token_id": None, "sliding_window": 5, "attention_types": [[["global", "local"], 2]],
        "window_size": 5, "rotary_dim": 4, "intermediate_size": 24, "ffn_dim": 24, "n_inner": 24,
    }  # fmt: skip
    if family == "helium":
        said["num_key_value_heads"] = 4
    if family == "apertus":
        said["hidden_act"] = "xielu"
    if family == "xglm":
        said["pad_token_id"] = 1
    if family in MOE:
        said |= {"num_experts": 6, "num_local_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
        said |= {"shared_expert_intermediate_size": 12, "mlp_only_layers": [3] if family == "qwen2_moe" else []}
    if family == "falcon":
        said |= {"ffn_hidden_size": 24, "alibi": True, "new_decoder_architecture": True, "num_kv_heads": 2}
    kind = transformers.CONFIG_MAPPING[family]
    known = {*signature(kind).parameters, *kind.attribute_map}
    return kind(**{name: value for name, value in (said | more).items() if name in known})


IDS = list(range(4, 30))
#: Whose feed-forward transformers builds four times as wide as the model, whatever config.json says.
FOUR_TIMES = ("bloom", "mpt")
#: What few models of a family have: opt-350m, Command R+, StableLM 2 12B, OLMo 1.7, MPT StoryWriter.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "opt-350m": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 12}),
    "opt-projected": ("opt", {"word_embed_proj_dim": 12, "tie_word_embeddings": True}),
    "cohere-normed": ("cohere", {"use_qk_norm": True}),
    "phi-normed": ("phi", {"qk_layernorm": True}),
    "stablelm-parallel": ("stablelm", {"use_parallel_residual": True}),
    "stablelm-normed": ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True}),
    "olmo-clipped": ("olmo", {"clip_qkv": 0.5}),
    "mpt-clipped": ("mpt", {"attn_config": {"clip_qkv": 0.5}}),
}
WITH_VARIANTS = [*((f, {}) for f in FAMILIES), *VARIANTS.values()]
NAMES = [*FAMILIES, *VARIANTS]


def each(*leave: str) -> Any:
    """Every family and variant but these; a few of ring `fast`."""
    cases = [(name, *case) for name, case in zip(NAMES, WITH_VARIANTS, strict=True) if case[0] not in leave]
    marks = [() if name in FAST else (pytest.mark.ci,) for name, *_ in cases]
    params = [pytest.param(f, more, marks=mark, id=name) for (name, f, more), mark in zip(cases, marks, strict=True)]
    return pytest.mark.parametrize(("family", "more"), params)


@each()
def test_what_a_plan_leaves_can_be_written_and_is_read_by_transformers(
    family: str, more: dict[str, Any], tmp_path: Path
) -> None:
    """Layers, neurons, token ids, and heads where config.json has their width; the export gives the plan's bits."""
    made(small(family, **more), tmp_path / "whole")
    layers, vocab = (0, 3), tuple(range(40))
    heads: dict[int, tuple[int, ...]] = {}
    # Helium's last product is as wide as the model, norms of Phi's queries as its width divided by the heads
    if "d_head" in REGISTRY[family].spelling and family != "helium" and not more.get("qk_layernorm"):
        heads = dict.fromkeys(layers, (2, 3))
    ffn = {} if family in FOUR_TIMES else dict.fromkeys(layers, tuple(range(0, 24, 2)))
    plan = PrunePlan(layers, heads, ffn, vocab=vocab)
    with miaotui.load(tmp_path / "whole", prune=plan) as model:
        wanted = model.logits(IDS)
    _, _, refused = prune(tmp_path / "whole", tmp_path / "cut", plan)
    assert refused is None
    with miaotui.load(tmp_path / "cut") as model:
        assert model.logits(IDS).tobytes() == wanted.tobytes()
    again = oracle(tmp_path / "cut")
    exact = theirs(again, IDS)
    assert np.abs(exact - wanted).max() <= near(again, IDS, exact)


#: Queries and keys are normed across heads: fewer of them are another model.
ACROSS = ("olmo2", "olmo3", "olmoe")


@each(*ACROSS)
def test_a_head_that_is_cut_is_a_head_that_adds_nothing(family: str, more: dict[str, Any], tmp_path: Path) -> None:
    """Against transformers with zeros in the columns of the last product."""
    model = made(small(family, **more), tmp_path)
    with open_model(tmp_path) as opened:
        o = [opened.model_tensors.name("o", REGISTRY[family].layer["o"], i) for i in range(4)]
    kept = (2, 3)
    with torch.no_grad():
        for name in o:
            weight = model.get_parameter(name)
            weight[:, : 2 * weight.shape[1] // 4] = 0
    with miaotui.load(tmp_path, prune=PrunePlan(heads=dict.fromkeys(range(4), kept))) as cut:
        got = cut.logits(IDS)
        assert cut.config.stack.attention(0).n_heads == 2
    exact = theirs(model, IDS)
    assert np.abs(exact - got).max() <= near(model, IDS, exact)


@each()
def test_what_is_quantised_and_written_is_what_is_quantised_while_loading(
    family: str, more: dict[str, Any], tmp_path: Path
) -> None:
    model = made(small(family, **more), tmp_path / "whole", dtype=torch.bfloat16)
    quantize(tmp_path / "whole", tmp_path / "int8", "int8")
    with miaotui.load(tmp_path / "whole", quantize="int8") as loaded, miaotui.load(tmp_path / "int8") as written:
        got = loaded.logits(IDS)
        assert written.logits(IDS).tobytes() == got.tobytes()
    exact = theirs(model, IDS)
    off = np.abs(got - exact).mean(1)  # of experts the usual token's: one that goes to another expert is another text
    assert 0 < (np.median(off) if family in MOE else off.mean()) < 0.25 * np.abs(exact).mean()


class Windows(Text):
    """Ids in the place of a text."""

    def windows(self, *_: Any) -> Any:
        return [IDS, IDS[::-2]]


def scaled_is_no_other(tmp_path: Path, text: Windows) -> None:
    """What multiplies columns and divides what makes the input changes nothing but the rounding."""
    with open_model(tmp_path / "whole") as opened:
        folds, left = folds_of(make_load_plan(opened, "int8"))
    quantize(tmp_path / "whole", tmp_path / "scaled", "int8", method="smooth", text=text)
    rows, vectors = [], []
    for path, how in (("whole", None), ("whole", "int8"), ("scaled", None)):
        with miaotui.load(tmp_path / path, quantize=how) as model:
            rows.append(model.logits(IDS).astype(np.float64))
            vectors.append({w.name: w.f64() for w in model.session.weights if len(w.shape) == 1})
    exact, plain, scaled = rows
    assert np.median(np.abs(scaled - exact).mean(1)) < 4 * np.median(np.abs(plain - exact).mean(1))
    changed = {name for name, x in vectors[0].items() if not np.array_equal(x, vectors[2][name])}
    assert changed == {name for fold in folds for name in fold.vectors}
    told = json.loads((tmp_path / "scaled" / "config.json").read_text())["quantization_config"]["not_scaled"]
    assert sum(told.values()) == len(left)


@each()
def test_layer_by_layer_a_model_is_what_it_is_and_may_be_rounded(
    family: str, more: dict[str, Any], tmp_path: Path
) -> None:
    """What each layer reads has the bits that it has in the whole model, and every matrix is rounded by it."""
    made(small(family, **more), tmp_path / "whole", dtype=torch.bfloat16)
    text, seen = Windows("", window=32), Statistics(np.zeros(0))
    with miaotui.load(tmp_path / "whole", max_context=32, prefill_chunk=32) as model:
        once = calibrate(model, text.windows(), hessian=True, experts=True)

        def as_it_is(layer: Any, read: Statistics) -> tuple[Any, dict[str, Any]]:
            seen.hessian.update(read.hessian)
            return layer, {}

        through_layers(model, text.windows(), as_it_is, "", hessian=True)
        assert seen.hessian.keys() == once.hessian.keys()
        assert all(np.array_equal(sums, once.hessian[name]) for name, sums in seen.hessian.items())
    quantize(tmp_path / "whole", tmp_path / "out", "int4", method="gptq", text=text)
    scaled_is_no_other(tmp_path, text)
    quantize(tmp_path / "whole", tmp_path / "plain", "int4")
    with miaotui.load(tmp_path / "out") as rounded, miaotui.load(tmp_path / "plain") as plain:
        assert np.isfinite(rounded.logits(IDS)).all()
        pairs = list(zip(rounded.session.weights, plain.session.weights, strict=True))
        assert all((a.name, a.dtype, a.shape) == (b.name, b.dtype, b.shape) for a, b in pairs)
        same = [a.name for a, b in pairs if a.quantized and np.array_equal(a.array, b.array)]
    told = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["rounded_as_ever"]
    assert len(same) == sum(told.values())
    assert told.keys() <= {"embed", "embed_project", *EACH}


@pytest.mark.parametrize(("family", "more"), WITH_VARIANTS, ids=NAMES)
def test_matrices_stay_in_the_file(family: str, more: dict[str, Any], tmp_path: Path) -> None:
    made(small(family, **more), tmp_path, dtype=torch.bfloat16)
    with open_model(tmp_path) as opened:
        prepared = prepare(opened, Request())
        assert all(len(source.shape) == 1 for source in prepared.plan if source.offset is not None)
        assert prepared.memory["weights_mapped"] == sum(
            info.nbytes
            for info in opened.checkpoint.tensors.values()
            if len(info.shape) > 1 and not info.name.endswith("_norm.weight")  # Cohere's gains, by head
        )


@pytest.mark.parametrize(("family", "more"), [("gpt_neox", {}), ("gpt_bigcode", {"multi_query": False})])
def test_parts_of_a_product_have_the_bits_of_products_of_parts(
    family: str, more: dict[str, Any], tmp_path: Path
) -> None:
    """F32 stays fused in the file; of F64 with the same numbers every part is gathered, as of what a plan cuts."""
    made(small(family, **more), tmp_path / "f32")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "f32", dtype=torch.float64)
    again.save_pretrained(tmp_path / "f64")
    with miaotui.load(tmp_path / "f32") as fused, miaotui.load(tmp_path / "f64") as apart:
        assert fused.memory["weights_mapped"] > 0 == apart.memory["weights_mapped"]
        assert "pick" in fused.program().counts()
        assert "pick" not in apart.program().counts()
        wanted = apart.logits(IDS)
        assert fused.logits(IDS).tobytes() == wanted.tobytes()
        seen, other = (calibrate(model, [IDS]) for model in (fused, apart))
        assert all(np.array_equal(seen.squares[name], other.squares[name]) for name in other.squares)
    with miaotui.load(tmp_path / "f32", threads=1, prefill_chunk=3) as chunked:
        assert chunked.logits(IDS).tobytes() == wanted.tobytes()


#: What each needs that the GPU's path lacks; a family that is not here runs there.
LACKING = {
    "pick": ("gpt_neox", "bloom", "falcon"),
    "attention_biased": ("mpt",),
    "rope_part": ("phi", "stablelm", "cohere", "cohere2", "helium", "glm", "glm4", "ernie4_5", "gptj"),
    "scale": ("granite", "gemma", "gemma2", "gemma3_text", "xglm"),
    "relu2": ("arcee",),
    "xielu": ("apertus",),
    "route": MOE,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gpu_that_lacks_an_op_is_told_by_name(family: str, tmp_path: Path) -> None:
    made(small(family, residual_multiplier=0.5), tmp_path)
    what = next((op for op, families in LACKING.items() if family in families), None)
    with open_model(tmp_path) as opened:
        if what is None:
            assert prepare(opened, Request(device="cuda"), free=2**40).program.code
            return
        with pytest.raises(BackendError, match=f"this {family} model needs the .*'{what}', which cuda lacks"):
            prepare(opened, Request(device="cuda"), free=2**40)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine"),
    ("gptj", {"rotary_dim": 3}, "rotary_dim is 3; expected an even number"),
    ("gptj", {"rotary_dim": 10}, "rotary_dim is 10"),
    ("gpt_neo", {"attention_types": [[["global"], 3]]}, "attention_types"),
    ("gpt_neo", {"attention_types": [[["global"], 2**40]]}, "attention_types"),
    ("gpt_neo", {"attention_types": [[[["local"]], 4]]}, "attention_types"),
    ("phi", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.4}}, "are 3 to rotate"),
    ("phi", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.01}}, "are 0 to rotate"),
    ("olmo", {"clip_qkv": 0}, "clip_qkv is 0; expected a number above 0"),
    ("mpt", {"attn_config": {"clip_qkv": "6"}}, "clip_qkv"),
    ("apertus", {"qk_norm": False}, "qk_norm"),
    ("apertus", {"post_norm": True}, "post_norm"),
    ("apertus", {"hidden_act": "xIELU"}, "hidden_act"),
    ("olmo2", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ("olmo3", {"rope_parameters": {"rope_theta": 1e4}}, "rope_parameters"),
    ("olmo3", {"layer_types": ["full_attention"] * 3}, "layer_types"),
    ("smollm3", {"no_rope_layers": [1, 0, 2, 1]}, "no_rope_layers"),
    ("cohere2", {"use_qk_norm": True}, "use_qk_norm"),
    ("granite", {"logits_scaling": 0}, "logits_scaling"),
    ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ("hunyuan_v1_dense", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "computed with alpha alone"),
    ("exaone4", {"layer_types": None, "sliding_window_pattern": "LLLG"}, "sliding_window_pattern"),
    ("helium", {"head_dim": 6}, "hidden_size"),
    ("xglm", {"pad_token_id": 3}, "pad_token_id is 3; expected 0 or 1"),
    ("xglm", {"attention_heads": 3}, "a multiple of attention_heads"),
]


@pytest.mark.parametrize(("family", "keys", "says"), BAD)
def test_what_is_not_computed_is_refused(family: str, keys: dict[str, Any], says: str, tmp_path: Path) -> None:
    raw = small(family).to_dict() | keys
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match=says):
        parse_config(raw, str(tmp_path / "config.json"))


def test_names_of_older_files_are_read(tmp_path: Path) -> None:
    """Pythia as published: the head is embed_out, masks lie among the tensors, rotary_pct stands outside."""
    from safetensors.torch import load_file, save_file

    made(small("gpt_neox"), tmp_path / "new")
    tensors = load_file(tmp_path / "new" / "model.safetensors")
    old = {"embed_out.weight" if name == "lm_head.weight" else name: x for name, x in tensors.items()}
    assert ("embed_out.weight" in tensors) != ("lm_head.weight" in tensors)
    other = {"lm_head.weight" if name == "embed_out.weight" else name: x for name, x in tensors.items()}
    raw = json.loads((tmp_path / "new" / "config.json").read_text())
    part = raw.pop("rope_parameters")
    raw |= {"rotary_pct": part["partial_rotary_factor"], "rotary_emb_base": part["rope_theta"]}
    logits = []
    for name, named in (("old", old), ("other", other)):
        directory = tmp_path / name
        directory.mkdir()
        for i in range(4):
            named[f"gpt_neox.layers.{i}.attention.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool)
        save_file(named, directory / "model.safetensors", {"format": "pt"})
        (directory / "config.json").write_text(json.dumps(raw))
        with miaotui.load(directory) as model:
            logits.append(model.logits(IDS))
    with miaotui.load(tmp_path / "new") as model:
        assert all(np.array_equal(model.logits(IDS), each) for each in logits)


def test_a_basis_is_refused_where_it_does_not_commute(tmp_path: Path) -> None:
    for family in ("gemma", "olmo2", "glm4", "phi", "exaone4"):
        made(small(family), tmp_path / family)
        with open_model(tmp_path / family) as opened, pytest.raises(PlanError, match="slicegpt"):
            can_turn(opened.config)


@pytest.mark.parametrize("family", ["olmo", "olmo2", "cohere", "gemma"])
def test_the_stream_between_layers_is_found_whatever_is_normed(family: str, tmp_path: Path) -> None:
    """Block influence of each layer but the last, of which transformers tells the normed stream alone."""
    model = made(small(family), tmp_path)
    with miaotui.load(tmp_path) as ours:
        got = block_influence(calibrate(ours, [IDS]))
    with torch.no_grad():
        hidden = [h[0].numpy() for h in model(torch.tensor([IDS[:-1]]), output_hidden_states=True).hidden_states]
    cosine = [(a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1) for a, b in pairwise(hidden)]
    assert len(got) == 4
    np.testing.assert_allclose(got[:3], [1 - c.mean() for c in cosine[:3]], atol=1e-5)


@pytest.mark.parametrize("family", [pytest.param(f, marks=pytest.mark.ci) for f in FAMILIES if f not in DIVIDED])
def test_a_share_of_the_width_is_ranked_and_written(family: str, tmp_path: Path) -> None:
    made(small(family), tmp_path / "whole")
    if family.startswith("gemma"):
        with pytest.raises(PlanError, match="scaled by the root of the width"):
            prune(tmp_path / "whole", tmp_path / "cut", "width=0.5")
        return
    with miaotui.load(tmp_path / "whole", prune="width=0.5") as model:
        wanted = model.logits(IDS)
        assert model.config.d_model == 16
    prune(tmp_path / "whole", tmp_path / "cut", "width=0.5")
    again = oracle(tmp_path / "cut")
    exact = theirs(again, IDS)
    assert np.abs(exact - wanted).max() <= near(again, IDS, exact)


def test_heads_that_config_json_has_no_words_for_are_cut_while_loading_alone(tmp_path: Path) -> None:
    made(small("gpt_neox"), tmp_path / "whole")
    plan = PrunePlan(heads=dict.fromkeys(range(4), (0, 3)))
    with pytest.raises(PlanError, match="heads cannot go"):
        prune(tmp_path / "whole", tmp_path / "cut", plan)
    with miaotui.load(tmp_path / "whole", prune=plan) as model:
        assert model.config.stack.attention(3).n_heads == 2
