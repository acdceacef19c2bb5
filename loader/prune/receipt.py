"""What loading reads: for every weight its kept shape, its tensor's bytes, those read, where the rest went, and why.

Made from the plan alone, before or after loading. Bytes are counted as the plan touches them; the operating system
reads whole pages, so at most one page more at either end of a span. Hashes read the data, so they are made only where
they are asked for: SHA-256 of a weight's kept rows and columns as the file has them, row by row in the weight's own
order, before zeros are put in; of a matrix that others quantised, of the floats that it means. Two loads with equal
hashes and equal actions have equal weights.
"""

from __future__ import annotations

import json
from dataclasses import asdict, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...dataclass import dataclass
from ...digest import sha256
from ..load_plan import can_be_sparse
from ..source import read, spans_by_file, stored
from .plan import PrunePlan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Self

    from ..checkpoint import Checkpoint
    from ..load_plan import LoadPlan
    from ..open import Opened
    from ..source import Source

__all__ = ["Entry", "Receipt", "hashed", "make_receipt"]

ROWS = 1024  # of a matrix, hashed at a time


@dataclass(frozen=True)
class Entry:
    """One weight. `tensor_bytes`: of the whole tensor in the file; a fused one's pieces each name it."""

    weight: str
    tensor: str
    stored: str  # dtype in the file
    shape: tuple[int, ...]  # kept
    dtype: str  # as the kernels read it
    tensor_bytes: int
    read_bytes: int
    mapped_bytes: int
    resident_bytes: int
    action: str
    zeros: str | None = None  # the pattern, where not all numbers may stay
    kept: int | None = None  # numbers that do; None: all, or not counted
    sha256: str | None = None

    @property
    def kind(self) -> str:
        """Dtype, shape, and how many numbers stay."""
        return f"{self.dtype} {list(self.shape)}" + ("" if self.kept is None else f", {self.kept:,} numbers")


@dataclass(frozen=True)
class Receipt:
    """Every weight's entry, totals, and what else should be known of this load.

    Totals: `file_bytes` of all tensors in the files; `read_bytes` of those spans that any weight is made from, each
    byte once; `untouched_bytes` of tensors that none is made from. `precision`: in how many products of a step the
    input is taken as each word of `precision` has it (docs/precision.md).
    """

    entries: tuple[Entry, ...]
    untouched: tuple[str, ...]
    file_bytes: int
    read_bytes: int
    untouched_bytes: int
    mapped_bytes: int
    resident_bytes: int
    plan: str = "keep everything"
    notes: tuple[str, ...] = ()
    precision: Mapping[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def digest(self) -> str:
        """SHA-256 of all of this, as hexadecimal digits: what was loaded, for a log."""
        return sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """The receipt that `as_dict` gave."""
        entries = tuple(Entry(**{**e, "shape": tuple(e["shape"])}) for e in raw["entries"])
        lists = {name: tuple(raw[name]) for name in ("untouched", "notes")}
        return cls(**{**raw, **lists, "entries": entries})

    def lines(self) -> list[str]:
        """A table for people, and the totals. Without hashes, the table has no column for them."""
        columns = 8 if any(e.sha256 for e in self.entries) else 7
        head = ("weight", "tensor", "kept", "in the file", "read", "resident", "made", "sha-256")[:columns]
        rows = [
            (e.weight, e.tensor, e.kind, f"{e.tensor_bytes:,}", f"{e.read_bytes:,}",
             f"{e.resident_bytes:,}", e.action, (e.sha256 or "")[:16])[:columns]
            for e in self.entries
        ]  # fmt: skip
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        puts = [*[str.ljust] * 3, *[str.rjust] * 3, *[str.ljust] * 2][:columns]
        table = [
            "  ".join(put(cell, width) for put, cell, width in zip(puts, row, widths, strict=True)).rstrip()
            for row in (head, *rows)
        ]
        told = ", ".join(f"{word} in {n}" for word, n in self.precision.items())
        share = 100 * self.read_bytes / self.file_bytes if self.file_bytes else 0.0
        return [
            *table,
            self.plan,
            f"read {self.read_bytes:,} of {self.file_bytes:,} bytes ({share:.1f} %)",
            f"weights: {self.mapped_bytes:,} bytes mapped, {self.resident_bytes:,} resident",
            f"untouched: {len(self.untouched)} tensors, {self.untouched_bytes:,} bytes",
            *([f"precision of products: {told}"] if told else []),
            *(f"note: {note}" for note in self.notes),
        ]


def make_receipt(plan: LoadPlan, opened: Opened, prune: PrunePlan | None = None, notes: Iterable[str] = ()) -> Receipt:
    """The receipt of a plan; reads nothing. `prune`: what `plan` was made with."""
    prune = prune or PrunePlan()
    entries = tuple(_entry(source) for source in plan)
    used = {info.name for source in plan.touched for info in source.tensors}
    untouched = tuple(name for name in opened.checkpoint.tensors if name not in used)
    spans = spans_by_file(plan.touched)
    return Receipt(
        entries,
        untouched,
        file_bytes=sum(t.nbytes for t in opened.checkpoint.tensors.values()),
        read_bytes=sum(b - a for ranges in spans.values() for a, b in ranges),
        untouched_bytes=sum(opened.checkpoint.tensors[name].nbytes for name in untouched),
        mapped_bytes=plan.mapped_bytes,
        resident_bytes=plan.resident_bytes,
        plan=str(prune),
        notes=(*opened.corrections, *_adapter_notes(opened), *prune.notes, *_notes(plan), *notes),
    )


def _adapter_notes(opened: Opened) -> Iterator[str]:
    """Which adapter is in the weights."""
    if opened.adapter is not None:
        yield f"adapter: {opened.adapter}"


def _notes(plan: LoadPlan) -> Iterator[str]:
    """What the entries' zeros mean."""
    some = [source for source in plan if source.zeros is not None]
    if any(source.chooses for source in some):
        yield "zeros are chosen by magnitude, within rows, from what is left of each matrix"
    stored = [source for source in some if not source.chooses]
    count = sum(source.kept is not None for source in stored)
    if count:
        yield f"zeros as stored: {count} matrices were read once to count them, before the memory was known"
    dense = dict.fromkeys(source.dtype for source in some if not can_be_sparse(source.dense))
    if dense:
        yield f"zeros of {' and '.join(dense)} matrices take bytes, as other numbers do"
    experts = [source for source in some if source.expert is not None]
    if experts:
        where = "the experts are copied into memory" if any(s.chooses for s in experts) else "the experts stay mapped"
        yield f"zeros of experts take bytes, as other numbers do; {where}"


def hashed(receipt: Receipt, plan: LoadPlan, checkpoint: Checkpoint) -> Receipt:
    """The receipt with every entry's SHA-256; reads every byte that the weights are made from."""
    digests = (_sha256(source, checkpoint) for source in plan)
    entries = (replace(e, sha256=digest) for e, digest in zip(receipt.entries, digests, strict=True))
    return replace(receipt, entries=tuple(entries))


def _entry(source: Source) -> Entry:
    return Entry(
        weight=source.name,
        tensor=source.tensor.name,
        stored=source.tensor.stored_as,
        shape=source.shape,
        dtype=source.dtype,
        tensor_bytes=source.tensor.nbytes,
        read_bytes=0 if source.lent else source.read_bytes,
        mapped_bytes=source.nbytes if source.mapped else 0,
        resident_bytes=0 if source.offset is None else source.nbytes,
        action=source.action,
        zeros=None if source.zeros is None else str(source.zeros),
        kept=source.kept,
    )


def _sha256(source: Source, checkpoint: Checkpoint) -> str:
    tensor, digest = stored(source, checkpoint), sha256()
    if source.prequantized:
        digest.update(np.ascontiguousarray(tensor).data)
        return digest.hexdigest()
    for at in range(0, source.shape[0], ROWS):
        digest.update(np.ascontiguousarray(read(source, tensor, slice(at, at + ROWS))).data)
    return digest.hexdigest()
