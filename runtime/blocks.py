"""Where a block of code ends: at a bracket that the answer did not open, or at a line that is indented less."""

from __future__ import annotations

from ..dataclass import dataclass
from ..errors import InputError, shown

__all__ = ["Block", "BlockEnd", "block_from"]

_OPENING, _CLOSING, _QUOTES = "([{", ")]}", "\"'`"
_TAB = 8


@dataclass(frozen=True)
class Block:
    """`stop_at="block"`. `line`: what stands before the answer in its first line, if not the end of the prompt."""

    line: str | None = None


def block_from(value: object) -> Block | None:
    """`stop_at` as a caller gave it. Errors: `InputError`."""
    if value is None or isinstance(value, Block):
        return value
    if not isinstance(value, str) or value != "block":
        msg = f'stop_at={shown(value)}: expected "block"'
        raise InputError(msg)
    return Block()


class BlockEnd:
    """Cuts a stream of text where the block ends in which it begins; nothing is given that lies after the end.

    The end is before the first of: a bracket that closes what the text did not open (outside quotes, which end with
    their line); a line, outside brackets that the text opened, that is indented less than the line in which the text
    begins, or, where that ends with a colon, no more than it. Blank lines, and the line break before the end, are
    left out. The result does not depend on how the text is cut into pieces.
    """

    def __init__(self, line: str) -> None:
        """`line`: what stands before the text in its first line."""
        self._line, self._held, self._indent = line, "", _width(line)
        self._leading = not line.strip()
        self._base = None if self._leading else self._indent
        self._opens, self._first = False, True
        self._depth, self._quote, self._escaped = 0, "", False
        self.stopped = False

    def push(self, text: str) -> str:
        """Text that is safe to show; once `stopped`, nothing more comes."""
        out = []
        for c in text:
            if self.stopped:
                break
            if c == "\n":
                self._next_line()
                self._held += c
            elif self._leading and c in " \t\r":
                self._held += c
                self._indent += _TAB - self._indent % _TAB if c == "\t" else c == " "
            elif self._ends(c):
                self.stopped, self._held = True, ""
            else:
                out += [self._held, c]
                self._held, self._line = "", self._line + c
        return "".join(out)

    def flush(self) -> str:
        """Return what was held back, at the end of the text."""
        text, self._held = "" if self.stopped else self._held, ""
        return text

    def _next_line(self) -> None:
        if self._first and self._line.strip():
            self._opens, self._first = self._line.rstrip().endswith(":"), False
        self._line, self._indent, self._leading = "", 0, True
        self._quote, self._escaped = "", False

    def _ends(self, c: str) -> bool:
        """Whether the block ends before this character, which is not blank where a line begins."""
        if self._leading:
            self._leading = False
            if self._base is None:
                self._base = self._indent
            if not self._depth and self._indent < self._base + self._opens:
                return True
        if self._quote:
            closes = c == self._quote and not self._escaped
            self._escaped = c == "\\" and not self._escaped
            self._quote = "" if closes else self._quote
        elif c in _QUOTES:
            self._quote, self._escaped = c, False
        elif c in _OPENING:
            self._depth += 1
        elif c in _CLOSING:
            self._depth -= 1
        return self._depth < 0


def _width(line: str) -> int:
    """Columns before a line's first character that is not blank."""
    wide = line.expandtabs(_TAB)
    return len(wide) - len(wide.lstrip(" "))
