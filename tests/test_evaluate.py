"""`miaotui evaluate` as a user calls it: models with random weights, the demo model, MiniLM."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from typing import TYPE_CHECKING, Any

import miaotui as mt
import numpy as np
import pytest
from helpers import complaint
from miaotui.errors import InputError
from miaotui.tools import cli, demo
from miaotui.tools.evaluate import scoring
from miaotui.tools.evaluate.answers import fitted, of_model
from miaotui.tools.evaluate.examples import Choice, Labelled, Similar, Text
from miaotui.tools.evaluate.labels import as_the_model_s
from miaotui.tools.evaluate.tags import entities_of
from miaotui.tools.evaluate.tasks import Settings
from miaotui.tools.perplexity import losses, measure
from task_models import ENTITIES, write_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LABELS = ("negative", "neutral", "positive")
TEXTS = ("Ana flew to Berlin.", "a very good film", "a bad company", "he makes tea for her", "London", "x " * 200)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("task") / "classes", "bert", "classes", labels=LABELS)


@pytest.fixture(scope="module")
def stories() -> Iterator[mt.Model]:
    with mt.load(demo.path()) as model:
        yield model


def written(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def predicted(model: Path) -> list[str]:
    with mt.pipeline("text-classification", model) as pipe:
        return [result["label"] for result in pipe(list(TEXTS), truncation=True)]


def test_a_classifier_s_report(classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of the classes are those that the model gives: the report says so, on the screen and in every file."""
    pytest.importorskip("sklearn")
    said = predicted(classifier)
    wrong = [LABELS[(LABELS.index(label) + 1) % 3] for label in said]
    gold = [s if i % 2 else w for i, (s, w) in enumerate(zip(said, wrong, strict=True))]
    data = written(tmp_path / "dev.jsonl", *({"text": t, "label": x} for t, x in zip(TEXTS, gold, strict=True)))
    terms = tmp_path / "terms.csv"
    terms.write_text("he,she\nhis,her\n")
    out, each = tmp_path / "report.json", tmp_path / "each.jsonl"
    command = ["evaluate", "text-classification", "--data", str(data), "--model", str(classifier), "--json", str(out)]
    assert cli.main([*command, "--predictions", str(each), "--swap", str(terms), "--seed", "5", "--threads", "1"]) == 0
    screen = capsys.readouterr()
    assert complaint(screen.err) == ""
    begin = "text-classification, dev.jsonl: 6 examples\nmodel: classes (bert)\naccuracy            0.5000\n"
    assert screen.out.startswith(begin)
    assert "2 pairs of terms exchanged, in 1 of 6 examples: " in screen.out
    report = json.loads(out.read_text())
    assert report["metrics"]["accuracy"] == 0.5
    assert report["seed"] == report["options"]["seed"] == 5
    assert report["options"]["threads"] == 1
    assert report["options"]["swap"] == str(terms)
    assert report["data"]["sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert report["swap"]["sha256"] == hashlib.sha256(terms.read_bytes()).hexdigest()
    assert report["model"] == {"name": "classes", "family": "bert", "included": False}
    assert sum(map(sum, report["confusion"]["counts"])) == len(TEXTS)
    assert report["fairness"]["changed"] == 1
    answers = [json.loads(line) for line in each.read_text().splitlines()]
    assert [a["answer"] for a in answers] == said
    assert [a["place"] for a in answers] == [f"{data}, line {i}" for i in range(1, 7)]
    assert all(
        sum(a["scores"].values()) == pytest.approx(1) and a["score"] == max(a["scores"].values()) for a in answers
    )


def test_the_same_report_twice_and_a_sample(classifier: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    data = written(tmp_path / "dev.jsonl", *({"text": t, "label": i % 3} for i, t in enumerate(TEXTS)))
    out = tmp_path / "report.json"

    def report(*more: str) -> dict[str, Any]:
        command = ["evaluate", "text-classification", "--data", str(data), "--model", str(classifier)]
        assert cli.main([*command, "--json", str(out), *more]) == 0
        return {k: v for k, v in json.loads(out.read_text()).items() if k not in ("seconds", "options")}

    whole = report()
    assert report("--threads", "2") == whole
    assert report("--sample", "99") == whole
    part = report("--sample", "3", "--seed", "1")
    assert (part["data"]["examples"], part["data"]["of"]) == (3, 6)
    assert part == report("--sample", "3", "--seed", "1")


@pytest.mark.ci  # 4 s: matplotlib
def test_pictures(classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    data = written(tmp_path / "dev.jsonl", *({"text": t, "label": i % 3} for i, t in enumerate(TEXTS)))
    picture = tmp_path / "report.svg"
    command = ["evaluate", "text-classification", "--data", str(data), "--model", str(classifier), "--plot"]
    assert cli.main([*command, str(picture)]) == 0
    first = picture.read_bytes()
    for word in (*LABELS, "Confusion matrix", "Reliability"):
        assert word in first.decode()
    assert cli.main([*command, str(picture)]) == 0
    assert picture.read_bytes() == first
    capsys.readouterr()
    assert cli.main([*command, str(tmp_path / "a.xyz")]) == 2
    assert f"--plot {tmp_path / 'a.xyz'}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "module", "said"),
    [
        (["text-classification", "--plot", "a.svg"], "matplotlib", "--plot needs matplotlib: pip install"),
        (["text-classification"], "sklearn", "a classification report needs scikit-learn: pip install 'miaotui[eval]'"),
        (["translation"], "sacrebleu", "BLEU and chrF need sacrebleu: pip install 'miaotui[eval]'"),
        (["summarization"], "rouge_score_rs", "ROUGE needs rouge-score-rs: pip install 'miaotui[eval]'"),
        (
            ["perplexity", "--log", "tensorboard", "runs"], "tensorboardX",
            "--log tensorboard needs tensorboardX: pip install 'miaotui[tensorboard]'",
        ),
    ],
)  # fmt: skip
def test_what_is_not_installed_is_said_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], module: str, said: str
) -> None:
    for other in ("sklearn", "sacrebleu", "rouge_score_rs", "matplotlib", "tensorboardX"):
        monkeypatch.setitem(sys.modules, other, None if other == module else sys)
    assert cli.main(["evaluate", words[0], "--data", "not-there.jsonl", *words[1:]]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.ci  # 8 s: tensorboardX
def test_runs_for_tensorboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401 - the format is its own

    data = tmp_path / "story.txt"
    data.write_text("Once upon a time there was a little girl. She had a red ball.")
    runs = tmp_path / "runs"
    for _ in range(2):
        command = ["evaluate", "perplexity", "--data", str(data), "--window", "32"]
        assert cli.main([*command, "--log", "tensorboard", str(runs)]) == 0
    assert f"{runs}: step 1" in capsys.readouterr().err
    told: list[tuple[int, str, float]] = []
    for file in sorted(runs.iterdir()):
        content, at = file.read_bytes(), 0
        while at < len(content):  # length, its checksum, the event, its checksum
            n = int.from_bytes(content[at : at + 8], "little")
            event = Event.FromString(content[at + 12 : at + 12 + n])
            told += [(event.step, v.tag, v.simple_value) for v in event.summary.value if v.HasField("simple_value")]
            at += 16 + n
    with mt.load(demo.path()) as model:
        wanted = measure(model, data.read_text(), window=32)["ppl"]
    of = [(step, value) for step, tag, value in told if tag == "perplexity/perplexity"]
    assert sorted(step for step, _ in of) == [0, 1]
    assert [value for _, value in of] == pytest.approx([wanted] * 2, rel=1e-6)


def test_perplexity_is_that_of_the_command(
    stories: mt.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["Once upon a time there was a cat.", "Tom had a red ball. He liked it."]
    told = [measure(stories, text, window=16) for text in texts]
    nats = [t["nll_per_token"] * t["n_tokens"] for t in told]
    data = written(tmp_path / "a.jsonl", *({"text": t} for t in texts))
    out = tmp_path / "a.json"
    assert cli.main(["evaluate", "perplexity", "--data", str(data), "--window", "16", "--json", str(out)]) == 0
    metrics = json.loads(out.read_text())["metrics"]
    n, size = sum(t["n_tokens"] for t in told), sum(len(t.encode()) for t in texts)
    assert metrics["nats_per_token"] == pytest.approx(sum(nats) / n)
    assert metrics["bits_per_byte"] == pytest.approx(sum(nats) / np.log(2) / size)
    assert metrics["tokens"] == n
    capsys.readouterr()
    written(data, {"text": texts[0]}, {"text": ""})
    assert cli.main(["evaluate", "perplexity", "--data", str(data)]) == 1
    assert f"{data}, line 2: too short" in capsys.readouterr().err


def test_likelihoods_are_those_of_the_logits(stories: mt.Model) -> None:
    """Shared contexts, forks and passes change no bit of them."""
    ids = stories.tokenizer.encode("Tom had a red ball. He played with it all day, and then he went home to his mum.")
    ends = [len(ids), 6, 7, 12]
    got = scoring.likelihoods(stories, ids[:5], [ids[5:end] for end in ends])
    logits = stories.logits(ids)
    for (log, greedy), end in zip(got, ends, strict=True):
        assert log == -math.fsum(losses(stories, ids[:end])[4:])
        assert greedy == bool((logits[4 : end - 1].argmax(axis=1) == ids[5:end]).all())
    greedy = stories.generate(ids[:5], max_new_tokens=6, ignore_eos=True).ids
    assert scoring.likelihoods(stories, ids[:5], [greedy])[0][1]


def test_choices_by_what_the_model_says(stories: mt.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is written in children's stories is likelier than its words in disorder."""
    rows = [
        {
            "question": "Once upon a time there was a little",
            "choices": ["the of and", "girl named Lily."],
            "answer": "B",
        },
        {"question": "Tom had a red", "choices": ["ball.", "because.", "very."], "answer": 0},
    ]
    data, out = written(tmp_path / "a.jsonl", *rows), tmp_path / "a.json"
    assert cli.main(["evaluate", "multiple-choice", "--data", str(data), "--json", str(out)]) == 0
    metrics = json.loads(out.read_text())["metrics"]
    assert metrics == pytest.approx({"accuracy": 1, "accuracy_per_byte": 1, "chance": (1 / 2 + 1 / 3) / 2})
    example = Choice("a", "Tom had a red", ("ball.", "because."), 0)
    [outcome] = scoring.choices(stories, [example], "Once. {question}")
    ids = stories.tokenizer.encode("Once. Tom had a red ball.")
    n = len(stories.tokenizer.encode("Once. Tom had a red"))
    assert outcome.scores["0"] == -float(losses(stories, ids)[n - 1 :].sum())
    assert outcome.scores["0/byte"] == outcome.scores["0"] / len("ball.")
    capsys.readouterr()
    assert cli.main(["evaluate", "multiple-choice", "--data", str(data), "--template", "Q:"]) == 2
    assert "--template 'Q:': lacks {question}, in whose place the question goes; add it" in capsys.readouterr().err


def test_similarities_of_an_encoder_and_of_a_cross_encoder(tmp_path: Path) -> None:
    examples = [Similar("a", "a good film", "a good film", 5), Similar("b", "a good film", "tea for Ana", 1)]
    with mt.load(write_model(tmp_path / "encoder", "bert")) as model:
        outcomes = list(scoring.similarities(model, examples))
        a, b = model.encode([examples[1].first, examples[1].second]).astype(np.float64)
    assert outcomes[0].score == pytest.approx(1)
    assert outcomes[1].score == pytest.approx(a @ b / np.sqrt(a @ a * (b @ b)))
    with mt.load(write_model(tmp_path / "cross", "bert", "classes", labels=("score",))) as model:
        outcomes = list(scoring.similarities(model, examples))
        assert [o.score for o in outcomes] == model.predict([(e.first, e.second) for e in examples]).ravel().tolist()
    with mt.load(write_model(tmp_path / "classes", "bert", "classes", labels=LABELS)) as model:
        told = scoring.similarities(model, examples)
        with pytest.raises(InputError, match="the model gives a pair 3 scores, expected one"):
            list(told)


def test_classes_as_the_model_calls_them() -> None:
    def names(*gold: str, labels: tuple[str, ...] = LABELS, **chosen: str) -> list[str]:
        examples = [Labelled(f"f, line {i}", "x", None, label) for i, label in enumerate(gold, 1)]
        table = as_the_model_s(examples, labels, chosen)
        return [table[label] for label in gold]

    assert names("positive", "negative") == ["positive", "negative"]
    assert names("Positive", "NEGATIVE") == ["positive", "negative"]
    assert names("2", "0") == ["positive", "negative"]
    assert names("good", "neutral", good="positive") == ["positive", "neutral"]
    assert names("1", "0", labels=("0", "1")) == ["1", "0"]
    with pytest.raises(
        InputError, match=r"f, line 2: the class 'bad' is none of the model's: 'negative', .*--labels bad=CLASS"
    ):
        names("positive", "bad")
    with pytest.raises(InputError, match="f, line 1: the class '3' is none of the model's"):
        names("3")
    with pytest.raises(InputError, match="--labels good=best: 'best' is no class of the model: 'negative'"):
        names("good", good="best")
    with pytest.raises(InputError, match="--labels well=positive: 'well' is no class of the file: 'good'"):
        names("good", well="positive")


def test_a_class_that_the_command_names(classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    data = written(tmp_path / "a.jsonl", {"text": "x", "label": "bad"})
    command = ["evaluate", "text-classification", "--data", str(data), "--model", str(classifier)]
    assert cli.main(command) == 1
    assert f"{data}, line 1: the class 'bad'" in capsys.readouterr().err
    assert cli.main([*command, "--labels", "bad=negative"]) == 0


def test_an_error_about_an_item_names_its_line(classifier: Path) -> None:
    with mt.load(classifier) as model:
        examples, settings = fitted("text-classification", [Labelled("f, line 7", 3, None, "0")], model, Settings())  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"\(f, line 7\)"):
            list(of_model("text-classification", model, settings)(examples))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["perplexity", "--labels", "a=b,c=d"], "--labels a=b,c=d: only of text-classification, token-classification"),
        (["perplexity", "--plot", "a.svg"], "--plot a.svg: only of text-classification, zero-shot-classification"),
        (
            ["text-classification", "--window", "8"],
            "--window 8: only of perplexity, and the task is text-classification",
        ),
        (["perplexity", "--window", "0"], "--window 0: expected at least 1"),
        (["perplexity", "--sample", "0"], "--sample 0: expected at least 1"),
        (["perplexity", "--seed", "-1"], "--seed -1: expected 0 or more"),
        (["perplexity", "--log", "wandb", "x"], "--log wandb x: expected tensorboard and a directory"),
        (["perplexity", "--columns", "text"], "argument --columns: expected NAME=NAME"),
        (["perplexity", "--columns", "colour=x"], "--columns colour=x: expected one of the fields"),
        (["perplexity", "--columns", "tekst=x"], "choices, answer (did you mean text?)"),
        (["translation", "--columns", "target=x"], "choices, answer (did you mean references?)"),
        (["perplexity", "--columns", "text=x"], "a.jsonl, line 1 has no such column; found text, label"),
        (["perplexity", "--data", "none.jsonl"], "--data: 'none.jsonl': cannot be read (No such file or directory)"),
        (["perplexity", "--swap", "none.csv"], "--swap: 'none.csv': cannot be read (No such file or directory)"),
        (["perplexities"], "did you mean perplexity?"),
        (["perplexity", "--format", "squad"], "--format squad: holds data of question-answering"),
        (["fill-mask"], "TASK: invalid choice: 'fill-mask'"),
        (["zero-shot-classification"], "--model: not given, and no included model does zero-shot-classification"),
    ],
)
def test_what_a_task_does_not_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    data = written(tmp_path / "a.jsonl", {"text": "x", "label": "y"})
    monkeypatch.setattr("miaotui.tools.evaluate.extras.NEEDED", {})  # what is not installed is another test's
    try:
        assert cli.main(["evaluate", words[0], "--data", str(data), *words[1:]]) == 2
    except SystemExit as e:
        assert e.code == 2  # noqa: PT017 - argparse's own
    assert said.removeprefix("argument ") in capsys.readouterr().err


def test_a_model_that_cannot_do_the_task(classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = written(tmp_path / "a.jsonl", {"text": "x", "words": ["x"], "tags": ["O"]})
    assert cli.main(["evaluate", "token-classification", "--data", str(data), "--model", str(demo.path())]) == 1
    assert "token-classification: this llama model is a decoder" in capsys.readouterr().err
    short = ["--model", str(classifier), "--window", "32"]
    assert cli.main(["evaluate", "perplexity", "--data", str(data), *short]) == 1
    assert "perplexity: bert is an encoder, which predicts no next token" in capsys.readouterr().err
    with mt.load(classifier) as model, pytest.raises(InputError, match="multiple-choice: bert is an encoder"):
        list(of_model("multiple-choice", model, Settings())([Choice("a", "q", ("x", "y"), 0)]))


def test_an_empty_text_has_a_likelihood_of_nothing(stories: mt.Model) -> None:
    with pytest.raises(InputError, match="line 3: too short"):
        list(scoring.texts(stories, [Text("f, line 3", "")], 8))


# tasks that pipelines do: what the model itself says is right


def metrics_of(*words: str, data: Path, model: Path) -> dict[str, float]:
    out = data.with_suffix(".report.json")
    command = ["evaluate", words[0], "--data", str(data), "--model", str(model), "--json", str(out), *words[1:]]
    assert cli.main(command) == 0
    metrics: dict[str, float] = json.loads(out.read_text())["metrics"]
    return metrics


def conll_of(sentences: list[list[str]], tags: list[list[str]]) -> str:
    pairs = [zip(words, of, strict=True) for words, of in zip(sentences, tags, strict=True)]
    return "\n".join("".join(f"{word}\t{tag}\n" for word, tag in sentence) for sentence in pairs)


def test_entities_that_the_model_says_are_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "ner", "bert", "token_classes", labels=ENTITIES)
    sentences = [text.split() for text in (*TEXTS[:4], "Ruiz of Paris , London and Germany .")]
    told: list[list[str]] = []
    with mt.pipeline("token-classification", model) as pipe:
        for words in sentences:
            tokens = pipe(" ".join(words), ignore_labels=[])
            starts = np.cumsum([0, *[len(word) + 1 for word in words[:-1]]])
            told.append([next(t["entity"] for t in tokens if t["start"] == start) for start in starts])
    assert len({tag for tags in told for tag in tags}) > 2
    data = tmp_path / "test.conll"
    data.write_text(conll_of(sentences, told))
    assert metrics_of("token-classification", data=data, model=model)["f1"] == 1
    assert metrics_of("token-classification", "--sample", "2", data=data, model=model)["f1"] == 1
    told[0] = ["O"] * len(sentences[0])
    data.write_text(conll_of(sentences, told))
    assert metrics_of("token-classification", data=data, model=model)["recall"] == 1
    assert metrics_of("token-classification", data=data, model=model)["precision"] < 1
    assert "support" in capsys.readouterr().out


def test_types_that_the_model_lacks_are_named_and_may_be_given_its_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "ner", "bert", "token_classes", labels=ENTITIES)
    data, out = tmp_path / "test.conll", tmp_path / "a.json"
    data.write_text("Ana B-person\nflew O\nto O\nParis B-place\n")
    command = ["evaluate", "ner", "--data", str(data), "--model", str(model), "--json", str(out)]
    assert cli.main(command) == 0
    told = "the model finds 'LOC', 'PER', and the file has 'person', 'place' too, which it cannot get right"
    assert f"note: {told}. Where one is another by name: --labels person=LOC" in capsys.readouterr().out
    assert json.loads(out.read_text())["notes"][0].startswith(told)
    assert cli.main([*command, "--labels", "person=PER,place=LOC"]) == 0
    report = json.loads(out.read_text())
    assert (report["notes"], list(report["classes"])) == ([], ["LOC", "PER"])
    assert [report["classes"][name]["support"] for name in ("LOC", "PER")] == [1, 1]
    data.write_text("Ana B-per\nflew O\n")
    capsys.readouterr()
    assert cli.main(command) == 0  # the same but for capitals
    assert "note" not in capsys.readouterr().out
    assert cli.main([*command, "--labels", "per=ORG"]) == 2
    assert "--labels per=ORG: 'ORG' is no type of entity of the model: 'LOC', 'PER'" in capsys.readouterr().err


def test_prose_is_no_conll(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "prose.txt"
    for text, line in (
        ("Norvale costs rise\nTarn Motors fall\n", "line 1: 'rise'"),
        ("It was\nof blood group O\nAna flew to Berlin\n", "line 1: 'was'"),
    ):
        data.write_text(text)
        assert cli.main(["evaluate", "ner", "--data", str(data)]) == 1
        assert f"{data}, {line} is no tag; expected CoNLL" in capsys.readouterr().err
    data.write_text("Ana PER\nflew O\n")  # tags without prefixes are taken
    assert cli.main(["evaluate", "ner", "--data", str(data)]) == 0


def test_entities_by_character(tmp_path: Path) -> None:
    model = write_model(tmp_path / "ner", "bert", "token_classes", labels=ENTITIES)
    text = "日本語中文字"
    with mt.pipeline("token-classification", model) as pipe:
        [*tokens] = pipe(text, ignore_labels=[])
    tags = ["O"] * len(text)
    for token in tokens:
        kind = token["entity"][2:]
        inside = ["I-" + kind if kind else "O"] * (token["end"] - token["start"])
        tags[token["start"] : token["end"]] = [token["entity"], *inside[1:]]
    label: dict[str, dict[str, list[list[int]]]] = {}
    for kind, first, last in entities_of(tags):
        label.setdefault(kind, {}).setdefault(text[first : last + 1], []).append([first, last])
    data = written(tmp_path / "cluener.json", {"text": text, "label": label})
    assert label
    assert metrics_of("token-classification", "--format", "cluener", data=data, model=model)["f1"] == 1


def test_answers_that_the_model_gives_are_right(tmp_path: Path) -> None:
    model = write_model(tmp_path / "qa", "bert", "spans")
    asked = [("Who flew?", "Ana Ruiz flew to Berlin with her tea."), ("What?", "The capital of Germany is Berlin.")]
    with mt.pipeline("question-answering", model) as pipe:
        told = [pipe(question=q, context=c)["answer"] for q, c in asked]
        none = [pipe(question=q, context=c, handle_impossible_answer=True)["answer"] for q, c in asked]
    qas = [
        {"context": c, "qas": [{"id": str(i), "question": q, "answers": [{"text": a, "answer_start": c.index(a)}]}]}
        for i, ((q, c), a) in enumerate(zip(asked, told, strict=True))
    ]
    data = written(tmp_path / "dev.json", {"data": [{"title": "t", "paragraphs": qas}]})
    assert metrics_of("question-answering", data=data, model=model) == {"exact_match": 100, "f1": 100}
    assert metrics_of("question-answering", "--chinese", data=data, model=model) == {"exact_match": 100, "f1": 100}
    qas[1]["qas"][0] |= {"answers": [], "is_impossible": True}  # type: ignore[index]  # the objects above
    data = written(tmp_path / "dev2.json", {"data": [{"title": "t", "paragraphs": qas}]})
    metrics = metrics_of("question-answering", data=data, model=model)
    assert metrics["unanswerable_exact_match"] == 100 * (none[1] == "")
    assert metrics["answerable_exact_match"] == 100 * (none[0] == told[0])


def test_zero_shot_chooses_among_the_classes_of_the_file(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    model = write_model(tmp_path / "nli", "bert", "classes", labels=("contradiction", "neutral", "entailment"))
    classes, how = ["politics", "science", "sport"], "It is about {}."
    with mt.pipeline("zero-shot-classification", model) as pipe:
        told = [pipe(t, candidate_labels=classes, hypothesis_template=how)["labels"][0] for t in TEXTS[:4]]
    gold = [*told, *classes]
    texts = [*TEXTS[:4], *TEXTS[:3]]
    data = written(tmp_path / "a.jsonl", *({"text": t, "label": x} for t, x in zip(texts, gold, strict=True)))
    metrics = metrics_of("zero-shot-classification", "--hypothesis-template", how, data=data, model=model)
    again = sum(a == b for a, b in zip(told, classes, strict=False))
    assert metrics["accuracy"] == pytest.approx((4 + again) / 7)


# made texts, by a pipeline that stands in for one


@pytest.mark.parametrize(
    ("task", "result", "words", "given"),
    [
        ("summarization", [{"summary_text": "a red ball"}], [], {"truncation": True}),
        ("translation", {"translation_text": "a red ball"}, ["--tgt-lang", "fra_Latn"], {"tgt_lang": "fra_Latn"}),
        ("text2text-generation", {"generated_text": "a red ball"}, ["--max-new-tokens", "8"], {"max_new_tokens": 8}),
        ("text-generation", [{"generated_text": "a red ball"}], [], {"do_sample": False, "return_full_text": False}),
    ],
)
def test_made_texts_in_the_forms_of_their_pipelines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, result: object, words: list[str], given: dict[str, Any]
) -> None:
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score_rs")
    asked: list[Any] = []

    def pipe(items: Iterator[str], **parameters: object) -> Iterator[object]:
        asked.append(parameters)
        for item in items:
            asked.append(item)
            yield result

    monkeypatch.setattr("miaotui.tools.evaluate.answers.pipeline", lambda name, _: pipe if name == task else None)
    data = written(tmp_path / "a.jsonl", {"source": "x", "target": "a red ball"}, {"source": "y", "target": "a ball"})
    metrics = metrics_of(task, *words, data=data, model=demo.path())
    assert given.items() <= asked[0].items()
    assert asked[1:] == ["x", "y"]
    assert metrics["exact_match"] == 50
    assert metrics["rouge1"] == pytest.approx(100 * (1 + 0.8) / 2)
