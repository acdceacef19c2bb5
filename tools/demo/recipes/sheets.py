"""Small product sheets, a question about each, and where the answer lies in the sheet.

A sheet says four to six things about a product, in any order; several are in the same unit (its height and the length
of its cable, its price and what shipping costs), so that the unit alone answers nothing. What is held out is said and
asked by other patterns, of other products, with other figures.
"""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

from ....dataclass import dataclass
from .pattern import Span, coined, filled, made_of, strange_name, strange_word, with_strange_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .pattern import Slots

__all__ = ["FACTS", "HELD_FACTS", "HELD_WORDS", "OPENINGS", "WORDS", "Sheet", "held_out", "plain", "training"]


@dataclass(frozen=True)
class Sheet:
    """A question, the sheet's text, and the answer's first character and the one after its last."""

    question: str
    text: str
    start: int
    end: int

    @property
    def answer(self) -> str:
        """The answer's text."""
        return self.text[self.start : self.end]


@dataclass(frozen=True)
class Fact:
    """How a sheet says it (the slot of its name is the answer), and how it is asked."""

    said: tuple[str, ...]
    asked: tuple[str, ...]


def _decimal(low: int, high: int, unit: str, last: str) -> tuple[str, ...]:
    """Figures with one digit after the point, which `last` lists, in a unit."""
    return tuple(f"{whole}.{digit} {unit}" for whole in range(low, high) for digit in last)


def _whole(values: range, unit: str) -> tuple[str, ...]:
    return tuple(f"{value} {unit}" for value in values)


#: Share of sheets with strange words, and of their gaps that have one.
STRANGE, ADDED = 0.6, 0.12
FIRST = 16_000  # sheets that say two or three things, from which what goes with what is learnt soon


def _strange_extra(rng: random.Random) -> str:
    return f"a {strange_word(rng)} {strange_word(rng)}"


_FIGURES: Slots = {
    "weight": _decimal(0, 9, "kg", "1345789") + _whole(range(150, 900, 50), "grams"),
    "height": _whole(range(12, 95, 2), "cm"),
    "cable": _decimal(1, 4, "m", "123456") + _whole(range(80, 200, 10), "cm"),
    "power": _whole(range(300, 2400, 100), "watts"),
    "volume": _decimal(0, 6, "litres", "1357"),
    "price": tuple(f"{n}.{cents} euros" for n in range(10, 300, 7) for cents in ("00", "50", "99")),
    "shipping": tuple(f"{n}.{cents} euros" for n in range(2, 15) for cents in ("00", "50", "90")),
    "warranty": ("two years", "three years", "five years", "24 months", "36 months", "one year"),
    "battery": _whole(range(4, 40, 2), "hours"),
    "charging": ("two hours", "three hours", "45 minutes", "90 minutes", "four hours", "50 minutes"),
    "colour": made_of(
        ("black", "white", "red", "dark green", "light grey", "silver", "blue", "yellow and black"), strange_word
    ),
    "material": made_of(
        ("steel", "glass", "oak", "plastic", "aluminium", "steel and glass", "cotton", "bamboo"), strange_word
    ),
    "country": made_of(("Germany", "Portugal", "Japan", "Vietnam", "Poland", "Italy", "Korea", "Sweden"), strange_name),
    "extra": made_of(
        ("a brush", "a leather case", "two filters", "a spare lid", "a travel bag", "a cleaning cloth"), _strange_extra
    ),
}


def _strange_product(rng: random.Random) -> str:
    return rng.choice(("{}", "{} {digit}", "{} {digit}00")).format(strange_name(rng), digit=rng.randint(1, 9))


WORDS: Slots = {
    **_FIGURES,
    "product": made_of(
        ("Aero 300", "Vita Blend", "SoundBox Mini", "CleanJet 5", "Nova X2", "Lumo"),
        coined(
            ("Zen", "Opti", "Max", "Aqua", "Turbo", "Eco", "Pico"), ("Brew", "Pad", "Cam 2", " Plus", " Pro 7", " 500")
        ),
        _strange_product,
        _strange_product,
    ),
    "kind": made_of(
        ("kettle", "blender", "speaker", "lamp", "vacuum cleaner", "coffee machine", "heater", "fan"), strange_word
    ),
    "it": ("it", "the {kind}", "the {product}"),
}

FACTS = {
    "weight": Fact(
        (
            "{it} weighs {weight}.",
            "the weight is {weight}.",
            "weight: {weight}.",
            "with a weight of {weight} it is easy to carry.",
        ),
        ("how much does {it} weigh?", "how heavy is {it}?", "what is the weight of {it}?", "what does {it} weigh?"),
    ),
    "height": Fact(
        ("{it} is {height} tall.", "the height is {height}.", "height: {height}.", "it stands {height} high."),
        ("how tall is {it}?", "how high is {it}?", "what is the height of {it}?"),
    ),
    "cable": Fact(
        (
            "the cable is {cable} long.",
            "cable: {cable}.",
            "it comes with a cable of {cable}.",
            "the cable has a length of {cable}.",
        ),
        ("how long is the cable?", "what is the length of the cable?", "how long is the cable of {it}?"),
    ),
    "power": Fact(
        ("it uses {power}.", "power: {power}.", "{it} needs {power}.", "the motor has a power of {power}."),
        ("how much power does {it} use?", "what power does {it} need?", "how many watts does {it} use?"),
    ),
    "volume": Fact(
        ("it holds {volume}.", "the tank holds {volume}.", "volume: {volume}.", "there is room for {volume} of water."),
        (
            "how much does {it} hold?",
            "how much water fits in?",
            "what is the volume of the tank?",
            "how big is the tank?",
        ),
    ),
    "price": Fact(
        ("it costs {price}.", "the price is {price}.", "price: {price}.", "you can buy it for {price}."),
        ("how much does {it} cost?", "what is the price?", "what does {it} cost?", "what do I pay for {it}?"),
    ),
    "shipping": Fact(
        (
            "shipping costs {shipping}.",
            "shipping: {shipping}.",
            "we ship it for {shipping}.",
            "for shipping we charge {shipping}.",
        ),
        (
            "how much is shipping?",
            "what does shipping cost?",
            "what do I pay for shipping?",
            "what do you charge for shipping?",
        ),
    ),
    "warranty": Fact(
        (
            "the warranty is {warranty}.",
            "it has a warranty of {warranty}.",
            "warranty: {warranty}.",
            "the warranty covers {warranty}.",
        ),
        ("how long is the warranty?", "what warranty does {it} have?", "how long does the warranty last?"),
    ),
    "battery": Fact(
        (
            "the battery lasts {battery}.",
            "battery life: {battery}.",
            "on battery it runs for {battery}.",
            "it has a battery for {battery}.",
        ),
        ("how long does the battery last?", "what is the battery life?", "how long does {it} run on battery?"),
    ),
    "charging": Fact(
        (
            "charging takes {charging}.",
            "charging time: {charging}.",
            "it is fully charged in {charging}.",
            "to charge it you need {charging}.",
        ),
        ("how long does charging take?", "how long does it take to charge {it}?", "what is the charging time?"),
    ),
    "colour": Fact(
        ("it comes in {colour}.", "colour: {colour}.", "the colour is {colour}.", "we sell it in {colour}."),
        ("what colour is {it}?", "what is the colour of {it}?", "which colour does it come in?"),
    ),
    "material": Fact(
        (
            "it is made of {material}.",
            "material: {material}.",
            "the body is of {material}.",
            "we build it of {material}.",
        ),
        ("what is {it} made of?", "what material is {it}?", "what is the material?"),
    ),
    "country": Fact(
        ("it is made in {country}.", "made in {country}.", "it comes from {country}.", "we build it in {country}."),
        ("where is {it} made?", "where does {it} come from?", "in which country is {it} made?"),
    ),
    "extra": Fact(
        ("in the box there is {extra}.", "it comes with {extra}.", "we add {extra}.", "included: {extra}."),
        ("what is in the box?", "what comes with {it}?", "what is included?"),
    ),
}

HELD_WORDS: Slots = {
    **WORDS,
    "weight": _decimal(0, 9, "kg", "26") + _whole(range(125, 900, 50), "grams"),
    "height": _whole(range(13, 95, 4), "cm"),
    "cable": _decimal(1, 4, "m", "789"),
    "power": _whole(range(350, 2400, 100), "watts"),
    "volume": _decimal(0, 6, "litres", "2468"),
    "price": tuple(f"{n}.{cents} euros" for n in range(11, 300, 7) for cents in ("25", "75", "95")),
    "shipping": tuple(f"{n}.{cents} euros" for n in range(2, 15) for cents in ("20", "80")),
    "battery": _whole(range(5, 40, 2), "hours"),
    "charging": ("70 minutes", "five hours", "35 minutes", "110 minutes"),
    "warranty": ("four years", "18 months", "six years", "30 months"),
    "colour": ("purple", "dark orange", "cream", "pink and white", "bronze"),
    "material": ("ceramic", "copper and oak", "walnut", "rubber", "titanium"),
    "country": ("Denmark", "Mexico", "Taiwan", "Slovenia", "Canada"),
    "extra": ("a carrying strap", "three nozzles", "a drying rack", "a measuring spoon"),
    "product": made_of(
        ("Velora 9", "HushFan", "Mira Desk"),
        coined(("Xeno", "Dyna", "Fluxo", "Hydra"), ("Mixer", "Light 3", " Basic", " 700", "Drone")),
    ),
    "kind": ("toaster", "humidifier", "drill", "projector", "lantern", "ice maker"),
}

HELD_FACTS = {
    "weight": Fact(
        ("on the scale {it} shows a weight of {weight}.", "net weight without packaging: {weight}."),
        ("do you know how heavy {it} is?",),
    ),
    "height": Fact(
        ("measured from the table, the height is {height}.", "{it} rises {height} high."),
        ("exactly how tall is {it} please?",),
    ),
    "cable": Fact(
        ("attached is a sturdy cable with a length of {cable}.", "its cable measures {cable}."),
        ("could you tell me the length of the cable?",),
    ),
    "power": Fact(
        ("at full power {it} draws {power}.", "rated power is {power}."), ("at most, how much power does {it} draw?",)
    ),
    "volume": Fact(
        ("its removable tank holds {volume}.", "filled to the top, it holds {volume}."),
        ("do you know how much {it} holds?",),
    ),
    "price": Fact(
        ("at the moment the price is {price}.", "online {it} costs {price}."),
        ("could you tell me the price of {it}?", "how much would {it} cost me?"),
    ),
    "shipping": Fact(
        ("shipping within Europe costs {shipping}.", "standard shipping adds {shipping}."),
        ("do you know what shipping costs?",),
    ),
    "warranty": Fact(
        ("buyers enjoy a warranty of {warranty}.", "our warranty runs {warranty}."),
        ("could you tell me how long the warranty is?",),
    ),
    "battery": Fact(
        ("unplugged, the battery lasts {battery}.", "a fresh battery keeps it going for {battery}."),
        ("roughly how long will the battery last?",),
    ),
    "charging": Fact(
        ("from empty, charging takes {charging}.", "quick charging needs only {charging}."),
        ("roughly how long will charging take?",),
    ),
    "colour": Fact(
        ("this season the colour is {colour}.", "available colour: {colour}."), ("do you know the colour of {it}?",)
    ),
    "material": Fact(
        ("its housing is made of {material}.", "chosen material: {material}."),
        ("could you tell me what {it} is made of?",),
    ),
    "country": Fact(
        ("every piece is made in {country}.", "{it} is proudly made in {country}."),
        ("could you tell me where {it} is made?",),
    ),
    "extra": Fact(
        ("packed in the box you find {extra}.", "every purchase comes with {extra}."),
        ("exactly what is included with {it}?",),
    ),
}

OPENINGS = (
    "the {product} is a {kind}.",
    "{product}, a {kind}.",
    "meet the {product}, our new {kind}.",
    "{kind} {product}:",
    "",
)
_HELD_OPENINGS = ("introducing the {kind} {product}.", "{product} belongs to our finest {kind} range.")


def training(seed: int, strange: float = STRANGE) -> Iterator[Sheet]:
    """Sheets, each with a question and its answer, without end; the first are short. `strange`: share of the others."""
    rng = random.Random(f"strange {seed}")  # noqa: S311 - sheets, not secrets
    short = itertools.islice(_sheets(FACTS, WORDS, OPENINGS, seed, facts_of=(2, 3)), FIRST)
    for n, sheet in enumerate(itertools.chain(short, plain(seed))):
        if n > FIRST and rng.random() < strange:
            text, [span] = with_strange_words(sheet.text, [Span("", sheet.start, sheet.end)], rng, added=ADDED)
            yield Sheet(with_strange_words(sheet.question, (), rng, added=ADDED)[0], text, span.start, span.end)
        else:
            yield sheet


def plain(seed: int) -> Iterator[Sheet]:
    """Sheets of four to six facts, without strange words."""
    return _sheets(FACTS, WORDS, OPENINGS, seed)


def held_out(n: int) -> list[Sheet]:
    """`n` sheets of other patterns, with other words."""
    return list(itertools.islice(_sheets(HELD_FACTS, HELD_WORDS, _HELD_OPENINGS, 2), n))


def _sheets(
    facts: Mapping[str, Fact], words: Slots, openings: tuple[str, ...], seed: int, facts_of: tuple[int, int] = (4, 6)
) -> Iterator[Sheet]:
    rng = random.Random(seed)  # noqa: S311 - sheets, not secrets
    while True:
        product, _ = filled("{product}", words, rng)
        kind, _ = filled("{kind}", words, rng, capital=False)
        slots = {**words, "product": (product,), "kind": (kind,)}
        names = rng.sample(sorted(facts), rng.randint(*facts_of))
        asked = rng.choice(names)
        text, _ = filled(rng.choice(openings), slots, rng)
        at = 0, 0
        for name in names:
            sentence, spans = filled(rng.choice(facts[name].said), slots, rng)
            text += " " if text else ""
            if name == asked:
                at = next((len(text) + span.start, len(text) + span.end) for span in spans if span.slot == name)
            text += sentence
        question, _ = filled(rng.choice(facts[asked].asked), slots, rng)
        yield Sheet(question, text, *at)
