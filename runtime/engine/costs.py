"""What drafts cost and yield: seconds of passes, how often guesses are right, and how much may be lost by them.

All of it is measured in passes that go on without a draft: such a pass is one unit of time, and gives each text an id.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["BUDGET", "RARELY", "SLOPE", "Acceptance", "Costs", "Credit"]

#: Of the time, for trying whether drafts are accepted again; and how much less often than that after failures, from the
#: first on.
BUDGET, RARELY = 0.015, (0.25, 8.0)
#: What is taken for a token more in a pass, as a part of one token's time, until passes were measured; and at least.
SLOPE, _LEAST = 0.1, 0.03
#: Passes of a size that are remembered, and guesses that are put among them.
_SAMPLES, _GUESSES = 9, 2
#: What is left of an observation's weight with each further one; the weight of what other answers saw.
_FADE, _WEIGHT = 0.85, 3.0


def _middle(values: Iterable[float]) -> float:
    """The median. Python's `statistics` would be 2 MB of every start."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return (ordered[half] + ordered[~half]) / 2


class Costs:
    """Seconds of passes that only go on with answers, by their tokens: the median of the last."""

    def __init__(self) -> None:
        """Nothing is known."""
        self._seconds: dict[int, deque[float]] = {}
        self._median: dict[int, float] = {}

    def add(self, n_tokens: int, seconds: float) -> None:
        """A pass took so long."""
        there = self._seconds.setdefault(n_tokens, deque(maxlen=_SAMPLES))
        there.append(seconds)
        self._median[n_tokens] = _middle(there)

    def of(self, n_tokens: int, base: int) -> float:
        """Of a pass, as a multiple of one of `base` tokens. One that was never seen grows by `SLOPE` of one token."""
        unit, there = self.seconds(base), self._seconds.get(n_tokens)
        least = 1 + _LEAST * (n_tokens - base) / base  # whatever was measured while others used the machine
        if there and len(there) == _SAMPLES and unit:
            return max(least, self._median[n_tokens] / unit)
        guess = (1 + SLOPE * (n_tokens - 1)) / (1 + SLOPE * (base - 1))
        if not there or not unit:
            return guess
        # One slow pass decides nothing.
        return max(least, _middle([guess * unit] * _GUESSES + list(there)) / unit)

    def spent(self, n_tokens: int, base: int) -> float:
        """As `of`, of passes that were: as they were measured, without a guess where any was."""
        unit, there = self.seconds(base), self.seconds(n_tokens)
        return there / unit if there and unit else self.of(n_tokens, base)

    def seconds(self, n_tokens: int) -> float:
        """Of a pass; 0 where none was seen."""
        return self._median.get(n_tokens, 0.0)


class Acceptance:
    """How often a drafted id is right where those before it were, the newest observations first."""

    def __init__(self, expected: float) -> None:
        """`expected`: what others saw."""
        self._right, self._n = expected * _WEIGHT, _WEIGHT
        self.waited = 0  # tokens since one was tried though it did not pay
        self.rarely = RARELY[0]  # how much less often than the budget allows

    @property
    def rate(self) -> float:
        """Between 0 and 1."""
        return self._right / self._n

    def saw(self, n_checked: int, n_right: int) -> None:
        """Of these drafted ids the first were right."""
        for right in [1.0] * n_right + [0.0] * (n_right < n_checked):
            self._right, self._n = self._right * _FADE + right, self._n * _FADE + 1


class Credit:
    """What drafts of one kind may lose, in units: a share of the time (`BUDGET`), saved up to `MOST`.

    So answers take (1 + `BUDGET`) times as long as without drafts, and `MOST` units more, whatever was expected.
    """

    FIRST, MOST = 0.5, 1.5

    def __init__(self) -> None:
        """The first draft of all may fail too."""
        self.left = self.FIRST

    def add(self, gained: float) -> None:
        """What a pass gained, or lost."""
        self.left = min(self.MOST, self.left + gained)
