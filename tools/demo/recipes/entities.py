"""Names in customers' messages: a BERT with a BIO tag for each token (Ramshaw and Marcus 1995)."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from . import messages
from .bag import Bag, majority
from .encoders import Fit, bert, fit, padded, write_model
from .pattern import Span
from .scores import Recipe, Scores, f1
from .wordpiece import write_wordpiece

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tokenizers import Encoding, Tokenizer

    from ....model import Model
    from .encoders import Batch

__all__ = ["HOW", "RECIPE", "compared", "entity_f1", "spans_of", "train", "train_on"]

ABOUT = (
    "Finds the persons (PER), places (LOC), products (PROD), order numbers (ORDER) and days (DATE) of a customer's "
    "message: a BIO tag for each token, of which a word's first counts."
)
N_CONTEXT = 128
HOW = Fit(steps=1600, rows=32, rate=1.5e-3)
HELD_OUT = 300
BAG = 1500  # training messages that the bag of words reads


def train(tokenizer: Tokenizer, directory: Path, how: Fit) -> None:
    """Write the trained model."""
    train_on(messages.training(1), messages.LABELS, tokenizer, directory, how)


def train_on(
    source: Iterator[tuple[str, Sequence[Span]]],
    labels: tuple[str, ...],
    tokenizer: Tokenizer,
    directory: Path,
    how: Fit,
) -> None:
    """Write a model trained on endless texts with their names, whose `slot` is what `labels` call the kind."""
    import torch  # noqa: PLC0415 - of the extra `dev`
    from transformers import BertForTokenClassification  # noqa: PLC0415 - of the extra `dev`

    torch.manual_seed(0)
    model = BertForTokenClassification(bert(tokenizer, labels, n_context=N_CONTEXT, dropout=how.dropout))
    batches = _batches(source, labels, tokenizer, how.rows)
    fit(list(model.parameters()), lambda batch: model(**batch).loss, batches, how)
    write_model(model, directory)
    write_wordpiece(tokenizer, directory, N_CONTEXT)


def _batches(
    source: Iterator[tuple[str, Sequence[Span]]], labels: tuple[str, ...], tokenizer: Tokenizer, rows: int
) -> Iterator[Batch]:
    import torch  # noqa: PLC0415 - of the extra `dev`

    while True:
        texts, spans = zip(*itertools.islice(source, rows), strict=True)
        encodings = tokenizer.encode_batch(list(texts))
        for encoding in encodings:
            encoding.truncate(N_CONTEXT)
        batch = padded(tokenizer, encodings)
        width = batch["input_ids"].shape[1]
        tagged = [_tags(e, s, labels) for e, s in zip(encodings, spans, strict=True)]
        yield batch | {"labels": torch.tensor([[*tags, *[-100] * (width - len(tags))] for tags in tagged])}


def _tags(encoding: Encoding, spans: Sequence[Span], labels: tuple[str, ...] = messages.LABELS) -> list[int]:
    """The number of every token's label; -100 for what frames the text."""
    tags = []
    for (start, end), word in zip(encoding.offsets, encoding.word_ids, strict=True):
        inside = next((s for s in spans if s.start <= start and end <= s.end), None)
        name = "O" if inside is None else f"{'B' if start == inside.start else 'I'}-{inside.slot}"
        tags.append(-100 if word is None else labels.index(name))
    return tags


def spans_of(tags: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[Span]:
    """BIO tags of words and where these lie -> spans; one that begins with I begins all the same."""
    spans: list[Span] = []
    last = "O"
    for tag, (start, end) in zip(tags, offsets, strict=True):
        kind = tag[2:]
        if tag.startswith("I-") and last[2:] == kind:
            spans[-1] = Span(kind, spans[-1].start, end)
        elif kind:
            spans.append(Span(kind, start, end))
        last = tag
    return spans


def _words(encoding: Encoding) -> list[tuple[int, int, int]]:
    """The number of each word's first token, and where the word begins and ends."""
    words: dict[int, tuple[int, int, int]] = {}
    for i, (word, (start, end)) in enumerate(zip(encoding.word_ids, encoding.offsets, strict=True)):
        if word is not None:
            first = words.get(word, (i, start, end))
            words[word] = (first[0], first[1], end)
    return list(words.values())


def entity_f1(model: Model, tokenizer: Tokenizer, n: int = HELD_OUT) -> float:
    """F1 of held-out names: right are those of the right kind with both ends right."""
    said = []
    for text, _ in messages.held_out(n):
        encoding = tokenizer.encode(text)
        words = _words(encoding)
        best = model.logits(encoding.ids).argmax(1)
        said.append(spans_of([model.config.labels[best[i]] for i, _, _ in words], [(a, b) for _, a, b in words]))
    return _f1(said, n)


def _f1(said: list[list[Span]], n: int) -> float:
    wanted = [set(spans) for _, spans in messages.held_out(n)]
    right = sum(len(set(s) & w) for s, w in zip(said, wanted, strict=True))
    return f1(right, sum(map(len, said)), sum(map(len, wanted)))


def compared(model: Model, tokenizer: Tokenizer, n: int = HELD_OUT) -> Scores:
    """Next to every word's majority class (none is a name) and a bag of the words around each word."""
    seen, tags = [], []
    for text, spans in itertools.islice(messages.training(1), BAG):
        encoding = tokenizer.encode(text)
        words = _words(encoding)
        numbers = _tags(encoding, spans)
        tags += [messages.LABELS[numbers[i]] for i, _, _ in words]
        seen += _windows(text, words)
    bag, most = Bag(seen, tags), majority(tags)
    said, none = [], []
    for text, _ in messages.held_out(n):
        words = _words(tokenizer.encode(text))
        offsets = [(a, b) for _, a, b in words]
        said.append(spans_of(bag.predict(_windows(text, words)), offsets))
        none.append(spans_of([most] * len(words), offsets))
    return Scores("F1 of names", entity_f1(model, tokenizer, n), _f1(none, n), _f1(said, n))


def _windows(text: str, words: list[tuple[int, int, int]], around: int = 2) -> list[list[str]]:
    """Of each word, itself and its neighbours, each with its distance; and whether it begins as names do."""
    texts = [text[a:b] for _, a, b in words]
    windows = []
    for i, word in enumerate(texts):
        near = {j - i: texts[j] for j in range(max(0, i - around), min(len(texts), i + around + 1))}
        shape = "Name" if word[0].isupper() else "number" if word[0].isdigit() else "word"
        windows.append([*(f"{at} {other}" for at, other in near.items()), shape])
    return windows


RECIPE = Recipe(ABOUT, messages, HOW, HELD_OUT, train, compared)
