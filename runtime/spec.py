"""The records that describe a model: `Config`, `Weight`, `Weights`. Frozen, and free of any file's spelling.

Glossary of dimensions, used everywhere:

| name        | meaning                                            |
|-------------|----------------------------------------------------|
| `T`         | tokens in this step                                |
| `d_model`   | width of the residual stream                       |
| `n_layers`  | Transformer blocks                                 |
| `n_heads`   | query heads                                        |
| `n_kv_heads`| key/value heads (grouped-query attention)          |
| `d_head`    | width of one head                                  |
| `d_ff`      | width of the feed-forward's hidden layer           |
| `n_vocab`   | entries of the vocabulary                          |
| `n_context` | positions the model was made for                   |

A pruned model's layers may differ in heads and feed-forward width: `Config.layer(i)` gives one layer's, 0 where it has
no attention or no feed-forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from .quantized import QUANTIZED, quantized_shape, unpack
from .sparse import SPARSE, sparse_bytes, unpack_sparse
from .sparse_int8 import SPARSE_INT8, sparse_int8_bytes, unpack_sparse_int8

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = [
    "DTYPES",
    "Activation",
    "Config",
    "LayerSizes",
    "LayerWeights",
    "Norm",
    "Rope",
    "Weight",
    "Weights",
    "weight_bytes",
]

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
Norm = Literal["rms", "layer"]

#: Float dtypes that the kernels read as stored: name -> (bytes, the NumPy type that holds the bits).
DTYPES: dict[str, tuple[int, type[np.generic]]] = {
    "f32": (4, np.float32),
    "bf16": (2, np.uint16),
    "f16": (2, np.float16),
}


def weight_bytes(dtype: str, shape: tuple[int, ...], kept: int = 0) -> int:
    """Bytes of a weight: a dtype of `DTYPES`, `quantized.QUANTIZED`, or a sparse one with so many numbers kept."""
    if dtype in SPARSE:
        return sparse_bytes(dtype, shape, kept)
    if dtype == SPARSE_INT8:
        return sparse_int8_bytes(shape, kept)
    if dtype in QUANTIZED:
        return math.prod(quantized_shape(dtype, shape))
    return math.prod(shape) * DTYPES[dtype][0]


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864), pairs (i, i + d_head/2).

    `kind` names the change of frequencies: "default", "linear", "dynamic", "llama3" or "yarn".
    """

    theta: float
    kind: Literal["default", "linear", "dynamic", "llama3", "yarn"] = "default"
    factor: float = 1.0
    original_context: int = 0  # the positions trained on before scaling
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    truncate: bool = True  # yarn: round the correction range to whole dimensions
    attention_factor: float = 1.0  # yarn: multiplies cos and sin


@dataclass(frozen=True)
class LayerSizes:
    """What may differ from layer to layer: no heads, no attention; no width, no feed-forward."""

    n_heads: int
    n_kv_heads: int
    d_ff: int


@dataclass(frozen=True)
class Config:
    """A decoder with every default resolved; what the forward may depend on, and nothing else.

    `n_heads`, `n_kv_heads` and `d_ff` are the largest of any layer; `uneven` has every layer's own, where they differ.
    """

    family: str
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_ff: int
    n_vocab: int
    n_context: int
    norm: Norm
    norm_eps: float
    activation: Activation
    gated: bool  # feed-forward: act(gate) * up, or plain act(up)
    rope: Rope | None  # None: learned positions are added to the embedding
    windows: tuple[int | None, ...]  # per layer: keys a query may see, itself included; None: all
    attention_scales: tuple[float, ...]  # per layer: factor on q.k
    qk_norm: bool = False  # RMSNorm of each query and key head before RoPE (Qwen3)
    tied: bool = False  # the head is the embedding
    bos_ids: tuple[int, ...] = ()
    eos_ids: tuple[int, ...] = ()
    uneven: tuple[LayerSizes, ...] = ()  # per layer; empty: all are alike

    def layer(self, i: int) -> LayerSizes:
        """Sizes of layer `i`."""
        return self.uneven[i] if self.uneven else LayerSizes(self.n_heads, self.n_kv_heads, self.d_ff)

    def with_layers(self, sizes: Sequence[LayerSizes]) -> Config:
        """The same decoder with these layers' sizes."""
        most = (max(getattr(s, f.name) for s in sizes) for f in fields(LayerSizes))
        n_heads, n_kv_heads, d_ff = most
        uneven = tuple(sizes) if len(set(sizes)) > 1 else ()
        return replace(self, n_heads=n_heads, n_kv_heads=n_kv_heads, d_ff=d_ff, uneven=uneven)


@dataclass(frozen=True, eq=False)
class Weight:
    """A tensor as the kernels see it: an address, a shape, a dtype of `DTYPES` or `QUANTIZED`, or a sparse one.

    `array` is a C-contiguous view of the mapped file or of the resident block, shape `shape`; it keeps the memory
    alive. BF16 has no NumPy type: its array is uint16; a quantised matrix is uint8 as in `quantized.py`, a sparse
    one as in `sparse.py` or `sparse_int8.py`, with `kept` numbers. `mapped` tells where the bytes lie.
    `array` is None for a weight that is only planned (`miaotui inspect`): its address is 0.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    array: NDArray[np.generic] | None
    mapped: bool
    kept: int = 0  # of a sparse matrix

    @property
    def address(self) -> int:
        """Address of the first element, in bytes."""
        return 0 if self.array is None else int(self.array.ctypes.data)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return weight_bytes(self.dtype, self.shape, self.kept)

    @property
    def quantized(self) -> bool:
        """Whether it holds integers and scales, and wants its input quantised."""
        return self.dtype in QUANTIZED or self.dtype == SPARSE_INT8

    def f64(self) -> NDArray[np.float64]:
        """The exact values in float64, a copy: for the reference."""
        if self.array is None:
            msg = f"weight {self.name} is planned, not loaded"
            raise ValueError(msg)
        a = self.array
        if self.dtype == SPARSE_INT8:
            return unpack_sparse_int8(a.view(np.uint8), self.shape)
        if self.quantized:
            return unpack(a.view(np.uint8), self.dtype, self.shape)
        if self.dtype in SPARSE:
            return unpack_sparse(a.view(np.uint8), self.dtype, self.shape)
        if self.dtype == "bf16":
            a = (a.astype(np.uint32) << 16).view(np.float32)
        return a.astype(np.float64).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """One Transformer block. Matrices are [out, in]; norms and biases are f32 vectors.

    None where a family has none, and for the whole of a half (from its norm on) that was pruned away.
    """

    attn_norm: Weight | None = None
    q: Weight | None = None
    k: Weight | None = None
    v: Weight | None = None
    o: Weight | None = None
    ffn_norm: Weight | None = None
    up: Weight | None = None
    down: Weight | None = None
    gate: Weight | None = None
    attn_norm_bias: Weight | None = None
    q_bias: Weight | None = None
    k_bias: Weight | None = None
    v_bias: Weight | None = None
    o_bias: Weight | None = None
    q_norm: Weight | None = None
    k_norm: Weight | None = None
    ffn_norm_bias: Weight | None = None
    gate_bias: Weight | None = None
    up_bias: Weight | None = None
    down_bias: Weight | None = None


@dataclass(frozen=True, eq=False)
class Weights:
    """A decoder's weights: embedding [n_vocab, d_model], blocks, final norm, head [n_vocab, d_model]."""

    embed: Weight
    layers: tuple[LayerWeights, ...]
    norm: Weight
    head: Weight  # the very object `embed` where tied
    norm_bias: Weight | None = None
    positions: Weight | None = None  # learned positions [n_context, d_model]

    def __iter__(self) -> Iterator[Weight]:
        """Every weight once; a tied head is not repeated."""
        seen: set[int] = set()
        for part in (self, *self.layers):
            for value in vars(part).values():
                if isinstance(value, Weight) and id(value) not in seen:
                    seen.add(id(value))
                    yield value
