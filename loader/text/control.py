"""Control tokens in a text from outside are read as text: `<|im_end|>` in a message ends nothing.

A tokenizer takes every spelling of an added token for that token. So a mark is put after the first character of each
such spelling, the chat template is rendered with the marked text, and what stands between marks is encoded piece by
piece: the template's own tokens stay whole, those of the text do not. Source of which tokens these are: transformers
5.24, `PreTrainedTokenizerBase._get_control_tokens`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ...errors import InputError, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from .tokenizer import Tokenizer

__all__ = ["ControlTokens"]

#: A noncharacter, which no text should have; it is dropped from those that do.
_MARK = "\ufdd0"
#: Before a piece, so that no space is put before it, as some tokenizers do at a text's beginning.
_LINE = "\n"


class ControlTokens:
    """Those of a tokenizer and a chat template: special tokens, and the added tokens that the template writes."""

    def __init__(self, tokenizer: Tokenizer, template: str = "") -> None:
        """`template`: its text."""
        self._encode = tokenizer.encode
        special = set(tokenizer.special_ids)
        named = ((i, tokenizer.id_to_token(i) or "") for i in tokenizer.added_ids)
        self.tokens = tuple(
            sorted(token for i, token in named if token.strip() and (i in special or token in template))
        )
        some = "|".join(map(re.escape, self.tokens)) or "(?!)"
        self._begin = re.compile(f"(?=(?:{some}))(.)", re.DOTALL)
        self._line = tokenizer.encode(_LINE, add_special_tokens=False)
        one, whole = tokenizer.encode(_LINE, add_special_tokens=False), tokenizer.encode(_LINE)
        n = tokenizer.opening(_LINE) - len(one)
        self._before, self._after = whole[:n], whole[n + len(one) :]

    def marked(self, text: str) -> str:
        """A text from outside, to be rendered by a template. Errors: `InputError` for a token of one character."""
        short = next((token for token in self.tokens if len(token) == 1 and token in text), None)
        if short is not None:
            msg = f"the text has {shown(short)}, which this tokenizer cannot read as text; leave it out"
            raise InputError(msg)
        return self._begin.sub(rf"\1{_MARK}", text.replace(_MARK, ""))

    def encode(self, rendered: str, begin: Callable[[str], list[int]] | None = None) -> list[int]:
        """Ids of what a template made of marked texts. `begin`: encodes what comes before the first mark."""
        first, *more = rendered.split(_MARK)
        ids = self._encode(first, add_special_tokens=False) if begin is None else begin(first)
        for piece in filter(None, more):
            ids += self._encoded(piece)
        return ids

    def framed(self, marked: str) -> list[int]:
        """Ids of a marked text that no template renders, with what the tokenizer puts around a text."""
        return [*self._before, *self.encode(marked), *self._after]

    def _encoded(self, piece: str) -> list[int]:
        """Of a piece that something stands before."""
        ids, n = self._encode(_LINE + piece, add_special_tokens=False), len(self._line)
        return ids[n:] if ids[:n] == self._line else self._encode(piece, add_special_tokens=False)
