"""`miaotui.batch.Model`: columns, records and texts through a task, a record's result the pipeline's; pickles."""

from __future__ import annotations

import copy
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miaotui.batch import Model
from miaotui.errors import InputError
from miaotui.runtime import cores
from miaotui.tools import demo
from task_models import write_model

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
LABELS = ("negative", "neutral", "positive")
TEXTS = ["a good film", "Ana flew to Berlin.", "", "日本語 😀", "w " * 30]
DRAWN = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("batch") / "classes", "bert", "classes", labels=LABELS)


@pytest.fixture(scope="module")
def model(classifier: Path) -> Iterator[Model]:
    with Model("text-classification", classifier) as made:
        yield made


@pytest.fixture(scope="module")
def wanted(classifier: Path) -> list[Any]:
    with miaotui.pipeline("text-classification", classifier) as pipe:
        return list(pipe(TEXTS))


class Column:
    """As a column of Daft or pyarrow."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def to_pylist(self) -> list[Any]:
        return self.values


def test_the_same_kind_comes_out(model: Model, wanted: list[Any]) -> None:
    assert model(TEXTS) == model(Column(TEXTS)) == model(np.array(TEXTS, dtype=object)) == wanted
    assert model(TEXTS[0]) == wanted[0]
    assert model({"text": TEXTS[1], "id": 7}) == {"text": TEXTS[1], "id": 7, "output": wanted[1]}
    records = [{"id": n, "text": text} for n, text in enumerate(TEXTS)]
    assert model(records) == [{**record, "output": told} for record, told in zip(records, wanted, strict=True)]
    ids = np.arange(5)
    got = model({"id": ids, "text": np.array(TEXTS, dtype=object)})
    assert list(got) == ["id", "text", "output"]
    assert got["id"] is ids
    assert got["output"] == wanted
    assert model([]) == []
    assert model({"id": np.array([]), "text": []})["output"] == []


@DRAWN
@given(st.lists(st.sampled_from(TEXTS), max_size=7), st.integers(1, 4))
def test_a_result_does_not_depend_on_the_batch(model: Model, wanted: list[Any], texts: list[str], size: int) -> None:
    whole = [wanted[TEXTS.index(text)] for text in texts]
    batches = [texts[i : i + size] for i in range(0, len(texts), size)]
    assert [told for batch in batches for told in model({"text": batch})["output"]] == whole


def test_columns_of_other_names_and_of_several_fields(classifier: Path, wanted: list[Any]) -> None:
    with Model("text-classification", classifier, columns="body", output="label") as model:
        assert model({"body": TEXTS[:2]}) == {"body": TEXTS[:2], "label": wanted[:2]}
        assert model({"body": TEXTS[0]})["label"] == wanted[0]
    with Model("text-classification", classifier, columns={"text": "a", "text_pair": "b"}) as model:
        pairs = model({"a": TEXTS[:2], "b": TEXTS[2:4]})["output"]
    with miaotui.pipeline("text-classification", classifier) as pipe:
        assert pairs == pipe([{"text": a, "text_pair": b} for a, b in zip(TEXTS[:2], TEXTS[2:4], strict=True)])


def test_bad_records_raise_by_number_or_are_told_in_a_column(classifier: Path, wanted: list[Any]) -> None:
    long = "w " * 100
    with Model("text-classification", classifier) as model:
        with pytest.raises(InputError, match=r"^record 1 of the batch, counted from 0: .*102 tokens.*errors='error'"):
            model({"text": [TEXTS[0], long]})
        with pytest.raises(InputError, match=r"^text-classification: \d+ tokens"):
            model(long)
    with Model("text-classification", classifier, errors="error") as model:
        got = model({"text": [TEXTS[0], long, TEXTS[1], None]})
        assert got["output"] == [wanted[0], None, wanted[1], None]
        assert [told is None for told in got["error"]] == [True, False, True, False]
        assert model({"text": TEXTS[0]}) == {"text": TEXTS[0], "output": wanted[0], "error": None}
        assert re.search(r"\d+ tokens, this model takes 64", model([{"text": long}])[0]["error"])


def test_a_pickle_holds_the_arguments_alone(classifier: Path, wanted: list[Any]) -> None:
    model = Model("text-classification", classifier, top_k=1)
    before = pickle.dumps(model)
    assert len(before) < 1000
    with model:
        first = model(TEXTS)
        assert pickle.dumps(model) == before
        assert "loaded>" in repr(model)
        other = copy.deepcopy(model)
        assert "not loaded" in repr(other)
    assert [told[0] for told in first] == wanted
    assert "not loaded" in repr(model)  # closed: the next call loads it again
    with pickle.loads(before) as again, model:  # noqa: S301 - our own
        assert again(TEXTS) == model(TEXTS) == first


def test_workers_divide_the_cores(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "available_threads", lambda: 5)
    for workers, threads in ((1, 5), (2, 2), (9, 1)):
        with Model(classifier, workers=workers) as model:
            model("a")
            pipe = model._worker.pipe
            assert pipe is not None
            assert pipe.model.threads == threads


def test_what_is_drawn_is_drawn_again() -> None:
    how: dict[str, Any] = {"max_new_tokens": 8, "temperature": 2.0}
    with Model("text-generation", demo.path(), **how) as one, Model(demo.path(), seed=0, **how) as two:
        texts = one({"text": ["Once upon a time", "Tom had"]})["output"]
        assert texts == two(["Once upon a time", "Tom had"]) == one(["Once upon a time", "Tom had"])


def test_a_conversation_is_one_record_and_a_list_of_them_a_column() -> None:
    chat = [{"role": "user", "content": "Who has the ball?"}]
    with Model("text-generation", demo.path("chat"), max_new_tokens=4) as model:
        one = model({"messages": chat})
        assert model({"messages": [chat, chat], "n": [1, 2]})["output"] == [one["output"]] * 2


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    ("text-clasification", {}, r"task='text-clasification': no such task \(did you mean text-classification\?\)"),
    (
        "text-classification",
        {"trunc": 1},
        "unknown option of load or text-classification trunc .did you mean truncation",
    ),
    ("text-classification", {"columns": 3}, "columns=3: expected the text's column, or a dict"),
    ("text-classification", {"columns": {"frage": "a"}}, "columns: frage=a: text-classification has no 'frage'"),
    ("text-classification", {"workers": 0}, "workers=0: expected a number of processes"),
    ("text-classification", {"workers": True}, "workers=True: expected a number of processes"),
    ("text-classification", {"workers": 2, "threads": 1}, "threads=1: workers=2 divides the cores already"),
    ("text-classification", {"output": ""}, "output='': expected the name of a column"),
    ("text-classification", {"errors": "output"}, "errors='output': it is the name of the results' column too"),
    ("text-classification", {"model": 3}, "model=3: expected a directory or a hub name"),
]


@pytest.mark.parametrize(("task", "how", "says"), WRONG, ids=[says for *_, says in WRONG])
def test_arguments_that_no_model_takes_are_refused_at_once(task: Any, how: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=f"^{says}"):
        Model(task, **how)


BATCHES: list[tuple[Any, str]] = [
    (5, "5 found, expected a dict of columns, a list of records or texts, or one of them"),
    ({"body": ["a"]}, "no column of text-classification in the batch; its columns are 'body'; name one with columns="),
    ({"text": ["a"], "id": [1, 2]}, "a batch's columns must be of one length; these are .'text': 1, 'id': 2"),
    ({"text": ["a"], "id": 1}, "a batch's columns must be of one length; these are .'text': 1, 'id': no list"),
    ({"text": ["a"], "output": [1]}, "the batch has a column 'output' already; name the results' one with output="),
    ([{"text": "a", "output": 1}], "the batch has a column 'output' already; name the results' one with output="),
    ([1], "record 0 of the batch, counted from 0: 1 found, expected an object with 'text'"),
]


@pytest.mark.parametrize(("batch", "says"), BATCHES, ids=[says for _, says in BATCHES])
def test_batches_that_are_none(model: Model, batch: Any, says: str) -> None:
    with pytest.raises(InputError, match=f"^{says}"):
        model(batch)


def test_importing_it_is_cheap_and_a_worker_of_a_new_process_loads_its_own(
    classifier: Path, wanted: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "model").write_bytes(pickle.dumps(Model("text-classification", classifier)))
    code = (
        "import sys, json, pickle\nimport miaotui.batch\n"
        "heavy = sorted({m.split('.')[0] for m in sys.modules} & {'numpy', 'numba', 'tokenizers'})\n"
        "model = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(json.dumps([heavy, model(json.loads(sys.argv[2]))]))"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "model"), json.dumps(TEXTS)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[], wanted]


def test_the_page_s_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "run.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    exec(compile(code, "docs/run.md", "exec"), {})  # noqa: S102 - it is our own page
    columns, records, texts = capsys.readouterr().out.splitlines()
    assert columns.startswith("{'id': [1, 2], 'text': ['We liked it.', 'We did not.'], 'output': [{'label': 'positive'")
    assert records.startswith("[{'id': 1, 'text': 'We liked it.', 'output': {'label': 'positive'")
    assert texts.startswith("[{'label': 'positive', ")


@pytest.mark.soak("engines")
@pytest.mark.parametrize("engine", ["daft", "ray"])
def test_engines_take_the_class(engine: str) -> None:
    """`pip install 'miaotui[daft]' 'ray[data]'`, and `./dev soak engines --minutes 0`."""
    pytest.importorskip(engine)
    script = ROOT / "docs" / "examples" / "engines" / f"{engine}_labels.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Model("sentiment-analysis") as model:
        labels = [told["label"] for told in model(["We liked it.", "We did not.", "It is a film."])]
    assert re.findall(r"^\d .*$", done.stdout, re.MULTILINE) == [f"{n} {told}" for n, told in enumerate(labels, 1)]


@pytest.mark.soak("engines")
@pytest.mark.parametrize("runner", ["native", "ray"])
def test_a_run_by_daft_writes_what_one_process_writes(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: str
) -> None:
    """`ray`: a cluster of this machine alone, which Daft starts; `pip install 'daft[ray]'`."""
    pytest.importorskip("daft")
    if runner == "ray":
        pytest.importorskip("ray")
    monkeypatch.setenv("DAFT_RUNNER", runner)
    rows = [json.dumps({"id": n, "text": f"{TEXTS[n % 4]} {n}"}) for n in range(2000)]
    rows[700] = "{"
    for name in ("a", "b"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.jsonl").write_text("\n".join(rows))
    words = [sys.executable, "-m", "miaotui", "run", "text-classification", "--model", str(classifier)]
    for name, more in (("one", []), ("two", ["--engine", "daft", "--workers", "2"])):
        places = ["--input", tmp_path / "in", "--output", tmp_path / name, "--errors", tmp_path / f"{name}s"]
        done = subprocess.run([*words, *map(str, places), *more], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    for name in ("a", "b"):
        for one, two in (("one", "two"), ("ones", "twos")):
            assert (tmp_path / one / f"{name}.jsonl").read_bytes() == (tmp_path / two / f"{name}.jsonl").read_bytes()
    bad = [sys.executable, *words[1:], "--input", str(tmp_path / "in"), "--output", str(tmp_path / "three")]
    done = subprocess.run([*bad, "--engine", "daft"], capture_output=True, text=True, check=False)
    assert (done.returncode, "a.jsonl, line 701: not valid JSON" in done.stderr) == (1, True)
