"""The encoders' one tokenizer: WordPiece (Schuster and Nakajima 2012) trained on what all of them are trained on."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

__all__ = ["CLS", "LETTERS", "MASK", "N_VOCAB", "PAD", "SEP", "UNK", "train_wordpiece", "write_wordpiece"]

PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
N_VOCAB = 1600
TEXTS = 4000  # of each corpus
LETTERS = [chr(i) for i in range(33, 127)]


def train_wordpiece(corpora: Iterable[Iterator[str]], letters: Sequence[str] = LETTERS) -> Tokenizer:
    """Train on the first texts of each corpus, which `letters` spell; the same each time.

    Case counts: names are known by it.
    """
    texts = itertools.chain.from_iterable(itertools.islice(corpus, TEXTS) for corpus in corpora)
    drawn = _around(models.WordPiece(unk_token=UNK))
    drawn.train_from_iterator(
        texts,
        trainers.WordPieceTrainer(
            vocab_size=N_VOCAB,
            # letters inside a word have their numbers before training: it would number them in an order of chance
            special_tokens=[PAD, UNK, CLS, SEP, MASK, *letters, *(f"##{letter}" for letter in letters)],
            show_progress=False,
        ),
    )
    tokenizer = _around(models.WordPiece(drawn.get_vocab(with_added_tokens=True), unk_token=UNK))
    tokenizer.add_special_tokens([PAD, UNK, CLS, SEP, MASK])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (CLS, SEP)],
    )
    return tokenizer


def _around(model: models.WordPiece) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def write_wordpiece(tokenizer: Tokenizer, directory: Path, n_context: int) -> None:
    """Write tokenizer.json and tokenizer_config.json as Hugging Face lays them out."""
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    names = {"pad": PAD, "unk": UNK, "cls": CLS, "sep": SEP, "mask": MASK}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{name}_token": token for name, token in names.items()},
        "clean_up_tokenization_spaces": False,
        "model_max_length": n_context,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
