"""How a product of many tokens is cut so that each piece stays in a cache. The kernels compile these functions.

A thread packs a few weight rows, at most `PIECE` of their columns, into a panel of its scratch (first cache), and the
tokens of a block (second cache) pass by it. A sum of more columns than a panel takes is made in pieces: between them
its sixteen lanes wait in the scratch. So no bit depends on any number here.
"""

from __future__ import annotations

__all__ = [
    "COLUMNS",
    "COLUMNS_WHOLE",
    "MANY",
    "PANEL_ROWS",
    "PIECE",
    "SPLIT",
    "TOKEN_BLOCK",
    "carry_floats",
    "columns_of",
    "panel_floats",
    "piece_of",
]

LANES = 16
#: Weight rows of a panel, at most.
PANEL_ROWS = 8
#: Columns in one piece, at most; where there are more, pieces are at most SPLIT wide.
PIECE, SPLIT = 1024, 640
#: From this many tokens on rows are packed; for fewer it does not pay.
MANY = 48
#: Tokens of a block, at most: whole tiles of two and of three.
TOKEN_BLOCK = 132
#: Columns of the result whose unfinished sums wait at once, and to which what follows the product is then applied;
#: where no sum waits, that is done to more of them at a time.
COLUMNS, COLUMNS_WHOLE = 32, 128


def columns_of(k: int) -> int:
    """Columns of the result that are made and finished together, where the product sums over k."""
    return COLUMNS_WHOLE if k <= PIECE else COLUMNS


def piece_of(k: int) -> int:
    """Columns of a piece of k, whole 32s where there are several."""
    return k if k <= PIECE else -(-k // (32 * -(-k // SPLIT))) * 32


def panel_floats(piece: int) -> int:
    """A panel of this many columns."""
    return PANEL_ROWS * -(-piece // LANES) * LANES


def carry_floats(k: int, tokens: int) -> int:
    """Unfinished sums of a step of this many tokens; a tile may stand over by two."""
    return 0 if k <= PIECE else LANES * COLUMNS * (min(tokens, TOKEN_BLOCK) + 2)
