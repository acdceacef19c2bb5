"""Where tensors lie: the same offsets as the plain definition gives, in time that grows with the layers alone."""

from __future__ import annotations

import gc
import json
import time
from bisect import insort
from typing import TYPE_CHECKING

import miaotui
import pytest
from checkpoints import small, write_checkpoint
from hypothesis import example, given
from hypothesis import strategies as st
from miaotui.errors import PlanError
from miaotui.runtime.arena import ALIGN, Tensor, _root, place, spans_overlap, waits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def plain_place(tensors: Sequence[Tensor], n_code: int) -> int:
    """As `place`, by comparing each tensor with all that are placed: the definition."""
    for t in tensors:
        if t.keep:
            t.born, t.dies = 0, n_code
    for t in tensors:
        if t.home is not None and (t.keep or t.home.keep or t.home.dies > t.born or t.home.nbytes < t.nbytes):
            t.home = None
    groups: dict[int, list[Tensor]] = {}
    for t in tensors:
        groups.setdefault(id(_root(t)), []).append(t)
    placed: list[tuple[int, int, int, int]] = []  # (offset, size, born, dies), by offset
    size = 0
    for group in sorted(groups.values(), key=lambda g: (not g[0].keep, -g[0].nbytes)):
        born, dies = min(t.born for t in group), max(t.dies for t in group)
        need, at = -(-max(t.nbytes for t in group) // ALIGN) * ALIGN, 0
        for other, length, b, d in placed:
            if b <= dies and born <= d and at + need > other and at < other + length:
                at = other + length
        insort(placed, (at, need, born, dies))
        size = max(size, at + need)
        for t in group:
            t.offset = at
    return size


N_CODE = 24
PIECES = st.lists(
    st.tuples(
        st.integers(0, N_CODE - 1),  # born
        st.integers(0, 9),  # lives for
        st.integers(1, 700),  # bytes: no tensor is empty
        st.sampled_from([False, False, False, True]),  # kept
        st.none() | st.integers(0, 30),  # written over the piece of this number, where there is one before it
    ),
    max_size=30,
)


def made(pieces: Sequence[tuple[int, int, int, bool, int | None]]) -> list[Tensor]:
    tensors: list[Tensor] = []
    for born, life, nbytes, keep, home in pieces:
        t = Tensor(f"t{len(tensors)}", "T", nbytes // 4, nbytes, "activations", keep)
        t.born, t.dies = born, min(N_CODE - 1, born + life)
        t.home = tensors[home] if home is not None and home < len(tensors) else None
        tensors.append(t)
    return tensors


#: Pieces written over others that are larger, and one that lives next to them.
SHARED = [(0, 1, 640, False, None), (1, 1, 320, False, 0), (2, 1, 64, False, 1), (1, 5, 400, False, None)]


@example(SHARED)
@given(PIECES)
def test_offsets_are_those_of_the_plain_definition(pieces):
    ours, plain = made(pieces), made(pieces)
    assert place(ours, N_CODE) == plain_place(plain, N_CODE)
    assert [t.offset for t in ours] == [t.offset for t in plain]


@example(SHARED)
@given(PIECES)
def test_what_lives_at_the_same_time_shares_no_byte(pieces):
    tensors = made(pieces)
    size = place(tensors, N_CODE)
    for i, t in enumerate(tensors):
        assert 0 <= t.offset <= t.offset + t.nbytes <= size
        for other in tensors[:i]:
            if _root(other) is not _root(t) and other.born <= t.dies and t.born <= other.dies:
                assert not spans_overlap([t.span], [other.span])


def layers(n: int) -> tuple[list[Tensor], int]:
    """The tensors of n layers of nine instructions: two caches, a residual, and what lives shortly."""
    tensors = []
    for layer in range(n):
        at = 9 * layer
        for nbytes, born, dies, keep in (
            (4096, at, at, True), (4096, at, at, True), (512, at, at + 9, False), (512, at, at + 1, False),
            (1024, at + 1, at + 3, False), (2048, at + 3, at + 4, False), (512, at + 4, at + 6, False),
            (1536, at + 6, at + 8, False),
        ):  # fmt: skip
            t = Tensor("t", "T", nbytes // 4, nbytes, "activations", keep)
            t.born, t.dies = born, dies
            tensors.append(t)
    return tensors, 9 * n + 1


def test_the_time_is_linear_in_the_layers():
    """Of a definition that compares each with all before, eight times the layers take 64 times as long."""

    def seconds(n: int) -> float:
        times = []
        for _ in range(3):
            tensors, n_code = layers(n)
            gc.collect()
            gc.disable()  # or the collector walks all tensors again and again
            began = time.process_time()
            place(tensors, n_code)
            waits([([t.span], [t.span]) for t in tensors])
            times.append(time.process_time() - began)
            gc.enable()
        return min(times)

    assert seconds(4000) < 24 * seconds(500)


@pytest.mark.ci  # 5 s
def test_a_plan_may_run_a_layer_some_thousand_times(tmp_path: Path):
    """Recording was quadratic once: a thousand layers took 36 s, four thousand would have taken ten minutes."""
    write_checkpoint(tmp_path, small("llama"))
    n = 4000
    plan = {"format": "miaotui-prune", "version": 1, "order": ",".join(["0-1"] * (n // 2))}
    began = time.process_time()
    with miaotui.load(tmp_path, threads=1, max_context=16, prune=plan) as model:
        assert model.config.n_layers == n
    assert time.process_time() - began < 60


def test_more_layers_than_a_config_may_have_are_refused(tmp_path: Path):
    write_checkpoint(tmp_path, small("llama"))
    (tmp_path / "plan.json").write_text(
        json.dumps({"format": "miaotui-prune", "version": 1, "order": ",".join(["0-1"] * 32769)})
    )
    with pytest.raises(PlanError, match="order: 65538 layers; expected at most 65536"):
        miaotui.load(tmp_path, prune=tmp_path / "plan.json")
