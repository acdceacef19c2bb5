"""Which op the records ask for where several would do, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, Unpack

from ..bias import Bias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..rope import RopeTable
    from ..spec import Attention, Linear, Norm, Stack, StackWeights, Sublayer, Weight
    from .ops import After, Ops
    from .stack import Frame

__all__ = [
    "attend", "bias_of", "capped", "clipped", "convolved", "curved", "groups_of", "layer_normed", "project",
    "rotated", "scaled",
]  # fmt: skip

T = TypeVar("T")


def project(f: Frame[T], x: T, w: Linear, **after: Unpack[After[T]]) -> T:
    """A product, and what may follow it: the one place that knows of biases and adapters."""
    if not w.adapters:
        return f.ops.linear(x, w.w, w.b, **after)
    return f.ops.lora_up(f.ops.linear(x, w.w), f.ops.lora_down(x, w.adapters), w.adapters, w.b, **after)


def scaled(ops: Ops[T], x: T, factor: float) -> T:
    """Factor x; x itself where the factor is 1."""
    return x if factor == 1 else ops.scale(x, factor)


def capped(ops: Ops[T], x: T, cap: float | None) -> T:
    """Cap tanh(x / cap); x itself where there is no cap."""
    return x if cap is None else ops.soft_cap(x, cap)


def clipped(ops: Ops[T], x: T, limit: float | None) -> T:
    """X within [-limit, limit]; x itself where there is no limit."""
    return x if limit is None else ops.clip(x, limit)


def curved(ops: Ops[T], x: T, numbers: Mapping[str, Weight]) -> T:
    """The activation whose numbers these are; x itself where there are none."""
    return x if not numbers else ops.xielu(x, numbers["p"], numbers["n"], numbers["beta"], numbers["eps"])


def layer_normed(ops: Ops[T], x: T, w: Norm, eps: float, groups: int) -> T:
    """LayerNorm of each row, or of each of its `groups`."""
    return ops.layer_norm(x, w.w, w.b, eps) if groups == 1 else ops.layer_norm_heads(x, w.w, w.b, eps, groups)


def convolved(f: Frame[T], w: StackWeights, x: T, y: T) -> tuple[T, Norm | None]:
    """Y + act(convolution of x), and this sum's norm: x enters the first layer, y leaves it. Of others: y, and none."""
    c = f.stack.convolution
    if c is None or w.convolution is None or f.layer > 0:
        return y, None
    return project(f, f.ops.unfold(x, c.taps), w.convolution, act=c.activation, residual=y), w.convolution_norm


def rotated(ops: Ops[T], x: T, table: RopeTable | None, heads: int, d_head: int) -> T:
    """Each of `heads` by its position: whole heads in halves, a part of each, or neighbours; x without a table."""
    if table is None:
        return x
    whole = table.rope.d_rotary == d_head and not table.rope.interleaved
    return ops.rope(x, table, heads) if whole else ops.rope_part(x, table, heads)


def groups_of(s: Attention, w: Norm | None, heads: int) -> int:
    """Pieces of a row that are normed by themselves: as wide as the gains are, or each head though it has its own."""
    return heads if w is not None and (s.norm_heads or w.w.shape == (s.d_head,)) else 1


def attend(f: Frame[T], s: Attention, w: Sublayer, q: T, *k: T) -> T:
    """[T, heads * d_head] -> the same, of the layer's cache, or of the one that an encoder filled.

    `k`: the step's keys, where the layer writes some.
    """
    ops, layer, heads, kv_heads, bias = f.ops, f.layer, s.n_heads, s.n_kv_heads, bias_of(f.stack, f.tables, s, w)
    if s.cross:
        return ops.cross_attention(layer, q, heads, kv_heads, scale=s.scale)
    if s.relative and f.stack.relative is not None:
        n, rows = 2 * f.stack.relative.n, f.positions[layer]
        c2p = ops.head_products(q, rows["c2p"], heads, n) if "c2p" in rows else None
        p2c = ops.head_products(k[0], rows["p2c"], kv_heads, n) if "p2c" in rows else None
        return ops.attention_relative(layer, q, heads, kv_heads, scale=s.scale, causal=s.causal,
                                      sizes=f.stack.relative, c2p=c2p, p2c=p2c)  # fmt: skip
    if s.soft_cap is None and bias is None and (s.causal or s.window is None):
        return ops.attention(layer, q, heads, kv_heads, window=s.window, scale=s.scale, causal=s.causal)
    return ops.attention_biased(
        layer, q, heads, kv_heads, window=s.window, scale=s.scale, causal=s.causal, soft_cap=s.soft_cap, bias=bias
    )


def bias_of(stack: Stack, tables: tuple[Weight | None, ...], s: Attention, w: Sublayer) -> Bias | None:
    """What a layer adds to its scores: with the stack's table, or its own."""
    if s.bias is None:
        return None
    return Bias(stack.biases[s.bias], tables[s.bias] if w.bias is None else w.bias, s.bias_heads)
