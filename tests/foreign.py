"""Tiny checkpoints as others quantise them, packed here by the published formats, and the floats that they mean."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from checkpoints import Drawn, random_tensors, write_safetensors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

Part = tuple[np.ndarray, str]  # numbers, and the file's dtype


class Made(NamedTuple):
    """One matrix: its tensors by what follows the module's name, and the numbers [out, in], float32."""

    parts: dict[str, Part]
    exact: np.ndarray


class Foreign(NamedTuple):
    """A scheme: what config.json says, how a matrix is made, what it becomes here, and the floats' dtype."""

    said: dict[str, Any]
    make: Callable[[np.random.Generator, int, int], Made]
    form: str
    dtype: str = "F32"


def words(numbers: np.ndarray, bits: int, axis: int, order: Sequence[int] | None = None) -> np.ndarray:
    """Several to an int32, the first in the lowest bits; filled up with zeros."""
    each = 32 // bits
    moved = np.moveaxis(numbers.astype(np.uint64), axis, 0)
    moved = np.concatenate([moved, np.zeros((-len(moved) % each, *moved.shape[1:]), np.uint64)])
    out = np.zeros((len(moved) // each, *moved.shape[1:]), np.uint64)
    for place, which in enumerate(order or range(each)):
        out |= moved[which::each] << np.uint64(place * bits)
    return np.moveaxis(out, 0, axis).astype(np.uint32).view(np.int32)


def draw(
    rng: np.random.Generator, n: int, k: int, *, levels: int, group: int, zero: int | None, dtype: str = "F16"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers [n, k], zero points and scales [n, groups]; the scales are what a file's dtype holds."""
    groups = -(-k // group)
    q = rng.integers(0, levels, (n, k))
    zeros = np.full((n, groups), zero) if zero is not None else rng.integers(levels // 4, levels, (n, groups))
    scales = rng.uniform(0.5, 1.5, (n, groups)) * 4 / (levels * np.sqrt(k))
    return q, zeros, held(scales, dtype)


def held(x: np.ndarray, dtype: str) -> np.ndarray:
    """Rounded to F16 or BF16, as float32."""
    if dtype == "BF16":
        cut = np.bitwise_and(x.astype(np.float32).view(np.uint32), np.uint32(0xFFFF0000), dtype=np.uint32)
        bits: np.ndarray = cut.view(np.float32)
        return bits
    if dtype == "F16":
        return x.astype(np.float16).astype(np.float32)
    return x.astype(np.float32)


def widened(q: np.ndarray, zeros: np.ndarray, scales: np.ndarray, of: np.ndarray) -> np.ndarray:
    """The definition: (q - zero) * scale, in float32; `of`: the group of each input."""
    wide: np.ndarray = (q - zeros[:, of]).astype(np.float32) * scales[:, of]
    return wide


def gptq(
    bits: int, group: int, zero: int | None, *, plus: int = 1, act: bool = False, order: bool = True
) -> Callable[[np.random.Generator, int, int], Made]:
    """qweight along inputs, qzeros along outputs, one less of the older format."""

    def make(rng: np.random.Generator, n: int, k: int) -> Made:
        size = k if group < 0 else group
        q, zeros, scales = draw(rng, n, k, levels=2**bits, group=size, zero=zero)
        of = np.arange(k) // size
        of = rng.permutation(of) if act else of
        parts = {
            ".qweight": (words(q.T, bits, 0), "I32"),
            ".qzeros": (words((zeros.T - plus) % 2**bits, bits, 1), "I32"),
            ".scales": (scales.T, "F16"),
        }
        parts |= {".g_idx": (of, "I32")} if order else {}
        return Made(parts, widened(q, zeros, scales, of))

    return make


def awq(group: int) -> Callable[[np.random.Generator, int, int], Made]:
    """Along outputs, in AWQ's order."""

    def make(rng: np.random.Generator, n: int, k: int) -> Made:
        q, zeros, scales = draw(rng, n, k, levels=16, group=group, zero=None)
        order = [0, 2, 4, 6, 1, 3, 5, 7]
        packed = {".qweight": q.T, ".qzeros": zeros.T}
        parts: dict[str, Part] = {name: (words(x, 4, 1, order), "I32") for name, x in packed.items()}
        return Made(parts | {".scales": (scales.T, "F16")}, widened(q, zeros, scales, np.arange(k) // group))

    return make


def awq_by_input(group: int) -> Callable[[np.random.Generator, int, int], Made]:
    """The "gemv" form: [out, in], groups filled up to words, and of small groups to several."""

    def make(rng: np.random.Generator, n: int, k: int) -> Made:
        q, zeros, scales = draw(rng, n, k, levels=16, group=group, zero=None)
        times = {128: 1, 64: 2, 32: 4}[group]
        wide = math.ceil(math.ceil(zeros.shape[1] / 8) / times) * times
        filled = np.zeros((n, wide * 8))
        filled[:, : scales.shape[1]] = scales
        of_zeros = np.zeros((n, wide * 8), int)
        of_zeros[:, : zeros.shape[1]] = zeros
        parts = {
            ".qweight": (words(q, 4, 1), "I32"),
            ".qzeros": (words(of_zeros, 4, 1), "I32"),
            ".scales": (filled, "F16"),
        }
        return Made(parts, widened(q, zeros, scales, np.arange(k) // group))

    return make


def packed(
    bits: int, group: int, *, zero: bool, dtype: str = "BF16"
) -> Callable[[np.random.Generator, int, int], Made]:
    """compressed-tensors' pack-quantized."""

    def make(rng: np.random.Generator, n: int, k: int) -> Made:
        half = 2 ** (bits - 1)
        q, zeros, scales = draw(
            rng, n, k, levels=2**bits, group=k if group < 0 else group, zero=None if zero else half, dtype=dtype
        )
        parts: dict[str, Part] = {
            ".weight_packed": (words(q, bits, 1), "I32"),
            ".weight_scale": (scales, dtype),
            ".weight_shape": (np.array([n, k]), "I64"),
        }
        parts |= {".weight_zero_point": (words(zeros, bits, 0), "I32")} if zero else {}
        return Made(parts, widened(q, zeros, scales, np.arange(k) // (k if group < 0 else group)))

    return make


def in_bytes(*, one: bool, zero: bool, dtype: str) -> Callable[[np.random.Generator, int, int], Made]:
    """compressed-tensors' int-quantized; `one`: a scale for all."""

    def make(rng: np.random.Generator, n: int, k: int) -> Made:
        q, zeros, scales = draw(rng, n, k, levels=256, group=k, zero=None if zero else 128, dtype=dtype)
        if one:
            zeros, scales = zeros[:1], scales[:1]
        parts: dict[str, Part] = {
            ".weight": (q - 128, "I8"),
            ".weight_scale": (scales.reshape(1) if one else scales, dtype),
        }
        parts |= {".weight_zero_point": ((zeros - 128).reshape(parts[".weight_scale"][0].shape), "I8")} if zero else {}
        return Made(parts, (q - zeros).astype(np.float32) * scales)

    return make


def float8(block: tuple[int, int] | None, name: str, *, each: bool = False) -> Callable[..., Made]:
    """F8_E4M3, a scale for each block, output or tensor; rounded to BF16."""

    def make(rng: np.random.Generator, n: int, k: int) -> Made:
        byte = rng.integers(0, 256, (n, k))
        byte = np.where(byte & 127 == 127, 0, byte).astype(np.uint8)
        a, b = block or (1 if each else n, k)
        scales = (rng.uniform(0.5, 1.5, (-(-n // a), -(-k // b))) / (100 * np.sqrt(k))).astype(np.float32)
        at = scales[np.arange(n)[:, None] // a, np.arange(k) // b]
        bits = (e4m3(byte) * at).astype(np.float32).view(np.uint32)
        exact = (bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000).astype(np.uint32).view(np.float32)
        stored = scales if block or each else scales.reshape(())
        return Made({".weight": (byte, "F8_E4M3"), name: (stored, "F32")}, exact)

    return make


def e4m3(byte: np.ndarray) -> np.ndarray:
    """By the format's paper (arXiv:2209.05433), a number at a time."""
    table = []
    for i in range(256):
        sign, exponent, fraction = -1.0 if i >> 7 else 1.0, i >> 3 & 15, i & 7
        size = fraction / 8 * 2.0**-6 if exponent == 0 else (1 + fraction / 8) * 2.0 ** (exponent - 7)
        table.append(float("nan") if i & 127 == 127 else sign * size)
    found: np.ndarray = np.array(table, np.float32)[byte]
    return found


def compressed(form: str, weights: dict[str, Any], **more: Any) -> dict[str, Any]:
    """compressed-tensors' words."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    said = {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group | more}}
    return said | {"ignore": ["lm_head"], "kv_cache_scheme": None, "quantization_status": "compressed"}


_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True, "damp_percent": 0.1}
_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
_FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
_DYNAMIC = {"num_bits": 8, "type": "int", "dynamic": True}
_INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}

#: Name -> scheme.
FOREIGN: dict[str, Foreign] = {
    "gptq": Foreign(_GPTQ, gptq(4, 32, 8), "int4"),
    "gptq-without-order": Foreign(_GPTQ, gptq(4, 32, 8, order=False), "int4"),
    "gptq-one-group": Foreign(_GPTQ | {"group_size": -1}, gptq(4, -1, 8), "int4"),
    "gptq-asymmetric": Foreign(_GPTQ | {"sym": False}, gptq(4, 32, None), "int8"),
    "gptq-v2": Foreign(_GPTQ | {"checkpoint_format": "gptq_v2", "group_size": 64}, gptq(4, 64, None, plus=0), "int8"),
    "gptq-by-activation": Foreign(_GPTQ | {"desc_act": True}, gptq(4, 32, 8, act=True), "f32"),
    "gptq-8": Foreign(_GPTQ | {"bits": 8}, gptq(8, 32, 128), "int8"),
    "gptq-8-asymmetric": Foreign(_GPTQ | {"bits": 8, "sym": False}, gptq(8, 32, None), "f32"),
    "awq": Foreign(_AWQ, awq(32), "int8"),
    "awq-gemv": Foreign(_AWQ | {"version": "gemv"}, awq_by_input(32), "int8"),
    "fp8": Foreign(_FP8 | {"weight_block_size": [24, 40]}, float8((24, 40), ".weight_scale_inv"), "bf16", "BF16"),
    "fp8-one": Foreign(_FP8, float8(None, ".weight_scale"), "bf16", "BF16"),
    "packed": Foreign(compressed("pack-quantized", _INT4), packed(4, 32, zero=False), "int4"),
    "packed-asymmetric": Foreign(
        compressed("pack-quantized", _INT4 | {"symmetric": False}), packed(4, 32, zero=True), "int8"
    ),
    "packed-8": Foreign(
        compressed("pack-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"}),
        packed(8, -1, zero=False),
        "int8",
    ),
    "int8": Foreign(
        compressed("int-quantized", {"num_bits": 8, "strategy": "channel"}, input_activations=_DYNAMIC),
        in_bytes(one=False, zero=False, dtype="BF16"),
        "int8",
    ),
    "int8-f32-scales": Foreign(
        compressed("naive-quantized", {"num_bits": 8}), in_bytes(one=True, zero=False, dtype="F32"), "f32"
    ),
    "int8-asymmetric": Foreign(
        compressed("int-quantized", {"num_bits": 8}), in_bytes(one=False, zero=True, dtype="F16"), "f32"
    ),
    "float8-each": Foreign(
        compressed("float-quantized", {"num_bits": 8, "type": "float"}),
        float8(None, ".weight_scale", each=True),
        "bf16",
        "BF16",
    ),
}

#: A model whose matrices have whole groups, and one more output than whole panels.
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
MODEL = Drawn(
    {"model_type": "llama", "vocab_size": 40, "num_key_value_heads": 2, "max_position_embeddings": 64} | SIZES
)


def write_foreign(
    directory: Path,
    scheme: Foreign,
    drawn: Drawn = MODEL,
    *,
    turned: bool = False,
    tensors: dict[str, np.ndarray] | None = None,
    change: Callable[[dict[str, Part]], None] = lambda _: None,
) -> dict[str, Made]:
    """Write a checkpoint and return its matrices, by the name of the float tensor that each stands for.

    `tensors`: of the float model (None: drawn). Which are no matrices of a layer, or choose experts, are written in
    the floats' dtype. `turned`: the family's files have matrices as [in, out]. `change`: what is done to the tensors
    before they are written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(drawn.config | {"quantization_config": scheme.said}))
    rng, made = np.random.default_rng(drawn.seed), dict[str, Made]()
    stored: dict[str, Part] = {}
    for name, array in (random_tensors(drawn.config, drawn.seed) if tensors is None else tensors).items():
        if array.ndim == 2 and (".layers." in name or "h." in name) and not name.endswith("mlp.gate.weight"):
            n, k = array.shape[::-1] if turned else array.shape
            made[name] = scheme.make(rng, n, k)
            for end, (part, dtype) in made[name].parts.items():
                stored[name.removesuffix(".weight") + end] = part, dtype
        else:
            stored[name] = array, scheme.dtype
    change(stored)
    dtypes = {name: dtype for name, (_, dtype) in stored.items()}
    write_safetensors(directory / "model.safetensors", {name: part for name, (part, _) in stored.items()}, dtypes)
    return made


def write_twin(
    directory: Path,
    scheme: Foreign,
    made: dict[str, Made],
    drawn: Drawn = MODEL,
    *,
    turned: bool = False,
    tensors: dict[str, np.ndarray] | None = None,
) -> None:
    """Write the same model in floats."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(drawn.config))
    floats = random_tensors(drawn.config, drawn.seed) if tensors is None else tensors
    floats = floats | {name: one.exact.T if turned else one.exact for name, one in made.items()}
    write_safetensors(directory / "model.safetensors", floats, dtype=scheme.dtype)


def experts(n: int = 4) -> tuple[Drawn, dict[str, np.ndarray]]:
    """One layer of experts (Qwen3's), and its tensors."""
    config = {
        "model_type": "qwen3_moe",
        "vocab_size": 40,
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "head_dim": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "num_experts": n,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "intermediate_size": 32,
        "norm_topk_prob": True,
        "tie_word_embeddings": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }
    layer = {"self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64)}
    layer |= {"self_attn.o_proj": (64, 64), "mlp.gate": (n, 64)}
    for e in range(n):
        layer |= {f"mlp.experts.{e}.{role}_proj": (32, 64) for role in ("gate", "up")}
        layer[f"mlp.experts.{e}.down_proj"] = (64, 32)
    norms = {"input_layernorm": 64, "post_attention_layernorm": 64, "self_attn.q_norm": 16, "self_attn.k_norm": 16}
    rng = np.random.default_rng(5)
    tensors = {"model.embed_tokens.weight": rng.standard_normal((40, 64)), "model.norm.weight": np.ones(64)}
    tensors |= {f"model.layers.0.{name}.weight": rng.standard_normal(shape) / 8 for name, shape in layer.items()}
    tensors |= {f"model.layers.0.{name}.weight": np.ones(size) for name, size in norms.items()}
    return Drawn(config), {name: array.astype(np.float32) for name, array in tensors.items()}
