"""Decoders against `transformers` in float64: logits and greedy ids of every family; pruned, quantised, exported."""

from __future__ import annotations

import json
from inspect import signature
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from checkpoints import DECODERS as FAMILIES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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
FAST = ("olmo2", "gpt_neox")
#: Their config has no width of a head.
DIVIDED = ("olmo", "olmo2", "olmo3", "stablelm", "gpt_neox", "cohere", "cohere2", "opt", "gptj", "gpt_neo")
DIVIDED += (
    "bloom",
    "mpt",
    "falcon",
    "gpt_bigcode",
    "granite",
    "smollm3",
    "phi3",
    "phi",
    "starcoder2",
    "arcee",
    "helium",
)


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
    if family == "falcon":
        flags = ("alibi", "new_decoder_architecture", "multi_query", "parallel_attn", "bias")
        said |= {name: draw(st.booleans()) for name in flags}
        said |= {"num_kv_heads": n_kv_heads if said["new_decoder_architecture"] else None}
        said["ffn_hidden_size"] = said["intermediate_size"]
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
    d_ff = {"opt": "ffn_dim", "gpt_neo": "intermediate_size"}.get(family, "n_inner")
    said[d_ff] = draw(st.integers(1, 67) if family == "opt" else st.none() | st.integers(1, 67))
    if family == "gptj":
        said["rotary_dim"] = 2 * draw(st.integers(1, d_head // 2))
    if family == "gpt_neo":
        said["window_size"] = draw(st.sampled_from([1, 5, 19]))
        said["attention_types"] = [[[draw(st.sampled_from(["global", "local"]))], 1] for _ in range(n_layers)]
    if family == "gpt_bigcode":
        said |= {"multi_query": draw(st.booleans()), "scale_attn_weights": draw(st.booleans())}
    if family == "opt":
        said["enable_bias"] = draw(st.booleans())
    return said


@st.composite
def configs(draw: st.DrawFn, family: str) -> Any:
    """A config of `transformers`: what its class has no word for is left out."""
    said = draw(gpt_like(family) if family in {"opt", "gptj", "gpt_neo", "gpt_bigcode"} else llama_like(family))
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
    if family == "arcee":
        said["hidden_act"] = "relu2"
    if family in {"cohere", "cohere2"}:
        said["logit_scale"] = draw(st.sampled_from([0.0625, 0.5, 1.0]))
    if family == "helium":
        said["num_key_value_heads"] = said["num_attention_heads"]
    known = {*signature(kind).parameters, *kind.attribute_map}
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
    """Loaded in float64 (one that was cast has its frequencies rounded, too); every tensor is used, none invented."""
    # Falcon's eager path adds its linear biases twice
    how = "sdpa" if json.loads((directory / "config.json").read_text())["model_type"] == "falcon" else "eager"
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float64, attn_implementation=how, output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def theirs(model: Any, ids: list[int]) -> np.ndarray:
    """[T, n_vocab] in float64."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


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
