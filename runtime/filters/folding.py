"""A text as a rule sees it: normalised and folded, while it grows, with the place of every character in the original.

Normalisation joins characters ("e" and U+0301 are "é"), so it goes by segments: a segment begins with a character that
nothing before it can change. The result is that of normalising the whole text, however the text is cut into pieces.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Literal

__all__ = ["FORMS", "Folded", "Form", "fold"]

Form = Literal["NFC", "NFKC"]
FORMS: tuple[Form, ...] = ("NFC", "NFKC")
#: Most characters of a segment: a text of nothing but accents is one otherwise.
LONGEST = 64
#: Characters without a shape, besides those of category Cf (Default_Ignorable_Code_Point, Unicode 16, section 5.21).
_UNSEEN = (
    ("\u034f", "\u034f"),  # combining grapheme joiner
    ("\u115f", "\u1160"),  # fillers of Hangul
    ("\u17b4", "\u17b5"),  # inherent vowels of Khmer
    ("\u180b", "\u180f"),  # variation selectors of Mongolian
    ("\u2065", "\u2065"),
    ("\u3164", "\u3164"),
    ("\ufe00", "\ufe0f"),  # variation selectors
    ("\uffa0", "\uffa0"),
    ("\ufff0", "\ufff8"),
    ("\U000e0000", "\U000e0fff"),  # tags, further variation selectors
)


@lru_cache(maxsize=4096)
def _joins(c: str, form: Form) -> bool:
    """Whether a character may join with what is before it: marks, later letters of Hangul; of NFKC, what is not seen.

    An accent after a zero-width joiner belongs to the letter before that.
    """
    if form == "NFKC" and not _is_seen(c):
        return True
    first = unicodedata.normalize("NFKD", c)[0]
    return unicodedata.category(first).startswith("M") or "\u1160" <= first <= "\u11ff"


def _is_seen(c: str) -> bool:
    """Whether a character has a shape: a soft hyphen, a zero-width space or joiner, a variation selector has none."""
    return unicodedata.category(c) != "Cf" and not any(a <= c <= b for a, b in _UNSEEN)


@lru_cache(maxsize=4096)
def _segment(text: str, form: Form | None, ignore_case: bool) -> str:  # noqa: FBT001 - lru_cache takes them by place
    if form == "NFKC":
        text = "".join(filter(_is_seen, text))
    if form is not None:
        text = unicodedata.normalize(form, text)
    if ignore_case:
        text = text.casefold()
        text = text if form is None else unicodedata.normalize(form, text)
    return "".join(filter(_is_seen, text)) if form == "NFKC" else text


def fold(text: str, form: Form | None, *, ignore_case: bool) -> str:
    """A whole text: in the form, without case; in NFKC without characters that are not seen, and with single blanks."""
    folded = Folded(form, ignore_case=ignore_case)
    return folded.push(text) + folded.end()


class Folded:
    """A text that grows, folded; and where in the original a part of it lies."""

    def __init__(self, form: Form | None, *, ignore_case: bool) -> None:
        """Nothing yet."""
        self._form, self._ignore_case = form, ignore_case
        self._segment, self._blank = "", False
        self.done = 0  # characters of the original whose folded ones are known
        self.seen = 0  # to the end of the last of them that has any
        self._dropped = 0  # folded characters whose places are forgotten
        self._places: list[tuple[int, int]] = []

    def push(self, text: str) -> str:
        """Add to the original; return the folded text that is certain now."""
        if self._form is None and not self._ignore_case:
            self.done += len(text)
            self.seen = self.done
            return text
        out = []
        for c in text:
            segment = self._segment
            if segment and (self._form is None or not _joins(c, self._form) or len(segment) == LONGEST):
                out.append(self._close())
            self._segment += c
        if self._form is None:
            out.append(self._close())
        return "".join(out)

    def end(self) -> str:
        """Return what is left at the end of the text."""
        return self._close()

    def _close(self) -> str:
        folded = _segment(self._segment, self._form, self._ignore_case)
        if self._form == "NFKC" and folded.isspace():
            folded = "" if self._blank else " "
        self._blank = folded == " " or (self._blank and not folded)
        seen = len(self._segment)
        while self._form == "NFKC" and seen > 1 and not _is_seen(self._segment[seen - 1]):
            seen -= 1  # a match ends before what is not seen
        place = self.done, self.done + seen
        self._places += [place] * len(folded)
        self.done, self._segment = self.done + len(self._segment), ""
        self.seen = place[1] if folded else self.seen
        return folded

    def start(self, at: int) -> int:
        """Where in the original the folded character `at` begins; the next to come, where what is certain ends."""
        if self._form is None and not self._ignore_case:
            return at
        at -= self._dropped
        return self._places[at][0] if at < len(self._places) else self.done

    def stop(self, at: int) -> int:
        """Where in the original the folded character before `at` ends."""
        return at if self._form is None and not self._ignore_case else self._places[at - self._dropped - 1][1]

    def forget(self, before: int) -> None:
        """Places of folded characters before this one are not asked for again."""
        del self._places[: before - self._dropped]
        self._dropped += max(0, before - self._dropped)
