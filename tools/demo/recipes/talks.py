"""Paragraphs about two friends of the stories, questions about them, and answers in a sentence.

Each of the two is told about by turns, so that a question's name counts as much as what is asked. Most names and things
are nobody's, so that they must be read. What is held out is told and asked by other patterns, of others, with other
things.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..grammar import BOYS, FIRST, GIRLS, LAST, MIDDLE, SLOTS
from .pattern import filled, made_of, strange_name, strange_word
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
    "home": made_of(
        SLOTS["home"], ("near the {odd}", "in a {odd} {odd}", "by the {odd}"), ("on a {odd} hill", "under the {odd}")
    ),
    "thing": made_of(
        SLOTS["thing"], ("{odd} {odd}", "{odd}", "red {odd}"), ("little {odd}", "{odd} drum", "{odd} {odd}")
    ),
    "skill": made_of(SLOTS["skill"], ("{odd}", "{odd} a {odd}"), ("play the {odd}", "ride a {odd}")),
    "fear": made_of(SLOTS["fear"], ("the {odd}", "{odd}"), ("{odd} {odd}", "the old {odd}")),
    "spot": made_of(SLOTS["spot"], ("under a {odd}", "behind the {odd}"), ("near a {odd} {odd}", "on the {odd}")),
    "food": made_of(
        ("cherry pie", "honey cake", "berries", "warm bread", "nuts", "apples"),
        ("{odd}", "{odd} {odd}"),
        ("{odd} pie",),
    ),
    "kind": ("{size} {animal}", "{animal}"),
    "size": made_of(("little", "small", "young", "brown", "white", "shy", "happy", "clever"), strange_word),
    "animal": made_of(_KINDS, strange_word, strange_word),
    "odd": strange_word,
}
HELD_WORDS: Slots = {
    **WORDS,
    "home": ("in a deep cave", "near the windmill", "on a farm", "at the end of the garden"),
    "thing": ("paper lantern", "brass trumpet", "purple marble", "new ladder"),
    "skill": ("juggle", "build a boat", "skate", "play the drum"),
    "fear": ("spiders", "the cold wind", "wolves", "loud noises"),
    "spot": ("on a pile of leaves", "near the old fence", "under a blue blanket"),
    "food": ("carrots", "plum jam", "corn and beans", "pumpkin soup"),
    "animal": ("badger", "ferret", "pony", "robin"),
    "size": ("tall", "gentle", "lazy"),
}
SHORT = 3600  # paragraphs of a fact about each friend, from which looking back is learnt soon
_HELD_FIRST = ("Quo", "Hes", "Bru", "Pip", "Ost")


def training(seed: int) -> Iterator[Talk]:
    """Paragraphs with a question and its answer, without end."""
    return (talk for talks in _talks(FACTS, WORDS, FIRST, (*GIRLS, *BOYS), seed) for talk in talks[:1])


def conversations(seed: int, again: float) -> Iterator[list[tuple[str, str]]]:
    """What a user says and is answered: a paragraph with a question; in a share `again` a second question too.

    The first paragraphs are short.
    """
    rng = random.Random(seed)  # noqa: S311 - talks, not secrets
    short = itertools.islice(_talks(FACTS, WORDS, FIRST, (*GIRLS, *BOYS), seed, facts_of=(1, 1)), SHORT)
    for talks in itertools.chain(short, _talks(FACTS, WORDS, FIRST, (*GIRLS, *BOYS), seed)):
        first, second = talks[:2]
        turns = [(f"{first.sheet.text} {first.sheet.question}", first.answer), (second.sheet.question, second.answer)]
        yield turns if rng.random() < again else turns[:1]


def held_out(n: int) -> list[Talk]:
    """`n` of other patterns, with other names and words."""
    return [talks[0] for talks in itertools.islice(_talks(HELD_FACTS, HELD_WORDS, _HELD_FIRST, (), 2), n)]


def _talks(  # noqa: PLR0913 - keywords of one grammar
    facts: Mapping[str, Told],
    words: Slots,
    firsts: tuple[str, ...],
    known: tuple[str, ...],
    seed: int,
    *,
    facts_of: tuple[int, int] = (2, 3),
) -> Iterator[list[Talk]]:
    """Of each paragraph, a question about every sentence, in any order."""
    rng = random.Random(seed)  # noqa: S311 - as above
    while True:
        friends = _two(rng, firsts, known)
        told = [(name, who) for who in friends for name in rng.sample(sorted(facts), rng.randint(*facts_of))]
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
        ways = (rng.choice(known), made, strange_name(rng), strange_name(rng)) if known else (made,)
        names.add(rng.choice(ways))
    return rng.sample(sorted(names), 2)
