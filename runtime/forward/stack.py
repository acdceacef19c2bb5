"""A stack of Transformer layers in the papers' order, the same functions for every family.

`ops` is the op table in one of its readers: `Reference` computes at once, `Recorder` writes a program. A family is data
in `Config` and which weights are there; nothing below names one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from ...dataclass import dataclass
from ..spec import Attention
from .experts import mixture
from .variants import attend, clipped, convolved, curved, groups_of, layer_normed, project, rotated, scaled

if TYPE_CHECKING:
    from ..rope import RopeTable
    from ..spec import FeedForward, Norm, Stack, StackWeights, Sublayer, Weight
    from .ops import Ops

__all__ = ["Frame", "norm", "placed", "project", "stack"]

T = TypeVar("T")


@dataclass(frozen=True)
class Frame(Generic[T]):
    """Where a function below stands: the reader of the op table, the stack and its tables, the layer's number."""

    ops: Ops[T]
    stack: Stack
    ropes: tuple[RopeTable, ...]
    layer: int = 0
    tables: tuple[Weight | None, ...] = ()
    positions: tuple[dict[str, T], ...] = ()


def stack(f: Frame[T], w: StackWeights, x: T) -> T:
    """Embedded tokens of the step -> what leaves the last layer, [T, d_model]."""
    for i, (sizes, weights) in enumerate(zip(f.stack.layers, w.layers, strict=True)):
        here, start = Frame(f.ops, f.stack, f.ropes, i, w.biases, f.positions), x
        for s, sw in zip(sizes, weights, strict=True):
            x = sublayer(here, s, sw, start if f.stack.parallel else x, x)
        x = norm(here, *convolved(here, w, start, x))
    return x


def sublayer(f: Frame[T], s: Attention | FeedForward, w: Sublayer, x: T, residual: T) -> T:
    """residual + s(x), with a norm in any of three places: of what s reads, of what it returns, of the sum."""
    h = norm(f, x, w.norm_in)
    add = residual if w.norm_out is None and f.stack.residual_scale == 1 else None  # in the last product
    y = attention(f, s, w, h, add) if isinstance(s, Attention) else feed_forward(f, s, w, h, add)
    if add is None:
        y = f.ops.add(residual, scaled(f.ops, norm(f, y, w.norm_out), f.stack.residual_scale))
    return norm(f, y, w.norm_sum)


def attention(f: Frame[T], s: Attention, w: Sublayer, x: T, residual: T | None) -> T:
    """residual + o(grouped-query attention of x), with a KV cache: its own, or the one that an encoder filled."""
    q, *kv = (clipped(f.ops, project(f, x, w.linear[n]), s.clip) for n in ("q" if s.cross else "qkv"))
    q, *keys = placed(f, s, (q, w.norm_q, s.n_heads), *((k, w.norm_k, s.n_kv_heads) for k in kv[:1]))
    for k in keys:
        f.ops.kv_write(f.layer, k, kv[1], s.n_kv_heads)
    return project(f, attend(f, s, w, q, *keys), w.linear["o"], residual=residual)


def feed_forward(f: Frame[T], s: FeedForward, w: Sublayer, x: T, residual: T | None) -> T:
    """residual + down(act(gate x) * up x), or residual + down(act(up x))."""
    if s.experts is not None:
        return mixture(f, s, s.experts, w, x, residual)
    h = curved(f.ops, project(f, x, w.linear["up"], act=None if s.gated else s.activation), w.numbers)
    if s.gated:
        h = project(f, x, w.linear["gate"], act=s.activation, times=h)
    return project(f, h, w.linear["down"], residual=residual)


def norm(f: Frame[T], x: T, w: Norm | None, groups: int = 1) -> T:
    """RMSNorm or LayerNorm of each row, or of its `groups`; x where there is none."""
    if w is None:
        return x
    if f.stack.norm == "rms":
        return f.ops.rms_norm(x, w.w, f.stack.eps, groups)
    return layer_normed(f.ops, x, w, f.stack.eps, groups)


def placed(f: Frame[T], s: Attention, *parts: tuple[T, Norm | None, int]) -> list[T]:
    """Queries and keys, each with its norm and heads, normed and rotated: both at once, so that neither waits."""
    table, xs = None if s.rope is None else f.ropes[s.rope], [x for x, _, _ in parts]
    for rotates in (s.norm_rotated, not s.norm_rotated):
        xs = [
            rotated(f.ops, x, table, n, s.d_head) if rotates else norm(f, x, w, groups_of(s, w, n))
            for x, (_, w, n) in zip(xs, parts, strict=True)
        ]
    return xs
