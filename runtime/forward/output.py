"""What a decoder says of what its layers put out: the last norm, and the head."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from .stack import norm, project
from .supported import head_of
from .variants import capped, scaled

if TYPE_CHECKING:
    from ..spec import Config, Weights
    from .stack import Frame

__all__ = ["read_out"]

T = TypeVar("T")


def read_out(frame: Frame[T], cfg: Config, w: Weights, x: T) -> tuple[T, T | None]:
    """As `decoder`, of what left a layer, [T, d_model]: the last one's, or another's to see what it would say."""
    ops = frame.ops
    h = norm(frame, ops.take_rows(x), w.stack.norm)  # [R, d_model]
    if not cfg.lm_head:
        return h, None
    act = None if cfg.head is None else cfg.head.activation
    wide = h if w.head_dense is None else project(frame, h, w.head_dense, act=act)  # [R, d_embed], or the head's width
    logits = capped(ops, scaled(ops, project(frame, wide, head_of(cfg, w)), cfg.logit_scale), cfg.logit_soft_cap)
    ops.argmax(logits)
    return h, logits
