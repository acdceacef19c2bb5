"""int8 and int4 matrices: what rounding may cost, that it is the same however it is done, and that it can be kept."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor

import miaotui
import numpy as np
import pytest
from checkpoints import FAMILIES, encode, models, small, write_checkpoint
from helpers import open_weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miaotui.errors import CheckpointError, ConfigError, InputError, PlanError
from miaotui.loader.quantize import BLOCK_ROWS, pack_matrix, pack_rows, parse_quantize
from miaotui.loader.roles import LINEAR, MATRICES
from miaotui.runtime.cpu.packer import packer
from miaotui.runtime.quantized import GROUP, LEVELS, QUANTIZED, quantized_shape, unpack
from miaotui.tools.commands.quantize import quantize
from real_files import real
from safetensors.numpy import load_file, save_file

SIZES = st.sampled_from([1, 2, 3, 15, 16, 17, 31, 32, 33, 64, 65, 97])
ROWS = st.sampled_from([1, 15, 16, 17, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 131])
DTYPES = st.sampled_from(sorted(QUANTIZED))
HOWS = ["int8", "int4", "int4a", "int4,embed=int8", "down=int8", "int8,o=int4a"]
STORED = {"F32": np.float32, "BF16": np.uint16, "F16": np.float16, "F64": np.float64}
SPECIAL = [0.0, -0.0, 1.0, 1e-40, 6e-8, 65504.0, 1e6, 9e6, 3e38, np.nan, np.inf]
F16_STEP = 2.0**-11  # relative error of a scale's rounding to float16


def packed(x: np.ndarray, dtype: str, threads: int = 1) -> np.ndarray:
    out = np.empty(quantized_shape(dtype, x.shape), np.uint8)
    with ThreadPoolExecutor(threads) as pool:
        assert pack_matrix(x, "F32", dtype, out, pool=pool, threads=threads)
    return out


def matrix(n: int, k: int, seed: int, size: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((n, k)) * size).astype(np.float32)


def groups(x: np.ndarray) -> np.ndarray:
    """[n, k] -> [n, groups, 32], filled up with zeros."""
    return np.pad(x, ((0, 0), (0, -x.shape[1] % GROUP))).reshape(len(x), -1, GROUP).astype(float)


@settings(deadline=None)
@given(ROWS, SIZES, st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1.0, 1e3]))
@pytest.mark.parametrize(("dtype", "end"), [("int8", 127), ("int4", -8)])
def test_no_more_is_lost_than_by_plain_rounding(dtype, end, n, k, seed, size):
    """Plain: the largest number of a group to the end of the range, all others to the nearest step."""
    x = matrix(n, k, seed, size)
    g = groups(x)
    largest = np.take_along_axis(g, np.abs(g).argmax(-1)[..., None], -1)
    step = np.where(largest == 0, 1, largest / end)
    plain = ((np.clip(np.rint(g / step), *LEVELS[dtype]) * step - g) ** 2).sum(-1)
    ours = ((groups(unpack(packed(x, dtype), dtype, x.shape)) - g) ** 2).sum(-1)
    # the scale's rounding to float16; 2^-25: where float16 ends
    rounding = np.sqrt((g**2).sum(-1)) * F16_STEP - np.sqrt(GROUP) * LEVELS[dtype][0] * 2.0**-25
    assert np.all(np.sqrt(ours) <= np.sqrt(plain) + rounding)


@settings(deadline=None)
@given(ROWS, SIZES, st.integers(0, 2**32 - 1), st.sampled_from([0.0, 3.0, -100.0]))
def test_int4a_loses_no_more_than_plain_rounding(n, k, seed, middle):
    """Plain: the smallest number of a group to 0, the largest to 15, all others to the nearest step."""
    x = matrix(n, k, seed) + np.float32(middle)
    lost = (unpack(packed(x, "int4a"), "int4a", x.shape) - x) ** 2
    for at in range(0, k, GROUP):
        g = x[:, at : at + GROUP].astype(float)
        low, high = g.min(-1, keepdims=True), g.max(-1, keepdims=True)
        step = np.where(high == low, 1, (high - low) / 15)
        plain = ((np.rint((g - low) / step) * step + low - g) ** 2).sum(-1)
        rounding = np.sqrt(g.shape[1]) * ((high - low) + np.abs(low))[:, 0] * F16_STEP + 1e-6
        assert np.all(np.sqrt(lost[:, at : at + GROUP].sum(-1)) <= np.sqrt(plain) + rounding)


@settings(deadline=None)
@given(ROWS, SIZES.filter(lambda k: k % GROUP != 1), DTYPES, st.integers(0, 2**32 - 1))
def test_what_is_packed_is_packed_again_without_loss(n, k, dtype, seed):
    """Numbers on the grid come back: every place of the layout is written and read."""
    rng = np.random.default_rng(seed)
    low, high = LEVELS[dtype]
    q = groups(rng.integers(low, high + 1, (n, k)).astype(float))
    q[..., 0] = low
    q[..., 1] = high
    step = 2.0 ** rng.integers(-6, 7, q.shape[:2])[..., None]
    first = rng.integers(-99, 100, step.shape) * step if dtype == "int4a" else 0.0
    exact = (q * step + first).reshape(n, -1)[:, :k].astype(np.float32)
    assert np.array_equal(unpack(packed(exact, dtype), dtype, exact.shape), exact)


@settings(deadline=None, max_examples=20)
@given(ROWS, SIZES, DTYPES, st.integers(2, 4))
def test_threads_do_not_matter(n, k, dtype, threads):
    x = matrix(n, k, n * k)
    assert packed(x, dtype).tobytes() == packed(x, dtype, threads).tobytes()


@pytest.mark.parametrize("dtype", sorted(QUANTIZED))
@pytest.mark.parametrize("turned", [False, True])
def test_the_kernels_pack_as_the_definition_says(dtype, turned):
    """Byte for byte, whatever the file's dtype; and they refuse what it refuses."""
    by_kernel = packer([dtype])

    @settings(deadline=None, max_examples=60)
    @given(ROWS, SIZES, st.sampled_from(["F32", "BF16", "F16", "F64"]), st.integers(0, 2**32 - 1), st.data())
    def holds(n, k, stored, seed, data):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((k, n) if turned else (n, k)) * data.draw(st.sampled_from([1e-7, 1.0, 300.0]))
        x[rng.random(x.shape) < data.draw(st.sampled_from([0.0, 0.3, 0.9]))] = data.draw(st.sampled_from(SPECIAL))
        with np.errstate(over="ignore"):
            x = np.frombuffer(encode(x, stored), STORED[stored]).reshape(x.shape)
        x = x.T if turned else x
        wanted, got = (np.zeros(quantized_shape(dtype, x.shape), np.uint8) for _ in range(2))
        fine = pack_rows(x, stored, dtype, wanted)
        assert by_kernel(x, stored, dtype, got) == fine
        assert not fine or np.array_equal(got, wanted)

    holds()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("dtype", sorted(QUANTIZED))
def test_numbers_that_do_not_fit_are_refused(tmp_path, bad, dtype):
    write_checkpoint(tmp_path, small("llama"))
    file = tmp_path / "model.safetensors"
    data = bytearray(file.read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    name = "model.layers.1.mlp.up_proj.weight"
    at = 8 + int.from_bytes(data[:8], "little") + header[name]["data_offsets"][0]
    data[at + 8 : at + 12] = np.float32(bad).tobytes()
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=name):
        miaotui.load(tmp_path, quantize=dtype)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, {}),
        ("none", {}),
        ("embed=int8", {"embed": "int8"}),
        ("int8", dict.fromkeys(MATRICES, "int8")),
        ("embed=none, int4", {role: "int4" for role in MATRICES if role != "embed"}),
    ],
)
def test_how_is_read(text, expected):
    assert parse_quantize(text) == expected


@pytest.mark.parametrize("text", ["", "int3", "int8,", "norm=int8", "embed=", "=int8,", "int8=embed", 8, ["int8"]])
def test_how_is_refused(text):
    with pytest.raises(PlanError, match="expected int8, int4, int4a or none"):
        parse_quantize(text)


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data(), st.sampled_from(FAMILIES), st.sampled_from(HOWS))
def test_loading_quantises_what_the_file_says(tmp_path_factory, data, family, how):
    """Every matrix is what packing its exact values gives; transposed and fused ones too."""
    path = tmp_path_factory.mktemp("q")
    write_checkpoint(path, data.draw(models(family)))
    _, plain = open_weights(path)
    _, rounded = open_weights(path, how)
    roles = parse_quantize(how)
    exact = {w.name: w for w in plain}
    for w in rounded:
        dtype = roles.get(w.name.rpartition(".")[2])
        if dtype is None or w.name == "positions" or len(w.shape) == 1:
            assert np.array_equal(w.f64(), exact[w.name].f64())
        else:
            assert w.dtype == dtype
            assert w.array.tobytes() == packed(exact[w.name].f64().astype(np.float32), dtype).tobytes()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("how", ["int8", "int4,embed=int8", "int4a", "down=int4,q=int4a", "k=int8", "o=int4"])
def test_a_written_checkpoint_gives_the_same_bits_and_is_mapped(tmp_path, family, how):
    from safetensors import safe_open

    write_checkpoint(tmp_path / "in", small(family))
    before, after = quantize(tmp_path / "in", tmp_path / "out", how)
    assert before > 0
    with safe_open(tmp_path / "out" / "model.safetensors", "numpy") as f:
        assert sum(f.get_tensor(name).nbytes for name in f.keys()) == after  # noqa: SIM118 - no dict
    with miaotui.load(tmp_path / "in", quantize=how) as one, miaotui.load(tmp_path / "out") as other:
        assert np.array_equal(one.logits([1, 2, 3]), other.logits([1, 2, 3]))
        turned = family == "gpt2"  # GPT-2's other matrices are stored turned, and stay so
        assert all(w.mapped for w in other.session.weights if w.quantized or not turned)
        assert {w.name: w.dtype for w in one.session.weights} == {w.name: w.dtype for w in other.session.weights}
    roles = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["roles"]
    wanted = parse_quantize(how)
    assert roles.items() <= wanted.items()
    own = ("embed", "head", *LINEAR)
    assert (wanted.keys() & own) - roles.keys() <= {"head", "gate"}  # tied; GPT-2 has no gate
    with pytest.raises(InputError, match="exists"):
        quantize(tmp_path / "in", tmp_path / "out", how)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data(), st.sampled_from(FAMILIES), st.sampled_from([*HOWS, "v=int8,k=int4a"]))
def test_what_is_written_is_what_loading_makes(tmp_path_factory, data, family, how):
    """Of any model, every weight: also where some of a fused tensor's matrices stay as they are."""
    path = tmp_path_factory.mktemp("q")
    write_checkpoint(path / "in", data.draw(models(family)))
    quantize(path / "in", path / "out", how)
    _, ours = open_weights(path / "in", how)
    _, theirs = open_weights(path / "out")
    for a, b in zip(ours, theirs, strict=True):
        assert (a.name, a.dtype, a.shape) == (b.name, b.dtype, b.shape)
        assert a.array.tobytes() == b.array.tobytes()


def test_a_piece_beside_its_whole_is_refused(tmp_path):
    write_checkpoint(tmp_path / "in", small("gpt2"))
    quantize(tmp_path / "in", tmp_path / "out", "q=int8")
    whole = load_file(tmp_path / "in" / "model.safetensors")
    mixed = load_file(tmp_path / "out" / "model.safetensors")
    name = "transformer.h.0.attn.c_attn.weight"
    save_file(mixed | {name: whole[name]}, tmp_path / "out" / "model.safetensors")
    with pytest.raises(CheckpointError, match=re.escape(name)):
        miaotui.load(tmp_path / "out")
    del mixed[f"{name}.k"]
    save_file(mixed, tmp_path / "out" / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{re.escape(name)}.*missing"):
        miaotui.load(tmp_path / "out")


def test_a_written_checkpoint_is_not_rounded_twice(tmp_path):
    write_checkpoint(tmp_path / "in", small("llama"))
    quantize(tmp_path / "in", tmp_path / "out", "int8")
    miaotui.load(tmp_path / "out", quantize="int8").close()
    with pytest.raises(PlanError, match="int8 already"):
        miaotui.load(tmp_path / "out", quantize="int4")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    config["quantization_config"]["format"] = 2
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="format is 2"):
        miaotui.load(tmp_path / "out")


def test_quantised_text_is_near_the_exact():
    """On a trained model: int8 changes next to nothing, int4 little; the order is kept."""
    directory = real("models", "stories260K-hf")
    ids = None
    lost = {}
    for how in (None, "int8", "int4,embed=int8", "int4a", "int4"):
        with miaotui.load(directory, quantize=how) as model:
            ids = ids or model.tokenizer.encode(real("text", "tinystories_sample.txt").read_text("utf-8"))[:200]
            logits = model.logits(ids).astype(float)
            p = np.exp(logits - logits.max(-1, keepdims=True))
            lost[how] = np.log(p / p.sum(-1, keepdims=True))
    exact = lost.pop(None)
    kl = {how: float((np.exp(exact) * (exact - q)).sum(-1).mean()) for how, q in lost.items()}
    assert 0 <= kl["int8"] < kl["int4,embed=int8"] < kl["int4"]
    assert kl["int8"] < kl["int4a"] < kl["int4"]
    assert kl["int8"] < 1e-3
