"""What the products after the last layer read: those of a head, of a decoder and of texts that come whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...runtime.forward.encoder import head
from ...runtime.forward.stack import Frame, norm, project
from ...runtime.reference import Reference
from ..importance.calibrate import add_sums, finite

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ...runtime.spec import Config, Weight, Weights
    from ..importance.calibrate import Statistics

    F64 = NDArray[np.float64]

__all__ = ["AFTER", "seen_by_head"]

#: Matrices after the last layer, as their statistics are called; a tied head is the embedding.
AFTER = ("head_dense", "head", "classifier")
#: Tokens of a decoder that are normed at a time.
PIECE = 1024


class _Seen(Reference):
    """The float64 ops, which keep what each product reads; those after the last layer are few."""

    def __init__(self, config: Config, last: Weight) -> None:
        super().__init__(np.zeros(1, np.int64), 0, [], 1)
        self.config, self.last = config, last
        self.reads: dict[str, F64] = {}

    def linear(self, x: F64, w: Weight, b: Weight | None = None, **more: Any) -> F64:  # noqa: ANN401 - as it takes
        """[t, k] -> [t, n]; of the last one, whose result nobody reads, nothing."""
        self.reads["head" if w.name == "embed" else w.name] = x
        return np.zeros((len(x), 1)) if w is self.last else super().linear(x, w, b, **more)

    def take_rows(self, x: F64) -> F64:
        """Of a head that reads a text from one token, that one's; else all."""
        of = self.config.head
        return x if of is None or not of.pooled else x[:1] if of.pooling == "first" else x[-1:]


def seen_by_head(config: Config, weights: Weights, *, hessian: bool) -> Callable[[Statistics, F64], None] | None:
    """A call that adds what the head's products read, under their names; None without a head.

    It takes what leaves a decoder's last layer, [tokens, d_model], in any pieces, or what an encoder gives of a text.
    """
    if weights.head is None:
        return None
    last = weights.head

    def read(part: F64) -> dict[str, F64]:
        ops = _Seen(config, last.w)
        frame, dense = Frame(ops, config.stack, ()), weights.head_dense
        h = part if config.decoder is None else norm(frame, part, weights.stack.norm)
        if config.head is not None:
            head(ops, config, config.head, weights, h)
        else:
            project(frame, h if dense is None else project(frame, h, dense), last)
        return ops.reads

    def add(statistics: Statistics, x: F64) -> None:
        each = PIECE if config.head is None else len(x)
        for at in range(0, len(x), each or 1):
            for name, seen in read(finite(x[at : at + each], "what leaves the last layer")).items():
                add_sums(statistics, name, finite(seen, f"the input of {name}"), hessian=hessian)

    return add
