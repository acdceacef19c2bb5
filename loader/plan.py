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
| fewer rows, in one range          | as above, of that range alone                             |
| several ranges, or fewer columns  | gathered, same dtype, in the resident block               |
| matrix that zeros are put into    | the numbers that stay (`runtime/sparse.py`), in the block |
| and that is quantised to int8     | as above (`runtime/sparse_int8.py`)                       |
| matrix whose own zeros are asked  | as above once they are counted (`count.py`), till then in |
| for ("stored")                    | place                                                     |

Where the numbers that stay would take more bytes than all of them, and in int4 and int4a, zeros lie among the others.
Every piece of the resident block starts on a 64-byte line; `resident_bytes` is the block's exact size.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, PlanError
from ..runtime.packed import GROUP_BYTES, packed_shape
from ..runtime.sparse import SPARSE
from ..runtime.sparse_int8 import SPARSE_INT8
from ..runtime.spec import DTYPES, weight_bytes
from .config import resolve
from .cut import ATTENTION, AXES, FEED_FORWARD, axis_size, compile_plan
from .families import FAMILIES, Part, piece_name
from .header import shown
from .quantize import parse_quantize
from .ranges import spread
from .source import PACKED, STORED, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ..runtime.spec import Config
    from .checkpoint import Checkpoint
    from .cut import Cut
    from .header import TensorInfo
    from .patterns import Pattern
    from .prune import PrunePlan
    from .ranges import Ranges

__all__ = ["LINE", "LoadPlan", "can_be_sparse", "held_as", "make_plan"]

#: Bytes of a cache line: the alignment of every piece of the resident block.
LINE = 64

@dataclass(frozen=True)
class LoadPlan:
    """Every weight's source, by role. Where the head is tied, `model` has no "head"; a layer that runs twice is one.

    `cut` says which of the file's layers, heads, neurons, ids and dimensions are left, and `config` describes those.
    `twin` is a head's tensor that the file holds beside a tied embedding: loading checks that they are equal.
    """

    cut: Cut
    model: Mapping[str, Source]
    layers: tuple[Mapping[str, Source], ...]
    twin: Source | None = None

    @property
    def config(self) -> Config:
        """The model that is left."""
        return self.cut.config

    def __iter__(self) -> Iterator[Source]:
        """Every source once, in the order of the resident block."""
        for part in {id(part): part for part in (self.model, *self.layers)}.values():
            yield from part.values()

    @property
    def touched(self) -> tuple[Source, ...]:
        """Every source, and what one of them is compared with."""
        return (*self, *(() if self.twin is None else (self.twin,)))

    @property
    def mapped_bytes(self) -> int:
        """Bytes read in place from the mapped files."""
        return sum(source.nbytes for source in self if source.offset is None)

    @property
    def resident_bytes(self) -> int:
        """Size of the one block that loading allocates."""
        return sum(_lines(source.nbytes) for source in self if source.offset is not None)

    def with_sources(self, change: Callable[[Source], Source]) -> LoadPlan:
        """The plan with every source changed, and the resident block laid out anew."""
        end = 0

        def place(source: Source) -> Source:
            nonlocal end
            source = change(source)
            if source.offset is not None:
                source = replace(source, offset=end)
                end += _lines(source.nbytes)
            return source

        parts = {id(part): part for part in (self.model, *self.layers)}  # what is one mapping stays one
        made = {key: {role: place(s) for role, s in part.items()} for key, part in parts.items()}
        return replace(self, model=made[id(self.model)], layers=tuple(made[id(part)] for part in self.layers))

    @property
    def parameters(self) -> int:
        """Numbers in the model, a tied head counted once."""
        return sum(math.prod(source.shape) for source in self)

    def lines(self) -> list[str]:
        """Tell the plan, one line for each role; layers that are made alike share it."""
        groups: dict[tuple[str, ...], list[int]] = {}
        for i, part in enumerate((self.model, *self.layers)):
            for role, source in part.items():
                where, shape = source.pattern + source.where, str(list(source.shape))
                groups.setdefault((role, where, shape, source.dtype, source.action), []).append(i)
        rows = [(key[0], f"x{len(at)}" if at[0] else "", *key[1:]) for key, at in groups.items()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def can_be_sparse(dtype: str) -> bool:
    """Whether kernels read a matrix in this dtype that holds some of its numbers alone."""
    return f"{dtype}_sparse" in (*SPARSE, SPARSE_INT8)


def held_as(dtype: str, shape: tuple[int, ...], kept: int) -> str:
    """How a matrix is held that keeps so many numbers: sparse where that is fewer bytes, and there is such a form."""
    name = f"{dtype}_sparse"
    return name if can_be_sparse(dtype) and weight_bytes(name, shape, kept) < weight_bytes(dtype, shape) else dtype


def make_plan(
    checkpoint: Checkpoint, config: Config, quantize: str | None = None, prune: PrunePlan | None = None
) -> LoadPlan:
    """Check every tensor's name, shape and dtype against `config` and say how each weight is made.

    `quantize`: "int8", "int4", or by role as in `parse_quantize`; what the file holds packed stays as it is. `prune`:
    what to keep, nothing unresolved; what it leaves is quantised.

    Raises `CheckpointError` for a tensor that is missing, unknown, of another shape or of a dtype we do not read, and
    `ConfigError` as `parse_config` does (the optional biases are asked for in `config.json`), and `PlanError` for a
    `quantize` that is not understood or a `prune` that does not fit.
    """
    return _Planner(checkpoint, compile_plan(prune, config, checkpoint), parse_quantize(quantize)).plan()


class _Planner:
    """The tensors found, those that the file's model has, and the block's next free byte."""

    def __init__(self, checkpoint: Checkpoint, cut: Cut, quantize: Mapping[str, str]) -> None:
        self.where = str(checkpoint.directory)
        self.cut, self.config, self.quantize = cut, cut.before, quantize
        self.tensors = checkpoint.tensors
        self.family = FAMILIES[self.config.family]
        self.biases = resolve(checkpoint.config, str(checkpoint.directory / "config.json")).biases
        self.prefix = self.family.prefix_in(self.tensors)
        self.used: set[str] = set()
        self.ranges: dict[tuple[str, int], Ranges] = {}
        self.end = 0

    def plan(self) -> LoadPlan:
        """Check every role that the file's model has, refuse what is left over, and plan what the cut keeps."""
        self._check_missing()
        self._check_all()
        model = {role: self._source(role, role, part) for role, part in self.family.model.items() if self._has(role)}
        made: dict[int, Mapping[str, Source]] = {}
        for new, old in enumerate(self.cut.layers):
            if old not in made:  # a layer that runs twice has its weights once
                made[old] = {
                    role: self._source(f"layers.{new}.{role}", role, part, old)
                    for role, part in self.family.layer.items()
                    if self._has(role, old) and self._keeps(role, new)
                }
        layers = tuple(made[old] for old in self.cut.layers)
        return LoadPlan(self.cut, model, layers, self._twin(model["embed"]))

    def _check_all(self) -> None:
        """Every tensor of the file's model has its shape and a dtype that we read, kept or not; no other is there."""
        for part_of, table in [(0, self.family.model), *((i, self.family.layer) for i in range(self.config.n_layers))]:
            for role, part in table.items():
                if self._has(role, part_of):
                    found = self._part(role, part, part_of)
                    info = self.tensors[found.name]
                    if self._packed(info, self._shape(role, part_of)) is None:
                        self._check_shape(info, self._stored_shape(role, found, part_of))
                    self.used.add(info.name)
        head = self.tensors.get(self.family.model["head"].name)
        if self.config.tied and head is not None:
            if self._packed(head, self._shape("embed")) is None:
                self._check_shape(head, self._shape("embed"))
            self.used.add(head.name)
        self._check_unknown()

    def _twin(self, embed: Source) -> Source | None:
        """The kept part of a head's tensor beside a tied embedding."""
        twin = self.tensors.get(self.family.model["head"].name) if self.config.tied else None
        return None if twin is None or twin.name == embed.tensor.name else replace(embed, tensor=twin)

    def _has(self, role: str, layer: int = 0) -> bool:
        """Whether the file's model has this role: in this layer, for a layer's."""
        if role == "head":
            return not self.config.tied
        sizes = self.config.layer(layer)
        if (role in ATTENTION and not sizes.n_heads) or (role in FEED_FORWARD and not sizes.d_ff):
            return False
        return not role.endswith("_bias") or role in self.biases

    def _keeps(self, role: str, new: int) -> bool:
        """Whether the half of the layer that the role belongs to is left."""
        sizes = self.cut.config.layer(new)
        return bool(sizes.n_heads if role in ATTENTION else sizes.d_ff)

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
                if self._has(role, part_of) and found.name not in self.tensors:
                    missing[found.name] = self._stored_shape(role, found, part_of)
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

    def _shape(self, role: str, layer: int = 0) -> tuple[int, ...]:
        """Return the weight's shape before any cut: [out, in] for a matrix."""
        return tuple(axis_size(self.config, axis, layer) for axis in AXES[role])

    def _stored_shape(self, role: str, part: Part, layer: int = 0) -> tuple[int, ...]:
        """Return the shape that the file must have: all pieces of a fused tensor, turned if transposed."""
        out, *rest = self._shape(role, layer)
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
        """The kept part of a role of the file's layer `layer`."""
        found = self._part(role, part, layer)
        info, whole = self.tensors[found.name], self._shape(role, layer)
        kept = [self._kept(axis, layer) for axis in AXES[role]]
        shape = tuple(sum(b - a for a, b in ranges) for ranges in kept)
        pattern = info.name
        if role in self.family.layer:
            end = found.name.removeprefix(self._name(role, part, layer))
            pattern = self._name(role, part, "{i}") + end
        rows = spread(kept[0], 1, found.index * whole[0])
        columns = kept[1] if shape[1:] != whole[1:] else None
        packed, zeros = self._packed(info, whole), self._zeros(role, layer, shape)
        if packed is not None:
            self._check_packed(info, packed, role, cut=shape != whole or zeros is not None)
            return Source(name, pattern, info, shape, packed, rows)
        dtype = "f32" if len(shape) == 1 else self.quantize.get(role, STORED[info.dtype])
        stays = zeros.kept(shape) if zeros is not None else None
        dtype = dtype if stays is None else held_as(dtype, shape, stays)
        how: dict[str, Any] = {"fused": found.count > 1, "zeros": zeros, "kept": stays}
        source = Source(name, pattern, info, shape, dtype, rows, columns, found.transposed, **how)
        as_it_lies = not (found.transposed or source.gathered or source.chooses)
        in_place = as_it_lies and STORED[info.dtype] == dtype and info.dtype != "F64"
        if in_place and info.start % DTYPES[dtype][0] == 0:
            return source
        source = replace(source, offset=self.end)
        self.end += _lines(source.nbytes)
        return source

    def _kept(self, axis: str, layer: int) -> Ranges:
        """What is kept along an axis; one object for all the layer's weights."""
        if (axis, layer) not in self.ranges:
            self.ranges[axis, layer] = self.cut.kept(axis, layer)
        return self.ranges[axis, layer]

    def _zeros(self, role: str, layer: int, shape: tuple[int, ...]) -> Pattern | None:
        """Zeros that are asked for, where they leave not all of the matrix anyway."""
        zeros = self.cut.zeros(role, layer)
        return None if zeros is None or zeros.kept(shape) == math.prod(shape) else zeros

    def _check_packed(self, info: TensorInfo, packed: str, role: str, *, cut: bool) -> None:
        """What is packed is used whole and as it is."""
        if self.quantize.get(role, packed) != packed:
            msg = (
                f"{info.file}: tensor {info.name} is {packed} already, not {self.quantize[role]} as asked; "
                "leave quantize out, or begin from the original checkpoint"
            )
            raise PlanError(msg)
        if cut:
            msg = (
                f"{info.file}: tensor {info.name} is {packed} already, in panels that cannot be cut or thinned; "
                "prune the original checkpoint, and quantise what is left"
            )
            raise PlanError(msg)

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
