"""A walker's products with quantised matrices, of one token, and their input that every block rounds for itself.

A norm that lies in the block's shared memory already (`fused.py`) is rounded to after it. All with the bits of the
lines, and among the others in `FUSED`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...quantized import GROUP, PANEL, QUANTIZED
from ..primitives import (
    block,
    blocks,
    larger_size,
    ld_f32,
    sld_f32,
    sld_i32,
    sst_f32,
    sst_i32,
    st_f32,
    thread,
    threads,
    warp_take,
    warp_take_i,
)
from .base import F, Kernel, ceil, lane
from .elementwise import scale_of, to_byte
from .fused import FUSED, HERE, PRODUCTS
from .linear import finish
from .maths import activated
from .quantized import THREADS as TEAM
from .quantized import X_BYTES, joined, panel_part
from .walker import THREADS

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FUSED", "INSIDE", "ROUNDED", "rounded_bytes"]

#: Matrices whose products are here.
ROUNDED = tuple(QUANTIZED)
TEAMS = THREADS // TEAM
#: Rounds what lies in shared memory to there.
INSIDE = "quantize_inside"
EACH = 4  # numbers of a thread
LANES = GROUP // EACH


def rounded_bytes(k: int) -> int:
    """Of k numbers, rounded."""
    return X_BYTES * ceil(k, GROUP)


def _quantize(arena: Any, step: Any, rows: Any, q: Any, x: Any, k: Any) -> None:
    """As `quantize`, in every block: eight threads for each group, four numbers for each thread."""
    groups = (k + GROUP - 1) // GROUP
    for i in range(thread(), (groups * LANES + 31) // 32 * 32, threads()):
        at, j = x + 4 * EACH * i, EACH * i
        a, b = sld_f32(at) if j < k else F(0.0), sld_f32(at + 4) if j + 1 < k else F(0.0)
        c, d = sld_f32(at + 8) if j + 2 < k else F(0.0), sld_f32(at + 12) if j + 3 < k else F(0.0)
        top = larger_size(larger_size(abs(a), abs(b)), larger_size(abs(c), abs(d)))
        for near in (4, 2, 1):
            top = larger_size(top, warp_take(top, lane() ^ near))
        inverse = F(127.0) / top if top > F(0.0) else F(0.0)
        p, r, s, t = to_byte(a * inverse), to_byte(b * inverse), to_byte(c * inverse), to_byte(d * inverse)
        total = p + r + s + t
        for near in (4, 2, 1):
            total += warp_take_i(total, lane() ^ near)
        if j < groups * GROUP:
            sst_i32(q + j, p & 255 | (r & 255) << 8 | (s & 255) << 16 | (t & 255) << 24)
            if j % GROUP == 0:
                sst_f32(q + groups * GROUP + 4 * (j // GROUP), scale_of(top))
                sst_i32(q + groups * (GROUP + 4) + 4 * (j // GROUP), total)


FUSED[INSIDE] = Kernel(INSIDE, _quantize, THREADS, lambda *_: 0, lambda _: 0, ("s:q", "s:x", "n:k"))


def _products(kind: str, *, here: bool) -> tuple[Callable[..., None], Callable[..., None]]:
    """y = act(x w^T + b) * times + residual, and y = act(x gate^T + b) * (x w^T + b_up), as `quantized.py` has them."""
    part = panel_part(kind, sld_i32, sld_f32) if here else panel_part(kind)

    def plain(
        arena: Any, step: Any, rows: Any, y: Any, x: Any, w: Any, b: Any, times: Any, residual: Any, n: Any, k: Any,
        act: Any,
    ) -> None:  # fmt: skip
        src, groups, panels = x if here else arena + x, (k + GROUP - 1) // GROUP, (n + PANEL - 1) // PANEL
        first = block() * TEAMS
        while first < panels:
            panel = first + thread() // TEAM
            i, count = panel * PANEL + thread() % PANEL, groups if panel < panels else 0
            value = joined(part(w, src, panel, groups, count))
            if thread() % TEAM < PANEL and i < n:
                finish(arena, 0, i, value, n, y, b, times, residual, act)
            first += blocks() * TEAMS

    def gated(
        arena: Any, step: Any, rows: Any, y: Any, x: Any, w: Any, b_up: Any, gate: Any, b: Any, n: Any, k: Any,
        act: Any,
    ) -> None:  # fmt: skip
        src, groups, panels = x if here else arena + x, (k + GROUP - 1) // GROUP, (n + PANEL - 1) // PANEL
        first = block() * TEAMS
        while first < panels:
            panel = first + thread() // TEAM
            i, count = panel * PANEL + thread() % PANEL, groups if panel < panels else 0
            up = joined(part(w, src, panel, groups, count))
            value = joined(part(gate, src, panel, groups, count))
            if thread() % TEAM < PANEL and i < n:
                if b_up != 0:
                    up += ld_f32(b_up + 4 * i)
                if b != 0:
                    value += ld_f32(b + 4 * i)
                st_f32(arena + y + 4 * i, activated(value, act) * up)
            first += blocks() * TEAMS

    return plain, gated


def _add(name: str, function: Callable[..., None], fields: str) -> None:
    FUSED[name] = Kernel(name, function, THREADS, lambda _, v: ceil(v["n"], PANEL * TEAMS), lambda _: 4 * THREADS,
                         tuple(fields.split()))  # fmt: skip


for _kind in ROUNDED:
    _plain, _gated = _products(_kind, here=True)
    _add(f"linear_{_kind}{HERE}", _plain, PRODUCTS[0].format("s"))
    _add(f"gated_{_kind}{HERE}", _gated, PRODUCTS[1].format("s"))
    _add(f"linear_{_kind}_one", _products(_kind, here=False)[0], PRODUCTS[0].format("i"))
