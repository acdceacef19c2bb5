"""Which heads and neurons to keep: by activation, Wanda-sp, FLAP.

Heads are judged by what they hand to `o`, neurons by what they hand to `down`: a unit is a column of that matrix, or
d_head of them. A key/value head is one unit with its queries. Scores are float64 [units], an array for each layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    F64 = NDArray[np.float64]

__all__ = ["activation", "by_layer", "compensation", "everywhere", "flap", "most_routed", "units", "wanda_sp"]


def activation(squares: F64) -> F64:
    """||x_j||_2^2 of every column: what a unit puts out at all (Muralidharan et al. 2024, arXiv:2407.14679, 2.2).

    Of a dimension of the residual stream: what every norm of the layers puts out there, gains and all, summed over the
    norms (their F_emb, which is over LN(X), with the L2 norm over the tokens that they find best).
    """
    score: F64 = squares.copy()
    return score


def wanda_sp(w: F64, norms: F64) -> F64:
    """mean_i |w_ij| ||x_j||_2, Wanda's score over a whole column: Wanda-sp, the baseline of FLAP (An et al. 2023)."""
    score: F64 = np.abs(w).mean(0) * norms
    return score


def flap(w: F64, variance: F64) -> F64:
    """Var(x_j) ||w_:j||_2^2: WIFV of FLAP (An et al. 2023, arXiv:2312.11983, eq. 4).

    A column that hardly moves is a constant, and a constant can go into the bias (`compensation`).
    """
    score: F64 = variance * (w * w).sum(0)
    return score


def compensation(w: F64, mean: F64, kept: Sequence[int]) -> F64:
    """sum over the columns that go of mean(x_j) w_:j, which the bias takes up (FLAP, eq. 6): float64 [out]."""
    gone = np.ones(w.shape[1], bool)
    gone[list(kept)] = False
    b: F64 = w[:, gone] @ mean[gone]
    return b


def most_routed(counts: F64, share: float, least: int) -> tuple[int, ...]:
    """The experts to which most tokens went, a share of them and at least `least`; of equals, the first."""
    n = max(least, int(share * len(counts) + 0.5))
    return tuple(sorted(np.argsort(-counts, kind="stable")[:n].tolist()))


def units(columns: F64, count: int) -> F64:
    """Sum the scores of columns into `count` units of equally many, side by side."""
    score: F64 = columns.reshape(count, -1).sum(1)
    return score


def by_layer(scores: Sequence[F64], share: float) -> list[list[int]]:
    """The same share of every layer's units, the best first: rounded to nearest, at least one."""
    counts = [max(1, int(share * len(s) + 0.5)) for s in scores]
    return [sorted(np.argsort(-s, kind="stable")[:n].tolist()) for s, n in zip(scores, counts, strict=True)]


def everywhere(scores: Sequence[F64], share: float) -> list[list[int]]:
    """A share of all units, whatever their layer, by (s - mean) / std within the layer (FLAP, eq. 5).

    At least one of each layer: a half of a layer that is gone has no bias to be made up for in.
    """
    standard = [(s - s.mean()) / (s.std() or 1.0) for s in scores]
    firsts = {(i, int(np.argmax(s))) for i, s in enumerate(standard)}
    every = ((i, j) for i, s in enumerate(standard) for j in range(len(s)))
    ranked = sorted(every, key=lambda unit: -standard[unit[0]][unit[1]])
    count = max(len(firsts), int(share * len(ranked) + 0.5))
    rest = [u for u in ranked if u not in firsts]
    chosen = firsts | set(rest[: count - len(firsts)])
    return [sorted(j for layer, j in chosen if layer == i) for i in range(len(scores))]
