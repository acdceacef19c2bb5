"""A model's sizes as config.json and plans of version 1 count them: heads, key/value heads and neurons of each layer.

The records have a tuple of sublayers for each layer; here what a layer lacks is 0. They speak of `Config.stack`, and in
each of its layers of the attention to its own tokens and the feed-forward.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..dataclass import dataclass
from ..runtime.spec import Attention, Buckets, FeedForward
from .roles import ATTENTION, AXES, CROSS, EMBED, EXPERTS, FEED_FORWARD, ROLES, expert_of, role_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..runtime.spec import Config, Experts, Head

__all__ = [
    "LayerSizes",
    "axis_size",
    "cross_heads",
    "d_head",
    "dense_width",
    "every_size",
    "has_padding_row",
    "has_sublayer",
    "head_reads_width",
    "lacks_vocabulary",
    "largest",
    "model_sizes",
    "role_axes",
    "sizes_of",
    "uneven",
    "with_sizes",
]


@dataclass(frozen=True)
class LayerSizes:
    """What may differ from layer to layer: no heads, no attention; no width, no feed-forward; no experts, one."""

    n_heads: int
    n_kv_heads: int
    d_ff: int
    n_experts: int = 0  # each of width d_ff


def sizes_of(config: Config, layer: int) -> LayerSizes:
    """Sizes of one layer."""
    return _sizes(config.stack.layers[layer])


def every_size(config: Config) -> list[LayerSizes]:
    """Sizes of every layer; as many are made as the config has layers that are other objects, which are few."""
    layers = config.stack.layers
    made = {key: _sizes(layer) for key, layer in {id(layer): layer for layer in layers}.items()}
    return [made[id(layer)] for layer in layers]


def _sizes(layer: Sequence[Attention | FeedForward]) -> LayerSizes:
    a = next((s for s in layer if isinstance(s, Attention) and not s.cross), None)
    f = next((s for s in layer if isinstance(s, FeedForward)), None)
    n_experts = f.experts.n if f and f.experts else 0
    return LayerSizes(a.n_heads if a else 0, a.n_kv_heads if a else 0, f.d_ff if f else 0, n_experts)


def _kinds(config: Config) -> set[LayerSizes]:
    """The sizes that any layer has, each once."""
    return {_sizes(layer) for layer in {id(layer): layer for layer in config.stack.layers}.values()}


#: What turns rows of a table of distances into keys, or queries -> the term of a score that needs it.
_TERMS = {"pos_k": "c2p", "pos_q": "p2c"}


def cross_heads(config: Config, layer: int) -> tuple[int, int]:
    """Heads and key/value heads of a layer's attention to an encoder; 0 where it has none."""
    s = config.stack.cross(layer)
    return (s.n_heads, s.n_kv_heads) if s else (0, 0)


def has_sublayer(config: Config, role: str, layer: int) -> bool:
    """Whether the layer has the sublayer that a role belongs to, its gate, and products by distance.

    The model's own roles belong to no sublayer; its table of distances and its convolution are there where the config
    has one. `role`: also
    of one expert (`roles.expert_key`).
    """
    expert, role = expert_of(role), role_of(role)
    kind, field = ROLES[role].sublayer, ROLES[role].field
    stack = config.stack
    if field in ("relative", "relative_norm"):
        return stack.relative is not None and (field == "relative" or stack.relative.normed)
    if field in ("convolution", "convolution_norm"):
        return stack.convolution is not None
    if field in _TERMS:
        attention = stack.attention(layer)
        shared = stack.relative is None or stack.relative.shared
        return attention is not None and not shared and _TERMS[field] in attention.relative
    if kind == EXPERTS or field in {"gate", "up", "down"}:
        return _has_product(stack.feed_forward(layer), kind, field, expert)
    there = {ATTENTION: stack.attention, FEED_FORWARD: stack.feed_forward, CROSS: stack.cross}
    return not kind or there[kind](layer) is not None


def _has_product(s: FeedForward | None, kind: str, field: str, expert: int | None) -> bool:
    """Whether a feed-forward has a matrix of its own (`kind` is not that of experts), or of its experts."""
    gated = s is not None and (s.gated or not field.endswith("gate"))
    experts = None if s is None else s.experts
    if kind != EXPERTS or experts is None:
        return gated and kind != EXPERTS and experts is None
    shared = experts.d_shared > 0 and (field != "shared_mix" or experts.shared_mixed)
    return gated and (shared or not field.startswith("shared")) and (expert is None or expert < experts.n)


def largest(config: Config) -> LayerSizes:
    """The largest of each size in any layer; `d_ff` of those with experts, where any has."""
    every = _kinds(config)
    wide = [s for s in every if s.n_experts] or every
    heads, kv_heads = max(s.n_heads for s in every), max(s.n_kv_heads for s in every)
    return LayerSizes(heads, kv_heads, max(s.d_ff for s in wide), max(s.n_experts for s in every))


def dense_width(config: Config) -> int:
    """The widest feed-forward without experts in a model that has experts; 0 where there is none."""
    every = _kinds(config)
    some = any(s.n_experts for s in every)
    return max((s.d_ff for s in every if not s.n_experts), default=0) if some else 0


def uneven(config: Config) -> bool:
    """Whether any layer has other sizes than another."""
    return len(_kinds(config)) > 1


def d_head(config: Config) -> int:
    """Width of a head; 0 where no layer has any."""
    layers = config.stack.layers
    return next((s.d_head for layer in layers for s in layer if isinstance(s, Attention)), 0)


def model_sizes(config: Config) -> dict[str, int]:
    """The sizes that a config.json has a key for, and a plan's fingerprint: of layers, the largest."""
    most, dense = largest(config), dense_width(config)
    more = {"n_experts": most.n_experts} if most.n_experts else {}
    more |= {"d_dense": dense} if dense else {}
    return more | {
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
    pairs = list(zip(config.stack.layers, sizes, strict=True))
    made = {  # layers that are one object, of sizes that are one object, stay one object
        key: tuple(new for s in layer if (new := _sized(s, size)) is not None)
        for key, (layer, size) in {(id(layer), id(size)): (layer, size) for layer, size in pairs}.items()
    }
    layers = tuple(made[id(layer), id(size)] for layer, size in pairs)
    return config.with_stack(replace(config.stack, layers=layers))


def _sized(s: Attention | FeedForward, size: LayerSizes) -> Attention | FeedForward | None:
    if isinstance(s, Attention):
        if s.cross or (s.n_heads, s.n_kv_heads) == (size.n_heads, size.n_kv_heads):
            return s
        return replace(s, n_heads=size.n_heads, n_kv_heads=size.n_kv_heads) if size.n_heads else None
    experts = s.experts if s.experts is None else replace(s.experts, n=size.n_experts)
    if (s.d_ff, s.experts) == (size.d_ff, experts):
        return s
    return replace(s, d_ff=size.d_ff, experts=experts) if size.d_ff else None


def role_axes(config: Config, role: str) -> tuple[str, ...]:
    """`AXES[role]`; the embedding has its own width in a model where a product takes it to the stream's.

    What an encoder's head reads may be as wide as the stream.
    """
    role = role_of(role)
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


def lacks_vocabulary(config: Config) -> bool:
    """Whether its head is another than the product with the vocabulary."""
    return config.head is not None and config.head.kind != "masked_lm"


def has_padding_row(config: Config) -> bool:
    """Whether the row of position 0 in a table of learned positions is the padding token's, and no other's."""
    return config.padding is not None and config.stack.sinusoids is None


def _attention(c: Config, i: int, of: Callable[[Attention], int]) -> int:
    a = c.stack.attention(i)
    return of(a) if a else 0


def _cross(c: Config, i: int, of: Callable[[Attention], int]) -> int:
    x = c.stack.cross(i)
    return of(x) if x else 0


def _experts(c: Config, i: int, of: Callable[[Experts], int]) -> int:
    f = c.stack.feed_forward(i)
    return of(f.experts) if f and f.experts else 0


def _ffn(c: Config, i: int) -> int:
    f = c.stack.feed_forward(i)
    return f.d_ff if f else 0


#: Elements along each axis of `roles.AXES`, by a model's config and the layer's number.
_ALONG: dict[str, Callable[[Config, int], int]] = {
    "vocab": lambda c, _: c.n_vocab,
    "width": lambda c, _: c.d_model,
    "context": lambda c, _: c.n_context + (c.positions or 0) + has_padding_row(c),
    "types": lambda c, _: c.n_types,
    "embed": lambda c, _: c.d_embed or c.d_model,
    "pooled": lambda c, _: c.head.width if c.head else c.d_embed or 0,
    "one": lambda _, __: 1,
    "labels": lambda c, _: c.head.n_out if c.head else 0,
    "buckets": lambda c, _: next((b.n for b in c.stack.biases if isinstance(b, Buckets)), 0),
    "distances": lambda c, _: 2 * c.stack.relative.n if c.stack.relative else 0,
    "taps": lambda c, _: c.d_model * c.stack.convolution.taps if c.stack.convolution else 0,
    "biased": lambda c, _: largest(c).n_heads,
    "own_biased": lambda c, i: _attention(c, i, lambda a: a.n_heads),
    "head": lambda c, i: _attention(c, i, lambda a: a.d_head),
    "heads": lambda c, i: _attention(c, i, lambda a: a.n_heads * a.d_head),
    "kv_heads": lambda c, i: _attention(c, i, lambda a: a.n_kv_heads * a.d_head),
    "ffn": _ffn,
    "experts": lambda c, i: _experts(c, i, lambda e: e.n),
    "shared": lambda c, i: _experts(c, i, lambda e: e.d_shared),
    "mix": lambda c, i: _experts(c, i, lambda e: int(e.shared_mixed)),
    "source": lambda c, _: c.encoder.d_model if c.encoder else 0,
    "cross_heads": lambda c, i: _cross(c, i, lambda x: x.n_heads * x.d_head),
    "cross_kv_heads": lambda c, i: _cross(c, i, lambda x: x.n_kv_heads * x.d_head),
}


def axis_size(config: Config, axis: str, layer: int) -> int:
    """Elements along an axis of `roles.AXES` in the model of `config`; 0 where the layer lacks the sublayer."""
    return _ALONG[axis](config, layer)
