"""Many texts as a trie of their tokens: spelled all at once, sorted level by level.

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


def spell(texts: list[str], tokenizer: Tokenizer, spelled: TokenBytes, *, first: bool) -> Spelled:
    """The tokenizer's own ids of each text, whose bytes are the text's and nothing more.

    `first`: where a text begins with it. Errors: `InputError` for a text that no tokens spell, by its number.
    """
    anchors = ("",) if first else _BEFORE
    heads = spelled.first if first else spelled.after
    sample = texts[:_SAMPLE]
    tried = {a: int(_differ(sample, _encoded(sample, tokenizer, a), heads, spelled.after).sum()) for a in anchors}
    best = min(anchors, key=lambda a: tried[a])
    made = _by_words(texts, tokenizer, best) or _encoded(texts, tokenizer, best)
    wrong = np.flatnonzero(_differ(texts, made, heads, spelled.after))
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


def _by_words(texts: list[str], tokenizer: Tokenizer, anchor: str) -> Spelled | None:
    """As `_encoded`, each word once: names have few words, and a tokenizer is slow.

    None where that is not faster, or where it is something else for one of a sample.
    """
    numbers: dict[str, int] = {}
    which, counts = list[int](), list[int]()
    for text in texts:
        words = text.split(" ")
        if "" in words:
            return None
        which.append(numbers.setdefault(words[0], len(numbers)))
        which += [numbers.setdefault(f" {word}", len(numbers)) for word in words[1:]]
        counts.append(len(words))
    if len(numbers) * 2 > len(texts):
        return None
    heads = [word for word in numbers if word[0] != " "]
    later = [word for word in numbers if word[0] == " "]
    spelled = _each(_encoded(heads, tokenizer, anchor))
    spelled += _each(_encoded(later, tokenizer, _WORD)) if later else []
    by_word = dict(zip([*heads, *later], spelled, strict=True))
    in_order = [by_word[word] for word in numbers]
    sizes = np.fromiter(map(len, in_order), np.int64, len(in_order))
    blob, start, use = np.concatenate(in_order), np.cumsum(sizes) - sizes, np.array(which, np.int64)
    length = sizes[use]
    ends = np.concatenate([[0], np.cumsum(length)])
    ids = blob[np.arange(ends[-1]) + np.repeat(start[use] - ends[:-1], length)]
    at = np.concatenate([[0], np.cumsum(np.array(counts, np.int64))])
    made = Spelled(ends[at[1:]] - ends[at[:-1]], ids)
    step, start_of = max(1, len(texts) // _SAMPLE), np.cumsum(made.lengths) - made.lengths
    some = texts[::step]
    whole = _each(_encoded(some, tokenizer, anchor))
    parts = [made.ids[a : a + n] for a, n in zip(start_of[::step], made.lengths[::step], strict=True)]
    return made if all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True)) else None


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
    """The trie of sequences of ids, each of which has one at least."""
    lengths, ids = spelled
    start, node = np.cumsum(lengths) - lengths, np.zeros(lengths.size, np.int64)
    alive, n_nodes, depth = np.arange(lengths.size), 1, 0
    tokens, parents, ends = [], [], []
    while alive.size:
        if alive.size == 1:  # what is left of one text is a chain
            rest = ids[start[alive[0]] + depth : start[alive[0]] + lengths[alive[0]]]
            chain = n_nodes + np.arange(rest.size)
            tokens.append(rest.astype(np.int32))
            parents.append(np.concatenate([node[alive], chain[:-1]]))
            ends.append(chain[-1:])
            n_nodes += rest.size
            break
        key = node[alive] << 32 | ids[start[alive] + depth]
        edges, which = np.unique(key, return_inverse=True)
        node[alive] = n_nodes + which
        tokens.append((edges & 0xFFFFFFFF).astype(np.int32))
        parents.append(edges >> 32)
        n_nodes, depth = n_nodes + edges.size, depth + 1
        ended = lengths[alive] == depth
        ends.append(node[alive[ended]])
        alive = alive[~ended]
    whole = np.zeros(n_nodes, np.bool_)
    whole[np.concatenate(ends)] = True
    counts = np.bincount(np.concatenate(parents), minlength=n_nodes)
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return Trie(np.concatenate(tokens), first, whole)
