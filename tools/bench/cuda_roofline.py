"""What a GPU's memory can give, and what starting a kernel costs: what figures on it are held against."""

from __future__ import annotations

import importlib.metadata
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ...errors import InputError
from ...runtime.cuda import driver
from ...runtime.cuda.kernels.bandwidth import COPY, NOTHING, READ, THREADS, unit
from .roofline import versions

if TYPE_CHECKING:
    from types import TracebackType

    from ...runtime.cuda.device import Device
    from ...runtime.cuda.kernels import Kernel

__all__ = ["DeviceMemory", "cuda_versions", "gpu"]

REGION = 512 << 20  # far over any GPU's second-level cache
BLOCKS = 8  # of 256 threads: as many as a processor holds
LAUNCHES = 200


class DeviceMemory:
    """Copies and reads a region of a GPU's memory by our own kernels; random bytes, in two places."""

    def __init__(self, nbytes: int | None = None) -> None:
        """Take the memory. InputError: less than the grid takes in a round. BackendError: no GPU, or no room."""
        nbytes = REGION if nbytes is None else nbytes
        self.device: Device = driver.CudaDevice()
        self._blocks = BLOCKS * self.device.processors
        self.nbytes = nbytes // unit(self._blocks) * unit(self._blocks)
        if not self.nbytes:
            self.close()
            msg = f"{nbytes} bytes of a GPU's memory: expected at least {unit(self._blocks)}"
            raise InputError(msg)
        try:
            self.source, self.to = (self.device.allocate(self.nbytes) for _ in range(2))
            self.device.write(self.source, np.frombuffer(np.random.default_rng(0).bytes(self.nbytes), np.uint8))
            self.words = self.device.allocate(4 * THREADS * self._blocks)
            for how in (self.copy, self.read):
                how()  # loads the kernel
        except BaseException:
            self.close()
            raise

    def copy(self) -> float:
        """Copy the region once: bytes read and written a second."""
        return 2 * self.nbytes / self._seconds(COPY, self.to)

    def read(self) -> float:
        """Read the region once: bytes a second."""
        return self.nbytes / self._seconds(READ, self.words)

    def round(self) -> float:
        """As `read`: what `bench` asks of the CPU's memory too."""
        return self.read()

    def _seconds(self, kernel: Kernel, to: int) -> float:
        arguments = (0, 0, 0, to, self.source, self.nbytes)
        return self.device.seconds(partial(self.device.launch, kernel, self._blocks, 0, arguments))

    def launch_us(self) -> dict[str, float]:
        """Microseconds for each of many kernels that do nothing: to start one from here, and to run it in a graph."""
        one = partial(self.device.launch, NOTHING, 1, 0, (0, 0, 0))

        def many() -> None:
            for _ in range(LAUNCHES):
                one()

        one()
        self.device.synchronize()
        began = time.perf_counter()
        many()
        started = time.perf_counter() - began
        self.device.synchronize()
        graph = self.device.capture(many)
        graph()
        return {"launch": started / LAUNCHES * 1e6, "in_graph": self.device.seconds(graph) / LAUNCHES * 1e6}

    def close(self) -> None:
        """Give the memory back."""
        self.device.close()

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close."""
        self.close()


def gpu() -> dict[str, Any]:
    """Say what the GPU is. Errors: `BackendError`."""
    device = driver.CudaDevice()
    try:
        facts = dict(device.facts)
    finally:
        device.close()
    told = Path("/proc/driver/nvidia/version")
    words = told.read_text(encoding="utf-8").split() if told.exists() else []
    numbers = [w for w in words if w[:1].isdigit() and w.count(".") >= 1]
    return facts | ({"driver": numbers[0]} if numbers else {})


def cuda_versions() -> dict[str, str]:
    """`roofline.versions`, and those of what compiles and launches."""
    table = versions()
    for name in ("numba-cuda", "cuda-bindings", "nvidia-nvjitlink", "nvidia-nvvm"):
        try:
            table[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            table[name] = "not installed"
    return table
