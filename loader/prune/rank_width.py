"""Which dimensions of the residual stream to keep where no text is at hand: what is written there, times what is read.

    written(j) = mean_t embed_tj^2 + sum over layers of (|o_j|^2 + |down_j|^2)           rows j of o and down
    read(j)    = sum over norms of gain_j^2 * |columns j of the matrices after it|^2    q, k, v; gate, up; head
    score(j)   = written(j) * read(j)

`written` is dimension j's variance if whatever enters o and down were independent and of size one (of the embedding a
step takes one row); `read` is how far the products move if the norm puts out one there. Learned positions count as
the embedding does. Magnitude pruning of whole units, as in `rank_ffn`, and as poor a guide; `--method activation`
looks at a text (`tools/importance/structured.py`).

Sums are taken as in `rank_ffn`: the same plan on every machine.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..load_plan import make_load_plan
from ..ranges import as_indices
from ..roles import EXPERTS, LINEAR, READS, ROLES, WRITERS, role_of
from ..sizes import largest
from ..source import spans_by_file
from .rank_ffn import squares

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ...runtime.spec import Config
    from ..checkpoint import Checkpoint
    from ..load_plan import LoadPlan
    from ..open import Opened
    from ..source import Source
    from .cut import Cut
    from .plan import PrunePlan

    F64 = NDArray[np.float64]

__all__ = ["best_dimensions", "dimensions", "weightiest_dimensions"]

#: A layer's norms -> the matrices that read what it puts out.
SOURCE = ("cross_k", "cross_v")  # read what the encoder's last norm puts out
READERS = {norm: tuple(r for r in LINEAR if READS.get(r) == norm) for norm in READS.values() if ROLES[norm].sublayer}


def weightiest_dimensions(plan: PrunePlan, opened: Opened, cut: Cut) -> PrunePlan:
    """The plan with its share of the width turned into dimensions: of those that it keeps, the largest scores.

    `cut` is the plan compiled without shares, and without zeros: these are chosen from what is left. Reads every matrix
    that the plan keeps. Errors: `PlanError` for matrices that are quantised already, `CheckpointError` for numbers that
    are not finite.
    """
    ratio, checkpoint = plan.width_ratio or 1.0, opened.checkpoint
    load = make_load_plan(opened, cut=cut)
    checkpoint.expect(spans_by_file(load))
    written, read = _of_stack(load, checkpoint)
    model = load.model
    if load.encoder is not None:  # two streams, of which the same dimensions stay
        written, read = (a + b for a, b in zip((written, read), _of_stack(load.encoder, checkpoint), strict=True))
        crossing = [roles[role] for roles in load.layers for role in SOURCE if role in roles]
        read += _read(load.encoder.model.get("norm"), crossing, checkpoint)
    heads = [model.get("head", model["embed"]), *(model[role] for role in ("head_dense",) if role in model)]
    width = load.config.d_model  # of an embedding of its own width, what turns the stream into that reads it
    readers = [source for source in heads if source.shape[-1] == width][:1]
    read += _read(model.get("norm"), readers, checkpoint)
    there = as_indices(load.cut.kept("width", 0)).tolist()
    kept = tuple(there[j] for j in best_dimensions(written * read, ratio, load.config))
    note = f"{ratio:g} of the width by magnitude: every matrix of what is kept was read to rank its dimensions"
    return replace(plan, width=kept, width_ratio=None, notes=(*plan.notes, note))


def _of_stack(load: LoadPlan, checkpoint: Checkpoint) -> tuple[F64, F64]:
    """`written` and `read` of a stack, up to its last layer."""
    model, (written, read) = load.model, (np.zeros(load.config.d_model) for _ in range(2))
    for name in (role.name for role in ROLES.values() if role.writes and not role.sublayer):
        if name in model and model[name].shape[-1] == load.config.d_model:
            written += squares(model[name], checkpoint, by_column=True) / model[name].shape[0]
    if "embed_project" in model:  # of what an embedding of its own width holds on average
        embed = squares(model["embed"], checkpoint, by_column=True).sum() / model["embed"].shape[0]
        written += squares(model["embed_project"], checkpoint) * embed / model["embed"].shape[1]
    written += squares(model["convolution"], checkpoint) if "convolution" in model else 0.0
    for roles in load.layers:
        others = [key for key in roles if ROLES[role_of(key)].sublayer == EXPERTS]
        for key in (*WRITERS, "cross_o", *(key for key in others if ROLES[role_of(key)].writes)):
            written += squares(roles[key], checkpoint) if key in roles else 0.0
        for norm, readers in (*READERS.items(), ("cross_norm", ("cross_q",))):
            keys = (*readers, *(key for key in others if ROLES[role_of(key)].reads == norm))
            read += _read(roles.get(norm), [roles[key] for key in keys if key in roles], checkpoint)
    return written, read


def best_dimensions(scores: F64, ratio: float, config: Config) -> list[int]:
    """Numbers of the largest scores, ascending: `dimensions(ratio)` many; of equals, the lower number."""
    return sorted(np.argsort(-scores, kind="stable")[: dimensions(ratio, config)].tolist())


def dimensions(ratio: float, config: Config) -> int:
    """How many a share of the width is: rounded to nearest, and at least one.

    In multiples of the heads, where the width is one: transformers builds no Llama otherwise.
    """
    heads = largest(config).n_heads
    step = heads if heads and config.d_model % heads == 0 else 1
    return step * max(1, int(ratio * config.d_model / step + 0.5))


def _read(norm: Source | None, readers: Sequence[Source], checkpoint: Checkpoint) -> F64 | float:
    """One norm's part of read(j); matrices that read the stream itself, or a norm of ones, have gains of one."""
    if not readers:
        return 0.0
    total = np.zeros(readers[0].shape[-1])
    for source in readers:
        total += squares(source, checkpoint, by_column=True)
    return total if norm is None else squares(norm, checkpoint) * total
