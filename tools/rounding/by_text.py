"""A model's matrices, rounded by what a calibration text shows of their inputs.

| method   | scales                                        | numbers                                              |
|----------|-----------------------------------------------|------------------------------------------------------|
| weighted | as ever, but column j's error counts E[x_j^2] | to nearest                                           |
| gptq     | the same                                      | column by column; those to come take up the error    |

`awq` and `smooth` come before that, where they can (`folds.py`): columns are multiplied by factors (`scales.py`), and
what makes the input is divided by them.

A decoder is gone through layer by layer: a layer is fitted to what the rounded ones before it put out
(`importance/layers.py`), and the head to what the last of them does. What stands before the layers is rounded as ever:
of an embedding rows are looked up, so no input weighs its columns. A tied head is rounded by what the head reads, and
half of an error's weight is that of a row that is looked up; the layers are fitted with the embedding rounded as ever.
Of an encoder and an encoder-decoder the statistics are those of the model as it was, taken once. A matrix of whose
input the text shows nothing (an expert to which no token went) is rounded as ever, and counted in the receipt.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...dataclass import dataclass
from ...loader.pack import quantized
from ...loader.roles import PLACES, role_of
from ...model import quantizer
from ...runtime.cores import available_threads
from ...runtime.spec import Weight, weights_in
from ...sizes import format_bytes
from ..importance.calibrate import Statistics, calibrate, mark_of, n_tokens, seen_as
from ..importance.layers import through_layers, with_weights
from ..importance.methods import load_for
from ..importance.progress import progress
from .folds import folds_of
from .gptq import DAMPING, TIED_DAMPING, by_hessian, by_squares
from .heads import AFTER, seen_by_head
from .joint import ByMagnitude, by_hessian_with_zeros, may_have_zeros, refuse_no_zeros
from .memory import predicted
from .scales import ALPHA, awq, smooth
from .sensitivity import refuse_quantized

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from numpy.typing import NDArray

    from ...loader.checkpoint import Checkpoint
    from ...loader.load_plan import LoadPlan
    from ...loader.quantize import PackRows
    from ...loader.source import Source
    from ...model import Model
    from ..importance.layers import Layer
    from ..importance.masks import Sparsity
    from ..importance.methods import Text
    from .folds import Fold
    from .method import Method

    F64 = NDArray[np.float64]

__all__ = ["Rounded", "round_by_text"]


@dataclass(frozen=True)
class Rounded:
    """Weights by name: matrices that are packed, vectors that were divided. And what config.json is to say of them."""

    weights: dict[str, Weight]
    receipt: dict[str, Any]


def round_by_text(path: Path, plan: LoadPlan, checkpoint: Checkpoint, method: Method, text: Text) -> Rounded:
    """Round all that a plan of the whole checkpoint at `path` quantises. Errors: `InputError`, and loading's own."""
    sources = {source.name: source for source in plan if source.quantizes}
    folds, left = folds_of(plan) if method.scaling else ([], [])
    refuse_quantized(path, plan)
    if method.sparsity is not None:
        refuse_no_zeros(method.sparsity, sources.values())
    with load_for(path, text) as model, ThreadPoolExecutor(available_threads()) as pool:
        windows = text.windows(model)
        rounding = _Rounding(model, method, sources, folds, checkpoint, quantizer(plan), pool)
        in_layers = model.config.encoder is None
        count = sum(n_tokens(model, w) for w in windows)
        if not text.quiet:
            how: dict[str, Any] = {"hessian": method.hessian, "in_layers": in_layers, "threads": available_threads()}
            how |= {"zeros": method.sparsity is not None}
            takes = format_bytes(predicted(model, sources.values(), count, **how))
            print(f"rounding by {count} tokens takes {takes} besides the mapped checkpoint", file=sys.stderr)
        weights = (rounding.layer_by_layer if in_layers else rounding.at_once)(windows, text)
        tied = "embed" in sources and rounding.tied
    receipt: dict[str, Any] = {
        "method": str(method),
        "text_sha256": hashlib.sha256(text.text.encode()).hexdigest(),
        "tokens": count,
        "window": text.window,
        "statistics": "layer by layer" if in_layers else "in one pass",
    }
    if method.rounding:
        receipt |= {"damping": DAMPING} | ({"tied_damping": TIED_DAMPING} if tied else {})
    if method.rounding == "gptq":
        receipt |= {"order": "activation"}
    if method.sparsity is not None:
        receipt |= {"sparsity": str(method.sparsity), "order": "as stored"}
    if method.scaling:
        receipt |= {"exponent": ALPHA if method.scaling == "smooth" else "searched"}
        receipt |= {"not_scaled": dict(sorted(Counter(at.rpartition(".")[2] for at in left).items()))}
    return Rounded(weights, receipt | {"rounded_as_ever": dict(sorted(rounding.plain.items()))})


@dataclass(frozen=True)
class _Rounding:
    """What is rounded: `sources` by name. `ever`: rounding as ever; `plain`: of how many of each role that is all.

    `columns`, `divisors`: by a weight's name, what its columns were multiplied by, and its rows divided.
    """

    model: Model
    method: Method
    sources: dict[str, Source]
    folds: list[Fold]
    checkpoint: Checkpoint
    ever: PackRows
    pool: Executor
    plain: Counter[str] = field(default_factory=Counter)
    columns: dict[str, F64] = field(default_factory=dict)
    divisors: dict[str, F64] = field(default_factory=dict)

    def layer_by_layer(self, windows: Sequence[Sequence[int]], text: Text) -> dict[str, Weight]:
        """A decoder's."""
        weights, hessian = self.model.session.weights, self.method.hessian
        after = [n for n in self.sources if n in AFTER or (n == "embed" and self.tied)]
        before = {n: self.as_ever(s) for n, s in self.sources.items() if "layers." not in n and n not in AFTER}
        self.plain.update(role_of(n) for n in before if n not in after)

        def change(layer: Layer, statistics: Statistics) -> tuple[Layer, dict[str, NDArray[Any]]]:
            made = self.made({w.name: w for w in weights_in(layer)}, statistics)
            return with_weights(layer, made), {n: w.array for n, w in made.items() if w.array is not None}

        dtypes = sorted((name, source.dtype) for name, source in self.sources.items())
        mark = mark_of(self.model, windows, "rounded layer by layer", self.method.typed, dtypes)
        own = with_weights(replace(weights.stack, layers=()), before)
        how: dict[str, Any] = {"hessian": hessian, "leaving": bool(after), "file": text.file, "quiet": text.quiet}
        own = replace(own, layers=weights.stack.layers)
        kept, stream = through_layers(self.model, windows, change, mark, weights=own, **how)
        made = before | {n: self.packed(n, array) for n, array in kept.items()}
        add = seen_by_head(self.model.config, weights, hessian=hessian)
        if not after or add is None or stream is None:
            return made
        add(statistics := Statistics(np.zeros(0), len(stream)), stream.astype(np.float64))
        there = {w.name: w for w in weights if w.name in after or "layers." not in w.name}
        return made | self.made({n: w for n, w in there.items() if n in after or n not in self.sources}, statistics)

    def at_once(self, windows: Sequence[Any], text: Text) -> dict[str, Weight]:
        """An encoder's, or an encoder-decoder's."""
        weights, config = self.model.session.weights, self.model.config
        leaving = seen_by_head(config, weights, hessian=self.method.hessian)
        file = None if config.seq2seq else text.file
        how: dict[str, Any] = {"hessian": self.method.hessian, "leaving": leaving, "file": file, "quiet": text.quiet}
        statistics = calibrate(self.model, windows, **how)
        with progress(len(self.sources), 0, "rounding", quiet=text.quiet) as bar:
            return self.made({w.name: w for w in weights}, statistics, bar)

    def made(
        self, weights: dict[str, Weight], statistics: Statistics, bar: Callable[[int], object] = id
    ) -> dict[str, Weight]:
        """What becomes of these weights: matrices that are rounded, and vectors that are divided."""
        for fold in self.folds:
            if fold.readers[0] in weights:
                self._scale(fold, statistics)
        made, rows = {}, _Rows(self.method, statistics, {})
        for name, w in weights.items():
            if name in self.sources:
                made[name] = self.by(rows, self.sources[name])
                bar(1)
            elif name in self.divisors:
                made[name] = self.packed(name, (w.f64() / self.divisors[name]).astype(np.float32))
        return made

    def _scale(self, fold: Fold, statistics: Statistics) -> None:
        """Find a place's factors, where the text shows what is read there."""
        mine = statistics_of(statistics, fold.readers[0])
        total = mine.squares.get(fold.place)
        if total is None or not total.any():
            return
        columns = fold.columns(len(total))
        sources = [self.sources[reader] for reader in fold.readers]
        if self.method.scaling == "awq":
            s = awq(mine.hessian[fold.place], columns, sources, self.checkpoint, self.ever)
        else:
            s = smooth(total, columns, sources, self.checkpoint)
        s = s.astype(np.float32).astype(np.float64)
        self.columns.update(dict.fromkeys(fold.readers, s[columns]))
        self.divisors.update(dict.fromkeys((*fold.vectors, *filter(None, [fold.rows])), s))

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding."""
        weights = self.model.session.weights
        return weights.head is not None and weights.head.w is weights.stack.embed

    def as_ever(self, source: Source) -> Weight:
        """Without statistics."""
        return self._quantized(source, self.ever)

    def by(self, rows: _Rows, source: Source) -> Weight:
        """By the statistics of what it reads, where there are any."""
        if not self.method.rounding:
            return self.as_ever(source)
        tied = source.name == "embed" and self.tied
        pack = rows.of("head", TIED_DAMPING) if tied else rows.of(source.name, by=self.columns.get(source.name))
        if pack is None:
            self.plain[role_of(source.name)] += 1
            zeros = self.method.sparsity if may_have_zeros(source.name) else None
            pack = self.ever if zeros is None else ByMagnitude(zeros, self.ever)
        return self._quantized(source, pack)

    def _quantized(self, source: Source, pack: PackRows) -> Weight:
        factors = self.columns.get(source.name), self.divisors.get(source.name)
        by, divisor = (None if x is None else x.astype(np.float32) for x in factors)
        scaled = None if by is None and divisor is None else (by, divisor)
        return quantized(source, self.checkpoint, pack, self.pool, scaled)

    def packed(self, name: str, array: NDArray[Any]) -> Weight:
        """A weight of ours by its array: a matrix, or a vector."""
        source = self.sources.get(name)
        dtype, shape = ("f32", array.shape) if source is None else (source.dtype, source.shape)
        return Weight(name, dtype, shape, array, mapped=False)


@dataclass(frozen=True)
class _Rows:
    """How the rows of each matrix are rounded by some statistics; `made`: those that are known, by their place."""

    method: Method
    statistics: Statistics
    made: dict[tuple[bool, str], PackRows | None]

    def of(self, name: str, damping: float = DAMPING, by: F64 | None = None) -> PackRows | None:
        """By the matrix's name; None: nothing is known of what it reads. `by`: what its columns were multiplied by.

        Matrices of a place have the same.
        """
        stack, layers, key = name.rpartition("layers.")
        if layers and role_of(key) not in PLACES:
            return None
        at = (bool(stack), seen_as(layers + key) if layers else name)
        if at not in self.made:
            mine = statistics_of(self.statistics, name)
            sums = mine.hessian if self.method.rounding == "gptq" else mine.squares
            zeros = self.method.sparsity if layers else None
            self.made[at] = None if at[1] not in sums else self._pack(sums[at[1]], damping, by, zeros)
        return self.made[at]

    def _pack(self, sums: F64, damping: float, by: F64 | None, zeros: Sparsity | None) -> PackRows | None:
        if self.method.rounding == "gptq":
            hessian = sums if by is None else sums / np.outer(by, by)
            return by_hessian(hessian, damping) if zeros is None else by_hessian_with_zeros(hessian, zeros, damping)
        return by_squares(sums if by is None else sums / by**2, damping)


def statistics_of(statistics: Statistics, name: str) -> Statistics:
    """Of the stack that a weight belongs to."""
    encoder = name.startswith("encoder.") and statistics.encoder is not None
    return statistics.encoder if encoder and statistics.encoder is not None else statistics
