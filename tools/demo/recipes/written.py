"""Days and amounts as people write them, and as ISO 8601 and ISO 4217 do; both ways.

What is held out stands in other sentences, is a day or an amount that occurs nowhere in training, and half of it is
written in another order.
"""

from __future__ import annotations

import datetime as dt
import itertools
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["amount_in_words", "day_in_words", "held_out", "number_in_words", "training"]

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth", "twenty": "twentieth", "thirty": "thirtieth",
}  # fmt: skip
#: Code -> the coin and a hundredth of it, one and several.
CURRENCIES = {
    "USD": ("dollar", "dollars", "cent", "cents"),
    "EUR": ("euro", "euros", "cent", "cents"),
    "GBP": ("pound", "pounds", "penny", "pence"),
}
FIRST, LAST = dt.date(1990, 1, 1).toordinal(), dt.date(2039, 12, 31).toordinal()
MOST = 9999  # of an amount's whole part
#: One of so many days and amounts is held out.
HELD = 7

_AROUND = (
    "{}",
    "{}",
    "{}",
    "on {}",
    "it is {}",
    "due {}",
    "paid: {}",
    "we agreed on {}",
    "{}, as you wrote",
    "from now on {}",
)
_HELD_AROUND = (
    "the lease says {}",
    "{} was fixed by the court",
    "invoice text: {}",
    "their reply mentions {}",
    "please note {}",
)


def number_in_words(n: int) -> str:
    """Of 0 to 9999, as in English books: one thousand two hundred and fifty-one."""
    if n < len(_SMALL):
        return _SMALL[n]
    if n < 100:  # noqa: PLR2004 - places of a number
        tens, ones = divmod(n, 10)
        return _TENS[tens - 2] + (f"-{_SMALL[ones]}" if ones else "")
    unit, name = (1000, "thousand") if n >= 1000 else (100, "hundred")  # noqa: PLR2004 - as above
    high, low = divmod(n, unit)
    between = " " if low >= 100 else " and "  # noqa: PLR2004 - as above
    return f"{number_in_words(high)} {name}" + (between + number_in_words(low) if low else "")


def _ordinal(n: int) -> str:
    before, dash, last = number_in_words(n).rpartition("-")
    ending = _ORDINALS.get(last) or (last + "th" if not last.endswith("t") else last + "h")
    return before + dash + ending


def _figure(n: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th."""
    ending = "th" if n in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


def day_in_words(day: dt.date) -> str:
    """As the model writes a day: the third of March 2021."""
    return f"the {_ordinal(day.day)} of {MONTHS[day.month - 1]} {day.year}"


def amount_in_words(code: str, whole: int, cents: int) -> str:
    """As the model writes an amount: twelve dollars and fifty cents."""
    one, several, cent, many_cents = CURRENCIES[code]
    text = f"{number_in_words(whole)} {one if whole == 1 else several}"
    return text + (f" and {number_in_words(cents)} {cent if cents == 1 else many_cents}" if cents else "")


def training(seed: int) -> Iterator[tuple[str, str]]:
    """What is read and what is to be written, without end."""
    rng = random.Random(seed)  # noqa: S311 - days, not secrets
    while True:
        iso, said, ways = _drawn(rng, held=False)
        yield (iso, said) if rng.random() < 1 / 3 else (_around(rng, _AROUND, rng.choice(ways)), iso)


def held_out(n: int) -> list[tuple[str, str]]:
    """`n` of other days, amounts and sentences, half of them in an order that does not occur in training."""
    rng = random.Random(2)  # noqa: S311 - as above

    def one() -> tuple[str, str]:
        iso, said, ways = _drawn(rng, held=True)
        return (iso, said) if rng.random() < 1 / 3 else (_around(rng, _HELD_AROUND, rng.choice(ways)), iso)

    return list(itertools.islice(iter(one, None), n))


def _around(rng: random.Random, sentences: tuple[str, ...], what: str) -> str:
    text = rng.choice(sentences).format(what)
    return text[:1].upper() + text[1:]


def _drawn(rng: random.Random, *, held: bool) -> tuple[str, str, list[str]]:
    """A day or an amount: in ISO form, in words, and in the ways that people write it."""
    while True:
        if rng.random() < 1 / 2:
            number = rng.randint(FIRST, LAST)
            if (number % HELD == 0) == held:
                return _day(dt.date.fromordinal(number), held=held)
        else:
            whole = rng.choice((rng.randint(0, 99), rng.randint(100, 999), rng.randint(1000, MOST)))
            cents = rng.choice((0, rng.randint(1, 99)))
            if ((whole * 100 + cents) % HELD == 0) == held:
                return _amount(rng.choice(sorted(CURRENCIES)), whole, cents, held=held)


def _day(day: dt.date, *, held: bool) -> tuple[str, str, list[str]]:
    month, said = MONTHS[day.month - 1], day_in_words(day)
    ways = [
        *(
            said,
            f"{month} {day.day}, {day.year}",
            f"{day.day} {month} {day.year}",
            f"the {_figure(day.day)} of {month}, {day.year}",
        ),
        *(f"{day:%A}, {month} {_figure(day.day)}, {day.year}", f"{month} the {_ordinal(day.day)}, {day.year}"),
        *(f"{day.day} {month[:3]} {day.year}", f"{month[:3]} {day.day}, {day.year}"),
    ]
    new = [f"{_figure(day.day)} {month} {day.year}", f"in {day.year}, on {month} {day.day}"]
    return day.isoformat(), said, [*ways, *new * 4] if held else ways


def _amount(code: str, whole: int, cents: int, *, held: bool) -> tuple[str, str, list[str]]:
    said = amount_in_words(code, whole, cents)
    _, several, _, many_cents = CURRENCIES[code]
    figures = f"{whole:,}" + (f".{cents:02}" if cents else "")
    ways = [
        said,
        said,
        f"{figures} {several}",
        f"{whole} {several} {cents} {many_cents}",
        f"{figures} {code}",
        f"{code} {figures}",
    ]
    new = [f"{whole}.{cents:02} {several}", f"{number_in_words(whole)} {several} {cents:02}"]
    return f"{code} {whole}.{cents:02}", said, [*ways, *new * 3] if held else ways
