"""A cut vocabulary at the tokenizer's edge: the file's ids outside, rows of the smaller embedding inside.

tokenizer.json is not touched: it still knows every token. A model with fewer rows has ids 0 .. n - 1 of its own, in
the order of the kept ones. A checkpoint that was written with such a cut says which they are in kept_vocab.json:

    {"format": "miaotui-vocab", "version": 1, "kept": "0-255,300"}
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import PlanError, TokenizerError
from .checkpoint import read_json_object
from .header import shown
from .ranges import read_indices, show
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["FILE", "KeptTokenizer", "kept_ids", "kept_text"]

FILE, FORMAT, VERSION = "kept_vocab.json", "miaotui-vocab", 1
MAX_FILE = 64_000_000


def kept_ids(directory: Path) -> tuple[int, ...] | None:
    """The tokenizer's id of every row, where the directory says so. Errors: `PlanError`."""
    file = Path(directory) / FILE
    if not file.exists():
        return None
    found = read_json_object(file, MAX_FILE, PlanError)
    if found.get("format") != FORMAT or found.get("version") != VERSION:
        msg = f"{file}: format {shown(found.get('format'))}; this version of miaotui reads {FORMAT!r}, {VERSION}"
        raise PlanError(msg)
    return read_indices(found.get("kept"), f"{file}: kept")


def kept_text(ids: Iterable[int]) -> str:
    """The file's text."""
    return json.dumps({"format": FORMAT, "version": VERSION, "kept": show(ids)}) + "\n"


class KeptTokenizer(Tokenizer):
    """A tokenizer whose ids are the rows of a cut embedding; it speaks as the whole one does."""

    def __init__(self, whole: Tokenizer, kept: Sequence[int]) -> None:
        """`kept`: the whole tokenizer's id of every row, ascending."""
        self._whole, self._kept = whole, tuple(kept)
        self._row = {token: row for row, token in enumerate(self._kept)}
        self.n_vocab = len(self._kept)
        self.bos_id, self.eos_id, self.pad_id = (
            None if i is None else self._row.get(i) for i in (whole.bos_id, whole.eos_id, whole.pad_id)
        )

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Rows of a text's tokens. `TokenizerError` for a text that needs a token that was cut away."""
        ids = self._whole.encode(text, add_special_tokens=add_special_tokens)
        gone = next((i for i in ids if i not in self._row), None)
        if gone is not None:
            msg = (
                f"the text needs token {gone} ({shown(self._whole.id_to_token(gone))}), which the plan cut from the "
                "vocabulary; say it with other words, or keep that token"
            )
            raise TokenizerError(msg)
        return [self._row[i] for i in ids]

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Text of rows; a row that is not there gives nothing, as with the whole tokenizer."""
        known = (self._kept[i] for i in ids if 0 <= i < self.n_vocab)
        return self._whole.decode(known, skip_special_tokens=skip_special_tokens)

    def token_to_id(self, token: str) -> int | None:
        """The row of a token's exact spelling, or None."""
        found = self._whole.token_to_id(token)
        return None if found is None else self._row.get(found)

    def id_to_token(self, token_id: int) -> str | None:
        """The spelling of a row's token, or None."""
        return self._whole.id_to_token(self._kept[token_id]) if 0 <= token_id < self.n_vocab else None

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Rows of the special tokens."""
        return tuple(self._row[i] for i in self._whole.special_ids if i in self._row)
