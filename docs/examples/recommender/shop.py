"""A made-up bookshop: titles, customers with an interest each, and what they bought before and buy next."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["SUBJECTS", "Customer", "customers", "titles"]

#: Subject -> words of its titles.
SUBJECTS = {
    name: words.split()
    for name, _, words in (
        line.partition(": ")
        for line in """\
cooking: soup bread kitchen recipes oven spices supper baking pasta cheese
gardens: roses garden trees soil seeds orchard flowers lawn hedge compost
sailing: boats harbour sail islands tide anchor captain voyage coast storm
money: banks savings markets profits taxes pension shares budget prices debts
crime: murder detective poison clue inspector witness prison alibi thief trial
space: planets rocket moon stars orbit galaxy telescope comet Mars astronauts
music: piano songs violin opera jazz choir guitar orchestra rhythm drums
horses: horse pony rider stable saddle jockey race gallop foal meadow""".splitlines()
    )
}
#: How a title puts two or three words of its subject.
FORMS = (
    "The {} and the {}", "A short history of {} and {}", "{}, {} and {}", "All about {} and {}", "My year of {}, {}",
    "The last {}, the first {}", "{} for beginners: {} and {}", "Letters on {} and {}",
)  # fmt: skip
EACH, BEFORE, NEXT = 30, 6, 8  # titles of a subject; books that a customer bought, and buys next
LOYAL = 0.8  # share of books of the customer's own subject
ZIPF = 0.7  # the book of rank r sells as r**-ZIPF


@dataclass(frozen=True)
class Customer:
    """Numbers of titles: what was bought, and what will be."""

    before: list[int]
    after: list[int]


def titles(seed: int = 0) -> list[tuple[str, str]]:
    """Each title once, with its subject, which a recommender does not see."""
    rng = random.Random(seed)  # noqa: S311 - titles, not secrets
    made: dict[str, str] = {}
    for subject, words in SUBJECTS.items():
        n = len(made)
        while len(made) < n + EACH:
            form = rng.choice(FORMS)
            title = form.format(*rng.sample(words, form.count("{}")))
            made.setdefault(title[0].upper() + title[1:], subject)
    listed = list(made.items())
    rng.shuffle(listed)
    return listed


def customers(books: list[tuple[str, str]], n: int, seed: int) -> list[Customer]:
    """`n` of them. A few books sell well and many badly, whatever they are about; which is the same for each seed."""
    fame = [rank**-ZIPF for rank in range(1, len(books) + 1)]
    random.Random(0).shuffle(fame)  # noqa: S311 - tastes, not secrets
    rng = random.Random(seed)  # noqa: S311 - as above
    made = []
    for _ in range(n):
        likes = rng.choice(sorted(SUBJECTS))
        own = [f * (subject == likes) for f, (_, subject) in zip(fame, books, strict=True)]
        bought: dict[int, None] = {}
        while len(bought) < BEFORE + NEXT:
            bought.setdefault(rng.choices(range(len(books)), own if rng.random() < LOYAL else fame)[0])
        made.append(Customer(list(bought)[:BEFORE], list(bought)[BEFORE:]))
    return made
