"""Paragraphs about two friends of the stories, questions about them, and answers in a sentence.

Each of the two is told about by turns, so that a question's name counts as much as what is asked. Half of the names are
nobody's. What is held out is told and asked by other patterns, of others, with other things.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..grammar import BOYS, FIRST, GIRLS, LAST, MIDDLE, SLOTS
from .pattern import filled
from .sheets import Sheet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .pattern import Slots

__all__ = ["Talk", "conversations", "held_out", "training"]


@dataclass(frozen=True)
class Told:
    """How a fact is told, asked and answered; `{who}` is the friend, the slot of the fact's name what is asked."""

    told: tuple[str, ...]
    asked: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Talk:
    """A paragraph with a question after it, and the answer; `sheet` has both, and where in the text the fact is."""

    sheet: Sheet
    answer: str


FACTS = {
    "kind": Told(
        ("{who} is a {kind}.", "{who} was a {kind}."), ("What is {who}?", "Who is {who}?"), "{who} is a {kind}."
    ),
    "home": Told(
        ("{who} lives {home}.", "{who} has a house {home}."),
        ("Where does {who} live?", "Where is the house of {who}?"),
        "{who} lives {home}.",
    ),
    "thing": Told(
        ("{who} has a {thing}.", "{who} got a {thing}.", "{who} plays with a {thing}."),
        ("What does {who} have?", "What did {who} get?", "What does {who} play with?"),
        "{who} has a {thing}.",
    ),
    "food": Told(
        ("{who} likes to eat {food}.", "{who} ate {food}.", "{who} loves {food}."),
        ("What does {who} like to eat?", "What did {who} eat?", "What does {who} eat?"),
        "{who} eats {food}.",
    ),
    "skill": Told(
        ("{who} wants to learn to {skill}.", "{who} wants to {skill}."),
        ("What does {who} want to do?", "What does {who} want to learn?"),
        "{who} wants to {skill}.",
    ),
    "fear": Told(
        ("{who} is afraid of {fear}.", "{who} fears {fear}."),
        ("What is {who} afraid of?", "What does {who} fear?"),
        "{who} is afraid of {fear}.",
    ),
    "spot": Told(
        ("{who} sleeps {spot}.", "{who} sat down {spot}."),
        ("Where does {who} sleep?", "Where did {who} sit down?"),
        "{who} is {spot}.",
    ),
}

HELD_FACTS = {
    "kind": Told(("There was a {kind} named {who}.",), ("Tell me, what is {who}?",), ""),
    "home": Told(("For a long time {who} has lived {home}.",), ("Tell me, where does {who} live?",), ""),
    "thing": Told(
        ("In the morning {who} found a {thing}.", "Now {who} has a {thing} too."),
        ("Tell me, what does {who} have?",),
        "",
    ),
    "food": Told(("Every day {who} eats {food}.",), ("Do you know what {who} likes to eat?",), ""),
    "skill": Told(("More than anything, {who} wants to {skill}.",), ("Do you know what {who} wants to do?",), ""),
    "fear": Told(("But {who} is very afraid of {fear}.",), ("Do you know what {who} is afraid of?",), ""),
    "spot": Told(("At night {who} sleeps {spot}.",), ("Tell me, where does {who} sleep?",), ""),
}

_KINDS = ("fox", "rabbit", "bear", "mouse", "duck", "cat", "dog", "squirrel", "hedgehog", "goat", "girl", "boy")
WORDS: Slots = {
    **{name: SLOTS[name] for name in ("home", "thing", "skill", "fear", "spot")},
    "food": ("cherry pie", "honey cake", "berries", "warm bread", "nuts", "cherries", "apples", "soup"),
    "kind": ("{size} {animal}", "{animal}"),
    "size": ("little", "small", "young", "brown", "white", "shy", "happy", "clever"),
    "animal": _KINDS,
}
HELD_WORDS: Slots = {
    **WORDS,
    "home": ("in a deep cave", "near the windmill", "on a farm", "at the end of the garden"),
    "thing": ("paper lantern", "brass trumpet", "purple marble", "new ladder"),
    "skill": ("juggle", "build a boat", "skate", "play the drum"),
    "fear": ("spiders", "the cold wind", "wolves", "loud noises"),
    "spot": ("on a pile of leaves", "near the old fence", "under a blue blanket"),
    "food": ("carrots", "plum jam", "corn and beans", "pumpkin soup"),
    "animal": ("badger", "otter", "pony", "robin"),
    "size": ("tall", "gentle", "lazy"),
}
_HELD_FIRST = ("Quo", "Hes", "Bru", "Pip", "Ost")


def training(seed: int) -> Iterator[Talk]:
    """Paragraphs with a question and its answer, without end."""
    return (talk for talks in _talks(FACTS, WORDS, FIRST, (*GIRLS, *BOYS), seed) for talk in talks[:1])


def conversations(seed: int, again: float) -> Iterator[list[tuple[str, str]]]:
    """What a user says and is answered: a paragraph with a question; in a share `again` a second question too."""
    rng = random.Random(seed)  # noqa: S311 - talks, not secrets
    for talks in _talks(FACTS, WORDS, FIRST, (*GIRLS, *BOYS), seed):
        first, second = talks[:2]
        turns = [(f"{first.sheet.text} {first.sheet.question}", first.answer), (second.sheet.question, second.answer)]
        yield turns if rng.random() < again else turns[:1]


def held_out(n: int) -> list[Talk]:
    """`n` of other patterns, with other names and words."""
    return [talks[0] for talks in itertools.islice(_talks(HELD_FACTS, HELD_WORDS, _HELD_FIRST, (), 2), n)]


def _talks(
    facts: Mapping[str, Told], words: Slots, firsts: tuple[str, ...], known: tuple[str, ...], seed: int
) -> Iterator[list[Talk]]:
    """Of each paragraph, a question about every sentence, in any order."""
    rng = random.Random(seed)  # noqa: S311 - as above
    while True:
        friends = _two(rng, firsts, known)
        told = [(name, who) for who in friends for name in rng.sample(sorted(facts), rng.randint(2, 3))]
        rng.shuffle(told)
        text, places = "", []
        for name, who in told:
            sentence, spans = filled(rng.choice(facts[name].told), {**words, "who": (who,)}, rng)
            text += " " if text else ""
            places += [(len(text) + s.start, len(text) + s.end) for s in spans if s.slot == name]
            text += sentence
        talks = []
        for (name, who), (start, end) in zip(told, places, strict=True):
            question = rng.choice(facts[name].asked).replace("{who}", who)
            answer = FACTS[name].answer.replace("{who}", who).replace(f"{{{name}}}", text[start:end])
            talks.append(Talk(Sheet(question, text, start, end), answer))
        rng.shuffle(talks)
        yield talks


def _two(rng: random.Random, firsts: tuple[str, ...], known: tuple[str, ...]) -> list[str]:
    """Names of two friends, known ones or made up as in the stories."""
    names: set[str] = set()
    while len(names) < 2:  # noqa: PLR2004 - two friends
        made = rng.choice(firsts) + rng.choice(MIDDLE) + rng.choice(rng.choice(LAST))
        names.add(rng.choice(known) if known and rng.random() < 1 / 2 else made)
    return rng.sample(sorted(names), 2)
