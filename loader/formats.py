"""Weights that are not read, in other files or quantised by others: named by what they are, with what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .files import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["QUANTIZATION", "other_format", "other_quantization"]

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
#: The key of config.json that says so; others that hold it: the last is what MLX writes.
QUANTIZATION = "quantization_config"
_KEYS = (QUANTIZATION, "compression_config", "quantization")


def other_quantization(raw: Mapping[str, Any], tensors: Iterable[str], ours: str) -> str | None:
    """By which method a checkpoint was quantised that is not read, and what to do; None where it is, or by `ours`."""
    key = next((key for key in _KEYS if isinstance(raw.get(key), dict)), None)
    told = raw[key] if key is not None else {}
    method = told.get("quant_method")
    if method == ours:
        return None
    if key is None:
        names = list(tensors)
        name, what = next(
            ((name, what) for ends, what in _TENSORS for name in names if name.endswith(ends)), (None, None)
        )
        said = f"tensor {quote(name)}"
    else:
        what = _METHODS.get(method) if isinstance(method, str) else None
        what = what or ("bitsandbytes" if {"load_in_4bit", "load_in_8bit"} & told.keys() else None)
        what = what or ("MLX" if key == "quantization" else f"method {quote(method)}")
        said = f"{key} in config.json"
        if key == QUANTIZATION:
            from .foreign.config import METHODS, scheme_of  # noqa: PLC0415 - few are quantised

            scheme = scheme_of(told) if method in METHODS else ""
            if not isinstance(scheme, str):
                return None
            said += f": {scheme}" if scheme else ""
    if what is None:
        return None
    return (
        f"is quantised by {what} ({said}), which miaotui does not read: get the original checkpoint, and round it "
        "to int8, int4a or int4 while loading, or with `miaotui quantize`"
    )
