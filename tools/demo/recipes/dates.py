"""Days and amounts to ISO form and back: a T5 (Raffel et al. 2020) with a byte-level BPE of its own."""

from __future__ import annotations

import itertools
import json
import re
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from . import written
from .bag import Bag, majority
from .encoders import Fit, even, fit, write_model
from .scores import Recipe, Scores

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ....model import Model
    from .encoders import Batch

__all__ = ["RECIPE", "compared", "exact", "train"]

ABOUT = (
    "Reads a day or an amount in a short text and writes it in ISO form (`2021-03-03`, `USD 12.50`); given that, it "
    "writes words (`the third of March 2021`, `twelve dollars and fifty cents`)."
)
N_CONTEXT = 64
N_VOCAB = 448
PAD, EOS = "<pad>", "</s>"
HOW = Fit(steps=2500, rows=64, rate=4e-3)
HELD_OUT = 300
BAG = 800  # training texts that the bag of words reads
TEXTS = 8000  # that the tokenizer is trained on
LONGEST = 16  # pieces of an answer that the bag of words writes


def train(_: Tokenizer, directory: Path, how: Fit) -> None:
    """Write the trained model; the encoders' tokenizer is not its own."""
    import torch  # noqa: PLC0415 - of the extra `dev`
    from transformers import T5Config, T5ForConditionalGeneration  # noqa: PLC0415 - of the extra `dev`

    torch.manual_seed(0)
    tokenizer = _trained()
    config = T5Config(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=64,
        d_kv=16,
        d_ff=160,
        num_layers=2,
        num_decoder_layers=3,
        num_heads=4,
        relative_attention_max_distance=64,
        dropout_rate=0.05,
        n_positions=N_CONTEXT,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config)
    fit(list(model.parameters()), lambda batch: model(**batch).loss, _batches(tokenizer, how.rows), how)
    model.generation_config.max_new_tokens = N_CONTEXT
    write_model(model, directory)
    _write_tokenizer(tokenizer, directory)


def _trained() -> Tokenizer:
    """A digit is a token of its own, so that figures are read and written one by one."""
    tokenizer = Tokenizer(models.BPE())
    digits, bytes_ = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCAB,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pairs = itertools.islice(written.training(1), TEXTS)
    tokenizer.train_from_iterator(itertools.chain.from_iterable(pairs), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", pair=f"$A $B {EOS}", special_tokens=[(EOS, tokenizer.token_to_id(EOS))]
    )
    return tokenizer


def _write_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": EOS,
        "clean_up_tokenization_spaces": False,
        "model_max_length": N_CONTEXT,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _batches(tokenizer: Tokenizer, rows: int) -> Iterator[Batch]:
    import torch  # noqa: PLC0415 - of the extra `dev`

    source = written.training(1)
    while True:
        read, wanted = zip(*itertools.islice(source, rows), strict=True)
        ids, answers = ([e.ids for e in tokenizer.encode_batch(list(side))] for side in (read, wanted))
        yield {
            "input_ids": torch.tensor(even(ids, 0)),
            "attention_mask": torch.tensor(even([[1] * len(row) for row in ids], 0)),
            "labels": torch.tensor(even(answers, -100)),
        }


def exact(model: Model, n: int = HELD_OUT) -> float:
    """The share of held-out texts whose answer is right to the character."""
    wanted = written.held_out(n)
    answers = model.generate_all([text for text, _ in wanted], max_new_tokens=N_CONTEXT)
    return sum(a.text == answer for a, (_, answer) in zip(answers, wanted, strict=True)) / n


def compared(model: Model, tokenizer: Tokenizer, n: int = HELD_OUT) -> Scores:  # noqa: ARG001 - as every recipe
    """Next to answers written piece by piece (digits, words, signs): the usual at each place, or by a bag of words."""
    texts, answers = zip(*itertools.islice(written.training(1), BAG), strict=True)
    features, pieces = [_words(text) for text in texts], [_pieces(answer) for answer in answers]
    wanted = written.held_out(n)
    asked = [_words(text) for text, _ in wanted]
    usual = "".join(majority(column) for column in zip(*pieces, strict=True))
    said = zip(*(_column(features, column, asked) for column in zip(*pieces, strict=True)), strict=True)
    right = sum("".join(s) == answer for s, (_, answer) in zip(said, wanted, strict=True))
    return Scores("exact answers", exact(model, n), sum(usual == answer for _, answer in wanted) / n, right / n)


def _column(features: Sequence[list[str]], column: Sequence[str], asked: Sequence[list[str]]) -> list[str]:
    return Bag(features, column).predict(asked)


def _pieces(text: str) -> list[str]:
    """Digits, words and signs, as many as there are places; empty at the end."""
    pieces = re.findall(r"\d|\W|[^\W\d]+", text)[:LONGEST]
    return [*pieces, *[""] * (LONGEST - len(pieces))]


def _words(text: str) -> list[str]:
    """Words, and each digit with its place among the pieces."""
    return [*Bag.words(text), *(f"{i} {piece}" for i, piece in enumerate(_pieces(text)) if piece.isdigit())]


RECIPE = Recipe(ABOUT, written, HOW, HELD_OUT, train, compared)
