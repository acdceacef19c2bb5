"""What config.json says of a checkpoint that others quantised: a `Scheme`, or why it is not read.

A key of its `quantization_config` that could change the numbers and is not known here is such a reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..files import quote
from .groups import FORMATS, compressed
from .scheme import FLOAT_WORDS, Method, Scheme, is_block, is_size, other, strange

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["METHODS", "scheme_of"]

#: `quant_method`s of which some are read.
METHODS: tuple[Method, ...] = ("gptq", "awq", "fp8", "compressed-tensors")

#: What AutoRound writes of its own run.
_TUNED = (
    *("autoround_version", "iters", "nsamples", "n_samples", "seqlen", "batch_size", "train_bs", "lr", "minmax_lr"),
    *("amp", "enable_quanted_input", "enable_minmax_tuning", "enable_norm_bias_tuning", "enable_alg_ext", "dataset"),
    *("gradient_accumulate_steps", "low_gpu_mem_usage", "to_quant_block_names", "block_name_to_quantize", "provider"),
    *("act_group_size", "act_sym", "act_dynamic", "model_free", "modules_in_block_to_quantize"),
)
#: What GPTQModel writes of its own run, in `meta`; older programs wrote some of it next to `bits`.
_META = (
    *("quantizer", "uri", "timestamp", "calibration_paths", "damp_percent", "damp_auto_increment", "static_groups"),
    *("true_sequential", "mse", "scale_search", "act_group_aware", "gptaq", "foem", "v2", "v2_alpha", "hessian"),
    *("failsafe", "fail_safe", "fallback", "gc_mode", "offload_to_disk", "offload_to_disk_path", "pack_impl"),
    *("vram_strategy", "wait_for_submodule_finalizers", "auto_forward_data_parallel"),
)
#: Keys that only say how the numbers were found, or which kernels are to use them.
_HARMLESS = {
    "gptq": (
        *("quant_method", "bits", "group_size", "meta", "lm_head", "tokenizer", "pad_token_id", *_TUNED, *_META),
        *("model_name_or_path", "model_file_base_name", "model_seqlen", "use_cuda_fp16", "cache_block_outputs"),
        *("module_name_preceding_first_block", "backend", "use_exllama", "disable_exllama", "exllama_config"),
        *("max_input_length", "hyb_act"),
    ),
    "awq": (
        *("quant_method", "bits", "group_size", "meta", "lm_head", "zero_point", "modules_to_not_convert", "backend"),
        *("do_fuse", "modules_to_fuse", "fuse_max_seq_len", "exllama_config", *_TUNED),
    ),
    "fp8": ("quant_method", "weight_block_size", "modules_to_not_convert", "ignored_layers", "modules_to_convert"),
    "compressed-tensors": (
        *("quant_method", "config_groups", "ignore", "global_compression_ratio", "version", "sparsity_config"),
        "run_compressed",
    ),
}
_BOTH = (None, False, True)
#: Of GPTQ and AWQ: the numbers, and inputs that are not rounded.
_INTEGERS: Mapping[str, tuple[Any, ...]] = {
    "desc_act": _BOTH,
    "sym": _BOTH,
    "pack_dtype": (None, "int32"),
    "dynamic": (None, {}),
    "adapter": (None, {}),
    "data_type": (None, "int"),
    "scale_dtype": FLOAT_WORDS,
    "act_bits": (None, 16, 32),
    "act_data_type": (None, "int", "float"),
}
_GPTQ_FORMS = (None, "gptq", "gptq_v2")
_AWQ_FORMS = (None, "gemm", "GEMM", "gemv", "GEMV")
#: And those that are looked at: what may stand there.
_KNOWN: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "gptq": {
        **_INTEGERS,
        "method": (None, "gptq"),
        "checkpoint_format": _GPTQ_FORMS,
        "format": _GPTQ_FORMS,
        "is_marlin_format": (None, False),
    },
    "awq": {
        **_INTEGERS,
        "method": (None, "awq"),
        "version": _AWQ_FORMS,
        "checkpoint_format": _AWQ_FORMS,
        "format": _AWQ_FORMS,
    },
    "fp8": {
        "fmt": (None, "e4m3", "float8_e4m3fn"),
        "activation_scheme": (None, "dynamic"),
        "kv_cache_scheme": (None,),
        "scale_fmt": (None, "float", "ue8m0"),
        "expert_dtype": (None, "fp8"),
        "dequantize": _BOTH,
    },
    "compressed-tensors": {
        "format": FORMATS,
        "kv_cache_scheme": (None,),
        "transform_config": (None, {}),
        "quantization_status": (None, "compressed", "frozen"),
    },
}


def scheme_of(said: Mapping[str, Any]) -> Scheme | str:
    """The scheme of a `quantization_config` whose method is one of `METHODS`, or words for what is not read."""
    method: Method = said["quant_method"]
    why = strange(said, _KNOWN[method], _HARMLESS[method])
    return _OF[method](said) if why is None else why


def _meta(said: Mapping[str, Any]) -> str | None:
    """Words for something in GPTQModel's `meta` that may change numbers."""
    meta = said.get("meta")
    if meta is not None and not isinstance(meta, dict):
        return other("meta", meta, "an object")
    return strange(meta or {}, {}, _META, "meta")


def _differ(said: Mapping[str, Any], *keys: str) -> str | None:
    """Words for keys of one meaning that say two things."""
    there = [(key, said[key]) for key in keys if said.get(key) is not None]
    for key, value in there[1:]:
        first, form = there[0]
        if value.lower() != form.lower():
            return f"{first} is {quote(form)}, and {key} is {quote(value)}; expected one word for both"
    return None


def _gptq(said: Mapping[str, Any]) -> Scheme | str:
    bits, group = said.get("bits"), said.get("group_size", 128)
    if type(bits) is not int or bits not in (4, 8):
        return other("bits", bits, "4", "8")
    if not is_size(group):
        return other("group_size", group, "a number of inputs", "-1")
    if (why := _meta(said) or _differ(said, "checkpoint_format", "format")) is not None:
        return why
    second = "gptq_v2" in (said.get("checkpoint_format"), said.get("format"))
    return Scheme("gptq", bits, group, plus=0 if second else 1, by_act=said.get("desc_act") is True)


def _awq(said: Mapping[str, Any]) -> Scheme | str:
    bits, group = said.get("bits"), said.get("group_size", 128)
    if type(bits) is not int or bits != 4:  # noqa: PLR2004 - what AutoAWQ writes
        return other("bits", bits, "4")
    if not is_size(group):
        return other("group_size", group, "a number of inputs", "-1")
    if said.get("zero_point", True) is not True:
        return other("zero_point", said["zero_point"], "true")
    forms = "version", "checkpoint_format", "format"
    if (why := _meta(said) or _differ(said, *forms)) is not None:
        return why
    return Scheme("awq", bits, group, by_input="gemv" in (str(said.get(key)).lower() for key in forms))


def _fp8(said: Mapping[str, Any]) -> Scheme | str:
    block = said.get("weight_block_size")
    if block is None:
        return Scheme("fp8", floats=True)
    if not is_block(block):
        return other("weight_block_size", block, "two numbers, of outputs and inputs")
    return Scheme("fp8", floats=True, block=(block[0], block[1]))


_OF: Mapping[str, Callable[[Mapping[str, Any]], Scheme | str]] = {
    "gptq": _gptq,
    "awq": _awq,
    "fp8": _fp8,
    "compressed-tensors": compressed,
}
