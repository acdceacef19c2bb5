"""What an adapter makes of a weight: W + scale B A (LoRA, arXiv:2106.09685), its rows a few at a time.

The sum over the rank is in float32, one term after the other, so that the bits are the same whatever part of the matrix
is made, on every machine. It is multiplied by the scale, added to W, and the whole rounded once to the file's dtype.
With magnitudes (DoRA, arXiv:2402.09353) a row becomes m (W + scale B A) / |W + scale B A|: the norm is that of the
whole row, whatever is kept of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np

from ..dataclass import dataclass
from ..errors import CheckpointError
from ..once import once
from .pieces import rows_in_tensor
from .ranges import as_indices
from .sizes import role_axes
from .underflow import widened

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .checkpoint import Checkpoint
    from .header import TensorInfo
    from .model_tensors import ModelTensors
    from .places import Target
    from .prune.cut import Cut
    from .ranges import Ranges

    F32 = NDArray[np.float32]

__all__ = [
    "BiasTerm",
    "Change",
    "LowRank",
    "Numbers",
    "Reading",
    "TokenRows",
    "Whole",
    "cut_alike",
    "has_infinity",
    "rounded",
]


class Reading(NamedTuple):
    """Which rows of a weight are read. `span`: of the kept ones; `rows`, `columns`: their numbers in the tensor.

    `read` takes a tensor of the base's shape to the same part of it; `dtype`: the file's.
    """

    span: slice
    rows: NDArray[np.int64]
    columns: NDArray[np.int64] | None
    read: Callable[[NDArray[Any]], NDArray[Any]]
    dtype: str


class Change(Protocol):
    """What is done to the base's numbers while they are read."""

    @property
    def needs_inputs(self) -> bool:
        """Whether it must see whole rows, also where some columns are cut: it cuts them itself."""

    def applied(self, part: F32, reading: Reading) -> F32:
        """The changed part, float32 [rows, in] or [rows]. Errors: `CheckpointError`."""


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
            wide: F32 = widened(part, info.dtype)
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

    @property
    def needs_inputs(self) -> bool:
        """A row's length is that of all of it."""
        return self.magnitudes is not None

    def __str__(self) -> str:
        """What is done, in words."""
        return f"{'DoRA' if self.magnitudes is not None else 'LoRA'} of rank {self.rank} added"

    @once
    def outputs(self) -> NDArray[np.int64]:
        """Numbers of the kept ones among the module's."""
        rows = ((0, self.of_outputs.shape[0]),) if self.rows is None else self.rows
        return as_indices(rows)

    def applied(self, part: F32, reading: Reading) -> F32:
        """As `merged`."""
        return self.merged(part, reading.span)

    def merged(self, part: F32, span: slice) -> F32:
        """W + scale B A, float32 [rows, in], of kept rows `span`; with magnitudes `part` has every input."""
        outputs = self.outputs[span]
        b = self.of_outputs.read(outputs)
        if self.magnitudes is None:
            plain: F32 = part + _delta(self.a, b, self.scale)
            return plain
        whole: F32 = part + _delta(self.whole_a, b, self.scale)
        norms = row_norms(whole)
        if not norms.all():
            info = self.of_inputs.files.tensors[self.of_inputs.name]
            msg = (
                f"{info.file}: {self.module}: output {outputs[np.flatnonzero(norms == 0)[0]]} of W + scale B A is all "
                "zeros, which DoRA (use_dora) cannot scale to a length; the adapter belongs to another base model"
            )
            raise CheckpointError(msg)
        kept = whole if self.columns is None else whole[:, as_indices(self.columns)]
        scaled: F32 = (self.magnitudes.read(outputs) / norms)[:, None] * kept
        return scaled

    @property
    def nbytes(self) -> int:
        """Of A, B and m, as the file has them."""
        parts = (self.of_inputs, self.of_outputs, *(() if self.magnitudes is None else (self.magnitudes,)))
        return sum(part.nbytes for part in parts)


@dataclass(frozen=True, eq=False)
class BiasTerm:
    """Scale times what is added to a matrix's bias (`lora_bias`); `rows`: as in `LowRank`."""

    numbers: Numbers
    scale: float
    rows: Ranges | None = None
    columns: Ranges | None = None
    needs_inputs = False

    def __str__(self) -> str:
        """What is done, in words."""
        return "the adapter's bias added"

    def applied(self, part: F32, reading: Reading) -> F32:
        """The sum, float32 [rows]."""
        rows = reading.rows if self.rows is None else as_indices(self.rows)[reading.span]
        out: F32 = part + np.float32(self.scale) * self.numbers.read(rows)
        return out


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Rows of an embedding in place of the base's: those of `ids`, in this order (`trainable_token_indices`)."""

    ids: tuple[int, ...]
    numbers: Numbers
    needs_inputs = False

    def __str__(self) -> str:
        """What is done, in words."""
        return f"{len(self.ids)} rows from the adapter"

    def applied(self, part: F32, reading: Reading) -> F32:
        """With those rows that are among these."""
        order = np.argsort(self.ids)
        ids = np.array(self.ids, np.int64)[order]
        at = np.minimum(np.searchsorted(ids, reading.rows), len(ids) - 1)
        mine = np.flatnonzero(ids[at] == reading.rows)
        values = self.numbers.read(order[at[mine]])
        out = part.copy()
        out[mine] = values if reading.columns is None else values[:, reading.columns]
        return out


@dataclass(frozen=True, eq=False)
class Whole:
    """A tensor of another dtype in place of the base's (`modules_to_save`): rounded to the base's, as PEFT does."""

    files: Checkpoint
    info: TensorInfo
    needs_inputs = False

    def __str__(self) -> str:
        """What is done, in words."""
        return f"from the adapter's {self.info.dtype}"

    def applied(self, part: F32, reading: Reading) -> F32:
        """The adapter's numbers of the same place."""
        del part
        with np.errstate(over="ignore"):  # of F64: told by whoever rounds it
            wide = widened(reading.read(self.files.array(self.info.name)), self.info.dtype)
        return widened(rounded(wide, reading.dtype), reading.dtype)


Cuttable = TypeVar("Cuttable", LowRank, BiasTerm)


def cut_alike(change: Cuttable, of: ModelTensors, cut: Cut | None, target: Target) -> Cuttable:
    """The part for what a cut keeps of the weight; None: all of it, of a fused module its own rows."""
    part = (of.layer if target.role in of.layer else of.parts)[target.role]
    part = replace(part, stacked="", pieces=()) if part.stacked else part
    config = of.config if cut is None else cut.before
    shape = of.shape(target.role, target.layer)
    kept: list[Ranges] = [((0, n),) for n in shape]
    if cut is not None:
        kept = [cut.kept(axis, target.layer) for axis in role_axes(config, target.role)]
    rows = rows_in_tensor(config, part, target.role, target.layer, kept[0])
    columns = kept[1] if len(kept) > 1 and kept[1] != ((0, shape[1]),) else None
    return replace(change, rows=rows, columns=columns)


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
    lengths: F32 = np.sqrt(squares.sum(1)).astype(np.float32)
    return lengths


def rounded(x: F32, dtype: str) -> NDArray[Any]:
    """To a file's dtype, to nearest and of two to the even one; BF16 as its bits. What is too large is infinite."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(x).view(np.uint32)
        half = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        half[np.isnan(x)] = 0x7FC0
        return half
    with np.errstate(over="ignore"):
        other: NDArray[Any] = x.astype({"F16": np.float16, "F64": np.float64}.get(dtype, np.float32))
    return other


def has_infinity(x: NDArray[Any], dtype: str) -> bool:
    """Whether any of a file's numbers is infinite; BF16 as its bits."""
    return bool((x & 0x7FFF == 0x7F80).any() if dtype == "BF16" else np.isinf(x).any())  # noqa: PLR2004 - an infinity
