"""A pure plan: which bytes of which tensor become which weight. Decided from headers alone; no tensor's data is read.

But for the scales and zero points of matrices that others quantised: they say what holds them exactly.

| the file holds                    | the weight is                                             |
|-----------------------------------|-----------------------------------------------------------|
| F32, BF16, F16 matrix [out, in]   | the mapped bytes, in place                                |
| F32 vector (norm, bias)           | the mapped bytes, in place                                |
| BF16, F16 vector                  | widened to f32, exactly, in the resident block            |
| transposed matrix [in, out]       | turned to [out, in], same dtype, in the resident block    |
| F64 vector or matrix              | rounded to f32, in the resident block                     |
| vector that is kept less one      | widened, and one added (Gemma's norms), in the block      |
| tensor off its own alignment      | copied into the resident block                            |
| matrix that others quantised      | int4 or int8 where that is exact (`foreign/forms.py`), else widened   |
| matrix that is to be quantised    | int8 or int4 (`runtime/quantized.py`), in the resident block |
| U8 matrix, quantised by us before | the mapped bytes, in place                                |
| piece NAME.ROLE of a fused NAME   | as above; it stands alone, [out, in]                      |
| experts in a stack [n, out, in]   | each as above: a range of the stack's rows                |
| rows by head, all of them         | the mapped bytes of the whole, of which parts are picked  |
| fewer rows, in one range          | as above, of that range alone                             |
| several ranges, or fewer columns  | gathered, same dtype, in the resident block               |
| matrix that zeros are put into    | the numbers that stay (`runtime/sparse.py`), in the block |
| and that is quantised to int8     | as above (`runtime/sparse_int8.py`)                       |
| matrix whose own zeros are asked  | as above once they are counted (`prune/stored_zeros.py`), till then in |
| for ("stored")                    | place                                                     |

Where the numbers that stay would take more bytes than all of them, in int4 and int4a, and in experts, which one kernel
finds by their addresses, zeros lie among the others; experts whose zeros are stored stay mapped.
Every piece of the resident block starts on a 64-byte line; `resident_bytes` is the block's exact size.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from ..dataclass import dataclass
from ..errors import PlanError
from ..runtime.sparse import SPARSE
from ..runtime.sparse_int8 import SPARSE_INT8
from ..runtime.spec import DTYPES, weight_bytes
from .foreign.choice import Choice, Wanted
from .pieces import rows_in_tensor, spacing
from .places import Target
from .prune.compiled import compile_plan
from .quantize import parse_quantize, plain_roles
from .roles import expert_key, expert_of, role_of
from .sizes import has_sublayer, role_axes
from .source import STORED, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ..runtime.spec import Config
    from .adapter import Adapter
    from .families import Part
    from .foreign.coded import Coded
    from .header import TensorInfo
    from .merge import Change
    from .model_tensors import ModelTensors
    from .open import Opened
    from .prune.cut import Cut
    from .prune.plan import Indices
    from .prune.sparsity import Pattern
    from .ranges import Ranges

__all__ = ["LINE", "LoadPlan", "can_be_sparse", "held_as", "make_load_plan"]

#: Bytes of a cache line: the alignment of every piece of the resident block.
LINE = 64
#: What the names of an encoder's weights begin with, where a decoder reads it.
ENCODER = "encoder."


@dataclass(frozen=True)
class LoadPlan:
    """Every weight's source, by role. Where the head is tied, `model` has no "head"; a layer that runs twice is one.

    `cut` says which of the file's layers, heads, neurons, ids and dimensions are left, and `config` describes those.
    `twin` is a head's tensor that the file holds next to a tied embedding: loading checks that they are equal.
    `encoder`: the plan of the encoder that a decoder reads; one embedding of both is one source.
    """

    cut: Cut
    model: Mapping[str, Source]
    layers: tuple[Mapping[str, Source], ...]
    twin: Source | None = None
    encoder: LoadPlan | None = None

    @property
    def config(self) -> Config:
        """The model that is left."""
        return self.cut.config

    def __iter__(self) -> Iterator[Source]:
        """Every source once, in the order of the resident block."""
        parts = {id(part): part for part in self.parts}.values()
        yield from {id(source): source for part in parts for source in part.values()}.values()

    @property
    def parts(self) -> tuple[Mapping[str, Source], ...]:
        """The model's own sources, each layer's, and the encoder's."""
        return (self.model, *self.layers, *(() if self.encoder is None else self.encoder.parts))

    @property
    def touched(self) -> tuple[Source, ...]:
        """Every source, and what one of them is compared with."""
        return (*self, *(() if self.twin is None else (self.twin,)))

    @property
    def mapped_bytes(self) -> int:
        """Bytes read in place from the mapped files."""
        return sum(source.nbytes for source in self if source.mapped)

    @property
    def resident_bytes(self) -> int:
        """Size of the one block that loading allocates."""
        return sum(_lines(source.nbytes) for source in self if source.offset is not None) + self.ones_bytes

    @property
    def ones_bytes(self) -> int:
        """Of gains that no file holds, at the end of the block: every norm of the stack has the same."""
        return 0 if self.config.stack.gains else _lines(4 * self.config.d_model)

    def with_sources(self, change: Callable[[Source], Source]) -> LoadPlan:
        """The plan with every source changed, and the resident block laid out again."""
        end = 0

        def place(source: Source) -> Source:
            nonlocal end
            source = change(source)
            if source.offset is not None:
                source = replace(source, offset=end)
                end += _lines(source.nbytes)
            return source

        sources = {id(source): place(source) for source in self}  # what is one source, or one mapping, stays one
        parts = {id(part): {r: sources[id(s)] for r, s in part.items()} for part in self.parts}

        def made(plan: LoadPlan) -> LoadPlan:
            return replace(
                plan,
                model=parts[id(plan.model)],
                layers=tuple(parts[id(part)] for part in plan.layers),
                encoder=None if plan.encoder is None else made(plan.encoder),
            )

        return made(self)

    @property
    def parameters(self) -> int:
        """Numbers in the model, a tied head counted once."""
        return sum(math.prod(source.shape) for source in self)

    def lines(self) -> list[str]:
        """Tell the plan, one line for each role; layers that are made alike share it, and so do those that are one."""
        groups: dict[tuple[str, ...], list[Mapping[str, Source]]] = {}
        for part in (self.model, *self.layers):
            for role, source in part.items():
                where, shape = source.pattern + ("" if source.stack else source.where), str(list(source.shape))
                groups.setdefault((role_of(role), where, shape, source.dtype, source.action), []).append(part)
        rows = [(key[0], "" if at[0] is self.model else _times(at), *key[1:]) for key, at in groups.items()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        more = [] if self.encoder is None else ["encoder", *self.encoder.lines(), "decoder"]
        return more + [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]


def _times(layers: Sequence[object]) -> str:
    """How often a weight is there; and in how many layers, where some share theirs."""
    sets = len({id(layer) for layer in layers})
    return f"x{sets}" + (f" in {len(layers)} layers" if sets < len(layers) else "")


def can_be_sparse(dtype: str) -> bool:
    """Whether kernels read a matrix in this dtype that holds some of its numbers alone."""
    return f"{dtype}_sparse" in (*SPARSE, SPARSE_INT8)


def held_as(dtype: str, shape: tuple[int, ...], kept: int) -> str:
    """How a matrix is held that keeps this many numbers: sparse where that is fewer bytes, and there is such a form."""
    name = f"{dtype}_sparse"
    return name if can_be_sparse(dtype) and weight_bytes(name, shape, kept) < weight_bytes(dtype, shape) else dtype


def make_load_plan(opened: Opened, quantize: str | None = None, cut: Cut | None = None) -> LoadPlan:
    """Check every tensor's name, shape and dtype against the config and say how each weight is made.

    `quantize`: "int8", "int4", or by role and layer as in `parse_quantize`; what the file holds quantised stays as it
    is. `cut`: what to keep of the model (None: everything); what it leaves is quantised. Of an encoder alone the plan
    is its own.

    Raises `CheckpointError` for a tensor that is missing, unknown, of another shape or of a dtype we do not read, and
    `PlanError` for a `quantize` that is not understood.
    """
    file, cut = opened.model_tensors, cut or compile_plan(None, opened.config)
    choice = Choice(opened.checkpoint, _of_the_model(quantize, opened), plain_roles(quantize), cut=cut.cuts)
    planner = _Planner(file, cut, choice, adapter=opened.adapter)
    model = {role: planner.source(role, role, part) for role, part in file.parts.items() if file.has(role)}
    plan = _with_layers(planner, model)
    plan = plan if file.encoder is None else replace(plan, encoder=_planned_encoder(planner, file.encoder, plan))
    return plan if cut.only is None else _encoder_alone(plan)


def _of_the_model(quantize: str | None, opened: Opened) -> dict[str, str]:
    """As `parse_quantize`. Errors: `PlanError`, for layers that the file's model has not, too."""
    read = parse_quantize(quantize)
    config = opened.config
    there = {"": config.n_layers} | ({ENCODER: config.encoding.n_layers} if config.seq2seq else {})
    for name in (name for name in read if "." in name):
        before, layer = name.rpartition(".")[0].rpartition(".")[::2]
        before = f"{before}." if before else ""
        n = there.get(before, 0)
        if int(layer) >= n:
            which, has = f"{before}{layer}", f"the model has {n}" + (f" (0 to {n - 1})" if n else "")
            msg = f"quantize={quantize!r}: there is no layer {which}; {has}"
            raise PlanError(msg)
        numbers = opened.model_tensors.numbers
        if not before and numbers is not None and numbers.index(numbers[int(layer)]) != int(layer):
            first = numbers.index(numbers[int(layer)])
            msg = f"quantize={quantize!r}: layer {layer} has the weights of layer {first}; name that one, or a role"
            raise PlanError(msg)
    return read


def _encoder_alone(plan: LoadPlan) -> LoadPlan:
    """The plan of what an encoder-decoder's decoder reads, as a model of its own."""
    of = plan.encoder
    assert of is not None  # noqa: S101 - `compile_plan` has seen that there is one
    config = replace(of.config, tied=False, logit_scale=1.0)  # as it has no head
    own = replace(of.cut, config=config, only=plan.cut.only, vocab_fallback=plan.cut.vocab_fallback)
    return replace(of, cut=own).with_sources(lambda s: replace(s, name=s.name.removeprefix(ENCODER)))


def _planned_encoder(decoder: _Planner, file: ModelTensors, plan: LoadPlan) -> LoadPlan:
    """The encoder that the decoder reads; one embedding of both is one source."""
    cut = plan.cut.encoder or compile_plan(None, file.config)
    planner = _Planner(file, cut, decoder.choice, ENCODER, end=decoder.end, adapter=decoder.adapter)
    embed = plan.model["embed"]
    planner.embed = embed if file.name("embed", file.parts["embed"], 0) == embed.tensor.name else None
    model = {role: planner.source(role, role, part) for role, part in file.parts.items() if file.has(role)}
    return _with_layers(planner, model)


def _with_layers(planner: _Planner, model: Mapping[str, Source]) -> LoadPlan:
    """The plan of a stack whose own sources are there."""
    file, cut = planner.file, planner.cut
    made: dict[object, Mapping[str, Source]] = {}
    for new, old in enumerate(cut.layers):
        if planner.same(old) not in made:  # a layer that runs twice has its weights once, as layers that share them
            made[planner.same(old)] = {
                key: planner.source(f"layers.{new}.{key}", role, part, old)
                for role, part in file.layer.items()
                if file.has(role, old)
                and (key := _numbered(role, cut.experts.get(old))) is not None
                and has_sublayer(cut.config, key, new)
            }
    layers = tuple(made[planner.same(old)] for old in cut.layers)
    return LoadPlan(cut, model, layers, planner.twin(model["embed"]))


def _numbered(role: str, kept: Indices | None) -> str | None:
    """A layer's key among those of the experts that are kept (None: all); None for an expert that goes."""
    expert = expert_of(role)
    if kept is None or expert is None:
        return role
    at = bisect_left(kept, expert)
    return expert_key(role_of(role), at) if at < len(kept) and kept[at] == expert else None


class _Planner:
    """The tensors that the file's model has, what is cut of them, and the block's next free byte."""

    def __init__(  # noqa: PLR0913 - of one stack or the other
        self,
        tensors: ModelTensors,
        cut: Cut,
        choice: Choice,
        before: str = "",
        *,
        end: int = 0,
        adapter: Adapter | None = None,
    ) -> None:
        self.cut, self.choice, self.adapter = cut, choice, adapter
        self.file, self.before = tensors, before  # what stands before the weights' names
        self.ranges: dict[tuple[str, int], Ranges] = {}
        self.forms: dict[tuple[str, int], str | None] = {}  # of a layer's experts
        self.end = end
        self.embed: Source | None = None  # of another stack, which is this one's too

    def same(self, layer: int) -> object:
        """Equal for the file's layers whose weights are the same: stored once, and cut alike."""
        own = any(cell.startswith(f"{layer}.") for cell in self.cut.sparsity)
        numbers = self.file.numbers
        return layer if numbers is None or own else (numbers[layer], *self.cut.same(layer))

    def twin(self, embed: Source) -> Source | None:
        """The kept part of a head's tensor next to a tied embedding."""
        twin = self.file.twin
        return None if twin is None or twin.name == embed.tensor.name else replace(embed, tensor=twin)

    def source(self, name: str, role: str, part: Part, layer: int = 0) -> Source:
        """The kept part of a role of the file's layer `layer`."""
        if role == "embed" and self.embed is not None:
            return self.embed
        name = self.before + name
        piece = self.file.part(role, part, layer)
        (info, every), whole = self.file.info(role, piece, layer), self.file.shape(role, layer)
        dtype_there = self.file.prequantized(info, whole)
        info = replace(info, shape=whole) if part.folded and dtype_there is None else info
        if piece.in_stack:  # its rows are counted through
            info = replace(info, shape=(math.prod(info.shape[:-1]), *info.shape[-1:]))
        kept = [self._kept(axis, layer) for axis in role_axes(self.cut.before, role)]
        shape = tuple(sum(b - a for a, b in ranges) for ranges in kept)
        pattern = info.name
        if role in self.file.layer:
            end = "" if part.stacked else piece.name.removeprefix(self.file.name(role, part, layer))
            pattern = self.file.pattern(role, part, layer) + end
        expert = expert_of(name.partition("layers.")[2].partition(".")[2])
        rows = rows_in_tensor(self.cut.before, piece, role, layer, kept[0])
        columns = kept[1] if shape[1:] != whole[1:] else None
        zeros = self._zeros(role, layer, shape)
        changes = self._changes(Target(self.before, layer, role), info)
        if dtype_there is not None:
            self._check_unchanged(info, dtype_there, changes)
            self._check_prequantized(
                info, dtype_there, self._asked(role, layer), cut=shape != whole or zeros is not None
            )
            return Source(name, pattern, info, shape, dtype_there, rows, expert=expert)
        dtype = "f32" if len(shape) == 1 else self._asked(role, layer) or STORED[info.dtype]
        repacked = False
        if info.coded and not (zeros or changes or (expert is not None and self.adapter is not None)):
            read = Wanted(cast("Coded", info), rows, columns)
            dtype, repacked = self.choice.of_coded(self._word(role, layer), read, lambda: self._form(role, layer, read))
        stays = zeros.kept(shape) if zeros is not None else None
        dtype = dtype if stays is None or expert is not None else held_as(dtype, shape, stays)
        fused = bool(piece.pieces) or piece.in_stack
        how: dict[str, Any] = {
            "several": every,
            "folded": part.folded,
            "softplus": part.softplus,
            "fused": fused,
            "plus": piece.plus,
            "zeros": zeros,
            "kept": stays,
            "expert": expert,
            "stack": piece.in_stack,
            "alone": self.file.alone(role, part, layer) if fused else "",
            "changes": changes,
            "repacked": repacked,
        }
        source = Source(name, pattern, info, shape, dtype, rows, columns, piece.transposed, **how)
        made = every or changes or piece.transposed or source.chooses or piece.plus or piece.softplus
        as_it_lies = not (made or info.coded)
        in_place = as_it_lies and STORED[info.dtype] == dtype and info.dtype != "F64"
        aligned = in_place and info.start % DTYPES[dtype][0] == 0
        if aligned and not source.gathered:
            return source
        in_turns = piece.by_head and zeros is None and len(shape) > 1 and shape == whole and not changes
        if in_turns and aligned:
            return replace(source, spaced=spacing(self.cut.before, piece, role, layer), first=piece.pieces[0])
        source = replace(source, offset=self.end)
        self.end += _lines(source.nbytes)
        return source

    def _form(self, role: str, layer: int, read: Wanted) -> str | None:
        """What holds a matrix exactly; of experts, all kept ones of the layer, which must be alike."""
        if expert_of(role) is None:
            return self.choice.form([read])
        key = role_of(role), layer
        if key not in self.forms:
            self.forms[key] = self.choice.form(self._experts(role, layer))
        return self.forms[key]

    def _experts(self, role: str, layer: int) -> list[Wanted]:
        """What is read of all kept experts of a layer, for one role."""
        found = []
        for key, part in self.file.layer.items():
            alike = role_of(key) == role_of(role) and self.file.has(key, layer)
            if alike and _numbered(key, self.cut.experts.get(layer)) is not None:
                piece, axes = self.file.part(key, part, layer), role_axes(self.cut.before, key)
                kept = [self._kept(axis, layer) for axis in axes]
                rows = rows_in_tensor(self.cut.before, piece, key, layer, kept[0])
                whole = sum(b - a for a, b in kept[1]) == self.file.shape(key, layer)[1]
                info = cast("Coded", self.file.info(key, piece, layer)[0])
                found.append(Wanted(info, rows, None if whole else kept[1]))
        return found

    def _kept(self, axis: str, layer: int) -> Ranges:
        """What is kept along an axis; one object for all the layer's weights."""
        if (axis, layer) not in self.ranges:
            self.ranges[axis, layer] = self.cut.kept(axis, layer)
        return self.ranges[axis, layer]

    def _changes(self, target: Target, info: TensorInfo) -> tuple[Change, ...]:
        """What an adapter does to a weight of the file's model."""
        return () if self.adapter is None else self.adapter.changes(target, info, self.file, self.cut)

    def _zeros(self, role: str, layer: int, shape: tuple[int, ...]) -> Pattern | None:
        """Zeros that are asked for, where they leave not all of the matrix anyway."""
        zeros = self.cut.zeros(role, layer)
        return None if zeros is None or zeros.kept(shape) == math.prod(shape) else zeros

    @staticmethod
    def _check_unchanged(info: TensorInfo, dtype: str, changes: Sequence[Change]) -> None:
        """What is quantised already takes no adapter: PlanError."""
        if changes:
            msg = (
                f"{info.file}: tensor {info.name} is {dtype} already, and the adapter changes it ({changes[0]}); load "
                "the original checkpoint with the adapter, and quantise while loading"
            )
            raise PlanError(msg)

    def _asked(self, role: str, layer: int) -> str | None:
        """What a matrix is to be quantised to; None: it stays."""
        word = self._word(role, layer)
        return None if word == "none" else word

    def _word(self, role: str, layer: int) -> str | None:
        """What `quantize` says of it, "none" too; None: nothing."""
        return self.choice.word(role_of(role), f"{self.before}{layer}" if role in self.file.layer else "")

    @staticmethod
    def _check_prequantized(info: TensorInfo, dtype: str, wanted: str | None, *, cut: bool) -> None:
        """What is quantised already is used whole and as it is."""
        if wanted not in (None, dtype):
            msg = (
                f"{info.file}: tensor {info.name} is {dtype} already, not {wanted} as asked; "
                "leave quantize out, or begin from the original checkpoint"
            )
            raise PlanError(msg)
        if cut:
            msg = (
                f"{info.file}: tensor {info.name} is {dtype} already, in panels that cannot be cut or thinned; "
                "prune the original checkpoint, and quantise what is left"
            )
            raise PlanError(msg)


def _lines(nbytes: int) -> int:
    """Round up to whole cache lines."""
    return -(-nbytes // LINE) * LINE
