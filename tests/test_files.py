"""Small files: bounded, strict, and quoted at no greater cost than what is shown."""

from __future__ import annotations

import os
import threading
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from miaotui.errors import ConfigError, InputError, PlanError
from miaotui.loader import files
from miaotui.loader.files import quote, read_bytes, read_json_object, read_text
from miaotui.loader.prune.mergekit import load_plan

if TYPE_CHECKING:
    from pathlib import Path

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=30)
    | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES, st.integers(8, 90))
def test_a_quote_is_the_repr_cut(value: object, limit: int) -> None:
    whole = repr(value)
    assert quote(value, limit) == (whole if len(whole) <= limit else whole[: limit - 3] + "...")


def test_a_quote_costs_what_it_shows() -> None:
    bomb: list[object] = ["x"] * 10
    for _ in range(60):  # 10^61 texts, as YAML's aliases can say in a few lines
        bomb = [bomb] * 10
    deep: list[object] = []
    for _ in range(200_000):
        deep = [deep]
    assert quote(bomb) == "[" * 61 + "'x', 'x', 'x', '"[: 77 - 61] + "..."
    assert quote(deep) == "[" * 77 + "..."
    assert quote({"a": 10**5000}) == "a dict"
    assert quote("é" * 10**7).endswith("...")


def test_yaml_that_expands_to_more_than_memory_is_refused_at_once(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 40)]
    plan = tmp_path / "plan.yml"
    plan.write_text("\n".join([*lines, "merge_method: passthrough", "slices: *a39"]), encoding="utf-8")
    with pytest.raises(PlanError, match="'a0' is not understood"):
        load_plan(plan)
    plan.write_text("merge_method: &m [x, [x, x]]\nslices: *m\n", encoding="utf-8")
    with pytest.raises(PlanError, match="merge_method is"):
        load_plan(plan)


def test_no_more_than_the_bound_is_read(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b'{"a": 1}')
    assert read_bytes(file, 8, ConfigError) == b'{"a": 1}'
    assert read_json_object(file, 8, ConfigError) == {"a": 1}
    with pytest.raises(ConfigError, match=r"has 8 bytes, expected at most 7; this is no config\.json"):
        read_json_object(file, 7, ConfigError)
    tracemalloc.start()
    read_bytes(file, 10**9, ConfigError)
    assert tracemalloc.get_traced_memory()[1] < 4 * files.PIECE  # what there is, not what there may be
    tracemalloc.stop()
    with (tmp_path / "huge.json").open("wb") as f:
        f.truncate(10**12)  # sparse
    with pytest.raises(ConfigError, match=r"huge\.json: has 1000000000000 bytes"):
        read_json_object(tmp_path / "huge.json", 10**6, ConfigError)


@pytest.mark.parametrize("make", ["missing", "directory", "nul"])
def test_what_cannot_be_read_is_said(tmp_path: Path, make: str) -> None:
    path = tmp_path / ("a\0b" if make == "nul" else make)
    if make == "directory":
        path.mkdir()
    for read in (lambda: read_bytes(path, 9, PlanError), lambda: read_text(path, PlanError)):
        with pytest.raises(PlanError, match=r"cannot be read|expected a regular file"):
            read()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in this system's file names")
def test_a_text_may_come_from_a_pipe_and_a_config_may_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match="expected a regular file"):
        read_json_object(pipe, 10, ConfigError)
    text = "Es war einmal.\r\n" * 30_000

    def written(value: bytes) -> threading.Thread:
        thread = threading.Thread(target=pipe.write_bytes, args=(value,), daemon=True)
        thread.start()
        return thread

    thread = written(text.encode())
    assert read_text(pipe, InputError) == text  # as it is, line ends too
    thread.join()
    plain = tmp_path / "t.txt"
    plain.write_bytes(b"abc\xff")
    with pytest.raises(InputError, match="byte 3 is not UTF-8"):
        read_text(plain, InputError)
    monkeypatch.setattr(files, "MAX_TEXT", 3)
    with pytest.raises(InputError, match="has more than 3 bytes"):
        read_text(plain, InputError)
