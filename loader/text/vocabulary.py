"""A cut vocabulary at the tokenizer's edge: the file's ids outside, rows of the smaller embedding inside.

tokenizer.json is not touched: it still knows every token. A model with fewer rows has ids 0 .. n - 1 of its own, in
the order of the kept ones. A checkpoint that was written with such a cut says which they are in kept_vocab.json:

    {"format": "miaotui-vocab", "version": 1, "kept": "0-255,300", "fallback": 0}

`fallback`, where it is there, says what stands for a token that is gone (`fallback.py`): a kept one of the tokenizer's
ids, or "bytes".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import PlanError, TokenizerError
from ..files import quote, read_json_object
from ..paths import is_there
from ..ranges import read_indices, show
from .tokenizer import Tokenizer, checked_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .pieces import Cutting, Pieces

    #: A token that is gone -> tokens that stand for it, or None.
    Replacement = Callable[[int], tuple[int, ...] | None]

__all__ = ["FILE", "KeptTokenizer", "kept_fallback", "kept_ids", "kept_text"]

FILE, FORMAT, VERSION = "kept_vocab.json", "miaotui-vocab", 1
MAX_FILE = 64_000_000


def kept_ids(directory: Path) -> tuple[int, ...] | None:
    """The tokenizer's id of every row, where the directory says so. Errors: `PlanError`."""
    table = _read(directory)
    return None if table is None else read_indices(table.get("kept"), f"{directory}/{FILE}: kept")


def kept_fallback(directory: Path) -> int | str | None:
    """What stands for a token that is gone, where the directory says so. Errors: `PlanError`."""
    value = (_read(directory) or {}).get("fallback")
    if value is None or value == "bytes" or value in (kept_ids(directory) or ()):
        return value
    msg = f"{directory}/{FILE}: fallback is {quote(value)}; expected an id that is kept, or 'bytes'"
    raise PlanError(msg)


def _read(directory: Path) -> dict[str, Any] | None:
    file = Path(directory) / FILE
    if not is_there(file, PlanError):
        return None
    table = read_json_object(file, MAX_FILE, PlanError)
    if table.get("format") != FORMAT or table.get("version") != VERSION:
        msg = f"{file}: format {quote(table.get('format'))}; this version of miaotui reads {FORMAT!r}, {VERSION}"
        raise PlanError(msg)
    return table


def kept_text(ids: Iterable[int], fallback: int | str | None = None) -> str:
    """The file's text."""
    more = {} if fallback is None else {"fallback": fallback}
    return json.dumps({"format": FORMAT, "version": VERSION, "kept": show(ids), **more}) + "\n"


class KeptTokenizer(Tokenizer):
    """A tokenizer whose ids are the rows of a cut embedding; it speaks as the whole one does."""

    def __init__(self, whole: Tokenizer, kept: Sequence[int], instead: Replacement | None = None) -> None:
        """`kept`: the whole tokenizer's id of every row, ascending. `instead`: its ids for one that is gone."""
        self._whole, self._kept = whole, tuple(kept)
        self._instead = instead
        self._row = {token: row for row, token in enumerate(self._kept)}
        self.n_vocab = len(self._kept)
        self.unsettled_ids = frozenset(self._row[i] for i in whole.unsettled_ids if i in self._row)
        self.filtered, self.decoder_kinds = whole.filtered, whole.decoder_kinds
        self.special_tokens, self.templates = whole.special_tokens, whole.templates
        self.max_tokens, self.cut_side, self.word_aware = whole.max_tokens, whole.cut_side, whole.word_aware
        ids = whole.bos_id, whole.eos_id, whole.pad_id, whole.unk_id, whole.cls_id, whole.mask_id
        self.bos_id, self.eos_id, self.pad_id, self.unk_id, self.cls_id, self.mask_id = (
            None if i is None else self._row.get(i) for i in ids
        )

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Rows of a text's tokens. `TokenizerError` for one that was cut away and that nothing stands for."""
        ids = self._whole.encode(text, add_special_tokens=add_special_tokens)
        return [row for i in ids for row in self._rows(i)]

    def windows(
        self,
        text: str | Sequence[str],
        pair: str | None = None,
        *,
        cutting: Cutting | None = None,
        add_special_tokens: bool = True,
    ) -> list[Pieces]:
        """As the whole tokenizer's, in rows; what stands for a token that is gone lies where it lay."""
        cut = self._whole.windows(text, pair, cutting=cutting, add_special_tokens=add_special_tokens)
        return [pieces.spread(self._rows) for pieces in cut]

    def joined(self, tokens: Sequence[str]) -> str:
        """As the whole tokenizer's."""
        return self._whole.joined(tokens)

    def _rows(self, token: int) -> tuple[int, ...]:
        return (self._row[token],) if token in self._row else self._for(token)

    def _for(self, gone: int) -> tuple[int, ...]:
        """Rows that stand for a token that is gone."""
        ids = None if self._instead is None else self._instead(gone)
        if ids is None:
            msg = (
                f"the text needs token {gone} ({quote(self._whole.id_to_token(gone))}), which the plan cut from the "
                "vocabulary; say it with other words, keep that token, or name a vocab_fallback"
            )
            raise TokenizerError(msg)
        return tuple(self._row[i] for i in ids)

    def spelled(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Text of rows; a row that is not there gives nothing, as with the whole tokenizer."""
        known = (self._kept[i] for i in checked_ids(ids) if i < self.n_vocab)
        return self._whole.spelled(known, skip_special_tokens=skip_special_tokens)

    def spelled_each(self, several: Sequence[Sequence[int]]) -> list[str]:
        """As the whole tokenizer's, of rows."""
        return self._whole.spelled_each([[self._kept[i] for i in ids] for ids in several])

    def encode_each(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode`, of each of many."""
        return [[row for i in ids for row in self._rows(i)] for ids in self._whole.encode_each(texts)]

    def token_to_id(self, token: str) -> int | None:
        """The row of a token's exact spelling, or None."""
        number = self._whole.token_to_id(token)
        return None if number is None else self._row.get(number)

    def id_to_token(self, token_id: int) -> str | None:
        """The spelling of a row's token, or None."""
        (row,) = checked_ids([token_id])
        return self._whole.id_to_token(self._kept[row]) if row < self.n_vocab else None

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Rows of the special tokens."""
        return tuple(self._row[i] for i in self._whole.special_ids if i in self._row)

    @property
    def added_ids(self) -> tuple[int, ...]:
        """Rows of the added tokens."""
        return tuple(self._row[i] for i in self._whole.added_ids if i in self._row)
