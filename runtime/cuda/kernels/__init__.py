"""One kernel per op and variant, under the op table's names; importing this defines them all and compiles none."""

from __future__ import annotations

from . import attention, elementwise, linear, norm, quantized, sparse, tokens
from .base import KERNELS, Kernel

__all__ = ["KERNELS", "Kernel", "attention", "elementwise", "linear", "norm", "quantized", "sparse", "tokens"]
