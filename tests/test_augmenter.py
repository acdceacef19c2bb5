"""The augmenter of docs/examples: new texts keep their labels, and a small classifier learns more from them."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import miaotui
import pytest
from miaotui.tools import demo

FILE = Path(__file__).resolve().parent.parent / "docs" / "examples" / "augmenter" / "augmenter.py"


@pytest.fixture(scope="module")
def app():
    spec = importlib.util.spec_from_file_location("augmenter", FILE)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look there
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def two():
    with (
        miaotui.pipeline("fill-mask", demo.path("encoder")) as fill,
        miaotui.pipeline("text-classification", demo.path("sentiment")) as judge,
    ):
        yield fill, judge


def test_a_substitution_changes_one_word(app, two):
    texts = [text for text, _ in app.sample(30, 3)]
    new = app.Augmenter(*two).substituted(texts)
    for text, other in zip(texts, new, strict=True):
        assert sum(a != b for a, b in zip(app.WORD.findall(text), app.WORD.findall(other), strict=True)) <= 1
    assert sum(text != other for text, other in zip(texts, new, strict=True)) > 20


def test_the_same_seed_makes_the_same_texts(app, two):
    texts = [text for text, _ in app.sample(5, 3)]
    first, again, other = (app.Augmenter(*two, seed).paraphrased(texts) for seed in (1, 1, 2))
    assert first == again != other
    assert all(len(app.WORD.findall(a)) == len(app.WORD.findall(b)) for a, b in zip(texts, first, strict=True))


def test_what_is_kept_has_the_label_of_its_text(app, two):
    fill, judge = two
    labelled = [("Norvale costs fall", "positive"), ("Norvale costs rise", "negative")]
    new = ["Norvale debts fall", "Norvale sales rise"]
    assert app.Augmenter(fill, judge).kept(labelled, new) == [("Norvale debts fall", "positive")]
    grown = app.Augmenter(fill, judge).grown(labelled, 4)
    assert grown[:2] == labelled
    assert len({text for text, _ in grown}) == len(grown) > 2
    assert [each["label"] for each in judge([text for text, _ in grown])] == [label for _, label in grown]


@pytest.mark.ci  # 15 s
def test_what_it_adds_helps_a_small_classifier(app, capsys):
    assert app.main([]) == 0
    out = capsys.readouterr().out
    assert "✓" in out
    without, with_added = (
        float(re.search(rf"^ +{name} .* (0\.\d+)$", out, re.MULTILINE)[1]) for name in ("without", "with")
    )
    assert with_added > without


def test_numbers_that_are_none_are_refused(app, capsys):
    assert app.main(["--texts", "0"]) == 1
    assert "augmenter: --texts 0 --rounds 8: expected whole numbers of at least 1" in capsys.readouterr().err
