"""A plan's shares, of the neurons and of the width: how many they will leave, and which.

Which ones is known once the matrices that rank them are read (`rank_ffn`, `rank_width`); how many, before. The width is
cut first, and neurons are ranked by what it leaves of them. A plan is compiled once, without its shares; what they
leave is put in twice: as many as there will be, and then the ones that were chosen.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ...dataclass import dataclass
from ..sizes import sizes_of
from .compiled import compile_plan, with_shares

if TYPE_CHECKING:
    from ..open import Opened
    from .cut import Cut
    from .plan import Indices, PrunePlan

__all__ = ["Selection", "selected"]


@dataclass(frozen=True)
class Selection:
    """What to keep of a model: a plan, and it compiled.

    Where the plan still has shares, `cut` keeps as many indices as they will leave, any of them: what memory is
    predicted from. They lie apart where those that stay will as a rule, so that their rows must be gathered; where the
    weightiest should happen to be neighbours, loading takes less. `base` is the plan compiled without its shares and
    zeros; without shares it is `cut`.
    """

    plan: PrunePlan
    cut: Cut
    base: Cut

    @property
    def ranks(self) -> bool:
        """Whether matrices must be read before every index is known."""
        return self.plan.ratio is not None

    def ranked(self, opened: Opened) -> Selection:
        """With the shares turned into indices, the weightiest; reads the matrices that rank them."""
        if not self.ranks:
            return self
        from .rank_ffn import weightiest  # noqa: PLC0415 - few need it
        from .rank_width import weightiest_dimensions  # noqa: PLC0415 - as above

        plan, base = self.plan, self.base
        if plan.width_ratio is not None:
            plan = weightiest_dimensions(plan, opened, base)
            base = with_shares(base, _plain(plan))
        plan = weightiest(plan, opened, base)
        cut = with_shares(base, plan)
        return Selection(plan, cut, cut)


def selected(plan: PrunePlan, opened: Opened) -> Selection:
    """Compile a plan for a model; nothing is read. Errors: `PlanError`, as `compile_plan` has them."""
    config = opened.model_tensors.config  # compared with the tensors, before anything is counted by it
    if plan.ratio is None:
        cut = compile_plan(plan, config, opened.checkpoint)
        return Selection(plan, cut, cut)
    base = compile_plan(_plain(plan), config, opened.checkpoint)
    return Selection(plan, with_shares(base, _assumed(plan, base)), base)


def _plain(plan: PrunePlan) -> PrunePlan:
    """Without shares that are not resolved, and without zeros: of both stacks."""
    encoder = None if plan.encoder is None else _plain(plan.encoder)
    return replace(plan, ffn_ratio=None, width_ratio=None, sparsity={}, encoder=encoder)


def _assumed(plan: PrunePlan, base: Cut) -> PrunePlan:
    """The plan with any indices in place of its shares, as many as these will leave."""
    from .rank_ffn import count_of  # noqa: PLC0415 - few need it
    from .rank_width import dimensions  # noqa: PLC0415 - as above

    config, width, ffn = base.before, plan.width, dict(plan.ffn)
    encoder = plan.encoder
    if encoder is not None and base.encoder is not None:
        encoder = _assumed(encoder, base.encoder)
    if plan.width_ratio is not None:
        there = tuple(range(config.d_model)) if width is None else width
        left = base.config if base.only is None or base.encoder is None else base.encoder.config
        width = _apart(there, dimensions(plan.width_ratio, left))
    for layer in base.layers if plan.ffn_ratio is not None else ():
        there = plan.ffn.get(layer, tuple(range(sizes_of(config, layer).d_ff)))
        ffn[layer] = _apart(there, count_of(len(there), plan.ffn_ratio or 1.0))
    return replace(plan, width=width, width_ratio=None, ffn=ffn, ffn_ratio=None, encoder=encoder)


def _apart(there: Indices, count: int) -> Indices:
    """`count` of them: the first, and the rest from the end."""
    return (*there[:1], *there[len(there) - count + 1 :]) if count else ()
