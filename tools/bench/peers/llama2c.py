"""llama2.c, built as a shared library: `run.c` for F32 and `runq.c` for int8, one token at a time, as it always works.

The folder with the libraries is named by the variable LLAMA2C:

    for f in run runq; do gcc -Ofast -fopenmp -march=native -DTESTING -shared -fPIC $f.c -lm -o LLAMA2C/lib$f.so; done

Its RoPE base is 10000 and its epsilon 1e-5, so only shapes with these are taken.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .gguf import permute, read_tensors, widened

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

PACKAGES = ("numpy",)
#: our dtype -> the library
DTYPES = {"f32": "librun.so", "int8": "librunq.so"}
GROUP = 32  # of runq's int8: the largest power of two that divides every width here
STRUCT_BYTES = 4096  # more than its Transformer takes
MAGIC = 0x616B3432  # of runq's files, "ak42"


def convert(model: Path, out: Path, dtype: str) -> None:
    """Write its first format (F32), or its second (int8, groups of 32)."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    fits = (config["model_type"], config["rope_theta"], config["rms_norm_eps"], config["tie_word_embeddings"])
    if fits != ("llama", 10000.0, 1e-5, True):
        msg = f"{model.name}: llama2.c knows only a tied Llama with a RoPE base of 10000 and an epsilon of 1e-5"
        raise ValueError(msg)
    tensors = read_tensors(model / "model.safetensors")
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    sizes = struct.pack("<7i", *(config[n] for n in (*names, "vocab_size", "max_position_embeddings")))
    norms = [list(_layers(tensors, config, f"{part}_layernorm")) for part in ("input", "post_attention")]
    embed, last = widened(tensors["model.embed_tokens.weight"]), widened(tensors["model.norm.weight"])
    attention = [list(_layers(tensors, config, f"self_attn.{p}_proj")) for p in "qkvo"]
    mlp = [list(_layers(tensors, config, f"mlp.{p}_proj")) for p in ("gate", "down", "up")]
    with out.open("wb") as file:
        if dtype == "f32":
            file.write(sizes)
            for block in ([embed], norms[0], *attention, norms[1], *mlp, [last], _angles(config)):
                for x in block:
                    np.ascontiguousarray(x, np.float32).tofile(file)
            return
        file.write((struct.pack("<Ii", MAGIC, 2) + sizes + struct.pack("<Bi", 1, GROUP)).ljust(256, b"\0"))
        for x in (*norms[0], *norms[1], last):
            np.ascontiguousarray(x, np.float32).tofile(file)
        for x in (embed, *(w for block in (*attention, *mlp) for w in block)):
            for part in _rounded(x):
                part.tofile(file)


def _layers(tensors: dict[str, Any], config: dict[str, Any], name: str) -> Iterator[NDArray[np.float32]]:
    """One tensor of every layer; queries and keys with the rows of its RoPE, neighbouring pairs."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for i in range(config["num_hidden_layers"]):
        x = widened(tensors[f"model.layers.{i}.{name}.weight"])
        kind = name.rpartition(".")[2]
        yield permute(x, heads[kind]) if kind in heads else x


def _angles(config: dict[str, Any]) -> list[NDArray[np.float32]]:
    """Cosines and sines [context, d_head/2], which older versions read from the file."""
    d_head = config["hidden_size"] // config["num_attention_heads"]
    at = np.arange(config["max_position_embeddings"])[:, None] * 10000.0 ** (-np.arange(0, d_head, 2) / d_head)
    return [np.cos(at).astype(np.float32), np.sin(at).astype(np.float32)]


def _rounded(x: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Groups of 32 to [-127, 127], and their scales."""
    groups = x.reshape(-1, GROUP)
    scale = np.abs(groups).max(1) / np.float32(127)
    return np.rint(groups / np.maximum(scale, np.float32(1e-30))[:, None]).astype(np.int8), scale.astype(np.float32)


class Engine:
    """One sequence in its one run state."""

    def __init__(self, path: Path, dtype: str, threads: int, _context: int) -> None:
        """Load library and file."""
        start = time.perf_counter()
        folder = os.environ.get("LLAMA2C")
        if folder is None:
            msg = "the variable LLAMA2C names no folder with librun.so and librunq.so"
            raise RuntimeError(msg)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read when the library starts its first team
        lib = ctypes.CDLL(str(Path(folder) / DTYPES[dtype]))
        self._transformer = ctypes.create_string_buffer(STRUCT_BYTES)
        lib.build_transformer(self._transformer, str(path).encode())
        lib.forward.restype = ctypes.POINTER(ctypes.c_float)
        self._lib, self._threads = lib, threads
        self._n_vocab = struct.unpack_from("<7i", self._transformer)[5]
        self._load = time.perf_counter() - start

    def about(self) -> dict[str, Any]:
        """Name and threads; it has no version."""
        return {"name": "llama2.c", "threads": self._threads, "load_s": self._load}

    def prefill(self, ids: Sequence[int]) -> None:
        """One token after the other."""
        self._at = 0
        for token in ids:
            self.step(token)

    def step(self, token: int) -> None:
        """Feed one token."""
        self._logits = self._lib.forward(self._transformer, token, self._at)
        self._at += 1

    def logits(self) -> NDArray[np.float32]:
        """[n_vocab] of the last token."""
        return np.ctypeslib.as_array(self._logits, (self._n_vocab,)).copy()
