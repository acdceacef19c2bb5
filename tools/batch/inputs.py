"""What a task takes of a record: a text, or the fields that it is made of."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any

from ...dataclass import dataclass
from ...errors import InputError
from ...loader.files import quote

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

__all__ = ["Inputs", "columns_of"]

#: task -> the fields that it needs, the first of which a plain text is where it is the only one, and those it may have.
FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "question-answering": (("question", "context"), ()),
    "sentence-similarity": (("source_sentence", "sentences"), ()),
    "text-classification": (("text",), ("text_pair",)),
    "text-ranking": (("query", "documents"), ()),
}
TEXT = (("text",), ())
#: Of text-generation: a conversation stands where the text would.
CHAT = "messages"
#: Fields of every line of the output.
OWN = ("line", "output")


@dataclass(frozen=True)
class Inputs:
    """How a record becomes an input. `columns`: names in the file of fields that have others there.

    `option`: how errors call what gave `columns`.
    """

    task: str
    columns: Mapping[str, str] = field(default_factory=dict)
    keep: Sequence[str] = ()
    option: str = "--column"

    def __post_init__(self) -> None:
        """Errors: `InputError` for a column of a field that the task lacks, and what would replace the output's own."""
        for name in self.keep:
            if name in OWN:
                msg = f"--keep {name}: a line of the output has a field of this name already"
                raise InputError(msg)
        needed, more = FIELDS.get(self.task, TEXT)
        known = [*needed, *more, *([CHAT] if self.task == "text-generation" else [])]
        for name in self.columns:
            if name not in known:
                told = f"{self.option} {name}={self.columns[name]}"
                msg = f"{told}: {self.task} has no {quote(name)}; it takes {_listed(known)}"
                raise InputError(msg)

    def check(self, columns: Sequence[str], where: str) -> None:
        """That a file with these columns has what is needed. `InputError`."""
        there = f"the columns of {where} are {_listed(columns)}"
        for name in FIELDS.get(self.task, TEXT)[0]:
            if name in self.columns and self.columns[name] not in columns:
                msg = f"--column {name}={self.columns[name]}: there is no such column; {there}"
                raise InputError(msg)
            if self._column(name) not in columns:
                how = "COLUMN" if name == "text" else f"{name}=COLUMN"
                msg = f"{where}: no column {quote(name)}; {there}: name it with --column {how}"
                raise InputError(msg)
        for name in self.keep:
            if name not in columns:
                msg = f"--keep {name}: there is no such column; {there}"
                raise InputError(msg)

    def of(self, value: object) -> Any:  # noqa: ANN401 - as the task takes it
        """A text, or fields by name. `ValueError`: the record lacks what the task needs."""
        needed, more = FIELDS.get(self.task, TEXT)
        if isinstance(value, str) and len(needed) == 1:
            return value
        if not isinstance(value, dict):
            msg = f"{quote(value)} found, expected an object with {_listed(map(self._column, needed))}"
            raise ValueError(msg)  # noqa: TRY004 - of a record's content, as the others
        if self.task == "text-generation" and self._column(CHAT) in value:
            return value[self._column(CHAT)]
        lacking = [self._column(name) for name in needed if self._column(name) not in value]
        if lacking:
            msg = f"no {_listed(lacking)} among its fields: {_listed(value) or 'none'}"
            raise ValueError(msg)
        taken = {name: value[self._column(name)] for name in (*needed, *more) if self._column(name) in value}
        return taken["text"] if list(taken) == ["text"] else taken

    def fields(self, names: Collection[str]) -> list[str]:
        """Those of these columns that hold a field of the task."""
        needed, more = FIELDS.get(self.task, TEXT)
        known = (*needed, *more, *((CHAT,) if self.task == "text-generation" else ()))
        return [column for column in map(self._column, known) if column in names]

    def kept(self, value: object) -> dict[str, Any]:
        """What goes to the output as it is: its `id`, and what was asked for."""
        names = dict.fromkeys(("id", *self.keep))
        return {name: value[name] for name in names if name in value} if isinstance(value, dict) else {}

    def _column(self, name: str) -> str:
        return self.columns.get(name, name)


def columns_of(told: Sequence[str]) -> dict[str, str]:
    """What `--column` was told: "review" (the text's), or "question=frage". `InputError`."""
    columns: dict[str, str] = {}
    for words in told:
        name, sign, column = words.partition("=")
        name, column = (name, column) if sign else ("text", words)
        if not name or not column or name in columns:
            what = f"{quote(name)} is named twice" if name in columns else "a name is empty"
            msg = f"--column {words}: {what}; expected COLUMN, or FIELD=COLUMN"
            raise InputError(msg)
        columns[name] = column
    return columns


def _listed(names: Any) -> str:  # noqa: ANN401 - an iterable of names
    return ", ".join(quote(name) for name in list(names)[:20])
