"""A plan's shares, of the neurons and of the width: how many they will leave, and which.

Which ones is known once the matrices that rank them are read (`rank_ffn`, `rank_width`); how many, before. The width is
cut first, and neurons are ranked by what it leaves of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..sizes import sizes_of
from .compiled import compile_plan
from .rank_ffn import count_of, weightiest
from .rank_width import dimensions, weightiest_dimensions

if TYPE_CHECKING:
    from ...runtime.spec import Config
    from ..checkpoint import Checkpoint
    from .plan import Indices, PrunePlan

__all__ = ["assumed_indices", "ranked"]


def ranked(plan: PrunePlan, checkpoint: Checkpoint, config: Config) -> PrunePlan:
    """The plan with its shares turned into indices, the weightiest; reads the matrices that rank them."""
    if plan.width_ratio is not None:
        plan = weightiest_dimensions(plan, checkpoint, config)
    return plan if plan.ffn_ratio is None else weightiest(plan, checkpoint, config)


def assumed_indices(plan: PrunePlan, config: Config) -> PrunePlan:
    """The plan with as many indices as its shares will leave, any of them, nothing read: what memory is predicted from.

    They lie apart where those that stay will as a rule, so that their rows must be gathered; where the weightiest
    should happen to be neighbours, loading takes less. Errors: `PlanError` for a plan that does not fit without them.
    """
    if plan.ratio is None:
        return plan
    cut = compile_plan(replace(plan, ffn_ratio=None, width_ratio=None, sparsity={}), config)
    width, ffn = plan.width, dict(plan.ffn)
    if plan.width_ratio is not None:
        there = tuple(range(config.d_model)) if width is None else width
        width = _apart(there, dimensions(plan.width_ratio, cut.config))
    for layer in cut.layers if plan.ffn_ratio is not None else ():
        there = plan.ffn.get(layer, tuple(range(sizes_of(config, layer).d_ff)))
        ffn[layer] = _apart(there, count_of(len(there), plan.ffn_ratio or 1.0))
    return replace(plan, width=width, width_ratio=None, ffn=ffn, ffn_ratio=None)


def _apart(there: Indices, count: int) -> Indices:
    """So many of them: the first, and the rest from the end."""
    return (*there[:1], *there[len(there) - count + 1 :]) if count else ()
