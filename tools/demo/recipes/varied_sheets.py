"""Small product sheets, a question about each, and where the answer lies in the sheet.

A sheet says up to six things about a product, in any order, with words of all kinds around them; several are in the
same unit (its height and the length of its cable, its price and what shipping costs), so that the unit alone answers
nothing. A third of the things are said by a noun or a verb of no language, so that nothing but the same word in the
question tells which is asked for. What is held out is said and asked by other patterns, of other products, with other
figures; no word that is new there occurs in training. The bag of words reads the plainer sheets of `sheets.py`, which
are a part of the training: of these it learns more (with all of it, it has 0.72 exact answers in place of 0.77).
"""

from __future__ import annotations

import itertools
import random
import re
from functools import cache
from typing import TYPE_CHECKING

from ....dataclass import dataclass
from . import sheet_phrases as phrases
from . import sheets
from .pattern import Span, filled, strange_word, with_strange_words, words_in
from .sheets import FACTS, WORDS, Sheet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .pattern import Slots

__all__ = ["held_out", "reserved", "training"]

held_out = sheets.held_out

INVENTED = 0.35  # of the facts
USUAL = 0.35  # of the others are said by a pattern of `sheets.FACTS`
OTHER = 0.6  # of the rest have values that are not in `sheets.WORDS`
VERBS = 0.4  # of the rest's figures are said by a verb that nobody knows
BLENDS, COMMON = 0.5, 0.4  # of the strange words that are blends, of the words in values that are English
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
    return _unreserved(rng, _blend if rng.random() < BLENDS else strange_word)


def _blend(rng: random.Random) -> str:
    """The beginning of an English word and the end of another: of no language, and spelled as English is."""
    first, second = rng.sample(_common(), 2)
    return first[: rng.randint(1, 4)] + second[-rng.randint(2, 4) :] + rng.choice(("", "", "", "s", "ed", "ing", "ly"))


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
        own: Slots = {**slots, fact.slot: (fact.value,)}
        sentence, spans = _drawn(_surrounded(fact.said, rng), own, rng)
        text += " " if text else ""
        if fact is asked:
            at = next(Span("", len(text) + s.start, len(text) + s.end) for s in spans if s.slot == fact.slot)
        text += sentence
    frame = rng.choice(phrases.FRAMES).replace("{asked}", rng.choice(asked.fields))
    question, _ = _drawn(frame if rng.random() < FRAMED else rng.choice(asked.asked), slots, rng)
    return Sheet(question, text, at.start, at.end)


def _usual(name: str, rng: random.Random) -> _Fact:
    """A fact of `sheets`, often with a value of its kind that it does not have there."""
    asked, fields = FACTS[name].asked, phrases.FIELDS[name]
    value = filled(f"{{{name}}}", WORDS, rng, capital=False)[0]
    if rng.random() < USUAL:
        return _Fact(rng.choice(FACTS[name].said), name, asked, fields, value)
    said, unit = phrases.SAID[name], value.rpartition(" ")[2]
    more = _OPEN.get(name, (lambda rng: f"{_number(rng)} {unit}",))
    if rng.random() < OTHER:
        value = _unreserved(rng, rng.choice(more))
    if name not in _OPEN and rng.random() < VERBS:
        noun = _NOUNS.get(name, name)
        said = tuple(p.replace("{noun}", noun).replace("{value}", f"{{{name}}}") for p in phrases.FIGURES)
    return _Fact(rng.choice(said), name, asked, fields, value)


def _invented(rng: random.Random) -> _Fact:
    """A fact that no product has."""
    word, kind = _strange(rng), rng.random()
    verb = kind < 0.25  # noqa: PLR2004 - a share
    said: tuple[str, ...] = phrases.VERBS if verb else phrases.INVENTED
    asked, fields = phrases.VERBS_ASKED, phrases.VERB_FIELDS
    if not verb:
        asked, fields = phrases.INVENTED_ASKED, phrases.INVENTED_FIELDS
        common = rng.choice(_common())
        word = f"{common} {word}" if kind < 0.45 else common if kind < 0.6 else word  # noqa: PLR2004 - as above
    value = _value(rng)
    if not verb and _FIGURE.match(value):
        said += phrases.FIGURES
    sentence, *questions = (p.replace("{noun}", word) for p in (rng.choice(said), *asked, *fields))
    return _Fact(sentence, "value", tuple(questions[: len(asked)]), tuple(questions[len(asked) :]), value)


def _value(rng: random.Random) -> str:
    """A value of a fact that no product has: of another's kind, or of none."""
    if rng.random() < 0.4:  # noqa: PLR2004 - a share
        name = rng.choice([name for name in sorted(FACTS) if name != "extra"])
        return filled(f"{{{name}}}", WORDS, rng, capital=False)[0]
    if rng.random() < 0.5:  # noqa: PLR2004 - as above
        return _unreserved(rng, lambda rng: rng.choice(_NUMBERED)(rng))
    return _unreserved(rng, lambda rng: rng.choice(_OPEN[rng.choice(sorted(_OPEN))])(rng))


def _number(rng: random.Random) -> str:
    whole = rng.randint(0, rng.choice((9, 99, 999, 2999)))
    forms = f"{whole}", f"{whole}.{rng.randint(1, 9)}", f"{whole}.{rng.randint(0, 99):02}", rng.choice(_COUNTS)
    return rng.choices(forms, (4, 3, 3, 2))[0]


def _word(rng: random.Random) -> str:
    return rng.choice(_common()) if rng.random() < COMMON else _strange(rng)


_FIGURE = re.compile(rf"\d|({'|'.join(_COUNTS)})\b")
_NUMBERED: tuple[Callable[[random.Random], str], ...] = (
    lambda rng: f"{_number(rng)} {rng.choice(UNITS)}",
    lambda rng: f"{_number(rng)} {rng.choice(UNITS)}",
    lambda rng: f"{_number(rng)} {_word(rng)}",
)
_THINGS: tuple[Callable[[random.Random], str], ...] = (
    _word,
    lambda rng: f"{_word(rng)} and {_word(rng)}",
    lambda rng: f"{rng.choice(('dark', 'light'))} {_word(rng)}",
)
#: Facts whose values are no figures, and what makes more of them.
_OPEN: dict[str, tuple[Callable[[random.Random], str], ...]] = {
    "colour": _THINGS,
    "material": _THINGS,
    "country": (lambda rng: _word(rng).capitalize(),),
    "extra": (
        lambda rng: f"a {_word(rng)}",
        lambda rng: f"a {_word(rng)} {_word(rng)}",
        lambda rng: f"a {_word(rng)} {_word(rng)}",
        lambda rng: f"{rng.choice(_COUNTS)} {_word(rng)}s",
    ),
}
#: What a sheet calls a fact, where not as its slot is called.
_NOUNS = {"volume": "tank", "cable": "cable length"}


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
