"""All matches of an expression in one pass over a text that grows: a nondeterministic automaton (Thompson 1968).

A thread is a state with the set of places where its matches began, as the bits of one integer: bit k is "k characters
ago". A character moves all threads by one state and all bits by one place, so the work for a character is bounded by
the size of the expression, whatever it is and whatever the text is. A match longer than `longest` is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import InputError
from .patterns import Alternatives, Assertion, Chars, Repeat, Series

if TYPE_CHECKING:
    from .patterns import Node

__all__ = ["Automaton", "Threads"]

#: Most states: what a character costs at most.
MOST_STATES = 2000
_MATCH = 0
#: What stands next to a place: nothing (an end of the text), a newline, a letter of a word, another character.
_NOTHING, _NEWLINE, _WORD, _OTHER = range(4)


class Automaton:
    """An expression, compiled. State 0 is a match; every other has a test (`Chars`, an assertion or none) and nexts."""

    def __init__(self, node: Node, longest: int) -> None:
        """`longest`: characters of a match. Errors: `InputError`: too large."""
        self.longest = longest
        self._tests: list[Chars | Assertion | None] = [None]
        self._nexts: list[tuple[int, ...]] = [()]
        self.start = self._compiled(node, _MATCH)
        #: Whether a match may depend on the character after it.
        self.lags = any(isinstance(test, Assertion) for test in self._tests)
        self._closures: dict[tuple[int, int], tuple[int, ...]] = {}

    def _state(self, test: Chars | Assertion | None, *nexts: int) -> int:
        self._tests.append(test)
        self._nexts.append(nexts)
        if len(self._tests) > MOST_STATES:
            msg = f"has more than {MOST_STATES} states; use smaller repetitions, or several rules"
            raise InputError(msg)
        return len(self._tests) - 1

    def _compiled(self, node: Node, then: int) -> int:
        """The first state of a part that is followed by the state `then`."""
        if isinstance(node, Chars | Assertion):
            return self._state(node, then)
        if isinstance(node, Series):
            for part in reversed(node.parts):
                then = self._compiled(part, then)
            return then
        if isinstance(node, Alternatives):
            return self._state(None, *(self._compiled(part, then) for part in node.parts))
        return self._repeated(node, then)

    def _repeated(self, node: Repeat, then: int) -> int:
        if node.most is None:
            loop = self._state(None)
            self._nexts[loop] = (self._compiled(node.part, loop), then)
            then = loop
        else:
            end = then
            for _ in range(node.most - node.least):
                then = self._state(None, self._compiled(node.part, then), end)
        for _ in range(node.least):
            then = self._compiled(node.part, then)
        return then

    def closure(self, state: int, around: int) -> tuple[int, ...]:
        """States with a character's test, and perhaps the match, that one leads to between two characters."""
        known = self._closures.get((state, around))
        if known is None:
            reached, todo = dict[int, None](), [state]
            while todo:
                one = todo.pop()
                if one in reached:
                    continue
                reached[one] = None
                test = self._tests[one]
                if test is None or (isinstance(test, Assertion) and _holds(test.kind, around)):
                    todo += self._nexts[one]
            known = tuple(one for one in reached if one == _MATCH or isinstance(self._tests[one], Chars))
            self._closures[state, around] = known
        return known

    def step(self, state: int, c: str) -> int | None:
        """Where a character leads from a state that has a test for one."""
        test = self._tests[state]
        return self._nexts[state][0] if isinstance(test, Chars) and test.matches(c) else None


class Threads:
    """The matches of an automaton in one text, a character at a time."""

    def __init__(self, automaton: Automaton) -> None:
        """At its beginning."""
        self._automaton, self.lags = automaton, automaton.lags
        self._mask = (1 << (automaton.longest + 1)) - 1
        self._pending: dict[int, int] = {}
        self._threads: dict[int, int] = {}
        self._at, self._before = 0, _NOTHING
        self.matches: list[tuple[int, int]] = []
        if not self.lags:
            self._close(_OTHER)

    @property
    def live(self) -> int:
        """No match that is not among `matches` begins before this place."""
        going = self._pending if self.lags else self._threads
        return self._at - max((bits.bit_length() - 1 for bits in going.values()), default=0)

    def push(self, c: str) -> None:
        """The next character."""
        kind = _kind(c)
        if self.lags:
            self._close(kind)
        step, mask, pending = self._automaton.step, self._mask, self._pending
        pending.clear()
        for state, bits in self._threads.items():
            then = step(state, c)
            if then is not None and (moved := (bits << 1) & mask):
                pending[then] = pending.get(then, 0) | moved
        self._at, self._before = self._at + 1, kind
        if not self.lags:
            self._close(_OTHER)

    def end(self) -> None:
        """The end of the text."""
        if self.lags:
            self._close(_NOTHING)
        self._pending.clear()
        self._threads.clear()

    def _close(self, after: int) -> None:
        """Follow all that takes no character; tell of the longest match that ends here."""
        around, closure, threads = self._before * 4 + after, self._automaton.closure, self._threads
        threads.clear()
        for state, bits in self._pending.items():
            for one in closure(state, around):
                threads[one] = threads.get(one, 0) | bits
        for one in closure(self._automaton.start, around):
            threads[one] = threads.get(one, 0) | 1
        begun = threads.pop(_MATCH, 0)
        if begun > 1:
            self.matches.append((self._at - begun.bit_length() + 1, self._at))


def _kind(c: str) -> int:
    return _NEWLINE if c == "\n" else _WORD if c.isalnum() or c == "_" else _OTHER


def _holds(kind: str, around: int) -> bool:
    before, after = divmod(around, 4)
    if kind in "bB":
        return ((before == _WORD) != (after == _WORD)) == (kind == "b")
    ends = {"A": (before, (_NOTHING,)), "^": (before, (_NOTHING, _NEWLINE))}
    ends |= {"Z": (after, (_NOTHING,)), "$": (after, (_NOTHING, _NEWLINE))}
    side, wanted = ends[kind]
    return side in wanted
