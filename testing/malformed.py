"""Malformed checkpoints, one row each: a good tiny Llama directory, one thing damaged, and the error that must come.

The good directory is written here byte by byte, without the loader and without the safetensors package.
"""

from __future__ import annotations

import copy
import json
import os
import struct
from typing import TYPE_CHECKING, Any

from ..dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["CONFIG", "ROWS", "Malformed", "header_of", "safetensors_bytes", "tensors", "tokenizer", "write_good"]

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8, "hidden_size": 8,
    "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 4, "max_position_embeddings": 32, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

Table = dict[str, Any]


@dataclass(frozen=True)
class Malformed:
    """`make(directory)` damages a good directory and returns the path to open; the error and words of its message."""

    name: str
    make: Callable[[Path], Path]
    error: str
    words: tuple[str, ...]

    def write(self, directory: Path) -> Path:
        """The good one into a directory that is there, then damaged: the path to open."""
        return self.make(write_good(directory))


def tensors() -> dict[str, tuple[str, list[int], bytes]]:
    """Name -> (dtype, shape, bytes) of the good model."""
    shapes = {
        "model.embed_tokens.weight": [8, 8],
        "model.layers.0.input_layernorm.weight": [8],
        "model.layers.0.self_attn.q_proj.weight": [8, 8],
        "model.layers.0.self_attn.k_proj.weight": [4, 8],
        "model.layers.0.self_attn.v_proj.weight": [4, 8],
        "model.layers.0.self_attn.o_proj.weight": [8, 8],
        "model.layers.0.post_attention_layernorm.weight": [8],
        "model.layers.0.mlp.gate_proj.weight": [12, 8],
        "model.layers.0.mlp.up_proj.weight": [12, 8],
        "model.layers.0.mlp.down_proj.weight": [8, 12],
        "model.norm.weight": [8],
    }
    return {name: ("F32", shape, _floats(shape)) for name, shape in shapes.items()}


def _floats(shape: list[int]) -> bytes:
    n = 1
    for d in shape:
        n *= d
    return struct.pack(f"<{n}f", *((i % 7 - 3) / 8 for i in range(n)))


def tokenizer() -> dict[str, Any]:
    """Return a word-level tokenizer.json of eight words."""
    words = ["<unk>", "<s>", "</s>", "a", "b", "c", "d", "e"]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {w: i for i, w in enumerate(words)}, "unk_token": "<unk>"},
    }


def header_of(some: dict[str, tuple[str, list[int], bytes]]) -> Table:
    """Return the header's table of `some` tensors, in their order."""
    table: Table = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape, data) in some.items():
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    return table


def safetensors_bytes(table: Table | bytes, data: bytes, length: int | None = None) -> bytes:
    """Return a file's bytes; `length` may lie."""
    raw = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def write_good(d: Path) -> Path:
    """Write the good directory."""
    d.mkdir(parents=True, exist_ok=True)
    some = tensors()
    (d / "config.json").write_text(json.dumps(CONFIG))
    (d / "tokenizer.json").write_text(json.dumps(tokenizer()))
    (d / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}}))
    (d / "generation_config.json").write_text(json.dumps({"eos_token_id": [2]}))
    (d / "model.safetensors").write_bytes(safetensors_bytes(header_of(some), b"".join(t[2] for t in some.values())))
    return d


# ---- ways to damage


def _file(name: str, content: bytes | str) -> Callable[[Path], Path]:
    def make(d: Path) -> Path:
        (d / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return d

    return make


def _weights(content: bytes | str) -> Callable[[Path], Path]:
    return _file("model.safetensors", content)


def _cut(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    def make(d: Path) -> Path:
        f = d / "model.safetensors"
        f.write_bytes(change(f.read_bytes()))
        return d

    return make


def _header(change: Callable[[Table], object]) -> Callable[[Path], Path]:
    """Rewrite the header's table, keep the data."""

    def make(d: Path) -> Path:
        some = tensors()
        table = header_of(some)
        change(table)
        return _weights(safetensors_bytes(table, b"".join(t[2] for t in some.values())))(d)

    return make


def _entry(key: str, value: object, name: str = "model.norm.weight") -> Callable[[Path], Path]:
    return _header(lambda table: table[name].__setitem__(key, value))


def _tensors(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], Path]:
    """Change the tensors themselves; the file stays well-formed."""

    def make(d: Path) -> Path:
        some = tensors()
        change(some)
        return _weights(safetensors_bytes(header_of(some), b"".join(t[2] for t in some.values())))(d)

    return make


def _config(**keys: object) -> Callable[[Path], Path]:
    """Set keys of config.json; `...` removes one."""

    def make(d: Path) -> Path:
        config = {k: v for k, v in (copy.deepcopy(CONFIG) | keys).items() if v is not ...}
        return _file("config.json", json.dumps(config))(d)

    return make


def _tokenizer(**keys: object) -> Callable[[Path], Path]:
    return _file("tokenizer.json", json.dumps(tokenizer() | keys))


def _remove(*names: str) -> Callable[[Path], Path]:
    def make(d: Path) -> Path:
        for name in names:
            (d / name).unlink()
        return d

    return make


def _rename(old: str, new: str) -> Callable[[Path], Path]:
    def make(d: Path) -> Path:
        (d / old).rename(d / new)
        return d

    return make


def _index(weight_map: object, *, shards: int = 2) -> Callable[[Path], Path]:
    """Split the model in two, write `shards` of the shards, and the index `weight_map`; None: the good one."""

    def make(d: Path) -> Path:
        (d / "model.safetensors").unlink()
        names = list(tensors())
        halves = [names[: len(names) // 2], names[len(names) // 2 :]]
        good: dict[str, object] = {}
        for i, half in enumerate(halves):
            file = f"model-0000{i + 1}-of-00002.safetensors"
            good |= dict.fromkeys(half, file)
            if i < shards:
                some = {n: tensors()[n] for n in half}
                raw = safetensors_bytes(header_of(some), b"".join(t[2] for t in some.values()))
                (d / file).write_bytes(raw)
        table = weight_map(good) if callable(weight_map) else good if weight_map is None else weight_map
        return _file("model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": table}))(d)

    return make


def _shard(name: object) -> Callable[[Path], Path]:
    return _index(lambda good: good | {"model.norm.weight": name})


def _twice(d: Path) -> Path:
    _index(None)(d)
    f = d / "model-00002-of-00002.safetensors"
    some = tensors()
    half = list(some)[len(some) // 2 :]
    both = {n: some[n] for n in [*half, "model.embed_tokens.weight"]}
    f.write_bytes(safetensors_bytes(header_of(both), b"".join(t[2] for t in both.values())))
    return d


def _fifo(d: Path) -> Path:
    (d / "model.safetensors").unlink()
    os.mkfifo(d / "model.safetensors")
    return d


def _directory_for(name: str) -> Callable[[Path], Path]:
    def make(d: Path) -> Path:
        (d / name).unlink()
        (d / name).mkdir()
        return d

    return make


def _overlap(table: Table) -> None:
    table["model.layers.0.self_attn.v_proj.weight"]["data_offsets"] = table["model.layers.0.self_attn.k_proj.weight"][
        "data_offsets"
    ]


_LFS = (
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24\n"
)
_HTML = "<!DOCTYPE html>\n<html><head><title>404</title></head><body>Not found</body></html>\n"
_ROW = '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
_NORM = "model.norm.weight"
_CP = "CheckpointError"


def _raw(text: str | bytes, data: bytes = b"") -> Callable[[Path], Path]:
    return _weights(safetensors_bytes(text if isinstance(text, bytes) else text.encode(), data))


_FILES = [
    Malformed("empty", _weights(b""), _CP, ("model.safetensors", "at least 8 bytes", "has 0")),
    Malformed("seven-bytes", _weights(b"\x01" * 7), _CP, ("at least 8 bytes", "has 7")),
    Malformed("length-only", _weights(struct.pack("<Q", 2)), _CP, ("claims 2 bytes", "only 0 follow")),
    Malformed("cut-in-header", _cut(lambda b: b[:100]), _CP, ("cut short", "download")),
    Malformed("cut-in-data", _cut(lambda b: b[:-5]), _CP, ("cut short", _NORM)),
    Malformed("trailing", _cut(lambda b: b + b"xyz"), _CP, ("3 bytes follow the last tensor",)),
    Malformed("lfs-pointer", _weights(_LFS), _CP, ("git-lfs pointer", "git lfs pull")),
    Malformed("html", _weights(_HTML), _CP, ("HTML page", "download")),
    Malformed("xml-error", _weights("<?xml version='1.0'?><Error/>"), _CP, ("XML page",)),
    Malformed("pickle-renamed", _weights(b"PK\x03\x04\x00\x00\x08\x08data"), _CP, ("zip archive", "transformers")),
    Malformed("gguf-renamed", _weights(b"GGUF\x03\x00\x00\x00" + bytes(64)), _CP, ("GGUF",)),
    Malformed("json-instead", _weights('{"error": "Invalid username or password."}'), _CP, ("JSON text",)),
    Malformed("length-huge", _cut(lambda b: b"\xff" * 8 + b[8:]), _CP, ("18446744073709551615", "limit is 100000000")),
    Malformed("length-negative", _cut(lambda b: struct.pack("<q", -1) + b[8:]), _CP, ("claims", "limit")),
    Malformed("length-over-file", _cut(lambda b: struct.pack("<Q", 99_999_999) + b[8:]), _CP, ("claims 99999999",)),
    Malformed("length-zero", _cut(lambda b: bytes(8) + b[8:]), _CP, ("header is empty",)),
    Malformed("length-short", _cut(lambda b: struct.pack("<Q", 50) + b[8:]), _CP, ("header", "not valid JSON")),
    Malformed("header-list", _raw("[1, 2]"), _CP, ("must begin with '{'",)),
    Malformed("header-not-utf8", _raw(b'{"\xff\xfe": 1}'), _CP, ("UTF-8", "0xff")),
    Malformed("header-nan", _raw('{"__metadata__": NaN}'), _CP, ("NaN",)),
    Malformed("header-deep", _raw('{"a":' + "[" * 200_000 + "]" * 200_000 + "}"), _CP, ("nested too deep",)),
    Malformed("header-long-integer", _raw('{"a":' + "9" * 5000 + "}"), _CP, ("not valid JSON",)),
    Malformed("header-two-objects", _raw("{" + _ROW + "}{}", b"x"), _CP, ("not valid JSON",)),
    Malformed("duplicate-tensor", _raw("{" + _ROW + "," + _ROW + "}", b"x"), _CP, ("'a'", "given twice")),
    Malformed("duplicate-field", _raw('{"a":{"dtype":"U8","dtype":"I8"}}'), _CP, ("'dtype'", "given twice")),
    Malformed("metadata-list", _header(lambda t: t.__setitem__("__metadata__", [])), _CP, ("__metadata__",)),
    Malformed("metadata-number", _header(lambda t: t.__setitem__("__metadata__", {"n": 1})), _CP, ("'n'", "string")),
    Malformed(
        "surrogate-name", _raw('{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"), _CP, ("Unicode",)
    ),
    Malformed("is-a-pipe", _fifo, _CP, ("regular file",)),
    Malformed("is-a-directory", _directory_for("model.safetensors"), _CP, ("regular file",)),
]

_ENTRIES = [
    Malformed("entry-number", _header(lambda t: t.__setitem__(_NORM, 3)), _CP, (_NORM, "data_offsets", "found 3")),
    Malformed("entry-key-missing", _header(lambda t: t[_NORM].pop("shape")), _CP, (_NORM, "shape")),
    Malformed("entry-key-extra", _entry("strides", [1]), _CP, (_NORM, "strides")),
    Malformed("dtype-unknown", _entry("dtype", "F31"), _CP, (_NORM, "'F31'", "BF16")),
    Malformed("dtype-lower", _entry("dtype", "f32"), _CP, ("'f32'",)),
    Malformed("dtype-list", _entry("dtype", ["F32"]), _CP, ("unknown dtype",)),
    Malformed("dtype-four-bit", _entry("dtype", "F4"), _CP, ("'F4'",)),
    Malformed("dtype-other-size", _entry("dtype", "F64"), _CP, (_NORM, "takes 64 bytes", "hold 32")),
    Malformed("shape-wrong", _entry("shape", [9]), _CP, (_NORM, "takes 36 bytes", "hold 32")),
    Malformed("shape-negative", _entry("shape", [-8]), _CP, ("non-negative",)),
    Malformed("shape-two-negatives", _entry("shape", [-2, -4]), _CP, ("non-negative",)),
    Malformed("shape-bool", _entry("shape", [True, 8]), _CP, ("non-negative integers", "True")),
    Malformed("shape-float", _entry("shape", [8.0]), _CP, ("8.0",)),
    Malformed("shape-string", _entry("shape", "8"), _CP, ("list",)),
    Malformed("shape-null", _entry("shape", None), _CP, ("None",)),
    Malformed("shape-overflow", _entry("shape", [2**33, 2**33]), _CP, ("more elements",)),
    Malformed("shape-overflow-to-zero", _entry("shape", [2**32, 2**32, 8]), _CP, ("more elements",)),
    Malformed("shape-zero-times-huge", _entry("shape", [0, 2**62, 2**62]), _CP, ("more elements",)),
    Malformed("shape-deep", _entry("shape", [1] * 33), _CP, ("at most 32",)),
    Malformed("shape-beyond-64-bits", _entry("shape", [2**70]), _CP, ("non-negative",)),
    Malformed("offsets-reversed", _entry("data_offsets", [32, 0]), _CP, ("takes 32 bytes",)),
    Malformed("offsets-negative", _entry("data_offsets", [-32, 0]), _CP, ("two non-negative",)),
    Malformed("offsets-three", _entry("data_offsets", [0, 1, 2]), _CP, ("two non-negative",)),
    Malformed("offsets-bool", _entry("data_offsets", [False, True]), _CP, ("two non-negative",)),
    Malformed("offsets-float", _entry("data_offsets", [0.0, 32.0]), _CP, ("two non-negative",)),
    Malformed("offsets-beyond", _entry("data_offsets", [10**6, 10**6 + 32]), _CP, (_NORM, "cut short")),
    Malformed("offsets-huge", _entry("data_offsets", [2**62, 2**62 + 32]), _CP, (_NORM, "cut short")),
    Malformed("overlap", _header(_overlap), _CP, ("overlaps", "128 bytes")),
    Malformed("gap", _header(lambda t: t.pop("model.layers.0.self_attn.k_proj.weight")), _CP, ("gap", "128 bytes")),
    Malformed(
        "gap-at-the-start", _header(lambda t: t.pop("model.embed_tokens.weight")), _CP, ("gap after the header",)
    ),
    Malformed("last-missing", _header(lambda t: t.pop(_NORM)), _CP, ("32 bytes follow",)),
    Malformed("no-tensors", _header(lambda t: t.clear()), _CP, ("bytes follow", "expected none")),
]

_DIRECTORIES = [
    Malformed("no-directory", lambda d: d / "nowhere", _CP, ("no such directory", "config.json")),
    Malformed("a-file", lambda d: d / "model.safetensors", _CP, ("is a file", "directory")),
    Malformed("nul-in-path", lambda d: d / "x\0y", _CP, ("no such directory",)),
    Malformed("no-config", _remove("config.json"), _CP, ("no config.json",)),
    Malformed("no-weights", _remove("model.safetensors"), _CP, ("no weights", "model.safetensors.index.json")),
    Malformed(
        "bin-only", _rename("model.safetensors", "pytorch_model.bin"), _CP, ("pytorch_model.bin", "save_pretrained")
    ),
    Malformed(
        "other-name", _rename("model.safetensors", "weights.safetensors"), _CP, ("weights.safetensors", "rename")
    ),
    Malformed("gguf-only", _rename("model.safetensors", "model.gguf"), _CP, ("model.gguf",)),
    Malformed("adapter", _rename("config.json", "adapter_config.json"), _CP, ("adapter", "base model")),
    Malformed(
        "adapter-weights",
        _rename("model.safetensors", "adapter_model.safetensors"),
        _CP,
        ("PEFT adapter", "base model"),
    ),
    Malformed(
        "mistral-format", _rename("model.safetensors", "consolidated.safetensors"), _CP, ("Mistral's own format",)
    ),
    Malformed("config-is-a-directory", _directory_for("config.json"), "ConfigError", ("regular file",)),
    Malformed("shard-missing", _index(None, shards=1), _CP, ("1 of 2 shards", "model-00002-of-00002.safetensors")),
    Malformed("shards-missing", _index(None, shards=0), _CP, ("2 of 2 shards",)),
    Malformed("shard-parent", _shard("../other.safetensors"), _CP, (_NORM, "plain", "refused")),
    Malformed("shard-absolute", _shard("/etc/passwd.safetensors"), _CP, ("plain", "refused")),
    Malformed("shard-backslash", _shard("..\\other.safetensors"), _CP, ("plain", "refused")),
    Malformed("shard-drive", _shard("C:other.safetensors"), _CP, ("plain", "refused")),
    Malformed("shard-subdirectory", _shard("sub/model.safetensors"), _CP, ("plain", "refused")),
    Malformed("shard-nul", _shard("a\0.safetensors"), _CP, ("plain", "refused")),
    Malformed("shard-dots", _shard(".."), _CP, ("plain", "refused")),
    Malformed("shard-pickle", _shard("pytorch_model.bin"), _CP, ("plain .safetensors", "refused")),
    Malformed("shard-number", _shard(7), _CP, ("plain", "found 7")),
    Malformed("shard-long", _shard("a" * 400 + ".safetensors"), _CP, ("plain", "refused")),
    Malformed("index-empty", _index({}), _CP, ("weight_map",)),
    Malformed("index-list", _index(["a"]), _CP, ("weight_map",)),
    Malformed(
        "index-promises-more", _index(lambda g: g | {"x": next(iter(g.values()))}), _CP, ("promises", "'x'", "lacks")
    ),
    Malformed("index-other-shard", _shard("model-00001-of-00002.safetensors"), _CP, ("promises", _NORM)),
    Malformed("tensor-in-two-shards", _twice, _CP, ("model.embed_tokens.weight", "two shards")),
]

_CONFIGS = [
    Malformed("config-empty", _file("config.json", ""), "ConfigError", ("config.json", "not valid JSON")),
    Malformed("config-list", _file("config.json", "[]"), "ConfigError", ("JSON object",)),
    Malformed("config-cut", _file("config.json", '{"model_type": "lla'), "ConfigError", ("not valid JSON",)),
    Malformed("config-html", _file("config.json", _HTML), "ConfigError", ("HTML page",)),
    Malformed("config-lfs", _file("config.json", _LFS), "ConfigError", ("git-lfs",)),
    Malformed("config-not-utf8", _file("config.json", b"\xff\xfe{}"), "ConfigError", ("UTF-8",)),
    Malformed("config-deep", _file("config.json", '{"a":' * 100_000), "ConfigError", ("nested too deep",)),
    Malformed("config-huge", _file("config.json", b" " * 16_000_001), "ConfigError", ("at most 16000000",)),
    Malformed("config-duplicate", _file("config.json", '{"a": 1, "a": 2}'), "ConfigError", ("given twice",)),
    Malformed("generation-broken", _file("generation_config.json", "{"), "ConfigError", ("generation_config.json",)),
    Malformed("generation-list", _file("generation_config.json", "[2]"), "ConfigError", ("JSON object",)),
    Malformed(
        "generation-eos-text", _file("generation_config.json", '{"eos_token_id": "2"}'), "ConfigError", ("eos_token",)
    ),
    Malformed("model-type-missing", _config(model_type=...), "ConfigError", ("model_type", "missing")),
    Malformed("model-type-unknown", _config(model_type="mamba9"), "ConfigError", ("mamba9", "llama")),
    Malformed("model-type-list", _config(model_type=["llama"]), "ConfigError", ("model_type",)),
    Malformed(
        "architecture-other", _config(architectures=["LlamaForQuestionAnswering"]), "ConfigError", ("architectures",)
    ),
    Malformed("layers-negative", _config(num_hidden_layers=-1), "ConfigError", ("num_hidden_layers", "-1")),
    Malformed("layers-zero", _config(num_hidden_layers=0), "ConfigError", ("num_hidden_layers",)),
    Malformed("layers-huge", _config(num_hidden_layers=10**18), "ConfigError", ("num_hidden_layers",)),
    Malformed("layers-float", _config(num_hidden_layers=1.0), "ConfigError", ("num_hidden_layers", "1.0")),
    Malformed("layers-bool", _config(num_hidden_layers=True), "ConfigError", ("num_hidden_layers", "True")),
    Malformed("layers-text", _config(num_hidden_layers="1"), "ConfigError", ("num_hidden_layers",)),
    Malformed("layers-list", _config(num_hidden_layers=[1]), "ConfigError", ("num_hidden_layers",)),
    Malformed("width-nan", _config(hidden_size=float("nan")), "ConfigError", ("hidden_size", "nan")),
    Malformed("width-null", _config(hidden_size=None), "ConfigError", ("hidden_size",)),
    Malformed("width-huge", _config(hidden_size=2**31 - 1, vocab_size=2**31 - 1), "ConfigError", ("elements",)),
    Malformed("heads-zero", _config(num_attention_heads=0), "ConfigError", ("num_attention_heads",)),
    Malformed(
        "heads-not-dividing", _config(num_attention_heads=3, head_dim=...), "ConfigError", ("num_attention_heads", "3")
    ),
    Malformed("kv-heads-more", _config(num_key_value_heads=4), "ConfigError", ("num_key_value_heads", "4")),
    Malformed("kv-heads-not-dividing", _config(num_attention_heads=4, num_key_value_heads=3), "ConfigError", ("3",)),
    Malformed("head-dim-odd", _config(head_dim=3), "ConfigError", ("even",)),
    Malformed("eps-negative", _config(rms_norm_eps=-1.0), "ConfigError", ("rms_norm_eps",)),
    Malformed("eps-infinite", _config(rms_norm_eps=float("inf")), "ConfigError", ("rms_norm_eps",)),
    Malformed("theta-zero", _config(rope_theta=0), "ConfigError", ("rope_theta",)),
    Malformed("theta-nan", _config(rope_theta=float("nan")), "ConfigError", ("rope_theta",)),
    Malformed("rope-unknown", _config(rope_scaling={"rope_type": "spiral", "factor": 2.0}), "ConfigError", ("spiral",)),
    Malformed("rope-no-factor", _config(rope_scaling={"rope_type": "linear"}), "ConfigError", ("factor",)),
    Malformed("rope-list", _config(rope_scaling=[2.0]), "ConfigError", ("rope",)),
    Malformed("activation-unknown", _config(hidden_act="snake"), "ConfigError", ("snake",)),
    Malformed("tied-text", _config(tie_word_embeddings="yes"), "ConfigError", ("tie_word_embeddings",)),
    Malformed("unknown-key", _config(attn_logit_softcapping=50.0), "ConfigError", ("attn_logit_softcapping",)),
    Malformed(
        "quantised", _config(quantization_config={"quant_method": "gptq"}), "ConfigError", ("quantization_config",)
    ),
]

_Q, _V = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.v_proj.weight"
_O, _UP = "model.layers.0.self_attn.o_proj.weight", "model.layers.0.mlp.up_proj.weight"


def _shaped(**shapes: list[int]) -> Callable[[Path], Path]:
    """Give tensors other shapes, well-formed; by role of layer 0, or "head"."""
    names = {"q": _Q, "v": _V, "o": _O, "up": _UP, "k": _V.replace("v_", "k_"), "head": "lm_head.weight"}
    new = {names[role]: ("F32", shape, _floats(shape)) for role, shape in shapes.items()}
    return _tensors(lambda t: t.update(new))


def _both(*makers: Callable[[Path], Path]) -> Callable[[Path], Path]:
    def make(d: Path) -> Path:
        for maker in makers:
            maker(d)
        return d

    return make


def _layers(*numbers: int) -> Callable[[Path], Path]:
    """Call the one layer by another number; further numbers get its first norm alone."""

    def change(some: dict[str, Any]) -> None:
        good = tensors()
        for name in [n for n in some if ".layers." in n]:
            some[name.replace(".0.", f".{numbers[0]}.")] = some.pop(name)
        norm = "model.layers.0.input_layernorm.weight"
        some.update({norm.replace(".0.", f".{i}."): good[norm] for i in numbers[1:]})

    return _tensors(change)


_PLANS = [
    Malformed(
        "vocab-torn",
        _both(_config(tie_word_embeddings=False, vocab_size=9), _shaped(head=[9, 8])),
        _CP,
        ("embed_tokens", "[8, 8]", "lm_head.weight", "[9, 8]", "token ids"),
    ),
    Malformed(
        "neurons-torn", _shaped(up=[11, 8]), _CP, (_UP, "[11, 8]", "gate_proj", "[12, 8]", "as config.json says")
    ),
    Malformed("heads-torn", _shaped(o=[8, 4]), _CP, (_O, "[8, 4]", "q_proj", "query dimensions")),
    Malformed("heads-in-part", _shaped(q=[6, 8], o=[8, 6]), _CP, (_Q, "[6, 8]", "a multiple of 4")),
    Malformed("groups-torn", _shaped(k=[12, 8], v=[12, 8]), _CP, (_Q, "2 query heads and 3 key/value heads")),
    Malformed("heads-none", _shaped(q=[0, 8], o=[8, 0]), _CP, (_Q, "no query dimensions")),
    Malformed("layer-in-part", _both(_config(num_hidden_layers=2), _layers(0, 1)), _CP, ("layers.1", "missing")),
    Malformed("layer-gap", _both(_config(num_hidden_layers=2), _layers(1)), _CP, ("layers.0", "missing")),
    Malformed(
        "shard-alone",
        _both(_tensors(lambda t: t.pop(_NORM)), _config(num_hidden_layers=2)),
        _CP,
        (_NORM, "9 more missing", "model of 2 layers"),
    ),
    Malformed(
        "layers-that-differ",
        _config(num_hidden_layers=2, per_layer_config={"1": {"intermediate_size": 4}}),
        _CP,
        ("layers 0 to 0", "not alike"),
    ),
    Malformed("width-missing", _config(hidden_size=...), _CP, ("embed_tokens", "4096")),  # transformers' default
    Malformed("layers-absurd", _both(_config(num_hidden_layers=60_000), _layers(0, 1)), _CP, ("layers.1", "missing")),
    Malformed("untied-without-head", _config(tie_word_embeddings=False), _CP, ("lm_head.weight", "missing")),
    Malformed("tensor-missing", _tensors(lambda t: t.pop(_Q)), _CP, (_Q, "missing")),
    Malformed("all-missing", _tensors(lambda t: t.clear()), _CP, ("missing",)),
    Malformed("tensor-smaller", _tensors(lambda t: t.update({_V: ("F32", [3, 8], bytes(96))})), _CP, (_V, "[3, 8]")),
    Malformed(
        "tensor-transposed", _tensors(lambda t: t.update({_V: ("F32", [8, 4], bytes(128))})), _CP, (_V, "[8, 4]")
    ),
    Malformed("tensor-flat", _tensors(lambda t: t.update({_Q: ("F32", [64], bytes(256))})), _CP, (_Q, "[64]")),
    Malformed("tensor-empty", _tensors(lambda t: t.update({_Q: ("F32", [0, 8], b"")})), _CP, (_Q, "[0, 8]")),
    Malformed("tensor-integers", _tensors(lambda t: t.update({_Q: ("I64", [8, 8], bytes(512))})), _CP, (_Q, "I64")),
    Malformed(
        "tensor-float8", _tensors(lambda t: t.update({_Q: ("F8_E4M3", [8, 8], bytes(64))})), _CP, (_Q, "F8_E4M3")
    ),
    Malformed("tensor-unknown", _tensors(lambda t: t.update({"x.bias": ("F32", [8], bytes(32))})), _CP, ("x.bias",)),
]

_ONE = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "<unk>"}
_TK = "TokenizerError"
_TOKENIZERS = [
    Malformed("tokenizer-missing", _remove("tokenizer.json"), _TK, ("no tokenizer.json",)),
    Malformed(
        "tokenizer-sentencepiece",
        _rename("tokenizer.json", "tokenizer.model"),
        _TK,
        ("tokenizer.model", "make one with"),
    ),
    Malformed("tokenizer-empty", _file("tokenizer.json", ""), _TK, ("tokenizer.json",)),
    Malformed(
        "tokenizer-cut", _file("tokenizer.json", '{"version": "1.0", "model": {'), _TK, ("tokenizer.json", "load")
    ),
    Malformed("tokenizer-object", _file("tokenizer.json", "{}"), _TK, ("tokenizer.json",)),
    Malformed("tokenizer-lfs", _file("tokenizer.json", _LFS), _TK, ("git-lfs",)),
    Malformed("tokenizer-html", _file("tokenizer.json", _HTML), _TK, ("HTML",)),
    Malformed("tokenizer-not-utf8", _file("tokenizer.json", b'{"\xff": 1}'), _TK, ("UTF-8", "0xff")),
    Malformed("tokenizer-deep", _file("tokenizer.json", '{"a":' + "[" * 100_000), _TK, ("load",)),
    Malformed("tokenizer-directory", _directory_for("tokenizer.json"), _TK, ("regular file",)),
    Malformed("tokenizer-model-type", _tokenizer(model={"type": "Nope"}), _TK, ("load",)),
    Malformed("tokenizer-no-words", _tokenizer(model={**_ONE, "vocab": {}}), _TK, ("vocabulary is empty",)),
    Malformed("tokenizer-negative-id", _tokenizer(model={**_ONE, "vocab": {"a": -1}}), _TK, ("load",)),
    Malformed("tokenizer-id-beyond", _tokenizer(model={**_ONE, "vocab": {"a": 2**32}}), _TK, ("load",)),
    Malformed(
        "tokenizer-panics",
        _tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
        _TK,
        ("panicked", "tokenizer.json"),
    ),
    Malformed("tokenizer-config-cut", _file("tokenizer_config.json", "{"), _TK, ("tokenizer_config.json",)),
    Malformed("tokenizer-config-list", _file("tokenizer_config.json", "[]"), _TK, ("JSON object",)),
    Malformed("tokenizer-config-bos", _file("tokenizer_config.json", '{"bos_token": 1}'), _TK, ("bos_token",)),
    Malformed("tokenizer-config-eos", _file("tokenizer_config.json", '{"eos_token": {"id": 1}}'), _TK, ("eos_token",)),
]

#: Which rows need more than open_checkpoint to be seen: the group is the loader's stage that must refuse them.
ROWS: dict[str, list[Malformed]] = {
    "open": _FILES + _ENTRIES + _DIRECTORIES + _CONFIGS[:11],
    "config": _CONFIGS[11:],
    "plan": _PLANS,
    "tokenizer": _TOKENIZERS,
}
