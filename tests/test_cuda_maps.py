"""Maps of matrices for bulk copies: what none can say, and how the driver makes one."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest
from emulation import EmulatedDevice, Fault
from miaotui.errors import BackendError
from miaotui.runtime.cuda.driver import CudaDevice
from miaotui.runtime.cuda.tensor_map import TensorMap
from test_cuda_bulk import BOX, ROWS, one, run
from test_cuda_models import Code, FakeDriver


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"box_rows": 257}, "a box of 257 rows; expected 1 to 256"),
        ({"box_rows": 0}, "a box of 0 rows"),
        ({"stride": 168}, "168 bytes apart; expected multiples of 16"),
        ({"rows": 0}, "a matrix of 0 rows"),
        ({"columns": 81}, "20 rows and 81 columns, 160 bytes apart"),
    ],
    ids=str,
)
def test_what_no_map_can_say_is_refused(options, words):
    with pytest.raises(BackendError, match=words):
        run(one(), **options)


def test_a_map_of_what_is_not_there_is_refused():
    with pytest.raises(Fault, match="in no allocation"):
        run(one(), rows=ROWS + 1)


class MapDriver(FakeDriver):
    """Makes maps of sixteen numbers, and keeps what it was asked for and what was copied to the GPU."""

    def __init__(self, binding, code=Code.CUDA_SUCCESS):
        super().__init__()
        self.binding, self.code, self.asked, self.written = binding, code, None, []

    def __getattr__(self, name):
        return getattr(self.binding, name) if name.startswith(("CUtensorMap", "cuuint")) else super().__getattr__(name)

    def cuTensorMapEncodeTiled(self, *arguments):  # noqa: N802 - the driver's name
        self.asked = arguments
        return self.code, SimpleNamespace(opaque=[self.binding.cuuint64_t(2**64 - 1 - i) for i in range(16)])

    def cuMemcpyHtoDAsync(self, to, source, nbytes, _):  # noqa: N802 - the driver's name
        self.written.append((to, ctypes.string_at(source, nbytes)))
        return (Code.CUDA_SUCCESS,)


@pytest.fixture
def binding():
    return pytest.importorskip("cuda.bindings.driver", reason="numbers and names of the driver's, of the cuda extra")


def test_the_driver_makes_maps_of_what_they_say(binding):
    fake = MapDriver(binding)
    CudaDevice(driver=fake).tensor_map(TensorMap(1 << 20, 300, 72, 192, 128), 4096)
    assert fake.written == [(4096, np.array([2**64 - 1 - i for i in range(16)], np.uint64).tobytes())]
    kind, rank, address, sizes, strides, box, steps, *modes = fake.asked
    assert (kind.name, rank, address) == ("CU_TENSOR_MAP_DATA_TYPE_BFLOAT16", 2, 1 << 20)
    got = [[int(n) for n in numbers] for numbers in (sizes, strides, box, steps)]
    assert got == [[72, 300], [192], [64, 128], [1, 1]]
    wanted = ["INTERLEAVE_NONE", "SWIZZLE_128B", "L2_PROMOTION_L2_256B", "FLOAT_OOB_FILL_NONE"]
    assert [m.name.removeprefix("CU_TENSOR_MAP_") for m in modes] == wanted


def test_the_binding_takes_these_arguments(binding):
    fake = MapDriver(binding)
    CudaDevice(driver=fake).tensor_map(TensorMap(1 << 20, 300, 72, 192, 128), 4096)
    try:
        said = binding.cuTensorMapEncodeTiled(*fake.asked)[0].name
    except RuntimeError as e:  # it took them, and found no driver to hand them to
        said = str(e)
    assert said == "CUDA_SUCCESS" or "driver" in said


def test_a_map_that_the_driver_refuses_is_an_error_in_words(binding):
    gpu = CudaDevice(driver=MapDriver(binding, Code.CUDA_ERROR_NO_DEVICE))
    with pytest.raises(BackendError, match="could not describe 300 x 72 numbers for copies: cuTensorMapEncodeTiled"):
        gpu.tensor_map(TensorMap(1 << 20, 300, 72, 192, 128), 4096)
    with pytest.raises(BackendError, match="Fake copies no boxes of a matrix at 0x8, rows 192 bytes apart"):
        gpu.tensor_map(TensorMap(8, 300, 72, 192, 128), 4096)


def test_a_map_has_a_place_of_its_own():
    device = EmulatedDevice()
    at = device.allocate(1024)
    with pytest.raises(Fault, match=r"a map at .*; expected a multiple of 64"):
        device.tensor_map(TensorMap(at, 4, 64, 128, BOX), at + 8)
    with pytest.raises(Fault, match="in no allocation"):
        device.tensor_map(TensorMap(at, 4, 64, 128, BOX), at + 1024 - 64)
