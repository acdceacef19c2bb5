"""Sparse matrices: int8's layout against the dense one, bits on every CPU, and steps that allocate nothing."""

from __future__ import annotations

import gc
import hashlib
import os
import platform
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soak
from hypothesis import given
from hypothesis import strategies as st
from miaotui.loader.quantize import pack_rows
from miaotui.runtime.arena import place
from miaotui.runtime.cpu import link
from miaotui.runtime.cpu.target import integer_tile_shape
from miaotui.runtime.program import Program, place_waits
from miaotui.runtime.quantized import PANEL, quantized_shape, unpack
from miaotui.runtime.recorder.record import Recorder
from miaotui.runtime.sparse_int8 import SPREAD_PANELS, pack_sparse_int8, sparse_int8_bytes, unpack_sparse_int8
from miaotui.runtime.step import S_T, STEP_WORDS
from test_ops import EVERY_SPARSE, Case, exactly, run_kernels, sparse


@given(
    n=st.sampled_from([1, 15, 16, 17, 33, 50]),
    k=st.sampled_from([1, 31, 32, 33, 65]),
    share=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    cut=st.integers(0, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_int8_is_packed_and_read_back_exactly_and_in_pieces(n, k, share, cut, seed):
    rng = np.random.default_rng(seed)
    keep = (rng.random((n, k)) < share) & (rng.random((n, 1)) < 0.8)  # rows without a number too
    dense = np.empty(quantized_shape("int8", (n, k)), np.uint8)
    assert pack_rows(np.where(keep, rng.standard_normal((n, k)), 0).astype(np.float32), "F32", "int8", dense)
    whole, pieces = (np.full(sparse_int8_bytes((n, k), int(keep.sum())), 0xAA, np.uint8) for _ in "ab")
    pack_sparse_int8(dense, keep, whole, n)
    assert np.array_equal(unpack_sparse_int8(whole, (n, k)), unpack(dense, "int8", (n, k)))
    row = min(cut * PANEL, (n - 1) // PANEL * PANEL)
    for first, end in ((0, row), (row, n)):
        pack_sparse_int8(dense[first // PANEL : -(-end // PANEL)], keep[first:end], pieces, n, first)
    assert np.array_equal(whole, pieces)


def test_the_scratch_holds_what_a_kernel_spreads():
    assert max(integer_tile_shape(planes)[0] for planes in (1, 2)) <= SPREAD_PANELS


def products(threads: int) -> str:
    """Digest of every sparse dtype's products, for one token and for many."""
    h = hashlib.sha256()
    for dtype in EVERY_SPARSE:
        rng = np.random.default_rng(7)
        n, k = 77, 147
        w = sparse(rng.standard_normal((n, k)).astype(np.float32), rng.random((n, k)) < 0.5, dtype)
        for t in (1, 17):
            x = rng.standard_normal((t, k)).astype(np.float32)
            case = Case(lambda ops, x, w=w: ops.linear(x, w, act="silu"), [[x]], exactly)
            y, _ = run_kernels(case, [np.zeros(t, np.int64)], threads)
            h.update(y.tobytes())
    return h.hexdigest()


@pytest.mark.ci  # 16 s: compiles for another CPU
@pytest.mark.skipif(platform.machine() != "x86_64", reason="names of x86-64 CPUs")
@pytest.mark.parametrize("cpu", soak.rest("levels", ["haswell", "generic"], ["generic"]))
def test_bits_do_not_depend_on_the_cpu(cpu):
    code = "import test_sparse_kernels as t; print(t.products(2))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, env=os.environ | {"NUMBA_CPU_NAME": cpu},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == products(1)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_allocates_nothing(threads):
    from numba.core.runtime import _nrt_python, rtsys

    rng = np.random.default_rng(3)
    n = k = 48
    ops = Recorder(n_context=8, chunk=8, n_logits=1, threads=threads)
    x = ops._tensor("in", "T", k, keep=True)
    numbers, keep, y = rng.standard_normal((n, k)).astype(np.float32), rng.random((n, k)) < 0.5, x
    weights = [sparse(numbers, keep, dtype) for dtype in EVERY_SPARSE]  # alive while they are read
    for w in weights:
        y = ops.linear(y, w)
    size = place(ops.tensors, len(ops.code))
    place_waits(ops.code)
    program = Program(ops.code, ops.tensors, y, y, 8, 8, 1, threads, size, 0)
    code = program.encode(link.addresses(i.kernel for i in ops.code).__getitem__)
    arena, words = np.zeros(size + 64, np.uint8), np.zeros(STEP_WORDS, np.int64)
    executor = link.executor(threads)
    executor.bind(code.ctypes.data, len(code), arena.ctypes.data + -arena.ctypes.data % 64, words.ctypes.data)
    _nrt_python.memsys_enable_stats()

    def steps(count: int) -> None:
        for i in range(count):
            words[S_T] = 1 + i % 8
            executor.step()

    steps(8)
    gc.collect()
    gc.disable()
    before = rtsys.get_allocation_stats()
    tracemalloc.start()
    held = tracemalloc.get_traced_memory()[0]
    steps(100)
    grown = tracemalloc.get_traced_memory()[0] - held
    tracemalloc.stop()
    after = rtsys.get_allocation_stats()
    gc.enable()
    executor.close()
    assert (after.alloc, after.free) == (before.alloc, before.free)
    assert grown < 1024  # the interpreter's own small objects come and go; 100 steps leave nothing
