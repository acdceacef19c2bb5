"""Which of the two attentions a layer's record asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ..bias import Bias

if TYPE_CHECKING:
    from ..spec import Attention, Stack, StackWeights
    from .ops import Ops

__all__ = ["attend", "biases_of"]

T = TypeVar("T")


def biases_of(stack: Stack, w: StackWeights) -> tuple[Bias, ...]:
    """What the stack's layers may add to their scores."""
    return tuple(Bias(sizes, table) for sizes, table in zip(stack.biases, w.biases, strict=True))


def attend(ops: Ops[T], layer: int, s: Attention, q: T, biases: tuple[Bias, ...]) -> T:
    """[T, heads * d_head] -> the same, of the layer's cache."""
    heads, kv_heads = s.n_heads, s.n_kv_heads
    if s.soft_cap is None and s.bias is None and (s.causal or s.window is None):
        return ops.attention(layer, q, heads, kv_heads, window=s.window, scale=s.scale, causal=s.causal)
    return ops.attention_biased(
        layer, q, heads, kv_heads, window=s.window, scale=s.scale, causal=s.causal, soft_cap=s.soft_cap,
        bias=None if s.bias is None else biases[s.bias],
    )  # fmt: skip
