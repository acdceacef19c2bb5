"""Every key that a published config.json has is read, known to change nothing, or refused by name.

Compared with the transformers that is installed: what its classes write loads, and what its model code reads is no key
that we ignore, but for those that are listed here with the reason.
"""

from __future__ import annotations

import inspect
import json
import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from checkpoints import FAMILIES, small
from miaotui.errors import ConfigError
from miaotui.loader.config import parse_config, resolve_config
from miaotui.loader.families import FAMILIES as KNOWN
from miaotui.loader.families.base import ONLY
from miaotui.loader.families.ignored import IGNORED, PATTERN, WHY

if TYPE_CHECKING:
    from pathlib import Path

WHERE = "somewhere/config.json"

#: What `PretrainedConfig` of transformers 4 wrote with every default: `to_json_file(use_diff=False)` of 4.20 to 4.57.
WRITTEN_BY_4: dict[str, Any] = {
    "_name_or_path": "x/y", "add_cross_attention": False, "architectures": None, "bad_words_ids": None,
    "begin_suppress_tokens": None, "bos_token_id": 1, "chunk_size_feed_forward": 0, "cross_attention_hidden_size": None,
    "decoder_start_token_id": None, "diversity_penalty": 0.0, "do_sample": False, "early_stopping": False,
    "encoder_no_repeat_ngram_size": 0, "eos_token_id": 2, "exponential_decay_length_penalty": None,
    "finetuning_task": None, "forced_bos_token_id": None, "forced_eos_token_id": None,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "is_decoder": False, "is_encoder_decoder": False,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "length_penalty": 1.0, "max_length": 20, "min_length": 0,
    "no_repeat_ngram_size": 0, "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1,
    "output_attentions": False, "output_hidden_states": False, "output_scores": False, "pad_token_id": None,
    "prefix": None, "problem_type": None, "pruned_heads": {}, "remove_invalid_values": False, "repetition_penalty": 1.0,
    "return_dict": True, "return_dict_in_generate": False, "sep_token_id": None, "suppress_tokens": None,
    "task_specific_params": None, "temperature": 1.0, "tf_legacy_loss": False, "tie_encoder_decoder": False,
    "tie_word_embeddings": True, "tokenizer_class": None, "top_k": 50, "top_p": 1.0, "torch_dtype": "bfloat16",
    "torchscript": False, "transformers_version": "4.44.0", "typical_p": 1.0, "use_bfloat16": False,
    "_attn_implementation_autoset": True, "_commit_hash": "0" * 40, "_flash_attn_2_enabled": True,
}  # fmt: skip

#: Keys that files on the hub have and that no class of theirs writes, at the values there: all of them must load.
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "openai-community/gpt2": ("gpt2", {
        "n_ctx": 1024, "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
        "summary_type": "cls_index", "summary_use_proj": True, "initializer_range": 0.02, "resid_pdrop": 0.1,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}}),
    "openai-community/gpt2-xl": ("gpt2", {"n_special": 0, "output_past": True, "predict_special_tokens": True}),
    "distilbert/distilgpt2": ("gpt2", {"_num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}),
    "skt/kogpt2-base-v2": ("gpt2", {"_num_labels": 1, "author": "x", "created_date": "2021-04-28", "license": "x",
                                    "reorder_and_upcast_attn": False, "gradient_checkpointing": False}),
    "meta-llama/Llama-2-7b-hf": ("llama", {"pretraining_tp": 1, "rope_scaling": None, "torch_dtype": "float16"}),
    "lmsys/vicuna-7b-v1.5": ("llama", {"max_sequence_length": 4096, "pad_token_id": 0, "rope_scaling": None}),
    "meta-llama/Llama-3.1-8B": ("llama", {"mlp_bias": False, "rope_theta": 500000.0, "rope_scaling": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_type": "llama3",
        "original_max_position_embeddings": 8192}}),
    "HuggingFaceTB/SmolLM2-135M": ("llama", {"is_llama_config": True, "rope_interleaved": False,
                                             "transformers.js_config": {"kv_cache_dtype": {"fp16": "float16"}}}),
    "NousResearch/Yarn-Llama-2-7b-64k": ("llama", {"rope_scaling": {
        "factor": 16.0, "original_max_position_embeddings": 4096, "type": "yarn", "finetuned": True}}),
    "unsloth/Llama-3.2-1B": ("llama", {"unsloth_fixed": True, "unsloth_version": "2024.9"}),
    "mistralai/Mistral-Nemo-Base-2407": ("mistral", {"head_dim": 128, "sliding_window": None}),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": ("qwen2", {
        "use_mrope": False, "use_sliding_window": False, "max_window_layers": 21, "sliding_window": 4096}),
    "Qwen/Qwen3-0.6B": ("qwen3", {"attention_bias": False, "max_window_layers": 28, "sliding_window": None,
                                  "rope_scaling": None, "use_sliding_window": False}),
}  # fmt: skip


@pytest.mark.parametrize("diff", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_writes_loads(family: str, *, diff: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoConfig.for_model(**small(family).config)
    for config in (theirs, transformers.AutoConfig.for_model(family)):
        config.to_json_file(tmp_path / "config.json", use_diff=diff)
        written = json.loads((tmp_path / "config.json").read_text())
        assert parse_config({"model_type": family} | written, WHERE).d_model == config.hidden_size


#: What a missing key means here and not there: why that changes nothing.
OTHERWISE = {
    ("qwen2", "sliding_window"): "their class drops the window unless use_sliding_window is set, which we ask too",
    ("qwen3", "sliding_window"): "the same",
    ("qwen2_moe", "sliding_window"): "the same",
    ("qwen3_moe", "sliding_window"): "the same",
    ("eurobert", "bos_token_id"): "an encoder begins no answer",
    ("eurobert", "eos_token_id"): "and ends none",
}


@pytest.mark.parametrize("family", sorted({*KNOWN} - {"nemotron-nas"}))  # that one is no class of theirs
def test_a_missing_key_means_what_it_means_in_transformers(family: str) -> None:
    """Where our default is None, it follows from other keys, which models of each family compare."""
    theirs = pytest.importorskip("transformers").AutoConfig.for_model(family).to_dict()
    keys = {name: key for name, key in KNOWN[family].keys.items() if name in theirs and key.default is not None}
    differing = {name for name, key in keys.items() if key.check(theirs[name]) != key.default}
    assert differing == {name for of, name in OTHERWISE if of == family}
    assert len(keys) >= 4


def test_what_generation_once_put_into_config_json_loads() -> None:
    """transformers takes these from a config.json and drops them, whatever they say."""
    configuration = pytest.importorskip("transformers").GenerationConfig
    theirs = {*configuration().to_dict(), *configuration._get_default_generation_params()}
    names = theirs - {"bos_token_id", "eos_token_id", "_from_model_config"}  # read; and written elsewhere
    assert names <= IGNORED


@pytest.mark.parametrize("family", [*FAMILIES, "nemotron-nas"])
def test_what_transformers_4_wrote_loads(family: str) -> None:
    own = {"block_configs": [{"attention": {"no_op": True}, "ffn": {"intermediate_size": 8}}], "num_hidden_layers": 1}
    more = own if family == "nemotron-nas" else {}
    parse_config({"model_type": family, **WRITTEN_BY_4, **more}, WHERE)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_keys_load(name: str) -> None:
    family, keys = PUBLISHED[name]
    parse_config({"model_type": family, **keys}, WHERE)


#: Keys that the model code of transformers reads and that we ignore: why the logits are the same.
READ_BY_TRANSFORMERS = {
    "_attn_implementation": "which kernel computes attention",
    "attention_dropout": "training", "attn_pdrop": "training", "embd_pdrop": "training", "resid_pdrop": "training",
    "classifier_dropout": "another head", "hidden_dropout": "another head", "num_labels": "another head",
    "problem_type": "another head", "initializer_range": "first weights",
    "pad_token_id": "the padding token's row gets no gradient; it is looked up as any other",
    "reorder_and_upcast_attn": "scores in float32, as ours always are",
    "summary_activation": "another head", "summary_first_dropout": "another head",
    "summary_last_dropout": "another head", "summary_proj_to_labels": "another head", "summary_type": "another head",
    "summary_use_proj": "another head",
    "use_cache": "what is returned",
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_what_their_model_code_reads_is_read_or_known(family: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    code = inspect.getsource(import_module(f"transformers.models.{family}.modeling_{family}"))
    read = set(re.findall(r'config\.([a-z_]+)\b(?!\()|getattr\((?:self\.)?config, "([a-z_]+)"', code))
    names = {a or b for a, b in read}
    aliases = {"hidden_size", "num_attention_heads", "num_hidden_layers", "max_position_embeddings"}  # of GPT-2's own
    of = KNOWN[family]
    unknown = names - {*of.keys, *of.only, *ONLY, *aliases, *READ_BY_TRANSFORMERS}
    assert not unknown, "new in this release: read them, or say here why they change nothing"
    assert "vocab_size" in names


@pytest.mark.parametrize("family", FAMILIES)
def test_an_ignored_key_changes_nothing_whatever_it_says(family: str) -> None:
    plain = resolve_config({"model_type": family}, WHERE)
    for name in (IGNORED | KNOWN[family].harmless) - {"model_type", "architectures"}:
        for value in ("x", 3, True, [1], {"a": 1}):
            assert resolve_config({"model_type": family, name: value}, WHERE) == plain


def test_every_key_has_one_reason_and_none_is_read() -> None:
    assert len(IGNORED) == sum(map(len, WHY.values()))
    assert all(" " in why for why in WHY)
    for family in (KNOWN[name] for name in FAMILIES):
        assert not IGNORED & {*family.keys, *family.only, *ONLY}
        assert not any(PATTERN.fullmatch(key) for key in (*family.keys, *family.only, *ONLY))


@pytest.mark.parametrize(("family", "name", "value"), [
    ("llama", "rope_condense_ratio", 8), ("llama", "bias", True), ("llama", "is_causal", False),
    ("qwen2", "dual_chunk_attention_config", {"chunk_size": 262144}), ("gpt2", "rotary_dim", 64),
    ("mistral", "transformers_weights", "other.safetensors"), ("qwen3", "logit_scale", 0.5),
    ("llama", "attention_chunk_size", 8192), ("llama", "final_logit_softcapping", 30.0),
    ("llama", "use_mrope", True), ("qwen3", "num_experts", 128), ("gpt2", "alibi", True),
])  # fmt: skip
def test_what_changes_the_answer_is_refused_by_name(family: str, name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        parse_config({"model_type": family, name: value}, WHERE)
