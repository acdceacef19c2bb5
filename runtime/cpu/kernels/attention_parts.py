"""What both walks of attention do with values: functions by how many dimensions are left, bounds in blocks, results."""

from __future__ import annotations

from typing import Any

from ...kvcache import KEYS
from ..attention_folds import fold_lanes
from ..attention_tiles import BOUND, OF_ONE, VECTORS, WIDTHS, pair_words
from ..lanes import div, ld, ldf, load, splat, st, store_tail
from .attention_scores import VECTOR, D, Y
from .base import arg, jit

HALF = VECTORS // 2
SUMS = 3 * VECTOR + VECTOR  # of a query, a tile's together: its sum; where its keys begin; where they end; partial sums


@jit
def finish(p: Any, base: Any, place: Any, lanes: Any, lane_bytes: Any, norm: Any, j: Any, many: Any) -> None:
    """Dimensions from j on of the query that is the batch's `place`th: its lanes folded, by its weights' sum."""
    d, total = arg(p, D), splat(ldf(norm))
    y = base + arg(p, Y) + 4 * place * d
    for c in range(many):
        k = j + 16 * c
        store_tail(y + 4 * k, div(fold_lanes(lanes + c * VECTOR, lane_bytes), total), d - k)


@jit
def widest(tiles: Any, rows: Any, dims: Any) -> Any:
    """Vectors that are taken at once of so many dimensions, and the functions of values for them."""
    many = VECTORS if dims >= 16 * VECTORS else HALF if dims >= 16 * HALF else 1
    functions = tiles if rows > 1 else tiles + OF_ONE
    return many, functions + (0 if many == VECTORS else 8 if many == HALF else 8 * (len(WIDTHS) - 1))


@jit
def whole_blocks(bounds: Any, rows: Any, context: Any, edges: Any) -> None:
    """Blocks of keys that a tile's queries see, for `values` (`attention_tiles.py`): first, all from, all to, end."""
    b0, b1, b2, b3 = context, 0, context, 0
    for q in range(rows):
        low, n = ld(bounds + BOUND * q + 16), ld(bounds + BOUND * q + 8)
        b0, b1 = min(b0, low // KEYS), max(b1, (low + 15) // KEYS)
        b2, b3 = min(b2, n // KEYS), max(b3, (n + 15) // KEYS)
    st(edges, b0)
    st(edges + 8, b1)
    st(edges + 16, max(b1, b2))
    st(edges + 24, b3)


@jit
def pair_weights(line: Any, ldp: Any, begin: Any, stop: Any, first: Any, last: Any) -> None:
    """Of groups `begin` to `stop`: weights of two blocks as words in the place of the first, an even one."""
    for group in range(begin, stop):
        for j in range(first // (2 * KEYS) * (2 * KEYS), last, 2 * KEYS):
            at = line + group * ldp + 4 * j
            pair_words(at, load(at), load(at + VECTOR))
