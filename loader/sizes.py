"""A model's sizes as config.json and plans of version 1 count them: heads, key/value heads and neurons of each layer.

The records have a tuple of sublayers for each layer; here what a layer lacks is 0. They speak of `Config.stack`, and in
each of its layers of the attention to its own tokens and the feed-forward.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..runtime.spec import Attention, Buckets
from .roles import ATTENTION, AXES, CROSS, EMBED, FEED_FORWARD, ROLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..runtime.spec import Config, FeedForward, Head

__all__ = [
    "LayerSizes",
    "axis_size",
    "cross_heads",
    "d_head",
    "has_sublayer",
    "head_reads_width",
    "largest",
    "model_sizes",
    "role_axes",
    "sizes_of",
    "uneven",
    "with_sizes",
]


@dataclass(frozen=True)
class LayerSizes:
    """What may differ from layer to layer: no heads, no attention; no width, no feed-forward."""

    n_heads: int
    n_kv_heads: int
    d_ff: int


def sizes_of(config: Config, layer: int) -> LayerSizes:
    """Sizes of one layer."""
    a, f = config.stack.attention(layer), config.stack.feed_forward(layer)
    return LayerSizes(a.n_heads if a else 0, a.n_kv_heads if a else 0, f.d_ff if f else 0)


#: What turns rows of a table of distances into keys, or queries -> the term of a score that needs it.
_TERMS = {"pos_k": "c2p", "pos_q": "p2c"}


def cross_heads(config: Config, layer: int) -> tuple[int, int]:
    """Heads and key/value heads of a layer's attention to an encoder; 0 where it has none."""
    s = config.stack.cross(layer)
    return (s.n_heads, s.n_kv_heads) if s else (0, 0)


def has_sublayer(config: Config, role: str, layer: int) -> bool:
    """Whether the layer has the sublayer that a role belongs to, its gate, and products by distance.

    The model's own roles belong to no sublayer; its table of distances is there where the config has one.
    """
    kind, field = ROLES[role].sublayer, ROLES[role].field
    stack = config.stack
    if field in ("relative", "relative_norm"):
        return stack.relative is not None and (field == "relative" or stack.relative.normed)
    if field in _TERMS:
        attention = stack.attention(layer)
        shared = stack.relative is None or stack.relative.shared
        return attention is not None and not shared and _TERMS[field] in attention.relative
    if ROLES[role].field == "gate":
        feed_forward = stack.feed_forward(layer)
        return feed_forward is not None and feed_forward.gated
    there = {ATTENTION: stack.attention, FEED_FORWARD: stack.feed_forward, CROSS: stack.cross}
    return not kind or there[kind](layer) is not None


def largest(config: Config) -> LayerSizes:
    """The largest of each size in any layer."""
    every = [sizes_of(config, i) for i in range(config.n_layers)]
    return LayerSizes(max(s.n_heads for s in every), max(s.n_kv_heads for s in every), max(s.d_ff for s in every))


def uneven(config: Config) -> bool:
    """Whether any layer has other sizes than another."""
    return len({sizes_of(config, i) for i in range(config.n_layers)}) > 1


def d_head(config: Config) -> int:
    """Width of a head; 0 where no layer has any."""
    layers = config.stack.layers
    return next((s.d_head for layer in layers for s in layer if isinstance(s, Attention)), 0)


def model_sizes(config: Config) -> dict[str, int]:
    """The sizes that a config.json has a key for, and a plan's fingerprint: of layers, the largest."""
    most = largest(config)
    return {
        "n_layers": config.n_layers,
        "d_model": config.d_model,
        "n_heads": most.n_heads,
        "n_kv_heads": most.n_kv_heads,
        "d_head": d_head(config),
        "d_ff": most.d_ff,
        "n_vocab": config.n_vocab,
    }


def with_sizes(config: Config, sizes: Sequence[LayerSizes]) -> Config:
    """The same model with these sizes of its layers: a sublayer whose size is 0 goes."""
    layers = tuple(
        tuple(new for s in layer if (new := _sized(s, size)) is not None)
        for layer, size in zip(config.stack.layers, sizes, strict=True)
    )
    return config.with_stack(replace(config.stack, layers=layers))


def _sized(s: Attention | FeedForward, size: LayerSizes) -> Attention | FeedForward | None:
    if isinstance(s, Attention):
        if s.cross or (s.n_heads, s.n_kv_heads) == (size.n_heads, size.n_kv_heads):
            return s
        return replace(s, n_heads=size.n_heads, n_kv_heads=size.n_kv_heads) if size.n_heads else None
    if s.d_ff == size.d_ff:
        return s
    return replace(s, d_ff=size.d_ff) if size.d_ff else None


def role_axes(config: Config, role: str) -> tuple[str, ...]:
    """`AXES[role]`; the embedding has its own width in a model where a product takes it to the stream's.

    What an encoder's head reads may be as wide as the stream.
    """
    axes = AXES[role]
    if config.head is not None and head_reads_width(config, config.head):
        axes = tuple("width" if axis == "pooled" else axis for axis in axes)
    rows = EMBED if not config.stack.project_first else ("embed", "head")
    if config.d_embed is None or role not in rows:
        return axes
    return tuple("embed" if axis == "width" else axis for axis in axes)


def head_reads_width(config: Config, head: Head) -> bool:
    """Whether what an encoder's last product reads is as wide as the stream, and must stay so.

    It is the stream itself, or what a product with the embedding reads.
    """
    return head.activation is None or (head.kind == "masked_lm" and config.d_embed is None)


def axis_size(config: Config, axis: str, layer: int) -> int:
    """Elements along an axis of `roles.AXES` in the model of `config`; 0 where the layer lacks the sublayer."""
    a, f, x = config.stack.attention(layer), config.stack.feed_forward(layer), config.stack.cross(layer)
    return {
        "vocab": config.n_vocab,
        "width": config.d_model,
        "context": config.n_context + (config.positions or 0),
        "types": config.n_types,
        "embed": config.d_embed or config.d_model,
        "pooled": config.head.width if config.head else config.d_embed or 0,
        "one": 1,
        "labels": config.head.n_out if config.head else 0,
        "buckets": next((b.n for b in config.stack.biases if isinstance(b, Buckets)), 0),
        "distances": 2 * config.stack.relative.n if config.stack.relative else 0,
        "biased": largest(config).n_heads if axis == "biased" else 0,
        "head": a.d_head if a else 0,
        "heads": a.n_heads * a.d_head if a else 0,
        "kv_heads": a.n_kv_heads * a.d_head if a else 0,
        "ffn": f.d_ff if f else 0,
        "source": config.encoder.d_model if config.encoder else 0,
        "cross_heads": x.n_heads * x.d_head if x else 0,
        "cross_kv_heads": x.n_kv_heads * x.d_head if x else 0,
    }[axis]
