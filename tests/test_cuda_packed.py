"""Several sequences in one pass of the emulated GPU: each sees itself alone, and has the bits of a pass of its own."""

from __future__ import annotations

import miaotui
import numpy as np
import pytest
from checkpoints import FAMILIES, small, write_checkpoint
from emulation import EmulatedDevice
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError
from miaotui.runtime.arena import place
from miaotui.runtime.cuda import driver
from miaotui.runtime.cuda.interpreter import Interpreter
from miaotui.runtime.program import Program, Recorder

LENGTHS = st.sampled_from([1, 1, 2, 3, 5, 7])


@pytest.fixture(autouse=True)
def _emulated(monkeypatch):
    monkeypatch.setattr(driver, "CudaDevice", EmulatedDevice)


def alone(session, sequence):
    session.step(sequence, 0)
    return session.logits[-1].tobytes()


def test_the_bits_of_each_alone(tmp_path):
    write_checkpoint(tmp_path, small("llama"))
    with miaotui.load(tmp_path, max_context=64, device="cuda", prefill_chunk=20) as model:
        session, n_vocab = model.session, model.config.n_vocab

        @settings(max_examples=2, deadline=None, phases=[Phase.generate])
        @given(st.lists(LENGTHS, min_size=2, max_size=3), st.integers(0, 2**31))
        def holds(lengths, seed):
            rng = np.random.default_rng(seed)
            sequences = [rng.integers(0, n_vocab, n) for n in lengths]
            found = session.packed(sequences)
            assert found.shape == (len(lengths), n_vocab)
            assert [row.tobytes() for row in found] == [alone(session, s) for s in sequences]

        holds()


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "llama"])
def test_every_family(family, tmp_path):
    write_checkpoint(tmp_path, small(family))
    with miaotui.load(tmp_path, max_context=16, device="cuda") as model:
        sequences = [[3, 1], [1]]
        assert [r.tobytes() for r in model.session.packed(sequences)] == [alone(model.session, s) for s in sequences]


@pytest.mark.parametrize("kv_cache", ["f32", "bf16", "int8"])
@pytest.mark.parametrize("window", [None, 9])
def test_keys_are_taken_in_tiles_from_a_sequences_own_first(kv_cache, window):
    lengths, heads, d_head = (31, 33, 5, 1), 2, 8
    n = sum(lengths)
    ops = Recorder(n_context=n, chunk=n, rows=4, threads=1, kv_cache=kv_cache)
    q, k, v = inputs = [ops._tensor("in", "T", w, keep=True) for w in (heads * d_head, d_head, d_head)]
    ops.kv_write(0, k, v, 1)
    y = ops.attention(0, q, heads, 1, window=window, scale=1.0)
    y.keep = True
    machine = Interpreter(EmulatedDevice("drawn"), Program(ops.code, ops.tensors, y, y, ops.n_context, n, 4, 1,
                          place(ops.tensors, len(ops.code)), 0))  # fmt: skip
    rng = np.random.default_rng(0)
    given_rows = [rng.standard_normal((n, t.width)).astype(np.float32) for t in inputs]

    def feed(rows):
        for t, x in zip(inputs, given_rows, strict=True):
            machine.device.write(machine.arena + t.offset, x[rows])

    feed(slice(None))
    machine.packed([[0] * length for length in lengths])
    found, at = machine.tensor(y, n), 0
    for length in lengths:
        feed(slice(at, at + length))
        machine.step([0] * length, 0, 0)
        assert machine.tensor(y, length).tobytes() == found[at : at + length].tobytes(), length
        at += length


def test_a_pass_holds_what_fits_and_plain_steps_follow(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, small("llama"))
    with miaotui.load(tmp_path, max_context=32, device="cuda", prefill_chunk=4) as model:
        session, passes = model.session, []
        packed = type(session.machine).packed
        monkeypatch.setattr(type(session.machine), "packed", lambda m, s: (passes.append([*map(len, s)]), packed(m, s)))
        sequences = [[1], [3, 4, 5], [7], list(range(1, 6)), [2, 1]]
        found = session.packed(sequences)
        assert passes == [[1, 3]]  # 1 + 5 do not fit, 5 is more than a pass, 2 is alone
        assert [row.tobytes() for row in found] == [alone(session, s) for s in sequences]
        assert session.packed([]).shape == (0, model.config.n_vocab)


@pytest.mark.parametrize("sequences", [[[1], []], [[1], [-1]], [[1], [10**6]], [[1], [1] * 33]])
def test_no_such_sequence(sequences, tmp_path):
    write_checkpoint(tmp_path, small("llama"))
    with miaotui.load(tmp_path, max_context=32, device="cuda") as model, pytest.raises(InputError):
        model.session.packed(sequences)
