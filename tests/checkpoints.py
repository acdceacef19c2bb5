"""Random Hugging Face checkpoints for tests: Hypothesis draws a `config.json`, a writer fills a directory.

Names and shapes are spelled out here once more, apart from `loader.families`: a mistake must not hide in both.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import strategies as st

if TYPE_CHECKING:
    from pathlib import Path

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gpt2")
#: Of tests/test_decoders.py, by transformers' name of their config's class.
DECODERS = (
    "olmo2", "phi", "gpt_neox", "stablelm", "phi3", "starcoder2", "smollm3", "granite", "cohere", "opt", "gemma",
    "seed_oss", "helium", "glm", "glm4", "ernie4_5", "hunyuan_v1_dense", "arcee", "olmo", "gptj", "gpt_neo",
    "gpt_bigcode", "ministral", "exaone4", "cohere2", "olmo3", "gemma2", "gemma3_text", "bloom", "mpt", "falcon",
    "apertus", "xglm", "mixtral", "qwen2_moe", "qwen3_moe", "olmoe",
)  # fmt: skip
#: Of tests/test_seq2seq.py.
SEQ2SEQ = (
    "bart", "mbart", "marian", "pegasus", "blenderbot", "blenderbot-small", "m2m_100", "t5", "mt5", "umt5",
)  # fmt: skip
#: Of tests/test_encoders.py.
ENCODERS = (
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "electra",
    "albert",
    "distilbert",
    "mpnet",
    "modernbert",
    "nomic_bert",
    "eurobert",
    "deberta-v2",
)
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}


@dataclass(frozen=True)
class Drawn:
    """One drawn model: its `config.json`, the dtype of its file, the seed of its weights, the longest prompt for it."""

    config: dict[str, Any]
    dtype: str = "F32"
    seed: int = 0
    longest: int = 70


def small(family: str) -> Drawn:
    """One fixed model of `family`, two layers, a context of 64."""
    if family == "gpt2":
        sizes = {"n_positions": 64, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_inner": 7}
    else:
        sizes = {"hidden_size": 12, "intermediate_size": 7, "num_hidden_layers": 2, "num_attention_heads": 3}
        sizes |= {"num_key_value_heads": 1, "max_position_embeddings": 64}
    own = {"mistral": {"sliding_window": 5}, "qwen3": {"head_dim": 4}}.get(family, {})
    return Drawn({"model_type": family, "vocab_size": 11, "tie_word_embeddings": True, **sizes, **own})


@st.composite
def models(draw: st.DrawFn, family: str, rope: str | None = None) -> Drawn:
    """Draw a small model of `family`; `rope` fixes the kind of rotary scaling."""
    config, longest = draw(gpt2_configs() if family == "gpt2" else llama_configs(family, rope))
    dtype = draw(st.sampled_from(["F32", "BF16", "F16"]))
    return Drawn(config, dtype, draw(st.integers(0, 2**16)), longest)


@st.composite
def llama_configs(draw: st.DrawFn, family: str, rope: str | None = None) -> tuple[dict[str, Any], int]:
    """Draw a config of the Llama-like families, and the longest prompt that it takes."""
    kind = rope or draw(st.sampled_from(["default", "linear", "dynamic", "llama3", "yarn"]))
    n_layers = draw(st.integers(1, 3))
    n_kv_heads = draw(st.integers(1, 3))
    n_heads = n_kv_heads * draw(st.integers(1, 3))
    d_head = draw(st.sampled_from([4, 6, 8, 10, 16, 20, 32]))
    own_width = family != "qwen2" and draw(st.booleans())
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": draw(st.integers(2, 131)),
        # transformers wants a multiple of the heads, even where head_dim is given
        "hidden_size": n_heads * (draw(st.sampled_from([1, 5, 7, 11, 16])) if own_width else d_head),
        "intermediate_size": draw(st.integers(1, 67)),
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads,
        "hidden_act": draw(st.sampled_from(["silu", "silu", "gelu", "gelu_pytorch_tanh", "relu"])),
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-5])),
        "tie_word_embeddings": draw(st.booleans()),
        "bos_token_id": draw(st.sampled_from([None, 0, 1])),
        "eos_token_id": None,
        "torch_dtype": "float32",
    }
    if own_width or family == "qwen3" or draw(st.booleans()):
        config["head_dim"] = d_head
    if n_kv_heads == n_heads and family != "mistral" and draw(st.booleans()):
        config["num_key_value_heads"] = None
    if family in {"llama", "qwen3"}:
        config["attention_bias"] = draw(st.booleans())
    if family == "llama":
        config["mlp_bias"] = draw(st.booleans())
    if family == "mistral":
        config["sliding_window"] = draw(st.none() | st.integers(1, 40))
    if family in {"qwen2", "qwen3"} and draw(st.booleans()):
        config["use_sliding_window"] = True
        config["sliding_window"] = draw(st.none() | st.integers(1, 40))
        config["max_window_layers"] = draw(st.integers(0, n_layers))
        if config["sliding_window"] and draw(st.booleans()):
            kinds = st.sampled_from(["full_attention", "sliding_attention"])
            config["layer_types"] = draw(st.lists(kinds, min_size=n_layers, max_size=n_layers))
    return config, draw(rope_keys(config, kind))


@st.composite
def rope_keys(draw: st.DrawFn, config: dict[str, Any], kind: str) -> int:
    """Put a rotary embedding of `kind` into `config`, in either spelling; return the longest prompt."""
    theta = draw(st.sampled_from([100.0, 10000.0, 1e6]))
    factor = draw(st.sampled_from([2.0, 4.0, 7.5]))
    original = draw(st.integers(12, 64))
    scaling: dict[str, Any] = {}
    context, longest = draw(st.integers(96, 200)), 70
    if kind == "linear":
        scaling = {"factor": factor}
    elif kind == "dynamic":
        scaling, context = {"factor": factor}, original
        longest = min(70, int(factor * original) - 8)
    elif kind == "llama3":
        scaling = {"factor": factor, "low_freq_factor": 1.0, "high_freq_factor": draw(st.sampled_from([2.0, 4.0]))}
        scaling["original_max_position_embeddings"] = original
    elif kind == "yarn":
        scaling = {"factor": factor, "original_max_position_embeddings": original} | draw(yarn_options())
        context = max(96, int(factor * original))
    config["max_position_embeddings"] = context
    if draw(st.booleans()):
        config["rope_parameters"] = {"rope_theta": theta, "rope_type": kind, **scaling}
    else:
        config["rope_theta"] = theta
        name = draw(st.sampled_from(["rope_type", "type"]))
        config["rope_scaling"] = {name: kind, **scaling} if kind != "default" else None
    return longest


@st.composite
def yarn_options(draw: st.DrawFn) -> dict[str, Any]:
    """Draw what a yarn configuration may say besides its factor."""
    options: dict[str, Any] = {}
    if draw(st.booleans()):
        options |= {"beta_fast": draw(st.sampled_from([8.0, 32.0])), "beta_slow": draw(st.sampled_from([1.0, 2.0]))}
    if draw(st.booleans()):
        options["truncate"] = draw(st.booleans())
    if draw(st.booleans()):
        options["attention_factor"] = draw(st.sampled_from([1.0, 1.25]))
    elif draw(st.booleans()):
        options |= {"mscale": 1.0, "mscale_all_dim": draw(st.sampled_from([0.5, 1.0]))}
    return options


@st.composite
def gpt2_configs(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """Draw a GPT-2 config; its heads may have odd widths, for nothing is rotated."""
    n_head = draw(st.integers(1, 4))
    config: dict[str, Any] = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": draw(st.integers(2, 131)),
        "n_positions": draw(st.integers(96, 150)),
        "n_embd": n_head * draw(st.sampled_from([3, 4, 7, 10, 16, 20])),
        "n_layer": draw(st.integers(1, 3)),
        "n_head": n_head,
        "n_inner": draw(st.none() | st.integers(1, 67)),
        "activation_function": draw(st.sampled_from(["gelu_new", "gelu", "relu", "gelu_fast"])),
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": draw(st.booleans()),
        "scale_attn_by_inverse_layer_idx": draw(st.booleans()),
        "bos_token_id": 50256,
        "eos_token_id": None,
    }
    tied = draw(st.sampled_from([None, True, False]))
    if tied is not None:
        config["tie_word_embeddings"] = tied
    return config, 70


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor that transformers saves for `config`: name -> shape, as stored."""
    return _gpt2_shapes(config) if config["model_type"] == "gpt2" else _llama_shapes(config)


def _llama_shapes(c: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    family, d = c["model_type"], c["hidden_size"]
    d_head = c.get("head_dim") or d // c["num_attention_heads"]
    q = c["num_attention_heads"] * d_head
    kv = (c.get("num_key_value_heads") or c["num_attention_heads"]) * d_head
    d_ff = c["intermediate_size"]
    got: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (c["vocab_size"], d),
        "model.norm.weight": (d,),
    }
    if not c.get("tie_word_embeddings", False):
        got["lm_head.weight"] = (c["vocab_size"], d)
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        linear = {"q": (q, d), "k": (kv, d), "v": (kv, d), "o": (d, q)}
        for name, shape in linear.items():
            got[f"{layer}self_attn.{name}_proj.weight"] = shape
            if c.get("attention_bias", False) or (family == "qwen2" and name != "o"):
                got[f"{layer}self_attn.{name}_proj.bias"] = shape[:1]
        for name, shape in {"gate": (d_ff, d), "up": (d_ff, d), "down": (d, d_ff)}.items():
            got[f"{layer}mlp.{name}_proj.weight"] = shape
            if c.get("mlp_bias", False):
                got[f"{layer}mlp.{name}_proj.bias"] = shape[:1]
        got[f"{layer}input_layernorm.weight"] = (d,)
        got[f"{layer}post_attention_layernorm.weight"] = (d,)
        if family == "qwen3":
            got[f"{layer}self_attn.q_norm.weight"] = (d_head,)
            got[f"{layer}self_attn.k_norm.weight"] = (d_head,)
    return got


def _gpt2_shapes(c: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    d = c["n_embd"]
    d_ff = c.get("n_inner") or 4 * d
    got: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (c["vocab_size"], d),
        "transformer.wpe.weight": (c["n_positions"], d),
        "transformer.ln_f.weight": (d,),
        "transformer.ln_f.bias": (d,),
    }
    if not c.get("tie_word_embeddings", True):
        got["lm_head.weight"] = (c["vocab_size"], d)
    for i in range(c["n_layer"]):
        linear = {"attn.c_attn": (d, 3 * d), "attn.c_proj": (d, d), "mlp.c_fc": (d, d_ff), "mlp.c_proj": (d_ff, d)}
        for name, shape in linear.items():
            got[f"transformer.h.{i}.{name}.weight"] = shape
            got[f"transformer.h.{i}.{name}.bias"] = shape[1:]
        for name in ("ln_1", "ln_2"):
            got[f"transformer.h.{i}.{name}.weight"] = got[f"transformer.h.{i}.{name}.bias"] = (d,)
    return got


def random_tensors(config: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """Draw float32 tensors of a size that keeps every activation near one."""
    rng = np.random.default_rng(seed)
    got = {}
    for name, shape in shapes(config).items():
        values = rng.standard_normal(shape)
        if len(shape) == 1:
            norm = name.endswith("weight")
            values = 1 + 0.2 * values if norm else 0.2 * values
        elif "embed" not in name and "wte" not in name:
            fan_in = shape[0] if config["model_type"] == "gpt2" and ".h." in name else shape[1]
            values /= math.sqrt(fan_in)
        got[name] = values.astype(np.float32)
    return got


def encode(array: np.ndarray, dtype: str) -> bytes:
    """Round float values to a safetensors dtype and return their bytes."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        rounded = bits + 0x7FFF + ((bits >> 16) & 1)  # to nearest, ties to even; these values are finite
        return (rounded >> 16).astype("<u2").tobytes()
    numpy_type = {
        "F64": "<f8",
        "F32": "<f4",
        "F16": "<f2",
        "I64": "<i8",
        "I32": "<i4",
        "I8": "i1",
        "U8": "u1",
        "F8_E4M3": "u1",
    }[dtype]
    return array.astype(numpy_type).tobytes()


def decode(data: bytes, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the exact values of `encode`'s bytes, in float64."""
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64).reshape(shape)
    return np.frombuffer(data, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float64).reshape(shape)


def write_safetensors(
    path: Path,
    tensors: dict[str, np.ndarray],
    dtypes: dict[str, str] | None = None,
    *,
    dtype: str = "F32",
    pad: int = 0,
) -> dict[str, np.ndarray]:
    """Write a file and return the exact values in it; `dtypes` overrules `dtype` by name, `pad` shifts the data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs, exact, at = [], {}, 0
    for name, array in tensors.items():
        kind = (dtypes or {}).get(name, dtype)
        blob = encode(array, kind)
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [at, at + len(blob)]}
        if kind in {"F64", "F32", "F16", "BF16"}:
            exact[name] = decode(blob, kind, array.shape)
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8 + pad)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))
    return exact


def write_checkpoint(directory: Path, drawn: Drawn) -> dict[str, np.ndarray]:
    """Write `config.json` and `model.safetensors` for a drawn model; return the exact values of its tensors."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(drawn.config))
    return write_safetensors(
        directory / "model.safetensors", random_tensors(drawn.config, drawn.seed), dtype=drawn.dtype
    )
