"""Where a weight lies in a tensor that holds several: one after the other, or interleaved by key/value head.

A stack of experts is [experts, outputs, inputs]; here its rows are counted through.

A fused tensor's outputs are those of its pieces, in the order of `Part.pieces`; sizes may differ (grouped queries).
With `Part.by_head` they stand in as many units as there are key/value heads: of each its queries, its keys, its values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .ranges import Ranges, spread
from .roles import expert_of, role_of
from .sizes import axis_size, d_head, role_axes, sizes_of

if TYPE_CHECKING:
    from ..runtime.spec import Config
    from .families import Part
    from .families.base import Folded

__all__ = ["all_rows", "equal_pieces", "folded_shape", "rows_in_tensor", "spacing"]


def _rows(config: Config, role: str, layer: int) -> int:
    return axis_size(config, role_axes(config, role)[0], layer)


def all_rows(config: Config, part: Part, role: str, layer: int) -> int:
    """Outputs of the whole tensor that a role is a piece of; of a stack of experts, of one of them."""
    return sum(_rows(config, piece, layer) for piece in part.pieces or (role,))


def equal_pieces(config: Config, part: Part, layer: int) -> bool:
    """Whether all pieces have one size, so that a tensor's outputs tell it."""
    return len({_rows(config, piece, layer) for piece in part.pieces}) <= 1


def spacing(config: Config, part: Part, role: str, layer: int) -> tuple[int, int, int]:
    """How many rows of a role stand together, in how many of the tensor's, and where the first of them do."""
    units = sizes_of(config, layer).n_kv_heads if part.by_head else 1
    sizes = [_rows(config, piece, layer) // units for piece in part.pieces]
    at = part.pieces.index(role)
    return sizes[at], sum(sizes), sum(sizes[:at])


def folded_shape(folded: Folded, shape: tuple[int, ...], config: Config) -> tuple[int, ...]:
    """How a file stores a weight of this shape (`Part.folded`)."""
    n, of_head = shape[0], d_head(config)
    if folded == "taps":
        taps = config.stack.convolution.taps if config.stack.convolution else 1
        return (n, shape[1] // taps, taps)
    return {"": (n,), "row": (1, n), "number": (), "heads": (n // of_head, of_head) if of_head else (n,)}[folded]


def rows_in_tensor(config: Config, part: Part, role: str, layer: int, kept: Ranges) -> Ranges:
    """Ranges of a role's own outputs -> ranges of its tensor's."""
    if part.in_stack:
        sizes = [_rows(config, piece, layer) for piece in part.pieces or (role_of(role),)]
        at = part.pieces.index(role_of(role)) if part.pieces else 0
        return spread(kept, 1, (expert_of(role) or 0) * sum(sizes) + sum(sizes[:at]))
    if not part.pieces:
        return kept
    return _spaced(kept, *spacing(config, part, role, layer))


def _spaced(ranges: Ranges, each: int, stride: int, base: int) -> Ranges:
    """Of elements that stand `each` at a time, from `base` on in every `stride`."""
    out: list[tuple[int, int]] = []
    for start, stop in ranges:
        a = start
        while a < stop:
            unit = a // each
            b = min(stop, (unit + 1) * each)
            to = unit * (stride - each) + base
            if out and out[-1][1] == a + to:
                out[-1] = (out[-1][0], b + to)
            else:
                out.append((a + to, b + to))
            a = b
    return tuple(out)
