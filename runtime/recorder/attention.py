"""Attention of every kind: positions turned into its heads, the caches that it reads, and its scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bias import BiasTable
from ..kvcache import PAGE, QUERIES, cache_bytes, scratch_floats
from ..relative import DistanceTable
from .base import FLOAT, Recording

if TYPE_CHECKING:
    from ..arena import Tensor
    from ..bias import Bias
    from ..program import Instruction, Operand
    from ..rope import RopeTable
    from ..spec import Distances

__all__ = ["Attending"]


class Attending(Recording):
    """What is written to a layer's caches, and what reads them."""

    def rope(self, x: Tensor, table: RopeTable, heads: int) -> Tensor:
        """[T, heads * d_head]."""
        y = self._tensor("r", "T", x.width)
        self._emit("rope", "", "T", y=y, x=x, table=table, heads=heads, d_head=x.width // heads)
        return y

    def rope_part(self, x: Tensor, table: RopeTable, heads: int) -> Tensor:
        """[T, heads * d_head]."""
        rope, y = table.rope, self._tensor("r", "T", x.width)
        self._emit("rope_part", "", "T", y=y, x=x, table=table, heads=heads, d_head=x.width // heads,
                   d_rotary=rope.d_rotary, interleaved=int(rope.interleaved))  # fmt: skip
        return y

    def kv_write(self, layer: int, k: Tensor, v: Tensor, heads: int) -> None:
        """Into the layer's two pools of pages, which lie as `kvcache.py` says; `attention` names the page table."""
        theirs = self.theirs.get(layer)
        self.caches[layer] = self._write("kv_write", k, v, heads, self.n_context, self.n_pages, theirs)

    def cross_write(self, layer: int, k: Tensor, v: Tensor, heads: int) -> None:
        """Into pools of their own, by the page table of the encoder's text."""
        self.crosses[layer] = self._write("cross_write", k, v, heads, *self.encoded)

    def _write(  # noqa: PLR0913, PLR0917 - what a cache is
        self, op: str, k: Tensor, v: Tensor, heads: int, context: int, pages: int, theirs: Instruction | None = None
    ) -> Instruction:
        d, dtype = k.width // heads, self.kv_cache
        width = cache_bytes(dtype, heads, pages * PAGE, d) // FLOAT
        if theirs is None:
            k_cache, v_cache = (self._tensor(f"{kind}_cache", "", width, "kv_cache", keep=True) for kind in "kv")
        else:
            k_cache, v_cache = theirs.tensors("o")
        self._emit(op, dtype, "T", k_cache=k_cache, v_cache=v_cache, k=k, v=v, heads=heads, d_head=d,
                   context=context, pages=pages, group=0)  # fmt: skip
        return self.code[-1]

    def attention(  # noqa: PLR0913 - as the reference
        self,
        layer: int,
        q: Tensor,
        heads: int,
        kv_heads: int,
        *,
        window: int | None,
        scale: float,
        causal: bool = True,
    ) -> Tensor:
        """[T, heads * d_head]; each thread has scratch of its own.

        Which keys a token sees, the step says; where those after it are among them (not `causal`), a text comes whole,
        and its keys are done with once they are read.
        """
        return self._attention("attention", layer, q, (heads, kv_heads), window, scale, causal=causal)

    def attention_biased(  # noqa: PLR0913 - as the reference
        self,
        layer: int,
        q: Tensor,
        heads: int,
        kv_heads: int,
        *,
        window: int | None,
        scale: float,
        causal: bool = True,
        soft_cap: float | None = None,
        bias: Bias | None = None,
    ) -> Tensor:
        """As `attention`; the bias is a table of constants, one for all layers that add it."""
        table = None
        if bias is not None:
            key = (bias.sizes, bias.table and bias.table.name, heads, bias.heads)
            table = self.biases.setdefault(key, BiasTable(bias, heads, self.n_positions))
        numbers = (table.length, table.before, int(table.bias.by_key)) if table is not None else (0, 0, 0)
        more = dict(zip(("length", "before", "by_key"), numbers, strict=True))
        return self._attention("attention_biased", layer, q, (heads, kv_heads), window, scale, causal=causal,
                               cap=float(soft_cap or 0), table=table, **more)  # fmt: skip

    def head_products(self, x: Tensor, table: Tensor, heads: int, n: int) -> Tensor:
        """[T, heads * n]."""
        y = self._tensor("p", x.rows, heads * n)
        self._emit("head_products", "", x.rows, y=y, x=x, table=table, heads=heads, d_head=x.width // heads, n=n)
        return y

    def attention_relative(  # noqa: PLR0913 - as the reference
        self,
        layer: int,
        q: Tensor,
        heads: int,
        kv_heads: int,
        *,
        scale: float,
        causal: bool = True,
        sizes: Distances,
        c2p: Tensor | None = None,
        p2c: Tensor | None = None,
    ) -> Tensor:
        """As `attention`; the rows of distances are a table of constants, one for all layers."""
        table = self.distances.setdefault(sizes, DistanceTable(sizes, self.n_positions))
        return self._attention("attention_relative", layer, q, (heads, kv_heads), None, scale, causal=causal,
                               c2p=c2p, p2c=p2c, table=table, before=table.before, n=2 * sizes.n)  # fmt: skip

    def _attention(  # noqa: PLR0913, PLR0917 - what every kind takes
        self,
        op: str,
        layer: int,
        q: Tensor,
        n_heads: tuple[int, int],
        window: int | None,
        scale: float,
        *,
        causal: bool,
        **more: Operand,
    ) -> Tensor:
        """`n_heads`: of queries, of keys."""
        window = None if window is None or window >= self.n_context else window
        write, group = self.caches[layer], self._group(window)
        write.values["group"] = group  # which was not known when its keys were written
        for cache in () if causal and not self.whole else write.tensors("o"):
            cache.part, cache.keep = "activations", False
        return self._attend(op, q, write, n_heads, group=group, window=window, scale=float(scale), **more)

    def cross_attention(self, layer: int, q: Tensor, heads: int, kv_heads: int, *, scale: float) -> Tensor:
        """[T, heads * d_head]: `attention` over the caches that `cross_write` filled."""
        write = self.crosses[layer]
        n_heads = heads, kv_heads
        return self._attend("cross_attention", q, write, n_heads, group=0, window=None, scale=float(scale))

    def _attend(
        self,
        op: str,
        q: Tensor,
        write: Instruction,
        n_heads: tuple[int, int],
        *,
        window: int | None,
        **more: Operand,
    ) -> Tensor:
        heads, kv_heads = n_heads
        d, (k_cache, v_cache) = q.width // heads, write.tensors("o")
        context, pages = (int(write.values[name]) for name in ("context", "pages"))  # type: ignore[arg-type]  # counts
        y = self._tensor("a", "T", q.width)
        floats = scratch_floats(context, d) + (QUERIES * context if op == "attention_relative" else 0)
        scratch = self._tensor("s", "", floats * self.threads, "scratch")
        variant = self.attention_variant if op == "attention" else self.kv_cache
        self._emit(op, variant, "T", y=y, scratch=scratch, q=q, k_cache=k_cache, v_cache=v_cache,
                   heads=heads, kv_heads=kv_heads, d_head=d, context=context, pages=pages, window=window or context,
                   **more)  # fmt: skip
        return y

    def _group(self, window: int | None) -> int:
        """The number of the layers with this window: in the order in which they come."""
        if window not in self.groups:
            self.groups.append(window)
        return self.groups.index(window)
