"""config.json of published encoder-decoders, as their authors wrote it: read, and what it asks for applied or named."""

from __future__ import annotations

from typing import Any

import pytest
from miaotui.loader.config import parse_config
from miaotui.loader.families.decoding import DECODING_KEYS
from miaotui.loader.generation import generation_defaults, not_applied

COMMON = {
    "activation_dropout": 0.0, "attention_dropout": 0.0, "classifier_dropout": 0.0, "dropout": 0.1, "init_std": 0.02,
    "decoder_layerdrop": 0.0, "encoder_layerdrop": 0.0, "gradient_checkpointing": False, "is_encoder_decoder": True,
    "use_cache": True, "transformers_version": "4.22.0", "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0},
    "_num_labels": 3, "add_bias_logits": False, "classif_dropout": 0.0, "output_past": True, "torch_dtype": "float32",
}  # fmt: skip
LARGE = {
    "d_model": 1024, "decoder_attention_heads": 16, "decoder_ffn_dim": 4096, "decoder_layers": 12,
    "encoder_attention_heads": 16, "encoder_ffn_dim": 4096, "encoder_layers": 12, "num_hidden_layers": 12,
    "max_position_embeddings": 1024, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
}  # fmt: skip
T5 = {
    "is_encoder_decoder": True, "dropout_rate": 0.1, "initializer_factor": 1.0, "layer_norm_epsilon": 1e-6,
    "relative_attention_num_buckets": 32, "n_positions": 512, "output_past": True, "pad_token_id": 0, "use_cache": True,
    "eos_token_id": 1, "decoder_start_token_id": 0, "d_kv": 64,
}  # fmt: skip

#: Name, config.json, sizes (context, decoder's layers), decoder's start, forced first id, forced last, never, logits'
#: scale, and what its answers follow by themselves.
PUBLISHED: list[tuple[str, dict[str, Any], tuple[Any, ...], tuple[str, ...]]] = [
    (
        "opus-mt-en-de",
        {
            **COMMON, "model_type": "marian", "architectures": ["MarianMTModel"], "activation_function": "swish",
            "add_final_layer_norm": False, "bad_words_ids": [[58100]], "bos_token_id": 0, "d_model": 512,
            "decoder_attention_heads": 8, "decoder_ffn_dim": 2048, "decoder_layers": 6, "vocab_size": 58101,
            "decoder_start_token_id": 58100, "decoder_vocab_size": 58101, "encoder_attention_heads": 8,
            "encoder_ffn_dim": 2048, "encoder_layers": 6, "eos_token_id": 0, "extra_pos_embeddings": 58101,
            "forced_eos_token_id": 0, "max_length": 512, "max_position_embeddings": 512, "normalize_before": False,
            "normalize_embedding": False, "num_beams": 6, "num_hidden_layers": 6, "pad_token_id": 58100,
            "scale_embedding": True, "share_encoder_decoder_embeddings": True, "static_position_embeddings": True,
        },
        (512, 6, 58100, None, (0,), ((58100,),), 1.0),
        ("num_beams 6",),
    ),
    (
        "bart-large-cnn",
        {
            **COMMON, **LARGE, "model_type": "bart", "architectures": ["BartForConditionalGeneration"],
            "activation_function": "gelu", "add_final_layer_norm": False, "decoder_start_token_id": 2,
            "early_stopping": True, "force_bos_token_to_be_generated": True, "forced_bos_token_id": 0,
            "forced_eos_token_id": 2, "length_penalty": 2.0, "max_length": 142, "min_length": 56,
            "no_repeat_ngram_size": 3, "normalize_before": False, "num_beams": 4, "prefix": " ",
            "scale_embedding": False, "vocab_size": 50264,
            "task_specific_params": {"summarization": {"early_stopping": True, "num_beams": 4}},
        },
        (1024, 12, 2, 0, (2,), (), 1.0),
        ("num_beams 4", "length_penalty 2.0", "early_stopping True"),
    ),
    (
        "mbart-large-50-many-to-many-mmt",
        {
            **COMMON, **LARGE, "model_type": "mbart", "architectures": ["MBartForConditionalGeneration"],
            "activation_function": "relu", "add_final_layer_norm": True, "decoder_start_token_id": 2,
            "early_stopping": True, "forced_eos_token_id": 2, "max_length": 200, "normalize_before": True,
            "normalize_embedding": True, "num_beams": 5, "scale_embedding": True, "vocab_size": 250054,
            "static_position_embeddings": False, "tokenizer_class": "MBart50Tokenizer",
        },
        (1024, 12, 2, None, (2,), (), 1.0),
        ("num_beams 5", "early_stopping True"),
    ),
    (
        "pegasus-xsum",
        {
            **COMMON, **LARGE, "model_type": "pegasus", "architectures": ["PegasusForConditionalGeneration"],
            "activation_function": "relu", "add_final_layer_norm": True, "decoder_start_token_id": 0, "eos_token_id": 1,
            "extra_pos_embeddings": 1, "force_bos_token_to_be_generated": False, "forced_eos_token_id": 1,
            "length_penalty": 0.6, "max_length": 64, "max_position_embeddings": 512, "normalize_before": True,
            "normalize_embedding": False, "num_beams": 8, "pad_token_id": 0, "scale_embedding": True,
            "static_position_embeddings": True, "vocab_size": 96103,
        },
        (512, 12, 0, None, (1,), (), 1.0),
        ("num_beams 8", "length_penalty 0.6"),
    ),
    (
        "blenderbot-400M-distill",
        {
            **COMMON, "model_type": "blenderbot", "architectures": ["BlenderbotForConditionalGeneration"],
            "activation_function": "gelu", "add_final_layer_norm": True, "bos_token_id": 1, "d_model": 1280,
            "decoder_attention_heads": 32, "decoder_ffn_dim": 5120, "decoder_layers": 12, "decoder_start_token_id": 1,
            "do_blenderbot_90_layernorm": True, "encoder_attention_heads": 32, "encoder_ffn_dim": 5120,
            "encoder_layers": 2, "encoder_no_repeat_ngram_size": 3, "eos_token_id": 2, "extra_layer_norm": False,
            "extra_pos_embeddings": 0, "force_bos_token_to_be_generated": False, "forced_eos_token_id": 2,
            "layernorm_variant": "prelayernorm", "length_penalty": 0.65, "max_length": 60,
            "max_position_embeddings": 128, "min_length": 20, "no_repeat_ngram_size": 3, "normalize_before": True,
            "normalize_embedding": False, "num_beams": 10, "num_hidden_layers": 2, "pad_token_id": 0,
            "scale_embedding": True, "static_position_embeddings": False, "unk_token_id": 3, "vocab_size": 8008,
        },
        (128, 12, 1, None, (2,), (), 1.0),
        (
            "num_beams 10",
            "length_penalty 0.65",
        ),
    ),
    (
        "m2m100_418M",
        {
            **COMMON, **LARGE, "model_type": "m2m_100", "architectures": ["M2M100ForConditionalGeneration"],
            "activation_function": "relu", "decoder_start_token_id": 2, "early_stopping": True, "max_length": 200,
            "num_beams": 5, "scale_embedding": True, "vocab_size": 128112,
        },
        (1024, 12, 2, None, (), (), 1.0),
        ("num_beams 5", "early_stopping True"),
    ),
    (
        "nllb-200-distilled-600M",
        {
            **COMMON, **LARGE, "model_type": "m2m_100", "architectures": ["M2M100ForConditionalGeneration"],
            "activation_function": "relu", "decoder_start_token_id": 2, "max_length": 200, "scale_embedding": True,
            "tokenizer_class": "NllbTokenizer", "vocab_size": 256206,
        },
        (1024, 12, 2, None, (), (), 1.0),
        (),
    ),
    (
        "t5-small",
        {
            **T5, "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_ff": 2048, "d_model": 512,
            "num_heads": 8, "num_layers": 6, "vocab_size": 32128,
            "task_specific_params": {"translation_en_to_de": {"prefix": "translate English to German: "}},
        },
        (512, 6, 0, None, (), (), 512**-0.5),
        (),
    ),
    (
        "flan-t5-small",
        {
            **T5, "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_ff": 1024, "d_model": 512,
            "dense_act_fn": "gelu_new", "feed_forward_proj": "gated-gelu", "is_gated_act": True,
            "num_decoder_layers": 8, "num_heads": 6, "num_layers": 8, "relative_attention_max_distance": 128,
            "tie_word_embeddings": False, "vocab_size": 32128,
        },
        (512, 8, 0, None, (), (), 1.0),
        (),
    ),
    (
        "mt5-small",
        {
            **T5, "model_type": "mt5", "architectures": ["MT5ForConditionalGeneration"], "d_ff": 1024, "d_model": 512,
            "feed_forward_proj": "gated-gelu", "num_decoder_layers": 8, "num_heads": 6, "num_layers": 8,
            "tie_word_embeddings": False, "tokenizer_class": "T5Tokenizer", "vocab_size": 250112,
        },
        (512, 8, 0, None, (), (), 1.0),
        (),
    ),
    (
        "umt5-small",
        {
            **T5, "model_type": "umt5", "architectures": ["UMT5ForConditionalGeneration"], "classifier_dropout": 0.0,
            "d_ff": 1024, "d_model": 512, "dense_act_fn": "gelu_new", "feed_forward_proj": "gated-gelu",
            "is_gated_act": True, "num_decoder_layers": 8, "num_heads": 6, "num_layers": 8, "scalable_attention": True,
            "relative_attention_max_distance": 128, "tie_word_embeddings": False, "tokenizer_class": "T5Tokenizer",
            "vocab_size": 256384,
        },
        (512, 8, 0, None, (), (), 1.0),
        (),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "raw", "wanted", "followed"), PUBLISHED, ids=[p[0] for p in PUBLISHED])
def test_it_is_read(name: str, raw: dict[str, Any], wanted: tuple[Any, ...], followed: tuple[str, ...]) -> None:
    config = parse_config(raw, name)
    d = config.decoding
    assert d is not None
    assert config.decoder is not None
    got = config.n_context, config.decoder.n_layers, d.start, d.forced_bos, d.forced_eos, d.never, config.logit_scale
    assert got == wanted
    said = generation_defaults(None, raw, DECODING_KEYS)
    assert {*followed} <= {f"{key} {value}" for key, value in said.items()}
    assert ("num_beams" in said) == bool(followed)
    assert not_applied(None, raw, DECODING_KEYS) == ()
    # a generation_config.json next to it alone says what is forced
    told = {
        "decoder_start_token_id": 7,
        "forced_bos_token_id": 5,
        "num_beams": 3,
        "max_length": 9,
        "penalty_alpha": 0.6,
    }
    config = parse_config(raw, name, told)
    assert config.decoding is not None
    assert (config.decoding.start, config.decoding.forced_bos, config.decoding.forced_eos) == (7, 5, ())
    [line] = not_applied(told, raw, DECODING_KEYS)
    assert line.count(", ") == 0
    assert "penalty_alpha 0.6" in line
    assert generation_defaults(told, raw, DECODING_KEYS)["num_beams"] == 3
