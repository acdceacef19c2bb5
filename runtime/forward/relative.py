"""Disentangled attention: what a table of distances adds to scores (He et al. 2021, arXiv:2006.03654, eq. 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ..spec import Attention
from .stack import norm, project

if TYPE_CHECKING:
    from ..spec import StackWeights
    from .stack import Frame

__all__ = ["positions"]

T = TypeVar("T")

#: Term of a score -> the product that makes a table's rows its keys or queries, and the layer's own, where it is that.
SOURCES = {"c2p": ("pos_k", "k"), "p2c": ("pos_q", "q")}


def positions(f: Frame[T], w: StackWeights) -> tuple[dict[str, T], ...]:
    """Of each layer, by term, the table's rows as keys or queries, [2 n, heads * d_head]: computed once per load."""
    if w.relative is None or not any(
        isinstance(s, Attention) and s.relative for layer in f.stack.layers for s in layer
    ):
        return ()
    out: list[dict[str, T]] = []
    with f.ops.once(w.relative.shape[0]):
        rows = norm(f, f.ops.embed_all(w.relative), w.relative_norm)
        for layer in zip(f.stack.layers, w.layers, strict=True):
            made: dict[str, T] = {}
            for s, sw in zip(*layer, strict=True):
                for term in s.relative if isinstance(s, Attention) else ():
                    own, shared = SOURCES[term]
                    made[term] = f.ops.kept(project(f, rows, sw.linear.get(own, sw.linear[shared])))
            out.append(made)
    return tuple(out)
