"""Weights that are not read, in other files or quantised by others: named by what they are, with what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .files import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["QUANTIZATION", "missing_scale", "other_format", "other_quantization"]

_SAVE = "save_pretrained(new_directory)"
_LOAD = "AutoModelForCausalLM.from_pretrained(directory{0})." + _SAVE
#: Ends of names, what such a file is, and what to do.
_FORMATS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        (".ggml", ".ggml.bin"),
        "a GGML file of llama.cpp or whisper.cpp",
        "miaotui reads safetensors: get the original checkpoint, and round it to int8 or int4 while loading",
    ),
    (
        (".bin", ".bin.index.json", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"),
        "pickled PyTorch weights, and pickled files are never opened, as that runs their code",
        f"save it as safetensors with `{_LOAD.format('')}`",
    ),
    (
        (".gguf",),
        "a GGUF file of llama.cpp",
        "miaotui reads safetensors: get the original checkpoint, and round it to int8 or int4 while loading",
    ),
    ((".h5", ".keras"), "TensorFlow weights", f"save it as safetensors with `{_LOAD.format(', from_tf=True')}`"),
    ((".msgpack",), "Flax weights", f"save it as safetensors with `{_LOAD.format(', from_flax=True')}`"),
    ((".npz",), "NumPy or MLX weights", "miaotui reads safetensors: get the original checkpoint"),
    ((".onnx", ".onnx_data"), "an ONNX graph", "miaotui reads safetensors: get the original checkpoint"),
    ((".tflite", ".mlmodel", ".engine", ".llamafile"), "another runtime's file", "get the original checkpoint"),
)
#: Files that end alike and hold no weights.
_NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.bin", "scheduler.pt", "rng_state.pth")


def other_format(names: Iterable[str]) -> str | None:
    """The first of these files that holds weights which are not read: its name, what it is and what to do; or None."""
    there = [name for name in names if name.lower().rpartition("/")[2] not in _NO_WEIGHTS]
    for ends, what, instead in _FORMATS:
        name = next((n for n in there if _usual(n).endswith(ends)), None)
        if name is not None:
            return f"{name} is {what}; {instead}"
    return None


def _usual(name: str) -> str:
    """In lower case; GGML files are called ggml-MODEL.bin, or MODEL.ggmlv3.q4_0.bin."""
    name = name.lower()
    return name.replace(".bin", ".ggml.bin") if "ggml" in name.rpartition("/")[2] else name


#: config.json's quantization_config.quant_method -> as people call it.
_METHODS = {
    "gptq": "GPTQ", "awq": "AWQ", "fp8": "FP8", "fbgemm_fp8": "FP8", "bitsandbytes": "bitsandbytes", "mxfp4": "MXFP4",
    "compressed-tensors": "compressed-tensors", "hqq": "HQQ", "aqlm": "AQLM", "eetq": "EETQ", "quanto": "quanto",
    "torchao": "torchao", "modelopt": "ModelOpt",
}  # fmt: skip
#: Ends of the names of tensors that only such a checkpoint has.
_TENSORS = (
    ((".qweight", ".qzeros", ".g_idx"), "GPTQ or AWQ"),
    ((".weight_packed", ".weight_scale"), "compressed-tensors"),
    ((".weight_scale_inv",), "FP8"),
    ((".SCB", ".quant_map", ".absmax"), "bitsandbytes"),
    ((".scales",), "MLX"),
)
#: And of these which are not read.
_OTHERS = ("bitsandbytes", "MLX")
#: The key of config.json that says so; others that hold it: the last is what MLX writes.
QUANTIZATION = "quantization_config"
_KEYS = (QUANTIZATION, "compression_config", "quantization")


#: Dtypes of 8 bits -> what follows the name of such a matrix's scale.
_SCALES = {"F8_E4M3": ("_scale_inv", "_scale"), "I8": ("_scale",)}
_ORIGINAL = "get the original checkpoint, and round it to int8, int4a or int4 while loading, or with `miaotui quantize`"


def other_quantization(raw: Mapping[str, Any], tensors: Iterable[str], ours: str) -> str | None:
    """By which method a checkpoint was quantised that is not read, and what to do; None where it is, or by `ours`."""
    key = next((key for key in _KEYS if isinstance(raw.get(key), dict)), None)
    if key is None:
        return _of_tensors(raw, list(tensors))
    told = raw[key]
    method = told.get("quant_method")
    if method == ours:
        return None
    what = _METHODS.get(method) if isinstance(method, str) else None
    what = what or ("bitsandbytes" if {"load_in_4bit", "load_in_8bit"} & told.keys() else None)
    what = what or ("MLX" if key == "quantization" else None)
    said = f"{key} in config.json"
    if what is None and method is None:
        return (
            f"is quantised by a method that config.json does not name: {key} has no quant_method, which may be "
            f"{_read()}. Write there what its publisher says; else {_ORIGINAL}"
        )
    if key != "quantization":
        from .foreign.config import METHODS, scheme_of  # noqa: PLC0415 - few are quantised

        scheme = scheme_of(told) if method in METHODS else ""
        if not isinstance(scheme, str) and key == QUANTIZATION:
            return None
        if not isinstance(scheme, str):
            return (
                f"is quantised by {what} ({said}, an older name), which miaotui reads under its newer name: rename it "
                f"to {QUANTIZATION} there; else {_ORIGINAL}"
            )
        said += f": {scheme}" if scheme else ""
    return f"is quantised by {what or f'method {quote(method)}'} ({said}), which miaotui does not read: {_ORIGINAL}"


def _of_tensors(raw: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """As `other_quantization`, where config.json has no words about it."""
    found = next(((name, what) for ends, what in _TENSORS for name in names if name.endswith(ends)), None)
    if found is None:
        return None
    name, what = found
    start = f"is quantised by {what} (tensor {quote(name)})"
    if what in _OTHERS:
        return f"{start}, which miaotui does not read: {_ORIGINAL}"
    inner, where = raw.get("text_config"), ""
    if isinstance(inner, dict) and isinstance(inner.get(QUANTIZATION), dict):
        where = ", and stands in text_config: move it to the top of config.json"
    elif raw.get(QUANTIZATION) is not None:
        where = f", and is {quote(raw[QUANTIZATION])}: it must be an object with quant_method"
    advice = where or (
        ": get config.json from the publisher again, or put there what the checkpoint's quantize_config.json or "
        f"quant_config.json says, with quant_method ({_read()})"
    )
    return f"{start}; {QUANTIZATION} in config.json must say how{advice}; else {_ORIGINAL}"


def missing_scale(name: str, dtype: str) -> str | None:
    """Words for a matrix of 8 bits that no other tensor makes numbers of; None: it is none."""
    ends = _SCALES.get(dtype, ())
    if not ends or not name.endswith(".weight"):
        return None
    scales = " or ".join(name + end for end in ends)
    return f"tensor {name} is {dtype}, and its scale {scales} is missing: download the checkpoint again"


def _read() -> str:
    """The methods that are read."""
    from .foreign.config import METHODS  # noqa: PLC0415 - few are quantised

    return f"{', '.join(METHODS[:-1])} or {METHODS[-1]}"
