"""What config.json says of a checkpoint that others quantised: a `Scheme`, or why it is not read.

A key of its `quantization_config` that could change the numbers and is not known here is such a reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ...dataclass import dataclass
from ..files import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["METHODS", "Scheme", "scheme_of"]

Method = Literal["gptq", "awq", "fp8", "compressed-tensors"]
#: `quant_method`s of which some are read.
METHODS: tuple[Method, ...] = ("gptq", "awq", "fp8", "compressed-tensors")

#: Keys that only say how the numbers were found, or which kernels are to use them.
_HARMLESS = {
    "gptq": (
        *("quant_method", "bits", "group_size", "desc_act", "sym", "true_sequential", "static_groups", "damp_percent"),
        *("damp_auto_increment", "mse", "meta", "lm_head", "dataset", "tokenizer", "batch_size", "pad_token_id"),
        *("model_name_or_path", "model_file_base_name", "model_seqlen", "block_name_to_quantize", "use_cuda_fp16"),
        *("module_name_preceding_first_block", "modules_in_block_to_quantize", "cache_block_outputs", "backend"),
        *("use_exllama", "disable_exllama", "exllama_config", "max_input_length", "act_group_aware", "hyb_act"),
        *("v2", "v2_alpha", "gptaq", "foem", "failsafe", "fail_safe", "quantizer", "offload_to_disk", "gc_mode"),
    ),
    "awq": (
        *("quant_method", "bits", "group_size", "zero_point", "modules_to_not_convert", "backend", "do_fuse"),
        *("modules_to_fuse", "fuse_max_seq_len", "exllama_config", "desc_act", "sym"),
    ),
    "fp8": (
        *("quant_method", "weight_block_size", "modules_to_not_convert", "ignored_layers", "scale_fmt", "dequantize"),
        "modules_to_convert",
    ),
    "compressed-tensors": (
        *("quant_method", "config_groups", "ignore", "quantization_status", "global_compression_ratio", "version"),
        "sparsity_config",
        "run_compressed",
    ),
}
#: What an unknown key may say.
_UNSAID: tuple[Any, ...] = (None, False, {}, [])
#: And those that are looked at: what may stand there.
_KNOWN: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "gptq": {
        "checkpoint_format": (None, "gptq", "gptq_v2"),
        "format": (None, "gptq", "gptq_v2"),
        "is_marlin_format": (None, False),
        "pack_dtype": (None, "int32"),
        "dynamic": (None, {}),
        "adapter": (None, {}),
    },
    "awq": {"version": (None, "gemm", "GEMM", "gemv", "GEMV")},
    "fp8": {"fmt": (None, "e4m3"), "activation_scheme": (None, "dynamic"), "kv_cache_scheme": (None,)},
    "compressed-tensors": {
        "format": (None, "pack-quantized", "int-quantized", "naive-quantized", "float-quantized", "mixed-precision"),
        "kv_cache_scheme": (None,),
        "transform_config": (None, {}),
    },
}


@dataclass(frozen=True)
class Scheme:
    """`group`: inputs that share a scale, -1: all of them; `block`: outputs and inputs, of 8-bit floats.

    `plus`: what a stored zero point lacks; `by_act`: a group's inputs may stand apart, as g_idx says; `by_input`: AWQ's
    "gemv". Of compressed-tensors `groups` are the sizes that a matrix may have; `has_zeros`: every one has zero points.
    """

    method: Method
    bits: int = 8
    group: int = -1
    plus: int = 0
    by_act: bool = False
    has_zeros: bool = False
    floats: bool = False
    by_input: bool = False
    block: tuple[int, int] | None = None
    groups: frozenset[int] = frozenset()


def scheme_of(said: Mapping[str, Any]) -> Scheme | str:
    """The scheme of a `quantization_config` whose method is one of `METHODS`, or words for what is not read."""
    method: Method = said["quant_method"]
    known = _KNOWN[method]
    for key, value in said.items():
        if key in known and value not in known[key]:
            return _other(key, value, *known[key][1:] or ("null",))
        if key not in known and key not in _HARMLESS[method] and value not in _UNSAID:
            return f"{quote(key)} ({quote(value)}) is not known here, and may change what is computed"
    return _OF[method](said)


def _other(key: str, value: object, *expected: object) -> str:
    return f"{key} is {quote(value)}; expected {' or '.join(e if isinstance(e, str) else quote(e) for e in expected)}"


def _whole(value: object) -> bool:
    return type(value) is int and (value == -1 or 0 < value < 2**31)  # `type`: True is no number


def _gptq(said: Mapping[str, Any]) -> Scheme | str:
    bits, group = said.get("bits"), said.get("group_size", 128)
    if type(bits) is not int or bits not in (4, 8):
        return _other("bits", bits, "4", "8")
    if not _whole(group):
        return _other("group_size", group, "a number of inputs", "-1")
    second = "gptq_v2" in (said.get("checkpoint_format"), said.get("format"))
    return Scheme("gptq", bits, group, plus=0 if second else 1, by_act=said.get("desc_act") is True)


def _awq(said: Mapping[str, Any]) -> Scheme | str:
    bits, group = said.get("bits"), said.get("group_size", 128)
    if type(bits) is not int or bits != 4:  # noqa: PLR2004 - what AutoAWQ writes
        return _other("bits", bits, "4")
    if not _whole(group):
        return _other("group_size", group, "a number of inputs", "-1")
    if said.get("zero_point", True) is not True:
        return _other("zero_point", said["zero_point"], "true")
    return Scheme("awq", bits, group, by_input=str(said.get("version")).lower() == "gemv")


def _fp8(said: Mapping[str, Any]) -> Scheme | str:
    block = said.get("weight_block_size")
    if block is None:
        return Scheme("fp8", floats=True)
    if not _is_block(block):
        return _other("weight_block_size", block, "two numbers, of outputs and inputs")
    return Scheme("fp8", floats=True, block=(block[0], block[1]))


def _is_block(block: object) -> bool:
    return isinstance(block, list) and len(block) == 2 and all(_whole(n) and n > 0 for n in block)  # noqa: PLR2004


def _compressed(said: Mapping[str, Any]) -> Scheme | str:
    groups, sparsity = said.get("config_groups"), said.get("sparsity_config")
    if not isinstance(groups, dict) or not groups:
        return _other("config_groups", groups, "an object of groups")
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
        return _other("sparsity_config.format", sparsity["format"], "dense")
    kinds = set[tuple[int, ...]]()
    for name, group in groups.items():
        kind = _weights(group, f"config_groups.{name}")
        if isinstance(kind, str):
            return kind
        kinds.add(kind)
    if len(kinds) > 1:
        return "config_groups differ in their weights' num_bits, type or block_structure; expected one of each"
    bits, floats, *block = kinds.pop()
    zeros = all(group["weights"].get("symmetric") is False for group in groups.values())
    size = (block[0], block[1]) if block else None
    sizes = frozenset(group["weights"].get("group_size") or -1 for group in groups.values())
    return Scheme("compressed-tensors", bits, has_zeros=zeros, floats=bool(floats), block=size, groups=sizes)


def _weights(group: object, where: str) -> tuple[int, ...] | str:
    """Bits of a group's weights, whether they are floats, and a block's outputs and inputs where they say any."""
    weights = group.get("weights") if isinstance(group, dict) else None
    if not isinstance(group, dict) or not isinstance(weights, dict):
        return _other(f"{where}.weights", weights, "an object")
    bits, kind, block = weights.get("num_bits", 8), weights.get("type", "int"), weights.get("block_structure")
    if type(bits) is not int or (bits, kind) not in ((4, "int"), (8, "int"), (8, "float")):
        return f"{where}.weights are {quote(bits)}-bit {quote(kind)}; expected 4- or 8-bit int, or 8-bit float"
    for key in ("input_activations", "output_activations"):
        acts = group.get(key)
        if acts is not None and not (isinstance(acts, dict) and acts.get("dynamic") is True):
            return f"{where}.{key} are rounded with scales that are fixed ahead; expected none, or dynamic ones"
    if weights.get("group_size") is not None and not _whole(weights["group_size"]):
        return _other(f"{where}.weights.group_size", weights["group_size"], "a number of inputs", "-1")
    if block is not None and not _is_block(block):
        return _other(f"{where}.weights.block_structure", block, "two numbers, of outputs and inputs")
    return (bits, kind == "float", *(block or ()))


_OF: Mapping[str, Callable[[Mapping[str, Any]], Scheme | str]] = {
    "gptq": _gptq,
    "awq": _awq,
    "fp8": _fp8,
    "compressed-tensors": _compressed,
}
