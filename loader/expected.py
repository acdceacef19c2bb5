"""What a checkpoint of a config.json must hold, before there is one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import resolve_config
from .model_tensors import ModelTensors

if TYPE_CHECKING:
    from .header import TensorInfo

__all__ = ["expected_tensors"]


class _Nothing(dict[str, "TensorInfo"]):
    """No tensor is there yet; there may be this many."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __len__(self) -> int:
        return self._most


def expected_tensors(config: dict[str, Any], most: int = 2**16) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a model of this config.json must have; `most`: no more than so many.

    Those that it may lack are not named; of a tensor that has several names it is the first. Errors: `ConfigError`.
    """
    resolved = resolve_config(config, "config")
    file = ModelTensors(Path("config"), _Nothing(most), resolved)
    named = {} if file.encoder is None else file.encoder.missing()
    return {**named, **file.missing()}
