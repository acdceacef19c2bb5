"""`miaotui tune` and its parts on real checkpoints: losses and bytes are real, seconds are made up."""

from __future__ import annotations

import json
import math
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import miaotui
import numpy as np
import pytest
from checkpoints import small, write_checkpoint
from miaotui.errors import InputError, MiaotuiError, MiaotuiWarning, ProfileError
from miaotui.loader.open import open_model
from miaotui.profiles import Profile, identity, read_profile
from miaotui.runtime.cpu.team import Team
from miaotui.tools import cli, demo
from miaotui.tools.bench import tune as bench
from miaotui.tools.bench.quality import compare, log_softmax
from miaotui.tools.demo.corpus import held_out
from miaotui.tools.tuning import knobs as making
from miaotui.tools.tuning import measure
from miaotui.tools.tuning.knobs import AXES, knobs_of
from miaotui.tools.tuning.measure import ModelMeter
from miaotui.tools.tuning.records import Limits, Result, Row
from miaotui.tools.tuning.space import Axis, Space
from miaotui.tools.tuning.subject import TextSubject
from miaotui.tools.tuning.table import pareto, rows_of, table
from miaotui.tools.tuning.tune import Tuned, nothing_fits

#: What a setting makes of the time, on the made-up clock.
EFFECTS = {
    "threads": {1: 0.8},
    "kv_cache": {"int8": 0.9, "bf16": 1.2},
    "attention": {"int8": 0.7, "int4": 0.6},
    "ffn": {"int8": 0.6, "int4": 0.5, "int4a": 0.7},
    "embed": {"int4": 0.9},
    "batch": {8: 0.4, 4: 0.5, 16: 0.6},
}


def made_up(space, point):
    chosen = {name: value for name, value in space.settings(point).items() if name in EFFECTS}
    return math.prod(EFFECTS[name].get(value, 1.0) for name, value in chosen.items())


@pytest.fixture
def timeless(monkeypatch):
    """Seconds by `EFFECTS`: nothing is timed. The points that were asked for."""
    asked = []

    def pair(self, point):
        asked.append(self.knobs.space.label(point))
        return made_up(self.knobs.space, point), 1.0

    monkeypatch.setattr(ModelMeter, "pair", pair)
    monkeypatch.setattr(making, "available_threads", lambda: 2)
    return asked


def run(capsys, *words):
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


VARY = ("--vary", "threads,kv_cache,attention")


@pytest.fixture
def text(tmp_path_factory):
    """A short one: no figure of these tests is quoted anywhere."""
    file = tmp_path_factory.getbasetemp() / "stories.txt"
    file.write_text("\n".join(held_out(2)))
    return file


@pytest.mark.usefixtures("timeless")
def test_the_command_tunes_prints_and_writes_a_profile_that_commands_take(tmp_path, capsys, text):
    file = tmp_path / "p.json"
    code, out, err = run(capsys, "tune", *VARY, "--text", text, "--out", file, "--max-kl", 0.5)
    assert code == 0, err
    assert "settings measured in" in out
    star = next(line for line in out.splitlines() if line.startswith("*"))
    assert "threads=1, kv_cache=int8, attention=int4" in star
    profile = read_profile(file)
    assert profile.load == {"threads": 1, "kv_cache": "int8", "quantize": "none,q=int4,k=int4,v=int4,o=int4"}
    assert profile.limits == {"loss": 0.5, "seconds": 300, "of": "KL"}
    assert 0 < profile.chosen["loss"] <= 0.5
    assert len(profile.table) == len({row["settings"] for row in profile.table}) > 5
    with miaotui.load(demo.path(), profile=file) as model:
        memory = model.memory
        assert memory["allocated"] + memory["weights_mapped"] == profile.chosen["memory"]
    assert run(capsys, "generate", "Once", "--profile", file, "--max-new-tokens", 3)[0] == 0
    again = file.read_text()
    assert run(capsys, "tune", *VARY, "--text", text, "--out", file, "--max-kl", 0.5)[0] == 0
    assert read_profile(file).load == json.loads(again)["load"]


@pytest.mark.usefixtures("timeless")
def test_limits_are_kept_or_said_to_be_too_narrow(tmp_path, capsys, text):
    code, out, _ = run(capsys, "tune", *VARY, "--text", text, "--max-kl", 0, "--json")
    chosen = json.loads(out)["chosen"]
    assert (code, chosen["loss"], chosen["settings"]) == (0, 0.0, "threads=1")
    code, out, _ = run(capsys, "tune", *VARY, "--text", text, "--max-memory", "4MiB", "--json")
    chosen = json.loads(out)["chosen"]
    assert code == 0
    assert chosen["memory"] <= 4 * 2**20
    assert chosen["loss"] <= 0.02
    code, _, err = run(capsys, "tune", *VARY, "--text", text, "--max-memory", "1MiB", "--out", tmp_path / "none.json")
    assert code == 1
    assert "no settings are within memory 1.0 MiB; the least of what was looked at takes" in err
    assert not (tmp_path / "none.json").exists()


@pytest.mark.usefixtures("timeless")
def test_a_profile_measured_with_an_adapter_is_taken_with_it_and_warns_without(tmp_path, capsys, text):
    file, sea = tmp_path / "p.json", demo.adapter("sea")
    tune = ("tune", "--vary", "kv_cache,attention", "--text", text, "--max-kl", 0.5, "--out", file, "--adapter", sea)
    assert run(capsys, *tune)[0] == 0
    profile = read_profile(file)
    assert profile.load == {"kv_cache": "int8", "quantize": "none,q=int4,k=int4,v=int4,o=int4"}
    assert profile.model["adapter"]
    how = {"max_new_tokens": 8}
    with miaotui.load(demo.path(), adapter=sea, **profile.load) as model:
        wanted = model.generate("Once upon a time", **how).text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with miaotui.load(demo.path(), adapter=sea, profile=file) as model:
            assert model.generate("Once upon a time", **how).text == wanted
        words = ("Once upon a time", "--max-new-tokens", 8, "--profile", file)
        code, out, _ = run(capsys, "generate", *words, "--adapter", sea)
        assert (code, out) == (0, f"Once upon a time{wanted}\n")
    with (
        pytest.warns(MiaotuiWarning, match=r"measured with an adapter, and this load merges none.*tune as you load"),
        miaotui.load(demo.path(), profile=file) as model,
    ):
        assert model.generate("Once upon a time", **how).text != wanted
    plain = replace(profile, model=profile.model | {"adapter": None})
    with pytest.warns(MiaotuiWarning, match="without an adapter"):
        miaotui.load(demo.path(), adapter=sea, profile=plain).close()
    other = replace(profile, model=profile.model | {"adapter": "of other shapes"})
    with pytest.warns(MiaotuiWarning, match="with another adapter"):
        miaotui.load(demo.path(), adapter=sea, profile=other).close()
    with pytest.raises(ProfileError, match=r"tensors are not the same, as it was measured with another adapter"):
        miaotui.load(demo.path(), adapter=sea, profile=replace(other, model=other.model | {"tensors": "others"}))
    with pytest.raises(ProfileError, match=r"model.adapter=3: expected a text or null"):
        replace(profile, model=profile.model | {"adapter": 3})


def test_where_the_time_was_too_short_that_is_said():
    error = nothing_fits(Tuned(None, [], "time", 9.0), Limits(seconds=5), "model")
    assert str(error).startswith("--max-seconds 5: were over before settings within the limits were measured; ")
    assert "miaotui warm" in str(error)


@pytest.mark.usefixtures("timeless")
def test_ctrl_c_writes_the_best_so_far_or_nothing(tmp_path, capsys, monkeypatch, text):
    real, calls = ModelMeter.pair, iter(range(100))

    def interrupted(self, point):
        if next(calls) == stop_at:
            raise KeyboardInterrupt
        return real(self, point)

    monkeypatch.setattr(ModelMeter, "pair", interrupted)
    stop_at, file = 3, tmp_path / "p.json"
    code, out, _ = run(capsys, "tune", *VARY, "--text", text, "--out", file)
    assert code == 130
    assert "interrupted" in out
    profile = read_profile(file)
    assert profile.chosen["ended"] == "interrupted"
    before = file.read_text()
    stop_at, calls = 0, iter(range(100))
    assert run(capsys, "tune", *VARY, "--text", text, "--out", file)[0] == 130
    assert file.read_text() == before
    assert list(tmp_path.iterdir()) == [file]


def test_what_cannot_be_tuned_is_said_before_anything_is_measured(tmp_path, capsys, timeless):
    write_checkpoint(tmp_path / "m", small("llama"))
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "other.json").write_text("{}")
    for words, says in (
        (("--vary", "speed"), "--vary speed: expected some of threads"),
        (("--max-kl", "-1"), "--max-kl -1: expected a number of at least 0"),
        (("--max-seconds", "0"), "--max-seconds 0: expected at least 1"),
        (("--prompt", "600"), "--prompt 600 --new 32: more than the context of 512"),
        (("--data", tmp_path / "x.jsonl"), "--data"),
        (("--task", "ner"), "--task ner: its examples are missing; give --data FILE"),
        (("--task", "ner", "--data", "x", "--max-kl", "1"), "--max-kl 1: not with --task"),
        (("--out", tmp_path / "no" / "p.json"), "there is no directory"),
        (("--out", tmp_path / "other.json"), "is there already, and is not written over"),
        ((tmp_path / "m", "--vary", "ffn", "--prompt", 8, "--new", 8), "ffn changes answers: give --text FILE"),
        (("--text", tmp_path / "nowhere.txt"), "nowhere.txt"),
        (("--plan", "ffn=2"), "ffn=2"),
        (("--try-sampling", "top-k=4", "--vary", "ffn"), "--vary ffn leaves it out"),
        (("--try-sampling", "top-k=4", "--task", "ner", "--data", "x"), "--task ner draws no ids"),
    ):
        code, _, err = run(capsys, "tune", *words)
        assert code in {1, 2}, words
        assert says in err
    assert not timeless


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("temperature=-1", "temperature=-1"),
        ("heat=1", "such as temperature=0.8 top-k=40, but not seed, found heat=1"),
        ("seed=1", "but not seed, found seed"),
        ("top-k=x", "invalid int value: 'x'"),
        (" ", "found nothing"),
        ("mirostat-eta=1", "only with --mirostat"),
        ("top-k='4", "No closing quotation"),
    ],
)
def test_words_that_say_no_way_to_draw_are_refused(capsys, words, says):
    with pytest.raises(SystemExit) as ended:
        run(capsys, "tune", "--try-sampling", words)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.usefixtures("timeless")
def test_without_a_text_only_what_changes_no_answer_is_tried(tmp_path, capsys):
    write_checkpoint(tmp_path / "m", small("llama"))
    code, out, err = run(capsys, "tune", tmp_path / "m", "--prompt", 8, "--new", 8, "--json")
    assert code == 0, err
    profile = json.loads(out)
    assert profile["load"]["threads"] == 1
    assert {row["loss"] for row in profile["table"] if row["pairs"]} == {0.0}


@pytest.fixture(scope="module")
def opened():
    with open_model(demo.path()) as there:
        yield there


def test_options_and_saved_settings_of_every_single_level_load(opened):
    knobs = knobs_of(opened, goal="throughput", plans=["ffn=0.75", "keep-layers=0-4"], prompt=8, new=8)
    assert [axis.name for axis in knobs.space.axes] == [a for a in AXES if a in {x.name for x in knobs.space.axes}]
    for _, point in knobs.space.singles():
        saved = knobs.saved(point)
        Profile(model=identity(opened), load=json.loads(json.dumps(saved)))
        assert knobs.near(saved, knobs.batch(point)) == point
    small_batch, large_batch = (
        knobs.options((0,) * len(knobs.space.axes)),
        knobs.options(next(p for _, p in knobs.space.singles() if knobs.batch(p) == 16)),
    )
    assert large_batch["cache_tokens"] == 16 * small_batch["cache_tokens"]


def test_a_plan_s_file_is_saved_whole(opened, tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps({"format": "miaotui-prune", "version": 1, "layers": "0-3"}))
    knobs = knobs_of(opened, vary=["prune"], plans=[str(tmp_path / "plan.json")])
    saved = knobs.saved((1,))
    with miaotui.load(demo.path(), profile=Profile(model=identity(opened), load=saved), max_context=16) as model:
        assert model.config.n_layers == 4
    with pytest.raises(MiaotuiError):
        knobs_of(opened, vary=["prune"], plans=[str(tmp_path / "nowhere.json")])


def test_loss_is_the_mean_divergence_and_memory_is_what_is_allocated(opened):
    ids = miaotui.load(demo.path()).tokenizer.encode("\n".join(held_out(2)))[:200]
    knobs = knobs_of(opened, vary=["threads", "kv_cache", "attention"], prompt=8, new=4)
    subject = TextSubject(ids, prompt=8, new=4)
    with ModelMeter(demo.path(), opened, knobs, subject) as meter:
        point = knobs.space.nearest({"attention": "int4", "kv_cache": "int8"})
        assert point is not None
        loss = meter.loss(point)
        windows = subject.windows(meter.reference)
        exact = [log_softmax(meter.reference.logits(w)) for w in windows]
        with miaotui.load(demo.path(), **knobs.options(point)) as model:
            rounded = [log_softmax(model.logits(w)) for w in windows]
            assert meter.memory(point) == model.memory["allocated"] + model.memory["weights_mapped"]
        wanted = compare(exact, rounded, [[*w, 0] for w in windows])["kl"]
        assert loss == pytest.approx(wanted, rel=1e-9)
        assert meter.loss(knobs.space.reference) == 0.0
        assert meter.floor(point) == 0.0  # a cache holds it


def test_prompts_differ_at_once_and_every_time():
    subject = TextSubject(list(range(5, 105)), prompt=10, new=2)
    with miaotui.load(demo.path(), max_context=64) as model:
        firsts = [tuple(p) for turn in range(8) for p in subject.prompts(model, turn, 16)]
        assert len({p[0] for p in firsts}) == len(firsts) == 128
        assert subject.prompts(model, 3, 2) == subject.prompts(model, 3, 2)
        assert all(len(p) == 10 for p in firsts)


def test_a_plan_that_cuts_the_vocabulary_is_not_compared(opened, tmp_path):
    (tmp_path / "words.txt").write_text("Once upon a time")
    knobs = knobs_of(opened, vary=["prune"], plans=[f"vocab={tmp_path / 'words.txt'}"])
    subject = TextSubject(list(range(40)), prompt=4, new=2)
    refused = pytest.raises(InputError, match="cuts the vocabulary")
    with ModelMeter(demo.path(), opened, knobs, subject) as meter, refused:
        meter.loss((1,))


def test_a_pair_times_both_by_turns_and_no_thread_looks_for_work_meanwhile(opened, monkeypatch):
    rested = []
    rest = Team.rest
    monkeypatch.setattr(Team, "rest", lambda self: (rest(self), rested.append(self)))
    monkeypatch.setattr(measure, "TURNS", 2)
    monkeypatch.setattr(measure, "SPELL", math.inf)  # a turn may last on a busy machine
    for goal in ("latency", "throughput"):
        knobs = knobs_of(opened, goal=goal, vary=["kv_cache", "batch"], prompt=8, new=4)
        with ModelMeter(demo.path(), opened, knobs, TextSubject(list(range(1, 60)), goal, 8, 4)) as meter:
            point = tuple(len(axis.levels) - 1 for axis in knobs.space.axes)
            pairs = [meter.pair(point), meter.pair(point), meter.pair(knobs.space.reference)]
            assert all(a > 0 and b > 0 for a, b in pairs)
            ours, reference = (m.session.backend._executor for m in (meter._loaded(point), meter.reference))
            turns = [reference, ours, ours, reference]  # who was first changes
            assert rested[2:6] in (turns, [*turns[2:], *turns[:2]])
            assert len(rested) == 3 * (2 + 4)
            rested.clear()


def test_a_picture_is_drawn_where_matplotlib_is_and_asked_for_before_anything_is_measured(
    tmp_path, capsys, monkeypatch, timeless, text
):
    asked = (*VARY, "--text", text, "--plot", tmp_path / "t.svg")
    with monkeypatch.context() as missing:
        missing.setitem(sys.modules, "matplotlib", None)
        code, _, err = run(capsys, "tune", *asked)
    assert (code, timeless) == (1, [])
    assert "--plot: drawing needs matplotlib: pip install 'miaotui[plot]'" in err
    pytest.importorskip("matplotlib")
    assert run(capsys, "tune", *asked)[0] == 0
    assert "<svg" in (tmp_path / "t.svg").read_text()
    code, _, err = run(capsys, "tune", *asked[:-1], tmp_path / "t.nothing")
    assert code == 2
    assert "--plot t.nothing" in err


@pytest.mark.ci  # 6 s
@pytest.mark.usefixtures("timeless")
def test_a_task_is_tuned_by_its_metric(tmp_path, capsys):
    rows = [{"text": text, "label": label} for text, label in (
        ("I love this wonderful film.", "positive"), ("A terrible, boring waste of time.", "negative"),
        ("The food was great.", "positive"), ("I hated the service.", "negative"),
    )]  # fmt: skip
    file = tmp_path / "d.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    code, out, err = run(
        capsys, "tune", demo.path("sentiment"), "--task", "sentiment-analysis", "--data", file, "--json"
    )
    assert code == 0, err
    profile = json.loads(out)
    assert profile["limits"]["of"] == "accuracy lost"
    assert profile["chosen"]["loss"] <= 0.01
    assert profile["load"]["quantize"]


SURE, WILD = "top-k=1 temperature=0.1", "temperature=9"


def test_ways_to_draw_are_timed_and_the_profile_has_the_chosen_one(tmp_path, capsys, monkeypatch, text):
    monkeypatch.setattr(ModelMeter, "pair", lambda self, p: (0.5 if self.knobs.space.label(p).endswith("=9") else 1, 1))
    file, asked = tmp_path / "p.json", ("--vary", "sampling", "--text", text, "--top-p", 0.9)
    asked = (*asked, "--try-sampling", SURE, "--try-sampling", WILD, "--out", file)
    code, out, err = run(capsys, "tune", *asked)
    assert code == 0, err
    assert "sampling=temperature=9" in out
    assert "\nchosen: top_p=0.9, temperature=9.0\n" in out
    profile = read_profile(file)
    assert profile.generate == {"top_p": 0.9, "temperature": 9.0}
    assert {row["loss"] for row in profile.table} == {0.0}
    monkeypatch.setattr(ModelMeter, "pair", lambda *_: (1.0, 1.0))
    assert run(capsys, "tune", *asked)[0] == 0
    assert read_profile(file).generate == profile.generate, "what is as good as the best stays"


def test_ids_are_drawn_as_the_point_says(monkeypatch):
    asked = []
    monkeypatch.setattr(miaotui.Model, "generate", lambda _self, _prompt, **how: asked.append(how))
    monkeypatch.setattr(miaotui.Model, "generate_all", lambda _self, _prompts, **how: asked.append(how))
    ways = {SURE: {"top_k": 3}, WILD: {"temperature": 9.0}}
    with open_model(demo.path()) as opened:
        for goal in ("latency", "throughput"):
            knobs = knobs_of(opened, goal=goal, vary=["sampling"], prompt=8, new=4, samplings=ways)
            subject = TextSubject(list(range(1, 60)), goal, 8, 4, judged=False, parameters={"temperature": 1.0})
            with ModelMeter(demo.path(), opened, knobs, subject) as meter:
                asked.clear()
                meter.pair((2,))
            both = [how for how in asked if how["max_new_tokens"] == 4]
            assert {how["temperature"] for how in both} == {9.0, 1.0}


def test_a_task_judges_ways_to_draw(tmp_path, capsys, monkeypatch):
    """The wild way is the faster, and is out by what it answers."""
    monkeypatch.setattr(ModelMeter, "pair", lambda _, p: (1.0 - 0.2 * p[0], 1.0))
    file = tmp_path / "d.jsonl"
    days = {"2021-03-03": "the third of March 2021", "1987-07-09": "the ninth of July 1987"}
    file.write_text("\n".join(json.dumps({"source": iso, "target": text}) for iso, text in days.items()))
    asked = ("tune", demo.path("dates"), "--task", "text2text-generation", "--data", file, "--vary", "sampling")
    code, out, err = run(capsys, *asked, "--try-sampling", SURE, "--try-sampling", WILD, "--json")
    assert code == 0, err
    profile = json.loads(out)
    assert profile["generate"] == {"top_k": 1, "temperature": 0.1}
    lost = {row["settings"]: row["loss"] for row in profile["table"]}
    assert lost[f"sampling={SURE}"] <= 0.01
    assert f"sampling={WILD}" not in lost, "what loses too much is not timed"


def test_the_table_has_what_nothing_beats_the_reference_and_the_choice():
    space = Space((Axis("a", (0, 1, 2, 3)),))
    values = [(1.0, 10, 0.0), (0.5, 10, 0.0), (0.5, 5, 0.2), (0.9, 9, 0.3)]
    rows = {(i,): Row((i,), memory, loss, [(time, 1.0)]) for i, (time, memory, loss) in enumerate(values)}
    result = Result(rows[1,], list(rows.values()))
    told = rows_of(space, result)
    assert [r["settings"] for r in told] == ["a=1", "a=2", "a=3", "as it is"]
    assert [r["settings"] for r in pareto(told)] == ["a=1", "a=2"]
    lines = table(told, TextSubject([1, 2])).splitlines()
    assert [line.split("  ")[-1] for line in lines] == ["settings", "a=1", "a=2", "as it is"]
    assert lines[1].startswith("*")
    assert np.isclose(float(lines[1].split()[1]), 500)


@pytest.mark.ci  # 5 s
@pytest.mark.usefixtures("timeless")
def test_the_bench_of_tuning_goes_on_where_it_was(tmp_path, capsys, monkeypatch, text):
    monkeypatch.setattr(bench, "LEVELS", {name: levels[:2] for name, levels in bench.LEVELS.items()})
    monkeypatch.setattr(bench, "VARY", ("threads", "kv_cache", "attention", "ffn"))
    files = ["--journal", tmp_path / "grid.jsonl", "--out", tmp_path / "out.json", "--text", text]
    words = [str(word) for word in (*files, "--prompt", 8, "--new", 4)]
    assert bench.main([*words, "--minutes", "0"]) == 3
    assert "0 of 16 points" in capsys.readouterr().out
    assert not (tmp_path / "out.json").exists()
    assert bench.main(words) == 0
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["over_best"] <= 1.05
    assert told["chosen_again"] and told["kept"] and told["within_limits"]  # noqa: PT018 - one claim
    assert told["grid"]["points"] == 16
    with pytest.raises(InputError, match="--journal"):
        bench.main([*words[:-1], "9"])


@pytest.mark.soak("tune")
def test_soak_tuning_is_near_the_best_of_the_grid(tmp_path):
    """On the demo model, timed: four minutes and more on an idle machine."""
    words = ["--journal", str(tmp_path / "grid.jsonl"), "--out", str(tmp_path / "out.json"), "--minutes", "60"]
    assert bench.main(words) == 0
    told = json.loads(Path(tmp_path / "out.json").read_text())
    assert told["over_best"] <= 1.05
    assert told["share_of_time"] <= 0.2
    assert told["kept"]
    assert told["within_limits"]


def test_limits_are_none_by_default():
    assert Limits() == Limits(math.inf, math.inf, math.inf)
