"""What the encoders' tokenizer is trained on: the texts of all their corpora, by turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import headlines, messages, questions, sheets

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["texts"]


def texts() -> list[Iterator[str]]:
    """A source of each corpus."""
    return [
        (text for text, _ in headlines.training(1)),
        (text for text, _ in messages.training(1)),
        (f"{sheet.question} {sheet.text}" for sheet in sheets.training(1)),
        (text for text, _ in questions.training(1)),
    ]
