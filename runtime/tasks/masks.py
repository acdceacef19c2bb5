"""From the logits of masked tokens to the likeliest tokens in their place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .labels import ranked, softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["likeliest"]


def likeliest(
    logits: NDArray[np.float32], top_k: int, targets: Sequence[int] | None = None
) -> list[list[tuple[int, float]]]:
    """[masks, n_vocab] -> for each mask at most `top_k` (id, probability), the likeliest first.

    `targets`: ids that alone are looked at; a probability is still one among all.
    """
    out = []
    for row in softmax(logits):
        ids = np.arange(len(row)) if targets is None else np.asarray(targets)
        out.append([(int(ids[i]), float(row[ids[i]])) for i in ranked(row[ids], top_k)])
    return out
