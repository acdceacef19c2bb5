"""Decoders whose config.json has the keys of the best-known checkpoint of its family, at small sizes, by transformers.

What is written is that file, not what the installed release would make of it: keys of older releases, of authors' own
code and of training are all there. The model loads, and gives transformers' logits and greedy ids.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from test_decoders import near, oracle, theirs

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

#: What nearly every file has.
SAID: dict[str, Any] = {"torch_dtype": "bfloat16", "transformers_version": "4.40.2", "use_cache": True}
LLAMA: dict[str, Any] = {
    "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 32,
    "initializer_range": 0.02, "intermediate_size": 24, "max_position_embeddings": 64, "num_attention_heads": 4,
    "num_hidden_layers": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 1e4,
    "tie_word_embeddings": False, "vocab_size": 53, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LAYER_NORM = {k: v for k, v in LLAMA.items() if k != "rms_norm_eps"} | {"layer_norm_eps": 1e-5}
NO_BIAS_KEY = {k: v for k, v in LAYER_NORM.items() if k != "attention_bias"}
LLAMA3 = {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 16}
FACTORS = {"long_factor": [1.5, 4.0, 9.0, 12.0], "short_factor": [1.0, 1.25, 2.0, 2.5]}
SUMMARY = {
    "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True,
}  # fmt: skip
GPT: dict[str, Any] = {
    "n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 64, "vocab_size": 53, "attn_pdrop": 0.0, "embd_pdrop": 0.0,
    "resid_pdrop": 0.0, "initializer_range": 0.02, "layer_norm_epsilon": 1e-5, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
OPT: dict[str, Any] = {
    "activation_dropout": 0.0, "activation_function": "relu", "architectures": ["OPTForCausalLM"],
    "attention_dropout": 0.0, "bos_token_id": 2, "do_layer_norm_before": True, "dropout": 0.1, "eos_token_id": 2,
    "ffn_dim": 24, "hidden_size": 32, "init_std": 0.02, "layerdrop": 0.0, "max_position_embeddings": 64,
    "model_type": "opt", "num_attention_heads": 4, "num_hidden_layers": 3, "pad_token_id": 1, "vocab_size": 53,
    "word_embed_proj_dim": 32, "prefix": "</s>", "_remove_final_layer_norm": False,
}  # fmt: skip
FALCON: dict[str, Any] = {
    "alibi": False, "apply_residual_connection_post_layernorm": False, "architectures": ["FalconForCausalLM"],
    "attention_dropout": 0.0, "bias": False, "bos_token_id": 11, "eos_token_id": 11, "hidden_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_falcon.FalconConfig"}, "hidden_size": 32, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-5, "model_type": "falcon", "multi_query": True, "new_decoder_architecture": False,
    "num_attention_heads": 4, "num_hidden_layers": 3, "parallel_attn": True, "vocab_size": 53,
}  # fmt: skip
PHI3: dict[str, Any] = {
    "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
    "model_type": "phi3", "original_max_position_embeddings": 16, "pad_token_id": 3, "sliding_window": 2047,
    "rope_scaling": FACTORS | {"type": "longrope"},
}  # fmt: skip
PUBLISHED: dict[str, dict[str, Any]] = {
    "EleutherAI/pythia-70m": {
        "architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "gelu",
        "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 128, "layer_norm_eps": 1e-5,
        "max_position_embeddings": 64, "model_type": "gpt_neox", "num_attention_heads": 4, "num_hidden_layers": 3,
        "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False, "use_parallel_residual": True,
        "vocab_size": 53,
    },
    "EleutherAI/gpt-j-6b": {
        **GPT, **SUMMARY, "activation_function": "gelu_new", "architectures": ["GPTJForCausalLM"],
        "gradient_checkpointing": False, "model_type": "gptj", "n_inner": None, "rotary": True, "rotary_dim": 4,
        "scale_attn_weights": True, "tie_word_embeddings": False, "tokenizer_class": "GPT2Tokenizer",
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50, "temperature": 1.0}},
    },
    "EleutherAI/gpt-neo-125m": {
        "activation_function": "gelu_new", "architectures": ["GPTNeoForCausalLM"], "attention_dropout": 0,
        "attention_layers": ["global", "local", "global", "local"],
        "attention_types": [[["global", "local"], 2]], "bos_token_id": 1, "embed_dropout": 0, "eos_token_id": 2,
        "gradient_checkpointing": False, "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": None,
        "layer_norm_epsilon": 1e-5, "max_position_embeddings": 64, "model_type": "gpt_neo", "num_heads": 4,
        "num_layers": 4, "resid_dropout": 0, "vocab_size": 53, "window_size": 8, **SUMMARY,
    },
    "facebook/opt-125m": OPT,
    "facebook/opt-350m": OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 16},
    "bigscience/bloom-560m": {
        "apply_residual_connection_post_layernorm": False, "architectures": ["BloomForCausalLM"],
        "attention_dropout": 0.0, "attention_softmax_in_fp32": True, "bias_dropout_fusion": True, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_dropout": 0.0, "initializer_range": 0.02, "layer_norm_epsilon": 1e-5,
        "masked_softmax_fusion": True, "model_type": "bloom", "n_embed": 32, "n_inner": None, "n_layer": 3,
        "num_attention_heads": 4, "offset_alibi": 100, "pad_token_id": 3, "pretraining_tp": 1, "seq_length": 64,
        "skip_bias_add": True, "skip_bias_add_qkv": False, "slow_but_exact": False, "unk_token_id": 0,
        "vocab_size": 53,
    },
    "tiiuae/falcon-7b": FALCON,
    "tiiuae/falcon-40b": FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2},
    "tiiuae/falcon-rw-1b": FALCON | {"alibi": True, "bias": True, "multi_query": False, "parallel_attn": False},
    "tiiuae/falcon-11B": FALCON | {
        "activation": "gelu", "ff_factor": 4, "ffn_hidden_size": 128, "max_position_embeddings": 64,
        "new_decoder_architecture": True, "num_kv_heads": 2, "rope_scaling": None, "rope_theta": 500042.0,
    },
    "mosaicml/mpt-7b": {
        "architectures": ["MPTForCausalLM"], "d_model": 32, "emb_pdrop": 0, "embedding_fraction": 1.0,
        "attn_config": {
            "alibi": True, "alibi_bias_max": 8, "attn_impl": "torch", "attn_pdrop": 0,
            "attn_type": "multihead_attention", "attn_uses_sequence_id": False, "clip_qkv": None, "prefix_lm": False,
            "qk_ln": False, "softmax_scale": None,
        },
        "auto_map": {"AutoConfig": "configuration_mpt.MPTConfig"}, "expansion_ratio": 4,
        "init_config": {"emb_init_std": None, "fan_mode": "fan_in", "name": "kaiming_normal_", "verbose": 0},
        "init_device": "cpu", "learned_pos_emb": True, "logit_scale": None, "max_seq_len": 64, "model_type": "mpt",
        "n_heads": 4, "n_layers": 3, "no_bias": True, "norm_type": "low_precision_layernorm", "resid_pdrop": 0,
        "tokenizer_name": "EleutherAI/gpt-neox-20b", "verbose": 0, "vocab_size": 53,
    },
    "bigcode/starcoder2-3b": {
        "architectures": ["Starcoder2ForCausalLM"], "attention_dropout": 0.1, "residual_dropout": 0.1,
        "embedding_dropout": 0.1, "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 32, "initializer_range": 0.018042, "intermediate_size": 24, "layer_norm_epsilon": 1e-5,
        "max_position_embeddings": 64, "mlp_type": "default", "model_type": "starcoder2", "norm_epsilon": 1e-5,
        "norm_type": "layer_norm", "num_attention_heads": 4, "num_hidden_layers": 3, "num_key_value_heads": 2,
        "rope_theta": 999999.4420358813, "sliding_window": 8, "use_bias": True, "vocab_size": 53,
    },
    "bigcode/starcoderbase-1b": {
        **GPT, **SUMMARY, "activation_function": "gelu_pytorch_tanh", "architectures": ["GPTBigCodeForCausalLM"],
        "attention_softmax_in_fp32": True, "multi_query": True, "inference_runner": 0, "max_batch_size": None,
        "max_sequence_length": None, "model_type": "gpt_bigcode", "n_inner": 24, "pad_key_length": True,
        "pre_allocate_kv_cache": False, "scale_attention_softmax_in_fp32": True, "scale_attn_weights": True,
        "validate_runner_input": True,
    },
    "microsoft/phi-1_5": NO_BIAS_KEY | {
        "architectures": ["PhiForCausalLM"], "embd_pdrop": 0.0, "resid_pdrop": 0.0, "hidden_act": "gelu_new",
        "model_type": "phi", "num_key_value_heads": None, "partial_rotary_factor": 0.5, "qk_layernorm": False,
    },
    "microsoft/Phi-3-mini-4k-instruct": LLAMA | PHI3 | {"rope_scaling": None, "original_max_position_embeddings": 64},
    "microsoft/Phi-3-mini-128k-instruct": LLAMA | PHI3 | {"rope_scaling": FACTORS | {"type": "longrope"}},
    "microsoft/Phi-4-mini-instruct": LLAMA | PHI3 | {
        "full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "mlp_bias": False,
        "partial_rotary_factor": 0.75, "sliding_window": 262144, "tie_word_embeddings": True,
        "rope_scaling": {"long_factor": [1.5, 4.0, 9.0], "short_factor": [1.0, 1.25, 2.0], "type": "longrope"},
    },
    "stabilityai/stablelm-2-1_6b": NO_BIAS_KEY | {
        "architectures": ["StableLmForCausalLM"], "model_type": "stablelm", "partial_rotary_factor": 0.25,
        "use_qkv_bias": True, "hidden_dropout": 0.0, "qk_layernorm": False, "use_parallel_residual": False,
    },
    "google/gemma-2b": LLAMA | {
        "architectures": ["GemmaForCausalLM"], "head_dim": 8, "hidden_act": "gelu", "model_type": "gemma",
        "num_key_value_heads": 1, "pad_token_id": 0, "tie_word_embeddings": True,
    },
    "google/gemma-2-2b": LLAMA | {
        "architectures": ["Gemma2ForCausalLM"], "attn_logit_softcapping": 50.0, "cache_implementation": "hybrid",
        "final_logit_softcapping": 30.0, "head_dim": 8, "hidden_act": "gelu_pytorch_tanh", "model_type": "gemma2",
        "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 8, "sliding_window": 8, "pad_token_id": 0,
        "tie_word_embeddings": True,
    },
    "google/gemma-3-1b-it": {k: v for k, v in LLAMA.items() if k != "hidden_act"} | {
        "architectures": ["Gemma3ForCausalLM"], "attn_logit_softcapping": None, "cache_implementation": "hybrid",
        "eos_token_id": [1, 6], "final_logit_softcapping": None, "head_dim": 8, "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh", "pad_token_id": 0, "query_pre_attn_scalar": 8,
        "rope_local_base_freq": 10000, "rope_theta": 1000000, "sliding_window": 8, "sliding_window_pattern": 3,
        "tie_word_embeddings": True,
    },
    "CohereForAI/c4ai-command-r-plus": LAYER_NORM | {
        "architectures": ["CohereForCausalLM"], "bos_token_id": 5, "eos_token_id": 2, "logit_scale": 0.8333,
        "model_max_length": 131072, "model_type": "cohere", "pad_token_id": 0, "pretraining_tp": 1,
        "use_qk_norm": True, "tie_word_embeddings": True,
    },
    "CohereForAI/c4ai-command-r7b-12-2024": LAYER_NORM | {
        "architectures": ["Cohere2ForCausalLM"], "cache_implementation": "hybrid", "head_dim": 8, "layer_switch": 4,
        "logit_scale": 0.25, "model_type": "cohere2", "order_of_interleaved_layers": "local_attn_first",
        "pad_token_id": 0, "position_embedding_type": "rope_gptj", "rotary_pct": 1.0, "sliding_window": 8,
        "sliding_window_pattern": 4, "use_embedding_sharing": True, "use_gated_activation": True,
        "use_parallel_block": True, "use_parallel_embedding": True, "tie_word_embeddings": True,
    },
    "allenai/OLMo-1.7-7B-hf": {k: v for k, v in LLAMA.items() if k != "rms_norm_eps"} | {
        "architectures": ["OlmoForCausalLM"], "clip_qkv": 8.0, "model_type": "olmo", "pad_token_id": 1,
        "num_key_value_heads": 4,
    },
    "allenai/OLMo-2-1124-7B": LLAMA | {
        "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "num_key_value_heads": 4, "pad_token_id": 1,
    },
    "allenai/Olmo-3-1025-7B": LLAMA | {
        "architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3", "num_key_value_heads": 4, "pad_token_id": 1,
        "rope_theta": 500000,  # its default: transformers 5.24 gives layers with windows that one, whatever is said
        "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
        "rope_scaling": {
            "attention_factor": 1.2079441541679836, "beta_fast": 32, "beta_slow": 1, "factor": 8.0,
            "original_max_position_embeddings": 8, "rope_type": "yarn",
        },
        "sliding_window": 8,
    },
    "ibm-granite/granite-3.3-2b-base": LLAMA | {
        "architectures": ["GraniteForCausalLM"], "attention_multiplier": 0.125, "embedding_multiplier": 12.0,
        "logits_scaling": 8.0, "mlp_bias": False, "model_type": "granite", "pad_token_id": 0,
        "residual_multiplier": 0.22, "tie_word_embeddings": True,
    },
    "HuggingFaceTB/SmolLM3-3B": LLAMA | {
        "architectures": ["SmolLM3ForCausalLM"], "layer_types": ["full_attention"] * 4, "max_window_layers": 28,
        "mlp_bias": False, "model_type": "smollm3", "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0],
        "pad_token_id": 2, "pretraining_tp": 2, "sliding_window": None, "tie_word_embeddings": True,
        "use_sliding_window": False,
    },
    "facebook/xglm-564M": {
        "activation_dropout": 0, "activation_function": "gelu", "architectures": ["XGLMForCausalLM"],
        "attention_dropout": 0.1, "attention_heads": 4, "bos_token_id": 0, "d_model": 32, "decoder_start_token_id": 2,
        "dropout": 0.1, "eos_token_id": 2, "ffn_dim": 24, "init_std": 0.02, "layerdrop": 0.0,
        "max_position_embeddings": 64, "model_type": "xglm", "num_layers": 3, "pad_token_id": 1,
        "scale_embedding": True, "vocab_size": 53,
    },
    "LGAI-EXAONE/EXAONE-4.0-32B": {k: v for k, v in LLAMA.items() if k != "attention_bias"} | {
        "architectures": ["Exaone4ForCausalLM"], "head_dim": 8, "model_type": "exaone4", "pad_token_id": 0,
        "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
        "rope_scaling": LLAMA3 | {"rope_type": "llama3"}, "sliding_window": 8, "sliding_window_pattern": "LLLG",
    },
    "THUDM/GLM-4-9B-0414": LLAMA | {
        "architectures": ["Glm4ForCausalLM"], "eos_token_id": [2, 3, 4], "head_dim": 8, "model_type": "glm4",
        "pad_token_id": 2, "partial_rotary_factor": 0.5,
    },
    "ByteDance-Seed/Seed-OSS-36B-Base": LLAMA | {
        "architectures": ["SeedOssForCausalLM"], "attention_bias": True, "attention_out_bias": False, "head_dim": 8,
        "mlp_bias": False, "model_type": "seed_oss", "pad_token_id": 1, "residual_dropout": 0.1,
        "rope_scaling": {"rope_type": "default"},
    },
    "tencent/Hunyuan-0.5B-Instruct": LLAMA | {
        "architectures": ["HunYuanDenseV1ForCausalLM"], "eod_token_id": 3, "head_dim": 8, "mlp_bias": False,
        "model_type": "hunyuan_v1_dense", "pad_token_id": 0, "pretraining_tp": 1, "use_cla": False,
        "rope_scaling": {
            "alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
            "type": "dynamic",
        },
        "tie_word_embeddings": True, "use_qk_norm": True,
    },
    "baidu/ERNIE-4.5-0.3B-PT": {k: v for k, v in LLAMA.items() if not k.startswith("attention_")} | {
        "architectures": ["Ernie4_5ForCausalLM"], "head_dim": 8, "model_type": "ernie4_5", "pad_token_id": 0,
        "tie_word_embeddings": True, "use_bias": False,
    },
    "arcee-ai/AFM-4.5B": LLAMA | {
        "architectures": ["ArceeForCausalLM"], "head_dim": 8, "hidden_act": "relu2", "mlp_bias": False,
        "model_type": "arcee", "max_position_embeddings": 64,
        "rope_scaling": {
            "beta_fast": 32.0, "beta_slow": 1.0, "factor": 4.0, "mscale": 1.0, "original_max_position_embeddings": 16,
            "rope_type": "yarn", "type": "yarn",
        },
    },
    "swiss-ai/Apertus-8B-2509": LLAMA | {
        "architectures": ["ApertusForCausalLM"], "hidden_act": "xielu", "hidden_dropout": 0.0, "mlp_bias": False,
        "model_type": "apertus", "pad_token_id": 3, "post_norm": False, "qk_norm": True,
        "rope_scaling": LLAMA3 | {"rope_type": "llama3", "type": "llama3"}, "rope_theta": 12000000,
    },
    "kyutai/helium-1-2b": LLAMA | {
        "architectures": ["HeliumForCausalLM"], "head_dim": 8, "mlp_bias": False, "model_type": "helium",
        "num_key_value_heads": 4, "pad_token_id": 3,
    },
    "mistralai/Ministral-8B-Instruct-2410": {k: v for k, v in LLAMA.items() if k != "attention_bias"} | {
        "architectures": ["MistralForCausalLM"], "head_dim": 8, "model_type": "mistral", "sliding_window": 8,
    },
}  # fmt: skip
#: Some that show what a family's kin has elsewhere; the others are of ring ci.
FAST = ("facebook/opt-350m", "microsoft/Phi-4-mini-instruct", "swiss-ai/Apertus-8B-2509", "facebook/xglm-564M")
NEW = 12


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.ci) for n in PUBLISHED])
def test_a_published_config_loads_and_gives_the_ids_of_transformers(name: str, tmp_path: Path) -> None:
    raw = SAID | PUBLISHED[name]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(tmp_path))
    torch.manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.3 + (p if p.dim() == 1 else 0))
    model.to(torch.float32).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    exact = oracle(tmp_path)
    ids = np.random.default_rng(len(name)).integers(4, 53, 12).tolist()
    with miaotui.load(tmp_path) as ours:
        got = ours.logits(ids)
        new = ours.generate(ids, max_new_tokens=NEW, do_sample=False, ignore_eos=True).ids
    wanted = theirs(exact, ids)
    limit = near(exact, ids, wanted)
    assert np.abs(got - wanted).max() <= limit
    text = list(ids)
    for token in new:  # without a cache, so that a text's length decides what it decides
        row = theirs(exact, text)[-1]
        assert row.max() - row[token] <= 2 * limit
        text.append(token)
    assert len(new) == NEW
