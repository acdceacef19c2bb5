"""Zeros in every matrix of every layer: magnitude, Wanda, SparseGPT; in one pass, or layer by layer as published.

Wanda's and SparseGPT's own programs hold the residual stream of all calibration tokens and go through the model once
(Sun et al. 2023, arXiv:2306.11695; Frantar and Alistarh 2023, arXiv:2301.00774), for each layer:

    1. feed the stream through the layer as it is, and add up what its matrices read
    2. choose the zeros of all of its matrices, and the new weights, from that
    3. feed the same stream through the layer as it now is: that enters the next one

So a layer is fitted to what the cut ones before it put out. Here a layer runs as a model of one layer, whose embedding
is the stream, [tokens, d_model], and whose ids are the tokens' places in it; the first has the true embedding and ids.
The kernels and their order are the model's own: what a layer sees is bit for bit what it sees in the written model.
Memory: the stream twice, the Hessians of one layer, and with SparseGPT the new matrices in the model's dtype.

An expert's matrices are judged by the tokens that go to it; where none does, by magnitude, within rows. Of an
encoder-decoder each stack is judged by what it sees, its attention to the encoder too.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from ...loader.roles import PLACES, expert_of, role_of
from ...runtime.cpu.backend import cpu_session
from ...runtime.spec import Linear, Weight, Weights
from . import masks
from .calibrate import Statistics, add_input, add_routed, finite, mark_of, seen_as
from .numbers import narrowed, widened
from .progress import progress
from .sparsegpt import sparsegpt
from .store import read_arrays, write_arrays

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ...model import Model
    from ...runtime.arena import Tensor
    from ...runtime.program import Instruction
    from ...runtime.session import Session
    from ...runtime.spec import Sublayer
    from .masks import Sparsity

    F64 = NDArray[np.float64]
    F32 = NDArray[np.float32]
    #: (a weight's name, w float64 [out, in]) -> new weights, or None: as they are.
    Matrix = Callable[[str, F64], F64 | None]
    Layer = tuple[Sublayer, ...]

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
    kept = read_arrays(file, mark) if file is not None and file.exists() else {}
    done, stream = int(kept.pop("done", 0)), kept.pop("stream", None)
    weights, n = model.session.weights.stack.layers, model.config.n_layers
    with progress(n, done, "layer by layer", quiet=quiet) as bar:
        for i in range(done, n):
            statistics = Statistics(np.zeros(0), sum(len(w) - 1 for w in windows))
            _feed(model, i, weights[i], windows, stream, statistics=statistics, hessian=method == "sparsegpt")
            layer, matrices = _cut(weights[i], zeros(method, sparsity, statistics))
            kept |= matrices if method == "sparsegpt" else statistics.squares
            if i + 1 < n:
                stream = _feed(model, i, layer, windows, stream)
            bar(1)
            if file is not None:
                write_arrays(file, mark, done=np.int64(i + 1), stream=_some(stream), **kept)
    if method == "wanda":
        return zeros(method, sparsity, Statistics(np.zeros(0), squares=kept))
    dtypes = {w.name: _dtype(w) for w in model.session.weights if w.name in kept}

    def matrix(name: str, _: F64) -> F64 | None:
        return widened(kept[name], dtypes[name]) if name in kept else None

    return matrix


def _some(stream: F32 | None) -> F32:
    """A model of one layer has no stream after it."""
    return np.zeros((0, 0), np.float32) if stream is None else stream


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

    def every(linear: Mapping[str, Linear]) -> dict[str, Linear]:
        return {role: cut(w) for role, w in linear.items()}

    return tuple(replace(s, linear=every(s.linear), experts=tuple(map(every, s.experts))) for s in layer), made


def _feed(  # noqa: PLR0913 - keywords
    model: Model,
    i: int,
    layer: Layer,
    windows: Sequence[Sequence[int]],
    stream: F32 | None,
    *,
    statistics: Statistics | None = None,
    hessian: bool = False,
) -> F32:
    """All windows through one layer: what leaves it, float32 [tokens, d_model]. `found` gets what its matrices read."""
    session = _of_one_layer(model, i, layer, stream)
    counts = [len(w) - 1 for w in windows]
    ends = list(accumulate(counts))
    out, at = np.empty((ends[-1] if ends else 0, model.config.d_model), np.float32), 0

    def watch(instruction: Instruction, view: Callable[[Tensor], F32]) -> None:
        nonlocal at
        if statistics is not None:
            add_input(statistics, instruction, view, hessian=hessian)
            add_routed(statistics, instruction, view, hessian=hessian)
        if instruction.op == "take_rows":
            x = view(instruction.tensors("i")[0])
            out[at : at + len(x)] = x
            at += len(x)

    try:
        for window, end, count in zip(windows, ends, counts, strict=True):
            session.watched_step(window[:-1] if stream is None else range(end - count, end), 0, watch)
    finally:
        session.close()
    return out


def _of_one_layer(model: Model, i: int, layer: Layer, stream: F32 | None) -> Session:
    """A program of this layer alone, after the model's embedding (`stream` None) or the stream in its place."""
    own, stack = replace(model.session.weights.stack, layers=(layer,)), model.config.stack
    if stream is not None:
        own = replace(own, embed=Weight("embed", "f32", stream.shape, stream, mapped=False), positions=None)
    config = model.config.with_stack(replace(stack, layers=stack.layers[i : i + 1]))
    config = replace(config, n_vocab=own.embed.shape[0], tied=True)
    weights = Weights(decoder=own, head=Linear(own.embed))
    n, chunk = model.n_context, model.session.chunk
    return cpu_session(config, weights, n_context=n, chunk=chunk, n_logits=1, threads=model.threads)
