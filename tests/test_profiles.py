"""Profiles: read and written, refused where they are damaged or another model's, and taken by load and by commands."""

from __future__ import annotations

import json
import shutil
import warnings

import hypothesis.strategies as st
import miaotui
import pytest
from checkpoints import small, write_checkpoint
from hypothesis import given
from miaotui.errors import InputError, MiaotuiWarning, ProfileError
from miaotui.loader.open import open_model
from miaotui.profiles import Profile, identity, read_profile
from miaotui.tools import cli, demo

MODEL = {"name": "m", "family": "llama", "config": "c", "tensors": "t"}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
loads = st.fixed_dictionaries(
    {},
    optional={
        "threads": st.sampled_from([None, "auto"]) | st.integers(1, 64),
        "prefill_chunk": st.none() | st.integers(1, 1024),
        "max_context": st.none() | st.integers(1, 4096),
        "cache_tokens": st.none() | st.integers(1, 4096),
        "quantize": st.sampled_from([None, "int8", "int4a,embed=int8", "int4"]),
        "kv_cache": st.sampled_from(["f32", "bf16", "int8"]),
        "precision": st.sampled_from([None, "exact", "int8", "bf16", "fast"]),
        "prune": st.sampled_from([None, "ffn=0.75", {"format": "miaotui-prune", "version": 1, "layers": "0-2"}]),
    },
)
generates = st.fixed_dictionaries(
    {},
    optional={
        "do_sample": st.booleans(),
        "temperature": st.floats(0, 2),
        "top_k": st.integers(0, 99),
        "top_p": st.floats(0.1, 1),
        "seed": st.integers(0, 2**32),
        "bad_words_ids": st.lists(st.lists(st.integers(0, 9), min_size=1), max_size=2),
    },
)
tables = st.dictionaries(st.text(), json_values, max_size=3)
profiles = st.builds(
    Profile,
    model=st.just(MODEL),
    load=loads,
    generate=generates,
    machine=tables,
    versions=tables,
    goal=st.sampled_from(["latency", "throughput"]),
    limits=tables,
    chosen=tables,
    table=st.lists(tables, max_size=3),
    command=st.text(),
    seed=st.integers(0, 2**32),
)


@given(profiles)
def test_a_profile_that_is_written_is_read_again(tmp_path_factory, profile):
    assert Profile.from_dict(json.loads(profile.to_json())) == profile
    file = tmp_path_factory.getbasetemp() / "profile.json"
    profile.save(file)
    assert read_profile(file) == profile == read_profile(profile)


@given(profiles, st.data())
def test_a_damaged_file_is_a_typed_error(tmp_path_factory, profile, data):
    file = tmp_path_factory.getbasetemp() / "damaged.json"
    text = profile.to_json().encode()
    at = data.draw(st.integers(0, len(text) - 1))
    how = data.draw(st.sampled_from(["cut", "byte", "value"]))
    if how == "value":
        raw = json.loads(text)
        raw[data.draw(st.sampled_from(sorted(raw)))] = data.draw(json_values)
        file.write_text(json.dumps(raw))
    else:
        file.write_bytes(
            text[:at] + (b"" if how == "cut" else bytes([data.draw(st.integers(0, 255))]) + text[at + 1 :])
        )
    try:
        read = read_profile(file)
    except ProfileError as e:
        read, said = None, str(e)
    else:  # the change says something else that is a profile
        said = "damaged.json"
    assert "damaged.json" in said
    assert read is None or Profile.from_dict(json.loads(read.to_json())) == read


WRONG = [
    ({"format": "other"}, "is no profile: its format is 'other', expected 'miaotui-profile'"),
    ({"version": 3}, "has version 3, this version of miaotui reads up to 2"),
    ({"version": True}, "has version True"),
    ({"more": 1}, "has 'more', which is not understood"),
    ({"load": {"thread": 1}}, "load: 'thread' is not understood; expected some of threads"),
    ({"load": {"device": "cuda"}}, "load: 'device' is not understood"),
    ({"load": {"threads": 0}}, "load: threads=0: expected a whole number of at least 1"),
    ({"load": {"kv_cache": "f8"}}, "load: kv_cache='f8': expected one of f32, bf16, int8"),
    ({"load": {"quantize": "int3"}}, "load: quantize='int3': 'int3' is not understood"),
    ({"load": {"prune": 3}}, "load.prune=3: expected short forms"),
    ({"load": {"prune": {"format": "x"}}}, "load: plan: format 'x'"),
    ({"load": {"draft": 3}}, "load.draft=3: expected a text"),
    ({"load": []}, r"load=\[\]: expected dict"),
    ({"generate": {"temprature": 1}}, "generate: 'temprature' is not understood; expected some of .*max_new_tokens"),
    ({"generate": {"top_k": 1.5}}, "generate.top_k=1.5: expected int"),
    ({"generate": {"temperature": True}}, "generate.temperature=True: expected int or float"),
    ({"model": {"name": "x"}}, "model.family=None: expected a text"),
    ({"table": [1]}, r"table=\[1\]: expected a list of objects"),
    ({"seed": "x"}, "seed='x': expected int"),
]


@pytest.mark.parametrize(("change", "says"), WRONG, ids=[says[:40] for _, says in WRONG])
def test_what_is_wrong_is_named(tmp_path, change, says):
    file = tmp_path / "p.json"
    file.write_text(json.dumps(json.loads(Profile(model=MODEL, load={}).to_json()) | change))
    with pytest.raises(ProfileError, match=f"p.json: {says}"):
        read_profile(file)


def test_a_missing_file_a_missing_key_and_what_is_no_path(tmp_path):
    with pytest.raises(ProfileError, match=r"nowhere.json.*cannot be read"):
        read_profile(tmp_path / "nowhere.json")
    raw = json.loads(Profile(model=MODEL, load={}).to_json())
    del raw["load"]
    with pytest.raises(ProfileError, match="lacks load"):
        Profile.from_dict(raw)
    with pytest.raises(InputError, match="profile"):
        miaotui.load("nowhere", profile=3)


@pytest.fixture
def profile():
    with open_model(demo.path()) as opened:
        return Profile(model=identity(opened), load={"threads": 1, "quantize": "int8", "prune": "ffn=0.75"})


def test_load_takes_a_profile_and_arguments_win(tmp_path, profile):
    profile.save(tmp_path / "p.json")
    with miaotui.load(demo.path(), profile=tmp_path / "p.json", max_context=64) as model:
        assert (model.threads, model.n_context, model.profile) == (1, 64, profile)
        assert {w.dtype for w in model.session.weights if len(w.shape) > 1} == {"int8"}
        assert model.config.stack.layers[0][1].d_ff == 264
        by_profile = model.generate("Once", max_new_tokens=4).ids
    with miaotui.load(demo.path(), threads=1, quantize="int8", prune="ffn=0.75", max_context=64) as model:
        assert model.generate("Once", max_new_tokens=4).ids == by_profile
    with miaotui.load(demo.path(), profile=profile, quantize=None, prune=None, max_context=64) as model:
        assert model.config.stack.layers[0][1].d_ff == 352
        assert "int8" not in {w.dtype for w in model.session.weights}


def test_another_model_is_refused_and_another_name_is_not(tmp_path, profile):
    write_checkpoint(tmp_path / "other", small("llama"))
    with pytest.raises(ProfileError, match=r"was made for model \(llama\), and this is other .* run miaotui tune"):
        miaotui.load(tmp_path / "other", profile=profile)
    shutil.copytree(demo.path(), tmp_path / "renamed")
    with miaotui.load(tmp_path / "renamed", profile=profile, max_context=16):
        pass
    config = json.loads((tmp_path / "renamed" / "config.json").read_text())
    (tmp_path / "renamed" / "config.json").write_text(json.dumps(config | {"transformers_version": "9"}))
    with open_model(tmp_path / "renamed") as opened:
        profile.check(opened)
    (tmp_path / "renamed" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    with open_model(tmp_path / "renamed") as opened, pytest.raises(ProfileError, match=r"its config.json is not the"):
        profile.check(opened)


def test_another_machine_is_warned_of_with_what_differs(profile):
    there = profile.machine | {"cores": 64, "features": ["avx2", "amx_int8"], "memory_bytes": 1, "system": "Other 1"}
    moved = Profile(model=profile.model, load={}, machine=there, versions=profile.versions | {"miaotui": "0.0.1"})
    with pytest.warns(MiaotuiWarning, match="measured on another machine") as warned:
        miaotui.load(demo.path(), profile=moved, max_context=16).close()
    told = str(warned[0].message)
    assert warned[0].filename == __file__
    for part in ("cores: 64 there", "only there: amx_int8", "memory_bytes: 1 there", "miaotui: '0.0.1' there"):
        assert part in told
    assert "system" not in told
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        miaotui.load(demo.path(), profile=profile, max_context=16).close()


def run(capsys, *words):
    code = cli.main([str(word) for word in words])
    return code, *capsys.readouterr()


def test_commands_take_a_profile_and_options_win(tmp_path, capsys, profile):
    file = tmp_path / "p.json"
    how = {"temperature": 0.7, "seed": 5}
    Profile(model=profile.model, load=profile.load | {"prefill_chunk": 32}, generate=how).save(file)
    asked = ("generate", "Once upon", "--max-new-tokens", 6, "--stats", "--profile", file)
    code, tuned, err = run(capsys, *asked)
    assert code == 0
    assert "1 thread," in err
    assert "seed     5" in err
    typed = ("--threads", 1, "--quantize", "int8", "--ffn", 0.75, "--temperature", 0.7, "--seed", 5)
    assert run(capsys, *asked[:5], *typed)[1] == tuned
    _, _, err = run(capsys, *asked, "--threads", 2, "--seed", 9)
    assert "2 threads," in err
    assert "seed     9" in err
    assert run(capsys, *asked, "--greedy", "--keep-layers", "0-5", "--quantize", "none", "--threads", 2)[1] == run(
        capsys, *asked[:5]
    )[1]  # fmt: skip
    _, out, _ = run(capsys, "inspect", demo.path(), "--profile", file)
    assert "feed-forward neurons" in out or "ffn" in out
    assert run(capsys, "bench", "--tuned", file, "--prompt", 4, "--new", 2, "--repeat", 1)[0] == 0


def test_a_command_s_errors_begin_with_the_option(tmp_path, capsys, profile):
    file = tmp_path / "p.json"
    profile.save(file)
    for words, says in (
        (("generate", "x", "--profile", tmp_path / "none.json"), f"--profile '{tmp_path}/none.json': cannot be read"),
        (("generate", "x", "--profile", file, "--auto"), "--auto: not with --profile"),
        (("generate", "x", "--model", demo.path("chat"), "--profile", file), f"--profile {file}: was made for model"),
        (("inspect", demo.path("chat"), "--profile", file), f"--profile {file}: was made for model"),
    ):
        code, _, err = run(capsys, *words)
        assert code == 2
        assert says in err
