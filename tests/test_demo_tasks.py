"""The demo models for tasks: small, as good as their cards say, and better than a bag of words."""

from __future__ import annotations

import itertools
import random
import re

import miaotui
import numpy as np
import pytest
from miaotui.errors import InputError
from miaotui.tools import demo
from miaotui.tools.demo import train
from miaotui.tools.demo.recipes import bag, card, headlines, messages, pattern, questions, sheets, talks, written
from miaotui.tools.demo.recipes.lookup import Lookup

TASKS = tuple(name for name in demo.NAMES if name != "story")
ROWS = {"this model": "model", "majority class": "majority", "bag-of-words regression": "bag"}


def _size(name: str) -> int:
    return sum(file.stat().st_size for file in demo.path(name).rglob("*") if file.is_file())


def _said(name: str) -> dict[str, str]:
    """The scores of a card, as they stand there."""
    text = (demo.path(name) / "README.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| ([\w -]+) \| (\d\.\d{3}) \|$", text, re.MULTILINE))


def test_they_are_small():
    for name in TASKS:
        assert _size(name) <= (1.4e6 if name == "chat" else 0.7e6), name
    assert sum(map(_size, TASKS)) <= 4.5e6


def test_a_name_that_is_none_is_refused():
    assert demo.path() == demo.path("story")
    with pytest.raises(InputError, match="there is no demo model 'sentimental'; expected one of story, sentiment"):
        demo.path("sentimental")


@pytest.mark.parametrize("name", TASKS)
def test_the_card_beats_its_baselines(name):
    said = {ROWS[row]: float(value) for row, value in _said(name).items()}
    assert said["model"] > max(said["majority"], said["bag"])
    assert f"demo.train {name}" in (demo.path(name) / "README.md").read_text(encoding="utf-8")


@pytest.mark.ci  # 20 s
@pytest.mark.parametrize("name", TASKS)
def test_the_card_s_scores_are_those_of_the_shipped_model(name):
    got = card.scores(name, demo.path(name))
    said = _said(name)
    assert f"{got.model:.3f}" == said["this model"]
    for row in ("majority class", "bag-of-words regression"):  # sums by BLAS: their last bits are the machine's
        assert abs(getattr(got, ROWS[row]) - float(said[row])) <= 0.01


#: Corpus -> its texts as they are read, in training and held out.
CORPORA = {
    "headlines": ((t for t, _ in headlines.training(1)), [t for t, _ in headlines.held_out(400)]),
    "messages": ((t for t, _ in messages.training(1)), [t for t, _ in messages.held_out(300)]),
    "sheets": (
        (f"{s.question} {s.text}" for s in sheets.training(1)),
        [f"{s.question} {s.text}" for s in sheets.held_out(300)],
    ),
    "questions": ((t for t, _ in questions.training(1)), [t for t, _ in questions.held_out(400)]),
    "talks": (
        (f"{t.sheet.text} {t.sheet.question}" for t in talks.training(1)),
        [f"{t.sheet.text} {t.sheet.question}" for t in talks.held_out(200)],
    ),
    "written": ((t for t, _ in written.training(1)), [t for t, _ in written.held_out(300)]),
}


@pytest.mark.parametrize("name", CORPORA)
def test_what_is_held_out_occurs_nowhere_in_training(name):
    training, held = CORPORA[name]
    seen = set(itertools.islice(training, 5000))
    words = {word for text in seen for word in pattern.words_in(text)}
    assert len(seen) > 3000
    assert not seen & set(held)
    new = [text for text in held if set(pattern.words_in(text)) - words]
    assert len(new) > 0.6 * len(held)  # a word, a name or a figure that training lacks
    assert not re.search(r"[{}]" if name == "questions" else r"[{}]|  ", " ".join([*seen, *held]))  # or mistyped


def test_no_pattern_is_in_both():
    both = [
        *((headlines.PATTERNS[kind], headlines.HELD_PATTERNS[kind]) for kind in headlines.PATTERNS),
        *((questions.PATTERNS[entry], questions.HELD_PATTERNS[entry]) for entry in questions.ENTRIES),
        *(
            (sheets.FACTS[f].said + sheets.FACTS[f].asked, sheets.HELD_FACTS[f].said + sheets.HELD_FACTS[f].asked)
            for f in sheets.FACTS
        ),
        *(
            (talks.FACTS[f].told + talks.FACTS[f].asked, talks.HELD_FACTS[f].told + talks.HELD_FACTS[f].asked)
            for f in talks.FACTS
        ),
        (messages.PATTERNS, messages.HELD_PATTERNS),
    ]
    assert all(ours and theirs and not set(ours) & set(theirs) for ours, theirs in both)


def test_corpora_are_the_same_each_time_and_their_spans_are_words():
    for make in (headlines, messages, sheets, questions, talks, written):
        first, again = (list(itertools.islice(make.training(7), 200)) for _ in range(2))
        assert first == again
        assert make.held_out(50) == make.held_out(50)
    for text, spans in [*itertools.islice(messages.training(3), 1000), *messages.held_out(200)]:
        for span in spans:
            name = text[span.start : span.end]
            assert name == name.strip() != ""
            assert not re.match(r"\w", text[span.end :]), text
    for sheet in [*itertools.islice(sheets.training(3), 500), *sheets.held_out(100)]:
        assert sheet.answer == sheet.answer.strip() != ""
    for talk in [*itertools.islice(talks.training(3), 1000), *talks.held_out(200)]:
        assert talk.sheet.answer in talk.answer


def test_strange_words_leave_spans_where_their_words_went():
    rng = random.Random(1)  # noqa: S311 - words, not secrets
    text, names = "Please send it to Nora in Oslo today", ("Nora", "Oslo")
    spans = [pattern.Span(name, text.index(name), text.index(name) + 4) for name in names]
    changed, moved = pattern.with_strange_words(text, spans, rng, added=0.5, replaced=0.5)
    assert changed != text
    assert [changed[span.start : span.end] for span in moved] == list(names)
    assert pattern.with_strange_words(text, spans, rng) == (text, spans)


def test_numbers_days_and_amounts_in_words():
    words = [
        (0, "zero"),
        (21, "twenty-one"),
        (100, "one hundred"),
        (1005, "one thousand and five"),
        (9999, "nine thousand nine hundred and ninety-nine"),
    ]
    assert [written.number_in_words(n) for n, _ in words] == [text for _, text in words]
    ordinals = {
        1: "first",
        2: "second",
        3: "third",
        5: "fifth",
        8: "eighth",
        12: "twelfth",
        20: "twentieth",
        21: "twenty-first",
        30: "thirtieth",
    }
    for day, ordinal in ordinals.items():
        assert written.day_in_words(written.dt.date(2021, 1, day)) == f"the {ordinal} of January 2021"
    assert written.amount_in_words("GBP", 1, 1) == "one pound and one penny"
    assert written.amount_in_words("USD", 12, 50) == "twelve dollars and fifty cents"


def test_the_bag_of_words_learns_what_words_tell_and_not_their_order():
    told = [("good day", "yes"), ("bad day", "no"), ("good night", "yes"), ("bad night", "no")] * 5
    texts, labels = [bag.Bag.words(text) for text, _ in told], [label for _, label in told]
    regression = bag.Bag(texts, labels)
    assert regression.predict(texts) == labels
    np.testing.assert_allclose(regression.scores(texts).sum(1), 1, rtol=1e-6)
    crossed = [("a b", "yes"), ("a d", "no"), ("c b", "no"), ("c d", "yes")] * 5
    texts = [bag.Bag.words(text) for text, _ in crossed]
    assert np.abs(bag.Bag(texts, [label for _, label in crossed]).scores(texts) - 0.5).max() < 1e-3
    assert bag.majority(["b", "a", "b", "a"]) == "a"


def test_the_lookup_finds_what_words_tell():
    some = list(itertools.islice(sheets.training(9), 400))
    lookup = Lookup(some[:300])
    right = sum(lookup.likeliest(sheet) == (sheet.start, sheet.end) for sheet in some[300:])
    assert right > 2 * sum(lookup.usual(sheet) == (sheet.start, sheet.end) for sheet in some[300:])


@pytest.mark.ci  # 12 s
@pytest.mark.parametrize("name", ["sentiment", "encoder", "dates", "chat"])
def test_a_recipe_writes_a_model_with_its_card(name, tmp_path, capsys):
    pytest.importorskip("torch")
    out = tmp_path / "made"
    assert train.main([name, str(out), "--steps", "3"]) == 0
    assert "| this model | 0." in capsys.readouterr().out
    made = {file.name for file in out.iterdir()}
    assert made >= {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    if name in TASKS:
        assert made == {file.name for file in demo.path(name).iterdir()}
    with pytest.raises(InputError, match="exists"):
        train.main([name, str(out)])


@pytest.mark.parametrize(("headline", "label"), [("rise", "negative"), ("fall", "positive")])
def test_sentiment_without_a_model_uses_the_demo_and_says_so(headline, label, capsys):
    with miaotui.pipeline("sentiment-analysis") as pipe:
        [got] = pipe(f"Norvale costs {headline}")
    assert got["label"] == label
    assert "no model is given; text-classification uses the included" in capsys.readouterr().err
