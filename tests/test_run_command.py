"""`miaotui run` as it is typed: results equal to the pipeline's, options, errors, and real kills."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import miaotui
import pytest
import soak
from helpers import complaint
from miaotui.tools import cli, demo
from miaotui.tools.batch import outcomes, work
from real_files import real
from task_models import ENTITIES, write_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COMMAND = (sys.executable, "-m", "miaotui", "run", "text-classification")
LABELS = ("negative", "neutral", "positive")
TEXTS = ["a good film", "Ana flew to Berlin.", "", "日本語 😀", "w " * 30]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("run") / "classes", "bert", "classes", labels=LABELS)


@pytest.fixture
def run(classifier: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command in this process, in `tmp_path`: code, stdout, stderr."""

    def call(*words: object, task: str = "text-classification") -> tuple[int, str, str]:
        given = [
            str(tmp_path / w) if isinstance(w, str) and re.fullmatch(r"[a-z]+\.[a-z]+", w) else str(w) for w in words
        ]
        try:
            code = cli.main(["run", task, "--model", str(classifier), *given])
        except SystemExit as e:
            code = int(str(e.code))
        out, err = capfd.readouterr()
        return code, out, complaint(err)

    return call


def lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_results_are_those_of_the_pipeline(classifier: Path, tmp_path: Path, run: Any) -> None:
    with miaotui.pipeline("text-classification", classifier) as pipe:
        wanted, two = pipe(TEXTS), pipe(TEXTS, top_k=2)
    (tmp_path / "in.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    code, out, err = run("--input", "in.txt", "--output", "out.jsonl")
    assert (code, out) == (0, "")
    assert re.fullmatch(r"\S+out\.jsonl: 5 lines; \d+\.\d s, [\d,]+ lines/s\n", err)
    assert lines(tmp_path / "out.jsonl") == [{"line": i, "output": each} for i, each in enumerate(wanted, 1)]
    code, _, err = run("--input", "in.txt", "--output", "out.jsonl")
    assert (code, err) == (0, f"{tmp_path / 'out.jsonl'}: nothing was left to do after line 5\n")
    rows = [{"id": n, "text": text, "mark": [n]} for n, text in enumerate(TEXTS)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run("--input", "in.jsonl", "--output", "two.jsonl", "--top-k", 2, "--keep", "mark")[0] == 0
    told = [{"line": n + 1, "id": n, "mark": [n], "output": each} for n, each in enumerate(two)]
    assert lines(tmp_path / "two.jsonl") == told
    (tmp_path / "in.csv").write_text("body\n" + "".join(f'"{text}"\n' for text in TEXTS if text), encoding="utf-8")
    assert run("--input", "in.csv", "--output", "csv.jsonl", "--column", "body", "--set", "top_k=2")[0] == 0
    assert [row["output"] for row in lines(tmp_path / "csv.jsonl")] == [
        t for t, text in zip(two, TEXTS, strict=True) if text
    ]


OTHERS: list[tuple[str, str, str, tuple[str, ...], list[Any], dict[str, Any]]] = [
    ("question-answering", "bert", "spans", (), [{"question": "who?", "context": "Ana flew to Berlin."}], {}),
    ("ner", "roberta", "token_classes", ENTITIES, TEXTS[:2], {"aggregation_strategy": "simple"}),
    ("feature-extraction", "bert", "", (), TEXTS[:2], {"truncation": True}),
    ("fill-mask", "bert", "masked_lm", (), [{"text": "Ana flew to [MASK]."}], {"top_k": 2}),
    ("text-ranking", "bert", "classes", ("one",), [{"query": "who?", "documents": ["Ana", "tea"]}], {"top_k": 1}),
    ("sentence-similarity", "bert", "", (), [{"source_sentence": "Ana", "sentences": ["tea", "film"]}], {}),
]


@pytest.mark.parametrize(("task", "kind", "head", "labels", "items", "how"), OTHERS, ids=[task for task, *_ in OTHERS])
def test_every_task_takes_its_fields(
    tmp_path: Path, run: Any, task: str, kind: str, head: str, labels: tuple[str, ...], items: list[Any], how: Any
) -> None:
    model = write_model(tmp_path / "model", kind, head, labels=labels)
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, items)))
    words = [word for name, value in how.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    code, _, err = run("--model", model, "--input", "in.jsonl", "--output", "out.jsonl", *words, task=task)
    assert code == 0, err
    with miaotui.pipeline(task, model) as pipe:
        wanted = list(pipe(iter([x["text"] if isinstance(x, dict) and "text" in x else x for x in items]), **how))
    assert [row["output"] for row in lines(tmp_path / "out.jsonl")] == json.loads(json.dumps(wanted))


def test_bad_lines_are_kept_apart(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "CHUNK", 3)
    long = "w " * 100
    (tmp_path / "in.txt").write_bytes(f"one\n{long}\ntwo\n".encode() + b"\xff\nthree")
    code, out, err = run("--input", "in.txt", "--output", "out.jsonl", "--errors", "bad.jsonl")
    assert (code, out) == (0, "")
    assert re.match(r"\S+out\.jsonl: 3 lines, 2 bad in \S+bad\.jsonl; ", err)
    assert [row["line"] for row in lines(tmp_path / "out.jsonl")] == [1, 3, 5]
    bad = lines(tmp_path / "bad.jsonl")
    assert [(row["line"], row["input"]) for row in bad] == [(2, long), (4, "\\xff")]
    assert re.search(r"\d+ tokens, this model takes 64.*truncation=True$", bad[0]["error"])
    code, _, err = run("--input", "in.txt", "--output", "other.jsonl")
    assert code == 1  # what stands in a file, not in the command line
    assert "in.txt, line 2: " in err
    assert "--errors FILE" in err
    assert [row["line"] for row in lines(tmp_path / "other.jsonl")] == [1]


WRONG: list[tuple[list[object], int, str]] = [
    (["--input", "in.txt", "--output", "in.txt"], 2, r"--output \S+in\.txt: it is --input too"),
    (["--input", "in.txt", "--output", "o.jsonl", "--errors", "o.jsonl"], 2, r"--errors \S+: it is --output too"),
    (["--input", "none.txt", "--output", "o.jsonl"], 2, r"--input \S+none\.txt: cannot be read \(No such file"),
    (["--input", "in.log", "--output", "o.jsonl"], 2, r"--input \S+in\.log: '\.log' does not tell its format"),
    (["--input", "in.csv", "--output", "o.jsonl"], 1, r"\S+in\.csv: no column 'text'; .*--column COLUMN"),
    (["--input", "in.csv", "--output", "o.jsonl", "--column", "x"], 2, r"--column text=x: there is no such column"),
    (["--input", "in.txt", "--output", "/dev/full"], 2, r"--output /dev/full: cannot be written \(No space left"),
    (["--input", "in.txt", "--output", f"{'x' * 300}.jsonl"], 2, r"--output \S+: cannot be written \(File name"),
    (["--input", f"{'x' * 300}.csv", "--output", "o.jsonl"], 2, r"--input \S+: cannot be read \(File name too long\)"),
    (["--input", "in.txt", "--output", "no/o.jsonl"], 2, r"--output no/o\.jsonl: cannot be written \(No such file"),
    (["--input", "in.txt", "--output", "o.jsonl", "--top-k", "0"], 2, r"--top-k 0: expected"),
    (["--input", "in.txt", "--output", "o.jsonl", "--set", "top_k=0"], 2, r"--set top_k=0: expected"),
    (["--input", "in.txt", "--output", "o.jsonl", "--set", "trunc=1"], 2, r"--set trunc: unknown parameter"),
    (["--input", "in.txt", "--output", "o.jsonl", "--set", "trunc"], 2, r"--set trunc: expected NAME=VALUE"),
    (["--input", "in.txt", "--output", "o.jsonl", "--set", "threads=1"], 2, r"--set threads=1: it has an option"),
    (["--input", "in.txt", "--output", "o.jsonl", "--set", "max_length=0"], 2, r"--set max_length=0: expected"),
    (["--input", "in.txt", "--output", "o.jsonl", "--set", "max_context=8"], 2, r"--set max_context=8: it has an opt"),
    (["--input", "in.txt", "--output", "o.jsonl", "--set", "kv_cache=int8"], 2, r"--set kv_cache=int8: it has an opt"),
    (["--input", "in.txt", "--output", "o.jsonl", "--keep", "line"], 2, r"--keep line: a line of the output has"),
    (["--input", "in.txt", "--output", "o.jsonl", "--keep", "output"], 2, r"--keep output: a line of the output has"),
    (["--input", "in.txt", "--output", "o.jsonl", "--seed", "1"], 2, r"--seed 1: only of tasks that write text"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "code", "says"), WRONG, ids=[says for *_, says in WRONG])
def test_what_is_refused(tmp_path: Path, run: Any, words: list[object], code: int, says: str) -> None:
    (tmp_path / "in.txt").write_text("a\n")
    (tmp_path / "in.log").write_text("a\n")
    (tmp_path / "in.csv").write_text("body\na\n")
    got, out, err = run(*words)
    assert re.match(f"miaotui: error: {says}", err), err
    assert (got, out) == (code, "")
    if words[3] == "o.jsonl":  # nothing is left that stands in the way of the right command
        assert run("--input", "in.txt", "--output", "o.jsonl")[0] == 0


@pytest.mark.parametrize("option", ["--input", "--errors"])
def test_the_journal_of_the_output_is_no_other_file(tmp_path: Path, run: Any, option: str) -> None:
    journal = tmp_path / "o.jsonl.journal"
    given = {"--input": tmp_path / "in.txt", "--errors": tmp_path / "bad.jsonl"} | {option: journal}
    given["--input"].write_text("a\n")
    words = [word for name, path in given.items() for word in (name, path)]
    code, _, err = run(*words, "--output", "o.jsonl", "--format", "txt")
    assert code == 2
    assert re.search(rf"{option} \S+: it is the journal of --output \S+o\.jsonl; name another file", err)
    assert not (tmp_path / "o.jsonl").exists()


def test_one_line_is_one_line_and_an_empty_table_is_the_file_s_fault(tmp_path: Path, run: Any) -> None:
    (tmp_path / "in.txt").write_text("a\n")
    assert re.search(r"out\.jsonl: 1 line; ", run("--input", "in.txt", "--output", "out.jsonl")[2])
    (tmp_path / "none.csv").write_text("")
    code, _, err = run("--input", "none.csv", "--output", "o.jsonl")
    assert (code, err.partition(": it is empty; ")[0]) == (1, f"miaotui: error: {tmp_path / 'none.csv'}")


def test_ctrl_c_says_how_much_is_done_and_how_to_go_on(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def bar(*_: object) -> Iterator[Callable[[object], None]]:
        """After two chunks someone has seen enough."""
        seen: list[object] = []

        def step(now: object) -> None:
            seen.append(now)
            if len(seen) == 2:
                raise KeyboardInterrupt

        yield step

    (tmp_path / "in.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    monkeypatch.setattr(work, "CHUNK", 2)
    with monkeypatch.context() as patched:
        patched.setattr("miaotui.tools.commands.run.bar", bar)
        code, _, err = run("--input", "in.txt", "--output", "out.jsonl")
        told = "interrupted: 4 lines are done; the same command goes on after line 4"
        assert (code, err) == (130, f"note: {tmp_path / 'out.jsonl'}: {told}\n")
        code, _, err = run("--input", "in.txt", "--output", "-")
        assert (code, "standard output: interrupted: 4 lines are done, and there is no journal" in err) == (130, True)
    assert "1 of them now, after line 4" in run("--input", "in.txt", "--output", "out.jsonl")[2]
    assert [row["line"] for row in lines(tmp_path / "out.jsonl")] == [1, 2, 3, 4, 5]


def test_a_warning_is_a_note_without_a_line_of_ours(tmp_path: Path, run: Any) -> None:
    model = write_model(tmp_path / "ner", "bert", "token_classes", labels=ENTITIES)
    (tmp_path / "in.txt").write_text("w " * 100 + "\n" + "v " * 100)
    code, _, err = run("--model", model, "--input", "in.txt", "--output", "out.jsonl", task="ner")
    told, summary = err.splitlines()
    assert (code, told.startswith("note: token-classification: a text is longer than the 64 tokens")) == (0, True)
    assert summary.startswith(f"{tmp_path / 'out.jsonl'}: 2 lines; ")


@pytest.mark.parametrize("words", [(), ("--seed", "5"), ("--set", "seed=5")], ids=["0", "--seed", "--set"])
def test_what_is_drawn_is_drawn_again_by_the_seed_in_the_journal(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """A run that is cut off after two texts goes on as an unbroken one; another seed is refused by name."""
    (tmp_path / "in.txt").write_text("Once upon a time\nTom had\nA dog\nThe sun\n")
    given = ["--model", demo.path(), "--input", "in.txt", "--set", "max_new_tokens=12", "--set", "temperature=2"]
    monkeypatch.setattr(work, "CHUNK", 2)

    def told(name: str) -> list[str]:
        assert run(*given, *words, "--output", name, task="text-generation")[0] == 0
        return [row["output"][0]["generated_text"] for row in lines(tmp_path / name)]

    whole = told("whole.jsonl")
    seed = 5 if words else 0
    with miaotui.pipeline("text-generation", demo.path(), max_new_tokens=12, temperature=2.0, seed=seed) as pipe:
        assert whole == [
            pipe(text)[0]["generated_text"] for text in ("Once upon a time", "Tom had", "A dog", "The sun")
        ]
    with monkeypatch.context() as patched:
        patched.setattr(outcomes, "apart", _torn(outcomes.apart))
        assert run(*given, *words, "--output", "cut.jsonl", task="text-generation")[0] == 130
    assert len(lines(tmp_path / "cut.jsonl")) == 2
    other = run(*given, "--seed", "6", "--output", "cut.jsonl", task="text-generation")
    assert other[0] == 2
    assert re.match(r"miaotui: error: --(set )?seed: (6|nothing), and the output was begun with ", other[2]), other[2]
    assert told("cut.jsonl") == whole


def _torn(apart: Any) -> Any:
    """The first chunk, and then Ctrl-C."""
    done = []

    def torn(*words: Any) -> Iterator[Any]:
        if done:
            raise KeyboardInterrupt
        done.append(words)
        yield from apart(*words)

    return torn


def test_another_model_or_task_is_refused_by_name(tmp_path: Path, run: Any) -> None:
    (tmp_path / "in.txt").write_text("a\n")
    assert run("--input", "in.txt", "--output", "o.jsonl", "--quantize", "int8")[0] == 0
    for words, says in (([], "--quantize: nothing"), (["--quantize", "int8", "--ffn", "0.5"], "--ffn: 0.5")):
        code, _, err = run("--input", "in.txt", "--output", "o.jsonl", *words)
        assert code == 2
        assert err.startswith(f"miaotui: error: {says}, and the output was begun with"), err
    words = ["--input", "in.txt", "--output", "o.jsonl", "--quantize", "int8"]
    assert run(*words, task="sentiment-analysis")[0] == 0  # the same by another name
    assert run(*words[:4], "--restart")[0] == 0
    assert run("--input", "in.txt", "--output", "p.jsonl", task="sentiments")[2].startswith(
        "miaotui: error: TASK: 'sentiments': no such task (did you mean sentiment-analysis?)"
    )


def test_standard_input_and_output(classifier: Path) -> None:
    text = b'id,text\n1,"a, b"\n2,c\n'
    words = ["--model", str(classifier), "--input", "-", "--format", "csv", "--output", "-", "--errors", os.devnull]
    done = subprocess.run([*COMMAND, *words], input=text, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [(row["line"], row["id"]) for row in map(json.loads, done.stdout.splitlines())] == [(2, "1"), (3, "2")]
    assert complaint(done.stderr.decode()).startswith("standard output: 2 lines; ")


def sentences(n: int) -> list[str]:
    text = real("text", "wiki.test.raw").read_text(encoding="utf-8")
    every = [s for line in text.splitlines() for s in re.split(r"(?<=[.!?]) +", line.strip()) if len(s.split()) > 3]
    return (every * (n // len(every) + 1))[:n]


@pytest.mark.ci  # 5 s
def test_a_pipe_that_is_typed_again_goes_on(tmp_path: Path, classifier: Path) -> None:
    """Standard input is passed over up to the place, and compared."""
    data = "".join(f"line {n}\n" for n in range(40)).encode()
    words = [*COMMAND, "--model", str(classifier), "--input", "-", "--output", str(tmp_path / "o.jsonl")]
    assert subprocess.run(words, input=data[:90], capture_output=True, check=False).returncode == 0
    done = subprocess.run(words, input=data, capture_output=True, check=False)
    assert done.returncode == 2  # the last line had been torn
    assert b"the last one then, is longer now" in done.stderr
    (tmp_path / "o.jsonl").unlink()
    (tmp_path / "o.jsonl.journal").unlink()
    assert subprocess.run(words, input=data[:70], capture_output=True, check=False).returncode == 0
    assert subprocess.run(words, input=data, capture_output=True, check=False).returncode == 0
    assert [row["line"] for row in lines(tmp_path / "o.jsonl")] == list(range(1, 41))


def kill_and_go_on(folder: Path, classifier: Path, kills: int, n: int, seed: int) -> int:
    """Kill a run with -9 at random moments, until the last goes to its end; how many died with lines written."""
    texts = sentences(n)
    texts[n // 3], texts[n // 2] = "w " * 100, "\udcff"
    (folder / "in.txt").write_text("\n".join(texts), encoding="utf-8", errors="surrogateescape")
    words = [*COMMAND, "--model", str(classifier), "--input", str(folder / "in.txt"), "--set", "truncation=false"]

    def outputs(name: str) -> list[str]:
        return ["--output", str(folder / f"{name}.jsonl"), "--errors", str(folder / f"{name}-bad.jsonl")]

    def to_its_end(name: str) -> None:
        done = subprocess.run([*words, *outputs(name)], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr

    to_its_end("whole")
    drawn, died, file = random.Random(seed), 0, folder / "killed.jsonl"  # noqa: S311 - moments
    whole = (folder / "whole.jsonl").stat().st_size
    for share in sorted(drawn.uniform(0, 0.8) for _ in range(kills)):
        before = file.stat().st_size if file.exists() else 0
        going = subprocess.Popen([*words, *outputs("killed")], stderr=subprocess.DEVNULL)
        until, size = time.monotonic() + 60, max(before + 1, int(share * whole))  # at the least a line more
        while time.monotonic() < until and going.poll() is None and not (file.exists() and file.stat().st_size >= size):
            time.sleep(0.001)
        going.send_signal(signal.SIGKILL)
        died += going.wait() == -signal.SIGKILL
    to_its_end("killed")
    for end in (".jsonl", "-bad.jsonl"):
        assert (folder / f"killed{end}").read_bytes() == (folder / f"whole{end}").read_bytes()
    good, bad = lines(folder / "whole.jsonl"), lines(folder / "whole-bad.jsonl")
    assert sorted(row["line"] for row in good + bad) == list(range(1, n + 1))
    assert {n // 3 + 1, n // 2 + 1} <= {row["line"] for row in bad}
    return died


@pytest.mark.ci  # 20 s
def test_a_run_killed_three_times_is_as_an_unbroken_one(tmp_path: Path, classifier: Path) -> None:
    assert kill_and_go_on(tmp_path, classifier, 3, 2000, 0) == 3


@pytest.mark.soak("kills")
def test_a_run_killed_ten_times_is_as_an_unbroken_one(tmp_path: Path, classifier: Path) -> None:
    seed = random.randrange(2**32)  # noqa: S311 - moments
    died = kill_and_go_on(tmp_path, classifier, 10, 12_000, seed)
    assert died == 10
    soak.count("kills", died)
