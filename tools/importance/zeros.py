"""Zeros in every matrix of every layer: magnitude, Wanda, SparseGPT; in one pass, or layer by layer as published.

Wanda's and SparseGPT's own programs hold the residual stream of all calibration tokens and go through the model once
(Sun et al. 2023, arXiv:2306.11695; Frantar and Alistarh 2023, arXiv:2301.00774), for each layer:

    1. feed the stream through the layer as it is, and add up what its matrices read
    2. choose the zeros of all of its matrices, and the new weights, from that
    3. feed the same stream through the layer as it now is: that enters the next one

So a layer is fitted to what the cut ones before it put out (`layers.py`).

An expert's matrices are judged by the tokens that go to it; where none does, by magnitude, within rows. Of an
encoder-decoder each stack is judged by what it sees, its attention to the encoder too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...loader.roles import PLACES, expert_of, role_of
from ...runtime.spec import Weight
from . import masks
from .calibrate import Statistics, finite, mark_of, seen_as
from .layers import through_layers, with_linear
from .numbers import narrowed, widened
from .sparsegpt import sparsegpt

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ...model import Model
    from ...runtime.spec import Linear
    from .layers import Layer
    from .masks import Sparsity

    F64 = NDArray[np.float64]
    #: (a weight's name, w float64 [out, in]) -> new weights, or None: as they are.
    Matrix = Callable[[str, F64], F64 | None]

__all__ = ["layer_by_layer", "zeros"]


def zeros(method: str, sparsity: Sparsity, statistics: Statistics | None) -> Matrix:
    """What the method makes of each matrix; magnitude needs no statistics, sparsegpt Hessians.

    Errors: `InputError` for a matrix with NaN or infinity.
    """

    def matrix(name: str, w: F64) -> F64 | None:
        stack, layers, of = name.rpartition("layers.")
        if not layers or role_of(of) not in PLACES:
            return None
        finite(w, _told(name))
        if statistics is None:
            return masks.magnitude(w, sparsity)
        mine = statistics.encoder if stack and statistics.encoder is not None else statistics
        seen = seen_as(layers + of)
        if seen not in mine.squares and expert_of(of.partition(".")[2]) is not None:
            return masks.wanda(w, np.ones(w.shape[1]), sparsity)
        if method == "wanda":
            return masks.wanda(w, np.sqrt(mine.squares[seen]), sparsity)
        return sparsegpt(w, mine.hessian[seen], sparsity)

    return matrix


def _told(name: str) -> str:
    """A weight's name in words."""
    stack, _, of = name.rpartition("layers.")
    layer, _, key = of.partition(".")
    expert = expert_of(key)
    at = "" if expert is None else f" of expert {expert}"
    return f"{role_of(key)}{at} of {stack.replace('.', ' ')}layer {layer}".replace(
        "of encoder layer", "of the encoder's layer"
    )


def layer_by_layer(  # noqa: PLR0913 - keywords
    model: Model,
    windows: Sequence[Sequence[int]],
    method: str,
    sparsity: Sparsity,
    *,
    file: Path | None = None,
    quiet: bool = True,
) -> Matrix:
    """Go through the model once, as above; what each matrix becomes.

    `file`: written after every layer, and picked up by the next run of the same model, windows, method and sparsity.
    Errors: `InputError` for a file of another run.
    """
    mark = mark_of(model, windows, "layer by layer", method, str(sparsity))

    def change(layer: Layer, statistics: Statistics) -> tuple[Layer, dict[str, NDArray[Any]]]:
        cut, matrices = _cut(layer, zeros(method, sparsity, statistics))
        return cut, matrices if method == "sparsegpt" else statistics.squares

    kept, _ = through_layers(model, windows, change, mark, hessian=method == "sparsegpt", file=file, quiet=quiet)
    if method == "wanda":
        return zeros(method, sparsity, Statistics(np.zeros(0), squares=kept))
    dtypes = {w.name: _dtype(w) for w in model.session.weights if w.name in kept}

    def matrix(name: str, _: F64) -> F64 | None:
        return widened(kept[name], dtypes[name]) if name in kept else None

    return matrix


def _dtype(w: Weight) -> str:
    """As safetensors names it."""
    return w.dtype.removesuffix("_sparse").upper()


def _cut(layer: Layer, matrix: Matrix) -> tuple[Layer, dict[str, NDArray[Any]]]:
    """The layer with what `matrix` makes of its matrices, rounded as they will be written; these by name."""
    made: dict[str, NDArray[Any]] = {}

    def cut(linear: Linear) -> Linear:
        old = linear.w
        new = matrix(old.name, old.f64())
        if new is None:
            return linear
        made[old.name] = np.ascontiguousarray(narrowed(new, _dtype(old)))
        return replace(linear, w=Weight(old.name, _dtype(old).lower(), old.shape, made[old.name], mapped=False))

    return with_linear(layer, cut), made
