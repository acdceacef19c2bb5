"""Finance headlines with what they say: positive, neutral or negative.

No word decides: orders that rise and costs that fall are good, orders that fall and costs that rise are not, and of two
clauses the main one counts. What is held out is said by other patterns, about other companies, with other words.
"""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

from .pattern import coined, filled, made_of, strange_name, strange_word, with_strange_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .pattern import Slots

__all__ = ["HELD_PATTERNS", "HELD_WORDS", "LABELS", "PATTERNS", "WORDS", "held_out", "training"]

#: Share of headlines with strange words, and of their gaps that have one.
STRANGE, ADDED = 0.5, 0.15
FIRST = 20_000  # headlines of two or three words, from which what goes with what is learnt soon
PLAIN = 40_000  # headlines after them until the share is reached; the first has none
LABELS = ("negative", "neutral", "positive")


def _strange_company(rng: random.Random) -> str:
    return rng.choice(("{}", "{} {}", "{} Group")).format(strange_name(rng), strange_name(rng))


WORDS: Slots = {
    "company": made_of(
        (
            "Norvale",
            "Harland Steel",
            "Bluewater",
            "Castor Foods",
            "Delmar Energy",
            "Ostrand",
            "Pinewood Homes",
            "Redstone Mining",
            "Silverline",
            "Tarn Motors",
            "Umber Textiles",
            "Westgate Bank",
            "Alden Group",
            "Corvin",
        ),
        coined(
            ("Bar", "Cel", "Dov", "Fer", "Gran", "Hol", "Jor", "Kel", "Lor", "Mon", "Nes", "Per", "Sol", "Tev"),
            ("tek", "dale", "ex", "onia", "mark", " Air", " Labs", " Foods", " Group", " Power", "ster", "wick"),
        ),
        _strange_company,
        _strange_company,
    ),
    "good": (
        "profits",
        "sales",
        "orders",
        "exports",
        "margins",
        "earnings",
        "bookings",
        "deliveries",
        "revenues",
        "{part} sales",
        "{part} profits",
        "{part} orders",
        "operating profits",
    ),
    "bad": (
        "losses",
        "costs",
        "debts",
        "complaints",
        "recalls",
        "job cuts",
        "write-downs",
        "delays",
        "defects",
        "{part} costs",
        "{part} losses",
        "operating costs",
        "bad loans",
    ),
    "part": made_of(
        ("retail", "online", "overseas", "European", "Asian", "winter", "truck", "software", "cement", "fuel"),
        strange_word,
    ),
    "up": (
        "rise",
        "climb",
        "jump",
        "grow",
        "increase",
        "surge",
        "soar",
        "rose",
        "climbed",
        "grew",
        "jumped",
        "go up",
        "went up",
        "double",
        "hit a record high",
    ),
    "down": (
        "fall",
        "drop",
        "decline",
        "slide",
        "sink",
        "shrink",
        "plunge",
        "fell",
        "dropped",
        "slid",
        "shrank",
        "go down",
        "went down",
        "halve",
        "hit a record low",
    ),
    "to_up": ("rise", "climb", "jump", "grow", "increase", "go up", "double"),
    "to_down": ("fall", "drop", "decline", "slide", "shrink", "go down", "halve"),
    "flat": ("stay flat", "are unchanged", "hold steady", "were flat", "match forecasts", "stay as they were"),
    "increase": ("rise", "jump", "increase", "surge", "growth", "climb"),
    "decrease": ("fall", "drop", "decline", "slide", "decrease", "plunge"),
    "rising": ("rising", "growing", "higher", "increasing", "climbing"),
    "falling": ("falling", "lower", "declining", "shrinking", "sinking"),
    "amount": (
        "by 3 percent",
        "by 8 percent",
        "12 percent",
        "by a fifth",
        "by a third",
        "sharply",
        "slightly",
        "again",
        "by 40 million",
        "25 percent",
        "more than expected",
        "faster than expected",
    ),
    "period": ("first quarter", "second quarter", "third quarter", "first half", "holiday season", "year"),
    "event": made_of(
        ("warm winter", "port strike", "new tax", "election", "merger", "trade deal", "launch of new model"),
        strange_word,
    ),
    "city": made_of(
        ("Lisbon", "Hamburg", "Osaka", "Denver", "Lyon", "Cardiff", "Turin", "Leeds"),
        coined(("Al", "Bor", "Cas", "Dan"), ("ville", "stadt", "more")),
    ),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday"),
    "role": made_of(("finance chief", "chairman", "head of sales", "board member", "legal chief"), strange_word),
    "gift": (
        "order from {city}",
        "contract for trains",
        "approval for new drug",
        "licence to trade",
        "award for design",
        "loan at better terms",
        "upgrade from analysts",
    ),
    "harm": (
        "fine over {part} sales",
        "lawsuit from investors",
        "strike at {city} plant",
        "probe into accounts",
        "downgrade from analysts",
        "boycott of stores",
        "ban on imports",
    ),
}

#: What moves -> patterns; `{metric}` is a good or a bad one, which decides with the direction.
PATTERNS = {
    "moves": (
        "{company} {metric} {moves}",
        "{company} {metric} {moves} {amount}",
        "{metric} at {company} {moves} {amount}",
        "{metric} at {company} {moves} after {event}",
        "{company}: {metric} {moves} {amount} in {period}",
        "{company} says {metric} {moves}",
        "{company} expects {metric} to {to_move} in {period}",
        "{company} reports {move} in {metric}",
        "{company} sees {move} in {metric} after {event}",
        "strong {move} in {metric} for {company}",
        "{moving} {metric} at {company}",
        "{company} posts {moving} {metric} for {period}",
        "{metric} of {company} {moves} in {city}",
        "despite {other_way}, {company} {metric} {moves}",
        "{company} {metric} {moves} despite {other_way}",
        "{company} warns of {moving} {metric}",
        "analysts see {moving} {metric} at {company}",
        "{company} tells of {move} in {metric}",
        "in {period}, {company} {metric} {moves}",
    ),
    "flat": (
        "{company} {metric} {flat}",
        "{metric} at {company} {flat} in {period}",
        "{company} says {metric} {flat}",
        "{company} expects no change in {metric}",
        "{metric} {flat} at {company} after {event}",
    ),
    "plain": (
        "{company} to report {metric} on {day}",
        "{company} names new {role}",
        "{company} moves office to {city}",
        "{company} to hold annual meeting in {city}",
        "{company} publishes report on {metric}",
        "{company} to discuss {metric} with {role} on {day}",
        "{role} of {company} speaks in {city}",
        "{company} to open office in {city}",
        "what to know about {company} {metric}",
        "{company} changes date of {period} report",
        "{company} gives details of {metric} in {period}",
    ),
    "gain": (
        "{company} wins {gift}",
        "{company} secures {gift}",
        "{company} gets {gift} after {event}",
        "{gift} goes to {company}",
        "{company} avoids {harm}",
        "{company} escapes {harm}",
        "no {harm} for {company}",
        "{company} settles {harm}",
    ),
    "harmed": (
        "{company} loses {gift}",
        "{company} misses out on {gift}",
        "no {gift} for {company}",
        "{company} fails to win {gift}",
        "{company} hit by {harm}",
        "{company} faces {harm}",
        "{harm} hurts {company}",
        "{company} suffers {harm} after {event}",
    ),
}

SHORT = {
    **PATTERNS,
    "moves": ("{metric} {moves}", "{moving} {metric}", "{move} in {metric}"),
    "flat": ("{metric} {flat}",),
}

HELD_WORDS: Slots = {
    **WORDS,
    "company": made_of(
        (
            "Quillfeather",
            "Zephyr Rail",
            "Yarrow Pharma",
            "Ibex Outdoor",
            "Vantor Shipping",
            "Upland Dairy",
            "Xylo Glass",
        ),
        coined(
            ("Aqui", "Brev", "Wend", "Zant", "Ulm", "Vix", "Rast"),
            ("ora", "linea", "holm", " Marine", " Paper", "quist"),
        ),
    ),
    "good": ("{part} sales", "{part} orders", "{part} exports", "net profits", "passenger bookings", "ticket sales"),
    "bad": ("{part} costs", "{part} losses", "{part} complaints", "unpaid debts", "shipping delays", "energy costs"),
    "part": ("furniture", "bicycle", "Brazilian", "wholesale", "insurance", "dairy", "summer", "turbine"),
    "amount": ("by 6 percent", "17 percent", "by nearly half", "by 90 million", "considerably", "for a fifth time"),
    "period": ("fourth quarter", "nine months", "busy spring", "second half"),
    "event": ("heatwave", "airport closure", "customs reform", "takeover", "flood"),
    "city": ("Seville", "Nairobi", "Bergen", "Perth", "Gdansk"),
    "role": ("treasurer", "personnel chief", "head of research"),
    "gift": (
        "tender from {city}",
        "contract for ferries",
        "approval for vaccine",
        "permit to drill",
        "licence in {city}",
    ),
    "harm": ("penalty over {part} sales", "lawsuit from tenants", "strike at {city} depot", "probe into pensions"),
}

HELD_PATTERNS = {
    "moves": (
        "{metric} {moves} at {company} following {event}",
        "{company} tells investors that {metric} {moves}",
        "over {period}, {metric} {moves} at {city} based {company}",
        "{company} update shows {metric} {moves} {amount}",
        "{period} brings {move} in {metric} for {company}",
        "{moving} {metric}: {company} publishes {period} figures",
        "even with {other_way}, {metric} at {company} {moves}",
        "{company} predicts {moving} {metric} because of {event}",
    ),
    "flat": (
        "little movement: {metric} {flat} at {company}",
        "{company} reveals that {metric} {flat} over {period}",
    ),
    "plain": (
        "{company} invites shareholders to {city}",
        "{company} appoints {role} from {city}",
        "{company} schedules call on {metric} for {day}",
        "{company} will release {period} {metric} on {day}",
    ),
    "gain": (
        "{company} of {city} wins coveted {gift}",
        "relief as {company} avoids {harm}",
        "{company} celebrates: it secures {gift}",
    ),
    "harmed": (
        "bitter day as {company} loses {gift}",
        "{company} of {city} hit by sudden {harm}",
        "trouble: {company} faces {harm}",
    ),
}

#: Kinds of headlines and how often; "moves" decides its label by what moves where.
_KINDS, _SHARES = ("moves", "flat", "plain", "gain", "harmed"), (10, 2, 3, 2, 2)
_UP, _DOWN = ("up", "increase", "rising", "to_up"), ("down", "decrease", "falling", "to_down")


def training(seed: int, strange: float = STRANGE) -> Iterator[tuple[str, str]]:
    """Headlines and their labels, without end; the first are short. `strange`: share with strange words, in the end."""
    rng = random.Random(f"strange {seed}")  # noqa: S311 - headlines, not secrets
    short = itertools.islice(_headlines(SHORT, WORDS, seed), FIRST)
    for n, (text, label) in enumerate(itertools.chain(short, _headlines(PATTERNS, WORDS, seed))):
        mixed = rng.random() < strange * min(1, max(0, n - FIRST) / PLAIN)
        yield (with_strange_words(text, (), rng, added=ADDED)[0] if mixed else text), label


def held_out(n: int) -> list[tuple[str, str]]:
    """`n` headlines of other patterns, with other words, and their labels."""
    return list(itertools.islice(_headlines(HELD_PATTERNS, HELD_WORDS, 2), n))


def _headlines(patterns: dict[str, tuple[str, ...]], words: Slots, seed: int) -> Iterator[tuple[str, str]]:
    rng = random.Random(seed)  # noqa: S311 - headlines, not secrets
    while True:
        kind = rng.choices(_KINDS, _SHARES)[0]
        good, up = rng.random() < 0.5, rng.random() < 0.5  # noqa: PLR2004 - halves
        slots = {
            **words,
            "metric": words["good" if good else "bad"],
            **{
                slot: words[name]
                for slot, name in zip(("moves", "move", "moving", "to_move"), _UP if up else _DOWN, strict=True)
            },
            "other_way": ("{rising} {bad}", "{falling} {good}")
            if good == up
            else ("{falling} {bad}", "{rising} {good}"),
        }
        text, _ = filled(rng.choice(patterns[kind]), slots, rng)
        label = {"gain": "positive", "harmed": "negative", "moves": "positive" if good == up else "negative"}
        yield text, label.get(kind, "neutral")
