"""Odd values and damaged models in the newest interfaces: pipelines, sentence encoders, evaluation, tools of chats.

One typed error that names what was typed, or the right answer; never a library's exception, never a wrong answer.
"""

from __future__ import annotations

import json
import os
import typing
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import miaotui as mt
import numpy as np
import pytest
from checkpoints import write_safetensors
from generation_models import write_writer
from miaotui.errors import BackendError, CheckpointError, ConfigError, InputError, MiaotuiError, TokenizerError
from miaotui.loader.text.tool_schema import as_tool
from miaotui.runtime.beam_params import beams_from
from miaotui.runtime.rules import Rules, rules_from
from miaotui.tools.batch.journal import Commit, Journal, read_journal
from miaotui.tools.batch.records import MOST
from miaotui.tools.evaluate.evaluation import evaluate
from miaotui.tools.evaluate.examples import Labelled
from miaotui.tools.evaluate.measured import Outcome
from miaotui.tools.evaluate.readers import read
from miaotui.tools.evaluate.report import as_json, table
from miaotui.tools.evaluate.swap import Swap
from miaotui.tools.evaluate.tasks import Settings
from safetensors.numpy import load_file
from sentence_outputs import write_encoder, write_judge
from task_models import ENTITIES, write_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BIG = 10**5000  # has no repr: Python writes at most 4300 digits
ODD = (BIG, -1, 10**20, float("nan"), b"x", "\0", "\ud800", "False", [], [[1]], {}, {1: 2}, {1}, object(), np.array(3),
       np.arange(2), np.array(["a", "b"]))  # fmt: skip
LABELS = ("negative", "neutral", "positive")
INFERENCE = ("contradiction", "neutral", "entailment")
QUESTION = {"question": "Who flew?", "context": "Ana flew to Berlin."}

#: Task -> its model, and a call that answers.
ENCODERS: dict[str, tuple[str, tuple[str, ...], Callable[..., Any]]] = {
    "text-classification": ("classes", LABELS, lambda pipe, **how: pipe("a good film", **how)),
    "token-classification": ("token_classes", ENTITIES, lambda pipe, **how: pipe("Ana flew", **how)),
    "question-answering": ("spans", (), lambda pipe, **how: pipe(**QUESTION, **how)),
    "fill-mask": ("masked_lm", (), lambda pipe, **how: pipe(f"Ana {pipe.mask_token}", **how)),
    "zero-shot-classification": (
        "classes",
        INFERENCE,
        lambda pipe, **how: pipe("a good film", **{"candidate_labels": ["good", "bad"]} | how),
    ),
    "feature-extraction": ("", (), lambda pipe, **how: pipe("a good film", **how)),
    "text-ranking": ("classes", ("score",), lambda pipe, **how: pipe("a film", ["good", "bad"], **how)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("odd")


@pytest.fixture(scope="module")
def pipes(folder: Path) -> Iterator[dict[str, Any]]:
    """A pipeline of each task that an encoder does, and two that write."""
    with ExitStack() as closing:
        made = {}
        for task, (head, labels, _) in ENCODERS.items():
            at = write_model(folder / task, "bert", head, labels=labels)
            made[task] = closing.enter_context(mt.pipeline(task, at, threads=1))
        for task, kind in (("text-generation", "llama"), ("text2text-generation", "t5")):
            at = write_writer(folder / kind, kind)
            made[task] = closing.enter_context(mt.pipeline(task, at, threads=1, max_new_tokens=2, do_sample=False))
        yield made


def called(pipes: dict[str, Any], task: str, **how: Any) -> Any:
    pipe = pipes[task]
    return ENCODERS[task][2](pipe, **how) if task in ENCODERS else pipe("Ana", **how)


def complaint_of(call: Callable[[], Any]) -> str:
    """What is wrong, in a short message of ours; nothing where it is right. Another exception comes out."""
    try:
        call()
    except MiaotuiError as e:
        said = str(e)
    else:
        return ""
    assert 0 < len(said) < 2000
    return said


SWITCHES = [
    ("text-classification", "add_special_tokens"), ("token-classification", "is_split_into_words"),
    ("question-answering", "handle_impossible_answer"), ("question-answering", "align_to_words"),
    ("zero-shot-classification", "multi_label"), ("text-ranking", "return_documents"),
    ("text-generation", "return_full_text"), ("text-generation", "clean_up_tokenization_spaces"),
    ("text-generation", "do_sample"), ("text2text-generation", "return_tensors"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "name"), SWITCHES)
def test_a_text_is_no_switch(pipes: dict[str, Any], task: str, name: str) -> None:
    """As `--set align_to_words=False` gives it: it was true."""
    with pytest.raises(InputError, match=f"^{name}='False': expected True or False"):
        called(pipes, task, **{name: "False"})
    usual = pipes[task].parameters[name]
    assert called(pipes, task, **{name: None}) == called(pipes, task)
    if usual is not None:
        assert called(pipes, task, **{name: np.bool_(usual)}) == called(pipes, task)


def test_numpy_s_whole_numbers_are_as_good_as_python_s(pipes: dict[str, Any]) -> None:
    for task, name in (
        ("text-classification", "top_k"), ("question-answering", "top_k"), ("fill-mask", "top_k"),
        ("text-ranking", "top_k"), ("text-classification", "max_length"),
    ):  # fmt: skip
        assert called(pipes, task, **{name: np.int64(2)}) == called(pipes, task, **{name: 2})


@pytest.mark.ci  # 20 s
@pytest.mark.filterwarnings("ignore:targets")  # that are no tokens
@pytest.mark.parametrize("task", [*ENCODERS, "text-generation", "text2text-generation"])
@pytest.mark.filterwarnings("ignore::miaotui.errors.MiaotuiWarning")
def test_odd_parameters_and_items(pipes: dict[str, Any], task: str) -> None:
    """Nothing but a `MiaotuiError` comes out, short and with the parameter's name."""
    for value in ODD:
        for name in pipes[task].parameters:
            said = complaint_of(lambda n=name, v=value: called(pipes, task, **{n: v}))
            assert not said or name in said or "lone surrogate" in said, (name, said)
        for item in (value, ["a", value]):
            complaint_of(lambda i=item: pipes[task](i))


def test_odd_tasks_and_models(pipes: dict[str, Any]) -> None:
    for value in ODD:
        with pytest.raises(InputError, match=r"^task="):
            mt.pipeline(value, pipes["fill-mask"].model)
        if not isinstance(value, str):
            with pytest.raises(InputError, match=r"^model="):
                mt.pipeline("fill-mask", value)


def test_numbers_that_have_no_text(pipes: dict[str, Any]) -> None:
    for task, name in (
        ("text-classification", "truncation"), ("question-answering", "doc_stride"),
        ("text-generation", "num_return_sequences"), ("text2text-generation", "num_beams"),
        ("text2text-generation", "length_penalty"), ("text-generation", "forced_eos_token_id"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=name):
            called(pipes, task, **{name: BIG})
    for given in ({"length_penalty": BIG}, {"num_beams": BIG}, {"early_stopping": np.arange(2)}):
        with pytest.raises(InputError, match=next(iter(given))):
            beams_from(given)
    with pytest.raises(InputError, match=r"forced_eos_token_id=.*outside the vocabulary"):
        rules_from({"forced_eos_token_id": BIG}, Rules(), 10)


@pytest.mark.parametrize(("task", "how", "says"), [
    ("text-generation", {"prefix": 5}, "prefix=5: expected a text"),
    ("text-generation", {"handle_long_generation": []}, r"handle_long_generation=\[\]: expected one of hole"),
    ("text-generation", {"seed": "x", "do_sample": True, "num_return_sequences": 2}, "seed='x': expected an integer"),
    ("token-classification", {"aggregation_strategy": np.arange(2)}, "aggregation_strategy=array"),
    ("text-classification", {"truncation": np.arange(2)}, "truncation=array"),
    ("zero-shot-classification", {"hypothesis_template": "{0[a]}"}, r"hypothesis_template='\{0\[a\]\}'"),
    ("zero-shot-classification", {"hypothesis_template": "{:>2000000000}"}, "asks for a width"),
    ("zero-shot-classification", {"hypothesis_template": "{:{}}"}, "hypothesis_template="),
    ("zero-shot-classification", {"hypothesis_template": "This is {{}}."}, "where the label goes"),
])  # fmt: skip
def test_what_is_refused_by_name(pipes: dict[str, Any], task: str, how: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        called(pipes, task, **how)


def test_a_text_that_is_none_has_its_number(pipes: dict[str, Any]) -> None:
    with pytest.raises(TokenizerError, match=r"lone surrogate.*\(item 2 of the input, counted from 0\)"):
        pipes["text-classification"](["a", "b", "\ud800"])


def test_seeds_follow_the_first(pipes: dict[str, Any]) -> None:
    """Any integer is a seed, a negative one too."""
    how = {"do_sample": True, "temperature": 5.0, "max_new_tokens": 6}
    two = pipes["text-generation"]("Ana", seed=np.int64(-1), num_return_sequences=2, **how)
    assert two == [pipes["text-generation"]("Ana", seed=seed, **how)[0] for seed in (-1, 0)]


def test_an_answer_goes_on_in_the_last_text_of_its_parts(pipes: dict[str, Any]) -> None:
    """A list and a text were added: a TypeError after the answer was made."""
    user = {"role": "user", "content": "Where is Ana?"}
    parts = [{"type": "text", "text": "In"}, {"type": "text", "text": "Ber"}, {"type": "image"}]
    template = "{% for m in messages %}{{ m.content if m.content is string else m.content[1].text }}{% endfor %}"
    how = {"tokenizer_encode_kwargs": {"chat_template": template}}
    [made] = pipes["text-generation"]([user, {"role": "assistant", "content": parts}], **how)
    [plain] = pipes["text-generation"]([user, {"role": "assistant", "content": "Ber"}], **how)
    said = plain["generated_text"][-1]["content"]
    assert said.startswith("Ber")
    assert made["generated_text"][-1]["content"] == [parts[0], {"type": "text", "text": said}, parts[2]]


# ---------------------------------------------------------------------------------- files


def test_a_file_s_line_has_a_bound(pipes: dict[str, Any], tmp_path: Path) -> None:
    """A line of eight gigabytes that are on no disk was read whole."""
    with (tmp_path / "a.txt").open("wb") as file:
        os.truncate(file.fileno(), 2**33)
    with pytest.raises(InputError, match=f"a.txt, line 1: the line has more than {MOST:,} bytes"):
        next(pipes["text-classification"](tmp_path / "a.txt"))


def test_files_of_rows(pipes: dict[str, Any], tmp_path: Path) -> None:
    pipe = pipes["text-classification"]
    alone = pipe("a good film", truncation=True)[0]

    def file(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    long = file("long.csv", b'text\n"' + b"a good film " * 20_000 + b'"\n')  # Python's own bound is 128 KiB
    assert list(pipe(long, truncation=True)) == pipe(["a good film " * 20_000], truncation=True)
    assert list(pipe(file("a.tsv", b"text\ttext_pair\na good film\t\n"))) == [
        pipe({"text": "a good film", "text_pair": ""})
    ]
    assert list(pipe(file("a.ndjson", b'\xef\xbb\xbf"a good film"\n'))) == [alone]
    for name, data, says in (
        ("open.csv", b'text\n"a\nb\n', "line 2: a quotation mark"),
        ("twice.csv", b"text,text\na,b\n", "each once, found"),
        ("twice.jsonl", b'{"text": "a", "text": "b"}\n', "line 1: the key 'text' is given twice"),
        ("nan.jsonl", b'{"text": NaN}\n', "line 1: NaN is no JSON number"),
        ("deep.jsonl", b"[" * 100_000 + b"\n", "line 1: JSON is nested too deep"),
        ("latin.csv", b"text\na\xff\n", "line 2: byte 1 .* is not UTF-8"),
    ):
        with pytest.raises(InputError, match=f"{name}, .*{says}"):
            list(pipe(file(name, data)))
    (tmp_path / "folder.txt").mkdir()
    for path in (tmp_path / "folder.txt", tmp_path / "none.txt", Path("a\0b.txt")):
        with pytest.raises(InputError, match="cannot be read"):
            list(pipe(path))


def test_a_journal_with_other_numbers_is_none(tmp_path: Path) -> None:
    """A length of "x" was a TypeError once the run went on."""
    file = tmp_path / "o.journal"
    Journal(file, {"TASK": "ner"}, Commit(good=3)).close()
    assert read_journal(file) == ({"TASK": "ner"}, Commit(good=3))
    first, last = file.read_text().splitlines()
    place = json.loads(last)["place"]
    for odd in ({"good": "x"}, {"output": -1}, {"errors": 1.5}, {"bad": True}, {"seconds": None}, {"output": 2**70},
                {"place": place | {"offset": []}}, {"place": place | {"sha256": 5}}):  # fmt: skip
        file.write_text(f"{first}\n{json.dumps(json.loads(last) | odd)}\n")
        with pytest.raises(InputError, match="says nowhere how far"):
            read_journal(file)
        file.write_text(f"{first}\n{last}\n{json.dumps(json.loads(last) | odd)}\n")
        assert read_journal(file) == ({"TASK": "ner"}, Commit(good=3))


# ---------------------------------------------------------------------------------- numbers that are none


def damaged(folder: Path, name: str = "LayerNorm.weight") -> Path:
    """The directory, with a NaN in the last of these."""
    tensors = load_file(folder / "model.safetensors")
    tensors[next(n for n in sorted(tensors, reverse=True) if n.endswith(name))][0] = np.nan
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


@pytest.mark.parametrize("task", [task for task, (head, _, _) in ENCODERS.items() if head])
def test_a_damaged_model_gives_no_answer(task: str, tmp_path: Path) -> None:
    """An empty list of answers, the first label of all, or 0.0 for how alike sentences are."""
    head, labels, call = ENCODERS[task]
    with mt.pipeline(task, damaged(write_model(tmp_path / "m", "bert", head, labels=labels)), threads=1) as pipe:
        with pytest.raises(InputError, match=f"{task}: .*not numbers .NaN.*the checkpoint is damaged"):
            call(pipe)
        if task == "text-classification":
            with pytest.raises(InputError, match=r"\(item 0 of the input"):
                pipe(["a", "b"])


def test_vectors_of_a_damaged_model_are_not_alike(tmp_path: Path) -> None:
    at = damaged(write_model(tmp_path / "m", "bert"))
    with mt.pipeline("sentence-similarity", at, threads=1) as pipe, pytest.raises(InputError, match="not numbers"):
        pipe(source_sentence="a", sentences=["b"])
    with mt.SentenceEncoder(at, threads=1) as encoder:
        assert np.isnan(encoder.encode(["a", "b"])).any()  # numbers, as they are
        for precision in ("int8", "uint8", "binary", "ubinary"):
            with pytest.raises(InputError, match=f"precision='{precision}': the vectors are not numbers"):
                encoder.encode(["a", "b"], precision=precision)
    at = damaged(write_judge(tmp_path / "judge", "one"))
    with mt.CrossEncoder(at) as judge, pytest.raises(InputError, match="rank: the scores are not numbers"):
        judge.rank("a", ["b", "c"])


# ---------------------------------------------------------------------------------- sentence encoders


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Iterator[Any]:
    with mt.SentenceEncoder(write_encoder(folder / "mean", "mean"), threads=1) as encoder:
        yield encoder


def test_odd_arguments_of_encoders(encoder: Any, folder: Path) -> None:
    names = ("prompt_name", "prompt", "batch_size", "output_value", "precision", "convert_to_numpy", "truncate_dim",
             "convert_to_tensor", "device", "normalize_embeddings", "pool")  # fmt: skip
    with mt.CrossEncoder(write_judge(folder / "one", "one"), threads=1) as judge:
        for value in ODD:
            calls = [lambda v=value, n=name: encoder.encode(["a", "b"], **{n: v}) for name in names]
            calls += [
                lambda v=value: encoder.encode(v),
                lambda v=value: encoder.encode("a", prompt=v, output_value="token_embeddings"),
                lambda v=value: mt.SentenceEncoder(encoder.model, prompts=v),
                lambda v=value: mt.SentenceEncoder(encoder.model, default_prompt_name=v),
                lambda v=value: mt.SentenceEncoder(encoder.model, similarity_fn_name=v),
                lambda v=value: mt.CrossEncoder(judge.model, max_length=v),
                lambda v=value: judge.predict(v), lambda v=value: judge.predict([("a", v)]),
                lambda v=value: judge.predict([("a", "b")], apply_softmax=v),
                lambda v=value: judge.predict([("a", "b")], activation_fn=v),
                lambda v=value: judge.rank("a", v), lambda v=value: judge.rank(v, ["a"]),
                lambda v=value: judge.rank("a", ["b"], top_k=v),
                lambda v=value: judge.rank("a", ["b"], return_documents=v),
            ]  # fmt: skip
            for call in calls:
                complaint_of(call)
    assert encoder.encode(["a"], truncate_dim=np.int64(4), batch_size=np.int64(2)).shape == (1, 4)


def test_vectors_are_not_compared_in_a_way_that_is_not_known(tmp_path: Path) -> None:
    """They were compared by their cosines, whatever the directory said."""
    at = write_encoder(tmp_path / "e", "mean")
    (at / "config_sentence_transformers.json").write_text('{"similarity_fn_name": "maxsim"}')
    with mt.SentenceEncoder(at, threads=1) as encoder:
        vectors = encoder.encode(["a", "b"])
        with pytest.raises(InputError, match=r"similarity_fn_name='maxsim'.*is not computed"):
            encoder.similarity(vectors, vectors)
        encoder.similarity_fn_name = "dot"
        assert encoder.similarity(vectors, vectors).shape == (2, 2)
    (at / "config_sentence_transformers.json").write_text('{"similarity_fn_name": ["cosine"]}')
    with pytest.raises(ConfigError, match="similarity_fn_name is "):
        mt.SentenceEncoder(at)


def test_an_encoder_in_a_folder_of_its_own_is_pointed_at(tmp_path: Path) -> None:
    """As sentence-transformers wrote them once: nothing said where the model is."""
    at = write_encoder(tmp_path / "e", "mean")
    inner = at / "0_Transformer"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (at / name).rename(inner / name)
    with pytest.raises(CheckpointError, match=r"no config\.json.*0_Transformer.*or move its files up, next to modules"):
        mt.load(at)
    mt.load(inner, threads=1).close()


# ---------------------------------------------------------------------------------- evaluation


def test_numbers_of_data_files_that_python_cannot_take(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": "a", "text_pair": "b", "score": 10**400}) + "\n")
    with pytest.raises(InputError, match="line 1: score is"):
        read(file, "sentence-similarity")
    file.write_text(json.dumps({f"\x1b{i}": i for i in range(100_000)}) + "\n")
    with pytest.raises(InputError, match="no 'text' or 'sentence'") as e:
        read(file, "text-classification")
    assert str(e.value).isprintable()
    assert len(str(e.value)) < 2000
    with pytest.raises(InputError, match="data: found 5"):
        read(5, "perplexity")  # type: ignore[arg-type]  # a caller's


def test_a_class_may_be_called_as_a_mean_is() -> None:
    """Of scikit-learn's report, which has a row for each: a TypeError."""
    pytest.importorskip("sklearn")
    gold = ["accuracy", "macro avg", "weighted avg", "accuracy", "\x1b[31m", "\ud800"]
    examples = [Labelled(f"line {i}", "a", None, label) for i, label in enumerate(gold)]
    done = evaluate("text-classification", examples, lambda _: [Outcome(label, 0.5) for label in gold], Settings())
    assert done.measured.metrics["accuracy"] == 1.0
    assert done.measured.classes["accuracy"]["support"] == 2
    assert table(done).replace("\n", "").isprintable()
    assert json.loads(as_json(done.report()))["confusion"]["labels"] == done.measured.confusion.labels  # type: ignore[union-attr]
    as_json(done.report()).encode()


def test_answers_that_are_none() -> None:
    example = Labelled("d.csv, line 2", "a", None, "x")
    for answers, says in (
        ([("x", 0.5)], "is its answer to d.csv, line 2; expected an Outcome"),
        ([Outcome("x", float("nan"))], "d.csv, line 2: a score of its answer is nan"),
        ([], "0 answers to 1 examples"),
    ):
        with pytest.raises(InputError, match=says):
            evaluate("text-classification", [example], lambda _, a=answers: a, Settings())
    with pytest.raises(InputError, match=r"^task='classify': expected one of"):
        evaluate("classify", [example], lambda _: [], Settings())
    with pytest.raises(InputError, match="examples: there is none"):
        evaluate("perplexity", [], lambda _: [], Settings())


def test_letters_that_look_like_a_term_s_are_left() -> None:
    """Python's IGNORECASE takes \u017f for s: a KeyError."""
    swap = Swap([("she", "he"), ("it", "they")])
    assert swap("She and \u017fhe saw \u0131t") == "He and \u017fhe saw \u0131t"
    with pytest.raises(InputError, match="no pair"):
        Swap([])


def test_sacrebleu_s_other_libraries_are_named() -> None:
    pytest.importorskip("sacrebleu")
    from miaotui.tools.evaluate.extras import check_extras

    with pytest.raises(InputError, match="--tokenize nope: expected one of"):
        check_extras("translation", tokenize="nope")
    try:
        import MeCab  # noqa: F401 - of an extra of sacrebleu's
    except ImportError:
        with pytest.raises(BackendError, match=r"--tokenize ja-mecab: .*pip install sacrebleu\[ja\]"):
            check_extras("translation", tokenize="ja-mecab")


# ---------------------------------------------------------------------------------- tools of a conversation


def tool_of(hint: object, doc: str = "y") -> Callable[..., Any]:
    def look(x: Any) -> None:
        pass

    look.__annotations__ = {"x": hint}
    look.__doc__ = f"Look.\n\nArgs:\n    x: {doc}\n"
    return look


def parameters_of(tool: Callable[..., Any]) -> Any:
    return as_tool(tool)["function"]["parameters"]["properties"]["x"]


def test_hints_of_tools() -> None:
    for hint, type_ in ((typing.List, "array"), (typing.Dict, "object"), (typing.Tuple, "array"), ("int", "integer")):  # noqa: UP006 - as users have them
        assert parameters_of(tool_of(hint)) == {"type": type_, "description": "y"}
    for hint in ("1/0", "typing.Nope", "int int", "nope", [int], 5, typing.Callable[[int], str], typing.Literal[b"x"]):
        with pytest.raises(InputError, match=r"^tools: the function look has "):
            as_tool(tool_of(hint))
    for choices in ('"abc"', '{"a": 1}', "5", "[" * 100_000, "[1"):
        with pytest.raises(InputError, match="choices of the argument 'x' that are no JSON list") as e:
            as_tool(tool_of(str, f"y (choices: {choices})"))
        assert len(str(e.value)) < 2000
    assert parameters_of(tool_of(str, 'y (choices: ["a", "b"])'))["enum"] == ["a", "b"]
