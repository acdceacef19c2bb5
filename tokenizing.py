"""A directory's tokenizer, read when it is first asked for; its ids are the rows of a cut vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import TokenizerError
from .loader.paths import is_there
from .loader.text.tokenizer import Tokenizer
from .loader.text.vocab_fallback import make_replacement
from .loader.text.vocabulary import KeptTokenizer, kept_fallback, kept_ids
from .once import once

if TYPE_CHECKING:
    from pathlib import Path

    from .loader.prune.cut import Cut

__all__ = ["Tokenizing"]


class Tokenizing:
    """A directory's tokenizer, read when first asked for. Apart from `Model`, so that sequences do not hold it."""

    def __init__(self, directory: Path, cut: Cut) -> None:
        """`cut`: what is kept of the directory's model."""
        self._directory, self._cut = directory, cut

    @once
    def tokenizer(self) -> Tokenizer:
        """It maps ids to the rows of a cut vocabulary. `TokenizerError`."""
        directory, cut = self._directory, self._cut
        t, kept = Tokenizer.from_directory(directory), kept_ids(directory)
        if kept is not None and len(kept) != cut.before.n_vocab:
            msg = (
                f"{directory.name}: kept_vocab.json names {len(kept)} tokens, the model's vocabulary has "
                f"{cut.before.n_vocab}; they do not belong together"
            )
            raise TokenizerError(msg)
        if kept is None and cut.vocab is None:
            return t
        return KeptTokenizer(t, cut.tokens(kept), make_replacement(t, cut.fallback(kept, kept_fallback(directory))))

    def codec(self) -> Tokenizer:
        """As `tokenizer`."""
        return self.tokenizer

    def is_there(self) -> bool:
        """Whether the directory has one."""
        return is_there(self._directory / "tokenizer.json", TokenizerError)
