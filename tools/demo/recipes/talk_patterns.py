"""How the talks' facts are told, asked and answered, and the words in them; in training, and held out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....dataclass import dataclass
from ..grammar import SLOTS
from .pattern import made_of, strange_word

if TYPE_CHECKING:
    from .pattern import Slots

__all__ = ["ASIDES", "FACTS", "GREETINGS", "HELD_FACTS", "HELD_WORDS", "LEADS", "NOTED", "QUESTION_LEADS", "WORDS"]


@dataclass(frozen=True)
class Told:
    """How a fact is told, asked and answered; `{who}` is the friend, the slot of the fact's name what is asked.

    `whose`: questions whose answer is the friend.
    """

    told: tuple[str, ...]
    asked: tuple[str, ...]
    whose: tuple[str, ...]
    answer: str = ""


FACTS = {
    "kind": Told(
        ("{who} is a {kind}.", "{who} was a {kind}.", "{who}, a {kind}, came by.", "{who} the {kind} was there.",
         "a {kind} is called {who}.", "a {kind} named {who} came by.", "the name of a {kind} is {who}.",
         "we met {who}, a {kind}."),
        ("what is {who}?", "who is {who}?", "what kind of animal is {who}?", "can you say what {who} is?",
         "I wonder who {who} is.", "say what {who} is."),
        ("who is a {kind}?", "which of them is a {kind}?", "can you say who is a {kind}?", "say who is a {kind}."),
        "{who} is a {kind}.",
    ),
    "home": Told(
        ("{who} lives {home}.", "{who} has a house {home}.", "{who} lived {home}.", "the house of {who} is {home}.",
         "{who}'s home is {home}.", "{who} moved to a house {home}.", "you can visit {who} {home}.",
         "{who} is at home {home}."),
        ("where does {who} live?", "where is the house of {who}?", "where is {who}'s home?", "where did {who} live?",
         "can you say where {who} lives?", "I wonder where {who} lives.", "say where {who} has a house."),
        ("who lives {home}?", "which of them lives {home}?", "whose house is {home}?", "can you say who lives {home}?",
         "I wonder who lives {home}."),
        "{who} lives {home}.",
    ),
    "thing": Told(
        ("{who} has a {thing}.", "{who} got a {thing}.", "{who} plays with a {thing}.", "{who} bought a {thing}.",
         "{who} carries a {thing}.", "{who} had a {thing}.", "{who} made a {thing}.", "{who} {odd} a {thing}.",
         "somebody gave {who} a {thing}.", "{who} saw a {thing} and took it.", "{who} holds a {thing}.",
         "a {thing} belongs to {who}."),
        ("what does {who} have?", "what did {who} get?", "what does {who} play with?", "what belongs to {who}?",
         "can you say what {who} has?", "I wonder what {who} has.", "say what {who} got.", "what is in {who}'s hands?"),
        ("who has a {thing}?", "which of them has a {thing}?", "who got a {thing}?", "can you say who has a {thing}?",
         "to whom does a {thing} belong?"),
        "{who} has a {thing}.",
    ),
    "colour": Told(
        ("{who} has a {colour} {item}.", "the {item} of {who} is {colour}.", "{who}'s {item} is {colour}.",
         "{who} got a {colour} {item}.", "{who} painted a {item} {colour}.", "{who} made a {item}, and it is {colour}.",
         "{who} wears a {colour} {item}."),
        ("what color is the {item} of {who}?", "what colour is {who}'s {item}?", "what is the color of {who}'s {item}?",
         "can you say what color the {item} of {who} is?", "I wonder what colour {who}'s {item} is.",
         "which colour has {who}'s {item}?"),
        ("who has a {colour} {item}?", "which of them has a {colour} {item}?", "whose {item} is {colour}?",
         "can you say whose {item} is {colour}?"),
        "The {item} of {who} is {colour}.",
    ),
    "food": Told(
        ("{who} likes to eat {food}.", "{who} ate {food}.", "{who} loves {food}.", "{who} eats {food}.",
         "{who} had {food} for lunch.", "{who} is hungry and eats {food}.", "we hear that {food} tastes good to {who}.",
         "{who} {odd} and ate {food}.", "{who} wants to eat {food}."),
        ("what does {who} like to eat?", "what did {who} eat?", "what does {who} eat?", "what does {who} love to eat?",
         "can you say what {who} eats?", "I wonder what {who} ate.", "say what {who} likes to eat.",
         "which food does {who} like?"),
        ("who likes to eat {food}?", "who eats {food}?", "which of them eats {food}?", "who ate {food}?",
         "can you say who eats {food}?"),
        "{who} eats {food}.",
    ),
    "skill": Told(
        ("{who} wants to learn to {skill}.", "{who} wants to {skill}.", "{who} would like to {skill}.",
         "{who} dreams that one day he can {skill}.", "{who} hopes to {skill}.", "{who} tries to {skill}.",
         "{who} wanted to {skill}."),
        ("what does {who} want to do?", "what does {who} want to learn?", "what did {who} want to do?",
         "what would {who} like to do?", "can you say what {who} wants to do?", "I wonder what {who} wants to do.",
         "say what {who} wants to learn."),
        ("who wants to {skill}?", "which of them wants to {skill}?", "who wants to learn to {skill}?",
         "can you say who wants to {skill}?"),
        "{who} wants to {skill}.",
    ),
    "fear": Told(
        ("{who} is afraid of {fear}.", "{who} fears {fear}.", "{who} was afraid of {fear}.", "{who} runs from {fear}.",
         "{who} does not like {fear} and is afraid.", "we know that {fear} makes {who} afraid.",
         "{who} is a little afraid of {fear}.",
         "{who} was so afraid of {fear}."),
        ("what is {who} afraid of?", "what does {who} fear?", "what was {who} afraid of?", "what makes {who} afraid?",
         "can you say what {who} is afraid of?", "I wonder what {who} fears.", "say what {who} is afraid of."),
        ("who is afraid of {fear}?", "which of them is afraid of {fear}?", "who fears {fear}?",
         "can you say who is afraid of {fear}?"),
        "{who} is afraid of {fear}.",
    ),
    "spot": Told(
        ("{who} sleeps {spot}.", "{who} sat down {spot}.", "{who} sits {spot}.", "{who} rests {spot}.",
         "{who} slept {spot}.", "{who} hides {spot}.", "{who} has a bed {spot}.", "you see {who} asleep {spot}."),
        ("where does {who} sleep?", "where did {who} sit down?", "where does {who} sit?", "where is {who}'s bed?",
         "where did {who} sleep?", "can you say where {who} sleeps?", "I wonder where {who} sleeps.",
         "say where {who} sits."),
        ("who sleeps {spot}?", "which of them sleeps {spot}?", "who sat down {spot}?",
         "can you say who sleeps {spot}?"),
        "{who} is {spot}.",
    ),
}  # fmt: skip

HELD_FACTS = {
    "kind": Told(("There was a {kind} named {who}.",), ("Tell me, what is {who}?",), ("Tell me, who is a {kind}?",)),
    "home": Told(
        ("For a long time {who} has lived {home}.",),
        ("Tell me, where does {who} live?",),
        ("Do you know who lives {home}?",),
    ),
    "thing": Told(
        ("In the morning {who} found a {thing}.", "Now {who} has a {thing} too."),
        ("Tell me, what does {who} have?",),
        ("Tell me, who has a {thing}?",),
    ),
    "colour": Told(
        ("Everybody saw the {colour} {item} of {who}.", "{who} keeps a {item} which is {colour}."),
        ("Tell me, what color is the {item} of {who}?",),
        ("Do you know whose {item} is {colour}?",),
    ),
    "food": Told(
        ("Every day {who} eats {food}.",),
        ("Do you know what {who} likes to eat?",),
        ("Tell me, who likes to eat {food}?",),
    ),
    "skill": Told(
        ("More than anything, {who} wants to {skill}.",),
        ("Do you know what {who} wants to do?",),
        ("Tell me, who wants to {skill}?",),
    ),
    "fear": Told(
        ("But {who} is very afraid of {fear}.",),
        ("Do you know what {who} is afraid of?",),
        ("Do you know who is afraid of {fear}?",),
    ),
    "spot": Told(
        ("At night {who} sleeps {spot}.",), ("Tell me, where does {who} sleep?",), ("Tell me, who sleeps {spot}?",)
    ),
}

#: Before a sentence, and after it (a point follows).
LEADS = (
    "today ", "one day ", "and ", "so ", "then ", "once ", "at noon ", "in summer ", "after lunch ", "on Sunday, ",
    "in the {odd} ", "{odd}, ", "{odd} and {odd2}, ", "all day ", "this week ", "at last ", "as you see, ",
    "it is said that ",
    "first of all, ", "for {odd} {odd2}s ", "by the way, ", "of course ", "most of all, ",
)  # fmt: skip
ASIDES = (
    " again", " as well", " these days", " today", " at last", " of course", " now", " once more", " this week",
    " all day", " every {odd}", " with great joy", " sometimes",
)  # fmt: skip
QUESTION_LEADS = (
    "please, ", "say, ", "and ", "so ", "now, ", "well, ", "{odd}, ", "{odd} {odd2}, ", "one more question: ",
    "I ask you, ",
    "answer me, ", "my question is, ",
)  # fmt: skip
#: What is answered to a paragraph without a question, and to a greeting.
NOTED = ("I see. What do you want to know?",)
GREETINGS = (
    ("Hello!", "Hello! Tell me a story, and ask me about it."),
    ("Hello", "Hello! Tell me a story, and ask me about it."),
    ("Hi!", "Hello! Tell me a story, and ask me about it."),
    ("Good morning!", "Hello! Tell me a story, and ask me about it."),
    ("Who are you?", "I am a little story model. Tell me a story, and ask me about it."),
    ("What can you do?", "I answer questions. Tell me a story, and ask me about it."),
)

_KINDS = ("fox", "rabbit", "bear", "mouse", "duck", "cat", "dog", "squirrel", "hedgehog", "goat", "girl", "boy")
_NOUNS = (
    "boat", "box", "bridge", "bucket", "candle", "chair", "coat", "coin", "door", "feather", "fence", "flag", "flower",
    "glove", "hammer", "hat", "hill", "horn", "jar", "jug", "kettle", "key", "kite", "lake", "lamp", "leaf", "map",
    "mill", "mirror", "nest", "pencil", "pillow", "pond", "pot", "ring", "road", "rock", "rope", "sack", "scarf",
    "shell",
    "shoe", "spoon", "stick", "stone", "stump", "table", "tent", "tower", "tree", "wagon", "wall", "wheel", "whistle",
)  # fmt: skip
_LOOKS = (
    "big", "small", "soft", "round", "shiny", "wooden", "striped", "broken", "heavy", "long", "golden", "dusty", "wet",
    "cold", "warm", "dry", "narrow", "hidden", "green", "yellow", "rusty", "pretty",
)  # fmt: skip
_COLOURS = ("red", "blue", "green", "yellow", "white", "black", "gray", "pink", "silver", "golden")
WORDS: Slots = {
    "home": made_of(
        SLOTS["home"],
        ("near the {n}", "in a {look} {n}", "by the {n}", "next to the {n}", "in the {n} of {odd2}"),
        ("on a {odd} hill", "under the {n}", "at the {odd2} of the {n}", "in {odd}"),
    ),
    "thing": made_of(
        SLOTS["thing"], ("{look} {n}", "{n}", "red {n}", "{noun}"), ("little {n}", "{odd} drum", "{look} {n}")
    ),
    "item": made_of(_NOUNS, ("{odd}", "{look} {n}", "{odd2} {n}")),
    "colour": made_of(_COLOURS, strange_word, ("light {odd}", "dark red", "dark blue", "light green", "{odd}")),
    "skill": made_of(
        SLOTS["skill"],
        ("{odd}", "{odd2} a {n}", "{odd2} the {look} {n}"),
        ("play the {n}", "ride a {n}", "make a {n}", "paint a {look} {n}", "{odd} and {odd2}"),
    ),
    "fear": made_of(
        SLOTS["fear"], ("the {n}", "{n}s", "{odd}s", "{odd}"), ("{odd} {odd2}s", "the {look} {n}", "{look} {n}s")
    ),
    "spot": made_of(
        SLOTS["spot"],
        ("under a {n}", "behind the {n}", "in a {n} of {odd2}", "on a {look} {n}"),
        ("near a {look} {n}", "on the {n}", "under the {look} {n}", "on a {n} of {odd2}s"),
    ),
    "food": made_of(
        ("cherry pie", "honey cake", "berries", "warm bread", "nuts", "apples", "rice", "cheese and bread"),
        ("{odd}", "{odd} {odd2}", "{odd}s"),
        ("{odd} pie", "{odd} and {odd2}", "{look} {odd2}", "{odd} cake"),
    ),
    "kind": ("{size} {animal}", "{animal}"),
    "size": made_of(("little", "small", "young", "brown", "white", "shy", "happy", "clever"), strange_word),
    "animal": made_of(_KINDS, strange_word, strange_word),
    "n": made_of(_NOUNS, strange_word),
    "look": made_of(_LOOKS, strange_word),
    "noun": _NOUNS,
    "odd": strange_word,
    "odd2": strange_word,
}
HELD_WORDS: Slots = {
    **WORDS,
    "home": ("in a deep cave", "near the windmill", "on a farm", "at the end of the garden"),
    "thing": ("paper lantern", "brass trumpet", "purple marble", "new ladder"),
    "item": ("wallet", "sweater", "bicycle", "sledge"),
    "colour": ("orange", "violet", "brown", "turquoise"),
    "skill": ("juggle", "build a boat", "skate", "play the drum"),
    "fear": ("spiders", "the cold wind", "wolves", "loud noises"),
    "spot": ("on a pile of leaves", "near the old fence", "under a blue blanket"),
    "food": ("carrots", "plum jam", "corn and beans", "pumpkin soup"),
    "animal": ("badger", "ferret", "pony", "robin"),
    "size": ("tall", "gentle", "lazy"),
}
