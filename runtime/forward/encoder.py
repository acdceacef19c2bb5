"""The encoder: a stack over texts that come whole, and a head over the tokens that are asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from ..spec import Attention
from .embedding import embedded
from .relative import positions
from .stack import Frame, norm, placed, project, stack
from .supported import check_supported, head_of

if TYPE_CHECKING:
    from ..rope import RopeTable
    from ..spec import Config, Head, Weights
    from .ops import Ops

__all__ = ["cross_caches", "encoder", "head"]

T = TypeVar("T")


def encoder(ops: Ops[T], cfg: Config, w: Weights, ropes: tuple[RopeTable, ...]) -> T:
    """Tokens of the step -> hidden [T, d_model] of all of them. Errors: `BackendError`, as in `decoder`."""
    check_supported(cfg, w)
    frame = Frame(ops, cfg.stack, ropes)
    frame = replace(frame, positions=positions(frame, w.stack))
    return norm(frame, stack(frame, w.stack, embedded(frame, w.stack)), w.stack.norm)


def cross_caches(ops: Ops[T], cfg: Config, w: Weights, hidden: T) -> None:
    """Hidden [T, d_model] of the encoder -> the keys and values that each layer of the decoder will read."""
    frame = Frame(ops, cfg.stack, ())
    for i, (sizes, weights) in enumerate(zip(cfg.stack.layers, w.stack.layers, strict=True)):
        for s, sw in zip(sizes, weights, strict=True):
            if isinstance(s, Attention) and s.cross:
                k, v = (project(frame, hidden, sw.linear[name]) for name in "kv")
                [k] = placed(frame, s, (k, sw.norm_k, s.n_kv_heads))
                ops.cross_write(i, k, v, s.n_kv_heads)


def head(ops: Ops[T], cfg: Config, s: Head, w: Weights, hidden: T) -> T:
    """Hidden [T, d_model] -> [R, n_out], of the rows that are asked for."""
    frame, x = Frame(ops, cfg.stack, ()), hidden
    if s.pooling != "late":
        x = ops.mean_rows(x) if s.pooling == "mean" else ops.take_rows(x)
    if w.head_dense is not None:
        x = norm(frame, project(frame, x, w.head_dense, act=s.activation), w.head_norm)
    return project(frame, x if s.pooling != "late" else ops.mean_rows(x), head_of(cfg, w))
