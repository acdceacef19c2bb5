"""Vectors of customers' questions: a BERT that guesses hidden words, then draws questions of one sense together."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

import numpy as np

from . import every, questions
from .bag import Bag, majority
from .encoders import Fit, bert, fit, hidden_words, padded, write_model
from .scores import Recipe, Scores
from .wordpiece import write_wordpiece

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch
    from tokenizers import Tokenizer
    from transformers import BertForMaskedLM

    from ....model import Model
    from .encoders import Batch

__all__ = ["RECIPE", "compared", "nearest", "train"]

ABOUT = (
    "Gives a question of a shop's customer a vector that lies near those of questions of the same sense; by it, the "
    "right entry of a list of answered questions is found. It was trained to guess hidden words first, of the texts of "
    "all encoders, and keeps the head for it (`fill-mask`)."
)
N_CONTEXT = 64
GUESSES = Fit(steps=2500, rows=24, rate=1e-3)
HOW = Fit(steps=800, rows=36)
WIDTH = 64
HIDDEN = 0.15  # share of tokens that are guessed
WARMTH = 0.05  # what cosines are divided by before the softmax
LISTED = 4  # every so many questions the second is the list's own
HELD_OUT = 400
BAG = 4000  # training questions that the bag of words reads


def train(tokenizer: Tokenizer, directory: Path, how: Fit) -> None:
    """Write the trained model, and the files of sentence-transformers that say how its vectors are made."""
    import torch  # noqa: PLC0415 - of the extra `dev`
    from transformers import BertForMaskedLM  # noqa: PLC0415 - of the extra `dev`

    torch.manual_seed(0)
    model = BertForMaskedLM(bert(tokenizer, n_context=N_CONTEXT))
    guesses = Fit(how.steps * GUESSES.steps // HOW.steps, GUESSES.rows, GUESSES.rate)
    fit(list(model.parameters()), lambda batch: model(**batch).loss, _guesses(tokenizer, guesses.rows), guesses)
    both = zip(_alike(tokenizer), _guesses(tokenizer, how.rows // 3), strict=True)
    fit(list(model.parameters()), lambda two: _apart(model, two[0]) + model(**two[1]).loss, both, how)
    write_model(model, directory)
    write_wordpiece(tokenizer, directory, N_CONTEXT)
    _write_pooling(directory)


def _guesses(tokenizer: Tokenizer, rows: int) -> Iterator[Batch]:
    """Texts of all corpora with some tokens hidden; they are the labels."""
    sources = every.texts()
    while True:
        texts = [next(sources[i % len(sources)]) for i in range(rows)]
        encodings = tokenizer.encode_batch(texts)
        for encoding in encodings:
            encoding.truncate(N_CONTEXT)
        batch = padded(tokenizer, encodings)
        labels = hidden_words(tokenizer, batch, HIDDEN)
        yield batch | {"labels": labels}


def _alike(tokenizer: Tokenizer) -> Iterator[Batch]:
    """Questions of every entry twice: rows n and n + half are of one. Sometimes the second is the list's own."""
    waiting: dict[str, list[str]] = {entry: [] for entry in questions.ENTRIES}
    for n, (text, entry) in enumerate(questions.training(1)):
        waiting[entry].append(questions.FAQ[entry][0] if waiting[entry] and n % LISTED == 0 else text)
        if all(len(texts) > 1 for texts in waiting.values()):
            halves = [[texts.pop(0) for texts in waiting.values()] for _ in range(2)]
            yield padded(tokenizer, tokenizer.encode_batch([*halves[0], *halves[1]]))


def _apart(model: BertForMaskedLM, batch: Batch) -> torch.Tensor:
    """Each question must know its fellow among the others of the batch, by the cosine (van den Oord et al. 2018)."""
    import torch  # noqa: PLC0415 - of the extra `dev`

    rows = model.bert(**batch).last_hidden_state
    mask = batch["attention_mask"][:, :, None]
    vectors = torch.nn.functional.normalize((rows * mask).sum(1) / mask.sum(1), dim=1)
    first, second = vectors.chunk(2)
    cosines = first @ second.T / WARMTH
    fellows = torch.arange(len(cosines))
    loss: torch.Tensor = sum(torch.nn.functional.cross_entropy(c, fellows) for c in (cosines, cosines.T)) / 2
    return loss


def _write_pooling(directory: Path) -> None:
    """The mean of the tokens' vectors, at length 1, as sentence-transformers writes it."""
    steps = ("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(steps)
    ]
    pooling = {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True}
    length = {"max_seq_length": N_CONTEXT, "do_lower_case": False}
    (directory / "1_Pooling").mkdir(exist_ok=True)
    for name, value in {"modules": modules, "1_Pooling/config": pooling, "sentence_bert_config": length}.items():
        (directory / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def nearest(model: Model, n: int = HELD_OUT) -> float:
    """The share of held-out questions whose nearest question of the list is that of their entry."""
    listed = np.asarray(model.encode([question for question, _ in questions.FAQ.values()]))
    wanted = questions.held_out(n)
    cosines = np.asarray(model.encode([text for text, _ in wanted])) @ listed.T
    said = [questions.ENTRIES[i] for i in cosines.argmax(1)]
    right: int = sum(s == entry for s, (_, entry) in zip(said, wanted, strict=True))
    return right / n


def compared(model: Model, tokenizer: Tokenizer, n: int = HELD_OUT) -> Scores:  # noqa: ARG001 - as every recipe
    """Next to the majority class and a bag of words, which are told all entries in training."""
    texts, labels = zip(*itertools.islice(questions.training(1), BAG), strict=True)
    wanted = questions.held_out(n)
    most = majority(labels)
    said = Bag([Bag.words(text) for text in texts], labels).predict([Bag.words(text) for text, _ in wanted])
    right = sum(s == label for s, (_, label) in zip(said, wanted, strict=True))
    return Scores("right entry", nearest(model, n), sum(label == most for _, label in wanted) / n, right / n)


RECIPE = Recipe(ABOUT, questions, HOW, HELD_OUT, train, compared)
