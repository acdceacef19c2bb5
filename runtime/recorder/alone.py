"""A program of a few ops by themselves, whose inputs are written from outside: what tests run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arena import place
from ..program import Program, place_waits

if TYPE_CHECKING:
    from ..arena import Tensor
    from .record import Recorder

__all__ = ["alone"]


def alone(ops: Recorder, y: Tensor) -> Program:
    """What was recorded, every tensor placed; `y` is what it computes."""
    y.keep = True
    size = place(ops.tensors, len(ops.code))
    place_waits(ops.code)
    return Program(
        code=ops.code,
        tensors=ops.tensors,
        hidden=y,
        logits=y,
        n_context=ops.n_context,
        chunk=ops.capacity["T"],
        n_logits=ops.capacity["R"],
        threads=ops.threads,
        arena_bytes=size,
        constant_bytes=0,
        kv_cache=ops.kv_cache,
        precision=ops.precision,
        n_pages=ops.n_pages,
        groups=tuple(ops.groups),
    )
