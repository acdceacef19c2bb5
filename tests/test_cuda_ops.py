"""Every kernel of the CUDA backend in the emulator, against the float64 reference: the cases of test_ops, smaller."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from emulation import SCHEDULES, emulate
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from miaotui.runtime.cuda.kernels import KERNELS
from miaotui.runtime.ops import OPS
from test_ops import CASES, Draw, run_reference

SIZES = st.sampled_from([1, 2, 3, 7, 8, 16, 17, 31, 32, 33, 40, 64, 65])
TOKENS = st.sampled_from([1, 1, 2, 3, 5, 6])
ROWS = [(op.name, v) for op in OPS.values() for v in (op.variants or ("",))]


class SmallDraw(Draw):
    """As `Draw`; a thread of the emulator takes a microsecond for an addition."""

    def __init__(self, draw):
        super().__init__(draw)
        self.t = draw(TOKENS)

    def size(self):
        return self.draw(SIZES)


def test_every_op_has_its_kernels_with_the_slots_of_the_table():
    assert {k for op in OPS.values() for k in op.kernels} == set(KERNELS)
    for op in OPS.values():
        for name in op.kernels:
            found = tuple(inspect.signature(KERNELS[name].function).parameters)
            assert found == ("arena", "step", "rows", *op.names), name


@pytest.mark.parametrize(("name", "variant"), ROWS, ids=lambda v: v)
def test_the_kernel_is_its_reference(name, variant):
    @settings(max_examples=15, deadline=None, phases=[Phase.generate])  # shrinking would take minutes
    @given(st.data(), st.sampled_from(SCHEDULES))
    def holds(data, schedule):
        d = SmallDraw(data.draw)
        case = CASES[name](d, variant)
        ids = [d.rng.integers(0, case.n_vocab, len(p[0]) if p else d.t) for p in case.passes]
        y, result = emulate(case, ids, schedule)
        expected, expected_result = run_reference(case, ids)
        assert result == max(expected_result, -1)
        if expected is not None:
            assert case.read(y).shape == expected.shape
            assert np.all(np.abs(case.read(y) - expected) <= case.tolerance(expected))
            again, _ = emulate(case, ids, "backward")
            assert y.tobytes() == again.tobytes()

    holds()
