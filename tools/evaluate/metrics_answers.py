"""Exact match and F1 of answers: SQuAD's rules, and CMRC 2018's for Chinese.

Sources: the official evaluate-v2.0.py (Rajpurkar et al. 2018) and cmrc2018_evaluate.py (Cui et al. 2019). Where CMRC
cuts what is not Chinese into words with NLTK, we cut at spaces and punctuation: 12.5 and 1,000 are one word for both,
"don't" is two for NLTK.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from statistics import fmean
from typing import TYPE_CHECKING

from .measured import Measured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .examples import Question

__all__ = ["chinese_exact", "chinese_f1", "exact", "f1", "squad_scores"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
#: What CMRC's script takes for punctuation.
_CMRC = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")  # noqa: RUF001 - they are what Chinese is written with
_WORD = r"[^\s\W\u4e00-\u9fa5]+"
_CMRC_PIECE = re.compile(rf"[\u4e00-\u9fa5]|{_WORD}(?:[.']{_WORD}|,\d+)*|[^\s\w]")


def normalized(text: str) -> str:
    """Lower case, without punctuation and articles, with single spaces: SQuAD's."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact(answer: str, said: str) -> float:
    """1 where both are the same after `normalized`."""
    return float(normalized(answer) == normalized(said))


def f1(answer: str, said: str) -> float:
    """F1 of the words that both have; where one has none, 1 if both have none."""
    wanted, given = normalized(answer).split(), normalized(said).split()
    if not wanted or not given:
        return float(wanted == given)
    same = (Counter(wanted) & Counter(given)).total()
    return _f1(same, len(given), len(wanted))


def _f1(same: int, given: int, wanted: int) -> float:
    return 2 * (same / given) * (same / wanted) / (same / given + same / wanted) if same else 0.0


def chinese_exact(answer: str, said: str) -> float:
    """1 where both are the same without CMRC's punctuation."""
    bare = ["".join(c for c in text.lower().strip() if c not in _CMRC) for text in (answer, said)]
    return float(bare[0] == bare[1])


def chinese_f1(answer: str, said: str) -> float:
    """F1 by the longest run of pieces that both have: a Chinese character is a piece, and so is another word."""
    wanted, given = _pieces(answer), _pieces(said)
    return _f1(_longest_run(wanted, given), len(given), len(wanted))


def _pieces(text: str) -> list[str]:
    return _CMRC_PIECE.findall("".join(c for c in text.lower().strip() if c not in _CMRC))


def _longest_run(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest run of neighbours that both have."""
    best, row = 0, [0] * (len(b) + 1)
    for x in a:
        row = [0, *(row[j] + 1 if x == y else 0 for j, y in enumerate(b))]
        best = max(best, *row)
    return best


def squad_scores(questions: Sequence[Question], answers: Sequence[str], *, chinese: bool = False) -> Measured:
    """Exact match and F1 in percent, the best over a question's answers; also by whether there is one (SQuAD 2)."""
    same, share = (chinese_exact, chinese_f1) if chinese else (exact, f1)
    parts = {"": questions, "answerable_": [q for q in questions if q.answers]}
    parts["unanswerable_"] = [q for q in questions if not q.answers]
    said = {id(q): a for q, a in zip(questions, answers, strict=True)}
    metrics: dict[str, float] = {}
    for name, part in parts.items():
        if not part or (name and len(part) == len(questions)):
            continue
        for metric, of in (("exact_match", same), ("f1", share)):
            metrics[name + metric] = 100 * fmean(
                max(of(answer, said[id(q)]) for answer in _answers(q, chinese=chinese)) for q in part
            )
    return Measured(metrics)


def _answers(question: Question, *, chinese: bool) -> list[str]:
    """What is right: SQuAD drops answers of which nothing is left; where there is none, the empty one is right."""
    return [a for a in question.answers if chinese or normalized(a)] or [""]
