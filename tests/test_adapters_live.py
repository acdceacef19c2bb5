"""`Model.add_adapter` and `remove_adapter`: an adapter that came later is one that was there from the beginning."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING

import miaotui
import numpy as np
import pytest
from adapters_apart import write_adapter
from checkpoints import small, write_checkpoint
from miaotui.errors import BackendError, InputError, MemoryLimitError, MiaotuiError
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

IDS = [1, 5, 9, 2, 7, 3, 8, 4, 6, 0, 10, 5, 5, 7, 2, 1, 3, 3, 8, 9]
EVERY = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    write_checkpoint(path, small("llama"))
    return path


@pytest.fixture(scope="module")
def paths(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    where = tmp_path_factory.mktemp("adapters")
    return {
        "all": write_adapter(where / "all", base, *EVERY, r=4),
        "some": write_adapter(where / "some", base, "q_proj", "down_proj", r=7, seed=1, use_rslora=True),
        "DoRA": write_adapter(where / "dora", base, *EVERY[:2], r=1, seed=2, use_dora=True),
    }


def test_one_that_comes_later_has_the_bits_of_one_that_was_loaded(base: Path, paths: dict[str, Path]) -> None:
    with (
        miaotui.load(base, adapters=paths, threads=2) as first,
        miaotui.load(base, adapters={"DoRA": paths["DoRA"]}, adapter_slots=2, adapter_rank=7, threads=1) as model,
        miaotui.load(base) as plain,
    ):
        assert model.adapters == ("DoRA",)
        model.add_adapter("some", paths["some"])
        model.add_adapter("all", paths["all"])
        assert model.adapters == ("DoRA", "some", "all")
        for name in (None, *paths):
            assert model.logits(IDS, adapter=name).tobytes() == first.logits(IDS, adapter=name).tobytes()
        assert model.logits(IDS).tobytes() == plain.logits(IDS).tobytes()
        with pytest.raises(
            InputError, match=r"add_adapter: 'more': the model has 2 places .*all taken; remove_adapter"
        ):
            model.add_adapter("more", paths["all"])
        with pytest.raises(InputError, match="'all': the model has an adapter of this name"):
            model.add_adapter("all", paths["all"])


def test_a_text_keeps_its_adapter_until_it_ends(base: Path, paths: dict[str, Path]) -> None:
    """And its pages never serve another adapter that gets the name, or the place."""
    with (
        miaotui.load(base, adapters=paths) as first,
        miaotui.load(base, adapter_slots=2, adapter_rank=8, cache_tokens=512) as model,
    ):
        model.add_adapter("a", paths["all"])
        text = model.sequence(adapter="a")
        text.feed(IDS)
        model.remove_adapter("a")
        assert (model.adapters, text.adapter) == ((), "a")
        with pytest.raises(InputError, match="generate: adapter='a': the model has no such adapter"):
            model.generate(IDS, adapter="a")
        with pytest.raises(InputError, match="save: the adapter 'a' of this sequence was removed"):
            text.save(base / "never")
        model.add_adapter("a", paths["some"])  # the other place
        assert model.logits(IDS, adapter="a").tobytes() == first.logits(IDS, adapter="some").tobytes()
        with first.sequence(adapter="all") as wanted:
            wanted.feed(IDS)
            assert text.feed([3]).tobytes() == wanted.feed([3]).tobytes()
            assert text.generate(max_new_tokens=3, adapter="a").ids == wanted.generate(max_new_tokens=3).ids
        assert model.generate(IDS, max_new_tokens=5, adapter="a").ids == (
            first.generate(IDS, max_new_tokens=5, adapter="some").ids
        )
        model.remove_adapter("a")
        model.add_adapter("a", paths["DoRA"])  # pages of "some" were kept for texts that begin alike; now they go
        assert model.logits(IDS, adapter="a").tobytes() == first.logits(IDS, adapter="DoRA").tobytes()
        with pytest.raises(InputError, match="all taken; texts that began with adapters"):
            model.add_adapter("b", paths["all"])
        text.close()
        model.add_adapter("b", paths["all"])
        assert text.adapter == "a"
        wanted_ids = first.generate(IDS, max_new_tokens=5, adapter="all").ids
        assert model.generate(IDS, max_new_tokens=5, adapter="b").ids == wanted_ids


def test_pages_of_one_that_went_never_serve_the_next_in_its_place(base: Path, paths: dict[str, Path]) -> None:
    prompt = IDS * 2  # long enough to be shared
    with miaotui.load(base, adapters=paths) as first, miaotui.load(base, adapter_slots=1, adapter_rank=8) as model:
        for name in ("all", "some", "DoRA", "all", "DoRA"):
            model.add_adapter("a", paths[name])
            for _ in range(2):
                answer = model.generate(
                    prompt, max_new_tokens=4, adapter="a", temperature=1.0, seed=3, top_logprobs=2, logprobs=True
                )
                wanted = first.generate(
                    prompt, max_new_tokens=4, adapter=name, temperature=1.0, seed=3, top_logprobs=2, logprobs=True
                )
                assert (answer.ids, answer.logprobs) == (wanted.ids, wanted.logprobs)
            model.remove_adapter("a")


def test_they_come_and_go_while_others_write(base: Path, paths: dict[str, Path]) -> None:
    """A thread adds and removes; another's answers stay what they are."""
    with (
        miaotui.load(base, adapters=paths) as first,
        miaotui.load(base, adapters={"all": paths["all"]}, adapter_slots=2, adapter_rank=8, threads=2) as model,
    ):
        wanted = {
            name: first.generate(IDS, max_new_tokens=6, adapter=name, ignore_eos=True).ids for name in (None, *paths)
        }
        wrong: list[object] = []
        ended = threading.Event()

        def write() -> None:
            while not ended.is_set():
                for name in (None, "all"):
                    ids = model.generate(IDS, max_new_tokens=6, adapter=name, ignore_eos=True).ids
                    if ids != wanted[name]:
                        wrong.append((name, ids))

        def choose(given: str, name: str) -> None:
            ids = model.generate(IDS, max_new_tokens=6, adapter=given, ignore_eos=True).ids
            if ids != wanted[name]:
                wrong.append((name, ids))

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for i in range(6):
                name = ("some", "DoRA")[i % 2]
                model.add_adapter("later", paths[name])
                asker = threading.Thread(target=choose, args=("later", name))
                asker.start()
                choose("later", name)
                asker.join()
                model.remove_adapter("later")
                gc.collect()
        finally:
            ended.set()
            writer.join()
        assert not wrong


def test_what_does_not_fit_a_place_is_refused_by_name(base: Path, paths: dict[str, Path], tmp_path: Path) -> None:
    with miaotui.load(base, adapter_slots=1, adapter_rank=4) as model:
        before = model.logits(IDS).tobytes()
        with pytest.raises(InputError, match=r"add_adapter: 'a', .*q_proj has rank 7, above the adapter_rank=4"):
            model.add_adapter("a", paths["some"])
        rows = write_adapter(tmp_path / "rows", base, "q_proj", trainable_token_indices=[1])
        tensors = load_file(rows / "adapter_model.safetensors")
        name = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
        save_file(tensors | {name: np.ones((1, 12), np.float32)}, rows / "adapter_model.safetensors")
        with pytest.raises(InputError, match=r"has something for embed, .*load\(adapters="):
            model.add_adapter("a", rows)
        for name, path, says in (
            ("", paths["all"], "add_adapter: the name ''"),
            (3, paths["all"], "add_adapter: the name 3"),
            ("a", 3, "add_adapter: 'a': 3 found"),
            ("a", tmp_path / "nowhere", "add_adapter: 'a': .*no such directory"),
        ):
            with pytest.raises(MiaotuiError, match=says):
                model.add_adapter(name, path)  # type: ignore[arg-type]  # as said
        for name in ("a", None, 3):
            with pytest.raises(InputError, match="remove_adapter: "):
                model.remove_adapter(name)  # type: ignore[arg-type]  # as said
        assert model.adapters == ()
        model.add_adapter("a", paths["all"])
        assert model.logits(IDS).tobytes() == before
    with pytest.raises(InputError, match="closed"):
        model.add_adapter("b", paths["all"])
    with miaotui.load(base) as model, pytest.raises(InputError, match=r"without places .*load\(adapter_slots="):
        model.add_adapter("a", paths["all"])


def test_places_are_in_the_memory_that_is_predicted(base: Path, paths: dict[str, Path], tmp_path: Path) -> None:
    with miaotui.load(base) as plain, miaotui.load(base, adapter_slots=3, adapter_rank=4) as model:
        more = model.memory["adapters"]
        with miaotui.load(base, adapters=dict.fromkeys("abc", paths["all"])) as three:
            assert more >= three.memory["adapters"]
        model.add_adapter("a", paths["all"])
        assert model.memory["adapters"] == more
        room = model.memory["allocated"]  # with tables of addresses, and scratch for products of rank 4
        assert room > plain.memory["allocated"] + more
    with pytest.raises(MemoryLimitError):
        miaotui.load(base, adapter_slots=3, adapter_rank=4, memory_limit=room - 1)
    for bad in (-1, True, 1.5, "x", 2**20):
        with pytest.raises(InputError, match="adapter_slots="):
            miaotui.load(base, adapter_slots=bad)  # type: ignore[arg-type]  # as said
    with pytest.raises(BackendError, match="adapter_slots: the CUDA path"):
        miaotui.load(tmp_path, adapter_slots=1, device="cuda")


def test_a_saved_text_goes_on_with_one_that_came_later(base: Path, paths: dict[str, Path], tmp_path: Path) -> None:
    with miaotui.load(base, adapter_slots=1, adapter_rank=9) as model:
        model.add_adapter("some", paths["some"])
        with model.sequence(adapter="some") as text:
            text.feed(IDS)
            text.save(tmp_path / "text")
            wanted = text.feed([3]).tobytes()
    with miaotui.load(base, adapters=paths) as model, model.load_sequence(tmp_path / "text") as text:
        assert text.feed([3]).tobytes() == wanted


def test_pages_of_others_stay_where_an_adapter_goes(base: Path, paths: dict[str, Path]) -> None:
    """What was read without an adapter is still found by a text that begins alike."""
    with miaotui.load(base, adapter_slots=1, adapter_rank=8, cache_tokens=1024) as model:
        session = model.session
        model.add_adapter("a", paths["all"])
        model.generate(IDS * 2, max_new_tokens=2)
        model.generate(IDS * 2, max_new_tokens=2, adapter="a")
        session.turn(session.collect)
        others = [table for table in session.kept if not table.adapter]
        assert others
        assert len(others) < len(session.kept)
        model.remove_adapter("a")
        model.add_adapter("a", paths["some"])
        assert session.kept == others
        assert all(table.n_pages for table in others)
        assert sum(table.n_pages for table in others) == session.pages.n_pages - session.pages.n_free[0]
