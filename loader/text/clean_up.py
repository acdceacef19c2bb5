"""`clean_up_tokenization_spaces`: the spaces that transformers takes out of a decoded text; whole, or as a stream.

transformers replaces ten strings, one after the other. Each replacement takes out spaces and nothing else, so what is
left of a text is a set of its positions; a stream shows those whose fate no later character can change.
"""

from __future__ import annotations

import re

__all__ = ["CleanUp", "clean_up"]

#: transformers 5, `PreTrainedTokenizerBase.clean_up_tokenization`: what is replaced, in its order.
REPLACED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")
#: The end of a text whose spaces later characters may take out: what a replaced string begins with, also where an
#: earlier replacement makes it first: "  ' s" becomes " 's".
_OPEN = re.compile(r" (?:n(?: ?(?:' ?)?)?| ?(?:' ?[vr]?)?)?\Z")
#: Two characters neither of which is a space or a quote: nothing that is taken out depends on both sides.
_APART = re.compile(r"[^ '](?=[^ '])")
_LONGEST = 8  # characters that a replacement looks at, and more
_WINDOW = 128  # characters of context after which it is cut


def clean_up(text: str) -> str:
    """A whole text without the spaces."""
    for old in REPLACED:
        text = text.replace(old, old.replace(" ", ""))
    return text


def _kept(text: str) -> list[int]:
    """Positions of the characters that `clean_up` leaves."""
    kept = list(range(len(text)))
    for old in REPLACED:
        spaces = [k for k, c in enumerate(old) if c == " "]
        gone = {m.start() + k for m in re.finditer(re.escape(old), text) for k in spaces}
        if gone:
            kept = [p for i, p in enumerate(kept) if i not in gone]
            text = text.replace(old, old.replace(" ", ""))
    return kept


class CleanUp:
    """A text that grows, cleaned up: the pieces are what `clean_up` leaves of all of it, after the context."""

    def __init__(self, context: str) -> None:
        """`context`: the text before, which is not shown, but which decides with what comes."""
        self._text, self._shown = context, len(context)
        self._cut()

    def push(self, piece: str) -> str:
        """Add a piece; return what is certain now."""
        self._text += piece
        at = _OPEN.search(self._text)
        settled = max(self._shown, len(self._text) if at is None else at.start())
        out = "".join(self._text[p] for p in _kept(self._text) if self._shown <= p < settled)
        self._shown = settled
        self._cut()
        return out

    def pending(self, piece: str = "") -> str:
        """What would be left to show if the text ended with this piece."""
        text = self._text + piece
        return "".join(text[p] for p in _kept(text) if p >= self._shown)

    def _cut(self) -> None:
        """Forget the text before the last place that nothing is taken out across."""
        if len(self._text) > _WINDOW:
            places = [m.end() for m in _APART.finditer(self._text, 0, max(0, self._shown - _LONGEST))]
            cut = places[-1] if places else 0
            self._text, self._shown = self._text[cut:], self._shown - cut
