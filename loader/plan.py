"""A pure plan: which bytes of which tensor become which weight. Decided from headers alone; no tensor's data is read.

| the file holds                    | the weight is                                             |
|-----------------------------------|-----------------------------------------------------------|
| F32, BF16, F16 matrix [out, in]   | the mapped bytes, in place                                |
| F32 vector (norm, bias)           | the mapped bytes, in place                                |
| BF16, F16 vector                  | widened to f32, exactly, in the resident block            |
| transposed matrix [in, out]       | turned to [out, in], same dtype, in the resident block    |
| F64 vector or matrix              | rounded to f32, in the resident block                     |
| tensor off its own alignment      | copied into the resident block                            |
| matrix that is to be quantised    | int8 or int4 (`runtime/packed.py`), in the resident block |
| U8 matrix, packed by us before    | the mapped bytes, in place                                |
| piece NAME.ROLE of a fused NAME   | as above; it stands alone, [out, in]                      |

Every piece of the resident block starts on a 64-byte line; `resident_bytes` is the block's exact size.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import CheckpointError, PlanError
from ..runtime.packed import GROUP_BYTES, QUANTIZED, packed_shape
from ..runtime.spec import DTYPES, weight_bytes
from .config import resolve
from .families import FAMILIES, Part, piece_name
from .header import shown
from .quantize import parse_quantize

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..runtime.spec import Config
    from .checkpoint import Checkpoint
    from .header import TensorInfo

__all__ = ["LINE", "LoadPlan", "Source", "make_plan"]

#: Bytes of a cache line: the alignment of every piece of the resident block.
LINE = 64

#: Dtypes that weights are made from: the file's name -> the kernels' name.
PACKED = "U8"  # of a matrix that we packed and wrote
STORED = {"F32": "f32", "BF16": "bf16", "F16": "f16", "F64": "f32"}


@dataclass(frozen=True)
class Source:
    """How one weight is made: rows [first, first + shape[0]) of the tensor's outputs (columns, if `transposed`).

    `shape` and `dtype` are the weight's; `pattern` is the tensor's name with {i} for the layer. `offset` is the
    weight's place in the resident block, None where it is mapped.
    """

    name: str
    pattern: str
    tensor: TensorInfo
    shape: tuple[int, ...]
    dtype: str
    first: int = 0
    transposed: bool = False
    offset: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the weight, in the file's mapping or in the block."""
        return weight_bytes(self.dtype, self.shape)

    @property
    def role(self) -> str:
        """What the weight is: "q", "down", ..."""
        return self.name.rpartition(".")[2]

    @property
    def fused(self) -> bool:
        """Whether the tensor holds other weights too."""
        return self.tensor.dtype != PACKED and self.tensor.shape[1 if self.transposed else 0] != self.shape[0]

    @property
    def quantizes(self) -> bool:
        """Whether loading turns floats into integers here."""
        return self.dtype in QUANTIZED and self.tensor.dtype != PACKED

    @property
    def action(self) -> str:
        """What loading does, in words."""
        if self.offset is None:
            return "mapped"
        made = self.tensor.dtype
        steps = ["transposed"] if self.transposed else []
        if self.quantizes:
            return "resident: " + " and ".join([*steps, f"quantised from {made}"])
        if STORED.get(made, self.dtype) != self.dtype:
            steps.append("widened")
        elif made == "F64":
            steps.append("narrowed")
        return "resident: " + (" and ".join(steps) or "copied, unaligned in the file")


@dataclass(frozen=True)
class LoadPlan:
    """Every weight's source, by role. Where the head is tied, `model` has no "head".

    `twin` is a head's tensor that the file holds beside a tied embedding: loading checks that they are equal.
    """

    config: Config
    model: Mapping[str, Source]
    layers: tuple[Mapping[str, Source], ...]
    twin: TensorInfo | None = None

    def __iter__(self) -> Iterator[Source]:
        """Every source, in the order of the resident block."""
        for part in (self.model, *self.layers):
            yield from part.values()

    @property
    def mapped_bytes(self) -> int:
        """Bytes read in place from the mapped files."""
        return sum(source.nbytes for source in self if source.offset is None)

    @property
    def resident_bytes(self) -> int:
        """Size of the one block that loading allocates."""
        return sum(_lines(source.nbytes) for source in self if source.offset is not None)

    @property
    def parameters(self) -> int:
        """Numbers in the model, a tied head counted once."""
        return sum(math.prod(source.shape) for source in self)

    def lines(self) -> list[str]:
        """Tell the plan, one line for each role; layers that are made alike share it."""
        groups: dict[tuple[str, ...], list[int]] = {}
        for i, part in enumerate((self.model, *self.layers)):
            for role, source in part.items():
                where, shape = source.pattern + _span(source), str(list(source.shape))
                groups.setdefault((role, where, shape, source.dtype, source.action), []).append(i)
        rows = [(key[0], f"x{len(at)}" if at[0] else "", *key[1:]) for key, at in groups.items()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def make_plan(checkpoint: Checkpoint, config: Config, quantize: str | None = None) -> LoadPlan:
    """Check every tensor's name, shape and dtype against `config` and say how each weight is made.

    `quantize`: "int8", "int4", or by role as in `parse_quantize`; what the file holds packed stays as it is.

    Raises `CheckpointError` for a tensor that is missing, unknown, of another shape or of a dtype we do not read, and
    `ConfigError` as `parse_config` does (the optional biases are asked for in `config.json`), and `PlanError` for a
    `quantize` that is not understood.
    """
    return _Planner(checkpoint, config, parse_quantize(quantize)).plan()


class _Planner:
    """The tensors found, those used so far, and the block's next free byte."""

    def __init__(self, checkpoint: Checkpoint, config: Config, quantize: Mapping[str, str]) -> None:
        self.where = str(checkpoint.directory)
        self.config, self.quantize = config, quantize
        self.tensors = checkpoint.tensors
        self.family = FAMILIES[config.family]
        self.biases = resolve(checkpoint.config, str(checkpoint.directory / "config.json")).biases
        self.prefix = self._prefix()
        self.used: set[str] = set()
        self.end = 0

    def plan(self) -> LoadPlan:
        """Plan every role that this model has, then refuse what is left over."""
        self._check_missing()
        head = self.family.model["head"].name
        model = {role: self._source(role, role, part) for role, part in self.family.model.items() if self._has(role)}
        twin = self.tensors.get(head) if self.config.tied and model["embed"].tensor.name != head else None
        layers = tuple(
            {
                role: self._source(f"layers.{i}.{role}", role, part, i)
                for role, part in self.family.layer.items()
                if self._has(role)
            }
            for i in range(self.config.n_layers)
        )
        if twin is not None:
            self._check_shape(twin, model["embed"].shape)
            self.used.add(twin.name)
        self._check_unknown()
        return LoadPlan(self.config, model, layers, twin)

    def _has(self, role: str) -> bool:
        if role == "head":
            return not self.config.tied
        return not role.endswith("_bias") or role in self.biases

    def _prefix(self) -> str:
        """Take the first prefix under which anything is found; the first of all if none is."""
        for prefix in self.family.prefixes:
            if prefix and any(name.startswith(prefix) for name in self.tensors):
                return prefix
        anchor = self.family.model["norm"].name
        bare = anchor in self.tensors and "" in self.family.prefixes
        return "" if bare else self.family.prefixes[0]

    def _name(self, role: str, part: Part, layer: int | str) -> str:
        if role == "head":
            return part.name
        name = self.prefix + part.name.replace("{i}", str(layer))
        # As transformers does, a tied model saved with its head alone takes the embedding from it.
        if role == "embed" and self.config.tied and name not in self.tensors:
            head = self.family.model["head"].name
            return head if head in self.tensors else name
        return name

    def _part(self, role: str, part: Part, layer: int) -> Part:
        """Give a role's part its full name; of a fused tensor, the piece that stands alone if there is one."""
        name = self._name(role, part, layer)
        alone = piece_name(name, role)
        return Part(alone) if part.count > 1 and alone in self.tensors else replace(part, name=name)

    def _check_missing(self) -> None:
        """Report the first tensor that is not there, and how many; absurd layer counts cost no more than sane ones."""
        missing: dict[str, tuple[int, ...]] = {}
        layers = range(min(self.config.n_layers, len(self.tensors) + 1))
        for part_of, table in [(0, self.family.model), *((i, self.family.layer) for i in layers)]:
            for role, part in table.items():
                found = self._part(role, part, part_of)
                if self._has(role) and found.name not in self.tensors:
                    missing[found.name] = self._stored_shape(role, found)
        if missing:
            name, shape = next(iter(missing.items()))
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            msg = (
                f"{self.where}: tensor {name} {list(shape)}{more} missing; config.json describes a "
                f"{self.config.family} model of {self.config.n_layers} layers. Fetch the checkpoint again, or correct "
                "its config.json"
            )
            if name == self.family.model["head"].name:
                msg += " (tie_word_embeddings is false: if the head is the embedding, set it to true)"
            raise CheckpointError(msg)

    def _shape(self, role: str) -> tuple[int, ...]:
        """Return the weight's shape: [out, in] for a matrix."""
        c = self.config
        d, q, kv = c.d_model, c.n_heads * c.d_head, c.n_kv_heads * c.d_head
        matrices = {
            "embed": (c.n_vocab, d),
            "head": (c.n_vocab, d),
            "positions": (c.n_context, d),
            "q": (q, d),
            "k": (kv, d),
            "v": (kv, d),
            "o": (d, q),
            "gate": (c.d_ff, d),
            "up": (c.d_ff, d),
            "down": (d, c.d_ff),
        }
        if role in matrices:
            return matrices[role]
        if role in ("q_norm", "k_norm"):
            return (c.d_head,)
        of = role.removesuffix("_bias")
        return matrices[of][:1] if of in matrices else (d,)

    def _stored_shape(self, role: str, part: Part) -> tuple[int, ...]:
        """Return the shape that the file must have: all pieces of a fused tensor, turned if transposed."""
        out, *rest = self._shape(role)
        return (*rest, out * part.count) if part.transposed else (out * part.count, *rest)

    def _check_shape(self, info: TensorInfo, shape: tuple[int, ...]) -> None:
        if tuple(info.shape) != shape:
            msg = (
                f"{info.file}: tensor {info.name} has shape {list(info.shape)}; config.json makes it {list(shape)}. "
                "The two do not belong together: fetch the checkpoint again"
            )
            raise CheckpointError(msg)
        if info.dtype not in STORED:
            msg = f"{info.file}: tensor {info.name} is {info.dtype}; expected one of {', '.join(STORED)}"
            raise CheckpointError(msg)

    def _packed(self, info: TensorInfo, shape: tuple[int, ...]) -> str | None:
        """Name the dtype of a matrix that the file holds packed."""
        if info.dtype != PACKED or len(shape) != 2 or len(info.shape) != 3:  # noqa: PLR2004 - [n, k], packed
            return None
        return next((d for d in GROUP_BYTES if packed_shape(d, shape) == tuple(info.shape)), None)

    def _source(self, name: str, role: str, part: Part, layer: int = 0) -> Source:
        found = self._part(role, part, layer)
        info, shape = self.tensors[found.name], self._shape(role)
        packed = self._packed(info, shape)
        if packed is None:
            self._check_shape(info, self._stored_shape(role, found))
        self.used.add(info.name)
        pattern = info.name
        if role in self.family.layer:
            end = found.name.removeprefix(self._name(role, part, layer))
            pattern = self._name(role, part, "{i}") + end
        if packed is not None:
            if self.quantize.get(role, packed) != packed:
                msg = (
                    f"{info.file}: tensor {info.name} is {packed} already, not {self.quantize[role]} as asked; "
                    "leave quantize out, or begin from the original checkpoint"
                )
                raise PlanError(msg)
            return Source(name, pattern, info, shape, packed)
        dtype = "f32" if len(shape) == 1 else self.quantize.get(role, STORED[info.dtype])
        source = Source(name, pattern, info, shape, dtype, found.index * shape[0], found.transposed)
        in_place = not found.transposed and STORED[info.dtype] == dtype and info.dtype != "F64"
        if in_place and info.start % DTYPES[dtype][0] == 0:
            return source
        source = replace(source, offset=self.end)
        self.end += _lines(source.nbytes)
        return source

    def _check_unknown(self) -> None:
        """Refuse a tensor that no weight is made from: the model would be another one without it."""
        ignored = re.compile("|".join(self.family.ignored))
        unknown = [
            name
            for name in self.tensors
            if name not in self.used and not ignored.fullmatch(name.removeprefix(self.prefix))
        ]
        if unknown:
            kinds = Counter(self.tensors[name].dtype for name in unknown)
            msg = (
                f"{self.where}: tensor {shown(unknown[0])} is no part of a {self.config.family} model of "
                f"{self.config.n_layers} layers as config.json describes it ({len(unknown)} such: "
                f"{', '.join(f'{n} {kind}' for kind, n in kinds.items())}). Computing without it would give another "
                "model's text: correct config.json or fetch the checkpoint again"
            )
            raise CheckpointError(msg)


def _lines(nbytes: int) -> int:
    """Round up to whole cache lines."""
    return -(-nbytes // LINE) * LINE


def _span(source: Source) -> str:
    """Show the range of rows or columns, where it is not the whole tensor."""
    if not source.fused:
        return ""
    span = f"{source.first}:{source.first + source.shape[0]}"
    return f"[:, {span}]" if source.transposed else f"[{span}]"
