"""Which layers to keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .calibrate import Statistics

    F64 = NDArray[np.float64]

__all__ = ["block_influence", "check_count", "greedy", "most_influential"]


def block_influence(statistics: Statistics) -> F64:
    """BI_i = 1 - E[cos(x_i, x_i+1)], x_i what enters layer i (ShortGPT, Men et al. 2024, arXiv:2403.03853, eq. 1)."""
    return 1 - statistics.cosine / statistics.n


def most_influential(scores: F64, count: int) -> tuple[int, ...]:
    """The `count` layers with the largest scores, ascending; of equals, the first. Errors: `InputError`."""
    check_count(len(scores), count)
    return tuple(sorted(np.argsort(-scores, kind="stable")[:count].tolist()))


def greedy(n_layers: int, count: int, loss: Callable[[tuple[int, ...]], float]) -> list[tuple[int, ...]]:
    """Leave out the layer without which `loss` is least, again and again, until `count` are left.

    SLEB (Song et al. 2024, arXiv:2402.09025, algorithm 1), whose loss is the negative log-likelihood of a calibration
    text. Of equal losses, the layer with the lower number goes. Gives what was kept after each step.
    """
    check_count(n_layers, count)
    steps = [tuple(range(n_layers))]
    while len(steps[-1]) > count:
        tried = [tuple(i for i in steps[-1] if i != gone) for gone in steps[-1]]
        steps.append(tried[int(np.argmin([loss(kept) for kept in tried]))])
    return steps[1:] or steps


def check_count(n_layers: int, count: int) -> None:
    """Refuse to keep more layers than there are, or none. Errors: `InputError`."""
    if not 1 <= count <= n_layers:
        msg = f"--keep {count}: expected 1 to {n_layers}, the layers that the model has"
        raise InputError(msg)
