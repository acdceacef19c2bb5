"""What our pipelines write, key by key, is what transformers 4.57.6 wrote (tests/generation_outputs.py)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import miaotui as mt
import pytest
from generation_models import LANGUAGES, write_writer
from generation_outputs import CASES, FEW, A
from miaotui.errors import InputError, MiaotuiWarning
from pipeline_outputs import stored_form

if TYPE_CHECKING:
    from collections.abc import Iterator

STORED = json.loads((Path(__file__).parent / "data" / "generation.json").read_text(encoding="utf-8"))


#: The others take 20 s together.
QUICK = (4, 8, 12)


@pytest.mark.parametrize(
    "n",
    [
        pytest.param(n, marks=() if n in QUICK else pytest.mark.ci, id=f"{n}-{case.kind}-{case.task}")
        for n, case in enumerate(CASES)
    ],
)
@pytest.mark.filterwarnings("ignore:src_lang and tgt_lang:miaotui.errors.MiaotuiWarning")  # T5's change nothing
def test_outputs_are_those_of_transformers(n: int, tmp_path: Path) -> None:
    case, wanted = CASES[n], STORED["outputs"][n]
    assert len(wanted) == len(case.calls)
    with mt.pipeline(case.task, case.write(tmp_path), **case.made_with) as pipe:
        for (args, keywords), theirs in zip(case.calls, wanted, strict=True):
            assert stored_form(pipe(*args, **keywords)) == theirs, f"{case.task} {args} {keywords}"


def test_the_stored_outputs_are_of_the_last_release_with_all_tasks() -> None:
    assert STORED["versions"]["transformers"] == "4.57.6"
    assert len(STORED["outputs"]) == len(CASES)


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("writers")
    return {kind: write_writer(folder / kind, kind) for kind in ("llama", "t5", "nllb")}


@pytest.mark.ci  # 3 s: 256 tokens, several times
def test_texts_are_drawn_unless_it_is_said_otherwise(writers: dict[str, Path]) -> None:
    """The defaults of transformers: 256 tokens at temperature 0.7, of the 50 likeliest."""
    with mt.pipeline(model=writers["llama"]) as pipe, mt.load(writers["llama"]) as model:
        assert pipe.task == "text-generation"
        drawn = pipe(A, seed=5)[0]["generated_text"]
        ids = model.tokenizer.encode(A)
        same = model.generate(ids, max_new_tokens=256, temperature=0.7, top_k=50, seed=5)
        assert pipe(A, seed=5, return_tensors=True)[0]["generated_token_ids"] == [*ids, *same.ids]
        assert pipe(A, seed=5, return_full_text=False)[0]["generated_text"] == drawn.removeprefix(A)
        assert pipe(A, seed=6)[0]["generated_text"] != drawn
        several = pipe(A, seed=5, num_return_sequences=3, **FEW)
        assert several == [pipe(A, seed=5 + i, **FEW)[0] for i in range(3)]
        assert len({each["generated_text"] for each in several}) == 3


def test_an_iterator_is_answered_as_it_is_read(writers: dict[str, Path]) -> None:
    taken = 0

    def texts() -> Iterator[Any]:
        nonlocal taken
        while True:
            taken += 1
            yield [{"role": "user", "content": A}] if taken % 2 else A

    with mt.pipeline("text-generation", writers["llama"], do_sample=False, max_new_tokens=2) as pipe:
        results = pipe(texts())
        assert taken == 0
        first, second = next(results), next(results)
        assert taken == 2
        assert first[0]["generated_text"][-1]["role"] == "assistant"
        assert second == pipe(A)
        assert pipe([]) == []


def test_a_kind_of_model_is_refused_by_name(writers: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="summarization: this llama model is a decoder; expected an encoder-decoder"):
        mt.pipeline("summarization", writers["llama"])
    with pytest.raises(InputError, match="text-generation: this t5 model is an encoder-decoder; expected a decoder"):
        mt.pipeline("text-generation", writers["t5"])
    with mt.pipeline(model=writers["t5"]) as pipe:
        assert pipe.task == "text2text-generation"


@pytest.mark.parametrize(
    ("kind", "task", "item", "how", "words"),
    [
        ("nllb", "translation", A, {}, "src_lang: not given, and this model translates between many languages"),
        ("nllb", "translation", A, {"src_lang": "deu_Latn", "tgt_lang": "fr"}, "tgt_lang='fr': .*like fra_Latn"),
        ("nllb", "translation_de_to_fr", A, {}, "src_lang='de': .*like deu_Latn"),
        ("t5", "summarization", 7, {}, "7 found, expected a text"),
        ("t5", "summarization", ["a", 7], {}, r"7 found, expected a text \(item 1 of the input"),
        ("t5", "summarization", A, {"do_sample": True}, "num_beams=4: sampling and beams do not go together"),
        (
            "t5",
            "summarization",
            A,
            {"num_beams": 1, "num_return_sequences": 2},
            "num_return_sequences=2: the likeliest",
        ),
        ("t5", "summarization", A, {"max_lenght": 7}, r"max_lenght \(did you mean max_length\?\)"),
        ("t5", "summarization", A, {"stop_sequence": 7}, "stop_sequence=7: expected a text"),
        ("llama", "text-generation", {"role": "user"}, {}, "expected a text, or a list of messages"),
        ("llama", "text-generation", A, {"return_text": True, "return_tensors": True}, "exclude each other"),
        ("llama", "text-generation", A, {"handle_long_generation": "cut"}, "handle_long_generation='cut'"),
        ("llama", "text-generation", A, {"handle_long_generation": "hole"}, "leaves no room of 60"),
        ("llama", "text-generation", A, {"tokenizer_encode_kwargs": 3}, "tokenizer_encode_kwargs=3"),
        ("llama", "text-generation", [[{"content": "x"}]], {}, "messages with role and content"),
    ],
)
def test_what_is_refused_is_said(
    writers: dict[str, Path], kind: str, task: str, item: object, how: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words), mt.pipeline(task, writers[kind]) as pipe:
        pipe(item, **how)


def test_languages_are_those_that_the_tokenizer_spells(writers: dict[str, Path]) -> None:
    """The frame names the text's language, the answer begins with its own."""
    source, target = LANGUAGES["nllb"][:2]
    with mt.load(writers["nllb"]) as model, mt.pipeline("translation", model, src_lang=source, tgt_lang=target) as pipe:
        ids = model.tokenizer.encode(A)
        at = ids.index(model.tokenizer.token_to_id("eng_Latn"))
        ids[at] = model.tokenizer.token_to_id(source)
        answer = model.generate(ids, num_beams=4, forced_bos_token_id=target, **FEW)
        assert pipe(A, return_tensors=True, **FEW)[0]["translation_token_ids"][1:] == answer.ids
        assert pipe(A, **FEW) == [{"translation_text": answer.text}]


def test_languages_that_change_nothing_are_warned_of(writers: dict[str, Path]) -> None:
    with mt.pipeline("translation", writers["t5"]) as pipe:
        plain = pipe(A, **FEW)
        for languages in ({"src_lang": "en", "tgt_lang": "de"}, {"tgt_lang": "de"}):
            words = f"^{' and '.join(languages)}: this model's tokenizer frames a text with no language"
            with pytest.warns(MiaotuiWarning, match=words) as told:
                assert pipe(A, **languages, **FEW) == plain
            assert [warning.filename for warning in told] == [__file__]
    with mt.pipeline("translation_en_to_de", writers["t5"]) as pipe:  # the task's name says them: no warning
        assert pipe(A, **FEW) == plain


def test_gemma_writes_what_its_model_generates() -> None:
    """A real model: the pipeline's greedy text is `generate`'s, in English."""
    path = os.environ.get("MIAOTUI_GEMMA")
    if path is None:
        pytest.skip("MIAOTUI_GEMMA: the directory of Gemma 3 270M")
    prompt = "The capital of France is"
    with mt.load(path, max_context=64) as model, mt.pipeline("text-generation", model) as pipe:
        text = pipe(prompt, do_sample=False, max_new_tokens=6)[0]["generated_text"]
        assert text == prompt + model.generate(prompt, max_new_tokens=6).text
        assert text == f"{prompt} the capital of the country of"
