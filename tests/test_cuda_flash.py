"""Attention of many tokens by the tensor core, in the emulator: against the reference, and where it is chosen."""

from __future__ import annotations

import numpy as np
import pytest
from emulation import SCHEDULES, emulate
from miaotui.runtime.cuda.kernels import KERNELS, chosen
from miaotui.runtime.cuda.kernels.flash import KEYS, LEAST_ROWS, WIDTHS
from miaotui.runtime.kvcache import KV_BYTES
from test_ops import Case, run_reference
from tolerance import bound


def case_of(cuts, heads, kv_heads, d_head, *, window=None, variant="bf16", scale=0.25):
    """Attention over passes of n tokens. Numbers and scale are such that no rounding to bfloat16 changes one."""
    rng = np.random.default_rng(sum(cuts) + d_head)

    def array(t, width):
        return ((rng.standard_normal((t, width)).astype(np.float32).view(np.uint32) >> 16) << 16).view(np.float32)

    def build(ops, q, k, v):
        ops.kv_write(0, k, v, kv_heads)
        return ops.attention(0, q, heads, kv_heads, window=window, scale=scale)

    passes = [[array(t, heads * d_head), *(array(t, kv_heads * d_head) for _ in "kv")] for t in cuts]
    score = max(np.abs(q).max() * np.abs(k).max() for q, k, _ in passes) * d_head * scale
    largest = max(np.abs(v).max() for _, _, v in passes)
    off = bound("attention", variant, d_head + sum(cuts)) * (1 + score) * largest + bound("flash", "bf16", 1, largest)
    return Case(build, passes, lambda _: off, n_kv_heads=kv_heads, d_head=d_head, kv_cache=variant, fast=True)


def holds(case, schedule="forward"):
    """The last pass, against the reference."""
    ids = [np.zeros(len(p[0]), np.int64) for p in case.passes]
    launched = []
    y, _ = emulate(case, ids, schedule, launched)
    assert "flash" in launched[-1]
    expected, _ = run_reference(case, ids)
    assert np.all(np.abs(y - expected) <= case.tolerance(expected)), np.abs(y - expected).max()
    return y


@pytest.mark.parametrize("cuts", [[16], [KEYS - 1], [KEYS], [KEYS + 1]], ids=str)
def test_tiles_and_what_is_beside_them(cuts):
    holds(case_of(cuts, 2, 1, 16))


@pytest.mark.parametrize(
    ("cuts", "window"), [([60, 33], None), ([5, 20], 1), ([60, 33], 40), ([64, 16], 17), ([KEYS + 7, 20], 65)], ids=str
)
def test_older_keys_and_windows(cuts, window):
    holds(case_of(cuts, 3, 1, 16, window=window), "drawn")


@pytest.mark.parametrize(
    ("variant", "d_head"), [("bf16", 80), ("bf16", 128), ("f32", 64), ("f32", 96), ("int8", 7), ("int8", 128)]
)
def test_every_cache_and_width(variant, d_head):
    holds(case_of([20, 17], 4, 2, d_head, variant=variant), "backward")


@pytest.mark.parametrize("variant", KV_BYTES)
def test_the_order_of_threads_changes_no_bit(variant):
    case = case_of([9, 40], 2, 2, 24, variant=variant)
    assert len({holds(case, schedule).tobytes() for schedule in SCHEDULES}) == 1


def test_it_is_for_many_rows_of_fast_programs():
    v = {"d_head": 64, "heads": 4, "kv_heads": 2, "context": 4096}
    assert "flash64" in chosen("attention_bf16", LEAST_ROWS, v, fast=True).name
    assert "flash128" in chosen("attention_bf16", LEAST_ROWS, v | {"d_head": 65}, fast=True).name
    assert chosen("attention_bf16", LEAST_ROWS, v).name == "attention_bf16"
    assert "flash64" in chosen("attention_bf16", LEAST_ROWS, v, fast=True, batched=True).name
    for context in (64, 4096):  # what one token has knows of no other sequence
        assert chosen("attention_bf16", 1, v | {"context": context}, batched=True) is KERNELS["attention_bf16"]
    assert chosen("attention_bf16", LEAST_ROWS - 1, v, fast=True).name == "attention_bf16"
    assert chosen("attention_bf16", LEAST_ROWS, v | {"d_head": WIDTHS[-1] + 1}, fast=True) is KERNELS["attention_bf16"]
