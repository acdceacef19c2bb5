"""What runs kernels: a GPU (`driver.py`) or the emulator (`emulator/`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from .kernels import Kernel
    from .tensor_map import TensorMap

__all__ = ["Device"]


class Device(Protocol):
    """What the interpreter, and who measures, asks of a device."""

    processors: int

    @property
    def facts(self) -> dict[str, Any]:
        """What it is, for the record of a measurement."""

    def check(self, kernels: Iterable[Kernel]) -> None:
        """Refuse kernels that it cannot run: BackendError."""

    def free_bytes(self) -> int:
        """What can be allocated now."""

    architecture: str  # as sm_80: what its code is made for

    def allocate(self, nbytes: int) -> int:
        """Address of this many bytes, a multiple of 256."""

    def write(self, address: int, data: NDArray[Any]) -> None:
        """From the host."""

    def read(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        """To the host, after all that was launched."""

    def fetch(self, address: int, nbytes: int) -> Callable[[], NDArray[np.uint8]]:
        """Begin to read, after all that was launched; the function waits for the bytes."""

    def tensor_map(self, wanted: TensorMap, to: int) -> None:
        """Write a map for copies to `MAP_BYTES` at an address. Errors: `BackendError`: there is none of this."""

    def launch(self, kernel: Kernel, blocks: int, shared: int, arguments: Sequence[Any]) -> None:
        """Start a kernel after all others."""

    def room(self, kernel: Kernel, shared: int) -> int:
        """Blocks of a kernel that run at once."""

    def seconds(self, work: Callable[[], object]) -> float:
        """How long it has to do with what `work` starts."""

    def capture(self, launches: Callable[[], None]) -> Callable[[], None]:
        """What `launches` starts, to be started again and again; nothing of it runs now."""

    def synchronize(self) -> None:
        """Wait for all that was launched."""

    def close(self) -> None:
        """Release everything."""
