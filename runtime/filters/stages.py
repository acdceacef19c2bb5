"""What becomes of a text while it streams: first where it ends, then what is hidden in what is left.

Both hold back what is not certain yet, and nothing else. What they return, joined, depends on the text alone and not on
how it is cut into pieces; so the whole text in one piece is the definition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .rules import Finding, Search

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .rules import FilterRule

__all__ = ["Ending", "Masking"]


class _Match(NamedTuple):
    """Of rule `rule`; by their ends, of those with one end the longest first, then in the order of the rules."""

    end: int
    start: int
    rule: int


class _Stage:
    """Several rules over one text. `_text`: what is held back, from place `_at` on."""

    def __init__(self, rules: Sequence[FilterRule]) -> None:
        self._rules, self._searches = rules, [Search(rule) for rule in rules]
        self._text, self._at = "", 0

    def _add(self, piece: str) -> list[_Match]:
        self._text += piece
        return [_Match(b, a, i) for i, search in enumerate(self._searches) for a, b in search.push(piece)]

    def _rest(self) -> list[_Match]:
        return [_Match(b, a, i) for i, search in enumerate(self._searches) for a, b in search.end()]

    def _first(self, places: Iterable[int | None]) -> int:
        """The smallest; the end of the text where there is none."""
        return min((place for place in places if place is not None), default=self._at + len(self._text))

    def _released(self, before: int) -> str:
        out, self._text = self._text[: before - self._at], self._text[before - self._at :]
        self._at = max(self._at, before)
        return out

    def _finding(self, rule: int, start: int, end: int) -> Finding:
        how = self._rules[rule]
        return Finding(how.name, how.kind, how.action, start, end)


class Ending(_Stage):
    """Ends the text before the match of a block or stop rule that ends first; of those that end there, the longest."""

    def __init__(self, rules: Sequence[FilterRule]) -> None:
        """Nothing yet."""
        super().__init__(rules)
        self._matches: list[_Match] = []
        self.ended: Finding | None = None
        self.replacement = ""

    def push(self, piece: str) -> str:
        """Text that is certain to stay; nothing more once it `ended`."""
        if self.ended is not None:
            return ""
        if not self._searches:
            return piece
        self._matches += self._add(piece)
        floors = [search.floor for search in self._searches]
        return self._decided(min((place for place in floors if place is not None), default=None))

    def end(self) -> str:
        """What is left at the end of the text."""
        if self.ended is not None:
            return ""
        self._matches += self._rest()
        return self._decided(None)

    def _decided(self, floor: int | None) -> str:
        first = min(self._matches, default=None)
        if first is not None and (floor is None or first.end < floor):
            self.ended = self._finding(first.rule, first.start, first.end)
            self.replacement = self._rules[first.rule].shown_for_it
            out, self._text, self._matches = self._text[: first.start - self._at], "", []
            return out
        return self._released(self._first([s.live for s in self._searches] + [match.start for match in self._matches]))


class Masking(_Stage):
    """Shows something else for what the mask rules match: once for matches that overlap."""

    def __init__(self, rules: Sequence[FilterRule]) -> None:
        """Nothing yet."""
        super().__init__(rules)
        self._spans: list[list[tuple[int, int]]] = [[] for _ in rules]  # of each rule, apart from each other, in order
        self.findings: list[Finding] = []

    def push(self, piece: str) -> str:
        """Text that is safe to show."""
        if not self._searches:
            return piece
        self._note(self._add(piece))
        return self._shown(self._first(search.live for search in self._searches))

    def end(self) -> str:
        """What is left at the end of the text."""
        self._note(self._rest())
        return self._shown(self._at + len(self._text))

    def _note(self, matches: list[_Match]) -> None:
        """Join each match with those of the same rule that it overlaps; each rule's come by their ends."""
        for end, start, rule in matches:
            spans, begin = self._spans[rule], start
            while spans and spans[-1][1] > start:
                begin = min(begin, spans.pop()[0])
            spans.append((begin, end))

    def _shown(self, safe: int) -> str:
        """Text and masks up to `safe`, before which no match begins that is not known."""
        every = sorted((a, -b, rule) for rule, spans in enumerate(self._spans) for a, b in spans)
        out, i = "", 0
        while i < len(every):
            start, last, end, first = every[i][0], i, -every[i][1], every[i][2]
            while last + 1 < len(every) and every[last + 1][0] < end:
                last += 1
                end = max(end, -every[last][1])
            if end > safe:
                return out + self._released(min(safe, start))
            out += self._released(start) + self._rules[first].shown_for_it
            self._released(end)
            for a, b, rule in every[i : last + 1]:
                self._spans[rule].remove((a, -b))
                self.findings.append(self._finding(rule, a, -b))
            i = last + 1
        return out + self._released(safe)
