"""Ids drawn on the (emulated) GPU: those that the CPU's sampler draws from the same logits."""

from __future__ import annotations

from dataclasses import replace

import miaotui
import numpy as np
import pytest
import soak
from checkpoints import small, write_checkpoint
from emulation import SCHEDULES, EmulatedDevice, Fault
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import BackendError, InputError
from miaotui.runtime import sampling
from miaotui.runtime.cuda import backend, driver
from miaotui.runtime.cuda.draw import draw_bytes, draw_words
from miaotui.runtime.cuda.interpreter import WAYS
from miaotui.runtime.cuda.kernels import DRAWS
from miaotui.runtime.cuda.kernels import draw as kernels
from miaotui.runtime.cuda.kernels.base import Kernel
from miaotui.runtime.cuda.primitives import barrier, block, ld_i64, sld_i64, sst_i64, st_i64, thread
from miaotui.runtime.cuda.step import S_RESULT, S_START, WORDS
from miaotui.runtime.cuda.whole import add_i64, fraction, most_i64, sadd_i64
from miaotui.runtime.sampling import Sampler, SamplingParams
from test_cuda_emulator import run


def drawn(logits, params, positions, *, history=(), sequence=0, device=None, blocks=None):
    """Ids at positions, one after the other: what the device draws, and the CPU."""
    n = len(logits)
    sampler = Sampler(n, params, sequence=sequence)
    sampler.observe(history)
    device = EmulatedDevice() if device is None else device
    arena, step, draw = (device.allocate(size) for size in (4 * n + 16, 8 * WORDS, draw_bytes(n)))
    device.write(arena + 16, logits)
    device.write(draw, draw_words(sampler))
    device.write(draw + draw_bytes(n) - n, sampler.seen.view(np.uint8))
    got, wanted = [], []
    for position in positions:
        words = np.full(WORDS, -7)
        words[S_START] = position - 1
        device.write(step, words)
        for kernel in DRAWS:
            many = kernel.blocks(1, {"n": n}) if blocks is None or kernel.name == "draw_pick" else blocks
            device.launch(kernel, many, kernel.shared({}), (arena, step, 1, draw, 16, n))
        got.append(int(device.read(step + 8 * S_RESULT, 8).view(np.int64)[0]))
        wanted.append(sampler.draw(logits, position))
        sampler.observe(wanted[-1:])
    device.close()
    return got, wanted


def logits_of(seed, n, grid):
    return (np.round(np.random.default_rng(seed).standard_normal(n) * 3 * grid) / grid).astype(np.float32)


EVERYTHING = SamplingParams(0.7, 40, 0.9, 0.02, 1.2, do_sample=True, seed=-5)


@pytest.mark.ci  # 9 s
@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**63),
    n=st.sampled_from([1, 2, 255, 256, 257, 700]),
    temperature=st.sampled_from([5e-324, 0.0, 0.5, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 40, 10_000]),
    top_p=st.sampled_from([5e-324, 0.1, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 1.0]),
    penalty=st.sampled_from([1.0, 0.8, 1.3]),
    grid=st.sampled_from([1, 2**20]),  # many ties, or none
    do_sample=st.sampled_from([True, True, False]),
    position=st.sampled_from([1, 2**33 + 5]),
)
def test_the_device_draws_what_the_cpu_draws(
    seed, n, temperature, top_k, top_p, min_p, penalty, grid, do_sample, position
):  # fmt: skip
    params = SamplingParams(temperature, top_k, top_p, min_p, penalty, do_sample=do_sample, seed=seed)
    history = np.random.default_rng(seed).integers(0, n, 5).tolist()
    got, wanted = drawn(logits_of(seed, n, grid), params, (position, position + 1), history=history, sequence=seed)
    assert got == wanted


@pytest.mark.ci  # 6 s
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_in_every_order_and_by_any_number_of_blocks(schedule):
    logits = logits_of(1, 523, 4)
    got, wanted = drawn(logits, EVERYTHING, range(3, 6), history=[5, 7], device=EmulatedDevice(schedule), blocks=3)
    assert got == wanted


@pytest.mark.parametrize("bits", [0, 2**51 - 1, 2**51, 2**52, 2**53 - 1])
def test_where_the_uniform_number_falls_on_a_boundary(bits, monkeypatch):
    monkeypatch.setattr(kernels, "uniform", lambda *_: bits)
    monkeypatch.setattr(sampling, "uniform_bits", lambda *_: bits)
    got, wanted = drawn(np.zeros(4, np.float32), SamplingParams(do_sample=True), [1])
    assert got == wanted == [4 * bits >> 53]


@pytest.mark.parametrize(("top_p", "kept"), [(0.5, 128), (np.nextafter(0.5, 1), 129), (255 / 256, 255)])
def test_where_a_nucleus_ends_on_a_boundary(top_p, kept, monkeypatch):
    """Of equals the lower ids are in; the last of them is drawn."""
    monkeypatch.setattr(kernels, "uniform", lambda *_: 2**53 - 1)
    monkeypatch.setattr(sampling, "uniform_bits", lambda *_: 2**53 - 1)
    got, wanted = drawn(np.ones(256, np.float32), SamplingParams(top_p=top_p, do_sample=True), [1])
    assert got == wanted == [kept - 1]


def test_both_zeros_are_the_same():
    """The first of them is the largest; and a penalty makes one of the other."""
    logits = np.array([-1.0, -0.0, 0.0, -0.0], np.float32)
    got, wanted = drawn(logits, SamplingParams(repetition_penalty=1.5), [1, 2], history=[2])
    assert got == wanted == [1, 1]


@pytest.mark.ci  # 15 s
@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-3, 1e300, float(np.finfo(np.float64).max)])
@pytest.mark.parametrize("how", [{}, {"top_k": 3}, {"top_p": 0.7}, {"repetition_penalty": 1.3}], ids=str)
def test_temperatures_at_the_ends_and_logits_that_are_never_drawn(temperature, how):
    """The coldest leaves the largest alone, the hottest makes all alike; -inf has no weight at either."""
    logits = logits_of(3, 300, 4)
    logits[::2] = -np.inf
    logits[-1] = -0.0
    params = SamplingParams(temperature, do_sample=True, seed=4, **how)
    got, wanted = drawn(logits, params, range(1, 4), history=[1])
    assert got == wanted
    assert np.all(logits[got] > -np.inf)


def test_only_one_that_may_be_drawn():
    logits = np.full(300, -np.inf, np.float32)
    logits[257] = -3.0
    for params in (EVERYTHING, SamplingParams(do_sample=True, seed=1), SamplingParams(repetition_penalty=1.1)):
        got, wanted = drawn(logits, params, [1, 2])
        assert got == wanted == [257, 257]


def test_nothing_is_drawn_from_what_is_damaged():
    """Wherever it stands, also where top-k or top-p would leave it out; and where nothing may be drawn."""
    for bad, rest in ((np.nan, 0.0), (-np.nan, 0.0), (np.inf, 0.0), (np.nan, -np.inf), (-np.inf, -np.inf)):
        logits = logits_of(2, 300, 4) + np.float32(rest)
        logits[299] = bad
        n, device = len(logits), EmulatedDevice()
        arena, step, draw = (device.allocate(size) for size in (4 * n, 8 * WORDS, draw_bytes(n)))
        device.write(arena, logits)
        device.write(draw, draw_words(Sampler(n, EVERYTHING)))
        device.write(draw + draw_bytes(n) - n, np.zeros(n, np.uint8))
        device.write(step, np.zeros(WORDS, np.int64))
        for kernel in DRAWS:
            device.launch(kernel, kernel.blocks(1, {"n": n}), kernel.shared({}), (arena, step, 1, draw, 0, n))
        assert device.read(step + 8 * S_RESULT, 8).view(np.int64)[0] == -1


# ---------------------------------------------------------------------------------------------- whole answers
IDS = [3, 1, 4]
WANTED = {"temperature": 1.3, "top_k": 30, "top_p": 0.9, "repetition_penalty": 1.3, "seed": 11, "ignore_eos": True}


def use(monkeypatch, way, schedule="forward", blocks=2):
    monkeypatch.setenv("MIAOTUI_CUDA_STEP", way)
    monkeypatch.setattr(driver, "CudaDevice", lambda: EmulatedDevice(schedule, blocks=blocks))


@pytest.mark.ci  # 17 s
@pytest.mark.parametrize("way", soak.rest("cuda", WAYS, ["graph"]))
def test_answers_drawn_ahead_are_those_of_the_host(way, tmp_path, monkeypatch):
    """Token by token, whatever launches a step; a seed, a penalty alone (greedy), and greedy again after them."""
    write_checkpoint(tmp_path, replace(small("llama"), dtype="BF16"))
    use(monkeypatch, way, SCHEDULES[WAYS.index(way)])
    monkeypatch.setattr(backend, "QUEUED", 2)
    asked = (WANTED, {"repetition_penalty": 1.5, "ignore_eos": True}, {"ignore_eos": True}, WANTED | {"seed": 12})
    asked = asked if way == "graph" else asked[1:3]
    with miaotui.load(tmp_path, max_context=6, device="cuda") as model:
        got = [model.generate(IDS, **a).ids for a in asked]
        with monkeypatch.context() as alone:
            alone.setattr(backend.CudaBackend, "ahead", lambda *_: None)
            wanted = [model.generate(IDS, **a).ids for a in asked]
        assert got == wanted
        assert len({*map(tuple, got)}) > len(asked) / 2
        end = {"ignore_eos": False, "eos_token_id": got[0][1]}
        assert model.generate(IDS, **asked[0] | end).ids == got[0][:2]


@pytest.mark.ci  # 10 s
def test_what_the_device_does_not_draw_the_host_does(tmp_path, monkeypatch):
    """Stages, penalties and biases: the CPU's ids, and nothing is drawn ahead."""
    write_checkpoint(tmp_path, small("llama"))
    use(monkeypatch, "graph")
    asked = [
        {"typical_p": 0.8, "seed": 3},
        {"mirostat": 2, "mirostat_tau": 2.0, "seed": 3},
        {"frequency_penalty": 0.9, "logit_bias": {5: 1.0}},
        {"repetition_penalty": 1.5, "sampler_order": ["top_k"]},  # greedy: no stage is asked for
    ]
    few = {"ignore_eos": True, "max_new_tokens": 4}
    with miaotui.load(tmp_path, max_context=8) as model:
        wanted = [model.generate(IDS, **a, **few).ids for a in asked]
    with miaotui.load(tmp_path, max_context=8, device="cuda") as model:
        assert [model.generate(IDS, **a, **few).ids for a in asked] == wanted


@pytest.mark.ci  # 7 s
def test_why_nothing_can_be_drawn_is_said_as_on_the_cpu(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, small("llama"))
    use(monkeypatch, "graph")
    with miaotui.load(tmp_path, max_context=8, device="cuda") as model:
        steps = model.tokens(IDS, **WANTED)
        next(steps)
        machine = model.session.backend.machine
        norm = next(i.values["w"] for i in reversed(model.program().code) if i.op == "rms_norm")
        kept = machine.device.read(machine._weights[norm.address], norm.nbytes)
        machine.device.write(machine._weights[norm.address], np.full(norm.shape, np.nan, np.float32))
        with pytest.raises(InputError, match="the logits after position 3 are not numbers"):
            list(steps)
        machine.device.write(machine._weights[norm.address], kept)
        got = model.generate(IDS, **WANTED).ids
        monkeypatch.setattr(machine, "produced", lambda: lambda: (1, [-1], False))
        steps = model.tokens(IDS, **WANTED)
        assert next(steps).id == got[0]
        with pytest.raises(BackendError, match="drew no id at position 4, where"):
            list(steps)


# ---------------------------------------------------------------------------------------------- the facade's part
def test_fractions_are_exact():
    pairs = [(0, 0), (1, 2**53), (2**62 - 1, 2**53 - 1), (2**62 - 1, 1), (12345678901234567, 7 * 2**49)]

    def k(out):
        for i, (total, part) in enumerate(pairs):
            if thread() == 0:
                st_i64(out + 8 * i, fraction(total, part))

    got = run(k, 64, 32).view(np.int64)
    assert got[: len(pairs)].tolist() == [a * b >> 53 for a, b in pairs]
    with pytest.raises(Fault, match="2\\^53"):
        run(lambda _: fraction(-1, 1), 64, 32)


@pytest.mark.parametrize("forgotten", ["", "before", "behind"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_many_add_to_one_between_two_barriers(forgotten, schedule):
    def k(out):
        if thread() == 0:
            st_i64(out, 0)
        if forgotten != "before":
            barrier()
        add_i64(out, thread())
        most_i64(out + 8, thread())
        if forgotten != "behind":
            barrier()
        if thread() == 1:
            st_i64(out + 16, ld_i64(out))

    def launch():
        device = EmulatedDevice(schedule)
        at = device.allocate(64)
        device.write(at, np.zeros(64, np.uint8))
        device.launch(Kernel("k", k, 64, lambda *_: 1, lambda _: 64, (), together=True), 1, 64, (at,))
        return device.read(at, 24).view(np.int64).tolist()

    if forgotten:
        with pytest.raises(Fault, match="race"):
            launch()
    else:
        assert launch() == [2016, 63, 2016]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_sums_in_shared_memory_want_barriers(schedule):
    def k(_, forgotten):
        if thread() == 0:
            sst_i64(0, 0)
        if forgotten != 1:
            barrier()
        sadd_i64(0, 3)
        if forgotten != 2:
            barrier()
        assert sld_i64(0) == 3 * 64 or forgotten

    for forgotten in range(3):
        device = EmulatedDevice(schedule)
        kernel = Kernel("k", k, 64, lambda *_: 1, lambda _: 64, ())
        if forgotten:
            with pytest.raises(Fault, match="race"):
                device.launch(kernel, 1, 64, (0, forgotten))
        else:
            device.launch(kernel, 1, 64, (0, forgotten))


def test_blocks_that_add_race_with_one_that_reads():
    def k(out):
        if block() == 0:
            ld_i64(out)
        else:
            add_i64(out, 1)

    device = EmulatedDevice()
    at = device.allocate(64)
    device.write(at, np.zeros(64, np.uint8))
    with pytest.raises(Fault, match="race"):
        device.launch(Kernel("k", k, 32, lambda *_: 2, lambda _: 0, (), together=True), 2, 0, (at,))
