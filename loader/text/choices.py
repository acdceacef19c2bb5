"""`choices`: an answer is one of many texts, a million perhaps, such as the names that a knowledge base has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...errors import BackendError, InputError, is_iterable, shown
from ...once import once
from .token_bytes import TokenBytes, token_bytes
from .trie import Trie, spell, trie_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from .tokenizer import Tokenizer

__all__ = ["Choices"]


class Choices:
    """Texts of which an answer is one; prepared once, for any number of answers of models with this tokenizer.

    Each is spelled in the one way that the tokenizer itself spells it. `len` tells how many there are: the same text
    twice counts once. Errors: `InputError`, which names the text by its number, for one that is empty or that the
    tokenizer cannot spell.
    """

    name = "choices"

    def __init__(self, texts: Iterable[str], tokenizer: Tokenizer) -> None:
        """Encode and sort them: a million names take seconds."""
        self._texts, self.tokenizer = _checked(texts), tokenizer
        self._trie = trie_of(spell(self._texts, tokenizer, self._bytes, first=False))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._texts)

    @property
    def nbytes(self) -> int:
        """Bytes of the trie."""
        return sum(part.nbytes for part in self._trie)

    def __repr__(self) -> str:
        """How many, and how large."""
        return f"<miaotui.Choices of {len(self)} texts, {self.nbytes} bytes>"

    def begin(self, before: Sequence[int], n_vocab: int) -> _Walk:
        """An answer's way, after these ids."""
        begun = self._bytes.begun([i for i in before if i < self.tokenizer.n_vocab])
        return _Walk(self._trie if begun else self._trie_at_first, self, n_vocab)

    def holds(self, text: str) -> bool:
        """Whether it is one of the texts."""
        return text in self._set

    @once
    def _set(self) -> frozenset[str]:
        return frozenset(self._texts)

    @once
    def _bytes(self) -> TokenBytes:
        return token_bytes(self.tokenizer, self.tokenizer.n_vocab)

    @once
    def _trie_at_first(self) -> Trie:
        """As `_trie`, where a text begins with its answer and the tokenizer then drops a space."""
        return trie_of(spell(self._texts, self.tokenizer, self._bytes, first=True))


def _checked(texts: object) -> list[str]:
    if isinstance(texts, str | bytes) or not is_iterable(texts):
        msg = f"choices={shown(texts)}: expected a list of texts, or a Choices"
        raise InputError(msg)
    checked = list(texts)
    if not checked:
        msg = "choices: no texts; give one at least"
        raise InputError(msg)
    for i, text in enumerate(checked):
        if not isinstance(text, str) or not text:
            msg = f"choices[{i}]={shown(text)}: expected a text of at least one character"
            raise InputError(msg)
    try:
        "\n".join(checked).encode()
    except UnicodeEncodeError:
        bad = next(i for i, text in enumerate(checked) if any("\ud800" <= c <= "\udfff" for c in text))
        msg = f"choices[{bad}]={shown(checked[bad])}: a lone surrogate is no character; repair it where it was decoded"
        raise InputError(msg) from None
    return list(dict.fromkeys(checked))


class _Walk:
    """A node of the trie, and the mask of its children."""

    def __init__(self, trie: Trie, choices: Choices, n_vocab: int) -> None:
        self._trie, self._choices, self._node = trie, choices, 0
        self._mask = np.zeros((n_vocab + 31) // 32, np.uint32)

    def fill(self) -> tuple[NDArray[np.uint32], bool]:
        """As `Walk.fill`."""
        self._mask[:] = 0
        return self._mask, self._filled(self._mask, self._node)

    def _filled(self, mask: NDArray[np.uint32], node: int) -> bool:
        """Add a node's children to an empty mask; whether a text ends there."""
        ids = self._trie.children(node)
        np.bitwise_or.at(mask, ids >> 5, np.uint32(1) << (ids & 31).astype(np.uint32))
        return bool(self._trie.ends[node])

    def ahead(self, drafted: Sequence[int]) -> list[tuple[NDArray[np.uint32], bool]]:
        """As `Walk.ahead`."""
        made: list[tuple[NDArray[np.uint32], bool]] = []
        node = self._node
        for token in drafted:
            if token not in self._trie.children(node):
                break
            node = self._trie.child(node, token)
            mask = np.zeros_like(self._mask)
            made.append((mask, self._filled(mask, node)))
        return made

    def advance(self, token: int) -> None:
        """As `Walk.advance`."""
        self._node = self._trie.child(self._node, token)

    def check(self, text: str) -> None:
        """As `Walk.check`."""
        if not self._choices.holds(text):
            msg = f"choices: the answer {shown(text)} is none of them; that is a fault of miaotui's, please report it"
            raise BackendError(msg)
