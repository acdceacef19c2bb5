"""Plan + mapped bytes -> `Weights`: views of the file where they serve, else one block allocated at once."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckpointError
from ..runtime.packed import packed_shape
from ..runtime.pages import zeroed
from ..runtime.spec import DTYPES, LayerWeights, Weight, Weights
from .quantize import pack_matrix, pack_rows
from .source import Rows, read, spans_by_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from .checkpoint import Checkpoint
    from .plan import LoadPlan
    from .quantize import PackRows
    from .source import Source

__all__ = ["pack", "planned"]

#: Bytes, or numbers compared, at a time where a copy is needed on the way.
PIECE = 2**22


def planned(plan: LoadPlan) -> Weights:
    """Every weight with its shape and dtype and no array: what `miaotui inspect` records a program with."""
    return _assemble(plan, lambda source: Weight(source.name, source.dtype, source.shape, None, source.offset is None))


def pack(plan: LoadPlan, checkpoint: Checkpoint, *, threads: int = 1, rows: PackRows = pack_rows) -> Weights:
    """Make every weight; matrices are quantised by `rows`, with so many threads.

    Raises `CheckpointError` where the tensors' data contradict the plan. The resident block is one anonymous mapping of
    `plan.resident_bytes`; it lives as long as any weight made from it. What was copied from the file is let go of.
    """
    if plan.cut.cuts:
        checkpoint.expect(spans_by_file(plan.touched))
    _check_twin(plan, checkpoint)
    block = zeroed(plan.resident_bytes) if plan.resident_bytes else None

    def make(source: Source) -> Weight:
        tensor = checkpoint.array(source.tensor.name)
        if source.offset is None:
            here = tensor if source.packed else read(source, tensor)
            return Weight(source.name, source.dtype, source.shape, here, mapped=True)
        assert block is not None  # noqa: S101 - a source with an offset makes resident_bytes positive
        out: NDArray[Any] = block[source.offset : source.offset + source.nbytes]
        if source.quantizes:
            out = out.reshape(packed_shape(source.dtype, source.shape))
            _quantize(out, source, checkpoint, into)
        else:
            out = out.view(DTYPES[source.dtype][1]).reshape(source.shape)
            _fill(out, tensor, source)
            checkpoint.release(source.tensor.name)
        out.flags.writeable = False
        return Weight(source.name, source.dtype, source.shape, out, mapped=False)

    pool: Executor | None = None
    if any(source.quantizes for source in plan):
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - 4 ms that only who quantises should pay

        pool = ThreadPoolExecutor(threads)
    into = partial(pack_matrix, pool=pool, threads=threads, pack=rows)
    with pool or contextlib.nullcontext():
        return _assemble(plan, make)


def _quantize(out: NDArray[np.uint8], source: Source, checkpoint: Checkpoint, into: Callable[..., bool]) -> None:
    """Write the tensor's kept part, rounded to integers by `into`; its pages are let go of as they have been read."""
    info, in_order = source.tensor, not (source.transposed or source.gathered)

    def done(span: slice) -> None:
        if in_order:  # otherwise the pages hold numbers of other rows too
            first = source.rows[0][0]
            checkpoint.release(info.name, first + span.start, first + span.stop)

    if not into(Rows(source, checkpoint.array(info.name)), info.dtype, source.dtype, out, done=done):
        msg = (
            f"{info.file}: tensor {info.name} holds numbers that {source.dtype} cannot (not finite, or too large for "
            "a float16 scale); load it without quantising"
        )
        raise CheckpointError(msg)
    if not in_order:
        checkpoint.release(info.name)


def _fill(out: NDArray[Any], tensor: NDArray[Any], source: Source) -> None:
    """Write the tensor's kept part into its place, a few rows at a time: turned, widened or narrowed as planned."""
    step = max(1, PIECE // (out[:1].nbytes or 1)) if source.gathered else len(out)
    for at in range(0, len(out), step or 1):
        span = slice(at, at + step)
        part = read(source, tensor, span)
        if source.tensor.dtype == "BF16" and source.dtype == "f32":
            np.left_shift(part, 16, out=out[span].view(np.uint32), dtype=np.uint32)
            continue
        try:
            with np.errstate(over="raise"):
                np.copyto(out[span], part, casting="same_kind")
        except FloatingPointError:
            info = source.tensor
            msg = f"{info.file}: tensor {info.name} holds F64 numbers beyond the range of F32; expected none"
            raise CheckpointError(msg) from None


def _check_twin(plan: LoadPlan, checkpoint: Checkpoint) -> None:
    """Refuse a head that is stored beside a tied embedding and differs from it."""
    if plan.twin is None:
        return
    source, info = plan.model["embed"], plan.model["embed"].tensor
    embed, head = checkpoint.array(info.name), checkpoint.array(plan.twin.tensor.name)
    step = max(1, PIECE // source.shape[1])
    pieces = (slice(i, i + step) for i in range(0, source.shape[0], step))
    same = info.dtype == plan.twin.tensor.dtype and all(
        np.array_equal(_bits(read(source, embed, span)), _bits(read(plan.twin, head, span))) for span in pieces
    )
    for tensor in (info, plan.twin.tensor):
        checkpoint.release(tensor.name)
    if not same:
        msg = (
            f"{plan.twin.tensor.file}: {plan.twin.tensor.name} differs from {info.name}, but tie_word_embeddings says "
            "that they are one. Set it to false in config.json to use both, or remove the tensor"
        )
        raise CheckpointError(msg)


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    """View the bytes as integers, so that equal NaN are equal."""
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def _assemble(plan: LoadPlan, make: Callable[[Source], Weight]) -> Weights:
    made = {
        key: LayerWeights(**{role: make(source) for role, source in layer.items()})
        for key, layer in {id(layer): layer for layer in plan.layers}.items()
    }
    layers = tuple(made[id(layer)] for layer in plan.layers)
    model = {role: make(source) for role, source in plan.model.items()}
    model.setdefault("head", model["embed"])
    return Weights(layers=layers, **model)
