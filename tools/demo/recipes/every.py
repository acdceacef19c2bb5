"""What the encoders' tokenizer is trained on: the texts of all their corpora, by turns."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from . import headlines, messages, questions, sheets

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["held_out", "other_texts", "plain_texts", "texts"]


def texts() -> list[Iterator[str]]:
    """A source of each corpus."""
    return [
        (text for text, _ in itertools.islice(headlines.training(1), headlines.FIRST, None)),
        (text for text, _ in messages.sentences(1)),
        (f"{sheet.question} {sheet.text}" for sheet in itertools.islice(sheets.training(1), sheets.FIRST, None)),
        (text for text, _ in questions.training(1)),
    ]


def plain_texts() -> list[Iterator[str]]:
    """The same without the strange words between others, which nobody could guess; sheets are short."""
    return [
        (text for text, _ in itertools.islice(headlines.training(1, 0), headlines.FIRST, None)),
        (text for text, _ in messages.sentences(1, 0)),
        (f"{sheet.question} {sheet.text}" for sheet in sheets.training(1, 0)),
        (text for text, _ in questions.training(1, 0)),
    ]


def other_texts() -> list[Iterator[str]]:
    """What a shop's customers do not ask: headlines, sentences of sheets."""
    return [
        (text for text, _ in itertools.islice(headlines.training(2), headlines.FIRST, None)),
        (sheet.text.partition(". ")[0] for sheet in sheets.training(2)),
    ]


def held_out(n: int) -> list[str]:
    """`n` held-out texts of each corpus."""
    return [
        *(text for text, _ in headlines.held_out(n)),
        *(text for text, _ in messages.held_out(n)),
        *(f"{sheet.question} {sheet.text}" for sheet in sheets.held_out(n)),
        *(text for text, _ in questions.held_out(n)),
    ]
