"""What of a checkpoint's tensors is written otherwise than it was read: zeros, biases, another basis."""

from __future__ import annotations

from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...dataclass import dataclass
from ...errors import PlanError
from ...loader.config import resolve_config
from ...loader.families import FAMILIES
from ...loader.roles import ROLES
from ...loader.sizes import d_head
from ...loader.source import read
from .numbers import narrowed, widened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from ...loader.checkpoint import Checkpoint
    from ...loader.load_plan import LoadPlan
    from ...loader.source import Source
    from ..export import Tensor
    from .slicegpt import Basis

    F64 = NDArray[np.float64]

__all__ = ["Rewrite", "can_compensate"]


@dataclass(frozen=True)
class Rewrite:
    """`matrix(name, w)`: new weights of a layer's matrix, float64 [out, in], or None: as they are.

    `biases`: what to add to a bias, by its name, float64 [out]. Where the checkpoint has no such biases and its
    family has a word for them, config.json gets it, and the half's other biases are zeros. Layers as they are written.
    `basis`: every weight that touches the residual stream is written in it.
    """

    matrix: Callable[[str, F64], F64 | None] | None = None
    biases: Mapping[str, F64] = field(default_factory=dict)
    basis: Basis | None = None

    @property
    def changes(self) -> bool:
        """Whether what is written is not what a plan alone would keep."""
        return self.matrix is not None or bool(self.biases) or self.basis is not None

    def shape(self, parts: list[Source], shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of what `change` gives."""
        return shape if self.basis is None else self.basis.shape(parts[0].role, shape)

    def change(self, parts: list[Source], x: NDArray[np.generic]) -> NDArray[np.generic]:
        """A tensor as it is to be written: `loader.prune.export.left_tensors` asks for each."""
        dtype = parts[0].tensor.dtype
        if self.basis is not None:
            turned = self.basis.turned(parts[0].name, widened(x, dtype))
            return x if turned is None else narrowed(turned, dtype)
        if x.ndim == 1:
            more = self.biases.get(parts[0].name)
            return x if more is None else narrowed(widened(x, dtype) + more, dtype)
        if self.matrix is None:
            return x
        at, pieces = 0, []
        for part in parts:  # a fused tensor's pieces are matrices of their own
            piece, at = x[at : at + part.shape[0]], at + part.shape[0]
            new = self.matrix(part.name, widened(piece, dtype))
            pieces.append(piece if new is None else narrowed(new, dtype))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def config(self, plan: LoadPlan) -> dict[str, Any]:
        """Keys that config.json gets."""
        family = FAMILIES[plan.config.family]
        keys: dict[str, Any] = {family.bias_keys[ROLES[role].sublayer]: True for role in self._missing(plan)}
        if self.basis is not None:
            spelling = family.spelled(plan.config)
            keys |= {spelling["d_model"]: self.basis.width, spelling["d_head"]: d_head(plan.config)}
            keys |= {"tie_word_embeddings": False}
        return keys

    def added(self, plan: LoadPlan, checkpoint: Checkpoint, left: Mapping[str, Any]) -> Iterator[Tensor]:
        """Biases that the checkpoint lacks and `left`, its new config, has; the head, where it was the embedding.

        A key of a family may stand for more biases than those that are needed, a head's among them: they are zeros.
        """
        if self.basis is not None and plan.config.tied:
            yield self._head(self.basis, plan.model["embed"], plan, checkpoint)
        if not self._missing(plan):
            return
        told = [role for role in resolve_config(dict(left), "config.json").biases if role.endswith("_bias")]
        for i, sources in enumerate(plan.layers):
            for bias in (role for role in sorted(told) if ROLES[role].sublayer and role not in sources):
                source = sources.get(bias.removesuffix("_bias"))
                if source is None:
                    continue
                value = self.biases.get(f"layers.{i}.{bias}", np.zeros(source.shape[0]))
                file_name = source.pattern.replace("{i}", str(i)).removesuffix("weight") + "bias"
                yield _made(file_name, source.tensor.dtype, value)
        parts, embed = FAMILIES[plan.config.family].parts(plan.config), plan.model["embed"]
        for bias in (role for role in sorted(told) if not ROLES[role].sublayer and role not in plan.model):
            of = plan.model.get(bias.removesuffix("_bias"), embed)  # a tied head is the embedding
            yield _made(parts[bias].name, of.tensor.dtype, np.zeros(of.shape[0]))

    def _head(self, basis: Basis, embed: Source, plan: LoadPlan, checkpoint: Checkpoint) -> Tensor:
        name, dtype = FAMILIES[plan.config.family].model["head"].name, embed.tensor.dtype
        if embed.tensor.name == name:
            msg = f"{embed.tensor.file}: the embedding is stored as {name} alone; expected it under its own name, too"
            raise PlanError(msg)

        def make() -> NDArray[np.generic]:
            whole = read(embed, checkpoint.array(embed.tensor.name))
            return narrowed(basis.after("head", widened(whole, dtype)), dtype)

        return name, dtype, basis.shape("head", embed.shape), make

    def _missing(self, plan: LoadPlan) -> list[str]:
        wanted = dict.fromkeys(name.rpartition(".")[2] for name in self.biases if name.startswith("layers."))
        return [role for role in wanted if not any(role in sources for sources in plan.layers)]


def _made(name: str, dtype: str, value: F64) -> Tensor:
    """A tensor that is there already."""
    ready = narrowed(value, dtype)
    return name, dtype, ready.shape, partial(_same, ready)


def _same(x: NDArray[np.generic]) -> NDArray[np.generic]:
    return x


def can_compensate(family: str, role: str, *, there: bool) -> None:
    """Refuse where no bias can take up what is cut: `PlanError`. `there`: the checkpoint has it already."""
    if there or ROLES[role].sublayer in FAMILIES[family].bias_keys:
        return
    msg = (
        f"flap adds what it cuts to {role}, and a {family} checkpoint has no such bias, nor a key of config.json for "
        "one; --no-compensation cuts without it"
    )
    raise PlanError(msg)
