"""`tools/batch`: records of files, outputs that are taken up again after a kill, bad lines kept apart."""

from __future__ import annotations

import io
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError, TokenizerError
from miaotui.tools.batch import journal, outputs, work
from miaotui.tools.batch.fingerprint import fingerprint
from miaotui.tools.batch.inputs import Inputs, columns_of
from miaotui.tools.batch.journal import Commit, read_journal
from miaotui.tools.batch.records import MOST, Records, format_of
from miaotui.tools.batch.work import Run

if TYPE_CHECKING:
    from collections.abc import Iterator

DRAWN = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here loses its power."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def read(data: bytes, form: Any) -> list[Any]:
    return list(Records(io.BytesIO(data), form, "in"))


def told(data: bytes, form: Any) -> list[tuple[int, Any]]:
    """(line, value or what is wrong) of each record."""
    return [(r.line, r.wrong if r.wrong is not None else r.value) for r in read(data, form)]


# ---------------------------------------------------------------- reading


def test_lines_of_text() -> None:
    data = "\ufeffa\r\nb\u2028c\rd\n\n \x85\nlast".encode()
    assert told(data, "txt") == [(1, "a"), (2, "b\u2028c\rd"), (3, ""), (4, " \x85"), (5, "last")]
    assert told(b"", "txt") == []
    assert told(b"ok\n\xff\xfe\nok\n", "txt") == [(1, "ok"), (2, "byte 0 (0xff) is not UTF-8"), (3, "ok")]


def test_json_values() -> None:
    data = b'"a"\n\n{"text": "b"}\r\n{"a":1,"a":2}\nnope\nNaN\n' + b"[" * 99_999 + b"\n" + b"9" * 5000 + b"\n3"
    (a, b, twice, bad, nan, deep, long, last) = told(data, "jsonl")
    assert (a, b, last) == ((1, "a"), (3, {"text": "b"}), (9, 3))
    assert twice == (4, "the key 'a' is given twice")
    assert bad == (5, "not valid JSON (Expecting value at character 0)")
    assert nan == (6, "NaN is no JSON number")
    assert deep == (7, "JSON is nested too deep")
    assert long[0] == 8
    assert "digits" in long[1]


def test_rows_of_csv() -> None:
    data = b'\xef\xbb\xbftext,id\r\n"a\r\nb ""c""",1\r\n\r\n5" nails,2\nx\n"p"q,3\n"\xffy",4\n"open,5\nz,6\n'
    assert told(data, "csv") == [
        (2, {"text": 'a\r\nb "c"', "id": "1"}),
        (5, {"text": '5" nails', "id": "2"}),
        (6, "1 field, where the header has 2"),
        (7, "',' expected after '\"'"),
        (8, "byte 1 (0xff) is not UTF-8"),
        (9, 'a quotation mark (") that none ends'),
        (10, {"text": "z", "id": "6"}),
    ]
    assert told(b'a\tb\n"x"\ty\n', "tsv") == [(2, {"a": "x", "b": "y"})]
    wide = b"a\n" + b"x" * 200_000 + b"\n"  # more than Python's own limit of a field
    assert told(wide, "csv") == [(2, {"a": "x" * 200_000})]


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"", "it is empty"), (b"a,a\n", "each once"), (b"a,,b\n1,2,3", "name for"), (b"\xff\n", "UTF-8")],
)
def test_headers_that_make_no_sense(data: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read(data, "csv")


@pytest.mark.parametrize("form", ["txt", "jsonl", "csv"])
def test_a_line_that_is_too_long_is_passed_over(form: str) -> None:
    data = (b"text\n" if form == "csv" else b"") + b"1\n" + b"x" * (2 * MOST + 5) + b"\n2\n" + b"y" * (MOST + 1)
    start = 2 if form == "csv" else 1
    (one, long, two, end) = read(data, form)
    assert [r.line for r in (one, long, two, end)] == [start, start + 1, start + 2, start + 3]
    for record in (long, end):
        assert record.wrong == f"the line has more than {MOST:,} bytes"
        assert len(record.raw) == MOST
    assert end.after.offset == len(data)


pieces = st.lists(
    st.sampled_from([b"a", b"\n", b"\r\n", b'"', b",", b"{}", b'"x"', b"\xff", b"\xc3\xa9", b"1"]), max_size=40
)


@DRAWN
@given(pieces, st.sampled_from(["txt", "jsonl", "csv", "tsv"]))
def test_every_place_is_one_to_go_on_from(drawn: list[bytes], form: Any) -> None:
    """And no byte is in two records, or in none."""
    data = (b"h,i\n" if form == "csv" else b"h\n" if form == "tsv" else b"") + b"".join(drawn)
    every = read(data, form)
    for n, record in enumerate(every):
        again = Records(io.BytesIO(data), form, "in")
        again.go_to(record.after)
        assert list(again) == every[n + 1 :]
    assert [r.line for r in every] == sorted({r.line for r in every})
    if form == "txt":
        assert b"\n".join(r.raw for r in every) == data.replace(b"\r\n", b"\n").removesuffix(b"\n")
    whole = Records(io.BytesIO(data), form, "in")
    assert sum(1 for _ in whole) == len(every)
    assert whole.place.offset == len(data)


@pytest.mark.parametrize(
    ("then", "now", "says"),
    [
        (b"a\nb\n", b"a\nB\n", "other text stands in its first 2 lines"),
        (b"a\nb\n", b"a\n", "4 bytes were read, and it has 2 now"),
        (b"a\nb", b"a\nbc\n", "line 2, the last one then, is longer now"),
        (b"a\nb", b"a\nb\n", "line 2, the last one then, is longer now"),
    ],
)
def test_an_input_that_changed_is_refused(then: bytes, now: bytes, says: str) -> None:
    place = read(then, "txt")[-1].after
    with pytest.raises(InputError, match=f"^--input in: .*{says}.*--restart"):
        Records(io.BytesIO(now), "txt", "in").go_to(place)
    more = Records(io.BytesIO(b"a\nb\nc"), "txt", "in")
    more.go_to(read(b"a\nb\n", "txt")[-1].after)
    assert [r.value for r in more] == ["c"]


# ---------------------------------------------------------------- what a task takes


def test_fields_of_a_record() -> None:
    assert Inputs("fill-mask").of("x") == Inputs("fill-mask").of({"text": "x", "id": 3}) == "x"
    assert Inputs("text-classification").of({"text": "a", "text_pair": "b", "n": 1}) == {"text": "a", "text_pair": "b"}
    assert Inputs("ner", columns_of(["body"])).of({"body": "x"}) == "x"
    asked = Inputs("question-answering", columns_of(["question=frage"]))
    assert asked.of({"frage": "q", "context": "c"}) == {"question": "q", "context": "c"}
    chat = [{"role": "user", "content": "hi"}]
    assert Inputs("text-generation").of({"messages": chat}) == chat
    assert Inputs("ner", keep=("a",)).kept({"a": 1, "id": 2, "b": 3}) == {"id": 2, "a": 1}
    for value in ("x", {"question": "q"}, 3, None, []):
        with pytest.raises(ValueError, match=r"frage|context"):
            asked.of(value)
    for columns, says in ((["x=y"], "no 'x'"), (["a", "b"], "twice"), (["=a"], "empty")):
        with pytest.raises(InputError, match=f"^--column .*{says}"):
            Inputs("ner", columns_of(columns))
    with pytest.raises(InputError, match=r"^f: no column 'text'.*name it with --column COLUMN"):
        Inputs("ner").check(["body"], "f")
    with pytest.raises(InputError, match=r"^--column text=x: there is no such column; the columns of f are 'body'"):
        Inputs("ner", columns_of(["x"])).check(["body"], "f")
    with pytest.raises(InputError, match=r"^--keep z: there is no such column"):
        Inputs("ner", keep=("z",)).check(["text"], "f")


def test_the_format_of_a_file(tmp_path: Path) -> None:
    assert [format_of(tmp_path / f"x{e}", None) for e in (".txt", ".JSONL", ".ndjson", ".csv", ".tsv")] == [
        "txt", "jsonl", "jsonl", "csv", "tsv"]  # fmt: skip
    assert format_of(tmp_path / "x.log", "txt") == "txt"
    with pytest.raises(InputError, match=r"^--input .*'\.log' does not tell"):
        format_of(tmp_path / "x.log", None)


# ---------------------------------------------------------------- runs


def lengths(values: list[Any]) -> Iterator[Any]:
    """A result for each text that depends on nothing else; an error is about one that was read ahead."""
    for n, value in enumerate(values):
        if any("bad" in ahead for ahead in values[n : n + 3]):
            bad = next(ahead for ahead in values[n:] if "bad" in ahead)
            msg = f"{bad!r} is bad (item {n} of the input, counted from 0)"
            raise (InputError if "i" in bad else TokenizerError)(msg)
        yield float("nan") if "nan" in value else {"n": len(value), "text": value}


def done(
    folder: Path, data: bytes, *, errors: bool = True, about: dict[str, Any] | None = None, **how: Any
) -> Iterator[Commit]:
    """A run of `lengths` over lines of text."""
    output = folder / "out.jsonl"
    with Run(output, folder / "bad.jsonl" if errors else None, about or {"--x": 1}, **how) as run:
        records = Records(io.BytesIO(data), "txt", "in")
        run.begin(records)
        yield from run.work(records, Inputs("ner"), lengths)


def results(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "out.jsonl").read_bytes(), (folder / "bad.jsonl").read_bytes()


def test_results_and_bad_lines_have_their_numbers(tmp_path: Path) -> None:
    data = "one\nbadi \ud83d\ude00\n\n\xff\nnan\nbad\nzwölf".encode("utf-16", "surrogatepass").decode("utf-16").encode()
    commits = list(done(tmp_path, data.replace("\xff".encode(), b"\xff")))
    good, bad = ([json.loads(line) for line in text.splitlines()] for text in results(tmp_path))
    assert good == [
        {"line": 1, "output": {"n": 3, "text": "one"}},
        {"line": 3, "output": {"n": 0, "text": ""}},
        {"line": 7, "output": {"n": 5, "text": "zwölf"}},
    ]
    assert bad == [
        {"line": 2, "error": "'badi 😀' is bad", "input": "badi 😀"},
        {"line": 4, "error": "byte 0 (0xff) is not UTF-8", "input": "\\xff"},
        {"line": 5, "error": bad[2]["error"], "input": "nan"},
        {"line": 6, "error": "'bad' is bad", "input": "bad"},
    ]
    assert "JSON" in bad[2]["error"]
    assert (commits[-1].good, commits[-1].bad) == (3, 4)
    assert "zwölf".encode() in results(tmp_path)[0]


def test_without_a_file_for_them_the_first_bad_line_stops_it_and_a_mended_one_goes_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^in, line 3: 'badi' is bad; --errors FILE"):
        list(done(tmp_path, b"a\nb\nbadi\nd\n", errors=False))
    assert (tmp_path / "out.jsonl").read_bytes().count(b"\n") == 2
    commits = list(done(tmp_path, b"a\nb\nbetter\nd\n", errors=False))
    assert commits[-1].good == 4
    assert [json.loads(x)["line"] for x in (tmp_path / "out.jsonl").read_bytes().splitlines()] == [1, 2, 3, 4]
    list(done(tmp_path, b"a\nb\nbetter\nd\nbadi\nlast", errors=True))  # lines were added, and bad ones are kept now
    assert [json.loads(x)["line"] for x in results(tmp_path)[0].splitlines()] == [1, 2, 3, 4, 6]
    assert [json.loads(x)["line"] for x in results(tmp_path)[1].splitlines()] == [5]


class Killed(BaseException):
    """What a process does not live to see."""


class Mortal:
    """After this many bytes the process is gone: nothing more is written, cut or flushed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: float = float("inf")
        for module in (outputs, journal):
            monkeypatch.setattr(module, "write_all", self.write)

    def write(self, handle: int, data: bytes) -> None:
        part = data[: int(min(self.left, len(data)))]
        os.write(handle, part)
        self.left -= len(part)
        if len(part) < len(data):
            raise Killed


def killed(folder: Path, data: bytes, mortal: Mortal, after: float) -> None:
    """A run that dies after so many bytes: only its files are closed, as the system does."""
    mortal.left = after
    run = Run(folder / "out.jsonl", folder / "bad.jsonl", {"--x": 1})
    with suppress(Killed):
        records = Records(io.BytesIO(data), "txt", "in")
        run.begin(records)
        for _ in run.work(records, Inputs("ner"), lengths):
            pass
    mortal.left = float("inf")
    run.close()


texts = st.lists(st.sampled_from(["a", "some words", "badi", "bad", "", "é" * 9, "nan", "\udcff"]), max_size=25)


@DRAWN
@given(texts, st.lists(st.integers(0, 900), max_size=6), st.integers(1, 5), st.sampled_from([0.0, 1e9]), st.booleans())
def test_a_run_killed_at_any_byte_and_taken_up_is_as_an_unbroken_one(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    lines: list[str],
    kills: list[int],
    chunk: int,
    every: float,
    ended: bool,  # noqa: FBT001 - drawn
) -> None:
    data = "\n".join(lines).encode("utf-8", "surrogateescape") + (b"\n" if ended and lines else b"")
    with monkeypatch.context() as patch:
        patch.setattr(work, "CHUNK", chunk)
        patch.setattr(work, "EVERY", every)
        whole = tmp_path_factory.mktemp("whole")
        list(done(whole, data))
        broken = tmp_path_factory.mktemp("broken")
        mortal = Mortal(patch)
        for after in kills:
            killed(broken, data, mortal, after)
        list(done(broken, data))
    assert results(broken) == results(whole)
    assert sum(text.count(b"\n") for text in results(whole)) == len(read(data, "txt"))


@DRAWN
@given(st.floats(0, 1))
def test_a_journal_torn_anywhere_tells_an_earlier_place_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    text = b"".join(b"%d\n" % i for i in range(40))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "CHUNK", 3)
        patch.setattr(work, "EVERY", 0.0)
        list(done(folder, text))
        wanted = results(folder)
        file = folder / "out.jsonl.journal"
        whole = file.read_bytes()
        first = whole.index(b"\n", whole.index(b"\n") + 1) + 1
        file.write_bytes(whole[: round(share * len(whole))])
        if len(file.read_bytes()) >= first:
            list(done(folder, text))
            assert results(folder) == wanted
        else:
            with pytest.raises(InputError, match="journal"):
                list(done(folder, text))


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    list(done(tmp_path, b"a\nb\n"))
    before = results(tmp_path)
    assert list(done(tmp_path, b"a\nb\n")) == []
    assert results(tmp_path) == before


def test_other_options_are_refused_by_name(tmp_path: Path) -> None:
    list(done(tmp_path, b"a\n", about={"--top-k": 3, "--model": "m"}))
    before = results(tmp_path)
    for about, says in (
        ({"--top-k": 5, "--model": "m"}, "^--top-k: 5, and the output was begun with 3 .*--restart"),
        ({"--model": "m"}, "^--top-k: nothing, and .* with 3"),
        ({"--top-k": 3, "--model": "m", "--keep": ["x"]}, r'^--keep: \["x"\], and .* with nothing'),
    ):
        with pytest.raises(InputError, match=says):
            list(done(tmp_path, b"a\n", about=about))
    with pytest.raises(InputError, match=r"^--errors: nothing, and .* with bad\.jsonl"):
        list(done(tmp_path, b"a\n", about={"--top-k": 3, "--model": "m"}, errors=False))
    with pytest.raises(InputError, match=r"^--input in: not what it was"):
        list(done(tmp_path, b"b\n", about={"--top-k": 3, "--model": "m"}))
    assert results(tmp_path) == before
    list(done(tmp_path, b"cc\n", about={"--top-k": 5}, restart=True))
    assert json.loads(results(tmp_path)[0]) == {"line": 1, "output": {"n": 2, "text": "cc"}}


def test_a_file_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    for name in ("out.jsonl", "bad.jsonl"):
        file = tmp_path / name
        file.write_text("precious\n")
        with pytest.raises(InputError, match=rf"^--{'output' if name[0] == 'o' else 'errors'} .*{name}: it is there"):
            list(done(tmp_path, b"a\n"))
        assert file.read_text() == "precious\n"
        file.unlink()
        (tmp_path / "out.jsonl").unlink(missing_ok=True)
    list(done(tmp_path, b"a\n", errors=False))
    (tmp_path / "bad.jsonl").write_text("precious\n")
    with pytest.raises(InputError, match=r"^--errors .*knows nothing of it"):
        list(done(tmp_path, b"a\nb\n"))
    (tmp_path / "out.jsonl").write_text("")
    (tmp_path / "bad.jsonl").unlink()
    with pytest.raises(InputError, match="has 0 bytes, and the run had written"):
        list(done(tmp_path, b"a\nb\n"))
    (tmp_path / "out.jsonl.journal").write_text("{}\n")
    with pytest.raises(InputError, match="not the journal of a run"):
        list(done(tmp_path, b"a\nb\n"))


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    with Run(tmp_path / "out.jsonl", None, {}), pytest.raises(InputError, match="another run is writing it"):
        Run(tmp_path / "out.jsonl", None, {})
    Run(tmp_path / "out.jsonl", None, {}).close()


def test_a_full_disk_is_named_and_what_was_done_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, data = os.write, b"".join(b"%d\n" % i for i in range(30))
    monkeypatch.setattr(work, "CHUNK", 4)
    left = [900]

    def write(handle: int, view: bytes) -> int:
        if left[0] <= 0:
            raise OSError(28, "No space left on device")
        n = real(handle, bytes(view)[: left[0]])
        left[0] -= n
        return n

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(
            InputError, match=r"^--output .*out\.jsonl: .*cannot be written \(No space left on device\)"
        ):
            list(done(tmp_path, data))
    found = read_journal(tmp_path / "out.jsonl.journal")
    assert found is not None
    lines = results(tmp_path)[0].splitlines(keepends=True)
    assert found[1].good <= len(lines)  # the journal may find no room either
    assert all(line.endswith(b"\n") for line in lines)
    list(done(tmp_path, data))
    assert [json.loads(x)["line"] for x in results(tmp_path)[0].splitlines()] == list(range(1, 31))


def test_an_interrupted_run_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "CHUNK", 4)

    run = done(tmp_path, b"x\n" * 20)
    next(run)
    with pytest.raises(KeyboardInterrupt):
        run.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    found = read_journal(tmp_path / "out.jsonl.journal")
    assert found is not None
    assert found[1].good == 4
    list(done(tmp_path, b"x\n" * 20))
    assert results(tmp_path)[0].count(b"\n") == 20


def test_where_nothing_may_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output, says in (
        (tmp_path, "Is a directory"),
        (tmp_path / "none" / "out", "No such file"),
        (tmp_path / "file" / "x", "Not a dir"),
    ):
        with pytest.raises(InputError, match=f"^--output .*cannot be written .{says}"):
            Run(output, None, {})
    (tmp_path / "out.journal").mkdir()
    with pytest.raises(InputError, match=r"out\.journal.*cannot be read"):
        Run(tmp_path / "out", None, {})


def test_a_pipe_takes_results_without_a_journal() -> None:
    reader, writer = os.pipe()
    with Run(Path(f"/dev/fd/{writer}"), None, {}) as run:
        records = Records(io.BytesIO(b"a\nb\n"), "txt", "in")
        run.begin(records)
        list(run.work(records, Inputs("ner"), lengths))
    os.close(writer)
    with os.fdopen(reader) as f:
        assert [json.loads(line)["line"] for line in f] == [1, 2]


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """A chunk is read when the one before it was written."""

    class Endless(io.RawIOBase):
        given = 0

        def readable(self) -> bool:
            return True

        def readinto(self, into: Any) -> int:
            line = b"%08d\n" % (self.given // 9)
            n = min(len(into), 9)
            into[:n] = line[:n]
            self.given += n
            return n

    source = Endless()
    with Run(tmp_path / "out", None, {}) as run:
        records = Records(io.BufferedReader(source, 4096), "txt", "in")
        run.begin(records)
        for n, now in enumerate(run.work(records, Inputs("ner"), lengths), 1):
            assert now.good == n * work.CHUNK
            assert source.given <= now.place.offset + 4096 + 9
            if n == 5:
                break


def test_large_results_are_written_as_they_come(tmp_path: Path) -> None:
    taken = 0

    def large(values: list[Any]) -> Iterator[Any]:
        nonlocal taken
        for _ in values:
            taken += 1
            assert (tmp_path / "out").stat().st_size >= (taken - 4) * 400_000
            yield "x" * 400_000

    with Run(tmp_path / "out", None, {}) as run:
        records = Records(io.BytesIO(b"a\n" * 40), "txt", "in")
        run.begin(records)
        assert [now.good for now in run.work(records, Inputs("ner"), large)] == [40]
    assert [json.loads(line)["line"] for line in (tmp_path / "out").read_bytes().splitlines()] == list(range(1, 41))


def test_a_model_that_changed_has_another_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text("{}")
    (tmp_path / "config.json").write_text('{"a": 1}')
    (tmp_path / "model.safetensors").write_bytes(bytes(20_000_000))
    first = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == first
    (tmp_path / "README.md").write_text("words")
    assert fingerprint(tmp_path) == first
    weights = ("model.safetensors", b"\1" * 20_000_000), ("model.safetensors", bytes(19_999_999))
    for name, data in (("config.json", b'{"a": 2}'), ("1_Pooling/config.json", b"[]"), *weights):
        old = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data)
        assert fingerprint(tmp_path) != first
        (tmp_path / name).write_bytes(old)
    assert fingerprint(tmp_path) == first
