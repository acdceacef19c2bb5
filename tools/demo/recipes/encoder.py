"""Vectors of customers' questions: a BERT that guesses hidden words, then draws questions of one sense together."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from . import every, questions
from .bag import Bag, majority
from .encoders import Fit, bert, fit, hidden_words, padded, write_model
from .pattern import with_strange_words
from .scores import Recipe, Scores
from .wordpiece import MASK, write_wordpiece

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch
    from tokenizers import Encoding, Tokenizer
    from transformers import BertForMaskedLM

    from ....model import Model
    from .encoders import Batch

__all__ = ["RECIPE", "compared", "guessed", "nearest", "train"]

ABOUT = (
    "Gives a question of a shop's customer a vector that lies near those of questions of the same sense; by it, the "
    "right entry of a list of answered questions is found. It was trained to guess hidden words first, of the texts of "
    "all encoders, and keeps the head for it (`fill-mask`). Hidden for the second score are words of one token, in 200 "
    "held-out texts of each of the four corpora; the majority class is the most frequent word."
)
N_CONTEXT = 64
WIDTH = 64
GUESSES = Fit(steps=6000, rows=64, rate=4e-3)
HIDDEN = 0.2  # share of tokens that are guessed
POOLED = 8  # batches whose texts are sorted by length, so that a batch has little padding
#: Share of texts that are varied; of their gaps that get a strange word, and of their words that become one.
VARIED, ADDED, REPLACED = 0.5, 0.1, 0.15
HOW = Fit(steps=1200, rows=36, rate=3e-3)
LEFT_OUT = 0.2  # share of a question's words, so that no pattern is learnt by heart
WARMTH = 0.05  # what cosines are divided by before the softmax
LISTED = 4  # every so many questions the second is the list's own
STRANGERS = 12  # texts of other kinds in a batch, which no question may lie near
HELD_OUT = 400
GUESSED = 200  # held-out texts of each corpus of which words are guessed
ASKED = 0.15  # share of their words
BAG = 4000  # training texts that the baselines read


def train(tokenizer: Tokenizer, directory: Path, how: Fit) -> None:
    """Write the trained model, and the files of sentence-transformers that say how its vectors are made.

    `how`: of the second part; the first has its share of the same.
    """
    import torch  # noqa: PLC0415 - of the extra `dev`
    from transformers import BertForMaskedLM  # noqa: PLC0415 - of the extra `dev`

    torch.manual_seed(0)
    model = BertForMaskedLM(bert(tokenizer, n_context=N_CONTEXT))
    parameters = list(model.parameters())
    guesses = Fit(max(1, how.steps * GUESSES.steps // HOW.steps), GUESSES.rows, GUESSES.rate)
    fit(parameters, lambda batch: _wrong(model, batch), _hidden(tokenizer, guesses.rows), guesses)
    both = zip(_alike(tokenizer), _hidden(tokenizer, how.rows // 2), strict=True)
    fit(parameters, lambda two: _apart(model, two[0]) + _wrong(model, two[1]), both, how)
    write_model(model, directory)
    write_wordpiece(tokenizer, directory, N_CONTEXT)
    _write_pooling(directory)


def _hidden(tokenizer: Tokenizer, rows: int) -> Iterator[Batch]:
    """Texts of all corpora with some tokens hidden; they are the labels."""
    rng = random.Random(0)  # noqa: S311 - batches, not secrets
    sources = itertools.cycle(every.plain_texts())
    while True:
        texts = (next(source) for source in itertools.islice(sources, rows * POOLED))
        encodings = tokenizer.encode_batch([_varied(t, rng) if rng.random() < VARIED else t for t in texts])
        for encoding in encodings:
            encoding.truncate(N_CONTEXT)
        encodings.sort(key=len)
        for first in rng.sample(range(0, len(encodings), rows), POOLED):
            batch = padded(tokenizer, encodings[first : first + rows])
            yield batch | {"labels": hidden_words(tokenizer, batch, HIDDEN)}


def _varied(text: str, rng: random.Random) -> str:
    """A run of a text's words, strange ones among them: neighbours tell what is hidden, and not the whole pattern."""
    words = with_strange_words(text, (), rng, added=ADDED, replaced=REPLACED)[0].split()
    first = rng.randrange(len(words) // 2 + 1)
    return " ".join(words[first : max(first + 3, rng.randint(len(words) // 2, len(words)))])


def _wrong(model: BertForMaskedLM, batch: Batch) -> torch.Tensor:
    """How wrong the guesses are. The head reads the hidden tokens alone: half of the time of a batch is its."""
    import torch  # noqa: PLC0415 - of the extra `dev`

    hidden = batch["labels"] >= 0
    said = model.cls(_rows(model, batch)[hidden])
    return torch.nn.functional.cross_entropy(said, batch["labels"][hidden])


def _rows(model: BertForMaskedLM, batch: Batch) -> torch.Tensor:
    """What leaves the last layer [texts, longest, width]."""
    read = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    rows: torch.Tensor = model.bert(**read).last_hidden_state
    return rows


def _alike(tokenizer: Tokenizer) -> Iterator[Batch]:
    """Questions of every entry twice: rows n and n + their number are of one; then texts that are no questions.

    Sometimes the second is the list's own.
    """
    rng = random.Random(0)  # noqa: S311 - words, not secrets
    strangers = itertools.cycle(every.other_texts())
    waiting: dict[str, list[str]] = {entry: [] for entry in questions.ENTRIES}
    for n, (text, entry) in enumerate(questions.training(1)):
        waiting[entry].append(questions.FAQ[entry][0] if waiting[entry] and n % LISTED == 0 else text)
        if all(len(texts) > 1 for texts in waiting.values()):
            halves = [[_shortened(texts.pop(0), rng) for texts in waiting.values()] for _ in range(2)]
            others = [next(source) for source in itertools.islice(strangers, STRANGERS)]
            encodings = tokenizer.encode_batch([*halves[0], *halves[1], *others])
            for encoding in encodings:
                encoding.truncate(N_CONTEXT)
            yield padded(tokenizer, encodings)


def _shortened(text: str, rng: random.Random) -> str:
    """A text without some of its words; never without all."""
    words = text.split()
    return " ".join(word for word in words if rng.random() >= LEFT_OUT) or rng.choice(words)


def _apart(model: BertForMaskedLM, batch: Batch) -> torch.Tensor:
    """Each question must know its fellow among the others of the batch, by the cosine (van den Oord et al. 2018)."""
    import torch  # noqa: PLC0415 - of the extra `dev`

    mask = batch["attention_mask"][:, :, None]
    vectors = torch.nn.functional.normalize((_rows(model, batch) * mask).sum(1) / mask.sum(1), dim=1)
    first, second, others = vectors.split([len(questions.ENTRIES), len(questions.ENTRIES), STRANGERS])
    fellows = torch.arange(len(first))

    def loss(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(one @ torch.cat([two, others]).T / WARMTH, fellows)

    return (loss(first, second) + loss(second, first)) / 2


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


def guessed(model: Model, tokenizer: Tokenizer, n: int = GUESSED) -> tuple[float, float]:
    """The share of hidden words that are guessed, in `n` held-out texts of each corpus; and by the most frequent word.

    Hidden are words of one token, as `fill-mask` puts them in.
    """
    some = (itertools.islice(source, BAG // 4) for source in every.plain_texts())
    read = tokenizer.encode_batch(list(itertools.chain.from_iterable(some)))
    [(most, _)] = Counter(e.ids[i] for e in read for i in _words(e)).most_common(1)
    mask = tokenizer.token_to_id(MASK)
    rng = random.Random(0)  # noqa: S311 - which words are hidden, no secret
    hits: list[tuple[bool, bool]] = []
    for text in every.held_out(n):
        encoding = tokenizer.encode(text)
        encoding.truncate(N_CONTEXT)
        places = [i for i in _words(encoding) if rng.random() < ASKED]
        said = model.logits([mask if i in places else token for i, token in enumerate(encoding.ids)]).argmax(1)
        hits += [(said[i] == encoding.ids[i], most == encoding.ids[i]) for i in places]
    right, usual = np.mean(hits, axis=0)
    return float(right), float(usual)


def _words(encoding: Encoding) -> list[int]:
    """Which tokens of a text are whole words."""
    pieces = Counter(encoding.word_ids)
    return [i for i, word in enumerate(encoding.word_ids) if pieces[word] == 1 and encoding.tokens[i].isalpha()]


def compared(model: Model, tokenizer: Tokenizer, n: int = HELD_OUT) -> Scores:
    """Next to the majority class and a bag of words, which are told all entries in training."""
    texts, labels = zip(*itertools.islice(questions.training(1), BAG), strict=True)
    wanted = questions.held_out(n)
    most = majority(labels)
    said = Bag([Bag.words(text) for text in texts], labels).predict([Bag.words(text) for text, _ in wanted])
    right = sum(s == label for s, (_, label) in zip(said, wanted, strict=True))
    hidden = Scores("hidden words", *guessed(model, tokenizer), None)
    usual = sum(label == most for _, label in wanted) / n
    return Scores("right entry", nearest(model, n), usual, right / n, also=hidden)


RECIPE = Recipe(ABOUT, questions, HOW, HELD_OUT, train, compared)
