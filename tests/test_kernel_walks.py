"""Kernels walk their numbers in several ways, by how many there are; each way gives the bits of the plainest."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from miaotui.runtime.blocking import COLUMNS_WHOLE
from miaotui.runtime.kvcache import KEYS, PAGE
from miaotui.runtime.ops import ACTS
from miaotui.runtime.spec import Weight
from test_ops import Case, quantized, run_kernels

N = 2 * COLUMNS_WHOLE + 37  # columns that are finished together, twice, and some
ENDS = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 88.0, -104.0, 1e30, -1e30]


def exactly(_: np.ndarray) -> float:
    return 0.0


def rows_of(w: np.ndarray, dtype: str) -> Weight:
    return quantized(w, dtype) if dtype == "int8" else Weight("w", dtype, w.shape, w, mapped=False)


def vector(b: np.ndarray) -> Weight:
    return Weight("b", "f32", b.shape, b, mapped=False)


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(("dtype", "tokens"), [("f32", 1), ("f32", 5), ("f32", 50), ("int8", 1), ("int8", 7)])
def test_what_follows_a_product_is_the_same_for_many_columns(act: str, dtype: str, tokens: int) -> None:
    rng = np.random.default_rng(tokens)
    w, x = rng.standard_normal((N, 3), np.float32), rng.standard_normal((tokens, 3), np.float32)
    b, residual = rng.standard_normal(N, np.float32), rng.standard_normal((tokens, N), np.float32)
    if dtype == "f32":
        b[7 : 7 + len(ENDS)] = ENDS

    def run(columns: slice, threads: int) -> Any:
        def build(ops: Any, x: Any, residual: Any) -> Any:
            return ops.linear(x, rows_of(w[columns], dtype), vector(b[columns]), act=act, residual=residual)

        inputs = [x, np.ascontiguousarray(residual[:, columns])]
        with np.errstate(all="ignore"):
            return run_kernels(Case(build, [inputs], exactly, rows=tokens), [np.zeros(tokens, np.int64)], threads)[0]

    plain = np.concatenate([run(slice(i, i + 16), 1) for i in range(0, N, 16)], axis=1)
    assert np.isnan(plain).any() == (dtype == "f32")
    numbers = ~np.isnan(plain)
    for threads in (1, 3):
        whole = run(slice(None), threads)
        assert np.array_equal(numbers, ~np.isnan(whole))
        assert np.array_equal(whole.view(np.int32)[numbers], plain.view(np.int32)[numbers])


@pytest.mark.parametrize("kv_cache", ["f32", "bf16", "int8"])
@pytest.mark.parametrize("d_head", [16, 24, 32, 64, 80])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_query_does_not_know_which_keys_its_neighbours_see(kv_cache: str, d_head: int, threads: int) -> None:
    """In other cuts a query's tile sees one page, or two; a key is written with its block, or alone."""
    heads, cut, tokens, rng = 2, 3 * KEYS // 2, PAGE + 2 * KEYS, np.random.default_rng(d_head)
    q, k, v = (rng.standard_normal((tokens, n * d_head), np.float32) for n in (heads, 1, 1))

    def build(ops: Any, q: Any, k: Any, v: Any) -> Any:
        ops.kv_write(0, k, v, 1)
        return ops.attention(0, q, heads, 1, window=None, scale=d_head**-0.5)

    def run(*cuts: int) -> Any:
        edges = [0, *cuts, tokens]
        passes = [[a[i:j] for a in (q, k, v)] for i, j in pairwise(edges)]
        case = Case(build, passes, exactly, d_head=d_head, kv_cache=kv_cache)
        return run_kernels(case, [np.zeros(len(p[0]), np.int64) for p in passes], threads)[0]

    whole = run()
    assert np.isfinite(whole).all()
    assert np.array_equal(whole[cut:], run(cut))
    assert np.array_equal(whole[cut + 1 :], run(cut, cut + 1))
    assert np.array_equal(whole[-1:], run(*range(tokens - 3, tokens)))
