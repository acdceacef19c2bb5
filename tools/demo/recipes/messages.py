"""Customers' messages with the names in them: persons, places, products, order numbers, days.

Most of the names are put together from syllables, so that only what stands around them tells what they are. What is
held out is said by other patterns, with other names.
"""

from __future__ import annotations

import itertools
import random
import re
from typing import TYPE_CHECKING

from .pattern import Span, coined, filled, made_of, strange_name, strange_word, with_strange_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .pattern import Slots

__all__ = ["HELD_PATTERNS", "HELD_WORDS", "KINDS", "LABELS", "PATTERNS", "WORDS", "held_out", "sentences", "training"]

KINDS = {"person": "PER", "place": "LOC", "product": "PROD", "order": "ORDER", "day": "DATE"}
#: Share of messages with strange words, of their gaps that have one, of their words that become one.
STRANGE, ADDED, REPLACED = 0.7, 0.1, 0.25
LABELS = ("O", *(f"{bio}-{kind}" for kind in KINDS.values() for bio in "BI"))


def _order(rng: random.Random) -> str:
    forms = (
        f"{rng.choice('ABCDEFGHIJKLMNOP')}{rng.randint(1000, 99999)}", f"{rng.randint(100000, 9999999)}",
        f"{rng.choice('ABCDEFGHIJKLMNOP')}{rng.choice('ABCDEFGHIJKLMNOP')}-{rng.randint(1000, 9999)}",
    )  # fmt: skip
    return rng.choice(forms)


def _held_order(rng: random.Random) -> str:
    forms = (
        f"{rng.choice('QRSTVWXYZ')}{rng.randint(1000, 99999)}",
        f"{rng.choice('QRST')}{rng.choice('UVWX')}-{rng.randint(1000, 9999)}",
    )
    return rng.choice(forms)


def _strange_product(rng: random.Random) -> str:
    forms = "{}", "{} {digit}", "{}{digit}", "{}{}", "{} Pro", "{} {}", "{} {digit}00"
    return rng.choice(forms).format(strange_name(rng), strange_name(rng), digit=rng.randint(1, 9))


_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
           "November", "December")  # fmt: skip

WORDS: Slots = {
    "person": ("{first}", "{first} {last}", "{first} {last}"),
    "first": made_of(
        ("Anna", "Peter", "Maria", "John", "Sofia", "David", "Laura", "Thomas", "Julia", "Mark", "Elena", "Paul"),
        coined(
            ("Ka", "Mi", "Lo", "Ra", "Te", "Jo", "Ni", "Da"), ("ra", "lin", "vid", "mas", "na", "ris", "bert", "ela")
        ),
        strange_name,
        strange_name,
    ),
    "last": made_of(
        ("Smith", "Keller", "Rossi", "Novak", "Jensen", "Moreau", "Garcia", "Brown", "Larsen", "Weber"),
        coined(
            ("Hol", "Ber", "Stan", "Mar", "Fel", "Gro", "Win"), ("son", "mann", "ski", "ley", "ford", "ini", "berg")
        ),
        strange_name,
        strange_name,
    ),
    "place": made_of(
        ("Berlin", "Paris", "Boston", "Madrid", "Vienna", "Oslo", "Dublin", "Chicago", "Milan", "Prague", "New York"),
        coined(
            ("Nor", "Wal", "Els", "Gra", "Tor", "Bel", "San "),
            ("burg", "ton", "ville", "stadt", "port", "field", "mora"),
        ),
        strange_name,
        strange_name,
    ),
    "product": made_of(
        (
            "Aero 300",
            "Vita Blend",
            "SoundBox Mini",
            "Lumo lamp",
            "TrailPro boots",
            "CleanJet 5",
            "Nova X2",
            "Komfort chair",
        ),
        coined(
            ("Zen", "Opti", "Max", "Aqua", "Turbo", "Eco", "Pico"),
            ("Brew", "Watch", "Pad", "Cam 2", "Phone 8", "Kettle", "Heat 40", " Plus", " Pro 7", " 500"),
        ),
        _strange_product,
        _strange_product,
    ),
    "order": _order,
    "day": (
        "{month} {number}",
        "{number} {month}",
        "{weekday}",
        "last {weekday}",
        "next {weekday}",
        "yesterday",
        "{number}.{digit}.2024",
        "2024-0{digit}-{number}",
        "tomorrow",
    ),
    "month": _MONTHS,
    "number": tuple(map(str, range(10, 29))),
    "digit": tuple("123456789"),
    "weekday": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"),
    "thing": ("parcel", "order", "box", "invoice", "refund", "delivery", "item"),
    "fault": ("does not turn on", "is broken", "arrived damaged", "makes a noise", "stopped working", "is too small"),
    "please": (" Please help.", " Can you help me?", " Thank you.", " I want my money back.", " What can I do?", ""),
    "hello": ("Hello, ", "Hi, ", "Good morning, ", "Dear team, ", ""),
}

PATTERNS = (
    "{hello}my name is {person} and my order {order} has not come.{please}",
    "{hello}I am {person} from {place}. My {product} {fault}.{please}",
    "I bought the {product} on {day} and it {fault}.{please}",
    "order {order} was sent to {place}, but I live in {place_2}.{please}",
    "where is my {thing}? The number is {order}. {person}",
    "{hello}I ordered a {product} on {day}, order number {order}.{please}",
    "the {thing} for {person} should go to {place} by {day}",
    "can you send the {product} to {place} before {day}?",
    "I spoke with {person} on {day} about the {product}",
    "{person} from your shop in {place} told me that order {order} left on {day}",
    "please cancel order {order}. {person}, {place}",
    "my {product} {fault} since {day}.{please} {person}",
    "do you have the {product} in your shop in {place}?",
    "the {thing} was paid on {day} by {person}",
    "{hello}this is {person}. I moved to {place} on {day}.{please}",
    "is the {product} still in stock?{please}",
    "I returned the {product} with order {order} on {day}.{please}",
    "the {thing} came late, and nobody called me. {person}",
    "I wrote to you on {day}, and {person} did not answer.{please}",
    "{thing} {order} is not in {place} yet.{please}",
    "what does the {product} cost if I pay before {day}?",
    "I want to talk to {person} about my {thing}.{please}",
    "my {thing} arrived on {day} but the {product} was missing",
    "{hello}my {thing} is late.{please}",
)

_ODD = re.compile(re.escape("{odd}"))
#: What stands around a name in any sentence; `{odd}` is a word of no language.
PHRASES = (
    "{odd} {odd} to {person}",
    "{odd} from {person}, {odd}",
    "{person} {odd} {odd}",
    "{person} and I {odd}",
    "I {odd} {person} {odd}",
    "it was {person} who {odd}",
    "yours, {person}",
    "{odd} with {person} in {place}",
    "{odd} in {place}",
    "{odd} {odd} from {place} to {place_2}",
    "{odd} near {place}, {odd}",
    "to {place}, not {place_2}",
    "I live in {place}",
    "{odd} of {place} {odd}",
    "{place} is {odd}",
    "our house in {place} {odd}",
    "the {product} {odd}",
    "my {product} {odd} {odd}",
    "a {product} for my {odd}",
    "your {product} {odd}",
    "instead of the {product} I got a {product_2}",
    "{odd} the {product}, {odd}",
    "our new {product} {odd}",
    "order {order} {odd}",
    "{odd} number {order}",
    "{order} {odd} {odd}",
    "{odd} {order} {odd}",
    "I have {order} here",
    "the {odd} ({order}) {odd}",
    "{day} {odd}",
    "{odd} on {day}",
    "since {day}",
    "{odd} until {day}, {odd}",
    "{day}, {odd} {odd}",
    "it {odd} {day}",
    "I {odd} and {odd}",
    "{odd} {odd} {odd}",
    "the {odd} {odd}, which {odd}",
    "could you {odd} it",
    "I am {odd}",
    "we {odd} {thing} {odd}",
    "{odd} your answer",
    "I {odd} since {day}",
    "nobody {odd}, and I {odd}",
)

HELD_WORDS: Slots = {
    **WORDS,
    "first": made_of(
        ("Ingrid", "Oscar", "Priya", "Yusuf", "Chloe", "Bruno", "Hedda"),
        coined(("Zu", "Fa", "Pe", "Hu"), ("lia", "rik", "donna", "gwen")),
    ),
    "last": made_of(
        ("Okafor", "Lindqvist", "Petrov", "Tanaka", "Dubois"),
        coined(("Quin", "Dre", "Ash", "Vol"), ("combe", "sen", "tova", "wood")),
    ),
    "place": made_of(
        ("Zurich", "Krakow", "Toronto", "Helsinki", "Porto"),
        coined(("Hy", "Dun", "Pem", "Ulls"), ("bridge", "haven", "gate", "dorf")),
    ),
    "product": made_of(
        ("Velora 9", "HushFan", "GripTool Set", "Mira Desk"),
        coined(("Xeno", "Dyna", "Fluxo", "Hydra"), ("Mixer", "Light 3", " Basic", " 700", "Drone", "Scale")),
    ),
    "order": _held_order,
    "thing": ("shipment", "package", "receipt", "purchase"),
    "fault": ("leaks water", "lost its colour", "smells of smoke", "has a crack"),
    "please": (" Kindly advise.", " I am upset.", " Looking forward to your reply.", ""),
    "hello": ("Good evening, ", "Dear support, ", "Greetings, "),
}

HELD_PATTERNS = (
    "{hello}{person} here, writing about my {product}, which {fault}.{please}",
    "we were expecting {thing} {order} at our home in {place} {day}.{please}",
    "could somebody check whether {order} already left {place}?",
    "the {product} I received on {day} {fault}, says my neighbour {person}",
    "{person} living in {place} never received the {product}.{please}",
    "regarding order {order}: the {product} {fault}.{please}",
    "{hello}the courier brought our {thing} to {place} instead of {place_2}.{please}",
    "since {day} I am waiting for an answer from {person}.{please}",
    "would you exchange my {product} for a {product_2}? Bought on {day}, order {order}.{please}",
    "signed by {person} in {place} on {day}, according to the {thing}",
)


def sentences(seed: int, strange: float = STRANGE) -> Iterator[tuple[str, list[Span]]]:
    """Sentences and the spans of their names, whose `slot` is the kind, without end; strange words stand in a share."""
    return _strange(_messages(PATTERNS, WORDS, seed), seed, strange)


def training(seed: int) -> Iterator[tuple[str, list[Span]]]:
    """Messages of one to three sentences, as above."""
    rng = random.Random(f"sentences {seed}")  # noqa: S311 - messages, not secrets

    def joined() -> Iterator[str]:
        while True:
            some = rng.sample((*PATTERNS, *PHRASES, *PHRASES), rng.randint(1, 3))
            text = rng.choice((". ", "; ", ", ", " ", " and ")).join(
                s.removesuffix("{please}").rstrip(".") for s in some
            )
            yield _ODD.sub(lambda _: strange_word(rng), text) + rng.choice(("", "", ".", "!"))

    return _strange(_messages(joined(), WORDS, seed), seed)


def _strange(
    source: Iterator[tuple[str, list[Span]]], seed: int, share: float = STRANGE
) -> Iterator[tuple[str, list[Span]]]:
    rng = random.Random(f"strange {seed}")  # noqa: S311 - as above
    for text, spans in source:
        strange = rng.random() < share
        yield with_strange_words(text, spans, rng, added=ADDED, replaced=REPLACED) if strange else (text, spans)


def held_out(n: int) -> list[tuple[str, list[Span]]]:
    """`n` messages of other patterns, with other words."""
    return list(itertools.islice(_messages(HELD_PATTERNS, HELD_WORDS, 2), n))


def _messages(patterns: tuple[str, ...] | Iterator[str], words: Slots, seed: int) -> Iterator[tuple[str, list[Span]]]:
    """By patterns drawn from several, or by each of an endless source."""
    rng = random.Random(seed)  # noqa: S311 - as above
    slots = {**words, "place_2": words["place"], "product_2": words["product"]}
    drawn = (rng.choice(patterns) for _ in itertools.count()) if isinstance(patterns, tuple) else patterns
    for pattern in drawn:
        text, spans = filled(pattern, slots, rng)
        yield text, [Span(KINDS[kind], s.start, s.end) for s in spans if (kind := s.slot.removesuffix("_2")) in KINDS]
