"""What a plan, a set of indices and a list of ids may not say, next to what they may."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from miaotui.errors import InputError, PlanError
from miaotui.loader.prune.plan import PrunePlan
from miaotui.loader.ranges import read_indices, read_ranges
from miaotui.runtime.rules import Rules, rules_from


@given(st.sets(st.integers(0, 60), min_size=1), st.data())
def test_a_text_of_ranges_says_what_its_indices_say(indices: set[int], data: st.DataObject) -> None:
    """In any order of pieces; an index that is named twice is refused, wherever it lies."""
    pieces = [str(i) for i in sorted(indices)]
    runs = sorted(indices)
    if len(runs) > 1 and runs[1] == runs[0] + 1:
        pieces[:2] = [f"{runs[0]}-{runs[1]}"]
    text = ",".join(data.draw(st.permutations(pieces)))
    assert read_indices(text, "layers") == tuple(runs)
    ranges = read_ranges(text, "layers")
    assert [i for first, stop in ranges for i in range(first, stop)] == runs
    assert all(stop < first for (_, stop), (first, _) in pairwise(ranges))
    twice = data.draw(st.sampled_from(runs))
    for read in (read_indices, read_ranges):
        with pytest.raises(PlanError, match=f"layers: {twice} is named twice"):
            read(f"{text},{twice}", "layers")
        with pytest.raises(PlanError):
            read(f"{text},70-69", "layers")
    with pytest.raises(PlanError, match=r"is named twice|named"):
        read_ranges(f"{text},{twice}-{twice}", "layers")


@pytest.mark.parametrize("key", ["0-1", "0,1", "", "-1", "x"])
def test_what_is_not_one_layer(key: str) -> None:
    assert PrunePlan(heads={"0": "0", "1": "1"}).heads == {0: (0,), 1: (1,)}  # type: ignore[dict-item]
    with pytest.raises(PlanError):
        PrunePlan(heads={key: "0"})  # type: ignore[dict-item]


def test_a_layer_that_is_named_twice() -> None:
    with pytest.raises(PlanError, match="is not one layer, named once"):
        PrunePlan(heads={"1": "0", 1: "1"})  # type: ignore[dict-item]


FIRST: dict[str, Any] = {"layers": (0, 2), "vocab": (0, 1, 2, 5), "width": (1, 3)}
LEFT = {"n_layers": 2, "n_vocab": 4, "d_model": 2}


@pytest.mark.parametrize("name", sorted(LEFT))
def test_a_second_plan_is_for_what_the_first_leaves(name: str) -> None:
    first = PrunePlan(**FIRST)
    assert first.then(PrunePlan(layers=(1,), model=LEFT)).layers == (2,)
    for other in (LEFT[name] - 1, LEFT[name] + 1):
        with pytest.raises(PlanError, match=f"the second plan is for a model with {name} {other}, the first leaves"):
            first.then(PrunePlan(layers=(1,), model=LEFT | {name: other}))


def test_a_second_plan_keeps_of_what_there_is() -> None:
    first = PrunePlan(**FIRST)
    assert first.then(PrunePlan(vocab=(0, 3))).vocab == (0, 5)
    assert first.then(PrunePlan(width=(1,))).width == (3,)
    for more in ({"vocab": (4,)}, {"width": (2,)}, {"layers": (2,)}):
        with pytest.raises(PlanError, match="the second plan keeps"):
            first.then(PrunePlan(**more))


def test_two_plans_that_cut_ids_say_the_same_of_them() -> None:
    def cut(vocab: tuple[int, ...] | None, fallback: str | None) -> PrunePlan:
        return PrunePlan(vocab=vocab, vocab_fallback=fallback)

    assert cut((0, 1, 2), "unk").then(cut((0, 1), "unk")).vocab_fallback == "unk"
    assert cut((0, 1, 2), "unk").then(PrunePlan(layers=(0,))).vocab_fallback == "unk"
    assert PrunePlan(layers=(0,)).then(cut((0, 1), "bytes")).vocab_fallback == "bytes"
    for mine, theirs in (("unk", "bytes"), ("bytes", "unk"), (None, "unk")):
        with pytest.raises(PlanError, match="both cut ids"):
            cut((0, 1, 2), mine).then(cut((0, 1), theirs))


@pytest.mark.parametrize("ids", [[-1], ["5"], [1.5], [True], "5", {"a": 1}, [[5]]])
def test_ids_that_are_none(ids: object) -> None:
    for name in ("suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id", "forced_bos_token_id"):
        with pytest.raises(InputError, match=f"{name}="):
            rules_from({name: ids}, Rules())
