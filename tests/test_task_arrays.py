"""`runtime.tasks` on plain arrays: labels, entities, spans, masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.runtime.tasks.entities import STRATEGIES, Token, gathered, without_overlaps
from miaotui.runtime.tasks.labels import entailed, ranked, scores_of, sigmoid, softmax
from miaotui.runtime.tasks.masks import likeliest
from miaotui.runtime.tasks.spans import best_answers, best_spans

LOGITS = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=7)


@settings(deadline=None)
@given(LOGITS, st.integers(-50, 50))
def test_softmax_is_a_distribution_and_does_not_see_a_shift(logits: list[float], shift: int) -> None:
    x = np.array(logits, np.float64)
    p = softmax(x)
    assert abs(p.sum() - 1) < 1e-12
    assert p.min() >= 0
    assert np.abs(softmax(x + shift) - p).max() < 1e-9
    assert np.array_equal(softmax(np.stack([x, x]))[1], p)
    assert np.abs(p - np.exp(x - x.max()) / np.exp(x - x.max()).sum()).max() < 1e-14
    assert p[int(x.argmax())] == p.max()


def test_softmax_and_sigmoid_at_the_ends() -> None:
    assert softmax(np.array([0.0, -np.inf, 0.0])).tolist() == [0.5, 0, 0.5]
    assert np.isnan(softmax(np.array([np.nan, 0.0]))).all()
    assert np.isnan(softmax(np.array([-np.inf, -np.inf]))).all()
    assert sigmoid(np.array([0.0, -1e9, 1e9, -np.inf, np.inf])).round(300).tolist() == [0.5, 0, 1, 0, 1]
    assert np.isnan(sigmoid(np.array([np.nan])))[0]
    assert abs(sigmoid(np.array([1.25]))[0] - 1 / (1 + math.exp(-1.25))) < 1e-15
    x = np.array([3.0, -1.5], np.float32)
    assert scores_of(x, "none").tolist() == [3.0, -1.5]
    assert scores_of(x, "sigmoid").tolist() == sigmoid(x).tolist()


def test_ranking_takes_the_lower_index_first_among_equals() -> None:
    assert ranked(np.array([1.0, 3.0, 1.0, 3.0])) == [1, 3, 0, 2]
    assert ranked(np.array([1.0, 3.0, 1.0, 3.0]), 1) == [1]
    assert ranked(np.array([1.0]), 5) == [0]


def test_labels_are_entailed_together_or_each_for_itself() -> None:
    rows = [np.array([0.0, 9.0, math.log(3)]), np.array([0.0, -9.0, 0.0])]
    assert np.abs(entailed(rows, 2, 0, multi_label=False) - [0.75, 0.25]).max() < 1e-12
    assert np.abs(entailed(rows, 2, 0, multi_label=True) - [0.75, 0.5]).max() < 1e-12


# Acceptance case 5: "Ana Ruiz flew to Reykjavik."
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
PIECES = ("Ana", "Ru", "##iz", "flew", "to", "Rey", "##kja", "##vik", ".")
PLACES = ((0, 3), (4, 6), (6, 8), (9, 13), (14, 16), (17, 20), (20, 23), (23, 26), (26, 27))
OUT = [[p, *[(1 - p) / 4] * 4] for p in (0.97, 0.98, 0.99)]
SCORES = np.array(
    [[0.05, 0.9, 0.03, 0.01, 0.01], [0.1, 0.2, 0.6, 0.05, 0.05], [0.5, 0.1, 0.3, 0.05, 0.05], OUT[0], OUT[1],
     [0.1, 0.05, 0.05, 0.7, 0.1], [0.15, 0.05, 0.05, 0.05, 0.7], [0.6, 0.05, 0.05, 0.1, 0.2], OUT[2]]
)  # fmt: skip
TOKENS = [Token(i + 1, w, a, b, w.startswith("##")) for i, (w, (a, b)) in enumerate(zip(PIECES, PLACES, strict=True))]


def join(words: list[str]) -> str:
    return " ".join(words).replace(" ##", "")


ENTITIES = {
    "none": [("B-PER", "Ana", 0, 3, 0.9), ("I-PER", "Ru", 4, 6, 0.6), ("B-LOC", "Rey", 17, 20, 0.7),
             ("I-LOC", "##kja", 20, 23, 0.7)],
    "simple": [("PER", "Ana Ru", 0, 6, 0.75), ("LOC", "Reykja", 17, 23, 0.7)],
    "first": [("PER", "Ana Ruiz", 0, 8, 0.75), ("LOC", "Reykjavik", 17, 26, 0.7)],
    "average": [("PER", "Ana Ruiz", 0, 8, 0.675), ("LOC", "Reykjavik", 17, 26, 1 / 3)],
    "max": [("PER", "Ana Ruiz", 0, 8, 0.75), ("LOC", "Reykjavik", 17, 26, 0.7)],
}  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_entities_are_gathered_from_pieces(strategy: str) -> None:
    got = gathered(TOKENS, SCORES, LABELS, strategy, join)
    name = "entity" if strategy == "none" else "entity_group"
    kept = [(e[name], e["word"], e["start"], e["end"], round(e["score"], 12)) for e in got if e[name] != "O"]
    assert kept == [(*rest, round(score, 12)) for *rest, score in ENTITIES[strategy]]
    assert all(type(e["score"]) is float for e in got)
    assert gathered([], SCORES[:0], LABELS, strategy, join) == []


def test_an_entity_begins_at_b_and_at_another_kind_alone() -> None:
    tokens = [Token(i, w, 2 * i, 2 * i + 1) for i, w in enumerate("abcdef")]
    scores = np.eye(5)[[2, 2, 1, 4, 2, 1]]  # I-PER I-PER B-PER I-LOC I-PER B-PER
    got = gathered(tokens, scores, LABELS, "simple", join)
    assert [(e["entity_group"], e["word"]) for e in got] == [
        ("PER", "a b"), ("PER", "c"), ("LOC", "d"), ("PER", "e"), ("PER", "f"),
    ]  # fmt: skip
    bare = gathered(tokens[:3], np.eye(2)[[0, 0, 1]], ("VERB", "NOUN-x"), "simple", join)
    assert [(e["entity_group"], e["word"]) for e in bare] == [("VERB", "a b"), ("x", "c")]


def test_of_overlapping_entities_the_longest_stays_then_the_surest() -> None:
    def entity(start: int, end: int, score: float) -> dict[str, float]:
        return {"start": start, "end": end, "score": score}

    given = [entity(5, 9, 0.5), entity(0, 3, 0.2), entity(0, 3, 0.4), entity(6, 12, 0.1), entity(12, 13, 1.0)]
    assert without_overlaps(given) == [entity(0, 3, 0.4), entity(6, 12, 0.1), entity(12, 13, 1.0)]
    assert without_overlaps([]) == []


def logits_of(start: dict[int, float], end: dict[int, float], n: int) -> np.ndarray:
    out = np.zeros((n, 2), np.float32)
    for column, peaks in enumerate((start, end)):
        for at, value in peaks.items():
            out[at, column] = value
    return out


def test_spans_lie_in_the_context_and_do_not_run_backwards() -> None:
    """Acceptance case 6: the question's start peak and an end before the start count nothing."""
    context = np.array([False] * 4 + [True] * 6)
    logits = logits_of({7: 9.0, 2: 8.0}, {5: 9.0, 7: 5.0, 8: 4.0}, 10)
    best = best_spans(logits, context, 50, 15)
    assert best.spans[0][:2] == (7, 7)
    assert all(4 <= first <= last for first, last, _ in best.spans)
    wide = logits.astype(np.float64)
    counted = [0, *range(4, 10)]
    start, end = (np.exp(wide[counted, i]) / np.exp(wide[counted, i]).sum() for i in (0, 1))
    assert abs(best.spans[0][2] - start[4] * end[4]) < 1e-12  # token 7 is the fifth of those that count
    assert abs(best.null - start[0] * end[0]) < 1e-15


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 14), st.integers(1, 20), st.integers(0, 99))
def test_the_best_spans_are_those_of_all_pairs(n: int, most: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((n + 2, 2)).astype(np.float32) * 3
    context = np.array([False, *(rng.random(n) < 0.8), False])
    got = best_spans(logits, context, k, most)
    counted = context.copy()
    counted[0] = True
    start, end = (softmax(np.where(counted, logits[:, i].astype(np.float64), -np.inf)) for i in (0, 1))
    pairs = [
        (a, b, start[a] * end[b])
        for a in range(n + 2) for b in range(a, min(a + most, n + 2)) if context[a] and context[b]
    ]  # fmt: skip
    wanted = sorted(pairs, key=lambda pair: -pair[2])[:k]
    assert [(a, b) for a, b, _ in got.spans] == [(a, b) for a, b, _ in wanted]
    assert np.allclose([s for *_, s in got.spans], [s for *_, s in wanted], rtol=1e-12)


def test_what_reads_alike_is_one_answer() -> None:
    text = "Berlin, berlin; Bonn"
    places = [(0, 6, 0.3), (16, 20, 0.5), (8, 14, 0.25)]
    assert best_answers(places, text, 5, None) == [
        {"score": 0.55, "start": 0, "end": 6, "answer": "Berlin"},
        {"score": 0.5, "start": 16, "end": 20, "answer": "Bonn"},
    ]
    assert best_answers(places, text, 1, 0.6) == [{"score": 0.6, "start": 0, "end": 0, "answer": ""}]
    assert [a["answer"] for a in best_answers(places, text, 3, 0.52)] == ["Berlin", "", "Bonn"]
    assert best_answers([], text, 1, None) == []


def test_masks_take_the_likeliest_of_all_or_of_the_targets() -> None:
    rows = np.log(np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]], np.float32))
    first, second = likeliest(rows, 2)
    assert [i for i, _ in first] == [3, 2]
    assert [i for i, _ in second] == [0, 1]
    assert abs(first[0][1] - 0.4) < 1e-6
    assert [[i for i, _ in row] for row in likeliest(rows, 9, [1, 3])] == [[3, 1], [1, 3]]
    assert abs(likeliest(rows, 1, [1])[0][0][1] - 0.2) < 1e-6
