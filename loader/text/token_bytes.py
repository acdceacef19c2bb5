"""The bytes that each token adds to a text: what a constraint on the text is checked against.

Byte-level BPE spells a byte as one of 256 characters, SentencePiece's byte fallback as <0x00> to <0xFF>; all other
tokens are asked of the tokenizer's decoder, next to a token that stands before them. At the beginning of a text some
decoders drop a space, so a token may have other bytes there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ...dataclass import dataclass
from ...errors import InputError
from ...once import once
from .vocab_fallback import printable_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .tokenizer import Tokenizer

__all__ = ["TokenBytes", "token_bytes"]

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
#: Parts of a decoder next to which a byte-level one still says what a token's bytes are.
_NEXT_TO_BYTE_LEVEL = {"ByteLevel", "Sequence", "Fuse", "None"}
#: Texts whose first token may stand before others: any one with a text that stays as it is will do.
_ANCHORS = ("a", "x", "1", ".", "A", "b")


@dataclass(frozen=True)
class TokenBytes:
    """Bytes by id. `after`: in a text that has begun; `first`: of its first token that has any.

    None has no text: a special token, or an id without a token. `first` is `after` where both are the same.
    """

    after: tuple[bytes, ...]
    first: tuple[bytes, ...]

    @property
    def differ(self) -> bool:
        """Whether a text's first token may have other bytes."""
        return self.first is not self.after

    def begun(self, ids: Sequence[int]) -> bool:
        """Whether these ids have a text, so that the next token is not its first."""
        return not self.differ or any(self.after[i] for i in reversed(ids))

    def longest_first(self, data: bytes, *, first: bool) -> list[int] | None:
        """Ids that spell these bytes, each the longest that fits; None: there are none."""
        ids, at = list[int](), 0
        while at < len(data):
            table, longest = self._heads if first and not ids else self._tails
            sizes = range(min(longest, len(data) - at), 0, -1)
            token = next((table[piece] for n in sizes if (piece := data[at : at + n]) in table), None)
            if token is None:
                return None
            ids.append(token)
            at += len(self.first[token] if first and len(ids) == 1 else self.after[token])
        return ids

    @once
    def _tails(self) -> tuple[dict[bytes, int], int]:
        return _by_bytes(self.after)

    @once
    def _heads(self) -> tuple[dict[bytes, int], int]:
        return _by_bytes(self.first)


def _by_bytes(tokens: Sequence[bytes]) -> tuple[dict[bytes, int], int]:
    return {token: i for i, token in reversed([*enumerate(tokens)]) if token}, max(map(len, tokens), default=0)


def token_bytes(tokenizer: Tokenizer, n_vocab: int) -> TokenBytes:
    """Of ids 0 .. `n_vocab` - 1. Errors: `InputError` for a decoder whose tokens have no text of their own."""
    special, n = frozenset(tokenizer.special_ids), min(n_vocab, tokenizer.n_vocab)
    plain = [i for i in range(n) if i not in special and tokenizer.id_to_token(i) is not None]
    kinds = tokenizer.decoder_kinds
    after, first = [b""] * n_vocab, [b""] * n_vocab
    if "ByteLevel" in kinds and kinds <= _NEXT_TO_BYTE_LEVEL:
        table, added = printable_bytes(), frozenset(tokenizer.added_ids)
        for i in plain:
            after[i] = _byte_level(tokenizer.id_to_token(i) or "", table, added=i in added)
        whole = tuple(after)
        return TokenBytes(whole, whole)
    falls_back = "ByteFallback" in kinds
    for i, (alone, later) in zip(plain, _decoded(tokenizer, plain), strict=True):
        byte = _BYTE.fullmatch(tokenizer.id_to_token(i) or "") if falls_back else None
        after[i] = bytes([int(byte[1], 16)]) if byte else later.encode()
        first[i] = after[i] if byte else alone.encode()
    whole = tuple(after)
    return TokenBytes(whole, whole if first == after else tuple(first))


def _byte_level(token: str, table: dict[str, int], *, added: bool) -> bytes:
    """An added token is spelled as the text that it is, any other by a character for each byte."""
    if added or not all(c in table for c in token):
        return token.encode()
    return bytes(table[c] for c in token)


def _decoded(tokenizer: Tokenizer, ids: list[int]) -> list[tuple[str, str]]:
    """The text of each id at the beginning of a text, and after another token."""
    anchor, before = _anchor(tokenizer, ids)
    alone = tokenizer.spelled_each([[i] for i in ids])
    after = tokenizer.spelled_each([[anchor, i] for i in ids])
    for i, text in zip(ids, after, strict=True):
        if not text.startswith(before):
            msg = (
                f"this tokenizer joins tokens in a way that no constraint can follow: token {i} "
                f"({tokenizer.id_to_token(i)!r}) changes the text before it; generate without one"
            )
            raise InputError(msg)
    return list(zip(alone, (text[len(before) :] for text in after), strict=True))


def _anchor(tokenizer: Tokenizer, ids: list[int]) -> tuple[int, str]:
    """A token whose text does not depend on what comes after it, and its text at the beginning of one."""
    named = (i for i in map(tokenizer.token_to_id, _ANCHORS) if i is not None and i in ids)
    for i in (*named, *ids):
        text, twice = tokenizer.spelled([i]), tokenizer.spelled([i, i])
        if text and twice.startswith(text) and len(twice) > len(text) and "\ufffd" not in twice:
            return i, text
    msg = "no token of this tokenizer has a text of its own, so that no constraint can follow it; generate without one"
    raise InputError(msg)
