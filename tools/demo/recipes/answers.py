"""Answers to questions about product sheets: a BERT with the logits of an answer's start and end for each token."""

from __future__ import annotations

import itertools
import random
import re
from typing import TYPE_CHECKING

from ...pipelines.make import pipeline
from . import sheets, varied_sheets
from .encoders import Fit, bert, even, fit, padded, write_model
from .lookup import Lookup
from .matching import start_matching
from .scores import Recipe, Scores
from .wordpiece import write_wordpiece

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import torch
    from tokenizers import Encoding, Tokenizer

    from ....model import Model
    from .encoders import Batch
    from .sheets import Sheet

__all__ = ["RECIPE", "compared", "exact", "train"]

ABOUT = (
    "Answers a question about a small product sheet with a span of the sheet. The pair is read as `[CLS] question "
    "[SEP] sheet [SEP]`."
)
N_CONTEXT = 192
LAYERS = 4
HINTED, HINTS = (1, LAYERS - 1), 0.5  # the outputs that tell the hints, and the weight of their losses
POOL = 8  # batches that are sorted by length together
HOW = Fit(steps=3500, rows=32, rate=2e-3, horizon=5000)
HELD_OUT = 300
BAG = 2000  # plain sheets that the bag of words reads, of which it learns more than of varied ones

_END = re.compile(r"\.(\s|$)")  # of a sentence; a point inside a number ends none


def train(tokenizer: Tokenizer, directory: Path, how: Fit) -> None:
    """Write the trained model."""
    import torch  # noqa: PLC0415 - of the extra `dev`
    from transformers import BertForQuestionAnswering  # noqa: PLC0415 - of the extra `dev`

    torch.manual_seed(0)
    model = BertForQuestionAnswering(bert(tokenizer, n_context=N_CONTEXT, layers=LAYERS))
    start_matching(model.bert)
    hints = torch.nn.ModuleList(torch.nn.Linear(model.config.hidden_size, 1) for _ in HINTED)

    def loss_of(batch: Batch) -> torch.Tensor:
        """The answer's, and those of two hints, which inner layers must tell; what reads them there is not stored."""
        read, wanted = batch.pop("read"), (batch.pop("asked"), batch.pop("near"))
        out = model(**batch, output_hidden_states=True)
        loss: torch.Tensor = out.loss
        for layer, hint, true in zip(HINTED, hints, wanted, strict=True):
            told = hint(out.hidden_states[layer][read])[:, 0]
            loss = loss + HINTS * torch.nn.functional.binary_cross_entropy_with_logits(told, true[read])
        return loss

    fit([*model.parameters(), *hints.parameters()], loss_of, _batches(tokenizer, how.rows), how)
    write_model(model, directory)
    write_wordpiece(tokenizer, directory, N_CONTEXT)


def _batches(tokenizer: Tokenizer, rows: int) -> Iterator[Batch]:
    """Batches of sheets of about one length: `POOL` of them sorted, in an order of chance."""
    rng, source = random.Random(1), _encoded(tokenizer)  # noqa: S311 - sheets, not secrets
    while True:
        some = sorted(itertools.islice(source, POOL * rows), key=lambda pair: len(pair[1]))
        starts = list(range(0, len(some), rows))
        rng.shuffle(starts)
        for start in starts:
            yield _batch(tokenizer, *zip(*some[start : start + rows], strict=True))


def _encoded(tokenizer: Tokenizer) -> Iterator[tuple[Sheet, Encoding]]:
    """Training sheets that the model has room for."""
    source = varied_sheets.training(1)
    while True:
        some = list(itertools.islice(source, 256))
        encodings = tokenizer.encode_batch([(sheet.question, sheet.text) for sheet in some])
        yield from ((s, e) for s, e in zip(some, encodings, strict=True) if len(e) <= N_CONTEXT)


def _batch(tokenizer: Tokenizer, some: Sequence[Sheet], encodings: Sequence[Encoding]) -> Batch:
    """What the model reads, its answers, and hints [texts, longest].

    `read`: the sheet's tokens; `asked`: those of them that the question has too; `near`: those in the answer's
    sentence.
    """
    import torch  # noqa: PLC0415 - of the extra `dev`

    batch = padded(tokenizer, list(encodings))
    places = torch.tensor([_tokens(e, sheet) for e, sheet in zip(encodings, some, strict=True)])
    rows = [_hints(e, sheet) for e, sheet in zip(encodings, some, strict=True)]
    asked, near = (torch.tensor(even([list(side) for side in sides], 0)).float() for sides in zip(*rows, strict=True))
    read = (batch["token_type_ids"] * batch["attention_mask"]).bool()
    answers = {"start_positions": places[:, 0], "end_positions": places[:, 1]}
    return batch | answers | {"read": read, "asked": asked, "near": near}


def _hints(encoding: Encoding, sheet: Sheet) -> tuple[list[bool], list[bool]]:
    """Of each token, whether the question has it, and whether it is in the answer's sentence."""
    parts = encoding.sequence_ids
    words = {
        i
        for i, part, word in zip(encoding.ids, parts, encoding.tokens, strict=True)
        if part == 0 and word[-1:].isalnum()
    }
    first = max((end.end() for end in _END.finditer(sheet.text, 0, sheet.start)), default=0)
    after = _END.search(sheet.text, sheet.end)
    last = after.start() if after else len(sheet.text)
    return (
        [part == 1 and i in words for i, part in zip(encoding.ids, parts, strict=True)],
        [part == 1 and first <= start < last for part, (start, _) in zip(parts, encoding.offsets, strict=True)],
    )


def _tokens(encoding: Encoding, sheet: Sheet) -> tuple[int, int]:
    """The answer's first and last token."""
    inside = [
        i
        for i, (part, (start, end)) in enumerate(zip(encoding.sequence_ids, encoding.offsets, strict=True))
        if part == 1 and sheet.start <= start and end <= sheet.end
    ]
    return inside[0], inside[-1]


def exact(model: Model, n: int = HELD_OUT) -> float:
    """The share of held-out questions whose answer by the pipeline is right to the character."""
    held = sheets.held_out(n)
    answer = pipeline("question-answering", model)
    said = answer([{"question": sheet.question, "context": sheet.text} for sheet in held])
    return sum((a["start"], a["end"]) == (s.start, s.end) for a, s in zip(said, held, strict=True)) / n


def compared(model: Model, tokenizer: Tokenizer, n: int = HELD_OUT) -> Scores:  # noqa: ARG001 - as every recipe
    """Next to two that choose a sentence and a run of words in it (`lookup.py`)."""
    lookup, held = (
        Lookup(list(itertools.islice(sheets.training(1), sheets.FIRST, sheets.FIRST + BAG))),
        sheets.held_out(n),
    )
    right = [
        sum(say(sheet) == (sheet.start, sheet.end) for sheet in held) / n for say in (lookup.usual, lookup.likeliest)
    ]
    return Scores("exact answers", exact(model, n), *right)


RECIPE = Recipe(ABOUT, varied_sheets, HOW, HELD_OUT, train, compared)
