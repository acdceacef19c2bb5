"""The decoder-only Transformer: a stack, and a head over the tokens whose logits are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from .embedding import embedded
from .stack import Frame, norm, project, stack
from .supported import check_supported, head_of
from .variants import capped, scaled

if TYPE_CHECKING:
    from ..rope import RopeTable
    from ..spec import Config, Weights
    from .ops import Ops

__all__ = ["decoder", "read_out"]

T = TypeVar("T")


def decoder(ops: Ops[T], cfg: Config, w: Weights, ropes: tuple[RopeTable, ...]) -> tuple[T, T | None]:
    """Tokens of the step -> (hidden [R, d_model], logits [R, n_vocab or classes]) of its last R. `BackendError`."""
    check_supported(cfg, w)
    frame = Frame(ops, cfg.stack, ropes)
    return read_out(frame, cfg, w, stack(frame, w.stack, embedded(frame, w.stack)))


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
