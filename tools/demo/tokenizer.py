"""A byte-level BPE trained on the stories: any text goes in, and the words of the stories are mostly one token each."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from .corpus import TRAINING_SEED, stories

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["BOS", "EOS", "N_VOCAB", "train_tokenizer", "write_tokenizer"]

BOS, EOS, N_VOCAB = "<s>", "</s>", 1024


def train_tokenizer(n_stories: int = 20_000) -> Tokenizer:
    """Train on the first stories of the training seed. Every encoding begins with `<s>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCAB,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(itertools.islice(stories(TRAINING_SEED), n_stories), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, directory: Path, n_context: int) -> None:
    """Write tokenizer.json and tokenizer_config.json as Hugging Face lays them out."""
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "clean_up_tokenization_spaces": False,
        "model_max_length": n_context,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
