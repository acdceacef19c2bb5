"""What becomes of attention's scores: which keys a query sees, what is added to them, their softmax."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ...kvcache import KEYS, QUERIES
from ...ops import slots
from ...step import (
    Q_COUNT,
    Q_ENCODED,
    Q_FIRST,
    S_N_SEQUENCES,
    S_TOKENS,
    T_FIRST,
    T_LAST,
    T_SLOT,
    TOKEN_WORDS,
)
from ..attention_folds import bias_tile, tile_folds, within
from ..attention_tiles import BOUND, TILE
from ..lanes import add, div, ld, ld_i32, ldf, load, maximum, mul, splat, stf, store, sub, zero
from .base import arg, farg, jit, plain, sequence_words, template
from .elementwise import exp, tanh

F = np.float32
Y, SCRATCH, Q, KC, VC, HEADS, KV_HEADS, D, CONTEXT, PAGES, GROUP, WINDOW, SCALE = slots("attention")
CAP, TABLE, LENGTH, BEFORE, BY_KEY = slots("attention_biased")[len(slots("attention")) :]
C2P, P2C, ROWS, ROWS_BEFORE, N_ROWS = slots("attention_relative")[len(slots("attention")) :]
VECTOR = 4 * KEYS  # bytes of sixteen floats
ROW = 24  # where among a query's bounds the address of its line of biases lies


def _final(rows: int, kind: str) -> Any:
    """What becomes of scores before the softmax: scaled; if "biased", then capped, then the bias added.

    If "relative": first the query's line of other scores is added.
    """
    biases = bias_tile(rows)

    @template
    def together(p: Any, s: Any, scale: Any, bounds: Any, key: Any) -> Any:
        return mul(add(s, biases(bounds + ROW, key)), scale)

    @template
    def scaled(p: Any, s: Any, scale: Any, bounds: Any, key: Any) -> Any:
        return mul(s, scale)

    @template
    def adjusted(p: Any, s: Any, scale: Any, bounds: Any, key: Any) -> Any:
        s, cap = mul(s, scale), farg(p, CAP)
        if cap > F(0.0):
            s = mul(splat(cap), tanh(div(s, splat(cap))))
        if arg(p, TABLE) != 0:
            s = add(s, biases(bounds + ROW, key))
        return s

    return {"": scaled, "biased": adjusted, "relative": together}[kind]


@jit
def edges(rows: Any, bounds: Any, sums: Any) -> Any:
    """Of a tile's queries: their first key and the last one's end; between which keys every query sees every key.

    Each lane's own two stand in two vectors at `sums`, where some query lacks some of a block.
    """
    tile_low, tile_end, low, end = ld(bounds), 0, 0, ld(bounds + 8)
    for row in range(rows):
        at = bounds + BOUND * row
        tile_low, tile_end = min(tile_low, ld(at)), max(tile_end, ld(at + 8))
        low, end = max(low, ld(at + 16)), min(end, ld(at + 8))
    if tile_low < low or end < (tile_end + KEYS - 1) // KEYS * KEYS:
        for lane in range(KEYS):
            at = bounds + BOUND * (lane % rows)
            stf(sums + VECTOR + 4 * lane, F(ld(at + 16)))
            stf(sums + 2 * VECTOR + 4 * lane, F(ld(at + 8)))
    return tile_low, tile_end, low, end


@cache  # kernels of each kind and dtype share it
def _weigh_of(rows: int) -> Any:
    keys, _, top_rows = tile_folds(rows)

    @jit
    def weigh(line: Any, ldp: Any, bounds: Any, sums: Any, begin: Any, stop: Any, totals: Any) -> None:
        tile_low, tile_end, low, end = edges(plain(rows), bounds, sums)
        lov, nv, largest = load(sums + VECTOR), load(sums + 2 * VECTOR), top_rows(load(sums))
        for group in range(begin, stop):
            at, key, total = line + group * ldp, group * (KEYS // rows), zero()
            for j in range(tile_low, tile_end, 16):
                e = exp(sub(load(at + 4 * j), largest))
                if j < low or j + 16 > end:
                    e = within(e, keys(F(j + key)), lov, nv, F(0.0))
                store(at + 4 * j, e)
                total = add(total, e)
            store(totals + group * VECTOR, total)

    return weigh


@cache  # kernels of each dtype share them
def softmax_of(rows: int, kind: str) -> tuple[Any, Any, Any]:
    """What makes weights of the scores of a tile's queries, which lie as [group of keys][block][16 lanes].

    top(p, line, ldp, scale, bounds, sums, first, last): the largest of keys `first` to `last`, whole blocks, lane by
    lane to `sums`; scores as they count then. weigh(line, ldp, bounds, sums, begin, stop, totals): exp(score - largest)
    of groups `begin` to `stop`, and the sum of each to `totals`; largest: of all lanes of a query at `sums`.
    total(totals): the sums of the queries, in the one order.
    """
    keys, fold_rows, _ = tile_folds(rows)
    final = _final(rows, kind)

    @jit
    def top(p: Any, line: Any, ldp: Any, scale: Any, bounds: Any, sums: Any, first: Any, last: Any) -> None:
        tile_low, tile_end, low, end = edges(plain(rows), bounds, sums)
        lov, nv, largest = load(sums + VECTOR), load(sums + 2 * VECTOR), splat(F(-np.inf))
        for group in range(rows):
            at, key = line + group * ldp, group * (KEYS // rows)
            for j in range(max(first, tile_low), min(last, tile_end), 16):
                s = final(p, load(at + 4 * j), scale, bounds, j + key)
                if j < low or j + 16 > end:
                    s = within(s, keys(F(j + key)), lov, nv, F(-np.inf))
                store(at + 4 * j, s)
                largest = maximum(largest, s)
        store(sums, largest)

    return top, _weigh_of(rows), fold_rows


@template
def seen_back(p: Any, words: Any, token: Any, cross: Any) -> Any:
    """The first slot that a token sees through the layer's window, and the one after the last.

    `cross` is not 0: all of the encoder's text.
    """
    if cross != 0:
        return 0, ld(words + 8 * Q_ENCODED)
    end = ld(token + 8 * T_LAST) + 1
    return max(ld(token + 8 * T_FIRST), end - arg(p, WINDOW)), end


@template
def seen_around(p: Any, words: Any, token: Any, cross: Any) -> Any:
    """As `seen_back`, of a window on both sides."""
    slot, window = ld(token + 8 * T_SLOT), arg(p, WINDOW)
    return max(ld(token + 8 * T_FIRST), slot - window + 1), min(ld(token + 8 * T_LAST) + 1, slot + window)


@template
def row_of(p: Any, token: Any, head: Any) -> Any:
    """Where the bias of a query's scores at slot 0 would lie."""
    origin = ld(token + 8 * T_FIRST) if arg(p, BY_KEY) != 0 else ld(token + 8 * T_SLOT)
    return arg(p, TABLE) + 4 * (head * arg(p, LENGTH) + arg(p, BEFORE) - origin)


def plan_of(seen: Any) -> Any:
    """How threads divide a batch: keys that lone tokens see, a head each; and queries of a turn of the others."""

    @template
    def plan(p: Any, step: Any, nt: Any, cross: Any) -> Any:
        kv_heads, heads, tokens = arg(p, KV_HEADS), arg(p, HEADS), ld(step + 8 * S_TOKENS)
        keys, turn, more = 0, QUERIES, True
        for q in range(ld(step + 8 * S_N_SEQUENCES)):
            words = sequence_words(step, q)
            if ld(words + 8 * Q_COUNT) == 1:
                low, end = seen(p, words, tokens + 8 * TOKEN_WORDS * ld(words + 8 * Q_FIRST), cross)
                keys += end - low
        while turn > TILE and more:  # fewer where threads would wait for each other
            tiles = 0
            for q in range(ld(step + 8 * S_N_SEQUENCES)):
                n = ld(sequence_words(step, q) + 8 * Q_COUNT)
                tiles += (n * (heads // kv_heads) + turn - 1) // turn if n > 1 else 0
            more = 0 < kv_heads * tiles < 4 * nt
            turn = turn // 2 if more else turn
        return keys, turn

    return plan


@template
def fill(p: Any, base: Any, words: Any, token: Any, head: Any, line: Any) -> Any:
    """The scores of a query by distance, those of its text's first key at its slot in `line`."""
    heads, kv_heads, n = arg(p, HEADS), arg(p, KV_HEADS), arg(p, N_ROWS)
    tokens, at = ld(words + 8 * Q_FIRST), arg(p, ROWS) + 4 * arg(p, ROWS_BEFORE)
    slot, low, end = ld(token + 8 * T_SLOT), ld(token + 8 * T_FIRST), ld(token + 8 * T_LAST) + 1
    query = ((tokens + slot - low) * heads + head) * n
    key, step = (tokens * kv_heads + head // (heads // kv_heads)) * n, kv_heads * n
    both, of_query, of_key = arg(p, C2P) >= 0 and arg(p, P2C) >= 0, base + arg(p, C2P), base + arg(p, P2C)
    for j in range(low, end):
        row = ld_i32(at + 4 * (slot - j))
        if both:
            s = F(ldf(of_query + 4 * (query + row)) + ldf(of_key + 4 * (key + (j - low) * step + row)))
        elif arg(p, C2P) >= 0:
            s = ldf(of_query + 4 * (query + row))
        elif arg(p, P2C) >= 0:
            s = ldf(of_key + 4 * (key + (j - low) * step + row))
        else:
            s = F(0.0)
        stf(line + 4 * j, s)
