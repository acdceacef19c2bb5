"""Write a Llama or Qwen2 checkpoint as GGUF, so that llama.cpp computes with the very same weights.

Of any other, `write_as` puts the matrices into a GGUF file that somebody else made of the same model.

Matrices keep the dtype of the checkpoint, F32, BF16 or F16, or are rounded by the `gguf` package; norms and biases
become F32, which is exact. A Llama's rows of the query and key projections are reordered, because llama.cpp rotates
neighbouring pairs (2i, 2i + 1) there where Hugging Face rotates (i, i + d_head/2); the dot products are the same sums
in another order. A tokenizer is written where it is asked for, of bytes and whole tokens; elsewhere ids go in and out.
"""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

ARCHS = ("llama", "qwen2")  # called alike on both sides
#: how `read_tensors` holds a dtype -> its name
STORED = {"f4": "F32", "u2": "BF16", "f2": "F16"}
MATRICES = {
    "mlp.down_proj": "ffn_down",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
BIASED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")  # in Qwen2
OUTER = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}


def gguf_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` -> `blk.3.ffn_up.weight`; ValueError for a tensor that neither family has."""
    if name in OUTER:
        return OUTER[name]
    if name == "lm_head.weight":
        return "output.weight"
    parts = name.split(".")
    inner = ".".join(parts[3:-1])
    kinds = ("weight", "bias") if inner in BIASED else ("weight",)
    if parts[:2] != ["model", "layers"] or parts[-1] not in kinds or inner not in MATRICES:
        msg = f"tensor {name}: expected the names of a Llama or a Qwen2"
        raise ValueError(msg)
    return f"blk.{parts[2]}.{MATRICES[inner]}.{parts[-1]}"


def permute(rows: np.ndarray[Any, Any], n_heads: int) -> np.ndarray[Any, Any]:
    """Reorder each head's rows from halves to pairs: row i + h * d/2 becomes row 2i + h. [n_heads * d, k]."""
    d_head = rows.shape[0] // n_heads
    return rows.reshape(n_heads, 2, d_head // 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def read_tensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Map the tensors of a safetensors file that is known to be good: BF16 as its bits in uint16."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    data = np.memmap(path, np.uint8, "r", 8 + length)
    types = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
    out = {}
    for name, info in header.items():
        start, stop = info["data_offsets"]
        raw = data[start:stop]
        out[name] = np.frombuffer(raw, types[info["dtype"]]).reshape(info["shape"])
    return out


def write_gguf(model: Path, out: Path, quantized: str | None = None, *, tokenizer: bool = False) -> None:
    """Write `out` from the directory `model`; `quantized`: "q8_0", "q4_0" or "q4_1" for matrices of whole 32s."""
    gguf = importlib.import_module("gguf")
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    rope = config.get("rope_parameters") or config
    arch = config["model_type"]
    if arch not in ARCHS or config.get("rope_scaling") or rope.get("rope_type", "default") != "default":
        msg = f"{model.name}: expected model_type {' or '.join(ARCHS)} without rope_scaling, the only GGUF written here"
        raise ValueError(msg)
    tensors = read_tensors(model / "model.safetensors")
    stored = STORED[tensors["model.embed_tokens.weight"].dtype.str[1:]]
    writer = gguf.GGUFWriter(out, arch)
    kind = f"MOSTLY_{quantized.upper()}" if quantized else "ALL_F32" if stored == "F32" else f"MOSTLY_{stored}"
    writer.add_file_type(gguf.LlamaFileType[kind])
    _write_config(writer, config, rope["rope_theta"])
    if tokenizer:
        _write_tokenizer(gguf, writer, json.loads((model / "tokenizer.json").read_text(encoding="utf-8")), config)
    else:
        writer.add_tokenizer_model("no_vocab")
    heads = {"q_proj.weight": config["num_attention_heads"], "k_proj.weight": config["num_key_value_heads"]}
    for name, tensor in tensors.items():
        projection = name.rpartition("self_attn.")[2]
        ordered = permute(tensor, heads[projection]) if arch == "llama" and projection in heads else tensor
        if quantized and tensor.ndim > 1 and tensor.shape[1] % 32 == 0:  # its blocks are whole; the rest stays
            kind = gguf.GGMLQuantizationType[quantized.upper()]
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(widened(ordered), kind), raw_dtype=kind)
        elif stored != "F32" and tensor.ndim > 1:
            raw = np.ascontiguousarray(ordered).view(np.uint8)
            writer.add_tensor(gguf_name(name), raw, raw_dtype=gguf.GGMLQuantizationType[stored])
        else:
            writer.add_tensor(gguf_name(name), np.ascontiguousarray(widened(ordered)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_as(base: Path, model: Path, out: Path) -> None:
    """Write `out` as `base` is, a GGUF file of the same model, with the matrices of the directory `model` in F32.

    ValueError: a matrix of `base` is not there, or has another shape.
    """
    gguf = importlib.import_module("gguf")
    read = gguf.GGUFReader(base)
    writer = gguf.GGUFWriter(out, read.get_field("general.architecture").contents())
    for name, field in read.fields.items():
        if not name.startswith("GGUF.") and name not in {"general.architecture", "general.file_type"}:
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    found = {}
    for name, tensor in read_tensors(model / "model.safetensors").items():
        if tensor.ndim > 1:
            found[gguf_name(name)] = tensor
    for tensor in read.tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        if len(shape) == 1:
            writer.add_tensor(tensor.name, np.array(tensor.data).reshape(shape))
            continue
        if tensor.name not in found or found[tensor.name].shape != shape:
            msg = f"{model.name} has no {tensor.name} of {shape}, which {base.name} has"
            raise ValueError(msg)
        writer.add_tensor(tensor.name, np.ascontiguousarray(widened(found[tensor.name])))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def matrices(path: Path) -> dict[str, tuple[int, int]]:
    """Numbers and bytes of each matrix in a GGUF file."""
    read = importlib.import_module("gguf").GGUFReader(path)
    return {t.name: (int(t.n_elements), int(t.n_bytes)) for t in read.tensors if len(t.shape) > 1}


def widened(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Bits of BF16 in uint16, or F16 -> the float32 of the same value; float32 as it is."""
    return (x.astype(np.uint32) << 16).view(np.float32) if x.dtype == np.uint16 else x.astype(np.float32, copy=False)


def _write_config(writer: Any, config: dict[str, Any], theta: float) -> None:  # noqa: ANN401 - of an untyped package
    heads = config["num_attention_heads"]
    writer.add_name("random weights at a real shape")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(theta)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _write_tokenizer(gguf: Any, writer: Any, tokenizer: dict[str, Any], config: dict[str, Any]) -> None:  # noqa: ANN401 - of an untyped package
    """The tokens of a byte-level tokenizer without merges (`shapes`): enough to spell ids, not to read a text well."""
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    special = {token["id"] for token in tokenizer["added_tokens"] if token["special"]}
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.CONTROL if i in special else kinds.NORMAL for i in range(len(tokens))])
    writer.add_token_merges(["! !"])  # llama.cpp takes no empty list; this one makes a token that is not there
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(value=False)
