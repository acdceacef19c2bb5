"""Quantised matrices: products, and rows of an embedding.

A thread owns whole panels. Decode walks two streams of panels, half of the thread's share apart; prefill keeps the
weights of a few panels in the first cache while all tokens pass by. Nothing of this changes a bit (`integer.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...blocking import COLUMNS_WHOLE
from ...ops import slots
from ...quantized import GROUP, GROUP_BYTES, HEAD_BYTES, PANEL, QUANTIZED, SCALE_BYTES
from ...sparse_int8 import SPARSE_INT8, SPREAD_PANELS
from ...step import T_ID
from ..integer import (
    integer_tile,
    ld_byte,
    ld_half,
    spread_panel,
)
from ..lanes import ld, stf
from ..target import integer_tile_shape
from .base import arg, kernel, rows_of, share, template, token_word
from .linear import epilogue

F = np.float32
L_Y, L_SCRATCH, L_X, L_W, _, _, _, L_N, L_K, _ = slots("linear")
E_Y, E_W, E_D = slots("embed")
STREAMS = 2
AHEAD = 3072
CHUNK = COLUMNS_WHOLE // PANEL  # panels whose results are finished together
DENSE_BYTES = GROUP_BYTES["int8"]


def _walk(kind: str, dense: str, ahead: int, place: Any, spread: Any, planes: int) -> Any:
    """The body of a product with panels of `kind`, which are of kind `dense` once `spread` gave them for many tokens.

    `place(w, i, groups)` is where panel i lies; `spread(p, base, t, i, count)` gives where panels i, i + 1, ... lie for
    many tokens, and how far apart. `planes`: of the input.
    """
    n_panels, n_tokens = integer_tile_shape(planes)
    # Two planes are rare: what is left of panels and tokens takes such tiles of theirs as there are.
    n_last = n_tokens if planes == 1 or n_panels == 1 else 1
    # What takes most of a prompt has more addresses than registers: LLVM finds better ones in the kernel itself.
    full = integer_tile(n_panels, n_tokens, dense, planes=planes, pasted=planes == 1)
    one_panel = integer_tile(1, n_last, dense, planes=planes)
    one_token = integer_tile(n_panels, 1, dense, AHEAD if planes > 1 and n_panels == STREAMS else 0, planes)
    single, one = (integer_tile(1, 1, k, planes=planes) for k in (dense, kind))
    stream = integer_tile(STREAMS, 1, kind, ahead, planes)
    x_bytes = GROUP * planes + 8  # of a group of the input: bytes, scale, sum

    @template
    def body(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
        m_all, n, w = rows_of(p, step), arg(p, L_N), arg(p, L_W)
        x, y, ldy = base + arg(p, L_X), base + arg(p, L_Y), 4 * n
        groups = (arg(p, L_K) + GROUP - 1) // GROUP
        ldx, row = groups * x_bytes, 4 * PANEL
        panels = (n + PANEL - 1) // PANEL
        p0, p1 = share(panels, 1, t, nt), share(panels, 1, t + 1, nt)
        if m_all == 1:
            h = (p1 - p0) // STREAMS
            for i in range(p0, p0 + h):
                at = place(w, i, groups)
                apart = place(w, i + h, groups) - at
                stream(at, apart, x, ldx, groups, y + row * i, ldy, row * h, n - PANEL * i, 1)
            for i in range(p0 + STREAMS * h, p1):
                one(place(w, i, groups), 0, x, ldx, groups, y + row * i, ldy, row, n - PANEL * i, 1)
            epilogue(p, base, (0, m_all), (PANEL * p0, min(n, PANEL * p1)))
        if m_all < 2:  # none: a piece of the prompt that is not its last
            return
        tiles, tokens, finished = p0 + (p1 - p0) // n_panels * n_panels, m_all // n_tokens * n_tokens, p0
        for i in range(p0, tiles, n_panels):
            (at, panel), out, left = spread(p, base, t, i, n_panels), y + row * i, n - PANEL * i
            full(at, panel, x, ldx, groups, out, ldy, row, left, m_all // n_tokens)
            one_token(at, panel, x + tokens * ldx, ldx, groups, out + tokens * ldy, ldy, row, left, m_all - tokens)
            if i + n_panels == tiles or i + n_panels >= finished + CHUNK:
                epilogue(p, base, (0, m_all), (PANEL * finished, min(n, PANEL * (i + n_panels))))
                finished = i + n_panels
        last = m_all // n_last * n_last
        for i in range(tiles, p1):
            (at, panel), out, left = spread(p, base, t, i, 1), y + row * i, n - PANEL * i
            one_panel(at, panel, x, ldx, groups, out, ldy, row, left, m_all // n_last)
            single(at, panel, x + last * ldx, ldx, groups, out + last * ldy, ldy, row, left, m_all - last)
            epilogue(p, base, (0, m_all), (PANEL * i, min(n, PANEL * (i + 1))))

    return body


def _linear(kind: str, planes: int = 1) -> Any:
    size = GROUP_BYTES[kind]

    @template
    def place(w: Any, i: Any, groups: Any) -> Any:
        return w + i * groups * size

    @template
    def spread(p: Any, _base: Any, _t: Any, i: Any, _: Any) -> Any:
        panel = (arg(p, L_K) + GROUP - 1) // GROUP * size
        return arg(p, L_W) + i * panel, panel

    return _walk(kind, kind, AHEAD, place, spread, planes)


@template
def _sparse_place(w: Any, i: Any, _: Any) -> Any:
    return w + ld(w + 8 * i)


@template
def _sparse_spread(p: Any, base: Any, t: Any, i: Any, count: Any) -> Any:
    groups, w = (arg(p, L_K) + GROUP - 1) // GROUP, arg(p, L_W)
    panel = groups * DENSE_BYTES
    scratch = base + arg(p, L_SCRATCH) + t * SPREAD_PANELS * panel
    ahead = ld(w + 8 * (i + count)) - ld(w + 8 * i)
    for j in range(count):
        spread_panel(w + ld(w + 8 * (i + j)), groups, scratch + j * panel, ahead)
    return scratch, panel


def _embed(kind: str) -> Any:
    size, head, offset, wide = GROUP_BYTES[kind], HEAD_BYTES[kind], QUANTIZED[kind], kind == "int8"
    half, lowest = GROUP // 2, head > SCALE_BYTES

    @template
    def body(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
        rows, d, w, y = rows_of(p, step), arg(p, E_D), arg(p, E_W), base + arg(p, E_Y)
        groups = (d + GROUP - 1) // GROUP
        for r in range(share(rows, 1, t, nt), share(rows, 1, t + 1, nt)):
            row = token_word(step, r, T_ID)
            panel, lane = w + row // PANEL * groups * size, row % PANEL
            for j in range(d):
                at, k = panel + j // GROUP * size, j % GROUP
                c = k if wide else k % half
                q = ld_byte(at + head + c // 4 * (4 * PANEL) + 4 * lane + c % 4)
                if not wide:
                    q = q >> 4 if k >= half else q & 15
                value = F(F(q - offset) * ld_half(at + 2 * lane))
                if lowest:
                    value = F(value + ld_half(at + SCALE_BYTES + 2 * lane))
                stf(y + 4 * (r * d + j), value)

    return body


_linear_int8, _linear_int4, _linear_int4a = map(_linear, ("int8", "int4", "int4a"))
_linear_int8_planes, _linear_int4_planes, _linear_int4a_planes = (_linear(d, 2) for d in ("int8", "int4", "int4a"))
_linear_int8_sparse, _linear_int8_sparse_planes = (
    _walk(SPARSE_INT8, "int8", 2048, _sparse_place, _sparse_spread, planes) for planes in (1, 2)
)
_embed_int8, _embed_int4, _embed_int4a = _embed("int8"), _embed("int4"), _embed("int4a")


@kernel
def linear_int8(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """8.5 bits a weight."""
    _linear_int8(p, base, step, t, nt)


@kernel
def linear_int4(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """4.5 bits a weight."""
    _linear_int4(p, base, step, t, nt)


@kernel
def linear_int4a(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """5 bits a weight."""
    _linear_int4a(p, base, step, t, nt)


@kernel
def linear_int8_sparse(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """int8 weights, those that are kept: 5.5 bits a weight where half are."""
    _linear_int8_sparse(p, base, step, t, nt)


@kernel
def linear_int8_planes(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """With an input of two planes."""
    _linear_int8_planes(p, base, step, t, nt)


@kernel
def linear_int4_planes(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """With an input of two planes."""
    _linear_int4_planes(p, base, step, t, nt)


@kernel
def linear_int4a_planes(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """With an input of two planes."""
    _linear_int4a_planes(p, base, step, t, nt)


@kernel
def linear_int8_sparse_planes(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """With an input of two planes."""
    _linear_int8_sparse_planes(p, base, step, t, nt)


@kernel
def embed_int8(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """y[t] = w[id of token t]."""
    _embed_int8(p, base, step, t, nt)


@kernel
def embed_int4(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """y[t] = w[id of token t]."""
    _embed_int4(p, base, step, t, nt)


@kernel
def embed_int4a(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """y[t] = w[id of token t]."""
    _embed_int4a(p, base, step, t, nt)
