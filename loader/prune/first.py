"""Whether a plan leaves the first layers of a model as they are: such a part of it needs no copy of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import MiaotuiError
from .options import select

if TYPE_CHECKING:
    from ..open import Opened
    from .cut import Cut
    from .options import Prune

__all__ = ["first_layers"]

#: What a cut says that is of no layer alone.
OF_ALL = ("vocab", "vocab_fallback", "width", "only", "sparsity", "biased", "encoder")


def first_layers(part: Prune, cut: Cut, opened: Opened) -> int:
    """How many of a cut's layers a plan leaves, where these are its first and lack nothing that the cut has; else 0.

    Both plans number the file's layers. Reads no tensor, and raises nothing: who loads such a part is told.
    """
    try:
        chosen = select(part, opened)
    except MiaotuiError:
        return 0
    mine, n = chosen.cut, len(chosen.cut.layers)
    same = (
        not chosen.ranks
        and mine.layers == cut.layers[:n]
        and all(mine.same(layer) == cut.same(layer) for layer in mine.layers)
        and all(getattr(mine, name) == getattr(cut, name) for name in OF_ALL)
    )
    return n if same else 0
