"""Products with matrices: one for all tokens, or those of the experts that a token goes to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import PlanError
from ..blocking import carry_floats, panel_floats, piece_of
from ..experts import ExpertTable, order_floats, route_floats
from ..lora import LoraTable, rank_of
from ..ops import ACTS, PLANES
from ..precision import product_of
from ..quantized import GROUP, QUANTIZED
from ..sparse import SPARSE, spread_floats
from ..sparse_int8 import SPARSE_INT8, spread_int8_floats
from .base import FLOAT, Recording

if TYPE_CHECKING:
    from ..arena import Tensor
    from ..spec import Activation, Adapter, Spaced, Weight

__all__ = ["Products"]

#: Of a group: its bytes, its scale, its sum.
QUANTIZED_FLOATS, PLANES_FLOATS = GROUP // FLOAT + 2, 2 * GROUP // FLOAT + 2
#: Products whose tiles need no scratch.
ALONE = (*QUANTIZED, *(PLANES[dtype] for dtype in QUANTIZED))


class Products(Recording):
    """`linear`, what adapters add to it, and `expert_linear`; and what rounds their input as their matrices want it."""

    def linear(  # noqa: PLR0913 - as the reference
        self,
        x: Tensor,
        w: Weight,
        b: Weight | None = None,
        *,
        act: Activation | None = None,
        times: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """[t, k] -> [t, n]."""
        self._width("linear", x, w.shape[1], w.name)
        if w.lies is not None:
            if act or times or residual:
                msg = f"op linear: {w.name} is a part of a fused matrix; nothing can follow its product"
                raise PlanError(msg)
            key = (w.lies.whole.name, x)
            if key not in self.fused:
                self.fused[key] = self.linear(x, w.lies.whole)
            return self.pick(self.fused[key], b, w.lies)
        for other in (times, residual):
            if other is not None:
                self._width("linear", other, w.shape[0], w.name)
        variant, rounds = product_of(self.precision, w)
        x = getattr(self, rounds)(x) if rounds else x
        y = self._tensor("y", x.rows, w.shape[0])
        floats = self._linear_floats(variant, w.shape[1], self.capacity[x.rows])
        scratch = self._tensor("s", "", floats * self.threads, "scratch") if floats else None
        self._emit("linear", variant, x.rows, y=y, scratch=scratch, x=x, w=w, b=b, times=times, residual=residual,
                   n=w.shape[0], k=w.shape[1], act=ACTS.index(act) + 1 if act else 0)  # fmt: skip
        return y

    def pick(self, x: Tensor, b: Weight | None, lies: Spaced) -> Tensor:
        """[t, units * stride] -> [t, units * each]."""
        units = x.width // lies.stride
        y = self._tensor("y", x.rows, units * lies.each)
        self._emit("pick", "", x.rows, y=y, x=x, b=b, units=units, each=lies.each, stride=lies.stride, base=lies.base)
        return y

    def lora_down(self, x: Tensor, adapters: tuple[Adapter | None, ...]) -> Tensor:
        """[t, k] -> [t, largest rank]."""
        table = self._lora_table(adapters)
        y = self._tensor("h", x.rows, rank_of(adapters))
        self._width("lora_down", x, table.weights[0].shape[1], table.name)
        self._emit("lora_down", "", x.rows, y=y, x=x, table=table, rank=y.width, k=x.width)
        return y

    def lora_embed(self, x: Tensor, adapters: tuple[Adapter | None, ...]) -> Tensor:
        """[T, d] -> [T, d]."""
        table, y = self._lora_table(adapters), self._tensor("x", x.rows, x.width)
        self._width("lora_embed", x, table.weights[0].shape[1], table.name)
        self._emit("lora_embed", "", x.rows, y=y, x=x, table=table, d=x.width)
        return y

    def lora_up(  # noqa: PLR0913 - as the reference
        self,
        x: Tensor,
        h: Tensor,
        adapters: tuple[Adapter | None, ...],
        b: Weight | None = None,
        *,
        act: Activation | None = None,
        times: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """[t, n], [t, largest rank] -> [t, n]."""
        table, y = self._lora_table(adapters), self._tensor("y", x.rows, x.width)
        self._width("lora_up", h, rank_of(adapters), table.name)
        for other in (times, residual):
            if other is not None:
                self._width("lora_up", other, x.width, table.name)
        self._emit("lora_up", "", x.rows, y=y, x=x, h=h, table=table, b=b, times=times, residual=residual,
                   n=x.width, rank=h.width, act=ACTS.index(act) + 1 if act else 0)  # fmt: skip
        return y

    def _lora_table(self, adapters: tuple[Adapter | None, ...]) -> LoraTable:
        """One for both of a product's instructions."""
        table = LoraTable(adapters)
        return self.adapters.setdefault(table.weights[0].name, table)

    @staticmethod
    def _linear_floats(variant: str, k: int, tokens: int) -> int:
        """A thread's scratch for a product with k columns."""
        if tokens == 1 or variant in ALONE:
            return 0
        if variant in (SPARSE_INT8, PLANES[SPARSE_INT8]):
            return spread_int8_floats(k)
        spread = spread_floats(variant, k) if variant in SPARSE else 0
        return spread + panel_floats(piece_of(k)) + carry_floats(k, tokens)

    def quantize(self, x: Tensor) -> Tensor:
        """[t, k] -> [t, 10 floats a group of 32: 32 bytes, scale, sum]; once for each tensor."""
        return self._round("quantize", x, -(-x.width // GROUP) * QUANTIZED_FLOATS)

    def quantize_planes(self, x: Tensor, parts: int = 1) -> Tensor:
        """Of each of `parts` of k columns 18 floats a group of 32: 32 high bytes, 32 low ones, scale, sum."""
        width = parts * -(-(x.width // parts) // GROUP) * PLANES_FLOATS
        return self._round("quantize_planes", x, width, k=x.width // parts, parts=parts)

    def round_bf16(self, x: Tensor) -> Tensor:
        """[t, k] -> [t, 16 floats for 32 numbers]; once for each tensor."""
        return self._round("round_bf16", x, -(-x.width // 32) * 16)

    def _round(self, op: str, x: Tensor, width: int, **sizes: int) -> Tensor:
        key = f"{op} {sizes}", x
        if key not in self.rounded:
            self.rounded[key] = self._tensor("q", x.rows, width)
            self._emit(op, "", x.rows, y=self.rounded[key], x=x, **(sizes or {"k": x.width}))
        return self.rounded[key]

    def route(self, x: Tensor, b: Weight | None, chosen: int, *, sigmoid: bool, normalized: bool) -> Tensor:
        """[T, experts] -> [T, 2 chosen]."""
        y = self._tensor("e", x.rows, 2 * chosen)
        scratch = self._tensor("s", "", route_floats(x.width) * self.threads, "scratch")
        self._emit("route", "", x.rows, y=y, scratch=scratch, x=x, b=b, experts=x.width, chosen=chosen,
                   sigmoid=int(sigmoid), normalized=int(normalized))  # fmt: skip
        return y

    def expert_linear(
        self,
        x: Tensor,
        routes: Tensor,
        ws: tuple[Weight, ...],
        *,
        act: Activation | None = None,
        times: Tensor | None = None,
    ) -> Tensor:
        """[T, k] or [T, chosen * k] -> [T, chosen * n]; the matrices stay where they lie."""
        chosen, (n, k) = routes.width // 2, ws[0].shape
        apart = x.width != k
        self._width("expert_linear", x, k * (chosen if apart else 1), ws[0].name)
        table = self.experts.setdefault(tuple(w.name for w in ws), ExpertTable(ws))
        variant, rounds = product_of(self.precision, ws[0], expert=True)
        if rounds == "quantize":
            x = self.quantize_parts(x, chosen) if apart else self.quantize(x)
        elif rounds:
            x = self.quantize_planes(x, chosen if apart else 1)
        y = self._tensor("y", x.rows, chosen * n)
        floats = order_floats(len(ws), chosen * self.capacity[x.rows])
        scratch = self._tensor("s", "", floats * self.threads, "scratch")
        self._emit("expert_linear", variant, x.rows, y=y, scratch=scratch, x=x, routes=routes, table=table,
                   times=times, n=n, k=k, experts=len(ws), chosen=chosen, apart=int(apart),
                   act=ACTS.index(act) + 1 if act else 0)  # fmt: skip
        return y

    def expert_sum(
        self, x: Tensor, routes: Tensor, shared: Tensor | None, mix: Tensor | None, residual: Tensor | None
    ) -> Tensor:
        """[T, chosen * d] -> [T, d]."""
        chosen = routes.width // 2
        d = x.width // chosen
        for other in (shared, residual):
            if other is not None:
                self._width("expert_sum", other, d, x.name)
        y = self._tensor("x", x.rows, d)
        self._emit("expert_sum", "", x.rows, y=y, x=x, routes=routes, shared=shared, mix=mix, residual=residual,
                   d=d, chosen=chosen)  # fmt: skip
        return y

    def quantize_parts(self, x: Tensor, parts: int) -> Tensor:
        """[t, parts * k] -> [t, parts * what `quantize` makes of k]."""
        k = x.width // parts
        y = self._tensor("q", x.rows, parts * -(-k // GROUP) * QUANTIZED_FLOATS)
        self._emit("quantize_parts", "", x.rows, y=y, x=x, k=k, parts=parts)
        return y
