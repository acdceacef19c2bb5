"""What `miaotui.testing.malformed` publishes, by the name that tests have for it."""

from __future__ import annotations

from miaotui.testing.malformed import (
    CONFIG,
    ROWS,
    header_of,
    safetensors_bytes,
    tensors,
    tokenizer,
    write_good,
)
from miaotui.testing.malformed import Malformed as Broken

__all__ = ["CONFIG", "ROWS", "Broken", "header_of", "safetensors_bytes", "tensors", "tokenizer", "write_good"]
