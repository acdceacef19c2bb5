"""Quantising by kernels: what `load` hands to the loader in the place of NumPy's `pack_rows`. The same bytes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from . import link
from .environment import debugging
from .layout import PACK_SCRATCH, PACK_WORDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

__all__ = ["packer"]

LINE = 64


def packer(dtypes: Iterable[str]) -> Callable[[NDArray[Any], str, str, NDArray[np.uint8]], bool]:
    """A `pack_rows` for matrices of these dtypes; compiles what is missing. Either axis of its numbers may be dense."""
    kernels, call = link.addresses(sorted({f"pack_{dtype}" for dtype in dtypes})), link.alone()

    def pack_rows(numbers: NDArray[Any], stored: str, dtype: str, out: NDArray[np.uint8]) -> bool:
        if stored == "F64":
            with np.errstate(over="ignore"):  # the kernel sees what is infinite
                numbers = numbers.astype(np.float32)
        size = numbers.itemsize
        scratch = np.empty(PACK_SCRATCH + LINE, np.uint8)
        words = np.zeros(len(PACK_WORDS), np.int64)
        words[:-1] = (
            *(numbers.ctypes.data, *numbers.strides, *numbers.shape, size, stored == "BF16"),
            *(out.ctypes.data, scratch.ctypes.data + -scratch.ctypes.data % LINE),
        )
        pack = partial(call, kernels[f"pack_{dtype}"], words.ctypes.data, 0, 0, 0)
        _checked(f"pack_{dtype}", pack, words, numbers, out, scratch)
        return bool(words[-1:].view(np.float32)[0] == 0)

    return pack_rows


def _bounds(a: NDArray[Any]) -> tuple[int, int]:
    """First byte and the one after the last; strides are not negative."""
    first = int(a.ctypes.data)
    return first, first + sum((n - 1) * stride for n, stride in zip(a.shape, a.strides, strict=True)) + a.itemsize


def _checked(what: str, pack: Callable[[], None], *arrays: NDArray[Any]) -> None:
    if not debugging():
        return pack()
    from .bounds import watched  # noqa: PLC0415 - loads LLVM's compiler

    names = ("words", "numbers", "out", "scratch")
    return watched(what, [(name, *_bounds(a)) for name, a in zip(names, arrays, strict=True)], pack)
