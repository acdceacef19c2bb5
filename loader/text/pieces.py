"""A text's tokens with their places in it, framed; of a long text, windows that overlap.

Offsets count code points of the text as it was given; `tokenizers` keeps them through its normaliser.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from ...dataclass import dataclass
from ...errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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

    def without(self, kept: Mapping[int, range]) -> Pieces:
        """Of each of these texts only the tokens of these numbers in it."""
        seen, at = dict.fromkeys(kept, 0), list[int]()
        for n, text in enumerate(self.texts):
            if text in seen:
                if seen[text] in kept[text]:
                    at.append(n)
                seen[text] += 1
            else:
                at.append(n)
        return self._taken(at)

    def parts(self, text: int, kept: Sequence[range]) -> list[Pieces]:
        """As `without` for each of several ranges of one text, in time that does not grow with their number squared."""
        first = self.texts.index(text)
        after = first + self.texts.count(text)
        if any(each != text for each in self.texts[first:after]):  # the frame has a token inside of it
            return [self.without({text: part}) for part in kept]
        around = range(first), range(after, len(self.ids))
        return [self._taken([*around[0], *range(first + part.start, first + part.stop), *around[1]]) for part in kept]

    def spread(self, rows: Callable[[int], Sequence[int]]) -> Pieces:
        """The same with other ids; a token that becomes several keeps its place in each of them."""
        made = [tuple(rows(i)) for i in self.ids]
        taken = self._taken([n for n, row in enumerate(made) for _ in row])
        return replace(taken, ids=[i for row in made for i in row])

    def _taken(self, at: Sequence[int]) -> Pieces:
        columns = (self.ids, self.types, self.offsets, self.words, self.texts, self.special)
        return Pieces(*([column[n] for n in at] for column in columns))  # type: ignore[arg-type]  # columns as above


@dataclass(frozen=True)
class Cutting:
    """At most `max_tokens`, the frame among them; `strategy`: which of two texts is cut, at its end.

    `stride`: what is cut off follows in further windows, each of which begins with the last `stride` tokens of the one
    before; None: it is dropped. `shrinks`: a stride for which a window has no room is made smaller, for nobody chose
    it; otherwise that is an error, in which it is called `name`.
    """

    max_tokens: int
    strategy: Strategy = "longest_first"
    stride: int | None = None
    side: Literal["right", "left"] = "right"
    shrinks: bool = False
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
    encoding = inner.encode(
        text, pair, is_pretokenized=not isinstance(text, str), add_special_tokens=add_special_tokens
    )
    special = [bool(flag) for flag in encoding.special_tokens_mask]
    whole = Pieces(encoding.ids, encoding.type_ids, encoding.offsets, encoding.word_ids, encoding.sequence_ids, special)
    return [whole] if cutting is None else _cut(whole, cutting)


def _cut(whole: Pieces, cutting: Cutting) -> list[Pieces]:
    """The same frame around a part of a text; `tokenizers` itself would work out the offsets of parts twice."""
    lengths = [whole.texts.count(0), whole.texts.count(1)]
    frame = len(whole.ids) - sum(lengths)
    room = cutting.max_tokens - frame
    if sum(lengths) <= room:
        return [whole]
    kept = _kept(lengths, cutting.strategy, room)
    shorter = [text for text in (0, 1) if kept[text] < lengths[text]]
    for text in shorter:
        if kept[text] < 1:
            other = f" and {lengths[1 - text]} of the other text" if lengths[1 - text] else ""
            msg = f"{cutting.max_tokens} tokens have no room for the text, next to {frame} that frame it{other}"
            raise InputError(msg)
    stride = cutting.stride
    if stride is None or len(shorter) > 1:
        return [whole.without({text: _window(0, lengths[text], kept[text], cutting.side) for text in shorter})]
    [text] = shorter
    size = kept[text]
    if size <= stride and not cutting.shrinks:
        msg = (
            f"{cutting.name}={stride}: a window of {cutting.max_tokens} tokens has room for {size} of the text; "
            f"{cutting.name} is how many of them it shares with the one before, and must be less"
        )
        raise InputError(msg)
    step = size - (stride if stride < size else size // 2)
    n = 1 + -(-(lengths[text] - size) // step)
    return whole.parts(text, [_window(i * step, lengths[text], size, cutting.side) for i in range(n)])


def _window(start: int, length: int, size: int, side: str) -> range:
    """Tokens of a text from `start` on, counted from the end where the left side is cut."""
    stop = min(start + size, length)
    return range(start, stop) if side == "right" else range(length - stop, length - start)


def _kept(lengths: list[int], strategy: Strategy, room: int) -> tuple[int, int]:
    """Tokens of each text that stay."""
    a, b = lengths
    if strategy == "only_first":
        return room - b, b
    if strategy == "only_second":
        return a, room - a
    low, high = sorted(lengths)  # the longer one is cut until both are alike
    high = max(low, room - low) if low <= room else low
    if low + high > room:
        low = room // 2
        high = low + room % 2
    return (low, high) if a <= b else (high, low)
