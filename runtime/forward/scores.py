"""Which of the two attentions a layer's record asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ..bias import Bias
from ..spec import Slopes

if TYPE_CHECKING:
    from ..spec import Attention, Stack, StackWeights, Sublayer, Weight
    from .ops import Ops

__all__ = ["attend", "bias_of", "lacks_table"]

T = TypeVar("T")


def attend(ops: Ops[T], layer: int, s: Attention, q: T, bias: Bias | None) -> T:
    """[T, heads * d_head] -> the same, of the layer's cache."""
    heads, kv_heads = s.n_heads, s.n_kv_heads
    if s.soft_cap is None and bias is None and (s.causal or s.window is None):
        return ops.attention(layer, q, heads, kv_heads, window=s.window, scale=s.scale, causal=s.causal)
    return ops.attention_biased(
        layer, q, heads, kv_heads, window=s.window, scale=s.scale, causal=s.causal, soft_cap=s.soft_cap, bias=bias
    )


def bias_of(stack: Stack, tables: tuple[Weight | None, ...], s: Attention, w: Sublayer) -> Bias | None:
    """What a layer adds to its scores: with the stack's table, or its own."""
    if s.bias is None:
        return None
    return Bias(stack.biases[s.bias], tables[s.bias] if w.bias is None else w.bias)


def lacks_table(stack: Stack, w: StackWeights, s: Attention, own: Sublayer) -> bool:
    """Whether a bias that a layer names is not there, or its table neither once nor where it belongs."""
    if s.bias is None:
        return own.bias is not None
    if s.bias >= min(len(stack.biases), len(w.biases)):
        return True
    tables = (w.biases[s.bias] is not None) + (own.bias is not None)
    return tables != (0 if isinstance(stack.biases[s.bias], Slopes) else 1)
