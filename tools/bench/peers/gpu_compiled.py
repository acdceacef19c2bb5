"""`transformers` with a static KV cache, its step of one token by `torch.compile` (CUDA graphs: "reduce-overhead")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import gpu

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PACKAGES, DTYPES = gpu.PACKAGES, gpu.DTYPES
MODE = "reduce-overhead"


class Engine(gpu.Engine):
    """As the eager one; the prompt is fed eagerly to the same cache."""

    def __init__(self, path: Path, dtype: str, threads: int, context: int) -> None:
        """Load the model; the first steps compile."""
        super().__init__(path, dtype, threads, context)
        self._compiled: Any = self._torch.compile(self._one, mode=MODE, fullgraph=True)
        self._cache = self._transformers.StaticCache(config=self._model.config, max_cache_len=context)
        self._token = self._torch.zeros((1, 1), dtype=self._torch.int64, device=gpu.DEVICE)
        self._at = self._torch.zeros((1, 1), dtype=self._torch.int64, device=gpu.DEVICE)

    def about(self) -> dict[str, Any]:
        """As the eager one's."""
        return super().about() | {"name": "torch.compile", "mode": MODE}

    def step(self, token: int) -> None:
        """Feed one token."""
        self._token.fill_(token)
        self._at.fill_(self._fed)
        self._logits = self._compiled(self._token, self._at).clone()
        self._fed += 1
        self._wait()

    def _one(self, token: Any, at: Any) -> Any:  # noqa: ANN401 - tensors
        return self._forward(input_ids=token, position_ids=at)

    def _begin(self) -> None:
        self._cache.reset()
        self._fed = 0

    def _feed(self, ids: Sequence[int]) -> None:
        super()._feed(ids)
        self._fed += len(ids)
