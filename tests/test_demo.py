"""The model that comes along: small, a checkpoint like any other, and it tells stories that end."""

from __future__ import annotations

import itertools
import math
import re

import miaotui
import numpy as np
import pytest
from miaotui.tools import demo
from miaotui.tools.demo import corpus, grammar
from miaotui.tools.demo.held_out import perplexity
from tolerance import bound

BEGINNING = "Once upon a time"
WORDS = set(re.findall(r"[a-z]+", " ".join(itertools.islice(corpus.stories(corpus.TRAINING_SEED), 3000)).lower()))


@pytest.fixture(scope="module")
def model():
    with miaotui.load(demo.path()) as m:
        yield m


def test_it_is_small():
    assert sum(file.stat().st_size for file in demo.path().iterdir()) < 4e6


def test_transformers_loads_it_and_agrees(model):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(demo.path(), dtype=torch.float64).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo.path())
    for story in corpus.held_out(3):
        ids = model.tokenizer.encode(story)
        assert ids == tokenizer(story)["input_ids"]
        assert model.tokenizer.decode(ids) == story
        with torch.no_grad():
            exact = theirs(torch.tensor([ids])).logits[0].numpy()
        tolerance = bound("model", "bf16", model.config.n_layers, np.abs(exact).max())
        assert np.abs(model.logits(ids) - exact).max() <= tolerance


def test_held_out_perplexity_is_the_model_card_s(model):
    value, count = perplexity(model, corpus.held_out(40))
    assert count > 40 * 150
    assert math.isclose(value, 1.182, rel_tol=0.02)  # forty stories instead of two hundred


@pytest.mark.parametrize("seed", [None, 1, 2, 3, 4, 5])
def test_its_stories_end_and_are_made_of_words(model, seed):
    how = {} if seed is None else {"temperature": 0.8, "seed": seed, "do_sample": True}
    told = model.generate(BEGINNING, max_new_tokens=400, **how)
    text = BEGINNING + told.text
    assert told.finish_reason == "eos"
    assert text.endswith((".", '"'))
    assert 80 <= len(text.split()) <= 260
    names = re.findall(r"named ([A-Z][a-z]+)", text)
    assert 1 <= len(names) <= 3
    assert text.count(names[0]) >= 3, "the hero's name is forgotten"
    strange = {w for w in re.findall(r"[a-z]+", text.lower()) if w not in WORDS}
    assert strange <= {n.lower() for n in names}


def test_the_corpus_is_the_same_each_time_and_apart_from_what_is_held_out():
    first, again = (list(itertools.islice(corpus.stories(corpus.TRAINING_SEED), 500)) for _ in range(2))
    assert first == again
    assert len(set(first)) == 500
    assert not set(first) & set(corpus.held_out(500))


def test_the_grammar_leaves_no_blank_and_no_wrong_article():
    for story in itertools.islice(corpus.stories(7), 3000):
        assert not re.search(r"[{}|]|  ", story)
        assert not re.search(r"\b[Aa] [aeiou]", story)
    for plot in grammar.PLOTS:
        assert all(len(beat) >= 2 for beat in plot)
