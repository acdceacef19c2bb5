"""Threads that wait for a turn with whole texts share a pass: who gets the turn takes along what fits of the others'.

Nobody waits for company. While a pass runs, others ask; the next who has the turn serves all that fit, and those whose
texts are done find their results when their turn comes. A text's bits do not depend on what else is in its pass.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

from .pages import FullError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from numpy.typing import NDArray

    from .turns import Turns

__all__ = ["Ask", "shared"]


class Ask:
    """What one thread wants of a pass: texts, and what becomes of each one's array.

    `kind`: those of one kind may go together. `fits` says whether texts are one pass; `run` takes it, and gives an
    array for each text, which the next pass may overwrite.
    """

    def __init__(
        self,
        kind: Hashable,
        texts: list[Any],
        fits: Callable[[list[Any]], bool],
        run: Callable[[list[Any]], Iterable[NDArray[Any]]],
        use: Callable[[NDArray[Any]], NDArray[Any]] = lambda array: array,
    ) -> None:
        """Nothing is done yet. `use` keeps no view of what it is given."""
        self.kind, self.texts, self.fits, self.run, self.use = kind, texts, fits, run, use
        self.made: list[NDArray[Any]] | None = None
        self.failed: Exception | None = None


def shared(turns: Turns, mine: Ask) -> list[NDArray[Any]]:
    """What is made of each of its texts, in order. Errors: those of `run` and `use`, of these texts alone."""
    turns.asks.append(mine)
    try:
        turns.turn(lambda: _serve(turns.asks, mine))
    finally:
        with suppress(ValueError):
            turns.asks.remove(mine)
    if mine.failed is not None:
        raise mine.failed
    assert mine.made is not None  # noqa: S101 - `_serve` made it, or raised
    return mine.made


def _serve(asks: list[Ask], mine: Ask) -> None:
    """In a turn: a pass of mine and of all that fit with it, unless another did it."""
    if mine.made is not None or mine.failed is not None:
        return
    taken, texts = [mine], list(mine.texts)
    for other in tuple(asks):
        open_yet = other.made is None and other.failed is None
        if other is not mine and open_yet and other.kind == mine.kind and mine.fits([*texts, *other.texts]):
            taken.append(other)
            texts += other.texts
    try:
        arrays = iter(mine.run(texts))
    except FullError:  # mine alone may find room
        if len(taken) == 1:
            raise
        taken, arrays = [mine], iter(mine.run(mine.texts))
    for ask in taken:
        some = list(islice(arrays, len(ask.texts)))
        try:
            ask.made = [ask.use(array) for array in some]
        except Exception as e:  # noqa: BLE001 - it is raised where it belongs
            ask.failed = e
