"""Attention by pairs of BF16: its tiles have the bits of the rule, with the instruction and without it.

What is drawn is what tests/test_bf16_dot.py draws: sums about 2^-126, denormals, infinities and NaN too. That a whole
pass has the same bits in chunks, alone, in a batch and by any number of threads follows in tests/test_split.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.runtime import bf16_dot as rule
from miaotui.runtime.cpu import attention_tiles as tiles
from miaotui.runtime.cpu import pairs, target
from miaotui.runtime.cpu.lanes import peek
from miaotui.runtime.kvcache import KEYS, PAGE, PAIRS, padded
from miaotui.runtime.ops import FAST
from numba import njit
from test_bf16_dot import SPECIAL, equal
from test_ops import Draw

WAYS = ["instruction", "plain"]
TILE, BLOCKS = tiles.TILE, tiles.BLOCKS


@pytest.fixture(scope="module")
def compiled() -> Any:
    """A function (way) -> (scores, values), each called with where a function's address stands, and its arguments."""
    made: dict[str, Any] = {}
    call_scores, call_values = tiles.call_scores, tiles.call_values
    enter, leave = pairs.flush_mode, pairs.leave_flush_mode

    def compile_way(way: str) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pairs, "bf16_dot", lambda: way == "instruction")
            table = tiles.tiles_of(FAST)

            @njit("void(int64, int64, int64, int64, int64, int64, int64)")
            def scores(at, q, k, d_pad, out, ldo, part):
                mode = enter()
                call_scores(peek(table() + at), q, k, 0, d_pad, out, ldo, 0, 0, part)
                leave(mode)

            @njit(f"void({', '.join(['int64'] * 14)})")
            def values(at, by_page, p, ldp, pool, pages, page_bytes, row, column, bounds, edges, n_pages, out, stride):
                mode = enter()
                for i in range(n_pages if by_page else KEYS):
                    page, until, begin, stop = (i, i + 1, 0, KEYS) if by_page else (0, n_pages, i, i + 1)
                    call_values(peek(table() + at), p, ldp, pool, pages, page_bytes, row, column, bounds, edges,
                                page, until, out, stride, 1 if page == 0 else 0, begin, stop)  # fmt: skip
                leave(mode)

            return scores, values

    def get(way: str) -> Any:
        if way == "instruction" and not target.bf16_dot():
            pytest.skip("a CPU without AVX-512 BF16")
        if way not in made:
            made[way] = compile_way(way)
        return made[way]

    return get


def bits(x: np.ndarray) -> np.ndarray:
    """Of BF16 numbers."""
    return (np.ascontiguousarray(x).view(np.uint32) >> 16).astype(np.uint16)


def words(even: np.ndarray, odd: np.ndarray) -> np.ndarray:
    low, high = (bits(rule.to_bf16(x)).astype(np.uint32) for x in (even, odd))
    return low | high << 16


def drawn(d: Draw, kind: str, *shape: int) -> np.ndarray:
    x = d.at_the_edge(*shape) if kind == "edge" else d.array(*shape)
    if kind == "special":
        some = d.rng.random(x.shape) < 0.1
        x[some] = d.rng.choice((SPECIAL.astype(np.uint32) << 16).view(np.float32), int(some.sum()))
    return x


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["usual", "edge", "special"])
def test_scores(compiled: Any, way: str, kind: str) -> None:
    scores, _ = compiled(way)

    @settings(max_examples=20, deadline=None)
    @given(st.data(), st.sampled_from([1, 7, 8, 9, 16, 17, 64, 80]), st.sampled_from([1, BLOCKS]))
    def rounds(data: st.DataObject, d_head: int, blocks: int) -> None:
        d, d_pad = Draw(data.draw), padded(d_head)
        q, k = drawn(d, kind, TILE, d_head), rule.to_bf16(drawn(d, kind, KEYS * blocks, d_head))
        wide = [np.pad(x, ((0, 0), (0, d_pad - d_head))) for x in (q, k)]
        groups = wide[0].reshape(TILE, d_pad // 16, 2, 8)
        queries = np.full((d_pad // 16, TILE, 16), 0xFFFFFFFF, np.uint32)  # the other eight are not looked at
        queries[:, :, :8] = words(groups[:, :, 0], groups[:, :, 1]).transpose(1, 0, 2)
        keys = bits(wide[1]).reshape(blocks, KEYS, d_pad // 16, 2, 8).transpose(0, 4, 2, 3, 1)[:, list(PAIRS)]
        keys = np.ascontiguousarray(keys)
        out = np.full((TILE, blocks, 16), np.nan, np.float32)
        part = np.zeros(4 * 16 * TILE * BLOCKS, np.float32)
        at = tiles.SCORES if blocks > 1 else tiles.SCORES_OF_BLOCK
        scores(at, queries.ctypes.data, keys.ctypes.data, d_pad, out.ctypes.data, out.strides[0], part.ctypes.data)
        got = out.reshape(TILE, blocks, KEYS // TILE, TILE).transpose(3, 1, 0, 2).reshape(TILE, -1)
        assert equal(got, rule.attention_scores(q, k))

    rounds()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["usual", "edge", "special"])
def test_values(compiled: Any, way: str, kind: str) -> None:
    _, values = compiled(way)

    @settings(max_examples=20, deadline=None)
    @given(st.data(), st.integers(0, len(tiles.WIDTHS) - 1), st.integers(0, 1), st.integers(1, 2 * PAGE + 40))
    def rounds(data: st.DataObject, width: int, by_page: int, end: int) -> None:
        d, vectors = Draw(data.draw), tiles.WIDTHS[width]
        lows = [data.draw(st.integers(0, end - 1)) for _ in range(TILE)]
        ends = [data.draw(st.integers(low + 1, end)) for low in lows]
        n_pages = (end + PAGE - 1) // PAGE
        w = np.abs(drawn(d, kind, TILE, n_pages * PAGE))
        v = rule.to_bf16(drawn(d, kind, n_pages * PAGE, 16 * vectors))
        unseen = np.arange(n_pages * PAGE) >= end
        w[:, unseen], v[unseen] = np.nan, np.nan  # what no query sees must not be looked at
        blocks = w.reshape(TILE, n_pages * PAGE // 32, 2, KEYS)
        p = np.full((TILE, n_pages * PAGE // 32, 2, KEYS // TILE, TILE), 0xFFFFFFFF, np.uint32)
        both = words(blocks[:, :, 0], blocks[:, :, 1]).reshape(TILE, -1, TILE, KEYS // TILE)
        p[:, :, 0] = both.transpose(2, 1, 3, 0)
        order = d.rng.permutation(n_pages).astype(np.int32)
        pool = np.zeros((n_pages, KEYS, PAGE // KEYS, 16 * vectors), np.uint16)
        pool[order] = bits(v).reshape(n_pages, PAGE // KEYS, KEYS, -1).transpose(0, 2, 1, 3)
        bounds = np.zeros((TILE, tiles.BOUND // 8), np.int64)
        for m, (low, stop) in enumerate(zip(lows, ends, strict=True)):
            bounds[m, :3] = low & -16, stop, low
        from_all = max((low + 15) // 16 for low in lows)
        to_all = max(from_all, min(stop // 16 for stop in ends))
        edges = np.array([min(lows) // 16, from_all, to_all, max((stop + 15) // 16 for stop in ends)], np.int64)
        out = np.full((KEYS, TILE, 16 * vectors), np.nan, np.float32)
        values(tiles.VALUES + 8 * width, by_page, p.ctypes.data, p.strides[0], pool.ctypes.data, order.ctypes.data,
               pool.strides[0], pool.strides[2], 0, bounds.ctypes.data, edges.ctypes.data, n_pages,
               out.ctypes.data, out.strides[0])  # fmt: skip
        for m, (low, stop) in enumerate(zip(lows, ends, strict=True)):
            assert equal(out[:, m], rule.attention_values(w[m : m + 1, low:stop], v[low:stop], low)[0])

    rounds()
