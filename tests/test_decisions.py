"""Typed decisions: prompts and formulas are transformers', an answer's bits are its own, faults have places."""

from __future__ import annotations

import json
import math
import shutil
import threading
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from adapters_apart import write_adapter
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import ConfigError, InputError
from miaotui.loader.decision import Decision, read_decision
from miaotui.loader.text.control import ControlTokens
from miaotui.tools import demo
from miaotui.tools.decisions import answers, openai_form, prompts, system_one
from miaotui.tools.decisions.questions import Question, RefusedError, questions_of
from miaotui.tools.decisions.reading import Call, reader_of
from task_models import write_model
from tolerance import bound

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from miaotui.model import Model

SETTINGS = settings(max_examples=60, deadline=None)
STATE = "Tom went to the park. He was sad, for his red ball was lost."
NOUL = {"type": "noul", "instructions": "Is Tom happy?"}
CHOICE = {"type": "choice", "instructions": "What is lost?", "criteria": {"a ball": None, "a hat": None, "a dog": None}}
TOLD = {"type": "choice", "instructions": "Where is Tom?", "criteria": {"park": "where children play", "home": None}}
SCORE = {"type": "score", "instructions": "How does Tom feel?", "criteria": ["sad", "calm", {"so": "happy"}]}
QUESTIONS = {"noul": NOUL, "choice": CHOICE, "told": TOLD, "score": SCORE}

json_text = st.one_of(st.text(max_size=20), st.dictionaries(st.text(max_size=4), st.integers(), max_size=2))
question_json = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("noul")},
        optional={
            "instructions": json_text,
            "criteria": st.dictionaries(st.sampled_from(["true", "false"]), st.none() | json_text),
        },
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("choice"),
            "criteria": st.dictionaries(st.text(max_size=9), st.none() | json_text, min_size=2, max_size=9),
        },
        optional={"instructions": json_text},
    ),
    st.fixed_dictionaries(
        {"type": st.just("score"), "criteria": st.lists(json_text, min_size=2, max_size=10)},
        optional={"instructions": json_text},
    ),
)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with miaotui.load(demo.path("chat"), cache_tokens=2048) as model:
        yield model


def one(question: dict[str, Any]) -> Question:
    return questions_of({"q": question})["q"]


# ---------------------------------------------------------------- next to transformers


@SETTINGS
@given(question=question_json, state=json_text, labels=st.sampled_from([None, ["No", "Yes"], ["0", "1", *"23456789"]]))
def test_the_lettered_prompt_is_that_of_transformers(question: dict[str, Any], state: Any, labels: Any) -> None:
    theirs = pytest.importorskip("transformers.decision")
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    said = {question["type"]: labels} if labels and len(labels) >= len(question.get("criteria") or "ab") else {}
    config = theirs.DecisionConfig(labels=said)
    asked = theirs.Question.from_request("q", question, config)
    from transformers.decision.template_utils import DECISION_PROMPT

    wanted = utils._compile_jinja_template(DECISION_PROMPT).render(state=state, question=asked)
    text = state if isinstance(state, str) else json.dumps(state, ensure_ascii=False)
    ours = one(question)
    used = said.get(question["type"], Decision().labels[question["type"]])[: len(ours.options)]
    assert prompts.lettered(text, ours, used, range(len(ours.options))) == wanted


@SETTINGS
@given(question=question_json, data=st.data())
def test_answers_are_those_of_transformers(question: dict[str, Any], data: st.DataObject) -> None:
    theirs = pytest.importorskip("transformers.decision")
    ours = one(question)
    logits = data.draw(st.lists(st.floats(-9, 9), min_size=len(ours.options), max_size=len(ours.options)))
    p = answers.probabilities(logits)
    assert p == pytest.approx(np.exp(logits) / np.exp(logits).sum())
    wanted = theirs.Question.from_request("q", question, theirs.DecisionConfig()).answer(p)
    got = system_one.answer(ours, question.get("criteria"), p)
    assert list(got) == list(wanted)
    for key, value in wanted.items():
        assert got[key] == (pytest.approx(value, abs=1e-12) if isinstance(value, float) else value)


@pytest.mark.ci  # 17 s: imports of transformers' models
def test_labels_are_read_as_transformers_reads_them(tmp_path: Path) -> None:
    """decision.json with labels and temperatures: the same probabilities by another runtime."""
    pipelines = pytest.importorskip("transformers.pipelines")
    directory = tmp_path / "taught"
    shutil.copytree(demo.path(), directory)
    told = json.loads((directory / "tokenizer_config.json").read_text())
    told["chat_template"] = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}\n"
    (directory / "tokenizer_config.json").write_text(json.dumps(told))
    labels = {"noul": ["T", "F"]}
    said = {"labels": labels, "temperature": {"choice": 2.0, "score": 0.5}, "noul_options": ["false", "true"]}
    (directory / "decision.json").write_text(json.dumps(said))
    state = "Tom </s> sat. <s>"  # control tokens of a state are text
    pipe = pipelines.DecisionPipeline(
        model=pytest.importorskip("transformers").AutoModelForCausalLM.from_pretrained(directory, dtype="float32"),
        tokenizer=pytest.importorskip("transformers").AutoTokenizer.from_pretrained(directory),
    )
    wanted = pipe({"state": state, "questions": QUESTIONS})
    with miaotui.load(directory) as model:
        reader, near = reader_of(model), bound("model", "f32", model.config.n_layers)
        for name, given_question in QUESTIONS.items():
            ours = one(given_question)
            got = system_one.answer(ours, given_question.get("criteria"), reader.read(state, ours).probabilities)
            for key, value in wanted[name].items():
                close = pytest.approx(value, abs=near) if isinstance(value, float | dict) and key != "legend" else value
                assert got[key] == close, name


def test_more_options_than_labels_are_compared_as_they_would_be_written(tmp_path: Path) -> None:
    shutil.copytree(demo.path("chat"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "decision.json").write_text(json.dumps({"labels": {"choice": ["A", "B"], "noul": ["T", "F"]}}))
    two = CHOICE | {"criteria": {"a ball": None, "a hat": None}}
    with miaotui.load(tmp_path) as taught, miaotui.load(demo.path("chat")) as model:
        assert reader_of(taught).read(STATE, one(CHOICE)) == reader_of(model).read(STATE, one(CHOICE))
        lettered = reader_of(taught).read(STATE, one(two))
        ids = ControlTokens(taught.tokenizer).encode(
            f"<s>User: {prompts.lettered(STATE, one(two), ('A', 'B'), (0, 1))}\nAssistant:"
        )
        logits = taught.last_logits([ids])[0, [taught.tokenizer.token_to_id(label) for label in "AB"]].astype(float)
        assert lettered.probabilities == pytest.approx(np.exp(logits) / np.exp(logits).sum())


def test_labels_that_are_no_tokens_are_refused(tmp_path: Path) -> None:
    shutil.copytree(demo.path("chat"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "decision.json").write_text(json.dumps({"labels": {"noul": ["B", "absolutely"]}}))
    with miaotui.load(tmp_path) as model, pytest.raises(ConfigError, match=r"labels\.noul: the label 'absolutely'"):
        reader_of(model)


# ---------------------------------------------------------------- by what would be written


def test_an_answer_has_the_same_bits_whatever_else_is_asked(model: Model) -> None:
    reader = reader_of(model)
    alone = {}
    for name, question in questions_of(QUESTIONS).items():
        with miaotui.load(demo.path("chat")) as fresh:
            alone[name] = reader_of(fresh).read(STATE, question)
    for order in (QUESTIONS, dict(reversed(QUESTIONS.items()))):
        assert {name: reader.read(STATE, question) for name, question in questions_of(order).items()} == alone


def test_the_order_of_options_changes_no_bit(model: Model) -> None:
    reader = reader_of(model)
    turned = CHOICE | {"criteria": dict(reversed(CHOICE["criteria"].items()))}
    one_way, other = reader.read(STATE, one(CHOICE)), reader.read(STATE, one(turned))
    assert one_way.probabilities == other.probabilities[::-1]


def test_probabilities_are_those_of_choose(model: Model) -> None:
    ids = model.tokenizer.chat_ids([{"role": "user", "content": f"{STATE}\n\nWhat is lost?"}])
    options = [model.tokenizer.encode(f" {each}", add_special_tokens=False) for each in CHOICE["criteria"]]
    sums = np.array([each.sum for each in model.score(ids, options)])
    got = reader_of(model).read(STATE, one(CHOICE))
    assert got.probabilities == pytest.approx(np.exp(sums) / np.exp(sums).sum())
    assert got.n_tokens == len(ids) + sum(map(len, options))
    assert got.probabilities[0] > 0.5


def test_two_sides_of_a_noul_are_told_and_255_options_fit(model: Model) -> None:
    reader = reader_of(model)
    assert reader.read(STATE, one(NOUL)) != reader.read(STATE, one(NOUL | {"criteria": {"false": "he cries"}}))
    many = {"type": "choice", "instructions": "Which?", "criteria": {f"ball {i}": f"number {i}" for i in range(255)}}
    assert math.fsum(reader.read(STATE, one(many)).probabilities) == pytest.approx(1)


def test_a_question_without_an_answer_is_refused(model: Model) -> None:
    reader = reader_of(model)
    with pytest.raises(InputError, match="more than the context"):
        reader.read(STATE * 40, one(NOUL))
    with pytest.raises(InputError, match="one of them called entailment"), miaotui.load(demo.path("sentiment")) as m:
        reader_of(m)
    with pytest.raises(InputError, match="decides nothing"), miaotui.load(demo.path("encoder")) as m:
        reader_of(m)


def test_a_question_that_nobody_waits_for_ends(model: Model) -> None:
    gone = threading.Event()
    reader_of(model).read(STATE, one(CHOICE), Call(gone=gone))
    gone.set()
    with pytest.raises(InputError, match="nobody waits"):
        reader_of(model).read(STATE, one(CHOICE), Call(gone=gone))


def test_an_adapter_answers_by_its_name(tmp_path: Path) -> None:
    polite, question = write_adapter(tmp_path / "polite", demo.path(), "q_proj", "down_proj"), one(SCORE)
    with miaotui.load(demo.path()) as model:
        alone = reader_of(model).read(STATE, question)
    with miaotui.load(demo.path(), adapters={"polite": polite}) as adapted:
        reader = reader_of(adapted)
        assert reader.read(STATE, question) == alone
        ids, before = reader.prompt(prompts.asked(STATE, question))  # type: ignore[attr-defined] # a `Prompting`
        texts = [f"{before}{text}" for text in prompts.written(question)]
        options = [adapted.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        means = [score.mean for score in adapted.score(ids, options, adapter="polite")]
        told = reader.read(STATE, question, Call("polite")).probabilities
        assert told == answers.probabilities(means) != alone.probabilities


def test_an_encoder_decoder_writes_answers_too() -> None:
    with miaotui.load(demo.path("dates")) as model:
        noul = reader_of(model).read("5 May 2020", one(NOUL)).probabilities
        assert math.fsum(noul) == pytest.approx(1)


# ---------------------------------------------------------------- by heads


@pytest.mark.parametrize("labels", [("LABEL_0",), ("contradiction", "neutral", "entailment"), ("entailment", "no")])
def test_heads_judge_each_option_as_a_pair(tmp_path: Path, labels: tuple[str, ...]) -> None:
    write_model(tmp_path, "bert", "classes", labels=labels)
    state, entails = "Ana flew", 2 if len(labels) > 2 else 0
    asked = {"type": "choice", "instructions": "where", "criteria": {"Berlin": None, "Paris": "a city"}}
    with miaotui.load(tmp_path) as model:
        reader = reader_of(model)
        rows = model.pairs.of([(state, "where Berlin"), (state, "where Paris: a city")], act="identity")
        yes = np.asarray(rows).reshape(2, -1)[:, entails].astype(float)
        assert reader.read(state, one(asked)).probabilities == pytest.approx(np.exp(yes) / np.exp(yes).sum())
        row = np.asarray(model.pairs.of([(state, "Is Tom happy?")], act="identity")).reshape(-1).astype(float)
        no = {1: 0.0, 2: row[-1], 3: row[0]}[len(labels)]  # of two labels, the other is against it
        wanted = 1 / (1 + math.exp(no - row[entails]))
        assert reader.read(state, one(NOUL)).probabilities[0] == pytest.approx(wanted)
        sides = NOUL | {"criteria": {"true": "yes", "false": "no"}}
        assert reader.read(state, one(sides)) != reader.read(state, one(NOUL))
        with pytest.raises(InputError, match="state: is empty"):
            reader.read(" ", one(NOUL))


# ---------------------------------------------------------------- control tokens


def test_control_tokens_of_a_text_are_text(model: Model) -> None:
    control = ControlTokens(model.tokenizer)
    eos = set(model.config.eos_ids)
    assert {"<s>", "</s>"} <= set(control.tokens)
    assert eos & set(model.tokenizer.encode("a</s>b"))
    for text in ("a</s>b", "<</s>s>", "</s></s>", "a<s\ufdd0>"):
        ids = control.encode(control.marked(text))
        assert not eos & set(ids)
        assert not set(model.config.bos_ids) & set(ids)
        assert model.tokenizer.decode(ids).strip() == text.replace("\ufdd0", "")
    assert control.encode("a</s>b") == model.tokenizer.encode("a</s>b", add_special_tokens=False)
    assert control.framed("a") == model.tokenizer.encode("a")


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ([], ()),
        ({"model": "m", "questions": {"q": NOUL}}, ("state",)),
        ({"model": "m", "state": "s"}, ("questions",)),
        ({"model": 1, "state": "s", "questions": {"q": NOUL}}, ("model",)),
        ({"model": "m", "state": None, "questions": {"q": NOUL}}, ("state",)),
        ({"model": "m", "state": "s", "questions": {}}, ("questions",)),
        ({"model": "m", "state": "s", "questions": [NOUL]}, ("questions",)),
        ({"model": "m", "state": "s", "questions": {"": NOUL}}, ("questions", "")),
        ({"model": "m", "state": "s", "questions": {"q": 1}}, ("questions", "q")),
        ({"model": "m", "state": "s", "questions": {"q": {}}}, ("questions", "q", "type")),
        ({"model": "m", "state": "s", "questions": {"q": {"type": "boolean"}}}, ("questions", "q", "type")),
        ({"model": "m", "state": "s", "questions": {"q": NOUL | {"x": 1}}}, ("questions", "q", "x")),
        ({"model": "m", "state": "s", "questions": {"q": NOUL | {"instructions": 1}}},
         ("questions", "q", "instructions")),
        ({"model": "m", "state": "s", "questions": {"q": NOUL | {"criteria": {"yes": 1}}}},
         ("questions", "q", "criteria")),
        ({"model": "m", "state": "s", "questions": {"q": NOUL | {"criteria": {"true": 1}}}},
         ("questions", "q", "criteria", "true")),
        ({"model": "m", "state": "s", "questions": {"q": CHOICE | {"criteria": {"a": None}}}},
         ("questions", "q", "criteria")),
        ({"model": "m", "state": "s", "questions": {"q": CHOICE | {"criteria": None}}}, ("questions", "q", "criteria")),
        ({"model": "m", "state": "s", "questions": {"q": CHOICE | {"criteria": {str(i): None for i in range(256)}}}},
         ("questions", "q", "criteria")),
        ({"model": "m", "state": "s", "questions": {"q": SCORE | {"criteria": {"0": "a", "1": "b"}}}},
         ("questions", "q", "criteria")),
        ({"model": "m", "state": "s", "questions": {"q": SCORE | {"criteria": ["a", None]}}},
         ("questions", "q", "criteria", 1)),
        ({"model": "m", "state": "s", "questions": {"q": NOUL}, "assets": {"i": {}}}, ("assets",)),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_read_says_where(body: object, place: tuple[str | int, ...]) -> None:
    with pytest.raises(RefusedError) as e:
        system_one.request_of(body)
    assert [fault.place for fault in e.value.faults] == [place]


def test_everything_that_is_wrong_is_told_at_once() -> None:
    body = {"state": 1, "questions": {"a": {"type": "choice", "criteria": {"x": 1, "y": 2}}, "b": {"type": "no"}}}
    with pytest.raises(RefusedError, match=r"model: .*state: .*questions\.a\.criteria\.x: .*questions\.b\.type: ") as e:
        system_one.request_of(body)
    assert len(e.value.faults) == 5


@pytest.mark.parametrize("likely", [[math.nan, 0.0], [-math.inf, -math.inf], [math.inf, 0.0]])
def test_logits_that_are_no_numbers_choose_nothing(likely: list[float]) -> None:
    with pytest.raises(InputError, match="no numbers"):
        answers.probabilities(likely)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"labels": {"noul": ["A", "A"]}}, r"labels\.noul is \['A', 'A'\]"),
        ({"labels": {"other": ["A", "B"]}}, "labels is"),
        ({"temperature": {"noul": 0}}, r"temperature\.noul is 0"),
        ({"temperature": {"noul": math.nan}}, r"temperature\.noul is nan"),
        ({"noul_options": ["true"]}, "noul_options is"),
        ({"adapter": "lora"}, "adapter is 'lora'"),
        ({"sanitize_control_tokens": False}, "sanitize_control_tokens is False"),
        ({"chat_template": "x"}, "chat_template is"),
    ],
)
def test_a_file_that_cannot_be_followed_is_refused(tmp_path: Path, said: dict[str, Any], message: str) -> None:
    (tmp_path / "decision.json").write_text(json.dumps(said))
    with pytest.raises(ConfigError, match=message):
        read_decision(tmp_path)


def test_what_the_file_says_is_read(tmp_path: Path) -> None:
    assert read_decision(tmp_path) is None
    (tmp_path / "decision.json").write_text(json.dumps({"labels": {"score": ["0", "1"]}, "sort_choices": True}))
    read = read_decision(tmp_path)
    assert read is not None
    assert (read.labels["score"], read.labels["noul"], read.temperature["choice"]) == (("0", "1"), ("Yes", "No"), 1)
    (tmp_path / "decision_template.jinja").write_text("{{ state }}")
    with pytest.raises(ConfigError, match="prompts of a directory's own"):
        read_decision(tmp_path)


# ---------------------------------------------------------------- OpenAI's form


def test_openais_form_asks_the_same() -> None:
    asked = openai_form.questions_of([
        {"type": "predicate", "instructions": "Is it so?", "name": "so"},
        {"type": "choice", "instructions": [{"type": "input_text", "text": "Which"}], "choices": [
            {"value": True, "description": "it is"}, {"value": "true"}]},
        {"type": "score", "instructions": "How?", "levels": [
            {"label": "low"}, {"label": "high", "description": "very"}]},
    ])  # fmt: skip
    assert [each.question for each in asked] == [
        Question("noul", "Is it so?", ("true", "false"), ("", "")),
        Question("choice", "Which", ("true", "true"), ("it is", "")),
        Question("score", "How?", ("0", "1"), ("low", "high: very")),
    ]
    decision = pytest.importorskip("openai.types.decision").Decision
    usage = {
        "input_tokens": 3, "output_tokens": 0, "total_tokens": 3, "output_tokens_details": {"reasoning_tokens": 0},
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    }  # fmt: skip
    told = [openai_form.answer(each, [0.75, 0.25]) for each in asked]
    parsed = decision.model_validate({"answers": told, "model": "m", "usage": usage})
    predicate, choice, score = parsed.answers
    assert (predicate.name, predicate.probability) == ("so", 0.75)
    assert choice.choice is True
    assert [each.value for each in choice.probabilities] == [True, "true"]
    assert (score.score, score.probabilities[1].label, score.confidence) == (0.25, "high", 0.5)


def test_openais_inputs_become_one_text() -> None:
    assert openai_form.state_of("a") == "a"
    assert openai_form.state_of([{"role": "user", "content": "a"}]) == "a"
    items = [
        {"role": "developer", "content": "Be kind."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"},
                                                        {"type": "input_json", "data": {"n": 1}}]},
        {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "1"},
        {"type": "function_call_output", "call_id": "1", "output": "2"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Yes"}]},
    ]  # fmt: skip
    assert openai_form.state_of(items) == (
        'developer: Be kind.\n\nuser: Hi\n{"n": 1}\n\nassistant calls f: {}\n\ntool: 2\n\nassistant: Yes'
    )


@pytest.mark.parametrize(
    ("read", "given", "place"),
    [
        (openai_form.state_of, 1, ("input",)),
        (openai_form.state_of, [], ("input",)),
        (openai_form.state_of, [1], ("input", 0)),
        (openai_form.state_of, [{"role": "tool", "content": ""}], ("input", 0, "role")),
        (openai_form.state_of, [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}],
         ("input", 0, "content", 0)),
        (openai_form.state_of, [{"type": "reasoning"}], ("input", 0, "type")),
        (openai_form.questions_of, [], ("questions",)),
        (openai_form.questions_of, [{"type": "noul"}], ("questions", 0, "type")),
        (openai_form.questions_of, [{"type": "predicate"}], ("questions", 0, "instructions")),
        (openai_form.questions_of, [{"type": "predicate", "instructions": "a", "criteria": 1}],
         ("questions", 0, "criteria")),
        (openai_form.questions_of, [{"type": "predicate", "instructions": "a", "name": 1}], ("questions", 0, "name")),
        (openai_form.questions_of, [{"type": "choice", "instructions": "a", "choices": [{"value": "a"}]}],
         ("questions", 0, "choices")),
        (openai_form.questions_of, [{"type": "choice", "instructions": "a", "choices": [{"value": "a"}] * 2}],
         ("questions", 0, "choices", 1, "value")),
        (openai_form.questions_of, [{"type": "score", "instructions": "a", "levels": [{"label": 1}, {"label": "b"}]}],
         ("questions", 0, "levels", 0)),
    ],
)  # fmt: skip
def test_openais_faults_have_places(read: Any, given: object, place: tuple[str | int, ...]) -> None:
    with pytest.raises(RefusedError) as e:
        read(given)
    assert [fault.place for fault in e.value.faults] == [place]


@SETTINGS
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(["type", "instructions", "criteria", "choices", "role", "content", "value"]),
                        inner | st.sampled_from(["noul", "choice", "score", "predicate", "user"]), max_size=4),
                    max_leaves=12))  # fmt: skip
def test_whatever_is_sent_has_questions_or_faults(body: Any) -> None:
    """No other exception, on any JSON."""
    for read in (
        system_one.request_of,
        openai_form.state_of,
        openai_form.questions_of,
        lambda b: system_one.request_of({"model": "m", "state": "s", "questions": {"q": b}}),
        lambda b: openai_form.questions_of([b]),
    ):
        faults: list[Any] = []
        try:
            read(body)
        except RefusedError as e:
            faults = e.faults
        assert all(fault.message for fault in faults)
