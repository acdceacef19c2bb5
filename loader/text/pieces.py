"""A text's tokens with their places in it, framed; of a long text, windows that overlap.

Offsets count code points of the text as it was given; `tokenizers` keeps them through its normaliser.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ...errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import tokenizers

__all__ = ["Cutting", "Pieces", "Strategy", "windows"]

Strategy = Literal["longest_first", "only_first", "only_second"]


@dataclass(frozen=True)
class Pieces:
    """What one pass reads: for each token its id, type, place in its text, word, and which text (None: the frame)."""

    ids: list[int]
    types: list[int]
    offsets: list[tuple[int, int]]
    words: list[int | None]
    texts: list[int | None]
    special: list[bool]

    def spread(self, rows: Callable[[int], Sequence[int]]) -> Pieces:
        """The same with other ids; a token that becomes several keeps its place in each of them."""
        made = [tuple(rows(i)) for i in self.ids]
        at = [n for n, row in enumerate(made) for _ in row]
        return replace(
            self,
            ids=[i for row in made for i in row],
            types=[self.types[n] for n in at],
            offsets=[self.offsets[n] for n in at],
            words=[self.words[n] for n in at],
            texts=[self.texts[n] for n in at],
            special=[self.special[n] for n in at],
        )


@dataclass(frozen=True)
class Cutting:
    """At most `max_tokens`, the frame among them; `strategy`: which of two texts is cut, at its end.

    `stride`: what is cut off follows in further windows, each of which begins with the last `stride` tokens of the one
    before; None: it is dropped. `name`: of the stride, in errors.
    """

    max_tokens: int
    strategy: Strategy = "longest_first"
    stride: int | None = None
    side: Literal["right", "left"] = "right"
    name: str = "stride"


def windows(
    inner: tokenizers.Tokenizer,
    text: str | Sequence[str],
    pair: str | None,
    cutting: Cutting | None,
    *,
    add_special_tokens: bool,
) -> list[Pieces]:
    """One or more windows of a text, or of two. `text` may be words: places are then those in each word.

    Errors: `InputError` where nothing of a text would be left, or for a stride that leaves a window no room to go on.
    """
    first = inner.encode(text, is_pretokenized=not isinstance(text, str), add_special_tokens=False)
    second = None if pair is None else inner.encode(pair, add_special_tokens=False)
    if cutting is not None:
        frame = inner.num_special_tokens_to_add(is_pair=pair is not None) if add_special_tokens else 0
        _cut(first, second, cutting, cutting.max_tokens - frame)
    framed = inner.post_process(first, second, add_special_tokens)
    every = [framed, *framed.overflowing] if cutting is not None and cutting.stride is not None else [framed]
    return [_pieces(encoding) for encoding in every]


def _cut(first: tokenizers.Encoding, second: tokenizers.Encoding | None, cutting: Cutting, room: int) -> None:
    lengths = [len(first), 0 if second is None else len(second)]
    if sum(lengths) <= room:
        return
    kept = _kept(lengths, cutting, room)
    for encoding, before, size in zip((first, second), lengths, kept, strict=True):
        if encoding is None or size == before:
            continue
        stride = cutting.stride or 0
        if size <= stride:
            msg = (
                f"{cutting.name}={stride}: a window of {cutting.max_tokens} tokens has room for {max(size, 0)} of the "
                f"text, next to {cutting.max_tokens - room} that frame it"
                f"{f' and {room - size} of the question' if second is not None else ''}; expected less than that"
            )
            if size <= 0 or cutting.stride is None:
                msg = (
                    f"the text is too long: a window of {cutting.max_tokens} tokens has no room for "
                    f"{'the text that may be cut next to the other one' if second is not None else 'any of it'}"
                )
            raise InputError(msg)
        encoding.truncate(size, stride=stride, direction=cutting.side)


def _kept(lengths: list[int], cutting: Cutting, room: int) -> tuple[int, int]:
    """Tokens of each text that stay."""
    a, b = lengths
    if cutting.strategy == "only_first":
        return room - b, b
    if cutting.strategy == "only_second":
        return a, room - a
    low, high = sorted(lengths)  # the longer one is cut until both are alike
    high = max(low, room - low) if low <= room else low
    if low + high > room:
        low = room // 2
        high = low + room % 2
    return (low, high) if a <= b else (high, low)


def _pieces(encoding: tokenizers.Encoding) -> Pieces:
    special = [bool(flag) for flag in encoding.special_tokens_mask]
    return Pieces(encoding.ids, encoding.type_ids, encoding.offsets, encoding.word_ids, encoding.sequence_ids, special)
