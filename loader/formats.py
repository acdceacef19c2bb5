"""Weights that are no safetensors: named by what they are, with what to do instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["WEIGHTS", "other_format"]

#: The weights that are read.
WEIGHTS = "model.safetensors"

_SAVE = "save_pretrained(new_directory)"
_LOAD = "AutoModelForCausalLM.from_pretrained(directory{0})." + _SAVE
#: Ends of names, what such a file is, and what to do.
_FORMATS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        (".bin", ".bin.index.json", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"),
        "pickled PyTorch weights, and pickled files are never opened, as that runs their code",
        f"save it as safetensors with `{_LOAD.format('')}`",
    ),
    (
        (".gguf", ".ggml"),
        "a GGUF file of llama.cpp",
        "miaotui reads safetensors: get the original checkpoint, and round it with quantize= (int8, int4)",
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
        name = next((n for n in there if n.lower().endswith(ends)), None)
        if name is not None:
            return f"{name} is {what}; {instead}"
    return None
