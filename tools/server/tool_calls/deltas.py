"""What is made of an answer's text: content, reasoning, calls."""

from __future__ import annotations

from ....dataclass import dataclass

__all__ = ["Call", "Content", "Delta", "Reasoning"]


@dataclass(frozen=True)
class Content:
    """What the answer says to its reader."""

    text: str


@dataclass(frozen=True)
class Reasoning:
    """What the model said to itself before it."""

    text: str


@dataclass(frozen=True)
class Call:
    """A function that the model calls. `index`: its number in the answer; `arguments`: JSON text of an object."""

    index: int
    id: str
    name: str
    arguments: str


Delta = Content | Reasoning | Call
