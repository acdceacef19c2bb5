"""Answers to questions about product sheets: a BERT with the logits of an answer's start and end for each token."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from . import sheets
from .encoders import Fit, bert, fit, padded, write_model
from .lookup import Lookup
from .scores import Recipe, Scores
from .wordpiece import write_wordpiece

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from tokenizers import Encoding, Tokenizer

    from ....model import Model
    from .encoders import Batch
    from .sheets import Sheet

__all__ = ["RECIPE", "best_span", "compared", "exact", "train"]

ABOUT = (
    "Answers a question about a small product sheet with a span of the sheet. The pair is read as `[CLS] question "
    "[SEP] sheet [SEP]`."
)
N_CONTEXT = 192
HOW = Fit(steps=2200, rows=32, rate=1e-3)
HELD_OUT = 300
BAG = 2000  # training sheets that the bag of words reads
LONGEST = 8  # tokens of an answer


def train(tokenizer: Tokenizer, directory: Path, how: Fit) -> None:
    """Write the trained model."""
    import torch  # noqa: PLC0415 - of the extra `dev`
    from transformers import BertForQuestionAnswering  # noqa: PLC0415 - of the extra `dev`

    torch.manual_seed(0)
    model = BertForQuestionAnswering(bert(tokenizer, n_context=N_CONTEXT))
    fit(list(model.parameters()), lambda batch: model(**batch).loss, _batches(tokenizer, how.rows), how)
    write_model(model, directory)
    write_wordpiece(tokenizer, directory, N_CONTEXT)


def _batches(tokenizer: Tokenizer, rows: int) -> Iterator[Batch]:
    import torch  # noqa: PLC0415 - of the extra `dev`

    source = sheets.training(1)
    while True:
        some = list(itertools.islice(source, rows))
        encodings = tokenizer.encode_batch([(sheet.question, sheet.text) for sheet in some])
        places = [_tokens(e, sheet) for e, sheet in zip(encodings, some, strict=True)]
        starts, ends = (torch.tensor(list(side)) for side in zip(*places, strict=True))
        yield padded(tokenizer, encodings) | {"start_positions": starts, "end_positions": ends}


def _tokens(encoding: Encoding, sheet: Sheet) -> tuple[int, int]:
    """The answer's first and last token."""
    inside = [
        i
        for i, (part, (start, end)) in enumerate(zip(encoding.sequence_ids, encoding.offsets, strict=True))
        if part == 1 and sheet.start <= start and end <= sheet.end
    ]
    return inside[0], inside[-1]


def best_span(logits: NDArray[np.float32], allowed: NDArray[np.bool_]) -> tuple[int, int]:
    """[T, 2] -> the first and last token of the span with the largest sum, of the allowed ones."""
    sums = logits[:, :1] + logits[:, 1]  # [T, 2] -> [start, end]
    wide = np.triu(np.tril(np.ones(sums.shape, bool), LONGEST - 1)) & allowed & allowed[:, None]
    start, end = np.unravel_index(np.where(wide, sums, -np.inf).argmax(), sums.shape)
    return int(start), int(end)


def exact(model: Model, tokenizer: Tokenizer, n: int = HELD_OUT) -> float:
    """The share of held-out questions whose answer is right to the character."""
    right = 0
    for sheet in sheets.held_out(n):
        encoding = tokenizer.encode(sheet.question, sheet.text)
        logits = model.logits(encoding.ids, token_types=encoding.type_ids)
        first, last = best_span(logits, np.array([part == 1 for part in encoding.sequence_ids]))
        right += (encoding.offsets[first][0], encoding.offsets[last][1]) == (sheet.start, sheet.end)
    return right / n


def compared(model: Model, tokenizer: Tokenizer, n: int = HELD_OUT) -> Scores:
    """Next to two that choose a sentence and a run of words in it (`lookup.py`)."""
    lookup, held = (
        Lookup(list(itertools.islice(sheets.training(1), sheets.FIRST, sheets.FIRST + BAG))),
        sheets.held_out(n),
    )
    right = [
        sum(say(sheet) == (sheet.start, sheet.end) for sheet in held) / n for say in (lookup.usual, lookup.likeliest)
    ]
    return Scores("exact answers", exact(model, tokenizer, n), *right)


RECIPE = Recipe(ABOUT, sheets, HOW, HELD_OUT, train, compared)
