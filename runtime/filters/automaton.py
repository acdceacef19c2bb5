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
    from collections.abc import Mapping

    from .patterns import Node

__all__ = ["Automaton", "Threads"]

#: Most states: what a character costs at most.
MOST_STATES = 2000
#: Most states, of all together, that are remembered as what each leads to.
MOST_LISTED = 20_000
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
        self._closures: dict[tuple[int, int], tuple[tuple[int, ...], bool]] = {}
        self._facts: dict[int, tuple[list[bool], list[bool]]] = {}
        #: Whether states lead to so many others between two characters that these are worked out all at once.
        self.wide = self._is_wide()
        self._begins: dict[tuple[str, int], bool] = {}

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
            before = len(self._tests)
            then = self._compiled(node.part, then)
            if len(self._tests) == before:  # (), a{0}: no states, of which `MOST_STATES` is the bound
                break
        return then

    def closure(self, state: int, around: int) -> tuple[tuple[int, ...], bool]:
        """States with a character's test that one leads to between two characters, and whether it leads to a match."""
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
            tested = tuple(one for one in reached if isinstance(self._tests[one], Chars))
            known = self._closures[state, around] = tested, _MATCH in reached
        return known

    def _is_wide(self) -> bool:
        left = MOST_LISTED
        for test, nexts in zip(self._tests, self._nexts, strict=True):
            reached, todo = set[int](), list(nexts) if isinstance(test, Chars) else []
            while todo:
                one = todo.pop()
                if one not in reached:
                    reached.add(one)
                    left -= 1
                    todo += () if isinstance(self._tests[one], Chars) else self._nexts[one]
                if left < 0:
                    return True
        return False

    def _passes(self, state: int, around: int) -> bool:
        """Whether a state leads on between two characters."""
        test = self._tests[state]
        return test is None or (isinstance(test, Assertion) and _holds(test.kind, around))

    def ends(self, state: int, around: int) -> tuple[bool, bool]:
        """Whether it leads, between two characters, to a state with a character's test, and to a match."""
        if not self.wide:
            going, matches = self.closure(state, around)
            return bool(going), matches
        known = self._facts.get(around)
        if known is None:
            known = self._facts[around] = self._reached(around)
        return known[0][state], known[1][state]

    def _reached(self, around: int) -> tuple[list[bool], list[bool]]:
        """`ends` of every state. Nearly every one leads to states before it, which were made first; loops go back."""
        going = [isinstance(test, Chars) for test in self._tests]
        matches = [state == _MATCH for state in range(len(self._tests))]
        changed = True
        while changed:
            changed = False
            for state, nexts in enumerate(self._nexts):
                if state != _MATCH and self._passes(state, around):
                    told = any(going[i] for i in nexts), any(matches[i] for i in nexts)
                    if told != (going[state], matches[state]):
                        going[state], matches[state] = told
                        changed = True
        return going, matches

    def spread(self, threads: Mapping[int, int], around: int) -> dict[int, int]:
        """Where matches began, of each state with a character's test that these lead to between two characters.

        As all of their closures together, in a time that grows with the states alone.
        """
        bits = [0] * len(self._tests)
        for state, begun in threads.items():
            bits[state] |= begun
        changed = True
        while changed:
            changed = False
            for state in range(len(bits) - 1, 0, -1):
                begun = bits[state]
                if begun and self._passes(state, around):
                    for i in self._nexts[state]:
                        if begun & ~bits[i]:
                            bits[i] |= begun
                            changed |= i > state
        return {state: begun for state, begun in enumerate(bits) if begun and isinstance(self._tests[state], Chars)}

    def begins(self, c: str, around: int) -> bool:
        """Whether a match can begin with a character."""
        known = self._begins.get((c, around))
        if known is None:
            known = any(self.step(one, c) is not None for one in self.closure(self.start, around)[0])
            self._begins[c, around] = known
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
        self._threads: dict[int, int] = {}  # state -> where its matches began, but for those that begin here
        self._at, self._before = 0, _NOTHING
        self.matches: list[tuple[int, int]] = []

    @property
    def live(self) -> int:
        """No match that is not among `matches` begins before this place."""
        return self._at - max((bits.bit_length() - 1 for bits in self._threads.values()), default=0)

    def push(self, c: str) -> None:
        """The next character."""
        kind = _kind(c)
        around = self._before * 4 + kind if self.lags else 0
        if self.lags and self._threads:
            self._tell(around)
        if self._threads or self._automaton.begins(c, around):
            self._step(c, around)
        self._at, self._before = self._at + 1, kind
        if self._threads and not self.lags:
            self._tell(0)

    def end(self) -> None:
        """The end of the text."""
        if self.lags:
            self._tell(self._before * 4 + _NOTHING)
        self._threads.clear()

    def _step(self, c: str, around: int) -> None:
        closure, step, mask = self._automaton.closure, self._automaton.step, self._mask
        threads: dict[int, int] = {}
        if self._automaton.wide:
            start = self._automaton.start
            before = {**self._threads, start: self._threads.get(start, 0) | 1}
            for one, bits in self._automaton.spread(before, around).items():
                then = step(one, c)
                if then is not None and (moved := (bits << 1) & mask):
                    threads[then] = threads.get(then, 0) | moved
            self._threads = threads
            return
        for state, bits in (*self._threads.items(), (self._automaton.start, 1)):
            for one in closure(state, around)[0]:
                then = step(one, c)
                if then is not None and (moved := (bits << 1) & mask):
                    threads[then] = threads.get(then, 0) | moved
        self._threads = threads

    def _tell(self, around: int) -> None:
        """Of the longest match that ends here; what leads to nothing else is no thread any more."""
        begun = 0
        for state, bits in list(self._threads.items()):
            going, matches = self._automaton.ends(state, around)
            begun |= bits if matches else 0
            if not going:
                del self._threads[state]
        if begun:
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
