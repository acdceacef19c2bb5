"""What rounding by a text takes, besides the mapped checkpoint: known before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...loader.quantize import BLOCK_ROWS
from ...loader.roles import PLACES, role_of
from ..importance.calibrate import seen_as

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ...loader.source import Source
    from ...model import Model

__all__ = ["predicted"]

#: Copies of the largest Hessian while it is inverted: damped and in order, its inverse, what LAPACK takes, U.
COPIES = 5
#: Bytes of a number of the rows that a thread rounds: as read, in float32 and in float64, errors, whole numbers.
ROUNDED = 40
#: And where zeros are chosen: what is left, what stays, slopes and changes.
WITH_ZEROS = 80


def predicted(  # noqa: PLR0913 - keywords
    model: Model,
    sources: Iterable[Source],
    tokens: int,
    *,
    hessian: bool,
    in_layers: bool,
    threads: int,
    zeros: bool = False,
) -> int:
    """Bytes at the peak, the interpreter's own apart: the model's, the residual stream twice, sums, what was packed."""
    places: dict[str, dict[str, int]] = {}  # by layer, or all together: a place's inputs
    widest = packed = 0
    for source in sources:
        k = source.shape[1]
        before, layers, key = source.name.rpartition("layers.")
        packed += source.nbytes
        widest = max(widest, k)
        if not layers or role_of(key) in PLACES:
            place = before + (seen_as(layers + key) if layers else "head")
            places.setdefault(key.partition(".")[0] if in_layers else "", {})[place] = k
    sums = max((sum(8 * k * k if hessian else 16 * k for k in each.values()) for each in places.values()), default=0)
    stream = 2 * 4 * tokens * model.config.d_model if in_layers else 0
    working = COPIES * 8 * widest * widest if hessian else 0
    each = WITH_ZEROS if zeros else ROUNDED
    return model.memory["allocated"] + packed + stream + sums + max(working, threads * each * BLOCK_ROWS * widest)
