"""A model's matrices, rounded by what a calibration text shows of their inputs.

| method   | scales                                       | numbers                                               |
|----------|----------------------------------------------|-------------------------------------------------------|
| weighted | as ever, but column j's error counts E[x_j^2] | to nearest                                           |
| gptq     | the same                                     | column by column; those to come take up the error     |

A decoder is gone through layer by layer: a layer is fitted to what the rounded ones before it put out
(`importance/layers.py`), and the head to what the last of them does. What stands before the layers is rounded as ever:
of an embedding rows are looked up, so no input weighs its columns. A tied head is rounded by what the head reads, and
half of an error's weight is that of a row that is looked up; the layers are fitted with the embedding rounded as ever.
Of an encoder and an encoder-decoder the statistics are those of the model as it was, taken once. A matrix of whose
input the text shows nothing (an expert to which no token went) is rounded as ever, and counted in the receipt.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...dataclass import dataclass
from ...errors import InputError, spelled_like
from ...loader.pack import quantized
from ...loader.roles import PLACES, role_of
from ...model import quantizer
from ...runtime.cores import available_threads
from ...runtime.spec import Weight
from ..importance.calibrate import Statistics, calibrate, mark_of, n_tokens, seen_as
from ..importance.layers import through_layers, with_linear
from ..importance.methods import load_for
from ..importance.progress import progress
from .gptq import DAMPING, TIED_DAMPING, by_hessian, by_squares
from .heads import AFTER, seen_by_head

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from numpy.typing import NDArray

    from ...loader.checkpoint import Checkpoint
    from ...loader.load_plan import LoadPlan
    from ...loader.quantize import PackRows
    from ...loader.source import Source
    from ...model import Model
    from ...runtime.spec import Linear, StackWeights
    from ..importance.layers import Layer
    from ..importance.methods import Text

__all__ = ["METHODS", "Rounded", "check_method", "round_by_text"]

METHODS = ("weighted", "gptq")


@dataclass(frozen=True)
class Rounded:
    """Matrices by name, packed; and what is to be known of how they were made, for config.json."""

    weights: dict[str, Weight]
    receipt: dict[str, Any]


def check_method(method: str) -> None:
    """Errors: `InputError` for one that is not there."""
    if method not in METHODS:
        near = spelled_like(method, METHODS, 1)
        perhaps = f" (did you mean {near[0]}?)" if near else ""
        msg = f"--method {method}: no such method{perhaps}; expected {' or '.join(METHODS)}"
        raise InputError(msg)


def round_by_text(path: Path, plan: LoadPlan, checkpoint: Checkpoint, method: str, text: Text) -> Rounded:
    """Round all that a plan of the whole checkpoint at `path` quantises. Errors: `InputError`, and loading's own."""
    check_method(method)
    sources = {source.name: source for source in plan if source.quantizes}
    with load_for(path, text) as model, ThreadPoolExecutor(available_threads()) as pool:
        if any(w.quantized for w in model.session.weights):
            msg = f"{path}: has quantised matrices already; begin from the original checkpoint"
            raise InputError(msg)
        windows = text.windows(model)
        rounding = _Rounding(model, method, sources, checkpoint, quantizer(plan), pool, Counter())
        in_layers = model.config.encoder is None
        weights = (rounding.layer_by_layer if in_layers else rounding.at_once)(windows, text)
        count = sum(n_tokens(model, w) for w in windows)
        tied = "embed" in sources and rounding.tied
    receipt = {
        "method": method,
        "text_sha256": hashlib.sha256(text.text.encode()).hexdigest(),
        "tokens": count,
        "window": text.window,
        "damping": DAMPING,
        "statistics": "layer by layer" if in_layers else "in one pass",
    }
    receipt |= {"tied_damping": TIED_DAMPING} if tied else {}
    receipt |= {"order": "activation"} if method == "gptq" else {}
    return Rounded(weights, receipt | {"rounded_as_ever": dict(sorted(rounding.plain.items()))})


@dataclass(frozen=True)
class _Rounding:
    """What is rounded: `sources` by name. `ever`: rounding as ever; `plain`: of how many of each role that is all."""

    model: Model
    method: str
    sources: dict[str, Source]
    checkpoint: Checkpoint
    ever: PackRows
    pool: Executor
    plain: Counter[str]

    @property
    def hessian(self) -> bool:
        """Whether sums of products are needed."""
        return self.method == "gptq"

    def layer_by_layer(self, windows: Sequence[Sequence[int]], text: Text) -> dict[str, Weight]:
        """A decoder's."""
        weights, config = self.model.session.weights, self.model.config
        after = {n: s for n, s in self.sources.items() if n in AFTER or (n == "embed" and self.tied)}
        before = {n: self.as_ever(s) for n, s in self.sources.items() if "layers." not in n and n not in AFTER}

        def change(layer: Layer, statistics: Statistics) -> tuple[Layer, dict[str, NDArray[Any]]]:
            rows = _Rows(self.method, statistics, {})
            made: dict[str, NDArray[Any]] = {}

            def rounded(linear: Linear) -> Linear:
                source = self.sources.get(linear.w.name)
                if source is None:
                    return linear
                w = self.by(rows, source)
                assert w.array is not None  # noqa: S101 - made with it
                made[source.name] = w.array
                return replace(linear, w=w)

            return with_linear(layer, rounded), made

        dtypes = sorted((name, source.dtype) for name, source in self.sources.items())
        mark = mark_of(self.model, windows, "rounded layer by layer", self.method, dtypes)
        kept, stream = through_layers(
            self.model,
            windows,
            change,
            mark,
            weights=_with(weights.stack, before),
            hessian=self.hessian,
            leaving=bool(after),
            file=text.file,
            quiet=text.quiet,
        )
        self.plain.update(role_of(n) for n in before if n not in after)
        made = {n: _packed(self.sources[n], array) for n, array in kept.items()}
        statistics = Statistics(np.zeros(0))
        add = seen_by_head(config, weights, hessian=self.hessian)
        if after and add is not None and stream is not None:
            add(statistics, stream.astype(np.float64))
        rows = _Rows(self.method, statistics, {})
        return before | made | {n: self.by(rows, source) for n, source in after.items()}

    def at_once(self, windows: Sequence[Any], text: Text) -> dict[str, Weight]:
        """An encoder's, or an encoder-decoder's."""
        weights, config = self.model.session.weights, self.model.config
        leaving = seen_by_head(config, weights, hessian=self.hessian)
        file = None if config.seq2seq else text.file
        how: dict[str, Any] = {"hessian": self.hessian, "leaving": leaving, "file": file, "quiet": text.quiet}
        rows = _Rows(self.method, calibrate(self.model, windows, **how), {})
        made: dict[str, Weight] = {}
        with progress(len(self.sources), 0, "rounding", quiet=text.quiet) as bar:
            for name, source in self.sources.items():
                made[name] = self.by(rows, source)
                bar(1)
        return made

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding."""
        weights = self.model.session.weights
        return weights.head is not None and weights.head.w is weights.stack.embed

    def as_ever(self, source: Source) -> Weight:
        """Without statistics."""
        return quantized(source, self.checkpoint, self.ever, self.pool)

    def by(self, rows: _Rows, source: Source) -> Weight:
        """By the statistics of what it reads, where there are any."""
        tied = source.name == "embed" and self.tied
        pack = rows.of("head", TIED_DAMPING) if tied else rows.of(source.name)
        if pack is None:
            self.plain[role_of(source.name)] += 1
            return self.as_ever(source)
        return quantized(source, self.checkpoint, pack, self.pool)


@dataclass(frozen=True)
class _Rows:
    """How the rows of each matrix are rounded by some statistics; `made`: those that are known, by their place."""

    method: str
    statistics: Statistics
    made: dict[tuple[bool, str], PackRows | None]

    def of(self, name: str, damping: float = DAMPING) -> PackRows | None:
        """By the matrix's name; None: nothing is known of what it reads."""
        stack, layers, key = name.rpartition("layers.")
        if layers and role_of(key) not in PLACES:
            return None
        encoder = bool(stack) and self.statistics.encoder is not None
        at = (encoder, seen_as(layers + key) if layers else name)
        if at not in self.made:
            mine = self.statistics.encoder if encoder and self.statistics.encoder is not None else self.statistics
            sums = mine.hessian if self.method == "gptq" else mine.squares
            by = by_hessian if self.method == "gptq" else by_squares
            self.made[at] = by(sums[at[1]], damping) if at[1] in sums else None
        return self.made[at]


def _with(stack: StackWeights, made: dict[str, Weight]) -> StackWeights:
    """The stack with what stands before its layers."""
    project = stack.embed_project
    if project is not None:
        project = replace(project, w=made.get("embed_project", project.w))
    return replace(stack, embed=made.get("embed", stack.embed), embed_project=project)


def _packed(source: Source, array: NDArray[Any]) -> Weight:
    return Weight(source.name, source.dtype, source.shape, array, mapped=False)
