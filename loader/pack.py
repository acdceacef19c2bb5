"""Plan + mapped bytes -> `Weights`: views of the file where they serve, else one block allocated at once."""

from __future__ import annotations

import contextlib
import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckpointError
from ..runtime.packed import QUANTIZED, packed_shape
from ..runtime.spec import DTYPES, LayerWeights, Weight, Weights
from .quantize import pack_matrix, pack_rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from .checkpoint import Checkpoint
    from .plan import LoadPlan, Source
    from .quantize import PackRows

__all__ = ["pack", "part_of", "planned"]


def planned(plan: LoadPlan) -> Weights:
    """Every weight with its shape and dtype and no array: what `miaotui inspect` records a program with."""
    return _assemble(plan, lambda source: Weight(source.name, source.dtype, source.shape, None, source.offset is None))


def pack(plan: LoadPlan, checkpoint: Checkpoint, *, threads: int = 1, rows: PackRows = pack_rows) -> Weights:
    """Make every weight; matrices are quantised by `rows`, with so many threads.

    Raises `CheckpointError` where the tensors' data contradict the plan. The resident block is one anonymous mapping of
    `plan.resident_bytes`; it lives as long as any weight made from it. What was copied from the file is let go of.
    """
    _check_twin(plan, checkpoint)
    block = _block(plan.resident_bytes) if plan.resident_bytes else None

    def make(source: Source) -> Weight:
        tensor = checkpoint.array(source.tensor.name)
        if source.offset is None:
            here = tensor if source.dtype in QUANTIZED else tensor[source.first : source.first + source.shape[0]]
            return Weight(source.name, source.dtype, source.shape, here, mapped=True)
        assert block is not None  # noqa: S101 - a source with an offset makes resident_bytes positive
        out: NDArray[Any] = block[source.offset : source.offset + source.nbytes]
        if source.quantizes:
            out = out.reshape(packed_shape(source.dtype, source.shape))
            quantize(out, tensor, source)
        else:
            out = out.view(DTYPES[source.dtype][1]).reshape(source.shape)
            _fill(out, tensor, source)
            checkpoint.release(source.tensor.name)
        out.flags.writeable = False
        return Weight(source.name, source.dtype, source.shape, out, mapped=False)

    pool: Executor | None = None

    def quantize(out: NDArray[np.uint8], tensor: NDArray[Any], source: Source) -> None:
        info, part = source.tensor, part_of(tensor, source)

        def done(span: slice) -> None:
            if source.transposed:  # every page holds numbers of every row
                return
            checkpoint.release(info.name, source.first + span.start, source.first + span.stop)

        if not pack_matrix(part, info.dtype, source.dtype, out, pool=pool, threads=threads, pack=rows, done=done):
            msg = (
                f"{info.file}: tensor {info.name} holds numbers that {source.dtype} cannot (not finite, or too large "
                "for a float16 scale); load it without quantising"
            )
            raise CheckpointError(msg)
        if source.transposed:
            checkpoint.release(info.name)

    if any(source.quantizes for source in plan):
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - 4 ms that only who quantises should pay

        pool = ThreadPoolExecutor(threads)
    with pool or contextlib.nullcontext():
        return _assemble(plan, make)


def _block(nbytes: int) -> NDArray[np.uint8]:
    """Zeroed pages, private and huge ones where the system gives them: a tenth of the faults while filling."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.frombuffer(mmap.mmap(-1, nbytes), np.uint8)
    pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)


def part_of(tensor: NDArray[Any], source: Source) -> NDArray[Any]:
    """The weight's numbers [out, in], as stored."""
    span = slice(source.first, source.first + source.shape[0])
    return tensor[:, span].T if source.transposed else tensor[span]


def _fill(out: NDArray[Any], tensor: NDArray[Any], source: Source) -> None:
    """Write the tensor's part into its place: turned, widened or narrowed as the plan says."""
    part = part_of(tensor, source)
    if source.tensor.dtype == "BF16" and source.dtype == "f32":
        np.left_shift(part, 16, out=out.view(np.uint32), dtype=np.uint32)
        return
    try:
        with np.errstate(over="raise"):
            np.copyto(out, part, casting="same_kind")
    except FloatingPointError:
        info = source.tensor
        msg = f"{info.file}: tensor {info.name} holds F64 numbers beyond the range of F32; expected none"
        raise CheckpointError(msg) from None


def _check_twin(plan: LoadPlan, checkpoint: Checkpoint) -> None:
    """Refuse a head that is stored beside a tied embedding and differs from it."""
    if plan.twin is None:
        return
    info = plan.model["embed"].tensor
    embed, head = checkpoint.array(info.name), checkpoint.array(plan.twin.name)
    step = max(1, 2**22 // embed.shape[1])  # in pieces: comparing allocates
    same = info.dtype == plan.twin.dtype and all(
        np.array_equal(_bits(embed[i : i + step]), _bits(head[i : i + step])) for i in range(0, len(embed), step)
    )
    for tensor in (info, plan.twin):
        checkpoint.release(tensor.name)
    if not same:
        msg = (
            f"{plan.twin.file}: {plan.twin.name} differs from {info.name}, but tie_word_embeddings says that they are "
            "one. Set it to false in config.json to use both, or remove the tensor"
        )
        raise CheckpointError(msg)


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    """View the bytes as integers, so that equal NaN are equal."""
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def _assemble(plan: LoadPlan, make: Callable[[Source], Weight]) -> Weights:
    layers = tuple(LayerWeights(**{role: make(source) for role, source in layer.items()}) for layer in plan.layers)
    model = {role: make(source) for role, source in plan.model.items()}
    model.setdefault("head", model["embed"])
    return Weights(layers=layers, **model)
