"""Random checkpoints at real shapes, for measuring: speed depends on shapes and dtypes, not on what was learnt.

    python -m miaotui.tools.bench.shapes --shape smollm2-135m --dtype bf16 DIRECTORY

Weights and biases are normal with a standard deviation of 0.02, norms are one, the seed fixes every bit. BF16 is the
same draw rounded to nearest even, and so is F16. The directory is a Hugging Face one: `transformers` loads it too.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from .encoder_shapes import ENCODERS, SEQ2SEQ, named_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["SHAPES", "main", "make_checkpoint", "to_bf16"]

DTYPES = {"f32": ("F32", 4, "float32"), "bf16": ("BF16", 2, "bfloat16"), "f16": ("F16", 2, "float16")}
STD = 0.02
COMMON: dict[str, Any] = {"hidden_act": "silu", "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0}
#: model_type -> what its configs have in common; Qwen2's query, key and value projections have biases
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {
        **COMMON,
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "rms_norm_eps": 1e-5,
        "attention_bias": False,
        "mlp_bias": False,
    },
    "qwen2": {
        **COMMON,
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "rms_norm_eps": 1e-6,
        "use_sliding_window": False,
    },
}

KEYS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("intermediate_size", "vocab_size", "max_position_embeddings", "rope_theta"),
)
ROWS = {
    "tiny": ("llama", 48, 2, 3, 1, 80, 307, 256, 10000.0),
    "tiny-wide": ("llama", 48, 2, 3, 1, 80, 3070, 256, 10000.0),
    "tiny-qwen2": ("qwen2", 64, 2, 2, 1, 96, 331, 256, 1000000.0),
    "stories15m": ("llama", 288, 6, 6, 6, 768, 32000, 256, 10000.0),
    "smollm2-135m": ("llama", 576, 30, 9, 3, 1536, 49152, 8192, 100000.0),
    "smollm2-135m-262k": ("llama", 576, 30, 9, 3, 1536, 262144, 8192, 100000.0),  # with a larger vocabulary
    "qwen2.5-0.5b": ("qwen2", 896, 24, 14, 2, 4864, 151936, 32768, 1000000.0),
    "llama-3.2-1b": ("llama", 2048, 16, 32, 8, 8192, 128256, 131072, 500000.0),  # less its RoPE scaling
}
#: name -> its config.json
SHAPES: dict[str, dict[str, Any]] = {
    name: FAMILIES[family] | dict(zip(KEYS, row, strict=True)) for name, (family, *row) in ROWS.items()
}


def to_bf16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round finite float32 to bfloat16, to nearest, ties to even; the bits as uint16."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def make_checkpoint(directory: str | Path, shape: str, dtype: str = "f32", seed: int = 0) -> Path:
    """Write the checkpoint unless the very same one is there; the directory. InputError: no such shape or dtype."""
    known_shapes = SHAPES | ENCODERS | SEQ2SEQ
    if shape not in known_shapes or dtype not in DTYPES:
        known = f"{', '.join(known_shapes)}; {', '.join(DTYPES)}"
        msg = f"shape {shape!r}, dtype {dtype!r}: expected one each of {known}"
        raise InputError(msg)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    config = known_shapes[shape] | {"torch_dtype": DTYPES[dtype][2]}
    recipe = json.dumps({"shape": shape, "dtype": dtype, "seed": seed, "std": STD})
    mark = directory / "recipe.json"
    if mark.exists() and mark.read_text(encoding="utf-8") == recipe:
        return directory
    _replace(directory / "config.json", json.dumps(config, indent=1).encode())
    _replace(directory / "tokenizer.json", _tokenizer(config["vocab_size"]).encode())
    if config["model_type"] not in FAMILIES:  # CTranslate2's converter asks for each of them by name
        special = dict.fromkeys(("bos_token", "unk_token", "pad_token"), "<|endoftext|>")
        # the end is another: CTranslate2 never takes it before it may, and random weights like to repeat the start
        how = {"tokenizer_class": "PreTrainedTokenizerFast", **special, "eos_token": "!"}
        _replace(directory / "tokenizer_config.json", json.dumps(how).encode())
    _write_tensors(directory / "model.safetensors", config, dtype, seed)
    _replace(mark, recipe.encode())  # last: it says that the rest is whole
    return directory


def _tensors(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, in the order of the file: of a tied Llama or Qwen2 here."""
    if config["model_type"] not in FAMILIES:
        yield from named_tensors(config)
        return
    d, ff = config["hidden_size"], config["intermediate_size"]
    d_kv = d // config["num_attention_heads"] * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", (config["vocab_size"], d)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        yield layer + "input_layernorm.weight", (d,)
        yield layer + "mlp.down_proj.weight", (d, ff)
        yield layer + "mlp.gate_proj.weight", (ff, d)
        yield layer + "mlp.up_proj.weight", (ff, d)
        yield layer + "post_attention_layernorm.weight", (d,)
        for part, rows in (("k", d_kv), ("o", d), ("q", d), ("v", d_kv)):
            if config["model_type"] == "qwen2" and part != "o":
                yield layer + f"self_attn.{part}_proj.bias", (rows,)
            yield layer + f"self_attn.{part}_proj.weight", (rows, d)
    yield "model.norm.weight", (d,)


def _write_tensors(path: Path, config: dict[str, Any], dtype: str, seed: int) -> None:
    """Write a safetensors file tensor by tensor, so that no more than one is in memory."""
    name_of, size, _ = DTYPES[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in _tensors(config):
        stop = at + math.prod(shape) * size
        header[name] = {"dtype": name_of, "shape": list(shape), "data_offsets": [at, stop]}
        at = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(seed)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in _tensors(config):
            norm = "norm" in name.lower() and name.endswith(".weight")
            x = np.ones(shape, np.float32) if norm else rng.standard_normal(shape, np.float32) * np.float32(STD)
            (to_bf16(x) if dtype == "bf16" else x.astype(np.dtype(DTYPES[dtype][2]))).tofile(file)
    part.replace(path)


def _tokenizer(n_vocab: int) -> str:
    """Make a byte-level tokenizer: one id for the end of text, 256 for the bytes, fillers up to the vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415 - only who makes files needs it

    tokens = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += [f"<filler{i}>" for i in range(len(tokens), n_vocab)]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens[:n_vocab])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return str(tokenizer.to_str())


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


def main(argv: list[str] | None = None) -> int:
    """Make one checkpoint from the command line."""
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.bench.shapes", description="a random checkpoint")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--shape", choices=[*SHAPES, *ENCODERS, *SEQ2SEQ], default="smollm2-135m")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    made = make_checkpoint(args.directory, args.shape, args.dtype, args.seed)
    sys.stdout.write(f"{args.shape} {args.dtype}: {(made / 'model.safetensors').stat().st_size / 1e6:.1f} MB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
