"""Paragraphs about two friends of the stories, questions about them, and answers in a sentence.

Both are told about by turns, so that a question's name counts as much as what is asked. Most names and things
are nobody's, so that they must be read. What is held out is told and asked by other patterns, of others, with other
things.
"""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

from ....dataclass import dataclass
from ..grammar import BOYS, FIRST, GIRLS, LAST, MIDDLE
from .pattern import filled, strange_name
from .sheets import Sheet
from .talk_patterns import (
    ASIDES,
    FACTS,
    GREETINGS,
    HELD_FACTS,
    HELD_WORDS,
    LEADS,
    NOTED,
    QUESTION_LEADS,
    WORDS,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .pattern import Slots
    from .talk_patterns import Told

__all__ = ["FACTS", "HELD_FACTS", "Talk", "conversations", "held_out", "training"]

SHORT = 4000  # paragraphs of a fact about each friend, from which looking back is learnt soon
FRAMED = 0.25  # share of sentences with a word or two before them, and of those with some after
ASKED_SO = 0.25  # share of questions with something before them
WHO = 0.25  # share of questions that ask who
ALIKE = 0.5  # share of paragraphs that tell the same about both
QUIET = 0.1  # share of conversations whose first message asks nothing
GREETED = 0.02  # share that begin with a greeting
_HELD_FIRST = ("Quo", "Hes", "Bru", "Pip", "Ost")


@dataclass(frozen=True)
class Talk:
    """A paragraph with a question after it, and the answer; `sheet` has both, and where in the text the fact is."""

    sheet: Sheet
    answer: str
    kind: str  # of fact, or "who"


@dataclass(frozen=True)
class Source:
    """What a grammar is made of; `framed`: sentences and questions have words around them."""

    facts: Mapping[str, Told]
    words: Slots
    firsts: tuple[str, ...]
    known: tuple[str, ...] = ()
    framed: bool = False


TRAINING = Source(FACTS, WORDS, FIRST, (*GIRLS, *BOYS), framed=True)
HELD = Source(HELD_FACTS, HELD_WORDS, _HELD_FIRST)


def training(seed: int) -> Iterator[Talk]:
    """Paragraphs with a question and its answer, without end."""
    return (talks[0] for talks in _talks(TRAINING, seed))


def held_out(n: int) -> list[Talk]:
    """`n` of other patterns, with other names and words."""
    return [talks[0] for talks in itertools.islice(_talks(HELD, 2), n)]


def conversations(seed: int) -> Iterator[list[tuple[str, str]]]:
    """What a user says and is answered: a paragraph with a question, then one about each other sentence.

    The first paragraphs are short.
    """
    rng = random.Random(seed)  # noqa: S311 - talks, not secrets
    short = itertools.islice(_talks(TRAINING, seed, (1, 1)), SHORT)
    for talks in itertools.chain(short, _talks(TRAINING, seed)):
        turns = [(talk.sheet.question, talk.answer) for talk in talks]
        if rng.random() < QUIET:
            turns.insert(0, (talks[0].sheet.text, rng.choice(NOTED)))
        else:
            turns[0] = f"{talks[0].sheet.text} {turns[0][0]}", turns[0][1]
        if rng.random() < GREETED:
            turns.insert(0, rng.choice(GREETINGS))
        yield turns


def _talks(source: Source, seed: int, facts_of: tuple[int, int] = (2, 3)) -> Iterator[list[Talk]]:
    """Of each paragraph, a question about every sentence, in any order."""
    rng = random.Random(seed)  # noqa: S311 - as above
    while True:
        friends = _two(rng, source)
        told = _chosen(rng, source.facts, friends, facts_of)
        text, made = "", []
        for name, who in told:
            pattern = rng.choice(source.facts[name].told)
            if source.framed:
                pattern = _framed(pattern, rng)
            sentence, spans = filled(pattern, {**source.words, "who": (who,)}, rng)
            text += " " if text else ""
            made.append({s.slot: (len(text) + s.start, len(text) + s.end) for s in spans})
            text += sentence
        talks = [
            _asked(rng, source, name, text, places, unique=sum(name == other for other, _ in told) == 1)
            for (name, _), places in zip(told, made, strict=True)
        ]
        rng.shuffle(talks)
        yield talks


def _asked(  # noqa: PLR0913 - of one sentence
    rng: random.Random, source: Source, name: str, text: str, places: dict[str, tuple[int, int]], *, unique: bool
) -> Talk:
    """A question about the fact, or about whose it is."""
    fact = source.facts[name]
    said = {slot: (text[slice(*places[slot])],) for slot in ("who", "item", name) if slot in places}
    whose = rng.random() < WHO and (unique or text.count(said[name][0]) == 1)
    question = rng.choice(fact.whose if whose else fact.asked)
    if source.framed and rng.random() < ASKED_SO:
        question = rng.choice(QUESTION_LEADS) + question
    asked, _ = filled(question, {**source.words, **said}, rng)
    start, end = places["who" if whose else name]
    answer, _ = filled(FACTS[name].answer, said, rng)
    return Talk(Sheet(asked, text, start, end), answer, "who" if whose else name)


def _chosen(
    rng: random.Random, facts: Mapping[str, Told], friends: list[str], facts_of: tuple[int, int]
) -> list[tuple[str, str]]:
    """Which facts are told of whom, in which order; nobody has a thing and another thing with a colour."""
    sets: list[list[str]] = []
    for _ in friends:
        drawn = rng.sample(sorted(facts), rng.randint(*facts_of))
        sets.append([name for name in drawn if name != "colour" or "thing" not in drawn])
    if rng.random() < ALIKE:
        sets[1] = sets[0]
    told = [(name, who) for who, names in zip(friends, sets, strict=True) for name in names]
    rng.shuffle(told)
    return told


def _framed(pattern: str, rng: random.Random) -> str:
    """A pattern of a sentence with words before it or after it, or both."""
    if rng.random() < FRAMED:
        pattern = rng.choice(LEADS) + pattern
    return pattern[:-1] + rng.choice(ASIDES) + "." if rng.random() < FRAMED else pattern


def _two(rng: random.Random, source: Source) -> list[str]:
    """Names of two friends, known ones or made up as in the stories."""
    names: set[str] = set()
    while len(names) < 2:  # noqa: PLR2004 - two friends
        made = rng.choice(source.firsts) + rng.choice(MIDDLE) + rng.choice(rng.choice(LAST))
        ways = (rng.choice(source.known), made, strange_name(rng), strange_name(rng)) if source.known else (made,)
        names.add(rng.choice(ways))
    return rng.sample(sorted(names), 2)
