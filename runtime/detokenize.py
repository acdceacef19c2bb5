"""From ids to text, piece by piece: incremental detokenising and stop strings.

Ids go in one at a time, pieces of text come out; their concatenation is what decoding all ids at once would have
given after the prompt's text. Independent of any tokenizer: a `Spelling` is all that is asked of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..dataclass import dataclass
from ..errors import InputError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Decode = Callable[[Sequence[int]], str]

__all__ = ["Detokeniser", "Spelling", "StopStrings", "TextFilter", "TextStream", "check_stop"]

_BROKEN = "\ufffd"  # what a decoder writes for bytes that are not UTF-8 (yet)
_UNFINISHED = 3  # bytes, so at most this many tokens, that a started UTF-8 character may still be short of its last
_WINDOW = 12  # tokens of context after which the window is cut down again
_LONGEST = 64  # tokens of context at most
_CONTEXT = 4  # tokens of context that a cut leaves, more where it would split a character


class TextFilter(Protocol):
    """What a decoded text still goes through, as a stream."""

    def push(self, piece: str) -> str:
        """Add a piece; return what is certain now."""

    def pending(self, piece: str = "") -> str:
        """What would be left to show if the text ended with this piece."""


@dataclass(frozen=True)
class Spelling:
    """How ids become a text.

    `decode` leaves special tokens out, `full` has them (None: there are none). `unsettled`: ids whose text the ids
    after them may change, until one comes that is none of them. `filtered`: from the text before to a filter of what
    follows.
    """

    decode: Decode
    full: Decode | None = None
    unsettled: frozenset[int] = frozenset()
    filtered: Callable[[str], TextFilter] | None = None


class Detokeniser:
    """Text of a growing sequence of ids; constant work per id.

    A decoder's output for a token depends on its neighbours: SentencePiece's drops the first space of a sequence, a
    character's bytes may be spread over tokens. So a window of the latest ids is decoded, the prompt's last among
    them, and what was already given is taken off (the trick of text-generation-inference and vLLM). Up to three
    trailing U+FFFD are held back: they may be a character's first bytes. `flush` gives them at the end.

    A byte-fallback decoder replaces a whole run of byte tokens once any of it is not UTF-8, so the text of such a run
    (ids in `unsettled`) is held back until it ends.
    """

    def __init__(self, decode: Decode, prompt_ids: Sequence[int] = (), unsettled: frozenset[int] = frozenset()) -> None:
        """Decode the prompt once, and keep its last ids as context."""
        self._decode, self._unsettled = decode, unsettled
        self._ids = list(prompt_ids)
        self._run = self._open_run()  # ids at the window's end that hold unsettled ones, and no other that has a text
        self.before = self._text = decode(self._ids)  # of the window
        self._given = self._text  # the start of it that is not to be given (again)
        self._certain = decode(self._ids[: -self._run]) if self._run else _finished(self._given)
        self._solid = len(self._ids)  # ids in the window when its text last continued what was given
        self._cut()

    def _open_run(self) -> int:
        n = 0
        for i, token in enumerate(reversed(self._ids)):
            if token in self._unsettled:
                n = i + 1
            elif not self._unsettled or self._decode([token, token]):
                break
        return n

    def push(self, token: int) -> str:
        """Text that `token` completes, perhaps empty; never half a character."""
        if token in self._unsettled:
            self._ids.append(token)
            self._run += 1
            return ""
        if self._run and not self._decode([token, token]):
            return ""  # a special token that is skipped: it adds nothing, wherever it stands, and ends no run
        self._ids.append(token)
        text = self._decode(self._ids)
        if not self._run and text == self._text and not self._decode([token, token]):
            self._ids.pop()
            return ""
        self._text, self._run = text, 0
        held = len(text) - len(text.rstrip(_BROKEN))
        safe = text[: len(text) - min(held, _UNFINISHED)]
        if not self._continues(text):
            if held and len(self._ids) - self._solid <= _UNFINISHED:
                return ""  # a started character hides the run of bytes before it; its last byte brings that back
            self._restart()
            return self.push(self._ids.pop()) if self._ids else ""
        piece = safe[len(self._given) :]
        self._given += piece
        if piece:
            self._certain = self._given
        if not held:
            self._solid = len(self._ids)
        if len(self._ids) > _WINDOW:
            self._cut()
        return piece

    def pending(self) -> str:
        """What is held back and is whole characters: what `flush` would return, less the bytes of a started one."""
        text = (self._decode(self._ids) if self._run else self._text).rstrip(_BROKEN)
        start = self._start(text)
        return "" if start is None else text[len(start) :]

    def flush(self) -> str:
        """Return what was held back, at the end of the sequence; a U+FFFD is now a real one."""
        if self._run:
            self._text = self._decode(self._ids)
        if not self._continues(self._text):
            self._restart()
            self._text = self._decode(self._ids)
        piece = self._text[len(self._given) :]
        self._given += piece
        return piece

    def _continues(self, text: str) -> bool:
        """Whether `text` begins with what was given, less what the prompt began and this text completes."""
        start = self._start(text)
        self._given = self._given if start is None else start
        return start is not None

    def _start(self, text: str) -> str | None:
        """What was given that `text` begins with, less as little as can be; None: it does not."""
        broken = min(len(self._given) - len(self._given.rstrip(_BROKEN)), _UNFINISHED)
        starts = (*(self._given[: len(self._given) - n] for n in range(broken + 1)), self._certain)
        return next((start for start in starts if text.startswith(start)), None)

    def _restart(self) -> None:
        """Forget the context: ids after it have changed its text, so it cannot be taken off."""
        del self._ids[: self._solid]
        self._text, self._given, self._certain, self._solid = "", "", "", 0

    def _cut(self) -> None:
        """Shorten the window to a few ids whose own text is a suffix of the window's, so that no character is split."""
        size = len(self._ids)
        keeps = (*range(_CONTEXT, _WINDOW), *(_WINDOW << n for n in range(size.bit_length())))
        pending = len(self._text) - len(self._given)
        open_ = max(pending, len(self._text) - len(self._certain))  # characters that may have more bytes to come
        for keep in (k for k in keeps if self._run < k < size):
            text = self._decode(self._ids[-keep:])
            if len(text) > open_ and self._text.endswith(text):
                break
        else:
            if size <= _LONGEST:
                return
            keep = max(_CONTEXT, self._run + 1)  # not UTF-8, and long: no cut is clean
            text = self._decode(self._ids[-keep:])
        self._ids, gone = self._ids[-keep:], max(0, len(self._text) - len(text))
        self._text, self._given = text, text[: max(0, len(text) - pending)]
        self._certain = self._given[: max(0, len(self._certain) - gone)]
        self._solid = max(0, self._solid - (size - keep))


class TextStream:
    """A detokeniser, and what its text still goes through. `full`: special tokens are a part of the text."""

    def __init__(self, spelling: Spelling, prompt_ids: Sequence[int], *, full: bool = False) -> None:
        """Decode the prompt once."""
        decode = spelling.full if full and spelling.full is not None else spelling.decode
        self._ids = Detokeniser(decode, prompt_ids, spelling.unsettled)
        self._filter = None if spelling.filtered is None else spelling.filtered(self._ids.before)

    def push(self, token: int) -> str:
        """Text that `token` makes certain, perhaps empty."""
        piece = self._ids.push(token)
        return piece if self._filter is None else self._filter.push(piece)

    def pending(self) -> str:
        """What is held back and is whole characters."""
        piece = self._ids.pending()
        return piece if self._filter is None else self._filter.pending(piece)

    def flush(self) -> str:
        """Return what was held back, once, at the end of the sequence."""
        piece = self._ids.flush()
        return piece if self._filter is None else self._filter.push(piece) + self._filter.pending()


class StopStrings:
    """Cuts a stream of text before the first stop string to be completed; the stop string is not given.

    What could be the start of one is held back until it is not. The result does not depend on how the text is cut
    into pieces: of several stop strings the one that ends first counts, and of those the longest.
    """

    def __init__(self, stop: Iterable[str] = ()) -> None:
        """Check the stop strings: `InputError` for an empty one."""
        self._stop = check_stop(stop)
        self._held: list[tuple[str, str]] = []  # a character or none that is searched, and what is given for it
        self._begun = False
        self.stopped = False

    def push(self, text: str, given: str | None = None) -> str:
        """Text that is safe to show; once `stopped`, nothing more comes.

        Stop strings are looked for in `text`; `given` is what of it is shown, where that is not all of it.
        """
        if self.stopped:
            return ""
        given = text if given is None else given
        if given and not self._begun and text.lstrip() == given:
            text = given  # a decoder drops the first space of a text, but not after a special token
        self._begun = self._begun or bool(text)
        self._held += _paired(text, given)
        text = "".join(searched for searched, _ in self._held)
        end = self._match(text)
        self.stopped = end is not None
        if end is None:
            end = len(text) - max((_overlap(text, s) for s in self._stop), default=0)
        safe, at = 0, 0
        while safe < len(self._held) and (at := at + len(self._held[safe][0])) <= end:
            safe += 1
        out = "".join(given for _, given in self._held[:safe])
        self._held = [] if self.stopped else self._held[safe:]
        return out

    def completed_by(self, text: str) -> bool:
        """Whether a stop string is completed, should this text come next."""
        return bool(text) and self._match("".join(searched for searched, _ in self._held) + text) is not None

    def flush(self) -> str:
        """Return what was held back, at the end of the text."""
        text, self._held = "".join(given for _, given in self._held), []
        return text

    def _match(self, text: str) -> int | None:
        """Where the stop string begins that ends first, and of those that end there the longest."""
        matches = [(text.find(s) + len(s), text.find(s)) for s in self._stop if s in text]
        return min(matches)[1] if matches else None


def _paired(text: str, given: str) -> list[tuple[str, str]]:
    """The characters of `text`, each with what is given for it: of ends that are alike the characters themselves."""
    if text.endswith(given):
        rest = len(text) - len(given)
        return [(c, "" if i < rest else c) for i, c in enumerate(text)]
    if given.endswith(text):
        return [("", given[: len(given) - len(text)]), *((c, c) for c in text)]
    return [(text[0], given), *((c, "") for c in text[1:])]


def check_stop(stop: str | Iterable[str] | None) -> tuple[str, ...]:
    """Stop strings as a tuple; `InputError` for one that is empty or no string."""
    if stop is None:
        return ()
    try:
        given = iter((stop,) if isinstance(stop, str) else stop)
    except TypeError:
        msg = f"stop_strings={shown(stop)}: expected a string or a list of strings"
        raise InputError(msg) from None
    strings = []
    for n, s in enumerate(given):  # one by one: a range has more items than memory
        if not isinstance(s, str) or not s:
            msg = f"stop_strings[{n}]={shown(s)}: expected a string of at least one character"
            raise InputError(msg)
        strings.append(s)
    return tuple(strings)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def _finished(text: str) -> str:
    """The text less the U+FFFD at its end that may be the first bytes of a character."""
    return text[: max(len(text.rstrip(_BROKEN)), len(text) - _UNFINISHED)]
