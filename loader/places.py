"""Where a name in transformers' class stands in a model: every tensor name that a family's files have, by role.

PEFT names modules as the class does that the adapter was trained with: "model.layers.0.self_attn.q_proj", or without
"model." where that had no head. A checkpoint's tensors may have either prefix, so every name is listed under each.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ..dataclass import dataclass
from .families.base import piece_name
from .roles import expert_of
from .sizes import lacks_vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .families import Part
    from .model_tensors import ModelTensors

__all__ = ["Place", "Target", "places_of"]


class Target(NamedTuple):
    """A weight of the file's model.

    `stack`: "", or "encoder." of the encoder that a decoder reads; `layer`: its number in the file, 0 of the model's
    own; `role`: a layer's key ("q", "experts.3.expert_up").
    """

    stack: str
    layer: int
    role: str


@dataclass(frozen=True)
class Place:
    """One role that a name stands for. `tensor`: what the base's file calls it; `part`: as a module holds it.

    `prefix`: what the name begins with; `first`: it is the usual one of the role's names.
    """

    of: ModelTensors
    target: Target
    part: Part
    tensor: str
    prefix: str
    first: bool

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """That of the base's tensor; a head that is the embedding has its shape."""
        tensors, target = self.of.tensors, self.target
        return tensors[self.tensor].shape if self.tensor in tensors else self.of.shape(target.role, target.layer)


def places_of(base: ModelTensors) -> dict[str, list[Place]]:
    """Name of a tensor -> what it holds; several roles of a fused one, several layers that share it."""
    places: dict[str, list[Place]] = {}
    for stack, of in (("", base), ("encoder.", base.encoder)):
        for name, place in () if of is None else _places(stack, of):
            places.setdefault(name, []).append(place)
    return places


def _places(stack: str, of: ModelTensors) -> Iterator[tuple[str, Place]]:
    family = of.family
    prefixes = dict.fromkeys((of.prefix, *(family.around.prefixes if family.around else ()), *family.prefixes, ""))
    for layer, table in [(0, of.parts), *((i, of.layer) for i in range(of.config.n_layers))]:
        for role, part in table.items():
            if not (of.has(role, layer) or (role == "head" and _is_tied(of))):
                continue
            tensor = of.name(role, part, layer)
            alone = piece_name(tensor, role)
            whole = replace(part, stacked="", pieces=()) if part.stacked else part
            number, expert = str(layer if of.numbers is None else of.numbers[layer]), str(expert_of(role))
            for prefix in prefixes:
                before = "" if part.outside else prefix
                names = whole.spellings(prefix) + ([before + part.untied] if part.untied else [])
                for i, spelled in enumerate(dict.fromkeys(names)):
                    name = spelled.replace("{i}", number).replace("{e}", expert)
                    held = alone if part.pieces and alone in of.tensors else tensor
                    place = Place(of, Target(stack, layer, role), whole, held, prefix, first=i == 0)
                    yield name, place
                if part.outside:
                    break


def _is_tied(of: ModelTensors) -> bool:
    return of.config.tied and of.config.lm_head and not lacks_vocabulary(of.config)
