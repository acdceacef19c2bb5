"""Files that are not in memory are fetched in the order of use; what is there, or too much, is left alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import miaotui
import numpy as np
import pytest
from checkpoints import small, write_checkpoint
from miaotui.loader import ahead, pack

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
    with cold.open("rb") as f:  # advice is over when what it asked for is there
        f.read()
    assert ahead.in_memory(cold, SIZE // 2)
    assert ahead.read_ahead([(cold, 0, SIZE)], never) is None


def test_pieces_are_asked_for_in_order_until_it_ends(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, at, n, __: asked.append((at, n)))
    spans = [(cold, SIZE // 2, SIZE // 2 + 5), (cold, 7, 7), (cold, 0, ahead.PIECE + 1)]
    for ended, wanted in ((lambda: len(asked) == 3, 3), (lambda: True, 0)):
        asked.clear()
        let_go(cold)  # looking may have fetched some
        thread = ahead.read_ahead(spans, ended)
        assert thread is not None
        thread.join(60)
        assert asked == [(SIZE // 2, 5), (0, ahead.PIECE), (ahead.PIECE, 1)][:wanted]


def test_more_than_half_of_memory_and_nothing_are_left_alone(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ahead.read_ahead([], never) is None
    assert ahead.read_ahead([(cold, 5, 5)], never) is None
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PHYS_PAGES": SIZE // 2048, "SC_PAGE_SIZE": 2048}[name])
    assert ahead.read_ahead([(cold, 0, SIZE // 2 + 1)], never) is None
    assert ahead.in_memory(cold.with_name("gone"), 0)  # whoever opens it says so


def test_a_load_asks_for_layers_first_and_tables_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path, small("llama"))
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(pack, "read_ahead", lambda spans, _: asked.extend((a, b) for _, a, b in spans))
    with miaotui.load(tmp_path, threads=1) as model:
        tensors = model._opened.checkpoint.tensors
        wanted, names = model.logits([1, 2]), {(info.start, info.stop): name for name, info in tensors.items()}
    order = [names[span] for span in asked]
    assert set(order) == set(tensors)
    tables = [name for name in order if name.endswith(("embed_tokens.weight", "lm_head.weight"))]
    assert order[-len(tables) :] == tables
    layers = [int(name.split(".")[2]) for name in order if ".layers." in name]
    assert layers == sorted(layers)
    monkeypatch.setattr(pack, "read_ahead", lambda *_: None)
    with miaotui.load(tmp_path, threads=1) as model:
        assert np.array_equal(model.logits([1, 2]), wanted)
