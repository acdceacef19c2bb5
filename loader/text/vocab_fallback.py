"""What stands for a token that a plan cut from the vocabulary: nothing (an error), one token, or the token's bytes.

| `vocab_fallback` | a text that needs a token that is gone ...                                          |
|------------------|-------------------------------------------------------------------------------------|
| (none)           | is refused                                                                          |
| `17`             | has token 17 there                                                                  |
| `"unk"`          | has the tokenizer's unknown token there                                             |
| `"bytes"`        | has a token for each byte of its spelling; for tokenizers that have all 256 of them |

Byte tokens are spelled <0x00> to <0xFF> (SentencePiece's byte fallback; Kudo and Richardson 2018, arXiv:1808.06226) or
as one of 256 printable characters (byte-level BPE; Radford et al. 2019, section 2.2). A special token has no bytes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ...errors import PlanError
from ..files import quote
from .tokenizer import Tokenizer
from .vocabulary import kept_fallback, kept_ids

if TYPE_CHECKING:
    from pathlib import Path

    from ..prune.plan import PrunePlan
    from .vocabulary import Replacement

__all__ = ["BYTES", "UNK", "Bytes", "make_replacement", "needed_rows", "printable_bytes", "with_fallback_id"]

UNK, BYTES = "unk", "bytes"
#: SentencePiece's sign for a space.
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def printable_bytes() -> dict[str, int]:
    """Byte-level BPE's character of every byte: itself where it is printable, else the next free one from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(rest)}


class Bytes:
    """A tokenizer's byte tokens; `ids` is empty where it lacks some of them."""

    def __init__(self, whole: Tokenizer) -> None:
        """Find them by their spelling."""
        self._whole, self._special, self._added = whole, frozenset(whole.special_ids), frozenset(whole.added_ids)
        self._byte: dict[str, int] = {}
        for spelling in ({f"<0x{b:02X}>": b for b in range(256)}, printable_bytes()):
            table = {byte: whole.token_to_id(text) for text, byte in spelling.items()}
            self.ids = tuple(i for _, i in sorted(table.items()) if i is not None)
            if len(self.ids) == len(table):
                self._byte = spelling
                return
        self.ids = ()

    def of(self, token: int) -> tuple[int, ...] | None:
        """The byte tokens of a token's spelling; None for a special one."""
        text = self._whole.id_to_token(token)
        if text is None or token in self._special or not self.ids:
            return None
        if token in self.ids:
            return (token,)
        if "<0x00>" not in self._byte and token in self._added:  # spelled as the text that it is
            return tuple(self.ids[b] for b in text.encode())
        if "<0x00>" not in self._byte:  # byte-level: a character is a byte
            encoded = [self._byte.get(c) for c in text]
            return None if None in encoded else tuple(self.ids[b] for b in encoded if b is not None)
        return tuple(self.ids[b] for b in text.replace(SPACE, " ").encode())


def make_replacement(whole: Tokenizer, fallback: int | str | None) -> Replacement | None:
    """What `KeptTokenizer` asks for a token that is gone; `fallback` is one of the tokenizer's ids, or "bytes"."""
    if fallback is None:
        return None
    return Bytes(whole).of if isinstance(fallback, str) else lambda _: (fallback,)


def needed_rows(fallback: int | str, directory: Path) -> tuple[int, ...]:
    """Rows of the embedding that a fallback needs; in a plan's numbers. Errors: `PlanError`, `TokenizerError`."""
    if isinstance(fallback, int):
        return (fallback,)
    whole, kept = Tokenizer.from_directory(directory), kept_ids(directory)
    if fallback == UNK:
        if whole.unk_id is None:
            msg = f"vocab_fallback: the tokenizer has no unknown token; name a token by its id, or {BYTES}"
            raise PlanError(msg)
        ids: tuple[int, ...] = (whole.unk_id,)
    else:
        ids = Bytes(whole).ids
        if not ids:
            msg = f"vocab_fallback: the tokenizer has no token for every byte; name a token by its id, or {UNK}"
            raise PlanError(msg)
    row = None if kept is None else {token: i for i, token in enumerate(kept)}
    gone = [i for i in ids if row is not None and i not in row]
    if gone:
        raise PlanError(_gone(fallback, gone[0], whole, "an earlier plan"))
    return ids if row is None else tuple(row[i] for i in ids)


def with_fallback_id(plan: PrunePlan, directory: Path) -> PrunePlan:
    """The plan with "unk" as an id, and a note of what stands for tokens that are gone; all of it must be kept.

    So must what an earlier cut, in kept_vocab.json, says. Its ids are the model's. Errors: `PlanError`, and
    `TokenizerError` for a directory without a tokenizer.
    """
    fallback, kept = plan.vocab_fallback, kept_ids(directory)
    if fallback is None and plan.vocab is not None:
        before = kept_fallback(directory)
        fallback = kept.index(before) if isinstance(before, int) and kept is not None else before
    if fallback is None:
        return plan
    rows, whole = needed_rows(fallback, directory), Tokenizer.from_directory(directory)
    there = None if plan.vocab is None else set(plan.vocab)
    gone = next((row for row in rows if there is not None and row not in there), None)
    if gone is not None:
        raise PlanError(_gone(fallback, gone if kept is None else kept[gone], whole, "the plan"))
    if plan.vocab_fallback is None:
        return plan
    note = "a token that is gone is spelled by a token for each of its bytes"
    if fallback != BYTES:
        [fallback] = rows
        token = fallback if kept is None else kept[fallback]
        note = f"a token that is gone becomes token {token} ({quote(whole.id_to_token(token))})"
    return replace(plan, vocab_fallback=fallback, notes=(*plan.notes, *({note} - {*plan.notes})))


def _gone(fallback: int | str, token: int, whole: Tokenizer, who: str) -> str:
    return (
        f"vocab_fallback {fallback}: token {token} ({quote(whole.id_to_token(token))}) stands for those that are gone, "
        f"but {who} cuts it too; keep it"
    )
