"""Tables of positions that no file need hold: sines and cosines of geometric frequencies, the same bits everywhere.

Source: Vaswani et al. 2017, arXiv:1706.03762, 3.5. Frequencies and angles are rounded to float32 where the models'
authors computed so (tensor2tensor, which M2M100 descends from); its cosines stand after its sines, not among them.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal, localcontext
from typing import TYPE_CHECKING

import numpy as np

from .rope import sincos
from .spec import Sinusoids, Weight

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .spec import Config, Stack, StackWeights, Weights

__all__ = ["sinusoid_table", "with_sinusoids"]

BASE = Decimal(10000)


def sinusoid_table(s: Sinusoids, n_context: int, width: int) -> NDArray[np.float32]:
    """float32 [n_context, width]; what halves do not fill is zero. With `blank` a row of zeros stands before."""
    n_sin = width // 2 if s.single else (width + 1) // 2
    with localcontext() as ctx:
        ctx.prec = 40
        exponents = [-Decimal(i) / Decimal(s.steps) if s.steps else Decimal(0) for i in range(n_sin)]
        f = np.array([float(BASE**e) for e in exponents])
    f = f.astype(np.float32).astype(np.float64) if s.single else f
    angles = np.arange(s.first, s.first + n_context)[:, None] * f
    angles = angles.astype(np.float32).astype(np.float64) if s.single else angles
    sin, cos = sincos(angles)
    table = np.zeros((n_context + s.blank, width), np.float32)
    rows = table[int(s.blank) :]
    rows[:, :n_sin], rows[:, n_sin : n_sin + width // 2] = sin, cos[:, : width // 2]
    return table


def with_sinusoids(config: Config, weights: Weights, n_context: int) -> tuple[Weights, tuple[Weight, ...]]:
    """The weights with such tables in place, where a stack has a formula and no table; and the tables, each once."""
    made: dict[tuple[Sinusoids, int], Weight] = {}

    def filled(stack: Stack | None, w: StackWeights | None) -> StackWeights | None:
        s = None if stack is None else stack.sinusoids
        if w is None or stack is None or s is None or w.positions is not None:
            return w
        key = s, stack.d_model
        if key not in made:
            table = sinusoid_table(s, n_context, stack.d_model)
            made[key] = Weight(f"sinusoids{len(made)}", "f32", table.shape, table, mapped=False)
        return replace(w, positions=made[key])

    both = filled(config.decoder, weights.decoder), filled(config.encoder, weights.encoder)
    return (replace(weights, decoder=both[0], encoder=both[1]) if made else weights), tuple(made.values())
