"""What an adapter makes of a weight: W + scale B A (LoRA, arXiv:2106.09685), its rows a few at a time.

The sum over the rank is in float32, one term after the other, so that the bits are the same whatever part of the matrix
is made, on every machine. It is multiplied by the scale, added to W, and the whole rounded once to the file's dtype.
With magnitudes (DoRA, arXiv:2402.09353) a row becomes m (W + scale B A) / |W + scale B A|: the norm is that of the
whole row, whatever is kept of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckpointError
from ..once import once
from .ranges import as_indices
from .underflow import widened

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .checkpoint import Checkpoint
    from .ranges import Ranges

    F32 = NDArray[np.float32]

__all__ = ["LowRank", "Numbers", "merged", "rounded", "row_norms"]


@dataclass(frozen=True, eq=False)
class Numbers:
    """A tensor of the adapter's file, which is mapped when it is first read. `turned`: its axes are exchanged."""

    files: Checkpoint
    name: str
    turned: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """As it is used."""
        shape = self.files.tensors[self.name].shape
        return shape[::-1] if self.turned else shape

    @property
    def nbytes(self) -> int:
        """In the file."""
        return self.files.tensors[self.name].nbytes

    def read(self, rows: NDArray[np.int64] | slice = slice(None)) -> F32:
        """These of its rows, in float32. Errors: `CheckpointError` for NaN and infinity."""
        info, array = self.files.tensors[self.name], self.files.array(self.name)
        part = (array.T if self.turned else array)[rows]
        with np.errstate(over="ignore"):  # of F64: told below
            wide: F32 = part if info.dtype == "F32" else widened(part, info.dtype)
        if not np.isfinite(wide).all():
            msg = (
                f"{info.file}: tensor {self.name} holds NaN or infinity, in float32: the adapter is damaged, or its "
                "training diverged; compare the file with its publisher's, or train it again"
            )
            raise CheckpointError(msg)
        return wide


@dataclass(frozen=True, eq=False)
class LowRank:
    """One weight's A and B. `module` is PEFT's name of it, `scale` what B A is multiplied with.

    `rows`, `columns`: which outputs and inputs of the module the weight has, all if None: of a fused module a role's
    own, of a pruned model those that are kept.
    """

    module: str
    rank: int
    scale: float
    of_inputs: Numbers  # [r, in]
    of_outputs: Numbers  # [out, r]
    magnitudes: Numbers | None = None  # [out]
    rows: Ranges | None = None
    columns: Ranges | None = None

    @property
    def a(self) -> F32:
        """A, float32 [r, in]: of the kept inputs. `CheckpointError` where it is not finite."""
        return self.whole_a if self.columns is None else self.whole_a[:, as_indices(self.columns)]

    @property
    def whole_a(self) -> F32:
        """A of every input."""
        return self.of_inputs.read()

    @property
    def b(self) -> F32:
        """B, float32 [out, r]: of the kept outputs. `CheckpointError` where it is not finite."""
        return self.of_outputs.read(self.outputs)

    @property
    def magnitude(self) -> F32 | None:
        """DoRA's m, float32 [out]: of the kept outputs; None: plain LoRA."""
        return None if self.magnitudes is None else self.magnitudes.read(self.outputs)

    @once
    def outputs(self) -> NDArray[np.int64]:
        """Numbers of the kept ones among the module's."""
        rows = ((0, self.of_outputs.shape[0]),) if self.rows is None else self.rows
        return as_indices(rows)

    @property
    def nbytes(self) -> int:
        """Of A, B and m, as the file has them."""
        parts = (self.of_inputs, self.of_outputs, *(() if self.magnitudes is None else (self.magnitudes,)))
        return sum(part.nbytes for part in parts)


def _delta(a: F32, b: F32, scale: float) -> F32:
    """Scale B A, [rows, in]: one term of the sum after the other, each product rounded, in float32."""
    out = np.zeros((len(b), a.shape[1]), np.float32)
    term = np.empty_like(out)
    with np.errstate(over="ignore", invalid="ignore"):  # told by whoever rounds it
        for j in range(len(a)):
            np.multiply(b[:, j, None], a[j], out=term)
            out += term
        out *= np.float32(scale)
    return out


def row_norms(x: F32) -> F32:
    """Each row's length, float32 [rows]: squares in float64, added as a tree that no CPU changes."""
    squares = np.square(x, dtype=np.float64)
    while squares.shape[1] > 1:
        half = squares.shape[1] // 2
        folded = squares[:, :half] + squares[:, half : 2 * half]
        if squares.shape[1] % 2:
            folded[:, :1] += squares[:, 2 * half :]
        squares = folded
    return np.sqrt(squares.sum(1)).astype(np.float32)


def merged(low: LowRank, rows: F32, span: slice) -> F32:
    """Rows `span` of a weight's kept ones, float32 [rows, in], with the adapter in them.

    With magnitudes `rows` have every input, and what is returned has the kept ones. Errors: `CheckpointError`.
    """
    outputs = low.outputs[span]
    b = low.of_outputs.read(outputs)
    if low.magnitudes is None:
        out: F32 = rows + _delta(low.a, b, low.scale)
        return out
    whole: F32 = rows + _delta(low.whole_a, b, low.scale)
    norms = row_norms(whole)
    if not norms.all():
        info = low.of_inputs.files.tensors[low.of_inputs.name]
        msg = (
            f"{info.file}: {low.module}: output {outputs[np.flatnonzero(norms == 0)[0]]} of W + scale B A is all "
            "zeros, which DoRA (use_dora) cannot scale to a length; the adapter belongs to another base model"
        )
        raise CheckpointError(msg)
    kept = whole if low.columns is None else whole[:, as_indices(low.columns)]
    scaled: F32 = (low.magnitudes.read(outputs) / norms)[:, None] * kept
    return scaled


def rounded(x: F32, dtype: str) -> NDArray[Any]:
    """To a file's dtype, to nearest and of two to the even one; BF16 as its bits. What is too large is infinite."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(x).view(np.uint32)
        half = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        return np.where(np.isnan(x), np.uint16(0x7FC0), half)
    with np.errstate(over="ignore"):
        return x.astype({"F16": np.float16, "F64": np.float64}.get(dtype, np.float32))
