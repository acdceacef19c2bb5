"""What generation_config.json asks for and is not applied is said by name; of values that do nothing, nothing is."""

from __future__ import annotations

import json

import miaotui
import pytest
from checkpoints import Drawn, write_checkpoint
from miaotui.loader import generation
from miaotui.loader.open import open_model
from miaotui.tools.cli import main
from pruning import seven


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("m")
    write_checkpoint(directory, Drawn({**seven(16), "num_hidden_layers": 1}))
    return directory


def told(directory, said, config=None):
    """What an opened model says of such a generation_config.json, None: without one."""
    file, kept = directory / "generation_config.json", (directory / "config.json").read_text()
    file.unlink(missing_ok=True)
    if said is not None:
        file.write_text(json.dumps(said))
    try:
        (directory / "config.json").write_text(json.dumps(json.loads(kept) | (config or {})))
        with open_model(directory) as model:
            return model.corrections
    finally:
        (directory / "config.json").write_text(kept)


SAID = [
    {"repetition_penalty": 1.3},
    {"suppress_tokens": [249]},
    {"begin_suppress_tokens": [220, 50256]},
    {"no_repeat_ngram_size": 2},
    {"bad_words_ids": [[249]]},
    {"min_new_tokens": 10, "eos_token_id": 3},
    {"min_length": 5},
    {"forced_eos_token_id": 0},
    {"forced_bos_token_id": 0},
    {"encoder_repetition_penalty": 1.2},
    {"encoder_no_repeat_ngram_size": 3},
    {"sequence_bias": [[[1], 0.5]]},
    {"guidance_scale": 1.5},
    {"exponential_decay_length_penalty": [5, 1.1]},
    {"watermarking_config": {"bias": 2.0}},
    {"stop_strings": ["x"]},
    {"num_beams": 4, "length_penalty": 2.0},
    {"penalty_alpha": 0.6},
    {"remove_invalid_values": True},
    {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.05},
]


@pytest.mark.parametrize("said", SAID, ids="-".join)
def test_what_is_not_applied_is_named(checkpoint, said):
    [line] = told(checkpoint, said)
    assert line.startswith("generation_config.json asks for what is not applied: ")
    for key, value in said.items():
        assert (f"{key} {value!r}" in line) == (key != "eos_token_id")
    assert told(checkpoint, None, {"repetition_penalty": 1.1})[0].startswith("config.json asks for")
    assert told(checkpoint, {}, {"repetition_penalty": 1.1}) == ()  # the file of its own wins, as in transformers


def test_nothing_is_said_of_what_changes_nothing(checkpoint):
    tables = generation.CHANGES | generation.WITH_BEAMS | generation.WITH_SAMPLING
    assert told(checkpoint, dict.fromkeys(tables)) == ()
    assert told(checkpoint, {key: neutral[0] for key, neutral in tables.items() if neutral}) == ()
    assert told(checkpoint, {key: [] for key, neutral in tables.items() if not neutral}) == ()
    plain = {"repetition_penalty": 1.0, "temperature": 0.6, "top_p": 0.9, "do_sample": False, "length_penalty": 2.0}
    assert told(checkpoint, {**plain, "max_length": 4096, "use_cache": True, "bos_token_id": 1}) == ()


def test_values_of_the_wrong_kind_are_named(checkpoint):
    """0 forbids nothing as a size, but is a token's id; false is no number, and true none that is 1."""
    assert "forced_eos_token_id 0" in told(checkpoint, {"forced_eos_token_id": 0})[0]
    assert "repetition_penalty True" in told(checkpoint, {"repetition_penalty": True})[0]
    assert "repetition_penalty 'x'" in told(checkpoint, {"repetition_penalty": "x"})[0]
    assert len(told(checkpoint, {"suppress_tokens": list(range(5000))})[0]) < 250


def test_it_is_seen_where_models_are_used(checkpoint, capsys):
    (checkpoint / "generation_config.json").write_text('{"no_repeat_ngram_size": 2}')
    with miaotui.load(checkpoint) as model:
        assert "no_repeat_ngram_size 2" in model.corrections[0]
        assert model.receipt.notes == model.corrections
    assert main(["inspect", str(checkpoint)]) == 0
    assert (
        "note: generation_config.json asks for what is not applied: no_repeat_ngram_size 2" in capsys.readouterr().out
    )
