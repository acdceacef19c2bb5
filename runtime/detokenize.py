"""From ids to text, piece by piece: incremental detokenising and stop strings.

Ids go in one at a time, pieces of text come out; their concatenation is what decoding all ids at once would have
given after the prompt's text. Independent of any tokenizer: `decode(ids) -> str` is all that is asked of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InputError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["Detokeniser", "StopStrings", "check_stop"]

_BROKEN = "\ufffd"  # what a decoder writes for bytes that are not UTF-8 (yet)
_UNFINISHED = 3  # bytes, so at most this many tokens, that a started UTF-8 character may still be short of its last
_WINDOW = 12  # tokens of context after which the window is cut down again
_LONGEST = 64  # tokens of context at most
_CONTEXT = 4  # tokens of context that a cut leaves, more where it would split a character


class Detokeniser:
    """Text of a growing sequence of ids; constant work per id.

    A decoder's output for a token depends on its neighbours: SentencePiece's drops the first space of a sequence, a
    character's bytes may be spread over tokens. So a window of the latest ids is decoded, the prompt's last among
    them, and what was already given is taken off (the trick of text-generation-inference and vLLM). Up to three
    trailing U+FFFD are held back: they may be a character's first bytes. `flush` gives them at the end.

    One limit: a byte-fallback decoder replaces a whole run of byte tokens once any of it is not UTF-8. Characters of
    that run which were given before cannot be taken back; they stay as they were.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt_ids: Sequence[int] = ()) -> None:
        """Decode the prompt once, and keep its last ids as context."""
        self._decode = decode
        self._ids = list(prompt_ids)
        self._text = decode(self._ids)  # of the window
        self._given = self._text  # the start of it that is not to be given (again)
        self._solid = len(self._ids)  # ids in the window when its text last continued what was given
        self._cut()

    def push(self, token: int) -> str:
        """Text that `token` completes, perhaps empty; never half a character."""
        self._ids.append(token)
        text = self._decode(self._ids)
        if text == self._text and not self._decode([token, token]):
            self._ids.pop()  # a special token that is skipped: it adds nothing, wherever it stands
            return ""
        self._text = text
        held = len(text) - len(text.rstrip(_BROKEN))
        safe = text[: len(text) - min(held, _UNFINISHED)]
        if not self._continues(text):
            if held and len(self._ids) - self._solid <= _UNFINISHED:
                return ""  # a started character hides the run of bytes before it; its last byte brings that back
            self._restart()
            return self.push(self._ids.pop()) if self._ids else ""
        piece = safe[len(self._given) :]
        self._given += piece
        if not held:
            self._solid = len(self._ids)
        if len(self._ids) > _WINDOW:
            self._cut()
        return piece

    def flush(self) -> str:
        """Return what was held back, at the end of the sequence; a U+FFFD is now a real one."""
        if not self._continues(self._text):
            self._restart()
            self._text = self._decode(self._ids)
        piece = self._text[len(self._given) :]
        self._given += piece
        return piece

    def _continues(self, text: str) -> bool:
        """Whether `text` begins with what was given, less a character that the prompt began and this text completes."""
        if text.startswith(self._given):
            return True
        finished = self._given.rstrip(_BROKEN)
        if len(self._given) - len(finished) in range(1, _UNFINISHED + 1) and text.startswith(finished):
            self._given = finished
            return True
        return False

    def _restart(self) -> None:
        """Forget the context: ids after it have changed its text, so it cannot be taken off."""
        del self._ids[: self._solid]
        self._text, self._given, self._solid = "", "", 0

    def _cut(self) -> None:
        """Shorten the window to a few ids whose own text is a suffix of the window's, so that no character is split."""
        size = len(self._ids)
        keeps = [k for k in (*range(_CONTEXT, _WINDOW), *(_WINDOW << n for n in range(size.bit_length()))) if k < size]
        pending = len(self._text) - len(self._given)
        for keep in keeps:
            text = self._decode(self._ids[-keep:])
            if len(text) > pending and self._text.endswith(text):
                break
        else:
            if size <= _LONGEST:
                return
            keep = _CONTEXT  # not UTF-8, and long: no cut is clean
            text = self._decode(self._ids[-keep:])
        self._ids = self._ids[-keep:]
        self._text, self._given = text, text[: max(0, len(text) - pending)]
        self._solid = max(0, self._solid - (size - keep))


class StopStrings:
    """Cuts a stream of text before the first stop string to be completed; the stop string is not given.

    What could be the start of one is held back until it is not. The result does not depend on how the text is cut
    into pieces: of several stop strings the one that ends first counts, and of those the longest.
    """

    def __init__(self, stop: Iterable[str] = ()) -> None:
        """Check the stop strings: `InputError` for an empty one."""
        self._stop = check_stop(stop)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Text that is safe to show; once `stopped`, nothing more comes."""
        if self.stopped:
            return ""
        text = self._held + text
        matches = [(text.find(s) + len(s), text.find(s)) for s in self._stop if s in text]
        if matches:
            self.stopped, self._held = True, ""
            return text[: min(matches)[1]]
        keep = max((_overlap(text, s) for s in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return what was held back, at the end of the text."""
        text, self._held = self._held, ""
        return text


def check_stop(stop: str | Iterable[str] | None) -> tuple[str, ...]:
    """Stop strings as a tuple; `InputError` for one that is empty or no string."""
    if stop is None:
        return ()
    try:
        strings = (stop,) if isinstance(stop, str) else tuple(stop)
    except TypeError:
        msg = f"stop_strings={shown(stop)}: expected a string or a list of strings"
        raise InputError(msg) from None
    for n, s in enumerate(strings):
        if not isinstance(s, str) or not s:
            msg = f"stop_strings[{n}]={shown(s)}: expected a string of at least one character"
            raise InputError(msg)
    return strings


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
