"""Encoders and encoder-decoders at real shapes, for `shapes.make_checkpoint`: their configs, and what their files hold.

The lengths of real sentences are those of the first 256 sentences of WikiText-2's test text that have 4 words or more,
in WordPiece tokens of BERT's uncased vocabulary, [CLS] and [SEP] among them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    Named = Iterator[tuple[str, tuple[int, ...]]]

__all__ = ["ENCODERS", "SEQ2SEQ", "WIKITEXT_LENGTHS", "named_tensors"]

_LENGTHS = """
16 20 30 17 42 36 34 23 33 19 29 43 25 17 38 31 40 48 23 42 24 21 34 63 24 18 23 58 10 27 23 19 34 29 32 11 37
17 25 13 24 52 18 32 22 26 35 30 18 74 41 21 42 56 48 18 22 36 27 23 12 29 45 22 42 19 16 40 20 8 40 23 30 54 14
20 24 12 23 39 28 37 36 32 27 25 19 23 48 28 73 34 6 28 20 50 22 14 26 14 43 12 43 36 17 25 31 30 19 28 16 23 23
23 24 41 52 43 40 27 29 43 23 25 51 31 33 27 24 36 27 25 47 29 34 46 25 56 27 43 41 15 34 43 30 34 58 23 17 28
59 59 35 30 25 30 78 18 30 39 14 35 63 17 25 24 50 36 22 23 37 20 55 42 57 40 72 51 26 59 75 9 28 80 18 7 50 36
77 37 55 68 43 21 45 75 23 63 24 49 35 24 36 33 24 46 31 24 61 39 51 37 56 38 28 24 49 47 36 19 25 26 37 38 23
19 28 33 28 23 12 46 20 61 22 41 28 27 50 68 21 24 20 31 35 42 24 23 43 27 34 27 18 34 35 39
"""
WIKITEXT_LENGTHS = tuple(map(int, _LENGTHS.split()))

#: name -> layers, d_model, d_ff, heads, vocabulary, positions
_BERT_ROWS = {
    "tiny-bert": (2, 48, 80, 3, 307, 128),
    "minilm-l6": (6, 384, 1536, 12, 30522, 512),
    "bert-base": (12, 768, 3072, 12, 30522, 512),
}
_BART_ROWS = {"tiny-bart": (2, 48, 80, 3, 307, 256), "bart-base": (6, 768, 3072, 12, 50265, 1024)}
_T5_ROWS = {"tiny-t5": (2, 48, 80, 3, 307, 16), "t5-small": (6, 512, 2048, 8, 32128, 64)}


def _bert(row: tuple[int, ...]) -> dict[str, Any]:
    layers, d, ff, heads, vocab, positions = row
    return {
        "architectures": ["BertModel"], "model_type": "bert", "num_hidden_layers": layers, "hidden_size": d,
        "intermediate_size": ff, "num_attention_heads": heads, "vocab_size": vocab,
        "max_position_embeddings": positions, "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
        "position_embedding_type": "absolute", "pad_token_id": 0,
    }  # fmt: skip


def _bart(row: tuple[int, ...]) -> dict[str, Any]:
    layers, d, ff, heads, vocab, positions = row
    both = {f"{part}_{name}": n for part in ("encoder", "decoder")
            for name, n in (("layers", layers), ("ffn_dim", ff), ("attention_heads", heads))}  # fmt: skip
    return {
        "architectures": ["BartForConditionalGeneration"], "model_type": "bart", "d_model": d, **both,
        "vocab_size": vocab, "max_position_embeddings": positions, "activation_function": "gelu",
        "normalize_before": False, "add_final_layer_norm": False, "normalize_embedding": True,
        "add_bias_logits": False, "scale_embedding": False, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2,
        "decoder_start_token_id": 2, "forced_eos_token_id": None, "is_encoder_decoder": True,
        "tie_word_embeddings": True,
    }  # fmt: skip


def _t5(row: tuple[int, ...]) -> dict[str, Any]:
    layers, d, ff, heads, vocab, d_head = row
    return {
        "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "d_model": d, "d_kv": d_head, "d_ff": ff,
        "num_layers": layers, "num_decoder_layers": layers, "num_heads": heads, "vocab_size": vocab,
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
        "feed_forward_proj": "relu", "layer_norm_epsilon": 1e-6, "pad_token_id": 0, "eos_token_id": 1,
        "decoder_start_token_id": 0, "is_encoder_decoder": True, "tie_word_embeddings": True,
    }  # fmt: skip


#: name -> its config.json
ENCODERS: dict[str, dict[str, Any]] = {name: _bert(row) for name, row in _BERT_ROWS.items()}
SEQ2SEQ: dict[str, dict[str, Any]] = {
    **{name: _bart(row) for name, row in _BART_ROWS.items()},
    **{name: _t5(row) for name, row in _T5_ROWS.items()},
}


def named_tensors(config: dict[str, Any]) -> Named:
    """Names and shapes of what the file of one of these holds, in its order."""
    return {"bert": _bert_tensors, "bart": _bart_tensors, "t5": _t5_tensors}[config["model_type"]](config)


def _linear(name: str, n: int, k: int) -> Named:
    yield f"{name}.weight", (n, k)
    yield f"{name}.bias", (n,)


def _norm(name: str, d: int) -> Named:
    yield f"{name}.weight", (d,)
    yield f"{name}.bias", (d,)


def _bert_tensors(config: dict[str, Any]) -> Named:
    d, ff = config["hidden_size"], config["intermediate_size"]
    yield "embeddings.word_embeddings.weight", (config["vocab_size"], d)
    yield "embeddings.position_embeddings.weight", (config["max_position_embeddings"], d)
    yield "embeddings.token_type_embeddings.weight", (config["type_vocab_size"], d)
    yield from _norm("embeddings.LayerNorm", d)
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            yield from _linear(f"{layer}.attention.self.{part}", d, d)
        yield from _linear(f"{layer}.attention.output.dense", d, d)
        yield from _norm(f"{layer}.attention.output.LayerNorm", d)
        yield from _linear(f"{layer}.intermediate.dense", ff, d)
        yield from _linear(f"{layer}.output.dense", d, ff)
        yield from _norm(f"{layer}.output.LayerNorm", d)
    yield from _linear("pooler.dense", d, d)


def _bart_tensors(config: dict[str, Any]) -> Named:
    d = config["d_model"]
    yield "model.shared.weight", (config["vocab_size"], d)
    yield "final_logits_bias", (1, config["vocab_size"])
    for side in ("encoder", "decoder"):
        yield f"model.{side}.embed_positions.weight", (config["max_position_embeddings"] + 2, d)
        yield from _norm(f"model.{side}.layernorm_embedding", d)
        for i in range(config[f"{side}_layers"]):
            layer = f"model.{side}.layers.{i}"
            for name in ("self_attn", "encoder_attn") if side == "decoder" else ("self_attn",):
                for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    yield from _linear(f"{layer}.{name}.{part}", d, d)
                yield from _norm(f"{layer}.{name}_layer_norm", d)
            yield from _linear(f"{layer}.fc1", config[f"{side}_ffn_dim"], d)
            yield from _linear(f"{layer}.fc2", d, config[f"{side}_ffn_dim"])
            yield from _norm(f"{layer}.final_layer_norm", d)


def _t5_tensors(config: dict[str, Any]) -> Named:
    d, ff, inner = config["d_model"], config["d_ff"], config["num_heads"] * config["d_kv"]
    yield "shared.weight", (config["vocab_size"], d)
    for side, layers in (("encoder", config["num_layers"]), ("decoder", config["num_decoder_layers"])):
        for i in range(layers):
            block = f"{side}.block.{i}.layer"
            for j, name in enumerate(("SelfAttention", "EncDecAttention") if side == "decoder" else ("SelfAttention",)):
                for part in "qkv":
                    yield f"{block}.{j}.{name}.{part}.weight", (inner, d)
                yield f"{block}.{j}.{name}.o.weight", (d, inner)
                if i == j == 0:
                    buckets = config["relative_attention_num_buckets"], config["num_heads"]
                    yield f"{block}.0.SelfAttention.relative_attention_bias.weight", buckets
                yield f"{block}.{j}.layer_norm.weight", (d,)
            last = f"{block}.{2 if side == 'decoder' else 1}"
            yield f"{last}.DenseReluDense.wi.weight", (ff, d)
            yield f"{last}.DenseReluDense.wo.weight", (d, ff)
            yield f"{last}.layer_norm.weight", (d,)
        yield f"{side}.final_layer_norm.weight", (d,)
