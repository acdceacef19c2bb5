"""Every row of the op table: the kernel against the float64 reference, at awkward sizes, between sentinels."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import PlanError
from miaotui.loader.quantize import pack_rows
from miaotui.runtime.arena import place
from miaotui.runtime.bias import Bias
from miaotui.runtime.cpu import link
from miaotui.runtime.drawing import DRAW
from miaotui.runtime.kvcache import pages_of
from miaotui.runtime.ops import ACTS, FAST, HEADER, OPS, PLANES, SLOTS
from miaotui.runtime.program import Program, place_waits
from miaotui.runtime.quantized import GROUP, QUANTIZED, quantized_shape
from miaotui.runtime.recorder.record import Recorder
from miaotui.runtime.reference import Reference
from miaotui.runtime.rope import RopeTable
from miaotui.runtime.sparse import SPARSE, pack_sparse, sparse_bytes
from miaotui.runtime.sparse_int8 import SPARSE_INT8, pack_sparse_int8, sparse_int8_bytes
from miaotui.runtime.spec import Adapter, Buckets, Distances, Rope, Slopes, Spaced, Weight
from miaotui.runtime.step import Batch
from tolerance import bound

if TYPE_CHECKING:
    from collections.abc import Callable

    from miaotui.runtime.precision import Precision

SIZES = st.sampled_from([1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 97, 131])
TOKENS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 24, 25, 40])
THREADS = st.sampled_from([1, 2, 3])
GUARD = 256  # bytes of sentinel at each end of the arena
UNTOUCHED = 0xFF
EVERY_SPARSE = (*SPARSE, SPARSE_INT8)


@dataclass
class Case:
    """One call: `build(ops, *inputs)` with the inputs of each pass, and how far a result may lie from the exact one."""

    build: Callable[..., Any]
    passes: list[list[np.ndarray]]  # float32 [T, width], each
    tolerance: Callable[[np.ndarray], np.ndarray | float]
    n_vocab: int = 1
    rows: int = 1
    n_kv_heads: int = 1
    d_head: int = 1
    kv_cache: str = "f32"
    fast: bool = False
    planes: bool = False  # an input of integers that is rounded to two of them
    by_pairs: bool = False
    adapter: int = 0
    read: Callable[[np.ndarray], np.ndarray] = lambda y: y  # what the kernel's result means

    @property
    def precision(self) -> Precision | None:
        """As `load` takes it."""
        return "fast" if self.fast else "exact" if self.planes else None


def run_kernels(case: Case, ids: list[np.ndarray], threads: int) -> tuple[np.ndarray | None, list[int]]:
    """Result of the last pass, and the step's ids. Whatever is not the result's own must be as it was."""
    longest, n_context = max(len(p) for p in ids), sum(map(len, ids))
    ops = Recorder(n_context=n_context, chunk=longest + 2, n_logits=case.rows + 1, threads=threads,
                   kv_cache=case.kv_cache, precision=case.precision, by_pairs=case.by_pairs,
                   n_pages=pages_of(n_context) + 3)  # fmt: skip
    table = np.random.default_rng(n_context).permutation(ops.n_pages).astype(np.int32)
    given_tensors = [ops.given(x.shape[1]) for x in case.passes[0]]
    y = case.build(ops, *given_tensors)
    if y is not None:
        y.keep = True
    size = place(ops.tensors, len(ops.code))
    place_waits(ops.code)
    program = Program(ops.code, ops.tensors, y, y, ops.n_context, longest + 2, case.rows + 1, threads, size, 0)
    code = program.encode(link.addresses(i.kernel for i in ops.code).__getitem__)
    block = np.full(size + 2 * GUARD + 64, UNTOUCHED, np.uint8)
    first = GUARD + -block.ctypes.data % 64
    arena = block[first : first + size]
    batch = Batch(longest + 2, case.rows + 1)
    executor = link.executor(threads)
    executor.bind(code.ctypes.data, len(code), arena.ctypes.data, batch.address)
    start = 0
    for part, inputs in zip(ids, case.passes, strict=True):
        batch.clear()
        tables = table.ctypes.data
        n_logits = min(case.rows, len(part))
        batch.add(part, start, tables, n_logits, tables, start + len(part), adapter=case.adapter)
        for t, x in zip(given_tensors, inputs, strict=True):
            arena[t.offset : t.offset + x.nbytes] = np.frombuffer(x.tobytes(), np.uint8)
        executor.step()
        start += len(part)
    executor.close()
    mine = np.zeros(len(block), bool)
    for t in ops.tensors:
        n = {"T": len(ids[-1]), "R": min(case.rows, len(ids[-1]))}.get(t.rows)
        used = t.nbytes if n is None else 4 * t.width * (longest if t in given_tensors else n)
        used = max(used, 4 * t.width * max(map(len, ids))) if t.rows == "T" else used
        mine[first + t.offset : first + t.offset + used] = True
    assert np.all(block[~mine] == UNTOUCHED), "something was written outside of the tensors' rows"
    for t, x in zip(given_tensors, case.passes[-1], strict=True):
        assert arena[t.offset : t.offset + x.nbytes].tobytes() == x.tobytes(), "an input was changed"
    results = batch.results[: batch.n_logits].tolist() if any(i.op == "argmax" for i in ops.code) else []
    assert np.all(batch.results[len(results) :] == -1)
    if y is not None:
        n = min(case.rows, len(ids[-1])) if y.rows == "R" else len(ids[-1])
        bits = arena[y.offset : y.offset + 4 * n * y.width].tobytes()
        return np.frombuffer(bits, np.float32).reshape(n, y.width), results
    return None, results


def run_reference(case: Case, ids: list[np.ndarray]) -> tuple[np.ndarray | None, list[int]]:
    """The same calls in float64."""
    caches = [(np.zeros((0, case.n_kv_heads, case.d_head)),) * 2]
    start, y, ops = 0, None, None
    for part, inputs in zip(ids, case.passes, strict=True):
        ops = Reference(part, start, caches, min(case.rows, len(part)), kv_cache=case.kv_cache,
                        precision=case.precision, by_pairs=case.by_pairs, adapter=case.adapter)  # fmt: skip
        y = case.build(ops, *(x.astype(np.float64) for x in inputs))
        start += len(part)
    assert ops is not None
    return y, ops.results


def sparse(x: np.ndarray, keep: np.ndarray, dtype: str) -> Weight:
    """The numbers of float32 x that are kept, in the dtype."""
    kept = int(keep.sum())
    if dtype == SPARSE_INT8:
        out = np.full(sparse_int8_bytes(x.shape, kept), UNTOUCHED, np.uint8)
        pack_sparse_int8(quantized(x * keep, "int8").array, keep, out, len(x))
        return Weight("w", dtype, x.shape, out, mapped=False, kept=kept)
    if dtype == "bf16_sparse":
        x = (x.view(np.uint32) >> 16).astype(np.uint16)
    elif dtype == "f16_sparse":
        x = x.astype(np.float16)
    out = np.full(sparse_bytes(dtype, x.shape, kept), UNTOUCHED, np.uint8)
    pack_sparse(x, keep, dtype, out)
    return Weight("w", dtype, x.shape, out, mapped=False, kept=kept)


def quantized(x: np.ndarray, dtype: str) -> Weight:
    """Float32 x, rounded as the loader does."""
    packed = np.empty(quantized_shape(dtype, x.shape), np.uint8)
    assert pack_rows(x, "F32", dtype, packed)
    return Weight("w", dtype, x.shape, packed, mapped=False)


class Draw:
    """Random arrays from one drawn seed: Hypothesis chooses the shape, not every number."""

    acts = ACTS  # activations that a product may be followed by

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.t = draw(TOKENS)

    def size(self) -> int:
        return self.draw(SIZES)

    def array(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return (self.rng.standard_normal(shape) * scale).astype(np.float32)

    def at_the_edge(self, *shape: int) -> np.ndarray:
        """Numbers whose products are about 2^-126, and parts of its last places: sums are flushed, or nearly."""
        size = self.rng.choice([1.0, 1.0, 1.5, 2.0**-12, 2.0**-13], shape) * 2.0**-63
        return (size * self.rng.choice([-1.0, 1.0], shape)).astype(np.float32)

    def weight(self, dtype: str, *shape: int, scale: float = 1.0) -> Weight:
        x = self.array(*shape, scale=scale)
        if dtype in EVERY_SPARSE:
            return sparse(x, self.rng.random(shape) < self.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])), dtype)
        if dtype == "f16":
            x = x.astype(np.float16)
        elif dtype in QUANTIZED:
            return quantized(x, dtype)
        elif dtype == "bf16":
            x = (x.view(np.uint32) >> 16).astype(np.uint16)
        return Weight("w", dtype, shape, x, mapped=False)


def embed(d: Draw, variant: str) -> Case:
    w = d.weight(variant, d.size(), d.size())
    # int4a: q * scale is exact, its sum with the smallest number is rounded
    tolerance = (lambda y: 2.0**-24 * np.abs(y)) if variant == "int4a" else exactly
    return Case(lambda ops: ops.embed(w), [[]], tolerance, n_vocab=w.shape[0])


def embed_positions(d: Draw, variant: str) -> Case:
    w = d.weight(variant, d.t + 3, d.size())
    return Case(lambda ops: ops.embed_positions(w), [[]], exactly)


def embed_types(d: Draw, variant: str) -> Case:
    """Every token of a decoder's batch has type 0; the other types: tests/test_encoders.py."""
    w = d.weight(variant, 3, d.size())
    return Case(lambda ops: ops.embed_types(w), [[]], exactly)


def edge_of_pairs(d: Draw) -> Case:
    """Of BF16 pairs, whose results below 2^-126 are flushed at every step."""
    n, k = d.size(), d.size()
    numbers = (d.at_the_edge(n, k).view(np.uint32) >> 16).astype(np.uint16)
    w, x = Weight("w", "bf16", (n, k), numbers, mapped=False), d.at_the_edge(d.t, k)
    off = (k + 16) * 2.0**-126 + bound("linear", "bf16", k) * (np.abs(x).astype(float) @ np.abs(w.f64()).T)
    return Case(lambda ops, x: ops.linear(x, w), [[x]], lambda _: off, fast=True)


def linear(d: Draw, variant: str) -> Case:
    if variant == FAST and d.draw(st.integers(0, 3)) == 0:
        return edge_of_pairs(d)
    n, k = d.size(), d.size()
    w = d.weight(stored(variant), n, k)
    b = d.weight("f32", n) if d.draw(st.booleans()) else None
    act = d.draw(st.sampled_from([None, *d.acts]))
    others = [name for name in ("times", "residual") if d.draw(st.booleans())]
    x, *given = d.array(d.t, k), *(d.array(d.t, n) for _ in others)
    after = dict(zip(others, given, strict=True))
    size = np.abs(w.f64())
    if w.dtype == "int4a":  # q * scale and the smallest number are added apart, each up to twice the largest weight
        size = np.full_like(size, 4 * size.max())
    sums = np.abs(x).astype(float) @ size.T + (0 if b is None else np.abs(b.f64()))

    def tolerance(y: np.ndarray) -> np.ndarray:
        off = bound("linear", w.dtype.removesuffix("_sparse"), k) * sums
        if act is not None:
            steepest = 2 * (sums + off) if act == "relu2" else 1.13  # of the others gelu's
            off = steepest * off + bound("act", "f32", 1) * sums * (sums if act == "relu2" else 1)
        off = off * np.abs(after["times"]) if "times" in after else off
        return off + 2.0**-22 * (np.abs(y) + np.abs(after.get("residual", 0)))

    def build(ops: Any, x: Any, *rest: Any) -> Any:
        return ops.linear(x, w, b, act=act, **dict(zip(others, rest, strict=True)))

    return Case(build, [[x, *given]], tolerance, fast=variant == FAST, planes=variant in PLANES.values())


def stored(variant: str) -> str:
    """The dtype of the matrices that a product's variant takes."""
    return "bf16" if variant == FAST else variant.removesuffix("_planes")


def quantize(d: Draw, _: str) -> Case:
    x = some_zeros(d, d.size())
    return Case(lambda ops, x: ops.quantize(x), [[x]], exactly, read=lambda y: unquantized(y, 1, x.shape[1]))


def quantize_planes(d: Draw, _: str) -> Case:
    k, parts = d.size(), d.draw(st.integers(1, 4))
    x = some_zeros(d, k * parts)
    read = partial(unquantized, parts=parts, k=k, planes=2)
    return Case(lambda ops, x: ops.quantize_planes(x, parts), [[x]], exactly, read=read)


def some_zeros(d: Draw, k: int) -> np.ndarray:
    """[t, k], of one size or another."""
    x = d.array(d.t, k, scale=d.draw(st.sampled_from([1e-30, 1.0, 1e4])))
    x[d.rng.random(x.shape) < d.draw(st.sampled_from([0.0, 0.5, 1.0]))] = 0
    return x


def round_bf16(d: Draw, _: str) -> Case:
    x = d.array(d.t, d.size(), scale=d.draw(st.sampled_from([1e-30, 1.0, 1e30])))

    def read(y: np.ndarray) -> np.ndarray:
        bits = y.copy().view(np.uint16).astype(np.uint32) << 16
        assert not bits[:, x.shape[1] :].any()
        return bits.view(np.float32)[:, : x.shape[1]].astype(float)

    return Case(lambda ops, x: ops.round_bf16(x), [[x]], exactly, read=read)


def rms_norm(d: Draw, _: str) -> Case:
    n, groups = d.size(), d.draw(st.integers(1, 4))
    w, eps = d.weight("f32", n), d.draw(st.sampled_from([1e-6, 1e-5, 0.1]))
    x = d.array(d.t, n * groups, scale=d.draw(st.sampled_from([1e-4, 1.0, 1e4])))
    return Case(lambda ops, x: ops.rms_norm(x, w, eps, groups), [[x]], lambda y: bound("norm", "f32", n) * np.abs(y))


def layer_norm(d: Draw, _: str) -> Case:
    n = d.size()
    w, b = d.weight("f32", n), d.weight("f32", n) if d.draw(st.booleans()) else None
    x = d.array(d.t, n) + np.float32(d.draw(st.sampled_from([0.0, 3.0])))
    spread = np.sqrt(x.astype(float).var(-1, keepdims=True) + 1e-5)
    size = np.abs(x).max(-1, keepdims=True) / spread * np.abs(w.f64())  # x - mean(x) loses what the mean is larger by
    size = size + (0 if b is None else np.abs(b.f64()))
    return Case(lambda ops, x: ops.layer_norm(x, w, b, 1e-5), [[x]], lambda _: bound("norm", "f32", n) * size)


def layer_norm_heads(d: Draw, _: str) -> Case:
    n, groups, own = d.size(), d.draw(st.integers(1, 4)), d.draw(st.booleans())
    wide = n * groups if own else n
    w, b = d.weight("f32", wide), d.weight("f32", wide) if d.draw(st.booleans()) else None
    x = d.array(d.t, n * groups) + np.float32(d.draw(st.sampled_from([0.0, 3.0])))
    pieces = x.astype(float).reshape(d.t, groups, n)
    spread = np.sqrt(pieces.var(-1, keepdims=True) + 1e-5)
    gains, biases = (np.resize(np.abs(v), (groups, n)) for v in (w.f64(), np.zeros(1) if b is None else b.f64()))
    size = (np.abs(pieces).max(-1, keepdims=True) / spread * gains + biases).reshape(x.shape)  # as of `layer_norm`
    tolerance = bound("norm", "f32", n) * size
    return Case(lambda ops, x: ops.layer_norm_heads(x, w, b, 1e-5, groups), [[x]], lambda _: tolerance)


def rope(d: Draw, _: str) -> Case:
    heads, d_head = d.draw(st.integers(1, 4)), 2 * d.draw(st.sampled_from([1, 2, 3, 7, 8, 9, 16, 17, 32]))
    table = RopeTable(Rope(10000.0, d_head), 48)
    x = d.array(d.t, heads * d_head)
    size = np.abs(x).max()
    return Case(lambda ops, x: ops.rope(x, table, heads), [[x]], lambda _: bound("rope", "f32", 2) * 2 * size)


def rope_part(d: Draw, _: str) -> Case:
    heads, d_head = d.draw(st.integers(1, 4)), d.draw(st.sampled_from([2, 3, 5, 8, 16, 17, 32, 64]))
    d_rotary, interleaved = 2 * d.draw(st.integers(1, d_head // 2)), d.draw(st.booleans())
    table = RopeTable(Rope(10000.0, d_rotary, interleaved=interleaved), 48)
    x = d.array(d.t, heads * d_head)
    size = np.abs(x).max()
    return Case(lambda ops, x: ops.rope_part(x, table, heads), [[x]], lambda _: bound("rope", "f32", 2) * 2 * size)


def attention(d: Draw, variant: str) -> Case:
    kv_heads, group = d.draw(st.integers(1, 3)), d.draw(st.integers(1, 3))
    d_head, window = d.draw(st.sampled_from([2, 6, 15, 16, 17, 32, 33])), d.draw(st.sampled_from([None, 1, 5, 16, 17]))
    d_head = d.draw(st.sampled_from([64, 80])) if d.draw(st.integers(0, 4)) == 0 else d_head
    heads, cuts = kv_heads * group, [d.t, *([d.draw(TOKENS)] if d.draw(st.booleans()) else [])]
    passes = [[d.array(t, heads * d_head), *(d.array(t, kv_heads * d_head) for _ in "kv")] for t in cuts]

    def build(ops: Any, q: Any, k: Any, v: Any) -> Any:
        ops.kv_write(0, k, v, kv_heads)
        return ops.attention(0, q, heads, kv_heads, window=window, scale=d_head**-0.5)

    score = max(np.abs(q).max() for q, _, _ in passes) * max(np.abs(k).max() for _, k, _ in passes) * d_head**0.5
    largest = max(np.abs(v).max() for _, _, v in passes)
    by_pairs = variant == FAST
    variant = "bf16" if by_pairs else variant
    tolerance = bound("attention", variant, d_head + sum(cuts)) * (1 + score) * largest
    if by_pairs:  # a weight may be rounded to its other neighbour
        tolerance += 2 * bound("flash", "bf16", 1, largest)
    return Case(build, passes, lambda _: tolerance, n_kv_heads=kv_heads, d_head=d_head, kv_cache=variant,
                by_pairs=by_pairs)  # fmt: skip


def attention_biased(d: Draw, variant: str) -> Case:
    """Of a decoder's batch, whose tokens see none after them; windows on both sides: tests/test_scores.py."""
    kv_heads, group, d_head = d.draw(st.integers(1, 3)), d.draw(st.integers(1, 3)), d.draw(st.sampled_from([2, 15, 33]))
    heads, cuts = kv_heads * group, [d.t, *([d.draw(TOKENS)] if d.draw(st.booleans()) else [])]
    passes = [[d.array(t, heads * d_head), *(d.array(t, kv_heads * d_head) for _ in "kv")] for t in cuts]
    cap, window = d.draw(st.sampled_from([None, 0.5, 50.0])), d.draw(st.sampled_from([None, 1, 5, 17]))
    kinds = [None, Buckets(8, 20, both_ways=False), Buckets(32, 128, both_ways=True)]
    kinds += [Slopes(tuple(2.0 ** -(8 * (i + 1) / heads) for i in range(heads)), rounded, 0.25) for rounded in (0, 1)]
    sizes = d.draw(st.sampled_from(kinds))
    table = d.weight(d.draw(st.sampled_from(["f32", "bf16"])), sizes.n, heads) if isinstance(sizes, Buckets) else None
    bias = None if sizes is None else Bias(sizes, table)

    def build(ops: Any, q: Any, k: Any, v: Any) -> Any:
        ops.kv_write(0, k, v, kv_heads)
        return ops.attention_biased(0, q, heads, kv_heads, window=window, scale=d_head**-0.5, soft_cap=cap, bias=bias)

    score = max(np.abs(q).max() for q, _, _ in passes) * max(np.abs(k).max() for _, k, _ in passes) * d_head**0.5
    score += 0 if bias is None else np.abs(bias.exact(np.arange(0 if bias.by_key else -80, 80))).max()
    largest = max(np.abs(v).max() for _, _, v in passes)
    tolerance = bound("attention", variant, d_head + sum(cuts)) * (1 + score) * largest
    return Case(build, passes, lambda _: tolerance, n_kv_heads=kv_heads, d_head=d_head, kv_cache=variant)


def head_products(d: Draw, _: str) -> Case:
    """The table has as many rows as there are tokens, or fewer."""
    heads, d_head, n = d.draw(st.integers(1, 4)), d.draw(st.sampled_from([1, 2, 15, 16, 33, 64])), d.t
    n = d.draw(st.integers(1, n))
    x, table = d.array(d.t, heads * d_head), d.array(d.t, heads * d_head)
    by_head = (np.abs(a).astype(float).reshape(d.t, heads, d_head) for a in (x, table))
    size = np.einsum("thd,nhd->thn", *by_head)[:, :, :n].reshape(d.t, -1)
    return Case(lambda ops, x, table: ops.head_products(x, table, heads, n), [[x, table]],
                lambda _: bound("linear", "f32", d_head) * size)  # fmt: skip


def attention_relative(d: Draw, variant: str) -> Case:
    """Of a decoder's batch, whose tokens see none after them; of whole texts: tests/test_deberta.py."""
    kv_heads, group, d_head = d.draw(st.integers(1, 3)), d.draw(st.integers(1, 3)), d.draw(st.sampled_from([2, 15, 33]))
    heads = kv_heads * group
    sizes = d.draw(st.sampled_from([Distances(3), Distances(64), Distances(8, 20), Distances(17, 40)]))
    terms = d.draw(st.sets(st.sampled_from(["c2p", "p2c"])))
    given = [(name, 2 * sizes.n * n) for name, n in (("c2p", heads), ("p2c", kv_heads)) if name in terms]
    inputs = [d.array(d.t, heads * d_head), *(d.array(d.t, kv_heads * d_head) for _ in "kv")]
    inputs += [d.array(d.t, width) for _, width in given]

    def build(ops: Any, q: Any, k: Any, v: Any, *others: Any) -> Any:
        ops.kv_write(0, k, v, kv_heads)
        added = dict(zip((name for name, _ in given), others, strict=True))
        return ops.attention_relative(0, q, heads, kv_heads, scale=d_head**-0.5, sizes=sizes, **added)

    q, k, v, *others = (np.abs(x).max() for x in inputs)
    score = (q * k * d_head + sum(others)) * d_head**-0.5
    tolerance = bound("attention", variant, d_head + d.t) * (1 + score) * v
    return Case(build, [inputs], lambda _: tolerance, n_kv_heads=kv_heads, d_head=d_head, kv_cache=variant)


def cross_attention(d: Draw, variant: str) -> Case:
    """The text itself stands for the encoder's: every query sees all of it."""
    kv_heads, group, d_head = d.draw(st.integers(1, 3)), d.draw(st.integers(1, 3)), d.draw(st.sampled_from([2, 15, 33]))
    heads = kv_heads * group
    inputs = [d.array(d.t, heads * d_head), *(d.array(d.t, kv_heads * d_head) for _ in "kv")]

    def build(ops: Any, q: Any, k: Any, v: Any) -> Any:
        ops.cross_write(0, k, v, kv_heads)
        return ops.cross_attention(0, q, heads, kv_heads, scale=d_head**-0.5)

    q, k, v = (np.abs(x).max() for x in inputs)
    tolerance = bound("attention", variant, d_head + d.t) * (1 + q * k * d_head**0.5) * v
    return Case(build, [inputs], lambda _: tolerance, n_kv_heads=kv_heads, d_head=d_head, kv_cache=variant)


def add(d: Draw, _: str) -> Case:
    n = d.size()
    return Case(lambda ops, a, b: ops.add(a, b), [[d.array(d.t, n), d.array(d.t, n)]], lambda y: 2.0**-24 * np.abs(y))


def pick(d: Draw, _: str) -> Case:
    units, each, base = d.draw(st.integers(1, 5)), d.size(), d.draw(st.integers(0, 40))
    stride = base + each + d.draw(st.integers(0, 40))
    lies = Spaced(Weight("w", "f32", (units * stride, 1), None, mapped=False), each, stride, base)
    b = d.weight("f32", units * each) if d.draw(st.booleans()) else None
    return Case(lambda ops, x: ops.pick(x, b, lies), [[d.array(d.t, units * stride)]], lambda y: 2.0**-24 * np.abs(y))


def scale(d: Draw, _: str) -> Case:
    x, factor = d.array(d.t, d.size()), d.draw(st.sampled_from([0.0625, 12.0, 0.22, 27.712812921102035]))
    # the factor is rounded to float32, and the product once more
    return Case(lambda ops, x: ops.scale(x, factor), [[x]], lambda y: 2.0**-23 * np.abs(y))


def soft_cap(d: Draw, _: str) -> Case:
    cap = d.draw(st.sampled_from([0.5, 3.0, 30.0]))
    x = d.array(d.t, d.size(), scale=d.draw(st.sampled_from([0.01, 1.0, 100.0])))

    def tolerance(y: np.ndarray) -> np.ndarray:
        return bound("act", "f32", 1) * np.minimum(np.abs(x), cap) + 2.0**-23 * np.abs(y)

    return Case(lambda ops, x: ops.soft_cap(x, cap), [[x]], tolerance)


def clip(d: Draw, _: str) -> Case:
    x, limit = d.array(d.t, d.size()), d.draw(st.sampled_from([0.25, 1.0, 8.0]))
    return Case(lambda ops, x: ops.clip(x, limit), [[x]], exactly)


def xielu(d: Draw, _: str) -> Case:
    x = d.array(d.t, d.size(), scale=d.draw(st.sampled_from([1e-7, 1e-4, 0.3, 1.0, 30.0])))
    x[d.rng.random(x.shape) < 0.1] = 0
    numbers = (abs(d.array(1)), abs(d.array(1)), d.array(1), np.array([-1e-6], np.float32))
    p, n, beta, eps = (Weight("w", "f32", (1,), a, mapped=False) for a in numbers)
    size = np.abs(x).astype(float)

    def tolerance(_: np.ndarray) -> np.ndarray:
        square, curve, b = (abs(float(w.f64()[0])) for w in (p, n, beta))
        # the square and the exponential are rounded as an activation is, each by its own size; so are -eps and beta x
        far = np.where(x > 0, square * size**2, (curve + b) * np.minimum(size, size**2) + (curve + b) * 1e-6)
        return bound("act", "f32", 1) * (far + b * size)

    return Case(lambda ops, x: ops.xielu(x, p, n, beta, eps), [[x]], tolerance)


def routed(d: Draw, experts: int, chosen: int) -> np.ndarray:
    """Numbers of experts, no two alike for a token, and their weights."""
    ids = np.array([d.rng.permutation(experts)[:chosen] for _ in range(d.t)])
    return np.concatenate([ids, d.rng.random((d.t, chosen))], 1).astype(np.float32)


def route(d: Draw, _: str) -> Case:
    """Whole numbers: equal ones are common, and where they are chosen by, nothing is rounded."""
    n, sigmoid, normalized = d.size(), d.draw(st.booleans()), d.draw(st.booleans())
    chosen, b = d.draw(st.integers(1, min(n, 9))), None
    x = d.rng.integers(-4, 5, (d.t, n)).astype(np.float32)
    if d.draw(st.booleans()):  # far enough apart that no rounding makes equals of sums
        x = x / np.float32(8)
        b = Weight("b", "f32", (n,), d.rng.permutation(n).astype(np.float32), mapped=False)
    return Case(
        lambda ops, x: ops.route(x, b, chosen, sigmoid=sigmoid, normalized=normalized),
        [[x]],
        lambda y: np.concatenate([0 * y[:, :chosen], bound("act", "f32", n) * np.abs(y[:, chosen:])], 1),
    )


def expert_linear(d: Draw, variant: str) -> Case:
    n, k, experts = d.size(), d.size(), d.draw(st.integers(1, 7))
    chosen, apart = d.draw(st.integers(1, experts)), d.draw(st.booleans())
    ws = tuple(d.weight(stored(variant), n, k) for _ in range(experts))
    act, gated = d.draw(st.sampled_from([None, *d.acts])), d.draw(st.booleans())
    x, routes = d.array(d.t, k * (chosen if apart else 1)), routed(d, experts, chosen)
    apart = apart and chosen > 1
    times = [d.array(d.t, chosen * n)] if gated else []
    each = np.broadcast_to(np.abs(x).reshape(d.t, -1, k), (d.t, chosen, k))
    sizes = [np.abs(w.f64()) for w in ws]
    if stored(variant) == "int4a":  # as in `linear`
        sizes = [np.full_like(size, 4 * size.max()) for size in sizes]
    ids = routes[:, :chosen].astype(int)
    sums = np.array([[sizes[e] @ v for e, v in zip(*both, strict=True)] for both in zip(ids, each, strict=True)])
    sums = sums.reshape(d.t, chosen * n)

    def tolerance(y: np.ndarray) -> np.ndarray:
        off = bound("linear", stored(variant), k) * sums
        if act is not None:
            steepest = 2 * (sums + off) if act == "relu2" else 1.13
            off = steepest * off + bound("act", "f32", 1) * sums * (sums if act == "relu2" else 1)
        off = off * np.abs(times[0]) if gated else off
        return off + 2.0**-22 * np.abs(y)

    def build(ops: Any, x: Any, routes: Any, *times: Any) -> Any:
        return ops.expert_linear(x, routes, ws, act=act, times=times[0] if times else None)

    return Case(build, [[x, routes, *times]], tolerance, planes=variant in PLANES.values())


def adapters_of(d: Draw, n: int, k: int) -> tuple[Adapter | None, ...]:
    """Of ranks of their own; one leaves the product as it is, others scale rows, or have a bias, or some whole rows."""
    made: list[Adapter | None] = [None]
    for i in range(d.draw(st.integers(1, 3))):
        r = d.draw(st.sampled_from([1, 2, 4, 7, 8, 9, 16, 17, 33]))
        ratio, bias = d.weight("f32", n) if i else None, d.weight("f32", n) if d.draw(st.booleans()) else None
        scale = d.draw(st.sampled_from([0.5, 2.0, -1.3]))
        made.append(Adapter(d.weight("f32", r, k), d.weight("f32", n, r), scale, ratio, bias))
    r = d.draw(st.integers(1, n))
    made.append(replaced(d, n, r, k))
    made.append(Adapter(d.weight("f32", 0, k), d.weight("f32", n, 0), 1.0, bias=d.weight("f32", n)))
    return tuple(made)


def replaced(d: Draw, n: int, r: int, width: int) -> Adapter:
    """Whole rows in place of `r` of `n`."""
    ids = np.sort(d.rng.permutation(n)[:r]).astype(np.float32)
    return Adapter(d.weight("f32", r, width), None, 1.0, ids=Weight("ids", "f32", (r,), ids, mapped=False))


def lora_embed(d: Draw, _: str) -> Case:
    """Of an embedding: with a rank of its own, rows of its own, or neither."""
    n, width = d.size(), d.size()
    r = d.draw(st.sampled_from([1, 2, 7, 16, 17]))
    low = Adapter(d.weight("f32", r, width), d.weight("f32", n, r), d.draw(st.sampled_from([0.5, -1.3])))
    adapters = (None, low, replaced(d, n, d.draw(st.integers(1, n)), width))
    x, adapter = d.array(d.t, width), d.draw(st.integers(0, 3))

    def tolerance(result: np.ndarray) -> np.ndarray:
        if adapter != 2:
            return np.zeros_like(result)
        assert low.up is not None
        least = abs(low.scale) * (np.abs(low.up.f64()).max(0) @ np.abs(low.down.f64()))
        return 2 * bound("linear", "f32", r + 1) * (np.abs(x) + least)

    return Case(lambda ops, x: ops.lora_embed(x, adapters), [[x]], tolerance, n_vocab=n, adapter=adapter)


def lora_down(d: Draw, _: str) -> Case:
    """Both rows of the table: what is not written of the first's result, the second does not read."""
    return lora_up(d, _)


def lora_up(d: Draw, _: str) -> Case:
    n, k = d.size(), d.size()
    adapters = adapters_of(d, n, k)
    adapter, b = d.draw(st.integers(0, len(adapters))), d.weight("f32", n) if d.draw(st.booleans()) else None
    act, rows = d.draw(st.sampled_from([None, *d.acts])), d.draw(st.booleans())
    others = [name for name in ("times", "residual") if d.draw(st.booleans())]
    x, y, *given = d.array(d.t, k), d.array(d.t, n), *(d.array(d.t, n) for _ in others)
    after = dict(zip(others, given, strict=True))
    a = adapters[adapter - 1] if adapter else None
    sums = np.abs(y).astype(float)
    if a is not None:
        down = np.abs(x).astype(float) @ np.abs(a.down.f64()).T
        if a.up is not None:
            sums = sums + abs(a.scale) * down @ np.abs(a.up.f64()).T
        elif a.ids is not None:
            sums[:, a.ids.f64().astype(int)] += down
        sums = sums if a.ratio is None else sums * np.abs(a.ratio.f64())
    bias = b if a is None or a.bias is None else a.bias
    sums = sums + (0 if bias is None else np.abs(bias.f64()))

    def tolerance(result: np.ndarray) -> np.ndarray:
        last = len(result)
        off = 2 * bound("linear", "f32", k + 33) * sums[-last:]
        if act is not None:
            steepest = 2 * (sums[-last:] + off) if act == "relu2" else 1.13  # as of `linear`
            off = steepest * off + bound("act", "f32", 1) * sums[-last:] * (sums[-last:] if act == "relu2" else 1)
        off = off * np.abs(after["times"][-last:]) if "times" in after else off
        return off + 2.0**-22 * (np.abs(result) + np.abs(after["residual"][-last:] if "residual" in after else 0))

    def build(ops: Any, x: Any, y: Any, *rest: Any) -> Any:
        x, y, *rest = (ops.take_rows(each) for each in (x, y, *rest)) if rows else (x, y, *rest)
        return ops.lora_up(y, ops.lora_down(x, adapters), adapters, b, act=act, **dict(zip(others, rest, strict=True)))

    n_rows = d.draw(st.integers(1, d.t)) if rows else 1
    return Case(build, [[x, y, *given]], tolerance, rows=n_rows, adapter=adapter)


def expert_sum(d: Draw, _: str) -> Case:
    n, chosen, extra = d.size(), d.draw(st.integers(1, 5)), d.draw(st.sampled_from(["", "s", "sm"]))
    residual = d.draw(st.booleans())
    shared = [d.array(d.t, n)] * ("s" in extra) + [d.array(d.t, 1)] * ("m" in extra)
    x, routes = d.array(d.t, chosen * n), routed(d, 8, chosen)

    def build(ops: Any, x: Any, routes: Any, *rest: Any) -> Any:
        parts = dict(zip(extra, rest, strict=False))
        return ops.expert_sum(x, routes, parts.get("s"), parts.get("m"), rest[-1] if residual else None)

    inputs = [x, routes, *shared, *([d.array(d.t, n)] if residual else [])]
    size = np.abs(x).reshape(d.t, chosen, n).sum(1) + sum(np.abs(a) for a in inputs[2:])
    return Case(build, [inputs], lambda _: bound("act", "f32", chosen) * size)


def quantize_parts(d: Draw, _: str) -> Case:
    k, parts = d.size(), d.draw(st.integers(1, 4))
    x = some_zeros(d, k * parts)
    return Case(lambda ops, x: ops.quantize_parts(x, parts), [[x]], exactly, read=lambda y: unquantized(y, parts, k))


def unquantized(y: np.ndarray, parts: int, k: int, planes: int = 1) -> np.ndarray:
    """Parts of a row: their bytes, scales and sums, of whole groups; as numbers."""
    y = y.reshape(len(y) * parts, -1)
    at = 8 * planes  # where the scales begin, in each group's floats
    groups = y.shape[1] // (at + 2)
    q = y[:, : at * groups].copy().view(np.int8).reshape(len(y), groups, planes, GROUP).astype(float)
    q = q[:, :, -1] + 256 * q[:, :, 0] if planes > 1 else q[:, :, 0]
    assert np.array_equal(y[:, (at + 1) * groups :].copy().view(np.int32), q.sum(-1))
    numbers = (q * y[:, at * groups : (at + 1) * groups, None].astype(float)).reshape(len(y), -1)[:, :k]
    return numbers.reshape(-1, parts * k)


def take_rows(d: Draw, _: str) -> Case:
    return Case(lambda ops, x: ops.take_rows(x), [[d.array(d.t, d.size())]], exactly, rows=d.draw(st.integers(1, d.t)))


def unfold(d: Draw, _: str) -> Case:
    """Texts in one batch that do not see each other: tests/test_deberta.py."""
    x, k = d.array(d.t, d.size()), d.draw(st.sampled_from([1, 3, 5, 7]))
    return Case(lambda ops, x: ops.unfold(x, k), [[x]], exactly)


def mean_rows(d: Draw, _: str) -> Case:
    x = d.array(d.t, d.size())
    size = np.abs(x).max() * (d.t / 16 + 20)
    return Case(lambda ops, x: ops.mean_rows(x), [[x]], lambda _: 2.0**-24 * size, rows=d.draw(st.integers(1, d.t)))


def argmax(d: Draw, _: str) -> Case:
    x = d.rng.integers(-3, 4, (d.t, d.size())).astype(np.float32)  # few values: equals are common
    rows = d.draw(st.integers(1, d.t))
    return Case(lambda ops, x: ops.argmax(ops.take_rows(x)), [[x]], exactly, rows=rows)


def exactly(_: np.ndarray) -> float:
    """Not a bit."""
    return 0.0


#: kv_write and cross_write show in what attention reads.
CASES = {
    f.__name__: f
    for f in (
        *(embed, embed_positions, embed_types, linear, quantize, round_bf16, rms_norm, layer_norm, rope),
        *(rope_part, attention, attention_biased, head_products, attention_relative, cross_attention, add, pick),
        *(scale, soft_cap, take_rows, mean_rows, argmax, layer_norm_heads, clip, xielu),
        *(route, expert_linear, expert_sum, quantize_parts, unfold, lora_down, lora_up, lora_embed),
        quantize_planes,
    )
}
CASES["kv_write"] = attention
CASES["cross_write"] = cross_attention
ROWS = [(op.name, v) for op in OPS.values() for v in ((*op.variants, *op.cpu_variants) or ("",))]


def checked(name: str, variant: str, draw: Callable[[st.SearchStrategy[Any]], Any], threads: int) -> bytes:
    """The bytes that an op's kernel computes for what is drawn, near the reference's and equal with one thread."""
    d = Draw(draw)
    case = CASES[name](d, variant)
    lengths = [len(p[0]) if p else d.t for p in case.passes]
    ids = [d.rng.integers(0, case.n_vocab, t) for t in lengths]
    y, result = run_kernels(case, ids, threads)
    expected, expected_result = run_reference(case, ids)
    assert result == expected_result
    if y is None:
        assert expected is None
        return np.array(result).tobytes()
    assert case.read(y).shape == expected.shape
    assert np.all(np.abs(case.read(y) - expected) <= case.tolerance(expected))
    alone, _ = run_kernels(case, ids, 1)
    assert y.tobytes() == alone.tobytes()
    return y.tobytes()


@pytest.mark.parametrize(("name", "variant"), ROWS, ids=lambda v: v)
def test_the_kernel_is_its_reference(name, variant):
    @settings(max_examples=25, deadline=None)
    @given(st.data(), THREADS)
    def holds(data, threads):
        checked(name, variant, data.draw, threads)

    holds()


def test_the_table_names_what_is_there():
    from miaotui.runtime.cpu.kernels import KERNELS
    from miaotui.runtime.cpu.link import FOLLOWED
    from miaotui.runtime.cuda.kernels import KERNELS as CUDA_KERNELS

    assert set(CASES) == set(OPS)
    no_ops = {f"pack_{dtype}" for dtype in QUANTIZED} | {DRAW}  # the loader's; what a pass ends with
    no_ops |= {name for more in FOLLOWED.values() for name in more}  # parts of an op, in a step that is split
    for backend, kernels in (("cpu", set(KERNELS) - no_ops), ("cuda", set(CUDA_KERNELS))):
        assert {k for op in OPS.values() for k in op.kernels_of(backend)} == kernels, backend
    for name in OPS:
        recorded, referred = (inspect.signature(getattr(c, name)).parameters for c in (Recorder, Reference))
        assert [(p.name, p.kind, p.default) for p in recorded.values()] == [
            (p.name, p.kind, p.default) for p in referred.values()
        ]


def test_every_row_says_what_it_is():
    for op in OPS.values():
        assert op.formula
        assert op.signature.count("->") == 1
        assert op.source
        assert all(f[0] in "oiwnf" and f[1] == ":" for f in op.fields)
        assert len(HEADER) + len(op.fields) <= SLOTS


LONG = st.sampled_from([640, 1023, 1024, 1025, 1056, 1300, 2049])  # columns: one piece, and several


@pytest.mark.parametrize("dtype", ["f32", "bf16", FAST, "bf16_sparse"])
def test_a_sum_made_in_pieces_has_the_bits_of_one_made_at_once(dtype):
    """Many tokens go through packed panels, in pieces of the columns; each alone through none."""

    @given(st.data(), LONG, st.sampled_from([1, 7, 8, 9, 33]), st.sampled_from([47, 48, 131, 133]), THREADS)
    @settings(max_examples=6)
    def holds(data, k, n, t, threads):
        d = Draw(data.draw)
        w = d.weight("bf16" if dtype == FAST else dtype, n, k)
        x, residual = d.array(t, k), d.array(t, n)
        for a in (x, residual):
            a[1:-1:2] *= np.float32(1e-3)

        def build(ops, x, residual):
            return ops.linear(x, w, act="silu", residual=residual)

        def run(x, residual):
            case = Case(build, [[x, residual]], exactly, rows=len(x), fast=dtype == FAST)
            return run_kernels(case, [np.zeros(len(x), np.int64)], threads)[0]

        whole = run(x, residual)
        for i in (0, 1, t // 2, t - 2, t - 1):
            assert np.array_equal(whole[i], run(x[i : i + 1], residual[i : i + 1])[0])

    holds()


@pytest.mark.parametrize("dtype", EVERY_SPARSE)
def test_sparse_products_have_the_bits_of_the_masked_dense_ones(dtype):
    """Zeros are multiplied too: also infinity times a zero is the NaN that it is in the dense product."""

    @settings(max_examples=25, deadline=None)
    @given(st.data(), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans(), THREADS)
    def holds(data, share, finite, threads):
        d = Draw(data.draw)
        n, k = d.size(), d.size()
        numbers, keep = d.array(n, k), d.rng.random((n, k)) < share
        w, name = sparse(numbers, keep, dtype), dtype.removesuffix("_sparse")
        masked = np.where(keep, numbers, np.float32(0))
        if name == "int8":
            dense = quantized(masked, name)
        else:
            bf16 = (masked.view(np.uint32) >> 16).astype(np.uint16)
            plain = {"f32": masked, "bf16": bf16, "f16": masked.astype(np.float16)}
            dense = Weight("w", name, (n, k), plain[name], mapped=False)
        assert np.array_equal(w.f64(), dense.f64())
        assert w.nbytes == w.array.nbytes
        x, ids = d.array(d.t, k), [np.zeros(d.t, np.int64)]
        if not finite:
            x[0, -1] = np.inf
        with np.errstate(invalid="ignore"):
            a, b = (run_kernels(Case(lambda ops, x, w=w: ops.linear(x, w), [[x]], exactly), ids, threads)[0]
                    for w in (w, dense))  # fmt: skip
        assert np.array_equal(a, b, equal_nan=True)

    holds()


@pytest.mark.parametrize("x", [0.0, -0.0, np.inf, -np.inf, 1e30, -1e30, 88.0, -104.0, 1e-40])
@pytest.mark.parametrize("kind", [act for act in ACTS if act not in ("tanh", "relu2")])
def test_activations_at_the_ends(x, kind):
    one = Weight("w", "f32", (1, 1), np.ones((1, 1), np.float32), mapped=False)
    case = Case(lambda ops, x: ops.linear(x, one, act=kind), [[np.full((1, 1), x, np.float32)]], exactly)
    y, _ = run_kernels(case, [np.zeros(1, np.int64)], 1)
    if x == -np.inf:
        assert kind != "relu" or np.all(y == 0)  # -inf * 0 has no better answer than the formula's
    elif x > 80:
        assert np.all(y == np.float32(x))
    else:
        floor = 2.0**-124 * abs(x)  # where exp ends: exp(-x) stays normal
        assert np.all(np.abs(y - max(np.float32(x), 0)) <= floor + 1e-38)


WIDTHS = [
    ("linear", lambda ops, x, w: ops.linear(x, w("w", 5, 7))),
    ("linear", lambda ops, x, w: ops.linear(x, w("w", 5, 8), residual=x)),
    ("rms_norm", lambda ops, x, w: ops.rms_norm(x, w("w", 7), 1e-5)),
    ("layer_norm", lambda ops, x, w: ops.layer_norm(x, w("w", 7), None, 1e-5)),
    ("layer_norm_heads", lambda ops, x, w: ops.layer_norm_heads(x, w("w", 3), None, 1e-5, 2)),
    ("add", lambda ops, x, w: ops.add(x, ops.linear(x, w("w", 5, 8)))),
]


@pytest.mark.parametrize(("op", "build"), WIDTHS, ids=[f"{op}-{i}" for i, (op, _) in enumerate(WIDTHS)])
def test_widths_that_do_not_fit_are_refused_by_the_op(op, build):
    """While the program is recorded: no kernel looks at it."""
    ops = Recorder(n_context=4, chunk=4, n_logits=1, threads=1)
    x = ops._tensor("in", "T", 8, keep=True)
    with pytest.raises(PlanError, match=rf"^op {op}: \S+ is \d wide, \S+ wants \d$"):
        build(ops, x, lambda name, *shape: Weight(name, "f32", shape, None, mapped=False))
