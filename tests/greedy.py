"""Greedy ids of two devices, step by step: equal, except where the two best logits are as good as equal.

Both are fed the first one's ids ("teacher-forced"), so one id that differs does not spoil the rest. What was counted is
told at the end of the run (`conftest.py`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miaotui.runtime.session import Session

#: test -> what it counted
COUNTED: dict[str, Agreement] = {}


@dataclass(frozen=True)
class Agreement:
    """Steps compared, and of them those whose top-two gap is under the tolerance, and those whose id differs."""

    steps: int = 0
    close: int = 0
    differ: int = 0

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(self.steps + other.steps, self.close + other.close, self.differ + other.differ)

    def __str__(self) -> str:
        return (
            f"{self.steps - self.differ} of {self.steps} greedy ids equal; {self.differ} differ, "
            f"{self.close} have a top-two gap under tolerance"
        )


def agree(wanted: Session, got: Session, ids: Sequence[int], n_new: int, tolerance: float) -> Agreement:
    """Feed the prompt and n_new - 1 ids to both, and compare the id of each step.

    `tolerance`: how far a logit may lie from the other's; an id may differ where its logit is within twice that of the
    best. AssertionError: it differs elsewhere.
    """
    at, feed, counted = 0, list(ids), Agreement()
    for _ in range(n_new):
        for session in (wanted, got):
            session.step(feed, at)
        at += len(feed)
        logits, best, other = np.array(wanted.logits[-1]), wanted.argmax, got.argmax
        second = np.partition(logits, -2)[-2] if len(logits) > 1 else -np.inf
        gap = float(logits[best] - logits[other])
        assert gap <= 2 * tolerance, f"position {at}: id {other} is {gap:.2g} under {best}, tolerance {tolerance:.2g}"
        counted += Agreement(1, int(logits[best] - second <= 2 * tolerance), int(best != other))
        feed = [best]
    name = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0]
    COUNTED[name] = COUNTED.get(name, Agreement()) + counted
    return counted
