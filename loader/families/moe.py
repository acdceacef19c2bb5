"""Decoders whose feed-forwards are experts: Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE.

Published files, and those that transformers writes as a rule, hold every expert's matrices apart; a file that it wrote
as its modules are (`save_original_format=False`) stacks them: gate and up of all in one tensor, down in another.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ...runtime.spec import Experts, FeedForward
from ..files import quote
from ..roles import ATTENTION
from .base import Family, Part, Resolved
from .decoders import layer_windows
from .llama import ATTENTION_BIASES, BIAS_KEYS, IGNORED, KEYS, LAYER, MODEL, PREFIXES, SPELLING, llama_like
from .qwen2 import QWEN_KEYS
from .values import Key, anything, flag, number, optional, size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["MIXTRAL", "OLMOE", "QWEN2_MOE", "QWEN3_MOE"]

#: Of training, and of what a forward returns besides logits.
HARMLESS = frozenset({"output_router_logits", "router_aux_loss_coef", "router_jitter_noise"})
#: Experts in a layer, at most: far above any model's.
COUNT = size(2**16)


def _experts(block: str, gate: str, up: str, down: str) -> dict[str, Part]:
    """A router and its experts; the stacks have the names of transformers' modules."""
    each, stack = f"layers.{{i}}.{block}.experts.{{e}}", "layers.{i}.mlp.experts"
    both, pieces = f"{stack}.gate_up_proj", ("expert_gate", "expert_up")
    return {
        "router": Part(f"layers.{{i}}.{block}.gate.weight", others=("layers.{i}.mlp.gate.weight",)),
        "expert_gate": Part(f"{each}.{gate}.weight", pieces, stacked=both),
        "expert_up": Part(f"{each}.{up}.weight", pieces, stacked=both),
        "expert_down": Part(f"{each}.{down}.weight", stacked=f"{stack}.down_proj"),
    }


QWEN_EXPERTS = _experts("mlp", "gate_proj", "up_proj", "down_proj")
SHARED = {
    **{f"shared_{name}": Part(f"layers.{{i}}.mlp.shared_expert.{name}_proj.weight") for name in ("gate", "up", "down")},
    "shared_mix": Part("layers.{i}.mlp.shared_expert_gate.weight"),
}
DENSE = ("gate", "up", "down", "gate_bias", "up_bias", "down_bias")
ATTENTION_LAYER = {role: part for role, part in LAYER.items() if role not in DENSE}


def _mixed(resolved: Resolved, d_ff: int, experts: Experts, where: str, has: Callable[[int], bool]) -> Resolved:
    """The same with experts of width `d_ff` in the layers whose numbers `has` is true of."""
    if experts.per_token > experts.n:
        msg = f"{where}: num_experts_per_tok is {experts.per_token}; there are {experts.n} experts"
        raise ConfigError(msg)
    stack = resolved.config.stack
    layers = tuple(
        tuple(replace(s, d_ff=d_ff, experts=experts) if isinstance(s, FeedForward) and has(i) else s for s in layer)
        for i, layer in enumerate(stack.layers)
    )
    return replace(resolved, config=resolved.config.with_stack(replace(stack, layers=layers)))


def _count(v: dict[str, Any], where: str, default: int) -> int:
    """`num_experts`, which transformers also calls `num_local_experts`. Errors: `ConfigError` where they differ."""
    said = {v[name] for name in ("num_experts", "num_local_experts")} - {None}
    if len(said) > 1:
        msg = f"{where}: num_experts is {v['num_experts']}, num_local_experts {v['num_local_experts']}; keep one"
        raise ConfigError(msg)
    return int(said.pop()) if said else default


def _sparse(v: dict[str, Any], where: str) -> Callable[[int], bool]:
    """Which layers have experts, as `mlp_only_layers` and `decoder_sparse_step` say."""
    dense = v["mlp_only_layers"] or []
    if not isinstance(dense, list) or any(type(i) is not int for i in dense):
        msg = f"{where}: mlp_only_layers is {quote(dense)}; expected a list of layers"
        raise ConfigError(msg)
    kept, step = frozenset(dense), v["decoder_sparse_step"]
    return lambda i: i not in kept and (i + 1) % step == 0


def _spell_sparse(has: Sequence[bool]) -> dict[str, Any]:
    """The layers without experts, by number."""
    return {"mlp_only_layers": [i for i, some in enumerate(has) if not some], "decoder_sparse_step": 1}


def _mixtral(v: dict[str, Any], where: str) -> Resolved:
    resolved = llama_like(v, where, "mixtral", windows=[v["sliding_window"]] * v["num_hidden_layers"])
    experts = Experts(_count(v, where, 8), v["num_experts_per_tok"])
    return _mixed(resolved, v["intermediate_size"], experts, where, lambda _: True)


def _qwen2_moe(v: dict[str, Any], where: str) -> Resolved:
    """Windows by layer as transformers 5 divides them: where no `layer_types` say, on every second layer."""
    window = v["sliding_window"] if v["use_sliding_window"] else None
    by_layer = {**v, "sliding_window": window or None}
    windows = layer_windows(by_layer, where, lambda i: window is not None and i % 2 == 0 and i < v["max_window_layers"])
    biases = frozenset({"q_bias", "k_bias", "v_bias"}) if v["qkv_bias"] else frozenset()
    resolved = llama_like({**v, "head_dim": None}, where, "qwen2_moe", biases=biases, windows=windows)
    shared = v["shared_expert_intermediate_size"]
    experts = Experts(
        v["num_experts"], v["num_experts_per_tok"], v["norm_topk_prob"], d_shared=shared, shared_mixed=True
    )
    return _mixed(resolved, v["moe_intermediate_size"], experts, where, _sparse(v, where))


def _qwen3_moe(v: dict[str, Any], where: str) -> Resolved:
    biases = ATTENTION_BIASES if v["attention_bias"] else frozenset()
    window = v["sliding_window"] if v["use_sliding_window"] else None
    windows = [window] * v["num_hidden_layers"]
    resolved = llama_like(v, where, "qwen3_moe", biases=biases, windows=windows)
    experts = Experts(_count(v, where, 128), v["num_experts_per_tok"], v["norm_topk_prob"])
    return _mixed(resolved, v["moe_intermediate_size"], experts, where, _sparse(v, where))


def _olmoe(v: dict[str, Any], where: str) -> Resolved:
    biases = ATTENTION_BIASES if v["attention_bias"] else frozenset()
    resolved = llama_like({**v, "head_dim": None}, where, "olmoe", biases=biases)
    experts = Experts(_count(v, where, 64), v["num_experts_per_tok"], v["norm_topk_prob"])
    return _mixed(resolved, v["intermediate_size"], experts, where, lambda _: True)


_COUNTS = {"num_experts": Key(None, optional(COUNT)), "num_local_experts": Key(None, optional(COUNT))}
_SPARSE_KEYS = {
    "decoder_sparse_step": Key(1, size()),
    "mlp_only_layers": Key(None, anything),
    "norm_topk_prob": Key(default=False, check=flag),
    "use_sliding_window": Key(default=False, check=flag),
}
_NO_HEAD_WIDTH = {name: key for name, key in KEYS.items() if name != "head_dim"}
_TWO_WIDTHS = {**SPELLING, "d_ff": "moe_intermediate_size", "d_dense": "intermediate_size", "n_experts": "num_experts"}

MIXTRAL = Family(
    name="mixtral",
    keys={
        **KEYS,
        **_COUNTS,
        "intermediate_size": Key(14336, size()),
        "num_key_value_heads": Key(8, optional(size())),
        "max_position_embeddings": Key(4096 * 32, size()),
        "rms_norm_eps": Key(1e-5, number(0, 1)),
        "rope_theta": Key(1e6, KEYS["rope_theta"].check),
        "sliding_window": Key(None, optional(size())),
        "num_experts_per_tok": Key(2, COUNT),
    },
    resolve=_mixtral,
    model=MODEL,
    layer={**ATTENTION_LAYER, **_experts("block_sparse_moe", "w1", "w3", "w2")},
    prefixes=PREFIXES,
    spelling={**SPELLING, "n_experts": "num_local_experts"},
    synonyms={"num_experts": "num_local_experts"},
    ignored=IGNORED,
    only={"attention_bias": (False,), "mlp_bias": (False,)},
    harmless=HARMLESS,
)
QWEN2_MOE = Family(
    name="qwen2_moe",
    keys={
        **{name: key for name, key in QWEN_KEYS.items() if name != "head_dim"},
        **_SPARSE_KEYS,
        "hidden_size": Key(2048, size()),
        "intermediate_size": Key(5632, size()),
        "num_hidden_layers": Key(24, size(2**16)),
        "num_attention_heads": Key(16, size()),
        "num_key_value_heads": Key(16, optional(size())),
        "sliding_window": Key(4096, optional(size(low=0))),
        "moe_intermediate_size": Key(1408, size()),
        "shared_expert_intermediate_size": Key(5632, size()),
        "num_experts_per_tok": Key(4, COUNT),
        "num_experts": Key(60, COUNT),
        "qkv_bias": Key(default=True, check=flag),
    },
    resolve=_qwen2_moe,
    model=MODEL,
    layer={**LAYER, **QWEN_EXPERTS, **SHARED},
    prefixes=PREFIXES,
    spelling={name: key for name, key in _TWO_WIDTHS.items() if name != "d_head"},
    spell_experts=_spell_sparse,
    ignored=IGNORED,
    harmless=HARMLESS,
    tokenizer_class="Qwen2Tokenizer",
    only={"attention_bias": (True,), "mlp_bias": (False,)},
)
QWEN3_MOE = Family(
    name="qwen3_moe",
    keys={
        **QWEN_KEYS,
        **_SPARSE_KEYS,
        **_COUNTS,
        "hidden_size": Key(2048, size()),
        "intermediate_size": Key(6144, size()),
        "num_hidden_layers": Key(24, size(2**16)),
        "num_key_value_heads": Key(4, optional(size())),
        "head_dim": Key(None, optional(size())),
        "moe_intermediate_size": Key(768, size()),
        "num_experts_per_tok": Key(8, COUNT),
        "attention_bias": Key(default=False, check=flag),
    },
    resolve=_qwen3_moe,
    model=MODEL,
    layer={
        **LAYER,
        "q_norm": Part("layers.{i}.self_attn.q_norm.weight"),
        "k_norm": Part("layers.{i}.self_attn.k_norm.weight"),
        **QWEN_EXPERTS,
    },
    prefixes=PREFIXES,
    spelling=_TWO_WIDTHS,
    synonyms={"num_local_experts": "num_experts"},
    spell_experts=_spell_sparse,
    ignored=IGNORED,
    harmless=HARMLESS,
    tokenizer_class="Qwen2Tokenizer",
    only={"mlp_bias": (False,), "layer_types": (None,)},
    bias_keys={ATTENTION: BIAS_KEYS[ATTENTION]},
)
OLMOE = Family(
    name="olmoe",
    keys={
        **_NO_HEAD_WIDTH,
        **_COUNTS,
        "vocab_size": Key(50304, size()),
        "hidden_size": Key(2048, size()),
        "intermediate_size": Key(2048, size()),
        "num_hidden_layers": Key(16, size(2**16)),
        "num_attention_heads": Key(16, size()),
        "max_position_embeddings": Key(4096, size()),
        "rms_norm_eps": Key(1e-5, number(0, 1)),
        "num_experts_per_tok": Key(8, COUNT),
        "norm_topk_prob": Key(default=False, check=flag),
        "attention_bias": Key(default=False, check=flag),
        "bos_token_id": Key((), KEYS["bos_token_id"].check),
        "eos_token_id": Key((50279,), KEYS["eos_token_id"].check),
    },
    resolve=_olmoe,
    model=MODEL,
    layer={
        **ATTENTION_LAYER,
        "q_norm_whole": Part("layers.{i}.self_attn.q_norm.weight"),
        "k_norm_whole": Part("layers.{i}.self_attn.k_norm.weight"),
        **QWEN_EXPERTS,
    },
    prefixes=PREFIXES,
    spelling={**{name: key for name, key in SPELLING.items() if name != "d_head"}, "n_experts": "num_experts"},
    synonyms={"num_local_experts": "num_experts"},
    ignored=IGNORED,
    harmless=HARMLESS,
    only={"clip_qkv": (None,)},
    bias_keys={ATTENTION: BIAS_KEYS[ATTENTION]},
    heads_divide_width=True,
)
