"""Adapters that are kept apart from the matrices (`load(adapters=...)`): compared with a model, cut as it is, and read.

Of each adapter what is added to products, and to the embedding's rows, is kept: A and B in float32, and of DoRA a row's
factor m / |W + scale B A|, W being the whole row in the file; biases in place of the model's; rows of the embedding and
of the head, some or all, as floats in the file's precision. Other weights in place of the model's own (norms, matrices
of layers) are refused. Everything lies in one block of its own.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..dataclass import dataclass
from ..errors import CheckpointError, ConfigError, HubError, InputError, shown
from ..runtime import spec
from ..runtime.memory import zeroed
from ..runtime.spec import Weight
from .adapter import ADAPTER_WEIGHTS, read_adapter
from .adapter_config import ADAPTER_CONFIG
from .apart_parts import Part, part_of, products_of, replaced_by
from .hub import locate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from os import PathLike

    from numpy.typing import NDArray

    from .adapter import Adapter
    from .checkpoint import Checkpoint
    from .load_plan import LoadPlan
    from .open import Opened
    from .source import Source

    class Asked(Protocol):
        """What `load` was asked for: adapters by name, and places for how many more, of which rank at most."""

        @property
        def adapters(self) -> Mapping[str, str | PathLike[str]] | None: ...
        @property
        def adapter_slots(self) -> int: ...
        @property
        def adapter_rank(self) -> int: ...

    #: Of one adapter's array: what it is, what the adapter has, the matrix's source, its shape -> its numbers, or none.
    Fill = Callable[[str, "Part", Source, tuple[int, ...]], NDArray[np.float32] | None]

__all__ = ["Apart", "read_added", "read_apart"]

#: Bytes of a cache line, on which every array begins.
LINE = 64


@dataclass(frozen=True, eq=False)
class Apart:
    """Adapters of a model. `parts`: by a product's name, what each adapter has of it, None where it has nothing.

    `sources`: what the product's matrix is made from. `lines`: each adapter in words.
    """

    names: tuple[str, ...]
    parts: Mapping[str, tuple[Part | None, ...]]
    sources: Mapping[str, Source]
    lines: tuple[str, ...]
    adapters: tuple[Adapter, ...]

    @property
    def nbytes(self) -> int:
        """Of the block that `loaded` allocates."""
        return sum(
            _lines(4 * math.prod(shape))
            for name, parts in self.parts.items()
            for part in parts
            if part is not None
            for shape in part.shapes(*self.sources[name].shape).values()
        )

    def planned(self) -> dict[str, tuple[spec.Adapter | None, ...]]:
        """What each product has of each adapter: shapes, and no arrays yet."""
        return {name: self._made(name, lambda *_: None) for name in self.parts}

    def loaded(self, checkpoint: Checkpoint) -> dict[str, tuple[spec.Adapter | None, ...]]:
        """The same with arrays. Errors: `CheckpointError` for what is not finite, or not the base model's."""
        block, at = zeroed(self.nbytes, "adapters") if self.nbytes else np.zeros(0, np.uint8), 0

        def read_into(what: str, part: Part, source: Source, shape: tuple[int, ...]) -> NDArray[np.float32]:
            nonlocal at
            n = 4 * math.prod(shape)
            out = block[at : at + n].view(np.float32).reshape(shape)
            if part.room is None:
                out[...] = part.values(what, source, checkpoint).reshape(shape)
                out.flags.writeable = False
            at += _lines(n)
            return out

        try:
            return {name: self._made(name, read_into) for name in self.parts}
        finally:
            for adapter in self.adapters:
                adapter.close()

    def _made(self, name: str, fill: Fill) -> tuple[spec.Adapter | None, ...]:
        """Of one product every adapter's part."""
        source = self.sources[name]

        def made(number: int, part: Part | None) -> spec.Adapter | None:
            if part is None:
                return None
            n, k = source.shape
            weights = {
                what: Weight(
                    f"{name}.adapter{number}.{what}", "f32", shape, fill(what, part, source, shape), mapped=False
                )
                for what, shape in part.shapes(n, k).items()
            }
            down, scale = weights.pop("down"), 1.0 if part.low is None else part.low.scale
            return spec.Adapter(down, weights.pop("up", None), scale, **weights, free=part.room is not None)

        return tuple(made(i, part) for i, part in enumerate(self.parts[name], 1))


def _lines(n: int) -> int:
    return -(-n // LINE) * LINE


def read_apart(request: Asked, opened: Opened, plan: LoadPlan) -> Apart | None:
    """The adapters of these directories, as they are to what a plan leaves of a model; None: none are asked for.

    With places for others to come. Headers are read, and data only to see whether an adapter's whole tensors are the
    model's own. Errors: as `read_adapter`; `InputError` for what cannot be kept apart.
    """
    adapters, slots = request.adapters or {}, request.adapter_slots
    if not adapters and not slots:
        return None
    read_all = {name: _read("adapters", name, path, opened) for name, path in adapters.items()}
    replaced = {name: replaced_by("adapters", name, adapter, opened) for name, adapter in read_all.items()}
    parts: dict[str, tuple[Part | None, ...]] = {}
    sources: dict[str, Source] = {}
    for product in products_of(opened, plan):
        every = [part_of(adapter, replaced[name], product, opened) for name, adapter in read_all.items()]
        room = product.room(request.adapter_rank)
        if product.name not in parts and (any(every) or (room and slots)):
            parts[product.name] = (*every, *[Part(room=room) if room else None] * slots)
            sources[product.name] = product.source
            _check_measured("adapters", every, product.source, read_all)
    lines = tuple(f"adapter {shown(name)}, kept apart: {adapter}" for name, adapter in read_all.items())
    if slots:
        lines = (*lines, f"adapter_slots: places for {slots} more adapters of rank {request.adapter_rank} at most")
    return Apart((*read_all, *[""] * slots), parts, sources, lines, tuple(read_all.values()))


def read_added(
    name: str, path: str | PathLike[str], opened: Opened, plan: LoadPlan, rank: int
) -> dict[str, tuple[dict[str, NDArray[np.float32]], float]]:
    """Of an adapter that comes later: by product its arrays, by their names in `spec.Adapter`, and its factor.

    Errors: as `read_apart`; `InputError` for what there is no room for.
    """
    call, out = "add_adapter", dict[str, tuple[dict[str, "NDArray[np.float32]"], float]]()
    with _read(call, name, path, opened) as adapter:
        replaced = replaced_by(call, name, adapter, opened)
        for product in products_of(opened, plan):
            part, room = part_of(adapter, replaced, product, opened), product.room(rank)
            if part is None or product.name in out:
                continue
            before = f"{call}: {shown(name)}, {adapter.directory}: "
            if room is None or part.whole is not None or part.rows is not None:
                msg = (
                    f"{before}has something for {product.name}, and later there is room for matrices of layers alone; "
                )
                msg += "name this adapter when you load: load(adapters={...})"
                raise InputError(msg)
            if part.low is not None and part.low.rank > rank:
                msg = f"{before}{part.low.module} has rank {part.low.rank}, above the adapter_rank={rank} that the "
                msg += f"model was loaded with; load with adapter_rank={part.low.rank}"
                raise InputError(msg)
            _check_measured(call, [part], product.source, [name])
            shapes = part.shapes(*product.source.shape)
            values = {
                what: part.values(what, product.source, opened.checkpoint).reshape(shape)
                for what, shape in shapes.items()
            }
            out[product.name] = values, 1.0 if part.low is None else part.low.scale
    return out


def _read(call: str, name: str, path: str | PathLike[str], opened: Opened) -> Adapter:
    """One adapter, whose errors begin with its name."""
    try:
        directory = locate(str(path), files=f"{ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}")
        return read_adapter(directory, opened.model_tensors)
    except (CheckpointError, ConfigError, HubError, InputError) as e:
        msg = f"{call}: {shown(name)}: {str(e).removeprefix('adapter=')}"
        raise type(e)(msg) from e


def _check_measured(call: str, parts: Iterable[Part | None], source: Source, names: Iterable[str]) -> None:
    """InputError for DoRA where the file has not the model's own numbers, whose rows' lengths it needs."""
    for name, part in zip(names, parts, strict=True):
        low = None if part is None else part.low
        if low is None or low.magnitudes is None or not source.prequantized:
            continue
        why = f"this file has them as {source.dtype}; load the original checkpoint, with quantize={source.dtype!r}"
        msg = f"{call}: {shown(name)}: {low.module}: use_dora needs the model's own numbers, and {why}"
        raise InputError(msg)
