"""Metrics of `miaotui evaluate`: against the libraries that count the same, and cases worked by hand."""

from __future__ import annotations

import math
import random
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from miaotui.errors import BackendError, InputError
from miaotui.tools.evaluate.evaluation import drawn, evaluate
from miaotui.tools.evaluate.examples import Choice, Labelled, Question, Similar, Tagged, Target, Text
from miaotui.tools.evaluate.measured import Outcome, reliability
from miaotui.tools.evaluate.metrics_answers import chinese_exact, chinese_f1, exact, f1, squad_scores
from miaotui.tools.evaluate.metrics_classes import classes, entities
from miaotui.tools.evaluate.metrics_numbers import correlations, perplexity
from miaotui.tools.evaluate.metrics_texts import ROUGES, text_scores
from miaotui.tools.evaluate.report import document, table
from miaotui.tools.evaluate.swap import Swap, read_swap
from miaotui.tools.evaluate.tags import entities_of
from miaotui.tools.evaluate.tasks import TASKS, Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from miaotui.tools.evaluate.evaluation import Evaluation

# classes


def test_the_report_is_scikit_learn_s() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = random.Random(0)  # noqa: S311 - a test's
    gold = [rng.choice("abc") for _ in range(60)]
    said = [rng.choice("abd") for _ in range(60)]
    measured = classes(gold, [Outcome(s) for s in said], ["d", "c", "b", "a"])
    if not any(list(entities_of(tags)) for tags in gold + said):
        return
    report = metrics.classification_report(gold, said, output_dict=True, zero_division=0)
    assert measured.metrics["accuracy"] == report["accuracy"]
    assert measured.metrics["macro_f1"] == pytest.approx(report["macro avg"]["f1-score"], abs=1e-12)
    assert measured.metrics["weighted_recall"] == pytest.approx(report["weighted avg"]["recall"], abs=1e-12)
    assert list(measured.classes) == ["d", "c", "b", "a"]
    assert all(measured.classes[label] == report[label] for label in "abcd")
    assert measured.confusion is not None
    assert measured.confusion.counts == metrics.confusion_matrix(gold, said, labels=["d", "c", "b", "a"]).tolist()
    assert measured.reliability == []


def test_classes_need_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(BackendError, match=r"needs scikit-learn: pip install 'miaotui\[eval\]'"):
        classes(["a"], [Outcome("a")])


def test_reliability_by_hand() -> None:
    """Two bins: 0.95 and 1.0 with one of two right, and 0.55 right."""
    bins, error = reliability([0.95, 1.0, 0.55], [True, False, True])
    assert [(b.count, b.accuracy) for b in bins] == [(1, 1.0), (2, 0.5)]
    assert error == pytest.approx(1 / 3 * 0.45 + 2 / 3 * 0.475)


# entities


def test_entities_by_hand() -> None:
    """Of three there, one is said right, one with another type, one with another end; and one that is not there."""
    gold = [frozenset({("A", 0, 1), ("B", 3, 3)}), frozenset({("A", 0, 2)})]
    said = [frozenset({("A", 0, 1), ("A", 3, 3)}), frozenset({("A", 0, 1), ("B", 5, 5)})]
    measured = entities(gold, said)
    assert measured.metrics == pytest.approx({"f1": 2 / 7, "precision": 1 / 4, "recall": 1 / 3, "macro_f1": 0.2})
    assert measured.classes["A"] == pytest.approx({"precision": 1 / 3, "recall": 0.5, "f1-score": 0.4, "support": 2})
    assert measured.classes["B"] == {"precision": 0, "recall": 0, "f1-score": 0, "support": 1}
    nothing = entities([frozenset()], [frozenset()])
    assert nothing.metrics == {"f1": 0, "precision": 0, "recall": 0, "macro_f1": 0}


TAG = st.sampled_from(["O", "O", "B-A", "I-A", "B-B", "I-B"])
TAGS = st.lists(TAG, min_size=1, max_size=9)


@given(st.lists(TAGS, min_size=1, max_size=4), st.randoms())
def test_entities_are_counted_as_nervaluate_s_strict(gold: list[list[str]], rng: random.Random) -> None:
    """What is right agrees; nervaluate counts an entity again for each that it overlaps, so the rest is by hand."""
    nervaluate = pytest.importorskip("nervaluate")
    said = [[rng.choice(["O", "B-A", "I-A", "I-B"]) for _ in tags] for tags in gold]
    told = [[frozenset(entities_of(tags)) for tags in side] for side in (gold, said)]
    spans = [[[{"label": k, "start": i, "end": j} for k, i, j in sorted(es)] for es in side] for side in told]
    theirs = nervaluate.Evaluator(*spans, tags=["A", "B"], loader="dict").evaluate()["overall"]["strict"]
    measured = entities(*told).metrics
    assert measured["precision"] == pytest.approx(theirs.correct / max(sum(map(len, told[1])), 1))
    assert measured["recall"] == pytest.approx(theirs.correct / max(sum(map(len, told[0])), 1))


@pytest.mark.parametrize(
    ("gold", "said", "micro", "macro"),
    [
        ("B-B I-B O S-B I-A O | O I-B S-B", "O I-A I-B S-B E-A O | O O I-A", 0.4, 5 / 12),
        ("B-A E-A B-A O | S-B B-A B-A", "B-A E-A O O | S-B B-A O", 0.75, 5 / 6),
        ("I-A I-A B-A I-A | B-B O I-B E-A B-A", "I-A O B-A B-A | O E-A E-A E-A E-A", 4 / 13, 2 / 11),
        ("O B-B I-B B-B | I-B B-A S-B S-B B-A", "O O I-B B-A | I-A B-A I-B I-A B-A", 3 / 7, 3 / 7),
        ("O S-B O B-A I-A | I-A S-B", "B-A I-B B-A I-B O | B-B S-B", 0.4, 1 / 3),
        ("I-B B-B O E-A O I-A | I-B B-A I-B B-B", "I-B B-B O S-B B-A O | I-B B-A S-B B-B", 0.75, 36 / 55),
        ("S-B B-A O O | E-A O I-A I-B B-B S-B", "S-B I-A O O | S-B O B-B B-A O S-B", 6 / 13, 0.45),
    ],
)
def test_entities_are_counted_as_seqeval_s(gold: str, said: str, micro: float, macro: float) -> None:
    """Tags drawn at random; the numbers are those of seqeval 1.2.2."""
    sides = [[frozenset(entities_of(tags.split())) for tags in side.split(" | ")] for side in (gold, said)]
    metrics = entities(*sides).metrics
    assert (metrics["f1"], metrics["macro_f1"]) == pytest.approx((micro, macro))


def test_a_word_has_the_tag_of_its_first_token() -> None:
    example = Tagged("x", ("Lou", "Reed", "sang"), " ", frozenset())
    rows = [("B-P", 0, 2), ("O", 2, 3), ("I-P", 4, 6), ("B-P", 6, 8), ("O", 9, 13)]
    result = [{"entity": e, "start": a, "end": b} for e, a, b in rows]
    outcome = TASKS["token-classification"].outcome
    assert outcome is not None
    assert outcome(example, result).answer == {("P", 0, 1)}
    assert outcome(example, result[:1]).answer == {("P", 0, 0)}  # cut: the others have no token
    by_character = Tagged("x", tuple("上海 wc"), "", frozenset())
    rows = [("B-L", 0, 2), ("B-X", 3, 5)]
    result = [{"entity": e, "start": a, "end": b} for e, a, b in rows]
    assert outcome(by_character, result).answer == {("L", 0, 1), ("X", 3, 4)}
    special = {"entity": "B-L", "start": None, "end": None}
    assert outcome(example, [special]).answer == frozenset()


# answers

SQUAD = [
    ("the red ball", "A red  Ball!", 1.0, 1.0),
    ("red ball", "the red house", 0.0, 0.5),
    ("", "", 1.0, 1.0),
    ("", "red", 0.0, 0.0),
    ("red", "blue", 0.0, 0.0),
    ("a", "the", 1.0, 1.0),  # nothing is left of both
    ("red red ball", "red ball ball", 0.0, 2 / 3),
    ("caf\u00e9", "Caf\u00e9.", 1.0, 1.0),
]


@pytest.mark.parametrize(("answer", "said", "same", "share"), SQUAD)
def test_squad_s_rules(answer: str, said: str, same: float, share: float) -> None:
    """Each is what the official script gives."""
    assert exact(answer, said) == same
    assert f1(answer, said) == pytest.approx(share)


@pytest.mark.parametrize(
    ("answer", "said", "same", "share"),
    [
        ("红色的球", "红色的球。", 1.0, 1.0),
        ("红色的球", "蓝色的球", 0.0, 3 / 4),
        ("《红楼梦》", "红楼梦", 1.0, 1.0),
        ("北京", "上海", 0.0, 0.0),
        ("1990年 iPhone手机", "iphone手机", 0.0, 2 * 1 * 0.6 / 1.6),  # 1990 年 iphone 手 机: three of five
        ("12.5米", "12米", 0.0, 0.5),  # 12.5 is one piece
        ("1,000元", "1000元", 0.0, 0.5),
        ("红绿", "红蓝绿", 0.0, 0.4),  # the longest run is one
    ],
)
def test_cmrc_s_rules(answer: str, said: str, same: float, share: float) -> None:
    assert chinese_exact(answer, said) == same
    assert chinese_f1(answer, said) == pytest.approx(share)


def test_squad_2_by_parts() -> None:
    questions = [Question("a", "1", "q", "c", ("red", "the red ball")), Question("b", "2", "q", "c", ())]
    measured = squad_scores(questions, ["red ball", "red"])
    assert measured.metrics == pytest.approx({
        "exact_match": 50, "f1": 50, "answerable_exact_match": 100, "answerable_f1": 100,
        "unanswerable_exact_match": 0, "unanswerable_f1": 0,
    })  # fmt: skip
    assert set(squad_scores(questions[:1], [""]).metrics) == {"exact_match", "f1"}
    nothing_left = Question("a", "1", "q", "c", ("the", "red"))
    assert squad_scores([nothing_left], [""]).metrics["exact_match"] == 0  # "the" does not count: red is right
    assert squad_scores([Question("a", "1", "q", "c", ("the",))], [""]).metrics["exact_match"] == 100


# made texts


def test_bleu_chrf_and_rouge_are_the_libraries_(monkeypatch: pytest.MonkeyPatch) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score_rs")
    said = ["the cat sat on the mat today", "a dog"]
    references = [["the cat sat on a mat", "a cat sat on the mat today"], ["a dog"]]
    measured = text_scores(said, references)
    streams = [["the cat sat on a mat", "a dog"], ["a cat sat on the mat today", None]]
    assert measured.metrics["bleu"] == pytest.approx(sacrebleu.corpus_bleu(said, streams).score)
    assert measured.metrics["chrf"] == pytest.approx(sacrebleu.corpus_chrf(said, streams).score)
    assert measured.metrics["exact_match"] == 50
    assert measured.metrics["rouge1"] == pytest.approx(100 * (12 / 14 + 1) / 2)  # six of seven, and two of two
    assert "tok:13a" in measured.notes[0]
    chinese = text_scores(["猫坐在垫子上"], [["猫坐在垫子上面"]], "zh")
    assert chinese.metrics["rouge1"] == pytest.approx(100 * 12 / 13)
    assert "tok:zh" in chinese.notes[0]
    with pytest.raises(InputError, match="--tokenize nothing: expected one of sacrebleu's, "):
        text_scores(said, references, "nothing")
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(BackendError, match=r"BLEU and chrF need sacrebleu: pip install 'miaotui\[eval\]'"):
        text_scores(said, references)


@pytest.mark.parametrize(
    ("said", "reference", "scores"),
    [
        (
            "The cats sat on the mat.",
            "A cat is sitting on the mat",
            [0.615384615, 0.363636364, 0.615384615, 0.615384615],
        ),
        ("one two three\nfour five", "four five\none two", [0.888888889, 0.571428571, 0.444444444, 0.888888889]),
        ("Running quickly, she won!", "She ran and won quickly.", [0.666666667, 0, 0.444444444, 0.444444444]),
        ("na\u00efve caf\u00e9 12.5", "cafe 12 5", [0.5, 0.333333333, 0.5, 0.5]),
        ("", "a b", [0, 0, 0, 0]),
    ],
)
def test_rouge_is_google_s(said: str, reference: str, scores: list[float]) -> None:
    """The numbers are those of rouge-score 0.1.2."""
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score_rs")
    metrics = text_scores([said], [[reference]]).metrics
    assert [metrics[name] / 100 for name in ROUGES] == pytest.approx(scores, abs=1e-8)


# numbers


@given(st.lists(st.tuples(*[st.integers(-4, 4)] * 2), min_size=3, max_size=20))
def test_correlations_are_scipy_s(pairs: list[tuple[int, int]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    x, y = ([float(v) for v in side] for side in zip(*pairs, strict=True))
    if len({*x}) < 2 or len({*y}) < 2:
        with pytest.raises(InputError, match="needs at least two that differ"):
            correlations(x, y)
        return
    measured = correlations(x, y).metrics
    assert measured["spearman"] == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert measured["pearson"] == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)


def test_perplexity_over_all_texts() -> None:
    measured = perplexity([(math.log(2) * 8, 4, 4), (0.0, 4, 4)]).metrics
    assert measured == pytest.approx({"perplexity": 2, "bits_per_byte": 1, "nats_per_token": math.log(2), "tokens": 8})
    assert perplexity([(8000.0, 1, 1)]).metrics["perplexity"] == math.inf


# an evaluation


def test_every_task_measures_answers_that_are_right() -> None:
    """Each task, with its own examples, from any callable."""
    pytest.importorskip("sklearn")
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score_rs")
    labelled = [Labelled("a", "x", None, "p"), Labelled("b", "y", None, "n")]
    asked = {
        "text-classification": (labelled, lambda e: Outcome(e.label, 0.9), "accuracy", 1),
        "zero-shot-classification": (labelled, lambda e: Outcome(e.label, 0.9), "macro_f1", 1),
        "token-classification": (
            [Tagged("a", ("x", "y"), " ", frozenset({("A", 0, 1)}))], lambda e: Outcome(e.entities), "f1", 1,
        ),
        "question-answering": ([Question("a", "1", "q", "c", ("c",))], lambda _: Outcome("C."), "exact_match", 100),
        "summarization": ([Target("a", "x", ("a b c d",))], lambda e: Outcome(e.references[0]), "bleu", 100),
        "sentence-similarity": (
            [Similar("a", "x", "y", 1.0), Similar("b", "x", "y", 2.0)], lambda e: Outcome(None, e.score**3),
            "spearman", 1,
        ),
        "multiple-choice": (
            [Choice("a", "q", ("x", "y"), 1)],
            lambda e: Outcome(e.answer, -1.0, {"0": -2, "1": -1, "0/byte": -2, "1/byte": -3}), "accuracy", 1,
        ),
        "perplexity": ([Text("a", "ab")], lambda _: Outcome((0.0, 1, 2), 0.0), "perplexity", 1),
    }  # fmt: skip
    for task, (examples, answer, metric, value) in asked.items():
        done = evaluate(task, examples, lambda es, answer=answer: map(answer, es), Settings())
        assert done.measured.metrics[metric] == pytest.approx(value), task
        assert metric in table(done)
        assert document(done, task=task)["metrics"] == done.measured.metrics
    assert done.measured.metrics["tokens"] == 1
    examples, answer, *_ = asked["multiple-choice"]
    done = evaluate("multiple-choice", examples, lambda es: map(answer, es), Settings())
    assert done.measured.metrics["accuracy_per_byte"] == 0


def test_as_many_answers_as_examples() -> None:
    with pytest.raises(InputError, match="predict: 0 answers to 1 examples; expected one for each"):
        evaluate("perplexity", [Text("a", "ab")], lambda _: [], Settings())


def test_a_sample_is_the_seed_s_alone() -> None:
    examples = [Text(str(i), "x") for i in range(50)]
    ones = [int(e.place) for e in drawn(examples, 10, 3)]
    assert ones == sorted(set(ones))
    assert len(ones) == 10
    assert drawn(examples, 10, 3) == drawn(examples, 10, 3) != drawn(examples, 10, 4)
    assert drawn(examples, 99, 0) == examples


# fairness


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("He said HE met her; the shed.", "She said SHE met him; the shed."),
        ("his and hers", "his and hers"),
        ("Anna's New York", "Bob's Paris"),
        ("new york\nbob", "Paris\nanna"),
        ("这个男人和女人", "这个女人和男人"),
        ("", ""),
    ],
)
def test_terms_are_exchanged(text: str, swapped: str) -> None:
    pairs = [("he", "she"), ("him", "her"), ("anna", "bob"), ("New York", "Paris"), ("男人", "女人")]
    assert Swap(pairs)(text) == swapped


def test_swap_files(tmp_path: Path) -> None:
    path = tmp_path / "terms.csv"
    path.write_text("he,she\n\nDr. A\tDr. B\n")
    assert read_swap(path).pairs == [("he", "she"), ("Dr. A", "Dr. B")]
    assert read_swap(path)("Dr. A. met Dr. B, he said") == "Dr. B. met Dr. A, she said"
    for text, said in [
        ("he,she\nhim\n", "line 2: found 'him'; expected two different terms such as he,she"),
        ("he,he\n", "line 1: found 'he,he'; expected two different terms"),
        ("his,her\nhim,Her\n", "line 2: 'Her' is in line 1 too, and can be exchanged for one term only"),
        ("\n", "has no pair of terms"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError) as error:
            read_swap(path)
        assert str(error.value).startswith(str(path))
        assert said in str(error.value)


def test_fairness_counts_answers_and_scores_that_move() -> None:
    pytest.importorskip("sklearn")
    examples = [Labelled(str(i), text, None, "p") for i, text in enumerate(["he is", "she is", "it is"])]

    def biased(example: Labelled) -> Outcome:
        p = 0.9 if "he is" in f" {example.text}".replace("she", "") else 0.4
        return Outcome("p" if p > 0.5 else "n", max(p, 1 - p), {"p": p, "n": 1 - p})

    done = evaluate("text-classification", examples, lambda es: map(biased, es), Settings(), Swap([("he", "she")]))
    fair = done.fairness
    assert fair is not None
    assert (fair.pairs, fair.changed, fair.moved) == (1, 2, 2)
    assert fair.mean_shift == pytest.approx(0.5)
    assert fair.largest_shift == pytest.approx(0.5)
    assert {(m.place, m.before, m.after) for m in fair.shown} == {("0", "p", "n"), ("1", "n", "p")}
    assert "1 pair of terms exchanged, in 2 of 3 examples: answers that changed: 2" in table(done)
    assert "  0: 'p' -> 'n' (-0.5000)" in table(done)
    even = lambda es: (Outcome("p", 0.5) for _ in es)  # noqa: E731 - in place
    equal = evaluate("text-classification", examples, even, Settings(), Swap([("he", "she")]))
    assert equal.fairness is not None
    assert (equal.fairness.changed, equal.fairness.moved, equal.fairness.shown) == (2, 0, [])


def test_an_answer_that_is_of_the_text_is_exchanged_too() -> None:
    swap = Swap([("Anna", "Bob")])
    questions = [Question("a", "1", "Who?", "Anna ran.", ("Anna",)), Question("b", "2", "Who?", "Bob ran.", ("Bob",))]

    def asked(answer: Callable[[Question], str]) -> Evaluation:
        predict = lambda es: (Outcome(answer(e), 0.5) for e in es)  # noqa: E731 - in place
        return evaluate("question-answering", questions, predict, Settings(), swap)

    by_context, always = asked(lambda e: e.context.split()[0]), asked(lambda _: "Anna")
    assert by_context.fairness is not None
    assert always.fairness is not None
    assert (by_context.fairness.moved, always.fairness.moved) == (0, 2)
    tagged = Tagged("a", ("Anna", "ran"), " ", frozenset({("PER", 0, 0)}))
    done = evaluate("token-classification", [tagged], lambda es: (Outcome(e.entities) for e in es), Settings(), swap)
    assert done.fairness is not None
    assert (done.fairness.changed, done.fairness.moved) == (1, 0)
