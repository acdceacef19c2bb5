"""Sentiment of finance headlines: a BERT with a class for each text."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from . import headlines
from .bag import Bag, majority
from .encoders import Fit, bert, fit, padded, write_model
from .scores import Recipe, Scores
from .wordpiece import write_wordpiece

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tokenizers import Tokenizer

    from ....model import Model
    from .encoders import Batch

__all__ = ["RECIPE", "accuracy", "compared", "train"]

ABOUT = (
    "Says whether a finance headline is good news, bad news or neither. No word decides: costs that fall are good, "
    "sales that fall are not."
)
N_CONTEXT = 64
HOW = Fit(steps=2200, rows=48, rate=1e-3)
HELD_OUT = 400
BAG = 4000  # training headlines that the bag of words reads


def train(tokenizer: Tokenizer, directory: Path, how: Fit) -> None:
    """Write the trained model."""
    import torch  # noqa: PLC0415 - of the extra `dev`
    from transformers import BertForSequenceClassification  # noqa: PLC0415 - of the extra `dev`

    torch.manual_seed(0)
    model = BertForSequenceClassification(bert(tokenizer, headlines.LABELS, n_context=N_CONTEXT))
    fit(list(model.parameters()), lambda batch: model(**batch).loss, _batches(tokenizer, how.rows), how)
    write_model(model, directory)
    write_wordpiece(tokenizer, directory, N_CONTEXT)


def _batches(tokenizer: Tokenizer, rows: int) -> Iterator[Batch]:
    import torch  # noqa: PLC0415 - of the extra `dev`

    source = headlines.training(1)
    while True:
        texts, labels = zip(*itertools.islice(source, rows), strict=True)
        batch = padded(tokenizer, tokenizer.encode_batch(list(texts)))
        yield batch | {"labels": torch.tensor([headlines.LABELS.index(label) for label in labels])}


def accuracy(model: Model, tokenizer: Tokenizer, n: int = HELD_OUT) -> float:
    """The share of held-out headlines whose label has the largest logit."""
    wanted = headlines.held_out(n)
    said = [model.config.labels[model.logits(tokenizer.encode(text).ids).argmax()] for text, _ in wanted]
    return sum(s == label for s, (_, label) in zip(said, wanted, strict=True)) / n


def compared(model: Model, tokenizer: Tokenizer, n: int = HELD_OUT) -> Scores:
    """Next to the majority class and a bag of words."""
    source = itertools.islice(headlines.training(1), headlines.FIRST + headlines.PLAIN, None)
    texts, labels = zip(*itertools.islice(source, BAG), strict=True)
    wanted = headlines.held_out(n)
    most = majority(labels)
    said = Bag([Bag.words(text) for text in texts], labels).predict([Bag.words(text) for text, _ in wanted])
    right = sum(s == label for s, (_, label) in zip(said, wanted, strict=True))
    return Scores("accuracy", accuracy(model, tokenizer, n), sum(label == most for _, label in wanted) / n, right / n)


RECIPE = Recipe(ABOUT, headlines, HOW, HELD_OUT, train, compared)
