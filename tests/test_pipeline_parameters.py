"""Parameters of pipelines that are older names, or that `generate` has: they work, or are refused by name.

Results of older names are compared with transformers' in tests/test_pipeline_outputs.py.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import miaotui as mt
import pytest
from generation_models import write_writer
from miaotui.errors import InputError, MiaotuiWarning
from miaotui.tools import cli
from task_models import write_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LABELS = ("negative", "neutral", "positive")
ASKED = {"question": "Who flew?", "context": "Ana flew to Berlin."}
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("parameters")
    write_writer(at / "llama", "llama")
    return at


@pytest.fixture(scope="module")
def pipes(folder: Path) -> Iterator[dict[str, Any]]:
    with ExitStack() as closing:

        def opened(task: str, at: Path) -> Any:
            return closing.enter_context(mt.pipeline(task, at, threads=1))

        classes = write_model(folder / "classes", "bert", "classes", labels=LABELS)
        judge = write_model(folder / "judge", "bert", "classes", labels=("contradiction", "neutral", "entailment"))
        yield {
            "text-classification": opened("text-classification", classes),
            "question-answering": opened("question-answering", write_model(folder / "spans", "bert", "spans")),
            "zero-shot-classification": opened("zero-shot-classification", judge),
            "text-generation": opened("text-generation", folder / "llama"),
            "text2text-generation": opened("text2text-generation", write_writer(folder / "t5", "t5")),
        }


OLDER: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "topk": ("question-answering", ASKED | {"topk": 2}, ASKED | {"top_k": 2}, "topk: an older name of top_k"),
    "data": ("question-answering", {"data": ASKED}, ASKED, "data: an older name of what is read"),
    "X": ("question-answering", {"X": [ASKED, ASKED]}, {"inputs": [ASKED, ASKED]}, "X: an older name of what is read"),
    "multi_class": (
        "zero-shot-classification",
        {"sequences": "Ana", "candidate_labels": "a, b", "multi_class": True},
        {"inputs": "Ana", "candidate_labels": "a, b", "multi_label": True},
        "multi_class: an older name of multi_label",
    ),
    "return_all_scores": (
        "text-classification",
        {"inputs": "Ana", "return_all_scores": False},
        {"inputs": "Ana"},
        "return_all_scores: an older form of top_k=1",
    ),
}


def called(pipe: Any, given: dict[str, Any]) -> Any:
    """Questions are given by their place, as by name they are `question` and `context`."""
    given = dict(given)
    return pipe(given.pop("inputs"), **given) if "inputs" in given else pipe(**given)


@pytest.mark.parametrize("name", OLDER)
def test_an_older_name_does_the_same_and_is_warned_of(pipes: dict[str, Any], name: str) -> None:
    task, older, newer, says = OLDER[name]
    with pytest.warns(MiaotuiWarning, match=says) as told:
        got = called(pipes[task], older)
    assert [warning.filename for warning in told] == [__file__]
    assert got == called(pipes[task], newer)


def test_all_scores_are_in_the_model_s_order(pipes: dict[str, Any], folder: Path) -> None:
    pipe = pipes["text-classification"]
    with pytest.warns(MiaotuiWarning, match="an older form of top_k=None"):
        [scores] = pipe("Ana", return_all_scores=True)
    assert tuple(each["label"] for each in scores) == LABELS
    assert sorted(scores, key=lambda each: -each["score"]) == pipe("Ana", top_k=None)
    with pytest.warns(MiaotuiWarning, match="return_all_scores"):
        always = mt.pipeline("text-classification", folder / "classes", return_all_scores=True)
    with always:
        assert always("Ana") == [scores]
        assert always(["Ana"], top_k=1) == pipe(["Ana"], top_k=1)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("question-answering", ASKED | {"topk": 2, "top_k": 2}, "topk and top_k are the same parameter: give top_k alone"),
    ("question-answering", ASKED | {"topk": 0}, "topk=0: expected a whole number, at least 1"),
    ("question-answering", ASKED | {"data": ASKED}, "question and context by name and an input by its place"),
    ("zero-shot-classification", {"inputs": "a", "multi_class": "yes"}, "multi_class='yes': expected True or False"),
    ("zero-shot-classification", {"inputs": "a", "sequences": "a"}, "sequences: given by name and by its place too"),
    ("question-answering", {"inputs": "a", "question": "b"}, "question by name and an input by its place"),
    ("text-classification", {"inputs": "a", "return_all_scores": 1}, "return_all_scores=1: expected True or False"),
    ("text-generation", {"inputs": "a", "text_inputs": "a"}, "text_inputs: given by name and by its place too"),
    ("text-generation", {}, "None found, expected a text"),
    ("text-generation", {"inputs": "a", "n": 2, "num_return_sequences": 2}, "n and num_return_sequences are the same"),
    ("text-generation", {"inputs": "a", "n": 2, "do_sample": False}, "the likeliest answer is one"),
    ("text-generation", {"inputs": "a", "streamer": object()}, "streamer=.*: model.stream gives an answer piece by"),
    ("text-generation", {"inputs": "a", "generation_config": {}}, "generation_config=.*: give its parameters by their"),
    ("text-generation", {"inputs": "a", "output_scores": True}, "output_scores=True: logprobs=True tells"),
    ("text-generation", {"inputs": "a", "top_a": 0.5}, "unknown parameter of text-generation top_a"),
    ("text-generation", {"inputs": "a", "return_full_text": True, "return_tensors": True}, "exclude each other"),
    ("text-generation", {"inputs": "a", "logprobs": 2}, "logprobs=2: expected True or False; top_logprobs=2 tells"),
    ("text-generation", {"inputs": "a", "top_logprobs": -1}, "top_logprobs=-1: expected an integer from 0 to"),
    ("text2text-generation", {"inputs": "a", "logprobs": True}, "num_beams=4: logprobs .* do not go together"),
    ("text2text-generation", {"inputs": "a", "stopping_criteria": []}, "stopping_criteria=.*: stop_strings= and eos"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "given", "says"), WRONG, ids=[says for *_, says in WRONG])
def test_what_is_refused_by_name(pipes: dict[str, Any], task: str, given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        called(pipes[task], given)


def test_log_probabilities_of_an_answer_come_with_it(pipes: dict[str, Any]) -> None:
    pipe = pipes["text-generation"]
    [plain] = pipe("Ana flew", **GREEDY)
    assert list(plain) == ["generated_text"]
    [made] = pipe("Ana flew", top_logprobs=2, **GREEDY)
    assert list(made) == ["generated_text", "logprobs"]
    assert made["generated_text"] == plain["generated_text"]
    prompt = pipe.model.tokenizer.encode("Ana flew")
    told = pipe.model.generate(prompt, top_logprobs=2, repetition_penalty=1.0, **GREEDY).logprobs
    assert [(each["token"], each["logprob"]) for each in made["logprobs"]] == [(t.id, t.logprob) for t in told]
    for each in made["logprobs"]:
        assert [one["logprob"] for one in each["top_logprobs"]] == sorted(
            (one["logprob"] for one in each["top_logprobs"]), reverse=True
        )
        assert each["top_logprobs"][0] == {name: each[name] for name in ("token", "token_str", "logprob")}  # greedy
    [alone] = pipe("Ana flew", logprobs=True, return_tensors=True, **GREEDY)
    assert list(alone) == ["generated_token_ids", "logprobs"]
    assert alone["generated_token_ids"] == [*prompt, *(each["token"] for each in alone["logprobs"])]
    assert set(alone["logprobs"][0]) == {"token", "token_str", "logprob"}
    [whole] = pipe("Ana flew", echo=True, **GREEDY)
    assert [each["token"] for each in whole["logprobs"]] == alone["generated_token_ids"]
    assert whole["logprobs"][0]["logprob"] is None


def test_log_probabilities_of_an_encoder_decoder(pipes: dict[str, Any]) -> None:
    pipe, how = pipes["text2text-generation"], {"num_beams": 1, "max_new_tokens": 4}
    [made] = pipe("Ana flew", logprobs=True, **how)
    assert list(made) == ["generated_text", "logprobs"]
    assert [made["generated_text"]] == [each["generated_text"] for each in pipe("Ana flew", **how)]
    [ids] = pipe("Ana flew", logprobs=True, return_tensors=True, **how)
    assert [each["token"] for each in ids["logprobs"]] == ids["generated_token_ids"][1:]
    assert ids["logprobs"] == made["logprobs"]


def test_a_run_writes_log_probabilities(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("Ana\n", encoding="utf-8")
    words = ["run", "text-generation", "--model", str(folder / "llama"), "--input", str(tmp_path / "in.txt")]
    told = [word for name, value in GREEDY.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    assert cli.main([*words, "--output", str(tmp_path / "out.jsonl"), "--set", "logprobs=true", *told]) == 0
    [line] = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    [made] = json.loads(line)["output"]
    assert len(made["logprobs"]) == 4
    assert all(each["logprob"] <= 0 for each in made["logprobs"])


def test_n_is_short_for_num_return_sequences(pipes: dict[str, Any]) -> None:
    pipe, how = pipes["text-generation"], {"do_sample": True, "temperature": 5.0, "max_new_tokens": 6, "seed": 3}
    two = pipe("Ana", n=2, **how)
    assert two == pipe("Ana", num_return_sequences=2, **how)
    assert two[0] != two[1]


def test_a_tuple_is_as_good_as_a_list(pipes: dict[str, Any]) -> None:
    pipe = pipes["text2text-generation"]
    assert (
        pipe(("Ana", "flew"), **GREEDY)
        == pipe(["Ana", "flew"], **GREEDY)
        == [each for text in ("Ana", "flew") for each in pipe(text, **GREEDY)]
    )


def test_what_only_padding_or_a_cache_is_told_changes_nothing(pipes: dict[str, Any]) -> None:
    for task in ("text-generation", "text2text-generation"):
        plain = pipes[task]("Ana", **GREEDY)
        assert pipes[task]("Ana", pad_token_id=0, use_cache=True, streamer=None, **GREEDY) == plain
    assert pipes["text-generation"](text_inputs="Ana", **GREEDY) == pipes["text-generation"]("Ana", **GREEDY)
