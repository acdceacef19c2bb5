"""Write a Llama checkpoint as GGUF, so that llama.cpp computes with the very same weights.

Runs alone in the peer's interpreter (`python -P peer_gguf.py MODEL OUT.gguf [q8_0 | q4_0]`; it needs the `gguf` package
and nothing of miaotui). Matrices keep the dtype of the checkpoint, F32 or BF16, or are rounded by the `gguf` package;
norms become F32, which is exact. Rows of the query and key projections are reordered, because llama.cpp rotates
neighbouring pairs (2i, 2i + 1) where Hugging Face rotates (i, i + d_head/2); the dot products are the same sums in
another order. No tokenizer is written: ids go in.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

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
OUTER = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}


def gguf_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` -> `blk.3.ffn_up.weight`; ValueError for a tensor that Llama has not."""
    if name in OUTER:
        return OUTER[name]
    if name == "lm_head.weight":
        return "output.weight"
    parts = name.split(".")
    inner = ".".join(parts[3:-1])
    if parts[:2] != ["model", "layers"] or parts[-1] != "weight" or inner not in MATRICES:
        msg = f"tensor {name}: expected the names of a Llama without biases"
        raise ValueError(msg)
    return f"blk.{parts[2]}.{MATRICES[inner]}.weight"


def permute(rows: np.ndarray[Any, Any], n_heads: int) -> np.ndarray[Any, Any]:
    """Reorder each head's rows from halves to pairs: row i + h * d/2 becomes row 2i + h. [n_heads * d, k]."""
    d_head = rows.shape[0] // n_heads
    return rows.reshape(n_heads, 2, d_head // 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def read_tensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Map the tensors of a safetensors file that is known to be good: F32 as float32, BF16 as its bits in uint16."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    data = np.memmap(path, np.uint8, "r", 8 + length)
    types = {"F32": np.float32, "BF16": np.uint16}
    out = {}
    for name, info in header.items():
        start, stop = info["data_offsets"]
        raw = data[start:stop]
        out[name] = np.frombuffer(raw, types[info["dtype"]]).reshape(info["shape"])
    return out


def convert(model: Path, out: Path, quantized: str | None = None) -> None:
    """Write `out` from the directory `model`; `quantized`: "q8_0", "q4_0" or "q4_1" for matrices of whole 32s."""
    gguf = importlib.import_module("gguf")
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    rope = config.get("rope_parameters") or config
    if config["model_type"] != "llama" or config.get("rope_scaling") or rope.get("rope_type", "default") != "default":
        msg = f"{model.name}: expected model_type llama without rope_scaling, the only GGUF written here"
        raise ValueError(msg)
    tensors = read_tensors(model / "model.safetensors")
    bf16 = tensors["model.embed_tokens.weight"].dtype == np.uint16
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    part = out.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "llama")
    writer.add_name("random weights at a real shape")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    kind = f"MOSTLY_{quantized.upper()}" if quantized else "MOSTLY_BF16" if bf16 else "ALL_F32"
    writer.add_file_type(gguf.LlamaFileType[kind])
    writer.add_tokenizer_model("no_vocab")
    for name, tensor in tensors.items():
        if tensor.ndim == 1:
            wide = (tensor.astype(np.uint32) << 16).view(np.float32) if bf16 else tensor
            writer.add_tensor(gguf_name(name), wide)
            continue
        ordered = permute(tensor, kv_heads if "k_proj" in name else heads) if name.endswith(QK) else tensor
        if quantized and tensor.shape[1] % 32 == 0:  # its blocks are whole; as llama.cpp's own tool, the rest stays
            wide = (ordered.astype(np.uint32) << 16).view(np.float32) if bf16 else ordered
            kind = gguf.GGMLQuantizationType[quantized.upper()]
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(wide, kind), raw_dtype=kind)
            continue
        raw = np.ascontiguousarray(ordered).view(np.uint8) if bf16 else np.ascontiguousarray(ordered)
        writer.add_tensor(gguf_name(name), raw, raw_dtype=gguf.GGMLQuantizationType.BF16 if bf16 else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(out)


QK = ("q_proj.weight", "k_proj.weight")

if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
