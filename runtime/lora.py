"""Low-rank adapters of one product, kept apart from its matrix: the table that kernels find them by.

An adapter has a number, the place of its name in `Weights.adapters` counted from 1: 0 means none. A step says which
one each sequence has (`step.Q_ADAPTER`), so that sequences of different adapters share passes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..dataclass import dataclass
from ..errors import PlanError
from ..once import once
from .spec import Adapter, Weight, weights_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from .spec import Linear, StackWeights, Sublayer, Weights

__all__ = [
    "L_BIAS", "L_DOWN", "L_IDS", "L_RANK", "L_RATIO", "L_SCALE", "L_UP", "L_WORDS", "LoraTable", "parts_of",
    "product_of", "rank_of", "with_adapters", "without_adapters",
]  # fmt: skip

#: Words of an adapter in the table: addresses of both matrices, its factor (the bits of a float32), the address of the
#: factors of rows (0: none), its rank, the address of its bias (0: the product's own), and that of the numbers of rows
#: that it has in place of the matrix's (0: none). Rank and bias 0: this product has none of this adapter.
L_DOWN, L_UP, L_SCALE, L_RATIO, L_RANK, L_BIAS, L_IDS = range(7)
L_WORDS = 8
WORD = 8


def rank_of(adapters: Sequence[Adapter | None]) -> int:
    """The largest; 1 where there are biases alone."""
    return max(1, *(a.down.shape[0] for a in adapters if a is not None))


def product_of(part: Adapter) -> str:
    """The name of the product that an adapter's part is of."""
    return part.down.name.rpartition(".adapter")[0]  # after which the adapter's number comes


def with_adapters(weights: Weights, names: Sequence[str], parts: Mapping[str, tuple[Adapter | None, ...]]) -> Weights:
    """The same weights with adapters of these names. `parts`: by the name of a product's matrix, "head" for the head's.

    Those of the embedding's name are of the rows that it looks up.
    A layer that runs twice stays one object. Errors: `PlanError` for a product that is not there.
    """
    left = dict(parts)

    def adapted(linear: Linear) -> Linear:
        tied = linear is weights.head and linear.w is weights.stack.embed
        mine = left.pop("head" if tied or (linear is weights.head and "head" in left) else linear.w.name, None)
        return linear if mine is None else replace(linear, adapters=mine)

    out = replace(_mapped(weights, adapted), adapters=tuple(names))
    rows = replace(out.stack, embed_adapters=left.pop(out.stack.embed.name, ()))
    out = replace(out, encoder=rows) if out.decoder is None else replace(out, decoder=rows)
    if left:
        msg = f"adapters of {', '.join(sorted(left))}: this model has no such products"
        raise PlanError(msg)
    return out


def _mapped(weights: Weights, change: Callable[[Linear], Linear]) -> Weights:
    """Weights whose every product is changed, once, but for experts'."""
    made: dict[int, tuple[Sublayer, ...]] = {}

    def of_layer(layer: tuple[Sublayer, ...]) -> tuple[Sublayer, ...]:
        if id(layer) not in made:
            made[id(layer)] = tuple(replace(s, linear={n: change(x) for n, x in s.linear.items()}) for s in layer)
        return made[id(layer)]

    def maybe(linear: Linear | None) -> Linear | None:
        return None if linear is None else change(linear)

    def of_stack(stack: StackWeights | None) -> StackWeights | None:
        if stack is None:
            return None
        layers, project = tuple(map(of_layer, stack.layers)), maybe(stack.embed_project)
        return replace(stack, layers=layers, embed_project=project, convolution=maybe(stack.convolution))

    return replace(
        weights,
        decoder=of_stack(weights.decoder),
        encoder=of_stack(weights.encoder),
        head=maybe(weights.head),
        head_dense=maybe(weights.head_dense),
    )


def without_adapters(weights: Weights) -> Weights:
    """The model alone."""
    plain = _mapped(weights, lambda linear: replace(linear, adapters=()))
    rows = replace(plain.stack, embed_adapters=())
    return replace(plain, encoder=rows) if plain.decoder is None else replace(plain, decoder=rows)


def parts_of(weights: Weights, number: int) -> list[Adapter]:
    """Of one adapter what the embedding and each product has of it, each once."""
    parts: list[Adapter | None] = list(weights.stack.embed_adapters[number - 1 : number])

    def seen(linear: Linear) -> Linear:
        parts.append(linear.adapters[number - 1] if linear.adapters else None)
        return linear

    _mapped(weights, seen)
    return [part for part in parts if part is not None]


@dataclass(frozen=True, eq=False)
class LoraTable:
    """Of one product, each adapter's part in the order of their numbers; None for one that leaves it as it is."""

    adapters: tuple[Adapter | None, ...]

    @property
    def name(self) -> str:
        """Of the first one's matrix, and how many there are."""
        return f"{self.weights[0].name} x{sum(a is not None for a in self.adapters)}"

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Every matrix and vector."""
        return tuple(weights_in(self.adapters))

    @once
    def weight(self) -> Weight:
        """Their words, int64; the record keeps the matrices alive."""
        words: NDArray[np.int64] = np.array(list(self._words()), np.int64).reshape(-1)
        return Weight("adapters", "f32", (2 * len(words),), words, mapped=False)

    def put(self, number: int, adapter: Adapter | None) -> None:
        """Let kernels find another one of this number from the next pass on; the caller keeps its arrays alive."""
        words = self.weight.array
        assert words is not None  # noqa: S101 - made there
        words.reshape(-1, L_WORDS)[number - 1] = _words_of(adapter)

    def _words(self) -> Iterator[tuple[int, ...]]:
        yield from map(_words_of, self.adapters)

    @property
    def nbytes(self) -> int:
        """Bytes of `weight`."""
        return WORD * L_WORDS * len(self.adapters)


def _words_of(a: Adapter | None) -> tuple[int, ...]:
    """Of one adapter; none of a place."""
    if a is None or a.free:
        return (0,) * L_WORDS
    scale = int(np.float32(a.scale).view(np.uint32))
    up, ratio, bias, ids = (0 if w is None else w.address for w in (a.up, a.ratio, a.bias, a.ids))
    return (a.down.address, up, scale, ratio, a.down.shape[0], bias, ids, *(0,) * (L_WORDS - L_IDS - 1))
