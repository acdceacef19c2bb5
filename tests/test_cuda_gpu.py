"""On a GPU, where there is one: every op against the reference, and the demo model against the CPU. `pytest -m gpu`."""

from __future__ import annotations

from dataclasses import replace

import miaotui
import numpy as np
import pytest
from emulation import run_on
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import BackendError
from miaotui.runtime.cuda.backend import CudaBackend
from miaotui.runtime.cuda.driver import CudaDevice
from miaotui.runtime.cuda.interpreter import WAYS
from miaotui.runtime.cuda.kernels import SPECIAL
from miaotui.runtime.kvcache import KV_BYTES
from miaotui.runtime.sampling import SamplingParams
from miaotui.runtime.spec import Weight
from miaotui.tools.demo import path
from test_cuda_draw import drawn
from test_cuda_flash import case_of
from test_cuda_models import compare
from test_cuda_ops import GPU_ACTS, LINEAR, ROWS, TILED
from test_ops import CASES, Case, Draw, run_reference
from tolerance import bound

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def device():
    try:
        CudaDevice().close()
    except BackendError as e:
        pytest.skip(str(e))


@pytest.mark.parametrize(("name", "variant"), ROWS, ids=lambda v: v)
def test_the_kernel_is_its_reference(name, variant):
    @settings(max_examples=25, deadline=None)
    @given(st.data())
    def holds(data):
        d = Draw(data.draw)
        d.acts = GPU_ACTS
        case = CASES[name](d, variant)
        ids = [d.rng.integers(0, case.n_vocab, len(p[0]) if p else d.t) for p in case.passes]
        y, result = run_on(CudaDevice(), case, ids)
        expected, expected_result = run_reference(case, ids)
        assert result == (expected_result or [-1])[-1]
        if expected is not None:
            assert np.all(np.abs(case.read(y) - expected) <= case.tolerance(expected))
            again, _ = run_on(CudaDevice(), case, ids)
            assert y.tobytes() == again.tobytes()

    holds()


def near(case):
    """The result of a case on the GPU, against the reference; the same bits in two runs."""
    ids = [np.zeros(len(p[0]), np.int64) for p in case.passes]
    y, _ = run_on(CudaDevice(), case, ids)
    expected, _ = run_reference(case, ids)
    assert np.all(np.abs(y - expected) <= case.tolerance(expected))
    again, _ = run_on(CudaDevice(), case, ids)
    assert y.tobytes() == again.tobytes()


@pytest.mark.parametrize("tiled", sorted(TILED))
@pytest.mark.parametrize("shape", [(16, 8, 1), (300, 1032, 520), (257, 2048, 513), (2100, 520, 2600)], ids=str)
def test_products_by_the_tensor_core(tiled, shape, monkeypatch):
    name, kernel = TILED[tiled]
    device = CudaDevice()
    if kernel.only not in {"", device.architecture}:
        pytest.skip(f"{tiled} is for {kernel.only}")
    device.close()
    monkeypatch.setitem(SPECIAL, name, (replace(kernel, fits=lambda *_: True),))
    t, k, n = shape
    rng, dtype = np.random.default_rng(0), "f16" if "f16" in name else "bf16"
    x = (rng.integers(-128, 128, (t, k)) / 64).astype(np.float32)  # in either of 16 bits
    w = (rng.integers(-128, 128, (n, k)) / 64).astype(np.float32)
    held = w.astype(np.float16) if dtype == "f16" else (w.view(np.uint32) >> 16).astype(np.uint16)
    weight = Weight("w", dtype, w.shape, held, mapped=False)
    off = bound("linear", dtype, k) * (np.abs(x).astype(float) @ np.abs(w.astype(float)).T)
    near(Case(lambda ops, x: ops.linear(x, weight), [[x]], lambda _: off, fast=True))


@pytest.mark.parametrize("variant", KV_BYTES)
@pytest.mark.parametrize("d_head", [20, 64, 80, 128])
@pytest.mark.parametrize("window", [None, 100])
def test_attention_by_the_tensor_core(variant, d_head, window):
    near(case_of([200, 131], 6, 2, d_head, window=window, variant=variant))


@pytest.mark.parametrize("name", sorted(set(LINEAR) - set(TILED)))
@pytest.mark.parametrize("shape", [(8, 64, 1), (33, 1088, 65), (257, 2048, 513), (128, 4096, 6144)], ids=str)
def test_many_rows_have_the_bits_of_few(name, shape, monkeypatch):
    op, kernel = LINEAR[name]
    t, k, n = shape
    d, got = Draw(lambda _: 1), []
    x, weight = d.array(t, k), d.weight(op.split("_", 1)[1], n, k)
    for several in ((replace(kernel, fits=lambda *_: True),), ()):
        monkeypatch.setitem(SPECIAL, op, several)
        case = Case(lambda ops, x: ops.linear(x, weight), [[x]], None)
        got.append(run_on(CudaDevice(), case, [np.zeros(t, np.int64)])[0])
    assert got[0].tobytes() == got[1].tobytes()


@pytest.mark.parametrize("n", [1, 255, 4096, 151_936])
def test_the_device_draws_what_the_cpu_draws(n):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        logits = (rng.standard_normal(n) * 3).astype(np.float32)
        params = SamplingParams(*(rng.choice(c) for c in ([0.5, 1.0, 3.0], [0, 1, 40], [0.1, 0.9, 1.0], [0.0, 0.05])),
                                float(rng.choice([1.0, 1.3])), do_sample=bool(seed % 5), seed=seed)  # fmt: skip
        got, wanted = drawn(logits, params, range(1, 9), history=rng.integers(0, n, 9).tolist(), device=CudaDevice())
        assert got == wanted


@pytest.mark.parametrize("way", WAYS)
def test_answers_drawn_ahead_are_those_of_the_host(way, monkeypatch):
    monkeypatch.setenv("MIAOTUI_CUDA_STEP", way)
    asked = {"temperature": 0.9, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.1, "max_new_tokens": 200}
    with miaotui.load(path(), max_context=300, device="cuda") as model:
        got = [model.generate("Once upon a time", seed=s, **asked).ids for s in range(3)]
        monkeypatch.setattr(CudaBackend, "ahead", lambda *_: None)
        assert got == [model.generate("Once upon a time", seed=s, **asked).ids for s in range(3)]


def test_packed_sequences_have_the_bits_of_each_alone():
    rng = np.random.default_rng(0)
    with miaotui.load(path(), max_context=512, device="cuda", prefill_chunk=512) as model:
        sequences = [rng.integers(0, model.config.n_vocab, n) for n in (1, 31, 33, 257, 64)]
        got = model.session.last_logits(sequences)
        for row, s in zip(got, sequences, strict=True):
            model.session.step(s, 0)
            assert row.tobytes() == model.session.logits[-1].tobytes(), len(s)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("quantize", [None, "int8", "int4", "int4a"])
def test_the_demo_model(quantize, way, monkeypatch):
    monkeypatch.setenv("MIAOTUI_CUDA_STEP", way)
    compare(path(), ids=list(range(3, 40)), n_new=8, quantize=quantize)


@pytest.mark.parametrize("kv_cache", ["f32", "bf16", "int8"])
def test_every_way_gives_the_same_bits(kv_cache, monkeypatch):
    """And again on every run."""
    got = []
    for way in (*WAYS, *WAYS):
        monkeypatch.setenv("MIAOTUI_CUDA_STEP", way)
        with miaotui.load(path(), max_context=600, device="cuda", kv_cache=kv_cache) as model:
            ids = model.generate("Once upon a time", max_new_tokens=300, ignore_eos=True).ids
            got.append((ids, model.session.logits.tobytes()))
    assert all(f == got[0] for f in got)
