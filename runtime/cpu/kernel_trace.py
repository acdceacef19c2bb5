"""What a decoder's kernels compute for a text, by name: its program once more, with every result in a place of its own.

Products that are followed by something in the same instruction have no name: their own result is nowhere.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np

from ...errors import InputError
from ..forward.decoder import decoder
from ..naming import LOGITS, Naming
from ..precision import takes_pairs
from ..recorder.alone import alone
from ..recorder.record import Recorder
from ..rope import rope_tables
from ..sinusoids import with_sinusoids
from ..step import Batch
from .alone import run_alone, written

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Sequence as Ids

    from numpy.typing import NDArray

    from ..arena import Tensor
    from ..precision import Precision
    from ..spec import Activation, Config, Weight, Weights

__all__ = ["kernel_trace"]


class _Named(Naming["Tensor"], Recorder):
    """The recorder, with names for its tensors, each of which keeps its place."""

    def _tensor(self, name: str, rows: str, width: int, part: str = "activations", *, keep: bool = False) -> Tensor:
        return super()._tensor(name, rows, width, part, keep=keep or part == "activations")

    def embed(self, w: Weight) -> Tensor:
        """[T, d]."""
        self.embedding = w
        return self.note(w, super().embed(w), None)

    def embed_positions(self, w: Weight) -> Tensor:
        """[T, d]."""
        return self.note(w, super().embed_positions(w), None)

    def linear(
        self,
        x: Tensor,
        w: Weight,
        b: Weight | None = None,
        *,
        act: Activation | None = None,
        times: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """[t, k] -> [t, n]."""
        with self.aside() if w.lies is not None else nullcontext():  # a fused matrix, of which each part has a name
            y = super().linear(x, w, b, act=act, times=times, residual=residual)
        return self.note(w, y, x, residual, alone=act is None and times is None and residual is None)

    def rms_norm(self, x: Tensor, w: Weight, eps: float, groups: int = 1) -> Tensor:
        """[t, groups * d]."""
        return self.note(w, super().rms_norm(x, w, eps, groups), x)

    def layer_norm(self, x: Tensor, w: Weight, b: Weight | None, eps: float) -> Tensor:
        """[t, d]."""
        return self.note(w, super().layer_norm(x, w, b, eps), x)

    def kv_write(self, layer: int, k: Tensor, v: Tensor, heads: int) -> None:
        """Attention is about to be there."""
        self._has_attended = True
        super().kv_write(layer, k, v, heads)


def kernel_trace(
    config: Config,
    weights: Weights,
    names: Mapping[str, str],
    ids: Ids[int],
    *,
    threads: int,
    kv_cache: str,
    precision: Precision | None,
) -> dict[str, NDArray[np.float32]]:
    """Name -> float32 array of one pass of a whole text. Errors: `InputError`: it is no decoder alone."""
    if config.decoder is None or config.seq2seq:
        msg = f"kernels: {config.family} is {config.kind}; the numbers of kernels are there of decoders"
        raise InputError(msg)
    n = len(ids)
    weights, _ = with_sinusoids(config, weights, n + 1)
    ops = _Named(
        n_context=n, chunk=n, n_logits=n, threads=threads, kv_cache=kv_cache, precision=precision, n_positions=n,
        by_pairs=takes_pairs(precision, kv_cache),
    )  # fmt: skip
    seen: dict[str, Tensor] = {}
    ops.name_by(names, seen, scaled=config.stack.embed_scale != 1)
    hidden, logits = decoder(ops, config, weights, rope_tables(config, n))
    ops.enter(None, hidden)
    program = alone(ops, hidden if logits is None else logits)

    def fill(tables: int) -> Batch:
        batch = Batch(n, n, config.padding)
        batch.add(np.asarray(ids, np.int64), 0, tables, n)
        return batch

    arena = run_alone(program, fill)
    if logits is not None:
        seen[LOGITS] = logits
    return {name: written(arena, y, n).view(np.float32) for name, y in seen.items()}
