"""Numbers that are too small for a float16 scale, or too large: refused, or as near as any others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from checkpoints import Drawn, write_checkpoint
from miaotui.errors import CheckpointError
from miaotui.loader.quantize import BLOCK_ROWS, pack_matrix, pack_rows
from miaotui.loader.underflow import LEAST_SCALE, NOTHING, TOKENS, Faint, Underflow
from miaotui.runtime.cpu.packer import packer
from miaotui.runtime.quantized import GROUP, QUANTIZED, SCALE_BYTES, quantized_shape
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

IDS = list(range(1, 40))
KINDS = sorted(QUANTIZED)
UP, DOWN, EMBED = (
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.0.mlp.down_proj.weight",
    "model.embed_tokens.weight",
)
#: What the largest number of a group is of its scale, at least: from there on it is large enough.
REACH = {"int8": 129, "int4": 9, "int4a": 16}


def model(directory: Path, dtype: str = "F32", **changes: Any) -> Path:
    config = {
        "model_type": "llama", "vocab_size": 600, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": False,
    }  # fmt: skip
    write_checkpoint(directory, Drawn(config | changes, dtype, 3))
    return directory


def changed(directory: Path, **of: Mapping[str, Any]) -> Path:
    """With these tensors multiplied, a row or all."""
    file = directory / "model.safetensors"
    tensors = load_file(file)
    for rows, factors in of.values():
        for name, factor in factors.items():
            tensors[name][rows] *= np.float32(factor)
    save_file(tensors, file)
    return directory


def divergence(exact: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """KL of the tokens' probabilities, the mean over positions."""
    a, b = (x.astype(np.float64) - np.logaddexp.reduce(x.astype(np.float64), -1, keepdims=True) for x in (exact, other))
    return float((np.exp(a) * (a - b)).sum(-1).mean())


def cost(directory: Path, quantize: str, **options: Any) -> float | None:
    """The divergence that quantising brings, None where it is refused."""
    with miaotui.load(directory, **options) as exact:
        right = exact.logits(IDS)
    try:
        with miaotui.load(directory, quantize=quantize, **options) as other:
            return divergence(right, other.logits(IDS))
    except CheckpointError as e:
        return None if "too small for" in str(e) else float("nan")


@pytest.mark.parametrize(("kind", "prune"), [*((kind, None) for kind in KINDS), ("int8", "sparsity=dense,up=0.5")])
def test_up_times_s_and_down_over_s_cost_the_same_or_are_refused(tmp_path: Path, kind: str, prune: str | None):
    """r_11: the same function for every s. Refused from some s on, and never before it costs anything."""
    costs = {}
    for power in (0, -8, -12, -14, -16, -18, -20, -24):
        s = 2.0**power
        directory = model(tmp_path / f"{kind}{power}")
        changed(directory, all=(slice(None), {UP: s, DOWN: 1 / s}))
        costs[power] = cost(directory, f"up={kind}", prune=prune)
    assert costs[0]
    assert costs[-8] is not None
    assert costs[-24] is None
    refused = [power for power, of in costs.items() if of is None]
    assert refused == [power for power in costs if power <= max(refused)]
    for of in costs.values():
        assert of is None or of <= 1.5 * costs[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 3])
def test_the_error_names_tensor_row_columns_and_number(tmp_path: Path, kind: str, threads: int):
    directory = model(tmp_path, intermediate_size=700)
    changed(directory, row=(slice(613, 614), {UP: 1e-9}), later=(slice(650, 660), {UP: 1e-9}))
    largest = np.abs(load_file(directory / "model.safetensors")[UP][613, :32]).max()
    with pytest.raises(CheckpointError) as error:
        miaotui.load(directory, quantize=kind, threads=threads)
    text = str(error.value)
    assert f"tensor {UP}, output 613, inputs 0 to 31: no number above {largest:.3g}, too small for {kind}" in text
    assert f"quantize='{kind},up=none'" in text
    miaotui.load(directory, quantize=f"{kind},up=none", threads=threads).close()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_as_good_as_zero_are_zero(tmp_path: Path, kind: str):
    """A dead neuron is loaded as it was before there was a bound: 2**-40, and what is below."""
    dead = changed(model(tmp_path / "dead"), row=(slice(5, 6), {UP: 0}))
    tiny = changed(model(tmp_path / "tiny"), row=(slice(5, 6), {UP: 2.0**-60}))
    with miaotui.load(dead, quantize=kind) as a, miaotui.load(tiny, quantize=kind) as b:
        np.testing.assert_array_equal(a.logits(IDS), b.logits(IDS))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_tokens_that_were_never_trained_are_loaded(tmp_path: Path, kind: str, *, tied: bool):
    few = model(tmp_path / "few", tie_word_embeddings=tied)
    changed(few, rows=(slice(300, 500), {EMBED: 1e-9}))
    miaotui.load(few, quantize=kind).close()
    block = changed(model(tmp_path / "block", tie_word_embeddings=tied), rows=(slice(200, 512), {EMBED: 1e-9}))
    for threads in (1, 2, 5):  # the blocks do not depend on who reads which rows
        with pytest.raises(CheckpointError, match=f"{EMBED}, output 256, .* in all of the 256 rows around it"):
            miaotui.load(block, quantize=kind, threads=threads)


def test_a_head_is_judged_as_the_embedding_is(tmp_path: Path):
    directory = changed(model(tmp_path / "few"), rows=(slice(300, 500), {"lm_head.weight": 1e-9}))
    miaotui.load(directory, quantize="int8").close()
    directory = changed(model(tmp_path / "all"), all=(slice(None), {"lm_head.weight": 1e-9}))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight, output 0, inputs 0 to 31"):
        miaotui.load(directory, quantize="int8")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored", ["F32", "BF16", "F16", "F64"])
def test_what_is_looked_at_is_what_is_stored(kind: str, stored: str):
    """One group at each size, in every dtype of a file, by both ways of quantising."""
    for pack in (pack_rows, packer([kind])):
        for power in range(-50, 4):
            numbers = (np.linspace(-1, 1, 2 * GROUP, dtype=np.float64) * 2.0**power).reshape(2, GROUP)
            wide = numbers.astype({"F16": np.float16, "F64": np.float64}.get(stored, np.float32))
            file = (wide.view(np.uint32) >> 16).astype(np.uint16) if stored == "BF16" else wide
            out = np.empty(quantized_shape(kind, (2, GROUP)), np.uint8)
            watch = Underflow(kind)
            assert pack_matrix(file, stored, kind, out, pack=pack, underflow=watch)
            largest = float(np.abs(wide).max()) if stored != "BF16" else 2.0**power
            if largest >= REACH[kind] * LEAST_SCALE[kind] or largest < NOTHING:
                assert watch.first() is None
            elif largest < LEAST_SCALE[kind]:
                assert watch.first() == Faint(0, 0, largest)


def test_a_small_range_of_large_numbers_is_no_fault():
    """int4a holds 0.5 +- 1e-8 as 0.5."""
    numbers = np.float32(0.5) + np.linspace(-1e-7, 1e-7, 3 * GROUP, dtype=np.float32).reshape(3, GROUP)
    out, watch = np.empty(quantized_shape("int4a", numbers.shape), np.uint8), Underflow("int4a")
    assert pack_matrix(numbers, "F32", "int4a", out, underflow=watch)
    assert watch.first() is None


@pytest.mark.parametrize("tokens", [False, True])
def test_the_first_is_the_first_whoever_finds_it(tokens):
    n = 3 * BLOCK_ROWS + 5
    numbers = np.random.default_rng(0).standard_normal((n, 70)).astype(np.float32)
    numbers[400:, 64:] *= np.float32(1e-8)
    numbers[2 * TOKENS : 3 * TOKENS] *= np.float32(1e-9)
    for threads in (1, 2, 7):
        out, watch = np.empty(quantized_shape("int8", numbers.shape), np.uint8), Underflow("int8", tokens=tokens)
        with ThreadPoolExecutor(threads) as pool:
            assert pack_matrix(numbers, "F32", "int8", out, pool=pool, threads=threads, underflow=watch)
        first = watch.first()
        assert first is not None
        assert first[:2] == ((2 * TOKENS, 0) if tokens else (400, 64))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored", ["F32", "BF16", "F64"])
def test_numbers_too_large_for_a_scale_are_refused(kind: str, stored: str):
    """The scale itself, or int4a's smallest number."""
    shapes = {"both signs": np.linspace(-1, 1, GROUP), "far from 0": 1 + np.linspace(0, 1e-3, GROUP)}
    for pack in (pack_rows, packer([kind])):
        for shape in shapes.values():
            for size in (1e5, 1e8, 1e30, 3e38, *((1e300,) if stored == "F64" else ())):
                wide = (shape * size).astype(np.float64 if stored == "F64" else np.float32)[None]
                file = (wide.view(np.uint32) >> 16).astype(np.uint16) if stored == "BF16" else wide
                out = np.empty(quantized_shape(kind, wide.shape), np.uint8)
                with np.errstate(all="ignore"):
                    fine = pack_matrix(file, stored, kind, out, pack=pack)
                fits = size * 1.01 < {"int8": 126, "int4": 7, "int4a": 0}[kind] * 65504
                assert fine or not fits
                if size >= 1e8:
                    assert not fine


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_the_least_scale_is_large_enough(kind: str) -> None:
    """And the next smaller one is not."""
    least = np.float16(LEAST_SCALE[kind])
    for scale, sound in ((least, True), (np.nextafter(least, np.float16(0)), False)):
        packed = np.full((1, 1, SCALE_BYTES // 2), scale, np.float16).view(np.uint8)
        seen = Underflow(kind)
        seen.look(0, np.full((3, GROUP), 1e-3, np.float32), "F32", packed)
        assert (seen.first() is None) == sound
