"""A `Program`: a list of instructions over one arena, the static graph that `recorder` writes.

It can be printed as a listing, planned without any weight being read, and encoded as int64 rows that an interpreter
walks.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..dataclass import dataclass
from ..errors import BackendError, PlanError
from .arena import Tensor, waits
from .bias import BiasTable
from .experts import ExpertTable
from .lora import LoraTable
from .ops import HEADER, OPS, SLOTS
from .precision import word_of
from .relative import DistanceTable
from .rope import RopeTable
from .spec import Weight

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from .precision import Precision
    from .spec import Adapter, Weights

__all__ = ["Early", "Encoding", "Instruction", "Operand", "Program", "place_waits"]

#: Ops whose input `precision` rounds.
PRODUCTS = ("linear", "expert_linear")
#: What stands in an instruction's slot.
Operand = Tensor | Weight | RopeTable | BiasTable | DistanceTable | ExpertTable | LoraTable | int | float | None


@dataclass(eq=False)
class Instruction:
    """One op with its operands: tensors (by name of the slot), weights, integers and floats."""

    op: str
    variant: str
    rows: str
    values: dict[str, Operand]
    wait: bool = False  # for every thread to have finished what came before

    def tensors(self, kind: str) -> list[Tensor]:
        """Operands of kind "o" (written) or "i" (read)."""
        operands = [self.values[f[2:]] for f in OPS[self.op].fields if f[0] == kind]
        return [t for t in operands if isinstance(t, Tensor)]

    @property
    def kernel(self) -> str:
        """The kernel's name, the same on every backend."""
        return f"{self.op}_{self.variant}" if self.variant else self.op


def place_waits(code: list[Instruction]) -> None:
    """Every thread waits before an instruction that touches what an unfinished one writes, or writes what it reads."""
    accesses = [([t.span for t in i.tensors("i")], [t.span for t in i.tensors("o")]) for i in code]
    for ins, wait in zip(code, waits(accesses), strict=True):
        ins.wait = wait


@dataclass(frozen=True)
class Encoding:
    """The encoder's part of a program: passes of whole texts, whose tokens see all of their text, or all before them.

    `hidden` is there after `end` instructions; those from there to `Program.begins` write what a decoder reads.
    """

    chunk: int  # tokens of a pass
    n_vocab: int
    n_pages: int  # of the keys and values of a pass, of its own texts
    hidden: Tensor
    end: int
    n_kept: int  # pages of each pool of what a decoder reads
    n_groups: int  # of layers that share page tables
    causal: bool = False  # a token sees none after it


@dataclass(frozen=True)
class Early:
    """A shorter way through a program's arena: its first layers, with the caches that they have, and then its head.

    What it gives lies where `Program.hidden` and `Program.logits` do. `nbytes`: what the arena is larger for it.
    """

    n_layers: int
    code: list[Instruction]
    nbytes: int

    @property
    def weights(self) -> list[Weight]:
        """Those that it reads, once each; of experts those that stand first."""
        found = {id(v): v for ins in self.code for v in ins.values.values() if isinstance(v, Weight)}
        return list(found.values())


@dataclass(frozen=True)
class Program:
    """A recorded forward with every tensor placed: an encoder's, a decoder's, or the two one after the other."""

    code: list[Instruction]
    tensors: list[Tensor]
    hidden: Tensor
    logits: Tensor | None  # None: the model has no head
    n_context: int
    chunk: int
    n_logits: int
    threads: int
    arena_bytes: int
    constant_bytes: int
    kv_cache: str = "f32"
    precision: Precision | None = None  # how inputs of products are rounded, where they are not as usual
    ropes: tuple[RopeTable, ...] = ()  # instructions hold addresses in these
    n_pages: int = 0  # in each pool of the KV cache
    n_vocab: int = 0
    n_types: int = 0  # token types
    padding: int | None = None  # as in `Config`
    groups: tuple[int | None, ...] = ()  # of layers that share page tables: their windows, None where all is seen
    encoding: Encoding | None = None  # of whole texts; its instructions come first
    constants: tuple[Weight, ...] = ()  # that no file holds: tables of positions
    begins: int = 0  # the first instruction of a decoder, or of an encoder's head
    n_once: int = 0  # instructions that run once, before the first step, on `once_rows` rows: the ids of a batch
    once_rows: int = 0
    draw_at: int | None = None  # the arena's scratch for ids that the CPU draws (`drawing.py`), at its end
    adapters: tuple[str, ...] = ()  # names, in the order of their numbers, which are counted from 1
    bounded: str = ""  # why no text may outgrow `n_context`; "": one may
    early: Early | None = None  # what guesses for the whole; it begins where a step does

    @property
    def fast(self) -> bool:
        """Whether it may round wherever that is faster: a GPU in attention too."""
        return self.precision == "fast"

    @property
    def roundings(self) -> dict[str, int]:
        """How many products take their input as each word of `precision` has it; most first."""
        return dict(Counter(word_of(i.variant) for i in self.code if i.op in PRODUCTS).most_common())

    @property
    def turning(self) -> int:
        """Tokens beyond which a text's every position lies this many rows further in the rotary table; 0: never."""
        return max((table.turning for table in self.ropes), default=0)

    @property
    def whole(self) -> bool:
        """Whether there is an encoder alone."""
        return self.encoding is not None and self.encoding.hidden is self.hidden

    @property
    def seq2seq(self) -> bool:
        """Whether a decoder reads an encoder."""
        return self.encoding is not None and self.encoding.hidden is not self.hidden

    @property
    def own(self) -> range:
        """Instructions of a step: all, but those that run once, and those of an encoder that a decoder reads."""
        return range(self.begins if self.seq2seq else self.n_once, len(self.code))

    @property
    def to_hidden(self) -> range:
        """Instructions of a step up to the one that gives `hidden`: without a decoder's product with the vocabulary."""
        last = max(i for i in self.own if self.hidden in self.code[i].tensors("o"))
        return range(self.own.start, last + 1)

    @property
    def output(self) -> Tensor:
        """`logits` of a model that has some. Errors: `BackendError`."""
        if self.logits is None:
            msg = "this model has no head: hidden states are all that it gives"
            raise BackendError(msg)
        return self.logits

    @property
    def memory(self) -> dict[str, int]:
        """The arena's bytes by part; the KV cache apart, activations and scratch share the rest.

        "draft": what it is larger for an early exit.
        """
        cache = sum(t.nbytes for t in self.tensors if t.part == "kv_cache")
        early = {} if self.early is None else {"draft": self.early.nbytes}
        return {"kv_cache": cache, "activations": self.arena_bytes - cache - sum(early.values()), **early}

    def bound(self, weights: Weights) -> Program:
        """The same program with these weights in the places of those of the same names, for instance planned ones.

        Instructions are new, tensors shared. Errors: `PlanError` for a weight that is missing, or of another dtype or
        shape than the program was recorded with.
        """
        whole = (weight if weight.lies is None else weight.lies.whole for weight in weights)
        by_name: dict[str, Weight] = {weight.name: weight for weight in (*whole, *self.constants)}
        tables: dict[int, BiasTable | ExpertTable | LoraTable] = {}  # each is made once, however many layers read it

        def real(value: Weight) -> Weight:
            now = by_name.get(value.name)
            if now is None or (now.dtype, now.shape) != (value.dtype, value.shape):
                got = "none" if now is None else f"{now.dtype} {list(now.shape)}"
                msg = f"weight {value.name}: recorded as {value.dtype} {list(value.shape)}, found {got}"
                raise PlanError(msg)
            return now

        def adapted(a: Adapter | None) -> Adapter | None:
            if a is None:
                return None
            up, ratio, bias, ids = (None if w is None else real(w) for w in (a.up, a.ratio, a.bias, a.ids))
            return replace(a, down=real(a.down), up=up, ratio=ratio, bias=bias, ids=ids)

        def bind(value: Operand) -> Operand:
            if isinstance(value, LoraTable):
                return tables.setdefault(id(value), LoraTable(tuple(map(adapted, value.adapters))))
            if isinstance(value, ExpertTable):
                return tables.setdefault(id(value), ExpertTable(tuple(real(w) for w in value.weights)))
            if isinstance(value, BiasTable):
                table = bind(value.bias.table)
                assert table is None or isinstance(table, Weight)  # noqa: S101 - as it was
                return tables.setdefault(id(value), replace(value, bias=replace(value.bias, table=table)))
            return real(value) if isinstance(value, Weight) else value

        def bound(code: list[Instruction]) -> list[Instruction]:
            return [replace(i, values={name: bind(value) for name, value in i.values.items()}) for i in code]

        early = None if self.early is None else replace(self.early, code=bound(self.early.code))
        return replace(self, code=bound(self.code), early=early)

    def encode(self, address: Callable[[str], int], code: list[Instruction] | None = None) -> NDArray[np.int64]:
        """int64 [instructions, SLOTS] (default: its own); `address` gives a kernel's address by its name."""
        code = self.code if code is None else code
        out = np.zeros((len(code), SLOTS), np.int64)
        for row, ins in zip(out, code, strict=True):
            row[:3] = address(ins.kernel), ins.wait, ins.rows == "R"
            for slot, field in enumerate(OPS[ins.op].fields, len(HEADER)):
                row[slot] = _slot(ins.values[field[2:]], absent=-1 if field[0] == "i" else 0)
        return out

    def counts(self) -> Mapping[str, int]:
        """How often each kernel is called in a step."""
        return Counter(i.kernel for i in self.code)

    def listing(self) -> list[str]:
        """One line an instruction: number, kernel, what it writes <- what it reads, weights and numbers; | waits."""
        waits = sum(i.wait for i in self.code)
        head = f"arena {self.arena_bytes:,} bytes, {len(self.code)} instructions, {waits} waits (|)"
        lines = [f"{head}; T <= {self.chunk}, R <= {self.n_logits}"]
        for n, ins in enumerate(self.code):
            out, read = (", ".join(map(str, ins.tensors(kind))) for kind in "oi")
            rest = [v.name for v in ins.values.values() if isinstance(v, Weight | ExpertTable | LoraTable)]
            rest += [f"{k}={v:g}" for k, v in ins.values.items() if isinstance(v, int | float)]
            wait = "|" if ins.wait else " "
            lines.append(f"{n:4d} {wait} {ins.kernel:20s} {out or 'results'} <- {read or 'tokens'}  {' '.join(rest)}")
        if self.early is not None:
            n_layers, n = self.early.n_layers, len(self.early.code)
            lines.append(f"draft: {n} instructions more, of the first {n_layers} layers and the head")
        return lines


def _slot(value: Operand, absent: int) -> int:
    """The slot's integer: an absent tensor is -1, since 0 is an offset; an absent weight has no address."""
    if value is None:
        return absent
    if isinstance(value, Tensor):
        return value.offset
    if isinstance(value, Weight):
        return value.address
    if isinstance(value, RopeTable | BiasTable | DistanceTable | ExpertTable | LoraTable):
        return value.weight.address
    if isinstance(value, float):
        return int(struct.unpack("<I", struct.pack("<f", value))[0])
    return int(value)
