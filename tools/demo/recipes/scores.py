"""A demo model's scores on what is held out, next to what it must beat."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from ....dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from tokenizers import Tokenizer

    from ....model import Model
    from .encoders import Fit

__all__ = ["Recipe", "Scores", "f1"]


@dataclass(frozen=True)
class Recipe:
    """How a demo model is made: what it does, what made its texts, how long it is trained, how many texts score it.

    `train` writes a directory, given the encoders' tokenizer; `compared` scores a model and its baselines.
    """

    about: str
    corpus: ModuleType
    how: Fit
    held_out: int
    train: Callable[[Tokenizer, Path, Fit], None]
    compared: Callable[[Model, Tokenizer], Scores]


@dataclass(frozen=True)
class Scores:
    """Shares from 0 to 1 of what `measure` names: of the model, the majority class, the bag of words if there is one.

    `also`: of something else that the model does.
    """

    measure: str
    model: float
    majority: float
    bag: float | None
    also: Scores | None = field(default=None, kw_only=True)

    def table(self) -> str:
        """As in a card, a column for each measure."""
        columns = [self] if self.also is None else [self, self.also]
        rows = {
            "this model": [f"{each.model:.3f}" for each in columns],
            "majority class": [f"{each.majority:.3f}" for each in columns],
            "bag-of-words regression": ["-" if each.bag is None else f"{each.bag:.3f}" for each in columns],
        }
        lines = [
            f"| | {' | '.join(each.measure for each in columns)} |",
            "|---" * (len(columns) + 1) + "|",
            *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()),
        ]
        return "\n".join(lines) + "\n"


def f1(right: int, said: int, there: int) -> float:
    """2 P R / (P + R) of how many were right, said and there."""
    return 2 * right / (said + there) if said + there else 0.0
