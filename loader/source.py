"""`Source`: how one weight is made from one tensor, and `read`: the kept part of it, rows at a time.

A weight is [out, in]; a tensor is that, or turned ([in, out], GPT-2), or several weights side by side along `out`. The
kept rows and columns are ranges. One range of rows and every column is a view of the mapped file, and nothing else of
the tensor is touched; several ranges, or fewer columns, are gathered. Zeros are put into what was read.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal, localcontext
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..dataclass import dataclass
from ..errors import CheckpointError
from ..once import once
from ..runtime.quantized import QUANTIZED
from ..runtime.sparse import SPARSE
from ..runtime.sparse_int8 import SPARSE_INT8
from ..runtime.spec import weight_bytes
from .header import DTYPES as STORED_BYTES
from .merge import Reading, has_infinity, rounded
from .prune.masks import keep
from .ranges import as_indices
from .underflow import widened

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from .checkpoint import Checkpoint
    from .families.base import Folded
    from .foreign.coded import Coded
    from .foreign.packed import Packed
    from .header import TensorInfo
    from .merge import Change
    from .prune.sparsity import Pattern
    from .ranges import Ranges

__all__ = [
    "PREQUANTIZED",
    "STORED",
    "Rows",
    "Source",
    "narrowed",
    "read",
    "read_kept",
    "read_masked",
    "softplus",
    "spans_by_file",
    "stored",
]

#: Of a matrix that we quantised and wrote.
PREQUANTIZED = "U8"
#: Dtypes that weights are made from: the file's name -> the kernels' name.
STORED = {"F32": "f32", "BF16": "bf16", "F16": "f16", "F64": "f32"}


@dataclass(frozen=True)
class Source:
    """How one weight is made: the tensor's outputs in `rows`, of each the inputs in `columns` (None: all).

    `shape` and `dtype` are the weight's; `pattern` is the tensor's name with {i} for the layer.
    `offset` is the weight's place in the resident block, None where it is mapped; `fused`: the tensor holds others too.
    `plus` is added to every number. `spaced`: of a mapped matrix whose rows take turns with others' (`Spaced`),
    `first` the role that is first among them: what reads the whole is told by its name. `softplus`, `folded`: as in
    `Part`. `expert`: the number of one of a layer's, which `pattern` has as {e}; `stack`: the tensor holds all of them.
    `alone`: what a piece of a tensor is called where it stands alone.
    `several`: the tensors of a vector of which every head's part is one, kept or not, in order; `tensor` stands for all
    of them side by side, {h} in its name for the head.
    `zeros`: the pattern of a matrix in which not all may stay, and `kept`, how many do; None: not counted.
    `changes`: what an adapter does to the numbers, while they are read and before anything else is done to them.
    `lent`: another load of the checkpoint has the weight in its memory (`lending.py`).
    `repacked`: the whole numbers of who quantised it go into a format of ours as they are (`foreign/forms.py`).
    """

    name: str
    pattern: str
    tensor: TensorInfo
    shape: tuple[int, ...]
    dtype: str
    rows: Ranges
    columns: Ranges | None = None
    transposed: bool = False
    offset: int | None = None
    fused: bool = False
    plus: float = 0.0
    spaced: tuple[int, int, int] | None = None
    first: str = ""
    zeros: Pattern | None = None
    kept: int | None = None
    folded: Folded = ""
    softplus: bool = False
    expert: int | None = None
    stack: bool = False
    alone: str = ""
    several: tuple[TensorInfo, ...] = ()
    changes: tuple[Change, ...] = ()
    lent: bool = False
    repacked: bool = False

    @property
    def role(self) -> str:
        """What the weight is: "q", "down", ..."""
        return self.name.rpartition(".")[2]

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Of the file, those that it is made from: of a tensor for each head, the kept heads'."""
        if not self.several:
            return (self.tensor,)
        each = self.tensor.shape[0] // len(self.several)
        return tuple(self.several[h] for h in sorted({i // each for a, b in self.rows for i in range(a, b, each)}))

    @property
    def nbytes(self) -> int:
        """Bytes of the weight, in the file's mapping or in the block."""
        return weight_bytes(self.dtype, self.shape, self.kept or 0)

    @property
    def mapped(self) -> bool:
        """Whether it is used in place, in the file's mapping."""
        return self.offset is None and not self.lent

    @property
    def quantizes(self) -> bool:
        """Whether loading turns floats into integers here."""
        return self.dense in QUANTIZED and self.tensor.dtype != PREQUANTIZED and not self.repacked

    @property
    def prequantized(self) -> bool:
        """Whether the file holds it as integers already."""
        return self.tensor.dtype == PREQUANTIZED

    @property
    def gathered(self) -> bool:
        """Whether its numbers do not lie side by side in the file."""
        return len(self.rows) > 1 or self.columns is not None

    @property
    def sparse(self) -> bool:
        """Whether the numbers that stay are held alone."""
        return self.dtype in SPARSE or self.dtype == SPARSE_INT8

    @property
    def dense(self) -> str:
        """The dtype of all its numbers together."""
        return self.dtype.removesuffix("_sparse")

    @property
    def chooses(self) -> bool:
        """Whether loading puts zeros into it that the file lacks."""
        return self.zeros is not None and self.zeros.chooses

    @property
    def action(self) -> str:
        """What loading does, in words."""
        if self.offset is None:
            return "lent" if self.lent else "mapped"
        made, coded = self.tensor.stored_as, self.tensor.coded
        steps = ["gathered"] if self.gathered else []
        steps += ["transposed"] if self.transposed and not coded else []
        steps += [f"widened from {made}"] if coded and not (self.repacked or self.quantizes) else []
        steps += [str(change) for change in self.changes]
        if self.repacked:
            steps.append(f"repacked from {made}" + (", zero points rounded" if self.dtype == "int4a" else ""))
        elif self.quantizes:
            steps.append(f"quantised from {made}")
        elif STORED.get(made, self.dense) != self.dense:
            steps.append("widened")
        elif made == "F64":
            steps.append("narrowed")
        if self.plus:
            steps.append(f"{self.plus:g} added")
        if self.softplus:
            steps.append("softplus taken")
        if self.zeros is not None:
            steps.append(f"zeros {self.zeros}, held {'sparse' if self.sparse else 'dense'}")
        return "resident: " + (" and ".join(steps) or "copied, unaligned in the file")

    @property
    def where(self) -> str:
        """Which rows and columns of the tensor are used, where not all are: its own axes, in its own order."""
        if self.prequantized:
            return ""
        outputs = self.tensor.shape[-1 if self.transposed else 0]
        rows = "" if self.rows == ((0, outputs),) else _ranges_text(self.rows)
        columns = "" if self.columns is None else _ranges_text(self.columns)
        axes = [columns, rows] if self.transposed else [rows, columns]
        while axes and not axes[-1]:
            axes.pop()
        return f"[{', '.join(axis or ':' for axis in axes)}]" if axes else ""

    @property
    def spans(self) -> Ranges:
        """[start, stop) bytes of the file that making it touches. Not kept: a scattered cut has thousands.

        A cut along the tensor's second axis skips less than a page at a time as a rule: what lies between counts too.
        """
        info = self.tensor
        if self.prequantized:
            return ((info.start, info.stop),)
        if self.several:
            return tuple((each.start, each.stop) for each in self.tensors)
        if info.coded:
            return tuple(span for _, spans in self.coded_spans for span in spans)
        across = self.columns if self.transposed else self.rows  # along the first axis
        along = self.rows if self.transposed else self.columns
        row = STORED_BYTES[info.dtype] * (info.shape[1] if len(info.shape) > 1 else 1)
        each = STORED_BYTES[info.dtype]
        first, last = (along[0][0] * each, row - along[-1][1] * each) if along else (0, 0)
        whole = across if across is not None else ((0, info.shape[0]),)
        return tuple((info.start + a * row + first, info.start + b * row - last) for a, b in whole)

    @property
    def read_bytes(self) -> int:
        """Bytes of the file that making it touches."""
        return sum(b - a for a, b in self.spans)

    @property
    def coded_spans(self) -> tuple[tuple[TensorInfo, Ranges], ...]:
        """As `spans`, by tensor, of a matrix that others quantised."""
        return tuple(cast("Coded", self.tensor).spans(self.rows, self.columns))

    @once
    def row_indices(self) -> NDArray[np.int64]:
        """Every kept row's number in the tensor."""
        return as_indices(self.rows)

    @once
    def column_indices(self) -> NDArray[np.int64] | None:
        """Every kept column's number in the tensor, None for all."""
        return None if self.columns is None else as_indices(self.columns)


def _ranges_text(ranges: Ranges) -> str:
    """One range as Python writes it; of several, how many."""
    if len(ranges) == 1:
        return f"{ranges[0][0]}:{ranges[0][1]}"
    return f"{sum(b - a for a, b in ranges)} in {len(ranges)} ranges"


def spans_by_file(sources: Iterable[Source]) -> dict[Path, list[tuple[int, int]]]:
    """Bytes that the sources are made from: ascending and apart, by file."""
    by_file: dict[Path, list[tuple[int, int]]] = {}
    for source in sources:
        if source.several:
            for info in source.tensors:
                by_file.setdefault(info.file, []).append((info.start, info.stop))
        elif source.tensor.coded:
            for info, spans in source.coded_spans:
                by_file.setdefault(info.file, []).extend(spans)
        else:
            by_file.setdefault(source.tensor.file, []).extend(source.spans)
    return {file: _joined(spans) for file, spans in by_file.items()}


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for a, b in sorted(spans):
        if out and a <= out[-1][1]:
            out[-1] = (out[-1][0], max(b, out[-1][1]))
        else:
            out.append((a, b))
    return out


def stored(source: Source, checkpoint: Checkpoint) -> NDArray[Any]:
    """The whole tensor, in the file's own shape; where every head has one, those of kept heads among zeros: a copy."""
    if not source.several:
        return checkpoint.array(source.tensor.name)
    kept = {info.name: checkpoint.array(info.name) for info in source.tensors}
    blank = np.zeros_like(next(iter(kept.values())))
    return np.concatenate([kept.get(info.name, blank) for info in source.several])


def read(source: Source, tensor: NDArray[Any], span: slice = slice(None)) -> NDArray[Any]:
    """Rows `span` of the weight, counted among the kept ones, in the file's dtype: a view, or gathered into a copy.

    [rows, in] for a matrix, [rows] for a vector. `tensor` is the whole one, in the file's own shape. With an adapter
    they are a copy, changed. Errors: `CheckpointError`, then, where the file's dtype cannot hold what it makes.
    """
    if not source.changes:
        return _as_stored(source, tensor, span)
    dtype, info = source.tensor.dtype, source.tensor
    of = replace(source, columns=None) if any(change.needs_inputs for change in source.changes) else source
    read_part = partial(_as_stored, of, span=span)
    reading = Reading(span, source.row_indices[span], of.column_indices, read_part, dtype)
    before = narrowed(source, read_part(tensor))
    part = widened(before, dtype)
    for change in source.changes:
        part = change.applied(part, reading)
    out = rounded(part, dtype)
    if has_infinity(out, dtype) and not has_infinity(before, dtype):
        msg = f"{info.file}: tensor {info.name}: with the adapter it has numbers that {dtype} cannot hold; merge it"
        msg = f"{msg} with PEFT into a copy of the model in float32, and load that"
        raise CheckpointError(msg)
    return out


def _as_stored(source: Source, tensor: NDArray[Any], span: slice = slice(None)) -> NDArray[Any]:
    """As `read`, without an adapter."""
    rows, columns = source.row_indices[span], source.column_indices
    if source.tensor.coded and not isinstance(tensor, np.ndarray):  # an adapter's in its place is one
        coded: NDArray[Any] = cast("Packed", tensor).part(rows, columns)
        return coded
    if source.stack:  # [experts, out, in]
        tensor = tensor.reshape(-1, tensor.shape[-1])
    if len(source.shape) == 1:
        return _along_first(tensor.reshape(-1), rows)  # a vector may lie there folded
    if source.folded:  # [out, in, taps]
        tensor = tensor.reshape(len(tensor), -1)
    across, along = (columns, rows) if source.transposed else (rows, columns)  # the file's axes
    part = tensor
    if along is not None and len(along):  # first, so that no gathered row brings the ends that are cut off (`spans`)
        first = along[0]
        part, along = part[:, first : along[-1] + 1], along - first
    part = part if across is None else _along_first(part, across)
    turned = part.T if along is None else _along_first(part.T, along)
    return turned if source.transposed else turned.T


def _along_first(part: NDArray[Any], indices: NDArray[np.int64]) -> NDArray[Any]:
    """These of the first axis: a view where they lie side by side, else gathered."""
    if not len(indices) or indices[-1] - indices[0] + 1 != len(indices):
        return part[indices]
    return part[indices[0] : indices[-1] + 1]


def narrowed(source: Source, part: NDArray[Any]) -> NDArray[Any]:
    """F64 rounded to float32, anything else as it is. Errors: `CheckpointError` for what float32 cannot hold."""
    if source.tensor.dtype != "F64":
        return part
    try:
        with np.errstate(over="raise"):
            return part.astype(np.float32)
    except FloatingPointError:
        info = source.tensor
        msg = f"{info.file}: tensor {info.name} holds F64 numbers beyond the range of F32; expected none"
        raise CheckpointError(msg) from None


def read_kept(
    source: Source, tensor: NDArray[Any], span: slice = slice(None)
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """As `read`, of a matrix with `zeros`; and which numbers stay, bool [rows, in]."""
    pattern = source.zeros
    assert pattern is not None  # noqa: S101 - asked of matrices with zeros alone
    first, stop, _ = span.indices(source.shape[0])
    each = pattern.rows  # rows are chosen together
    a, b = first // each * each, -(-stop // each) * each
    part = read(source, tensor, slice(a, b))
    here = slice(first - a, stop - a)
    return part[here], keep(narrowed(source, part), pattern)[here]


def read_masked(source: Source, tensor: NDArray[Any], span: slice = slice(None)) -> NDArray[Any]:
    """As `read`, with zeros put in where the plan chooses any."""
    if not source.chooses:
        return read(source, tensor, span)
    part, stays = read_kept(source, tensor, span)
    return np.where(stays, part, part.dtype.type(0))


def softplus(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """log(1 + e^x), rounded once: the same bits on every machine, which libm does not promise. Of few numbers."""
    with localcontext() as ctx:
        ctx.prec = 40
        exact = [float((1 + Decimal(float(v)).exp()).ln()) if np.isfinite(v) else float(v) for v in x.ravel()]
    return np.array(exact, np.float32).reshape(x.shape)


class Rows:
    """The kept rows of a weight, a slice of them at a time; what is not side by side is gathered only then."""

    def __init__(self, source: Source, tensor: NDArray[Any]) -> None:
        """`tensor` is the whole one, in the file's own shape."""
        self._source, self._tensor = source, tensor

    def __len__(self) -> int:
        """How many."""
        return self._source.shape[0]

    def __getitem__(self, span: slice) -> NDArray[Any]:
        """[rows, in], in the file's dtype, with the plan's zeros."""
        return read_masked(self._source, self._tensor, span)
