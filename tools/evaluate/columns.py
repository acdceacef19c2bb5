"""Values of a row by the names that data sets use for them, checked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...loader.files import printable, quote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .rows import Row

__all__ = ["FIELDS", "Columns"]

#: What a task reads -> the names of columns that hold it, the first that is there.
FIELDS: dict[str, tuple[str, ...]] = {
    "text": ("text", "sentence", "sentence1", "text1", "premise", "question1"),
    "text_pair": ("text_pair", "sentence2", "text2", "hypothesis", "question2"),
    "label": ("label", "labels"),
    "words": ("words", "tokens"),
    "tags": ("tags", "ner_tags", "labels"),
    "question": ("question", "query", "ctx", "prompt"),
    "context": ("context", "passage"),
    "answers": ("answers", "answer"),
    "source": ("source", "input", "text", "document", "article", "prompt", "question"),
    "references": ("references", "reference", "target", "summary", "highlights", "translation", "output", "answer"),
    "score": ("score", "similarity", "label"),
    "choices": ("choices", "options", "endings"),
    "answer": ("answer", "answerKey", "label", "gold"),
}


class Columns:
    """Reads fields of rows. `chosen`: field -> the caller's column, in place of the format's, or of the usual names."""

    def __init__(self, chosen: Mapping[str, str], of_format: Mapping[str, str] | None = None) -> None:
        """For the rows of a file."""
        self._chosen = dict(chosen)
        named = {**(of_format or {}), **chosen}
        self._names = FIELDS | {field: (column,) for field, column in named.items()}

    def value(self, row: Row, field: str) -> Any:  # noqa: ANN401 - what a file holds
        """The field's value. Errors: `InputError` where the row has none of its names."""
        got = self.given(row, field)
        if got is None:
            names = " or ".join(map(quote, self._names[field]))
            there = printable(", ".join(row.values)) or "nothing"
            msg = f"{row.place}: no {names}, which holds the {field}; found {there}. Name it: --columns {field}=NAME"
            if field in self._chosen:
                msg = f"--columns {field}={self._chosen[field]}: {row.place} has no such column; found {there}"
            raise InputError(msg)
        return got

    def given(self, row: Row, field: str) -> Any:  # noqa: ANN401 - as above
        """The field's value, or None where the row has none."""
        return next((row.values[name] for name in self._names[field] if row.values.get(name) is not None), None)

    def text(self, row: Row, field: str) -> str:
        """A text."""
        return checked_text(self.value(row, field), row.place, field)

    def label(self, row: Row) -> str:
        """A class: a text, or a whole number or truth value as text."""
        value = self.value(row, "label")
        if isinstance(value, str | int):
            return str(int(value)) if isinstance(value, bool) else str(value)
        msg = f"{row.place}: the label is {quote(value)}; expected a text or a whole number"
        raise InputError(msg)

    def texts(self, row: Row, field: str) -> tuple[str, ...]:
        """One text, or several."""
        value = self.value(row, field)
        if isinstance(value, str):
            return (value,)
        if not isinstance(value, list | tuple):
            msg = f"{row.place}: {field} is {quote(value)}; expected a text or a list of texts"
            raise InputError(msg)
        return tuple(checked_text(v, row.place, field) for v in value)

    def number(self, row: Row, field: str) -> float:
        """A finite number."""
        value = self.value(row, field)
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):  # of 400 digits
            number = math.nan
        if not math.isfinite(number):
            msg = f"{row.place}: {field} is {quote(value)}; expected a number"
            raise InputError(msg)
        return number


def checked_text(value: object, place: str, field: str) -> str:
    """A value that must be a text."""
    if not isinstance(value, str):
        msg = f"{place}: {field} is {quote(value)}; expected a text"
        raise InputError(msg)
    try:
        value.encode()
    except UnicodeEncodeError as e:
        msg = f"{place}: {field} holds half a surrogate pair at character {e.start}, which is no text; mend the file"
        raise InputError(msg) from None
    return value
