"""Texts with entities: CoNLL's columns, CLUENER's spans, and rows that hold words and tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...loader.files import quote
from .columns import checked_text
from .examples import Tagged
from .rows import lines_of
from .tags import entities_of, parted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from .columns import Columns
    from .rows import Row

__all__ = ["cluener", "conll", "tagged_rows"]


def conll(data: bytes, path: Path) -> Iterator[Tagged]:
    """Sentences of a CoNLL file: a word a line, its tag in the last column; an empty line ends a sentence.

    Columns are parted by tabs where a line has one, else by spaces. `-DOCSTART-` lines are passed over.
    """
    lines = list(_word_lines(data, path))
    _check_tags([(number, cells) for number, cells in lines if cells], path)
    words: list[str] = []
    tags: list[str] = []
    begins = 1
    for number, cells in lines:
        if cells:
            begins = begins if words else number
            words.append("_".join(cells[0].split()))
            tags.append(cells[-1].strip())
        elif words:
            yield Tagged(f"{path}, line {begins}", tuple(words), " ", frozenset(entities_of(tags)))
            words, tags = [], []


def _word_lines(data: bytes, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line; no cells where a sentence ends."""
    for number, line in lines_of(data + b"\n\n", path):
        cells = line.split("\t") if "\t" in line else line.split()
        if not line.strip() or cells[0] == "-DOCSTART-":
            yield number, []
            continue
        if len(cells) < 2 or not cells[0].strip() or not cells[-1].strip():  # noqa: PLR2004 - a word and its tag
            msg = f"{path}, line {number}: found {quote(line)}; expected a word and, in the last column, its tag"
            raise InputError(msg)
        yield number, cells


def _check_tags(lines: Sequence[tuple[int, Sequence[str]]], path: Path) -> None:
    """Prose has last words too. Errors: `InputError` where none looks like a tag, or some do not and lines vary.

    Tags without prefixes (PER, O) are taken where there is an O among them and every line has as many columns.
    """
    odd = [number for number, cells in lines if parted(tag := cells[-1].strip())[0] == "I" and not tag.startswith("I-")]
    widths = {len(cells) for _, cells in lines}
    if odd and (len(odd) == len(lines) or len(widths) > 1):
        cells = next(cells for number, cells in lines if number == odd[0])
        msg = (
            f"{path}, line {odd[0]}: {quote(cells[-1])} is no tag; expected CoNLL: a word a line, and in its last "
            "column O or a tag such as B-PER. Prose has no tags to compare with; --format says what else a file is"
        )
        raise InputError(msg)


def tagged_rows(rows: Iterable[Row], columns: Columns) -> Iterator[Tagged]:
    """Rows with a list of words and a list of tags."""
    for row in rows:
        words, tags = columns.texts(row, "words"), columns.texts(row, "tags")
        if not words or len(words) != len(tags):
            msg = f"{row.place}: {len(words)} words and {len(tags)} tags; expected a tag for each of one or more words"
            raise InputError(msg)
        if spaced := next((word for word in words if len(word.split()) != 1), None):
            msg = f"{row.place}: the word {quote(spaced)} has spaces in it; expected single words"
            raise InputError(msg)
        yield Tagged(row.place, words, " ", frozenset(entities_of(tags)))


def cluener(rows: Iterable[Row], columns: Columns) -> Iterator[Tagged]:
    """CLUENER's rows, and CLUE's other files of entities: label = {type: {words: [[first, last], ...]}}."""
    for row in rows:
        text, label = columns.text(row, "text"), columns.value(row, "label")
        if not isinstance(label, dict):
            msg = f"{row.place}: the label is {quote(label)}; expected an object of types, such as name and address"
            raise InputError(msg)
        entities = frozenset(_spans(label, text, row.place))
        yield Tagged(row.place, tuple(text), "", entities)


def _spans(label: dict[str, Any], text: str, place: str) -> Iterator[tuple[str, int, int]]:
    for kind, named in label.items():
        if not isinstance(named, dict):
            msg = f"{place}: {quote(kind)} is {quote(named)}; expected an object of the words and where they stand"
            raise InputError(msg)
        for words, spans in named.items():
            checked_text(words, place, kind)
            for span in spans if isinstance(spans, list) else [spans]:
                match span:
                    case [int(first), int(last)] if 0 <= first <= last < len(text):
                        if text[first : last + 1] != words:
                            msg = (
                                f"{place}: {quote(kind)}: characters {first} to {last} are "
                                f"{quote(text[first : last + 1])}, and not {quote(words)}, as the label has it"
                            )
                            raise InputError(msg)
                        yield kind, first, last
                    case _:
                        msg = (
                            f"{place}: {quote(kind)}: {quote(words)} stands at {quote(span)}; expected the first and "
                            f"the last character, from 0 to {len(text) - 1}"
                        )
                        raise InputError(msg)
