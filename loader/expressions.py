"""Regular expressions that others wrote and Python is to match: those that may take for ever."""

from __future__ import annotations

import re

__all__ = ["repeats_repetitions"]


def repeats_repetitions(pattern: str) -> bool:
    """Whether a group that holds *, +, ?, {n,} or | is itself repeated: such patterns may take exponential time."""
    text = re.sub(r"\\.", "x", pattern)  # what is escaped is a character
    text = re.sub(r"\[\^?\]?[^\]]*\]", "x", text)  # and so is a set of them
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
