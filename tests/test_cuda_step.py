"""A decode step by a walker: the bits of the step that is launched line by line, and what the emulator finds in it."""

from __future__ import annotations

from dataclasses import replace

import cubins
import miaotui
import numpy as np
import pytest
import soak
from checkpoints import small, write_checkpoint
from emulation import SCHEDULES, EmulatedDevice, Fault
from miaotui.errors import BackendError, InputError
from miaotui.runtime.cuda import backend, driver
from miaotui.runtime.cuda.emulator import device as emulated
from miaotui.runtime.cuda.interpreter import WAYS
from miaotui.runtime.cuda.kernels import KERNELS, walker
from miaotui.runtime.cuda.kernels.base import SIZES, Kernel
from miaotui.runtime.cuda.kernels.rounded import FUSED, INSIDE, rounded_bytes
from miaotui.runtime.cuda.primitives import (
    acquire_i64,
    barrier,
    block,
    blocks,
    ld_f32,
    release_add,
    sld_i32,
    sst_f32,
    st_f32,
    st_i32,
    st_i64,
    thread,
    weights4,
)
from miaotui.runtime.cuda.step import WORDS
from miaotui.runtime.ops import OPS

IDS = [3, 1, 4]
#: Family, dtype, options: attention in parts (more than 128 positions) and whole, every cache, every kind of matrix.
MODELS = {
    "llama": ("llama", "BF16", {"kv_cache": "bf16", "max_context": 150}),
    "gpt2": ("gpt2", "F32", {"max_context": 8}),
    "int8": ("qwen2", "F32", {"quantize": "int8", "max_context": 8}),
    "int4": ("qwen3", "F16", {"quantize": "int4", "kv_cache": "int8", "max_context": 8}),
    "f16": ("qwen2", "F16", {"kv_cache": "int8", "max_context": 8}),
    "sparse": ("mistral", "F32", {"prune": "sparsity=0.5", "max_context": 8}),
    "fast": ("llama", "BF16", {"precision": "fast", "prune": "drop-heads=1:0; drop-ffn=0", "max_context": 8}),
}


def use(monkeypatch, way, schedule="forward", blocks=2, patience=0):
    monkeypatch.setenv("MIAOTUI_CUDA_STEP", way)
    monkeypatch.setattr(driver, "CudaDevice", lambda: EmulatedDevice(schedule, blocks=blocks, patience=patience))


def written(path, family="llama", dtype="F32"):
    write_checkpoint(path, replace(small(family), dtype=dtype))
    return path


def answered(path, n_new, **options):
    """Greedy ids and the bits of the last step's logits."""
    with miaotui.load(path, device="cuda", **options) as model:
        got = model.generate(IDS, max_new_tokens=n_new, ignore_eos=True).ids
        return got, model.session.logits.tobytes(), model.session.hidden.tobytes()


@pytest.mark.ci  # 18 s
@pytest.mark.parametrize("name", soak.rest("cuda", MODELS, ["llama", "int4", "sparse", "fast"]))
def test_every_way_gives_the_same_bits(name, tmp_path, monkeypatch):
    family, dtype, options = MODELS[name]
    written(tmp_path, family, dtype)
    got = []
    for i, way in enumerate(WAYS):
        use(monkeypatch, way, SCHEDULES[i], blocks=1 + i)
        got.append(answered(tmp_path, 3 if name in ("llama", "gpt2") else 2, **options))
    assert got[0] == got[1] == got[2]


def test_a_layer_of_llama_is_six_phases(tmp_path, monkeypatch):
    """Seven where attention is in parts."""
    use(monkeypatch, "persistent")
    written(tmp_path, dtype="BF16")
    got = []
    for context in (8, 300):
        with miaotui.load(tmp_path, device="cuda", kv_cache="bf16", max_context=context) as model:
            script, n_layers = model.session.backend.machine.script(), model.config.n_layers
            got.append(script.listing())
            assert len(script.phases) == (6 if context == 8 else 7) * n_layers + 5
    assert got[0][1:7] == [
        "rms_norm_here, linear_bf16_here, linear_bf16_here, linear_bf16_here", "rope_write_bf16", "attention_bf16_one",
        "linear_bf16_one", "rms_norm_here, gated_bf16_here", "linear_bf16_one",
    ]  # fmt: skip


@pytest.mark.parametrize("quantize", ["int8", "int4", "int4a"])
def test_a_layer_of_a_quantised_llama_is_eight_phases(quantize, tmp_path, monkeypatch):
    """The norms are rounded by every block; what attention and the gate give, by all together."""
    use(monkeypatch, "persistent")
    written(tmp_path)
    with miaotui.load(tmp_path, device="cuda", quantize=quantize, max_context=8) as model:
        script, n_layers = model.session.backend.machine.script(), model.config.n_layers
    assert len(script.phases) == 8 * n_layers + 5
    here = f"linear_{quantize}_here"
    assert script.listing()[1:9] == [
        f"rms_norm_here, quantize_inside, {here}, {here}, {here}", "rope_write_f32", "attention_f32_one",
        "quantize", f"linear_{quantize}_one", f"rms_norm_here, quantize_inside, gated_{quantize}_here",
        "quantize", f"linear_{quantize}_one",
    ]  # fmt: skip


@pytest.mark.parametrize("k", [1, 31, 96, 1090])
def test_what_every_block_rounds_is_what_all_round(k):
    """Also zeros, and numbers that are none: some of a group, or all."""
    x = np.random.default_rng(k).standard_normal(k, np.float32)
    x[:: 2 + k // 96] = np.nan
    x[32:64], x[64:96] = np.nan, 0
    device, size, at = EmulatedDevice(), rounded_bytes(k), 4 * k + -4 * k % 16
    there = device.allocate(4 * k + 2 * size)
    device.write(there, np.concatenate([x.view(np.uint8), np.zeros(2 * size, np.uint8)]))
    values = {"y": 4 * k, "x": 0, "k": k}
    whole, step = KERNELS["quantize"], device.allocate(8 * WORDS)
    device.write(step, np.ones(WORDS, np.int64))
    device.launch(whole, whole.blocks(1, values), 0, (there, step, 0, 4 * k, 0, k))
    inside = FUSED[INSIDE].function

    def body(arena):
        for i in range(thread(), k, walker.THREADS):
            sst_f32(4 * i, ld_f32(arena + 4 * i))
        barrier()
        inside(arena, 0, 0, at, 0, k)
        barrier()
        for i in range(thread(), size // 4, walker.THREADS):
            st_i32(arena + 4 * k + size + 4 * i, sld_i32(at + 4 * i))

    device.launch(Kernel("k", body, walker.THREADS, lambda *_: 1, lambda _: at + size, ()), 1, at + size, (there,))
    got = device.read(there + 4 * k, 2 * size)
    assert got[:size].tobytes() == got[size:].tobytes()


#: Programs that the compile gate's walkers are for: family, dtype, options.
WALKED = {
    "llama_bf16": ("llama", "BF16", {"kv_cache": "bf16", "max_context": 150}),
    "llama_f32": ("llama", "F32", {"kv_cache": "int8", "max_context": 8}),
    "mistral_f16": ("mistral", "F16", {"max_context": 8}),
    "gpt2_int8": ("gpt2", "F32", {"quantize": "int8", "kv_cache": "int8", "max_context": 150}),
    "llama_packed": ("llama", "F32", {"quantize": "int4,gate=int4a,up=int4a,v=int4a", "max_context": 150}),
    "gpt2_sparse": ("gpt2", "F32", {"prune": "sparsity=0.5", "max_context": 150}),
    "qwen3_mixed": ("qwen3", "BF16", {
        "quantize": "q=int8,k=int8,gate=int4,up=int4,embed=int4a", "precision": "fast", "prune": "sparsity=0.5",
        "kv_cache": "bf16", "max_context": 8,
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", WALKED)
def test_the_gates_walkers_are_those_of_programs(name, tmp_path, monkeypatch):
    family, dtype, options = WALKED[name]
    use(monkeypatch, "persistent")
    drawn = small(family)
    long = "n_positions" if family == "gpt2" else "max_position_embeddings"
    write_checkpoint(tmp_path, replace(drawn, dtype=dtype, config=drawn.config | {long: 256}))
    with miaotui.load(tmp_path, device="cuda", **options) as model:
        machine, parts = model.session.backend.machine, cubins.WALKED[name].split()
        assert {k.name for k in machine.script().kernels} == {*cubins.COMMON.split(), *parts}
        assert {k.name for k in machine.script(drawing=True).kernels} == {*cubins.DRAWN.split(), *parts}


def test_the_gates_walkers_have_every_kernel_of_their_own_and_every_op():
    walked = {n for parts in (cubins.COMMON, *cubins.WALKED.values(), *cubins.RARE.values()) for n in parts.split()}
    assert set(cubins.WALKED) == set(WALKED)
    assert set(FUSED) <= walked
    there = [op.name for op in OPS.values() if "cuda" in op.backends]
    assert {name for name in there if not any(n.startswith(name) for n in walked)} == set()


@pytest.mark.ci  # 10 s
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_one_launch_a_token_in_every_order(schedule, tmp_path, monkeypatch):
    written(tmp_path, "qwen2")
    use(monkeypatch, "graph")
    wanted = answered(tmp_path, 2, max_context=8)
    use(monkeypatch, "persistent", schedule, blocks=3)
    assert answered(tmp_path, 2, max_context=8) == wanted


@pytest.mark.ci  # 13 s
@pytest.mark.parametrize("way", WAYS)
def test_steps_queued_ahead_end_where_the_host_would(way, tmp_path, monkeypatch):
    """An end id, a budget, a context, the first id of all; and the next answer does not remember."""
    written(tmp_path)
    with miaotui.load(tmp_path, max_context=8) as cpu:
        everything = cpu.generate(IDS, ignore_eos=True).ids
        wanted = [cpu.generate(IDS, eos_token_id=e).ids for e in everything]
    assert len(set(everything)) > 1
    use(monkeypatch, way, blocks=1)
    monkeypatch.setattr(backend, "QUEUED", 2)
    with miaotui.load(tmp_path, max_context=8, device="cuda") as model:
        assert model.generate(IDS, ignore_eos=True).ids == everything
        for end, ids in dict(zip(everything, wanted, strict=True)).items():
            assert model.generate(IDS, eos_token_id=end).ids == ids
        got = model.generate(IDS, eos_token_id=list(range(65, 200)), max_new_tokens=2)  # more than a GPU is told
        assert got.ids == everything[:2]
        assert list(model.session.backend.ahead(everything[0], 3, 0, (), None)) == []


def test_steps_ahead_of_logits_that_are_none(tmp_path, monkeypatch):
    written(tmp_path)
    use(monkeypatch, "persistent")
    with miaotui.load(tmp_path, max_context=8, device="cuda") as model:
        answer = model.tokens([3], ignore_eos=True)
        next(answer)
        norm = next(i.values["w"] for i in reversed(model.program().code) if i.op == "rms_norm")
        machine = model.session.backend.machine
        machine.device.write(machine._weights[norm.address], np.full(norm.shape, np.nan, np.float32))
        with pytest.raises(InputError, match="the logits after position 1 are not numbers"):
            next(answer)


def test_an_unknown_way_is_refused(tmp_path, monkeypatch):
    written(tmp_path)
    use(monkeypatch, "quickly")
    with pytest.raises(BackendError, match=r"quickly.*graph, phases, persistent"):
        miaotui.load(tmp_path, device="cuda")


# ---------------------------------------------------------------------------------------------- the emulator's part
def together(function, n_blocks=2, schedule="forward"):
    """Blocks of 64 threads at once on 1024 zeros."""
    device = EmulatedDevice(schedule, blocks=4)
    at = device.allocate(1024)
    device.write(at, np.zeros(1024, np.uint8))
    kernel = Kernel("k", function, 64, lambda *_: n_blocks, lambda _: 64, (), together=True)
    device.launch(kernel, n_blocks, 64, (at,))
    return device.read(at, 1024).view(np.float32)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_blocks_meet(schedule):
    def k(at):
        if thread() == 0:
            st_f32(at + 256 + 4 * block(), np.float32(1 + block()))
        for i in range(1, 4):  # once and again: the gate only grows
            barrier()
            if thread() == 0:
                release_add(at, 1)
                while acquire_i64(at) < i * blocks():
                    thread()
            barrier()
        if block() == 0 and thread() == 0:
            st_f32(at + 512, ld_f32(at + 256) + ld_f32(at + 260))

    assert together(k, schedule=schedule)[128] == 3


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("forgotten", ["meeting", "barrier before", "barrier behind", "release"])
def test_what_is_forgotten_at_a_meeting_is_found(forgotten, schedule):
    """Whatever the order, also where the numbers happen to be right."""

    def k(at):
        st_f32(at + 256 + 256 * block() + 4 * thread(), np.float32(1))
        if forgotten == "meeting":
            barrier()
        else:
            if forgotten != "barrier before":
                barrier()
            if thread() == 0:
                if forgotten == "release":
                    st_i64(at + 8 * (1 + block()), 1)
                else:
                    release_add(at, 1)
                    while acquire_i64(at) < blocks():
                        thread()
            if forgotten != "barrier behind":
                barrier()
        ld_f32(at + 256 + 256 * (1 - block()) + 4 * (63 - thread()))

    with pytest.raises(Fault, match="race"):
        together(k, schedule=schedule)


def test_a_write_under_another_blocks_readers_is_a_race():
    def k(at):
        if block() == 0:
            ld_f32(at + 256)
        elif thread() == 0:
            st_f32(at + 256, np.float32(1))

    with pytest.raises(Fault, match="race"):
        together(k)


def test_what_is_loaded_as_a_constant_is_never_written():
    def k(at):
        weights4(at + 256)
        barrier()
        if block() == 0 and thread() == 0:
            st_f32(at + 512, np.float32(1))

    with pytest.raises(Fault, match="constant"):
        together(k)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_blocks_that_wait_in_vain_are_found(schedule):
    def k(at):
        if thread() == 0:
            if block() == 0:
                release_add(at, 1)
            while acquire_i64(at) < blocks():
                thread()
        barrier()

    with pytest.raises(Fault, match="wait for ever"):
        together(k, schedule=schedule)


def test_more_blocks_than_there_is_room_for_are_refused():
    with pytest.raises(Fault, match="room for 4"):
        together(lambda _: None, n_blocks=5)


def test_a_walker_whose_gate_is_open_is_found(tmp_path, monkeypatch):
    """Nobody waits: the race is found, not a wrong text."""
    written(tmp_path)
    use(monkeypatch, "persistent")
    with miaotui.load(tmp_path, max_context=8, device="cuda") as model:
        machine = model.session.backend.machine
        launches = machine.one()
        machine.begin([3], 0, 1)
        machine.device.write(machine.gate, np.full(walker.GATE_WORDS, 1 << 20))
        machine.device.write(machine.gate + 8 * walker.G_BEFORE, np.zeros(1, np.int64))
        with pytest.raises(Fault, match="race"):
            launches()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_walker_that_reads_its_gate_with_a_plain_load_is_found(schedule, tmp_path, monkeypatch):
    """All have come, and still a block need not see what they wrote."""

    def binding(grid, real=emulated.binding):
        got = real(grid)

        def plain(address):
            grid.now.hub.switch()  # or nobody would ever come
            return got["ld_i64"](address)

        return got | {"acquire_i64": plain}

    written(tmp_path)
    use(monkeypatch, "persistent", schedule)
    with miaotui.load(tmp_path, max_context=8, device="cuda") as model:
        model.session.step([3], 0)
        monkeypatch.setattr(emulated, "binding", binding)
        with pytest.raises(Fault, match="race"):
            model.session.step([1], 1)


def test_a_size_that_a_walker_cannot_have_is_refused(tmp_path, monkeypatch):
    written(tmp_path)
    use(monkeypatch, "phases")
    with miaotui.load(tmp_path, max_context=8, device="cuda") as model:
        machine = model.session.backend.machine
        machine.lines[0].values["d"] = SIZES
        with pytest.raises(BackendError, match=r"embed_f32: d=2,147,483,648.*MIAOTUI_CUDA_STEP"):
            machine.one()


def test_a_block_that_waits_in_vain_gives_up_and_the_next_answer_is_right(tmp_path, monkeypatch):
    written(tmp_path)
    use(monkeypatch, "persistent", patience=100)
    with miaotui.load(tmp_path, max_context=8, device="cuda") as model:
        wanted = model.generate(IDS, max_new_tokens=2, ignore_eos=True).ids
        machine = model.session.backend.machine
        machine.device.write(machine.gate, np.full(1, -(1 << 20)))
        with monkeypatch.context() as hasty:
            hasty.setattr(walker, "PATIENCE", 3)
            with pytest.raises(BackendError, match="waited in vain"):
                model.generate(IDS, max_new_tokens=2, ignore_eos=True)
        assert model.generate(IDS, max_new_tokens=2, ignore_eos=True).ids == wanted
