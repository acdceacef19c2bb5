"""Output filters on answers: of the loop, of a model in every way of asking, of pipelines and of the command line."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import re
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import miaotui as mt
import pytest
from adapters_apart import write_adapter
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError
from miaotui.filter_files import audit_records
from miaotui.runtime.detokenize import Spelling, TextStream
from miaotui.runtime.filters.filters import Filtered
from miaotui.runtime.generate import params_from
from miaotui.tools import cli, demo
from test_demo_chat import TALK
from test_generate import Table, decode, run, stream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BEGINNING = "Once upon a time"
PLAIN = {"max_new_tokens": 48}
RULES = [
    {"name": "names", "words": ["lucy"], "replacement": "[name]"},
    {"name": "small", "regex": r"sm[a-z]+\s\w+"},
    {"name": "yum", "regex": '"Yum', "action": "block", "replacement": "[ended]"},
]


@pytest.fixture(scope="module")
def model() -> Iterator[mt.Model]:
    with mt.load(demo.path(), cache_tokens=2048) as loaded:
        yield loaded


# --- the loop --------------------------------------------------------------------------------------------------------


def test_an_answer_ends_where_a_filter_blocks_and_keeps_its_ids() -> None:
    out = run([1, 2], filters=mt.Filters([{"regex": "ef", "action": "block"}]))
    assert (out.text, out.finish_reason, out.ids) == ("cd", "filter", [3, 4, 5, 6])
    out = run([1, 2], filters=mt.Filters([{"regex": "ef", "action": "stop"}]))
    assert (out.text, out.finish_reason, out.ids) == ("cd", "stop", [3, 4, 5, 6])
    assert out.filtered is not None
    assert (out.filtered.unfiltered, out.filtered.findings[0].start) == ("cdef", 2)
    masked = run([1, 2], filters=mt.Filters([{"regex": "ef"}]), max_new_tokens=6)
    assert (masked.text, masked.finish_reason, len(masked.ids)) == ("cd***gh", "length", 6)


def test_what_ends_an_answer_ends_what_is_held_back() -> None:
    """A word is whole at the answer's end too; there the filter's reason goes before any other."""
    block = mt.Filters([{"words": ["cdef"], "action": "block"}])
    assert run([1, 2], filters=block, max_new_tokens=4).finish_reason == "filter"
    assert run([1, 2], filters=block, eos_token_id=7).finish_reason == "filter"
    assert run([1, 2], filters=block, stop="g").finish_reason == "filter"
    assert run([1, 2], filters=block, max_new_tokens=5).text == "cdefg"
    empty = run([1], filters=block, max_new_tokens=0)
    assert empty.filtered == Filtered("", "")


def test_filters_see_a_text_without_its_stop_string() -> None:
    filters = mt.Filters([{"regex": "fg", "action": "block"}, {"regex": "e", "replacement": "#"}])
    out = run([1, 2], filters=filters, stop="fg")
    assert (out.text, out.finish_reason) == ("cd#", "stop")
    out = run([1, 2], filters=filters, stop="gh")
    assert (out.text, out.finish_reason) == ("cd#f", "stop")
    assert out.filtered is not None
    assert out.filtered.unfiltered == "cdef"
    out = run([1, 2], filters=filters, stop="hi")
    assert (out.text, out.finish_reason) == ("cd#", "filter")


def test_a_text_is_needed() -> None:
    with pytest.raises(InputError, match="filters: this model has no tokenizer"):
        stream(Table(), [1], params_from(filters=mt.Filters([{"words": ["x"]}])))
    with pytest.raises(InputError, match=r"filters=\['x'\]: expected Filters; Filters\(rules\)"):
        params_from(filters=["x"])  # type: ignore[typeddict-item]


@given(
    st.lists(st.sampled_from(["bc", "c d", "a", "aé", "世"]), min_size=1, max_size=2, unique=True),
    st.sampled_from(["mask", "block", "stop"]),
    st.lists(st.integers(1, 29), min_size=1, max_size=12),
    st.sampled_from([None, "b", "ca"]),
)
@settings(max_examples=150)
def test_what_is_shown_is_the_plain_answer_filtered(
    words: list[str], action: str, ids: list[int], stop: str | None
) -> None:
    table = [1, 2, 3, 4, 27, 28, 29]

    def rule(fed: list[int]) -> int:
        return table[(sum(fed) * 7 + len(fed) + ids[len(fed) % len(ids)]) % len(table)]

    filters = mt.Filters([{"words": words, "whole_words": False, "action": action}])
    how: dict[str, Any] = {"max_new_tokens": 14, "stop": stop}
    plain = run([5], Table(rule=rule), **how)
    shown, last, drawn = "", None, []
    for token in stream(Table(rule=rule), [5], params_from(filters=filters, **how), decode):
        shown += token.text
        assert filters.apply(plain.text).text.startswith(shown)
        last, drawn = token, [*drawn, token.id]
    assert last is not None
    assert last.filtered is not None
    assert shown == filters.apply(plain.text).text
    assert drawn == plain.ids[: len(drawn)]
    assert last.filtered.findings == filters.apply(plain.text).findings
    assert last.finish_reason == (filters.apply(plain.text).finish_reason or plain.finish_reason)


# --- a model ---------------------------------------------------------------------------------------------------------


def test_every_way_of_asking_shows_the_same(model: mt.Model) -> None:
    told: list[dict[str, Any]] = []
    filters = mt.Filters(RULES, audit=told.append, audit_text=True)
    plain = model.generate(BEGINNING, **PLAIN, logprobs=True)
    out = model.generate(BEGINNING, **PLAIN, logprobs=True, filters=filters)
    assert out.text == filters.apply(plain.text).text
    assert "[name]" in out.text
    assert out.text.endswith("[ended]")
    assert out.finish_reason == "filter"
    assert out.ids == plain.ids[: len(out.ids)]
    assert out.logprobs is not None
    assert plain.logprobs is not None
    assert out.logprobs == plain.logprobs[: len(out.ids)]
    ways = ["".join(model.stream(BEGINNING, **PLAIN, filters=filters))]
    ways += [each.text for each in model.generate([BEGINNING, BEGINNING], **PLAIN, filters=filters)]

    async def of_coroutines() -> list[str]:
        one = await model.agenerate(BEGINNING, **PLAIN, filters=filters)
        two = await model.agenerate([BEGINNING], **PLAIN, filters=filters)
        pieces = [piece async for piece in model.astream(BEGINNING, **PLAIN, filters=filters)]
        return [one.text, two[0].text, "".join(pieces)]

    ways += asyncio.run(of_coroutines())
    with model.sequence() as text:
        ways.append(text.generate(BEGINNING, **PLAIN, filters=filters).text)
        assert text.ids[-len(out.ids) :] == out.ids
    assert ways == [out.text] * len(ways)
    assert len(told) == len(ways) + 1
    assert all(record == told[0] for record in told)
    assert told[0]["model"] == model.receipt.digest()
    assert told[0]["finish_reason"] == "filter"
    assert filters.replay(told[0]) == []


def test_answers_of_beams_and_several_drawn_ones_are_filtered_each(model: mt.Model) -> None:
    told: list[dict[str, Any]] = []
    filters = mt.Filters(RULES, audit=told.append)
    how: dict[str, Any] = {"max_new_tokens": 20, "num_return_sequences": 2}
    plain = model.generate(BEGINNING, num_beams=2, **how)
    out = model.generate(BEGINNING, num_beams=2, filters=filters, **how)
    assert [a.text for a in (out, *out.alternatives)] == [
        filters.apply(a.text).text for a in (plain, *plain.alternatives)
    ]
    assert [r["number"] for r in told] == [0, 1]
    told.clear()
    drawn = model.generate(BEGINNING, temperature=0.9, seed=3, filters=filters, **how)
    bare = model.generate(BEGINNING, temperature=0.9, seed=3, **how)
    assert [a.text for a in (drawn, *drawn.alternatives)] == [
        filters.apply(a.text).text for a in (bare, *bare.alternatives)
    ]
    assert [(r["number"], r["seed"]) for r in told] == [(0, 3), (1, 3)]


def test_a_held_answer_shows_nothing_before_it_is_released(model: mt.Model) -> None:
    seen: list[Filtered] = []
    said = ["release", "refuse", "Ask me another."]

    def hold(filtered: Filtered) -> str:
        seen.append(filtered)
        return said[(len(seen) - 1) % 3]

    told: list[dict[str, Any]] = []
    filters = mt.Filters(RULES[:2], hold=hold, audit=told.append)
    plain = model.generate(BEGINNING, max_new_tokens=24)
    wanted = [filters.apply(plain.text).text, "", "Ask me another."]
    for way in (
        lambda: list(model.stream(BEGINNING, max_new_tokens=24, filters=filters)),
        lambda: [model.generate(BEGINNING, max_new_tokens=24, filters=filters).text],
        lambda: [asyncio.run(model.agenerate(BEGINNING, max_new_tokens=24, filters=filters)).text],
    ):
        made = [way() for _ in range(3)]
        assert [[piece for piece in pieces if piece] for pieces in made] == [[text] if text else [] for text in wanted]
    assert all(each.unfiltered == plain.text for each in seen)
    assert [r["decision"] for r in told] == ["release", "refuse", "replace"] * 3
    assert [r["finish_reason"] for r in told[:3]] == ["length", "filter", "filter"]


def test_a_person_keeps_nobody_else_waiting(model: mt.Model) -> None:
    """While one answer is held, others of the same model come to their end."""
    entered, go_on = threading.Event(), threading.Event()

    def hold(_: Filtered) -> str:
        entered.set()
        assert go_on.wait(60)
        return "release"

    filters = mt.Filters([{"words": ["x"]}], hold=hold)
    got: list[str] = []
    thread = threading.Thread(
        target=lambda: got.append(model.generate(BEGINNING, max_new_tokens=4, filters=filters).text)
    )
    thread.start()
    try:
        assert entered.wait(60)
        assert len(model.generate(BEGINNING, max_new_tokens=4).ids) == 4
        assert not got
    finally:
        go_on.set()
        thread.join()
    assert len(got) == 1


def test_any_number_of_people_may_decide_at_once(model: mt.Model) -> None:
    """More than an event loop's executor has threads, where the passes are taken; by a thread or by a coroutine."""
    n, how = 40, {"max_new_tokens": 3}
    plain = model.generate(BEGINNING, **how).text
    release = threading.Event()

    def hold(_: Filtered) -> str:
        assert release.wait(60)
        return "release"

    async def ask(answer: Filtered) -> str:
        await asyncio.sleep(0)
        return f"{answer.unfiltered}!"

    async def every() -> list[str]:
        rules = [{"words": ["x"]}]
        filters = mt.Filters(rules, hold=hold)
        held = [asyncio.create_task(model.agenerate(BEGINNING, filters=filters, **how)) for _ in range(n)]
        await asyncio.sleep(0.2)
        one = await model.agenerate(BEGINNING, filters=mt.Filters(rules, hold=ask), **how)
        assert not any(task.done() for task in held)
        release.set()
        pieces = [piece async for piece in model.astream(BEGINNING, filters=mt.Filters(rules, hold=ask), **how)]
        return [one.text, *pieces, *[(await task).text for task in held]]

    assert asyncio.run(every()) == [f"{plain}!", f"{plain}!", *[plain] * n]
    with pytest.raises(InputError, match="hold: a coroutine function decides on answers of async calls"):
        model.generate(BEGINNING, filters=mt.Filters([{"words": ["x"]}], hold=ask), **how)


def test_a_function_that_raises_is_heard(model: mt.Model) -> None:
    def hold(_: Filtered) -> str:
        raise RuntimeError

    for name in ("hold", "audit"):
        filters = mt.Filters([{"words": ["x"]}], **{name: hold})
        with pytest.raises(RuntimeError):
            model.generate(BEGINNING, max_new_tokens=2, filters=filters)


def test_the_audit_tells_of_a_stream_that_nobody_reads_to_its_end(model: mt.Model) -> None:
    told: list[dict[str, Any]] = []
    filters = mt.Filters(RULES, audit=told.append, audit_text=True)
    pieces = model.stream(BEGINNING, **PLAIN, filters=filters)
    read = "".join(next(pieces) for _ in range(3))
    pieces.close()

    async def of_coroutines() -> None:
        made = model.astream(BEGINNING, **PLAIN, filters=filters)
        assert "".join([await anext(made) for _ in range(3)]) == read
        await made.aclose()

    asyncio.run(of_coroutines())
    assert [(r["decision"], r["finish_reason"]) for r in told] == [("abandoned", None)] * 2
    assert all(filters.replay(record) == [] for record in told)


def test_pipelines_show_filtered_texts_and_refuse_ids(model: mt.Model) -> None:
    filters = mt.Filters(RULES)
    pipe = mt.pipeline("text-generation", model)
    how: dict[str, Any] = {"max_new_tokens": 48, "do_sample": False}
    [made] = pipe(BEGINNING, filters=filters, **how)
    assert made["generated_text"] == BEGINNING + model.generate(BEGINNING, **PLAIN, filters=filters).text
    with pytest.raises(InputError, match="return_tensors: ids are what the model wrote"):
        pipe(BEGINNING, filters=filters, return_tensors=True, **how)


def test_an_encoder_decoder_s_answer_is_filtered() -> None:
    pipe = mt.pipeline("text2text-generation")
    text = "amount: twelve hundred dollars"
    plain = pipe(text)[0]["generated_text"]
    digit = next(c for c in plain if c.isalnum())
    filters = mt.Filters([{"regex": digit, "replacement": "#"}])
    assert pipe(text, filters=filters)[0]["generated_text"] == plain.replace(digit, "#")


def test_a_word_over_any_border_of_tokens_is_never_shown(model: mt.Model) -> None:
    """Of the included tokenizer; each border of an answer in turn."""
    prompt, plain = model.tokenizer.encode(BEGINNING), model.generate(BEGINNING, max_new_tokens=60)
    spelling = Spelling(model.tokenizer.spelled)

    def pieces() -> list[str]:
        texts = TextStream(spelling, prompt)
        return [*map(texts.push, plain.ids), texts.flush()]

    borders = [*itertools.accumulate(map(len, pieces()))][:-1]
    assert "".join(pieces()) == plain.text
    assert len(borders) == 60
    for at in borders:
        word = plain.text[max(0, at - 2) : at + 2]
        for action in ("mask", "block"):
            filters = mt.Filters([{"regex": re.escape(word), "action": action}])
            filtering, shown = filters.filtering(), ""
            for piece in pieces():
                shown += filtering.push(piece)
                assert word not in shown
                if filtering.finish_reason is not None:
                    break
            assert shown + filtering.end() == filters.apply(plain.text).text != plain.text


# --- files and the command line --------------------------------------------------------------------------------------


def rules_file(path: Path, rules: object = None) -> Path:
    path.write_text(json.dumps({"rules": RULES if rules is None else rules}), encoding="utf-8")
    return path


def test_rules_of_a_file(tmp_path: Path) -> None:
    of_json = mt.Filters.from_file(rules_file(tmp_path / "rules.json"))
    assert of_json.digest == mt.Filters(RULES).digest
    (tmp_path / "words.txt").write_text("foo\n\n  bar baz \n", encoding="utf-8")
    toml = tmp_path / "rules.toml"
    toml.write_text('[[rules]]\nname = "w"\nwords = ["x"]\nwords_file = "words.txt"\naction = "mask"\n')
    assert mt.Filters.from_file(str(toml)).apply("a foo bar  baz x fo").text == "a *** *** *** fo"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("r.json", "[]", r"r\.json: expected an object with a list of rules"),
        ("r.json", '{"rules": {}}', "expected an object with a list of rules"),
        ("r.json", "{", "not valid JSON"),
        ("r.json", '{"rules": [], "rule": 1}', r"r\.json: unknown key rule \(did you mean rules"),
        ("r.json", '{"rules": [{"regex": "("}]}', r"r\.json: rules\[0\]: regex='\(': missing \)"),
        (
            "r.json",
            '{"rules": [{"words_file": "none.txt"}]}',
            r"r\.json: rules\[0\]: words_file: .*none\.txt.*cannot be read",
        ),
        ("r.json", '{"rules": [{"words_file": "r.json", "words": 3}]}', r"rules\[0\]: words: expected a list"),
        ("r.json", '{"rules": [{"words_file": 3}]}', r"rules\[0\]: words_file=3"),
        ("r.toml", "[[rules]\n", r"r\.toml: cannot be read as TOML"),
        ("r.toml", "x = 1", "expected an object with a list of rules"),
    ],
)
def test_refused_files(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=says):
        mt.Filters.from_file(tmp_path / name)


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    """A write to a disk that is nearly full takes what fits; the file's limit does the same here."""
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from miaotui import errors\n"
        "from miaotui.filter_files import AuditFile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "audit, path = AuditFile(sys.argv[1]), Path(sys.argv[1])\n"
        "audit({'n': 1})\n"
        "size = path.stat().st_size\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, size + 20))\n"
        "try:\n"
        "    audit({'n': 2})\n"
        "except errors.InputError as e:\n"
        "    assert 'the audit cannot be written' in str(e), e\n"
        "    assert path.stat().st_size == size\n"
        "else:\n"
        "    sys.exit('half a line was no error')\n"
    )
    audit = tmp_path / "audit.jsonl"
    done = subprocess.run([sys.executable, "-c", script, audit], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [record["n"] for _, record in audit_records(audit)] == [1]


def test_an_empty_list_of_words(tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_text("\n \n")
    with pytest.raises(InputError, match=r"w\.txt: has no words"):
        mt.Filters.from_file(rules_file(tmp_path / "r.json", [{"words_file": "w.txt"}]))


def test_the_command_line_filters_audits_and_proves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules, audit = rules_file(tmp_path / "rules.json"), tmp_path / "audit.jsonl"
    options = ["--filters", str(rules), "--audit", str(audit), "--audit-text", "--max-new-tokens", "48"]
    assert cli.main(["generate", BEGINNING, *options]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith("[ended]\n")
    assert "[name]" in shown
    [line] = audit.read_text().splitlines()
    assert json.loads(line)["ended_by"] == "yum"
    assert cli.main(["filter", str(rules), "--replay", str(audit)]) == 0
    assert capsys.readouterr().out == "1 answer, 0 with another decision\n"
    assert cli.main(["filter", str(rules), json.loads(line)["unfiltered"]]) == 0
    assert BEGINNING + capsys.readouterr().out == shown
    audit.write_text(line.replace('"start": 63', '"start": 62') + "\n")
    assert cli.main(["filter", str(rules), "--replay", str(audit)]) == 1
    assert "line 1: findings: recorded" in capsys.readouterr().out


def test_the_command_line_says_what_was_met(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["filter", str(rules_file(tmp_path / "r.json")), "So Lucy", "--findings"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("So [name]\n", "3-7 mask names\n")


def test_a_run_over_a_file_filters_its_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules, openings, out = rules_file(tmp_path / "r.json"), tmp_path / "in.txt", tmp_path / "out.jsonl"
    openings.write_text(BEGINNING + "\n")
    words = ["run", "text-generation", "--input", str(openings), "--output", str(out), "--filters", str(rules)]
    words += ["--model", str(demo.path()), "--set", "max_new_tokens=24", "--set", "do_sample=false"]
    assert cli.main(words) == 0
    [line] = map(json.loads, out.read_text().splitlines())
    assert "[name]" in line["output"][0]["generated_text"]
    assert cli.main(words) == 0
    assert "nothing was left to do" in capsys.readouterr().err
    rules_file(rules, RULES[:2])
    assert cli.main(words) == 2
    assert "--filters: " in capsys.readouterr().err
    other = ["run", "text-classification", *words[2:8]]
    assert cli.main(other) == 2
    assert "--filters " in (err := capsys.readouterr().err)
    assert "only of tasks that write text" in err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["generate", "--audit", "a"], 2, "--audit a: only with --filters"),
        (["generate", "--hold"], 2, "--hold: only with --filters"),
        (["generate", "--filters", "RULES", "--hold"], 2, "--hold: standard input is no terminal"),
        (["chat", "--filters", "none.json"], 2, "--filters: 'none.json': cannot be read"),
        (["generate", "--filters", "RULES", "--audit-text"], 2, "--audit-text: only with --audit"),
        (["generate", "--filters", "RULES", "--audit", "no/where"], 2, "the audit cannot be written"),
        (["generate", "--filters", "none.json"], 2, "--filters: 'none.json': cannot be read"),
        (["filter", "RULES", "--replay", "none.jsonl"], 2, "--replay: 'none.jsonl': cannot be read"),
        (["filter", "RULES", "x", "--replay", "none.jsonl"], 2, "--replay: takes its texts from the audit"),
        (["filter", "RULES", "--replay", "RULES"], 1, "line 1: record: has no findings"),
    ],
)
def test_refused_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str
) -> None:
    rules = str(rules_file(tmp_path / "rules.json"))
    assert cli.main([rules if word == "RULES" else word for word in arguments]) == code
    assert says in capsys.readouterr().err


def test_a_conversation_is_filtered_and_goes_on_from_what_was_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def talk(*options: str) -> str:
        stdin = io.TextIOWrapper(io.BytesIO(f"{next(iter(TALK))}\n/save {tmp_path / 'talk.json'}\n".encode()))
        monkeypatch.setattr("sys.stdin", stdin)
        assert cli.main(["chat", *options]) == 0
        return capsys.readouterr().out

    plain = talk()
    word = max(re.findall(r"\w+", plain), key=len)
    rules = rules_file(tmp_path / "rules.json", [{"words": [word], "replacement": "[hidden]"}])
    shown = talk("--filters", str(rules), "--audit", str(tmp_path / "audit.jsonl"))
    assert shown == re.sub(rf"\b{word}\b", "[hidden]", plain) != plain
    assert json.loads((tmp_path / "talk.json").read_text())[-1]["content"].strip() == shown.strip()
    assert len((tmp_path / "audit.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(("typed", "shown"), [("what?\nyes\n", True), ("n\n", False), ("", False)])
def test_a_person_at_the_terminal_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, typed: str, *, shown: bool
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(typed))
    rules = rules_file(tmp_path / "rules.json")
    assert cli.main(["generate", BEGINNING, "--no-prompt", "--filters", str(rules), "--hold"]) == 0
    out, err = capsys.readouterr()
    assert out.endswith("[ended]\n") == shown
    assert (out == "\n") != shown
    assert "  names (mask): characters 63 to 67\n  yum (block)" in err
    assert err.count("Show it?") == typed.count("\n") + (typed == "")


def test_an_audit_says_which_adapter_wrote_the_answer(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = []
    filters = mt.Filters([{"words": ["fox"]}], audit=records.append)
    adapter = write_adapter(tmp_path / "one", demo.path(), "q_proj")
    with mt.load(demo.path(), threads=1, max_context=128, adapters={"one": adapter}) as model:
        model.generate(BEGINNING, filters=filters, max_new_tokens=4, adapter="one")
        model.generate(BEGINNING, filters=filters, max_new_tokens=4)
        with model.sequence(adapter="one") as text:
            list(text.stream(BEGINNING, filters=filters, max_new_tokens=4))
    assert [record["adapter"] for record in records] == ["one", None, "one"]
