"""The oracle, keeping what it computes: every product, norm, row and layer by name, in float64.

Nothing is rounded but the weights, as they are stored or quantised: neither the inputs of products nor the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .encoding import place_of
from .formulas import activation
from .forward.decoder import decoder
from .forward.encoder import cross_caches, encoder
from .forward.encoder import head as head_on
from .forward.output import read_out
from .forward.stack import Frame
from .naming import ATTENTION, LOGITS, ROWS, Naming, layer_of
from .reference import Reference
from .rope import rope_tables
from .sinusoids import with_sinusoids
from .spec import Attention

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Sequence as Ids
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from .spec import Activation, Config, FeedForward, Weight, Weights

    Array = NDArray[np.float64]

__all__ = ["ATTENTION", "LOGITS", "ROWS", "first_ids", "layer_of", "traced"]


class _Traced(Naming["Array"], Reference):
    """What its names are: those of the tensors, less their last part, as hooks on modules have them."""

    def __init__(  # noqa: PLR0913 - what a text is
        self,
        ids: Ids[int],
        config: Config,
        names: Mapping[str, str],
        seen: dict[str, Array],
        *,
        types: Ids[int] | None = None,
        row: int | None = None,
    ) -> None:
        """`row`: the one token whose results are asked for; None: all."""
        caches = [_empty(layer) for layer in config.stack.layers]
        of_types = None if types is None else np.asarray(types, np.int64)
        n_rows = len(ids) if row is None else 1
        super().__init__(np.asarray(ids, np.int64), 0, caches, n_rows, types=of_types, padding=config.padding)
        self.name_by(names, seen, scaled=config.stack.embed_scale != 1)
        self.row = row

    def held(self, y: Array) -> Array:
        """A copy: what comes later may be written over it."""
        return np.array(y)

    def once(self, n: int) -> AbstractContextManager[None]:  # noqa: ARG002 - as the recorder
        """Tables of a model, which no token makes."""
        return self.aside()

    def rounded(self, x: Array, w: Weight, *, expert: bool = False) -> Array:  # noqa: ARG002 - as it has them
        """As it is."""
        return x

    def _rounded(self, x: Array) -> Array:
        return x

    def embed(self, w: Weight) -> Array:
        """[T, d_model]."""
        self.embedding = w
        return self.note(w, super().embed(w), None)

    def embed_positions(self, w: Weight) -> Array:
        """[T, d_model]."""
        return self.note(w, super().embed_positions(w), None)

    def embed_types(self, w: Weight) -> Array:
        """[T, d_model]."""
        return self.note(w, super().embed_types(w), None)

    def linear(  # noqa: PLR0913 - as the oracle's
        self,
        x: Array,
        w: Weight,
        b: Weight | None = None,
        *,
        act: Activation | None = None,
        times: Array | None = None,
        residual: Array | None = None,
    ) -> Array:
        """The product with its bias is kept, before what follows it."""
        y = self.note(w, super().linear(x, w, b), x, residual)
        y = y if act is None else activation(y, act)
        y = y if times is None else y * times
        return y if residual is None else residual + y

    def rms_norm(self, x: Array, w: Weight, eps: float, groups: int = 1) -> Array:
        """As the oracle's."""
        return self.note(w, super().rms_norm(x, w, eps, groups), x)

    def layer_norm(self, x: Array, w: Weight, b: Weight | None, eps: float) -> Array:
        """As the oracle's."""
        return self.note(w, super().layer_norm(x, w, b, eps), x)

    def take_rows(self, x: Array) -> Array:
        """Of the tokens that are asked for."""
        return x if self.row is None else x[self.row : self.row + 1]

    def attended(self, layer: int, weights: Array) -> None:
        """Under the layer's name."""
        if not self._aside:
            self._has_attended = True
            self.put((self._layer or f"layers.{layer}") + ATTENTION, weights)


def first_ids(config: Config, weights: Weights, x: Array) -> NDArray[np.int64]:
    """What a decoder would say after each token, if the layer that put out `x` [T, d_model] were its last: ids [T]."""
    ops = _Traced([0] * len(x), config, {}, {})
    with np.errstate(over="ignore", invalid="ignore"), ops.aside():
        read_out(Frame(ops, config.stack, ()), config, weights, x)
    return np.asarray(ops.results, np.int64)


def _empty(layer: tuple[Attention | FeedForward, ...]) -> tuple[Array, Array]:
    """A layer's cache, with nothing in it."""
    own = [s for s in layer if isinstance(s, Attention) and not s.cross]
    shape = (0, own[0].n_kv_heads, own[0].d_head) if own else (0, 1, 1)
    return np.zeros(shape), np.zeros(shape)


def traced(  # noqa: PLR0913 - what a text is
    config: Config,
    weights: Weights,
    names: Mapping[str, str],
    ids: Ids[int],
    *,
    decoder_ids: Ids[int] | None = None,
    types: Ids[int] | None = None,
) -> dict[str, Array]:
    """Every intermediate of a text by name, in the order in which they are computed; `LOGITS` last, where there are.

    `names`: of each weight, of the module that it is of. An encoder-decoder's encoder reads `ids`.
    """
    seen: dict[str, Array] = {}
    out: Array | None = None
    weights, _ = with_sinusoids(config, weights, max(len(ids), len(decoder_ids or ())) + 1)
    row = None if config.head is None or not config.head.pooled else place_of(config.head, ids)
    with np.errstate(over="ignore", invalid="ignore"):
        if config.seq2seq:
            assert decoder_ids is not None  # noqa: S101 - its caller has asked
            ops = _Traced(ids, config.encoding, names, seen, types=types)
            hidden = encoder(ops, config.encoding, weights.encoding, rope_tables(config.encoding, len(ids)))
            ids = decoder_ids
            ops = _Traced(ids, config, names, seen)
            with ops.aside():
                cross_caches(ops, config, weights, hidden)
            of_decoder = decoder(ops, config, weights, rope_tables(config, len(ids)))
            ops.enter(None, of_decoder[0])
            out, row = of_decoder[1], None if config.head is None else len(ids) - 1
            out = out if row is None or out is None else out[row:]
        elif config.decoder is None:
            ops = _Traced(ids, config, names, seen, types=types, row=row)
            hidden = encoder(ops, config, weights, rope_tables(config, len(ids)))
            ops.enter(None, hidden)
            if config.head is not None:
                out = head_on(ops, config, config.head, weights, hidden)
        else:
            ops = _Traced(ids, config, names, seen)  # hooks on a classifier's head see every token
            of_decoder = decoder(ops, config, weights, rope_tables(config, len(ids)))
            ops.enter(None, of_decoder[0])
            out = of_decoder[1] if row is None or of_decoder[1] is None else of_decoder[1][row : row + 1]
    if out is not None:
        seen[LOGITS] = out if row is None else out[0]
    return seen
