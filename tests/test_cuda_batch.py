"""Several sequences in one pass of the emulated GPU: each sees itself alone, and has the bits of a pass of its own."""

from __future__ import annotations

import miaotui
import numpy as np
import pytest
import soak
from checkpoints import FAMILIES, small, write_checkpoint
from emulation import EmulatedDevice, ListingDevice
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError
from miaotui.runtime.arena import place
from miaotui.runtime.cuda import driver
from miaotui.runtime.cuda.interpreter import Interpreter
from miaotui.runtime.program import Program
from miaotui.runtime.recorder.record import Recorder
from tolerance import bound

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
            got = model.last_logits(sequences)
            assert got.shape == (len(lengths), n_vocab)
            assert [row.tobytes() for row in got] == [alone(session, s) for s in sequences]

        holds()


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "llama"])
def test_every_family(family, tmp_path):
    write_checkpoint(tmp_path, small(family))
    with miaotui.load(tmp_path, max_context=16, device="cuda") as model:
        sequences = [[3, 1], [1]]
        assert [r.tobytes() for r in model.session.last_logits(sequences)] == [
            alone(model.session, s) for s in sequences
        ]


@pytest.mark.parametrize("kv_cache", ["f32", "bf16", "int8"])
@pytest.mark.parametrize("window", [None, 9])
def test_keys_are_taken_in_tiles_from_a_sequences_own_first(kv_cache, window):
    got, wanted, _ = attended((31, 33, 5, 1), kv_cache=kv_cache, window=window)
    assert got.tobytes() == wanted.tobytes()


@pytest.mark.ci  # 10 s
@pytest.mark.parametrize(("kv_cache", "d_head"), [("f32", 8), ("bf16", 128), ("int8", 64)])
@pytest.mark.parametrize("window", soak.rest("cuda", [None, 9], [9]))
def test_the_tensor_cores_attention_sees_each_sequence_alone(kv_cache, d_head, window):
    """A tile of queries is of several of them; sequences longer than a tile of keys."""
    names = []
    got, wanted, largest = attended((31, 70, 5, 1, 29), names, kv_cache=kv_cache, window=window, precision="fast",
                                      d_head=d_head, round_to=16)  # fmt: skip
    assert "flash" in names[1]
    assert not any("flash" in name for name in names[2:])
    # Rounded on the way: queries times scale, and the weights of the softmax.
    off = 2 * bound("flash", "bf16", 1, largest) * (1 + d_head**0.5)
    assert np.abs(got - wanted).max() <= off


def attended(lengths, names=None, *, window, d_head=8, round_to=0, **how):
    """Attention over sequences at once, and one after the other in exact mode; the largest value."""
    heads, n = 2, sum(lengths)

    def machine_of(**how):
        ops = Recorder(n_context=n, chunk=n, n_logits=len(lengths), threads=1, **how)
        inputs = [ops._tensor("in", "T", w, keep=True) for w in (heads * d_head, d_head, d_head)]
        ops.kv_write(0, *inputs[1:], 1)
        y = ops.attention(0, inputs[0], heads, 1, window=window, scale=d_head**-0.5)
        y.keep = True
        size = place(ops.tensors, len(ops.code))
        shape = n, n, len(lengths), 1, size, 0, how["kv_cache"], how.get("precision")
        device = ListingDevice("drawn", [] if names is None else names, "", "sm_80")
        return Interpreter(device, Program(ops.code, ops.tensors, y, y, *shape)), inputs, y

    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((n, w)).astype(np.float32) for w in (heads * d_head, d_head, d_head)]
    rows = [(x.view(np.uint32) >> round_to << round_to).view(np.float32) for x in rows]

    def feed(machine, inputs, part):
        for t, x in zip(inputs, rows, strict=True):
            machine.device.write(machine.arena + t.offset, x[part])

    machine, inputs, y = machine_of(**how)
    feed(machine, inputs, slice(None))
    machine.run_batch([[0] * length for length in lengths])
    got, wanted, at = machine.tensor(y, n), [], 0
    machine, inputs, y = machine_of(**how | {"precision": None})
    for length in lengths:
        feed(machine, inputs, slice(at, at + length))
        machine.step([0] * length, 0, 0)
        wanted.append(machine.tensor(y, length))
        at += length
    return got, np.concatenate(wanted), float(np.abs(rows[2]).max())


def test_a_pass_holds_what_fits_and_plain_steps_follow(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, small("llama"))
    with miaotui.load(tmp_path, max_context=32, device="cuda", prefill_chunk=4) as model:
        session, passes = model.session, []
        packed = type(session.backend.machine).run_batch
        monkeypatch.setattr(
            type(session.backend.machine), "run_batch", lambda m, s: (passes.append([*map(len, s)]), packed(m, s))
        )
        sequences = [[1], [3, 4, 5], [7], list(range(1, 6)), [2, 1]]
        got = session.last_logits(sequences)
        assert passes == [[1, 3]]  # 1 + 5 do not fit, 5 is more than a pass, 2 is alone
        assert [row.tobytes() for row in got] == [alone(session, s) for s in sequences]
        assert session.last_logits([]).shape == (0, model.config.n_vocab)


@pytest.mark.parametrize("sequences", [[[1], []], [[1], [-1]], [[1], [10**6]], [[1], [1] * 33]])
def test_no_such_sequence(sequences, tmp_path):
    write_checkpoint(tmp_path, small("llama"))
    with miaotui.load(tmp_path, max_context=32, device="cuda") as model, pytest.raises(InputError):
        model.session.last_logits(sequences)
