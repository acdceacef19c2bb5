"""An evaluation: examples, the answers to them, and the report.

    data = read(Path("dev.jsonl"), "text-classification")
    done = evaluate("text-classification", data.examples, predict, Settings())
    done.measured.metrics["accuracy"]

`predict` takes examples and gives an `Outcome` for each: a model's (`answers.of_model`), or any other's.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...dataclass import dataclass
from ...errors import InputError, shown
from ...runtime.parameters import one_of
from .measured import Outcome
from .swap import fairness
from .tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .examples import Example
    from .measured import Measured
    from .swap import Fairness, Swap
    from .tasks import Settings

    #: Answers to examples, in order.
    Predict = Callable[[Sequence[Example]], Iterable[Outcome]]

__all__ = ["Evaluation", "drawn", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """What was measured, the answers it was measured on, and what exchanging terms did to them."""

    measured: Measured
    outcomes: list[Outcome]
    fairness: Fairness | None

    def report(self) -> dict[str, Any]:
        """As JSON has it."""
        told = asdict(self.measured)
        return told if self.fairness is None else told | {"fairness": asdict(self.fairness)}


def evaluate(
    task: str, examples: Sequence[Example], predict: Predict, settings: Settings, swap: Swap | None = None
) -> Evaluation:
    """Ask for an answer to every example, and measure them; with `swap`, ask again with terms exchanged.

    Errors: `InputError` for an unknown task, no examples, and answers that are none; those of `predict`.
    """
    row = TASKS[one_of("task", task, list(TASKS))]
    if not examples:
        msg = "examples: there is none, and nothing can be measured"
        raise InputError(msg)
    outcomes = _answers(predict, examples)
    again = None
    if swap is not None:
        again = fairness(swap, examples, outcomes, lambda e: _answers(predict, e), row)
    measured = row.measure(examples, outcomes, settings)
    return Evaluation(replace(measured, notes=[*settings.notes, *measured.notes]), outcomes, again)


def _answers(predict: Predict, examples: Sequence[Example]) -> list[Outcome]:
    """An answer to each, whose scores are numbers. Errors: `InputError`."""
    outcomes = list(predict(examples))
    if len(outcomes) != len(examples):
        msg = f"predict: {len(outcomes)} answers to {len(examples)} examples; expected one for each, in their order"
        raise InputError(msg)
    for example, outcome in zip(examples, outcomes, strict=True):
        if not isinstance(outcome, Outcome):
            msg = f"predict: {shown(outcome)} is its answer to {example.place}; expected an Outcome"
            raise InputError(msg)
        scores = [] if outcome.score is None else [outcome.score]
        if wrong := [score for score in (*scores, *outcome.scores.values()) if math.isnan(score)]:
            msg = f"{example.place}: a score of its answer is {wrong[0]}, which is no number; nothing can be measured"
            raise InputError(msg)
    return outcomes


def drawn(examples: Sequence[Example], n: int, seed: int) -> list[Example]:
    """`n` of the examples, drawn by `seed`, in their order; all where there are fewer."""
    if n >= len(examples):
        return list(examples)
    return [examples[i] for i in sorted(np.random.default_rng(seed).choice(len(examples), n, replace=False))]
