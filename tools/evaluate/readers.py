"""From a data file to examples: which format it has, and which reader reads it for a task."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ...dataclass import dataclass
from ...errors import InputError, shown, spelled_like
from ...loader.paths import as_path
from .columns import FIELDS, Columns
from .examples import Labelled, Similar, Target, Text
from .formats import FORMATS, ONLY
from .questions import choice_rows, question_rows, squad
from .rows import contents, csv_rows, json_rows, lines_of, parquet_rows
from .tagged import cluener, conll, tagged_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from .examples import Example
    from .rows import Row

    Reader = Callable[[Iterable[Row], Columns], Iterator[Example]]

__all__ = ["Data", "read"]

SUFFIXES = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet",
    ".conll": "conll", ".bio": "conll", ".iob": "conll", ".txt": "txt",
}  # fmt: skip
#: Formats of CLUE -> the columns that they have for a field.
CLUE: dict[str, dict[str, str]] = {
    "tnews": {"text": "sentence", "label": "label_desc"},
    "afqmc": {"text": "sentence1", "text_pair": "sentence2"},
    "ocnli": {"text": "sentence1", "text_pair": "sentence2"},
    "cluener": {},
}
#: What OCNLI has where its annotators did not agree.
UNDECIDED = "-"


@dataclass(frozen=True)
class Data:
    """Examples of a file, and what the report says of it."""

    examples: list[Example]
    format: str
    sha256: str
    #: Examples that the format says to leave out.
    skipped: int


def read(path: Path | str, task: str, form: str | None = None, columns: Mapping[str, str] | None = None) -> Data:
    """The examples of a file for a task. `form`: one of `FORMATS` (default: by its name and first bytes).

    Errors: `InputError`, which names the file and the line.
    """
    path, chosen = as_path(path, "data"), dict(columns or {})
    if unknown := sorted(chosen.keys() - FIELDS):
        near = [field for field, names in FIELDS.items() if unknown[0] in names][:1]
        near = near or spelled_like(unknown[0], FIELDS, 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        msg = f"--columns {unknown[0]}={chosen[unknown[0]]}: expected one of the fields {', '.join(FIELDS)}{meant}"
        raise InputError(msg)
    if task not in _ROWS:
        msg = f"TASK: {shown(task)} is not evaluated; expected one of {', '.join(_ROWS)}"
        raise InputError(msg)
    if form is not None and form not in FORMATS:
        msg = f"--format {form}: expected one of {', '.join(FORMATS)}"
        raise InputError(msg)
    data = contents(path)
    form = form or _format(path, data, task)
    if (only := ONLY.get(form, task)) != task:
        msg = f"--format {form}: holds data of {only}, and the task is {task} ({path})"
        raise InputError(msg)
    made = list(_examples(path, data, task, form, Columns(chosen, CLUE.get(form))))
    examples = [e for e in made if not (form == "ocnli" and isinstance(e, Labelled) and e.label == UNDECIDED)]
    if not examples:
        msg = f"{path}: has no example for {task}, read as {form}; --format says what it is"
        raise InputError(msg)
    return Data(examples, form, hashlib.sha256(data).hexdigest(), len(made) - len(examples))


def _format(path: Path, data: bytes, task: str) -> str:
    form = SUFFIXES.get(path.suffix.lower())
    if data[:4] == b"PAR1":
        return "parquet"
    if form == "jsonl" and task == "question-answering" and path.suffix.lower() == ".json":
        first = data.removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0]
        return "squad" if b'"question"' not in first or b'"paragraphs"' in first else "jsonl"
    if form in (None, "txt") and task == "token-classification":
        return "conll"
    if form is None:
        msg = f"--format: not given, and the name of {path} does not tell; expected one of {', '.join(FORMATS)}"
        raise InputError(msg)
    return form


def _examples(path: Path, data: bytes, task: str, form: str, columns: Columns) -> Iterator[Example]:
    if form in ("squad", "cmrc2018"):
        return squad(data, path)
    if form == "conll":
        return conll(data, path)
    if form == "txt":
        return iter([Text(str(path), "\n".join(line for _, line in lines_of(data, path)))])
    if form == "cluener":
        return cluener(json_rows(data, path), columns)
    return _ROWS[task](_rows(path, data, form), columns)


def _rows(path: Path, data: bytes, form: str) -> Iterator[Row]:
    if form == "parquet":
        return parquet_rows(path)
    if form in ("csv", "tsv"):
        return csv_rows(data, path, "," if form == "csv" else "\t")
    return json_rows(data, path)


def _labelled(rows: Iterable[Row], columns: Columns) -> Iterator[Labelled]:
    for row in rows:
        pair = None if columns.given(row, "text_pair") is None else columns.text(row, "text_pair")
        yield Labelled(row.place, columns.text(row, "text"), pair, columns.label(row))


def _targets(rows: Iterable[Row], columns: Columns) -> Iterator[Target]:
    for row in rows:
        references = columns.texts(row, "references")
        if not references:
            msg = f"{row.place}: no reference; expected one text or more"
            raise InputError(msg)
        yield Target(row.place, columns.text(row, "source"), references)


def _similar(rows: Iterable[Row], columns: Columns) -> Iterator[Similar]:
    for row in rows:
        both = columns.text(row, "text"), columns.text(row, "text_pair")
        yield Similar(row.place, *both, columns.number(row, "score"))


def _texts(rows: Iterable[Row], columns: Columns) -> Iterator[Text]:
    for row in rows:
        yield Text(row.place, columns.text(row, "text"))


#: Task -> what makes its examples of rows.
_ROWS: dict[str, Reader] = {
    "text-classification": _labelled,
    "zero-shot-classification": _labelled,
    "token-classification": tagged_rows,
    "question-answering": question_rows,
    "text2text-generation": _targets,
    "summarization": _targets,
    "translation": _targets,
    "text-generation": _targets,
    "sentence-similarity": _similar,
    "multiple-choice": choice_rows,
    "perplexity": _texts,
}
