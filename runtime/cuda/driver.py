"""A GPU through the CUDA driver: memory, modules, launches, graphs. Nothing of CUDA is imported before it is asked for.

Every call of the driver gives a code first; what is not success becomes a `BackendError` that says what was being done.
After a fault in a kernel the driver refuses all that follows in its context: the device is lost to this object, and a
new one can be made.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import BackendError
from .build import check, cubin, symbol
from .tensor_map import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from .kernels.base import Kernel
    from .tensor_map import TensorMap

__all__ = ["CudaDevice"]

LEAST = (7, 5)
#: The driver's own number of the CUDA that it is of: what our cubins are made for.
LEAST_DRIVER = 13000
#: Bytes from which an allocation asks first what is free.
LARGE = 1 << 20
_AGAIN = "the GPU is lost to this model: close it and load it again, in a new process if that fails too"
#: Bytes of shared memory that a kernel may have without asking.
PLAIN_SHARED = 48 * 1024
#: Most bytes of a fetch.
STAGED = 4096
#: After these every call in the process's context fails: the GPU's memory and what it was doing are gone.
_LOST = {
    *("ILLEGAL_ADDRESS", "LAUNCH_TIMEOUT", "LAUNCH_FAILED", "ASSERT", "HARDWARE_STACK_ERROR", "ILLEGAL_INSTRUCTION"),
    *("MISALIGNED_ADDRESS", "INVALID_ADDRESS_SPACE", "INVALID_PC", "ECC_UNCORRECTABLE", "CONTEXT_IS_DESTROYED"),
    *("DEVICE_UNAVAILABLE", "NVLINK_UNCORRECTABLE", "CONTAINED", "TENSOR_MEMORY_LEAK", "EXTERNAL_DEVICE"),
}
_ADVICE = {
    "CUDA_ERROR_OUT_OF_MEMORY": "a smaller max_context, kv_cache='int8' or quantize= needs less",
    "CUDA_ERROR_NO_DEVICE": "no NVIDIA GPU is visible; device='cpu' runs everywhere",
    "CUDA_ERROR_INSUFFICIENT_DRIVER": "the driver is older than CUDA 13; update it, or use device='cpu'",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "the driver and its library are of two versions; restart the machine",
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": "this GPU takes no newer CUDA than its driver's; update the driver",
    "CUDA_ERROR_SYSTEM_NOT_READY": "the GPU is not ready: its fabric manager, or another service, must run first",
    "CUDA_ERROR_DEVICE_NOT_LICENSED": "the virtual GPU has no licence",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "the driver is older than this GPU's code; update it, or use device='cpu'",
}


class CudaDevice:
    """One GPU, one stream."""

    def __init__(self, ordinal: int = 0, driver: Any = None) -> None:
        """Open the GPU. Errors: `BackendError`: no extra, no driver, no GPU, or one that is too old."""
        self._driver = driver if driver is not None else _bindings()
        self._modules: dict[str, tuple[Any, Any]] = {}
        self._memory: list[int] = []
        self._loose: list[Callable[[], Any]] = []
        self._staging: list[tuple[int, Any]] = []  # free for the next fetch
        self._lost = ""  # what the call gave that lost the GPU
        self.name = "the GPU"
        try:
            self._open(ordinal)
        except BaseException:
            self.close()
            raise

    def _open(self, ordinal: int) -> None:
        try:
            self._do("start the driver", "cuInit", 0)
        except RuntimeError as e:  # cuda-bindings finds no libcuda
            raise BackendError(_no_driver(e)) from e
        version = int(self._do("ask for the driver's version", "cuDriverGetVersion"))
        if version < LEAST_DRIVER:
            least = LEAST_DRIVER // 1000
            msg = (
                f"the driver is of CUDA {version // 1000}.{version % 1000 // 10}; {least}.0 or later is needed "
                "(R580): update it, or use device='cpu'"
            )
            raise BackendError(msg)
        self._device = self._do(f"open GPU {ordinal}", "cuDeviceGet", ordinal)
        self.name = self._do("ask for its name", "cuDeviceGetName", 100, self._device).split(b"\0")[0].decode()
        names = ("COMPUTE_CAPABILITY_MAJOR", "COMPUTE_CAPABILITY_MINOR", "MULTIPROCESSOR_COUNT")
        kinds = [getattr(self._driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}") for name in names]
        major, minor, self.processors = (
            self._do("ask what it is", "cuDeviceGetAttribute", kind, self._device) for kind in kinds
        )
        if (major, minor) < LEAST:
            msg = f"{self.name} has capability {major}.{minor}; Turing ({LEAST[0]}.{LEAST[1]}) or later is needed"
            raise BackendError(msg)
        self.architecture = f"sm_{major}{minor}" + ("a" if major >= 9 else "")
        self._context = self._do("enter it", "cuDevicePrimaryCtxRetain", self._device)
        self._loose.append(lambda: self._driver.cuDevicePrimaryCtxRelease(self._device))
        self._do("enter it", "cuCtxSetCurrent", self._context)
        self._stream = self._do("make a stream", "cuStreamCreate", 0)
        self._loose.append(lambda: self._driver.cuStreamDestroy(self._stream))

    def _do(self, what: str, call: str, *arguments: Any) -> Any:
        """Call the driver; its result, if it has one. Errors: `BackendError`; of a lost GPU, at once."""
        if self._lost:
            msg = f"CUDA could not {what}: {self._lost}; {_AGAIN}"
            raise BackendError(msg)
        code, *result = getattr(self._driver, call)(*arguments)
        if int(code) != 0:
            name = getattr(code, "name", str(code))
            if name.removeprefix("CUDA_ERROR_") in _LOST:
                self._lost = f"{self.name} was lost ({call} gave {name})"
            advice = _AGAIN if self._lost else _ADVICE.get(name, "if it stays so, close this model and load it again")
            msg = f"CUDA could not {what}: {call} gave {name}; {advice}"
            raise BackendError(msg)
        return result[0] if len(result) == 1 else tuple(result)

    @property
    def facts(self) -> dict[str, Any]:
        """What it is, for the record of a measurement."""
        version = int(self._do("ask for the driver's version", "cuDriverGetVersion"))
        return {
            "name": self.name,
            "architecture": self.architecture,
            "processors": self.processors,
            "memory_bytes": int(self._do("ask for its memory", "cuDeviceTotalMem", self._device)),
            "cuda": f"{version // 1000}.{version % 1000 // 10}",
        }

    def check(self, kernels: Iterable[Kernel]) -> None:
        """Refuse kernels that this GPU lacks the instructions for: BackendError."""
        for kernel in kernels:
            check(kernel, self.architecture)

    def free_bytes(self) -> int:
        """What can be allocated now, less what fragments cost."""
        return int(self._do("ask for its free memory", "cuMemGetInfo")[0])

    def allocate(self, nbytes: int) -> int:
        """Address of this many bytes. Errors: `BackendError` where there is no room."""
        free = self.free_bytes() if nbytes >= LARGE else 0
        what = f"allocate {nbytes:,} bytes on {self.name}" + (f" ({free:,} are free)" if free else "")
        address = int(self._do(what, "cuMemAlloc", nbytes))
        self._memory.append(address)
        return address

    def write(self, address: int, data: NDArray[Any]) -> None:
        """From the host, after what was launched; the data may change afterwards."""
        flat = np.ascontiguousarray(data)
        if flat.nbytes:
            self._do("copy to the GPU", "cuMemcpyHtoDAsync", address, flat.ctypes.data, flat.nbytes, self._stream)

    def read(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """To the host, when all that was launched is done."""
        out = np.empty(nbytes, np.uint8)
        if nbytes:
            self._do("copy from the GPU", "cuMemcpyDtoHAsync", out.ctypes.data, address, nbytes, self._stream)
        self.synchronize()
        return out

    def fetch(self, address: int, nbytes: int) -> Callable[[], NDArray[np.uint8]]:
        """Begin to copy to the host, after all that was launched; the function waits for the bytes, and no longer."""
        if nbytes > STAGED:
            msg = f"{nbytes} bytes at once; {STAGED} can be fetched"
            raise BackendError(msg)
        place, done = self._staging.pop() if self._staging else self._stage()
        self._do("copy from the GPU", "cuMemcpyDtoHAsync", place, address, nbytes, self._stream)
        self._do("mark the stream", "cuEventRecord", done, self._stream)

        def read() -> NDArray[np.uint8]:
            self._do("finish what was launched", "cuEventSynchronize", done)
            out = np.frombuffer(ctypes.string_at(place, nbytes), np.uint8)
            self._staging.append((place, done))
            return out

        return read

    def _stage(self) -> tuple[int, Any]:
        """Memory of the host that the GPU can write to while we do other things, and what says that it did."""
        place = int(self._do("allocate memory for copies", "cuMemHostAlloc", STAGED, 0))
        self._loose.append(lambda: self._driver.cuMemFreeHost(place))
        done = self._do("make an event", "cuEventCreate", self._driver.CUevent_flags.CU_EVENT_DISABLE_TIMING)
        self._loose.append(lambda: self._driver.cuEventDestroy(done))
        return place, done

    def tensor_map(self, wanted: TensorMap, to: int) -> None:
        """Write a map to an address. Errors: `BackendError`: there is none of this."""
        if wanted.wrong:
            msg = f"{self.name} copies no boxes of {wanted.wrong}"
            raise BackendError(msg)
        d = self._driver
        what = f"describe {wanted.rows} x {wanted.columns} numbers for copies"
        made = self._do(
            what, "cuTensorMapEncodeTiled",
            d.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, wanted.address,
            [d.cuuint64_t(wanted.columns), d.cuuint64_t(wanted.rows)], [d.cuuint64_t(wanted.stride)],
            [d.cuuint32_t(COLUMNS), d.cuuint32_t(wanted.box_rows)], [d.cuuint32_t(1)] * 2,
            d.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            d.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B,
            d.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            d.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )  # fmt: skip
        self.write(to, np.array([int(word) for word in made.opaque], np.uint64))

    def room(self, kernel: Kernel, shared: int) -> int:
        """Blocks of a kernel that run at once. Errors: `BackendError` where there is room for none."""
        ask, function = "cuOccupancyMaxActiveBlocksPerMultiprocessor", self._function(kernel, shared)
        each = self._do(f"ask how often {kernel.name} fits", ask, function, kernel.threads, shared)
        if each < 1:
            msg = f"{kernel.name} with {shared} bytes of shared memory does not fit a processor of {self.name}"
            raise BackendError(msg)
        return int(each * self.processors)

    def launch(self, kernel: Kernel, blocks: int, shared: int, arguments: Sequence[Any]) -> None:
        """Start a kernel after all others."""
        kinds = tuple(ctypes.c_float if isinstance(a, np.floating) else ctypes.c_int64 for a in arguments)
        values = tuple(float(a) if isinstance(a, np.floating) else int(a) for a in arguments)
        size = kernel.threads, 1, 1
        place = self._function(kernel, shared), blocks, 1, 1, *size, shared, self._stream, (values, kinds)
        if kernel.together:
            self._do(f"launch {kernel.name}", "cuLaunchCooperativeKernel", *place)
        else:
            self._do(f"launch {kernel.name}", "cuLaunchKernel", *place, 0)

    def _function(self, kernel: Kernel, shared: int) -> Any:
        if kernel.name not in self._modules:
            module = self._do(f"load {kernel.name}", "cuModuleLoadData", cubin(kernel, self.architecture))
            self._loose.append(lambda: self._driver.cuModuleUnload(module))
            handle = self._do(f"find {kernel.name}", "cuModuleGetFunction", module, symbol(kernel.name).encode())
            self._modules[kernel.name] = (module, handle)
        function = self._modules[kernel.name][1]
        if shared > PLAIN_SHARED:
            most = self._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._do(f"give {kernel.name} {shared} shared bytes", "cuFuncSetAttribute", function, most, shared)
        return function

    def seconds(self, work: Callable[[], object]) -> float:
        """How long the GPU has to do with what `work` starts, from its beginning to its end."""
        first, last = (self._do("make an event", "cuEventCreate", 0) for _ in range(2))
        try:
            self._do("mark the stream", "cuEventRecord", first, self._stream)
            work()
            self._do("mark the stream", "cuEventRecord", last, self._stream)
            self._do("finish what was launched", "cuEventSynchronize", last)
            return float(self._do("read the time", "cuEventElapsedTime", first, last)) / 1e3
        finally:
            for event in (first, last):
                self._driver.cuEventDestroy(event)

    def capture(self, launches: Callable[[], None]) -> Callable[[], None]:
        """What `launches` starts, as one graph; nothing of it runs now. Kernels must have been loaded before."""
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._do("record a graph", "cuStreamBeginCapture", self._stream, mode)
        try:
            launches()
        finally:
            graph = self._do("record a graph", "cuStreamEndCapture", self._stream)
        ready = self._do("make a graph ready", "cuGraphInstantiate", graph, 0)
        self._loose.append(lambda: self._driver.cuGraphExecDestroy(ready))
        self._do("release a graph", "cuGraphDestroy", graph)
        return lambda: self._do("run a graph", "cuGraphLaunch", ready, self._stream)

    def synchronize(self) -> None:
        """Wait for everything. Errors: `BackendError` where a kernel failed."""
        self._do("finish what was launched", "cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """Release everything; harmless when done twice, or when the device is lost.

        A lost context is made again, so that the process can open the GPU again where the driver lets it.
        """
        if self._lost and self._loose:
            self._driver.cuDevicePrimaryCtxReset(self._device)
        for address in self._memory:
            self._driver.cuMemFree(address)
        for undo in reversed(self._loose):
            undo()
        self._memory, self._loose, self._staging, self._modules = [], [], [], {}


def _bindings() -> Any:
    try:
        from cuda.bindings import driver  # noqa: PLC0415 - the extra, where it is used
    except ImportError as e:
        msg = f"device='cuda' needs the cuda extra: pip install 'miaotui[cuda]' ({e})"
        raise BackendError(msg) from e
    return driver


def _no_driver(e: Exception) -> str:
    first = str(e).splitlines()[0] if str(e) else type(e).__name__
    return f"device='cuda' needs NVIDIA's driver (libcuda, of CUDA 13 or later), and none was found ({first})"
