"""What stands before the first layer: a row for each token, its position's and its type's, a norm."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from .stack import Frame, norm, project
from .variants import scaled

if TYPE_CHECKING:
    from ..spec import StackWeights

__all__ = ["embedded"]

T = TypeVar("T")


def embedded(f: Frame[T], w: StackWeights) -> T:
    """Tokens of the step -> [T, d_model]."""
    x = f.ops.embed(w.embed)
    x = scaled(f.ops, f.ops.lora_embed(x, w.embed_adapters) if w.embed_adapters else x, f.stack.embed_scale)
    if f.stack.norm_first:
        x = norm(f, x, w.embed_norm)
    if f.stack.project_first and w.embed_project is not None:
        x = project(f, x, w.embed_project)
    for table, row_of in ((w.positions, f.ops.embed_positions), (w.token_types, f.ops.embed_types)):
        x = x if table is None else f.ops.add(x, row_of(table))
    if not f.stack.norm_first:
        x = norm(f, x, w.embed_norm)
    return x if w.embed_project is None or f.stack.project_first else project(f, x, w.embed_project)
