"""What tokenizer_config.json, special_tokens_map.json and added_tokens.json say, as transformers 5 reads it."""

from __future__ import annotations

import json

import pytest
from miaotui.errors import TokenizerError
from miaotui.loader.text.tokenizer import Tokenizer
from tokenizers import Tokenizer as Whole
from tokenizers import decoders, models, pre_tokenizers

END, USER = "<|endoftext|>", "<|user|>"
BASE = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
FLAGS = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}


def byte_level(*, plain=False, prefix=False, added=()):
    """256 bytes and <|endoftext|>; `plain`: <|user|> is an ordinary entry 257 of the vocabulary, and no added token."""
    letters = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Whole(models.BPE(letters, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([END])
    made.add_tokens(list(added))
    file = json.loads(made.to_str())
    if plain:
        file["model"]["vocab"][USER] = 257
    return file


def metaspace(scheme):
    made = Whole(models.BPE({c: i for i, c in enumerate("\u2581hi")}, []))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    made.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return json.loads(made.to_str())


def written(directory, file, config=None, others=None, model_type="llama"):
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps({"model_type": model_type}))
    for name, value in {"tokenizer.json": file, "tokenizer_config.json": config, **(others or {})}.items():
        if value is not None:
            (directory / name).write_text(json.dumps(value))
    return directory


def theirs(directory):
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(directory)


#: tokenizer.json, tokenizer_config.json besides BASE, other files: all make <|user|> one token, 257.
NAMED = {
    "added_tokens_decoder": ({}, {"added_tokens_decoder": {"257": {"content": USER, **FLAGS}}}, {}),
    "additional_special_tokens": ({"plain": True}, {"additional_special_tokens": [USER]}, {}),
    "additional_special_tokens, new": ({}, {"additional_special_tokens": [USER]}, {}),
    "extra_special_tokens, named": ({"plain": True}, {"extra_special_tokens": {"user_token": USER}}, {}),
    "extra_special_tokens, listed": ({"plain": True}, {"extra_special_tokens": [USER]}, {}),
    "a token object": ({}, {"additional_special_tokens": [{"__type": "AddedToken", "content": USER, **FLAGS}]}, {}),
    "sep_token": ({"plain": True}, {"sep_token": USER}, {}),
    "pad_token, new": ({}, {"pad_token": USER}, {}),
    "a name of its own": ({"plain": True}, {"user_token": USER}, {}),
    "special_tokens_map.json": ({"plain": True}, {},
                                {"special_tokens_map.json": {"additional_special_tokens": [USER]}}),
    "special_tokens_map.json, named": ({"plain": True}, {},
                                       {"special_tokens_map.json": {"mask_token": {"content": USER, **FLAGS}}}),
    "added_tokens.json": ({}, {}, {"added_tokens.json": {USER: 257}}),
    "added_tokens.json, special": ({}, {"pad_token": USER}, {"added_tokens.json": {USER: 257}}),
    "added_tokens.json, also in tokenizer.json": ({"added": [USER]}, {}, {"added_tokens.json": {USER: 257}}),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMED)
def test_tokens_that_other_files_name(tmp_path, case):
    made, config, others = NAMED[case]
    directory = written(tmp_path / "m", byte_level(**made), BASE | config, others)
    ours, other = Tokenizer.from_directory(directory), theirs(directory)
    for text in ("h<|user|>i", "h <|user|> i<|endoftext|>", "<|user|><|user|>"):
        ids = ours.encode(text)
        assert ids == other(text)["input_ids"]
        assert 257 in ids
        assert ours.decode(ids) == other.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids, skip_special_tokens=False) == other.decode(ids)
    assert (ours.n_vocab, ours.eos_id, ours.pad_id) == (len(other), other.eos_token_id, other.pad_token_id)


def test_files_that_do_not_count_next_to_added_tokens_decoder(tmp_path):
    config = BASE | {"added_tokens_decoder": {"256": {"content": END, **FLAGS}}}
    others = {"special_tokens_map.json": {"sep_token": USER, "eos_token": "h"}, "added_tokens.json": {USER: 257}}
    directory = written(tmp_path / "m", byte_level(plain=True), config, others)
    ours, other = Tokenizer.from_directory(directory), theirs(directory)
    assert ours.encode("h<|user|>i") == other("h<|user|>i")["input_ids"] != [71, 257, 72]
    assert ours.eos_id == other.eos_token_id


def test_special_tokens_map_wins_over_tokenizer_config(tmp_path):
    directory = written(tmp_path / "m", byte_level(), BASE, {"special_tokens_map.json": {"eos_token": "h"}})
    assert Tokenizer.from_directory(directory).eos_id == theirs(directory).eos_token_id == 71


@pytest.mark.parametrize("flags", [{"lstrip": True, "rstrip": True}, {"single_word": True}, {"special": False}])
def test_flags_of_added_tokens_decoder_win(tmp_path, flags):
    config = {"added_tokens_decoder": {"256": {"content": END, **FLAGS, **flags}}}
    directory = written(tmp_path / "m", byte_level(), config)
    ours, other = Tokenizer.from_directory(directory), theirs(directory)
    for text in ("h <|endoftext|> i", "h<|endoftext|>i", " <|endoftext|> "):
        ids = ours.encode(text)
        assert ids == other(text)["input_ids"]
        assert ours.decode(ids) == other.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("split", [True, False])
def test_split_special_tokens(tmp_path, split):
    directory = written(tmp_path / "m", byte_level(), BASE | {"split_special_tokens": split})
    ids = Tokenizer.from_directory(directory).encode("h<|endoftext|>i")
    assert ids == theirs(directory)("h<|endoftext|>i")["input_ids"]
    assert (256 in ids) is not split


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "GPT2TokenizerFast", "Qwen2Tokenizer", "PreTrainedTokenizerFast",
                                  "LlamaTokenizerFast", None])  # fmt: skip
@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_add_prefix_space_of_bytes(tmp_path, name, prefix, model_type):
    config = {"add_prefix_space": prefix} | ({} if name is None else {"tokenizer_class": name})
    for there in (True, False):
        directory = written(tmp_path / str(there), byte_level(prefix=there), config, model_type=model_type)
        assert Tokenizer.from_directory(directory).encode("hi h") == theirs(directory)("hi h")["input_ids"]


@pytest.mark.parametrize("name", ["LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize("prefix", [True, False])
def test_add_prefix_space_of_sentencepiece(tmp_path, name, prefix):
    for scheme in ("always", "first", "never"):
        directory = written(tmp_path / scheme, metaspace(scheme), {"tokenizer_class": name, "add_prefix_space": prefix})
        ids = Tokenizer.from_directory(directory).encode("hi h")
        assert ids == theirs(directory)("hi h")["input_ids"][-len(ids) :]
        assert len(ids) == 4 + (prefix if name.startswith("Llama") else scheme != "never")


@pytest.mark.parametrize(
    ("config", "others", "says"),
    [
        ({"added_tokens_decoder": {"300": {"content": USER}}}, {}, r"300 for the files next to it, and would be 257"),
        ({}, {"added_tokens.json": {USER: 300}}, r"300 for the files next to it, and would be 257"),
        ({"added_tokens_decoder": {"x": {"content": USER}}}, {}, "added_tokens_decoder must be"),
        ({"added_tokens_decoder": {"257": USER}}, {}, "added_tokens_decoder must be a string or an object"),
        ({"added_tokens_decoder": []}, {}, "added_tokens_decoder must be"),
        ({}, {"added_tokens.json": {USER: "257"}}, "its values must be ids"),
        ({"additional_special_tokens": "x"}, {}, "additional_special_tokens must be a list"),
        ({"extra_special_tokens": [5]}, {}, "extra_special_tokens must be"),
        ({"bos_token": 5}, {}, "bos_token must be a string or an object with content, found 5"),
        ({"sep_token": {"x": 5}}, {}, "sep_token must be"),
        ({"bos_token": "\ud800"}, {}, "bos_token must be text without lone surrogates, found '.ud800'"),
        ({}, {"special_tokens_map.json": {"eos_token": "a\udfff"}}, "eos_token must be text without lone"),
        ({"extra_special_tokens": ["\ud800"]}, {}, "extra_special_tokens must be text without lone"),
        ({"added_tokens_decoder": {"257": {"content": "\ud800"}}}, {}, "added_tokens_decoder must be text without"),
        ({}, {"added_tokens.json": {"\ud800": 257}}, "must be text without lone surrogates"),
    ],
)
def test_refused(tmp_path, config, others, says):
    with pytest.raises(TokenizerError, match=says):
        Tokenizer.from_directory(written(tmp_path / "m", byte_level(), config, others))


# --- bombs ---------------------------------------------------------------------------------------------------------


def ten(pattern):
    return {"type": "Replace", "pattern": pattern, "content": "aaaaaaaaaa"}


def nested(key, steps, kind="Sequence"):
    return {"type": kind, key: steps}


TWICE = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2, "pair": [],
         "special_tokens": {}}  # fmt: skip
BOMBS = {
    "replace": {"normalizer": nested("normalizers", [ten({"String": "a"})] * 9)},
    "one replace": {"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 5000}},
    "empty matches": {"normalizer": nested("normalizers", [ten({"Regex": "x*"})] * 4)},
    "prepend": {"normalizer": nested("normalizers", [{"type": "Prepend", "prepend": "aaaaaaa"}] * 5)},
    "nested": {"normalizer": nested("normalizers", [nested("normalizers", [ten({"String": "a"})] * 2)] * 3)},
    "unicode": {"normalizer": nested("normalizers", [{"type": "NFKD"}, ten({"Regex": "."})] * 3)},
    "both": {"normalizer": nested("normalizers", [ten({"String": "a"})] * 3),
             "pre_tokenizer": nested("pretokenizers", [{"type": "ByteLevel", "add_prefix_space": False}] * 3)},
    "bytes": {"pre_tokenizer": nested("pretokenizers", [{"type": "ByteLevel", "add_prefix_space": True}] * 12)},
    "decoder": {"decoder": nested("decoders", [ten({"String": "a"})] * 9)},
    "template": {"post_processor": nested("processors", [TWICE] * 20)},
}  # fmt: skip


@pytest.mark.parametrize("case", BOMBS)
def test_a_tokenizer_that_expands_without_bound_is_refused(tmp_path, case):
    """Before the library sees it: where memory ends it aborts the process, as it may while it loads added tokens."""
    with pytest.raises(TokenizerError, match="times as long, expected at most 4096 times"):
        Tokenizer.from_directory(written(tmp_path / "m", byte_level() | BOMBS[case]))


def test_published_normalizers_are_read(tmp_path):
    """ALBERT's, BERT's, Llama 2's and GPT-2's steps, all together in kind; and replacements that shrink."""
    for normalizer in (
        nested("normalizers", [
            {"type": "Replace", "pattern": {"String": "``"}, "content": '"'}, {"type": "NFKD"},
            {"type": "StripAccents"}, {"type": "Lowercase"},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
        ]),
        {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
         "lowercase": True},
        nested("normalizers", [{"type": "Prepend", "prepend": "\u2581"}, ten({"String": "b" * 10})] * 3),
        nested("normalizers", [{"type": "Replace", "pattern": {"Regex": "x*"}, "content": ""}] * 30),
    ):  # fmt: skip
        directory = written(tmp_path / "m", byte_level() | {"normalizer": normalizer})
        assert Tokenizer.from_directory(directory).encode("a")
