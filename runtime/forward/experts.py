"""A feed-forward of experts: a router gives each token a few of them (Shazeer et al. 2017, arXiv:1701.06538).

An expert's matrices are read only where a token of the step was given to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from .variants import project

if TYPE_CHECKING:
    from ..spec import Experts, FeedForward, Sublayer
    from .stack import Frame

__all__ = ["mixture"]

T = TypeVar("T")


def mixture(  # noqa: PLR0913, PLR0917 - as `feed_forward`
    f: Frame[T], s: FeedForward, e: Experts, w: Sublayer, x: T, residual: T | None
) -> T:
    """residual + sum_j weight_j down_j(act(gate_j x) * up_j x), and the shared expert's where there is one."""
    gates, ups, downs = (tuple(each[name].w for each in w.experts if name in each) for name in ("gate", "up", "down"))
    logits = project(f, x, w.linear["router"])  # [T, experts]
    routes = f.ops.route(logits, w.route_bias, e.per_token, sigmoid=e.sigmoid, normalized=e.normalized)
    h = f.ops.expert_linear(x, routes, ups, act=None if s.gated else s.activation)  # [T, per_token * d_ff]
    if s.gated:
        h = f.ops.expert_linear(x, routes, gates, act=s.activation, times=h)
    y = f.ops.expert_linear(h, routes, downs)  # [T, per_token * d_model]
    shared, mix = None, None
    if e.d_shared:
        shared = project(f, x, w.linear["shared_up"], act=None if s.gated else s.activation)
        if s.gated:
            shared = project(f, x, w.linear["shared_gate"], act=s.activation, times=shared)
        shared = project(f, shared, w.linear["shared_down"])
        mix = project(f, x, w.linear["shared_mix"]) if e.shared_mixed else None
    return f.ops.expert_sum(y, routes, shared, mix, residual)
