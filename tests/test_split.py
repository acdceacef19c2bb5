"""A lone token's attention that threads share evenly: the bits of the walk, whatever the heads, keys and threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import Mock, call

import numpy as np
import pytest
from helpers import open_weights, poison
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError
from miaotui.loader.open import open_model
from miaotui.runtime.cpu import backend, link
from miaotui.runtime.cpu.backend import CpuBackend, cpu_session
from miaotui.runtime.cpu.bounds import Checked
from miaotui.runtime.kvcache import KV_BYTES, PAGE
from miaotui.runtime.step import S_SPLIT
from test_runtime import llama

if TYPE_CHECKING:
    from pathlib import Path

    from miaotui.runtime.session import Session

CONTEXT = 3 * PAGE
PAIRS = "bf16 by pairs"
#: Of a layer: heads, KV heads, d_head: a head for each, groups of less than a tile, of one, and of more.
HEADS = [(3, 3, 10), (6, 2, 10), (4, 1, 64), (5, 1, 34), (16, 2, 16), (9, 1, 80)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int, int], Path]:
    made = {}
    for heads, kv_heads, d in HEADS:
        more: dict[str, Any] = {"num_hidden_layers": 1, "max_position_embeddings": CONTEXT, "head_dim": d}
        path = tmp_path_factory.mktemp("heads")
        made[heads, kv_heads, d] = llama(path, num_attention_heads=heads, num_key_value_heads=kv_heads, **more)
    return made


def decoded(session: Session, before: int, n: int) -> np.ndarray:
    """Logits of tokens that come one by one after a prompt."""
    ids = [1 + i * i % 35 for i in range(before + n)]
    poison(session)
    session.step(ids[:before], 0)
    rows = []
    for at in range(before, before + n):
        session.step(ids[at : at + 1], at)
        rows.append(session.logits[-1].copy())
    return np.stack(rows)


def cache(kind: str) -> dict[str, Any]:
    return {"kv_cache": "bf16", "precision": "fast"} if kind == PAIRS else {"kv_cache": kind}


@settings(max_examples=40)
@given(
    heads=st.sampled_from(HEADS),
    kv_cache=st.sampled_from([*sorted(KV_BYTES), PAIRS]),
    threads=st.integers(2, 7),
    before=st.one_of(st.integers(1, CONTEXT - 3), st.sampled_from([PAGE - 1, PAGE, 2 * PAGE - 2, 2 * PAGE - 1])),
)
def test_bits_are_the_walks(
    models: dict[tuple[int, int, int], Path], heads: tuple[int, int, int], kv_cache: str, threads: int, before: int
) -> None:
    config, weights = open_weights(models[heads])
    shape: dict[str, Any] = {"n_context": CONTEXT, "chunk": CONTEXT, "n_logits": 1, **cache(kv_cache)}
    one, several = (cpu_session(config, weights, threads=n, **shape) for n in (1, threads))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "LONG", 0)
        split = decoded(several, before, 3)
        assert several.backend._batch.words[S_SPLIT]
        assert np.array_equal(split, decoded(one, before, 3))
    one.close()
    several.close()


@pytest.mark.parametrize("heads", HEADS)
def test_sums_by_pairs_are_the_same_in_any_chunk(models: dict[tuple[int, int, int], Path], heads: Any) -> None:
    """A prompt at once, in pieces of odd lengths, token by token; by one thread and by three; within a window too."""
    path, n = models[heads], 2 * PAGE + 37
    config, weights = open_weights(path)
    ids = [1 + i * i % 35 for i in range(n)]
    shape: dict[str, Any] = {"n_context": CONTEXT, "chunk": CONTEXT, "n_logits": 1, **cache(PAIRS)}
    rows = []
    for threads, sizes in ((1, [n]), (3, [1, 30, 97, 1, n]), (2, [1] * n)):
        session = cpu_session(config, weights, threads=threads, **shape)
        assert {i.kernel for i in session.program.code} >= {"attention_bf16_dot", "kv_write_bf16"}
        poison(session)
        at = 0
        for size in sizes:
            part = ids[at : at + size]
            session.step(part, at)
            at += len(part)
        assert at == n
        rows.append(session.logits[-1].tobytes())
        session.close()
    assert len({*rows}) == 1


@pytest.mark.parametrize("window", [1, 5, PAGE, PAGE + 1])
@pytest.mark.parametrize("kind", ["f32", PAIRS])
def test_windows(tmp_path: Path, kind: str, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "LONG", 0)
    changes: dict[str, Any] = {"model_type": "mistral", "sliding_window": window, "attention_bias": None}
    config, weights = open_weights(llama(tmp_path, max_position_embeddings=CONTEXT, **changes))
    shape: dict[str, Any] = {"n_context": CONTEXT, "chunk": CONTEXT, "n_logits": 1, **cache(kind)}
    one, several = (cpu_session(config, weights, threads=n, **shape) for n in (1, 3))
    assert np.array_equal(decoded(several, PAGE + 7, 3), decoded(one, PAGE + 7, 3))
    one.close()
    several.close()


def test_only_a_lone_token_behind_many_is_split(models: dict[tuple[int, int, int], Path]) -> None:
    """Others have keys enough for every thread, or too few to meet for."""
    config, weights = open_weights(models[6, 2, 10])
    session = cpu_session(config, weights, n_context=CONTEXT, chunk=CONTEXT, n_logits=1, threads=2)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "LONG", PAGE)
        for ids, at in (([1], 0), ([2] * (PAGE - 1), 1), ([3], PAGE), ([4, 5], PAGE + 1), ([6], PAGE + 3), ([7], 0)):
            session.step(ids, at)
            seen.append(bool(session.backend._batch.words[S_SPLIT]))
    assert seen == [False, False, True, False, True, False]
    session.close()


def test_an_attention_has_two_lines_more_than_for_one_thread(models: dict[tuple[int, int, int], Path]) -> None:
    config, weights = open_weights(models[6, 2, 10])
    sessions = [cpu_session(config, weights, n_context=CONTEXT, chunk=8, n_logits=1, threads=n) for n in (1, 2)]
    one, two = (s.backend for s in sessions)
    assert isinstance(one, CpuBackend)
    assert isinstance(two, CpuBackend)
    assert len(two.code) == len(one.code) + 2 * len(open_model(models[6, 2, 10]).config.decoder.layers)
    for session in sessions:
        assert len(session.timed_step([1], 0)) == len(session.program.own)
        with pytest.raises(InputError):
            session.timed_step([session.program.n_vocab], 0)
        session.close()


def test_where_there_is_no_room_one_instruction_does_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads are more than the queries that threads have room for."""
    monkeypatch.setattr(backend, "LONG", 0)
    config, weights = open_weights(llama(tmp_path, num_attention_heads=300, num_key_value_heads=1, num_hidden_layers=1))
    shape: dict[str, Any] = {"n_context": 64, "chunk": 64, "n_logits": 1}
    one, two = (cpu_session(config, weights, threads=n, **shape) for n in (1, 2))
    assert np.array_equal(decoded(two, 40, 3), decoded(one, 40, 3))
    one.close()
    two.close()


def test_followers_are_kernels() -> None:
    assert {name for more in link.FOLLOWED.values() for name in more} <= set(link.KERNELS)
    assert set(link.FOLLOWED) <= set(link.KERNELS)


def test_checked_lines_have_all_parts(models: dict[tuple[int, int, int], Path]) -> None:
    """However many a step is worth: each line is a step of its own there, after which threads may have become fewer."""
    config, weights = open_weights(models[6, 2, 10])
    session = cpu_session(config, weights, n_context=CONTEXT, chunk=8, n_logits=1, threads=3, auto=True)
    session.step([1], 0)
    inner, own = Mock(), session.backend
    checked = Checked(inner, own._lines, own.code, own._batch)
    checked.bind(own.code.ctypes.data, 2, own.arena.ctypes.data, own._batch.address, 1, split=True)
    checked.step()
    lines = [(own.code.ctypes.data + i * own.code.strides[0], 1) for i in (0, 1)]
    assert inner.bind.call_args_list == [call(*line, own.arena.ctypes.data, own._batch.address) for line in lines]
    session.close()


def test_few_numbers_of_threads_are_kept(
    models: dict[tuple[int, int, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "KEPT", 3)
    config, weights = open_weights(models[6, 2, 10])
    session = cpu_session(config, weights, n_context=CONTEXT, chunk=8, n_logits=1, threads=2, auto=True)
    for n in range(1, 9):
        session.step([1] * n, 0)
        assert 1 <= len(session.backend._counts) <= 3
    session.close()
