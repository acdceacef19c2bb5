"""Data files of `miaotui evaluate`: what each format gives, and what is said of one that is not right."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from miaotui.errors import BackendError, InputError
from miaotui.tools.evaluate.examples import Choice, Labelled, Question, Similar, Tagged, Target, Text
from miaotui.tools.evaluate.formats import ALIASES, FORMATS, ONLY, TASKS
from miaotui.tools.evaluate.readers import read
from miaotui.tools.evaluate.tags import entities_of
from miaotui.tools.pipelines.registry import task_of
from real_files import real

if TYPE_CHECKING:
    from pathlib import Path


def lines(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def written(tmp_path: Path, name: str, text: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_json_lines_and_csv_give_the_same_examples(tmp_path: Path) -> None:
    rows = [('Good, "very" good', "positive"), ("坏\n的", "negative")]
    as_json = written(tmp_path, "a.jsonl", lines(*({"sentence": t, "label": x} for t, x in rows)))
    as_csv = written(tmp_path, "a.csv", '\ufefftext,label\r\n"Good, ""very"" good",positive\r\n"坏\n的",negative\r\n')
    as_list = written(tmp_path, "a.json", json.dumps([{"text": t, "label": x} for t, x in rows]))
    told = [read(path, "text-classification").examples for path in (as_json, as_csv, as_list)]
    for examples in told:
        assert [(e.text, e.pair, e.label) for e in examples] == [(t, None, x) for t, x in rows]
    assert [e.place for e in told[0]] == [f"{as_json}, line 1", f"{as_json}, line 2"]
    assert [e.place for e in told[1]] == [f"{as_csv}, line 2", f"{as_csv}, line 3"]
    assert [e.place for e in told[2]] == [f"{as_list}, [0]", f"{as_list}, [1]"]


def test_columns_by_the_caller_s_names(tmp_path: Path) -> None:
    path = written(tmp_path, "a.tsv", "review\tstars\tlabel\nfine\t4\tx\n")
    [example] = read(path, "text-classification", columns={"text": "review", "label": "stars"}).examples
    assert example == Labelled(f"{path}, line 2", "fine", None, "4")
    with pytest.raises(InputError, match="--columns colour=x: expected one of the fields text, "):
        read(path, "text-classification", columns={"colour": "x"})


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    duckdb = pytest.importorskip("duckdb")
    path = tmp_path / "a.parquet"
    duckdb.sql("SELECT 'an answer' AS text, 1 AS label UNION ALL SELECT 'it''s', 0").write_parquet(str(path))
    data = read(path, "text-classification")
    assert [(e.place, e.text, e.label) for e in data.examples] == [
        (f"{path}, row 1", "an answer", "1"),
        (f"{path}, row 2", "it's", "0"),
    ]
    nested = tmp_path / "q.parquet"
    duckdb.sql(
        "SELECT 'q' AS question, 'c d' AS context, {'text': ['c', 'd'], 'answer_start': [0, 2]} AS answers"
    ).write_parquet(str(nested))
    [question] = read(nested, "question-answering").examples
    assert question.answers == ("c", "d")
    broken = written(tmp_path, "b.parquet", path.read_bytes()[:-9])
    with pytest.raises(InputError, match=re.escape(f"{broken}: cannot be read as Parquet")):
        read(broken, "text-classification")
    with pytest.raises(InputError, match=r"--columns text=nothing: .*row 1 has no such column; found text, label"):
        read(path, "text-classification", columns={"text": "nothing"})
    import sys

    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(BackendError, match=r"needs duckdb: pip install 'miaotui\[parquet\]'"):
        read(path, "text-classification")


def test_conll_of_wnut17_has_what_its_authors_counted() -> None:
    """Derczynski et al. 2017, table 2: documents and entities of each part."""
    counted = {
        "wnut17train.conll": (3394, 1975),
        "emerging.dev.conll": (1009, 836),
        "emerging.test.annotated": (1287, 1079),
    }
    for name, (n, entities) in counted.items():
        examples = read(real("text", "wnut17", name), "token-classification").examples
        assert (len(examples), sum(len(e.entities) for e in examples)) == (n, entities)
        assert all(e.text[a:b] == w for e in examples for w, (a, b) in zip(e.words, e.offsets(), strict=True))


def test_conll_s_forms(tmp_path: Path) -> None:
    text = "-DOCSTART- -X- O O\n\nEU NNP B-ORG\nrejects VBZ O\n\n\nPeter NNP I-PER\nBlackburn NNP I-PER"
    path = written(tmp_path, "a.conll", text)
    one, two = read(path, "token-classification").examples
    assert one == Tagged(f"{path}, line 3", ("EU", "rejects"), " ", frozenset({("ORG", 0, 0)}))
    assert two == Tagged(f"{path}, line 7", ("Peter", "Blackburn"), " ", frozenset({("PER", 0, 1)}))
    with pytest.raises(InputError, match=r"a\.conll, line 2: found 'alone'; expected a word and, in the last column"):
        read(written(tmp_path, "a.conll", "EU B-ORG\nalone\n"), "token-classification")


@pytest.mark.parametrize(
    ("tags", "entities"),
    [
        ("B-A I-A O B-A", [("A", 0, 1), ("A", 3, 3)]),
        ("B-A B-A", [("A", 0, 0), ("A", 1, 1)]),
        ("I-A I-B I-B", [("A", 0, 0), ("B", 1, 2)]),  # IOB1
        ("B-A E-A S-A", [("A", 0, 1), ("A", 2, 2)]),  # IOBES
        ("B-A L-A U-A", [("A", 0, 1), ("A", 2, 2)]),  # BILOU
        ("B-A-b I-A-b", [("A-b", 0, 1)]),
        ("O E-A I-A", [("A", 1, 1), ("A", 2, 2)]),
        ("", []),
    ],
)  # fmt: skip
def test_entities_of_tags(tags: str, entities: list[tuple[str, int, int]]) -> None:
    assert list(entities_of(tags.split())) == entities


@given(st.lists(st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"]), max_size=12))
def test_entities_are_those_that_written_again_as_tags_give_them(tags: list[str]) -> None:
    entities = list(entities_of(tags))
    again = ["O"] * len(tags)
    for kind, first, last in entities:
        again[first : last + 1] = [f"B-{kind}", *[f"I-{kind}"] * (last - first)]
    assert list(entities_of(again)) == entities
    assert [t == "O" for t in again] == [t == "O" for t in tags]


def test_rows_of_words_and_tags(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", lines({"tokens": ["a", "b"], "ner_tags": ["B-X", "O"]}))
    assert read(path, "token-classification").examples == [
        Tagged(f"{path}, line 1", ("a", "b"), " ", frozenset({("X", 0, 0)}))
    ]
    for row, said in [
        ({"tokens": ["a"], "tags": ["O", "O"]}, "1 words and 2 tags; expected a tag for each"),
        ({"tokens": ["a b"], "tags": ["O"]}, "the word 'a b' has spaces in it"),
        ({"tokens": ["a"], "tags": [1]}, "tags is 1; expected a text"),
    ]:
        with pytest.raises(InputError, match=re.escape(f"line 1: {said}")):
            read(written(tmp_path, "b.jsonl", lines(row)), "token-classification")


# CLUE


def test_clue_s_classes(tmp_path: Path) -> None:
    row = {"label": "102", "label_desc": "news_entertainment", "sentence": "江疏影甜甜圈自拍", "keywords": "江疏影"}
    path = written(tmp_path, "tnews.json", lines(row))
    [example] = read(path, "text-classification", "tnews").examples
    assert (example.text, example.pair, example.label) == ("江疏影甜甜圈自拍", None, "news_entertainment")
    [example] = read(path, "text-classification", "tnews", {"label": "label"}).examples
    assert example.label == "102"
    path = written(tmp_path, "afqmc.json", lines({"sentence1": "甲", "sentence2": "乙", "label": "0"}))
    [example] = read(path, "text-classification", "afqmc").examples
    assert (example.text, example.pair, example.label) == ("甲", "乙", "0")
    ocnli = [{"sentence1": "甲", "sentence2": "乙", "label": x} for x in ("entailment", "-", "neutral")]
    data = read(written(tmp_path, "ocnli.json", lines(*ocnli)), "text-classification", "ocnli")
    assert ([e.label for e in data.examples], data.skipped) == (["entailment", "neutral"], 1)


def test_cluener(tmp_path: Path) -> None:
    row = {"text": "浙商银行叶老桂", "label": {"name": {"叶老桂": [[4, 6]]}, "company": {"浙商银行": [[0, 3]]}}}
    path = written(tmp_path, "cluener.json", lines(row))
    [example] = read(path, "token-classification", "cluener").examples
    assert example.text == "浙商银行叶老桂"
    assert example.entities == {("name", 4, 6), ("company", 0, 3)}
    for label, said in [
        (
            {"name": {"叶老桂": [[4, 7]]}},
            "'叶老桂' stands at [4, 7]; expected the first and the last character, from 0 to 6",
        ),
        ({"name": {"叶老桂": [[3, 5]]}}, "characters 3 to 5 are '行叶老', and not '叶老桂'"),
        ({"name": ["叶老桂"]}, "'name' is ['叶老桂']; expected an object of the words"),
        ([], "the label is []; expected an object of types"),
    ]:
        path = written(tmp_path, "b.json", lines({"text": row["text"], "label": label}))
        with pytest.raises(InputError, match=re.escape(f"{path}, line 1: ") + ".*" + re.escape(said)):
            read(path, "token-classification", "cluener")


SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "T",
            "paragraphs": [
                {
                    "context": "It is red.",
                    "qas": [
                        {"id": "1", "question": "Which?", "answers": [{"text": "red", "answer_start": 6}]},
                        {"id": "2", "question": "Who?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}
QUESTION = "什么？"  # noqa: RUF001 - as it is written
ASKED = {"query_id": "T0", "query_text": QUESTION, "answers": ["红色", "红"]}
CMRC = [{"context_id": "T", "context_text": "它是红色。", "qas": [ASKED]}]


@pytest.mark.parametrize("name", ["dev-v2.0.json", "dev.squad"])
def test_squad(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name, json.dumps(SQUAD))
    one, two = read(path, "question-answering", None if name.endswith("json") else "squad").examples
    place = f"{path}, data[0].paragraphs[0].qas"
    assert one == Question(f"{place}[0]", "1", "Which?", "It is red.", ("red",))
    assert two == Question(f"{place}[1]", "2", "Who?", "It is red.", ())


def test_cmrc_in_both_forms(tmp_path: Path) -> None:
    path = written(tmp_path, "cmrc2018_trial.json", json.dumps(CMRC))
    [own] = read(path, "question-answering", "cmrc2018").examples
    assert own == Question(f"{path}, [0].qas[0]", "T0", QUESTION, "它是红色。", ("红色", "红"))
    path = written(tmp_path, "dev.json", json.dumps(SQUAD, indent=1))
    assert len(read(path, "question-answering", "cmrc2018").examples) == 2


def test_squad_that_is_not(tmp_path: Path) -> None:
    def changed(change: str) -> Path:
        value = json.loads(json.dumps(SQUAD))
        [paragraph] = value["data"][0]["paragraphs"]
        exec(change, {"value": value, "paragraph": paragraph})  # noqa: S102 - our own words
        return written(tmp_path, "dev.json", json.dumps(value))

    for change, said in [
        ("del value['data']", "dev.json: expected an object with a list 'data', as SQuAD has, found {"),
        ("del paragraph['context']", "data[0].paragraphs[0]: expected an object with 'context' or 'context_text'"),
        ("paragraph['qas'][0]['answers'] = 'x y'.split() + [3]", "qas[0]: an answer is 3; expected a text"),
        ("paragraph['qas'][0]['answers'] = None", "qas[0]: the answers are None; expected a list of texts"),
        ("paragraph['qas'][1] = 7", "qas[1]: expected an object with 'question' or 'query_text', found 7"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=re.escape(said)):
            read(changed(change), "question-answering")


# the other tasks


def test_questions_as_hugging_face_writes_them(tmp_path: Path) -> None:
    row = {"id": "a", "question": "Which?", "context": "It is red.", "answers": {"text": ["red"], "answer_start": [6]}}
    path = written(tmp_path, "a.jsonl", lines(row, row | {"answers": {"text": [], "answer_start": []}}))
    one, two = read(path, "question-answering").examples
    assert (one.name, one.answers, two.answers) == ("a", ("red",), ())


def test_choices_in_the_forms_of_common_sense_data(tmp_path: Path) -> None:
    rows = [
        {"question": "q", "choices": ["x", "y"], "answer": 1},
        {"question": "q", "choices": {"label": ["A", "B"], "text": ["x", "y"]}, "answerKey": "B"},
        {
            "question": {"stem": "q", "choices": [{"label": "1", "text": "x"}, {"label": "2", "text": "y"}]},
            "answerKey": "2",
        },
        {"ctx": "q", "endings": ["x", "y"], "label": "1"},
        {"question": "q", "options": ["x", "y"], "answer": "y"},
    ]
    path = written(tmp_path, "a.jsonl", lines(*rows))
    examples = read(path, "multiple-choice").examples
    assert examples == [Choice(f"{path}, line {i}", "q", ("x", "y"), 1) for i in range(1, 6)]
    for change, said in [
        ({"answer": 2}, "the answer is 2; expected a number from 0 to 1, one of 'A', 'B', or the text of a choice"),
        ({"answer": True}, "the answer is True; expected a number"),
        ({"choices": ["x"]}, "the choices are ['x']; expected two or more texts"),
        ({"choices": ["x", 3]}, "a choice is 3; expected a text"),
        ({"choices": ["y", "y"], "answer": "y"}, "the answer is 'y'; expected"),
    ]:
        with pytest.raises(InputError, match=re.escape(f"line 1: {said}")):
            read(written(tmp_path, "b.jsonl", lines(rows[0] | change)), "multiple-choice")


def test_other_rows(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", lines({"sentence1": "a", "sentence2": "b", "score": "2.5"}))
    assert read(path, "sentence-similarity").examples == [Similar(f"{path}, line 1", "a", "b", 2.5)]
    path = written(
        tmp_path, "b.jsonl", lines({"document": "d", "summary": "s"}, {"source": "d", "references": ["s", "t"]})
    )
    assert [e.references for e in read(path, "summarization").examples] == [("s",), ("s", "t")]
    assert isinstance(read(path, "translation").examples[0], Target)
    path = written(tmp_path, "c.txt", "one\r\ntwo\n")
    assert read(path, "perplexity").examples == [Text(str(path), "one\ntwo\n")]


# what is not right

CLASSES = "text-classification"


@pytest.mark.parametrize(
    ("name", "text", "task", "said"),
    [
        ("a.jsonl", '{"text": "x", "label": "y"}\n{"text": 3, "label": "y"}\n', CLASSES, "line 2: text is 3; expected"),
        ("a.jsonl", '{"text": "x"}\n', CLASSES, "line 1: no 'label' or 'labels', which"),
        ("a.jsonl", '{"text": "x", "label": 0.5}\n', CLASSES, "line 1: the label is 0.5; expected a text or"),
        ("a.jsonl", '{"text": "x",\n', CLASSES, "line 1: not valid JSON"),
        ("a.jsonl", "[1]\n", CLASSES, "[0]: expected a JSON object, found 1"),
        ("a.jsonl", '"x"\n', CLASSES, "line 1: expected a JSON object, found 'x'"),
        ("a.jsonl", '{"text": "x", "text": "y", "label": 1}\n', CLASSES, "line 1: not valid JSON (the key 'text'"),
        ("a.jsonl", b'{"text": "x", "label": 1}\n\xff\n', CLASSES, "line 2: byte 0 of the line is not"),
        ("a.jsonl", "\n\n", CLASSES, "has no example for text-classification, read as jsonl"),
        ("a.csv", "", CLASSES, "line 1: expected the names of the columns, each once; found []"),
        ("a.csv", "text,text\nx,y\n", CLASSES, "line 1: expected the names of the columns, each once"),
        ("a.csv", 'text,label\n"a\nb",x\nc\n', CLASSES, "line 4: found 1 cells, expected 2"),
        ("a.csv", 'text,label\nok,x\n"a"b,x\n', CLASSES, "line 3: cannot be read as CSV"),
        ("a.jsonl", '{"text1": "x", "text2": "y", "score": NaN}\n', "sentence-similarity", "line 1: not valid JSON"),
        ("a.csv", "text1,text2,score\nx,y,inf\n", "sentence-similarity", "line 2: score is 'inf'; expected a number"),
        ("a.jsonl", '{"source": "x", "target": []}\n', "translation", "line 1: no reference; expected"),
        ("a.jsonl", '{"text": "a\\ud800", "label": 1}\n', CLASSES, "line 1: text holds half a surrogate pair at"),
        ("a.conll", "It was\na day\n", "token-classification", "line 1: 'was' is no tag; expected CoNLL"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_file_and_line(
    tmp_path: Path, name: str, text: str | bytes, task: str, said: str
) -> None:
    path = written(tmp_path, name, text)
    with pytest.raises(InputError) as error:
        read(path, task)
    assert str(error.value).startswith(str(path))
    assert said in str(error.value)


def test_a_file_that_is_not_there_and_a_format_of_another_task(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl': cannot be read \(No such file"):
        read(tmp_path / "none.jsonl", "text-classification")
    path = written(tmp_path, "a.conll", "x O\n")
    with pytest.raises(
        InputError, match="--format conll: holds data of token-classification, and the task is perplexity"
    ):
        read(path, "perplexity")
    with pytest.raises(InputError, match="TASK: 'fill-mask' is not evaluated; expected one of text-classification"):
        read(path, "fill-mask")
    with pytest.raises(InputError, match="--format xml: expected one of jsonl"):
        read(path, "perplexity", "xml")
    path = written(tmp_path, "a.bin", "x")
    with pytest.raises(InputError, match=r"--format: not given, and the name of \S+a\.bin does not tell; .* jsonl"):
        read(path, "perplexity")
    path = written(tmp_path, "a.txt", "one\n")
    assert read(str(path), "perplexity") == read(path, "perplexity")  # a name is as good as a path


GOOD = {
    "jsonl": '{"text": "x", "label": "y", "question": "q", "choices": ["a", "b"], "answer": 1, "context": "c"}\n',
    "csv": "text,label,sentence2,score\nx,y,z,1\n",
    "tsv": "text\tlabel\nx\ty\n",
    "conll": "x\tB-A\ny\tO\n\n",
    "squad": json.dumps(SQUAD),
    "txt": "x y\n",
    "tnews": '{"label": "102", "label_desc": "n", "sentence": "s"}\n',
    "afqmc": '{"sentence1": "a", "sentence2": "b", "label": "0"}\n',
    "ocnli": '{"sentence1": "a", "sentence2": "b", "label": "-"}\n',
    "cluener": '{"text": "abc", "label": {"n": {"bc": [[1, 2]]}}}\n',
    "cmrc2018": json.dumps(CMRC),
}
PIECES = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b"\t",
    b"\n",
    b"1",
    b"-1",
    b"null",
    b"\xff",
    b"\xe7",
    b"\r",
    b"\x00",
    b"9" * 400,
]


@given(st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Bytes changed, cut out and put in: a typed error that begins with the file, and nothing else."""
    form = data.draw(st.sampled_from(sorted(GOOD)))
    content = bytearray(GOOD[form].encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        end = min(len(content), at + data.draw(st.integers(0, 5)))
        content[at:end] = data.draw(st.sampled_from([b"", *PIECES]) | st.binary(max_size=3))
    path = written(tmp_path_factory.getbasetemp(), "damaged", bytes(content))
    task = data.draw(st.sampled_from([ONLY[form]] if form in ONLY else TASKS))
    try:
        got = read(path, task, form)
    except InputError as e:
        assert str(e).startswith(str(path))  # noqa: PT017 - or none is raised
    else:
        assert got.examples


def test_a_long_cell_is_read_and_python_s_own_bound_is_as_it_was(tmp_path: Path) -> None:
    import csv

    usual = csv.field_size_limit()
    path = written(tmp_path, "a.csv", f"text,label\n{'x' * 200_000},1\n")
    assert len(read(path, "text-classification").examples[0].text) == 200_000
    assert csv.field_size_limit() == usual


def test_names_of_tasks_and_formats_belong_together() -> None:
    from miaotui.tools.evaluate.readers import _ROWS
    from miaotui.tools.evaluate.tasks import TASKS as DONE

    assert list(TASKS) == list(DONE)
    assert set(TASKS) == set(_ROWS)
    assert set(ONLY) < set(FORMATS)
    assert set(ONLY.values()) < set(TASKS)
    assert {alias: task_of(alias)[0].name for alias in ALIASES} == ALIASES
