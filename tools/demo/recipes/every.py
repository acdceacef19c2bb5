"""What the encoders' tokenizer is trained on: the texts of all their corpora, by turns."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from . import headlines, messages, questions, sheets

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["texts"]


def texts() -> list[Iterator[str]]:
    """A source of each corpus."""
    return [
        (text for text, _ in itertools.islice(headlines.training(1), headlines.FIRST, None)),
        (text for text, _ in messages.sentences(1)),
        (f"{sheet.question} {sheet.text}" for sheet in itertools.islice(sheets.training(1), sheets.FIRST, None)),
        (text for text, _ in questions.training(1)),
    ]
