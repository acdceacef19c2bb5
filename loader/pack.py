"""Plan + mapped bytes -> `Weights`: views of the file where they serve, else one block allocated at once."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..errors import BackendError, CheckpointError
from ..runtime.memory import zeroed
from ..runtime.quantized import GROUP, quantized_shape
from ..runtime.sparse import pack_sparse_rows
from ..runtime.spec import (
    DTYPES,
    Attention,
    Buckets,
    FeedForward,
    Linear,
    Norm,
    Spaced,
    StackWeights,
    Sublayer,
    Weight,
    Weights,
)
from .ahead import read_ahead
from .quantize import BLOCK_ROWS, pack_matrix, pack_rows, pack_sparse_matrix
from .roles import ATTENTION, CROSS, EACH, EXPERTS, FEED_FORWARD, ROLES, expert_key
from .source import PREQUANTIZED, Rows, narrowed, read, read_kept, read_masked, softplus, spans_by_file, stored
from .underflow import TOKENS as ROWS_OF_TOKENS
from .underflow import Underflow, widened

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from ..runtime.spec import Config, Stack
    from .checkpoint import Checkpoint
    from .foreign.packed import Packed
    from .load_plan import LoadPlan
    from .quantize import PackRows
    from .source import Source
    from .underflow import Faint

    #: Of a matrix's columns what they are multiplied by, and of its rows what they are divided by; float32, None: 1.
    Factors = tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]

__all__ = ["pack", "planned", "quantized"]

#: Bytes, or numbers compared, at a time where a copy is needed on the way.
PIECE = 2**22
#: Numbers of a weight that an adapter changes at a time: they stay in the CPU's cache.
CHANGED = 2**15
#: Roles whose rows stand for tokens.
TOKENS = ("embed", "head")


def planned(plan: LoadPlan) -> Weights:
    """Every weight with its shape and dtype and no array: what `miaotui inspect` records a program with."""
    return _assemble(plan, lambda source: _weight(source, None), None)


def pack(
    plan: LoadPlan,
    checkpoint: Checkpoint,
    *,
    threads: int = 1,
    rows: PackRows = pack_rows,
    made: dict[int, Weight] | None = None,
) -> Weights:
    """Make every weight; matrices are quantised by `rows`, with this many threads.

    `made`: those that are there already by the `id` of their source, as all are in the end.
    Raises `CheckpointError` where the tensors' data contradict the plan. The resident block is one anonymous mapping of
    `plan.resident_bytes`; it lives as long as any weight made from it. What was copied from the file is released.
    """
    made = {} if made is None else made
    routed = [source for source in plan if source.expert is not None and source.offset is None]
    if plan.cut.cuts or routed:  # experts that are mapped are read when a token goes to them, and nothing around them
        later = {id(source) for source in routed} | made.keys()
        checkpoint.expect(spans_by_file(source for source in plan.touched if id(source) not in later))
    elif not checkpoint.fetched:  # tables are read row by row, but for the head, which comes last
        order = sorted(plan.touched, key=lambda source: source.role in TOKENS)
        infos = (info for source in order for tensor in source.tensors for info in tensor.pieces)
        read_ahead(((info.file, info.start, info.stop) for info in infos), lambda: checkpoint.closed)
    _check_twin(plan, checkpoint)
    _check_vectors(plan, checkpoint)
    pool = _pool(plan, threads)
    how = {"pool": pool, "threads": threads, "pack": rows}
    block = zeroed(plan.resident_bytes, "resident weights") if plan.resident_bytes else None

    def make(source: Source) -> Weight:
        tensor = stored(source, checkpoint)
        if source.offset is None:
            as_it_is = source.prequantized or source.spaced is not None
            return _weight(source, tensor if as_it_is else read(source, tensor))
        assert block is not None  # noqa: S101 - a source with an offset makes resident_bytes positive
        out: NDArray[Any] = block[source.offset : source.offset + source.nbytes]
        if source.quantizes or source.repacked:
            out = out if source.sparse else out.reshape(quantized_shape(source.dtype, source.shape))
            (_repack if source.repacked else _quantize)(out, source, checkpoint, how)
        elif source.sparse:
            _fill_sparse(out, tensor, source, partial(_let_go, source, checkpoint))
            checkpoint.release(source.tensor.name)
        else:
            out = out.view(DTYPES[source.dtype][1]).reshape(source.shape)
            many = bool(source.changes) or source.tensor.coded
            _fill(out, tensor, source, partial(_let_go, source, checkpoint), pool if many else None)
            for info in source.tensors:
                checkpoint.release(info.name)
        out.flags.writeable = False
        return _weight(source, out)

    try:
        with pool or contextlib.nullcontext():
            return _assemble(plan, make, _ones(plan, block), made)
    except RuntimeError as e:  # of a pool
        if "thread" not in str(e):
            raise
        msg = f"threads={threads}: the system refused to start as many for this ({e}); load with fewer threads"
        raise BackendError(msg) from e


def quantized(
    source: Source,
    checkpoint: Checkpoint,
    rows: PackRows,
    pool: Executor | None = None,
    factors: Factors | None = None,
) -> Weight:
    """One matrix of a plan, rounded by `rows`, in memory of its own; the same blocks of rows whatever the pool.

    `factors`: what its columns are multiplied by, and its rows divided, before that. Errors: `CheckpointError`, as in
    `pack`.
    """
    out = np.empty(quantized_shape(source.dtype, source.shape), np.uint8)
    _quantize(out, source, checkpoint, {"pool": pool, "threads": 1, "pack": rows}, factors)
    out.flags.writeable = False
    return _weight(source, out)


def _pool(plan: LoadPlan, threads: int) -> Executor | None:
    """Threads that quantise, widen, or put an adapter in, where anything is to be."""
    if not any((source.quantizes or source.changes or source.tensor.coded) and not source.lent for source in plan):
        return None
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - 4 ms that only who quantises should pay

    return ThreadPoolExecutor(threads)


def _weight(source: Source, array: NDArray[Any] | None) -> Weight:
    kept = source.kept or 0 if source.sparse else 0
    if source.spaced is not None:
        return _part(source, array)
    return Weight(source.name, source.dtype, source.shape, array, mapped=source.offset is None, kept=kept)


def _part(source: Source, array: NDArray[Any] | None) -> Weight:
    """A weight whose rows take turns with others' in `array`; the whole is named after the first of them."""
    assert source.spaced is not None  # noqa: S101 - asked of such alone
    each, stride, base = source.spaced
    name = f"{source.name.rpartition('.')[0]}.{source.first}"
    whole = Weight(name, source.dtype, tuple(source.tensor.shape), array, mapped=True)
    part = None if array is None else array.reshape(-1, stride, array.shape[-1])[:, base : base + each]
    return Weight(source.name, source.dtype, source.shape, part, mapped=True, lies=Spaced(whole, each, stride, base))


class _Scaled:
    """Rows of a matrix in float32, multiplied and divided."""

    def __init__(self, rows: Rows, dtype: str, factors: Factors) -> None:
        self._rows, self._dtype, (self._columns, self._divisors) = rows, dtype, factors

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, span: slice) -> NDArray[np.float32]:
        part = widened(self._rows[span], self._dtype)
        part = part if self._columns is None else part * self._columns
        return part if self._divisors is None else part / self._divisors[span, None]


def _quantize(
    out: NDArray[np.uint8],
    source: Source,
    checkpoint: Checkpoint,
    how: Mapping[str, Any],
    factors: Factors | None = None,
) -> None:
    """Write the tensor's kept part, rounded to integers as `how` says; its pages are released as they are read."""
    info, tensor, done = source.tensor, checkpoint.array(source.tensor.name), partial(_let_go, source, checkpoint)
    how = {**how, "done": done, "underflow": (underflow := Underflow(source.dense, tokens=source.role in TOKENS))}
    if source.sparse:
        together = source.zeros.rows if source.zeros is not None else 1
        kept = partial(read_kept, source, tensor)
        fine = pack_sparse_matrix(kept, source.shape, info.dtype, out, together=together, **how)
    elif factors is not None:
        fine = pack_matrix(_Scaled(Rows(source, tensor), info.dtype, factors), "F32", source.dtype, out, **how)
    else:
        fine = pack_matrix(Rows(source, tensor), info.dtype, source.dtype, out, **how)
    if not fine:
        _check_finite(source, checkpoint)
        msg = (
            f"{info.file}: tensor {info.name} holds numbers that {source.dense} cannot (too large for a float16 "
            "scale); load it without quantising"
        )
        raise CheckpointError(msg)
    if (faint := underflow.first()) is not None:
        raise CheckpointError(_too_faint(source, faint))
    if source.transposed or source.folded or info.coded:
        checkpoint.release(info.name)


def _repack(out: NDArray[np.uint8], source: Source, checkpoint: Checkpoint, how: Mapping[str, Any]) -> None:
    """Write the kept part of a matrix that others quantised, as it is."""
    from .foreign.forms import repack  # noqa: PLC0415 - few have any

    packed, done = cast("Packed", checkpoint.array(source.tensor.name)), partial(_let_go, source, checkpoint)
    repack(packed, source.dtype, source.row_indices, source.column_indices, out, pool=how["pool"], done=done)
    checkpoint.release(source.tensor.name)


def _check_vectors(plan: LoadPlan, checkpoint: Checkpoint) -> None:
    """Of a load that quantises, which checks its matrices: CheckpointError where a vector holds NaN or infinity."""
    if any(source.quantizes for source in plan):
        for source in plan:
            if len(source.shape) == 1 and not source.lent:
                _check_finite(source, checkpoint)


def _check_finite(source: Source, checkpoint: Checkpoint) -> None:
    """Refuse NaN and infinity in what a load keeps of a tensor: CheckpointError."""
    info, tensor, step = source.tensor, stored(source, checkpoint), PIECE // max(1, *source.shape[1:], 1)
    for at in range(0, source.shape[0], max(1, step)):
        part = read_masked(source, tensor, slice(at, at + max(1, step)))
        with np.errstate(over="ignore"):  # of F64
            bad = np.argwhere(~np.isfinite(widened(part, info.dtype)))
        if len(bad):
            place, row, columns = bad[0], int(source.row_indices[at + bad[0, 0]]), source.column_indices
            index = [row, *(int(i if columns is None else columns[i]) for i in place[1:])]
            what = widened(part[tuple(place)].reshape(1), info.dtype)[0]
            msg = (
                f"{info.file}: tensor {info.name}[{', '.join(map(str, index[:: -1 if source.transposed else 1]))}] is "
                f"{what}, and quantising needs finite numbers: the checkpoint is damaged, or its numbers overflow; "
                "compare the file with its publisher's checksum"
            )
            raise CheckpointError(msg)


def _too_faint(source: Source, faint: Faint) -> str:
    """What to do about numbers too small to be quantised."""
    row, last = int(source.row_indices[faint.row]), min(source.shape[1], faint.column + GROUP) - 1
    every = f" and in all of the {ROWS_OF_TOKENS} rows around it" if source.role in TOKENS else ""
    return (
        f"{source.tensor.file}: tensor {source.tensor.name}, output {row}, inputs {faint.column} to {last}{every}: no "
        f"number above {faint.largest:.3g}, too small for {source.dense}, whose scales are float16: they would be "
        f"rounded to nothing, or be off by several per cent. Leave this matrix as it is, quantize="
        f"'{source.dense},{source.role}=none', or scale it up and what multiplies it down"
    )


def _let_go(source: Source, checkpoint: Checkpoint, span: slice) -> None:
    """Release the file's pages of rows `span` of the weight; of a turned tensor they hold other rows too.

    Of a folded one, whose axes are others, and of several tensors, all go at once when it is made.
    """
    if not (source.transposed or source.folded or source.several):
        rows = source.row_indices[span]
        checkpoint.release(source.tensor.name, int(rows[0]), int(rows[-1]) + 1)


def _fill(
    out: NDArray[Any],
    tensor: NDArray[Any],
    source: Source,
    done: Callable[[slice], None],
    pool: Executor | None = None,
) -> None:
    """Write the tensor's kept part into its place, a few rows at a time: turned, widened or narrowed as planned."""
    step = len(out)
    if source.gathered or source.chooses:  # what lies between kept rows is touched with them, if none of it is kept
        between = 0 if source.transposed or source.several else tensor.nbytes // max(1, len(out))
        step = max(1, PIECE // (max(out[:1].nbytes, between) or 1))
    if source.changes:  # in float32, a few times over
        step = max(1, CHANGED // max(1, *source.tensor.shape))
    elif source.tensor.coded:  # the same, and several rows lie in a word
        step = max(BLOCK_ROWS, PIECE // max(1, *source.tensor.shape) // 8)

    def work(at: int) -> None:
        span = slice(at, at + step)
        part = read_masked(source, tensor, span)
        if source.tensor.dtype == "BF16" and source.dtype == "f32":
            np.left_shift(part, 16, out=out[span].view(np.uint32), dtype=np.uint32)
        else:
            np.copyto(out[span], narrowed(source, part), casting="same_kind")
        if source.plus:
            out[span] += np.float32(source.plus)
        if source.softplus:
            out[span] = softplus(out[span])
        done(span)

    for _ in (map if pool is None else pool.map)(work, range(0, len(out), step or 1)):
        pass


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
    """Refuse a head that is stored next to a tied embedding and differs from it, dtypes apart."""
    if plan.twin is None:
        return
    source, info = plan.model["embed"], plan.model["embed"].tensor
    embed, head = checkpoint.array(info.name), checkpoint.array(plan.twin.tensor.name)
    step = max(1, PIECE // source.shape[1])
    pieces = (slice(i, i + step) for i in range(0, source.shape[0], step))
    dtypes = info.dtype, plan.twin.tensor.dtype
    same = all(_alike(read(source, embed, span), read(plan.twin, head, span), *dtypes) for span in pieces)
    for tensor in (info, plan.twin.tensor):
        checkpoint.release(tensor.name)
    if not same:
        msg = (
            f"{plan.twin.tensor.file}: {plan.twin.tensor.name} differs from {info.name}, but tie_word_embeddings says "
            "that they are one. Set it to false in config.json to use both, or remove the tensor"
        )
        raise CheckpointError(msg)


def _alike(a: NDArray[Any], b: NDArray[Any], a_dtype: str, b_dtype: str) -> bool:
    """Whether both hold the same numbers; of two dtypes, after rounding either one to the other's."""
    if a_dtype == b_dtype:
        return np.array_equal(_bits(a), _bits(b))
    if PREQUANTIZED in (a_dtype, b_dtype):
        return False
    a_wide, b_wide = widened(a, a_dtype), widened(b, b_dtype)
    return any(
        np.array_equal(_rounded(x, dtype), y, equal_nan=True)
        for x, y, dtype in ((a_wide, b_wide, b_dtype), (b_wide, a_wide, a_dtype))
    )


def _rounded(x: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    """To what a file's dtype holds, to nearest and of two to the even one."""
    if dtype == "BF16":
        bits = x.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    with np.errstate(over="ignore"):  # what F16 cannot hold differs
        return x.astype(np.float16).astype(np.float32) if dtype == "F16" else x


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    """View the bytes as integers, so that equal NaN are equal."""
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def _ones(plan: LoadPlan, block: NDArray[np.uint8] | None) -> NDArray[np.float32] | None:
    """Gains that no file holds: the end of the block."""
    if block is None or not plan.ones_bytes:
        return None
    ones = block[plan.resident_bytes - plan.ones_bytes :].view(np.float32)[: plan.config.d_model]
    ones[:] = 1
    ones.flags.writeable = False
    return ones


def _assemble(
    plan: LoadPlan,
    make: Callable[[Source], Weight],
    ones: NDArray[np.float32] | None,
    there: dict[int, Weight] | None = None,
) -> Weights:
    made = _once(make, {} if there is None else there)
    own, model = _stack(plan, made, ones)
    if plan.config.decoder is None:
        return _with_head(Weights(encoder=own), plan.config, model)
    encoder = None if plan.encoder is None else _stack(plan.encoder, made, None)[0]
    if not plan.config.lm_head:
        return Weights(decoder=own)
    if plan.config.head is not None:
        return _with_head(Weights(decoder=own, encoder=encoder), plan.config, model)
    head = Linear(model.get("head", model["embed"]), model.get("head_bias"))
    dense = _linear(model, "head_dense") if "head_dense" in model else None
    return Weights(decoder=own, encoder=encoder, head=head, head_dense=dense)


def _once(make: Callable[[Source], Weight], made: dict[int, Weight]) -> Callable[[Source], Weight]:
    """Each source's weight, made when it is first asked for: one embedding of two stacks is one object."""

    def of(source: Source) -> Weight:
        if id(source) not in made:
            made[id(source)] = make(source)
        return made[id(source)]

    return of


def _stack(
    plan: LoadPlan, make: Callable[[Source], Weight], ones: NDArray[np.float32] | None
) -> tuple[StackWeights, dict[str, Weight]]:
    """A stack, and the model's own weights by role; `ones`: gains of norms of which a file has none."""
    stack, made = plan.config.stack, {}
    for sizes, sources in zip(stack.layers, plan.layers, strict=True):
        if id(sources) not in made:  # a layer that runs twice is one object
            weights = {role: make(source) for role, source in sources.items()}
            made[id(sources)] = tuple(_sublayer(s, weights) for s in sizes)
    layers = tuple(made[id(sources)] for sources in plan.layers)
    model = {role: make(source) for role, source in plan.model.items()}
    if not stack.gains:
        layers = _with_ones(stack, layers, ones)
    own = StackWeights(
        model["embed"],
        layers,
        norm=_norm_of(model, "norm") if stack.gains else _plain_norm("norm", stack, ones),
        positions=_from_row(model.get("positions"), plan.config.positions or 0),
        token_types=model.get("token_types"),
        embed_norm=_norm_of(model, "embed_norm"),
        embed_project=_linear(model, "embed_project") if "embed_project" in model else None,
        relative=model.get("relative"),
        relative_norm=_norm_of(model, "relative_norm"),
        convolution=_linear(model, "convolution") if "convolution" in model else None,
        convolution_norm=_norm_of(model, "convolution_norm"),
        biases=tuple(model.get("biases") if isinstance(b, Buckets) else None for b in stack.biases),
    )
    return own, model


def _with_head(weights: Weights, config: Config, model: Mapping[str, Weight]) -> Weights:
    """The same, and its head where it has one; a tied product with the vocabulary is the embedding."""
    if config.head is None:
        return weights
    dense = _linear(model, "head_dense") if "head_dense" in model else None
    if "classifier" in model:
        norm = _norm_of(model, "head_norm")
        return replace(weights, head=_linear(model, "classifier"), head_dense=dense, head_norm=norm)
    out = Linear(model.get("head", model["embed"]), model.get("head_bias"))
    return replace(weights, head=out, head_dense=dense, head_norm=_norm_of(model, "head_norm"))


def _plain_norm(name: str, stack: Stack, ones: NDArray[np.float32] | None) -> Norm:
    """With gains of ones."""
    return Norm(Weight(name, "f32", (stack.d_model,), ones, mapped=False))


def _with_ones(
    stack: Stack, layers: tuple[tuple[Sublayer, ...], ...], ones: NDArray[np.float32] | None
) -> tuple[tuple[Sublayer, ...], ...]:
    """Every sublayer with a norm of what it reads, named as a file's would be."""
    kinds = {ATTENTION: "attn_norm", FEED_FORWARD: "ffn_norm"}
    return tuple(
        tuple(
            replace(w, norm_in=_plain_norm(f"layers.{i}.{kinds[_kind(s)]}", stack, ones))
            for s, w in zip(*layer, strict=True)
        )
        for i, layer in enumerate(zip(stack.layers, layers, strict=True))
    )


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


def _sublayer(s: Attention | FeedForward, weights: Mapping[str, Weight]) -> Sublayer:
    """Weights of one sublayer, each in the field that `roles` names."""
    kinds = (_kind(s), EXPERTS) if _kind(s) == FEED_FORWARD else (_kind(s),)
    roles = [role for role in ROLES.values() if role.sublayer in kinds and role.name in weights]
    linear = {role.field: _linear(weights, role.name) for role in roles if role.kind == "matrix"}
    others: dict[str, Any] = {role.field: _norm(weights, role.name) for role in roles if role.kind == "norm"}
    others |= {role.field: weights[role.name] for role in roles if role.kind == "table"}
    numbers = {role.field: weights[role.name] for role in roles if role.kind == "number"}
    n = s.experts.n if isinstance(s, FeedForward) and s.experts is not None else 0
    every = tuple(
        {ROLES[role].field: Linear(weights[key]) for role in EACH if (key := expert_key(role, e)) in weights}
        for e in range(n)
    )
    return replace(Sublayer(linear, numbers=numbers, experts=every), **others)


def _linear(weights: Mapping[str, Weight], role: str) -> Linear:
    return Linear(weights[role], weights.get(f"{role}_bias"))


def _norm_of(weights: Mapping[str, Weight], role: str) -> Norm | None:
    return _norm(weights, role) if role in weights else None


def _norm(weights: Mapping[str, Weight], role: str) -> Norm:
    return Norm(weights[role], weights.get(f"{role}_bias"))
