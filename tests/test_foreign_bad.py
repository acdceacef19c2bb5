"""Checkpoints that others quantised and that are not read: schemes by name, and tensors that do not fit, by theirs."""

from __future__ import annotations

import copy
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from checkpoints import small, write_checkpoint
from foreign import FOREIGN, MODEL, Foreign, Part, compressed, write_foreign
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import CheckpointError, ConfigError, MiaotuiError
from miaotui.loader.formats import other_quantization
from miaotui.loader.load_plan import make_load_plan
from miaotui.loader.open import open_model
from miaotui.loader.pack import pack
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


@pytest.mark.parametrize(
    ("name", "more"),
    [
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


def test_a_config_that_says_more_than_the_tensors(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, small("llama"))
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"quantization_config": said("gptq")}))
    with pytest.raises(CheckpointError, match=r"config.json says that matrices are quantised .*and no tensor is"):
        open_model(tmp_path)


def _cut(axis: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: np.take(x, range(x.shape[axis] - 1), axis) if x.ndim > axis else x


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
            r"has shape \[64, 3\]; expected a scale for each group of 48 inputs, each output",
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
