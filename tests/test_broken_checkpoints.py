"""Every broken checkpoint gives one typed error that says what and where; a fuzz finds nothing else."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from broken import CONFIG, ROWS, Broken, header_of, safetensors_bytes, tensors, write_good
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miaotui import errors
from miaotui.errors import MiaotuiError
from miaotui.loader.checkpoint import open_checkpoint
from miaotui.loader.header import read_header
from miaotui.loader.load_plan import make_load_plan
from miaotui.loader.open import open_model
from miaotui.loader.text.tokenizer import Tokenizer
from safetensors import deserialize

if TYPE_CHECKING:
    from pathlib import Path

ALL = [(stage, row) for stage, rows in ROWS.items() for row in rows]
NO_DEADLINE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)


def load_files(path: Path) -> Tokenizer:
    """Do everything that loading does before weights are read."""
    with open_model(path) as opened:
        make_load_plan(opened)
    return Tokenizer.from_directory(path)


def check(row: Broken, error: BaseException) -> None:
    """The very class, and a message of one screen with the words."""
    text = str(error)
    assert type(error) is getattr(errors, row.error), f"{type(error).__name__}: {text}"
    for word in row.words:
        assert word in text, f"{word!r} not in {text!r}"
    assert len(text) < 1000
    assert "Traceback" not in text
    assert text.isprintable(), text


def test_good_directory_loads(tmp_path: Path) -> None:
    tokenizer = load_files(write_good(tmp_path / "m"))
    assert (tokenizer.n_vocab, tokenizer.bos_id, tokenizer.eos_id) == (8, 1, 2)


def test_names_are_unique_and_many() -> None:
    names = [row.name for _, row in ALL]
    assert len(set(names)) == len(names) >= 40


@pytest.mark.parametrize(("stage", "row"), ALL, ids=[row.name for _, row in ALL])
def test_broken(tmp_path: Path, stage: str, row: Broken) -> None:
    if row.name == "is-a-pipe" and not hasattr(os, "mkfifo"):
        pytest.skip("no pipes in this system's file names")
    path = row.make(write_good(tmp_path / "m"))
    with pytest.raises(MiaotuiError) as caught:
        load_files(path)
    check(row, caught.value)
    if stage == "open":
        with pytest.raises(MiaotuiError) as caught:
            open_checkpoint(path)
        check(row, caught.value)


FACADE = importlib.util.find_spec("miaotui.model") is not None


@pytest.mark.skipif(not FACADE, reason="the loader alone is installed")
@pytest.mark.parametrize("row", [row for _, row in ALL], ids=[row.name for _, row in ALL])
def test_broken_through_load(tmp_path: Path, row: Broken) -> None:
    import miaotui

    path = row.make(write_good(tmp_path / "m"))
    with pytest.raises(MiaotuiError) as caught, miaotui.load(path) as model:
        assert model.tokenizer  # read at first use
    assert type(caught.value) is getattr(errors, row.error), caught.value
    assert path.name.split("\0")[0] in str(caught.value)


# ---- fuzz

SOME = tensors()
GOOD = safetensors_bytes(header_of(SOME), b"".join(t[2] for t in SOME.values()))


def reads_or_refuses(file: Path, data: bytes) -> None:
    """Either a typed error, or tensors whose every view can be read in full."""
    file.write_bytes(data)
    began = time.monotonic()
    tracemalloc.start()
    try:
        with open_checkpoint(file.parent) as checkpoint:
            deserialize(data)  # type: ignore[no-untyped-call]  # what we accept, the safetensors package accepts
            for name, tensor in checkpoint.tensors.items():
                view = checkpoint.array(name)
                assert view.nbytes == tensor.nbytes
                view.tobytes()
                del view
    except MiaotuiError as e:
        assert str(file.parent) in str(e)  # noqa: PT017
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 * len(data) + 4_000_000
    assert time.monotonic() - began < 20


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_good(tmp_path_factory.mktemp("fuzz") / "m") / "model.safetensors"


@NO_DEADLINE
@given(edits=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_fuzz_bytes(weights: Path, edits: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for at, byte in edits:
        data[at] = byte
    reads_or_refuses(weights, bytes(data))


@NO_DEADLINE
@given(st.integers(0, 1400), st.binary(max_size=20), st.integers(0, 20))
def test_fuzz_splices(weights: Path, at: int, insert: bytes, drop: int) -> None:
    raw = bytearray(GOOD[8:])
    raw[at : at + drop] = insert
    table_bytes = len(json.dumps(header_of(SOME)))
    reads_or_refuses(weights, (table_bytes + len(insert) - drop).to_bytes(8, "little") + bytes(raw))


@NO_DEADLINE
@given(st.integers(0, len(GOOD)))
def test_every_truncation_is_refused(weights: Path, keep: int) -> None:
    weights.write_bytes(GOOD[:keep])
    if keep == len(GOOD):
        assert len(read_header(weights).tensors) == len(SOME)
    else:
        with pytest.raises(errors.CheckpointError):
            read_header(weights)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["F32", "U8", "dtype", "shape", "data_offsets", 0, 1, 8]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", "BOOL", "F8_E4M3", "C64"]) | JSON,
        "shape": st.lists(st.integers(0, 3), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(0, 24), min_size=2, max_size=2) | JSON,
    }
)


@NO_DEADLINE
@given(table=st.dictionaries(st.text(max_size=4), ENTRY | JSON, max_size=4), data=st.binary(max_size=24))
def test_fuzz_headers(weights: Path, table: dict[str, object], data: bytes) -> None:
    reads_or_refuses(weights, safetensors_bytes(table, data))


@NO_DEADLINE
@given(changes=st.dictionaries(st.sampled_from(sorted(CONFIG)), JSON, min_size=1, max_size=3))
def test_fuzz_config(weights: Path, changes: dict[str, object]) -> None:
    """Whatever the values, parsing and planning give a plan or a typed error."""
    weights.write_bytes(GOOD)
    (weights.parent / "config.json").write_text(json.dumps(CONFIG | changes))
    try:
        with open_model(weights.parent) as opened:
            make_load_plan(opened)
    except (errors.ConfigError, errors.CheckpointError) as e:
        assert len(str(e)) < 2000  # noqa: PT017


@NO_DEADLINE
@given(at=st.integers(0, 400), insert=st.text(max_size=8), drop=st.integers(0, 30))
def test_fuzz_tokenizer(weights: Path, at: int, insert: str, drop: int) -> None:
    directory = write_good(weights.parent)
    file = directory / "tokenizer.json"
    text = file.read_text()
    file.write_text(text[:at] + insert + text[at + drop :], encoding="utf-8")
    try:
        tokenizer = Tokenizer.from_directory(directory)
        tokenizer.decode(tokenizer.encode("a b <s> zz"))
    except errors.TokenizerError as e:
        assert "tokenizer.json" in str(e)  # noqa: PT017


def test_a_header_is_never_allocated_before_its_length_is_checked(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes((90_000_000).to_bytes(8, "little") + b"{}")
    tracemalloc.start()
    with pytest.raises(errors.CheckpointError):
        read_header(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_rows_are_data() -> None:
    """A row's maker takes the directory and nothing else, so that any test can run it."""
    assert all(len(inspect.signature(row.make).parameters) == 1 for _, row in ALL)
