"""On a GPU, where there is one: every op against the reference, and the demo model against the CPU. `pytest -m gpu`."""

from __future__ import annotations

import miaotui
import numpy as np
import pytest
from emulation import run_on
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import BackendError
from miaotui.runtime.cuda.driver import CudaDevice
from miaotui.tools.demo import path
from test_cuda_models import compare
from test_cuda_ops import ROWS
from test_ops import CASES, Draw, run_reference

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
        case = CASES[name](d, variant)
        ids = [d.rng.integers(0, case.n_vocab, len(p[0]) if p else d.t) for p in case.passes]
        y, result = run_on(CudaDevice(), case, ids)
        expected, expected_result = run_reference(case, ids)
        assert result == expected_result
        if expected is not None:
            assert np.all(np.abs(case.read(y) - expected) <= case.tolerance(expected))
            again, _ = run_on(CudaDevice(), case, ids)
            assert y.tobytes() == again.tobytes()

    holds()


def test_packed_sequences_have_the_bits_of_each_alone():
    rng = np.random.default_rng(0)
    with miaotui.load(path(), max_context=512, device="cuda", prefill_chunk=512) as model:
        sequences = [rng.integers(0, model.config.n_vocab, n) for n in (1, 31, 33, 257, 64)]
        found = model.session.packed(sequences)
        for row, s in zip(found, sequences, strict=True):
            model.session.step(s, 0)
            assert row.tobytes() == model.session.logits[-1].tobytes(), len(s)


@pytest.mark.parametrize("quantize", [None, "int8", "int4", "int4a"])
def test_the_demo_model(quantize):
    compare(path(), ids=list(range(3, 40)), n_new=8, quantize=quantize)
