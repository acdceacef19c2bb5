"""What metrics give: numbers by name, a row for each class, who was taken for whom, and how sure the model was."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any

from ...dataclass import dataclass
from ...errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Bin", "Confusion", "Measured", "Outcome", "lacking", "reliability"]

BINS = 10


@dataclass(frozen=True)
class Outcome:
    """What a model answered to an example.

    `score`: of the answer, None where there is none; `scores`: of every class.
    """

    answer: Any
    score: float | None = None
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Bin:
    """Answers of about the same confidence: how many, their mean confidence, and the share that is right."""

    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Confusion:
    """`counts[i][j]`: examples of class i that were taken for class j."""

    labels: list[str]
    counts: list[list[int]]


@dataclass(frozen=True)
class Measured:
    """`metrics`: by name, the first is what the task is judged by; `classes`: class -> precision, recall, ..."""

    metrics: dict[str, float]
    classes: dict[str, dict[str, float]] = field(default_factory=dict)
    confusion: Confusion | None = None
    reliability: list[Bin] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def reliability(confidences: Sequence[float], right: Sequence[bool]) -> tuple[list[Bin], float]:
    """Ten bins of confidence, those that are not empty, and the expected calibration error.

    ECE = sum over bins of share * |accuracy - confidence|. Source: Guo et al. 2017, section 2.
    """
    of: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for confidence, is_right in zip(confidences, right, strict=True):
        of[max(0, min(int(confidence * BINS), BINS - 1))].append((confidence, is_right))
    bins = [
        Bin(len(b), sum(c for c, _ in b) / len(b), sum(r for _, r in b) / len(b))
        for b in of
        if b
    ]  # fmt: skip
    n = max(len(confidences), 1)
    return bins, sum(b.count / n * abs(b.accuracy - b.confidence) for b in bins)


def lacking(*, library: str, what: str, extra: str = "eval") -> BackendError:
    """The error where an optional library is not installed. `what` needs it: one thing, or several with "and"."""
    msg = f"{what} need{'' if ' and ' in what else 's'} {library}: pip install 'miaotui[{extra}]'"
    return BackendError(msg)
