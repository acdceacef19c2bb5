"""Counting the zeros that a checkpoint holds already, where a plan asks to keep exactly these ("stored").

How much memory such a matrix takes is known only then: apart from a share of the neurons it is the one cut for which
data is read before the memory is predicted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..load_plan import can_be_sparse, held_as
from ..source import read_kept, spans_by_file

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint
    from ..load_plan import LoadPlan
    from ..source import Source

__all__ = ["counted", "uncounted"]

PIECE = 2**22  # numbers looked at in one go


def uncounted(plan: LoadPlan) -> tuple[Source, ...]:
    """What must be read before its size is known."""
    return tuple(source for source in plan if _unknown(source))


def counted(plan: LoadPlan, checkpoint: Checkpoint) -> LoadPlan:
    """The plan with every matrix counted whose own zeros are asked for, and held sparse where that is fewer bytes.

    Reads each once, and nothing else; a plan that asks for no such zeros is given back as it is. Errors:
    `CheckpointError` as reading has them.
    """
    wanted = uncounted(plan)
    if not wanted:
        return plan
    if plan.cut.cuts:
        checkpoint.expect(spans_by_file(wanted))

    def change(source: Source) -> Source:
        if not _unknown(source):
            return source
        kept = _count(source, checkpoint)
        dtype = held_as(source.dtype, source.shape, kept)
        place = source.offset if dtype == source.dtype else 0
        return replace(source, dtype=dtype, kept=kept, offset=place)

    return plan.with_sources(change)


def _unknown(source: Source) -> bool:
    sparse = source.expert is None and can_be_sparse(source.dtype)
    return source.zeros is not None and source.kept is None and sparse


def _count(source: Source, checkpoint: Checkpoint) -> int:
    """Numbers that are not zero."""
    tensor, (n, k), kept = checkpoint.array(source.tensor.name), source.shape, 0
    step = max(1, PIECE // k)
    for at in range(0, n, step):
        _, stays = read_kept(source, tensor, slice(at, at + step))
        kept += int(np.count_nonzero(stays))
    checkpoint.release(source.tensor.name)
    return kept
