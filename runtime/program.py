"""The recorder runs the forward once with symbols and writes a `Program`: the static graph.

A program is a list of instructions over one arena. It can be printed as a listing, planned without any weight being
read, and encoded as int64 rows that an interpreter walks.
"""

from __future__ import annotations

import struct
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import BackendError, PlanError
from .arena import Tensor, place, waits
from .bias import BiasTable
from .blocking import carry_floats, panel_floats, piece_of
from .experts import ExpertTable, order_floats, route_floats
from .forward.decoder import decoder
from .forward.encoder import cross_caches, encoder, head
from .forward.supported import check_supported
from .kvcache import PAGE, QUERIES, cache_bytes, padded_context, pages_of, scratch_floats
from .ops import ACTS, FAST, HEADER, OPS, SLOTS
from .quantized import GROUP, QUANTIZED
from .relative import DistanceTable
from .rope import RopeTable, rope_tables
from .sinusoids import with_sinusoids
from .sparse import SPARSE, spread_floats
from .sparse_int8 import SPARSE_INT8, spread_int8_floats
from .spec import Weight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from .bias import Bias
    from .spec import Activation, Config, Distances, Spaced, Weights

__all__ = ["Encoding", "Instruction", "Program", "Recorder", "record"]

#: What stands in an instruction's slot.
Operand = Tensor | Weight | RopeTable | BiasTable | DistanceTable | ExpertTable | int | float | None
FLOAT = 4
QUANTIZED_FLOATS = GROUP // FLOAT + 2  # of a group: its bytes, its scale, its sum


@dataclass(eq=False)
class Instruction:
    """One op with its operands: tensors (by name of the slot), weights, integers and floats."""

    op: str
    variant: str
    rows: str
    values: dict[str, Operand]
    wait: bool = False  # for every thread to have finished what came before

    def tensors(self, kind: str) -> list[Tensor]:
        """Operands of kind "o" (written) or "i" (read)."""
        operands = [self.values[f[2:]] for f in OPS[self.op].fields if f[0] == kind]
        return [t for t in operands if isinstance(t, Tensor)]

    @property
    def kernel(self) -> str:
        """The kernel's name, the same on every backend."""
        return f"{self.op}_{self.variant}" if self.variant else self.op


class Recorder:
    """The op table as symbols: every call appends an instruction and returns where its result will lie."""

    def __init__(  # noqa: PLR0913 - keywords
        self,
        *,
        n_context: int,
        chunk: int,
        n_logits: int,
        threads: int,
        kv_cache: str = "f32",
        fast: bool = False,
        n_pages: int | None = None,
        n_positions: int | None = None,
    ) -> None:
        """`n_context`: slots of one sequence; `chunk`: most tokens a step; `n_logits`: most rows of logits.

        `kv_cache`: its dtype; `n_pages`: those in its pools (default: one sequence's). `fast`: products of BF16 weights
        may round their input to BF16. `n_positions`: of the longest text, where it is not `n_context`.
        """
        self.n_context, self.kv_cache, self.fast = padded_context(n_context), kv_cache, fast
        self.n_pages = pages_of(n_context) if n_pages is None else n_pages
        self.n_positions = n_context if n_positions is None else n_positions
        self.biases: dict[tuple[object, ...], BiasTable] = {}  # what instructions add to scores
        self.distances: dict[Distances, DistanceTable] = {}  # and which of what is added to them
        self.n_once, self.once_rows = 0, 0  # instructions that run once, and rows of their tensors
        self.experts: dict[tuple[str, ...], ExpertTable] = {}  # addresses of a layer's matrices of one kind
        self.encoded = (self.n_context, self.n_pages)  # positions of an encoder's text, pages for such texts
        self.groups: list[int | None] = []  # of layers that share page tables: their windows, None where all is seen
        self.capacity, self.threads = {"T": chunk, "R": n_logits}, threads
        self.code: list[Instruction] = []
        self.tensors: list[Tensor] = []
        self.caches: dict[int, Instruction] = {}  # of each layer what writes them
        self.fused: dict[tuple[str, Tensor], Tensor] = {}  # products of fused matrices, of which parts are picked
        self.crosses: dict[int, Instruction] = {}  # and what writes those that it has of an encoder's text
        self.rounded: dict[tuple[str, Tensor], Tensor] = {}  # inputs of products, rounded as these want them

    def _tensor(self, name: str, rows: str, width: int, part: str = "activations", *, keep: bool = False) -> Tensor:
        count = self.capacity[rows] if rows else 1
        t = Tensor(f"{name}{len(self.tensors)}", rows, width, FLOAT * width * count, part, keep)
        self.tensors.append(t)
        return t

    def _emit(self, op: str, variant: str, rows: str, **values: Operand) -> None:
        row = OPS[op]
        if set(values) != set(row.names):
            msg = f"op {op}: operands {sorted(values)} do not fit the op table's {sorted(row.names)}"
            raise PlanError(msg)
        if row.variants and variant not in row.variants:
            msg = f"op {op}: no variant {variant!r}; the op table has {', '.join(row.variants)}"
            raise PlanError(msg)
        i, ins = len(self.code), Instruction(op, variant, rows, values)
        for t in (*ins.tensors("o"), *ins.tensors("i")):
            t.dies, t.born = i, i if t.born < 0 else t.born
        if row.in_place:
            ins.tensors("o")[0].home = ins.tensors("i")[0]
        self.code.append(ins)

    def _width(self, op: str, x: Tensor, want: int, what: str) -> None:
        if x.width != want:
            msg = f"op {op}: {x.name} is {x.width} wide, {what} wants {want}"
            raise PlanError(msg)

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

    @contextmanager
    def once(self, n: int) -> Iterator[None]:
        """What is recorded inside comes first, and runs once, on `n` rows."""
        if self.code:
            msg = "what is computed once must be recorded first"
            raise PlanError(msg)
        steps, self.capacity["T"] = self.capacity["T"], n
        yield
        self.n_once, self.once_rows, self.capacity["T"] = len(self.code), n, steps

    def embed_all(self, w: Weight) -> Tensor:
        """[n, d]: `embed`, of a batch whose ids are the rows."""
        return self.embed(w)

    def kept(self, x: Tensor) -> Tensor:
        """[n, d], from now on one row of all of them, which no step writes again."""
        x.width, x.rows, x.keep = x.width * self.capacity["T"], "", True
        return x

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
        dtype = FAST if self.fast and w.dtype == "bf16" else w.dtype
        if w.quantized:
            x = self.quantize(x)
        elif dtype == FAST:
            x = self.round_bf16(x)
        y, floats = self._tensor("y", x.rows, w.shape[0]), self._linear_floats(dtype, w.shape[1], self.capacity[x.rows])
        scratch = self._tensor("s", "", floats * self.threads, "scratch") if floats else None
        self._emit("linear", dtype, x.rows, y=y, scratch=scratch, x=x, w=w, b=b, times=times, residual=residual,
                   n=w.shape[0], k=w.shape[1], act=ACTS.index(act) + 1 if act else 0)  # fmt: skip
        return y

    def pick(self, x: Tensor, b: Weight | None, lies: Spaced) -> Tensor:
        """[t, units * stride] -> [t, units * each]."""
        units = x.width // lies.stride
        y = self._tensor("y", x.rows, units * lies.each)
        self._emit("pick", "", x.rows, y=y, x=x, b=b, units=units, each=lies.each, stride=lies.stride, base=lies.base)
        return y

    def unfold(self, x: Tensor, k: int) -> Tensor:
        """[T, d] -> [T, d * k]."""
        y = self._tensor("u", x.rows, x.width * k)
        self._emit("unfold", "", x.rows, y=y, x=x, d=x.width, k=k)
        return y

    @staticmethod
    def _linear_floats(dtype: str, k: int, tokens: int) -> int:
        """A thread's scratch for a product with k columns."""
        if tokens == 1 or dtype in QUANTIZED:
            return 0
        if dtype == SPARSE_INT8:
            return spread_int8_floats(k)
        spread = spread_floats(dtype, k) if dtype in SPARSE else 0
        return spread + panel_floats(piece_of(k)) + carry_floats(k, tokens)

    def quantize(self, x: Tensor) -> Tensor:
        """[t, k] -> [t, 10 floats a group of 32: 32 bytes, scale, sum]; once for each tensor."""
        return self._round("quantize", x, -(-x.width // GROUP) * QUANTIZED_FLOATS)

    def round_bf16(self, x: Tensor) -> Tensor:
        """[t, k] -> [t, 16 floats for 32 numbers]; once for each tensor."""
        return self._round("round_bf16", x, -(-x.width // 32) * 16)

    def _round(self, op: str, x: Tensor, width: int) -> Tensor:
        if (op, x) not in self.rounded:
            y = self._tensor("q", x.rows, width)
            self._emit(op, "", x.rows, y=y, x=x, k=x.width)
            self.rounded[op, x] = y
        return self.rounded[op, x]

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
        self.caches[layer] = self._write("kv_write", k, v, heads, self.n_context, self.n_pages)

    def cross_write(self, layer: int, k: Tensor, v: Tensor, heads: int) -> None:
        """Into pools of their own, by the page table of the encoder's text."""
        self.crosses[layer] = self._write("cross_write", k, v, heads, *self.encoded)

    def _write(  # noqa: PLR0913, PLR0917 - what a cache is
        self, op: str, k: Tensor, v: Tensor, heads: int, context: int, pages: int
    ) -> Instruction:
        d, dtype = k.width // heads, self.kv_cache
        width = cache_bytes(dtype, heads, pages * PAGE, d) // FLOAT
        k_cache, v_cache = (self._tensor(f"{kind}_cache", "", width, "kv_cache", keep=True) for kind in "kv")
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
        for cache in () if causal else write.tensors("o"):
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
        self._emit(op, self.kv_cache, "T", y=y, scratch=scratch, q=q, k_cache=k_cache, v_cache=v_cache,
                   heads=heads, kv_heads=kv_heads, d_head=d, context=context, pages=pages, window=window or context,
                   **more)  # fmt: skip
        return y

    def _group(self, window: int | None) -> int:
        """The number of the layers with this window: in the order in which they come."""
        if window not in self.groups:
            self.groups.append(window)
        return self.groups.index(window)

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
        if table.weights[0].quantized:
            x = self.quantize_parts(x, chosen) if apart else self.quantize(x)
        y = self._tensor("y", x.rows, chosen * n)
        floats = order_floats(len(ws), chosen * self.capacity[x.rows])
        scratch = self._tensor("s", "", floats * self.threads, "scratch")
        self._emit("expert_linear", table.dtype, x.rows, y=y, scratch=scratch, x=x, routes=routes, table=table,
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


def _place_waits(code: list[Instruction]) -> None:
    accesses = [([t.span for t in i.tensors("i")], [t.span for t in i.tensors("o")]) for i in code]
    for ins, wait in zip(code, waits(accesses), strict=True):
        ins.wait = wait


@dataclass(frozen=True)
class Encoding:
    """The encoder's part of a program: passes of whole texts, whose tokens see all of their text.

    `hidden` is there after `end` instructions; those from there to `Program.begins` write what a decoder reads.
    """

    chunk: int  # tokens of a pass
    n_vocab: int
    n_pages: int  # of the keys and values of a pass, of its own texts
    hidden: Tensor
    end: int
    n_kept: int  # pages of each pool of what a decoder reads
    n_groups: int  # of layers that share page tables


@dataclass(frozen=True)
class Program:
    """A recorded forward with every tensor placed: an encoder's, a decoder's, or the two one after the other."""

    code: list[Instruction]
    tensors: list[Tensor]
    hidden: Tensor
    logits: Tensor | None  # None: the model has no head
    n_context: int
    chunk: int
    n_logits: int
    threads: int
    arena_bytes: int
    constant_bytes: int
    kv_cache: str = "f32"
    fast: bool = False  # it may round to bfloat16 where that is faster
    ropes: tuple[RopeTable, ...] = ()  # instructions hold addresses in these
    n_pages: int = 0  # in each pool of the KV cache
    n_vocab: int = 0
    n_types: int = 0  # token types
    padding: int | None = None  # as in `Config`
    groups: tuple[int | None, ...] = ()  # of layers that share page tables: their windows, None where all is seen
    encoding: Encoding | None = None  # of whole texts; its instructions come first
    constants: tuple[Weight, ...] = ()  # that no file holds: tables of positions
    begins: int = 0  # the first instruction of a decoder, or of an encoder's head
    n_once: int = 0  # instructions that run once, before the first step, on `once_rows` rows: the ids of a batch
    once_rows: int = 0

    @property
    def turning(self) -> int:
        """Tokens beyond which a text's every position lies this many rows further in the rotary table; 0: never."""
        return max((table.turning for table in self.ropes), default=0)

    @property
    def whole(self) -> bool:
        """Whether there is an encoder alone."""
        return self.encoding is not None and self.encoding.hidden is self.hidden

    @property
    def seq2seq(self) -> bool:
        """Whether a decoder reads an encoder."""
        return self.encoding is not None and self.encoding.hidden is not self.hidden

    @property
    def own(self) -> range:
        """Instructions of a step: all, but those that run once, and those of an encoder that a decoder reads."""
        return range(self.begins if self.seq2seq else self.n_once, len(self.code))

    @property
    def to_hidden(self) -> range:
        """Instructions of a step up to the one that gives `hidden`: without a decoder's product with the vocabulary."""
        last = max(i for i in self.own if self.hidden in self.code[i].tensors("o"))
        return range(self.own.start, last + 1)

    @property
    def output(self) -> Tensor:
        """`logits` of a model that has some. Errors: `BackendError`."""
        if self.logits is None:
            msg = "this model has no head: hidden states are all that it gives"
            raise BackendError(msg)
        return self.logits

    @property
    def memory(self) -> dict[str, int]:
        """The arena's bytes by part; the KV cache apart, activations and scratch share the rest."""
        cache = sum(t.nbytes for t in self.tensors if t.part == "kv_cache")
        return {"kv_cache": cache, "activations": self.arena_bytes - cache}

    def bound(self, weights: Weights) -> Program:
        """The same program with these weights in the places of those of the same names, for instance planned ones.

        Instructions are new, tensors shared. Errors: `PlanError` for a weight that is missing, or of another dtype or
        shape than the program was recorded with.
        """
        whole = (weight if weight.lies is None else weight.lies.whole for weight in weights)
        by_name: dict[str, Weight] = {weight.name: weight for weight in (*whole, *self.constants)}
        tables: dict[int, BiasTable | ExpertTable] = {}  # each is made once, however many layers read it

        def real(value: Weight) -> Weight:
            now = by_name.get(value.name)
            if now is None or (now.dtype, now.shape) != (value.dtype, value.shape):
                got = "none" if now is None else f"{now.dtype} {list(now.shape)}"
                msg = f"weight {value.name}: recorded as {value.dtype} {list(value.shape)}, found {got}"
                raise PlanError(msg)
            return now

        def bind(value: Operand) -> Operand:
            if isinstance(value, ExpertTable):
                return tables.setdefault(id(value), ExpertTable(tuple(real(w) for w in value.weights)))
            if isinstance(value, BiasTable):
                table = bind(value.bias.table)
                assert table is None or isinstance(table, Weight)  # noqa: S101 - as it was
                return tables.setdefault(id(value), replace(value, bias=replace(value.bias, table=table)))
            return real(value) if isinstance(value, Weight) else value

        code = [replace(i, values={name: bind(value) for name, value in i.values.items()}) for i in self.code]
        return replace(self, code=code)

    def encode(self, address: Callable[[str], int]) -> NDArray[np.int64]:
        """int64 [instructions, SLOTS]; `address` gives a kernel's address by its name."""
        out = np.zeros((len(self.code), SLOTS), np.int64)
        for row, ins in zip(out, self.code, strict=True):
            row[:3] = address(ins.kernel), ins.wait, ins.rows == "R"
            for slot, field in enumerate(OPS[ins.op].fields, len(HEADER)):
                row[slot] = _slot(ins.values[field[2:]], absent=-1 if field[0] == "i" else 0)
        return out

    def counts(self) -> Mapping[str, int]:
        """How often each kernel is called in a step."""
        return Counter(i.kernel for i in self.code)

    def listing(self) -> list[str]:
        """One line an instruction: number, kernel, what it writes <- what it reads, weights and numbers; | waits."""
        waits = sum(i.wait for i in self.code)
        head = f"arena {self.arena_bytes:,} bytes, {len(self.code)} instructions, {waits} waits (|)"
        lines = [f"{head}; T <= {self.chunk}, R <= {self.n_logits}"]
        for n, ins in enumerate(self.code):
            out, read = (", ".join(map(str, ins.tensors(kind))) for kind in "oi")
            rest = [v.name for v in ins.values.values() if isinstance(v, Weight | ExpertTable)]
            rest += [f"{k}={v:g}" for k, v in ins.values.items() if isinstance(v, int | float)]
            wait = "|" if ins.wait else " "
            lines.append(f"{n:4d} {wait} {ins.kernel:20s} {out or 'results'} <- {read or 'tokens'}  {' '.join(rest)}")
        return lines


#: The arena is whole pages of the machine's memory.
MEMORY_PAGE = 4096
#: Slots for keys in a pass of whole texts, each of which begins at a block of sixteen: enough for eight tokens each.
SLOTS_PER_TOKEN = 2


def _slot(value: Operand, absent: int) -> int:
    """The slot's integer: an absent tensor is -1, since 0 is an offset; an absent weight has no address."""
    if value is None:
        return absent
    if isinstance(value, Tensor):
        return value.offset
    if isinstance(value, Weight):
        return value.address
    if isinstance(value, RopeTable | BiasTable | DistanceTable | ExpertTable):
        return value.weight.address
    if isinstance(value, float):
        return int(struct.unpack("<I", struct.pack("<f", value))[0])
    return int(value)


def record(  # noqa: PLR0913 - keywords
    config: Config,
    weights: Weights,
    *,
    n_context: int,
    chunk: int = 128,
    n_logits: int = 32,
    threads: int = 1,
    kv_cache: str = "f32",
    fast: bool = False,
    n_pages: int | None = None,
    n_encoded_pages: int | None = None,
    ropes: tuple[RopeTable, ...] | None = None,
) -> Program:
    """The program of a decoder, of an encoder, or of both; works on planned weights, reads none.

    `n_context`: positions of the longest text. An encoder's fits a pass: its `chunk` is no smaller. `n_encoded_pages`:
    of the pools of an encoder's texts (default: one text's).
    """
    chunk = max(1, n_context, chunk) if config.decoder is None else max(1, min(chunk, n_context))
    n_logits = max(1, min(n_logits, chunk))
    ops = Recorder(n_context=n_context, chunk=chunk, n_logits=n_logits, threads=threads, kv_cache=kv_cache, fast=fast,
                   n_pages=n_pages, n_positions=n_context)  # fmt: skip
    ops.encoded = (ops.n_context, pages_of(n_context) if n_encoded_pages is None else n_encoded_pages)
    ropes = rope_tables(config, n_context) if ropes is None else ropes
    weights, constants = with_sinusoids(config, weights, n_context)
    encoding = None
    check_supported(config, weights)
    if config.encoder is not None:
        encoding = _record_encoder(ops, config, weights, ropes, chunk if config.decoder is None else n_context)
    begins, logits = len(ops.code), None
    if config.decoder is not None:
        hidden, logits = decoder(ops, config, weights, ropes)
    elif encoding is not None:
        hidden = encoding.hidden
        logits = head(ops, config, config.head, weights, hidden) if config.head is not None else None
    for result in (hidden, logits):
        if result is not None:
            result.keep = True
    size = place(ops.tensors, len(ops.code))
    _place_waits(ops.code)
    return Program(
        code=ops.code,
        tensors=ops.tensors,
        hidden=hidden,
        logits=logits,
        n_context=n_context,
        chunk=chunk,
        n_logits=n_logits,
        threads=threads,
        arena_bytes=-(-size // MEMORY_PAGE) * MEMORY_PAGE,
        constant_bytes=sum(table.nbytes for table in ropes)
        + sum(table.nbytes for table in ops.biases.values())
        + sum(table.nbytes for table in ops.distances.values())
        + sum(table.nbytes for table in ops.experts.values())
        + sum(table.nbytes for table in constants),
        kv_cache=kv_cache,
        fast=fast,
        ropes=tuple(ropes),
        n_pages=ops.n_pages,
        groups=tuple(ops.groups),
        n_vocab=config.n_vocab,
        n_types=config.n_types,
        padding=config.padding,
        begins=begins,
        n_once=ops.n_once,
        once_rows=ops.once_rows,
        encoding=encoding,
        constants=constants,
    )


def _record_encoder(
    ops: Recorder, config: Config, weights: Weights, ropes: tuple[RopeTable, ...], chunk: int
) -> Encoding:
    """The encoder's part: whole texts, of at most `chunk` tokens together; it ends by writing what a decoder reads."""
    context, pages, own_chunk = ops.n_context, ops.n_pages, ops.capacity["T"]
    n_slots = SLOTS_PER_TOKEN * chunk
    ops.n_context, ops.n_pages, ops.capacity["T"] = padded_context(n_slots), pages_of(n_slots), chunk
    hidden = encoder(ops, config.encoding if config.seq2seq else config, weights.encoding, ropes)
    part = Encoding(chunk, config.encoding.n_vocab, ops.n_pages, hidden, len(ops.code), ops.encoded[1], len(ops.groups))
    if config.seq2seq:
        cross_caches(ops, config, weights, hidden)
        hidden.dies = max(hidden.dies, len(ops.code))  # it is read from outside before the decoder's part begins
        ops.n_context, ops.n_pages, ops.capacity["T"], ops.groups = context, pages, own_chunk, []
    return part
