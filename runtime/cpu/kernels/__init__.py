"""One kernel per op and variant, all of one signature: (p, base, step, t, nt).

`p` is the instruction's address, `base` the arena's, `step` the step block's, `t` this thread of `nt`. A kernel
computes its own share of the outputs and never splits a sum. Importing this package defines every kernel and compiles
none.
"""

from __future__ import annotations

from . import (
    attention,
    attention_variants,
    draw,
    elementwise,
    experts,
    inputs,
    kv_cache,
    linear,
    lora,
    norm,
    packing,
    quantized,
    sparse,
    tokens,
)
from .base import KERNELS

__all__ = [
    "KERNELS",
    "attention",
    "attention_variants",
    "draw",
    "elementwise",
    "experts",
    "inputs",
    "kv_cache",
    "linear",
    "lora",
    "norm",
    "packing",
    "quantized",
    "sparse",
    "tokens",
]
