"""Attention's other kinds, by the walk of `attention.py`: with a bias, by distance, of an encoder's text."""

from __future__ import annotations

from typing import Any

from ...ops import slots
from ..target import tile_shape
from ..tiles import product_tile
from .attention import (
    BF16_BYTES,
    F32_BYTES,
    INT8_BYTES,
    attend,
    attention_of,
    tiles_bf16,
    tiles_f32,
    tiles_int8,
)
from .base import arg, kernel, plain, rows_of, share

P_Y, P_X, P_TABLE, P_HEADS, P_D, P_N = slots("head_products")
TALL, WIDE = tile_shape()

_biased, _relative = attention_of("biased"), attention_of("relative")
_product = product_tile(TALL, WIDE, "f32", packed=False)


@kernel
def attention_biased_f32(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """softmax(cap(q k^T * scale) + bias) v over the keys nearer than the window, from first to last."""
    _biased(p, base, step, t, nt, plain(F32_BYTES), tiles_f32(), plain(0), plain(0))


@kernel
def attention_biased_bf16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_biased_f32, the cache widened in registers."""
    _biased(p, base, step, t, nt, plain(BF16_BYTES), tiles_bf16(), plain(0), plain(0))


@kernel
def attention_biased_int8(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_biased_f32; a key's scale multiplies its score, a value's its weight."""
    _biased(p, base, step, t, nt, plain(INT8_BYTES), tiles_int8(), plain(0), plain(0))


@kernel
def head_products(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """A head's rows of the table stay in the first cache while all tokens pass."""
    rows, heads, d, n = rows_of(p, step), arg(p, P_HEADS), arg(p, P_D), arg(p, P_N)
    ld_x, ld_y, each = 4 * heads * d, 4 * heads * n, (n + TALL - 1) // TALL
    for item in range(share(heads * each, 1, t, nt), share(heads * each, 1, t + 1, nt)):
        head, i = item // each, item % each * TALL
        w, x = base + arg(p, P_TABLE) + i * ld_x + 4 * head * d, base + arg(p, P_X) + 4 * head * d
        y = base + arg(p, P_Y) + 4 * (head * n + i)
        for m in range(0, rows, WIDE):
            _product(w, ld_x, n - i, x + m * ld_x, ld_x, rows - m, d, y + m * ld_y, ld_y, 0, 3, 0, 0)


@kernel
def attention_relative_f32(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """softmax((q k^T + c2p + p2c) * scale) v over the keys of a text that came whole."""
    _relative(p, base, step, t, nt, plain(F32_BYTES), tiles_f32(), plain(0), plain(0))


@kernel
def attention_relative_bf16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_relative_f32, the cache widened in registers."""
    _relative(p, base, step, t, nt, plain(BF16_BYTES), tiles_bf16(), plain(0), plain(0))


@kernel
def attention_relative_int8(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_relative_f32; a key's scale multiplies its score, a value's its weight."""
    _relative(p, base, step, t, nt, plain(INT8_BYTES), tiles_int8(), plain(0), plain(0))


@kernel
def cross_attention_f32(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_f32, over every key of the encoder's text."""
    attend(p, base, step, t, nt, plain(F32_BYTES), tiles_f32(), plain(1), plain(0))


@kernel
def cross_attention_bf16(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_bf16, over every key of the encoder's text."""
    attend(p, base, step, t, nt, plain(BF16_BYTES), tiles_bf16(), plain(1), plain(0))


@kernel
def cross_attention_int8(p: Any, base: Any, step: Any, t: Any, nt: Any) -> None:
    """As attention_int8, over every key of the encoder's text."""
    attend(p, base, step, t, nt, plain(INT8_BYTES), tiles_int8(), plain(1), plain(0))
