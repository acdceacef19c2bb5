"""From how likely each option is to an answer: probabilities, the choice, the score, and how sure it is.

    noul        p(true)
    choice      the likeliest option;   confidence = (p_max - 1/n) / (1 - 1/n)
    score       sum_i i p_i;            confidence = 1 - (sum_i p_i |i - mode|) / (mean_i |i - (n - 1)/2|), 0 at least

Every sum is rounded once, so that the options' order changes no probability. Source: transformers 5.24,
`decision/template_utils.py`; TypeSafe's formulas, as jevcompat 0.1.1 has them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ...errors import InputError, shown
from ...runtime.exact import exp_of
from ...runtime.floats import usual_floats

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["best", "choice_confidence", "expected", "probabilities", "score_confidence"]


@usual_floats()
def probabilities(likely: Sequence[float], temperature: float = 1.0) -> list[float]:
    """softmax(x / temperature). Errors: `InputError` where none is finite, or one is NaN."""
    largest = max(likely, key=lambda x: math.inf if math.isnan(x) else x)
    if not math.isfinite(largest):
        msg = f"questions: the options' logits are {shown(list(likely))}: they are no numbers, so none can be chosen"
        raise InputError(msg)
    powers = [exp_of((x - largest) / temperature) for x in likely]
    total = math.fsum(powers)
    return [power / total for power in powers]


def best(p: Sequence[float]) -> int:
    """The likeliest; of equal ones the first."""
    return max(range(len(p)), key=p.__getitem__)


def choice_confidence(p: Sequence[float]) -> float:
    """0 where all are alike, 1 where one is certain."""
    even = 1 / len(p)
    return min(1.0, max(0.0, (max(p) - even) / (1 - even)))


def expected(p: Sequence[float]) -> float:
    """The mean level, the first of which is 0."""
    return math.fsum(i * x for i, x in enumerate(p))


def score_confidence(p: Sequence[float]) -> float:
    """1 where one level is certain; less the farther from the likeliest level the others are."""
    n, mode = len(p), best(p)
    apart = math.fsum(x * abs(i - mode) for i, x in enumerate(p))
    even = math.fsum(abs(i - (n - 1) / 2) for i in range(n)) / n
    return min(1.0, max(0.0, 1 - apart / even))
