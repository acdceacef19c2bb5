"""The tokenizer against stored cases and against transformers, and its errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from broken import tokenizer, write_good
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError, TokenizerError
from miaotui.loader.text.tokenizer import Tokenizer
from real_files import real

if TYPE_CHECKING:
    from pathlib import Path

DIRECTORIES = ("stories260K-hf", "capp-gpt2-hf", "nano-gpt-sort-hf", "rxnmapper-albert-hf")


def expected(name: str) -> dict[str, Any]:
    got: dict[str, Any] = json.loads(real("models", name, "expected.json").read_text(encoding="utf-8"))
    return got


def written(directory: Path, change: dict[str, Any] | None = None, config: dict[str, Any] | None = None) -> Tokenizer:
    """Write a tokenizer of eight words with changes and read it."""
    write_good(directory)
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer() | (change or {})))
    if config is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.from_directory(directory)


def test_stories_cases() -> None:
    ours = Tokenizer.from_directory(real("models", "stories260K-hf"))
    assert (ours.n_vocab, ours.bos_id, ours.eos_id, ours.pad_id) == (512, 1, 2, None)
    cases = expected("stories260K-hf")["tokenizer"]
    assert cases
    for case in cases:
        assert ours.encode(case["text"]) == case["ids"]
        assert ours.encode(case["text"], add_special_tokens=False) == case["ids"][1:]
        assert ours.decode(case["ids"]) == case["decoded"]


def test_process_plan_words() -> None:
    ours = Tokenizer.from_directory(real("models", "capp-gpt2-hf"))
    assert (ours.n_vocab, ours.bos_id, ours.eos_id, ours.pad_id) == (53, 49, 51, 52)
    for case in expected("capp-gpt2-hf")["greedy"]:
        assert ours.encode("|".join(case["prompt"])) == case["prompt_ids"]
        assert [ours.id_to_token(i) for i in case["prompt_ids"]] == case["prompt"]
        assert [ours.token_to_id(w) for w in case["prompt"]] == case["prompt_ids"]


def test_letters() -> None:
    ours = Tokenizer.from_directory(real("models", "nano-gpt-sort-hf"))
    assert (ours.n_vocab, ours.bos_id, ours.eos_id) == (3, None, None)
    for word in expected("nano-gpt-sort-hf")["all_729"]:
        assert ours.decode(ours.encode(word)) == word


@pytest.fixture(scope="module", params=DIRECTORIES)
def pair(request: pytest.FixtureRequest) -> tuple[Tokenizer, Any]:
    directory = real("models", request.param)
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    return Tokenizer.from_directory(directory), theirs


@settings(deadline=None, max_examples=60)
@given(text=st.text(max_size=40) | st.text("ABC CC(=O)|<s></s> .,'", max_size=40), special=st.booleans())
def test_equals_transformers(pair: tuple[Tokenizer, Any], text: str, special: bool) -> None:  # noqa: FBT001
    ours, theirs = pair
    ids = ours.encode(text, add_special_tokens=special)
    assert ids == theirs(text, add_special_tokens=special)["input_ids"]
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids)


@pytest.mark.parametrize("processor", [True, False])
@pytest.mark.parametrize("add_bos", [True, False, None])
def test_the_post_processor_decides(tmp_path: Path, processor: bool, add_bos: bool | None) -> None:  # noqa: FBT001
    """`add_bos_token` next to a tokenizer.json changes nothing, here as in transformers 5."""
    file = json.loads(real("models", "stories260K-hf", "tokenizer.json").read_text(encoding="utf-8"))
    if not processor:
        file["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    if add_bos is not None:
        config["add_bos_token"] = add_bos
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ids = Tokenizer.from_directory(tmp_path).encode("Once upon")
    assert (ids[0] == 1) is processor
    transformers = pytest.importorskip("transformers")
    assert ids == transformers.AutoTokenizer.from_pretrained(tmp_path)("Once upon")["input_ids"]


def test_special_tokens(tmp_path: Path) -> None:
    ours = written(tmp_path, config={"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": "[PAD]"})
    assert (ours.n_vocab, ours.bos_id, ours.eos_id, ours.pad_id) == (9, 1, 2, 8)  # [PAD] was not in the vocabulary
    assert ours.encode("<s>a</s>") == [1, 3, 2]  # matched without spaces: special, though the file lists it as plain
    assert ours.decode([1, 3, 2]) == "a"
    assert ours.decode([1, 3, 2], skip_special_tokens=False) == "<s> a </s>"


def test_special_tokens_map_and_no_config(tmp_path: Path) -> None:
    write_good(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    assert Tokenizer.from_directory(tmp_path).eos_id is None
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "</s>"}')
    assert Tokenizer.from_directory(str(tmp_path)).eos_id == 2


def test_truncation_and_padding_are_off(tmp_path: Path) -> None:
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    pad = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0}
    ours = written(tmp_path, {"truncation": cut, "padding": {**pad, "pad_token": "<unk>"}})
    assert ours.encode("a b c d e") == [3, 4, 5, 6, 7]


def test_clean_up_only_where_asked(tmp_path: Path) -> None:
    model = {"type": "WordLevel", "vocab": {"it": 0, "'s": 1, "ok": 2, ".": 3, "<unk>": 4}, "unk_token": "<unk>"}
    assert written(tmp_path, {"model": model}, {}).decode([0, 1, 2, 3]) == "it 's ok ."
    config = {"clean_up_tokenization_spaces": True}
    assert written(tmp_path, {"model": model}, config).decode([0, 1, 2, 3]) == "it's ok."


def test_added_tokens_extend_the_vocabulary(tmp_path: Path) -> None:
    flags: dict[str, Any] = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    ours = written(tmp_path, {"added_tokens": [{"id": 8, "content": "<|end|>", "special": True, **flags}]})
    assert ours.n_vocab == 9
    assert ours.encode("a<|end|>b") == [3, 8, 4]
    assert ours.decode([3, 8, 4]) == "a b"


@pytest.mark.parametrize("text", [None, b"a", 5, ["a"], ("a", "b")])
def test_a_text_is_a_str(tmp_path: Path, text: Any) -> None:
    with pytest.raises(InputError, match="must be a str"):
        written(tmp_path).encode(text)


def test_lone_surrogate(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="surrogate at 2"):
        written(tmp_path).encode("a \ud800")


@pytest.mark.parametrize("bad", [-1, 2**32, 2**70, 1.0, "3", None, True, np.float32(3), float("nan"), [3]])
def test_a_token_id_is_an_integer_of_32_bits(tmp_path: Path, bad: Any) -> None:
    ours = written(tmp_path)
    with pytest.raises(InputError, match="token id"):
        ours.decode([3, bad])
    with pytest.raises(InputError, match="token id"):
        ours.id_to_token(bad)


def test_ids_of_numpy_and_beyond_the_vocabulary(tmp_path: Path) -> None:
    ours = written(tmp_path)
    assert ours.decode(np.array([3, 4])) == "a b"
    assert ours.decode(()) == ""
    assert ours.decode([3, 1000, 4]) == "a b"
    assert ours.id_to_token(1000) is None
    assert ours.token_to_id("zebra") is None
    with pytest.raises(InputError, match="must be a str"):
        ours.token_to_id(3)  # type: ignore[arg-type]


def test_a_panic_is_a_typed_error(tmp_path: Path) -> None:
    """Rust divides by nothing here: FixedLength of length 0 loads, and panics when a text comes."""
    ours = written(tmp_path, {"pre_tokenizer": {"type": "FixedLength", "length": 0}})
    for _ in range(2):
        with pytest.raises(TokenizerError, match="panicked") as caught:
            ours.encode("a b")
        assert str(tmp_path) in str(caught.value)
        assert type(caught.value.__cause__).__name__ == "PanicException"


def test_an_error_in_encoding_is_a_typed_error(tmp_path: Path) -> None:
    ours = written(tmp_path, {"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "<unk>"}}, {})
    assert ours.encode("a") == [0]
    with pytest.raises(TokenizerError, match="encode a text"):
        ours.encode("b")


def test_ctrl_c_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def encode(self, *_: object, **__: object) -> None:
            raise KeyboardInterrupt

    ours = written(tmp_path)
    monkeypatch.setattr(ours, "_inner", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        ours.encode("a")


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 9)))
def test_decoding_any_ids_gives_a_text(tmp_path: Path, ids: list[int]) -> None:
    assert isinstance(written(tmp_path).decode(ids), str)
