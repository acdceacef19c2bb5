"""Regular expressions that others wrote and Python is to match: those that may take for ever."""

from __future__ import annotations

import re
from math import comb
from typing import NamedTuple

__all__ = ["MOST_STEPS", "steps_of", "takes_long"]

#: Characters of a name that is matched, or so; and steps that one match may take: a fraction of a second.
NAME = 64
MOST_STEPS = 2**24


def takes_long(pattern: str) -> bool:
    """Whether Python may need more steps than are waited for to see that a name does not match."""
    return _repeats_repetitions(pattern) or steps_of(pattern) > MOST_STEPS


def steps_of(pattern: str) -> int:
    """In how many ways a name can be shared out among the repetitions of a pattern: each is tried in the worst case.

    Of alternatives the one with the most counts, times those that repeat at all. A repetition in another is not counted
    (`_repeats_repetitions`).
    """
    text = _bare(pattern)
    open_groups: list[list[_Counts]] = [[_Counts()]]  # of each its alternatives so far
    for at, char in enumerate(text):
        alternatives = open_groups[-1]
        now = alternatives[-1]
        if char == "(":
            open_groups.append([_Counts()])
        elif char == ")" and len(open_groups) > 1:
            open_groups.pop()
            open_groups[-1][-1] = _in_a_row(open_groups[-1][-1], _joined(alternatives))
        elif char == "|":
            alternatives.append(_Counts())
        elif char in "*+{":
            alternatives[-1] = now._replace(repeats=now.repeats + 1)
        elif char == "?" and text[at - 1 : at] not in {"(", "*", "+", "?", "}"}:  # (?: begins a group, *? is as *
            alternatives[-1] = now._replace(options=now.options + 1)
    return max(_joined(alternatives).ways for alternatives in open_groups)


class _Counts(NamedTuple):
    """Of what stands in a row: repetitions, of which each may take any part of a name, and `?`."""

    repeats: int = 0
    options: int = 0
    times: int = 1

    @property
    def ways(self) -> int:
        """To share out a name."""
        return comb(NAME + self.repeats, self.repeats) * self.times << self.options


def _in_a_row(a: _Counts, b: _Counts) -> _Counts:
    return _Counts(a.repeats + b.repeats, a.options + b.options, a.times * b.times)


def _joined(alternatives: list[_Counts]) -> _Counts:
    """The worst of them, as often as there are any that repeat."""
    n = sum(each.ways > 1 for each in alternatives)
    worst = max(alternatives, key=lambda each: each.ways)
    return worst._replace(times=worst.times * max(1, n))


def _bare(pattern: str) -> str:
    """With a letter in place of what is escaped, and of a set of characters."""
    return re.sub(r"\[\^?\]?[^\]]*\]", "x", re.sub(r"\\.", "x", pattern, flags=re.DOTALL))


def _repeats_repetitions(pattern: str) -> bool:
    """Whether a group that holds *, +, ?, {n,} or | is itself repeated: such patterns may take exponential time."""
    text = _bare(pattern)
    held = [False]  # of each open group, whether it repeats or chooses
    for at, char in enumerate(text):
        if char == "(":
            held.append(False)
        elif char == ")" and len(held) > 1:
            inside = held.pop()
            repeated = text[at + 1 : at + 2] in ("*", "+", "{")
            if inside and repeated:
                return True
            held[-1] |= inside or repeated
        elif char in "*+{|" or (char == "?" and text[at - 1 : at] != "("):  # (?: begins a group
            held[-1] = True
    return False
