"""Plan + mapped bytes -> `Weights`: views of the file where they serve, else one block allocated at once."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BackendError, CheckpointError
from ..runtime.memory import zeroed
from ..runtime.quantized import quantized_shape
from ..runtime.sparse import pack_sparse_rows
from ..runtime.spec import DTYPES, Attention, Buckets, Linear, Norm, StackWeights, Sublayer, Weight, Weights
from .quantize import pack_matrix, pack_rows, pack_sparse_matrix
from .roles import ATTENTION, CROSS, FEED_FORWARD, ROLES
from .source import Rows, narrowed, read, read_kept, read_masked, spans_by_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from ..runtime.spec import Config, FeedForward
    from .checkpoint import Checkpoint
    from .load_plan import LoadPlan
    from .quantize import PackRows
    from .source import Source

__all__ = ["pack", "planned"]

#: Bytes, or numbers compared, at a time where a copy is needed on the way.
PIECE = 2**22


def planned(plan: LoadPlan) -> Weights:
    """Every weight with its shape and dtype and no array: what `miaotui inspect` records a program with."""
    return _assemble(plan, lambda source: _weight(source, None))


def pack(plan: LoadPlan, checkpoint: Checkpoint, *, threads: int = 1, rows: PackRows = pack_rows) -> Weights:
    """Make every weight; matrices are quantised by `rows`, with this many threads.

    Raises `CheckpointError` where the tensors' data contradict the plan. The resident block is one anonymous mapping of
    `plan.resident_bytes`; it lives as long as any weight made from it. What was copied from the file is released.
    """
    if plan.cut.cuts:
        checkpoint.expect(spans_by_file(plan.touched))
    _check_twin(plan, checkpoint)
    pool = _pool(plan, threads)
    how = {"pool": pool, "threads": threads, "pack": rows}
    block = zeroed(plan.resident_bytes, "resident weights") if plan.resident_bytes else None

    def make(source: Source) -> Weight:
        tensor = checkpoint.array(source.tensor.name)
        if source.offset is None:
            return _weight(source, tensor if source.prequantized else read(source, tensor))
        assert block is not None  # noqa: S101 - a source with an offset makes resident_bytes positive
        out: NDArray[Any] = block[source.offset : source.offset + source.nbytes]
        if source.quantizes:
            out = out if source.sparse else out.reshape(quantized_shape(source.dtype, source.shape))
            _quantize(out, source, checkpoint, how)
        elif source.sparse:
            _fill_sparse(out, tensor, source, partial(_let_go, source, checkpoint))
            checkpoint.release(source.tensor.name)
        else:
            out = out.view(DTYPES[source.dtype][1]).reshape(source.shape)
            _fill(out, tensor, source, partial(_let_go, source, checkpoint))
            checkpoint.release(source.tensor.name)
        out.flags.writeable = False
        return _weight(source, out)

    try:
        with pool or contextlib.nullcontext():
            return _assemble(plan, make)
    except RuntimeError as e:  # of a pool
        if "thread" not in str(e):
            raise
        msg = f"threads={threads}: the system refused to start as many for quantising ({e}); load with fewer threads"
        raise BackendError(msg) from e


def _pool(plan: LoadPlan, threads: int) -> Executor | None:
    """Threads that quantise, where anything is."""
    if not any(source.quantizes for source in plan):
        return None
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - 4 ms that only who quantises should pay

    return ThreadPoolExecutor(threads)


def _weight(source: Source, array: NDArray[Any] | None) -> Weight:
    kept = source.kept or 0 if source.sparse else 0
    return Weight(source.name, source.dtype, source.shape, array, mapped=source.offset is None, kept=kept)


def _quantize(out: NDArray[np.uint8], source: Source, checkpoint: Checkpoint, how: Mapping[str, Any]) -> None:
    """Write the tensor's kept part, rounded to integers as `how` says; its pages are released as they are read."""
    info, tensor, done = source.tensor, checkpoint.array(source.tensor.name), partial(_let_go, source, checkpoint)
    if source.sparse:
        together = source.zeros.rows if source.zeros is not None else 1
        kept = partial(read_kept, source, tensor)
        fine = pack_sparse_matrix(kept, source.shape, info.dtype, out, together=together, done=done, **how)
    else:
        fine = pack_matrix(Rows(source, tensor), info.dtype, source.dtype, out, done=done, **how)
    if not fine:
        msg = (
            f"{info.file}: tensor {info.name} holds numbers that {source.dense} cannot (not finite, or too large for "
            "a float16 scale); load it without quantising"
        )
        raise CheckpointError(msg)
    if source.transposed:
        checkpoint.release(info.name)


def _let_go(source: Source, checkpoint: Checkpoint, span: slice) -> None:
    """Release the file's pages of rows `span` of the weight; of a turned tensor they hold other rows too."""
    if not source.transposed:
        rows = source.row_indices[span]
        checkpoint.release(source.tensor.name, int(rows[0]), int(rows[-1]) + 1)


def _fill(out: NDArray[Any], tensor: NDArray[Any], source: Source, done: Callable[[slice], None]) -> None:
    """Write the tensor's kept part into its place, a few rows at a time: turned, widened or narrowed as planned."""
    step = max(1, PIECE // (out[:1].nbytes or 1)) if source.gathered or source.chooses else len(out)
    for at in range(0, len(out), step or 1):
        span = slice(at, at + step)
        part = read_masked(source, tensor, span)
        if source.tensor.dtype == "BF16" and source.dtype == "f32":
            np.left_shift(part, 16, out=out[span].view(np.uint32), dtype=np.uint32)
        else:
            np.copyto(out[span], narrowed(source, part), casting="same_kind")
        if source.plus:
            out[span] += np.float32(source.plus)
        done(span)


def _fill_sparse(out: NDArray[np.uint8], tensor: NDArray[Any], source: Source, done: Callable[[slice], None]) -> None:
    """Write the numbers that stay, a few rows at a time: as many as were planned."""
    n, k = source.shape
    each = source.zeros.rows if source.zeros is not None else 1
    step = max(1, PIECE // (4 * k * each)) * each
    for at in range(0, n, step):
        span = slice(at, at + step)
        part, stays = read_kept(source, tensor, span)
        pack_sparse_rows(narrowed(source, part), stays, source.dtype, out, n, at)
        done(span)


def _check_twin(plan: LoadPlan, checkpoint: Checkpoint) -> None:
    """Refuse a head that is stored next to a tied embedding and differs from it."""
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
    made = _once(make)
    own, model = _stack(plan, made)
    if plan.config.decoder is None:
        return _with_head(Weights(encoder=own), plan.config, model)
    encoder = None if plan.encoder is None else _stack(plan.encoder, made)[0]
    return Weights(decoder=own, encoder=encoder, head=Linear(model.get("head", model["embed"]), model.get("head_bias")))


def _once(make: Callable[[Source], Weight]) -> Callable[[Source], Weight]:
    """Each source's weight, made when it is first asked for: one embedding of two stacks is one object."""
    made: dict[int, Weight] = {}

    def of(source: Source) -> Weight:
        if id(source) not in made:
            made[id(source)] = make(source)
        return made[id(source)]

    return of


def _stack(plan: LoadPlan, make: Callable[[Source], Weight]) -> tuple[StackWeights, dict[str, Weight]]:
    """A stack, and the model's own weights by role."""
    stack, made = plan.config.stack, {}
    for sizes, sources in zip(stack.layers, plan.layers, strict=True):
        if id(sources) not in made:  # a layer that runs twice is one object
            weights = {role: make(source) for role, source in sources.items()}
            made[id(sources)] = tuple(_sublayer(_kind(s), weights) for s in sizes)
    layers = tuple(made[id(sources)] for sources in plan.layers)
    model = {role: make(source) for role, source in plan.model.items()}
    if not stack.gains:
        ones = Norm(Weight("ones", "f32", (stack.d_model,), np.ones(stack.d_model, np.float32), mapped=False))
        layers = tuple(tuple(replace(s, norm_in=ones) for s in layer) for layer in layers)
    own = StackWeights(
        model["embed"],
        layers,
        norm=_norm_of(model, "norm") if stack.gains else ones,
        positions=_from_row(model.get("positions"), plan.config.positions or 0),
        token_types=model.get("token_types"),
        embed_norm=_norm_of(model, "embed_norm"),
        embed_project=_linear(model, "embed_project") if "embed_project" in model else None,
        biases=tuple(model.get("biases") if isinstance(b, Buckets) else None for b in stack.biases),
    )
    return own, model


def _with_head(weights: Weights, config: Config, model: Mapping[str, Weight]) -> Weights:
    """The encoder, and its head where it has one; a tied product with the vocabulary is the embedding."""
    if config.head is None:
        return weights
    dense = _linear(model, "head_dense") if "head_dense" in model else None
    if "classifier" in model:
        norm = _norm_of(model, "head_norm")
        return replace(weights, head=_linear(model, "classifier"), head_dense=dense, head_norm=norm)
    out = Linear(model.get("head", model["embed"]), model.get("head_bias"))
    return replace(weights, head=out, head_dense=dense, head_norm=_norm_of(model, "head_norm"))


def _from_row(table: Weight | None, first: int) -> Weight | None:
    """A table without its rows below that of position 0."""
    if table is None or not first:
        return table
    rows = None if table.array is None else table.array[first:]
    return replace(table, shape=(table.shape[0] - first, *table.shape[1:]), array=rows)


def _kind(s: Attention | FeedForward) -> str:
    if not isinstance(s, Attention):
        return FEED_FORWARD
    return CROSS if s.cross else ATTENTION


def _sublayer(kind: str, weights: Mapping[str, Weight]) -> Sublayer:
    """Weights of one sublayer, each in the field that `roles` names."""
    roles = [role for role in ROLES.values() if role.sublayer == kind and role.name in weights]
    linear = {role.field: _linear(weights, role.name) for role in roles if role.kind == "matrix"}
    others: dict[str, Any] = {role.field: _norm(weights, role.name) for role in roles if role.kind == "norm"}
    others |= {role.field: weights[role.name] for role in roles if role.kind == "table"}
    return replace(Sublayer(linear), **others)


def _linear(weights: Mapping[str, Weight], role: str) -> Linear:
    return Linear(weights[role], weights.get(f"{role}_bias"))


def _norm_of(weights: Mapping[str, Weight], role: str) -> Norm | None:
    return _norm(weights, role) if role in weights else None


def _norm(weights: Mapping[str, Weight], role: str) -> Norm:
    return Norm(weights[role], weights.get(f"{role}_bias"))
