"""A directory's tokenizer, read when it is first asked for; its ids are the rows of a cut vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import TokenizerError
from .loader.checkpoint import MEMORY
from .loader.paths import is_there
from .loader.text.tokenizer import Tokenizer
from .loader.text.vocab_fallback import make_replacement
from .loader.text.vocabulary import KeptTokenizer, kept_fallback, kept_ids
from .once import once

if TYPE_CHECKING:
    from pathlib import Path

    from .loader.prune.cut import Cut

__all__ = ["Tokenizing"]

_FILE = "tokenizer.json"
#: Ids whose spelling is compared, about.
_LOOKED_AT = 4096


class Tokenizing:
    """A directory's tokenizer, read when first asked for. Apart from `Model`, so that sequences do not hold it."""

    def __init__(self, directory: Path, cut: Cut) -> None:
        """`cut`: what is kept of the directory's model."""
        self._directory, self._cut = directory, cut

    @once
    def tokenizer(self) -> Tokenizer:
        """It maps ids to the rows of a cut vocabulary. `TokenizerError`."""
        directory, cut = self._directory, self._cut
        if directory == MEMORY:
            msg = "this model was loaded from memory, without a tokenizer, so it reads ids, where a call takes them: "
            msg += "load(DIRECTORY, tensors=...) brings one"
            raise TokenizerError(msg)
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

    def differs(self, other: Tokenizing) -> int | None:
        """An id that the two spell differently, of those that are looked at; None: they do not, or one has none."""
        if not (self.is_there() and other.is_there()):
            return None
        here, there = self._directory, other._directory
        alike = self._cut.vocab == other._cut.vocab and kept_ids(here) == kept_ids(there)
        from filecmp import cmp  # noqa: PLC0415 - few ask

        if alike and cmp(here / _FILE, there / _FILE, shallow=False):
            return None
        n = self._cut.config.n_vocab
        looked_at = range(0, n, max(1, n // _LOOKED_AT))
        ours, theirs = self.tokenizer, other.tokenizer
        return next((i for i in looked_at if ours.id_to_token(i) != theirs.id_to_token(i)), None)

    def codec(self) -> Tokenizer:
        """As `tokenizer`."""
        return self.tokenizer

    def is_there(self) -> bool:
        """Whether the directory has one."""
        return is_there(self._directory / _FILE, TokenizerError)
