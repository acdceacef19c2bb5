"""The measuring tools of the GPU, on the emulated one: they run, count and write; nothing here asserts a speed."""

from __future__ import annotations

import json
import sys
from functools import partial

import numpy as np
import pytest
from emulation import EmulatedDevice
from miaotui.errors import BackendError, InputError
from miaotui.runtime.cuda import driver
from miaotui.runtime.cuda.interpreter import WAYS
from miaotui.runtime.cuda.kernels.bandwidth import THREADS, unit
from miaotui.tools import cli
from miaotui.tools.bench import compare, cuda, cuda_product, cuda_roofline, profile, shapes
from miaotui.tools.commands import bench

#: A model that the emulator takes a tenth of a second a token for.
SMALL = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 40}


@pytest.fixture
def emulated(monkeypatch):
    monkeypatch.setattr(driver, "CudaDevice", EmulatedDevice)
    monkeypatch.setattr(cuda_roofline, "BLOCKS", 1)
    monkeypatch.setattr(cuda_roofline, "REGION", 2 * unit(1))
    monkeypatch.setattr(cuda_roofline, "LAUNCHES", 3)
    monkeypatch.setattr(compare, "PAUSE", 0.0)
    monkeypatch.setitem(shapes.SHAPES, "tiny", shapes.SHAPES["tiny"] | SMALL)


@pytest.fixture
def no_gpu(monkeypatch):
    def none():
        msg = "device='cuda' needs NVIDIA's driver"
        raise BackendError(msg)

    monkeypatch.setattr(driver, "CudaDevice", none)


@pytest.mark.usefixtures("emulated")
def test_all_of_the_region_is_copied_and_read():
    with cuda_roofline.DeviceMemory(unit(1) + 16) as memory:
        assert memory.nbytes == unit(1)
        source = memory.device.read(memory.source, memory.nbytes)
        assert len(set(source.tolist())) == 256
        assert memory.device.read(memory.to, memory.nbytes).tobytes() == source.tobytes()
        words = memory.device.read(memory.words, 4 * THREADS).view(np.uint32)
        assert np.bitwise_xor.reduce(words) == np.bitwise_xor.reduce(source.view(np.uint32))
        assert np.unique(words).size > THREADS // 2
        assert memory.copy() > 0
        assert memory.round() > 0
        assert set(memory.launch_us()) == {"launch", "in_graph"}


@pytest.mark.usefixtures("emulated")
def test_a_region_smaller_than_a_round_is_refused():
    with pytest.raises(InputError, match=str(unit(1))):
        cuda_roofline.DeviceMemory(unit(1) - 1)


@pytest.mark.soak("cuda")
@pytest.mark.usefixtures("emulated")
def test_every_figure_by_one_command(tmp_path, capsys):
    words = ["--shape", "tiny", "--prompt", "2", "--new", "2", "--rounds", "1", "--prefill", "3"]
    words += ["--product", "16x8x40", "--peer-python", sys.executable, "--out", str(tmp_path / "out")]
    assert cuda.main(words) == 0
    (file,) = (tmp_path / "out").iterdir()
    record = json.loads(file.read_text(encoding="utf-8"))
    assert file.name == "cuda-emulator.json"
    assert str(tmp_path) not in file.read_text(encoding="utf-8")
    d = record["decode"]
    assert {*WAYS} <= set(d["sides"])
    assert {s["name"] for s in d["skipped"]} | set(d["about"]) == set(cuda.DECODERS)
    assert all(s["reason"] for s in d["skipped"])
    hidden, ff, vocab = 32, 32, 40
    assert d["weight_bytes_per_step"] == 2 * (vocab * hidden + 3 * ff * hidden + 3 * hidden**2) + 3 * 4 * hidden
    for way in WAYS:
        side = d["sides"][way]
        size, copy = d["weight_bytes_per_step"], 1e9 * d["copy_gbs"]
        assert side["copy_share"] == pytest.approx(size * side["decode_tps"] / copy)  # of one round
        assert side["step_copy_share"] == pytest.approx(size / side["step_us"] * 1e6 / copy)
    assert [(p["precision"], set(p["ms"])) for p in record["prefill"]] == [("fast", {"3"}), ("exact", {"3"})]
    assert all("drawn_us" in d["sides"][way] for way in WAYS)
    (product,) = record["products"]["results"]
    assert product["kernel"] == "linear_bf16_dot_tiled64"
    assert product["max_relative_error"] < 1e-5
    assert {"command", "gpu", "machine", "versions", "bandwidth", "launch_us"} < set(record)
    said = capsys.readouterr().out
    assert "of the copy bandwidth" in said
    assert "TFLOP/s" in said


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_one_line_says_so(tmp_path, capsys):
    assert cuda.main(["--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "miaotui.tools.bench.cuda: error: device='cuda' needs NVIDIA's driver\n"
    assert cli.main(["bench", "--device", "cuda"]) == 1
    assert capsys.readouterr().err == "miaotui: error: --device cuda needs NVIDIA's driver\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["--new", "1"], ["--rounds", "0"], ["--prefill", "0"]])
def test_no_such_figures(words, capsys):
    assert cuda.main(words) == 1
    assert "expected at least" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["8x8", "8x0x8", "axbxc"])
def test_no_such_product(size):
    with pytest.raises(InputError, match="three sizes"):
        cuda_product.products([size], 1, sys.executable)


@pytest.mark.usefixtures("emulated")
def test_a_wrong_product_is_not_timed(monkeypatch):
    closed = []
    monkeypatch.setattr(EmulatedDevice, "close", lambda _: closed.append(1))
    monkeypatch.setattr(cuda_product, "TOLERANCE", 0.0)
    with pytest.raises(BackendError, match="nothing was timed"):
        cuda_product.Product(1, 8, 8)
    assert len(closed) == 1


def test_a_product_on_hopper(monkeypatch):
    monkeypatch.setattr(driver, "CudaDevice", partial(EmulatedDevice, architecture="sm_90a"))
    monkeypatch.setattr("miaotui.runtime.cuda.kernels.hopper.MANY_TILES", 1)
    product = cuda_product.Product(20, 8, 40)
    assert product.kernel == "linear_bf16_dot_wgmma256"
    assert product.error < 1e-5
    assert len(product.seconds(2)) == 2
    product.close()


@pytest.mark.usefixtures("emulated")
def test_the_command_takes_the_device(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "profile", partial(profile.profile, repeat=1))
    path = shapes.make_checkpoint(tmp_path / "tiny", "tiny")
    words = ["--prompt", "1", "--new", "1", "--repeat", "1", "--profile", "--json", str(tmp_path / "f.json")]
    assert cli.main(["bench", "--device", "cuda", "--model", str(path), *words]) == 0
    record = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    assert record["gpu"]["name"] == "emulator"
    assert record["device"] == "cuda"
    (result,) = record["results"]
    assert result["decode_tps"] > 0
    assert result["read_fraction"] > 0
    said = capsys.readouterr().out
    assert "linear_f32" in said
    assert "of read" in said
