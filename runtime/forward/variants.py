"""Which op the records ask for where several would do, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from ..rope import RopeTable
    from .ops import Ops

__all__ = ["capped", "rotated", "scaled"]

T = TypeVar("T")


def scaled(ops: Ops[T], x: T, factor: float) -> T:
    """Factor x; x itself where the factor is 1."""
    return x if factor == 1 else ops.scale(x, factor)


def capped(ops: Ops[T], x: T, cap: float | None) -> T:
    """Cap tanh(x / cap); x itself where there is no cap."""
    return x if cap is None else ops.soft_cap(x, cap)


def rotated(ops: Ops[T], x: T, table: RopeTable, heads: int, d_head: int) -> T:
    """Each of `heads` by its position: whole heads in halves, or a part of each, or neighbours."""
    whole = table.rope.d_rotary == d_head and not table.rope.interleaved
    return ops.rope(x, table, heads) if whole else ops.rope_part(x, table, heads)
