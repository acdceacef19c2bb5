"""What every kernel uses: reading the instruction and the step, and taking a thread's share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from ...step import S_N_LOGITS, S_SEQUENCES, S_T, S_TOKENS, SEQUENCE_WORDS, TOKEN_WORDS
from ..lanes import ld, ldf

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "KERNELS",
    "arg",
    "farg",
    "jit",
    "kernel",
    "plain",
    "rows_of",
    "sequence_words",
    "share",
    "template",
    "token_word",
]

jit = njit(nogil=True, error_model="numpy")
#: For a factory's product: pasted into the kernel that names it.
template = njit(inline="always")

KERNELS: dict[str, Callable[..., None]] = {}


def kernel(f: Callable[..., None]) -> Callable[..., None]:
    """Register a kernel under its own name (a trailing underscore keeps it apart from an operation on lanes)."""
    KERNELS[f.__name__.rstrip("_")] = f
    return f


@jit
def arg(p: Any, slot: Any) -> Any:
    """An integer, offset or address of the instruction."""
    return ld(p + 8 * slot)


@jit
def farg(p: Any, slot: Any) -> Any:
    """A float of the instruction."""
    return ldf(p + 8 * slot)


@jit
def plain(number: Any) -> Any:
    """A constant that is no type by itself: what takes it is compiled once, not for each constant."""
    return np.int64(number)


@jit
def rows_of(p: Any, step: Any) -> Any:
    """Rows of this instruction's output in this step."""
    return ld(step + 8 * (S_N_LOGITS if arg(p, 2) != 0 else S_T))


@jit
def token_word(step: Any, r: Any, word: Any) -> Any:
    """A word of the step's token r (`runtime/step.py`)."""
    return ld(ld(step + 8 * S_TOKENS) + 8 * (TOKEN_WORDS * r + word))


@jit
def share(n: Any, unit: Any, t: Any, nt: Any) -> Any:
    """Where thread t's share of n items begins, in whole units."""
    return min(n, ((n + unit - 1) // unit * t // nt) * unit)


@template
def sequence_words(step: Any, q: Any) -> Any:
    """Address of a sequence's words."""
    return ld(step + 8 * S_SEQUENCES) + 8 * SEQUENCE_WORDS * q
