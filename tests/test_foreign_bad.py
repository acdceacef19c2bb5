"""Checkpoints that others quantised and that are not read: schemes by name, and tensors that do not fit, by theirs."""

from __future__ import annotations

import copy
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from checkpoints import Drawn, small, write_checkpoint
from foreign import FOREIGN, INT4, MODEL, Foreign, Part, compressed, packed, write_foreign
from helpers import open_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import CheckpointError, ConfigError, MiaotuiError
from miaotui.loader.formats import other_quantization
from miaotui.loader.load_plan import make_load_plan
from miaotui.loader.open import open_model
from miaotui.loader.pack import pack
from miaotui.loader.prune.plan import PrunePlan
from test_foreign import numbers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: The matrix that is changed.
MODULE = "model.layers.1.mlp.down_proj"


def loaded(path: Path, how: str | None = None) -> dict[str, np.ndarray]:
    """Every layer's matrix by its weight's name, made from the files."""
    with open_model(path) as opened:
        plan = make_load_plan(opened, how)
        weights = {weight.name: weight for weight in pack(plan, opened.checkpoint)}
        return {source.name: numbers(weights[source.name]) for source in plan if source.tensor.coded}


def said(name: str, **more: Any) -> dict[str, Any]:
    """A scheme's words, and others."""
    return FOREIGN[name].said | more


#: What newer compressed-tensors write besides.
_NEWER = {
    "actorder": None,
    "block_structure": None,
    "dynamic": False,
    "observer": "memoryless_minmax",
    "observer_kwargs": {},
    "scale_dtype": None,
    "zp_dtype": None,
}
#: Of a model with few zeros.
_DENSE = {
    "format": "dense",
    "global_sparsity": 0.14,
    "ignore": [],
    "registry_requires_subclass": False,
    "sparsity_structure": "unstructured",
    "targets": ["Linear"],
}


@pytest.mark.parametrize(
    ("config", "method", "word"),
    [
        (said("gptq", bits=3), "GPTQ", "bits is 3; expected 4 or 8"),
        (said("gptq", bits=True), "GPTQ", "bits is True"),
        ({"quant_method": "gptq"}, "GPTQ", "bits is None"),
        (said("gptq", group_size=0), "GPTQ", "group_size is 0"),
        (said("gptq", checkpoint_format="marlin"), "GPTQ", "checkpoint_format is 'marlin'; expected gptq or gptq_v2"),
        (said("gptq", is_marlin_format=True), "GPTQ", "is_marlin_format is True"),
        (said("gptq", dynamic={"-:.*": {}}), "GPTQ", "dynamic is"),
        (said("gptq", rotation="hadamard"), "GPTQ", "'rotation' ('hadamard') is not known here"),
        (
            said("gptq", checkpoint_format="gptq", format="gptq_v2"),
            "GPTQ",
            "checkpoint_format is 'gptq', and format is 'gptq_v2'",
        ),
        (said("gptq", desc_act="yes"), "GPTQ", "desc_act is 'yes'; expected false or true"),
        (said("gptq", sym=1), "GPTQ", "sym is 1"),
        (said("gptq", meta={"rotation": "hadamard"}), "GPTQ", "'rotation' ('hadamard') in meta is not known here"),
        (said("gptq", meta="x"), "GPTQ", "meta is 'x'; expected an object"),
        (said("gptq", data_type="mx_fp"), "GPTQ", "data_type is 'mx_fp'; expected int"),
        (said("gptq", act_bits=8), "GPTQ", "act_bits is 8; expected 16"),
        (said("gptq", extra_config={"a": {"bits": 8}}), "GPTQ", "'extra_config'"),
        (said("awq", format="gemv"), "AWQ", "version is 'gemm', and format is 'gemv'"),
        (said("awq", meta={"input_activations": {"dynamic": False}}), "AWQ", "'input_activations'"),
        (said("fp8", expert_dtype="fp4"), "FP8", "expert_dtype is 'fp4'"),
        (said("awq", version="gemv_fast"), "AWQ", "version is 'gemv_fast'; expected gemm"),
        (said("awq", zero_point=False), "AWQ", "zero_point is False"),
        (said("awq", bits=8), "AWQ", "bits is 8; expected 4"),
        (said("awq", group_size="128"), "AWQ", "group_size is '128'"),
        (said("fp8", activation_scheme="static"), "FP8", "activation_scheme is 'static'; expected dynamic"),
        (said("fp8", fmt="e5m2"), "FP8", "fmt is 'e5m2'; expected e4m3"),
        (said("fp8", weight_block_size=[128]), "FP8", "weight_block_size is [128]"),
        (said("packed", format="nvfp4-pack-quantized"), "compressed-tensors", "format is 'nvfp4-pack-quantized'"),
        (said("packed", format="marlin-24"), "compressed-tensors", "format is 'marlin-24'"),
        (said("packed", config_groups={}), "compressed-tensors", "config_groups is {}"),
        (said("packed", config_groups={"a": []}), "compressed-tensors", "config_groups.a.weights is None"),
        (said("packed", kv_cache_scheme={"num_bits": 8}), "compressed-tensors", "kv_cache_scheme is"),
        (said("packed", transform_config={"x": 1}), "compressed-tensors", "transform_config is"),
        (
            said("packed", sparsity_config={"format": "sparse-24-bitmask"}),
            "compressed-tensors",
            "sparsity_config.format",
        ),
        (
            compressed("int-quantized", {"num_bits": 8}, input_activations={"dynamic": False}),
            "compressed-tensors",
            "input_activations are rounded with scales that are fixed ahead",
        ),
        (compressed("pack-quantized", {"num_bits": 2}), "compressed-tensors", "weights are 2-bit 'int'"),
        (compressed("pack-quantized", {"num_bits": 4, "type": []}), "compressed-tensors", "4-bit []"),
        (
            compressed("pack-quantized", {"num_bits": 4, "group_size": [32]}),
            "compressed-tensors",
            "weights.group_size is [32]",
        ),
        (
            compressed("float-quantized", {"type": "float", "block_structure": "128"}),
            "compressed-tensors",
            "block_structure is '128'",
        ),
        (
            compressed("pack-quantized", {"num_bits": 4, "type": "float"}),
            "compressed-tensors",
            "weights are 4-bit 'float'",
        ),
        ({"quant_method": "hqq"}, "HQQ", "quantization_config in config.json"),
        ({"quant_method": "aqlm"}, "AQLM", "quantization_config in config.json"),
        ({"quant_method": "mxfp4"}, "MXFP4", "quantization_config in config.json"),
        ({"quant_method": "exl2"}, "method 'exl2'", "quantization_config in config.json"),
        ({"quant_method": ["gptq"]}, "method ['gptq']", "quantization_config in config.json"),
    ],
)
def test_a_scheme_that_is_not_read_is_named(tmp_path: Path, config: dict[str, Any], method: str, word: str) -> None:
    write_checkpoint(tmp_path, small("llama"))
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"quantization_config": config}))
    with pytest.raises(ConfigError, match=re.escape(f"is quantised by {method} (")) as e:
        open_model(tmp_path)
    assert word in str(e.value)
    assert "get the original checkpoint" in str(e.value)


def grouped(weights: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """int4 in groups of 32, with more words."""
    return compressed("pack-quantized", INT4 | (weights or {}), **more)


_IN = "config_groups.group_0"
_NOT_KNOWN = f"in {_IN} is not known here"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (grouped({"scale_multiplier": 2.0}), f"'scale_multiplier' (2.0) in {_IN}.weights is not known here"),
        (grouped({"strategy": "codebook"}), f"{_IN}.weights.strategy is 'codebook'; expected tensor or channel"),
        (grouped({"strategy": "tensor_group"}), f"{_IN}.weights.strategy is 'tensor_group'"),
        (grouped({"strategy": "channel"}), f"{_IN}.weights.strategy is 'channel', with group_size 32"),
        (grouped({"group_size": None}), f"{_IN}.weights.strategy is 'group', with group_size None"),
        (grouped({"scale_dtype": "torch.float8_e4m3fn"}), f"{_IN}.weights.scale_dtype is 'torch.float8_e4m3fn'"),
        (grouped({"dynamic": True}), f"{_IN}.weights.dynamic is True; expected false"),
        (grouped({"symmetric": "false"}), f"{_IN}.weights.symmetric is 'false'; expected true or false"),
        (grouped({"actorder": "best"}), f"{_IN}.weights.actorder is 'best'"),
        (grouped({"zp_dtype": "torch.int4"}), f"{_IN}.weights.zp_dtype is 'torch.int4'"),
        (grouped(format="marlin-24"), f"{_IN}.format is 'marlin-24'"),
        (grouped(format="int-quantized") | {"format": "float-quantized"}, f"{_IN}.weights are 4-bit int"),
        (grouped(format="float-quantized"), f"{_IN}.format is 'float-quantized', and {_IN}.weights are 4-bit int"),
        (grouped() | {"format": "float-quantized"}, f"format is 'float-quantized', and {_IN}.weights are 4-bit int"),
        (grouped(rotation="hadamard"), f"'rotation' ('hadamard') {_NOT_KNOWN}"),
        (grouped(targets="Linear"), f"{_IN}.targets is 'Linear'; expected a list of names"),
        (grouped(input_activations={"dynamic": "local"}), f"{_IN}.input_activations.dynamic is 'local'; expected true"),
        (grouped(input_activations={"dynamic": True, "x": 1}), f"'x' (1) in {_IN}.input_activations"),
        (grouped(input_activations="int8"), f"{_IN}.input_activations is 'int8'"),
        (grouped() | {"sparsity_config": {"sparsity_structure": "2:4"}}, "sparsity_config ({'sparsity_structure'"),
        (
            grouped() | {"sparsity_config": {"format": "dense", "sparsity_structure": "2:4"}},
            "sparsity_config.sparsity_structure is '2:4'",
        ),
        (grouped() | {"sparsity_config": {"format": "dense", "x": 1}}, "'x' (1) in sparsity_config"),
        (grouped() | {"sparsity_config": "2:4"}, "sparsity_config is '2:4'; expected an object"),
        (grouped() | {"quantization_status": "calibration"}, "quantization_status is 'calibration'; expected"),
    ],
)
def test_words_inside_config_groups_are_read_or_refused(config: dict[str, Any], says: str) -> None:
    told = other_quantization({"quantization_config": config}, (), "miaotui")
    assert told is not None
    assert "is quantised by compressed-tensors (" in told
    assert says in told


#: What AutoRound writes into its GPTQ files.
_AUTOROUND = {
    "autoround_version": "0.5.1",
    "data_type": "int",
    "iters": 1000,
    "nsamples": 512,
    "seqlen": 2048,
    "act_bits": 16,
    "act_data_type": "int",
    "act_dynamic": True,
    "act_group_size": 128,
    "act_sym": True,
    "amp": True,
    "batch_size": 8,
    "enable_minmax_tuning": True,
    "enable_norm_bias_tuning": False,
    "enable_quanted_input": True,
    "gradient_accumulate_steps": 1,
    "low_gpu_mem_usage": True,
    "lr": 0.001,
    "minmax_lr": 0.001,
    "scale_dtype": "torch.float16",
    "super_bits": None,
    "to_quant_block_names": None,
}
#: And GPTQModel into its `meta`.
_META = {
    "quantizer": ["gptqmodel:5.8.0"],
    "act_group_aware": True,
    "auto_forward_data_parallel": True,
    "failsafe": {"smooth": None, "strategy": "rtn", "threshold": "0.5%"},
    "gptaq": None,
    "hessian": {"chunk_size": None, "staging_dtype": "float32"},
    "mock_quantization": False,
    "mse": 0.0,
    "offload_to_disk_path": "./offload/",
    "pack_impl": "cpu",
    "uri": "https://example.org",
    "vram_strategy": "exclusive",
}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("gptq", _AUTOROUND),
        ("gptq", {"meta": _META, "checkpoint_format": "gptq", "format": "gptq", "method": "gptq"}),
        ("awq", {"checkpoint_format": "gemm", "format": "gemm", "pack_dtype": "int32", "lm_head": False}),
        ("awq", {"version": None, "checkpoint_format": "GEMM", "lm_head": True, "meta": _META, "desc_act": True}),
        ("awq-gemv", {"version": None, "format": "gemv"}),
        ("fp8", {"fmt": "float8_e4m3fn", "expert_dtype": "fp8", "dequantize": False}),
        ("packed", {"quantization_status": "frozen", "sparsity_config": _DENSE}),
        ("packed", grouped(_NEWER, format="pack-quantized")),
        ("packed", grouped({"actorder": "static"}) | {"format": "mixed-precision"}),
        ("gptq", {"meta": {"quantizer": ["gptqmodel:4.0"]}, "dynamic": None, "pack_dtype": "int32", "rotation": None}),
        ("gptq", {"exllama_config": {"version": 1}, "use_cuda_fp16": False, "something": False}),
        ("awq", {"modules_to_not_convert": ["lm_head"], "version": "GEMM"}),
        ("fp8", {"scale_fmt": "ue8m0", "modules_to_not_convert": ["lm_head"]}),
        ("packed", {"sparsity_config": {}, "transform_config": {}, "version": "0.12.2"}),
        ("packed", {"sparsity_config": {"format": "dense"}, "global_compression_ratio": 1.5}),
    ],
)
def test_words_that_change_no_number(tmp_path: Path, name: str, more: dict[str, Any]) -> None:
    write_foreign(tmp_path, FOREIGN[name]._replace(said=said(name, **more)))
    with open_model(tmp_path) as opened:
        assert any(info.coded for info in opened.checkpoint.tensors.values())


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([4, 8, 32, -1, "int", "float", "e4m3", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["format", "a"]), inner, max_size=2),
    max_leaves=4,
)


@given(st.data(), st.sampled_from(sorted(FOREIGN)))
def test_whatever_a_scheme_says_it_is_read_or_refused(data: st.DataObject, name: str) -> None:
    config = copy.deepcopy(FOREIGN[name].said)
    place: dict[str, Any] = config
    key = data.draw(st.sampled_from(sorted(config)))
    while isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place)))
    place[key] = data.draw(JSON)
    told = other_quantization({"quantization_config": config}, (), "miaotui")
    assert told is None or ("is quantised by" in told and "get the original checkpoint" in told)


def test_groups_of_several_kinds_are_not_read(tmp_path: Path) -> None:
    config = compressed("mixed-precision", {"num_bits": 4})
    config["config_groups"]["group_1"] = {"weights": {"num_bits": 8}}
    write_foreign(tmp_path, FOREIGN["packed"]._replace(said=config))
    with pytest.raises(ConfigError, match="config_groups differ in their weights' num_bits, type or"):
        open_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "words", "says"),
    [
        ("gptq", {}, "is quantised by GPTQ or AWQ (tensor 'model.layers.0.self_attn.q_proj.qweight')"),
        ("awq", {"quantization_config": None}, "get config.json from the publisher again"),
        ("gptq", {"quantization_config": "gptq"}, "and is 'gptq': it must be an object with quant_method"),
        ("fp8", {}, "is quantised by FP8 (tensor 'model.layers.0.self_attn.q_proj.weight_scale_inv')"),
        ("packed", {}, "is quantised by compressed-tensors (tensor "),
        (
            "gptq",
            {"text_config": {"quantization_config": said("gptq")}},
            "stands in text_config: move it to the top of config.json",
        ),
        (
            "packed",
            {"compression_config": said("packed")},
            "an older name), which miaotui reads under its newer name: rename it to quantization_config",
        ),
        (
            "gptq",
            {"quantization_config": {}},
            "quantization_config has no quant_method, which may be gptq, awq, fp8 or ",
        ),
        ("gptq", {"quantization_config": {"bits": 4}}, "by a method that config.json does not name"),
    ],
)
def test_words_that_config_json_lacks_are_asked_for(
    tmp_path: Path, name: str, words: dict[str, Any], says: str
) -> None:
    write_foreign(tmp_path, FOREIGN[name])
    (tmp_path / "config.json").write_text(json.dumps(MODEL.config | words))
    (tmp_path / "quantize_config.json").write_text(json.dumps(said("gptq")))
    with pytest.raises(ConfigError, match=re.escape(says)) as e:
        open_model(tmp_path)
    assert "does not read" not in str(e.value)
    assert "quantization_config" in str(e.value)


@pytest.mark.parametrize(
    ("name", "scales"),
    [("fp8", "{0}_scale_inv or {0}_scale"), ("float8-each", "{0}_scale_inv or {0}_scale"), ("int8", "{0}_scale")],
)
def test_a_matrix_whose_scale_is_missing_is_told_so(tmp_path: Path, name: str, scales: str) -> None:
    """One of them, and all of them."""
    for path, module in ((tmp_path / "one", MODULE), (tmp_path / "all", "")):

        def change(stored: dict[str, Part], module: str = module) -> None:
            for part in [part for part in stored if part.startswith(module) and "scale" in part]:
                del stored[part]

        write_foreign(path, FOREIGN[name], change=change)
        matrix = f"{module or 'model.layers.0.self_attn.q_proj'}.weight"
        with pytest.raises(CheckpointError, match=f"its scale {scales.format(matrix)} is missing"):
            loaded(path)


def test_a_config_that_says_more_than_the_tensors(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, small("llama"))
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"quantization_config": said("gptq")}))
    with pytest.raises(CheckpointError, match=r"config.json says that matrices are quantised .*and no tensor is"):
        open_model(tmp_path)


def _cut(axis: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: np.take(x, range(x.shape[axis] - 1), axis) if x.ndim > axis else x


_CHANNEL = {"num_bits": 8, "strategy": "channel"}
_OF_48 = compressed("pack-quantized", {"num_bits": 4, "group_size": 48})
#: What may be wrong with a tensor.
CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rows": _cut(0),
    "columns": _cut(1),
    "twice": lambda x: np.concatenate([x, x]) if x.ndim else x[None],
    "flat": lambda x: x.reshape(-1),
    "deeper": lambda x: x[None],
    "turned": lambda x: x.T if len(set(x.shape)) > 1 else x,  # a square could be either
    "empty": lambda x: x.reshape(-1)[:0],
}


@settings(max_examples=100)
@given(st.data(), st.sampled_from(sorted(FOREIGN)))
def test_tensors_that_do_not_fit_together_are_named(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    """Before anything is computed; or nothing was wrong, and the numbers are the same."""
    path, scheme = tmp_path_factory.mktemp("bad"), FOREIGN[name]
    how = data.draw(st.sampled_from([*CHANGES, "dtype", "gone", "double"]))

    def change(stored: dict[str, Part]) -> None:
        parts = [part for part in stored if part.startswith(f"{MODULE}.")]
        part = data.draw(st.sampled_from(parts))
        array, dtype = stored.pop(part)
        if how in CHANGES:
            stored[part] = CHANGES[how](array), dtype
        elif how == "dtype":
            others = ["F64", "I32"] if array.dtype.kind == "f" else ["I64", "I32", "I8", "U8", "F32"]
            stored[part] = array, data.draw(st.sampled_from(others))
        elif how == "double":  # the floats, too
            stored[part] = array, dtype
            stored[f"{MODULE}.weight"] = np.zeros((64, 96), np.float32), "F32"

    made = write_foreign(path, scheme, change=change)
    try:
        found = loaded(path)
    except MiaotuiError as e:
        assert MODULE in str(e)  # noqa: PT017 - or none
    else:
        weights = [one.exact for one in made.values()]
        assert len(found) == len(weights)
        assert all(any(np.array_equal(x, one) for one in weights) for x in found.values())


def _with(name: str, end: str, value: Callable[[np.ndarray], None]) -> Foreign:
    """A scheme whose tensors that end so are changed."""
    scheme = FOREIGN[name]

    def make(*sizes: Any) -> Any:
        made = scheme.make(*sizes)
        array, dtype = made.parts[end]
        array = np.array(array)
        value(array)
        return made._replace(parts=made.parts | {end: (array, dtype)})

    return scheme._replace(make=make)


def put(x: np.ndarray, at: Any, value: Any) -> None:
    """As an expression."""
    x[at] = value


@pytest.mark.parametrize(
    ("scheme", "says"),
    [
        (_with("gptq", ".g_idx", lambda x: put(x, 5, 99)), r"g_idx\[5\] is 99; expected a group, 0 to [12]"),
        (_with("gptq", ".g_idx", lambda x: put(x, 5, -2)), r"g_idx\[5\] is -2; expected a group"),
        (_with("gptq", ".scales", lambda x: put(x, (0, 3), np.inf)), "scales, output 3: int4 needs finite numbers"),
        (_with("awq", ".scales", lambda x: put(x, (0, 17), np.nan)), "scales, output 17: int8 needs finite numbers"),
        (_with("packed", ".weight_shape", lambda x: put(x, 1, 1)), r"weight_shape holds \[[0-9]+, 1\], but"),
    ],
)
def test_numbers_that_cannot_be(tmp_path: Path, scheme: Foreign, says: str) -> None:
    write_foreign(tmp_path, scheme)
    with pytest.raises(CheckpointError, match=says) as e:
        loaded(tmp_path)
    assert "model.layers.0.self_attn" in str(e.value)


@pytest.mark.parametrize("how", [None, "none", "int8"])
@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("packed", ".weight_scale"),  # BF16
        ("int8-f32-scales", ".weight_scale"),
        ("gptq-by-activation", ".scales"),
        ("fp8", ".weight_scale_inv"),
        ("awq-gemv", ".scales"),
    ],
)
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_scale_that_is_no_number_is_refused(
    tmp_path: Path, name: str, end: str, how: str | None, value: float
) -> None:
    write_foreign(tmp_path, _with(name, end, lambda x: put(x, (0,) * x.ndim, value)))
    with pytest.raises(CheckpointError, match=rf"q_proj{end}, output 0: .* the file is damaged"):
        loaded(tmp_path, how)


def test_a_scale_that_is_cut_away_is_not_looked_at(tmp_path: Path) -> None:
    """Of the layer that stays, and of the inputs that stay."""
    damaged = f"{MODULE}.weight_scale"
    write_foreign(tmp_path, FOREIGN["packed"], change=lambda stored: put(stored[damaged][0], 0, np.nan))
    for plan in (PrunePlan(layers="0"), PrunePlan(width="1-63")):
        weights = [weight for weight in open_weights(tmp_path, None, plan)[1] if weight.name == "layers.0.down"]
        assert np.isfinite(numbers(weights[0])).all()
    with pytest.raises(CheckpointError, match=r"layers.1.mlp.down_proj.weight_scale, output 0: a scale is nan"):
        loaded(tmp_path)


def test_an_order_that_is_not_used(tmp_path: Path) -> None:
    """compressed-tensors writes -1 for every input."""
    made = write_foreign(tmp_path, _with("gptq", ".g_idx", lambda x: put(x, slice(None), -1)))
    found = loaded(tmp_path)
    assert len(found) == len(made)
    assert all(any(np.array_equal(x, one.exact) for one in made.values()) for x in found.values())


def test_a_smallest_number_beyond_float16_is_told(tmp_path: Path) -> None:
    write_foreign(tmp_path, _with("gptq-asymmetric", ".scales", lambda x: put(x, 0, 60000)))
    with pytest.raises(CheckpointError, match="a zero point times a scale that float16 cannot hold"):
        loaded(tmp_path, "int4a")
    assert loaded(tmp_path)  # in int8 it has no smallest number


def test_groups_that_config_json_does_not_say(tmp_path: Path) -> None:
    scheme = FOREIGN["gptq"]
    write_foreign(tmp_path, scheme._replace(said=scheme.said | {"group_size": 48}))
    with pytest.raises(CheckpointError, match=r"scales has shape \[3, 64\].*\(quantization_config\) make it \[2, 64\]"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("name", "more", "says"),
    [
        (
            "packed",
            _OF_48,
            r"has shape \[64, 3\]; expected a scale for each group of 48 inputs of \[64, 96\]",
        ),
        (
            "fp8",
            {"weight_block_size": [32, 32]},
            r"weight_scale_inv has shape \[3, 2\]; .* for each block of \[32, 32\]",
        ),
    ],
)
def test_blocks_that_config_json_does_not_say(tmp_path: Path, name: str, more: dict[str, Any], says: str) -> None:
    write_foreign(tmp_path, FOREIGN[name]._replace(said=said(name, **more)))
    with pytest.raises(CheckpointError, match=says):
        open_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "config", "says"),
    [
        ("packed-channel", grouped(), r"\[64, 1\], a scale for each output; expected a scale for each group of 32 "),
        ("int8-f32-scales", compressed("int-quantized", _CHANNEL), r"\[1\], one scale in all; .* for each output of"),
        ("int8-f32-scales", compressed("int-quantized", INT4 | {"num_bits": 8}), "one scale in all; .* group of 32"),
        ("int8", compressed("int-quantized", {"num_bits": 8, "strategy": "tensor"}), "each output; .* the whole of"),
    ],
)
def test_scales_are_shared_as_config_json_says(tmp_path: Path, name: str, config: dict[str, Any], says: str) -> None:
    scheme = FOREIGN["packed"]._replace(make=packed(4, -1, zero=False)) if name == "packed-channel" else FOREIGN[name]
    write_foreign(tmp_path, scheme._replace(said=config))
    with pytest.raises(CheckpointError, match=says) as e:
        open_model(tmp_path)
    assert "config_groups.group_0 of quantization_config in config.json" in str(e.value)


def sizes(*targets: list[str], groups: tuple[int, int] = (33, 48)) -> dict[str, Any]:
    """Two sizes of groups: at 64 inputs both are two groups."""
    config = compressed("pack-quantized", {"num_bits": 4})
    config["config_groups"] = {
        f"group_{i}": {"targets": whose, "weights": {"num_bits": 4, "group_size": size}}
        for i, (whose, size) in enumerate(zip(targets, groups, strict=True))
    }
    return config


@pytest.mark.parametrize(
    ("whose", "size"),
    [
        ((["Linear"], [r"re:.*\.(q|k|v|o|up|gate|down)_proj$"]), 48),
        (([r"re:model\.layers\.\d+\."], ["Linear"]), 33),
        ((["Linear"], ["Linear"]), None),
        ((["lm_head"], ["re:.*experts.*"]), None),
        ((["re:("], ["Linear"]), None),
        ((["re:(.*)*x"], ["Linear"]), None),
        (([], []), None),
    ],
)
def test_of_two_sizes_that_fit_the_targets_choose(
    tmp_path: Path, whose: tuple[list[str], ...], size: int | None
) -> None:
    drawn = Drawn(MODEL.config | {"intermediate_size": 64})
    scheme = Foreign(sizes(*whose), packed(4, size or 48, zero=False), "f32")
    made = write_foreign(tmp_path, scheme, drawn)
    if size is None:
        says = r"has shape \[64, 2\], which fits config_groups.group_0 \(each group of 33 inputs\) and .*group_1"
        with pytest.raises(CheckpointError, match=says):
            open_model(tmp_path)
    else:
        found = loaded(tmp_path)
        assert len(found) == len(made)
        assert all(any(np.array_equal(x, one.exact) for one in made.values()) for x in found.values())


def test_of_two_sizes_the_file_says_which_where_one_fits(tmp_path: Path) -> None:
    scheme = Foreign(sizes(["Linear"], ["Linear"], groups=(32, 64)), packed(4, 32, zero=False), "int4")
    made = write_foreign(tmp_path, scheme)
    assert all(any(np.array_equal(x, one.exact) for one in made.values()) for x in loaded(tmp_path).values())


def test_four_bits_in_bytes_mean_what_they_say(tmp_path: Path) -> None:
    """Of weights of 4 bits with inputs of 8."""
    config = compressed("int-quantized", {"num_bits": 4, "strategy": "channel"}, input_activations={"dynamic": True})
    scheme = FOREIGN["int8"]._replace(said=config)
    made = write_foreign(tmp_path, scheme)
    found = loaded(tmp_path)
    assert len(found) == len(made)
    assert all(any(np.array_equal(x, one.exact) for one in made.values()) for x in found.values())


def test_groups_by_activation_need_their_order(tmp_path: Path) -> None:
    write_foreign(tmp_path, FOREIGN["packed"]._replace(said=grouped({"actorder": "group"})))
    with pytest.raises(CheckpointError, match=r"q_proj.weight_g_idx is missing, and others of this matrix are there"):
        open_model(tmp_path)


def test_inputs_by_activation_need_their_order(tmp_path: Path) -> None:
    scheme = FOREIGN["gptq-without-order"]
    write_foreign(tmp_path, scheme._replace(said=scheme.said | {"desc_act": True}))
    with pytest.raises(CheckpointError, match=r"q_proj.g_idx is missing, and others of this matrix are there"):
        open_model(tmp_path)


def test_sizes_are_compared_with_config_json(tmp_path: Path) -> None:
    write_foreign(tmp_path, FOREIGN["awq"])
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"hidden_size": 128}))
    with pytest.raises(CheckpointError, match=r"has shape .* config.json makes it"):
        loaded(tmp_path)
    assert MODEL.config["hidden_size"] == 64


def test_packed_numbers_are_no_floats(tmp_path: Path) -> None:
    said_floats = compressed("float-quantized", {"num_bits": 8, "type": "float"})
    write_foreign(tmp_path, FOREIGN["packed-8"]._replace(said=said_floats))
    with pytest.raises(CheckpointError, match=r"weight_packed holds packed whole numbers; config.json .* says floats"):
        open_model(tmp_path)
