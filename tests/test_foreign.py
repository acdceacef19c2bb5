"""Checkpoints that others quantised: every number that they mean, exactly, whatever it becomes and whatever is cut."""

from __future__ import annotations

import json
import mmap
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import miaotui as mt
import numpy as np
import pytest
from checkpoints import Drawn, small, write_safetensors
from foreign import (
    FOREIGN,
    MODEL,
    Foreign,
    Made,
    Part,
    e4m3,
    experts,
    float8,
    packed,
    words,
    write_foreign,
    write_twin,
)
from helpers import open_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import CheckpointError
from miaotui.limits import Request
from miaotui.loader.foreign.coded import Coded, Layout
from miaotui.loader.foreign.forms import holds, repack
from miaotui.loader.foreign.packed import Packed
from miaotui.loader.foreign.packed import e4m3 as ours
from miaotui.loader.header import TensorInfo
from miaotui.loader.load_plan import make_load_plan
from miaotui.loader.open import open_model
from miaotui.loader.pack import pack
from miaotui.loader.prune.compiled import compile_plan
from miaotui.loader.prune.plan import PrunePlan
from miaotui.loader.source import spans_by_file
from miaotui.runtime.quantized import QUANTIZED, quantized_shape, unpack
from miaotui.tools.commands.inspect import facts, lines
from miaotui.tools.commands.quantize import quantize
from miaotui.tools.importance.masks import parse_sparsity
from miaotui.tools.importance.methods import Text, Wish, find
from miaotui.tools.prune import prune
from test_pages_read import PAGE, let_go, resident

if TYPE_CHECKING:
    from miaotui.runtime.spec import Weight

IDS = [3, 1, 4, 15, 9, 26, 5]
EVERY = pytest.mark.parametrize("name", FOREIGN)
#: One of each way in which tensors lie.
LAYOUTS = pytest.mark.parametrize(
    "name", ["gptq", "gptq-asymmetric", "awq", "awq-gemv", "packed-asymmetric", "int8", "fp8"]
)
#: A cut of everything that can be: the second layer, a head that comes later, neurons in several ranges, ids, width.
CUTS = {
    "heads": PrunePlan(layers="1", heads={1: "2,3"}, vocab="0-9,15,26-30"),
    "whole groups": PrunePlan(ffn={0: "32-95", 1: "0-31,64-95"}),
    "neurons": PrunePlan(layers="1", ffn={1: "1,5-40,90-95"}),
    "width": PrunePlan(width="0-31,40-47"),
}


def numbers(weight: Weight) -> np.ndarray:
    """The values, float64."""
    array = np.asarray(weight.array)
    if weight.dtype in QUANTIZED:
        return unpack(array, weight.dtype, weight.shape)
    return (array.astype(np.uint32) << 16).view(np.float32) if weight.dtype == "bf16" else array.astype(float)


def in_memory(bits: int, parts: dict[str, np.ndarray], matrix: tuple[int, int]) -> Packed:
    """A GPTQ matrix with zero points as they are, of no file."""
    infos = {
        name: TensorInfo(name, "F16" if part.dtype == np.float16 else "I32", part.shape, 0, 0, Path())
        for name, part in parts.items()
    }
    layout = Layout(outputs_first=False, codes="inputs", zeros="outputs")
    info = Coded(
        "w", "F32", matrix, 0, 0, Path(), "", layout, bits, (1, 32), infos["qweight"], infos["scales"], infos["qzeros"]
    )
    return Packed(info, lambda info: parts[info.name])


def tensor_of(weight: str) -> str:
    """The name of a layer's matrix in the files of the tests' model."""
    layer, _, role = weight.removeprefix("layers.").partition(".")
    block = "mlp" if role in ("gate", "up", "down") else "self_attn"
    return f"model.layers.{layer}.{block}.{role}_proj.weight"


@EVERY
def test_every_number_is_what_its_publisher_means(tmp_path: Path, name: str) -> None:
    scheme = FOREIGN[name]
    made = write_foreign(tmp_path, scheme)
    with open_model(tmp_path) as opened:
        for how in (None, "none", "int8"):
            plan = make_load_plan(opened, how)
            weights = {weight.name: weight for weight in pack(plan, opened.checkpoint, threads=2)}
            sources = [source for source in plan if source.tensor.coded]
            assert len(sources) == len(made)
            for source in sources:
                exact, weight = made[source.tensor.name].exact.astype(float), weights[source.name]
                if how is None or how == "none":
                    assert weight.dtype == (scheme.form if how is None else scheme.dtype.lower())
                    np.testing.assert_array_equal(numbers(weight), exact)
                elif scheme.form in ("int4", "int8"):  # 8 bits hold it as well
                    assert source.repacked
                    np.testing.assert_array_equal(numbers(weight), exact)
                else:
                    assert np.abs(numbers(weight) - exact).max() < np.abs(exact).max() / 64
            assert sum(source.nbytes for source in plan if source.mapped) == plan.mapped_bytes


@EVERY
def test_a_scheme_is_told(tmp_path: Path, name: str) -> None:
    scheme = FOREIGN[name]
    made = write_foreign(tmp_path, scheme)
    known = facts(tmp_path, Request(max_context=16, threads=1), receipt="plain")
    entries = [entry for entry in known["receipt"]["entries"] if entry["tensor"] in made]
    words = {"gptq": "GPTQ", "awq": "AWQ", "fp8": "FP8"}.get(scheme.said["quant_method"], "compressed-tensors")
    assert len(entries) == len(made)
    assert all(entry["stored"].startswith(words) for entry in entries)
    verb = "repacked" if scheme.form in QUANTIZED else "widened"
    assert {entry["action"].split(words)[0] for entry in entries} == {f"resident: {verb} from "}
    assert any(words in line for line in lines(known) if line.startswith("files:"))
    on_disk = (tmp_path / "model.safetensors").stat().st_size
    assert known["read_bytes"] == known["receipt"]["file_bytes"] < on_disk
    assert not known["receipt"]["untouched"]


@LAYOUTS
@pytest.mark.parametrize("cut", CUTS)
def test_what_a_cut_leaves_is_the_same_and_no_other_byte_matters(tmp_path: Path, name: str, cut: str) -> None:
    """As of the floats that it means; bytes that the plan does not name are overwritten."""
    scheme = FOREIGN[name]
    write_twin(tmp_path / "twin", scheme, write_foreign(tmp_path / "foreign", scheme))
    with open_model(tmp_path / "foreign") as opened:
        plan = make_load_plan(opened, "none", compile_plan(CUTS[cut], opened.config, opened.checkpoint))
        file = tmp_path / "foreign" / "model.safetensors"
        spans = spans_by_file(plan.touched)[file]
        read = sum(stop - start for start, stop in spans)
    data = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    kept = bytearray(data[:start]) + b"\x77" * (len(data) - start)
    for a, b in spans:
        kept[a:b] = data[a:b]
    file.write_bytes(kept)
    assert read < len(data) - start
    _, weights = open_weights(tmp_path / "foreign", "none", CUTS[cut])
    _, twins = open_weights(tmp_path / "twin", None, CUTS[cut])
    for weight, twin in zip(weights, twins, strict=True):
        assert (weight.name, weight.shape) == (twin.name, twin.shape)
        np.testing.assert_array_equal(numbers(weight), numbers(twin))
    for weight, twin in zip(open_weights(tmp_path / "foreign", None, CUTS[cut])[1], twins, strict=True):
        np.testing.assert_array_equal(numbers(weight), numbers(twin))  # in whatever holds it


@pytest.mark.skipif(sys.platform != "linux" or mmap.PAGESIZE != PAGE, reason="counts Linux's pages of 4096 bytes")
@pytest.mark.parametrize("name", ["gptq-asymmetric", "awq", "packed-asymmetric"])
@pytest.mark.parametrize(
    "cut",
    [{"width": "0-255", "ffn": {0: "0-63"}}, {"heads": {0: "0-1"}, "width": "0-31,992-1023"}, {"ffn": {0: "0,2,4"}}],
)
def test_what_a_cut_leaves_out_is_not_read_from_the_disk(tmp_path: Path, name: str, cut: dict[str, Any]) -> None:
    sizes = {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 1, "head_dim": 16}
    drawn = Drawn(MODEL.config | sizes)
    write_foreign(tmp_path, FOREIGN[name], drawn)
    file = tmp_path / "model.safetensors"
    let_go(file)
    with open_model(tmp_path) as opened:
        plan = make_load_plan(opened, None, compile_plan(PrunePlan(**cut), opened.config, opened.checkpoint))
        planned, said = resident(file), spans_by_file(plan.touched)[file]
        pack(plan, opened.checkpoint)
        held = resident(file)
    header = -(-(int.from_bytes(file.read_bytes()[:8], "little") + 8) // PAGE)
    told = {page for first, stop in said for page in range(first // PAGE, -(-stop // PAGE))} | set(range(header))
    assert planned <= told
    assert held <= told
    assert len(held) > len(planned)


def test_groups_that_a_cut_breaks_are_widened_and_whole_ones_stay(tmp_path: Path) -> None:
    write_foreign(tmp_path, FOREIGN["gptq"])
    for cut, dtype in (("whole groups", "int4"), ("neurons", "f32"), ("heads", "int4")):
        weights = {weight.name: weight for weight in open_weights(tmp_path, None, CUTS[cut])[1]}
        assert weights["layers.0.down"].dtype == dtype
        assert weights["layers.0.up"].dtype == "int4"  # its outputs are cut, and its groups are of inputs


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["int4", "int8", "int4a"]), st.sampled_from([4, 8]))
def test_whole_numbers_and_scales_stay_in_our_formats(seed: int, form: str, bits: int) -> None:
    """Of every stored number, every zero point that the format takes, and float16 scales of any size."""
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(1, 40)), 32 * int(rng.integers(1, 4))
    plain = {"int4": [8], "int8": [128] if bits == 8 else range(16), "int4a": [0, 1, 2, 4, 8]}[form]
    zeros = rng.choice(list(plain), (n, k // 32))
    scales = rng.integers(1, 0x6C00 if form == "int4a" else 0x7C00, (n, k // 32)).astype(np.uint16).view(np.float16)
    q = rng.integers(0, 2**bits, (n, k))
    of = np.arange(k) // 32
    exact = (q - zeros[:, of]) * scales.astype(float)[:, of]
    parts = {"qweight": words(q.T, bits, 0), "qzeros": words(zeros.T, bits, 1), "scales": scales.T}
    held = in_memory(bits, parts, (n, k))
    every = ((0, n),)
    if form != "int8" and bits == 8:
        assert not holds(held, form, every, None)
        return
    assert holds(held, form, every, None)
    out = np.empty(quantized_shape(form, (n, k)), np.uint8)
    repack(held, form, np.arange(n), None, out, done=lambda _: None)
    np.testing.assert_array_equal(unpack(out, form, (n, k)), exact)


def test_int4a_keeps_whole_numbers_and_rounds_what_other_zero_points_make(tmp_path: Path) -> None:
    made = write_foreign(tmp_path, FOREIGN["awq"])
    with open_model(tmp_path) as opened:
        plan = make_load_plan(opened, "int4a")
        weights = {weight.name: weight for weight in pack(plan, opened.checkpoint)}
        for source in plan:
            if source.tensor.coded:
                assert source.action == "resident: repacked from AWQ 4-bit, groups of 32, zero points rounded"
                exact, scales = made[source.tensor.name].exact, made[source.tensor.name].parts[".scales"][0].T
                off = np.abs(numbers(weights[source.name]) - exact).reshape(len(exact), -1, 32).max(2)
                assert 0 < (off / scales).max() <= 2**-7


def test_8_bit_floats_are_the_publishers_own() -> None:
    torch = pytest.importorskip("torch")
    byte = np.arange(256, dtype=np.uint8)
    theirs = torch.from_numpy(byte).view(torch.float8_e4m3fn).to(torch.float32).numpy()
    np.testing.assert_array_equal(ours(), theirs)
    np.testing.assert_array_equal(e4m3(byte), theirs)


@pytest.mark.ci  # 3 s: importing transformers
def test_fp8_is_widened_as_transformers_does(tmp_path: Path) -> None:
    torch, _ = pytest.importorskip("torch"), pytest.importorskip("transformers", minversion="5.20")
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    said = {"quant_method": "fp8", "weight_block_size": [32, 32]}
    scheme = Foreign(said, float8((32, 32), ".weight_scale_inv"), "bf16", "BF16")
    made = write_foreign(tmp_path, scheme)
    for weight in open_weights(tmp_path)[1]:
        name = tensor_of(weight.name)
        if name in made:
            byte, scales = (made[name].parts[end][0] for end in (".weight", ".weight_scale_inv"))
            floats = torch.from_numpy(byte).view(torch.float8_e4m3fn)
            theirs = Fp8Dequantize(None)._dequantize_one(floats, torch.from_numpy(scales), torch.bfloat16)
            np.testing.assert_array_equal(np.asarray(weight.array), theirs.view(torch.uint16).numpy())


@pytest.mark.ci  # 6 s: importing it
@pytest.mark.parametrize("bits", [4, 8])
def test_packed_numbers_are_those_of_compressed_tensors(bits: int) -> None:
    torch, _ = pytest.importorskip("torch"), pytest.importorskip("compressed_tensors", reason="of the dev extra")
    from compressed_tensors.compressors.quantized_compressors.pack_quantized import (
        PackedQuantizationCompressor,
        unpack_from_int32,
    )

    made = packed(bits, 32, zero=False, dtype="F32")(np.random.default_rng(bits), 24, 64)
    words, scales, sizes = (torch.from_numpy(np.ascontiguousarray(part)) for part, _ in made.parts.values())
    q = unpack_from_int32(words, bits, torch.Size([24, 64])).numpy()
    assert np.array_equal(q * np.repeat(scales.numpy(), 32, axis=1), made.exact)
    parts = {"weight_packed": words, "weight_scale": scales, "weight_shape": sizes}
    args = SimpleNamespace(num_bits=bits, symmetric=True)
    theirs = PackedQuantizationCompressor().decompress_weight(parts, args)
    np.testing.assert_array_equal(theirs.numpy(), made.exact)


@EVERY
def test_answers_are_those_of_the_floats(tmp_path: Path, name: str) -> None:
    scheme = FOREIGN[name]
    write_twin(tmp_path / "twin", scheme, write_foreign(tmp_path / "foreign", scheme))
    with (
        mt.load(tmp_path / "twin", threads=1) as twin,
        mt.load(tmp_path / "foreign", quantize="none", threads=2) as model,
    ):
        expected = twin.logits(IDS)
        np.testing.assert_array_equal(model.logits(IDS), expected)
    if scheme.form in QUANTIZED:
        with mt.load(tmp_path / "foreign", precision="exact", threads=1) as model:
            np.testing.assert_allclose(model.logits(IDS), expected, atol=2e-3)


@LAYOUTS
def test_a_copy_in_our_own_format_gives_the_same_answers(tmp_path: Path, name: str) -> None:
    scheme = FOREIGN[name]
    write_foreign(tmp_path / "foreign", scheme)
    quantize(tmp_path / "foreign", tmp_path / "ours", "int8,head=none,embed=none")
    with (
        mt.load(tmp_path / "foreign", quantize="int8,head=none,embed=none", threads=1) as model,
        mt.load(tmp_path / "ours", threads=1) as copy,
    ):
        assert not any(entry.resident_bytes for entry in copy.receipt.entries if entry.dtype == "int8")
        np.testing.assert_array_equal(copy.logits(IDS), model.logits(IDS))


@LAYOUTS
def test_a_pruned_copy_is_written_as_floats(tmp_path: Path, name: str) -> None:
    scheme = FOREIGN[name]
    write_twin(tmp_path / "twin", scheme, write_foreign(tmp_path / "foreign", scheme))
    prune(tmp_path / "foreign", tmp_path / "left", CUTS["neurons"])
    assert "quantization_config" not in json.loads((tmp_path / "left" / "config.json").read_text())
    _, left = open_weights(tmp_path / "left")
    for weight, twin in zip(left, open_weights(tmp_path / "twin", None, CUTS["neurons"])[1], strict=True):
        np.testing.assert_array_equal(numbers(weight), numbers(twin))


def test_a_family_whose_files_are_turned(tmp_path: Path) -> None:
    """GPT-2 has [in, out], and query, key and value in one; its quantisers pack it as everything else."""
    sizes = {"n_embd": 64, "n_inner": 96, "n_layer": 1, "n_head": 2}
    drawn = Drawn(small("gpt2").config | sizes)
    made = write_foreign(tmp_path / "foreign", FOREIGN["gptq-asymmetric"], drawn, turned=True)
    write_twin(tmp_path / "twin", FOREIGN["gptq-asymmetric"], made, drawn, turned=True)
    quantize(tmp_path / "foreign", tmp_path / "ours", "none")
    prune(tmp_path / "foreign", tmp_path / "left", None)
    twins = list(open_weights(tmp_path / "twin")[1])
    for name in ("foreign", "ours", "left"):
        for weight, twin in zip(open_weights(tmp_path / name)[1], twins, strict=True):
            assert weight.dtype == ("int8" if name == "foreign" and weight.name in OF_LAYER else "f32")
            np.testing.assert_array_equal(numbers(weight), numbers(twin))


def test_biases_of_zeros_that_the_family_has_not_add_nothing(tmp_path: Path) -> None:
    """As older AutoGPTQ gives one to every matrix; any other number is another model's."""
    for value, path in ((0, tmp_path / "zeros"), (1e-3, tmp_path / "others")):
        bias = np.zeros(64, np.float32)
        bias[-1] = value
        extra = {"model.layers.1.self_attn.q_proj.bias": (bias, "F16")}
        write_foreign(path, FOREIGN["gptq"], change=lambda stored, extra=extra: stored.update(extra))
    _, weights = open_weights(tmp_path / "zeros")
    assert not any(weight.name.endswith("_bias") for weight in weights)
    with pytest.raises(CheckpointError, match=r"layers.1.self_attn.q_proj.bias' is no part of a llama model"):
        open_weights(tmp_path / "others")


def test_a_matrix_may_lie_in_two_shards(tmp_path: Path) -> None:
    stored: dict[str, Part] = {}
    made = write_foreign(tmp_path, FOREIGN["gptq-asymmetric"], change=stored.update)
    (tmp_path / "model.safetensors").unlink()
    table = {name: f"model-{1 + name.endswith('.scales')}.safetensors" for name in stored}
    for shard in sorted(set(table.values())):
        here = {name: part for name, part in stored.items() if table[name] == shard}
        dtypes = {name: dtype for name, (_, dtype) in here.items()}
        write_safetensors(tmp_path / shard, {name: array for name, (array, _) in here.items()}, dtypes)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    with open_model(tmp_path) as opened:
        plan = make_load_plan(opened)
        spans = spans_by_file(plan)
        assert {file.name: sum(b - a for a, b in of) for file, of in spans.items()} == {
            file.name: sum(
                info.nbytes
                for tensor in opened.checkpoint.tensors.values()
                for info in tensor.pieces
                if info.file == file
            )
            for file in spans
        }
        weights = {weight.name: weight for weight in pack(plan, opened.checkpoint)}
        for source in plan:
            if source.tensor.coded:
                np.testing.assert_array_equal(numbers(weights[source.name]), made[source.tensor.name].exact)


def test_experts_of_a_layer_are_alike(tmp_path: Path) -> None:
    """One asymmetric expert among symmetric ones: all are held as what holds each exactly."""
    drawn, tensors = experts()
    symmetric, other = FOREIGN["gptq"], FOREIGN["gptq-asymmetric"]
    calls = iter(range(1000))

    def mixed(rng: np.random.Generator, n: int, k: int) -> Made:
        return (other if next(calls) == 8 else symmetric).make(rng, n, k)

    scheme = symmetric._replace(make=mixed)
    made = write_foreign(tmp_path / "foreign", scheme, drawn, tensors=tensors)
    write_twin(tmp_path / "twin", scheme, made, drawn, tensors=tensors)
    twins = {weight.name: weight for weight in open_weights(tmp_path / "twin")[1]}
    dtypes: dict[str, set[str]] = {}
    for weight in open_weights(tmp_path / "foreign")[1]:
        np.testing.assert_array_equal(numbers(weight), numbers(twins[weight.name]))
        if "experts" in weight.name:
            dtypes.setdefault(weight.name.rpartition(".")[2], set()).add(weight.dtype)
    assert sorted(dtypes.values(), key=sorted) == [{"int4"}, {"int4"}, {"int8"}]


def test_an_adapter_is_merged_into_the_floats(tmp_path: Path) -> None:
    scheme = FOREIGN["awq"]
    write_twin(tmp_path / "twin", scheme, write_foreign(tmp_path / "foreign", scheme))
    rng = np.random.default_rng(1)
    (tmp_path / "adapter").mkdir()
    said = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["layers.0.self_attn.q_proj"],
        "bias": "none",
    }
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(said))
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    parts = {name.format("A"): rng.standard_normal((2, 64)), name.format("B"): rng.standard_normal((64, 2))}
    write_safetensors(tmp_path / "adapter" / "adapter_model.safetensors", parts)
    made = []
    for model in ("foreign", "twin"):
        with open_model(tmp_path / model, adapter=tmp_path / "adapter") as opened:
            weights = pack(make_load_plan(opened, "none"), opened.checkpoint, threads=2)
            made.append([numbers(weight) for weight in weights])
    for ours_, theirs in zip(*made, strict=True):
        np.testing.assert_array_equal(ours_, theirs)
    with open_model(tmp_path / "foreign", adapter=tmp_path / "adapter") as opened:
        dtypes = {source.name: source.dtype for source in make_load_plan(opened)}
    assert (dtypes["layers.0.q"], dtypes["layers.1.q"]) == ("f32", "int8")


@pytest.mark.parametrize("name", ["awq", "fp8"])
@pytest.mark.parametrize("cut", ["ffn=0.5", "width=0.5", "sparsity=2:4"])
def test_shares_and_zeros_are_those_of_the_floats(tmp_path: Path, name: str, cut: str) -> None:
    scheme = FOREIGN[name]
    write_twin(tmp_path / "twin", scheme, write_foreign(tmp_path / "foreign", scheme))
    with (
        mt.load(tmp_path / "twin", prune=cut, threads=1) as twin,
        mt.load(tmp_path / "foreign", prune=cut, quantize="none", threads=1) as model,
    ):
        np.testing.assert_array_equal(model.logits(IDS), twin.logits(IDS))


def test_a_method_that_prunes_sees_the_floats(tmp_path: Path) -> None:
    scheme, drawn = FOREIGN["gptq"], Drawn(MODEL.config | {"vocab_size": 96})
    write_twin(tmp_path / "twin", scheme, write_foreign(tmp_path / "foreign", scheme, drawn), drawn)
    text = Text(" ".join(str(i % 96) for i in np.random.default_rng(0).integers(0, 96, 60)), window=16)
    left = []
    for name in ("foreign", "twin"):
        write_word_tokenizer(tmp_path / name)
        got = find(tmp_path / name, Wish("wanda", sparsity=parse_sparsity("2:4")), text)
        prune(tmp_path / name, tmp_path / f"{name}-left", got.plan, got.rewrite)
        left.append((tmp_path / f"{name}-left" / "model.safetensors").read_bytes())
    assert left[0] == left[1]


def write_word_tokenizer(path: Path) -> None:
    """Token n is the word "n"."""
    model = {"type": "WordLevel", "vocab": {str(i): i for i in range(96)}, "unk_token": "0"}
    said = {"version": "1.0", "pre_tokenizer": {"type": "WhitespaceSplit"}, "added_tokens": [], "model": model}
    (path / "tokenizer.json").write_text(json.dumps(said))


def test_a_draft_of_the_model_borrows_what_was_repacked(tmp_path: Path) -> None:
    write_foreign(tmp_path, FOREIGN["gptq"])
    with mt.load(tmp_path, threads=1) as model:
        plain, weights = model.generate(IDS, max_new_tokens=12).ids, model.memory["weights_resident"]
    with mt.load(tmp_path, draft="keep-layers=1", threads=1) as model:
        assert model.generate(IDS, max_new_tokens=12).ids == plain
        assert model.memory["weights_resident"] == weights


OF_LAYER = [f"layers.0.{role}" for role in ("q", "k", "v", "o", "up", "down")]
