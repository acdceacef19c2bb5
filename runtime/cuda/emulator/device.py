"""Kernels run without a GPU, unmodified: every thread is a greenlet that gives way only where it must wait.

Threads of a block run in an order that the schedule says: forward, backward or drawn again each time. What they do
wrong is a `Fault` (`grid.py`, `memory.py`). Needs greenlet (extra "test").
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from ....errors import BackendError
from ..bind import bind
from ..primitives import WARP
from ..tensor_map import MAP_ALIGN, MAP_BYTES
from .binding import BUILTINS, binding
from .grid import Grid
from .memory import Fault, Memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from ..kernels.base import Kernel
    from ..tensor_map import TensorMap

__all__ = ["SCHEDULES", "EmulatedDevice", "Fault"]

#: Orders in which the threads that can run do so.
SCHEDULES = ("forward", "backward", "drawn")


class EmulatedDevice:
    """What `driver.CudaDevice` is, with no GPU: memory, and launches of kernels one after the other."""

    name, processors = "emulator", 1

    def __init__(
        self,
        schedule: str = "forward",
        seed: int = 0,
        *,
        blocks: int = 3,
        patience: int = 0,
        architecture: str = "sm_80",
    ) -> None:
        """`schedule`: one of `SCHEDULES`; `blocks`: how many can run at once; `architecture`: what it passes for.

        `patience`: how often all may look for what never comes before that is a `Fault`.
        """
        self.blocks, self.patience, self.architecture = blocks, patience, architecture
        self.memory = Memory()
        self._maps: dict[int, TensorMap] = {}
        self._bound: dict[str, Callable[..., None]] = {}
        self._random = random.Random(seed)  # noqa: S311 - an order of threads
        self._schedule = schedule

    @property
    def facts(self) -> dict[str, Any]:
        """What it is, for the record of a measurement."""
        return {"name": self.name, "processors": self.processors}

    def check(self, kernels: Iterable[Kernel]) -> None:
        """Every kernel runs here."""

    def free_bytes(self) -> int:
        """As much as the host gives."""
        return 1 << 40

    def allocate(self, nbytes: int) -> int:
        """Poisoned bytes."""
        return self.memory.allocate(nbytes)

    def write(self, address: int, data: NDArray[Any]) -> None:
        """From the host."""
        flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        self.memory.view(address, flat.nbytes)[:] = flat

    def read(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """A copy for the host."""
        return self.memory.view(address, nbytes).copy()

    def fetch(self, address: int, nbytes: int) -> Callable[[], NDArray[np.uint8]]:
        """As it is now."""
        copied = self.read(address, nbytes)
        return lambda: copied

    def tensor_map(self, wanted: TensorMap, to: int) -> None:
        """Keep the map next to its place."""
        if wanted.wrong:
            raise BackendError(wanted.wrong)
        self.memory.region(wanted.address, wanted.nbytes)
        if to % MAP_ALIGN:
            msg = f"a map at {to:#x}; expected a multiple of {MAP_ALIGN}"
            raise Fault(msg)
        self.memory.region(to, MAP_BYTES)
        self._maps[to] = wanted

    def launch(self, kernel: Kernel, blocks: int, shared: int, arguments: Sequence[Any]) -> None:
        """Run the kernel. Errors: `Fault`."""
        if kernel.threads % WARP or blocks < 0:
            msg = f"{kernel.name}: {blocks} blocks of {kernel.threads} threads"
            raise Fault(msg)
        grid = Grid(self.memory, kernel, blocks, shared, self.patience, self._maps)
        function = bind(kernel.function, binding(grid), own=BUILTINS)
        with np.errstate(all="ignore"):
            if kernel.together and blocks > self.blocks:
                msg = f"{kernel.name}: {blocks} blocks together, and there is room for {self.blocks}"
                raise Fault(msg)
            for some in [range(blocks)] if kernel.together else [[at] for at in self._pick(range(blocks))]:
                grid.run(some, function, arguments, self._pick)

    def room(self, kernel: Kernel, shared: int) -> int:  # noqa: ARG002 - as a GPU is asked
        """Blocks that run at once."""
        return self.blocks

    def seconds(self, work: Callable[[], object]) -> float:
        """The host's time."""
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    def capture(self, launches: Callable[[], None]) -> Callable[[], None]:
        """They, to be called again."""
        return launches

    def _pick(self, items: Sequence[Any]) -> Sequence[Any]:
        if self._schedule == "drawn":
            return self._random.sample(items, len(items))
        return items if self._schedule == "forward" else items[::-1]

    def synchronize(self) -> None:
        """Everything has run."""

    def close(self) -> None:
        """The memory goes with the object."""
