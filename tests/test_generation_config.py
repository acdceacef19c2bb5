"""What generation_config.json asks for and is not applied is said by name; of values that do nothing, nothing is."""

from __future__ import annotations

import json

import miaotui
import pytest
from checkpoints import Drawn, write_checkpoint
from generation_models import write_writer
from miaotui.loader import generation
from miaotui.loader.open import open_model
from miaotui.loader.prune.plan import PrunePlan
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
    {"watermarking_config": {"ngram_len": 5, "keys": [1, 2]}},
    {"num_beams": 1000},
    {"num_beam_groups": 2, "diversity_penalty": 0.5},
    {"penalty_alpha": 0.6},
    {"dola_layers": "low"},
    {"token_healing": True},
    {"do_sample": True, "top_h": 1.5},
]


@pytest.mark.parametrize("said", SAID, ids="-".join)
def test_what_is_not_applied_is_named(checkpoint, said):
    [line] = told(checkpoint, said)
    assert line.startswith("generation_config.json asks for what is not applied: ")
    for key, value in said.items():
        assert f"{key} {value!r}" in line
    assert told(checkpoint, None, {"penalty_alpha": 1.1})[0].startswith("config.json asks for")
    assert told(checkpoint, {}, {"penalty_alpha": 1.1}) == ()  # the file of its own wins, as in transformers


def test_what_is_applied_or_changes_nothing_is_not_named(checkpoint):
    tables = generation.CHANGES | generation.WITH_BEAMS | generation.WITH_SAMPLING
    assert told(checkpoint, dict.fromkeys(tables)) == ()
    assert told(checkpoint, {key: neutral[0] for key, neutral in tables.items() if neutral}) == ()
    assert told(checkpoint, {key: [] for key, neutral in tables.items() if not neutral}) == ()
    plain = {"repetition_penalty": 1.2, "temperature": 0.6, "top_p": 0.9, "do_sample": False, "length_penalty": 2.0}
    assert told(checkpoint, {**plain, "max_length": 4096, "use_cache": True, "bos_token_id": 1}) == ()
    assert told(checkpoint, {name: value for name, value, _ in PROCESSORS}) == ()


def test_values_of_the_wrong_kind_are_named(checkpoint):
    """False is no number, and true none that is 1."""
    assert "repetition_penalty True" in told(checkpoint, {"repetition_penalty": True})[0]
    assert "repetition_penalty 'x'" in told(checkpoint, {"repetition_penalty": "x"})[0]
    assert "suppress_tokens" in told(checkpoint, {"suppress_tokens": ["x"] * 5000})[0]
    assert len(told(checkpoint, {"suppress_tokens": ["x"] * 5000})[0]) < 250
    for name, wrong in (
        ("no_repeat_ngram_size", -1), ("bad_words_ids", [3]), ("sequence_bias", [[[1], "x"]]), ("min_length", 1.5),
        ("forced_decoder_ids", [[1]]), ("exponential_decay_length_penalty", [5]), ("stop_strings", [3]),
        ("forced_eos_token_id", "x"), ("suppress_tokens", -1), ("encoder_repetition_penalty", 0),
        ("forced_bos_token_id", [3]), ("guidance_scale", "x"), ("num_beams", 2.0),
        ("watermarking_config", {"bias": "x"}),
        ("watermarking_config", {"greenlist_ratio": 1}), ("remove_invalid_values", 1), ("sequence_bias", {"x": 1.0}),
        ("repetition_penalty", 10**400), ("encoder_repetition_penalty", -(10**400)), ("no_repeat_ngram_size", 10**400),
    ):  # fmt: skip
        assert f"{name} " in told(checkpoint, {name: wrong})[0]


#: A processor of the file, its value, and what the same answer is asked for with.
PROCESSORS = [
    ("repetition_penalty", 1.7, {}),
    ("encoder_repetition_penalty", 0.4, {}),
    ("no_repeat_ngram_size", 1, {}),
    ("encoder_no_repeat_ngram_size", 1, {}),
    ("suppress_tokens", [*range(3, 90), 10**6], {"suppress_tokens": list(range(3, 90))}),
    ("begin_suppress_tokens", list(range(3, 90)), {}),
    ("bad_words_ids", [[i] for i in range(60)] + [[10**6]], {"bad_words_ids": [[i] for i in range(60)]}),
    (
        "sequence_bias",
        [[[i], 9.0] for i in range(40, 80)] + [[[10**6], 1.0]],
        {"logit_bias": dict.fromkeys(range(40, 80), 9)},
    ),
    ("sequence_bias", {f"({i},)": 9.0 for i in range(40, 80)}, {"logit_bias": dict.fromkeys(range(40, 80), 9)}),
    ("watermarking_config", {"bias": 9.0, "greenlist_ratio": 0.1}, {}),
    ("forced_eos_token_id", 9, {}),
    ("forced_decoder_ids", [[3, 7], [5, 8]], {}),
    ("exponential_decay_length_penalty", [2, 3.0], {}),
]


@pytest.mark.parametrize(("name", "value", "how"), PROCESSORS, ids=[name for name, *_ in PROCESSORS])
def test_a_processor_of_the_file_is_applied(checkpoint, name, value, how):
    """As if the call gave it; and what a call gives wins."""
    file, neutral = checkpoint / "generation_config.json", generation.CHANGES[name][:1]
    few, prompts = {"max_new_tokens": 6, "eos_token_id": [5, 11]}, [[1, 2, 3], [90, 4]]

    def answers(model, **more):
        return [[each.ids for each in model.generate(prompts, num_beams=n, **few, **more)] for n in (1, 2)]

    file.unlink(missing_ok=True)
    with miaotui.load(checkpoint, cache_tokens=512) as model:
        plain, wanted = answers(model), answers(model, **(how or {name: value}))
    file.write_text(json.dumps({name: value}))
    with miaotui.load(checkpoint, cache_tokens=512) as model:
        assert answers(model) == wanted
        assert wanted[0] != plain[0]
        if name != "exponential_decay_length_penalty":  # of which no value is none
            assert answers(model, **{name: neutral[0] if neutral else []}) == plain


def test_shortest_answers_of_the_file(checkpoint):
    file = checkpoint / "generation_config.json"
    with miaotui.load(checkpoint) as model:
        ends = model.generate([1, 2, 3], max_new_tokens=1, ignore_eos=True).ids
    for said, n in (({"min_new_tokens": 4}, 4), ({"min_length": 6}, 3)):
        file.write_text(json.dumps(said))
        with miaotui.load(checkpoint) as model:
            assert model.generation_defaults == said
            assert len(model.generate([1, 2, 3], max_new_tokens=20, eos_token_id=ends).ids) > n
            off = dict.fromkeys(said, 0)
            assert len(model.generate([1, 2, 3], max_new_tokens=20, eos_token_id=ends, **off).ids) == 1


def test_what_the_file_says_of_sampling_holds_where_sampling_is_asked_for(checkpoint):
    said = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "typical_p": 0.9, "epsilon_cutoff": 1e-3}
    said["top_h"] = 0.7
    how = {name: value for name, value in said.items() if name != "do_sample"}
    file, few = checkpoint / "generation_config.json", {"max_new_tokens": 9, "seed": 5, "ignore_eos": True}
    file.unlink(missing_ok=True)
    with miaotui.load(checkpoint) as model:
        wanted = model.generate([1, 2, 3], **few, **how).ids
        cold, greedy = (model.generate([1, 2, 3], **few, **more).ids for more in ({"temperature": 0.3}, {}))
    file.write_text(json.dumps(said))
    with miaotui.load(checkpoint) as model:
        assert model.generate([1, 2, 3], **few, do_sample=True).ids == wanted
        assert model.generate([1, 2, 3], **few, temperature=0.3).ids == cold
        assert model.generate([1, 2, 3], **few).ids == greedy
        assert "do_sample True; answers are greedy unless parameters say else" in model.corrections[0]


def test_stop_strings_of_the_file(tmp_path):
    """Where the model has a tokenizer; beams have none, and a call's own win."""
    directory, few = write_writer(tmp_path / "m", "llama"), {"max_new_tokens": 12}
    with miaotui.load(directory, cache_tokens=512) as model:
        text, beams = model.generate("Hello", **few).text, model.generate("Hello", num_beams=2, **few).text
        assert len(text) > 4
    (directory / "generation_config.json").write_text(json.dumps({"stop_strings": [text[3]]}))
    with miaotui.load(directory, cache_tokens=512) as model:
        out = model.generate("Hello", **few)
        assert (out.text, out.finish_reason) == (text[: text.index(text[3])], "stop")
        assert model.generate("Hello", stop="\0", **few).text == text
        assert model.generate("Hello", num_beams=2, **few).text == beams


def test_ids_of_the_file_are_those_of_the_whole_vocabulary(checkpoint):
    (checkpoint / "generation_config.json").write_text('{"suppress_tokens": [4, 7], "bad_words_ids": [[7, 9], [8]]}')
    with miaotui.load(checkpoint, prune=PrunePlan(vocab=(0, 1, 2, 7, 9))) as model:
        assert model.generation_defaults == {"suppress_tokens": [3], "bad_words_ids": [[3, 4]]}
        assert 3 not in model.generate([1, 2], max_new_tokens=20, ignore_eos=True).ids


def test_it_is_seen_where_models_are_used(checkpoint, capsys):
    (checkpoint / "generation_config.json").write_text('{"penalty_alpha": 2.0}')
    with miaotui.load(checkpoint) as model:
        assert "penalty_alpha 2.0" in model.corrections[0]
        assert model.receipt.notes == model.corrections
    assert main(["inspect", str(checkpoint)]) == 0
    assert "note: generation_config.json asks for what is not applied: penalty_alpha 2.0" in capsys.readouterr().out
