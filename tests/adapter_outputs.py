"""Adapters that PEFT 0.21.2 wrote, and what its models give: stored in tests/data/adapters for tests/test_adapters.py.

In an environment of its own, from the repository's root (torch stays the pinned one):

    pip install peft==0.21.2 torch==2.13.0 transformers hypothesis
    PYTHONPATH=tests python tests/adapter_outputs.py tests/data/adapters

Base models are made anew by `write_base`, from transformers' config and NumPy's numbers; A, B and everything else that
PEFT trains is random too. What is compared is PEFT's own forward pass, unmerged, in float32.
"""

from __future__ import annotations

import json
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["CASES", "Case", "write_base"]

IDS = [3, 1, 4, 1, 5, 9, 2, 6]
DECODER_IDS = [0, 7, 3, 1, 5]


@dataclass(frozen=True)
class Case:
    """`base`: transformers' model_type; `auto`: the class that reads it; `sizes`: of its config besides the usual.

    `how`: of `LoraConfig`; `trained_as`: the class that the adapter is made with, where another.
    """

    base: str
    how: dict[str, Any]
    sizes: dict[str, Any] = field(default_factory=dict)
    auto: str = "AutoModelForCausalLM"
    trained_as: str = ""


SIZES: dict[str, Any] = {
    "vocab_size": 13, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 32, "tie_word_embeddings": False, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT2 = {"n_embd": 8, "n_head": 2, "n_layer": 2, "n_positions": 32}
TIED, BIASED = {"tie_word_embeddings": True}, {"attention_bias": True}
T5 = {"d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
MPT = {"d_model": 8, "n_heads": 2, "n_layers": 2, "max_seq_len": 32}
DEBERTA = {"relative_attention": True, "position_buckets": 4, "pos_att_type": ["c2p", "p2c"], "share_att_key": True}
DISTIL = {"dim": 8, "hidden_dim": 12, "n_layers": 2, "n_heads": 2}
BART: dict[str, Any] = {
    "d_model": 8,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 12,
    "decoder_ffn_dim": 12,
}
BART |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "forced_eos_token_id": None, **TIED}
QV = ["q_proj", "v_proj"]
HALF = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
SEQ2SEQ = "AutoModelForSeq2SeqLM"

CASES: dict[str, Case] = {
    "plain": Case("llama", {"target_modules": QV}),
    "pattern": Case("llama", {"target_modules": r".*layers\.\d+\.mlp\.(up|down)_proj", "lora_alpha": 5}),
    "ranks": Case(
        "llama",
        {
            "target_modules": ["q_proj", "o_proj", "up_proj"],
            "use_rslora": True,
            "rank_pattern": {"q_proj": 1, r"layers\.1\.mlp\.up_proj": 4},
            "alpha_pattern": {r"o_proj": 3, r"model.layers.0.self_attn.q_proj": 7},
        },
    ),
    "layers": Case(
        "llama",
        {
            "target_modules": ["k_proj", "gate_proj"],
            "layers_to_transform": [1],
            "layers_pattern": "layers",
            "exclude_modules": ["mlp.gate_proj"],
        },
    ),
    "all-linear": Case("qwen2", {"target_modules": "all-linear"}),
    "dora": Case("qwen3", {"target_modules": [*QV, "down_proj"], "use_dora": True}, {"head_dim": 4}),
    "embedding": Case("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "embedding-tied": Case("llama", {"target_modules": ["embed_tokens", "q_proj"]}, TIED),
    "embedding-both": Case(
        "llama", {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True}, TIED
    ),
    "head": Case("llama", {"target_modules": ["lm_head", "v_proj"]}, TIED),
    "saved-head": Case("llama", {"target_modules": QV, "modules_to_save": ["lm_head"]}, TIED),
    "saved-embedding": Case("llama", {"target_modules": QV, "modules_to_save": ["embed_tokens"]}, TIED),
    "saved-both": Case(
        "llama", {"target_modules": QV, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, TIED
    ),
    "saved-norms": Case("llama", {"target_modules": QV, "modules_to_save": ["input_layernorm", "norm"]}),
    "tokens": Case("llama", {"target_modules": QV, "trainable_token_indices": [5, 1, 3]}),
    "tokens-tied": Case("llama", {"target_modules": QV, "trainable_token_indices": [5, 1, 3]}, TIED),
    "tokens-named": Case(
        "llama", {"target_modules": QV, "trainable_token_indices": {"embed_tokens": [9, 4], "lm_head": [4, 6]}}
    ),
    "biases": Case("llama", {"target_modules": QV, "bias": "all"}, BIASED),
    "biases-lora-only": Case("llama", {"target_modules": QV, "bias": "lora_only"}, BIASED),
    "lora-bias": Case("llama", {"target_modules": QV, "lora_bias": True}, BIASED),
    "without-prefix": Case("llama", {"target_modules": QV}, trained_as="AutoModel"),
    "gpt2": Case("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "bias": "all"}, GPT2),
    "gpt2-dora": Case("gpt2", {"target_modules": ["c_attn", "c_fc"], "use_dora": True, "fan_in_fan_out": True}, GPT2),
    "gpt2-lora-bias": Case("gpt2", {"target_modules": ["c_attn"], "lora_bias": True, "fan_in_fan_out": True}, GPT2),
    "gpt_neox": Case("gpt_neox", {"target_modules": ["query_key_value", "dense"]}, {"rope_parameters": HALF}),
    "bloom": Case("bloom", {"target_modules": ["query_key_value"], "use_dora": True}, {"n_layer": 2, "n_head": 2}),
    "falcon": Case(
        "falcon", {"target_modules": ["query_key_value"]}, {"new_decoder_architecture": True, "num_kv_heads": 1}
    ),
    "phi3": Case("phi3", {"target_modules": ["qkv_proj", "gate_up_proj"]}),
    "mpt": Case("mpt", {"target_modules": ["Wqkv", "down_proj"]}, MPT),
    "gpt_bigcode": Case("gpt_bigcode", {"target_modules": ["c_attn", "c_fc"], "use_dora": True}, GPT2),
    "glm": Case("glm", {"target_modules": ["gate_up_proj", "k_proj"]}, {"head_dim": 4, "partial_rotary_factor": 0.5}),
    "gemma": Case("gemma", {"target_modules": QV, "modules_to_save": ["norm"]}, {"head_dim": 4, **TIED}),
    "gemma3_text": Case("gemma3_text", {"target_modules": [*QV, "down_proj"]}, {"head_dim": 4, **TIED}),
    "mistral": Case("mistral", {"target_modules": QV}, {"sliding_window": 4}),
    "opt": Case("opt", {"target_modules": ["q_proj", "fc2"]}, {"ffn_dim": 12, "word_embed_proj_dim": 8, **TIED}),
    "mixtral": Case("mixtral", {"target_modules": ["q_proj", "o_proj"]}, {"num_local_experts": 3}),
    "qwen2_moe": Case(
        "qwen2_moe",
        {"target_modules": ["v_proj", "shared_expert.up_proj", "shared_expert.down_proj"]},
        {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 4},
    ),
    "bert": Case("bert", {"target_modules": ["query", "value", "output.dense"]}, auto="AutoModel"),
    "bert-classes": Case(
        "bert", {"task_type": "SEQ_CLS", "target_modules": ["query"]}, {"num_labels": 3},
        auto="AutoModelForSequenceClassification",
    ),
    "roberta": Case("roberta", {"target_modules": ["key"], "bias": "all"}, auto="AutoModel"),
    "distilbert": Case("distilbert", {"target_modules": ["q_lin", "lin2"]}, DISTIL, auto="AutoModel"),
    "albert": Case("albert", {"target_modules": ["query", "ffn"]}, {"embedding_size": 4}, auto="AutoModel"),
    "deberta": Case("deberta-v2", {"target_modules": ["key_proj", "query_proj"]}, DEBERTA, auto="AutoModel"),
    "modernbert": Case("modernbert", {"target_modules": ["Wqkv", "Wi"]}, auto="AutoModel"),
    "t5": Case("t5", {"target_modules": ["q", "v", "wo"]}, T5, auto=SEQ2SEQ),
    "t5-gated": Case("t5", {"target_modules": "all-linear"}, T5 | {"feed_forward_proj": "gated-gelu"}, auto=SEQ2SEQ),
    "bart": Case("bart", {"target_modules": [*QV, "fc1"]}, BART, auto=SEQ2SEQ),
}  # fmt: skip


def write_base(case: Case, folder: Path) -> Any:
    """Write the base model, and return it."""
    import torch
    import transformers

    sizes = {**SIZES, **case.sizes}
    labels = {"num_labels": sizes.pop("num_labels")} if "num_labels" in sizes else {}
    known = transformers.CONFIG_MAPPING[case.base]
    heard = {*known().to_dict(), *known.attribute_map}  # what other families say is an unknown key in this one's file
    config = known(**{key: value for key, value in sizes.items() if key in heard}, **labels)
    model = getattr(transformers, case.auto).from_config(config).eval()
    fill(model, zlib.crc32(case.base.encode()), torch)
    model.save_pretrained(folder)
    return model


def fill(model: Any, seed: int, torch: Any, *, trained: bool = False) -> None:
    """Random numbers in every parameter, by name; or in those that are trained."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not trained or p.requires_grad:
                rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
                one = 1.0 if p.ndim == 1 and "bias" not in name else 0.0
                p.copy_(torch.from_numpy(rng.normal(one, 0.4, p.shape).astype(np.float32)))


def output(case: Case, model: Any) -> np.ndarray:
    """What it gives for the ids: logits, or the hidden states of a model without a head."""
    import torch

    ids = torch.tensor([IDS])
    more = {"decoder_input_ids": torch.tensor([DECODER_IDS])} if case.auto == SEQ2SEQ else {}
    with torch.no_grad():
        out = model(input_ids=ids, **more)
    kind = "logits" if "logits" in out else "last_hidden_state"
    numbers: np.ndarray = out[kind][0].numpy()
    return numbers


def write(case: Case, folder: Path, scratch: Path) -> list[Any]:
    """Write the adapter, and return what its model gives."""
    import peft  # type: ignore[import-not-found]  # in an environment of its own
    import torch
    import transformers

    write_base(case, scratch)
    loaded = getattr(transformers, case.auto).from_pretrained(scratch).eval()
    trained = getattr(transformers, case.trained_as or case.auto).from_pretrained(scratch).eval()
    model = peft.get_peft_model(trained, peft.LoraConfig(**{"r": 2, "lora_alpha": 3, **case.how}))
    fill(model, 7, torch, trained=True)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    said = json.loads((folder / "adapter_config.json").read_text())
    said["base_model_name_or_path"] = case.base
    for key in ("target_modules", "modules_to_save"):  # sets, whose order is another every time
        said[key] = sorted(said[key]) if isinstance(said[key], list) else said[key]
    (folder / "adapter_config.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")
    if case.trained_as:
        inner = model.base_model.model
        loaded.model = inner
        return [[round(float(x), 7) for x in row] for row in np.atleast_2d(output(case, loaded))]
    again = peft.PeftModel.from_pretrained(loaded, str(folder)).eval()
    return [[round(float(x), 7) for x in row] for row in np.atleast_2d(output(case, again))]


def main(to: Path, only: list[str]) -> None:
    """Write every case, or those named."""
    import tempfile

    outputs = to / "outputs.json"
    known = json.loads(outputs.read_text()) if outputs.exists() else {}
    for name in only or CASES:
        with tempfile.TemporaryDirectory() as scratch:
            known[name] = write(CASES[name], to / name, Path(scratch))
    known = {name: known[name] for name in CASES if name in known}
    text = ",\n".join(f"{json.dumps(name)}: {json.dumps(rows)}" for name, rows in known.items())
    outputs.write_text("{\n" + text + "\n}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
