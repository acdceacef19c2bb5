"""Passes of a model's own first layers (`Program.early`), in the turn of the pass that checks what they draft.

The cache has what these layers made of the text, so nothing is read twice; the keys that drafted ids get of them are
those that the checking pass writes there again, with the same bits. All texts of a pass are drafted for together: a
pass of the first layers takes an id more of each.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .speculative import block_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ..pages import Table
    from ..pools import Part
    from ..sampling import Sampler
    from ..session import Session
    from .costs import Costs
    from .first_layers import FirstLayers
    from .wants import Want

__all__ = ["Ahead", "look_ahead"]


class Ahead:
    """That at most `n` ids be drafted after a text of `size` ids, whose rows `sampler` draws from."""

    def __init__(self, drafter: FirstLayers, n: int, size: int, sampler: Sampler | None) -> None:
        """Nothing is drafted yet."""
        self.drafter, self.n, self.size = drafter, n, size
        self.made = False
        # a copy: the thread that takes the pass is perhaps another, and may be struck while it works with it
        self._sampler = None if sampler is None else sampler.ahead(())

    def draws(self, drafted: Sequence[int]) -> Sequence[NDArray[np.int64]]:
        """Words of the row after the text, and of one after each of these ids; they hold as long as this does."""
        return () if self._sampler is None else block_words(self._sampler, self.size, drafted)


class _Text:
    """One text that is drafted for."""

    def __init__(self, want: Want, ahead: Ahead, part: Part, most: int) -> None:
        self.want, self.ahead, self.most = want, ahead, most
        self._table, ids, at, _ = part
        self._last, self._next = int(ids[-1]), at + len(ids) - 1
        self.drafted: list[int] = []

    def part(self) -> tuple[Table, list[int], int, int]:
        """Its last id, drafted or not, for a pass of the first layers."""
        n = len(self.drafted)
        return self._table, [self.drafted[-1] if n else self._last], self._next + n, 1

    def words(self) -> NDArray[np.int64] | None:
        return self.ahead.drafter.words(self.ahead.size + len(self.drafted))

    def take(self, token: int) -> bool:
        """Go on with what was drawn, if anything was; whether more is asked for."""
        if token >= 0:
            self.drafted.append(token)
        return token >= 0 and len(self.drafted) < self.most


def look_ahead(session: Session, seconds: Costs, chosen: list[tuple[Want, Part]], left: int, rows: int) -> None:
    """Draft for those of a pass that ask for it, as far as tokens, rows of logits and free pages are left.

    Where a prompt is read nothing is drafted: it would wait for it. `seconds` learns what a pass takes.
    """
    if any(len(part[1]) != part[3] for _, part in chosen):
        return
    texts: list[_Text] = []
    for want, part in chosen:
        ahead, (table, ids, at, _) = want.ahead, part
        k = 0 if ahead is None or ahead.made else min(ahead.n, left, rows)
        if ahead is not None and k > 0 and session.pages.reserve(table, at + len(ids) + k):
            texts.append(_Text(want, ahead, part, k))
            left, rows = left - k, rows - k
    going = texts
    while going:
        words = [(row, each.words()) for row, each in enumerate(going)]
        began = time.perf_counter()
        session.run_early([each.part() for each in going], [(row, w) for row, w in words if w is not None])
        seconds.add(len(going), time.perf_counter() - began)
        drawn = [
            session.greedy(row) if w is None or session.greedy(row) < 0 else session.drawn(row) for row, w in words
        ]
        going = [each for each, token in zip(going, drawn, strict=True) if each.take(token)]
    for each in texts:
        each.want.draws = each.ahead.draws(each.drafted)  # before the ids: who is struck between leaves one row alone
        each.want.drafted = each.drafted
        each.ahead.made = True
