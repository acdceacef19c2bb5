"""All words of a list in one pass over a text that grows (Aho and Corasick 1975), whole words where they are asked for.

The work for a character does not depend on the number of words.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ...errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["WordThreads", "Words"]

#: Most characters of a list's words together, with no common beginning counted twice: about 200 bytes each.
MOST_NODES = 2_000_000
#: Scripts that are written without blanks between words, first and last characters: a word may stand anywhere in them.
_WITHOUT_BLANKS = (
    ("\u0e00", "\u0eff"),  # Thai, Lao
    ("\u1000", "\u109f"),  # Burmese
    ("\u1780", "\u17ff"),  # Khmer
    ("\u2e80", "\ua4cf"),  # Chinese, Japanese, Yi
    ("\uf900", "\ufaff"),
    ("\uff66", "\uff9f"),
    ("\U0001b000", "\U0001b16f"),
    ("\U00020000", "\U0003ffff"),
)


def _in_word(c: str) -> bool:
    """Whether a character belongs to a word with those next to it."""
    return (c.isalnum() or c == "_") and not any(a <= c <= b for a, b in _WITHOUT_BLANKS)


class Words:
    """The words as a trie; each node knows the longest proper end of its text that is a node too."""

    def __init__(self, words: Iterable[str], *, whole: bool) -> None:
        """`words`: folded, none of them empty. Errors: `InputError`: too many."""
        self.lags = whole
        self.next: list[dict[str, int]] = [{}]
        self.depth = [0]
        ends: set[int] = set()
        for word in words:
            node = 0
            for c in word:
                node = self.next[node].get(c) or self._added(node, c)
            ends.add(node)
        self.longest = max(self.depth)
        self.fail = [0] * len(self.next)
        #: The longest end of a node's text that is a word, itself included; 0: none.
        self.word = [node if node in ends else 0 for node in range(len(self.next))]
        self._link()

    def _added(self, node: int, c: str) -> int:
        if len(self.next) > MOST_NODES:
            msg = f"has more than {MOST_NODES} characters; split the list into several files, and leave some out"
            raise InputError(msg)
        self.next[node][c] = len(self.next)
        self.next.append({})
        self.depth.append(self.depth[node] + 1)
        return len(self.next) - 1

    def _link(self) -> None:
        todo = deque(self.next[0].values())
        while todo:
            node = todo.popleft()
            for c, child in self.next[node].items():
                self.fail[child] = self.follow(self.fail[node], c)
                todo.append(child)
            self.word[node] = self.word[node] or self.word[self.fail[node]]

    def follow(self, node: int, c: str) -> int:
        """The longest end of a node's text and `c` that is a node."""
        while (then := self.next[node].get(c)) is None:
            if node == 0:
                return 0
            node = self.fail[node]
        return then


class WordThreads:
    """The matches of a list in one text, a character at a time."""

    def __init__(self, words: Words) -> None:
        """At its beginning."""
        self._words, self.lags = words, words.lags
        self._node = self._at = 0
        self._recent = deque[str](maxlen=words.longest + 1)  # and what stands before the longest word that may be
        self.matches: list[tuple[int, int]] = []

    @property
    def live(self) -> int:
        """No match that is not among `matches` begins before this place."""
        words, node = self._words, self._node
        while self.lags and node and not self._begins(words.depth[node]):
            node = words.fail[node]
        return self._at - words.depth[node]

    def push(self, c: str) -> None:
        """The next character."""
        if self.lags:
            self._tell(c)
        self._node = self._words.follow(self._node, c)
        self._recent.append(c)
        self._at += 1
        if not self.lags:
            self._tell("")

    def end(self) -> None:
        """The end of the text."""
        if self.lags:
            self._tell("")
        self._node = 0

    def _tell(self, after: str) -> None:
        """Of the longest word that ends here, before `after`."""
        words, node = self._words, self._words.word[self._node]
        if self.lags and node and after and _in_word(after) and _in_word(self._recent[-1]):
            return
        while self.lags and node and not self._begins(words.depth[node]):
            node = words.word[words.fail[node]]
        if node:
            self.matches.append((self._at - words.depth[node], self._at))

    def _begins(self, n: int) -> bool:
        """Whether the last `n` characters begin where a word may begin."""
        recent = self._recent
        return n >= len(recent) or not (_in_word(recent[-n]) and _in_word(recent[-n - 1]))
