"""Streaming text: the pieces, put together, are what decoding everything at once gives."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError
from miaotui.runtime.detokenize import Detokeniser, StopStrings
from real_files import real

tokenizers = pytest.importorskip("tokenizers")

SAMPLE = "Ein naïves Café: 你好，世界! 👩‍👩‍👧‍👦 e\u0301 नमस्ते  two  spaces\n\n\ttab “quote”—ok? \ufffd end 😀😀"  # noqa: RUF001
TEXTS = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from(" \n\t▁aé你😀\u0301\u200d\ufffd")), max_size=40)


@cache
def byte_level():
    """Train a byte-level BPE of 400 entries, with two special tokens."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SAMPLE] * 3, trainer)
    return tokenizer


@cache
def metaspace():
    """Train a SentencePiece-like unigram tokenizer: its decoder drops the first space of a sequence."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=120,
        special_tokens=["<s>", "<unk>"],
        unk_token="<unk>",  # noqa: S106 - no secret
        show_progress=False,
    )
    tokenizer.train_from_iterator([SAMPLE, "the cat sat on the mat and the dog sat on the cat"] * 4, trainer)
    return tokenizer


@cache
def stored(name):
    """Open a tokenizer of the trained models."""
    return tokenizers.Tokenizer.from_file(str(real("models", name, "tokenizer.json")))


ALL = ["byte-level", "metaspace", "stories260K-hf", "capp-gpt2-hf", "nano-gpt-sort-hf"]


def get(name):
    return {"byte-level": byte_level, "metaspace": metaspace}.get(name, lambda: stored(name))()


def stream(tokenizer, prompt, ids):
    detokeniser = Detokeniser(tokenizer.decode, prompt)
    pieces = [detokeniser.push(i) for i in ids] + [detokeniser.flush()]
    assert detokeniser.flush() == ""
    return pieces


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None, max_examples=80)
@given(text=TEXTS, cut=st.integers(0, 200))
@example(text=SAMPLE, cut=0)
@example(text=SAMPLE, cut=7)
@example(text=SAMPLE * 8, cut=1)
def test_pieces_of_any_text(name, text, cut):
    tokenizer = get(name)
    ids = tokenizer.encode(text).ids
    prompt, new = ids[:cut], ids[cut:]
    before = tokenizer.decode(prompt)
    assume(not before.endswith("\ufffd"))  # a prompt that ends inside a character: see below
    assert before + "".join(stream(tokenizer, prompt, new)) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", ["byte-level", "metaspace", "capp-gpt2-hf", "nano-gpt-sort-hf"])
@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_pieces_of_any_ids(name, data):
    tokenizer = get(name)
    ids = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size() - 1), max_size=80))
    cut = data.draw(st.integers(0, len(ids)))
    before = tokenizer.decode(ids[:cut])
    assume(not before.endswith("\ufffd"))
    assert before + "".join(stream(tokenizer, ids[:cut], ids[cut:])) == tokenizer.decode(ids)


@settings(deadline=None, max_examples=150)
@given(ids=st.lists(st.one_of(st.integers(0, 511), st.integers(3, 258)), max_size=80))
def test_byte_fallback_of_any_ids(ids):
    """Where the bytes are text the pieces are that text; where they are not, what is whole is still given."""
    tokenizer = stored("stories260K-hf")
    whole = tokenizer.decode(ids)
    streamed = "".join(stream(tokenizer, [1], ids))
    if "\ufffd" not in whole:
        assert streamed == whole
    tokens = [tokenizer.id_to_token(i) for i in ids if i > 2]
    plain = "".join(t for t in tokens if not t.startswith("<0x")).replace("▁", " ")
    survivors = iter(streamed)
    assert all(c in survivors for c in plain.lstrip(" "))  # nothing that is no byte is lost


@pytest.mark.parametrize("name", ["byte-level", "stories260K-hf"])
def test_never_half_a_character(name):
    tokenizer = get(name)
    text = "a你😀é" * 5
    pieces = stream(tokenizer, tokenizer.encode("x").ids, tokenizer.encode(text).ids)
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces).strip() == text
    assert max(map(len, pieces)) <= 2  # as soon as it is whole


@pytest.mark.parametrize("name", ["byte-level", "stories260K-hf"])
def test_prompt_that_ends_inside_a_character(name):
    tokenizer = get(name)
    ids = tokenizer.encode("ab\U00020000").ids  # four bytes that no vocabulary here has merged
    assert "".join(stream(tokenizer, ids[:-1], [*ids[-1:], *tokenizer.encode("c").ids])).split() in (
        ["\U00020000c"],
        ["\U00020000", "c"],
    )


@pytest.mark.parametrize("name", ["byte-level", "stories260K-hf"])
def test_real_replacement_character_comes_out_at_the_end(name):
    tokenizer = get(name)
    assert "".join(stream(tokenizer, [], tokenizer.encode("end \ufffd\ufffd").ids)) == "end \ufffd\ufffd"


@pytest.mark.parametrize("name", ["byte-level", "metaspace", "stories260K-hf"])
def test_spaces_and_special_tokens(name):
    tokenizer = get(name)
    first = tokenizer.encode("the cat").ids
    special = [tokenizer.token_to_id("<s>")] * 100
    ids = first + special + tokenizer.encode(" the  cat").ids + special
    assert (
        "".join(stream(tokenizer, special + first[:1], ids[1:]))
        == tokenizer.decode(ids)[len(tokenizer.decode(first[:1])) :]
    )


@pytest.mark.parametrize("name", ["byte-level", "metaspace", "stories260K-hf"])
@pytest.mark.parametrize("kind", ["text", "special", "byte", "broken"])
def test_work_per_token_is_bounded(name, kind):
    tokenizer = get(name)
    widest = 0

    def decode(ids):
        nonlocal widest
        widest = max(widest, len(ids))
        return tokenizer.decode(ids)

    byte = tokenizer.token_to_id("<0xFF>" if name == "stories260K-hf" else "ÿ") or 5
    letter = tokenizer.token_to_id("<0x41>" if name == "stories260K-hf" else "a") or 6
    ids = {
        "text": tokenizer.encode(SAMPLE).ids * 20,
        "special": [tokenizer.token_to_id("<s>")] * 1000,
        "byte": [byte] * 1000,
        "broken": [byte] + [letter] * 1000,
    }[kind]
    detokeniser = Detokeniser(decode, [])
    pieces = [detokeniser.push(i) for i in ids]
    assert widest <= 70
    assert len("".join([*pieces, detokeniser.flush()])) >= len(tokenizer.decode(ids)) - 3


# --- stop strings --------------------------------------------------------------------------------------------------


def cut_at_stop(text, stop):
    """Keep what a reader keeps who sees one character at a time."""
    for end in range(len(text) + 1):
        hits = [s for s in stop if text[:end].endswith(s)]
        if hits:
            return text[: end - max(map(len, hits))], True
    return text, False


@settings(deadline=None)
@given(
    pieces=st.lists(st.text("ab\n", max_size=5), max_size=12),
    stop=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
)
@example(pieces=["xab", "cd"], stop=["abcd", "c"])
@example(pieces=["aa", "ab"], stop=["aab"])
def test_stop_strings_do_not_depend_on_the_pieces(pieces, stop):
    stops = StopStrings(stop)
    quote = ""
    text = "".join(pieces)
    want, stopped = cut_at_stop(text, stop)
    for piece in pieces:
        quote += stops.push(piece)
        assert want.startswith(quote)
    assert stops.stopped == stopped
    assert quote + stops.flush() == want


def test_only_what_could_be_a_start_is_held():
    stops = StopStrings(["###"])
    assert [stops.push(p) for p in ("a#", "#", "b", "##", "#c", "d")] == ["a", "", "##b", "", "", ""]
    assert stops.stopped


@pytest.mark.parametrize("stop", [[""], ["a", ""], [1], [None], 5, [b"x"]])
def test_refused_stop_strings(stop):
    with pytest.raises(InputError, match="stop_strings"):
        StopStrings(stop)
