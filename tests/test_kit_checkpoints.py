"""`miaotui.testing`: tiny checkpoints of every family, malformed ones, plans and prompts, drawn."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miaotui import errors
from miaotui.errors import InputError
from miaotui.loader.families import FAMILIES
from miaotui.testing import checkpoints, strategies
from miaotui.testing.checkpoints import families, tiny
from miaotui.tools import demo

if TYPE_CHECKING:
    from numpy.typing import NDArray

IDS = [3, 5, 7, 9]
SOME = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def numbers(model: Any) -> NDArray[np.float32]:
    """What it makes of `IDS`."""
    if model.config.seq2seq:
        return model.logits(IDS, decoder_ids=[1, 2])
    return model.logits(IDS) if model.config.decoder is not None else model.hidden(IDS)


def test_families_are_all_that_are_read() -> None:
    assert set(families()) == set(FAMILIES)
    assert sum(len(families(kind)) for kind in ("decoders", "encoders", "encoder-decoders")) == len(families())


@pytest.mark.parametrize("name", families())
def test_a_tiny_model_of_every_family(name: str, tmp_path: Path) -> None:
    """From its files as from memory, and by the oracle too."""
    made = tiny(name, dtype="BF16", seed=3)
    assert made.family == name
    with (
        miaotui.load(made.write(tmp_path / "m")) as model,
        miaotui.load(config=made.config, tensors=made.tensors()) as held,
    ):
        assert np.allclose(numbers(model), numbers(held), rtol=1e-5, atol=1e-5)
        assert np.isfinite(numbers(model)).all()
        assert model.tokenizer.encode("w3 w5") == [3, 5]
        after = {"decoder_ids": [1, 2]} if model.config.seq2seq else {}
        trace = model.trace(IDS, **after)
        if "logits" in trace:
            assert np.abs(trace.logits - numbers(model)).max() < 1e-3 * np.abs(trace.logits).max()
    other = tiny(name, dtype="BF16", seed=4).tensors()
    assert any(not np.array_equal(x, other[key]) for key, x in made.tensors().items())


@pytest.mark.ci  # transformers
@pytest.mark.parametrize("name", families())
def test_transformers_reads_it_too(name: str, tmp_path: Path) -> None:
    """Every tensor under its name, and the same numbers; a pooler, and tables of sines, it may miss."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    if name == "nemotron-nas":
        pytest.skip("nemotron-nas: transformers has it as remote code alone")
    kinds = {"decoders": "AutoModelForCausalLM", "encoders": "AutoModel", "encoder-decoders": "AutoModelForSeq2SeqLM"}
    kind = next(auto for kind, auto in kinds.items() if name in families(kind))
    tiny(name, n_layers=3).write(tmp_path)
    module, told = getattr(transformers, kind).from_pretrained(tmp_path, output_loading_info=True)
    left = [key for every in told.values() for key in every if "pooler" not in key and "embed_positions" not in key]
    assert left == []
    given = {"decoder_input_ids": torch.tensor([[1, 2]])} if kind == "AutoModelForSeq2SeqLM" else {}
    with torch.no_grad(), miaotui.load(tmp_path) as model:
        out = module.eval()(torch.tensor([IDS]), **given)
        theirs = (out.last_hidden_state if kind == "AutoModel" else out.logits)[0].float().numpy()
        ours = numbers(model)
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(ours).max()


@SOME
@given(strategies.tiny_checkpoints(), st.data())
def test_drawn_models_load(made: checkpoints.TinyCheckpoint, data: st.DataObject) -> None:
    """In any dtype, from a directory, and again with a plan that was drawn for it."""
    with tempfile.TemporaryDirectory() as place:
        made.write(place)
        assert json.loads((Path(place) / "config.json").read_text())["model_type"] == made.family
        with miaotui.load(place) as model:
            assert np.isfinite(numbers(model)).all()
            config = model.config
        if made.family in {"llama", "qwen3", "gpt2"}:
            with miaotui.load(
                place, prune=data.draw(strategies.prune_plans(config, frozenset({"heads", "ffn"})))
            ) as cut:
                assert cut.logits(IDS).shape == (len(IDS), config.n_vocab)


@SOME
@given(strategies.configs("llama"))
def test_configs_are_those_of_checkpoints(config: dict[str, Any]) -> None:
    assert config["hidden_size"] == config["num_attention_heads"] * config["head_dim"]


@settings(max_examples=25, deadline=None)
@given(strategies.malformed_checkpoints())
def test_a_malformed_checkpoint_is_refused(broken: Any) -> None:
    """By an error of its kind, at the latest where a text is read."""
    with (
        tempfile.TemporaryDirectory() as place,
        pytest.raises(getattr(errors, broken.error)),
        miaotui.load(broken.write(Path(place))) as model,
    ):
        model.tokenizer.encode("a")


@SOME
@given(strategies.prompts())
def test_prompts_are_read_or_refused(text: str) -> None:
    with miaotui.load(demo.path()) as model:
        ids = model.tokenizer.encode(text)
        assert all(0 <= i < model.config.n_vocab for i in ids)


def test_what_is_no_family_or_size_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="family='lama': expected one of llama, mistral"):
        tiny("lama")
    with pytest.raises(InputError, match="size='n_head': expected one of n_layers, n_heads"):
        tiny("llama", n_head=3)
    with pytest.raises(InputError, match="dtype='F64': expected one of F32"):
        tiny("llama", dtype="F64")
    with pytest.raises(InputError, match="kind='vision'"):
        families("vision")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a directory that can be written to"):
        tiny("llama").write(tmp_path / "file")
