"""What is kept of a model: a plan that was compared with it, for whoever reads the file's weights.

A cut is a set of ranges for each axis of `roles`.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from ...dataclass import dataclass
from ..ranges import as_ranges, spread
from ..roles import in_plans
from ..sizes import axis_size, d_head
from .sparsity import Pattern

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...runtime.spec import Config
    from ..ranges import Ranges
    from .plan import Indices

__all__ = ["Cut"]

WIDTH = "width"
#: Axes of which a layer keeps what a plan says of it.
OF_LAYER = ("heads", "kv_heads", "cross_heads", "cross_kv_heads", "ffn", "biased", "experts")


@dataclass(frozen=True)
class Cut:
    """`before`: the file's model; `config`: what is left. `layers`: the file's numbers of those that run, in order.

    Heads, key/value heads, neurons, experts: kept ones by the file's layer number, where not all are. `sparsity`: the
    plan's.
    """

    before: Config
    config: Config
    layers: Indices
    heads: Mapping[int, Indices]
    kv_heads: Mapping[int, Indices]
    ffn: Mapping[int, Indices]
    vocab: Indices | None
    width: Indices | None
    sparsity: Mapping[str, str] = field(default_factory=dict)
    vocab_fallback: int | str | None = None
    cross_heads: Mapping[int, Indices] = field(default_factory=dict)
    cross_kv_heads: Mapping[int, Indices] = field(default_factory=dict)
    #: Heads whose lines of a table of distances stay, where not all do: of a layer's own, or under 0 of the stack's.
    biased: Mapping[int, Indices] = field(default_factory=dict)
    #: Of the encoder that a decoder reads.
    encoder: Cut | None = None
    experts: Mapping[int, Indices] = field(default_factory=dict)
    #: The one stack of an encoder-decoder that is left; of that stack's own cut, too.
    only: str | None = None

    @property
    def cuts(self) -> bool:
        """Whether anything of the file's model is left out."""
        mine = self.config != self.before or self.layers != tuple(range(self.before.n_layers))
        return mine or self.only is not None or (self.encoder is not None and self.encoder.cuts)

    def same(self, layer: int) -> tuple[Indices | None, ...]:
        """Equal for layers of which the same is kept."""
        return tuple(getattr(self, axis).get(layer) for axis in OF_LAYER)

    def tokens(self, kept: Indices | None) -> Indices:
        """The tokenizer's id of every row that is left; `kept`: of every row of the file's model, if not its number."""
        rows = tuple(range(self.before.n_vocab)) if self.vocab is None else self.vocab
        return rows if kept is None else tuple(kept[row] for row in rows)

    def fallback(self, kept: Indices | None, before: int | str | None) -> int | str | None:
        """What stands for a token that is gone, as the tokenizer's id; `before`: what the file says."""
        if not isinstance(self.vocab_fallback, int):
            return before if self.vocab_fallback is None else self.vocab_fallback
        return self.vocab_fallback if kept is None else kept[self.vocab_fallback]

    def kept(self, axis: str, layer: int) -> Ranges:
        """Kept elements along an axis of one of the file's layers."""
        if axis == "taps":
            taps = self.before.stack.convolution.taps if self.before.stack.convolution else 1
            return spread(self.kept("width", layer), taps)
        indices: Indices | None = None
        whole = ((0, axis_size(self.before, axis, layer)),)
        axis = axis.removeprefix("own_")
        if axis in ("vocab", "width", "source"):
            indices = getattr(self, WIDTH if axis == "source" else axis)
        elif axis in OF_LAYER:
            indices = getattr(self, axis).get(layer)
        if indices is None:
            return whole
        return spread(as_ranges(indices), d_head(self.before) if axis.endswith("heads") else 1)

    def zeros(self, role: str, layer: int = 0) -> Pattern | None:
        """Zeros in a role of one of the file's layers, where any are asked for."""
        role = in_plans(role)
        text = self.sparsity.get(f"{layer}.{role}", self.sparsity.get(role))
        return None if text in (None, "dense") else Pattern.parse(text)
