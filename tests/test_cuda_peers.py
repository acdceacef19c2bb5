"""The peers of the CUDA path compute what we do, here on the CPU, and say why where they cannot."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from miaotui.errors import BackendError
from miaotui.tools.bench import compare, shapes
from miaotui.tools.bench.peers import GPU_PEERS


def test_without_torch_or_its_gpu_the_reason_is_said(tmp_path):
    for name in GPU_PEERS:
        command = compare.worker_command(sys.executable, "serve", name, tmp_path, "bf16", 1, 8)
        with pytest.raises(BackendError, match=r"has no torch|sees no GPU"):
            compare.Worker(command)


@pytest.fixture
def torch_on_cpu(monkeypatch):
    torch = pytest.importorskip("torch", reason="the peers' torch")
    pytest.importorskip("transformers", reason="the peers' transformers")
    from miaotui.tools.bench.peers import gpu

    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    yield torch
    torch.set_grad_enabled(True)


@pytest.mark.parametrize("module", ["gpu", "gpu_compiled"])
def test_a_peer_computes_what_we_do(module, tmp_path, torch_on_cpu, monkeypatch):
    import miaotui
    from miaotui.tools.bench.peers import gpu, gpu_compiled

    monkeypatch.setattr(torch_on_cpu, "compile", lambda f, **_: f)  # the maths, not the compiler
    path = shapes.make_checkpoint(tmp_path / "tiny", "tiny")
    engine = {"gpu": gpu, "gpu_compiled": gpu_compiled}[module].Engine(path, "f32", 1, 16)
    ids = [5, 200, 7, 8, 9]
    for _ in range(2):  # a new prompt begins again
        engine.prefill(ids[:3])
        for i in ids[3:]:
            engine.step(i)
        with miaotui.load(path, max_context=16) as model:
            assert np.abs(engine.logits() - model.logits(ids)[-1]).max() < 1e-4
    assert engine.about()["load_s"] > 0


@pytest.mark.usefixtures("torch_on_cpu")
def test_the_peers_product():
    from miaotui.tools.bench.peers import gpu_product

    engine = gpu_product.Engine(".", "bf16", 1, 1)
    engine.prefill([3, 5, 7])
    x, w = (t.float().numpy().astype(np.float64) for t in (engine._x, engine._w))
    assert np.abs(engine.logits() - (x @ w.T)[0]).max() < 0.05
    assert engine.about()["name"] == "torch"
