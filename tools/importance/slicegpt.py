"""SliceGPT: the residual stream in a basis of its own, of which the directions that carry least are left out.

A norm without gains commutes with an orthogonal Q: norm(x Q) = norm(x) Q. So a model whose gains are folded into the
matrices after them computes the same in any basis, and in a good one the last directions are nearly zero (Ashkboos et
al. 2024, arXiv:2401.15024, theorem 1 and section 3.3). With z = x / sqrt(mean(x^2) + eps), what a norm puts out without
its gains, and one sum over all norms of the model and all tokens of a text,

    C = sum z^T z = V diag(l) V^T          l descending, float64
    Q = V[:, :d']                          [d, d'], orthonormal

    embed' = c embed Q     o' = c Q^T o     down' = c Q^T down     c = sqrt(d' / d), biases alike
    q' = q diag(g) Q / c   and so k, v, gate, up and head, with g the gains of the norm that they read

The paper has another Q for each half of a layer, and pays for it with a matrix on every residual connection. One Q for
all needs none: what is written is a smaller checkpoint of the same family, which any program loads. Its norms divide by
the mean over d' dimensions where the paper keeps dividing by d; c, which they divide out, makes the two equal, eps and
all. So with d' = d it computes what the whole model does, up to rounding.

The head gets its norm's gains, and is a matrix of its own from then on, also where it was the embedding.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ...dataclass import dataclass
from ...errors import PlanError
from ...loader.families import FAMILIES
from ...loader.roles import AXES, READS
from ...runtime.spec import FeedForward

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ...runtime.spec import Config, Weights

    F64 = NDArray[np.float64]

__all__ = ["Basis", "basis", "can_turn", "explained", "gains_of"]

NORMS = frozenset(READS.values())


def basis(covariance: F64, width: int) -> F64:
    """The `width` eigenvectors with the largest eigenvalues, float64 [d, width], the largest first.

    Of each its largest component (of equals, the first) is positive: LAPACK leaves the sign open. The rest is as
    LAPACK has it, which may differ in the last bits between machines.
    """
    _, vectors = np.linalg.eigh(covariance)
    q: F64 = vectors[:, ::-1][:, :width]
    largest = np.take_along_axis(q, np.abs(q).argmax(0)[None], 0)
    return np.where(largest < 0, -q, q)


def explained(covariance: F64, q: F64) -> float:
    """trace(Q^T C Q) / trace(C): the share of what all norms put out that stays."""
    return float(np.trace(q.T @ covariance @ q) / np.trace(covariance))


def can_turn(config: Config) -> None:
    """Refuse a family whose norm does not commute with a rotation: `PlanError`."""
    if config.stack.norm != "rms":
        msg = (
            f"slicegpt turns models with RMSNorm; {config.family} has LayerNorm, which takes "
            "away the mean over the very axes that are turned, and its config.json has no width of a head to say that "
            "heads stay as they are. Dimensions as they are can be cut while loading: --width"
        )
        raise PlanError(msg)
    if any(isinstance(s, FeedForward) and s.experts is not None for layer in config.stack.layers for s in layer):
        msg = f"slicegpt turns no experts, which {config.family} has; dimensions as they are can be cut: --width"
        raise PlanError(msg)
    if "d_head" not in FAMILIES[config.family].spelled(config):
        msg = (
            f"slicegpt leaves heads as they are, and a {config.family} config.json has no width of a head to say so; "
            "dimensions as they are can be cut: --width"
        )
        raise PlanError(msg)
    table = FAMILIES[config.family].layer
    if any(f"{half}_norm" not in table or f"{half}_norm_out" in table for half in ("attn", "ffn")):
        msg = f"slicegpt folds gains into what reads a norm; {config.family} norms what its sublayers return"
        raise PlanError(msg)
    if any(part.plus for part in table.values()):
        msg = f"slicegpt leaves gains of one, which {config.family} writes as zeros; it is not written for such norms"
        raise PlanError(msg)


def gains_of(weights: Weights) -> dict[str, F64]:
    """Every norm's gains, float64 [d], by the weight's name."""
    norms = [weights.stack.norm, *(s.norm_in for layer in weights.stack.layers for s in layer)]
    return {norm.w.name: norm.w.f64() for norm in norms if norm is not None}


@dataclass(frozen=True)
class Basis:
    """`q` float64 [d, d']; `gains`: of every norm, by the weight's name."""

    q: F64
    gains: Mapping[str, F64]

    @property
    def width(self) -> int:
        """d'."""
        return int(self.q.shape[1])

    @property
    def scale(self) -> float:
        """c: what all that is written to the residual stream is multiplied with."""
        return math.sqrt(self.q.shape[1] / self.q.shape[0])

    def shape(self, role: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a weight in the basis."""
        return tuple(self.width if axis == "width" else n for axis, n in zip(AXES[role], shape, strict=True))

    def turned(self, name: str, w: F64) -> F64 | None:
        """A weight in the basis, float64 [out, in]; None where it does not touch the residual stream."""
        role = name.rpartition(".")[2]
        out: F64
        if role in NORMS:
            return np.ones(self.width)
        if role in READS:
            out = self.after(name, w)
        elif AXES[role][0] == "width":
            out = (self.q.T * self.scale) @ w
        elif AXES[role][-1] == "width":
            out = w @ (self.q * self.scale)
        else:
            return None
        return out

    def after(self, name: str, w: F64) -> F64:
        """A matrix that reads a norm, which has no gains any longer."""
        prefix, _, role = name.rpartition(".")
        gain = self.gains[f"{prefix}.{READS[role]}".lstrip(".")]
        out: F64 = (w * gain) @ (self.q / self.scale)
        return out
