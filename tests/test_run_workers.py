"""`miaotui run --workers`: the output of a run by one process, whoever is killed; and nobody is left over."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import weakref
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import soak
from helpers import complaint
from miaotui.tools import cli, demo
from miaotui.tools.batch import divided
from miaotui.tools.batch.workers import Worker
from task_models import write_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMMAND = (sys.executable, "-m", "miaotui", "run", "text-classification")
LABELS = ("negative", "neutral", "positive")
WORDS = ["a", "good", "bad", "film", "company", "Ana", "flew", "to", "Berlin", "日本語", "😀"]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("workers") / "classes", "bert", "classes", labels=LABELS)


def write_inputs(folder: Path, n: int, seed: int = 0) -> Path:
    """Three files of `n` records each, with bad lines among them."""
    drawn = random.Random(seed)  # noqa: S311 - words
    texts = [" ".join(drawn.choices(WORDS, k=drawn.randint(1, 30))) for _ in range(3 * n)]
    for at in range(n // 3, 3 * n, n):
        texts[at] = "w " * 100
    (folder / "in" / "deep").mkdir(parents=True)
    (folder / "in" / "a.txt").write_text("\n".join(texts[:n]), encoding="utf-8")
    values = [json.dumps({"id": i, "text": text}) + "\n" * (1 + i % 2) for i, text in enumerate(texts[n : 2 * n])]
    values[n // 2] = "{\n"
    (folder / "in" / "deep" / "b.jsonl").write_text("".join(values))
    cells = "".join(f'{i},"{text}\n"\n' for i, text in enumerate(texts[2 * n :]))
    (folder / "in" / "c.csv").write_text("id,text\n" + cells, encoding="utf-8")
    return folder / "in"


def files_in(folder: Path) -> dict[str, bytes]:
    """Outputs by name, without journals."""
    every = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".journal"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in every}


@pytest.fixture
def run(classifier: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command in this process: code, stdout, stderr."""

    def call(*words: object) -> tuple[int, str, str]:
        os.chdir(tmp_path)
        try:
            code = cli.main(["run", "text-classification", "--model", str(classifier), *map(str, words)])
        except SystemExit as e:
            code = int(str(e.code))
        out, err = capfd.readouterr()
        return code, out, complaint(err)

    here = Path.cwd()
    yield call
    os.chdir(here)


WRONG: list[tuple[list[object], int, str]] = [
    (["--workers", 0], 2, r"--workers 0: expected a number from 1 to 1024"),
    (["--workers", 2, "--retries", -1], 2, r"--retries -1: expected a number from 0 to"),
    (["--workers", 2, "--input", "-"], 2, r"--input -: standard input is one stream, and --workers 2 needs files"),
    (["--workers", 2, "--output", "-"], 2, r"--output -: standard output is one stream, and --workers 2 needs files"),
    (["--input", "in", "--output", "-"], 2, r"--output -: standard output is one stream, and --input in needs files"),
    (["--engine", "daft", "--output", "-"], 2, r"--output -: standard output is one stream, and --engine daft needs"),
    (["--workers", 2, "--output", "a.txt"], 2, r"--output a\.txt: it is --input too"),
    (["--workers", 2, "--output", "/dev/null"], 2, r"--output /dev/null: it is no regular file, which workers need"),
    (["--input", "none/*.txt"], 2, r"--input none/\*\.txt: there is no such file"),
    (["--input", "in", "--output", "in/out"], 2, r"--output in/out: it lies in --input in"),
    (["--input", "in", "--output", "out", "--column", "x"], 2, r"--column text=x: there is no such column"),
    (["--input", "in", "--output", "a.txt"], 2, r"--output a\.txt: it is a file; of several inputs expected a dir"),
    (["--input", "in", "--output", "foreign"], 2, r"--output foreign/c\.jsonl: it is there, and no run .* wrote it"),
]


@pytest.mark.parametrize(("words", "code", "says"), WRONG, ids=[says for *_, says in WRONG])
def test_what_is_refused(tmp_path: Path, run: Any, words: list[object], code: int, says: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "c.jsonl").write_text("1\n")
    (tmp_path / "a.txt").write_text("a\n")
    (tmp_path / "in" / "c.csv").write_text("text\na\n")
    given = {"--input": "a.txt", "--output": "o.jsonl"} | dict(zip(words[::2], words[1::2], strict=True))
    got, out, err = run(*[word for pair in given.items() for word in pair])
    assert re.match(f"miaotui: error: {says}", err), err
    assert (got, out) == (code, "")


def test_daft_is_named_where_it_is_missing(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "daft", None)
    (tmp_path / "a.txt").write_text("a\n")
    code, _, err = run("--input", "a.txt", "--output", "o.jsonl", "--engine", "daft")
    assert (code, err) == (
        1,
        "miaotui: error: --engine daft: needs Daft: pip install 'miaotui[daft]'; --engine processes needs nothing\n",
    )


def test_files_of_a_directory_one_after_the_other(tmp_path: Path, run: Any) -> None:
    write_inputs(tmp_path, 20)
    (tmp_path / "in" / "notes.md").write_text("")
    code, _, err = run("--input", "in", "--output", "out", "--errors", "bad")
    told, summary = err.splitlines()
    assert code == 0
    assert told == "note: --input in: 1 file passed over, of no known ending (the first is notes.md)"
    assert re.fullmatch(r"out: 56 lines of 3 files, 4 bad in bad; \d+\.\d s, [\d,]+ lines/s", summary)
    for name in ("a.txt", "deep/b.jsonl", "c.csv"):
        alone = ["--input", f"in/{name}", "--output", "one.jsonl", "--errors", "one.bad", "--restart"]
        assert run(*alone)[0] == 0
        place = Path(name).with_suffix(".jsonl")
        assert (tmp_path / "out" / place).read_bytes() == (tmp_path / "one.jsonl").read_bytes()
        assert (tmp_path / "bad" / place).read_bytes() == (tmp_path / "one.bad").read_bytes()
    assert (
        run("--input", "in", "--output", "out", "--errors", "bad")[2]
        .splitlines()[1]
        .endswith("out: 56 lines of 3 files, 4 bad in bad; nothing was left to do")
    )
    code, _, err = run("--input", "in", "--output", "other")
    assert (code, "in/a.txt, line 7: " in err) == (1, True)
    code, _, err = run("--input", "in/deep/*.jsonl", "--output", "fresh", "--errors", "others")
    assert (code, sorted(files_in(tmp_path / "others"))) == (0, ["b.jsonl"])


@pytest.mark.ci  # 8 s
def test_workers_write_what_one_process_writes(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_inputs(tmp_path, 150)
    assert run("--input", "in", "--output", "one", "--errors", "ones")[0] == 0
    monkeypatch.setattr(divided, "SMALLEST", 1024)
    code, _, err = run("--input", "in", "--output", "two", "--errors", "twos", "--workers", 2)
    assert (code, err.count("\n")) == (0, 1), err
    assert files_in(tmp_path / "two") == files_in(tmp_path / "one")
    assert files_in(tmp_path / "twos") == files_in(tmp_path / "ones")
    with (tmp_path / "in" / "c.csv").open("a") as f:  # lines that are added are done
        f.write("new,a good film\n")
    for name in ("two", "one"):
        workers = ["--workers", 2] if name == "two" else []
        assert "; 1 of them now; " in run("--input", "in", "--output", name, "--errors", f"{name}s", *workers)[2]
    assert files_in(tmp_path / "two") == files_in(tmp_path / "one")
    code, _, err = run("--input", "in", "--output", "three", "--workers", 2)
    assert (code, "in/a.txt, line 51: " in err) == (1, True)
    lines = (tmp_path / "three" / "a.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in lines] == list(range(1, 51))
    code, _, err = run("--input", "in/a.txt", "--output", "four.jsonl", "--workers", 2, "--quantize", "int3")
    assert (code, err.startswith("miaotui: error: --quantize int3: ")) == (2, True), err


@pytest.mark.ci  # 4 s
def test_what_is_drawn_does_not_depend_on_workers(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("Once upon a time\nTom had\nA dog\nThe sun\n")
    words = [sys.executable, "-m", "miaotui", "run", "text-generation", "--model", str(demo.path())]
    words += ["--input", str(tmp_path / "in.txt"), "--set", "max_new_tokens=12", "--set", "temperature=2"]
    for name, more in (("one.jsonl", []), ("two.jsonl", ["--workers", "2", "--threads", "1"])):
        subprocess.run([*words, "--output", str(tmp_path / name), *more], check=True, capture_output=True)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


# ---------------------------------------------------------------- stops


@contextmanager
def stopped_in_a_callback() -> Iterator[Any]:
    """SIGTERM arrives where Python drops what a handler raises."""

    class Object:
        pass

    one = Object()
    seen = weakref.ref(one, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    del one
    assert seen() is None
    time.sleep(30)
    yield None, None


def test_a_stop_that_python_drops_is_asked_for_again(capfd: pytest.CaptureFixture[str]) -> None:
    worker = Worker(stopped_in_a_callback)
    worker.process.join(20)
    assert worker.process.exitcode == 0
    worker.close()
    assert capfd.readouterr().err == ""


@pytest.mark.ci  # 8 s
def test_a_worker_ends_without_a_word_whenever_it_is_asked_to(capfd: pytest.CaptureFixture[str]) -> None:
    drawn = random.Random(7)  # noqa: S311 - moments
    for _ in range(40):
        worker = Worker(partial(nullcontext, (None, None)))
        time.sleep(drawn.uniform(0.05, 0.3))
        worker.end()
        worker.close()
    assert capfd.readouterr().err == ""


# ---------------------------------------------------------------- kills


def children(pid: int) -> list[int]:
    """Processes that this one started."""
    with suppress(OSError):
        return [int(n) for task in Path(f"/proc/{pid}/task").iterdir() for n in (task / "children").read_text().split()]
    return []


def below(pid: int) -> list[int]:
    return [each for child in children(pid) for each in (child, *below(child))]


def gone(pids: list[int]) -> bool:
    """Whether they end, within a minute."""
    until = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.01)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def size_of(folder: Path) -> int:
    """Bytes of results, those of parts too."""
    total = 0
    for path in folder.rglob("*.jsonl"):
        with suppress(OSError):
            total += path.stat().st_size
    return total


def words_of(folder: Path, classifier: Path, name: str, workers: int) -> list[str]:
    words = [*COMMAND, "--model", str(classifier), "--input", str(folder / "in"), "--output", str(folder / name)]
    return [*words, "--errors", str(folder / f"{name}s"), "--workers", str(workers), "--retries", "20"]


def kill_anyone(folder: Path, classifier: Path, n: int, kills: int, seed: int) -> tuple[int, int]:
    """Kill a worker, or all by the parent, whenever some more was written; how often each."""
    write_inputs(folder, n, seed)
    done = subprocess.run(words_of(folder, classifier, "one", 1), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    whole, drawn, killed = size_of(folder / "one"), random.Random(seed), [0, 0]  # noqa: S311 - moments
    command = words_of(folder, classifier, "two", 3)
    going = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    for share in sorted(drawn.uniform(0, 0.9) for _ in range(kills)):
        while size_of(folder / "two") < share * whole and going.poll() is None:
            time.sleep(0.001)
        workers = children(going.pid)
        parent = not workers or drawn.random() < 0.3
        if going.poll() is not None:
            break
        every = below(going.pid)
        os.kill(going.pid if parent else drawn.choice(workers), signal.SIGKILL)
        killed[parent] += 1
        if parent:
            going.wait()
            assert gone(every)
            going = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    assert going.wait() == 0
    assert files_in(folder / "two") == files_in(folder / "one")
    assert files_in(folder / "twos") == files_in(folder / "ones")
    return killed[0], killed[1]


@pytest.mark.ci  # 20 s
def test_whoever_is_killed_the_output_is_that_of_one_process(tmp_path: Path, classifier: Path) -> None:
    workers, parents = kill_anyone(tmp_path, classifier, 800, 3, 3)
    assert workers + parents >= 2


@pytest.mark.soak("workers")
def test_whoever_is_killed_often_the_output_is_that_of_one_process(tmp_path: Path, classifier: Path) -> None:
    workers, parents = kill_anyone(tmp_path, classifier, 8000, 20, random.randrange(2**32))  # noqa: S311 - moments
    soak.count("workers killed", workers)
    soak.count("parents killed", parents)
    assert workers + parents > 10


@pytest.mark.soak("engines")
def test_where_a_worker_of_daft_is_killed_the_same_command_goes_on(tmp_path: Path, classifier: Path) -> None:
    """A worker's death ends the query; so may the run's own. In the end the output is that of one process."""
    pytest.importorskip("daft")
    write_inputs(tmp_path, 3000, 5)
    command = words_of(tmp_path, classifier, "one", 1)
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    whole, killed = size_of(tmp_path / "one"), 0
    command = [*words_of(tmp_path, classifier, "two", 2)[:-2], "--engine", "daft"]
    going = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for share in (0.1, 0.3, 0.5, 0.7):
        while size_of(tmp_path / "two") < share * whole and going.poll() is None:
            time.sleep(0.001)
        every = below(going.pid)
        workers = [pid for pid in every if b"daft" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        if going.poll() is not None or not workers:
            break
        os.kill(workers[-1] if share < 0.5 else going.pid, signal.SIGKILL)
        killed += 1
        said = going.communicate(timeout=120)[1]
        assert share >= 0.5 or (going.returncode == 1 and "the same command goes on from there" in said), said
        assert gone(every)
        going = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    said = going.communicate(timeout=600)[1]
    assert going.returncode == 0, said
    soak.count("kills", killed)
    assert killed > 1
    assert files_in(tmp_path / "two") == files_in(tmp_path / "one")
    assert files_in(tmp_path / "twos") == files_in(tmp_path / "ones")


@pytest.mark.ci  # 10 s
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_workers_end_with_the_run(tmp_path: Path, classifier: Path, number: signal.Signals) -> None:
    write_inputs(tmp_path, 600)
    command = words_of(tmp_path, classifier, "two", 2)
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # who is begun in the background may ignore it
    try:
        going = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, heard)
    while size_of(tmp_path / "two") < 2000 and going.poll() is None:
        time.sleep(0.001)
    every = below(going.pid)
    assert len(every) > 1
    if number == signal.SIGINT:  # as a terminal does: to all
        os.killpg(going.pid, number)
    else:
        going.send_signal(number)
    _, err = going.communicate()
    assert gone(every)
    if number == signal.SIGINT:
        assert going.returncode == 130
        [told] = re.findall(r"two: interrupted: ([\d,]+) lines are done; the same command goes on from there", err)
        assert int(told.replace(",", "")) > 0
        assert "Traceback" not in err
    else:
        assert going.returncode == -signal.SIGTERM
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
