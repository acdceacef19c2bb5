"""Saved sequences: what is loaded goes on with the same bits; what is damaged, or another model's, is refused."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from checkpoints import Drawn, write_checkpoint, write_safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError, SequenceFileError
from miaotui.runtime.kvcache import PAGE
from miaotui.tools import cli
from safetensors.numpy import load_file, save_file
from sequence_files import signed, to

if TYPE_CHECKING:
    from collections.abc import Iterator

DEMO = Path(miaotui.__file__).parent / "tools" / "demo" / "model"
DATES = DEMO.parent / "models" / "dates"
N_VOCAB, CONTEXT = 53, 3 * PAGE
CONFIG = {
    "model_type": "mistral", "vocab_size": N_VOCAB, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT, "sliding_window": None,
}  # fmt: skip
DRAWN = {"temperature": 1.3, "seed": 5, "repetition_penalty": 1.1}
KINDS: dict[str, tuple[dict[str, object], dict[str, Any]]] = {
    "plain": ({}, {}),
    "windowed": ({"sliding_window": PAGE // 2}, {}),
    "int8": ({}, {"kv_cache": "int8", "quantize": "int8"}),
    "bf16": ({"sliding_window": PAGE + 3}, {"kv_cache": "bf16", "quantize": "int4"}),
}


def written(path: Path, changes: dict[str, object], n: int = 11) -> Path:
    write_checkpoint(path, Drawn({**CONFIG, **changes}, "F32", n))
    return path


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    changes, options = KINDS[request.param]
    return written(tmp_path_factory.mktemp(request.param), changes), options


@pytest.fixture(scope="module")
def models(kind: tuple[Path, dict[str, Any]]) -> Iterator[tuple[miaotui.Model, miaotui.Model]]:
    """One that saves, and one with other threads, chunks and pages that loads."""
    path, options = kind
    with (
        miaotui.load(path, threads=1, prefill_chunk=40, **options) as one,
        miaotui.load(path, threads=2, cache_tokens=5 * PAGE, **options) as other,
    ):
        yield one, other


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[miaotui.Model]:
    with miaotui.load(written(tmp_path_factory.mktemp("plain"), {}), threads=1, cache_tokens=4 * PAGE) as model:
        yield model


def ids_of(seed: int, n: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(0, N_VOCAB, n)]


def held(model: miaotui.Model) -> int:
    """Pages that anybody holds, once what was dropped is collected."""
    pages = model.session.pages

    def count() -> int:
        model.session.collect()
        for table in model.session.kept:
            pages.release(table)
        pages.recount()
        return len(pages.windows) * pages.n_pages - sum(pages.n_free)

    return model.session.turn(count)


def go_on(sequence: miaotui.Sequence, how: dict[str, Any]) -> list[bytes | list[int]]:
    return [sequence.feed([3]).tobytes(), sequence.generate([5], max_new_tokens=4, ignore_eos=True, **how).ids]


@settings(max_examples=8)
@given(
    st.integers(1, 2 * PAGE + 40), st.integers(0, 2 * PAGE), st.booleans(), st.booleans(), st.sampled_from([{}, DRAWN])
)
def test_a_loaded_text_goes_on_with_the_same_bits(
    models: tuple[miaotui.Model, miaotui.Model],
    tmp_path_factory: pytest.TempPathFactory,
    n: int,
    cut: int,
    forked: bool,  # noqa: FBT001 - drawn
    busy: bool,  # noqa: FBT001 - as above
    how: dict[str, Any],
) -> None:
    one, other = models
    path = tmp_path_factory.getbasetemp() / "one.sequence"
    with one.sequence() as text:
        text.feed(ids_of(n, n))
        text.generate([1], max_new_tokens=3, ignore_eos=True)
        text.truncate(max(1, len(text) - cut) if cut % 3 else len(text))
        twin = text.fork() if forked else text
        twin.save(path)
        ids, cached = twin.ids, twin.table.cached
        wanted = go_on(twin, how)
        with other.sequence() as neighbour, other.load_sequence(path) as loaded:
            if busy:
                neighbour.feed(ids_of(1, PAGE + 1))
            assert (loaded.ids, loaded.table.cached) == (ids, cached)
            assert go_on(loaded, how) == wanted
            loaded.truncate(len(loaded) // 2)
            twin.truncate(len(twin) // 2)
            assert go_on(loaded, how) == go_on(twin, how)
        twin.close()
    assert held(other) == 0


def test_nothing_that_is_cached_is_computed_again(models: tuple[miaotui.Model, miaotui.Model], tmp_path: Path) -> None:
    one, other = models
    with one.sequence() as text:
        text.feed(ids_of(4, 2 * PAGE + 7))
        text.save(tmp_path / "s")
        wanted = text.feed([9])
    sizes, backend = list[int](), other.session.backend
    run = backend.run
    backend.run = lambda batch, *part: (sizes.append(batch.n_tokens), run(batch, *part))[1]  # type: ignore[method-assign]
    try:
        with other.load_sequence(tmp_path / "s") as loaded:
            assert np.array_equal(loaded.feed([9]), wanted)
    finally:
        del backend.run
    assert sizes == [1]


def test_no_number_of_another_text_is_in_the_file(plain: miaotui.Model, tmp_path: Path) -> None:
    """A page that others filled before holds what they had, past the last slot of this text: that is not written."""
    with plain.sequence() as text:
        text.feed(ids_of(1, 5))
        text.save(tmp_path / "s")
    arrays = load_file(tmp_path / "s")
    assert {name: a.shape for name, a in arrays.items()} == {
        "ids": (5,), **{f"layers.{i}.{what}": (2, 5, 16) for i in (0, 1) for what in ("keys", "values")}
    }  # fmt: skip
    assert all(a.any() for a in arrays.values())


def test_empty_evicted_and_overlong_texts(plain: miaotui.Model, tmp_path: Path) -> None:
    with plain.sequence() as text:
        text.save(tmp_path / "empty")
        text.feed(ids_of(2, 30))
        plain.session.turn(lambda: plain.session.pages.release(text.table))
        text.save(tmp_path / "evicted")
        wanted = text.feed([4]).tobytes()
        text.feed(ids_of(2, CONTEXT - len(text)))
        text.save(tmp_path / "full")
    with plain.load_sequence(tmp_path / "empty") as loaded:
        assert loaded.ids == []
    with plain.load_sequence(tmp_path / "evicted") as loaded:
        assert loaded.table.cached == 0
        assert loaded.feed([4]).tobytes() == wanted
    path = plain._opened.directory
    with (
        miaotui.load(path, max_context=PAGE) as small,
        pytest.raises(SequenceFileError, match=f"ids has {CONTEXT} tokens, .*max_context={CONTEXT}"),
    ):
        small.load_sequence(tmp_path / "full")
    with (
        miaotui.load(path, cache_tokens=PAGE) as small,
        pytest.raises(InputError, match=f"{CONTEXT} tokens does not fit the cache of {PAGE}"),
    ):
        small.load_sequence(tmp_path / "full")


def test_a_seed_stays_with_its_sequence(plain: miaotui.Model, tmp_path: Path) -> None:
    drawn = {"temperature": 1.5, "max_new_tokens": 6, "ignore_eos": True}
    with plain.sequence() as text:
        text.feed([1, 2, 3])
        with text.fork(seed=7 + 2**64) as fork, text.fork() as other, text.fork(seed=7) as third:
            assert (text.seed, fork.seed, other.seed) == (None, 7, None)
            third.save(tmp_path / "s")
            ids = fork.generate([4], **drawn).ids
            assert ids == other.generate([4], seed=7, **drawn).ids
            assert third.generate([4], seed=8, **drawn).ids != ids
        for bad in (True, 1.5, "7"):
            with pytest.raises(InputError, match=r"fork\(seed="):
                text.fork(seed=bad)
    with plain.load_sequence(tmp_path / "s") as loaded, loaded.fork() as fork:
        assert (loaded.seed, fork.seed) == (7, 7)
        answer = loaded.generate([4], **drawn)
        assert (answer.ids, answer.seed) == (ids, 7)


def saved(model: miaotui.Model, path: Path, n: int = 9) -> Path:
    with model.sequence() as text:
        text.feed(ids_of(3, n))
        text.save(path)
    return path


def test_other_models_are_refused_in_words(plain: miaotui.Model, tmp_path: Path) -> None:
    path, file = plain._opened.directory, saved(plain, tmp_path / "s")
    tensors = load_file(path / "model.safetensors")
    tensors["model.norm.weight"][3] += 1
    nudged = written(tmp_path / "nudged", {})
    write_safetensors(nudged / "model.safetensors", tensors)
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (path, {"kv_cache": "int8"}, r"KV cache had another dtype: see kv_cache \(saved: f32; .* as loaded: int8\)"),
        (path, {"quantize": "int8"}, r"other dtypes or shapes: see quantize \(saved: f32 .* as loaded: f32, int8"),
        (path, {"prune": "keep-layers=0"}, "its config is not the same"),
        (path, {"prune": "sparsity=0.5"}, r"pruned in another way saved it \(saved: keep everything"),
        (nudged, {}, "with other weights saved it"),
        (written(tmp_path / "seed", {}, 12), {}, "with other weights saved it"),
        (written(tmp_path / "theta", {"rope_theta": 9e3}), {}, "its config is not the same"),
    ]
    for where, options, what in cases:
        with miaotui.load(where, threads=1, **options) as model, pytest.raises(SequenceFileError, match=what):
            model.load_sequence(file)
    with miaotui.load(path, threads=2, max_context=PAGE, prefill_chunk=7) as model, model.load_sequence(file) as loaded:
        assert loaded.ids == ids_of(3, 9)


def test_what_is_no_session_file_is_refused(plain: miaotui.Model, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("Once upon a time")
    (tmp_path / "nothing").write_bytes(b"")
    save_file({"ids": np.zeros(3, np.int64)}, tmp_path / "other")
    save_file({"ids": np.zeros(3, np.int64)}, tmp_path / "newer", {"miaotui.sequence": "3"})
    (tmp_path / "huge").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    for name, what in {
        "missing": "no such file", "fifo": "a directory, a pipe or a device", "folder": "a directory, a pipe",
        "text": "header", "nothing": "header", "other": "did not write it", "newer": "format 3, .* reads 1 and 2",
        "huge": "header",
    }.items():  # fmt: skip
        with pytest.raises(SequenceFileError, match=f"{name}.*{what}"):
            plain.load_sequence(tmp_path / name)
    for bad in ("", "\0", 7, None):
        with pytest.raises(InputError, match="load_sequence"):
            plain.load_sequence(bad)  # type: ignore[arg-type]
    with plain.sequence() as text:
        with pytest.raises(InputError, match="cannot be written"):
            text.save(tmp_path / "folder")
        with pytest.raises(InputError, match="cannot be written"):
            text.save(tmp_path / "missing" / "s")
    assert held(plain) == 0


def test_claims_are_compared_with_the_model_before_memory_is_taken(plain: miaotui.Model, tmp_path: Path) -> None:
    """A checksum is no signature: whoever can compute it may write anything."""
    keys = "layers.1.keys"
    cases = [
        (to("cached", 10), "10 slots of 9 ids"), (to("cached", -1), "cached=-1"), (to("cached", 10**30), "slots"),
        (to("cached", "9"), "cached=9"), (to("shift", 5), "shift=5"), (to("seed", -1), "seed=-1"),
        (to("cached", 8), "layers.0.keys has 9 slots of 8"),
        (to("ids", np.array([1, N_VOCAB])), "damaged"), (to("ids", np.arange(9) - 1), "id -1"),
        (to("ids", np.zeros(CONTEXT + 2, np.int64)), "more than the context"),
        (to(keys, np.zeros((2, 9, 15), np.float32)), "layers.1.keys: expected float32"),
        (to(keys, np.zeros((2, 9, 16), np.int8)), "found I8"),
        (to(keys, np.zeros((2, 9, 0), np.float32)), "found F32"), (to(keys, np.zeros(0, np.float32)), "1.keys has 0"),
        (to("layers.2.keys", np.zeros(3, np.float32)), "no layers.2.keys"),
        (to("source", np.zeros(3, np.int64)), "no source"),
        (lambda tensors, _: tensors.pop("layers.0.values"), "layers.0.values: expected .* found none"),
    ]  # fmt: skip
    for change, what in cases:
        signed(plain, saved(plain, tmp_path / "s"), change)
        with pytest.raises(SequenceFileError, match=what):
            plain.load_sequence(tmp_path / "s")
    assert held(plain) == 0


def flips(plain: miaotui.Model, path: Path, places: list[int]) -> set[str]:
    """What came of each flip of a byte: a typed error, or the text as it was."""
    data, seen = path.read_bytes(), set[str]()
    with plain.load_sequence(path) as loaded:
        wanted = loaded.feed([3]).tobytes()
    for at in places:
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 + at % 255)]) + data[at + 1 :])
        try:
            with plain.load_sequence(path) as loaded:
                assert loaded.feed([3]).tobytes() == wanted
                seen.add("same")
        except SequenceFileError as e:
            seen.add("refused" if str(path) in str(e) else str(e))
    path.write_bytes(data)
    return seen


def test_flipped_bytes_here_and_there(plain: miaotui.Model, tmp_path: Path) -> None:
    path = saved(plain, tmp_path / "s", 2)
    size = path.stat().st_size
    assert {"refused"} <= flips(plain, path, [*range(24), *range(24, size, 97), size - 1])
    for end in (0, 7, 8, 100, size - 1):
        data = path.read_bytes()
        path.write_bytes(data[:end])
        with pytest.raises(SequenceFileError):
            plain.load_sequence(path)
        path.write_bytes(data)
    path.write_bytes(data + b"\0")
    with pytest.raises(SequenceFileError):
        plain.load_sequence(path)


@pytest.mark.ci(15)
def test_every_byte_flipped(plain: miaotui.Model, tmp_path: Path) -> None:
    path = saved(plain, tmp_path / "s", 1)
    assert flips(plain, path, list(range(path.stat().st_size))) <= {"refused", "same"}
    assert held(plain) == 0


def test_an_interrupted_load_leaves_no_page(
    plain: miaotui.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, n, calls = saved(plain, tmp_path / "s", PAGE + 9), len(plain.session.backend.pools(0)), 0
    pools = plain.session.backend.pools

    def struck(group: int) -> list[Any]:
        class Pool(np.ndarray):
            def __getitem__(self, key: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == n:
                    raise KeyboardInterrupt
                return np.ndarray.__getitem__(self, key)

        return [pool.view(Pool) for pool in pools(group)]

    with monkeypatch.context() as patch:
        patch.setattr(plain.session.backend, "pools", struck)
        with pytest.raises(KeyboardInterrupt):
            plain.load_sequence(path)
    assert calls == n
    assert held(plain) == 0
    with plain.load_sequence(path) as loaded:
        assert len(loaded) == PAGE + 9


def test_where_all_pages_are_needed_a_load_waits(plain: miaotui.Model, tmp_path: Path) -> None:
    """Idle texts go; one that somebody waits for keeps its pages until it ends."""
    path = saved(plain, tmp_path / "s", 2 * PAGE)
    got = list[bytes]()

    def load() -> None:
        with plain.load_sequence(path) as loaded:
            got.append(loaded.feed([3]).tobytes())

    with plain.sequence() as text, plain.sequence() as idle:
        idle.feed(ids_of(8, PAGE))
        stream = text.tokens(ids_of(7, 2 * PAGE + 5), max_new_tokens=40, ignore_eos=True)
        next(stream)
        thread = threading.Thread(target=load)

        def start() -> None:
            thread.start()
            thread.join(0.2)
            assert not got

        text.awaiting(start)
        thread.join()
        assert idle.table.cached == 0
    assert got == [plain.logits([*ids_of(3, 2 * PAGE), 3])[-1].tobytes()]


def test_a_file_is_whole_and_has_the_users_mode(
    plain: miaotui.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0o027)
    try:
        path = saved(plain, tmp_path / "s")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    data = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        saved(plain, path, 20)
    assert path.read_bytes() == data
    assert [file.name for file in tmp_path.iterdir()] == ["s"]


def test_a_gpu_and_an_encoder_are_refused(
    plain: miaotui.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from miaotui.errors import BackendError
    from miaotui.runtime.cuda.backend import CudaBackend

    path = saved(plain, tmp_path / "s")
    monkeypatch.setattr(plain.session, "engine", None)
    monkeypatch.setattr(plain.session.backend, "pools", lambda group: CudaBackend.pools(None, group))  # type: ignore[arg-type]
    with plain.sequence() as text, pytest.raises(BackendError, match="neither saved nor loaded"):
        text.save(path)
    with pytest.raises(BackendError, match="device='cuda'"):
        plain.load_sequence(path)


CHILD = """
import sys, miaotui, json
model, path, save = sys.argv[1], sys.argv[2], sys.argv[3] == "save"
with miaotui.load(model, threads=int(sys.argv[4]), kv_cache="int8") as m:
    if save:
        text = m.sequence()
        text.feed(json.loads(sys.argv[5]))
        text.save(path)
        print("saved", flush=True)
        while True:
            text.generate([1], max_new_tokens=3)
            text.save(path + ".more")
            text.truncate(20)
    with m.load_sequence(path) as text:
        print(json.dumps([text.feed([3]).tolist(), text.generate([5], temperature=1.2, seed=3, max_new_tokens=9).ids]))
"""


@pytest.mark.ci(20)
def test_saved_killed_and_loaded_in_another_process(tmp_path: Path) -> None:
    directory, file = written(tmp_path / "model", {"sliding_window": PAGE // 2}), tmp_path / "s"
    ids = ids_of(6, 2 * PAGE + 11)
    command = [sys.executable, "-c", CHILD, str(directory), str(file)]
    with subprocess.Popen([*command, "save", "2", json.dumps(ids)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "saved\n"
        child.send_signal(signal.SIGKILL)
    done = subprocess.run([*command, "load", "1"], check=True, capture_output=True, text=True)
    logits, drawn = json.loads(done.stdout)
    with miaotui.load(directory, threads=1, kv_cache="int8") as model, model.sequence() as text:
        assert np.array_equal(text.feed([*ids, 3]), np.array(logits, np.float32))
        assert text.generate([5], temperature=1.2, seed=3, max_new_tokens=9).ids == drawn


def test_the_command_goes_on_with_a_saved_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, how = tmp_path / "s", ["--max-new-tokens", "4", "--ignore-eos", "--no-prompt"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    for prompt in (["Once upon a time"], [" and the dog"], [], [""]):  # without a prompt the text goes on
        assert cli.main(["generate", *prompt, "--session", str(file), *how]) == 0
    got = capsys.readouterr().out
    with miaotui.load(DEMO) as model, model.sequence() as text:
        prompts = ("Once upon a time", " and the dog", None, None)
        wanted = [text.generate(p, max_new_tokens=4, ignore_eos=True).text for p in prompts]
        with model.load_sequence(file) as loaded:
            assert loaded.ids == text.ids
    assert got == "".join(f"{piece}\n" for piece in wanted)
    assert cli.main(["generate", "Once", "--session", str(file), "--num-beams", "2"]) != 0
    assert "--session" in capsys.readouterr().err


def test_an_encoder_decoders_text_is_encoded_again(tmp_path: Path) -> None:
    with miaotui.load(DATES, threads=1) as model:
        with model.sequence([5, 6, 7]) as text:
            text.feed([model.config.decoding.start, 4])
            text.save(tmp_path / "s")
            wanted = go_on(text, DRAWN)
        with model.load_sequence(tmp_path / "s") as loaded:
            assert loaded.table.source is not None
            assert loaded.table.source.ids == [5, 6, 7]
            assert loaded.table.cached == 2
            assert go_on(loaded, DRAWN) == wanted
