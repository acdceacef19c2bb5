"""The demo models for tasks: small, as good as their cards say, and better than a bag of words."""

from __future__ import annotations

import itertools
import random
import re

import miaotui
import numpy as np
import pytest
import soak
from miaotui.errors import InputError
from miaotui.tools import cli, demo
from miaotui.tools.demo import train
from miaotui.tools.demo.recipes import (
    bag,
    card,
    encoders,
    every,
    headlines,
    matching,
    messages,
    pattern,
    questions,
    sheet_phrases,
    sheets,
    talks,
    varied_sheets,
    written,
)
from miaotui.tools.demo.recipes.lookup import Lookup
from miaotui.tools.pipelines import registry
from tokenizers import Tokenizer

TASKS = tuple(name for name in demo.NAMES if name != "story")
ROWS = {"this model": "model", "majority class": "majority", "bag-of-words regression": "bag"}


def _size(name: str) -> int:
    return sum(file.stat().st_size for file in demo.path(name).rglob("*") if file.is_file())


def _said(name: str) -> dict[str, str]:
    """The scores of a card, as they stand there."""
    text = (demo.path(name) / "README.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| ([\w -]+) \| (\d\.\d{3}) \|", text, re.MULTILINE))


def _also(name: str) -> list[str]:
    """The second column of a card's table: of the model, of the most frequent class."""
    text = (demo.path(name) / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^\| [\w -]+ \| \d\.\d{3} \| (\d\.\d{3}) \|$", text, re.MULTILINE)


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


@pytest.mark.ci  # 10 s
@pytest.mark.parametrize("name", soak.rest("recipes", TASKS, ["sentiment", "answers"]))
def test_the_card_s_scores_are_those_of_the_shipped_model(name):
    got = card.scores(name, demo.path(name))
    said = _said(name)
    assert f"{got.model:.3f}" == said["this model"]
    for row in ("majority class", "bag-of-words regression"):  # sums by BLAS: their last bits are the machine's
        assert abs(getattr(got, ROWS[row]) - float(said[row])) <= 0.01
    assert _also(name) == ([] if got.also is None else [f"{got.also.model:.3f}", f"{got.also.majority:.3f}"])


def test_hidden_words_are_guessed_better_than_by_the_most_frequent():
    model, usual = map(float, _also("encoder"))
    assert model > 3 * usual


#: Corpus -> its texts as they are read, in training and held out.
CORPORA = {
    "headlines": ((t for t, _ in headlines.training(1)), [t for t, _ in headlines.held_out(400)]),
    "messages": ((t for t, _ in messages.training(1)), [t for t, _ in messages.held_out(300)]),
    "sheets": (
        (f"{s.question} {s.text}" for s in sheets.training(1)),
        [f"{s.question} {s.text}" for s in sheets.held_out(300)],
    ),
    "varied sheets": (
        (f"{s.question} {s.text}" for s in varied_sheets.training(1)),
        [f"{s.question} {s.text}" for s in varied_sheets.held_out(300)],
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
        *(
            (sheet_phrases.SAID[f] + sheet_phrases.FIELDS[f], sheets.HELD_FACTS[f].said + sheets.HELD_FACTS[f].asked)
            for f in sheets.FACTS
        ),
        (messages.PATTERNS, messages.HELD_PATTERNS),
    ]
    assert all(ours and theirs and not set(ours) & set(theirs) for ours, theirs in both)


def test_corpora_are_the_same_each_time_and_their_spans_are_words():
    for make in (headlines, messages, sheets, varied_sheets, questions, talks, written):
        first, again = (list(itertools.islice(make.training(7), 200)) for _ in range(2))
        assert first == again
        assert make.held_out(50) == make.held_out(50)
    for text, spans in [*itertools.islice(messages.training(3), 1000), *messages.held_out(200)]:
        for span in spans:
            name = text[span.start : span.end]
            assert name == name.strip() != ""
            assert not re.match(r"\w", text[span.end :]), text
    for make in (sheets, varied_sheets):
        for sheet in [*itertools.islice(make.training(3), 500), *make.held_out(100)]:
            assert sheet.answer == sheet.answer.strip() != ""
            assert not re.search(r"\w$", sheet.text[: sheet.start]), sheet
            assert not re.match(r"\w", sheet.text[sheet.end :]), sheet


def test_varied_sheets_have_no_word_that_is_new_in_what_is_held_out():
    reserved = varied_sheets.reserved()
    assert {"housing", "roughly", "unplugged", "slovenia", "1050"} <= reserved
    said = [*sheet_phrases.SAID.values(), *sheet_phrases.FIELDS.values()]
    around = (sheet_phrases.FRAMES, sheet_phrases.BEFORE, sheet_phrases.AFTER, sheet_phrases.ASIDES)
    patterns = itertools.chain(*said, *around, sheet_phrases.OPENINGS)
    assert not [p for p in patterns if reserved & set(pattern.words_in(re.sub(r"\{\w+\}", " ", p)))]
    for sheet in itertools.islice(varied_sheets.training(5), 3000):
        assert not reserved & set(pattern.words_in(f"{sheet.question} {sheet.text}"))


def test_equal_tokens_attend_to_each_other_before_any_training():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = Tokenizer.from_file(str(demo.path("sentiment") / "tokenizer.json"))
    torch.manual_seed(3)
    model = transformers.BertModel(encoders.bert(tokenizer), add_pooling_layer=False).eval()
    model.set_attn_implementation("eager")
    ids = torch.tensor([[40, 700, 900, 300, 41, 1000, 700, 1200, 300, 1400]])

    def among_equals() -> torch.Tensor:
        """The share of attention that 700 and 300 pay to the other 700 and 300, by head of the first layer."""
        with torch.no_grad():
            weights = model(ids, output_attentions=True).attentions[0][0]  # [n_heads, T, T]
        return sum(weights[:, i, j] for i, j in ((1, 6), (6, 1), (3, 8), (8, 3))) / 4

    before = among_equals()
    matching.start_matching(model)
    after = among_equals()
    assert before.max() < 0.2  # of ten tokens, each as good as another
    assert after[: matching.HEADS].min() > 0.25
    assert after[matching.HEADS :].max() < 0.2


def test_waves_are_alike_where_they_are_near():
    pytest.importorskip("torch")
    x = matching.waves(64, 32).numpy()
    alike = x @ x[20] / 16
    assert alike.argmax() == 20
    assert alike[20] == pytest.approx(1, abs=1e-5)
    assert alike[19] == pytest.approx(alike[21], abs=1e-5)
    assert alike[21] > alike[22] > alike[24]
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


@pytest.mark.ci  # 25 s
@pytest.mark.parametrize(
    "name", soak.rest("recipes", ["sentiment", "answers", "encoder", "dates", "chat"], ["sentiment", "encoder"])
)
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


def test_a_question_without_a_model_is_answered_by_the_demo(capsys):
    sheet = "The Brenta 40 is a garden lamp. Its battery lasts 11 hours. The warranty is two years. Weight: 3.1 kg."
    asked = {"How long is the warranty?": "two years", "How heavy is it?": "3.1 kg"}
    with miaotui.pipeline("question-answering") as pipe:
        assert {question: pipe(question=question, context=sheet)["answer"] for question in asked} == asked
    assert "question-answering uses the included model 'answers'\n" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["text2text-generation", "summarization", "translation_en_to_de"])
def test_who_stands_in_says_what_it_does(task, capsys):
    with miaotui.pipeline(task) as pipe:
        [[got]] = [pipe("It came on the third of March 2021.")]
    assert "2021-03-03" in got.values()
    assert "the included model 'dates', which writes days and amounts in ISO form" in capsys.readouterr().err


def test_a_text_without_a_model_is_continued_by_the_chat_model(capsys):
    with miaotui.pipeline("text-generation", max_new_tokens=8) as pipe:
        [got] = pipe("Once upon a time", do_sample=False)
    assert len(got["generated_text"]) > len("Once upon a time, ")
    assert "uses the included model 'chat', which answers questions about a paragraph" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["zero-shot-classification", "text-ranking"])
def test_tasks_that_no_included_model_does_ask_for_one(task, tmp_path, capsys):
    with pytest.raises(InputError, match=rf"^model: not given, and no included model does {task} .*; give a directory"):
        miaotui.pipeline(task)
    lines = tmp_path / "lines.txt"
    lines.write_text("a\n", encoding="utf-8")
    assert cli.main(["run", task, "--input", str(lines), "--output", str(tmp_path / "out.jsonl")]) == 2
    assert f"--model: not given, and no included model does {task}" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_every_included_model_of_a_task_is_there():
    assert set(demo.OF_TASKS.values()) | set(demo.DOES) <= set(demo.NAMES)
    assert all((demo.path(name) / "config.json").exists() for name in demo.NAMES)
    assert {task.name for task in registry.TASKS} - set(demo.OF_TASKS) >= {"zero-shot-classification", "text-ranking"}


def test_vectors_and_masks_without_a_model_use_the_demo_encoder(capsys):
    with miaotui.pipeline("sentence-similarity") as pipe:
        near, far = pipe(source_sentence="how do I send it back?", sentences=["How do I return an item?", "Once more!"])
    assert near > far + 0.2
    with miaotui.pipeline("fill-mask") as pipe:
        best = [each["token_str"] for each in pipe("how do I [MASK] my order?")]
    assert {"cancel", "change", "track"} & set(best)
    with miaotui.pipeline("feature-extraction") as pipe:
        assert np.shape(pipe("Where is my parcel?")) == (1, 7, 64)
    said = capsys.readouterr().err
    for task in ("sentence-similarity", "fill-mask", "feature-extraction"):
        assert f"no model is given; {task} uses the included model 'encoder'" in said


def test_the_encoder_is_one_of_sentence_transformers():
    texts = ["Where is my parcel?", "How can I pay?"]
    with miaotui.load(demo.path("encoder")) as model, miaotui.SentenceEncoder(demo.path("encoder")) as encoder:
        vectors = model.encode(texts)
        np.testing.assert_array_equal(vectors, encoder.encode(texts))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)


@pytest.mark.ci  # 10 s
def test_the_encoder_s_vectors_and_guesses_are_those_of_transformers():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    text = "how do I [MASK] my order?"
    theirs = transformers.BertForMaskedLM.from_pretrained(demo.path("encoder"), dtype=torch.float64).eval()
    with miaotui.load(demo.path("encoder")) as model, torch.no_grad():
        ids = model.tokenizer.encode(text)
        mean = theirs.bert(torch.tensor([ids])).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(model.encode(text), (mean / mean.norm()).numpy(), atol=1e-5)
        np.testing.assert_allclose(model.logits(ids), theirs(torch.tensor([ids])).logits[0].numpy(), atol=1e-3)


def test_texts_without_strange_words_are_those_of_the_patterns():
    for plain, strange in zip(every.plain_texts(), every.texts(), strict=True):
        some = [{w for t in itertools.islice(source, 2000) for w in pattern.words_in(t)} for source in (plain, strange)]
        assert len(some[0]) < len(some[1])
    words = {word for text in itertools.islice(every.plain_texts()[3], 2000) for word in text.lower().split()}
    assert {"parcel?", "cancel"} < words
