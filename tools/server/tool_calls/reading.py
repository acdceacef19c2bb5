"""A text that comes in pieces, read a character at a time by a parser that waits where it ends.

A parser is a generator: it yields where it needs text that is not there yet. It never sees how the text was cut, so its
answer does not depend on that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["BLANKS", "Reading"]

#: White space, as JSON has it.
BLANKS = " \t\r\n"
#: Characters that were read, and that nobody goes back to, which are kept at most.
_KEPT = 4096


class Reading:
    """`text`: what is there; `at`: how much of it was read; `ended`: nothing more comes."""

    def __init__(self) -> None:
        """Nothing is there yet."""
        self.text, self.at, self.ended = "", 0, False

    def add(self, piece: str) -> None:
        """More text."""
        self.text += piece

    def forget(self) -> None:
        """What was read is not needed any more."""
        if self.at > _KEPT:
            self.text, self.at = self.text[self.at :], 0

    def has(self, n: int) -> Generator[None, None, bool]:
        """Wait until n more characters are there; whether they come at all."""
        while len(self.text) - self.at < n:
            if self.ended:
                return False
            yield
        return True

    def peek(self) -> Generator[None, None, str]:
        """The next character; "" at the end."""
        there = yield from self.has(1)
        return self.text[self.at] if there else ""

    def ahead(self, words: tuple[str, ...], skip: int = 0) -> Generator[None, None, str]:
        """Which of these words comes next, `skip` characters from here, the first of them that does; "": none."""
        n = 0
        while True:
            n += 1
            there = yield from self.has(skip + n)
            start = self.at + skip
            got = self.text[start : start + n]
            whole = next((word for word in words if got == word), "")
            if whole:
                return whole
            if not there or not any(word.startswith(got) for word in words):
                return ""

    def take(self, word: str) -> Generator[None, None, bool]:
        """Read this word, if it comes next."""
        found = yield from self.ahead((word,))
        self.at += len(found)
        return bool(found)

    def skip_blanks(self) -> Generator[None, None, None]:
        """Read white space."""
        self.at += yield from self.blanks_ahead()

    def blanks_ahead(self, skip: int = 0) -> Generator[None, None, int]:
        """How many characters of white space come, `skip` characters from here."""
        n = skip
        while (yield from self.has(n + 1)) and self.text[self.at + n] in BLANKS:
            n += 1
        return n - skip

    def until(self, stop: Callable[[str], bool]) -> Generator[None, None, str]:
        """Read up to the first character that stops."""
        start = self.at
        while (yield from self.has(1)) and not stop(self.text[self.at]):
            self.at += 1
        return self.text[start : self.at]
