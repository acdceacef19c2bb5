"""torch's product on a GPU: y [m, n] = x [m, k] w [n, k]^T, of random numbers. A step is one, finished."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import gpu

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

PACKAGES, DTYPES = ("torch",), gpu.DTYPES


class Engine:
    """`prefill` takes m, n and k; a product is by cuBLAS or what else torch chooses."""

    def __init__(self, _path: Path, dtype: str, _threads: int, _context: int) -> None:
        """Nothing is made before sizes are named."""
        self._torch = gpu.torch_there()
        self._kind = getattr(self._torch, DTYPES[dtype])

    def about(self) -> dict[str, Any]:
        """Name and version."""
        return {
            "name": "torch",
            "version": str(self._torch.__version__),
            "cuda": self._torch.version.cuda,
            "load_s": 0.0,
        }

    def prefill(self, ids: Sequence[int]) -> None:
        """Take the sizes and compute once."""
        m, n, k = ids
        rows = ((m, k), (n, k))
        self._x, self._w = (self._torch.randn(size, device=gpu.DEVICE).to(self._kind) for size in rows)
        self._y = self._torch.empty((m, n), device=gpu.DEVICE, dtype=self._kind)
        self.step(0)

    def step(self, _token: int) -> None:
        """Compute once."""
        self._torch.matmul(self._x, self._w.T, out=self._y)
        if gpu.DEVICE == "cuda":
            self._torch.cuda.synchronize()

    def logits(self) -> NDArray[np.float32]:
        """The first row of y."""
        return np.asarray(self._y[0].float().cpu().numpy())
