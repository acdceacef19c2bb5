"""What the demo models must beat: the most frequent class, and a logistic regression on the words of a text."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from .pattern import words_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Bag", "majority"]

STEPS = 200
RATE = 0.05  # of Adam (Kingma and Ba 2015)
DECAY = 1e-4  # of the squares of weights
ONCE = 2  # texts that a word must be in


def majority(labels: Iterable[str]) -> str:
    """The most frequent; of several, the first of the alphabet."""
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))


class Bag:
    """Multinomial logistic regression on which words a text has, trained whole batches at a time."""

    def __init__(self, texts: Sequence[Iterable[str]], labels: Sequence[str]) -> None:
        """`texts`: the words (or other features) of each; `Bag.words` makes them of a text."""
        features = [set(text) for text in texts]
        counts = Counter(itertools.chain.from_iterable(features))
        self._rows = {word: i for i, word in enumerate(sorted(w for w, n in counts.items() if n >= ONCE), 1)}
        self.labels = sorted(set(labels))
        numbers = {label: i for i, label in enumerate(self.labels)}
        self._w = np.zeros((len(self._rows) + 2, len(self.labels)))  # row 0 is no word's, the last is the bias
        self._fit(self._numbered(features), np.eye(len(self.labels))[[numbers[label] for label in labels]])

    @staticmethod
    def words(text: str) -> list[str]:
        """Features of a text."""
        return words_in(text)

    def _numbered(self, texts: Sequence[Iterable[str]]) -> NDArray[np.intp]:
        """[texts, longest]: the rows of each text's words and of the bias; 0 after the last."""
        known = [
            [*sorted({self._rows[word] for word in text if word in self._rows}), len(self._w) - 1] for text in texts
        ]
        rows = np.zeros((len(known), max(map(len, known))), np.intp)
        for row, numbers in zip(rows, known, strict=True):
            row[: len(numbers)] = numbers
        return rows

    def _fit(self, rows: NDArray[np.intp], wanted: Floats) -> None:
        mean, square = np.zeros_like(self._w), np.zeros_like(self._w)
        flat, longest = rows.ravel(), rows.shape[1]
        for step in range(1, STEPS + 1):
            wrong = np.repeat((self._shares(rows) - wanted) / len(rows), longest, 0)
            sums = [np.bincount(flat, column, len(self._w)) for column in wrong.T]
            gradient = np.stack(sums, 1) + DECAY * self._w
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient**2 - square)
            self._w -= RATE * mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
            self._w[0] = 0

    def _shares(self, rows: NDArray[np.intp]) -> Floats:
        """The softmax of the sums of the words' rows."""
        x = self._w[rows].sum(1)
        e = np.exp(x - x.max(1, keepdims=True))
        shares: Floats = e / e.sum(1, keepdims=True)
        return shares

    def scores(self, texts: Sequence[Iterable[str]]) -> Floats:
        """[texts, labels]: probabilities."""
        return self._shares(self._numbered(texts))

    def predict(self, texts: Sequence[Iterable[str]]) -> list[str]:
        """The likeliest label of each."""
        return [self.labels[i] for i in self.scores(texts).argmax(1)]
