"""What a walker runs in the place of several lines of a step of one token, with their bits.

Slots of kind "s" are places in the block's shared memory that stay from line to line of a phase: a norm that every
block makes for itself there costs no meeting of the blocks before the products that read it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...kvcache import KV_BYTES
from ...quantized import GROUP
from ..primitives import (
    WARP,
    block,
    blocks,
    high_bf16,
    high_f16,
    larger_size,
    ld4_f32,
    ld_bf16,
    ld_f16,
    ld_f32,
    ld_i64,
    low_bf16,
    low_f16,
    rolled,
    sld4_f32,
    sld_f32,
    sst_f32,
    st_f32,
    st_i64,
    thread,
    threads,
    warp_max_size,
    warp_sum,
)
from ..step import S_RESULT, S_START
from .attention import STORES, put_head
from .base import F, Kernel, all_warps, ceil, first_item, lane, small
from .elementwise import quantize_group, scale_of
from .linear import dot_floats, dot_halves, finish, row_dot
from .maths import activated
from .norm import WARPS_BYTES, layer_value, mean_and_scale, rms_scale
from .tokens import NONE, before, first_largest, largest
from .walker import THREADS

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FUSED", "HERE", "KINDS", "PRODUCTS"]

WARPS = THREADS // WARP
#: Kernels by name; all are a walker's.
FUSED: dict[str, Kernel] = {}
#: Dtypes of products that have kernels here.
KINDS = ("f32", "bf16", "f16")
#: Ends the name of a kernel whose x lies in shared memory.
HERE = "_here"


def _fused(name: str, function: Callable[..., None], blocks: Any, fields: str, shared: int = 0) -> None:
    FUSED[name] = Kernel(name, function, THREADS, blocks, lambda _: shared, tuple(fields.split()))


# ---------------------------------------------------------------------------------------------- norms, by every block
def _rms_norm(arena: Any, step: Any, rows: Any, y: Any, h: Any, x: Any, w: Any, d: Any, eps: Any) -> None:
    """h = x / sqrt(mean(x^2) + eps) * w; in y too, unless that is -1."""
    src = arena + x
    scale = rms_scale(src, d, eps)
    for j in range(thread(), d, threads()):
        _keep(arena, y, h, j, ld_f32(src + 4 * j) * scale * ld_f32(w + 4 * j))


def _layer_norm(arena: Any, step: Any, rows: Any, y: Any, h: Any, x: Any, w: Any, b: Any, d: Any, eps: Any) -> None:
    """h = (x - mean(x)) / sqrt(var(x) + eps) * w + b; in y too, unless that is -1."""
    src = arena + x
    moments = mean_and_scale(src, d, eps)
    for j in range(thread(), d, threads()):
        _keep(arena, y, h, j, layer_value(ld_f32(src + 4 * j), moments[0], moments[1], w, b, j))


def _keep(arena: Any, y: Any, h: Any, j: Any, value: Any) -> None:
    sst_f32(h + 4 * j, value)
    if y >= 0 and block() == 0:
        st_f32(arena + y + 4 * j, value)


_fused(f"rms_norm{HERE}", _rms_norm, lambda *_: 0, "o:y s:h i:x w:w n:d f:eps", WARPS_BYTES)
_fused(f"layer_norm{HERE}", _layer_norm, lambda *_: 0, "o:y s:h i:x w:w w:b n:d f:eps", WARPS_BYTES)


def _quantize(arena: Any, step: Any, rows: Any, y: Any, x: Any, k: Any) -> None:
    """As `quantize`, of x in shared memory."""
    groups = (k + GROUP - 1) // GROUP
    g = first_item()
    while g < groups:
        column = g * GROUP + lane()
        quantize_group(arena + y, groups, g, sld_f32(x + 4 * column) if column < k else F(0.0))
        g += all_warps()


_fused(f"quantize{HERE}", _quantize, lambda _, v: ceil(ceil(v["k"], GROUP), WARPS), "o:y s:x n:k")


# ---------------------------------------------------------------------------------------------- products
def _product(part: Any, size: int, here: bool) -> tuple[Callable[..., None], Callable[..., None]]:
    """y = act(x w^T + b) * times + residual, and y = act(x gate^T + b) * (x w^T + b_up), a warp for each row."""

    def plain(
        arena: Any, step: Any, rows: Any, y: Any, x: Any, w: Any, b: Any, times: Any, residual: Any, n: Any, k: Any,
        act: Any,
    ) -> None:  # fmt: skip
        src = x if here else arena + x
        i = first_item()
        while i < n:
            total = warp_sum(part(w + i * k * size, src, k))
            if lane() == 0:
                finish(arena, 0, i, total, n, y, b, times, residual, act)
            i += all_warps()

    def gated(
        arena: Any, step: Any, rows: Any, y: Any, x: Any, w: Any, b_up: Any, gate: Any, b: Any, n: Any, k: Any,
        act: Any,
    ) -> None:  # fmt: skip
        src = x if here else arena + x
        i = first_item()
        while i < n:
            up = warp_sum(part(w + i * k * size, src, k))
            value = warp_sum(part(gate + i * k * size, src, k))
            if lane() == 0:
                if b_up != 0:
                    up += ld_f32(b_up + 4 * i)
                if b != 0:
                    value += ld_f32(b + 4 * i)
                st_f32(arena + y + 4 * i, activated(value, act) * up)
            i += all_warps()

    return plain, gated


#: Slots of these; {}: where x lies.
PRODUCTS = (
    "o:y {}:x w:w w:b i:times i:residual n:n n:k n:act",
    "o:y {}:x w:w w:b_up w:gate w:b n:n n:k n:act",
)
for _place, _load4, _load, _x in (("_one", ld4_f32, ld_f32, "i"), (HERE, sld4_f32, sld_f32, "s")):
    for _kind, _part, _size in (
        ("f32", row_dot(dot_floats(_load4), ld_f32, 4, _load, 4, rolled), 4),
        ("bf16", row_dot(dot_halves(low_bf16, high_bf16, _load4), ld_bf16, 2, _load, 4), 2),
        ("f16", row_dot(dot_halves(low_f16, high_f16, _load4), ld_f16, 2, _load, 4), 2),
    ):
        _plain, _gated = _product(_part, _size, _place == HERE)
        _rows = lambda _, v: ceil(v["n"], WARPS)  # noqa: E731 - as the table of kernels has it
        _fused(f"linear_{_kind}{_place}", _plain, _rows, PRODUCTS[0].format(_x))
        _fused(f"gated_{_kind}{_place}", _gated, _rows, PRODUCTS[1].format(_x))


# ---------------------------------------------------------------------------------------------- rotation and cache
def _rope_write(store: Any, size: int, scaled: bool) -> Callable[..., None]:
    def turn(x: Any, angle: Any, i: Any, half: Any) -> Any:
        """Pair i of a head, rotated as `rope` does."""
        c, s = ld_f32(angle + 8 * i), ld_f32(angle + 8 * i + 4)
        a, b = ld_f32(x + 4 * i), ld_f32(x + 4 * (i + half))
        return a * c - b * s, b * c + a * s

    def keep_key(x: Any, to: Any, scale_at: Any, angle: Any, d: Any, d_pad: Any) -> None:
        """*warp* A head of k, rotated, as `kv_write` writes it."""
        factor, half = F(1.0), d // 2
        if scaled:
            top = F(0.0)
            for i in range(lane(), half, WARP):
                p = turn(x, angle, i, half)
                top = larger_size(top, larger_size(abs(p[0]), abs(p[1])))
            top = warp_max_size(top)
            factor = F(127.0) / top if top > F(0.0) else F(0.0)
            if lane() == 0:
                st_f32(scale_at, scale_of(top))
        for i in range(lane(), half, WARP):
            p = turn(x, angle, i, half)
            store(to + size * i, p[0] * factor)
            store(to + size * (i + half), p[1] * factor)
        for j in range(d + lane(), d_pad, WARP):
            store(to + size * j, F(0.0))

    put = put_head(store, size, scaled)

    def body(
        arena: Any, step: Any, rows: Any, y: Any, k_cache: Any, v_cache: Any, q: Any, k: Any, v: Any, table: Any,
        heads: Any, kv_heads: Any, d_head: Any, context: Any,
    ) -> None:  # fmt: skip
        """A warp for each head of v, of k and of q."""
        d_pad, pos, half = (d_head + 15) // 16 * 16, ld_i64(step + 8 * S_START), d_head // 2
        head_bytes, angle = context * (d_pad * size + (4 if scaled else 0)), table + 8 * pos * half
        item = first_item()
        while item < 2 * kv_heads + heads:
            h = small(item) % kv_heads if item < 2 * kv_heads else item - 2 * kv_heads
            to, scale = h * head_bytes + pos * d_pad * size, h * head_bytes + context * d_pad * size + 4 * pos
            x = 4 * h * d_head
            if item < kv_heads:
                put(arena + v + x, arena + v_cache + to, arena + v_cache + scale, d_head, d_pad)
            elif item < 2 * kv_heads:
                keep_key(arena + k + x, arena + k_cache + to, arena + k_cache + scale, angle, d_head, d_pad)
            else:
                for i in range(lane(), half, WARP):
                    p = turn(arena + q + x, angle, i, half)
                    st_f32(arena + y + x + 4 * i, p[0])
                    st_f32(arena + y + x + 4 * (i + half), p[1])
            item += all_warps()

    return body


for _kind, _size in KV_BYTES.items():
    _fused(f"rope_write_{_kind}", _rope_write(STORES[_kind], _size, _kind == "int8"),
           lambda _, v: ceil(2 * v["kv_heads"] + v["heads"], WARPS),
           "o:y o:k_cache o:v_cache i:q i:k i:v w:table n:heads n:kv_heads n:d_head n:context")  # fmt: skip


# ---------------------------------------------------------------------------------------------- the largest logit
def _argmax_parts(arena: Any, step: Any, rows: Any, parts: Any, x: Any, n: Any) -> None:
    """Each block's largest and its place, 16 bytes: as `largest` has it."""
    mine = first_largest(arena + x, block() * threads() + thread(), n, blocks() * threads())
    winner = largest(thread(), mine[0], mine[1])
    if thread() == 0:
        st_f32(parts + 16 * block(), winner[0])
        st_i64(parts + 16 * block() + 8, winner[1])


def _argmax_merge(arena: Any, step: Any, rows: Any, parts: Any) -> None:
    """The result of all parts; one block's work."""
    top, best = F(-np.inf), NONE
    for i in range(thread(), blocks() if block() == 0 else 0, threads()):
        v, at = ld_f32(parts + 16 * i), ld_i64(parts + 16 * i + 8)
        if before(v, at, top, best):
            top, best = v, at
    winner = largest(thread(), top, best)
    if thread() == 0 and block() == 0:
        st_i64(step + 8 * S_RESULT, max(winner[1], -1))


_fused("argmax_parts", _argmax_parts, lambda _, v: ceil(v["n"], THREADS), "w:parts i:x n:n", 8 * 1024)
_fused("argmax_merge", _argmax_merge, lambda *_: 1, "w:parts", 8 * 1024)
