"""Ops of rows: the tokens' embeddings, norms, and what is done number by number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Recording

if TYPE_CHECKING:
    from ..arena import Tensor
    from ..spec import Weight

__all__ = ["Rows"]


class Rows(Recording):
    """From rows to rows, without a product."""

    def embed(self, w: Weight) -> Tensor:
        """[T, d]."""
        y = self._tensor("x", "T", w.shape[1])
        self._emit("embed", w.dtype, "T", y=y, w=w, d=w.shape[1])
        return y

    def embed_positions(self, w: Weight) -> Tensor:
        """[T, d]."""
        y = self._tensor("p", "T", w.shape[1])
        self._emit("embed_positions", w.dtype, "T", y=y, w=w, d=w.shape[1])
        return y

    def embed_types(self, w: Weight) -> Tensor:
        """[T, d]."""
        y = self._tensor("t", "T", w.shape[1])
        self._emit("embed_types", w.dtype, "T", y=y, w=w, d=w.shape[1])
        return y

    def embed_all(self, w: Weight) -> Tensor:
        """[n, d]: `embed`, of a batch whose ids are the rows."""
        return self.embed(w)

    def rms_norm(self, x: Tensor, w: Weight, eps: float, groups: int = 1) -> Tensor:
        """[t, groups * d]."""
        self._width("rms_norm", x, w.shape[0] * groups, w.name)
        y = self._tensor("h", x.rows, x.width)
        self._emit("rms_norm", "", x.rows, y=y, x=x, w=w, d=w.shape[0], groups=groups, eps=float(eps))
        return y

    def layer_norm(self, x: Tensor, w: Weight, b: Weight | None, eps: float) -> Tensor:
        """[t, d]."""
        self._width("layer_norm", x, w.shape[0], w.name)
        y = self._tensor("h", x.rows, x.width)
        self._emit("layer_norm", "", x.rows, y=y, x=x, w=w, b=b, d=x.width, eps=float(eps))
        return y

    def layer_norm_heads(self, x: Tensor, w: Weight, b: Weight | None, eps: float, groups: int) -> Tensor:
        """[t, groups * d]."""
        d, own = x.width // groups, w.shape[0] == x.width
        self._width("layer_norm_heads", x, w.shape[0] if own else w.shape[0] * groups, w.name)
        y = self._tensor("h", x.rows, x.width)
        self._emit("layer_norm_heads", "", x.rows, y=y, x=x, w=w, b=b, d=d, groups=groups, own=int(own),
                   eps=float(eps))  # fmt: skip
        return y

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """[t, d]."""
        self._width("add", b, a.width, a.name)
        y = self._tensor("x", a.rows, a.width)
        self._emit("add", "", a.rows, y=y, a=a, b=b, d=a.width)
        return y

    def scale(self, x: Tensor, factor: float) -> Tensor:
        """[t, d]."""
        y = self._tensor("x", x.rows, x.width)
        self._emit("scale", "", x.rows, y=y, x=x, d=x.width, factor=float(factor))
        return y

    def soft_cap(self, x: Tensor, cap: float) -> Tensor:
        """[t, d]."""
        y = self._tensor("x", x.rows, x.width)
        self._emit("soft_cap", "", x.rows, y=y, x=x, d=x.width, cap=float(cap))
        return y

    def clip(self, x: Tensor, limit: float) -> Tensor:
        """[t, d]."""
        y = self._tensor("x", x.rows, x.width)
        self._emit("clip", "", x.rows, y=y, x=x, d=x.width, limit=float(limit))
        return y

    def xielu(self, x: Tensor, p: Weight, n: Weight, beta: Weight, eps: Weight) -> Tensor:
        """[t, d]."""
        y = self._tensor("x", x.rows, x.width)
        self._emit("xielu", "", x.rows, y=y, x=x, p=p, n=n, beta=beta, eps=eps, d=x.width)
        return y

    def unfold(self, x: Tensor, k: int) -> Tensor:
        """[T, d] -> [T, d * k]."""
        y = self._tensor("u", x.rows, x.width * k)
        self._emit("unfold", "", x.rows, y=y, x=x, d=x.width, k=k)
        return y

    def take_rows(self, x: Tensor) -> Tensor:
        """[T, d] -> [R, d]."""
        y = self._tensor("x", "R", x.width)
        self._emit("take_rows", "", "R", y=y, x=x, d=x.width)
        return y

    def mean_rows(self, x: Tensor) -> Tensor:
        """[T, d] -> [R, d]."""
        y = self._tensor("x", "R", x.width)
        self._emit("mean_rows", "", "R", y=y, x=x, d=x.width)
        return y

    def argmax(self, x: Tensor) -> None:
        """[t, n] -> the step's results, an id for each row."""
        self._emit("argmax", "", x.rows, x=x, n=x.width)
