"""Files that are not in memory are fetched in the order of use; what is there, or too much, is left alone."""

from __future__ import annotations

import errno
import json
import os
import shutil
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import miaotui
import numpy as np
import pytest
from checkpoints import small, write_checkpoint
from miaotui.errors import CheckpointError
from miaotui.loader import ahead, pack
from mutation_families import small_config, write_fitting
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 2**22
ADVISE = getattr(os, "posix_fadvise", None)
pytestmark = pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="the system does not say what is in memory")


def never() -> bool:
    return False


def let_go(file: Path) -> None:
    """Have the system drop it from memory."""
    assert ADVISE is not None
    with file.open("rb") as f:
        os.fsync(f.fileno())
        ADVISE(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """A file of which nothing is in memory."""
    file = tmp_path / "file"
    file.write_bytes(bytes(SIZE))
    let_go(file)
    if ahead.in_memory(file, SIZE // 2):
        pytest.skip("this file system keeps every file in memory, or does not say")
    return file


def test_what_is_not_in_memory_is_fetched(cold: Path) -> None:
    thread = ahead.read_ahead([(cold, 0, SIZE // 2), (cold, SIZE // 2, SIZE)], never)
    assert thread is not None
    thread.join(60)
    assert ahead.in_memory(cold, SIZE // 2)
    assert ahead.in_memory(cold, SIZE - 1)
    assert ahead.read_ahead([(cold, 0, SIZE)], never) is None


def test_pieces_are_asked_for_in_order_until_it_ends(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours at once; what the system leaves of a piece again."""
    asked: list[tuple[int, int]] = []

    def sendfile(_: int, __: int, at: int, n: int) -> int:
        asked.append((at, n))
        return min(n, 4000)

    monkeypatch.setattr(os, "sendfile", sendfile)
    monkeypatch.setattr(ahead, "PIECE", 5000)
    spans = [(cold, SIZE // 2, SIZE // 2 + 5), (cold, 7, 7), (cold, 0, 2000), (cold, 2000, 9001)]
    every = [(SIZE // 2, 5), (0, 5000), (4000, 5000), (8000, 1001)]
    for ended, wanted in ((lambda: len(asked) == 4, 4), (lambda: len(asked) == 2, 2), (lambda: True, 0)):
        asked.clear()
        let_go(cold)  # looking may have fetched some
        thread = ahead.read_ahead(spans, ended)
        assert thread is not None
        thread.join(60)
        assert asked == every[:wanted]


def test_small_pieces_are_advised_before_the_rest(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the thread that reads begins."""
    let_go(cold)  # looking may have fetched some
    asked: list[tuple[int, ...]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, at, n, how: asked.append((at, n, how)))
    monkeypatch.setattr(os, "sendfile", lambda _, __, at, n: asked.append((at, n)) or n)
    thread = ahead.read_ahead([(cold, 0, SIZE)], never, [(cold, 70, 75), (cold, 5, 6), (cold.with_name("gone"), 1, 2)])
    assert thread is not None
    thread.join(60)
    advice = os.POSIX_FADV_WILLNEED
    assert asked == [(5, 1, advice), (70, 5, advice), (0, SIZE)]


def test_vectors_are_what_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path, small("llama"))
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(ahead, "read_ahead", lambda _, __, first: asked.extend((a, b) for _, a, b in first))
    with miaotui.load(tmp_path, threads=1) as model:
        names = {(info.start, info.stop): name for name, info in model._opened.checkpoint.tensors.items()}
    assert asked
    assert all(names[span].endswith("norm.weight") for span in asked)
    assert len(asked) == len([name for name in names.values() if name.endswith("norm.weight")])


def test_a_file_that_is_shorter_by_now_or_cannot_be_sent_ends_it(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in (0, OSError):
        let_go(cold)  # looking may have fetched some
        monkeypatch.setattr(os, "sendfile", Mock(side_effect=[answer]))
        thread = ahead.read_ahead([(cold, 0, SIZE)], never)
        assert thread is not None
        thread.join(60)
        assert os.sendfile.call_count == 1  # type: ignore[attr-defined]


def test_without_a_descriptor_nothing_is_fetched(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for the file nor for what it is sent to; it is no more than advice, and nobody is told."""
    opened, of = type(cold).open, [os.devnull, str(cold)]
    asked: list[str] = []

    def refuse(self: Path, *args: Any, **kwargs: Any) -> Any:
        asked.append(str(self))
        if str(self) == of[0]:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(self))
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(os, "sendfile", Mock())
    monkeypatch.setattr(type(cold), "open", refuse)
    for _ in range(2):
        ahead._fetch([(cold, 0, SIZE)], never)
        assert of.pop(0) in asked
    assert not os.sendfile.called  # type: ignore[attr-defined]


def test_more_than_half_of_memory_and_nothing_are_left_alone(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ahead.read_ahead([], never) is None
    assert ahead.read_ahead([(cold, 5, 5)], never) is None
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PHYS_PAGES": SIZE // 2048, "SC_PAGE_SIZE": 2048}[name])
    assert ahead.read_ahead([(cold, 0, SIZE // 2 + 1)], never) is None
    assert ahead.in_memory(cold.with_name("gone"), 0)  # whoever opens it says so


@pytest.mark.parametrize("how", ["all of it", "what a plan leaves"])
def test_a_load_asks_for_layers_first_and_tables_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Of a whole model before anything is planned; else when it is known that it fits the limit."""
    write_checkpoint(tmp_path, small("llama"))
    asked: list[tuple[int, int]] = []
    others: list[tuple[int, int]] = []
    mine, theirs = (ahead, pack) if how == "all of it" else (pack, ahead)
    monkeypatch.setattr(mine, "read_ahead", lambda spans, *_: asked.extend((a, b) for _, a, b in spans))
    monkeypatch.setattr(theirs, "read_ahead", lambda spans, *_: others.extend((a, b) for _, a, b in spans))
    with miaotui.load(tmp_path, threads=1, memory_limit=None if how == "all of it" else "1GiB") as model:
        tensors = model._opened.checkpoint.tensors
        wanted, names = model.logits([1, 2]), {(info.start, info.stop): name for name, info in tensors.items()}
    assert not others
    order = [names[span] for span in asked]
    assert set(order) == set(tensors)
    tables = [name for name in order if name.endswith(("embed_tokens.weight", "lm_head.weight"))]
    assert order[-len(tables) :] == tables
    layers = [int(name.split(".")[2]) for name in order if ".layers." in name]
    assert layers == sorted(layers)
    monkeypatch.setattr(mine, "read_ahead", lambda *_: None)
    with miaotui.load(tmp_path, threads=1) as model:
        assert np.array_equal(model.logits([1, 2]), wanted)


def test_a_tensor_with_a_number_of_5000_digits_is_refused_as_any_other(tmp_path: Path) -> None:
    """More than Python reads; the order is looked for before anybody compares the file with config.json."""
    write_checkpoint(tmp_path, small("llama"))
    file = tmp_path / "model.safetensors"
    save_file(load_file(file) | {f"model.extra.{'1' * 5000}.x": np.zeros(1, np.float32)}, file)
    told = []
    for how in ({}, {"memory_limit": "1GiB"}):
        with pytest.raises(CheckpointError, match=r"tensor 'model\.extra\..* is no part of") as e:
            miaotui.load(tmp_path, threads=1, **how)
        told.append(str(e.value))
    assert told[0] == told[1]


def test_what_is_not_wholly_read_waits_for_its_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans, encoders, experts, files that say more than config.json."""
    asked: list[str] = []
    monkeypatch.setattr(ahead, "read_ahead", lambda *_: asked.append("whole"))
    write_checkpoint(tmp_path / "llama", small("llama"))
    for family in ("bert", "t5", "mixtral"):
        write_fitting(tmp_path / family, small_config(family))
        miaotui.load(tmp_path / family, threads=1).close()
        assert asked == [], family
    for how in ({"prune": "keep-layers=0"}, {"memory_limit": "1GiB"}, {"auto": True}):
        miaotui.load(tmp_path / "llama", threads=1, **how).close()
    told = json.loads((tmp_path / "llama" / "config.json").read_text(encoding="utf-8"))
    told["intermediate_size"] += 1
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "llama" / "model.safetensors", tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text(json.dumps(told), encoding="utf-8")
    miaotui.load(tmp_path / "other", threads=1).close()
    assert asked == []
    miaotui.load(tmp_path / "llama", threads=1).close()
    assert asked == ["whole"]
