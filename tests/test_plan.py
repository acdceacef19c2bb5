"""The plan reads headers only and accounts for every byte; packing gives the file's exact values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from checkpoints import FAMILIES, Drawn, models, random_tensors, write_checkpoint, write_safetensors
from helpers import by_name
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miaotui.errors import CheckpointError
from miaotui.loader.checkpoint import Checkpoint
from miaotui.loader.load_plan import LINE, LoadPlan, make_load_plan
from miaotui.loader.open import open_model
from miaotui.loader.pack import pack, planned

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from miaotui.runtime.spec import Weights

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 11,
    "hidden_size": 12,
    "intermediate_size": 7,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "tie_word_embeddings": True,
}
GPT2: dict[str, Any] = {
    "model_type": "gpt2",
    "vocab_size": 11,
    "n_positions": 9,
    "n_embd": 12,
    "n_layer": 2,
    "n_head": 3,
    "n_inner": 7,
}
Tensors = dict[str, np.ndarray]
Broken = tuple[str, dict[str, Any], "Callable[[Tensors], Tensors]", dict[str, str], str]


def opened(directory: Path) -> tuple[Checkpoint, LoadPlan]:
    """Open a directory and plan it."""
    model = open_model(directory)
    return model.checkpoint, make_load_plan(model)


def loaded(directory: Path) -> tuple[LoadPlan, Weights]:
    """Open, plan and pack a directory."""
    checkpoint, plan = opened(directory)
    return plan, pack(plan, checkpoint)


def expected(config: dict[str, Any], exact: Tensors) -> dict[str, np.ndarray]:
    """Name the values of the file's tensors by our roles, spelled out apart from the loader."""
    gpt2 = config["model_type"] == "gpt2"
    body = "transformer." if gpt2 else "model."
    values = {"embed": exact[body + ("wte.weight" if gpt2 else "embed_tokens.weight")]}
    values["norm"] = exact[body + ("ln_f.weight" if gpt2 else "norm.weight")]
    values["head"] = exact.get("lm_head.weight", values["embed"])
    if not gpt2:
        names = {f"self_attn.{r}_proj": r for r in "qkvo"} | {f"mlp.{r}_proj": r for r in ("gate", "up", "down")}
        names |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
        names |= {"self_attn.q_norm": "q_norm", "self_attn.k_norm": "k_norm"}
        for name, value in exact.items():
            if name.startswith("model.layers."):
                _, _, layer, rest = name.split(".", 3)
                stem, _, kind = rest.rpartition(".")
                values[f"layers.{layer}.{names[stem]}" + ("_bias" if kind == "bias" else "")] = value
        return values
    values |= {"positions": exact["transformer.wpe.weight"], "norm_bias": exact["transformer.ln_f.bias"]}
    for i in range(config["n_layer"]):
        h, mine = f"transformer.h.{i}.", f"layers.{i}."
        qkv = np.split(exact[h + "attn.c_attn.weight"].T, 3), np.split(exact[h + "attn.c_attn.bias"], 3)
        for role, weight, bias in zip("qkv", *qkv, strict=True):
            values |= {mine + role: weight, f"{mine}{role}_bias": bias}
        for role, name in {"o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"}.items():
            values |= {mine + role: exact[f"{h}{name}.weight"].T, f"{mine}{role}_bias": exact[f"{h}{name}.bias"]}
        for role, name in {"attn_norm": "ln_1", "ffn_norm": "ln_2"}.items():
            values |= {mine + role: exact[f"{h}{name}.weight"], f"{mine}{role}_bias": exact[f"{h}{name}.bias"]}
    return values


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=st.sampled_from(FAMILIES).flatmap(models))
def test_packed_values_are_the_files(drawn: Drawn, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("drawn")
    exact = write_checkpoint(directory, drawn)
    plan, weights = loaded(directory)
    got, wanted = by_name(weights), expected(drawn.config, exact)
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        weight = got[name]
        assert weight.shape == value.shape
        assert weight.array is not None
        assert weight.array.flags.c_contiguous
        assert not weight.array.flags.writeable
        assert np.array_equal(weight.f64(), value), name
        assert weight.dtype == ("f32" if value.ndim == 1 else drawn.dtype.lower())
        assert weight.mapped or weight.address % LINE == 0
    every = list(weights)
    assert plan.mapped_bytes == sum(w.nbytes for w in every if w.mapped)
    assert plan.parameters == sum(value.size for value in exact.values())
    resident = [w for w in every if not w.mapped]
    if resident:  # one block: the pieces lie side by side, and the last ends it
        start = min(w.address for w in resident)
        stop = max(w.address + -(-w.nbytes // LINE) * LINE for w in resident)
        assert stop - start == plan.resident_bytes
        assert plan.resident_bytes == sum(-(-w.nbytes // LINE) * LINE for w in resident)
    else:
        assert plan.resident_bytes == 0


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=st.sampled_from(FAMILIES).flatmap(models))
def test_planned_weights_are_the_packed_ones_without_data(
    drawn: Drawn, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("drawn")
    write_checkpoint(directory, drawn)
    checkpoint, plan = opened(directory)
    ahead, after = planned(plan), pack(plan, checkpoint)
    assert (ahead.head.w is ahead.decoder.embed) == (after.head.w is after.decoder.embed) == plan.config.tied
    for a, b in zip(ahead, after, strict=True):
        assert (a.name, a.dtype, a.shape, a.mapped, a.nbytes) == (b.name, b.dtype, b.shape, b.mapped, b.nbytes)
        assert a.array is None
        assert a.address == 0


def test_lines_name_every_role_once_and_count_layers(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, Drawn(GPT2, "BF16"))
    lines = opened(tmp_path)[1].lines()
    assert len(lines) == 4 + 16
    [k] = [line for line in lines if line.startswith("k ")]
    assert " ".join(k.split()) == (
        "k x2 transformer.h.{i}.attn.c_attn.weight[:, 12:24] [12, 12] bf16 resident: transposed"
    )
    [bias] = [line for line in lines if line.startswith("k_bias ")]
    assert " ".join(bias.split()) == ("k_bias x2 transformer.h.{i}.attn.c_attn.bias[12:24] [12] f32 resident: widened")


def test_layers_that_differ_get_their_own_line(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, Drawn(LLAMA))
    mixed = {"model.layers.1.mlp.up_proj.weight": "BF16"}
    write_safetensors(tmp_path / "model.safetensors", random_tensors(LLAMA, 0), mixed)
    lines = [line.split() for line in opened(tmp_path)[1].lines() if line.startswith("up ")]
    name = "model.layers.{i}.mlp.up_proj.weight"
    assert lines == [["up", "x1", name, "[7,", "12]", d, "mapped"] for d in ("f32", "bf16")]


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_names_without_the_prefix(config: dict[str, Any], tmp_path: Path) -> None:
    """A checkpoint saved from the bare model has no `model.` or `transformer.` before its names."""
    write_checkpoint(tmp_path / "long", Drawn(config))
    write_checkpoint(tmp_path / "short", Drawn(config))
    tensors = {name.split(".", 1)[1]: value for name, value in random_tensors(config, 0).items()}
    write_safetensors(tmp_path / "short" / "model.safetensors", tensors)
    (_, long), (_, short) = loaded(tmp_path / "long"), loaded(tmp_path / "short")
    for a, b in zip(long, short, strict=True):
        assert a.name == b.name
        assert np.array_equal(a.f64(), b.f64())


def test_f64_is_rounded_to_f32(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, Drawn(LLAMA))
    tensors = {name: value.astype(np.float64) * np.pi for name, value in random_tensors(LLAMA, 0).items()}
    write_safetensors(tmp_path / "model.safetensors", tensors, dtype="F64")
    plan, weights = loaded(tmp_path)
    assert plan.mapped_bytes == 0
    assert {w.dtype for w in weights} == {"f32"}
    assert np.array_equal(weights.decoder.embed.f64(), tensors["model.embed_tokens.weight"].astype(np.float32))
    assert any("narrowed" in line for line in plan.lines())
    tensors["model.norm.weight"][3] = 1e300
    write_safetensors(tmp_path / "model.safetensors", tensors, dtype="F64")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight.*F32"):
        loaded(tmp_path)


@pytest.mark.parametrize(("pad", "dtype"), [(1, "F32"), (2, "F32"), (1, "BF16"), (3, "F64")])
def test_unaligned_tensors_are_copied(pad: int, dtype: str, tmp_path: Path) -> None:
    """Old writers did not pad the header; a kernel must never see an address off its alignment."""
    write_checkpoint(tmp_path, Drawn(LLAMA))
    exact = write_safetensors(tmp_path / "model.safetensors", random_tensors(LLAMA, 0), dtype=dtype, pad=pad)
    plan, weights = loaded(tmp_path)
    assert plan.mapped_bytes == 0
    got = by_name(weights)
    for name, value in expected(LLAMA, exact).items():
        assert np.array_equal(got[name].f64(), value)
        assert got[name].address % LINE == 0


def test_tensors_that_mean_nothing_are_ignored(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, Drawn(LLAMA))
    tensors = random_tensors(LLAMA, 0)
    tensors |= {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32) for i in range(2)}
    write_safetensors(tmp_path / "model.safetensors", tensors)
    assert opened(tmp_path)[1].parameters == sum(v.size for v in random_tensors(LLAMA, 0).values())
    write_checkpoint(tmp_path, Drawn(GPT2))
    tensors = random_tensors(GPT2, 0)
    tensors |= {f"transformer.h.{i}.attn.bias": np.ones((1, 1, 9, 9), np.float32) for i in range(2)}
    tensors |= {f"transformer.h.{i}.attn.masked_bias": np.ones((), np.float32) for i in range(2)}
    write_safetensors(tmp_path / "model.safetensors", tensors, {"transformer.h.0.attn.bias": "U8"})
    assert opened(tmp_path)[1].parameters == sum(v.size for v in random_tensors(GPT2, 0).values())


def test_a_tied_head_may_be_stored_too_if_it_is_the_same(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, Drawn(LLAMA))
    tensors = random_tensors(LLAMA, 0)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    write_safetensors(tmp_path / "model.safetensors", tensors)
    _, weights = loaded(tmp_path)
    assert weights.head.w is weights.decoder.embed
    tensors["lm_head.weight"][10, 11] += 1
    write_safetensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs .*tie_word_embeddings"):
        loaded(tmp_path)


def test_a_tied_model_may_store_its_head_alone(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, Drawn(LLAMA))
    tensors = random_tensors(LLAMA, 0)
    embed = tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    write_safetensors(tmp_path / "model.safetensors", tensors)
    _, weights = loaded(tmp_path)
    assert weights.head.w is weights.decoder.embed
    assert np.array_equal(weights.decoder.embed.f64(), embed)


UP, THIRD = "model.layers.1.mlp.up_proj.weight", "model.layers.2.input_layernorm.weight"


def _drop(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: v for n, v in tensors.items() if n != name}


def _only(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensors[name]}


def _put(name: str, *shape: int) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: np.ones(shape, np.float32)}


#: What is broken, changes to the config, to the tensors, to the dtypes, and what the message says.
BROKEN: list[Broken] = [
    ("missing matrix", {}, _drop(UP), {}, rf"tensor {UP} \[7, 12\] missing"),
    ("missing norm", {}, _drop("model.norm.weight"), {}, r"model\.norm\.weight \[12\] missing"),
    (
        "next to nothing",
        {},
        _only("model.norm.weight"),
        {},
        r"model\.embed_tokens\.weight \[11, 12\] and 18 more missing",
    ),
    ("missing head", {"tie_word_embeddings": False}, dict, {}, r"lm_head\.weight .*tie_word_embeddings is false"),
    ("too few layers", {"num_hidden_layers": 3}, _put(THIRD, 12), {}, r"model\.layers\.2\..* and 7 more missing"),
    ("absurd layers", {"num_hidden_layers": 2**16}, _put(THIRD, 12), {}, r"model\.layers\.2\.\S+ .*missing"),
    ("missing bias", {"attention_bias": True}, dict, {}, r"self_attn\.q_proj\.bias \[12\] and 7 more missing"),
    ("wrong shape", {}, _put(UP, 12, 7), {}, rf"{UP} has shape \[12, 7\], .*gate_proj\S* \[7, 12\] has 7"),
    ("wrong rank", {}, _put(UP, 84), {}, r"has shape \[84\]"),
    ("wrong width", {"hidden_size": 24, "head_dim": 4}, dict, {}, r"\[11, 12\]; config.json makes it \[11, 24\]"),
    ("extra layer", {"num_hidden_layers": 1}, dict, {}, r"model\.layers\.1\..*is no part of a llama model of 1 layers"),
    ("extra tensor", {}, _put("model.score.weight", 2, 2), {}, r"model\.score\.weight' is no part of a llama"),
    ("extra bias", {}, _put("model.layers.0.mlp.up_proj.bias", 7), {}, r"up_proj\.bias' is no part"),
    ("twin of another shape", {}, _put("lm_head.weight", 12, 12), {}, r"lm_head\.weight has shape \[12, 12\]"),
    ("integers", {}, dict, {UP: "I64"}, rf"{UP} is I64; expected one of F32, BF16, F16, F64"),
    ("eight bits", {}, dict, {UP: "F8_E4M3"}, rf"{UP} is F8_E4M3, and its scale {UP}_scale_inv or .* is missing:"),
]


@pytest.mark.parametrize("case", BROKEN, ids=[b[0] for b in BROKEN])
def test_refused_by_name_before_any_data_is_read(case: Broken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, config, change, dtypes, says = case
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, **config}))
    write_safetensors(tmp_path / "model.safetensors", change(random_tensors(LLAMA, 0)), dtypes)
    monkeypatch.setattr(Checkpoint, "array", lambda *_: pytest.fail("data was read"))
    with pytest.raises(CheckpointError, match=says) as error:
        opened(tmp_path)
    assert len(str(error.value)) < 600
