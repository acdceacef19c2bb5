"""Stories without end from the grammar: the same seed, the same stories."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from .grammar import BOYS, ENDINGS, FIRST, GIRLS, HEROES, LAST, MIDDLE, OPENINGS, PLOTS, SLOTS

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HELD_OUT_SEED", "TRAINING_SEED", "held_out", "stories"]

TRAINING_SEED = 1
HELD_OUT_SEED = 2
MADE_UP = 0.4  # share of stories

#: subject, object, before a noun, reflexive; girls first, as in `HEROES`.
_PRONOUNS = (("she", "her", "her", "herself"), ("he", "him", "his", "himself"))


def stories(seed: int) -> Iterator[str]:
    """One story after the other, each a single paragraph; never ends."""
    rng = random.Random(seed)  # noqa: S311 - stories, not secrets
    while True:
        yield _story(rng)


def held_out(n: int) -> list[str]:
    """`n` stories drawn apart from the training's: what they are made of occurs there too, the whole of none does."""
    source = stories(HELD_OUT_SEED)
    return [next(source) for _ in range(n)]


def _story(rng: random.Random) -> str:
    hero, pal = _names(rng)
    kinds = rng.sample(HEROES, 2)
    words = {name: rng.choice(choices) for name, choices in SLOTS.items()}
    words |= {"hero": hero[1], "kind": _gendered(kinds[0], hero[0])}
    words |= {"pal": pal[1], "palkind": _gendered(kinds[1], pal[0])}
    words |= dict(zip(("he", "him", "his", "himself"), _PRONOUNS[hero[0]], strict=True))
    words |= dict(zip(("she", "her", "hers"), _PRONOUNS[pal[0]], strict=False))
    words |= {name.capitalize(): words[name].capitalize() for name in ("he", "his", "she")}
    plot = rng.choice(PLOTS)
    told = [rng.choice(OPENINGS), *(rng.choice(beat) for beat in plot), rng.choice(ENDINGS)]
    return " ".join(told).format_map(words).format_map(words)  # a slot's text may name another


def _names(rng: random.Random) -> list[tuple[int, str]]:
    """Gender and name of two; in two of five stories the names are made up, so that names must be remembered."""
    if rng.random() < MADE_UP:
        made = {rng.choice(FIRST) + rng.choice(MIDDLE) + rng.choice(LAST[gender]): gender for gender in (0, 1, 0, 1)}
        known = [(gender, name) for name, gender in made.items()]
    else:
        known = [(0, name) for name in GIRLS] + [(1, name) for name in BOYS]
    return rng.sample(known, 2)


def _gendered(kind: str, gender: int) -> str:
    return kind.split("|")[gender] if "|" in kind else kind
