"""The encoder: a stack whose tokens see all of their text."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from .stack import Frame, norm, stack
from .supported import check_supported

if TYPE_CHECKING:
    from ..rope import RopeTable
    from ..spec import Config, Weights
    from .ops import Ops

__all__ = ["encoder"]

T = TypeVar("T")


def encoder(ops: Ops[T], cfg: Config, w: Weights, ropes: tuple[RopeTable, ...]) -> T:
    """Tokens of the step -> hidden [T, d_model] of all of them. Errors: `BackendError`, as in `decoder`."""
    check_supported(cfg, w)
    frame = Frame(ops, cfg.stack, ropes)
    return norm(frame, stack(frame, w.stack), w.stack.norm)
