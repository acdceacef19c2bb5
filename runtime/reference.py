"""Every op at once, in NumPy float64: the living definition and the oracle.

The same `forward` that the recorder turns into a program runs here as a dynamic graph. Nothing is shared with the
kernels. Tensors are float64 [T, width]; the KV cache is a list of (k, v), each [positions, n_kv_heads, d_head].
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np

from . import formulas
from .precision import product_of
from .relative import row_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from .bias import Bias
    from .precision import Precision
    from .rope import RopeTable
    from .spec import Activation, Adapter, Distances, Spaced, Weight

    Array = NDArray[np.float64]

__all__ = ["Reference"]


class Reference:
    """The op table as functions that return. One object is one step: `ids` at positions `start`, `start + 1`, ..."""

    def __init__(  # noqa: PLR0913 - what a step is
        self,
        ids: NDArray[np.int64],
        start: int,
        caches: list[tuple[Array, Array]],
        n_logits: int,
        *,
        kv_cache: str = "f32",
        precision: Precision | None = None,
        by_pairs: bool = False,
        types: NDArray[np.int64] | None = None,
        crosses: dict[int, tuple[Array, Array]] | None = None,
        adapter: int = 0,
        padding: int | None = None,
    ) -> None:
        """`caches` is updated in place, rounded to `kv_cache`; `n_logits` last tokens reach the head.

        `precision`: as in `load`. `by_pairs`: attention's queries and weights are rounded to BF16. `types`: of each
        token; None: all are 0. `crosses`: of each layer, what an encoder's step wrote for it. `adapter`: the number of
        the text's; 0: none. `padding`: as in `Config`.
        """
        self.ids, self.start, self.caches, self.n_logits = np.asarray(ids), start, caches, n_logits
        self.kv_cache, self.precision, self.adapter = kv_cache, precision, adapter
        self.by_pairs, self.padding = by_pairs, padding
        self.types = np.zeros(len(self.ids), np.int64) if types is None else types
        self.crosses = {} if crosses is None else crosses
        self.results: list[int] = []  # the greedy id of each row of logits

    def embed(self, w: Weight) -> Array:
        """[T, d_model]."""
        return w.f64()[self.ids]

    def lora_embed(self, x: Array, adapters: tuple[Adapter | None, ...]) -> Array:
        """[T, d_model]."""
        a = self._adapter(adapters)
        if a is None:
            return x
        if a.up is not None:
            sums: Array = x + float(np.float32(a.scale)) * (a.up.f64()[self.ids] @ a.down.f64())
            return sums
        own = {} if a.ids is None else dict(zip(a.ids.f64().astype(int).tolist(), a.down.f64(), strict=True))
        return np.stack([own.get(int(token), row) for token, row in zip(self.ids, x, strict=True)])

    def embed_positions(self, w: Weight) -> Array:
        """[T, d_model]."""
        if self.padding is None:
            return w.f64()[self.start : self.start + len(self.ids)]
        counts = self.ids != self.padding
        rows: Array = w.f64()[(np.cumsum(counts) + self.start) * counts]
        return rows

    def embed_types(self, w: Weight) -> Array:
        """[T, d_model]."""
        return w.f64()[self.types]

    def once(self, n: int) -> AbstractContextManager[None]:  # noqa: ARG002 - as the recorder
        """Here nothing is kept from step to step."""
        return nullcontext()

    def embed_all(self, w: Weight) -> Array:
        """[n, d]."""
        return w.f64()

    def kept(self, x: Array) -> Array:
        """It is computed again."""
        return x

    def linear(  # noqa: PLR0913 - what follows a product takes this much
        self,
        x: Array,
        w: Weight,
        b: Weight | None = None,
        *,
        act: Activation | None = None,
        times: Array | None = None,
        residual: Array | None = None,
    ) -> Array:
        """[t, k] -> [t, n]; the input rounded as `precision` has it for such a weight."""
        y = formulas.linear(self.rounded(x, w), w.f64(), None if b is None else b.f64())
        y = y if act is None else formulas.activation(y, act)
        y = y if times is None else y * times
        return y if residual is None else residual + y

    def rounded(self, x: Array, w: Weight, *, expert: bool = False) -> Array:
        """A product's input [t, k], as `precision` has it for such a weight."""
        _, rounds = product_of(self.precision, w, expert=expert)
        y: Array = getattr(self, rounds)(x) if rounds else x
        return y

    def attended(self, layer: int, weights: Array) -> None:
        """What a layer's queries gave each key, [n_heads, T, S]: nothing is kept here."""

    def _adapter(self, adapters: tuple[Adapter | None, ...]) -> Adapter | None:
        return adapters[self.adapter - 1] if self.adapter else None

    def lora_down(self, x: Array, adapters: tuple[Adapter | None, ...]) -> Array:
        """[t, k] -> [t, rank]; none where the text's adapter leaves this product as it is."""
        a = self._adapter(adapters)
        return np.zeros((len(x), 0)) if a is None else x @ a.down.f64().T

    def lora_up(  # noqa: PLR0913 - as `linear`
        self,
        x: Array,
        h: Array,
        adapters: tuple[Adapter | None, ...],
        b: Weight | None = None,
        *,
        act: Activation | None = None,
        times: Array | None = None,
        residual: Array | None = None,
    ) -> Array:
        """[t, n]."""
        a = self._adapter(adapters)
        y = x if a is None or a.up is None else x + float(np.float32(a.scale)) * (h @ a.up.f64().T)
        y = y if a is None or a.ratio is None else y * a.ratio.f64()
        if a is not None and a.ids is not None:
            y = y.copy()
            y[:, a.ids.f64().astype(int)] = h
        b = b if a is None or a.bias is None else a.bias
        y = y if b is None else y + b.f64()
        y = y if act is None else formulas.activation(y, act)
        y = y if times is None else y * times
        return y if residual is None else residual + y

    def pick(self, x: Array, b: Weight | None, lies: Spaced) -> Array:
        """Of every `stride` columns `each`, from `base` on."""
        y = x.reshape(len(x), -1, lies.stride)[:, :, lies.base : lies.base + lies.each].reshape(len(x), -1)
        return y if b is None else y + b.f64()

    def unfold(self, x: Array, k: int) -> Array:
        """[T, d] -> [T, d * k]: of each number those of its row's neighbours, in order, zeros at both ends."""
        padded = np.pad(x, ((k // 2, k // 2), (0, 0)))
        return np.stack([padded[j : j + len(x)] for j in range(k)], -1).reshape(len(x), -1)

    def quantize(self, x: Array) -> Array:
        """Each 32 of a row to whole numbers -127 .. 127 times max|x| / 127. In float32: a tie stays a tie."""
        return formulas.whole_numbers(x, 127)

    def quantize_planes(self, x: Array, parts: int = 1) -> Array:
        """The same with -32639 .. 32639, which is 256 * 127 + 127; up to 2^-111 all is 0: 32639 / max|x| is finite."""
        return formulas.whole_numbers(x.reshape(len(x) * parts, -1), 32639, 2.0**-111).reshape(x.shape)

    def round_bf16(self, x: Array) -> Array:
        """To nearest even; NaN stays NaN."""
        return formulas.round_bf16(x)

    def rms_norm(self, x: Array, w: Weight, eps: float, groups: int = 1) -> Array:
        """Each of `groups` pieces of a row on its own."""
        return formulas.rms_norm(x, w.f64(), eps, groups)

    def layer_norm(self, x: Array, w: Weight, b: Weight | None, eps: float) -> Array:
        """Biased variance, as everywhere."""
        return formulas.layer_norm(x, w.f64(), None if b is None else b.f64(), eps)

    def layer_norm_heads(self, x: Array, w: Weight, b: Weight | None, eps: float, groups: int) -> Array:
        """Each of `groups` pieces of a row on its own; their gains side by side, or one piece's for all."""
        return formulas.layer_norm(x, w.f64(), None if b is None else b.f64(), eps, groups)

    def rope(self, x: Array, table: RopeTable, heads: int) -> Array:
        """Pairs (i, i + d_head/2) of every head, by the exact angles."""
        return self.rope_part(x, table, heads)

    def rope_part(self, x: Array, table: RopeTable, heads: int) -> Array:
        """The first d_rotary of every head, by the exact angles: neighbours where interleaved, else as `rope`."""
        t = len(x)
        turns = table.exact(self.start, self.start + t)
        return formulas.rotated(x.reshape(t, heads, -1), turns, interleaved=table.rope.interleaved).reshape(t, -1)

    def kv_write(self, layer: int, k: Array, v: Array, heads: int) -> None:
        """Append at `start`; what stood after it is dropped."""
        t = len(k)
        old = self.caches[layer]
        new = (self._rounded(c.reshape(t, heads, -1)) for c in (k, v))
        ck, cv = (np.concatenate([o[: self.start], n]) for o, n in zip(old, new, strict=True))
        self.caches[layer] = (ck, cv)

    def _rounded(self, x: Array) -> Array:
        """[t, heads, d_head] to the cache's dtype: bf16 to nearest even; int8 to 127ths of a head's largest number."""
        if self.kv_cache == "bf16":
            return self.round_bf16(x)
        y = x.astype(np.float32)
        if self.kv_cache == "int8":
            top = np.abs(y).max(-1, keepdims=True)
            inverse = np.divide(np.float32(127), top, out=np.zeros_like(top), where=top > 0)
            y64: Array = np.rint(y * inverse).astype(np.float64) * (top / np.float32(127))
            return y64
        return y.astype(np.float64)

    def attention(  # noqa: PLR0913 - what a query sees takes this much
        self,
        layer: int,
        q: Array,
        heads: int,
        kv_heads: int,
        *,
        window: int | None,
        scale: float,
        causal: bool = True,
    ) -> Array:
        """Grouped; causal or not, with an optional sliding window (a query sees `window` keys, its own included)."""
        if not self.by_pairs:
            return self.attention_biased(layer, q, heads, kv_heads, window=window, scale=scale, causal=causal)
        rounded = self.round_bf16
        return self._attention(layer, q, heads, window, scale, causal=causal, rounded=rounded)

    def attention_biased(  # noqa: PLR0913 - what becomes of a score takes this much
        self,
        layer: int,
        q: Array,
        heads: int,
        kv_heads: int,  # noqa: ARG002 - as the recorder
        *,
        window: int | None,
        scale: float,
        causal: bool = True,
        soft_cap: float | None = None,
        bias: Bias | None = None,
    ) -> Array:
        """The scores are scaled, capped, and a bias added, in this order; a window reaches to both sides."""
        return self._attention(layer, q, heads, window, scale, causal=causal, soft_cap=soft_cap, bias=bias)

    def _attention(  # noqa: PLR0913 - as `attention_biased`
        self,
        layer: int,
        q: Array,
        heads: int,
        window: int | None,
        scale: float,
        *,
        causal: bool,
        soft_cap: float | None = None,
        bias: Bias | None = None,
        rounded: Callable[[Array], Array] | None = None,
    ) -> Array:
        """`rounded`: what queries, and weights before they are divided, go through."""
        t, (k, v) = len(q), self.caches[layer]
        key, pos = np.arange(len(k))[None], self.start + np.arange(t)[:, None]
        biases = None if bias is None else bias.exact(key if bias.by_key else key - pos)
        y, weights = formulas.attended(
            q.reshape(t, heads, -1), k, v, scale=scale, first=self.start, causal=causal, window=window,
            soft_cap=soft_cap, bias=biases, rounded=rounded,
        )  # fmt: skip
        self.attended(layer, weights)
        return y.reshape(t, -1)

    def head_products(self, x: Array, table: Array, heads: int, n: int) -> Array:
        """[T, heads * d_head], [n, heads * d_head] -> [T, heads * n]."""
        y: Array = np.einsum("thd,nhd->thn", x.reshape(len(x), heads, -1), table[:n].reshape(n, heads, -1))
        return y.reshape(len(x), -1)

    def attention_relative(  # noqa: PLR0913 - what becomes of a score takes this much
        self,
        layer: int,
        q: Array,
        heads: int,
        kv_heads: int,
        *,
        scale: float,
        causal: bool = True,
        sizes: Distances,
        c2p: Array | None = None,
        p2c: Array | None = None,
    ) -> Array:
        """To each score come the query's product with the row of query - key, and the key's; then they are scaled."""
        t, (k, v) = len(q), self.caches[layer]
        row = row_of(sizes, np.arange(t)[:, None] - np.arange(t)[None])
        by_query, by_key = (None if x is None else x.reshape(t, n, -1) for x, n in ((c2p, heads), (p2c, kv_heads)))
        y, weights = formulas.attended_relative(
            q.reshape(t, heads, -1), k, v, row, scale=scale, causal=causal, c2p=by_query, p2c=by_key
        )
        self.attended(layer, weights)
        return y.reshape(t, -1)

    def cross_write(self, layer: int, k: Array, v: Array, heads: int) -> None:
        """The whole text at once."""
        t = len(k)
        self.crosses[layer] = (self._rounded(k.reshape(t, heads, -1)), self._rounded(v.reshape(t, heads, -1)))

    def cross_attention(self, layer: int, q: Array, heads: int, kv_heads: int, *, scale: float) -> Array:
        """Grouped; every query sees every key."""
        k, v = (np.repeat(c, heads // kv_heads, axis=1) for c in self.crosses[layer])
        s = np.einsum("thd,shd->hts", q.reshape(len(q), heads, -1), k) * scale
        e = np.exp(s - s.max(-1, keepdims=True))
        y: Array = np.einsum("hts,shd->thd", e / e.sum(-1, keepdims=True), v)
        return y.reshape(len(q), -1)

    def route(self, x: Array, b: Weight | None, chosen: int, *, sigmoid: bool, normalized: bool) -> Array:
        """Of equal scores the first; where one of a token's numbers is NaN, the first experts, and no weight."""
        ids, weights = formulas.routed(
            x, None if b is None else b.f64(), chosen, sigmoid=sigmoid, normalized=normalized
        )
        return np.concatenate([ids, weights], -1)

    def expert_linear(
        self,
        x: Array,
        routes: Array,
        ws: tuple[Weight, ...],
        *,
        act: Activation | None = None,
        times: Array | None = None,
    ) -> Array:
        """One token and expert after the other; the input rounded as `precision` has it for such weights."""
        n, k = ws[0].shape
        ids = routes[:, : routes.shape[1] // 2].astype(int)
        x = np.broadcast_to(x.reshape(len(x), -1, k), (*ids.shape, k))  # [t, k] or [t, c * k] -> [t, c, k]
        x = self.rounded(x.reshape(-1, k), ws[0], expert=True).reshape(x.shape)
        every = {e: ws[e].f64() for e in np.unique(ids)}
        y = np.array([[every[e] @ v for e, v in zip(*both, strict=True)] for both in zip(ids, x, strict=True)])
        y = y.reshape(len(x), ids.shape[1] * n)
        y = y if act is None else formulas.activation(y, act)
        return y if times is None else y * times

    def expert_sum(
        self, x: Array, routes: Array, shared: Array | None, mix: Array | None, residual: Array | None
    ) -> Array:
        """The shared expert whole where no `mix` says by how much."""
        weights = routes[:, routes.shape[1] // 2 :, None]
        y: Array = (x.reshape(len(x), weights.shape[1], -1) * weights).sum(1)  # [t, c * d] -> [t, c, d] -> [t, d]
        if shared is not None:
            y = y + (shared if mix is None else shared / (1 + np.exp(-mix)))
        return y if residual is None else residual + y

    def quantize_parts(self, x: Array, parts: int) -> Array:
        """Each of `parts` of a row on its own."""
        return self.quantize(x.reshape(len(x) * parts, -1)).reshape(x.shape)

    def add(self, a: Array, b: Array) -> Array:
        """Residual."""
        return a + b

    def scale(self, x: Array, factor: float) -> Array:
        """Of an embedding, what a sublayer adds, or logits."""
        return x * factor

    def soft_cap(self, x: Array, cap: float) -> Array:
        """Within (-cap, cap)."""
        y: Array = cap * np.tanh(x / cap)
        return y

    def clip(self, x: Array, limit: float) -> Array:
        """NaN stays."""
        return np.clip(x, -limit, limit)

    def xielu(self, x: Array, p: Weight, n: Weight, beta: Weight, eps: Weight) -> Array:
        """A square above 0, an exponential below; its first derivative is beta at 0 on both sides."""
        return formulas.xielu(x, p.f64(), n.f64(), beta.f64(), eps.f64())

    def take_rows(self, x: Array) -> Array:
        """[T, d] -> [R, d]."""
        return x[len(x) - self.n_logits :]

    def mean_rows(self, x: Array) -> Array:
        """[T, d] -> [R, d], of the one text that there is."""
        return np.repeat(x.mean(0, keepdims=True), self.n_logits, axis=0)

    def argmax(self, x: Array) -> None:
        """Of each row; the first of equals; -1 where one of its numbers is NaN."""
        self.results = [-1 if np.isnan(row).any() else int(row.argmax()) for row in x]
