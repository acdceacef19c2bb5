"""Small product sheets, a question about each, and where the answer lies in the sheet.

A sheet says up to six things about a product, in any order, with words of all kinds around them; several are in the
same unit (its height and the length of its cable, its price and what shipping costs), so that the unit alone answers
nothing. A third of the things are said by a noun or a verb of no language, so that nothing but the same word in the
question tells which is asked for. What is held out is said and asked by other patterns, of other products, with other
figures; no word that is new there occurs in training.
"""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from . import sheet_phrases as phrases
from . import sheets
from .pattern import Span, filled, strange_name, strange_word, with_strange_words, words_in
from .sheets import FACTS, WORDS, Sheet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .pattern import Slots

__all__ = ["held_out", "reserved", "training"]

held_out = sheets.held_out

INVENTED = 0.35  # of the facts
USUAL = 0.35  # of the others are said by a pattern of `sheets.FACTS`
ASIDE = 0.25  # of the sheets have a sentence that answers nothing
AROUND, BEFORE, AFTER = 0.5, 0.7, 0.3  # of the sentences have other words around them: so many before, so many after
FRAMED = 0.5  # of the questions
STRANGE, ADDED = 0.5, (0.05, 0.1, 0.2)  # as in `sheets`
PLAIN = 0.15  # of the sheets are those of `sheets`
SHORT, LEAST = 30_000, 0.1  # sheets over which the share of short ones sinks, and what it sinks to

_FREE = re.compile(r"\{(strange|common)\}")
UNITS = ("kg", "grams", "cm", "m", "watts", "litres", "euros", "years", "months", "hours", "minutes")
_COUNTS = ("two", "three", "four", "five", "seven", "eight", "nine", "ten", "twelve")


@dataclass(frozen=True)
class _Fact:
    """A sentence, the slot of it that is the answer, and questions: whole, or for a frame; all of them patterns."""

    said: str
    slot: str = ""  # of a sentence that answers nothing
    asked: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    value: str = ""


def training(seed: int) -> Iterator[Sheet]:
    """Sheets, each with a question and its answer, without end; the share of short ones sinks."""
    rng = random.Random(f"varied {seed}")  # noqa: S311 - sheets, not secrets
    plain = sheets.plain(seed)
    for n in itertools.count():
        short = max(LEAST, 1 - n / SHORT)
        if rng.random() < short:
            sheet = _sheet(rng, rng.randint(1, 3))
        else:
            sheet = next(plain) if rng.random() < PLAIN else _sheet(rng, rng.randint(3, 6))
        if rng.random() < STRANGE:
            added = rng.choice(ADDED)
            text, [span] = with_strange_words(sheet.text, [Span("", sheet.start, sheet.end)], rng, added=added)
            sheet = Sheet(with_strange_words(sheet.question, (), rng, added=added)[0], text, span.start, span.end)
        if not reserved() & set(words_in(f"{sheet.question} {sheet.text}")):  # by chance
            yield sheet


@cache
def reserved() -> frozenset[str]:
    """Words that are new in what is held out."""
    held, plain = held_out(1000), itertools.islice(sheets.plain(1), 3000)
    return frozenset(_words(held) - _words(plain))


def _words(some: Iterator[Sheet] | list[Sheet]) -> set[str]:
    return {word for sheet in some for word in words_in(f"{sheet.question} {sheet.text}")}


@cache
def _common() -> tuple[str, ...]:
    """English words that say nothing about a product."""
    said = {word for fact in FACTS.values() for word in words_in(" ".join(fact.said + fact.asked))}
    return tuple(word for word in phrases.COMMON if word not in reserved() | said)


def _unreserved(rng: random.Random, make: Callable[[random.Random], str]) -> str:
    """What is made, with no word of what is held out."""
    while set(words_in(made := make(rng))) & reserved():
        pass
    return made


def _strange(rng: random.Random) -> str:
    return _unreserved(rng, strange_word)


def _sheet(rng: random.Random, n: int) -> Sheet:
    """A sheet that says `n` things."""
    product, _ = filled("{product}", WORDS, rng)
    kind, _ = filled("{kind}", WORDS, rng, capital=False)
    slots = {**WORDS, "product": (product,), "kind": (kind,)}
    facts = [_invented(rng) if rng.random() < INVENTED else _usual(name, rng) for name in rng.sample(sorted(FACTS), n)]
    asked = rng.choice(facts)
    if rng.random() < ASIDE:
        facts.insert(rng.randint(0, n), _Fact(rng.choice(phrases.ASIDES)))
    text, _ = _drawn(rng.choice(phrases.OPENINGS + sheets.OPENINGS), slots, rng)
    at = Span("", 0, 0)
    for fact in facts:
        own: Slots = {**slots, "value": (fact.value,)} if fact.value else slots
        sentence, spans = _drawn(_surrounded(fact.said, rng), own, rng)
        text += " " if text else ""
        if fact is asked:
            at = next(Span("", len(text) + s.start, len(text) + s.end) for s in spans if s.slot == fact.slot)
        text += sentence
    frame = rng.choice(phrases.FRAMES).replace("{asked}", rng.choice(asked.fields))
    question, _ = _drawn(frame if rng.random() < FRAMED else rng.choice(asked.asked), slots, rng)
    return Sheet(question, text, at.start, at.end)


def _usual(name: str, rng: random.Random) -> _Fact:
    said = FACTS[name].said if rng.random() < USUAL else phrases.SAID[name]
    return _Fact(rng.choice(said), name, FACTS[name].asked, phrases.FIELDS[name])


def _invented(rng: random.Random) -> _Fact:
    word, kind = _strange(rng), rng.random()
    if kind < 0.25:  # noqa: PLR2004 - a share
        said, asked, fields = phrases.VERBS, phrases.VERBS_ASKED, phrases.VERB_FIELDS
    else:
        said, asked, fields = phrases.INVENTED, phrases.INVENTED_ASKED, phrases.INVENTED_FIELDS
        common = rng.choice(_common())
        word = f"{common} {word}" if kind < 0.45 else common if kind < 0.6 else word  # noqa: PLR2004 - as above

    def of(patterns: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(pattern.replace("{noun}", word) for pattern in patterns)

    [sentence] = of((rng.choice(said),))
    return _Fact(sentence, "value", of(asked), of(fields), _value(rng))


def _value(rng: random.Random) -> str:
    """A value of a fact that no product has: of another's kind, or of none."""
    if rng.random() < 0.5:  # noqa: PLR2004 - a share
        name = rng.choice([name for name in sorted(FACTS) if name != "extra"])
        return filled(f"{{{name}}}", WORDS, rng, capital=False)[0]
    return _unreserved(rng, lambda rng: rng.choices(_MAKERS, _SHARES)[0](rng))


def _number(rng: random.Random) -> str:
    whole = rng.randint(0, rng.choice((9, 99, 999, 2999)))
    return rng.choice((f"{whole}", f"{whole}", f"{whole}.{rng.randint(1, 9)}", f"{whole}.{rng.randint(0, 99):02}"))


_MAKERS: tuple[Callable[[random.Random], str], ...] = (
    lambda rng: f"{_number(rng)} {rng.choice(UNITS)}",
    lambda rng: f"{_number(rng)} {strange_word(rng)}",
    lambda rng: f"{rng.choice(_COUNTS)} {rng.choice((*UNITS, strange_word(rng)))}",
    strange_name,
    strange_word,
    lambda rng: rng.choice(_common()),
    lambda rng: f"{strange_word(rng)} and {strange_word(rng)}",
    lambda rng: f"{rng.choice(('a', 'a', 'two', 'some', 'dark', 'light'))} {rng.choice(_common())} {strange_word(rng)}",
    lambda rng: f"{rng.choice(('a', 'two', 'three', 'dark', 'light'))} {strange_word(rng)}",
)
_SHARES = (35, 15, 5, 10, 10, 5, 7, 4, 9)


def _surrounded(said: str, rng: random.Random) -> str:
    """The pattern of a sentence, often with other words before it or after it."""
    if rng.random() < AROUND:
        if rng.random() < BEFORE:
            said = rng.choice(phrases.BEFORE) + said
        if rng.random() < AFTER:
            said = said.removesuffix(".") + rng.choice(phrases.AFTER) + "."
    return said


def _drawn(pattern: str, slots: Mapping[str, object], rng: random.Random) -> tuple[str, list[Span]]:
    """`filled`, with words that tell nothing drawn anew at each place."""
    pattern = _FREE.sub(lambda m: _strange(rng) if m[1] == "strange" else rng.choice(_common()), pattern)
    return filled(pattern, slots, rng)  # type: ignore[arg-type]
