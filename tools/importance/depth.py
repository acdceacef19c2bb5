"""Which layers to keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from .calibrate import Statistics

    F64 = NDArray[np.float64]
    #: The layers that are kept of each stack.
    Kept = tuple[tuple[int, ...], ...]

__all__ = ["block_influence", "check_count", "greedy", "most_influential"]


def block_influence(statistics: Statistics) -> F64:
    """BI_i = 1 - E[cos(x_i, x_i+1)], x_i what enters layer i (ShortGPT, Men et al. 2024, arXiv:2403.03853, eq. 1)."""
    return 1 - statistics.cosine / statistics.n


def most_influential(scores: F64, count: int) -> tuple[int, ...]:
    """The `count` layers with the largest scores, ascending; of equals, the first. Errors: `InputError`."""
    check_count(len(scores), count)
    return tuple(sorted(np.argsort(-scores, kind="stable")[:count].tolist()))


def greedy(sizes: Sequence[int], count: int, loss: Callable[[Kept], float]) -> list[Kept]:
    """Leave out the layer without which `loss` is least, again and again, until `count` are left of every stack.

    SLEB (Song et al. 2024, arXiv:2402.09025, algorithm 1), whose loss is the negative log-likelihood of a calibration
    text. `sizes`: layers of each stack. Of equal losses, the first stack's layer with the lower number goes. Returns
    what was kept after each step: the layers of each stack.
    """
    for n_layers in sizes:
        check_count(n_layers, count)
    steps: list[Kept] = [tuple(tuple(range(n)) for n in sizes)]
    while tried := [_without(steps[-1], at, i) for at, of in enumerate(steps[-1]) if len(of) > count for i in of]:
        steps.append(tried[int(np.argmin([loss(kept) for kept in tried]))])
    return steps[1:] or steps


def _without(kept: Kept, stack: int, layer: int) -> Kept:
    """All layers that are kept but one of this stack."""
    return tuple(tuple(i for i in of if at != stack or i != layer) for at, of in enumerate(kept))


def check_count(n_layers: int, count: int) -> None:
    """Refuse to keep more layers than there are, or none. Errors: `InputError`."""
    if not 1 <= count <= n_layers:
        msg = f"--keep {count}: expected 1 to {n_layers}, the layers that the model has"
        raise InputError(msg)
