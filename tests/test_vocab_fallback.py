"""What stands for a token that a plan cut from the vocabulary, and that the receipt says so."""

from __future__ import annotations

import json
import shutil

import miaotui
import pytest
import tokenizers
from checkpoints import Drawn, write_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError, PlanError, TokenizerError
from miaotui.loader.prune.plan import PrunePlan
from miaotui.loader.text.tokenizer import Tokenizer
from miaotui.loader.text.vocab_fallback import Bytes
from miaotui.loader.text.vocabulary import KeptTokenizer
from miaotui.tools.cli import main
from miaotui.tools.demo import path
from pruning import seven

SAID = "Once upon a time, in a house in a small village, there lived a young fox named Lucy."
NEW = "A zebra saw the \N{SNOWMAN}!"


def sentencepiece():
    """Byte fallback as SentencePiece has it: a few pieces, and <0x00> to <0xFF>."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "\u2581", "\u2581a", "b", "\u2581b", "ab"]
    merges = ["\u2581 a", "\u2581 b", "a b"]
    words += ["a"]
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": words[i], "special": True, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False}
            for i in range(3)
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {"type": "BPE", "vocab": {w: i for i, w in enumerate(words)}, "merges": merges, "unk_token": "<unk>",
                  "byte_fallback": True, "fuse_unk": True},
    }  # fmt: skip


def with_tokenizer(directory, tokenizer, n_vocab):
    """A random model with a tokenizer."""
    write_checkpoint(directory, Drawn({**seven(16), "num_hidden_layers": 1, "vocab_size": n_vocab}))
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    return directory


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\u2581") | st.sampled_from("ab the"), max_size=12)


@settings(deadline=None)
@given(TEXTS, st.sets(st.integers(0, 1023)))
def test_bytes_say_the_same_text_byte_level(text, gone):
    """Whatever tokens go, besides the 256 and the special ones: the ids decode to the text that the whole ones do."""
    whole = Tokenizer.from_directory(path())
    pieces = Bytes(whole)
    kept = sorted({*range(whole.n_vocab)} - gone | {*pieces.ids, *whole.special_ids})
    cut = KeptTokenizer(whole, kept, pieces.of)
    assert cut.decode(cut.encode(text)) == whole.decode(whole.encode(text)) == text


@settings(deadline=None)
@given(TEXTS, st.sets(st.integers(259, 264)))
def test_bytes_say_the_same_text_sentencepiece(tmp_path_factory, text, gone):
    directory = tmp_path_factory.mktemp("t")
    (directory / "tokenizer.json").write_text(json.dumps(sentencepiece()))
    whole = Tokenizer.from_directory(directory)
    pieces = Bytes(whole)
    assert pieces.ids == tuple(range(3, 259))
    cut = KeptTokenizer(whole, [i for i in range(whole.n_vocab) if i not in gone], pieces.of)
    assert cut.decode(cut.encode(text)) == whole.decode(whole.encode(text))
    assert pieces.of(1) is None


@pytest.mark.parametrize(
    "text", ["\u00ab\u00e9\u00bb", "\u00e9\u00e9", "    ", "<tool_call>", "\u4e16\u754c", "\u0120a"]
)
def test_bytes_of_an_added_token_are_those_of_its_text(tmp_path, text):
    """Byte-level spells ordinary tokens in its 256 characters; an added one is text, whatever its characters are."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate(letters)}, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    right = made.encode(text).ids  # without added tokens: a token for each byte
    made.add_tokens([text])
    made.save(str(tmp_path / "tokenizer.json"))
    whole = Tokenizer.from_directory(tmp_path)
    cut = KeptTokenizer(whole, range(256), Bytes(whole).of)
    assert cut.encode(text) == right
    assert cut.decode(right) == text


def test_bytes_on_the_command_line_and_written(tmp_path, capsys):
    (tmp_path / "text.txt").write_text(SAID)
    forms = ["--vocab", str(tmp_path / "text.txt"), "--vocab-fallback", "bytes"]
    assert main(["prune", str(path()), str(tmp_path / "out"), *forms]) == 0
    note = "note: a token that is gone is spelled by a token for each of its bytes"
    assert note in capsys.readouterr().out
    assert main(["inspect", str(path()), *forms, "--receipt"]) == 0
    assert note in capsys.readouterr().out
    wish = f"vocab={tmp_path / 'text.txt'}; vocab-fallback=bytes"
    with miaotui.load(path(), prune=wish) as one, miaotui.load(tmp_path / "out") as other:
        for text in (SAID, NEW):
            ids = one.tokenizer.encode(text)
            assert ids == other.tokenizer.encode(text)
            assert one.tokenizer.decode(ids) == text
        assert one.generate(NEW, max_new_tokens=3).ids == other.generate(NEW, max_new_tokens=3).ids
        assert "bytes for tokens that are gone" in one.receipt.plan
    # a later cut of what was written keeps what stands for the others, or says that it does not
    rows = other.config.n_vocab
    with miaotui.load(tmp_path / "out", prune=PrunePlan(vocab=range(rows - 1))) as more:
        assert more.tokenizer.decode(more.tokenizer.encode(NEW)) == NEW
    with pytest.raises(PlanError, match=r"vocab_fallback bytes: token \d+ .* the plan cuts it too"):
        miaotui.load(tmp_path / "out", prune=PrunePlan(vocab=range(200)))


def test_one_token_stands_for_all(tmp_path):
    directory = with_tokenizer(tmp_path / "m", sentencepiece(), 265)
    vocab = [*range(4), 260]  # specials, <0x00>, and one word
    for fallback, token in (("unk", 0), (3, 3)):
        plan = PrunePlan(vocab=vocab, vocab_fallback=fallback)
        with miaotui.load(directory, prune=plan) as model:
            assert model.tokenizer.encode(" ab\N{SNOWMAN}") == [4, *[token] * 4]  # b, and three bytes
            assert f"a token that is gone becomes token {token}" in model.receipt.notes[0]
            assert len(model.receipt.notes) == 1
        assert main(["prune", str(directory), str(tmp_path / f"out{token}"), "--prune", saved(tmp_path, plan)]) == 0
        kept = json.loads((tmp_path / f"out{token}" / "kept_vocab.json").read_text())
        assert kept == {"format": "miaotui-vocab", "version": 1, "kept": "0-3,260", "fallback": token}
        with miaotui.load(tmp_path / f"out{token}", prune="vocab-fallback=1") as model:  # row 1 of five
            assert model.tokenizer.encode("b") == [1]
    bare = PrunePlan(vocab=vocab)
    with miaotui.load(directory, prune=bare) as model, pytest.raises(TokenizerError, match="fallback"):
        model.tokenizer.encode("b")


def saved(folder, plan):
    plan.save(folder / "plan.json")
    return str(folder / "plan.json")


def test_what_cannot_stand(tmp_path):
    directory = with_tokenizer(tmp_path / "m", sentencepiece(), 265)
    words = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"},
             "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "<unk>"}}  # fmt: skip
    plain = with_tokenizer(tmp_path / "plain", words, 2)
    for where, plan, says in (
        (directory, {"vocab": "1-9", "vocab_fallback": "unk"}, "token 0 .* the plan cuts it too"),
        (directory, {"vocab": "1-9", "vocab_fallback": "bytes"}, "the plan cuts it too"),
        (directory, {"vocab": "1-9", "vocab_fallback": 12}, "token 12 stands for those that are gone, but is cut"),
        (directory, {"vocab_fallback": 265}, "vocab_fallback: there is no token 265; the model has 265"),
        (directory, {"vocab_fallback": "what"}, "expected 'unk', 'bytes'"),
        (directory, {"vocab_fallback": True}, "expected 'unk', 'bytes'"),
        (plain, {"vocab_fallback": "unk"}, "has no unknown token"),
        (plain, {"vocab_fallback": "bytes"}, "no token for every byte"),
    ):
        with pytest.raises(PlanError, match=says):
            miaotui.load(where, prune={"format": "miaotui-prune", "version": 1, **plan})
    shutil.copytree(directory, tmp_path / "cut")
    kept = {"format": "miaotui-vocab", "version": 1, "kept": "0-264", "fallback": "x"}
    (tmp_path / "cut" / "kept_vocab.json").write_text(json.dumps(kept))
    with miaotui.load(tmp_path / "cut") as model, pytest.raises(PlanError, match="fallback is 'x'"):
        assert model.tokenizer


def test_fallbacks_compose():
    first = PrunePlan(vocab="1,3,5,7", vocab_fallback=3)
    assert first.then(PrunePlan(layers="0")).vocab_fallback == 3
    assert first.then(PrunePlan(vocab="0,1", vocab_fallback=1)) == PrunePlan(vocab="1,3", vocab_fallback=3)
    assert first.then(PrunePlan(vocab_fallback=2)).vocab_fallback == 5
    assert PrunePlan(layers="0").then(PrunePlan(vocab_fallback=2)).vocab_fallback == 2
    for other in (PrunePlan(vocab="0,1"), PrunePlan(vocab="0,1", vocab_fallback=0)):
        with pytest.raises(PlanError, match="let them say the same"):
            first.then(other)
    with pytest.raises(PlanError, match="the second plan keeps 9"):
        first.then(PrunePlan(vocab_fallback=9))
    plan = PrunePlan.from_dict(json.loads(first.to_json()))
    assert plan == first


def test_a_tokenizer_larger_than_the_embedding(tmp_path):
    """What needs no id beyond the rows is answered; an id beyond them is refused by name, and never drawn."""
    with miaotui.load(with_tokenizer(tmp_path / "m", sentencepiece(), 263)) as model:  # ids 263 and 264 have no row
        assert model.tokenizer.n_vocab == 265
        text = model.generate("b", max_new_tokens=3)
        assert model.generate(model.tokenizer.encode("b"), max_new_tokens=3).ids == text.ids
        assert max(text.ids) < 263
        for use in (model.generate, model.logits):
            with pytest.raises(InputError, match="id 263 at position 0 is not in the vocabulary, expected 0 to 262"):
                use(model.tokenizer.encode("ab"))
    with miaotui.load(tmp_path / "m", prune=PrunePlan(vocab=range(262), vocab_fallback="bytes")) as model:
        assert model.tokenizer.encode("ab") == [3 + ord("a"), 3 + ord("b")]
