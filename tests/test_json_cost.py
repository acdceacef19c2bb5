"""JSON from outside: what it would take is known, and bounded, before anything is made of it."""

from __future__ import annotations

import json
import struct
import tracemalloc
from typing import TYPE_CHECKING, Any

import miaotui
import pytest
from checkpoints import small, write_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from miaotui.errors import CheckpointError, MiaotuiError
from miaotui.loader import files
from miaotui.loader.files import parse_json
from miaotui.loader.header import read_header
from miaotui.loader.json_cost import count
from miaotui.loader.text.vocabulary import kept_ids

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def tallied(value: object) -> tuple[int, int, int, int, int]:
    """Lists, objects, items, commas and strings of a value, by walking it."""
    own = (0, 0, 0, 0, 1) if isinstance(value, str) else (0, 0, 0, 0, 0)
    inner: list[object] = []
    if isinstance(value, list):
        own, inner = (1, 0, 0, max(0, len(value) - 1), 0), value
    elif isinstance(value, dict):
        own, inner = (0, 1, len(value), max(0, len(value) - 1), len(value)), list(value.values())
    return tuple(sum(of) for of in zip(own, *map(tallied, inner), strict=True))  # type: ignore[return-value]


@given(JSON, st.booleans())
def test_what_is_counted_is_there(value, ascii_only):
    counts = count(json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"))
    assert (counts.lists, counts.objects, counts.items, counts.commas, counts.strings) == tallied(value)


def test_strings_go_on_from_piece_to_piece(monkeypatch):
    value = [{"a,b": '[{,:"\\'}, "\\\\", '"', [",", {}]]
    for piece in (1, 2, 3, 7, 64):
        monkeypatch.setattr("miaotui.loader.json_cost.PIECE", piece)
        counts = count(json.dumps(value).encode())
        assert (counts.lists, counts.objects, counts.items, counts.commas, counts.strings) == tallied(value)


def many(make: Callable[[int], str], n: int = 30_000) -> bytes:
    return f"[{','.join(map(make, range(n)))}]".encode()


SHAPES: dict[str, bytes] = {
    "lists": many(lambda _: "[]"),
    "nested lists": many(lambda _: "[[[]]]"),
    "lists of one": many(lambda _: "[1]"),
    "objects": many(lambda _: "{}"),
    "objects of one": many(lambda i: f'{{"{i}":0}}'),
    "objects of six": many(lambda _: '{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1}', 5000),
    "integers": many(lambda i: str(1000 + i)),
    "floats": many(lambda _: "0.5"),
    "strings": many(lambda _: '"ab"'),
    "empty strings": many(lambda _: '""'),
    "keys": b"[{" + b",".join(b'"%d":0' % i for i in range(30_000)) + b"}]",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_estimate_is_near_what_is_taken(shape):
    data = SHAPES[shape]
    tracemalloc.start()
    parsed = parse_json(data, "here", CheckpointError)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert parsed
    assert count(data).taken >= 0.9 * held


#: A file, and where it stands among the others; each holds what takes thirty times its bytes.
BOMBS = {
    "config.json": lambda inner: b'{"model_type":"llama","a":' + inner + b"}",
    "generation_config.json": lambda inner: b'{"a":' + inner + b"}",
    "tokenizer_config.json": lambda inner: b'{"a":' + inner + b"}",
    "kept_vocab.json": lambda inner: b'{"format":"miaotui-vocab","version":1,"kept":' + inner + b"}",
    "plan.json": lambda inner: b'{"format":"miaotui-prune","version":1,"notes":' + inner + b"}",
    "model.safetensors.index.json": lambda inner: b'{"weight_map":' + inner + b"}",
    "model.safetensors": lambda inner: b'{"a":' + inner + b"}",
    "model.safetensors, metadata": lambda inner: b'{"__metadata__":{"a":' + inner + b"}}",
}


@pytest.mark.parametrize("piece", [b"[]", b"{}", b"[[]]", b'""', b'{"a":{}}'], ids=str)
@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_would_take_many_times_its_size_is_refused(tmp_path, monkeypatch, name, piece):
    monkeypatch.setattr(files, "FREE", 2**20)  # so that small files show it
    write_checkpoint(tmp_path, small("llama"))
    (tmp_path / "tokenizer.json").write_text("{}")
    data = BOMBS[name](b"[" + piece + (b"," + piece) * (2**20 // (len(piece) + 1)) + b"]")
    if name.startswith("model.safetensors"):
        (tmp_path / "model.safetensors").unlink()
    if name.split(",")[0] == "model.safetensors":
        data, name = struct.pack("<Q", len(data)) + data, "model.safetensors"
    (tmp_path / name).write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(MiaotuiError, match=r"would take about .* or 8 times the file") as error:
            _use(tmp_path, name)
        assert tracemalloc.get_traced_memory()[1] < 10 * len(data)
    finally:
        tracemalloc.stop()
    assert name in str(error.value)


def _use(directory: Path, name: str) -> None:
    if name == "kept_vocab.json":  # which is read after the tokenizer
        kept_ids(directory)
    with miaotui.load(directory, prune=directory / "plan.json" if name == "plan.json" else None) as model:
        assert model.tokenizer


def header_of(n: int, metadata: str = "") -> bytes:
    """A header of n empty tensors with names as long as they are in large models."""
    entries = (
        f'"model.layers.{i}.self_attn.q_proj.weight":{{"dtype":"BF16","shape":[4096,0],"data_offsets":[0,0]}}'
        for i in range(n)
    )
    text = f"{{{metadata}{','.join(entries)}}}".encode()
    return struct.pack("<Q", len(text)) + text


def test_fifty_thousand_tensors_are_no_bomb(tmp_path):
    data = header_of(50_000, '"__metadata__":{"format":"pt","notes":"[{,:]"},')
    file = tmp_path / "model.safetensors"
    file.write_bytes(data)
    tracemalloc.start()
    try:
        header = read_header(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(header.tensors) == 50_000
    assert header.metadata == {"format": "pt", "notes": "[{,:]"}
    assert peak < 8 * len(data)


def spaced(text: str) -> str:
    return text.replace("{", "{ ").replace(":", " :\t").replace(",", "\n,\r ")


@pytest.mark.parametrize("change", [str, spaced], ids=["dense", "spaced"])
def test_a_header_is_what_the_whole_grammar_makes_of_it(tmp_path, monkeypatch, change):
    names = ["a", "b\\u0041", 'c\\"}', "ä", "d e"]
    entries = (f'"{n}":{{"shape":[0],"dtype":"F32","data_offsets":[0,0]}}' for n in names)
    text = change(f'{{{",".join(entries)},"__metadata__":{{"k":"v","l":""}}}}').encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    one_by_one = read_header(file)
    with monkeypatch.context() as m:
        m.setattr("miaotui.loader.header._entries", lambda text: iter([text.index("\0")]))
        whole = read_header(file)
    assert (one_by_one.tensors, one_by_one.metadata) == (whole.tensors, whole.metadata)
    assert list(one_by_one.tensors) == ["a", "bA", 'c"}', "ä", "d e"]
    assert one_by_one.metadata == {"k": "v", "l": ""}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},}', "not valid JSON"),
        ('{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}} x', "not valid JSON"),
        ('{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}', "not valid JSON"),
        ('{"a" {"dtype":"F32"}}', "not valid JSON"),
        ('{"__metadata__":{},"__metadata__":{}}', "'__metadata__' is given twice"),
        ('{"__metadata__":{"a":"b","a":"c"}}', "'a' is given twice"),
        ('{"__metadata__":{"a":1}}', "must be a string, found 1"),
        ('{"a":{"dtype":"F32","dtype":"F32","shape":[0],"data_offsets":[0,0]}}', "'dtype' is given twice"),
        ('{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"more":{}}}', "found {'dtype'"),
        ('{"a":{"dtype":"F32","shape":' + 3000 * "[" + 3000 * "]" + "}}", "nested too deep|shape must be"),
        ('{"a":' + 5000 * " " + "1}", "found 1"),
    ],
)
def test_what_is_wrong_with_a_header_is_said(tmp_path, text: str, says: str):
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text.encode())
    with pytest.raises(CheckpointError, match=says):
        read_header(file)


def test_a_spaced_entry_is_read_whatever_its_length(tmp_path):
    entry = '{"a":{"dtype":"F32",' + 5000 * " " + '"shape":[0],"data_offsets":[0,0]}}'
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(entry)) + entry.encode())
    assert list(read_header(file).tensors) == ["a"]


def test_a_token_table_of_a_speech_model_is_no_bomb():
    """tokenizer_config.json of Orpheus 3B names 28,672 added tokens: five megabytes, spaced."""
    tokens: dict[str, Any] = {
        str(i): {"content": f"<custom_token_{i}>"} | dict.fromkeys(("lstrip", "normalized", "rstrip", "special"), False)
        for i in range(28_672)
    }
    data = json.dumps({"added_tokens_decoder": tokens}, indent=2).encode()
    assert len(parse_json(data, "here", CheckpointError)["added_tokens_decoder"]) == 28_672
