"""One kernel per op and variant, under the op table's names; importing this defines them all and compiles none."""

from __future__ import annotations

from . import attention, bandwidth, elementwise, gemm, linear, norm, quantized, sparse, tokens
from .base import KERNELS, SPECIAL, Kernel, chosen

__all__ = [
    "KERNELS",
    "SPECIAL",
    "Kernel",
    "attention",
    "bandwidth",
    "chosen",
    "elementwise",
    "gemm",
    "linear",
    "norm",
    "quantized",
    "sparse",
    "tokens",
]
