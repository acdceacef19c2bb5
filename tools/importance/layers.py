"""Through a model layer by layer: each is changed once it was seen, and the next sees what the changed one puts out.

The residual stream of all calibration tokens is held. For each layer:

    1. feed the stream through the layer as it is, and add up what its matrices read
    2. change the layer by that
    3. feed the same stream through the layer as it now is: that enters the next one

A layer runs as a model of one layer, whose embedding is the stream, [tokens, d_model], and whose ids are the tokens'
places in it; the first has the true embedding and ids. The kernels and their order are the model's own: what a layer
sees is bit for bit what it sees in the written model. Memory: the stream twice, the Hessians of one layer, and what the
change keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from ...runtime.cpu.backend import cpu_session
from ...runtime.spec import Weight, Weights
from .calibrate import Statistics, add_input, add_routed
from .progress import progress
from .store import read_arrays, write_arrays

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ...model import Model
    from ...runtime.arena import Tensor
    from ...runtime.program import Instruction
    from ...runtime.session import Session
    from ...runtime.spec import Linear, StackWeights, Sublayer

    F32 = NDArray[np.float32]
    Arrays = dict[str, NDArray[Any]]
    Layer = tuple[Sublayer, ...]
    #: (the layer, what its matrices read) -> the layer as it is to be, and what is to be kept of it, by name.
    Change = Callable[[Layer, Statistics], tuple[Layer, Arrays]]

__all__ = ["through_layers", "with_linear", "with_weights"]


def through_layers(  # noqa: PLR0913 - keywords
    model: Model,
    windows: Sequence[Sequence[int]],
    change: Change,
    mark: str,
    *,
    weights: StackWeights | None = None,
    hessian: bool = False,
    leaving: bool = False,
    file: Path | None = None,
    quiet: bool = True,
) -> tuple[Arrays, F32 | None]:
    """Go through a decoder once, as above: what was kept of all layers, and, if `leaving`, what leaves the last one.

    `weights`: the stack's, where what stands before its layers is not to be the model's own. `hessian`: the sums have
    Hessians. `file`: written after every layer, and picked up by the next run with the same `mark`. Errors:
    `InputError` for a file of another run.
    """
    own, n = weights or model.session.weights.stack, model.config.n_layers
    kept = read_arrays(file, mark) if file is not None and file.exists() else {}
    done, stream = int(kept.pop("done", 0)), kept.pop("stream", None)
    with progress(n, done, "layer by layer", quiet=quiet) as bar:
        for i in range(done, n):
            statistics = Statistics(np.zeros(0), sum(len(w) - 1 for w in windows))
            _feed(model, i, own, windows, stream, statistics=statistics, hessian=hessian)
            layer, arrays = change(own.layers[i], statistics)
            kept |= arrays
            if i + 1 < n or leaving:
                stream = _feed(model, i, replace(own, layers=_put(own.layers, i, layer)), windows, stream)
            bar(1)
            if file is not None:
                write_arrays(file, mark, done=np.int64(i + 1), stream=_some(stream), **kept)
    return kept, stream


def with_linear(layer: Layer, change: Callable[[Linear], Linear]) -> Layer:
    """The layer with every matrix changed, the experts' too."""

    def every(linear: Mapping[str, Linear]) -> dict[str, Linear]:
        return {role: change(w) for role, w in linear.items()}

    return tuple(replace(s, linear=every(s.linear), experts=tuple(map(every, s.experts))) for s in layer)


Part = TypeVar("Part")


def with_weights(part: Part, made: Mapping[str, Weight]) -> Part:
    """A record, or a tuple of them, with other weights in the place of those of the same names."""
    new: Any = part
    if isinstance(part, Weight):
        new = made.get(part.name, part)
    elif isinstance(part, tuple):
        new = tuple(with_weights(each, made) for each in part)
    elif isinstance(part, Mapping):
        new = {key: with_weights(value, made) for key, value in part.items()}
    elif is_dataclass(part) and not isinstance(part, type):
        new = replace(part, **{f.name: with_weights(getattr(part, f.name), made) for f in fields(part)})
    return cast("Part", new)


def _put(layers: tuple[Layer, ...], i: int, layer: Layer) -> tuple[Layer, ...]:
    """The layers with another one at place i."""
    return (*layers[:i], layer, *layers[i + 1 :])


def _some(stream: F32 | None) -> F32:
    """A model of one layer has no stream after it."""
    return np.zeros((0, 0), np.float32) if stream is None else stream


def _feed(  # noqa: PLR0913 - keywords
    model: Model,
    i: int,
    own: StackWeights,
    windows: Sequence[Sequence[int]],
    stream: F32 | None,
    *,
    statistics: Statistics | None = None,
    hessian: bool = False,
) -> F32:
    """All windows through layer i: what leaves it, float32 [tokens, d_model]. `statistics` gets what it reads."""
    session = _of_one_layer(model, i, own, stream)
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


def _of_one_layer(model: Model, i: int, own: StackWeights, stream: F32 | None) -> Session:
    """A program of this layer alone, after the model's embedding (`stream` None) or the stream in its place.

    The stream has in it what the embedding is scaled by, and all that is added to it.
    """
    stack, config = model.config.stack, model.config
    own, stack = replace(own, layers=own.layers[i : i + 1]), replace(stack, layers=stack.layers[i : i + 1])
    if stream is not None:
        embed = Weight("embed", "f32", stream.shape, stream, mapped=False)
        own = replace(own, embed=embed, positions=None, token_types=None, embed_norm=None, embed_project=None)
        stack = replace(stack, embed_scale=1.0, sinusoids=None)
        config = replace(config, d_embed=None, positions=None, n_types=0)
    config = replace(config.with_stack(stack), n_vocab=own.embed.shape[0], tied=False, lm_head=False)
    n, chunk = model.n_context, model.session.chunk
    return cpu_session(config, Weights(decoder=own), n_context=n, chunk=chunk, n_logits=1, threads=model.threads)
