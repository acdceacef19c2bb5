"""Saved texts that outgrew their context: loaded, they go on with the same bits; what is damaged is refused."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import SequenceFileError
from miaotui.runtime.kvcache import PAGE
from sequence_files import signed, to
from test_overflow import CONTEXT, DRAWN, MODELS, WINDOW, ids_of, written
from test_sequence_file import held

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("plain", {}),
    "mixed": ("mixed", {"kv_cache": "int8"}),
    "wide window": ("wide window", {"kv_cache": "bf16"}),
    "yarn": ("yarn", {"quantize": "int8"}),
}


@pytest.fixture(scope="module", params=["plain", *(pytest.param(k, marks=pytest.mark.ci) for k in list(KINDS)[1:])])
def models(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[miaotui.Model, miaotui.Model]]:
    """One that saves, and one with other threads, chunks and pages that loads."""
    name, options = KINDS[request.param]
    path = written(tmp_path_factory.mktemp("outgrown"), MODELS[name])
    with (
        miaotui.load(path, threads=1, prefill_chunk=40, **options) as one,
        miaotui.load(path, threads=2, cache_tokens=3 * CONTEXT, **options) as other,
    ):
        yield one, other


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[miaotui.Model]:
    path = written(tmp_path_factory.mktemp("plain"), MODELS["plain"])
    with miaotui.load(path, threads=1, cache_tokens=3 * CONTEXT) as model:
        yield model


def go_on(text: miaotui.Sequence) -> list[bytes | list[int]]:
    """Far enough that more is left out."""
    fed = text.feed(ids_of(1, 5)).tobytes()
    return [fed, text.generate(max_new_tokens=PAGE, **WINDOW, **DRAWN).ids, text.feed([7]).tobytes()]


@settings(max_examples=3)
@given(
    st.sampled_from([CONTEXT + 1, CONTEXT + 2, CONTEXT + PAGE, CONTEXT + PAGE + 1, 2 * CONTEXT + 40]),
    st.integers(0, PAGE),
    st.sampled_from(["as it is", "cut", "forked", "evicted"]),
)
def test_a_loaded_text_goes_on_with_the_same_bits(
    models: tuple[miaotui.Model, miaotui.Model],
    tmp_path_factory: pytest.TempPathFactory,
    n: int,
    cut: int,
    what: str,
) -> None:
    one, other = models
    path = tmp_path_factory.getbasetemp() / "outgrown.sequence"
    with one.sequence(overflow="window") as text:
        text.feed(ids_of(n, n))
        if what == "cut":
            text.truncate(n - cut)
        twin = text.fork() if what == "forked" else text
        if what == "evicted":
            one.session.turn(lambda: one.session.pages.release(text.table))
        twin.save(path)
        there = twin.ids, twin.table.cached
        with other.load_sequence(path) as loaded:
            assert (loaded.ids, loaded.table.cached) == there
            with loaded.fork() as branch:
                made = go_on(branch)
            assert go_on(loaded) == made
            loaded.save(path)  # what was loaded can be saved again
            with other.load_sequence(path) as again:
                last = again.feed([5]).tobytes()
            assert loaded.feed([5]).tobytes() == last
        twin.save(path)
        assert (go_on(twin), twin.feed([5]).tobytes()) == (made, last)
        twin.close()
    assert held(other) == held(one) == 0


@pytest.mark.ci
def test_every_border_of_what_is_left_out(plain: miaotui.Model, tmp_path: Path) -> None:
    """The token that finds no slot, those next to it, and a text that was cut back to there; 4 s."""
    ids = ids_of(8, CONTEXT + PAGE + 3)
    with plain.sequence(overflow="window") as whole:
        whole.feed(ids)
        for n in (*range(CONTEXT - 1, CONTEXT + 3), *range(CONTEXT + PAGE - 1, CONTEXT + PAGE + 3)):
            with plain.sequence(overflow="window") as text, whole.fork() as twin:
                text.feed(ids[:n])
                twin.truncate(n)
                for i, each in enumerate((text, twin)):
                    each.save(tmp_path / str(i))
                wanted = go_on(text)
                for i in range(2):
                    with plain.load_sequence(tmp_path / str(i)) as loaded:
                        assert len(loaded) == n
                        assert go_on(loaded) == wanted


def test_nothing_is_computed_again(plain: miaotui.Model, tmp_path: Path) -> None:
    with plain.sequence(overflow="window") as text:
        text.feed(ids_of(2, 3 * CONTEXT))
        text.save(tmp_path / "s")
    with plain.load_sequence(tmp_path / "s") as loaded:
        assert loaded.table.cached == 3 * CONTEXT
        loaded.feed([5])
        assert loaded.table.cached == 3 * CONTEXT + 1
    assert (tmp_path / "s").stat().st_size < 3 * CONTEXT * 8 + CONTEXT * 2 * 2 * 2 * 16 * 4 + 2**14


def test_another_context_is_refused(plain: miaotui.Model, tmp_path: Path) -> None:
    with plain.sequence(overflow="window") as text:
        text.feed(ids_of(2, CONTEXT + 9))
        text.save(tmp_path / "s")
    says = f"outgrew a context of {CONTEXT} tokens, .* load the model with max_context={CONTEXT}"
    with miaotui.load(plain._opened.directory, max_context=256) as small:
        with pytest.raises(SequenceFileError, match=says):
            small.load_sequence(tmp_path / "s")
        with plain.sequence(overflow="window") as text:  # one that did not goes on in any, and may still outgrow it
            text.feed(ids_of(2, 200))
            text.save(tmp_path / "t")
        with small.load_sequence(tmp_path / "t") as loaded, small.sequence(overflow="window") as text:
            text.feed(ids_of(2, 200))
            assert go_on(loaded) == go_on(text)
    with (
        miaotui.load(plain._opened.directory, max_context=255) as tiny,
        pytest.raises(SequenceFileError, match=r"may outgrow its context \(overflow='window'\): the context of 255"),
    ):
        tiny.load_sequence(tmp_path / "t")


def test_claims_are_compared_with_the_model(plain: miaotui.Model, tmp_path: Path) -> None:
    n = CONTEXT + 9
    cases = [
        (to("gap", 0), "gap=0: of 337 tokens in 328 slots"), (to("gap", 256), "gap=256"), (to("gap", -1), "gap=-1"),
        (to("gap", 128.0), "gap=128.0"), (to("context", CONTEXT + 1), "outgrew a context of 329"),
        (to("context", "328"), "context=328 is no count"), (to("cached", n + 1), "338 slots of 337 ids"),
        (to("cached", 5), "gap=128: of 5 tokens"),
        (lambda tensors, _: tensors.pop("layers.1.keys.sinks"), "layers.1.keys.sinks: expected .* found none"),
        (to("layers.2.keys.sinks", np.zeros(3, np.float32)), "no layers.2.keys.sinks"),
    ]  # fmt: skip
    for change, what in cases:
        with plain.sequence(overflow="window") as text:
            text.feed(ids_of(2, n))
            text.save(tmp_path / "s")
        signed(plain, tmp_path / "s", change)
        with pytest.raises(SequenceFileError, match=what):
            plain.load_sequence(tmp_path / "s")
    assert held(plain) == 0


def test_flipped_bytes(plain: miaotui.Model, tmp_path: Path) -> None:
    file = tmp_path / "s"
    with plain.sequence(overflow="window") as text:
        text.feed(ids_of(2, CONTEXT + 9))
        text.save(file)
    whole = file.read_bytes()
    for at in random.Random(3).sample(range(len(whole)), 60):  # noqa: S311 - places
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        with pytest.raises(SequenceFileError):
            plain.load_sequence(file)
    assert held(plain) == 0
