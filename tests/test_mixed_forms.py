"""Forms by role and layer: words of `quantize`, the choice under a budget, what `miaotui quantize --bits` writes."""

from __future__ import annotations

import itertools
import json

import miaotui
import numpy as np
import pytest
from checkpoints import Drawn, small, write_checkpoint
from hypothesis import given
from hypothesis import strategies as st
from miaotui.errors import InputError, PlanError
from miaotui.loader.quantize import OF_LAYERS, of_layer, parse_quantize
from miaotui.runtime.quantized import GROUP_BYTES
from miaotui.tools import demo
from miaotui.tools.cli import main
from miaotui.tools.commands.quantize import quantize
from miaotui.tools.demo.corpus import TRAINING_SEED, stories
from miaotui.tools.importance.methods import Text
from miaotui.tools.rounding import sensitivity
from miaotui.tools.rounding.budget import choice_for
from miaotui.tools.rounding.choice import FORMS, Budget, Group, choose, read_choice, show
from safetensors.numpy import load_file, save_file
from test_rounding import word_model

ROLES = ("q", "down", "up")
LAYERS = ("0", "1", "2", "3", "encoder.0", "encoder.1")


@given(
    st.dictionaries(st.sampled_from([f"{i}.{r}" for i in LAYERS for r in ROLES] + ["embed"]), st.sampled_from(FORMS))
)
def test_forms_are_told_and_read_again(forms):
    """The shortest words say the same of every layer that they were made of."""
    if not forms:
        return
    read = parse_quantize(show(forms))
    for key, form in forms.items():
        layer, _, role = key.rpartition(".")
        assert (of_layer(read, role, layer) or "none") == form


@pytest.mark.parametrize(
    ("words", "layer", "role", "wanted"),
    [
        ("int4,down=int8", "0", "down", "int8"),
        ("int4,down=int8,1=int4a", "1", "down", "int4a"),
        ("int4,down=int8,1=int4a,0-3.down=none", "1", "down", None),
        ("0-3.down=none,1=int4a,down=int8,int4", "1", "up", "int4a"),
        ("encoder.0-1.q=int8", "1", "q", None),
        ("encoder.0-1.q=int8", "encoder.1", "q", "int8"),
        ("1=int8", "0", "q", None),
    ],
)
def test_the_narrower_word_wins(words, layer, role, wanted):
    assert of_layer(parse_quantize(words), role, layer) == wanted


@pytest.mark.parametrize(
    "words", ["3.embed=int8", "2-1=int8", "3.=int8", "-1=int8", "decoder.3=int8", "3.up.=int8", "0-=int4", "12345=int8"]
)
def test_words_that_name_no_layers_are_refused(words):
    with pytest.raises(PlanError, match="is not understood"):
        parse_quantize(words)


def test_layers_are_named_once_and_are_there(tmp_path):
    write_checkpoint(tmp_path, small("llama"))
    with pytest.raises(PlanError, match=r"'0-1\.up' named twice"):
        parse_quantize("0.up=int8,0-1.up=int4")
    with pytest.raises(PlanError, match=r"there is no layer 2; the model has 2 \(0 to 1\)"):
        miaotui.load(tmp_path, quantize="0-2=int8")
    with pytest.raises(PlanError, match=r"there is no layer encoder\.0; the model has 0"):
        miaotui.load(tmp_path, quantize="encoder.0=int8")


def test_layers_may_differ_while_loading_and_in_a_file(tmp_path):
    write_checkpoint(tmp_path / "in", small("gpt2"))
    how = "int4,0=int8,1.down=none,embed=int4a"
    quantize(tmp_path / "in", tmp_path / "out", how)
    with miaotui.load(tmp_path / "in", quantize=how) as one, miaotui.load(tmp_path / "out") as other:
        dtypes = [{w.name: w.dtype for w in model.session.weights} for model in (one, other)]
        assert dtypes[0] == dtypes[1]
        assert np.array_equal(one.logits([1, 2, 3]), other.logits([1, 2, 3]))
    read = parse_quantize(how)
    for name, dtype in dtypes[0].items():
        _, layers, key = name.partition("layers.")
        layer, _, role = key.rpartition(".")
        if layers and role in OF_LAYERS:
            assert dtype == (of_layer(read, role, layer) or "f32")
    roles = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["roles"]
    assert roles["up"] == "int4, int8"


def group(key: str, numbers: int, kl: list[float]) -> Group:
    """Forms of a matrix of so many numbers, stored in 16 bits."""
    bits = {"none": 16.0} | {form: GROUP_BYTES[form] / 64 for form in GROUP_BYTES}
    return Group(key, numbers, {f: int(bits[f] * numbers / 8) for f in FORMS}, dict(zip(FORMS, kl, strict=True)))


GROUPS = st.lists(
    st.tuples(st.integers(1, 9), st.lists(st.floats(0, 1), min_size=4, max_size=4)), min_size=1, max_size=5
).map(lambda rows: [group(f"{i}.up", 256 * n, sorted(kl)) for i, (n, kl) in enumerate(rows)])


@given(GROUPS, st.floats(4.5, 17))
def test_nothing_is_better_for_as_many_bytes(groups, bits):
    """Of all ways together: none that takes no more bytes than the choice loses less."""
    chosen = choose(groups, Budget(bits=bits))
    assert chosen.bits <= bits
    for forms in itertools.product(FORMS, repeat=len(groups)):
        size = sum(g.nbytes[f] for g, f in zip(groups, forms, strict=True))
        lost = sum(g.kl[f] for g, f in zip(groups, forms, strict=True))
        assert size > chosen.nbytes or lost >= chosen.kl - 1e-9 or not on_the_hull(groups, chosen)


def on_the_hull(groups: list[Group], chosen: object) -> bool:
    """Whether the choice is where the steps were all taken in their order: then it is the best of its bytes."""
    steps = []
    for g in groups:
        every = sorted((g.nbytes[f], g.kl[f]) for f in FORMS)
        taken = (g.nbytes[chosen.forms[g.key]], g.kl[chosen.forms[g.key]])
        before = [(b[1] - taken[1]) / (taken[0] - b[0]) for b in every if b[0] < taken[0]]
        after = [(taken[1] - a[1]) / (a[0] - taken[0]) for a in every if a[0] > taken[0]]
        steps.append((min(before, default=np.inf), max(after, default=-np.inf)))
    return min(before for before, _ in steps) >= max(after for _, after in steps)


@given(GROUPS, st.floats(0, 2))
def test_no_more_is_lost_than_asked(groups, kl):
    """Or, where all that can be saved is less, nothing that can be."""
    least = sum(min(g.kl.values()) for g in groups)
    assert choose(groups, Budget(kl=kl)).kl <= max(kl, least) + 1e-9


def test_a_budget_below_the_smallest_forms_is_refused():
    with pytest.raises(InputError, match="the smallest forms take 144 bytes; found a budget of 128"):
        choose([group("embed", 256, [0, 1, 2, 3])], Budget(bits=4))


@pytest.fixture(scope="module")
def text() -> Text:
    source = stories(TRAINING_SEED)
    return Text("\n".join(next(source) for _ in range(3)), lines=True)


@pytest.mark.ci  # 4 s
def test_a_plan_is_measured_written_and_read(tmp_path, monkeypatch, capsys, text):
    """Of the tagged model's first tokens; what the sum predicts is what the model then has."""
    monkeypatch.setattr(sensitivity, "TOKENS", 96)
    (tmp_path / "text.txt").write_text(text.text)
    told = ["quantize", str(demo.path()), str(tmp_path / "out"), "--bits", "5", "--text", str(tmp_path / "text.txt")]
    assert main([*told, "--lines", "--statistics", str(tmp_path / "s.npz")]) == 0
    out = capsys.readouterr().out
    plan = json.loads((tmp_path / "out" / "quantize_plan.json").read_text())
    assert f"{plan['bits']:.2f} bits a weight" in out
    assert 4.9 < plan["bits"] <= 5
    with miaotui.load(tmp_path / "out") as model:
        matrices = [w for w in model.session.weights if w.quantized]
        bits = 8 * sum(w.nbytes for w in matrices) / sum(np.prod(w.shape) for w in matrices)
    assert bits == pytest.approx(plan["bits"], abs=1e-4)
    assert read_choice(tmp_path / "out" / "quantize_plan.json") == plan["quantize"]
    told[2] = str(tmp_path / "again")
    assert main([*told[:3], "--plan", str(tmp_path / "out" / "quantize_plan.json")]) == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "out" / "model.safetensors"
    ).read_bytes()
    with miaotui.load(demo.path()) as model:
        windows = sensitivity._few(model, text)
        exact = [sensitivity._logits(model, window) for window in windows]
    whole = sensitivity._divergence(demo.path(), text, plan["quantize"], windows, exact)
    assert 0.5 * whole < plan["kl"] < 2 * whole
    monkeypatch.setattr(sensitivity, "_divergence", None)  # every one is kept
    assert choice_for(demo.path(), Text(text.text, lines=True, file=tmp_path / "s.npz"), max_kl=1e-5).kl <= 1e-5


def test_a_form_that_does_not_hold_a_group_is_no_choice(tmp_path, monkeypatch):
    """Numbers whose int4 scale is none of float16, and whose int8 scale is."""
    monkeypatch.setattr(sensitivity, "TOKENS", 24)
    text = word_model(tmp_path / "in")
    tensors = load_file(tmp_path / "in" / "model.safetensors")
    (name,) = (name for name in tensors if "1" in name and "v_proj" in name)
    tensors[name] *= np.float32(1e6) / np.abs(tensors[name]).max()
    save_file(tensors, tmp_path / "in" / "model.safetensors")
    choice = choice_for(tmp_path / "in", text, bits=6)
    kinds = {group.key: set(group.kl) for group in choice.groups}
    assert kinds.pop("1.v") == {"none", "int8"}
    assert all(forms == set(FORMS) for forms in kinds.values())
    quantize(tmp_path / "in", tmp_path / "out", choice)
    with miaotui.load(tmp_path / "out", max_context=32) as model:
        assert {w.dtype for w in model.session.weights if w.name == "layers.1.v"} <= {"int8", "f32"}


@pytest.mark.parametrize(
    ("how", "more", "says"),
    [
        (None, {}, "how=None: expected text such as 'int8'"),
        ({"q": "int4"}, {}, "how="),
        ("int4", {"method": 5, "text": Text("1 2 3")}, "method=5: expected a method's name"),
        ("int4", {"method": "gptq", "text": "1 2 3"}, "text='1 2 3': expected a Text"),
    ],
)
def test_what_is_of_another_type_is_refused(tmp_path, how, more, says):
    with pytest.raises(InputError, match=says):
        quantize(demo.path(), tmp_path / "out", how, **more)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--bits", "5"], "--bits looks at what the model does: give a text, --text FILE"),
        (["--bits", "5", "--quantize", "int8"], "--quantize and --bits: each says what matrices become"),
        (["--bits", "5", "--max-kl", "1", "--text", "TEXT"], "--bits and --max-kl: each says"),
        (["--bits", "4", "--text", "TEXT"], "--bits 4: with every matrix in int4 it is"),
        (["--bits", "nan", "--text", "TEXT"], "--bits nan: expected a number above 0"),
        (["--bits", "inf", "--text", "TEXT"], "--bits inf: expected a number above 0"),
        (["--max-kl", "-1", "--text", "TEXT"], "--max-kl -1.0: expected a number from 0 on"),
        (["--bits", "5", "--text", "TEXT", "--statistics", "."], "--statistics .: is a directory"),
        (["--bits", "5", "--text", "TEXT", "--statistics", "no/s.npz"], "--statistics no/s.npz: its directory is not"),
        (["--max-memory", "1kB", "--text", "TEXT"], "--max-memory 1.0 KiB: with every matrix in int4 it is"),
        (["--plan", "TEXT"], "text.txt"),
        (["--plan", "OTHER"], "other.json: no plan of `miaotui quantize`"),
        (["--plan", "WORDS"], "words.json: --quantize int3: 'int3' is not understood"),
    ],
)
def test_bad_budgets_are_refused(tmp_path, capsys, more, says):
    write_checkpoint(tmp_path / "in", Drawn(small("llama").config | {"hidden_size": 96, "intermediate_size": 64}))
    files = {"TEXT": ("text.txt", "1 2 3"), "OTHER": ("other.json", "{}")}
    files["WORDS"] = ("words.json", '{"version": 1, "quantize": "int3"}')
    for name, what in files.values():
        (tmp_path / name).write_text(what)
    given_ = [str(tmp_path / files[word][0]) if word in files else word for word in more]
    assert main(["quantize", str(tmp_path / "in"), str(tmp_path / "out"), *given_]) != 0
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
