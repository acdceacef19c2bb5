"""Where every tensor lies: liveness gives offsets, and offsets give barriers.

Both are pure functions over records; nothing is allocated here.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from ..dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ALIGN", "Spans", "Tensor", "place", "spans_overlap", "waits"]

#: [first byte, byte after the last) of pieces of the arena.
Spans = list[tuple[int, int]]

ALIGN = 64  # a cache line, and one sixteen-lane float32 vector


@dataclass(eq=False)
class Tensor:
    """A piece of the arena. `keep`: it lives from step to step (KV cache) or leaves the program (logits)."""

    name: str
    rows: str  # "T", "R", or "" where rows mean nothing (cache, scratch)
    width: int  # floats a row
    nbytes: int
    part: str  # "activations", "kv_cache" or "scratch"
    keep: bool = False
    born: int = -1
    dies: int = -1
    offset: int = -1
    home: Tensor | None = field(default=None, repr=False)  # shares this tensor's place (written over it)

    def __str__(self) -> str:
        """Name, shape and place, for a listing."""
        return f"{self.name}[{self.rows or '-'},{self.width}]@{self.offset}"

    @property
    def span(self) -> tuple[int, int]:
        """[first byte, byte after the last)."""
        return self.offset, self.offset + self.nbytes

    @property
    def end(self) -> int:
        """The first byte that another may have."""
        return self.offset + _whole(self.nbytes)


def _whole(nbytes: int) -> int:
    return -(-nbytes // ALIGN) * ALIGN


def _root(t: Tensor) -> Tensor:
    while t.home is not None:
        t = t.home
    return t


def place(tensors: Sequence[Tensor], n_code: int, first: int = 0) -> int:
    """Give every tensor its offset, from `first` on; the arena's size in bytes.

    Greedy by size, the largest first, each at the lowest offset that is free during its whole life (the "greedy by
    size" of Pisarchyk and Lee 2020, arXiv:2001.03288). What lives for ever comes first. Every other tensor is compared
    with those alone that are alive at the same instructions, so that the time is linear in the number of layers.
    """
    for t in tensors:
        if t.keep:
            t.born, t.dies = 0, n_code
    for t in tensors:  # a place is shared only if its first owner is dead by then
        if t.home is not None and (t.keep or t.home.keep or t.home.dies > t.born or t.home.nbytes < t.nbytes):
            t.home = None
    groups: dict[int, list[Tensor]] = {}
    for t in tensors:
        groups.setdefault(id(_root(t)), []).append(t)
    size = end = first  # of the arena, and of what lives for ever, which is stacked up from there
    alive: list[Spans] = [[] for _ in range(n_code + 1)]  # by instruction: the pieces that are placed there already
    for group in sorted(groups.values(), key=lambda g: (not g[0].keep, -g[0].nbytes)):
        need, at = _whole(max(t.nbytes for t in group)), end
        if group[0].keep:
            end += need
        else:
            life = alive[min(t.born for t in group) : max(t.dies for t in group) + 1]
            at = _lowest_free(sorted({span for there in life for span in there}), need, end)
            for there in life:
                there.append((at, at + need))
        size = max(size, at + need)
        for t in group:
            t.offset = at
    return size


def _lowest_free(spans: Spans, need: int, at: int) -> int:
    """The lowest offset, from `at` on, where `need` bytes meet none of the spans, which ascend."""
    for first, stop in spans:
        if first >= at + need:
            break
        at = max(at, stop)
    return at


def waits(accesses: Sequence[tuple[Spans, Spans]]) -> list[bool]:
    """Of each (reads, writes), in order: whether it must wait for everything before it.

    It waits only if it touches what another wrote, or writes what another read, since the last wait.
    """
    needed: list[bool] = []
    reads: Spans = []
    writes: Spans = []
    for r, w in accesses:
        needed.append(spans_overlap(writes, [*r, *w]) or spans_overlap(reads, w))
        if needed[-1]:
            reads, writes = [], []
        reads += r
        writes += w
    return needed


def spans_overlap(xs: Sequence[tuple[int, int]], ys: Sequence[tuple[int, int]]) -> bool:
    """Whether any interval of one list meets any of the other."""
    return any(a < d and c < b for a, b in xs for c, d in ys)
