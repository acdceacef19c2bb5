"""Texts longer than the context: their prompt is cut, or their first tokens stay in the cache, and the newest.

The latter is StreamingLLM (Xiao et al. 2023, arXiv:2309.17453, 3.2). A token sees the first `SINKS` of its text and
those that follow in the cache without a gap, to itself. Distances are those inside it. In the paper all keys are
rotated again for every token; here a key keeps the rotation of its place in the text, so that distances between the
newest are right for ever, and a sink's key is rotated once more for every page that is left out, by as many positions:
from the key as it was computed, so that nothing adds up. That is the product with a query that was rotated for its
place in the cache, but for rounding.

Which tokens are left out depends on the number of a token alone (`Table.gap_at`), never on how the text came, and so do
the bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from .engine.state import with_pools
from .kvcache import SINKS, key_order
from .rope import frequencies, sincos

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray

    from .backend import Backend
    from .engine.state import CacheLayer
    from .program import Program
    from .spec import Rope

    #: Of every layer whose tokens see all before them: names of its arrays, and the sinks' part of each.
    Kept = list[dict[str, NDArray[Any]]]
    Pages = tuple[NDArray[np.uint8], NDArray[np.uint8]]

__all__ = ["Sinks", "cut_left", "turned"]


def cut_left(ids: list[int], n: int, n_context: int, answer: int | None, bos_ids: Collection[int]) -> list[int]:
    """The last ids of a prompt after `n` others, which leave room for `answer` ids, at most half of the context.

    None asks for half. One of `bos_ids` that begins the text stays. Errors: `InputError`: there is no room for any.
    """
    answer = n_context // 2 if answer is None else min(answer, n_context // 2)
    room = min(n_context, n_context + 1 - answer) - n  # the last id drawn is never fed
    if len(ids) <= room:
        return ids
    kept = ids[:1] if n == 0 and ids[0] in bos_ids else []
    if room <= len(kept):
        msg = (
            f"overflow='truncate-left': the text has {n} tokens of a context of {n_context}, so nothing of the prompt "
            "fits after it; truncate it first, or use overflow='window'"
        )
        raise InputError(msg)
    return kept + ids[len(ids) - room + len(kept) :]


class Sinks:
    """Takes the first keys and values out of a page of the cache, and puts them into another."""

    def __init__(self, backend: Backend, program: Program) -> None:
        """Of a backend that is bound to the program, and whose pools lie in the host's memory."""
        self._backend, self._program = backend, program

    def kept(self, page: int) -> Kept:
        """Copies of what lies at a page's first slots."""
        return [
            {name: view(pools["keys" in name][:, page])[:, 0, :SINKS].copy() for name, view in layer.views().items()}
            for layer, pools in self._layers()
        ]

    def put(self, kept: Kept, page: int, by: int) -> None:
        """Write them at a page's first slots, the keys rotated by this many positions more."""
        for (layer, pools), arrays in zip(self._layers(), kept, strict=True):
            now = arrays | _turned(layer, arrays, by)
            for name, view in layer.views().items():
                view(pools["keys" in name][:, page])[:, 0, :SINKS] = now[name]

    def _layers(self) -> Iterator[tuple[CacheLayer, Pages]]:
        """Those of the group whose tokens see all before them."""
        windows = self._program.groups
        return (each for each in with_pools(self._backend, self._program) if windows[each[0].group] is None)


def turned(keys: NDArray[np.float64], rope: Rope, by: int) -> NDArray[np.float64]:
    """[..., d_head], rotated by `by` positions more: the same bits on every machine."""
    r, out = rope.d_rotary, keys.copy()
    sin, cos = sincos(by * frequencies(rope, r))
    first, second = (slice(0, r, 2), slice(1, r, 2)) if rope.interleaved else (slice(r // 2), slice(r // 2, r))
    a, b = keys[..., first], keys[..., second]
    out[..., first], out[..., second] = a * cos - b * sin, b * cos + a * sin
    return out


def _turned(layer: CacheLayer, arrays: dict[str, NDArray[Any]], by: int) -> dict[str, NDArray[Any]]:
    """The keys among a layer's arrays, as the cache has them, rotated by `by` positions more; their scales too."""
    if layer.rope is None:
        return {}
    name, order = f"layers.{layer.number}.keys", key_order(layer.d_head)
    lies, scales = arrays[name], arrays.get(f"{name}.scales")
    keys = turned(_wide(lies[..., order], scales), layer.rope, by).astype(np.float32)
    out = lies.copy()
    if scales is None:
        out[..., order] = keys if layer.dtype == "f32" else _bf16(keys)
        return {name: out}
    top = np.abs(keys).max(-1)
    inverse = np.divide(np.float32(127), top, out=np.zeros_like(top), where=top > 0)
    out[..., order] = np.rint(np.nan_to_num(keys * inverse[..., None])).astype(np.int8)
    return {name: out, f"{name}.scales": top / np.float32(127) + (top - top)}  # NaN where a key is no number


def _wide(numbers: NDArray[Any], scales: NDArray[Any] | None) -> NDArray[np.float64]:
    """What numbers of the cache stand for."""
    bf16 = numbers.dtype == np.uint16
    floats: NDArray[Any] = (numbers.astype(np.uint32) << 16).view(np.float32) if bf16 else numbers
    wide: NDArray[np.float64] = floats.astype(np.float64)
    return wide if scales is None else wide * scales[..., None]


def _bf16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    """To nearest even, as `kv_write` rounds; NaN stays NaN."""
    bits = x.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(x), bits >> 16 | 0x40, rounded).astype(np.uint16)
