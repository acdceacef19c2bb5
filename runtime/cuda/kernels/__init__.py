"""One kernel per op and variant, under the op table's names; importing this defines them all and compiles none."""

from __future__ import annotations

from . import attention, bandwidth, elementwise, flash, gemm, hopper, integer, linear, norm, quantized, sparse, tokens
from .advance import ADVANCE
from .base import KERNELS, SPECIAL, Kernel, chosen
from .draw import DRAWS

__all__ = [
    "ADVANCE",
    "DRAWS",
    "KERNELS",
    "SPECIAL",
    "Kernel",
    "attention",
    "bandwidth",
    "chosen",
    "elementwise",
    "flash",
    "gemm",
    "hopper",
    "integer",
    "linear",
    "norm",
    "quantized",
    "sparse",
    "tokens",
]
