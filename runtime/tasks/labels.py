"""From a classifier's logits to scores: softmax, the logistic function, and which labels come first.

All in float64, with our own exponential: the same bits on every machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from ..sampling import exp

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    Logits = NDArray[np.floating[Any]]
    Scores = NDArray[np.float64]

__all__ = ["Function", "entailed", "ranked", "scores_of", "sigmoid", "softmax"]

Function = Literal["softmax", "sigmoid", "none"]
#: e to less than minus this is 0 next to 1, and `exp` takes no more.
LEAST = 700.0


def softmax(logits: Logits) -> Scores:
    """[..., n] -> [..., n]: e^x / sum e^x over the last axis. A row with NaN is all NaN; -inf counts nothing."""
    wide = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf
        shifted = wide - wide.max(-1, keepdims=True)
    power = exp(np.clip(np.nan_to_num(shifted), -LEAST, 0).ravel()).reshape(wide.shape)
    power = np.where(np.isnan(shifted), np.nan, np.where(shifted < -LEAST, 0, power))
    scores: Scores = power / power.sum(-1, keepdims=True)
    return scores


def sigmoid(logits: Logits) -> Scores:
    """1 / (1 + e^-x) of each number; NaN stays NaN."""
    wide = logits.astype(np.float64)
    power = exp(-np.clip(np.nan_to_num(wide), -LEAST, LEAST).ravel()).reshape(wide.shape)
    return np.where(np.isnan(wide), np.nan, 1 / (1 + power))


def scores_of(logits: Logits, function: Function) -> Scores:
    """[n] -> [n]."""
    if function == "softmax":
        return softmax(logits)
    return sigmoid(logits) if function == "sigmoid" else logits.astype(np.float64)


def ranked(scores: Scores, top_k: int | None = None) -> list[int]:
    """Indices of [n] scores from the greatest down, the lower index first among equals; `top_k`: the first ones."""
    order: list[int] = np.argsort(-scores, kind="stable")[:top_k].tolist()
    return order


def entailed(logits: Sequence[Logits], entailment: int, contradiction: int, *, multi_label: bool) -> Scores:
    """Logits of an inference model for each label's hypothesis, [labels][classes] -> [labels] (Yin et al. 2019).

    One label at most is right: a softmax of "entailment" over the labels. `multi_label`: each label for itself, a
    softmax of "entailment" against "contradiction". Source: arXiv:1909.00161, section 4.
    """
    rows = np.stack(logits)
    if multi_label:
        return softmax(rows[:, [contradiction, entailment]])[:, 1]
    return softmax(rows[:, entailment])
