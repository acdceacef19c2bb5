"""Keys of config.json that no family reads: which, why they change nothing that is computed, and who writes them.

Only what is known is here; any other key is refused by name (`base.resolve_with`). Sources: transformers'
`PretrainedConfig` and `GenerationConfig`, releases 4.0 to 5.24, whose classes write the keys without a source below;
`tests/test_config_keys.py` compares with the release that is installed, its model code included.
"""

from __future__ import annotations

import re

__all__ = ["IGNORED", "PATTERN", "WHY"]

# fmt: off
#: Why a key changes nothing -> the keys.
WHY: dict[str, frozenset[str]] = {
    "names the model, its class, its author or its place": frozenset({
        "_commit_hash", "_name_or_path", "architectures", "auto_map", "finetuning_task", "model_type", "name_or_path",
        "_model_name_or_path",  # what transformers makes of a GGUF file's general.name
        "author", "created_date", "license",  # skt/kogpt2-base-v2
    }),
    "names the release or the tool that wrote the file": frozenset({
        "transformers_version",
        "unsloth_fixed", "unsloth_version",  # models that unsloth saved again
    }),
    "the dtype of the file is that of its tensors": frozenset({"_pre_quantization_dtype", "dtype", "torch_dtype"}),
    "which kernel another program computes attention, or anything, with": frozenset({
        "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal",
        "_experts_implementation", "_experts_implementation_internal", "_flash_attn_2_enabled", "attn_implementation",
        "experts_implementation", "tf_legacy_loss", "torchscript",
        "chunk_size_feed_forward",  # neurons are computed a few tokens at a time: the same sums
    }),
    "how another program spreads a model over machines": frozenset({
        "base_model_fsdp_plan", "base_model_pp_plan", "base_model_tp_plan", "distributed_config",
    }),
    "state of transformers' own class, which some releases wrote by mistake": frozenset({
        "_auto_class", "_is_quantized", "_output_attentions", "_post_init_done", "ignore_keys_at_rope_validation",
    }),
    "what a call returns next to the logits": frozenset({
        "output_attentions", "output_hidden_states", "output_past", "return_dict", "tie_last_hidden_states",
        "use_cache",
    }),
    "for training: first weights, saved memory": frozenset({
        "gradient_checkpointing", "init_std", "initializer_factor", "initializer_range", "loss_type",
    }),
    "for other heads than a language model's": frozenset({
        "_num_labels", "id2label", "label2id", "num_labels", "problem_type", "task_specific_params",
        "is_decoder",  # of a decoder alone: tells BERT's cross-attention
        "summary_last_dropout",
    }),
    "for scores of pairs of texts, which `loader/sentence.py` reads": frozenset({
        "sbert_ce_default_activation_function", "sentence_transformers",  # sentence-transformers' CrossEncoder
    }),
    "which widths a text's vector may be cut to; a server of vectors reads it": frozenset({
        "is_matryoshka", "matryoshka_dimensions",  # Snowflake/snowflake-arctic-embed-m-v2.0, vLLM
    }),
    "for the tokenizer; its own files say it": frozenset({
        "cls_token_id", "mask_token_id", "model_max_length", "pad_token", "pad_token_id", "prefix", "sep_token_id",
        "tokenizer_class", "unk_token_id", "vocab_file",
        "max_sequence_length",  # lmsys/vicuna-7b-v1.5
    }),
    "for generation: a caller says it, or generation_config.json": frozenset({
        "assistant_confidence_threshold", "assistant_early_exit", "assistant_ensemble_weight",
        "assistant_lookbehind", "bad_words_ids", "begin_suppress_tokens", "cache_config", "cache_implementation",
        "compile_config", "constraints", "continuous_batching_config", "decoder_start_token_id", "disable_compile",
        "diversity_penalty", "do_sample", "dola_layers", "early_stopping", "encoder_no_repeat_ngram_size",
        "encoder_repetition_penalty", "epsilon_cutoff", "eta_cutoff", "exponential_decay_length_penalty",
        "force_words_ids", "forced_bos_token_id", "forced_eos_token_id", "generation_config", "guidance_scale",
        "is_assistant", "length_penalty", "low_memory", "max_cache_len", "max_length", "max_matching_ngram_size",
        "max_new_tokens", "max_time", "min_length", "min_new_tokens", "min_p", "no_repeat_ngram_size",
        "num_assistant_tokens", "num_assistant_tokens_schedule", "num_beam_groups", "num_beams",
        "num_return_sequences", "output_logits", "output_scores", "penalty_alpha", "prefill_chunk_size",
        "prompt_lookup_num_tokens", "remove_invalid_values", "renormalize_logits", "repetition_penalty",
        "return_dict_in_generate", "sequence_bias", "speculation_type", "stop_strings", "suppress_tokens",
        "target_lookbehind", "temperature", "token_healing", "top_h", "top_k", "top_p", "typical_p", "use_mtp",
        "watermarking_config",
    }),
}
# fmt: on
IGNORED = frozenset[str]().union(*WHY.values())
#: Shares that training drops; and what transformers.js keeps for itself ("transformers.js_config": SmolLM2).
PATTERN = re.compile(r".*_(dropout|dropout_prob|pdrop)|transformers\.js.*")
