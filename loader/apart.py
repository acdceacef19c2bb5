"""Adapters that are kept apart from the matrices (`load(adapters=...)`): compared with a model, cut as it is, and read.

Of each adapter what is added to products is kept: A and B in float32, and of DoRA a row's factor m / |W + scale B A|,
W being the whole row in the file. What stands in place of the model's own weights cannot be one text's alone, and is
refused. Everything lies in one block of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import CheckpointError, ConfigError, HubError, InputError, shown
from ..runtime import spec
from ..runtime.memory import zeroed
from ..runtime.spec import Weight
from .adapter import ADAPTER_WEIGHTS, read_adapter
from .adapter_config import ADAPTER_CONFIG
from .hub import locate
from .merge import cut_alike, row_norms
from .places import Target
from .roles import expert_of, role_of
from .source import narrowed, read, stored
from .underflow import widened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from os import PathLike

    from numpy.typing import NDArray

    from .adapter import Adapter
    from .checkpoint import Checkpoint
    from .load_plan import LoadPlan
    from .merge import LowRank
    from .model_tensors import ModelTensors
    from .open import Opened
    from .source import Source

    #: Of one adapter's array: what it is, A and B, the matrix's source, its shape -> its numbers, or none yet.
    Fill = Callable[[str, LowRank, Source, tuple[int, ...]], NDArray[np.float32] | None]

__all__ = ["Apart", "read_apart"]

#: Bytes of a cache line, on which every array begins.
LINE = 64
#: Numbers of a matrix that are read at a time, where its rows are measured.
PIECE = 2**20


@dataclass(frozen=True, eq=False)
class Apart:
    """Adapters of a model. `parts`: by a product's name, each adapter's A and B, None where it has none of that.

    `sources`: what the product's matrix is made from. `lines`: each adapter in words.
    """

    names: tuple[str, ...]
    parts: Mapping[str, tuple[LowRank | None, ...]]
    sources: Mapping[str, Source]
    lines: tuple[str, ...]
    adapters: tuple[Adapter, ...]

    @property
    def nbytes(self) -> int:
        """Of the block that `loaded` allocates."""
        return sum(
            _lines(4 * n)
            for name, lows in self.parts.items()
            for low in lows
            if low is not None
            for n in _numbers(low, self.sources[name])
        )

    def planned(self) -> dict[str, tuple[spec.Adapter | None, ...]]:
        """What each product has of each adapter: shapes, and no arrays yet."""
        return {name: self._made(name, lambda *_: None) for name in self.parts}

    def loaded(self, checkpoint: Checkpoint) -> dict[str, tuple[spec.Adapter | None, ...]]:
        """The same with arrays. Errors: `CheckpointError` for what is not finite, or not the base model's."""
        block, at = zeroed(self.nbytes, "adapters") if self.nbytes else np.zeros(0, np.uint8), 0

        def array(shape: tuple[int, ...], values: NDArray[np.float32]) -> NDArray[np.float32]:
            nonlocal at
            n = 4 * int(np.prod(shape))
            out = block[at : at + n].view(np.float32).reshape(shape)
            out[...] = values
            out.flags.writeable = False
            at += _lines(n)
            return out

        def read_into(what: str, low: LowRank, source: Source, shape: tuple[int, ...]) -> NDArray[np.float32]:
            values = low.a if what == "down" else low.b if what == "up" else _ratio(low, source, checkpoint)
            return array(shape, values)

        try:
            return {name: self._made(name, read_into) for name in self.parts}
        finally:
            for adapter in self.adapters:
                adapter.close()

    def _made(self, name: str, fill: Fill) -> tuple[spec.Adapter | None, ...]:
        """Of one product every adapter's part."""
        source = self.sources[name]

        def part(number: int, low: LowRank | None) -> spec.Adapter | None:
            if low is None:
                return None

            def weight(what: str, *shape: int) -> Weight:
                values = fill(what, low, source, shape)
                return Weight(f"{name}.adapter{number}.{what}", "f32", shape, values, mapped=False)

            n, k = source.shape
            ratio = None if low.magnitudes is None else weight("ratio", n)
            return spec.Adapter(weight("down", low.rank, k), weight("up", n, low.rank), low.scale, ratio)

        return tuple(part(i, low) for i, low in enumerate(self.parts[name], 1))


def _lines(n: int) -> int:
    return -(-n // LINE) * LINE


def _numbers(low: LowRank, source: Source) -> tuple[int, ...]:
    """How many each array of a product's adapter has."""
    n, k = source.shape
    return (low.rank * k, n * low.rank, *(() if low.magnitudes is None else (n,)))


def _ratio(low: LowRank, source: Source, checkpoint: Checkpoint) -> NDArray[np.float32]:
    """m / |W + scale B A|, float32 [kept rows]: a row's length is that of the file's whole row."""
    tensor, whole, plain = stored(source, checkpoint), replace(source, columns=None), replace(low, magnitudes=None)
    step = max(1, PIECE // low.of_inputs.shape[1])
    norms = np.empty(source.shape[0], np.float32)
    for at in range(0, len(norms), step):
        span = slice(at, at + step)
        rows = widened(narrowed(whole, read(whole, tensor, span)), _stored(source))
        norms[span] = row_norms(replace(plain, columns=None).merged(rows, span))
    if not norms.all():
        low.merged(widened(narrowed(whole, read(whole, tensor, slice(None))), _stored(source)), slice(None))
    m = low.magnitude
    assert m is not None  # noqa: S101 - asked of DoRA alone
    ratio: NDArray[np.float32] = m / norms
    return ratio


def _stored(source: Source) -> str:
    """The dtype of what `narrowed` returns."""
    return "F32" if source.tensor.dtype == "F64" else source.tensor.dtype


def read_apart(adapters: Mapping[str, str | PathLike[str]] | None, opened: Opened, plan: LoadPlan) -> Apart | None:
    """The adapters of these directories, as they are to what a plan leaves of a model; None: none are asked for.

    Headers are read, and no data. Errors: as `read_adapter`; `InputError` for what cannot be kept apart.
    """
    if not adapters:
        return None
    read_all = {name: _read(name, path, opened) for name, path in adapters.items()}
    parts: dict[str, tuple[LowRank | None, ...]] = {}
    sources: dict[str, Source] = {}
    for name, target, source, of, stack in _products(opened, plan):
        every = [adapter.low.get(target) for adapter in read_all.values()]
        if name not in parts and any(every):
            parts[name] = tuple(None if low is None else cut_alike(low, of, stack.cut, target) for low in every)
            sources[name] = source
            _check_measured(parts[name], source, tuple(read_all))
    lines = tuple(f"adapter {shown(name)}, kept apart: {adapter}" for name, adapter in read_all.items())
    return Apart(tuple(read_all), parts, sources, lines, tuple(read_all.values()))


def _read(name: str, path: str | PathLike[str], opened: Opened) -> Adapter:
    """One adapter, whose errors begin with its name."""
    try:
        directory = locate(str(path), files=f"{ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}")
        adapter = read_adapter(directory, opened.model_tensors)
    except (CheckpointError, ConfigError, HubError, InputError) as e:
        msg = f"adapters: {shown(name)}: {str(e).removeprefix('adapter=')}"
        raise type(e)(msg) from e
    _check_kept_apart(name, adapter)
    return adapter


def _products(opened: Opened, plan: LoadPlan) -> Iterator[tuple[str, Target, Source, ModelTensors, LoadPlan]]:
    """Of every product that is left: its name, what it is in the file, its matrix's source, and its stack."""
    file, only = opened.model_tensors, plan.cut.only is not None  # of an encoder-decoder its encoder
    stacks = [] if only else [("", file, plan)]
    encoder = plan if only else plan.encoder
    if file.encoder is not None and encoder is not None:
        stacks.append(("encoder.", file.encoder, encoder))
    for stack, of, part in stacks:
        for new, old in enumerate(part.cut.layers):
            for key, source in part.layers[new].items():
                yield source.name, Target(stack, old, key), source, of, part
        for role, source in part.model.items():
            yield source.name, Target(stack, 0, role), source, of, part
        if "head" not in part.model and "embed" in part.model:  # which is the embedding
            yield "head", Target(stack, 0, "head"), part.model["embed"], of, part


def _check_kept_apart(name: str, adapter: Adapter) -> None:
    """InputError for what is more than something added to products."""
    tables = [t.role for t in adapter.low if role_of(t.role) in ("embed", "positions", "token_types")]
    experts = [t.role for t in adapter.low if expert_of(t.role) is not None]
    what = (
        (adapter.whole, "weights in place of the model's own (modules_to_save, bias)"),
        (adapter.bias_terms, "terms of biases (lora_bias)"),
        (adapter.tokens, "rows of an embedding (trainable_token_indices)"),
        (tables, "an embedding among its modules"),
        (experts, "experts among its modules"),
    )
    why = next((words for held, words in what if held), None)
    if why is not None:
        msg = f"adapters: {shown(name)}, {adapter.directory}: has {why}, which cannot be kept apart from the model; "
        msg += f"load(adapter={shown(str(adapter.directory))}) merges it"
        raise InputError(msg)


def _check_measured(lows: tuple[LowRank | None, ...], source: Source, names: tuple[str, ...]) -> None:
    """InputError for DoRA where the file has not the model's own numbers, whose rows' lengths it needs."""
    for name, low in zip(names, lows, strict=True):
        if low is None or low.magnitudes is None or not source.prequantized:
            continue
        why = f"this file has them as {source.dtype}; load the original checkpoint, with quantize={source.dtype!r}"
        msg = f"adapters: {shown(name)}: {low.module}: use_dora needs the model's own numbers, and {why}"
        raise InputError(msg)
