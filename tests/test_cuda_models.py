"""Whole models by the public API on the emulated GPU, against the CPU; and what the device refuses."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import IntEnum
from types import SimpleNamespace

import miaotui
import numpy as np
import pytest
import soak
from checkpoints import FAMILIES, small, write_checkpoint
from emulation import EmulatedDevice
from greedy import Agreement, agree
from miaotui.errors import BackendError, InputError, MemoryLimitError
from miaotui.limits import Request
from miaotui.runtime.cuda import driver
from miaotui.runtime.cuda.interpreter import WAYS
from miaotui.runtime.cuda.kernels import KERNELS, Kernel
from miaotui.tools import cli
from miaotui.tools.commands.inspect import facts, lines
from real_files import real
from tolerance import bound

IDS = [3, 1, 4, 1, 5, 9, 2]


@pytest.fixture
def emulated(monkeypatch):
    monkeypatch.setattr(driver, "CudaDevice", EmulatedDevice)


def compare(path, ids=IDS, n_new=3, **options):
    """Logits and greedy ids of both devices; the latter may differ only where two logits are as good (`greedy.py`)."""
    context = max(16, len(ids) + n_new)
    with (
        miaotui.load(path, max_context=context, **options) as cpu,
        miaotui.load(path, max_context=context, device="cuda", **options) as gpu,
    ):
        wanted = cpu.logits(ids)
        limit = bound("model", "f32", cpu.config.n_layers, scale=float(np.abs(wanted).max()))
        assert np.abs(gpu.logits(ids) - wanted).max() <= limit
        return agree(cpu.session, gpu.session, ids, n_new, limit)


@pytest.mark.ci  # 12 s
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("emulated")
def test_every_family(family, tmp_path):
    write_checkpoint(tmp_path, small(family))
    compare(tmp_path, prefill_chunk=3)


@pytest.mark.parametrize("quantize", ["int8", "int4", "int4a"])
@pytest.mark.usefixtures("emulated")
def test_quantised(quantize, tmp_path):
    write_checkpoint(tmp_path, small("llama"))
    compare(tmp_path, n_new=1, quantize=quantize)


@pytest.mark.parametrize("kv_cache", ["bf16", "int8"])
@pytest.mark.usefixtures("emulated")
def test_small_caches(kv_cache, tmp_path):
    """Of an input in error by a bit, rounding may make a step more."""
    write_checkpoint(tmp_path, small("qwen3"))
    with miaotui.load(tmp_path, max_context=16) as exact:
        wanted = exact.logits(IDS)
    with miaotui.load(tmp_path, max_context=16, device="cuda", kv_cache=kv_cache) as model:
        assert np.abs(model.logits(IDS) - wanted).max() <= 0.05 * np.abs(wanted).max()


@pytest.mark.ci  # 17 s
@pytest.mark.parametrize(
    ("dtype", "architecture", "kernel"),
    [
        ("BF16", "sm_80", "linear_bf16_dot_tiled64"),
        ("F16", "sm_80", "linear_f16_tiled64"),
        ("F32", "sm_80", "linear_f32_tiled64"),
        ("BF16", "sm_90a", "linear_bf16_dot_wgmma256"),
    ],
)
def test_a_long_prompt_in_fast_mode_goes_to_the_tensor_core(dtype, architecture, kernel, tmp_path, monkeypatch):
    """Two layers of numbers rounded to bfloat16; as much as a small cache may cost. In exact mode it is not asked."""
    launched = set()
    monkeypatch.setattr("miaotui.runtime.cuda.kernels.hopper.MANY_TILES", 1)

    class Listing(EmulatedDevice):
        def __init__(self):
            super().__init__(architecture=architecture)

        def launch(self, kernel, *rest):
            launched.add(kernel.name)
            super().launch(kernel, *rest)

    monkeypatch.setattr(driver, "CudaDevice", Listing)
    drawn = small("llama")
    sizes = {"hidden_size": 24, "intermediate_size": 16, "num_attention_heads": 6, "num_key_value_heads": 2}
    write_checkpoint(tmp_path, replace(drawn, config=drawn.config | sizes, dtype=dtype))
    ids = [*range(11), *range(9)]
    with miaotui.load(tmp_path, max_context=32, device="cuda") as exact:
        wanted = exact.logits(ids)
    assert not any(part in name for part in ("tiled", "flash", "wgmma") for name in launched)
    with miaotui.load(tmp_path, max_context=32, device="cuda", precision="fast", prefill_chunk=20) as model:
        assert "the GPU's tensor core" in model.receipt.notes[0]
        assert np.abs(model.logits(ids) - wanted).max() <= 0.05 * np.abs(wanted).max()
    assert {"attention_f32_flash64", kernel} <= launched


class Answers:
    """A session whose logits are given."""

    def __init__(self, *logits):
        self.rest, self.fed = list(logits), []

    def step(self, ids, start):
        self.fed.append((list(ids), start))
        self.logits = np.array([self.rest.pop(0)])

    @property
    def argmax(self):
        return int(np.argmax(self.logits[-1]))


def test_greedy_ids_may_differ_only_where_two_are_as_good(monkeypatch):
    monkeypatch.setattr(sys.modules["greedy"], "COUNTED", {})
    one, other = Answers([0, 1.0, 0.9], [3, 0, 0]), Answers([0, 0.9, 1.0], [2, 0, 0])
    assert agree(one, other, [7, 8], 2, 0.05 + 1e-6) == Agreement(2, 1, 1)
    assert other.fed == [([7, 8], 0), ([1], 2)]  # the first one's id, though the other's was another
    with pytest.raises(AssertionError, match="tolerance"):
        agree(Answers([0, 1.0, 0.8]), Answers([0, 0.8, 1.0]), [7], 1, 0.05)
    assert "1 of 2 greedy ids equal; 1 differ, 1 have" in str(Agreement(2, 1, 1))


@pytest.mark.usefixtures("emulated")
def test_uneven_layers(tmp_path):
    write_checkpoint(tmp_path, small("qwen2"))
    compare(tmp_path, n_new=1, prune="drop-heads=1:0; drop-ffn=0")


@pytest.mark.ci  # 12 s
@pytest.mark.usefixtures("emulated")
def test_a_trained_model_gives_the_same_tokens():
    path = real("models", "stories260K-hf")
    compare(path, ids=[1, 403], n_new=3)


@pytest.mark.usefixtures("emulated")
def test_steps_can_be_watched_and_timed(tmp_path):
    write_checkpoint(tmp_path, small("llama"))
    with miaotui.load(tmp_path, max_context=16, device="cuda") as model:
        seen = []
        model.session.watched_step(IDS, 0, lambda i, view: seen.append((i.op, [view(t) for t in i.tensors("i")][:1])))
        assert [op for op, _ in seen] == [i.op for i in model.program().code]
        assert np.isfinite(next(x[0] for op, x in seen if op == "linear")).all()
        assert len(model.session.timed_step(IDS[:2], 0)) == len(seen)


def test_without_a_gpu_the_error_says_what_is_missing(tmp_path, capsys):
    write_checkpoint(tmp_path, small("llama"))
    try:
        driver.CudaDevice().close()
    except BackendError:
        pass
    else:
        pytest.skip("there is a GPU")
    with pytest.raises(BackendError, match=r"extra|driver|GPU"):
        miaotui.load(tmp_path, device="cuda")
    assert cli.main(["generate", "--model", str(tmp_path), "--device", "cuda", "x"]) == 1
    assert "--device cuda needs" in capsys.readouterr().err


class Code(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_ILLEGAL_ADDRESS = 700


class FakeDriver:
    """As much of cuda.bindings.driver as opening a GPU takes; `fails`: which call gives which code, or result."""

    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=0, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=1,
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT=2,
    )  # fmt: skip
    CUevent_flags = SimpleNamespace(CU_EVENT_DISABLE_TIMING=2)

    def __init__(self, *, capability=(9, 0), version=13000, **fails):
        self.capability, self.version, self.fails, self.calls = capability, version, fails, []

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append(name)
            if isinstance(self.fails.get(name), Code):
                return (self.fails[name],)
            if name in self.fails:
                return (Code.CUDA_SUCCESS, self.fails[name])
            result = {"cuDeviceGetName": b"Fake\0", "cuMemAlloc": 4096, "cuDeviceGet": 0}.get(name)
            if name == "cuMemGetInfo":
                return (Code.CUDA_SUCCESS, 5 << 20, 8 << 20)
            if name == "cuDriverGetVersion":
                result = self.version
            if name == "cuDeviceGetAttribute":
                result = (*self.capability, 132)[arguments[0]]
            return (Code.CUDA_SUCCESS, 1 if result is None else result)

        return call


def test_a_gpu_names_its_architecture():
    assert driver.CudaDevice(driver=FakeDriver()).architecture == "sm_90a"
    assert driver.CudaDevice(driver=FakeDriver(capability=(8, 6))).architecture == "sm_86"


def test_an_old_gpu_is_refused():
    with pytest.raises(BackendError, match=r"7\.0.*Turing \(7\.5\)"):
        driver.CudaDevice(driver=FakeDriver(capability=(7, 0)))


def test_turing_runs_what_needs_no_tensor_core():
    gpu = driver.CudaDevice(driver=FakeDriver(capability=(7, 5)))
    assert gpu.architecture == "sm_75"
    gpu.check([KERNELS["linear_bf16"], KERNELS["kv_write_int8"]])
    with pytest.raises(BackendError, match="kv_write_bf16 needs Ampere"):
        gpu.check([KERNELS["kv_write_bf16"]])


def test_no_gpu_is_said():
    with pytest.raises(BackendError, match="no NVIDIA GPU"):
        driver.CudaDevice(driver=FakeDriver(cuInit=Code.CUDA_ERROR_NO_DEVICE))


def kernel_of(*, together):
    return Kernel("k", lambda _: None, 64, lambda *_: 1, lambda _: 0, (), together=together)


def test_blocks_that_wait_for_each_other_are_launched_as_such(monkeypatch):
    monkeypatch.setattr(driver, "cubin", lambda *_: b"")
    fake = FakeDriver(cuOccupancyMaxActiveBlocksPerMultiprocessor=2)
    gpu = driver.CudaDevice(driver=fake)
    assert gpu.room(kernel_of(together=True), 1000) == 2 * 132
    for together, call in ((True, "cuLaunchCooperativeKernel"), (False, "cuLaunchKernel")):
        gpu.launch(kernel_of(together=together), 3, 0, (1,))
        assert [c for c in fake.calls if c.startswith("cuLaunch")][-1] == call
    full = driver.CudaDevice(driver=FakeDriver(cuOccupancyMaxActiveBlocksPerMultiprocessor=0))
    with pytest.raises(BackendError, match="does not fit"):
        full.room(kernel_of(together=True), 1000)


def test_what_is_fetched_is_copied_and_its_place_used_again():
    place = np.arange(driver.STAGED, dtype=np.int64).astype(np.uint8)
    fake = FakeDriver(cuMemHostAlloc=place.ctypes.data)
    gpu = driver.CudaDevice(driver=fake)
    first = gpu.fetch(4096, 16)()
    place[:] = 7
    assert first.tolist() == list(range(16))
    assert gpu.fetch(4096, 16)().tolist() == [7] * 16
    assert fake.calls.count("cuMemHostAlloc") == 1
    with pytest.raises(BackendError, match="can be fetched"):
        gpu.fetch(4096, driver.STAGED + 1)
    gpu.close()
    assert fake.calls.count("cuMemFreeHost") == 1


def test_out_of_memory_and_a_lost_device_leave_the_process_alive():
    fake = FakeDriver(cuMemAlloc=Code.CUDA_ERROR_OUT_OF_MEMORY, cuStreamSynchronize=Code.CUDA_ERROR_ILLEGAL_ADDRESS)
    gpu = driver.CudaDevice(driver=fake)
    with pytest.raises(BackendError, match=r"allocate 1,000,000 bytes on Fake.*max_context"):
        gpu.allocate(10**6)
    with pytest.raises(BackendError, match=r"ILLEGAL_ADDRESS.*load it again"):
        gpu.read(4096, 8)
    calls = len(fake.calls)
    with pytest.raises(BackendError, match=r"Fake was lost \(cuStreamSynchronize gave CUDA_ERROR_ILLEGAL_ADDRESS\)"):
        gpu.allocate(8)  # at once: the driver is not asked
    assert len(fake.calls) == calls
    gpu.close()
    gpu.close()
    assert fake.calls.count("cuDevicePrimaryCtxRelease") == fake.calls.count("cuDevicePrimaryCtxReset") == 1
    driver.CudaDevice(driver=fake).close()  # a new one may be opened, and nothing is wrong with it
    assert fake.calls.count("cuDevicePrimaryCtxReset") == 1


def test_what_is_free_is_said_where_memory_ends():
    gpu = driver.CudaDevice(driver=FakeDriver(cuMemAlloc=Code.CUDA_ERROR_OUT_OF_MEMORY))
    with pytest.raises(BackendError, match=r"6,291,456 bytes on Fake \(5,242,880 are free\).*max_context"):
        gpu.allocate(6 << 20)


@pytest.mark.parametrize(("version", "said"), [(12040, "12.4"), (11080, "11.8")])
def test_an_old_driver_is_refused(version, said):
    with pytest.raises(BackendError, match=rf"CUDA {said}; 13\.0 or later.*update it"):
        driver.CudaDevice(driver=FakeDriver(version=version))


@pytest.mark.parametrize("call", ["cuDevicePrimaryCtxRetain", "cuStreamCreate", "cuCtxSetCurrent"])
def test_a_gpu_that_does_not_open_is_let_go_of(call):
    fake = FakeDriver(**{call: Code.CUDA_ERROR_OUT_OF_MEMORY})
    with pytest.raises(BackendError, match=call):
        driver.CudaDevice(driver=fake)
    retained = "cuDevicePrimaryCtxRetain" in fake.calls and call != "cuDevicePrimaryCtxRetain"
    assert fake.calls.count("cuDevicePrimaryCtxRelease") == retained


class CountingDevice(EmulatedDevice):
    """Counts what is allocated and written; `free` bytes are said to be free."""

    free, taken, written = 1 << 40, 0, 0

    def allocate(self, nbytes):
        CountingDevice.taken += nbytes
        return super().allocate(nbytes)

    def write(self, address, data):
        CountingDevice.written += data.nbytes
        super().write(address, data)

    def free_bytes(self):
        return self.free


@pytest.fixture
def counting(monkeypatch):
    monkeypatch.setattr(driver, "CudaDevice", CountingDevice)
    monkeypatch.setattr(CountingDevice, "taken", 0)
    monkeypatch.setattr(CountingDevice, "written", 0)
    return CountingDevice


#: Options, and the way of a step.
FORESEEN = [
    *(({}, way) for way in WAYS),
    ({"quantize": "int8"}, "persistent"),
    ({"kv_cache": "bf16"}, "phases"),
    ({"prune": "keep-layers=0"}, "graph"),
    ({"precision": "fast"}, "graph"),
]


@pytest.mark.ci  # 16 s
@pytest.mark.parametrize(
    "case",
    soak.rest(
        "cuda", FORESEEN, [({}, "graph"), ({"quantize": "int8"}, "persistent"), ({"precision": "fast"}, "graph")]
    ),
    ids=str,
)
def test_the_gpus_memory_is_what_was_predicted(case, tmp_path, counting, monkeypatch):
    """To the byte, and once steps of one token have run, greedy and drawn, and long prompts."""
    options, way = case
    monkeypatch.setenv("MIAOTUI_CUDA_STEP", way)
    write_checkpoint(tmp_path, replace(small("llama"), dtype="BF16"))
    with miaotui.load(tmp_path, max_context=64, device="cuda", threads=2, **options) as model:
        m = model.memory
        assert m["device_allocated"] == sum(n for k, n in m.items() if k[:7] == "device_" and k != "device_allocated")
        for how in ({}, {"temperature": 0.5}):
            model.generate([3], max_new_tokens=2, ignore_eos=True, **how)
        model.session.step(IDS * 3, 0)
        assert counting.taken == m["device_allocated"]
        assert m["allocated"] == m["weights_resident"] + m["constants"]
    if not {"prune", "quantize", "precision"} & set(options):
        got = facts(tmp_path, Request(max_context=64, device="cuda", **options))["memory"]
        assert {k: got[k] for k in m} == m
        quote = [line for line in lines(facts(tmp_path, Request(device="cuda"))) if "GPU: " in line]
        *parts, total = (int(line.split(" B ")[0].split()[-1].replace(",", "")) for line in quote)
        assert "GPU: allocated" in quote[-1]
        assert sum(parts) == total


def test_too_much_for_the_gpu_is_refused_before_anything_is_uploaded(tmp_path, counting, monkeypatch):
    write_checkpoint(tmp_path, small("llama"))
    with miaotui.load(tmp_path, max_context=64, device="cuda") as model:
        needed = model.memory["device_allocated"]
    monkeypatch.setattr(counting, "written", 0)
    with pytest.raises(MemoryLimitError, match=f"{needed:,} bytes of the GPU's memory, 1 over"):
        miaotui.load(tmp_path, max_context=64, device="cuda", memory_limit=needed - 1)
    monkeypatch.setattr(counting, "free", needed - 1)
    with pytest.raises(MemoryLimitError, match=f"{needed:,} bytes of the GPU's memory, of which {needed - 1:,} are"):
        miaotui.load(tmp_path, max_context=64, device="cuda")
    assert counting.written == 0
    monkeypatch.setattr(counting, "free", needed)
    miaotui.load(tmp_path, max_context=64, device="cuda", memory_limit=needed).close()


@pytest.mark.usefixtures("emulated")
def test_a_text_cannot_outgrow_its_context_there(tmp_path):
    """And nothing is reserved for it: the tables of positions are as large as they were."""
    model = small("llama")
    write_checkpoint(tmp_path, replace(model, config=model.config | {"max_position_embeddings": 256}))
    with miaotui.load(tmp_path, device="cuda") as gpu, miaotui.load(tmp_path) as cpu:
        for call in (lambda: gpu.generate(IDS, overflow="window"), lambda: gpu.sequence(overflow="window")):
            with pytest.raises(InputError, match=r"overflow='window': a GPU's cache holds one text.*device='cpu'"):
                call()
        assert gpu.memory["constants"] == 256 * 4 * 4
        assert cpu.memory["constants"] == (256 + 128) * 4 * 4


@pytest.mark.usefixtures("emulated")
def test_a_model_whose_gpu_was_lost_can_be_closed_and_loaded_again(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, small("llama"))
    model = miaotui.load(tmp_path, max_context=16, device="cuda")
    msg = "the GPU was lost"

    def lost(*_):
        raise BackendError(msg)

    with monkeypatch.context() as m:
        m.setattr(EmulatedDevice, "launch", lost)
        for _ in range(2):
            with pytest.raises(BackendError, match=msg):
                model.generate(IDS, max_new_tokens=1)
    model.close()
    with miaotui.load(tmp_path, max_context=16, device="cuda") as again:
        assert len(again.generate(IDS[:1], max_new_tokens=1, ignore_eos=True).ids) == 1
