"""What a text has in the cache, as arrays: taken out of pages, and put into those of another session.

Numbers lie slot after slot, whatever the pages were: [n_kv_heads, slots, d], with the dimensions of a head in the order
of the cache (`kvcache.py`). So they say nothing of which pages there are, nor of what else lay in them.
"""

from __future__ import annotations

from dataclasses import field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ...dataclass import dataclass
from ..kvcache import KEYS, KV_BYTES, PAGE, SINKS, padded
from ..pages import FullError
from ..rope import RopeTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from collections.abc import Sequence as Ids
    from typing import Any

    from numpy.typing import NDArray

    from ..backend import Backend
    from ..pages import Table
    from ..pools import Pools
    from ..program import Operand, Program
    from ..spec import Rope

    #: Dtype and shape of an array.
    Part = tuple[np.dtype[Any], tuple[int, ...]]
    #: Of one page in all heads, a view: [n_kv_heads, PAGE, d], or scales [n_kv_heads, PAGE].
    View = Callable[[NDArray[np.uint8]], NDArray[Any]]

__all__ = ["CacheLayer", "SequenceState", "cache_layers", "put_back", "take_out", "with_pools"]

#: The NumPy type of a number of the cache; bfloat16 has none, so its bits are counted.
NUMBERS: dict[str, type[np.generic]] = {"f32": np.float32, "bf16": np.uint16, "int8": np.int8}


@dataclass(frozen=True)
class SequenceState:
    """A text and what of it is computed: all that its continuation depends on, next to the model.

    `ids`: the whole text; `source`: what the encoder of an encoder-decoder reads, whose keys are computed again.
    `cached`: the first so many tokens are computed; `cache` has their keys and values by name (`CacheLayer.parts`),
    from the first on that a window still needs. `shift`: rows of the rotary table before the text's first (longrope).
    `seed`: of the sequence's draws, where the call gives none. `adapter`: the name of the text's. `context`: slots of a
    text that may outgrow its context, else 0; `gap`: tokens that are left out of them: `cache` then has the first as
    they were computed too (`CacheLayer.sinks`).
    """

    ids: list[int]
    source: list[int] | None = None
    seed: int | None = None
    cached: int = 0
    shift: int = 0
    cache: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    adapter: str | None = None
    context: int = 0
    gap: int = 0


@dataclass(frozen=True)
class CacheLayer:
    """The keys and values of one layer. `number`: among the layers that have a cache; `group`: whose pages it reads.

    `rope`: how its keys are rotated, if they are.
    """

    number: int
    group: int
    heads: int
    d_head: int
    dtype: str
    rope: Rope | None = None

    def parts(self, slots: int) -> dict[str, Part]:
        """Names of its arrays, their types and shapes for this many slots."""
        numbers: Part = (np.dtype(NUMBERS[self.dtype]), (self.heads, slots, padded(self.d_head)))
        scales: Part = (np.dtype(np.float32), (self.heads, slots))
        names = [f"layers.{self.number}.{what}" for what in ("keys", "values")]
        parts = dict.fromkeys(names, numbers)
        return parts | {f"{name}.scales": scales for name in names if self.dtype == "int8"}

    def sinks(self) -> dict[str, Part]:
        """As `parts`, of the first tokens of a text that outgrew its context, in a group whose tokens see all."""
        return {f"{name}.sinks": part for name, part in self.parts(SINKS).items()}

    def views(self) -> dict[str, View]:
        """By name, how the slots of a page lie: its bytes in all heads go in, a view of them comes out."""
        names = list(self.parts(0))
        return dict(zip(names, (self._keys, self._values, self._scales, self._scales), strict=False))

    def _numbers(self, page: NDArray[np.uint8]) -> NDArray[Any]:
        return page[:, : PAGE * padded(self.d_head) * KV_BYTES[self.dtype]].view(NUMBERS[self.dtype])

    def _keys(self, page: NDArray[np.uint8]) -> NDArray[Any]:
        blocks = self._numbers(page).reshape(self.heads, PAGE // KEYS, padded(self.d_head), KEYS)
        return blocks.transpose(0, 1, 3, 2)  # [heads, block, key of the block, d]

    def _values(self, page: NDArray[np.uint8]) -> NDArray[Any]:
        lanes = self._numbers(page).reshape(self.heads, KEYS, PAGE // KEYS, padded(self.d_head))
        return lanes.transpose(0, 2, 1, 3)  # as the keys

    def _scales(self, page: NDArray[np.uint8]) -> NDArray[Any]:
        return page[:, -4 * PAGE :].view(np.float32).reshape(self.heads, PAGE // KEYS, KEYS)


def cache_layers(program: Program) -> list[CacheLayer]:
    """The layers of a decoder that have a cache, in their order."""
    layers: list[CacheLayer] = []
    rotated: list[tuple[Operand, RopeTable]] = []
    for ins in program.code:
        table = ins.values.get("table")
        if isinstance(table, RopeTable):
            rotated.append((ins.values["y"], table))
        if ins.op == "kv_write" and all(cache.keep for cache in ins.tensors("o")):
            heads, d_head, group = (ins.values[name] for name in ("heads", "d_head", "group"))
            assert isinstance(heads, int) and isinstance(d_head, int) and isinstance(group, int)  # noqa: S101, PT018 - as recorded
            rope = next((table.rope for y, table in rotated if y is ins.values["k"]), None)
            layers.append(CacheLayer(len(layers), group, heads, d_head, ins.variant, rope))
    return layers


def take_out(session: Pools, program: Program, table: Table, state: SequenceState) -> SequenceState:
    """The state with copies of what a table holds; part of a turn."""
    cache: dict[str, NDArray[Any]] = {}
    slots = table.cached - table.gap
    for layer, pools in with_pools(session.backend, program) if table.cached else ():
        first, g = table.low[layer.group] * PAGE, layer.group
        parts = layer.parts(slots - first)
        for name, view in layer.views().items():
            dtype, shape = parts[name]
            out, pool = np.empty(shape, dtype), pools["keys" in name]
            for i in range(table.low[g], -(-slots // PAGE)):
                at, end = i * PAGE, min(slots, (i + 1) * PAGE)
                page = view(pool[:, table.numbers[g, i]])
                out[:, at - first : end - first] = page.reshape(layer.heads, PAGE, *shape[2:])[:, : end - at]
            cache[name] = out
    for kept in table.sinks or ():
        cache |= {f"{name}.sinks": array.copy() for name, array in kept.items()}
    return replace(state, cached=table.cached, shift=table.shift, cache=cache, gap=table.gap)


def put_back(session: Pools, program: Program, table: Table, state: SequenceState) -> None:
    """Fill pages of an empty table with a checked state; part of a turn. An exception leaves it empty.

    Errors: `FullError`.
    """
    if not state.cached:
        table.shift = state.shift
        return
    slots = state.cached - state.gap
    layers, low = list(with_pools(session.backend, program)), [0] * len(session.pages.windows)
    for layer, _ in layers:
        first = slots - state.cache[next(iter(layer.parts(0)))].shape[1]
        low[layer.group] = first // PAGE
    table.capacity = 0  # until it has its pages, it is as any text of so many slots
    if not session.take_in(table, slots, low):
        raise FullError(session.pages)
    whole = False
    try:
        for layer, pools in layers:
            for name, view in layer.views().items():
                _fill(partial(_page, pools["keys" in name], table.numbers[layer.group], view), state.cache[name], slots)
        if state.gap:
            seen = [layer for layer, _ in layers if session.pages.windows[layer.group] is None]
            table.sinks = [{name: state.cache[f"{name}.sinks"] for name in layer.views()} for layer in seen]
            table.gap, table.cached = state.gap, state.cached
        table.capacity = state.context
        table.shift, table.padding = state.shift, _padding(program, state)
        whole = True
    finally:
        if not whole:
            session.pages.release(table)


def _page(pool: NDArray[np.uint8], numbers: NDArray[np.int32], view: View, i: int) -> NDArray[Any]:
    return view(pool[:, numbers[i]])


def _fill(page: Callable[[int], NDArray[Any]], array: NDArray[Any], slots: int) -> None:
    """Write an array of the last slots, to this one, into pages; slots after the last become zero."""
    first = slots - array.shape[1]
    for i in range(first // PAGE, -(-slots // PAGE)):
        at, end = i * PAGE, min(slots, (i + 1) * PAGE)
        whole = np.zeros((array.shape[0], PAGE, *array.shape[2:]), array.dtype)
        whole[:, : end - at] = array[:, at - first : end - first]
        target = page(i)
        target[...] = whole.reshape(target.shape)


def _padding(program: Program, state: SequenceState) -> list[int]:
    """Slots of padding tokens, in a model where these have no position."""
    ids: Ids[int] = state.ids[: state.cached] if program.padding is not None else []
    return [slot for slot, token in enumerate(ids) if token == program.padding]


def with_pools(
    backend: Backend, program: Program
) -> Iterator[tuple[CacheLayer, tuple[NDArray[np.uint8], NDArray[np.uint8]]]]:
    """Each layer, with its pools of values and of keys, uint8 [n_kv_heads, n_pages, bytes of a page]."""
    layers = cache_layers(program)
    pools = {g: iter(backend.pools(g)) for g in range(len(program.groups))}
    for layer in layers:
        keys, values = next(pools[layer.group]), next(pools[layer.group])
        yield layer, (values, keys)
