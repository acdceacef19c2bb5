"""Whether a config.json that is to be written says the very model that a plan leaves; where it cannot, why.

What a family's config.json has no words for (GPT-2's attention scaled by a layer's old number) is refused.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError, PlanError
from ...runtime.spec import Decoding
from ..config import resolve_config
from ..families import FAMILIES
from ..sizes import every_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ...runtime.spec import Config

__all__ = ["check_same"]

#: What the fields of the records that a config.json may have no words for mean.
WHY = {
    "d_head": "a head's width is the model's divided by the heads in this family: the width cannot be cut",
    "embed_scale": "the embedding is scaled by the root of the width in this family: the width cannot be cut",
    "logit_scale": "logits are scaled by the root of the width in this family: the width cannot be cut",
    "positions": "positions are counted from the padding token's id, which changes: keep every id up to it",
    "padding": "positions are counted from the padding token's id, which changes: keep every id up to it",
    "first": "positions are counted from the padding token's id, which changes: keep every id up to it",
    "bias_heads": "slopes and tables of relative positions are for all of a file's heads: heads cannot be cut",
    "scale": "attention is scaled by the layer's number (scale_attn_by_inverse_layer_idx), and numbers "
    "change: only layers after the kept ones can be left out",
    "layers": "config.json has no words for a layer that lacks its attention to the encoder",
}
#: Sizes of an encoder-decoder that config.json may have one key for -> what that is said of.
BOTH = {
    "n_heads": "the attentions of a stack, or of both (heads, cross_heads, the encoder's heads)",
    "n_kv_heads": "the attentions of a stack, or of both (heads, cross_heads, the encoder's heads)",
    "d_ff": "the feed-forwards of both stacks (ffn, the encoder's ffn)",
}


def check_same(left: Mapping[str, Any], config: Config) -> None:
    """Read `left` back. PlanError: it is another model's than `config`'s."""
    cannot = f"this plan cannot be written as a {config.family} checkpoint"
    try:
        again = resolve_config(dict(left), "the exported config.json").config
    except ConfigError as e:
        msg = f"{cannot}: {str(e).removeprefix('the exported config.json: ')}. It can be used while loading"
        raise PlanError(msg) from None
    again = replace(again, lm_head=config.lm_head)  # which the tensors say
    # generation_config.json has its own say about these
    ids = ("bos_ids", "eos_ids", *(f.name for f in fields(Decoding)), "decoding")
    other = {name: value for name, value in _differing("config", again, config) if name not in ids}
    if other:
        name, value = next(iter(other.items()))
        why = next((WHY[name] for name in WHY if name in other), f"{name} would be {value}")
        if "bias_heads" in other and (_heads_differ(config) or (config.seq2seq and _heads_differ(config.encoding))):
            why = _one_number("n_heads", config)
        elif config.seq2seq and name in BOTH:
            why = _one_number(name, config)
        elif "bias_heads" in other and (_heads_differ(config) or (config.seq2seq and _heads_differ(config.encoding))):
            why = _one_number("n_heads", config)
        msg = f"{cannot}: {why}. It can be used while loading"
        raise PlanError(msg)


def _heads_differ(config: Config) -> bool:
    """Whether layers of `config.stack` differ in how many heads they have, in a family that can write fewer of all."""
    if "d_head" not in FAMILIES[config.family].spelled(config):
        return False
    return len({size.n_heads for size in every_size(config)} - {0}) > 1


def _one_number(name: str, config: Config) -> str:
    """Why a size must be the same in several places."""
    of = BOTH[name] if config.seq2seq else "the layers"
    return f"{FAMILIES[config.family].spelling.get(name, name)} is one number for all of {of}: cut each of them alike"


def _differing(name: str, left: object, right: object) -> Iterator[tuple[str, object]]:
    """The innermost fields in which two records differ, each with the value of the first."""
    if is_dataclass(left) and type(left) is type(right):
        for f in fields(left):
            yield from _differing(f.name, getattr(left, f.name), getattr(right, f.name))
    elif isinstance(left, tuple) and isinstance(right, tuple) and len(left) == len(right):
        for each, other in zip(left, right, strict=True):
            yield from _differing(name, each, other)
    elif left != right:
        yield name, left
