"""Questions about texts: SQuAD 1.1 and 2.0, CMRC 2018 in both of its forms, and rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...loader.files import parse_json, quote
from .columns import checked_text
from .examples import Choice, Question

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from .columns import Columns
    from .rows import Row

__all__ = ["choice_rows", "question_rows", "squad"]


def squad(data: bytes, path: Path) -> Iterator[Question]:
    """SQuAD's JSON, in which CLUE keeps CMRC 2018 too; or CMRC's own: a list of context_text and qas.

    The whole is one JSON text, often in one line: errors name the place in it, such as data[0].paragraphs[3].qas[1].
    """
    whole = parse_json(data.removeprefix(b"\xef\xbb\xbf"), str(path), InputError)
    if isinstance(whole, list):  # CMRC's own
        paragraphs = [(f"{path}, [{i}]", p) for i, p in enumerate(whole)]
    else:
        articles = _list(whole, "data", str(path))
        paragraphs = [
            (f"{path}, data[{i}].paragraphs[{j}]", paragraph)
            for i, article in enumerate(articles)
            for j, paragraph in enumerate(_list(article, "paragraphs", f"{path}, data[{i}]"))
        ]
    for place, paragraph in paragraphs:
        context = _named(paragraph, ("context", "context_text"), place)
        for k, qa in enumerate(_list(paragraph, "qas", place)):
            yield _question(qa, context, f"{place}.qas[{k}]")


def _question(qa: object, context: str, place: str) -> Question:
    question = _named(qa, ("question", "query_text"), place)
    table: dict[str, Any] = qa if isinstance(qa, dict) else {}
    name = str(table.get("id", table.get("query_id", place)))
    answers = () if table.get("is_impossible") is True else _answers(table.get("answers"), place)
    return Question(place, name, question, context, answers)


def _named(value: object, names: tuple[str, ...], place: str) -> str:
    """The text that an object has under one of these names."""
    table = value if isinstance(value, dict) else {}
    for name in names:
        if name in table:
            return checked_text(table[name], place, name)
    msg = f"{place}: expected an object with {' or '.join(map(quote, names))}, found {quote(value)}"
    raise InputError(msg)


def _list(value: object, name: str, place: str) -> list[Any]:
    listed = value.get(name) if isinstance(value, dict) else None
    if not isinstance(listed, list):
        msg = f"{place}: expected an object with a list {quote(name)}, as SQuAD has, found {quote(value)}"
        raise InputError(msg)
    return listed


def _answers(value: object, place: str) -> tuple[str, ...]:
    """Texts of answers as SQuAD has them ([{"text": ...}]), as Hugging Face's files do ({"text": [...]}), or plain."""
    match value:
        case str():
            return (value,)
        case {"text": list() as texts} | list(texts):
            plain = [t.get("text") if isinstance(t, dict) else t for t in texts]
            return tuple(checked_text(text, place, "an answer") for text in plain)
    msg = f"{place}: the answers are {quote(value)}; expected a list of texts, empty where there is no answer"
    raise InputError(msg)


def question_rows(rows: Iterable[Row], columns: Columns) -> Iterator[Question]:
    """Rows with question, context and answers."""
    for row in rows:
        answers = _answers(columns.value(row, "answers"), row.place)
        name = str(row.values.get("id", row.place))
        yield Question(row.place, name, columns.text(row, "question"), columns.text(row, "context"), answers)


def choice_rows(rows: Iterable[Row], columns: Columns) -> Iterator[Choice]:
    """Rows with a question, choices, and the right one: its number from 0, its letter or label, or its text.

    Choices are a list of texts, {"text": [...], "label": [...]} as Hugging Face has them, or a list of
    {"text": ..., "label": ...}, also inside of the question, whose text is then its "stem" (CommonsenseQA, ARC).
    """
    for row in rows:
        question = columns.value(row, "question")
        inner = question if isinstance(question, dict) else {}
        text = checked_text(inner.get("stem", question), row.place, "question")
        listed = inner["choices"] if "choices" in inner else columns.value(row, "choices")
        texts, labels = _choices(listed, row.place)
        yield Choice(row.place, text, texts, _right(columns.value(row, "answer"), texts, labels, row.place))


def _choices(value: object, place: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Texts and labels of choices."""
    texts: list[Any] = []
    labels: list[Any] = []
    match value:
        case {"text": list(texts), "label": list(labels)}:
            pass
        case [{"text": _}, *_]:
            texts = [v.get("text") if isinstance(v, dict) else v for v in value]
            labels = [v.get("label") if isinstance(v, dict) else None for v in value]
        case list(texts):
            pass
    if len(texts) < 2 or (labels and len(labels) != len(texts)):  # noqa: PLR2004 - or there is nothing to choose
        msg = f"{place}: the choices are {quote(value)}; expected two or more texts"
        raise InputError(msg)
    texts = [checked_text(text, place, "a choice") for text in texts]
    names = labels or [chr(ord("A") + i) for i in range(len(texts))]
    return tuple(texts), tuple(map(str, names))


def _right(value: object, texts: tuple[str, ...], labels: tuple[str, ...], place: str) -> int:
    """The number of the right choice."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(texts):
        return value
    for names in (labels, texts, tuple(map(str, range(len(texts))))):
        if isinstance(value, str) and names.count(value) == 1:
            return names.index(value)
    msg = (
        f"{place}: the answer is {quote(value)}; expected a number from 0 to {len(texts) - 1}, "
        f"one of {', '.join(map(quote, labels))}, or the text of a choice"
    )
    raise InputError(msg)
