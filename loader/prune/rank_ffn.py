"""Which neurons to keep where no text is at hand: those with the largest weights.

score(j) = |gate_j|^2 |up_j|^2 |down_j|^2, with row j of gate and up and column j of down; without a gate, of up and
down alone. The product, and not the sum, because scaling up_j by c and down_j by 1/c changes nothing that the model
computes, and does not change the product either. Magnitude pruning of whole units: Li et al. 2017, arXiv:1608.08710,
who sum one filter's weights.

In a layer of experts neuron j is the j-th of each, and its score the sum of theirs.

Squares of float32 are exact in float64 and are summed pairwise in one fixed order, element by element: the same plan
on every machine. Equal scores: the lower number is kept.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...errors import CheckpointError, PlanError
from ..load_plan import make_load_plan
from ..roles import AXES, EACH, LINEAR, expert_key
from ..sizes import sizes_of
from ..source import read, spans_by_file, stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..checkpoint import Checkpoint
    from ..load_plan import LoadPlan
    from ..open import Opened
    from ..source import Source
    from .cut import Cut
    from .plan import PrunePlan

    F64 = NDArray[np.float64]

__all__ = ["best", "count_of", "squares", "weightiest"]

#: What a neuron is made of.
MATRICES = tuple(role for role in LINEAR if "ffn" in AXES[role])
ROWS = 256  # of a matrix, widened at a time


def weightiest(plan: PrunePlan, opened: Opened, cut: Cut) -> PrunePlan:
    """The plan with its ratio turned into neurons: of those that it keeps, the share with the largest scores.

    So with an encoder's own ratio. `cut` is the plan compiled without them, and without zeros: these are chosen from
    what is left. Reads the feed-forward's matrices of every kept layer of such a stack, as far as the plan keeps them.
    Errors: `PlanError` for matrices that are quantised already, `CheckpointError` for numbers that are not finite.
    """
    load, encoder, notes = make_load_plan(opened, cut=cut), plan.encoder, list(plan.notes)
    reads = load.encoder if cut.only is None else load
    if encoder is not None and encoder.ffn_ratio is not None and reads is not None:
        notes.append(_NOTE.format(encoder.ffn_ratio, "the encoder's neurons"))
        encoder = replace(encoder, ffn=_ranked(encoder, reads, opened.checkpoint), ffn_ratio=None)
    ffn = plan.ffn
    if plan.ffn_ratio is not None:
        notes.append(_NOTE.format(plan.ffn_ratio, "the neurons"))
        ffn = _ranked(plan, load, opened.checkpoint)
    return replace(plan, ffn=ffn, ffn_ratio=None, encoder=encoder, notes=tuple(notes))


_NOTE = "{:g} of {} by magnitude: the feed-forward's matrices of every kept layer were read to rank them"


def _ranked(plan: PrunePlan, load: LoadPlan, checkpoint: Checkpoint) -> dict[int, tuple[int, ...]]:
    """A stack's neurons."""
    ratio, ffn = plan.ffn_ratio or 1.0, dict(plan.ffn)
    ranking = (*MATRICES, *EACH)
    checkpoint.expect(spans_by_file(s for roles in load.layers for s in roles.values() if s.role in ranking))
    for old, roles in dict(zip(load.cut.layers, load.layers, strict=True)).items():
        size = sizes_of(load.cut.config, load.cut.layers.index(old))
        if not size.d_ff:
            continue
        scores = np.zeros(size.d_ff)
        for keys in [tuple(expert_key(role, e) for role in EACH) for e in range(size.n_experts)] or [MATRICES]:
            product = np.ones(size.d_ff)
            for source in (roles[key] for key in keys if key in roles):
                product *= squares(source, checkpoint, by_column=source.role.endswith("down"))
            scores += product
        there = ffn.get(old, range(len(scores)))
        ffn[old] = tuple(there[i] for i in best(scores, ratio))
    return ffn


def count_of(there: int, ratio: float) -> int:
    """How many a share of n is: rounded to nearest, at least one where there is any."""
    return min(there, max(1, int(ratio * there + 0.5)))


def best(scores: F64, ratio: float) -> list[int]:
    """Numbers of the largest scores, ascending: `count_of` them."""
    return sorted(np.argsort(-scores, kind="stable")[: count_of(len(scores), ratio)].tolist())


def squares(source: Source, checkpoint: Checkpoint, *, by_column: bool = False) -> F64:
    """Sum of squares of each kept row, or column; of a vector, of each of its numbers: float64.

    Errors: `PlanError` for a matrix that is quantised, `CheckpointError` for NaN or infinity: nothing ranks those, and
    a damaged number must not vanish with what is cut.
    """
    if source.prequantized:
        msg = f"{source.tensor.file}: {source.tensor.name} is quantised already; prune the original checkpoint by ratio"
        raise PlanError(msg)
    tensor = stored(source, checkpoint)
    columns = np.zeros(source.shape[-1])
    rows = []
    for at in range(0, source.shape[0], ROWS):
        part = read(source, tensor, slice(at, at + ROWS))
        if source.tensor.dtype == "BF16":
            part = np.left_shift(part, 16, dtype=np.uint32).view(np.float32)
        part = part + np.float32(source.plus) if source.plus else part
        with np.errstate(invalid="ignore"):  # a signalling NaN
            squared = np.square(part, dtype=np.float64).reshape(len(part), -1)
        if by_column:
            columns += _fold(squared.T)
        else:
            rows.append(_fold(squared))
    sums = columns if by_column else np.concatenate(rows)
    if not np.isfinite(sums).all():
        msg = (
            f"{source.tensor.file}: tensor {source.tensor.name} holds NaN or infinity, and a share of the neurons or "
            "of the width ranks finite numbers: the checkpoint is damaged, or its numbers overflow; compare the file "
            "with its publisher's checksum"
        )
        raise CheckpointError(msg)
    return sums


def _fold(x: F64) -> F64:
    """Sum over the last axis of [n, k]: the upper half is added to the lower, again and again."""
    while x.shape[1] > 1:
        half = (x.shape[1] + 1) // 2
        upper = x[:, half:]
        x = np.concatenate([x[:, : upper.shape[1]] + upper, x[:, upper.shape[1] : half]], axis=1)
    return x[:, 0]
