"""Names for what a forward pass computes: those that hooks on a PyTorch model's modules have."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .spec import Weight

__all__ = ["ATTENTION", "LOGITS", "ROWS", "Naming", "layer_of"]

T = TypeVar("T")

#: What follows a layer's name where attention's weights are, [n_heads, T, S].
ATTENTION = ":attention"
#: The name of what comes out at the end.
LOGITS = "logits"
#: What follows the name of an embedding whose rows are scaled before anything reads them: some modules scale within.
ROWS = ":rows"
_LAYER = re.compile(r"(.*?\.[0-9]+)(?=\.)")


def layer_of(name: str) -> str | None:
    """`model.layers.3.mlp.up_proj` -> `model.layers.3`; None outside the layers."""
    found = _LAYER.match(name)
    return None if found is None else found[1]


class Naming(Generic[T]):
    """Of a reader of the op table: `seen` has its results by name, in the order in which they come."""

    def name_by(self, names: Mapping[str, str], seen: dict[str, T], *, scaled: bool) -> None:
        """`names`: of each weight, its module's; `scaled`: the rows of the embedding are scaled next."""
        self.names, self.seen, self.scaled = names, seen, scaled
        self.embedding: Weight | None = None
        self._layer: str | None = None
        self._aside = False
        self._within: set[str] = set()  # names of the layer's pass, and whether its attention was there
        self._has_attended = False

    def held(self, y: T) -> T:
        """A result as it is kept."""
        return y

    def put(self, name: str, y: T) -> None:
        """Under its name; what is computed again, as shared layers are, has a number behind it."""
        n, base = 1, name
        while name in self.seen:
            n += 1
            name = f"{base}#{n}"
        self.seen[name] = self.held(y)

    def note(self, w: Weight, y: T, x: T | None, before: T | None = None, *, alone: bool = True) -> T:
        """`x`: what it was made from, the last layer's output where another begins; or else that is `before`.

        Without `alone` something follows within it: it has no name of its own.
        """
        name = self.names.get(w.name, w.name)
        layer = layer_of(name)
        if not self._aside:
            again = self._has_attended and name in self._within  # layers that share their weights
            self.enter(layer, before if before is not None and layer is None else x, again=again)
            self._within.add(name)
            if x is None and self.scaled:
                self.put(name + ROWS, y)
            elif alone and (x is None or w is not self.embedding):  # the product with it is the logits, scaled or not
                self.put(name, y)
        return y

    def enter(self, layer: str | None, x: T | None, *, again: bool = False) -> None:
        """What comes is of this layer, or of another pass of it; what it reads is what the one before put out."""
        if layer != self._layer or again:
            if self._layer is not None and x is not None:
                self.put(self._layer, x)
            self._layer, self._within, self._has_attended = layer, set(), False

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is computed within has no name: it is no part of a token's way."""
        before, self._aside = self._aside, True
        yield
        self._aside = before
