"""What models that answer from a text must beat: a sentence chosen by its words, the likeliest run of words in it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .bag import Bag, majority

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .sheets import Sheet

    Words = list[re.Match[str]]

__all__ = ["Lookup"]

HALF = 0.5

_WORD, _END = re.compile(r"\w+"), re.compile(r"[.:]\s")


class Lookup:
    """Two logistic regressions: which sentence has the answer, and which of its words are in it.

    The first reads the question's words, the sentence's, and those that are in both; the second each word and its
    neighbours.
    """

    def __init__(self, some: Sequence[Sheet]) -> None:
        """Trained on `some`."""
        pairs = [(sheet, sentence) for sheet in some for sentence in _sentences(sheet)]
        self._chosen = Bag([_both(*pair) for pair in pairs], [str(_holds(*pair)) for pair in pairs])
        self._most = int(majority(str(_number(sheet)) for sheet in some))
        places = [(sheet, words, i) for sheet, words in pairs if _holds(sheet, words) for i in range(len(words))]
        holds = [str(_holds(sheet, words[i : i + 1])) for sheet, words, i in places]
        self._inside = Bag([_window(words, i) for _, words, i in places], holds)

    def usual(self, sheet: Sheet) -> tuple[int, int]:
        """From the sentence whose number has the answer most often: the majority class."""
        sentences = _sentences(sheet)
        return self._run(sentences[min(self._most, len(sentences) - 1)])

    def likeliest(self, sheet: Sheet) -> tuple[int, int]:
        """From the likeliest sentence; first character and the one after the last."""
        sentences = _sentences(sheet)
        likely = self._chosen.scores([_both(sheet, sentence) for sentence in sentences])[:, 1]
        return self._run(sentences[int(likely.argmax())])

    def _run(self, words: Words) -> tuple[int, int]:
        """From the likeliest word as far both ways as words are likelier in an answer than not."""
        likely = self._inside.scores([_window(words, i) for i in range(len(words))])[:, 1]
        first = last = int(likely.argmax())
        while first and likely[first - 1] > HALF:
            first -= 1
        while last + 1 < len(words) and likely[last + 1] > HALF:
            last += 1
        return words[first].start(), words[last].end()


def _number(sheet: Sheet) -> int:
    return next(i for i, sentence in enumerate(_sentences(sheet)) if _holds(sheet, sentence))


def _sentences(sheet: Sheet) -> list[Words]:
    """The words of each sentence of a sheet, with their places; a point inside a number ends none."""
    sentences: list[Words] = [[]]
    for word in _WORD.finditer(sheet.text):
        if sentences[-1] and _END.search(sheet.text, sentences[-1][-1].end(), word.start()):
            sentences.append([])
        sentences[-1].append(word)
    return sentences


def _holds(sheet: Sheet, words: Words) -> bool:
    """Whether one of the words is in the answer."""
    return any(sheet.start <= word.start() and word.end() <= sheet.end for word in words)


def _both(sheet: Sheet, sentence: Words) -> list[str]:
    question, words = set(Bag.words(sheet.question)), {word[0].lower() for word in sentence}
    return [*(f"asked {w}" for w in question), *(f"said {w}" for w in words), *(f"both {w}" for w in question & words)]


def _window(words: Words, i: int) -> list[str]:
    """A word and its neighbours, each with its distance; any number is as good as another."""
    near = ((j - i, words[j][0].lower()) for j in range(max(0, i - 2), min(len(words), i + 3)))
    return [f"{at} {'0' if word[0].isdigit() else word}" for at, word in near]
