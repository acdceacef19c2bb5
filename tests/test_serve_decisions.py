"""System One's and OpenAI's decisions over HTTP: answers are the model's alone, in any company; faults are 4xx."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import miaotui
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.tools import demo
from miaotui.tools.decisions import openai_form, system_one
from miaotui.tools.decisions.questions import questions_of
from miaotui.tools.decisions.reading import reader_of

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")
pytest.importorskip("jinja2")

from miaotui.tools.server.security import Keys
from serve_processes import serving
from serving import Client, asked
from task_models import write_model

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).resolve().parent.parent / "docs" / "decisions-api.md"
ASKED = re.compile(
    r"^```sh\ncurl http://127.0.0.1:8000(\S+) .*? -d '(.*?)'\n```\n\n```json\n(.*?)```", re.DOTALL | re.MULTILINE
)
SYSTEM_ONE, DECISIONS = "/v1/systemone", "/v1/decisions"
STATE = "Tom went to the park. He was sad, for his red ball was lost."
QUESTIONS: dict[str, Any] = {
    "happy": {"type": "noul", "instructions": "Is Tom happy?"},
    "lost 🎯": {"type": "choice", "instructions": "What is lost?", "criteria": {"a ball": None, "a hat": None}},
    "mood": {"type": "score", "instructions": "How is Tom?", "criteria": ["sad", {"so": "happy"}]},
}


@pytest.fixture(scope="module")
def models() -> Iterator[dict[str, miaotui.Model]]:
    with (
        miaotui.load(demo.path("encoder")) as encoder,
        miaotui.load(demo.path("chat"), cache_tokens=2048) as chat,
    ):
        yield {"encoder": encoder, "chat": chat}


@pytest.fixture(scope="module")
def client(models: dict[str, miaotui.Model]) -> Client:
    return Client(models)


@pytest.fixture(scope="module")
def alone(models: dict[str, miaotui.Model]) -> dict[str, Any]:
    """Each question's answer by the model itself, as JSON."""
    reader = reader_of(models["chat"])
    read = questions_of(QUESTIONS)
    told = {
        name: system_one.answer(question, QUESTIONS[name].get("criteria"), reader.read(STATE, question).probabilities)
        for name, question in read.items()
    }
    return dict(json.loads(json.dumps(told)))


def test_an_answer_is_the_models_own_in_any_company(client: Client, alone: dict[str, Any]) -> None:
    """One question alone, all in either order, renamed, and twenty requests at once: the same bits."""
    sets: list[dict[str, str]] = [
        *({name: name} for name in QUESTIONS), {name: name for name in QUESTIONS},
        {name: name for name in reversed(QUESTIONS)}, {f"{name}!": name for name in QUESTIONS},
    ]  # fmt: skip
    bodies = [
        {"model": "chat", "state": STATE, "questions": {new: QUESTIONS[old] for new, old in names.items()}}
        for names in sets
    ]

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(client.ask("POST", SYSTEM_ONE, body) for body in bodies * 4))

    replies = asked(all_at_once())
    for names, reply in zip(sets * 4, replies, strict=True):
        assert reply.status == 200, reply.body
        assert reply.json["answers"] == {new: alone[old] for new, old in names.items()}
        assert list(reply.json["answers"]) == list(names)
        assert reply.json["model"] == "chat"
        assert reply.json["usage"]["input_tokens"] > 0 == reply.json["usage"]["output_tokens"]


def test_openais_form_has_the_same_probabilities(client: Client, alone: dict[str, Any]) -> None:
    questions = [
        {"type": "predicate", "instructions": "Is Tom happy?", "name": "happy"},
        {"type": "choice", "instructions": "What is lost?", "choices": [{"value": "a ball"}, {"value": "a hat"}]},
        {"type": "score", "instructions": "How is Tom?", "levels": [{"label": "sad"}, {"label": '{"so": "happy"}'}]},
    ]
    body = {"model": "chat", "input": STATE, "questions": questions, "safety_identifier": "me"}
    reply = client.post(DECISIONS, body)
    assert reply.status == 200, reply.body
    predicate, choice, score = reply.json["answers"]
    assert predicate == {"type": "predicate", "name": "happy", "probability": alone["happy"]["noul"]}
    assert {each["value"]: each["probability"] for each in choice["probabilities"]} == alone["lost 🎯"]["probabilities"]
    assert (choice["choice"], score["score"]) == (alone["lost 🎯"]["choice"], alone["mood"]["score"])
    assert [score["confidence"], choice["name"]] == [alone["mood"]["confidence"], None]
    usage = reply.json["usage"]
    assert 0 < usage["input_tokens_details"]["cached_tokens"] < usage["input_tokens"] == usage["total_tokens"]
    pytest.importorskip("openai.types.decision").Decision.model_validate(reply.json)


def test_a_state_is_read_once(client: Client, models: dict[str, miaotui.Model]) -> None:
    state = "Tom had a new kite. " * 20
    questions = {f"q{i}": {"type": "noul", "instructions": f"Is it number {i}?"} for i in range(3)}
    reader, texts = reader_of(models["chat"]), questions_of(questions).values()
    first, *others = [reader.read(state, question) for question in texts]
    n = len(models["chat"].tokenizer.encode(state))
    assert first.n_reused < n / 2
    assert all(other.n_reused >= n - 2 for other in others)
    body = {"model": "jev-latest", "state": state, "questions": questions}
    assert client.post(SYSTEM_ONE, body).json["model"] == "chat"  # the first that decides


def _body(**changed: Any) -> dict[str, Any]:
    made = {"model": "chat", "state": STATE, "questions": QUESTIONS, **changed}
    return {key: value for key, value in made.items() if value is not ...}


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b'{"model": "chat"', []),
        (b"[1]", []),
        (_body(state=None), ["state"]),
        (_body(questions={"q": {"type": "boolean"}}), ["questions", "q", "type"]),
        (_body(state="\ud800"), []),
        (_body(state="a word " * 600), ["state"]),
        (_body(questions={"q": {"type": "choice", "criteria": {"a": None, "": None}}}), []),
    ],
)
def test_what_is_wrong_is_422_with_its_place(client: Client, body: object, place: list[str]) -> None:
    reply = client.post(SYSTEM_ONE, body)
    assert reply.status == 422, reply.body
    [told] = reply.json["detail"]
    assert told["loc"] == ["body", *place]
    assert told["msg"]
    assert isinstance(told["type"], str)


def test_other_errors_have_a_type_and_a_message(client: Client, models: dict[str, miaotui.Model]) -> None:
    for name, status in (("nobody", 404), ("encoder", 400)):
        reply = client.post(SYSTEM_ONE, _body(model=name))
        assert (reply.status, sorted(reply.json["detail"])) == (status, ["error_type", "message"])
    locked = Client(models, None, Keys(["a-long-secret"]))
    reply = locked.post(SYSTEM_ONE, _body())
    assert (reply.status, reply.json["detail"]["error_type"]) == (401, "authentication_error")
    assert locked.post(SYSTEM_ONE, _body(), {"authorization": "Bearer a-long-secret"}).status == 200


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"questions": []}, "questions"),
        ({"questions": [{"type": "choice", "instructions": "a", "choices": [{"value": 1}, {"value": 2}]}]},
         "questions[0].choices[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}]},
         "input[0].content[0]"),
        ({"input": "a word " * 600}, "input"),
        ({"temperature": 1}, "temperature"),
        ({"model": "encoder"}, "model"),
    ],
)  # fmt: skip
def test_openais_form_names_the_parameter(client: Client, changed: dict[str, Any], param: str) -> None:
    body = {"model": "chat", "input": STATE, "questions": [{"type": "predicate", "instructions": "Is it?"}], **changed}
    reply = client.post(DECISIONS, body)
    assert (reply.status, reply.error["param"]) == (400, param)


def test_a_client_that_goes_away_is_answered_no_further(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many questions, the rest are not asked."""
    n_asked, gone = 0, asyncio.Event()
    whole = client.state.compute

    async def counted(work: Any) -> Any:
        nonlocal n_asked
        n_asked += 1
        gone.set()
        return await whole(work)

    monkeypatch.setattr(client.state, "compute", counted)
    many = {f"q{i}": QUESTIONS["happy"] for i in range(50)}
    asked(client.ask("POST", SYSTEM_ONE, _body(questions=many), gone=gone))
    assert n_asked < 5
    assert len(client.state.admission) == 0


def test_models_are_listed_for_system_ones_clients(client: Client) -> None:
    told = client.get("/v1/models").json
    assert [sorted(each) for each in told["models"]] == [["description", "name", "release_date"]] * 2
    assert [each["name"] for each in told["models"]] == [each["id"] for each in told["data"]]


def test_the_form_of_openai_refuses_nothing_that_the_other_takes(alone: dict[str, Any]) -> None:
    """The two forms have the same kinds and the same bounds."""
    assert {answer["type"] for answer in alone.values()} == {"noul", "choice", "score"}
    most = [{"value": str(i)} for i in range(255)]
    [asked_] = openai_form.questions_of([{"type": "choice", "instructions": "", "choices": most}])
    [other] = questions_of({"q": {"type": "choice", "criteria": {str(i): None for i in range(255)}}}).values()
    assert asked_.question == other


def near(told: Any, page: Any) -> bool:
    """Whether it is what a page says, whose numbers are rounded and which may leave fields out."""
    if isinstance(page, dict):
        return all(key in told and near(told[key], value) for key, value in page.items())
    if isinstance(page, list):
        return len(told) == len(page) and all(map(near, told, page))
    return bool(abs(told - page) <= 0.0005) if isinstance(page, float) else bool(told == page)


def test_the_page_s_requests_return_what_it_says(client: Client) -> None:
    asked_ = ASKED.findall(PAGE.read_text(encoding="utf-8"))
    assert [path for path, _, _ in asked_] == [SYSTEM_ONE, DECISIONS]
    for path, body, told in asked_:
        reply = client.post(path, json.loads(body))
        assert near(reply.json, json.loads(told)), reply.body


WORDS = st.sampled_from([
    "model", "chat", "state", "questions", "type", "noul", "choice", "score", "predicate", "instructions", "criteria",
    "true", "input", "role", "user", "content", "choices", "value", "levels", "label", "", "\ud800", "a",
])  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(WORDS, inside, max_size=5),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(
    path=st.sampled_from([SYSTEM_ONE, DECISIONS]), body=JSON, key=st.sampled_from(["questions", "input", "state", ""])
)
def test_whatever_is_sent_is_no_fault_of_the_servers(client: Client, path: str, body: Any, key: str) -> None:
    good = {"model": "chat", "state": "Hi"} if path == SYSTEM_ONE else {"model": "chat", "input": "Hi"}
    reply = client.post(path, {**good, key: body} if key else body)
    assert reply.status in (200, 400, 404, 422), reply.body
    assert ("answers" in reply.json) == (reply.status == 200)


#: Heads that decide: kind of the random model, and its labels.
HEADS = {
    "nli": ("bert", ("contradiction", "neutral", "entailment")),
    "nli of two": ("roberta", ("entailment", "not_entailment")),
    "reranker": ("bert", ("LABEL_0",)),
    "reranker of pieces": ("albert", ("LABEL_0",)),
}


@pytest.mark.soak("decisions")
@pytest.mark.parametrize("model", ["chat", "story", *HEADS])
def test_the_form_s_own_suite_passes(tmp_path: Path, model: str) -> None:
    """jevcompat: every requirement; and where it allows noise, in answers about the same state, there is none."""
    pytest.importorskip("jevcompat", reason="pip install jevcompat==0.1.1")
    out, keys = tmp_path / "report.json", tmp_path / "keys"
    keys.write_text("a-long-secret\n")
    options = ["--api-keys", str(keys)]
    if model in HEADS:
        kind, labels = HEADS[model]
        write_model(tmp_path / "head", kind, "classes", labels=labels, positions=1024)
        options += ["--model", f"{tmp_path / 'head'}=head"]
    with serving(*options) as (_, port):
        url, name = f"http://127.0.0.1:{port}", "head" if model in HEADS else model
        command = [sys.executable, "-m", "jevcompat.cli", "test", url, "--model", name, "--key", "a-long-secret"]
        done = subprocess.run([*command, "--json", str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "MUST 32/32, SHOULD 15/15" in done.stdout
    renamed = {"zz-renamed.1": "refund", "Q 🙂": "team", "x_y_z": "anger"}
    exchanges = json.loads(out.read_text())["exchanges"]
    told = [json.loads(each["response"])["answers"] for each in exchanges if each["case"].startswith("semantics-")]
    answers = [{renamed.get(name, name): answer for name, answer in each.items()} for each in told]
    assert len(answers) >= 12
    for one, other in pairwise(answers):
        assert all(one[name] == other[name] for name in renamed.values())
