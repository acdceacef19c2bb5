"""Many texts as a trie of their tokens: spelled all at once, and sorted once.

The trie lies in three arrays, nine bytes a node. Nodes are numbered level by level, and those of one level by parent
and token: so a node's children lie next to each other, and the node that edge e leads to is e + 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...errors import InputError, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .token_bytes import TokenBytes
    from .tokenizer import Tokenizer

__all__ = ["Spelled", "Trie", "one", "spell", "trie_of"]

#: Texts that are encoded together: their ids are Python's integers for a moment.
_PART = 1 << 15
#: What a text is encoded after, so that it is spelled as inside a text; "" where the tokenizer does so anyway.
_BEFORE = ("", "\n", ":", "x", "\x00")
_WORD = "x"  # what stands before a word that is not a text's first
#: What parts words, where no text has it.
_MARK = "\x00"
#: Texts by which one of them is chosen.
_SAMPLE = 512


class Trie(NamedTuple):
    """`tokens`[e] leads to node e + 1; those of node i are `first`[i] to `first`[i + 1]; `ends`: a text ends there."""

    tokens: NDArray[np.int32]
    first: NDArray[np.int32]
    ends: NDArray[np.bool_]

    def children(self, node: int) -> NDArray[np.int32]:
        """Tokens that may follow, ascending: a view."""
        return self.tokens[self.first[node] : self.first[node + 1]]

    def child(self, node: int, token: int) -> int:
        """The node that one of a node's tokens leads to."""
        return int(self.first[node] + np.searchsorted(self.children(node), token)) + 1


class Spelled(NamedTuple):
    """Ids of many texts, one after the other, and how many each has."""

    lengths: NDArray[np.int64]
    ids: NDArray[np.int32]


class _Words(NamedTuple):
    """Texts that were spelled word by word; their first words, and the others, each once."""

    made: Spelled
    heads: list[str]
    first: Spelled
    later: list[str]
    others: Spelled

    def differ(self, texts: list[str], heads: Sequence[bytes], after: Sequence[bytes]) -> NDArray[np.bool_]:
        """As `_differ`: where all words are right, all texts are."""
        if _differ(self.heads, self.first, heads, after).any() or _differ(self.later, self.others, after, after).any():
            return _differ(texts, self.made, heads, after)
        return np.zeros(len(texts), np.bool_)


def spell(texts: list[str], tokenizer: Tokenizer, spelled: TokenBytes, *, first: bool) -> Spelled:
    """The tokenizer's own ids of each text, whose bytes are the text's and nothing more.

    `first`: where a text begins with it. Errors: `InputError` for a text that no tokens spell, by its number.
    """
    anchors = ("",) if first else _BEFORE
    heads = spelled.first if first else spelled.after
    sample = texts[:_SAMPLE]
    tried = {a: int(_differ(sample, _encoded(sample, tokenizer, a), heads, spelled.after).sum()) for a in anchors}
    best = min(anchors, key=lambda a: tried[a])
    words = _by_words(texts, tokenizer, best)
    made = _encoded(texts, tokenizer, best) if words is None else words.made
    differ = _differ(texts, made, heads, spelled.after) if words is None else words.differ(texts, heads, spelled.after)
    wrong = np.flatnonzero(differ)
    if not wrong.size:
        return made
    others = {}
    for i in map(int, wrong):
        ids = one(texts[i], tokenizer, spelled, first=first)
        if ids is None:
            msg = (
                f"choices[{i}]={shown(texts[i])}: this tokenizer has no tokens for it next to the text before; "
                "spell it as the model would (a space before a word, lower case)"
            )
            raise InputError(msg)
        others[i] = np.array(ids, np.int32)
    at = np.cumsum(made.lengths) - made.lengths
    each = [others.get(i, made.ids[at[i] : at[i] + made.lengths[i]]) for i in range(len(texts))]
    lengths = np.fromiter(map(len, each), np.int64, len(each))
    return Spelled(lengths, np.concatenate(each).astype(np.int32))


def _encoded(texts: list[str], tokenizer: Tokenizer, anchor: str) -> Spelled:
    """Ids of each text after `anchor`, whose own are left out."""
    skip = len(tokenizer.encode_each([anchor])[0]) if anchor else 0
    lengths, ids = [], []
    for at in range(0, len(texts), _PART):
        some = texts[at : at + _PART]
        each = [i[skip:] for i in tokenizer.encode_each([anchor + text for text in some] if anchor else some)]
        lengths.append(np.fromiter(map(len, each), np.int64, len(each)))
        ids.append(np.array([t for i in each for t in i], np.int32))
    return Spelled(np.concatenate(lengths), np.concatenate(ids))


class _Numbers(dict[str, int]):
    """A number for each word, in the order in which they are first asked for."""

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self)
        return number


def _by_words(texts: list[str], tokenizer: Tokenizer, anchor: str) -> _Words | None:
    """As `_encoded`, each word once: names have few words, and a tokenizer is slow.

    None where that is not faster, or where it is something else for one of a sample.
    """
    whole = _MARK.join(texts)
    if whole.count(_MARK) >= len(texts):  # a text has it too
        return None
    words = whole.replace(" ", f"{_MARK} ").split(_MARK)  # all but a text's first begin with their space
    numbers = _Numbers()
    use = np.fromiter(map(numbers.__getitem__, words), np.int64, len(words))
    if "" in numbers or " " in numbers or len(numbers) * 2 > len(texts):
        return None
    counts = np.fromiter((text.count(" ") for text in texts), np.int64, len(texts)) + 1
    heads = [word for word in numbers if word[0] != " "]
    later = [word for word in numbers if word[0] == " "]
    first = _encoded(heads, tokenizer, anchor)
    others = _encoded(later, tokenizer, _WORD) if later else Spelled(np.zeros(0, np.int64), np.zeros(0, np.int32))
    sizes = np.concatenate([first.lengths, others.lengths])
    blob = np.concatenate([first.ids, others.ids])
    place = np.fromiter(map(numbers.__getitem__, [*heads, *later]), np.int64, len(numbers))
    start, size = np.empty_like(place), np.empty_like(place)
    start[place], size[place] = np.cumsum(sizes) - sizes, sizes
    length = size[use]
    ends = np.concatenate([[0], np.cumsum(length)])
    ids = blob[np.arange(ends[-1]) + np.repeat(start[use] - ends[:-1], length)]
    at = np.concatenate([[0], np.cumsum(counts)])
    made = Spelled(ends[at[1:]] - ends[at[:-1]], ids)
    step, start_of = max(1, len(texts) // _SAMPLE), np.cumsum(made.lengths) - made.lengths
    some = texts[::step]
    each = _each(_encoded(some, tokenizer, anchor))
    parts = [made.ids[a : a + n] for a, n in zip(start_of[::step], made.lengths[::step], strict=True)]
    right = all(np.array_equal(a, b) for a, b in zip(each, parts, strict=True))
    return _Words(made, heads, first, later, others) if right else None


def _each(made: Spelled) -> list[NDArray[np.int32]]:
    return np.split(made.ids, np.cumsum(made.lengths)[:-1])


def _differ(texts: list[str], made: Spelled, heads: Sequence[bytes], after: Sequence[bytes]) -> NDArray[np.bool_]:
    """Which texts have other bytes than their tokens have together; all are compared at once."""
    wanted = [text.encode() for text in texts]
    right = np.fromiter(map(len, wanted), np.int64, len(wanted))
    at = np.concatenate([[0], np.cumsum(made.lengths)])
    sizes, starts, blob = _joined(after)
    length, start = sizes[made.ids], starts[made.ids]
    begins = at[:-1][made.lengths > 0]
    if heads is not after and begins.size:
        more, places, other = _joined(heads)
        length[begins], start[begins] = more[made.ids[begins]], places[made.ids[begins]] + blob.size
        blob = np.concatenate([blob, other])
    ends = np.concatenate([[0], np.cumsum(length)])
    there = ends[at[1:]] - ends[at[:-1]]
    wrong: NDArray[np.bool_] = there != right
    # of texts whose bytes are as many as they should be, byte by byte
    same = np.repeat(~wrong, made.lengths)
    length, start = length[same], start[same]
    ends = np.concatenate([[0], np.cumsum(length)])
    bytes_ = blob[np.arange(ends[-1]) + np.repeat(start - ends[:-1], length)]
    kept = np.flatnonzero(~wrong)
    expected = np.frombuffer(b"".join(wanted[i] for i in kept), np.uint8)
    differ = np.searchsorted(np.cumsum(right[kept]), np.flatnonzero(bytes_ != expected), side="right")
    wrong[kept[differ]] = True
    return wrong


def _joined(tokens: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
    """Sizes and places of tokens, and their bytes one after the other."""
    sizes = np.fromiter(map(len, tokens), np.int64, len(tokens))
    return sizes, np.cumsum(sizes) - sizes, np.frombuffer(b"".join(tokens), np.uint8)


def one(text: str, tokenizer: Tokenizer, spelled: TokenBytes, *, first: bool) -> list[int] | None:
    """Ids of a text, as the tokenizer spells it or, where that has other bytes, token by token; None: none do."""
    wanted = text.encode()
    for anchor in ("",) if first else _BEFORE:
        skip = len(tokenizer.encode_each([anchor])[0]) if anchor else 0
        ids = tokenizer.encode_each([anchor + text])[0][skip:]
        heads = spelled.first if first else spelled.after
        if ids and heads[ids[0]] + b"".join(spelled.after[i] for i in ids[1:]) == wanted:
            return ids
    return spelled.longest_first(wanted, first=first)


def trie_of(spelled: Spelled) -> Trie:
    """The trie of sequences of ids, each of which has one at least.

    In the order of their ids each is alike to the one before it up to some place, and adds the nodes after that.
    """
    lengths, ids = spelled
    start = np.cumsum(lengths) - lengths
    order = _sorted(lengths, start, ids)
    lengths, start = lengths[order], start[order]
    alike = _alike(lengths, start, ids)
    alive, node, n_nodes, depth = np.arange(lengths.size), np.zeros(lengths.size, np.int64), 1, 0
    tokens, parents, ends = [], [], []
    while alive.size:
        new = alike[alive] <= depth
        at = alive[new]
        tokens.append(ids[start[at] + depth])
        parents.append(node[new])
        node = n_nodes - 1 + np.cumsum(new)
        n_nodes, depth = n_nodes + at.size, depth + 1
        goes_on = lengths[alive] > depth
        ends.append(node[~goes_on])
        alive, node = alive[goes_on], node[goes_on]
    whole = np.zeros(n_nodes, np.bool_)
    whole[np.concatenate(ends)] = True
    counts = np.bincount(np.concatenate(parents), minlength=n_nodes)
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return Trie(np.concatenate(tokens).astype(np.int32), first, whole)


def _sorted(lengths: NDArray[np.int64], start: NDArray[np.int64], ids: NDArray[np.int32]) -> NDArray[np.int64]:
    """The order of sequences by their ids: as many ids at a time as a key of 63 bits has, then those that tie."""
    bits = (int(ids.max()) + 1).bit_length()
    n = 63 // bits  # ids of a key; 0: the sequence has ended
    order, places, group = np.arange(lengths.size), np.arange(lengths.size), np.zeros(lengths.size, np.int64)
    depth = 0
    while places.size:
        rows = order[places]
        key = np.zeros(rows.size, np.int64)
        for at in range(depth, depth + n):
            there = lengths[rows] > at
            key <<= bits
            key[there] |= ids[start[rows[there]] + at].astype(np.int64) + 1
        sort = np.lexsort((key, group)) if depth else np.argsort(key, kind="stable")
        rows, key, group = rows[sort], key[sort], group[sort]
        order[places] = rows
        depth += n
        ties = (key[1:] == key[:-1]) & (group[1:] == group[:-1])
        group = np.cumsum(np.concatenate([[True], ~ties]))
        tied = np.concatenate([[False], ties]) | np.concatenate([ties, [False]])
        tied &= lengths[rows] >= depth  # of equals that ended before, either may come first
        places, group = places[tied], group[tied]
    return order


def _alike(lengths: NDArray[np.int64], start: NDArray[np.int64], ids: NDArray[np.int32]) -> NDArray[np.int64]:
    """How many of its first ids each sequence, in their order, has in common with the one before it."""
    alike, at = np.zeros(lengths.size, np.int64), np.arange(1, lengths.size)
    depth = 0
    while at.size:
        at = at[(lengths[at] > depth) & (lengths[at - 1] > depth)]
        at = at[ids[start[at] + depth] == ids[start[at - 1] + depth]]
        depth += 1
        alike[at] = depth
    return alike
