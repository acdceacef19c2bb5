"""The safetensors reader against the safetensors package, and what a mapped tensor promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from broken import header_of, safetensors_bytes, tensors, write_good
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from miaotui.errors import CheckpointError
from miaotui.loader.checkpoint import open_checkpoint
from miaotui.loader.files import quote
from miaotui.loader.header import DTYPES, Header, TensorInfo, read_header
from safetensors.numpy import save_file

NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16"} | {
    "int8": "I8", "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL", "complex64": "C64",
}  # fmt: skip
ARRAYS = st.sampled_from(sorted(NAMES)).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write_good(tmp_path / "m")


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arrays=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), ARRAYS, max_size=5),
    # never {}: of no tensors and empty metadata, safetensors 0.8 writes a header that it cannot read itself
    metadata=st.none() | st.dictionaries(st.text(max_size=4), st.text(max_size=4), min_size=1, max_size=3),
)
def test_reads_back_what_safetensors_wrote(
    good: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None
) -> None:
    """Law: our reader after the package's writer is the identity, for every NumPy dtype and shape."""
    arrays.pop("__metadata__", None)
    file = good / "model.safetensors"
    save_file(arrays, file, metadata)
    header = read_header(file)
    assert header.metadata == (metadata or {})
    assert header.file_bytes == file.stat().st_size
    with open_checkpoint(good) as checkpoint:
        assert checkpoint.tensors.keys() == arrays.keys()
        for name, array in arrays.items():
            info, view = checkpoint.tensors[name], checkpoint.array(name)
            assert (info.dtype, info.shape, info.nbytes) == (NAMES[array.dtype.name], array.shape, array.nbytes)
            assert (view.dtype, view.shape) == (array.dtype, array.shape)
            assert view.tobytes() == array.tobytes()
            assert not view.flags.writeable


def test_bits_without_a_numpy_type(good: Path) -> None:
    data = bytes(range(16))
    some = {"b": ("BF16", [4], data[:8]), "e4": ("F8_E4M3", [2, 2], data[8:12]), "e5": ("F8_E5M2", [4], data[12:])}
    (good / "model.safetensors").write_bytes(safetensors_bytes(header_of(some), data))
    with open_checkpoint(good) as checkpoint:
        assert checkpoint.array("b").dtype == np.uint16
        assert checkpoint.array("b").tobytes() == data[:8]
        assert checkpoint.array("e4").dtype == checkpoint.array("e5").dtype == np.uint8
        assert checkpoint.array("e4").shape == (2, 2)


def test_unaligned_and_empty_tensors(good: Path) -> None:
    floats = np.arange(3, dtype="<f4")
    some = {
        "byte": ("U8", [1], b"\x07"),
        "floats": ("F32", [3], floats.tobytes()),
        "none": ("F32", [0, 5], b""),
        "scalar": ("F64", [], np.float64(2.5).tobytes()),
    }
    for pad in range(8):  # the header's end decides where the data lies
        raw = json.dumps(header_of(some)).encode() + b" " * pad
        (good / "model.safetensors").write_bytes(safetensors_bytes(raw, b"".join(t[2] for t in some.values())))
        with open_checkpoint(good) as checkpoint:
            assert np.array_equal(checkpoint.array("floats"), floats)
            assert checkpoint.array("none").shape == (0, 5)
            assert checkpoint.array("scalar") == 2.5


@pytest.mark.parametrize("some", [{}, {"none": ("F32", [0], b"")}])
def test_no_data_at_all(good: Path, some: dict[str, tuple[str, list[int], bytes]]) -> None:
    (good / "model.safetensors").write_bytes(safetensors_bytes(header_of(some), b""))
    with open_checkpoint(good) as checkpoint:
        assert [checkpoint.array(name).size for name in checkpoint.tensors] == [0] * len(some)


def test_tensors_come_in_the_order_of_their_data(good: Path) -> None:
    table = header_of(tensors())
    turned = dict(reversed(table.items()))
    file = good / "model.safetensors"
    file.write_bytes(safetensors_bytes(turned, b"".join(t[2] for t in tensors().values())))
    assert list(read_header(file).tensors) == [n for n in table if n != "__metadata__"]


def test_views_share_the_mapping_and_outlive_close(good: Path) -> None:
    checkpoint = open_checkpoint(good)
    one, two = checkpoint.array("model.norm.weight"), checkpoint.array("model.norm.weight")
    assert one.ctypes.data == two.ctypes.data
    assert not one.flags.owndata
    checkpoint.close()
    checkpoint.close()
    assert one.tolist() == two.tolist()
    with pytest.raises(CheckpointError, match="closed"):
        checkpoint.array("model.norm.weight")


def test_unknown_tensor_and_changed_file(good: Path) -> None:
    with open_checkpoint(good) as checkpoint:
        with pytest.raises(CheckpointError, match="no tensor 'x'"):
            checkpoint.array("x")
        with (good / "model.safetensors").open("ab") as f:
            f.write(b"more")
        with pytest.raises(CheckpointError, match="changed"):
            checkpoint.array("model.norm.weight")
    with open_checkpoint(write_good(good)) as checkpoint:
        (good / "model.safetensors").unlink()
        with pytest.raises(CheckpointError, match="cannot be mapped"):
            checkpoint.array("model.norm.weight")


def test_shards_and_links(good: Path, tmp_path: Path) -> None:
    """A shard may be a link out of the directory: the hub's cache is built so."""
    some = tensors()
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    weight_map = {}
    for i, (name, tensor) in enumerate(some.items()):
        shard = f"model-{i}.safetensors"
        (blobs / str(i)).write_bytes(safetensors_bytes(header_of({name: tensor}), tensor[2]))
        (good / shard).symlink_to(blobs / str(i))
        weight_map[name] = shard
    (good / "model.safetensors").unlink()
    (good / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with open_checkpoint(good) as checkpoint:
        assert checkpoint.tensors.keys() == some.keys()
        assert checkpoint.file_bytes == sum(f.stat().st_size for f in blobs.iterdir())
        for name, (_, _, data) in some.items():
            assert checkpoint.array(name).tobytes() == data


def test_single_file_wins_over_an_index(good: Path) -> None:
    (good / "model.safetensors.index.json").write_text("broken")
    with open_checkpoint(good) as checkpoint:
        assert len(checkpoint.tensors) == len(tensors())


def test_generation_config_is_optional(good: Path) -> None:
    with open_checkpoint(good) as checkpoint:
        assert checkpoint.generation == {"eos_token_id": [2]}
    (good / "generation_config.json").unlink()
    with open_checkpoint(str(good)) as checkpoint:
        assert checkpoint.generation is None


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts the bytes read by /proc/self/io")
def test_opening_reads_no_tensor_data(good: Path) -> None:
    n = 64_000_000
    raw = json.dumps({"big": {"dtype": "U8", "shape": [n], "data_offsets": [0, n]}}).encode()
    with (good / "model.safetensors").open("wb") as f:
        f.write(safetensors_bytes(raw, b""))
        f.truncate(8 + len(raw) + n)  # a hole: takes no disk
    before = _bytes_read()
    with open_checkpoint(good) as checkpoint:
        assert checkpoint.array("big").shape == (n,)
    assert _bytes_read() - before < 1_000_000


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(good: Path) -> None:
    (good / "model.safetensors").chmod(0)
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_checkpoint(good)


def test_records_are_frozen() -> None:
    info = TensorInfo("a", "U8", (1,), 0, 1, Path("f"))
    for record in (info, Header(Path("f"), {}, {}, 8, 8)):
        with pytest.raises(AttributeError):
            record.file = Path("g")  # type: ignore[misc]
    assert set(NAMES.values()) < set(DTYPES)


def test_shown_is_short() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("x" * 10**6, [1] * 10**6, {"a": "b" * 10**6}, 10**5000, deep, "\x1b[31m\ud800"):
        assert len(quote(value)) <= 80
        assert quote(value).isprintable()


def test_bare_import_is_refused() -> None:
    root = Path(__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", "import loader"], cwd=root, capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode != 0
    assert "import miaotui.loader, not loader" in run.stderr


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ([2**31, 2**31, 0], r"shape .* has more elements than memory has addresses"),
        ([2**31, 2**31], r"shape .* has more elements than memory has addresses"),
        ([2**20, 2**20], r"F32 of shape .* takes 4398046511104 bytes, data_offsets \[0, 0\] hold 0"),
    ],
)
def test_a_shape_beyond_memory_is_no_shape(tmp_path: Path, shape: list[int], said: str) -> None:
    """Also where a zero in it leaves no byte."""
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    file = tmp_path / "m.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match=said):
        read_header(file)
