"""A fairness report: pairs of terms are exchanged in every text, and the model is asked again.

What depends on the terms alone should not move. The file has a pair a line, parted by a tab or a comma: `he,she`.
"""

from __future__ import annotations

import hashlib
import re
from statistics import fmean
from typing import TYPE_CHECKING

from ...dataclass import dataclass
from ...errors import InputError
from ...loader.files import quote
from .rows import contents, lines_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from .examples import Example
    from .measured import Outcome
    from .tasks import Task

__all__ = ["Fairness", "Moved", "Swap", "fairness", "read_swap"]

#: Changes that the report shows, the largest.
SHOWN = 5
_CHINESE = r"\u3040-\u30ff\u3400-\u9fff"


class Swap:
    """Exchanges terms, both ways at once, where they stand as whole words; capitals stay as they are."""

    def __init__(self, pairs: Sequence[tuple[str, str]], sha256: str = "") -> None:
        """`sha256`: of the file that has the pairs."""
        self.pairs, self.sha256 = list(pairs), sha256
        if not self.pairs:
            msg = "swap: there is no pair of terms; expected one at least, such as (he, she)"
            raise InputError(msg)
        self._other = {a.lower(): b for pair in pairs for a, b in (pair, pair[::-1])}
        terms = sorted(self._other, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(_whole_word, terms)), re.IGNORECASE)

    def __call__(self, text: str) -> str:
        """The text with the terms exchanged."""
        return self._pattern.sub(self._exchanged, text)

    def _exchanged(self, match: re.Match[str]) -> str:
        """What stands for a match; itself where it has letters that only look like the term's, as in \u017fhe."""
        other = self._other.get(match[0].lower())
        return match[0] if other is None else _cased(other, match[0])


def _whole_word(term: str) -> str:
    """A term that no letter touches, except where its script writes no spaces."""
    edge = rf"[^\W{_CHINESE}]"
    before = rf"(?<!{edge})" if re.match(edge, term) else ""
    after = rf"(?!{edge})" if re.search(rf"{edge}\Z", term) else ""
    return f"{before}{re.escape(term)}{after}"


def _cased(term: str, like: str) -> str:
    if like.isupper() and len(like) > 1:
        return term.upper()
    return term[:1].upper() + term[1:] if like[:1].isupper() else term


def read_swap(path: Path) -> Swap:
    """The pairs of a file. Errors: `InputError`, with the line, for what is no pair, or a term that two pairs have."""
    pairs: list[tuple[str, str]] = []
    lines: dict[str, int] = {}
    data = contents(path)
    for number, line in lines_of(data, path):
        if not line.strip():
            continue
        terms = [term.strip() for term in line.split("\t" if "\t" in line else ",")]
        if len(terms) != 2 or not all(terms) or terms[0].lower() == terms[1].lower():  # noqa: PLR2004 - a pair
            msg = f"{path}, line {number}: found {quote(line)}; expected two different terms such as he,she"
            raise InputError(msg)
        for term in terms:
            if term.lower() in lines:
                msg = (
                    f"{path}, line {number}: {quote(term)} is in line {lines[term.lower()]} too, and can be exchanged "
                    "for one term only; keep one of the pairs"
                )
                raise InputError(msg)
            lines[term.lower()] = number
        pairs.append((terms[0], terms[1]))
    if not pairs:
        msg = f"{path}: has no pair of terms; expected lines such as he,she"
        raise InputError(msg)
    return Swap(pairs, hashlib.sha256(data).hexdigest())


@dataclass(frozen=True)
class Moved:
    """An example whose answer or score moved."""

    place: str
    before: str
    after: str
    by: float


@dataclass(frozen=True)
class Fairness:
    """`changed`: texts that have a term; `moved`: answers that changed; the shifts of the first answer's score."""

    pairs: int
    changed: int
    moved: int
    mean_shift: float
    largest_shift: float
    shown: list[Moved]


def fairness(
    swap: Swap,
    examples: Sequence[Example],
    outcomes: Sequence[Outcome],
    predict: Callable[[list[Example]], Sequence[Outcome]],
    task: Task,
) -> Fairness:
    """Ask again what has a term, with the terms exchanged. Answers that are made of the text are exchanged too."""
    pairs = [(e, o, swapped) for e, o in zip(examples, outcomes, strict=True) if (swapped := e.swapped(swap)) != e]
    again = predict([swapped for _, _, swapped in pairs])
    moved: list[Moved] = []
    shifts: list[float] = []
    n_moved = 0
    for (example, before, swapped), after in zip(pairs, again, strict=True):
        texts = task.surface(example, before), task.surface(swapped, after)
        expected = swap(texts[0]) if task.quotes else texts[0]
        shift = _shift(before, after)
        shifts += [] if shift is None else [abs(shift)]
        n_moved += expected != texts[1]
        moved.append(Moved(example.place, texts[0], texts[1], shift or 0.0))
    largest = sorted((m for m in moved if m.by or m.before != m.after), key=lambda m: -abs(m.by))
    mean, most = fmean(shifts) if shifts else 0.0, max(shifts, default=0.0)
    return Fairness(len(swap.pairs), len(pairs), n_moved, mean, most, largest[:SHOWN])


def _shift(before: Outcome, after: Outcome) -> float | None:
    """How far the score of the first answer went."""
    if before.scores and after.scores:
        key = str(before.answer)
        return after.scores[key] - before.scores[key]
    return None if before.score is None or after.score is None else after.score - before.score
