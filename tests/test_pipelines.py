"""`mt.pipeline`: forms of input, parameters, errors; what tasks give is compared in tests/test_pipeline_outputs.py."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import miaotui as mt
import pytest
from checkpoints import small, write_checkpoint
from miaotui.errors import InputError, MiaotuiWarning, TokenizerError
from task_models import ENTITIES, write_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LABELS = ("negative", "neutral", "positive")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("task") / "classes", "bert", "classes", labels=LABELS)


TEXTS = ["Ana flew to Berlin.", "", "a very good film 😀", "日本語"]


def test_output_has_the_form_of_the_input(classifier: Path, tmp_path: Path) -> None:
    with mt.pipeline("text-classification", classifier) as pipe:
        alone = [pipe(text)[0] for text in TEXTS]
        assert all(isinstance(each["score"], float) and each["label"] in LABELS for each in alone)
        assert len({each["score"] for each in alone}) == len(TEXTS)
        assert pipe(TEXTS) == pipe(tuple(TEXTS)) == alone
        assert pipe({"text": TEXTS[0]}) == alone[0]
        assert list(pipe(iter(TEXTS))) == alone
        assert pipe([]) == []
        (tmp_path / "a.txt").write_bytes("\r\n".join([*TEXTS, ""]).encode())
        (tmp_path / "a.jsonl").write_text("\n\n".join(json.dumps({"text": text}) for text in TEXTS))
        for name in ("a.csv", "a.tsv"):
            (tmp_path / name).write_text("text\n" + "".join(f'"{text}"\n' for text in TEXTS), encoding="utf-8")
        (tmp_path / "a.ndjson").write_bytes((tmp_path / "a.jsonl").read_bytes())
        for name in ("a.txt", "a.jsonl", "a.ndjson", "a.csv", "a.tsv"):
            assert list(pipe(tmp_path / name)) == alone
        assert pipe.task == "text-classification"
        assert pipe.model.config.labels == LABELS


def test_an_iterator_is_read_a_pass_ahead_at_most(classifier: Path) -> None:
    taken = 0

    def texts() -> Iterator[str]:
        nonlocal taken
        while True:  # without an end: a list of it would never come back
            taken += 1
            yield "a good film"

    with mt.pipeline("text-classification", classifier, prefill_chunk=32) as pipe:
        results = pipe(texts())
        assert taken == 0
        for _ in range(50):
            next(results)
        assert 50 <= taken < 70


def test_parameters_of_the_constructor_hold_until_a_call_gives_others(classifier: Path) -> None:
    with mt.pipeline("sentiment-analysis", classifier, top_k=2, threads=1) as pipe, mt.load(classifier) as model:
        assert [len(pipe(text, top_k=k)) for text in TEXTS for k in (1, None)] == [1, 3] * len(TEXTS)
        [two] = pipe(TEXTS[0])
        assert [each["label"] for each in two] == [each["label"] for each in pipe(TEXTS[0], top_k=3)[:2]]
        assert pipe.model.threads == 1
        raw = pipe(TEXTS[0], top_k=None, function_to_apply="none")
        ids, types = model.tokenizer.framed(TEXTS[0])
        logits = model.logits(ids, token_types=types)
        assert sorted(each["score"] for each in raw) == sorted(logits.tolist())
        with mt.pipeline(model=model) as other:
            assert other.task == "text-classification"
        assert model.logits(ids).shape == (3,)  # not closed with the pipeline


@pytest.mark.parametrize(("kind", "function"), [("regression", "none"), ("multi_label_classification", "sigmoid")])
def test_the_problem_s_type_chooses_the_function(tmp_path: Path, kind: str, function: str) -> None:
    directory = write_model(tmp_path / "model", "roberta", "classes", labels=LABELS, problem_type=kind)
    with mt.pipeline(model=directory, top_k=None) as pipe:
        assert pipe(TEXTS) == pipe(TEXTS, function_to_apply=function)
        assert pipe(TEXTS) != pipe(TEXTS, function_to_apply="softmax")


def test_bad_parameters_are_refused_by_name(classifier: Path) -> None:
    for words, parameters in {
        "top_k=0": {"top_k": 0},
        "top_k=True": {"top_k": True},
        "function_to_apply='max'": {"function_to_apply": "max"},
        r"top_j \(did you mean top_k\?\)": {"top_j": 1},
        "truncation='first'": {"truncation": "first"},
        "max_length=0": {"max_length": 0},
    }.items():
        with mt.pipeline(model=classifier) as pipe, pytest.raises(InputError, match=words):
            pipe("a", **parameters)
    with pytest.raises(
        InputError, match=r"task='sentiment': no such task \(did you mean sentiment-analysis\?\); known"
    ):
        mt.pipeline("sentiment", classifier)
    with pytest.raises(InputError, match="neither task nor model"):
        mt.pipeline()
    with pytest.raises(InputError, match="model: not given"):
        mt.pipeline("text-ranking")
    with pytest.raises(InputError, match="parameter of text-classification thread"):
        mt.pipeline("text-classification", classifier, thread=1)
    with mt.load(classifier) as model, pytest.raises(InputError, match="threads: an option of load"):
        mt.pipeline(model=model, threads=1)


def test_bad_items_are_refused_by_number(classifier: Path, tmp_path: Path) -> None:
    long = "a good film " * 30
    with mt.pipeline(model=classifier) as pipe:
        with pytest.raises(
            InputError, match=r"92 tokens, this model takes 64; give a shorter text, or truncation=True$"
        ):
            pipe(long)
        with pytest.raises(InputError, match=r"92 tokens.*\(item 2 of the input, counted from 0\)"):
            pipe(["a", "b", long])
        with pytest.raises(InputError, match=r"7 found, expected a text.*\(item 1"):
            pipe(["a", 7])
        with pytest.raises(InputError, match="7 found, expected a text, a list"):
            pipe(7)
        with pytest.raises(InputError, match=r"\['a', 'b'\] found, .*text_pair"):
            pipe([["a", "b"]])
        assert pipe(long, truncation=True, max_length=12) == pipe(" ".join(long.split()[:10]))
        (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
        results = pipe(tmp_path / "bad.jsonl")
        with pytest.raises(InputError, match=r"bad\.jsonl, line 2: not valid JSON"):
            list(results)
        endings = r"\.txt, \.text, \.jsonl, \.ndjson, \.csv, \.tsv"
        for name, words in {"none.txt": "cannot be read", "x.parquet": endings}.items():
            with pytest.raises(InputError, match=words):
                pipe(tmp_path / name)
        (tmp_path / "bad.csv").write_text("text,text_pair\na,b\nc\n")
        with pytest.raises(InputError, match=r"bad\.csv, line 3: 1 field, where the header has 2"):
            list(pipe(tmp_path / "bad.csv"))
        (tmp_path / "quoted.tsv").write_text('text\na\n"b\n')
        with pytest.raises(InputError, match=r"quoted\.tsv, line 3: a quotation mark"):
            list(pipe(tmp_path / "quoted.tsv"))
        for name in ("none.csv", "none.tsv"):
            (tmp_path / name).write_text("")
            with pytest.raises(InputError, match=f"{name}: it is empty; expected a first line"):
                list(pipe(tmp_path / name))
        (tmp_path / "none.ndjson").write_text("\n")
        assert list(pipe(tmp_path / "none.ndjson")) == []
        with pytest.raises(TokenizerError, match=r"a lone surrogate at 1, .*\(item 1 of the input, counted from 0\)"):
            pipe(["a", "b\ud800"])


def test_an_encoder_s_task_is_refused_of_others(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "llama", small("llama"))
    write_model(tmp_path / "plain", "bert")
    write_model(tmp_path / "masked", "bert", "masked_lm")
    for name, words in {
        "llama": "this llama model is a decoder; expected a model that gives a text classes",
        "plain": "this bert model is an encoder without a head",
        "masked": "an encoder whose head is for masked_lm",
    }.items():
        with pytest.raises(InputError, match=f"text-classification: .*{words}"):
            mt.pipeline("text-classification", tmp_path / name)


def test_arguments_of_transformers_mean_something_or_are_refused(classifier: Path) -> None:
    for device in (-1, "cpu"):
        with mt.pipeline(
            model=classifier, device=device, tokenizer=str(classifier), torch_dtype="auto", framework=None
        ) as pipe:
            assert pipe.model.device == "cpu"
    for words, given in {
        r"device=1: expected 'cpu' \(or -1\) or 'cuda' \(or 0": {"device": 1},
        "device=True: ": {"device": True},
        "tokenizer='other': the tokenizer is read from the model's directory": {"tokenizer": "other"},
        "torch_dtype='float16': weights are used as they are stored": {"torch_dtype": "float16"},
    }.items():
        with pytest.raises(InputError, match=words):
            mt.pipeline(model=classifier, **given)


def test_older_names_of_a_strategy(tmp_path: Path) -> None:
    """As transformers 4.57.6: they win over `aggregation_strategy`, with a warning that points at the caller's line."""
    directory = write_model(tmp_path / "ner", "bert", "token_classes", labels=ENTITIES)
    text = "Ana flew to Berlin, the Germanyiz company."
    with mt.pipeline("ner", directory) as pipe:
        of = {name: pipe(text, aggregation_strategy=name) for name in ("none", "simple", "first")}
        assert of["none"] != of["simple"] != of["first"]
        for given, strategy in (
            ({"grouped_entities": True}, "simple"),
            ({"grouped_entities": False}, "none"),
            ({"grouped_entities": True, "ignore_subwords": True}, "first"),
            ({"grouped_entities": True, "aggregation_strategy": "none"}, "simple"),
        ):
            with pytest.warns(MiaotuiWarning, match=f"older name of aggregation_strategy='{strategy}'") as told:
                assert pipe(text, **given) == of[strategy]
            assert [warning.filename for warning in told] == [__file__]


def test_a_warning_from_inside_a_list_points_at_the_caller_s_line(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "ner", "bert", "token_classes", labels=ENTITIES)
    with mt.pipeline("ner", directory) as pipe:
        for call in (lambda: pipe("a " * 200), lambda: pipe(["a", "a " * 200]), lambda: list(pipe(iter(["a " * 200])))):
            with pytest.warns(MiaotuiWarning, match="longer than the 64 tokens that are read") as told:
                call()
            assert [warning.filename for warning in told] == [__file__]


def test_the_number_of_a_pair_or_a_text_that_is_none(classifier: Path) -> None:
    with mt.load(classifier) as model:
        for call, words in (
            (lambda: model.encode(["a", "\ud800"]), "lone surrogate at 0, .*text 1 of the input, counted from 0"),
            (lambda: model.predict([("a", "b"), ("a", "\ud800")]), "lone surrogate at 0, .*pair 1 of the input"),
        ):
            with pytest.raises(TokenizerError, match=words):
                call()
        with pytest.raises(TokenizerError, match=r"repair it where it was decoded$"):
            model.encode("\ud800")
        with pytest.raises(InputError, match=r"texts: \{'text': 'a'\} found, expected a text, several texts"):
            model.encode({"text": "a"})
