"""Regular expressions as a tree: the part of Python's syntax whose matches one pass over a text finds.

Left out is what needs more than one pass or a stack: back references, look-around, and atomic or possessive parts. Each
is refused by name. So no expression of a user's can take time that grows faster than the text.
"""

from __future__ import annotations

import re
import warnings
from functools import cached_property
from typing import NoReturn

from ...dataclass import dataclass
from ...errors import InputError, shown

__all__ = ["Alternatives", "Assertion", "Chars", "Node", "Repeat", "Series", "parse", "width"]

#: Largest number in {m,n}, as each repetition is written out.
MOST_REPEATS = 1000
_CATEGORIES = "dswDSW"
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a", "0": "\0"}
_HEX = {"x": 2, "u": 4, "U": 8}
_ASSERTIONS = {"b": "b", "B": "B", "A": "A", "Z": "Z"}
_REFUSED = {
    "?=": "look-ahead", "?!": "look-ahead", "?<=": "look-behind", "?<!": "look-behind", "?>": "an atomic group",
    "?P=": "a back reference", "?(": "a condition", "?#": "a comment",
}  # fmt: skip


@dataclass(frozen=True)
class Chars:
    """One character: of these ranges or categories (as in a regex: d, s, w, D, S, W), or of none of them."""

    ranges: tuple[tuple[str, str], ...] = ()
    categories: str = ""
    negated: bool = False
    ignore_case: bool = False

    @cached_property
    def _memo(self) -> dict[str, bool]:
        return {}

    def matches(self, c: str) -> bool:
        """Whether the character is one of them."""
        known = self._memo.get(c)
        if known is None:
            known = self._memo[c] = self.negated != any(map(self._holds, _cases(c) if self.ignore_case else (c,)))
        return known

    def _holds(self, c: str) -> bool:
        return any(a <= c <= b for a, b in self.ranges) or any(_is_of(c, category) for category in self.categories)


@dataclass(frozen=True)
class Assertion:
    """No character, but a condition on those around: "b", "B", "A", "Z"; "^" and "$" of lines."""

    kind: str


@dataclass(frozen=True)
class Series:
    """One after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Alternatives:
    """One of them."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """From `least` to `most` times; None: without an end."""

    part: Node
    least: int
    most: int | None


Node = Chars | Assertion | Series | Alternatives | Repeat


def parse(pattern: str, *, ignore_case: bool = False) -> Node:
    """The expression as a tree. Errors: `InputError` with what is wrong and where; the caller adds whose it is."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of sets that a later Python may read otherwise
            re.compile(pattern)
    except (re.error, OverflowError, ValueError) as e:
        raise InputError(str(e)) from None
    return _Parser(pattern, ignore_case=ignore_case).parse()


def width(node: Node) -> tuple[int, int | None]:
    """Fewest and most characters of a match; None: no limit."""
    if isinstance(node, Chars):
        return 1, 1
    if isinstance(node, Assertion):
        return 0, 0
    if isinstance(node, Repeat):
        least, most = width(node.part)
        if most == 0 or node.most == 0:
            return 0, 0
        return least * node.least, None if most is None or node.most is None else most * node.most
    every = [width(part) for part in node.parts]
    join, top = (sum, sum) if isinstance(node, Series) else (min, max)
    ends = [most for _, most in every if most is not None]
    return join(least for least, _ in every) if every else 0, top(ends or [0]) if len(ends) == len(every) else None


class _Parser:
    """By recursive descent; Python's own compiler has accepted the pattern before."""

    def __init__(self, pattern: str, *, ignore_case: bool) -> None:
        self._text, self._at = pattern, 0
        self._ignore_case, self._lines, self._dot_all = ignore_case, False, False

    def parse(self) -> Node:
        """All of it."""
        if flags := re.match(r"\(\?([a-z]+)\)", self._text):
            self._set(flags[1])
            self._at = flags.end()
        return self._alternatives()

    def _set(self, flags: str) -> None:
        unknown = set(flags) - set("imsu")
        if unknown:
            self._refuse(f"the flag {shown(min(unknown))}; known are i, m, s and u")
        self._ignore_case |= "i" in flags
        self._lines |= "m" in flags
        self._dot_all |= "s" in flags

    def _refuse(self, what: str) -> NoReturn:
        msg = f"position {self._at}: a filter cannot look for {what}"
        raise InputError(msg)

    def _peek(self, n: int = 1) -> str:
        return self._text[self._at : self._at + n]

    def _take(self, n: int = 1) -> str:
        self._at += n
        return self._text[self._at - n : self._at]

    def _alternatives(self) -> Node:
        parts = [self._series()]
        while self._peek() == "|":
            self._take()
            parts.append(self._series())
        return parts[0] if len(parts) == 1 else Alternatives(tuple(parts))

    def _series(self) -> Node:
        parts: list[Node] = []
        while self._peek() not in {"", "|", ")"}:
            parts.append(self._repeated(self._atom()))
        return parts[0] if len(parts) == 1 else Series(tuple(parts))

    def _repeated(self, part: Node) -> Node:
        counts = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        braces = re.compile(r"\{(\d*)(?:(,)(\d*))?\}").match(self._text, self._at)
        least: int
        most: int | None
        if self._peek() in counts and self._peek():
            least, most = counts[self._take()]
        elif braces and braces[0] not in {"{}", "{,}"}:
            self._take(len(braces[0]))
            least = int(braces[1] or 0)
            most = least if not braces[2] else int(braces[3]) if braces[3] else None
        elif braces and braces[0] == "{,}":
            self._take(3)
            least, most = 0, None
        else:
            return part
        if max(least, most or 0) > MOST_REPEATS:
            self._refuse(f"more than {MOST_REPEATS} repetitions")
        if self._peek() == "+":
            self._refuse("possessive parts (x*+)")
        if self._peek() == "?":  # fewest first: which match is preferred, not which there are
            self._take()
        return Repeat(part, least, most)

    def _atom(self) -> Node:
        c = self._take()
        if c == "(":
            return self._group()
        if c == "[":
            return self._set_of_chars()
        if c == "\\":
            return self._escaped()
        if c == ".":
            return Chars(() if self._dot_all else (("\n", "\n"),), negated=True)
        if c in "^$":
            return Assertion(c if self._lines else {"^": "A", "$": "Z"}[c])
        return self._literal(c)

    def _literal(self, c: str) -> Chars:
        every = _cases(c) if self._ignore_case else (c,)
        return Chars(tuple((one, one) for one in every), ignore_case=self._ignore_case)

    def _group(self) -> Node:
        for start in sorted(_REFUSED, key=len, reverse=True):
            if self._peek(len(start)) == start:
                self._refuse(_REFUSED[start])
        before = self._ignore_case, self._lines, self._dot_all
        if named := re.compile(r"\?P<\w+>|\?:").match(self._text, self._at):
            self._take(len(named[0]))
        elif flags := re.compile(r"\?([a-z]*)(?:-([a-z]+))?:").match(self._text, self._at):
            if flags[2]:
                self._refuse("flags that are taken back")
            self._set(flags[1])
            self._take(len(flags[0]))
        elif self._peek() == "?":
            self._refuse(f"a group that begins with {shown('(' + self._peek(2))}")
        inner = self._alternatives()
        self._take()  # the parenthesis
        self._ignore_case, self._lines, self._dot_all = before
        return inner

    def _escaped(self) -> Node:
        c = self._take()
        if c in _ASSERTIONS:
            return Assertion(c)
        if c in _CATEGORIES:
            return Chars(categories=c)
        if c.isdigit() and c != "0":
            self._refuse("a back reference, or an octal number")
        return self._literal(self._character(c))

    def _character(self, c: str) -> str:
        """The character that an escape stands for; `c` is what follows the backslash."""
        if c in _HEX:
            return chr(int(self._take(_HEX[c]), 16))
        if c == "N":
            self._refuse("characters by their names (\\N)")
        if c == "0" and self._peek().isdigit():
            self._refuse("an octal number; write \\x..")
        return _CONTROLS.get(c, c)

    def _set_of_chars(self) -> Chars:
        negated = self._peek() == "^"
        self._take(int(negated))
        ranges: list[tuple[str, str]] = []
        categories, first = "", True
        while first or self._peek() != "]":
            first = False
            low = self._member()
            if len(low) == 2:  # noqa: PLR2004 - a category, with its backslash
                categories += low[1]
                continue
            if self._peek() == "-" and self._peek(2) != "-]":
                self._take()
                ranges.append((low, self._member()))
            else:
                ranges.append((low, low))
        self._take()
        if self._ignore_case:
            ranges += [(one, one) for low, high in ranges if low == high for one in _cases(low)]
        return Chars(tuple(ranges), categories, negated, self._ignore_case)

    def _member(self) -> str:
        c = self._take()
        if c != "\\":
            return c
        c = self._take()
        if c in _CATEGORIES:
            return f"\\{c}"
        if c.isdigit() and c != "0":
            self._refuse("an octal number; write \\x..")
        return "\b" if c == "b" else self._character(c)


def _is_of(c: str, category: str) -> bool:
    kind = category.lower()
    inside = c.isdecimal() if kind == "d" else c.isspace() if kind == "s" else c.isalnum() or c == "_"
    return inside != category.isupper()


def _cases(c: str) -> tuple[str, ...]:
    """The character in lower and upper case, where that is one character."""
    every = {c, c.lower(), c.upper(), c.upper().lower(), c.lower().upper()}
    return tuple(sorted(one for one in every if len(one) == 1))
