"""Runs in parts: wherever cut, done in whatever order, and stopped whenever, the output is an unbroken run's."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import CheckpointError, InputError, MiaotuiError, WorkerError
from miaotui.tools.batch import divided, work
from miaotui.tools.batch.dispatch import by_processes
from miaotui.tools.batch.divided import Divided, Source, parts_of
from miaotui.tools.batch.inputs import Inputs
from miaotui.tools.batch.parts import Part, do_part
from miaotui.tools.batch.records import MARK, Before, Records
from miaotui.tools.batch.sources import sources_of
from miaotui.tools.batch.work import Run
from miaotui.tools.batch.workers import Pool, Said
from worker_tasks import broken, deadly, predicted, upper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miaotui.tools.batch.journal import Commit

FORMS = ("txt", "jsonl", "csv", "tsv")
INPUTS = Inputs("fill-mask")
ABOUT = {"TASK": "upper"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here loses its power."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def text_of(form: str) -> st.SearchStrategy[bytes]:
    """With all that is odd in files: quotation marks that none ends, blank lines, bad bytes, marks, no last end."""
    pieces = [b"\n", b"\r\n", b'"', b",", b"\t", b"a", b"bad x", b"\xff", MARK, b'{"text": "b"}', b'"c"', b"\n\n", b"3"]
    body = st.lists(st.sampled_from(pieces), max_size=60).map(b"".join)
    head = {"csv": b"text,n\n", "tsv": b"text\tn\n"}.get(form, b"")
    return st.tuples(st.sampled_from([b"", MARK]), body).map(lambda two: two[0] + head + two[1])


@settings(max_examples=150)
@given(data=st.data(), form=st.sampled_from(FORMS), size=st.integers(1, 40))
def test_pieces_hold_the_records_of_the_whole(data: st.DataObject, form: Any, size: int) -> None:
    text = data.draw(text_of(form))
    whole = [(r.line, r.raw, r.value, r.wrong) for r in Records(io.BytesIO(text), form, "in")]
    records = Records(io.BytesIO(text), form, "in")
    header, got, at = tuple(records.columns), [], records.place
    for piece in records.pieces(size):
        assert piece.start == at
        at = piece.end
        alone = io.BytesIO(text[piece.start.offset : at.offset])
        part = Records(alone, form, "in", before=Before(piece.start.lines, header))
        got += [(r.line, r.raw, r.value, r.wrong) for r in part]
        assert (part.place.lines, part.place.sha256) == (at.lines, piece.sha256)
    assert got == whole
    assert at.offset == len(text)


def unbroken(folder: Path, source: Source) -> str | None:
    """One run, in `folder`; the error that ended it."""
    folder.mkdir()
    errors = None if source.errors is None else folder / source.errors.name
    with source.path.open("rb") as f, suppress(InputError), Run(folder / source.output.name, errors, ABOUT) as run:
        records = Records(f, source.form, source.name, skips=errors is not None)
        run.begin(records)
        try:
            list(run.work(records, INPUTS, predicted))
        except InputError as e:
            return str(e)
    return None


def files_in(folder: Path) -> dict[str, bytes]:
    """All but journals."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.suffix != ".journal"}


class StoppedError(Exception):
    """As a kill between two chunks."""


def done(part: Part, drawn: random.Random) -> Commit | MiaotuiError:
    """What a part comes to, however often it is stopped."""

    def step(_: Commit) -> None:
        if drawn.random() < 0.2:
            raise StoppedError

    while True:
        with suppress(StoppedError):
            try:
                return do_part(part, INPUTS, predicted, step=step, careful=drawn.random() < 0.5)
            except MiaotuiError as e:
                return e


def in_parts(sources: list[Source], drawn: random.Random) -> None:
    """Parts in any order, each stopped and begun again, the whole as well. `InputError`, `StoppedError`."""
    with Divided(sources, lambda _: ABOUT) as run:
        parts, waiting = run.parts(), list[Part]()
        for part in parts:
            waiting += [] if part is None else [part]
            if drawn.random() < 0.1:
                raise StoppedError
            while waiting and (part is None or drawn.random() < 0.5):
                one = waiting.pop(drawn.randrange(len(waiting)))
                run.take(one, done(one, drawn))
        while waiting:
            one = waiting.pop(drawn.randrange(len(waiting)))
            run.take(one, done(one, drawn))


@settings(max_examples=60)
@given(data=st.data())
def test_parts_in_any_order_stopped_at_any_time_are_an_unbroken_run(data: st.DataObject) -> None:
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patched:
        folder = Path(name)
        patched.setattr(work, "CHUNK", 3)
        patched.setattr(divided, "SMALLEST", data.draw(st.integers(1, 60)))
        patched.setattr(divided, "AHEAD", data.draw(st.integers(1, 5)))
        apart, sources = data.draw(st.booleans()), []
        (folder / "out").mkdir()
        for n, form in enumerate(data.draw(st.lists(st.sampled_from(FORMS), min_size=1, max_size=3))):
            path = folder / f"{n}.{form}"
            path.write_bytes(data.draw(text_of(form)))
            errors = folder / "out" / f"{n}.bad" if apart else None
            sources.append(Source(path, form, folder / "out" / f"{n}.jsonl", errors, path.name))
        wanted, says = dict[str, bytes](), None
        for n, source in enumerate(sources):
            says = unbroken(folder / f"whole{n}", source)
            wanted |= files_in(folder / f"whole{n}")
            if says is not None:
                break
        drawn, told = random.Random(data.draw(st.integers(0, 2**32))), ""  # noqa: S311 - an order
        while told == "":
            with suppress(StoppedError):
                try:
                    told = in_parts(sources, drawn)
                except InputError as e:
                    told = str(e)
        assert told == says
        got = files_in(folder / "out")
        assert {name: text for name, text in got.items() if text or name in wanted} == wanted
        if says is None:
            assert not [p for p in (folder / "out").iterdir() if p.is_dir()]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setattr(divided, "SMALLEST", 200)
    path = tmp_path / "in.txt"
    path.write_text("".join(f"text {n}\n" for n in range(400)))
    return Source(path, "txt", tmp_path / "out.jsonl", tmp_path / "bad.jsonl", "in.txt")


def test_either_goes_on_where_the_other_was_stopped(source: Source, tmp_path: Path) -> None:
    assert unbroken(tmp_path / "whole", source) is None
    with Divided([source], lambda _: ABOUT) as run:
        parts = run.parts()
        for part in [next(parts) for _ in range(9)]:
            assert part is not None
            run.take(part, do_part(part, INPUTS, predicted, step=lambda _: None))
    assert 0 < len(source.output.read_bytes().splitlines()) < 400
    with source.path.open("rb") as f, Run(source.output, source.errors, ABOUT) as alone:
        records = Records(f, "txt", "in.txt")
        alone.begin(records)
        next(alone.work(records, INPUTS, predicted))
    with Divided([source], lambda _: ABOUT) as run:
        for part in run.parts():
            assert part is not None
            run.take(part, do_part(part, INPUTS, predicted, step=lambda _: None))
    assert source.output.read_bytes() == (tmp_path / "whole" / "out.jsonl").read_bytes()
    assert not parts_of(source.output).exists()


def test_parts_of_other_bytes_or_options_are_done_again(source: Source, tmp_path: Path) -> None:
    """An input that was mended after its first part, and another option, are not answered from what is left."""
    for about, change in (({"TASK": "other"}, "text"), (ABOUT, "word"), (ABOUT, "next")):
        source.path.write_text("".join(f"{change if n > 300 else 'text'} {n}\n" for n in range(400)))
        with suppress(StoppedError), Divided([source], lambda _, about=about: about) as run:
            for part in [part for part in run.parts() if part is not None][1:]:
                do_part(part, INPUTS, predicted, step=lambda _: None)  # and not added
            raise StoppedError
    unbroken(tmp_path / "whole", source)
    with Divided([source], lambda _: ABOUT) as run:
        for part in run.parts():
            assert part is not None
            run.take(part, do_part(part, INPUTS, predicted, step=lambda _: None))
    assert source.output.read_bytes() == (tmp_path / "whole" / "out.jsonl").read_bytes()


def test_an_input_that_changes_while_it_is_read_is_told(source: Source) -> None:
    with Divided([source], lambda _: ABOUT) as run:
        part = next(run.parts())
        assert part is not None
        source.path.write_bytes(source.path.read_bytes().replace(b"text 3\n", b"next 3\n"))
        with pytest.raises(InputError, match=r"^in\.txt, lines 1 to \d+: changed while they were read; .*--restart"):
            do_part(part, INPUTS, predicted, step=lambda _: None)


# ---------------------------------------------------------------- files


def names(given: Path, output: Path, asked: Any = None) -> tuple[list[str], list[str]]:
    sources, passed = sources_of(given, asked, output, None)
    return [str(source.output.relative_to(output)) for source in sources], [path.name for path in passed]


def test_files_of_a_directory_or_pattern_keep_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.txt", "a.csv", "sub/c.jsonl", "sub/b.txt", ".hidden.txt", ".d/e.txt", "notes.md"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text("a\n")
    out = tmp_path / "out"
    every = ["a.jsonl", "b.jsonl", "sub/b.jsonl", "sub/c.jsonl"]
    assert names(tmp_path / "in", out) == (every, ["notes.md"])
    assert names(tmp_path / "in" / "**" / "*.txt", out) == (["b.jsonl", "sub/b.jsonl"], [])
    assert names(tmp_path / "in" / "*" / "b.*", out) == (["sub/b.jsonl"], [])
    assert names(tmp_path / "in" / "b.txt", out) == (["b.jsonl"], [])
    assert names(tmp_path / "in", out, "txt")[0] == ["a.jsonl", "b.jsonl", "notes.jsonl", "sub/b.jsonl", "sub/c.jsonl"]
    monkeypatch.chdir(tmp_path / "in")
    assert names(Path("*.txt"), out) == (["b.jsonl"], [])
    (tmp_path / "in" / "b.csv").write_text("text\n")
    with pytest.raises(
        InputError, match=r"^--output \S+b\.jsonl: the results of both \S+b\.csv and \S+b\.txt would go"
    ):
        names(tmp_path / "in", out)


def test_outputs_that_would_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    given = tmp_path / "in"
    with pytest.raises(InputError, match=r"^--input \S+in: there is no such file"):
        names(given, tmp_path / "out")
    (given / "a.log").write_text("a")
    with pytest.raises(InputError, match=r"^--input \S+in: none of its 1 files has an ending that tells"):
        names(given, tmp_path / "out")
    (given / "a.jsonl").write_text("1")
    with pytest.raises(InputError, match=r"^--output \S+/in/out: it lies in --input \S+in, and would be read"):
        names(given, given / "out")
    with pytest.raises(InputError, match=r"^--output: \S+/in/a\.jsonl is one of the files of --input"):
        names(given / "*.jsonl", given)
    with pytest.raises(InputError, match=r"^--output \S+a\.log: it is a file; of several inputs expected a directory"):
        names(given, given / "a.log")
    with pytest.raises(InputError, match=r"^--errors \S+out: it is --output too"):
        sources_of(given, None, tmp_path / "out", tmp_path / "out")


# ---------------------------------------------------------------- processes


def by_workers(source: Source, make: Any, *, n: int = 2, retries: int = 2) -> list[Said]:
    """All of it; what the workers said."""
    said: list[Said] = []
    with Divided([source], lambda _: ABOUT) as run:
        results = by_processes(run.parts(), Pool(make, n), retries=retries, step=lambda *_: None, said=said.append)
        for part, result in results:
            run.take(part, result)
    return said


def rows(path: Path | None) -> Iterator[Any]:
    assert path is not None
    return map(json.loads, path.read_text().splitlines())


@pytest.mark.ci  # 8 s
def test_a_record_that_ends_its_worker_is_kept_apart_or_named(source: Source, tmp_path: Path) -> None:
    lines = source.path.read_text().splitlines()
    lines[40], lines[41], lines[150], lines[300] = "kill me", f"once {tmp_path / 'mark'}", "bad one", "room"
    source.path.write_text("\n".join(lines))
    said = by_workers(source, upper, retries=1)
    assert Said("it speaks", warned=True) in said
    assert [row["line"] for row in rows(source.output)] == [n for n in range(1, 401) if n not in {41, 151, 301}]
    bad = {row["line"]: row["error"] for row in rows(source.errors)}
    assert bad == {
        41: "its worker was killed by SIGKILL, as the system does when memory runs out, twice",
        151: "no good",
        301: "its worker ended (no room), twice",
    }
    shutil.rmtree(tmp_path / "out.jsonl.parts", ignore_errors=True)
    (tmp_path / "mark").unlink()
    alone = Source(source.path, "txt", tmp_path / "two.jsonl", None, "in.txt")
    with pytest.raises(WorkerError, match=r"^in\.txt, line 41: its worker was killed .* 3 times; --errors"):
        by_workers(alone, upper)
    assert [row["line"] for row in rows(alone.output)] == list(range(1, 41))
    lines[40], lines[300] = "text 40", "bug"
    source.path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"^in\.txt, line 151: no good; --errors FILE"):
        by_workers(alone, upper)  # goes on: the lines that were done are as they were
    assert [row["line"] for row in rows(alone.output)] == list(range(1, 151))
    lines[150] = "text 150"
    source.path.write_text("\n".join(lines))
    with pytest.raises(
        WorkerError, match=r"^in\.txt, line 301: its worker ended \(ZeroDivisionError: .*\), twice; --e"
    ):
        by_workers(alone, upper, retries=1)
    lines[300] = "text 300"
    source.path.write_text("\n".join(lines))
    by_workers(alone, upper)
    assert [row["line"] for row in rows(alone.output)] == list(range(1, 401))


@pytest.mark.ci  # 3 s
def test_a_model_that_is_not_to_be_loaded_ends_the_run(source: Source) -> None:
    with pytest.raises(CheckpointError, match=r"^config\.json: it is damaged$"):
        by_workers(source, broken)
    with pytest.raises(WorkerError, match=r"^a worker was killed by SIGKILL.* before its model was loaded, twice in a"):
        by_workers(source, deadly, retries=1)
    by_workers(source, partial(upper, task="fill-mask"))
    assert len(list(rows(source.output))) == 400
