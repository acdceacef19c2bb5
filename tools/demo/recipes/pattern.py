"""Texts from patterns: `{slot}` is one of the slot's words, and where it came to lie in the text is known."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ....dataclass import dataclass

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping, Sequence

    #: What a slot may be filled with: words (patterns themselves), or what makes one.
    Words = Sequence[str] | Callable[[random.Random], str]
    Slots = Mapping[str, Words]

__all__ = ["Span", "coined", "filled", "made_of", "strange_name", "strange_word", "with_strange_words", "words_in"]

_SLOT = re.compile(r"(\{\w+\})")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` of a text came from a slot."""

    slot: str
    start: int
    end: int


def filled(pattern: str, slots: Slots, rng: random.Random, *, capital: bool = True) -> tuple[str, list[Span]]:
    """A text and what its slots became, those inside others first; a slot that comes again has the same words.

    `capital`: the first letter is one.
    """
    text, spans = _filled(pattern, slots, rng, {})
    return (text[:1].upper() + text[1:] if capital else text), spans


def _filled(pattern: str, slots: Slots, rng: random.Random, drawn: dict[str, str]) -> tuple[str, list[Span]]:
    text, spans = "", []
    for piece in _SLOT.split(pattern):
        if not _SLOT.fullmatch(piece):
            text += piece
            continue
        name, start = piece[1:-1], len(text)
        if name not in drawn:
            words = slots[name]
            drawn[name] = words(rng) if callable(words) else rng.choice(words)
        inner, within = _filled(drawn[name], slots, rng, drawn)
        text += inner
        spans += [Span(span.slot, span.start + start, span.end + start) for span in within]
        spans.append(Span(name, start, len(text)))
    return text, spans


def coined(starts: Sequence[str], ends: Sequence[str]) -> Callable[[random.Random], str]:
    """Makes names that nobody has: a start and an end."""
    return lambda rng: rng.choice(starts) + rng.choice(ends)


def made_of(*choices: Words) -> Callable[[random.Random], str]:
    """Makes a word by one of several ways, each as often."""

    def make(rng: random.Random) -> str:
        words = rng.choice(choices)
        return words(rng) if callable(words) else rng.choice(words)

    return make


def words_in(text: str) -> list[str]:
    """Words and numbers of a text, in lower case."""
    return _WORD.findall(text.lower())


_STARTS = (
    "b",
    "br",
    "c",
    "d",
    "f",
    "g",
    "gl",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "qu",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "x",
    "z",
    "",
)
_VOWELS = ("a", "e", "i", "o", "u", "ea", "ou", "y")
_ENDS = ("", "n", "r", "t", "l", "s", "nd", "ck", "rm")
_ENDINGS = ("", "", "", "ing", "ed", "ly", "s", "er", "ment", "tion", "y")


def strange_word(rng: random.Random) -> str:
    """A word of no language, in lower case."""
    syllables = (rng.choice(_STARTS) + rng.choice(_VOWELS) + rng.choice(_ENDS) for _ in range(rng.randint(1, 2)))
    return "".join(syllables) + rng.choice(_ENDINGS)


def strange_name(rng: random.Random) -> str:
    """The same with a capital, as names have."""
    return strange_word(rng).capitalize()


def with_strange_words(
    text: str, spans: Sequence[Span], rng: random.Random, *, added: float = 0.0, replaced: float = 0.0
) -> tuple[str, list[Span]]:
    """Put words of no language into shares of the gaps between words and of the words, none of them in a span.

    So a model learns that a word that it does not know is no name, and says nothing.
    """
    pieces, moved, at = [], list(spans), 0
    for word in _WORD.finditer(text):
        new = word[0]
        if not any(span.start < word.end() and word.start() < span.end for span in spans):
            if rng.random() < replaced:
                new = strange_word(rng)
                new = new.capitalize() if word[0][0].isupper() else new
            if rng.random() < added and word[0].isalpha() and not word[0][0].isupper():
                new = f"{strange_word(rng)} {new}"
        pieces += [text[at : word.start()], new]
        at = word.end()
        longer = len(new) - len(word[0])
        moved = [
            Span(m.slot, m.start + longer, m.end + longer) if s.start >= word.end() else m
            for s, m in zip(spans, moved, strict=True)
        ]
    return "".join(pieces) + text[at:], moved
