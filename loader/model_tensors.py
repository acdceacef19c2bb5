"""Which tensor of a checkpoint each role is, and of which shape; every one that must be there is, and no other."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import CheckpointError
from ..runtime.quantized import GROUP_BYTES, quantized_shape
from .checkpoint import again
from .families import FAMILIES, Part, Resolved, piece_name
from .files import quote
from .formats import missing_scale
from .pieces import all_rows, folded_shape
from .roles import ROLES, expert_key, expert_of, role_of
from .sizes import axis_size, d_head, has_sublayer, lacks_vocabulary, largest, role_axes
from .source import PREQUANTIZED, STORED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from .header import TensorInfo

__all__ = ["ModelTensors"]


class ModelTensors:
    """The tensors of a checkpoint, by what they are to the model that `config` describes: before any cut."""

    def __init__(self, directory: Path, tensors: Mapping[str, TensorInfo], resolved: Resolved) -> None:
        """From the headers alone; `check` compares."""
        self.where, self.config = str(directory), resolved.config
        self.tensors, self.biases, self.numbers = tensors, resolved.biases, resolved.numbers
        self.family = FAMILIES[self.config.family]
        self.parts = resolved.placed(self.family.parts(self.config))
        self.layer = self._with_experts(resolved.placed(self.family.layers(self.config)))
        self.prefix = self.family.prefix_in(self.tensors)
        self.used: set[str] = set()
        #: Gives a tensor's numbers.
        self.array: Callable[[str], NDArray[np.generic]] | None = None
        #: The encoder that this decoder reads.
        self.encoder: ModelTensors | None = None
        if self.config.seq2seq:
            self.encoder = ModelTensors(directory, tensors, Resolved(self.config.encoding, self.biases))

    def _with_experts(self, layer: Mapping[str, Part]) -> dict[str, Part]:
        """A layer's parts, those of experts once for each; no more of them than the file can hold, and one."""
        most = max([len(self.tensors), *(t.shape[0] for t in self.tensors.values() if len(t.shape) == 3)])  # noqa: PLR2004 - a stack
        n = min(largest(self.config).n_experts, most + 1)
        return {
            key: part
            for role, part in layer.items()
            for key in ([expert_key(role, e) for e in range(n)] if ROLES[role].each else [role])
        }

    def check(self) -> None:
        """Errors: `CheckpointError` for a tensor that is missing, unknown, of another shape or an unread dtype."""
        self._check_missing()
        if self.encoder is not None:
            self.encoder.check_own()
            self.used |= self.encoder.used
        self._check_all()
        self._check_unknown()

    def check_own(self) -> None:
        """As `check`, but tensors that no weight is made from may be another stack's."""
        self._check_missing()
        self._check_all()

    @property
    def twin(self) -> TensorInfo | None:
        """A head's tensor, where the head is the embedding: perhaps the embedding itself, under this name alone."""
        head = self.parts.get("head")
        return self.tensors.get(self._head(head)) if head is not None and self.config.tied else None

    def _head(self, head: Part) -> str:
        return head.tensor(self.prefix, 0, self.tensors, tied=True)

    def _check_all(self) -> None:
        """Every tensor of the file's model has its shape and a dtype that we read, kept or not."""
        for part_of, table in [(0, self.parts), *((i, self.layer) for i in range(self.config.n_layers))]:
            for role, part in table.items():
                if self.has(role, part_of):
                    piece = self.part(role, part, part_of)
                    info, *others = (self.tensors[name] for name in self.names(role, piece, part_of))
                    for other in others:  # of other heads
                        self._check_shape(other, self._stored_shape(role, piece, part_of), role)
                        self._check_alike(other, info)
                        self.used.add(other.name)
                    if self.prequantized(info, self.shape(role, part_of)) is None:
                        self._check_shape(info, self._stored_shape(role, piece, part_of), role)
                    self.used.add(info.name)
        head = self.twin
        if head is not None:
            if self.prequantized(head, self.shape("embed")) is None:
                self._check_shape(head, self.shape("embed"))
            self.used.add(head.name)

    def has(self, role: str, layer: int = 0) -> bool:
        """Whether the file's model has this role: in this layer, for a layer's."""
        if role == "head":
            return not self.config.tied and self.config.lm_head and not lacks_vocabulary(self.config)
        if not has_sublayer(self.config, role, layer) or not self.family.starts(role, layer):
            return False
        if role.startswith("embed_project") and self.config.d_embed is None:
            return False
        if role in self.family.told and not self.family.told[role](self.config):
            return False
        part = self.parts.get(role)
        if part is not None and part.optional and self.name(role, part, 0) not in self.tensors:
            return False
        return ROLES[role_of(role)].kind != "bias" or role in self.biases

    def pattern(self, role: str, part: Part, layer: int) -> str:
        """`name` of a layer's role with `{i}` for its number, as this file spells it, and `{e}` for an expert's."""
        name, number, expert = self.name(role, part, layer), str(self._number(layer)), str(expert_of(role))
        every = part.spellings(self.prefix)
        return next(p for p in every if p.replace("{i}", number).replace("{e}", expert) == name)

    def _number(self, layer: int) -> int:
        return layer if self.numbers is None else self.numbers[layer]

    def name(self, role: str, part: Part, layer: int) -> str:
        """A role's tensor, or the fused one that it is a piece of, in full."""
        expert = expert_of(role) or 0
        name = part.tensor(self.prefix, self._number(layer), self.tensors, tied=self.config.tied, expert=expert)
        # As transformers does, a tied model saved with its head alone takes the embedding from it.
        if role == "embed" and self.config.tied and name not in self.tensors:
            head = self.parts.get("head")  # which an encoder lacks
            other = name if head is None else self._head(head)
            return other if other in self.tensors else name
        return name

    def alone(self, role: str, part: Part, layer: int) -> str:
        """What a piece of a fused tensor, or of a stack of experts, is called where it stands alone."""
        if part.stacked:
            return part.tensor(self.prefix, self._number(layer), (), tied=False, expert=expert_of(role) or 0)
        return piece_name(self.name(role, part, layer), role)

    def part(self, role: str, part: Part, layer: int) -> Part:
        """Give a role's part its full name; of a fused tensor, the piece that stands alone if there is one."""
        name = self.name(role, part, layer)
        if part.stacked:
            stack = (self.prefix + part.stacked).replace("{i}", str(self._number(layer)))
            return replace(part, name=name, stacked=stack) if name == stack else Part(name)
        alone = piece_name(name, role)
        return Part(alone) if part.pieces and alone in self.tensors else replace(part, name=name)

    def names(self, role: str, part: Part, layer: int) -> list[str]:
        """The tensors of a part that has its full name: one, or each head's; at most what a file can hold, and one."""
        if not part.each_head:
            return [part.name]
        n = self.shape(role, layer)[0] // (d_head(self.config) or 1)
        return [part.name.replace("{h}", str(h)) for h in range(min(n, len(self.tensors) + 1))]

    def info(self, role: str, part: Part, layer: int) -> tuple[TensorInfo, tuple[TensorInfo, ...]]:
        """The tensor of a part that has its full name; of one for each head, what stands for all of them, and these."""
        every = tuple(self.tensors[name] for name in self.names(role, part, layer))
        if not part.each_head:
            return every[0], ()
        first, nbytes = every[0], sum(each.nbytes for each in every)
        return replace(first, name=part.name, shape=self.shape(role, layer), stop=first.start + nbytes), every

    def missing(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of what must be there and is not; of no more layers than the file can hold, and one."""
        missing: dict[str, tuple[int, ...]] = {}
        layers = range(min(self.config.n_layers, len(self.tensors) + 1))
        for part_of, table in [(0, self.parts), *((i, self.layer) for i in layers)]:
            for role, part in table.items():
                if not self.has(role, part_of):
                    continue
                piece = self.part(role, part, part_of)
                for name in self.names(role, piece, part_of):
                    if name not in self.tensors:
                        missing[name] = self._stored_shape(role, piece, part_of)
        return missing

    def _check_missing(self) -> None:
        """Report the first tensor that is not there, and how many; absurd layer counts cost no more than sane ones."""
        missing = self.missing()
        if missing:
            name, shape = next(iter(missing.items()))
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            msg = (
                f"{self.where}: tensor {name} {list(shape)}{more} missing; config.json describes a "
                f"{self.config.family} model of {self.config.n_layers} layers. "
                f"{again(self.where).capitalize()}, or correct its config.json"
            )
            head = self.parts.get("head")
            if head is not None and name == head.name:
                msg += " (tie_word_embeddings is false: if the head is the embedding, set it to true)"
            raise CheckpointError(msg)

    def shape(self, role: str, layer: int = 0) -> tuple[int, ...]:
        """Return the weight's shape before any cut: [out, in] for a matrix."""
        return tuple(axis_size(self.config, axis, layer) for axis in role_axes(self.config, role))

    def _stored_shape(self, role: str, part: Part, layer: int = 0) -> tuple[int, ...]:
        """Return the shape that the file must have: all pieces of a fused tensor, turned if transposed."""
        if part.folded:
            return folded_shape(part.folded, self.shape(role, layer), self.config)
        if part.each_head:
            return (d_head(self.config),)
        _, *rest = self.shape(role, layer)
        out = all_rows(self.config, part, role, layer)
        if part.in_stack:
            return (axis_size(self.config, "experts", layer), out, *rest)
        return (*rest, out) if part.transposed else (out, *rest)

    def _check_shape(self, info: TensorInfo, shape: tuple[int, ...], role: str = "") -> None:
        if tuple(info.shape) != shape:
            why = f"The two do not belong together: {again(self.where)}"
            if role in {"classifier", "classifier_bias"} and self.config.labels and info.shape[1:] == shape[1:]:
                why = (
                    f"It knows {len(self.config.labels)} labels (id2label, or num_labels, which is 2 unless said): "
                    f"name all {info.shape[0]} there"
                )
            there, made = list(info.shape), list(shape)
            msg = f"{info.file}: tensor {info.name} has shape {there}; config.json makes it {made}. {why}"
            raise CheckpointError(msg)
        if info.dtype not in STORED:
            other = f"tensor {info.name} is {info.dtype}; expected one of {', '.join(STORED)}"
            msg = f"{info.file}: {missing_scale(info.name, info.dtype) or other}"
            raise CheckpointError(msg)

    @staticmethod
    def _check_alike(info: TensorInfo, first: TensorInfo) -> None:
        """Parts of one vector have one dtype."""
        if info.dtype != first.dtype:
            msg = f"{info.file}: tensor {info.name} is {info.dtype}, and those of other heads are {first.dtype}"
            raise CheckpointError(msg)

    def prequantized(self, info: TensorInfo, shape: tuple[int, ...]) -> str | None:
        """Name the dtype of a matrix that the file holds quantised."""
        if info.dtype != PREQUANTIZED or len(shape) != 2 or len(info.shape) != 3:  # noqa: PLR2004 - [n, k], quantised
            return None
        return next((d for d in GROUP_BYTES if quantized_shape(d, shape) == tuple(info.shape)), None)

    def _adds_nothing(self, name: str) -> bool:
        """Whether it is a bias of zeros, which AutoGPTQ once gave to every matrix that it packed."""
        matrix = self.tensors.get(f"{name.removesuffix('.bias')}.weight")
        if not name.endswith(".bias") or matrix is None or not matrix.coded or self.array is None:
            return False
        return not self.array(name).any()

    def _check_unknown(self) -> None:
        """Refuse a tensor that no weight is made from: the model would be another one without it."""
        ignored = re.compile("|".join(self.family.ignored))
        unknown = [
            name
            for name in self.tensors
            if name not in self.used and not ignored.fullmatch(name.removeprefix(self.prefix))
        ]
        unknown = [name for name in unknown if not self._adds_nothing(name)]
        if unknown:
            kinds = Counter(self.tensors[name].dtype for name in unknown)
            msg = (
                f"{self.where}: tensor {quote(unknown[0])} is no part of a {self.config.family} model of "
                f"{self.config.n_layers} layers as config.json describes it ({len(unknown)} such: "
                f"{', '.join(f'{n} {kind}' for kind, n in kinds.items())}). Computing without it would give another "
                f"model's text: correct config.json or {again(self.where)}"
            )
            raise CheckpointError(msg)
