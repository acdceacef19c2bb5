"""GPT-2's kin: GPT-J (neighbours rotated, parallel halves), GPT-Neo (windows by layer), GPT-BigCode (one key head)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ...runtime.spec import Rope
from ..files import quote
from .base import Family, Part, Resolved
from .decoders import remade, renamed, weight_and_bias
from .gpt2 import KEYS, SPELLING, biases_in, gpt_like
from .values import Key, activation, anything, flag, number, optional, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...runtime.spec import Attention

__all__ = ["GPTJ", "GPT_BIGCODE", "GPT_NEO"]

_SCALES = ("scale_attn_weights", "scale_attn_by_inverse_layer_idx")
OWN_KEYS = {name: key for name, key in KEYS.items() if name not in _SCALES}
_EMBED = {"embed": Part("wte.weight"), **weight_and_bias("norm", "ln_f")}
_HEAD, _POSITIONS = {"head": Part("lm_head.weight", outside=True)}, {"positions": Part("wpe.weight")}
SUMMARY = frozenset({
    "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
})  # fmt: skip

# --- GPT-J

GPTJ_MODEL = _EMBED | weight_and_bias("head", "lm_head", outside=True)
GPTJ_LAYER = {
    **weight_and_bias("attn_norm", "h.{i}.ln_1"),
    **{role: Part(f"h.{{i}}.attn.{role}_proj.weight") for role in "qkv"},
    "o": Part("h.{i}.attn.out_proj.weight"),
    **weight_and_bias("ffn_norm", "h.{i}.ln_1"),
    **weight_and_bias("up", "h.{i}.mlp.fc_in"),
    **weight_and_bias("down", "h.{i}.mlp.fc_out"),
}


def _gptj(v: dict[str, Any], where: str) -> Resolved:
    attentions: list[dict[str, Any]] = [{"rope": 0}] * v["n_layer"]
    resolved = gpt_like(v, where, "gptj", biases=biases_in(GPTJ_MODEL, GPTJ_LAYER), attentions=attentions)
    d_head, d_rotary = v["n_embd"] // v["n_head"], v["rotary_dim"]
    if d_rotary % 2 or d_rotary > d_head:
        msg = f"{where}: rotary_dim is {d_rotary}; expected an even number of a head's {d_head} dimensions"
        raise ConfigError(msg)
    ropes = (Rope(10000.0, d_rotary, interleaved=True),)
    return remade(resolved, stack={"parallel": True}, ropes=ropes, positions=None)


GPTJ = Family(
    name="gptj",
    keys={
        **OWN_KEYS,
        "vocab_size": Key(50400, size()),
        "n_positions": Key(2048, size()),
        "n_embd": Key(4096, size()),
        "n_layer": Key(28, size(2**16)),
        "n_head": Key(16, size()),
        "rotary_dim": Key(64, size()),
        "tie_word_embeddings": Key(default=False, check=flag),
    },
    resolve=_gptj,
    model=GPTJ_MODEL,
    layer=GPTJ_LAYER,
    prefixes=("transformer.", ""),
    spelling=SPELLING,
    ignored=(r"h\.\d+\.attn\.(bias|masked_bias|embed_positions)",),
    only={"scale_attn_weights": (True,), "rotary": (True,)},
    harmless=SUMMARY | {"n_ctx", "embd_pdrop"},
    heads_divide_width=True,
)

# --- GPT-Neo

NEO_MODEL = _EMBED | _POSITIONS | _HEAD
_NEO = "h.{i}.attn.attention"
NEO_LAYER = {
    **weight_and_bias("attn_norm", "h.{i}.ln_1"),
    **{role: Part(f"{_NEO}.{role}_proj.weight") for role in "qkv"},
    **weight_and_bias("o", f"{_NEO}.out_proj"),
    **weight_and_bias("ffn_norm", "h.{i}.ln_2"),
    **weight_and_bias("up", "h.{i}.mlp.c_fc"),
    **weight_and_bias("down", "h.{i}.mlp.c_proj"),
}
_AS = {
    "hidden_size": "n_embd",
    "num_heads": "n_head",
    "num_layers": "n_layer",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
}
TYPES = ("global", "local")


def _layer_types(value: object, n: int, where: str) -> list[str]:
    """[[["global", "local"], 12]]: lists of kinds, each as often as its number says."""
    kinds: list[str] = []
    for item in value if isinstance(value, list) else ():
        names, times = item if isinstance(item, list) and len(item) == 2 else ((), 0)  # noqa: PLR2004 - kinds, number
        fits = isinstance(names, list) and type(times) is int and 0 < times <= n
        kinds += names * times if fits else [""]
    if len(kinds) != n or any(kind not in TYPES for kind in kinds):
        msg = f"{where}: attention_types is {quote(value)}; expected lists of global and local for {n} layers"
        raise ConfigError(msg)
    return kinds


def _neo(v: dict[str, Any], where: str) -> Resolved:
    kinds = _layer_types(v["attention_types"], v["num_layers"], where)
    attentions = [{"scale": 1.0, "window": v["window_size"] if kind == "local" else None} for kind in kinds]
    biases = biases_in(NEO_MODEL, NEO_LAYER)
    return gpt_like(renamed(v, _AS), where, "gpt_neo", biases=biases, attentions=attentions)


def _spell_neo(attentions: Sequence[Attention]) -> dict[str, Any]:
    kinds = ["global" if s.window is None else "local" for s in attentions]
    return {"attention_types": [[[kind], 1] for kind in kinds], "attention_layers": kinds}


GPT_NEO = Family(
    name="gpt_neo",
    keys={
        "vocab_size": Key(50257, size()),
        "hidden_size": Key(2048, size()),
        "num_layers": Key(24, size(2**16)),
        "num_heads": Key(16, size()),
        "intermediate_size": Key(None, optional(size())),
        "max_position_embeddings": Key(2048, size()),
        "window_size": Key(256, size()),
        "attention_types": Key([[["global", "local"], 12]], anything),
        "activation_function": Key("gelu_tanh", activation),
        "layer_norm_epsilon": Key(1e-5, number(0, 1)),
        "tie_word_embeddings": KEYS["tie_word_embeddings"],
        "bos_token_id": KEYS["bos_token_id"],
        "eos_token_id": KEYS["eos_token_id"],
    },
    resolve=_neo,
    model=NEO_MODEL,
    layer=NEO_LAYER,
    prefixes=("transformer.", ""),
    spelling={
        "n_layers": "num_layers",
        "d_model": "hidden_size",
        "n_heads": "num_heads",
        "d_ff": "intermediate_size",
        "n_vocab": "vocab_size",
    },
    ignored=(r"h\.\d+\.attn\.attention\.(bias|masked_bias)",),
    harmless=SUMMARY | {"attention_layers", "embed_dropout", "resid_dropout", "classifier_dropout"},
    heads_divide_width=True,
    spell_layers=_spell_neo,
)

# --- GPT-BigCode: queries, then one head's keys and values; or every head's own, head by head

_QKV, _QKV_BIASES = ("q", "k", "v"), ("q_bias", "k_bias", "v_bias")
BIGCODE_MODEL = _EMBED | _POSITIONS | _HEAD
BIGCODE_LAYER = {
    **weight_and_bias("attn_norm", "h.{i}.ln_1"),
    **{role: Part("h.{i}.attn.c_attn.weight", _QKV, by_head=True) for role in _QKV},
    **{role: Part("h.{i}.attn.c_attn.bias", _QKV_BIASES, by_head=True) for role in _QKV_BIASES},
    **weight_and_bias("o", "h.{i}.attn.c_proj"),
    **weight_and_bias("ffn_norm", "h.{i}.ln_2"),
    **weight_and_bias("up", "h.{i}.mlp.c_fc"),
    **weight_and_bias("down", "h.{i}.mlp.c_proj"),
}


def _bigcode(v: dict[str, Any], where: str) -> Resolved:
    own: dict[str, Any] = {} if v["scale_attn_weights"] else {"scale": 1.0}
    n_kv_heads = 1 if v["multi_query"] else None
    biases, attentions = biases_in(BIGCODE_MODEL, BIGCODE_LAYER), [own] * v["n_layer"]
    return gpt_like(v, where, "gpt_bigcode", biases=biases, attentions=attentions, n_kv_heads=n_kv_heads)


GPT_BIGCODE = Family(
    name="gpt_bigcode",
    keys={
        **OWN_KEYS,
        "scale_attn_weights": KEYS["scale_attn_weights"],
        "multi_query": Key(default=True, check=flag),
    },
    resolve=_bigcode,
    model=BIGCODE_MODEL,
    layer=BIGCODE_LAYER,
    prefixes=("transformer.", ""),
    spelling=SPELLING,
    ignored=(r"h\.\d+\.attn\.bias",),
    harmless=SUMMARY
    | {
        "attention_softmax_in_fp32",
        "inference_runner",
        "max_batch_size",
        "max_sequence_length",
        "n_ctx",
        "num_key_value_heads",
        "pad_key_length",
        "pre_allocate_kv_cache",
        "scale_attention_softmax_in_fp32",
        "validate_runner_input",
    },
    heads_divide_width=True,
)
