"""From scores of tokens to entities in a text, as transformers' token-classification gathers them.

Labels of the form B-X begin an entity of kind X and I-X go on with it (Ramshaw and Marcus 1995); any other goes on.
Words may be made of one label first: by their first token, by the average of their tokens' scores, or by the surest
token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ...dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    Scores = NDArray[np.float64]
    Join = Callable[[list[str]], str]

__all__ = ["STRATEGIES", "Entity", "Strategy", "Token", "gathered", "without_overlaps"]

Strategy = Literal["none", "simple", "first", "average", "max"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

#: What is given back: entity (or entity_group), score, word, start, end; of a token, its index too.
Entity = dict[str, Any]


@dataclass(frozen=True)
class Token:
    """A token of a text: its number among those that the model reads, its spelling, its place.

    `goes_on`: it is of the same word as the one before.
    """

    index: int
    word: str
    start: int
    end: int
    goes_on: bool = False


def gathered(
    tokens: Sequence[Token], scores: Scores, labels: Sequence[str], strategy: Strategy, join: Join
) -> list[Entity]:
    """[tokens, labels] scores -> entities in order, those of label O among them. `join`: spellings to a text.

    "none" gives every token for itself. A score is the mean of what it is made of.
    """
    if strategy == "none":
        return [
            {"entity": labels[int(row.argmax())], "score": float(row.max()), "index": token.index, "word": token.word,
             "start": token.start, "end": token.end}
            for token, row in zip(tokens, scores, strict=True)
        ]  # fmt: skip
    parts = [
        _Part(labels[int(row.argmax())], float(row.max()), token.word, token.start, token.end)
        for group in _words(tokens, split=strategy == "simple")
        for token, row in [(_word(group, tokens, strategy, join), _of_word(scores[group], strategy))]
    ]
    return [_group(group, join) for group in _runs(parts)]


@dataclass(frozen=True)
class _Part:
    label: str
    score: float
    word: str
    start: int
    end: int

    @property
    def kind(self) -> str:
        """X of B-X and I-X."""
        return self.label[2:] if self.label.startswith(("B-", "I-")) else self.label


def _words(tokens: Sequence[Token], *, split: bool) -> list[list[int]]:
    """Numbers of the tokens of each word; `split`: every token is one."""
    words: list[list[int]] = []
    for n, token in enumerate(tokens):
        if words and token.goes_on and not split:
            words[-1].append(n)
        else:
            words.append([n])
    return words


def _word(group: list[int], tokens: Sequence[Token], strategy: Strategy, join: Join) -> Token:
    first, last = tokens[group[0]], tokens[group[-1]]
    word = first.word if strategy == "simple" else join([tokens[n].word for n in group])
    return Token(first.index, word, first.start, last.end)


def _of_word(scores: Scores, strategy: Strategy) -> Scores:
    """[tokens of a word, labels] -> [labels]."""
    if strategy == "average":
        mean: Scores = scores.mean(0)
        return mean
    row: Scores = scores[scores.max(1).argmax() if strategy == "max" else 0]
    return row


def _runs(parts: Iterable[_Part]) -> list[list[_Part]]:
    """Neighbours of one kind, where none but the first begins an entity."""
    runs: list[list[_Part]] = []
    for part in parts:
        if runs and part.kind == runs[-1][-1].kind and not part.label.startswith("B-"):
            runs[-1].append(part)
        else:
            runs.append([part])
    return runs


def _group(parts: list[_Part], join: Join) -> Entity:
    return {
        "entity_group": parts[0].label.split("-", 1)[-1],
        "score": float(np.mean([part.score for part in parts])),
        "word": join([part.word for part in parts]),
        "start": parts[0].start,
        "end": parts[-1].end,
    }


def without_overlaps(entities: Iterable[Entity]) -> list[Entity]:
    """Of entities that several windows of a text found in one place, the longest; among equals the surest."""
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        if kept and kept[-1]["start"] <= entity["start"] < kept[-1]["end"]:
            kept[-1] = max(kept[-1], entity, key=lambda e: (e["end"] - e["start"], e["score"]))
        else:
            kept.append(entity)
    return kept
