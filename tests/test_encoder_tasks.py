"""What each task of an encoder takes and refuses; acceptance cases 5 and 6 through a model; trained models."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import miaotui as mt
import numpy as np
import pytest
from checkpoints import small, write_checkpoint
from miaotui.errors import InputError, TokenizerError
from miaotui.loader.text.pieces import Cutting
from real_files import real
from task_models import ENTITIES, write_model
from test_task_arrays import ENTITIES as GATHERED
from test_task_arrays import PIECES, SCORES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from miaotui.tools.pipelines.base import EncoderPipeline


def piped(tmp_path: Path, task: str, head: str, labels: tuple[str, ...] = (), **options: Any) -> Any:
    return mt.pipeline(task, write_model(tmp_path / f"bert-{head}", "bert", head, labels=labels), **options)


def with_logits(pipe: EncoderPipeline, item: object, rows: Any, **parameters: Any) -> Any:
    """The result of an item as if the model gave `rows(pieces)` for each of its windows."""
    options = pipe.options(parameters)
    prepared = pipe.prepare(item, options)
    return pipe.finish(prepared, [rows(whole.ids) for whole in prepared.wholes], options)


@pytest.fixture
def ner(tmp_path: Path) -> Iterator[Any]:
    with piped(tmp_path, "ner", "token_classes", ENTITIES) as pipe:
        yield pipe


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Any]:
    with piped(tmp_path, "question-answering", "spans") as pipe:
        yield pipe


@pytest.mark.parametrize("before", ["", "😀 "])
def test_entities_have_their_place_in_the_text(ner: Any, before: str) -> None:
    """Acceptance case 5: offsets are code points, and text[start:end] is the word."""
    text = f"{before}Ana Ruiz flew to Reykjavik."

    def rows(ids: list[int]) -> np.ndarray:
        spelled = [ner.model.tokenizer.id_to_token(i) for i in ids]
        assert spelled == ["[CLS]", *(["😀"] if before else []), *PIECES, "[SEP]"]
        frame = [[0.2] * 5]
        emoji = [[0.96, 0.01, 0.01, 0.01, 0.01]] if before else []
        return np.log(np.array([*frame, *emoji, *SCORES.tolist(), *frame], np.float32))

    for strategy, wanted in GATHERED.items():
        got = with_logits(ner, text, rows, aggregation_strategy=strategy)
        name = "entity" if strategy == "none" else "entity_group"
        assert [(e[name], e["word"], e["start"] - len(before), e["end"] - len(before)) for e in got] == [
            tuple(rest) for *rest, _ in wanted
        ]
        assert all(text[e["start"] : e["end"]] == e["word"].removeprefix("##") for e in got)
        assert np.abs(np.array([e["score"] for e in got]) - [score for *_, score in wanted]).max() < 1e-6


def test_a_long_text_is_cut_with_a_warning_or_read_in_windows(ner: Any) -> None:
    text = "Ana flew to Berlin . " * 40
    with pytest.warns(UserWarning, match="longer than the 64 tokens that are read.*stride="):
        cut = ner(text, aggregation_strategy="simple", ignore_labels=[])
    assert max(e["end"] for e in cut) < 300
    whole = ner(text, aggregation_strategy="simple", ignore_labels=[], stride=16)
    assert max(e["end"] for e in whole) == len(text) - 1
    assert all(a["end"] <= b["start"] for a, b in pairwise(whole))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("strategy", ["only_first", "only_second"])
def test_many_windows_are_each_what_it_would_be_alone(ner: Any, strategy: Any, side: Any) -> None:
    """Each was cut out of all tokens: a text of a million took longer than anybody waits."""
    long, short = "Ana flew to Berlin . " * 60, "who flew ?"
    texts = (long, short) if strategy == "only_first" else (short, long)
    cut = Cutting(40, strategy, stride=7, side=side)
    windows = ner.model.tokenizer.windows(*texts, cutting=cut)
    assert len(windows) > 9
    [whole] = ner.model.tokenizer.windows(*texts)
    text = 0 if strategy == "only_first" else 1
    size, length = windows[0].texts.count(text), whole.texts.count(text)
    step = size - 7
    for i, window in enumerate(windows):
        stop = min(i * step + size, length)
        part = range(i * step, stop) if side == "right" else range(length - stop, length - i * step)
        assert window == whole.without({text: part})


def test_token_classification_refuses_what_it_does_not_take(ner: Any) -> None:
    for words, item, parameters in (
        ("aggregation_strategy='last'", "a", {"aggregation_strategy": "last"}),
        ("ignore_labels='O'", "a", {"ignore_labels": "O"}),
        ("stride=-1", "a", {"stride": -1, "aggregation_strategy": "max"}),
        ("stride: windows are joined by their entities", "a", {"stride": 3}),
        (
            "stride=62: a window of 64 tokens has room for 62",
            "Ana " * 99,
            {"stride": 62, "aggregation_strategy": "max"},
        ),
        ("delimiter=3", "a", {"delimiter": 3}),
        ("'a' found, expected a list of words", "a", {"is_split_into_words": True}),
        (r"\['a'\] found, expected a text; of words", [["a"]], {}),
    ):
        with pytest.raises(InputError, match=words):
            ner(item, **parameters)


POLISH = "Zażółć 😀 gęślą. Berlin ist groß."


def peaks(pipe: Any, ids: list[int], start: dict[str, float], end: dict[str, float]) -> np.ndarray:
    """Logits that are high at the first token of these spellings."""
    spelled = [pipe.model.tokenizer.id_to_token(i) for i in ids]
    out = np.zeros((len(ids), 2), np.float32)
    for column, where in enumerate((start, end)):
        for token, value in where.items():
            for n, each in enumerate(spelled):
                out[n, column] = value if each == token else out[n, column]
    return out


def test_an_answer_is_a_piece_of_the_context(answering: Any) -> None:
    """Acceptance case 6: starts in the question and ends before the start are none; places are code points."""
    item = {"question": "who flew?", "context": POLISH}
    spelled: list[str] = []

    def rows(ids: list[int]) -> np.ndarray:
        spelled[:] = [answering.model.tokenizer.id_to_token(i) for i in ids]
        return peaks(answering, ids, {"Berlin": 9.0, "flew": 8.0}, {"😀": 9.0, "Berlin": 4.0})

    answer = with_logits(answering, item, rows)
    assert {"Berlin", "flew", "😀"} <= set(spelled)
    assert (answer["answer"], answer["start"]) == ("Berlin", POLISH.index("Berlin"))
    assert POLISH[answer["start"] : answer["end"]] == answer["answer"]
    for one in with_logits(answering, item, rows, top_k=9, align_to_words=False):
        assert POLISH[one["start"] : one["end"]] == one["answer"]
    for one in answering(**item, top_k=9, handle_impossible_answer=True):
        assert POLISH[one["start"] : one["end"]] == one["answer"]


def test_no_answer_is_the_answer_where_cls_beats_every_span(answering: Any) -> None:
    item = {"question": "who flew?", "context": POLISH}

    def rows(ids: list[int]) -> np.ndarray:
        return peaks(answering, ids, {"[CLS]": 9.0, "Berlin": 5.0}, {"[CLS]": 9.0, "Berlin": 5.0})

    none = with_logits(answering, item, rows, handle_impossible_answer=True)
    assert (none["answer"], none["start"], none["end"]) == ("", 0, 0)
    assert none["score"] > 0.9
    assert with_logits(answering, item, rows)["answer"] == "Berlin"


def test_an_answer_in_the_overlap_of_two_windows_comes_once(answering: Any) -> None:
    context = "a good film , " * 8 + "Berlin " + "a good film , " * 8
    windows = 0

    def rows(ids: list[int]) -> np.ndarray:
        nonlocal windows
        windows += answering.model.tokenizer.token_to_id("Berlin") in ids
        return peaks(answering, ids, {"Berlin": 9.0}, {"Berlin": 9.0})

    item = {"question": "where?", "context": context}
    answers = with_logits(answering, item, rows, doc_stride=40, top_k=5)
    assert windows > 1
    assert [a["answer"] for a in answers].count("Berlin") == 1
    assert answers[0] == {"answer": "Berlin", "start": 112, "end": 118, "score": answers[0]["score"]}


def test_question_answering_refuses_what_it_does_not_take(answering: Any) -> None:
    long = {"question": "who?", "context": "a good film , " * 40}
    for words, given in (
        (r"doc_stride=59: a window of 64 tokens has room for 59 of the text", long | {"doc_stride": 59}),
        ("doc_stride=41: more than a window's tokens, max_seq_len=40", long | {"doc_stride": 41, "max_seq_len": 40}),
        ("4 tokens have no room for the text, next to 3 that frame it and 2", long | {"max_seq_len": 4}),
        ("70 tokens, this model takes 64; give a smaller max_seq_len", long | {"max_seq_len": 70, "doc_stride": 1}),
        ("top_k=0", long | {"top_k": 0}),
        ("max_answer_len='a'", long | {"max_answer_len": "a"}),
        ("doc_stride=-1", long | {"doc_stride": -1}),
        ("of which none is empty", {"question": "", "context": "a"}),
        ("of which none is empty", {"question": "a", "context": ""}),
        ("2 questions and 1 contexts", {"question": ["a", "b"], "context": ["c"]}),
        ("give question= and context=", {"question": "a"}),
    ):
        with pytest.raises(InputError, match=words):
            answering(**given)
    with pytest.raises(InputError, match="by name and an input by its place"):
        answering("a", question="b", context="c")
    assert answering("who?", POLISH) == answering(question="who?", context=POLISH)
    assert list(answering(iter([long, long]))) == [answering(long)] * 2
    assert answering(**long, max_question_len=1) == answering(**(long | {"question": "who"}))


def test_a_question_that_leaves_little_room_gets_a_smaller_stride(answering: Any) -> None:
    item = {"question": "a good film " * 15, "context": "Ana flew to Berlin . " * 20}
    answer = answering(**item)
    assert item["context"][answer["start"] : answer["end"]] == answer["answer"]


def test_fill_mask_needs_a_mask_and_known_targets(tmp_path: Path) -> None:
    with piped(tmp_path, "fill-mask", "masked_lm") as pipe:
        assert pipe.mask_token == "[MASK]"  # noqa: S105 - a token of a vocabulary
        ids = pipe.model.tokenizer.encode("Ana [MASK] Berlin")
        row = pipe.model.logits(ids)[ids.index(pipe.model.tokenizer.mask_id)]
        best = pipe("Ana [MASK] Berlin")
        assert [each["token"] for each in best] == np.argsort(-row)[:5].tolist()
        several = pipe(["[MASK]", "Ana [MASK] [MASK]", "[MASK] of the"], top_k=1)
        assert [len(each) for each in several] == [1, 2, 1]
        assert several[2] == pipe("[MASK] of the", top_k=1)
        with pytest.raises(InputError, match=r"no mask \(\[MASK\]\) in the text 'Ana' \(item 1"):
            pipe(["[MASK]", "Ana"])
        with pytest.warns(UserWarning, match="'Anaflew' is no token of this model; 'Ana' stands for it"):
            assert [each["token_str"] for each in pipe("[MASK]", targets=["Anaflew"])] == ["Ana"]
        with (
            pytest.warns(UserWarning, match="is left out"),
            pytest.raises(InputError, match="none of them has a token"),
        ):
            pipe("[MASK]", targets=" ")
        for words, parameters in {
            "targets=": {"targets": []},
            "top_k=0": {"top_k": 0},
            "key of tokenizer_kwargs strid": {"tokenizer_kwargs": {"strid": 1}},
            "tokenizer_kwargs=3": {"tokenizer_kwargs": 3},
        }.items():
            with pytest.raises(InputError, match=words):
                pipe("[MASK]", **parameters)


def without_masks(directory: Path) -> None:
    said = json.loads((directory / "tokenizer.json").read_text().replace("[MASK]", "[GAP]"))
    (directory / "tokenizer.json").write_text(json.dumps(said))
    config = json.loads((directory / "tokenizer_config.json").read_text())
    del config["mask_token"]
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def test_a_tokenizer_without_a_mask_and_no_tokenizer_at_all(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model", "bert", "masked_lm")
    without_masks(directory)
    with pytest.raises(TokenizerError, match="fill-mask: the tokenizer names no mask_token"):
        mt.pipeline(model=directory)
    (directory / "tokenizer.json").unlink()
    for task in ("fill-mask", "feature-extraction"):
        with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
            mt.pipeline(task, directory)


def test_the_task_is_taken_from_the_architecture(tmp_path: Path) -> None:
    wanted = {
        "classes": "text-classification", "token_classes": "token-classification", "spans": "question-answering",
        "masked_lm": "fill-mask", "": "feature-extraction",
    }  # fmt: skip
    for head, task in wanted.items():
        labels = ENTITIES if "classes" in head else ()
        with mt.pipeline(model=write_model(tmp_path / f"m{head}", "albert", head, labels=labels)) as pipe:
            assert pipe.task == task


def test_features_are_hidden_states_of_any_model(tmp_path: Path) -> None:
    with piped(tmp_path, "feature-extraction", "spans") as pipe:
        ids = pipe.model.tokenizer.encode("Ana flew")
        assert pipe("Ana flew") == [pipe.model.hidden(ids).tolist()]
        array = pipe("Ana flew", return_tensors=True)
        assert np.array_equal(array, pipe.model.hidden(ids)[None])
        with pytest.raises(InputError, match="truncation: given by name and in tokenize_kwargs"):
            pipe("a", truncation=True, tokenize_kwargs={"truncation": True})
        with pytest.raises(InputError, match="7 found, expected a text"):
            pipe([7])
    write_checkpoint(tmp_path / "llama", small("llama"))
    with pytest.raises(TokenizerError, match="no tokenizer"):
        mt.pipeline("feature-extraction", tmp_path / "llama")
    stories = real("models", "stories260K-hf")
    with mt.pipeline("feature-extraction", stories) as pipe:
        ids = pipe.model.tokenizer.encode("Once upon a time")
        assert pipe("Once upon a time") == [pipe.model.hidden(ids).tolist()]


def test_zero_shot_needs_labels_and_a_template(tmp_path: Path) -> None:
    names = ("contradiction", "neutral", "entailment")
    with piped(tmp_path, "zero-shot-classification", "classes", names) as pipe:
        got = pipe("Ana flew", "sport, tea")
        assert sorted(got["labels"]) == ["sport", "tea"]
        assert abs(sum(got["scores"]) - 1) < 1e-12
        assert pipe(["Ana flew"], ["sport", "tea"]) == [got]
        for words, arguments, parameters in (
            ("candidate_labels are not given", ("a",), {}),
            ("candidate_labels=' , '", ("a", " , "), {}),
            (r"candidate_labels=\[1\]", ("a", [1]), {}),
            ("candidate_labels are given twice", ("a", "b"), {"candidate_labels": "c"}),
            ("hypothesis_template='about'", ("a", "b"), {"hypothesis_template": "about"}),
            ("hypothesis_template='{} {}'", ("a", "b"), {"hypothesis_template": "{} {}"}),
            ("hypothesis_template=7", ("a", "b"), {"hypothesis_template": 7}),
            ("'' found, expected a text that is not empty", ("", "b"), {}),
            ("no room for the text", ("a good film", "b"), {"hypothesis_template": "{} " + "a " * 90}),
        ):
            with pytest.raises(InputError, match=words):
                pipe(*arguments, **parameters)
    directory = write_model(tmp_path / "other", "bert", "classes", labels=("a", "b"))
    with pytest.warns(UserWarning, match="no label of this model is called entailment"):
        mt.pipeline("zero-shot-classification", directory, candidate_labels="x").close()
    one = write_model(tmp_path / "one", "bert", "classes", labels=("score",))
    with pytest.raises(InputError, match="this model has 1 label; expected entailment"):
        mt.pipeline("zero-shot-classification", one)


def test_similar_sentences_are_cosines_of_encode(tmp_path: Path) -> None:
    with piped(tmp_path, "sentence-similarity", "") as pipe:
        texts = ["Ana flew to Berlin.", "a good film", "", "日本"]
        vectors = np.stack([pipe.model.encode(text, normalize=True) for text in texts]).astype(np.float64)
        item = {"source_sentence": texts[0], "sentences": texts[1:]}
        got = pipe(item)
        assert np.abs(np.array(got) - vectors[1:] @ vectors[0]).max() < 1e-6
        assert all(type(score) is float for score in got)
        assert pipe(**item) == got
        assert pipe([item, item | {"sentences": []}, item]) == [got, [], got]
        for bad in ("a", {"source_sentence": "a"}, {"source_sentence": "a", "sentences": "b"}):
            with pytest.raises(InputError, match=r"sentence-similarity: .* found, expected"):
                pipe(bad)
        with pytest.raises(InputError, match=r"\(item 1 of the input"):
            pipe([item, {"source_sentence": 1, "sentences": ["b"]}])


def test_documents_are_ranked_by_predict(tmp_path: Path) -> None:
    with piped(tmp_path, "rerank", "classes", ("score",)) as pipe:
        query, documents = "Ana", ["a good film", "", "日本", "Ana flew to Berlin."]
        scores = pipe.model.predict([(query, text) for text in documents])
        got = pipe(query, documents)
        assert [each["corpus_id"] for each in got] == np.argsort(-scores).tolist()
        assert [each["score"] for each in got] == sorted(scores.tolist(), reverse=True)
        assert pipe.task == "text-ranking"
        two = pipe(query=query, documents=documents, top_k=2, return_documents=True)
        assert two == [each | {"text": documents[each["corpus_id"]]} for each in got[:2]]
        item = {"query": query, "documents": documents}
        assert pipe([item, item | {"documents": []}]) == [got, []]
        long = item | {"documents": ["a", "a good film " * 40]}
        with pytest.raises(InputError, match="124 tokens, this model takes 64; give a shorter document, or truncation"):
            pipe(long)
        assert len(pipe(long, truncation=True)) == 2
        for bad in ("a", {"query": "a"}, {"query": "a", "documents": "b"}):
            with pytest.raises(InputError, match=r"text-ranking: .* found, expected"):
                pipe(bad)
    two_labels = write_model(tmp_path / "two", "bert", "classes", labels=("a", "b"))
    with pytest.raises(InputError, match="this model has 2 labels; expected a cross-encoder"):
        mt.pipeline("text-ranking", two_labels)


def test_masked_atoms_of_a_trained_model_are_filled() -> None:
    """rxnmapper: each token masked in turn has the likeliest token that transformers gave."""
    directory = real("models", "rxnmapper-albert-hf")
    case = json.loads((directory / "expected.json").read_text())["cases"][0]
    smiles, wanted = case["smiles"], case["argmax_when_that_token_is_masked"]
    with mt.pipeline("fill-mask", directory, top_k=1) as pipe:
        [pieces] = pipe.model.tokenizer.windows(smiles)
        places = [place for place, special in zip(pieces.offsets, pieces.special, strict=True) if not special]
        assert len(places) == len(wanted)
        masked = [smiles[:a] + pipe.mask_token + smiles[b:] for a, b in places]
        assert [best["token"] for [best] in pipe(masked)] == wanted
