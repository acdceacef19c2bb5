"""Adapters by known numbers, and bad ones: each is refused by a typed error that names the key and says what to do."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from adapters import Written, write_adapter
from checkpoints import Drawn, small, write_checkpoint, write_safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miaotui.errors import CheckpointError, ConfigError, InputError, MiaotuiError, PlanError
from miaotui.loader.adapter_config import KEYS, read_adapter_config
from miaotui.loader.expressions import steps_of
from miaotui.loader.load_plan import make_load_plan
from miaotui.loader.open import open_model
from miaotui.loader.pack import pack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Q = "model.layers.0.self_attn.q_proj"


def good(rank: int = 1, modules: tuple[str, ...] = ("q_proj",), **said: Any) -> Written:
    """Of every layer of `small("llama")`: 12 wide, a feed-forward of 7."""
    tensors = {}
    for module in modules:
        for i in range(2):
            block = "mlp" if module in {"up_proj", "down_proj"} else "self_attn"
            tensors[f"model.layers.{i}.{block}.{module}.lora_A.weight"] = np.ones((rank, 12), np.float32)
            tensors[f"model.layers.{i}.{block}.{module}.lora_B.weight"] = np.ones((12, rank), np.float32)
    return Written({"r": rank, "lora_alpha": 4, "target_modules": list(modules), **said}, tensors)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("base")
    write_checkpoint(at, small("llama"))
    return at


def weight_of(path: Path, adapter: Path, name: str) -> np.ndarray:
    with open_model(path, adapter=adapter) as opened:
        weights = pack(make_load_plan(opened), opened.checkpoint)
        array = next(w.array for w in weights if w.name == name)
        assert array is not None
        return np.array(array)


def zeroed(folder: Path, drawn: Drawn, name: str) -> Path:
    """A base whose tensor of this name is zeros."""
    tensors = {**write_checkpoint(folder, drawn)}
    tensors[name] = np.zeros_like(tensors[name])
    write_safetensors(folder / "model.safetensors", tensors, dtype=drawn.dtype)
    return folder


def test_the_delta_of_known_numbers(tmp_path: Path) -> None:
    """W = 0, A = [[1, 2]], B = [[3], [5]], r 1, alpha 4: [[12, 24], [20, 40]]."""
    drawn = small("llama")
    sizes = {"hidden_size": 2, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2}
    drawn = replace(drawn, config={**drawn.config, **sizes, "num_hidden_layers": 1})
    base = zeroed(tmp_path / "base", drawn, f"{Q}.weight")
    a, b = np.array([[1, 2]], np.float32), np.array([[3], [5]], np.float32)
    adapter = Written({"r": 1, "lora_alpha": 4, "target_modules": ["q_proj"]})
    adapter.tensors = {f"{Q}.lora_A.weight": a, f"{Q}.lora_B.weight": b}
    made = weight_of(base, write_adapter(tmp_path / "a", adapter), "layers.0.q")
    assert made.tolist() == [[12, 24], [20, 40]]


def test_known_numbers_in_a_tensor_that_is_stored_turned(tmp_path: Path) -> None:
    """GPT-2's W is [in, out] in the file: it becomes W + (scale B A)^T there, and [out, in] in memory."""
    drawn = small("gpt2")
    name = "transformer.h.0.mlp.c_fc"  # 12 inputs, 7 outputs
    base = zeroed(tmp_path / "base", drawn, f"{name}.weight")
    a, b = np.arange(12, dtype=np.float32)[None], np.arange(1, 8, dtype=np.float32)[:, None]
    said = {"r": 1, "lora_alpha": 2, "target_modules": ["h.0.mlp.c_fc"], "fan_in_fan_out": True}
    adapter = Written(said, {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b})
    path = write_adapter(tmp_path / "a", adapter)
    assert np.array_equal(weight_of(base, path, "layers.0.up"), 2 * b * a)


@pytest.mark.parametrize(
    ("said", "module", "scale"),
    [
        ({"r": 4, "lora_alpha": 8}, Q, 2.0),
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, Q, 4.0),
        ({"r": 4, "lora_alpha": 8, "rank_pattern": {"q_proj": 2}}, Q, 4.0),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {r"layers\.0\.self_attn\.q_proj": 2}}, Q, 0.5),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"proj": 2}}, Q, 2.0),  # no whole part of the name
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"k_proj": 2, ".*q_proj": 6, "q_proj": 1}}, Q, 1.5),  # the first
        ({}, Q, 1.0),  # 8 of 8
    ],
)
def test_scales(said: dict[str, Any], module: str, scale: float, tmp_path: Path) -> None:
    write_adapter(tmp_path, Written(said))
    assert read_adapter_config(tmp_path / "adapter_config.json").scale(module) == scale


@pytest.mark.parametrize(
    ("said", "targets", "others"),
    [
        ({"target_modules": ["q_proj"]}, [Q, "q_proj"], ["model.layers.0.self_attn.xq_proj", "q_proj.x"]),
        ({"target_modules": [Q]}, [Q], ["model.layers.1.self_attn.q_proj", f"x.{Q}x"]),
        ({"target_modules": r".*\.q_proj"}, [Q], ["q_proj", f"{Q}.x"]),
        ({"target_modules": "q_proj"}, ["q_proj"], [Q]),  # a pattern of whole names
        ({"target_modules": ["q_proj"], "exclude_modules": r".*\.0\..*"}, ["model.layers.1.q_proj"], [Q]),
        ({"target_modules": ["q_proj"], "exclude_modules": ["self_attn.q_proj"]}, ["q_proj"], [Q]),
        ({"target_modules": ["q_proj"], "modules_to_save": ["self_attn"]}, ["q_proj"], [Q]),
        ({"target_modules": ["q_proj"], "layers_to_transform": 0}, [Q], ["model.layers.1.q_proj", "q_proj.x"]),
        ({"target_modules": ["q_proj"], "layers_to_transform": []}, [Q, "model.layers.1.q_proj"], ["k_proj"]),
        (
            {"target_modules": ["w"], "layers_to_transform": [1, 3], "layers_pattern": ["h", "layers"]},
            ["h.3.w", "a.layers.1.experts.2.w"],
            ["h.2.w", "blocks.1.w", "a.layers.2.experts.1.w"],
        ),
        ({"target_modules": None}, [], [Q]),
    ],
)
def test_which_modules_are_meant(said: dict[str, Any], targets: list[str], others: list[str], tmp_path: Path) -> None:
    write_adapter(tmp_path, Written(said))
    config = read_adapter_config(tmp_path / "adapter_config.json")
    assert [m for m in targets if not config.is_target(m)] == []
    assert [m for m in others if config.is_target(m)] == []


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"peft_type": "IA3"}, ("peft_type", "'IA3'", "LORA")),
        ({"peft_type": None}, ("peft_type", "LORA")),
        ({"r": 0}, ("r is 0", "1 to")),
        ({"r": True}, ("r is True",)),
        ({"lora_alpha": "8"}, ("lora_alpha", "a number")),
        ({"rank_pattern": {"q_proj": 0}}, ("rank_pattern", "1 to")),
        ({"alpha_pattern": {"(": 2}}, ("alpha_pattern", "a regular expression")),
        ({"target_modules": 3}, ("target_modules", "a list of names")),
        ({"target_modules": "(a+)+b"}, ("target_modules", "repeated group")),
        ({"target_modules": "(?:x|[)]|xx)*y"}, ("target_modules", "repeated group")),
        ({"target_modules": ".?" * 30 + "." * 30 + "X"}, ("target_modules", "repetitions in a row")),
        ({"target_modules": ".*" * 12 + "X"}, ("target_modules", "repetitions in a row")),
        ({"target_modules": "|".join(f".*.*.*.*{i}" for i in range(99))}, ("target_modules", "repetitions in a row")),
        ({"exclude_modules": "(.?){30}.{30}X"}, ("exclude_modules", "repeated group")),
        ({"rank_pattern": {f".*.*.*.*{i}": 4 for i in range(99)}}, ("rank_pattern", "fewer repetitions")),
        ({"target_modules": "q" * 5000}, ("target_modules", "4096")),
        ({"layers_pattern": ["(.*)*"], "layers_to_transform": [1]}, ("layers_pattern", "repeated group")),
        ({"layers_to_transform": ["1"]}, ("layers_to_transform", "a layer's number")),
        ({"bias": "some"}, ("bias", "lora_only")),
        ({"use_qalora": True}, ("use_qalora", "QA-LoRA", "merge")),
        ({"alora_invocation_tokens": [1]}, ("alora_invocation_tokens",)),
        ({"layer_replication": [[0, 1]]}, ("layer_replication",)),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, ("target_parameters", "experts")),
        ({"megatron_config": {"x": 1}}, ("megatron_config",)),
        ({"use_newest": 1}, ("unknown key 'use_newest'", "remove it")),
        ({"init_lora_weights": "pissa_niter_4"}, ("init_lora_weights", "path_initial_model_for_weight_conversion")),
        ({"trainable_token_indices": [1, 1]}, ("trainable_token_indices", "each once")),
        ({"trainable_token_indices": {"embed_tokens": -1}}, ("trainable_token_indices", "list of token ids")),
    ],
)
def test_bad_configs(said: dict[str, Any], words: tuple[str, ...], base: Path, tmp_path: Path) -> None:
    path = write_adapter(tmp_path, good(**said))
    refused(base, path, ConfigError, ("adapter_config.json", *words))


@pytest.mark.parametrize(
    ("pattern", "steps"),
    [
        ("q_proj", 1),
        (r"[*+?]\*", 1),
        ("a?b??", 4),
        ("(?:a.*){1}", 2145),  # 66 over 2
        (".*a|b.*|c", 130),
        (r".*\.layers\.\d+\.self_attn\.(q|k)_proj", 2145),
        (r"^(?!.*(vision|audio)).*(q_proj|v_proj)$", 2145),
        # as Unsloth writes them
        (
            r"(?:.*?(?:vision|text).*?(?:attn|mlp).*?(?:k_proj|v_proj).*?)|(?:\bmodel\.[\d]{1,}\.(?:k|v))",
            1628770,
        ),
    ],
)
def test_steps_of_a_pattern(pattern: str, steps: int) -> None:
    assert steps_of(pattern) == steps


def test_what_is_off_is_no_unknown_key(base: Path, tmp_path: Path) -> None:
    said = {"use_newest": False, "other": None, "third": [], "kasa_config": None, "loftq_config": {"loftq_bits": 4}}
    said |= {"init_lora_weights": "gaussian", "lora_dropout": 0.1, "task_type": "CAUSAL_LM"}
    open_model(base, adapter=write_adapter(tmp_path, good(**said))).close()


def refused(base: Path, adapter: Path, error: type[MiaotuiError], words: tuple[str, ...], **how: Any) -> None:
    with pytest.raises(error) as caught:
        miaotui.load(base, adapter=adapter, **how)
    assert type(caught.value) is error
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


def without(key: str) -> Callable[[Written], None]:
    def change(adapter: Written) -> None:
        del adapter.tensors[key]

    return change


def with_tensor(key: str, shape: tuple[int, ...], dtype: str = "F32", value: float = 1.0) -> Callable[[Written], None]:
    def change(adapter: Written) -> None:
        adapter.tensors[key] = np.full(shape, value, np.float32)
        adapter.dtypes[key] = dtype

    return change


def saying(**said: Any) -> Callable[[Written], None]:
    def change(adapter: Written) -> None:
        adapter.config.update(said)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without(f"{Q}.lora_B.weight"), (f"{Q}.lora_A.weight", "without", f"{Q}.lora_B.weight")),
        (saying(target_modules=["q_proj", "v_proj"]), ("layers.0.self_attn.v_proj.lora_A.weight", "incomplete")),
        (saying(target_modules=["k_proj"]), (f"{Q}.lora_A.weight", "does not name this module")),
        (saying(r=2), (f"{Q}.lora_A.weight", "[1, 12]", "[2, 12]", "rank 2")),
        (saying(use_dora=True), (f"{Q}.lora_A.weight", "lora_magnitude_vector")),
        (with_tensor(f"{Q}.lora_magnitude_vector", (12,)), (f"{Q}.lora_magnitude_vector", "use_dora is false")),
        (
            with_tensor(f"{Q}.lora_A.weight", (1, 16)),
            (f"{Q}.lora_A.weight", "[1, 16]", "[1, 12]", "the adapter's base"),
        ),
        (with_tensor(f"{Q}.lora_B.weight", (9, 1)), (f"{Q}.lora_B.weight", "[9, 1]", "[12, 1]")),
        (with_tensor(f"{Q}.lora_A.weight", (1, 12), "I64"), (f"{Q}.lora_A.weight", "I64", "BF16")),
        (with_tensor(f"{Q}.lora_A.weight", (1, 12), value=np.nan), (f"{Q}.lora_A.weight", "NaN")),
        (with_tensor(f"{Q}.lora_B.weight", (12, 1), value=np.inf), (f"{Q}.lora_B.weight", "infinity")),
        (with_tensor(f"{Q}.lora_E.weight", (1, 12)), (f"{Q}.lora_E.weight", "not understood")),
        (with_tensor(f"{Q}.lora_A.default.weight", (1, 12)), ("lora_A.default.weight", "not understood")),
        (with_tensor("model.layers.7.self_attn.q_proj.lora_A.weight", (1, 12)), ("layers.7", "no part of the llama")),
        (with_tensor(f"{Q}.lora_B.bias", (12,)), (f"{Q}.lora_B.bias", "lacks")),
        (with_tensor("model.norm.bias", (12,)), ("model.norm.bias", "no part of the llama")),
        (with_tensor("model.norm.weight", (13,)), ("model.norm.weight", "[13]", "[12]")),
        (with_tensor("lm_head.weight", (14, 12)), ("lm_head.weight", "[14, 12]", "[11, 12]", "another vocabulary")),
        (with_tensor(f"{Q}.base_layer.weight", (12, 11)), (f"{Q}.base_layer.weight", "[12, 11]")),
        (saying(modules_to_save=["classifier"]), ("modules_to_save", "'classifier'")),
        (
            with_tensor("model.embed_tokens.token_adapter.trainable_tokens_delta", (2, 12)),
            ("trainable_tokens_delta", "has 0 for it", "11 rows"),
        ),
    ],
)
def test_bad_tensors(change: Callable[[Written], None], words: tuple[str, ...], base: Path, tmp_path: Path) -> None:
    adapter = good()
    change(adapter)
    refused(base, write_adapter(tmp_path, adapter), CheckpointError, ("adapter_model.safetensors", *words))


def test_token_ids_beyond_the_vocabulary(base: Path, tmp_path: Path) -> None:
    adapter = good(trainable_token_indices=[3, 11])
    adapter.tensors["model.embed_tokens.token_adapter.trainable_tokens_delta"] = np.ones((2, 12), np.float32)
    refused(base, write_adapter(tmp_path, adapter), CheckpointError, ("trainable_tokens_delta", "11 rows"))


def test_a_row_of_zeros_has_no_direction(tmp_path: Path) -> None:
    base = zeroed(tmp_path / "base", small("llama"), f"{Q}.weight")
    adapter = good(use_dora=True)
    for i in range(2):
        adapter.tensors[f"model.layers.{i}.self_attn.q_proj.lora_magnitude_vector"] = np.ones(12, np.float32)
    adapter.tensors[f"{Q}.lora_B.weight"] = np.array([[1.0]] * 5 + [[0.0]] * 7, np.float32)
    refused(base, write_adapter(tmp_path / "a", adapter), CheckpointError, (Q, "output 5", "use_dora"))


def test_numbers_that_the_file_s_dtype_cannot_hold(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "base", replace(small("llama"), dtype="F16"))
    adapter = good()
    adapter.tensors[f"{Q}.lora_B.weight"] *= 30000
    refused(tmp_path / "base", write_adapter(tmp_path / "a", adapter), CheckpointError, (f"{Q}.weight", "F16"))


def test_directories_that_hold_no_adapter(base: Path, tmp_path: Path) -> None:
    for name, words in (
        ("nowhere", ("adapter='", "no such directory", "adapter_config.json")),
        ("empty", ("adapter='", "no adapter_config.json", "expected a PEFT adapter")),
        ("pickled", ("adapter='", "adapter_model.bin", "never opened", "safe_serialization")),
    ):
        if name != "nowhere":
            (tmp_path / name).mkdir()
        if name == "pickled":
            (tmp_path / name / "adapter_config.json").write_text("{}")
            (tmp_path / name / "adapter_model.bin").write_bytes(b"PK")
        refused(base, tmp_path / name, CheckpointError, words)
    (tmp_path / "pickled" / "adapter_model.safetensors").write_bytes(b"PK")
    refused(base, tmp_path / "pickled", ConfigError, ("peft_type",))
    for value in (3, "", b"x"):
        with pytest.raises(InputError, match="adapter"):
            miaotui.load(base, adapter=value)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"base model.*adapter="):
        miaotui.load(write_adapter(tmp_path / "alone", good()))


def test_an_adapter_for_what_is_quantised_already(base: Path, tmp_path: Path) -> None:
    from miaotui.tools.commands.quantize import quantize

    quantize(base, tmp_path / "int8", "int8")
    adapter = write_adapter(tmp_path / "a", good())
    refused(tmp_path / "int8", adapter, PlanError, (f"{Q}.weight", "int8 already", "LoRA of rank 1"))
    with miaotui.load(base, adapter=adapter, quantize="int8") as model:
        assert len(model.generate([1, 2], max_new_tokens=2).ids) <= 2


def test_a_vector_with_magnitudes_of_one_dimension_only(base: Path, tmp_path: Path) -> None:
    """Keys of newer and of older files."""
    adapter = good(use_dora=True)
    for i, end in enumerate(("lora_magnitude_vector", "lora_magnitude_vector.weight")):
        adapter.tensors[f"model.layers.{i}.self_attn.q_proj.{end}"] = np.ones(12, np.float32)
    with open_model(base, adapter=write_adapter(tmp_path / "a", adapter)) as opened:
        plan = make_load_plan(opened)
        made = {w.name: w.array for w in pack(plan, opened.checkpoint)}
    for i in range(2):
        assert np.allclose(np.linalg.norm(made[f"layers.{i}.q"], axis=1), 1, atol=1e-6)
    adapter.tensors[f"{Q}.lora_magnitude_vector.weight"] = np.ones(12, np.float32)
    refused(base, write_adapter(tmp_path / "b", adapter), CheckpointError, ("lora_magnitude_vector", "twice"))


def test_the_command_says_what_was_typed(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from miaotui.tools.cli import main

    assert main(["generate", "x", "--model", str(base), "--adapter", str(tmp_path / "none")]) == 1
    assert f"--adapter {tmp_path / 'none'}" in capsys.readouterr().err
    write_adapter(tmp_path / "a", good())
    assert main(["inspect", str(base), "--adapter", str(tmp_path / "a"), "--json"]) == 0
    known = json.loads(capsys.readouterr().out)
    assert known["adapter"].startswith("a: LoRA of 2 modules, rank 1, ")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats(allow_nan=False) | st.text("a.*(+[|)0$", max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.(*", max_size=4), inner, max_size=3),
    max_leaves=5,
)
ENDS = ("lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_embedding_A", "lora_magnitude_vector", "weight", "bias")
MODULES = (
    Q,
    "model.embed_tokens",
    "lm_head",
    "model.norm",
    "model.layers.1.mlp",
    "",
    "model.layers.-1.self_attn.q_proj",
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_fuzz_finds_typed_errors_alone(
    data: st.DataObject, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Keys with any JSON, and tensors of any name, shape and dtype: what is refused is a MiaotuiError."""
    adapter, at = good(), tmp_path_factory.mktemp("fuzz")
    keys = st.sampled_from([*KEYS, "peft_type", "use_qalora", "x"])
    adapter.config |= data.draw(st.dictionaries(keys, JSON, max_size=2))
    for _ in range(data.draw(st.integers(0, 3))):
        name = f"{data.draw(st.sampled_from(MODULES))}.{data.draw(st.sampled_from(ENDS))}"
        shape = data.draw(st.lists(st.sampled_from([0, 1, 4, 7, 11, 12]), max_size=3))
        adapter.tensors[name] = np.ones(shape, np.float32)
        adapter.dtypes[name] = data.draw(st.sampled_from(["F32", "F16", "BF16", "F64", "I64"]))
    told = "no error: what was drawn changes nothing"
    try:
        with open_model(base, adapter=write_adapter(at, adapter)) as opened:
            pack(make_load_plan(opened), opened.checkpoint)
    except MiaotuiError as e:
        told = str(e)
    assert len(told) > 20


def test_lists_without_end(base: Path, tmp_path: Path) -> None:
    endless = [f"m{i}" for i in range(2**14 + 1)]
    for key, value in (("target_modules", endless), ("rank_pattern", dict.fromkeys(endless, 1))):
        refused(base, write_adapter(tmp_path, good(**{key: value})), ConfigError, (key, "at most 16384"))
