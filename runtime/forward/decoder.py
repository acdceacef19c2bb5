"""The decoder-only Transformer: a stack, and a head over the tokens whose logits are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from .embedding import embedded
from .output import read_out
from .stack import Frame, stack
from .supported import check_supported

if TYPE_CHECKING:
    from ..rope import RopeTable
    from ..spec import Config, Weights
    from .ops import Ops

__all__ = ["decoder"]

T = TypeVar("T")


def decoder(ops: Ops[T], cfg: Config, w: Weights, ropes: tuple[RopeTable, ...]) -> tuple[T, T | None]:
    """Tokens of the step -> (hidden [R, d_model], logits [R, n_vocab or classes]) of its last R. `BackendError`."""
    check_supported(cfg, w)
    frame = Frame(ops, cfg.stack, ropes)
    return read_out(frame, cfg, w, stack(frame, w.stack, embedded(frame, w.stack)))
