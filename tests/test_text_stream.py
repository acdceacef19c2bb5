"""A stream's pieces, joined, are the answer's text, and that is what decoding all ids at once gives, cut at a stop."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from miaotui.loader.text import clean_up
from miaotui.loader.text.clean_up import CleanUp
from miaotui.loader.text.tokenizer import Tokenizer
from miaotui.loader.text.vocabulary import KeptTokenizer
from miaotui.runtime.generate import Drawn, collect, params_from, steps, tokens
from miaotui.runtime.sequence import _spelling
from tokenizers import Tokenizer as Whole
from tokenizers import decoders, models, pre_tokenizers

SPECIAL = ["<s>", "<|end|>"]
WORDS = ["it", "'", "s", "n't", "n", "t", ".", "?", "ok", "do", "re", "ve", "##ing", "##s", " ", "x y"]
PIECES = ["\u2581", "\u2581a", "\u2581it", "'", "s", ".", "\u2581'", "n", "t", "\u4f60", "a\u2581"]


def byte_level():
    whole = Whole(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    whole.decoder = decoders.ByteLevel()
    whole.add_tokens(["\u00ab\u00e9\u00bb", "  "])
    return whole


def words(decoder=None, table=WORDS):
    whole = Whole(models.WordLevel({w: i for i, w in enumerate(table)}, unk_token=table[0]))
    if decoder is not None:
        whole.decoder = decoder
    return whole


def byte_fallback():
    table = [*(f"<0x{b:02X}>" for b in (0x41, 0x20, 0xE4, 0xBD, 0xA0, 0xF0, 0x9F, 0x98, 0x80, 0xFF)), *PIECES]
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return words(decoders.Sequence(steps), table)


MADE = {
    "byte-level": byte_level,
    "metaspace": lambda: words(decoders.Metaspace(), PIECES),
    "byte-fallback": byte_fallback,
    "wordpiece": lambda: words(decoders.WordPiece(cleanup=False)),
    "wordpiece, its own clean-up": lambda: words(decoders.WordPiece(cleanup=True)),
    "no decoder": words,
    "bpe with a suffix": lambda: words(decoders.BPEDecoder("</w>"), ["a</w>", "b", "'", ".</w>", "n't</w>"]),
}
#: transformers cleans up no BPE's text.
CASES = [(name, tidy) for name in MADE for tidy in (False, True) if not (tidy and name == "byte-level")]


@cache
def made(name, *, tidy=False):
    whole = MADE[name]()
    whole.add_special_tokens(SPECIAL)
    with TemporaryDirectory() as folder:
        whole.save(f"{folder}/tokenizer.json")
        Path(folder, "tokenizer_config.json").write_text(json.dumps({"clean_up_tokenization_spaces": tidy}))
        return Tokenizer.from_directory(folder)


class Scripted:
    """A sequence that draws what it is told to."""

    n_context = 4096

    def __init__(self, codec, script):
        self.n_vocab, self._script, self.ids = codec.n_vocab, iter(script), []

    def __len__(self):
        return len(self.ids)

    def append(self, ids):
        self.ids += ids

    def drawn(self, _):
        self.ids.append(next(self._script))
        return Drawn(self.ids[-1], 0.0)


def answered(codec, prompt, ids, **how):
    """Run a script: the answer, and its pieces."""
    text = Scripted(codec, ids)
    stream = list(tokens(text, steps(text, prompt, params_from(max_new_tokens=len(ids), **how), _spelling(codec))))
    return collect(stream), [t.text for t in stream]


def decoded(codec, prompt, ids, *, skip=True):
    """The text of all ids at once, from the first character on that comes of the answer's."""
    before, raw = (codec.spelled(i, skip_special_tokens=skip) for i in (prompt, prompt + ids))
    if not raw.startswith(before):  # the prompt ended within a character
        solid = list(prompt)
        while solid and (solid[-1] in codec.unsettled_ids or not codec.spelled([solid[-1]] * 2)):
            solid.pop()
        starts = [before[: len(before) - n] for n in (1, 2, 3) if before.endswith("\ufffd" * n)]
        starts.append(codec.spelled(solid, skip_special_tokens=skip))
        before = next(start for start in starts if raw.startswith(start))
    if codec.filtered is None:
        return raw[len(before) :]
    return "".join(raw[p] for p in clean_up._kept(raw) if p >= len(before))


def draw_ids(data, codec, **sizes):
    ordinary = st.integers(0, codec.n_vocab - 1)
    narrow = st.sampled_from([*sorted(codec.unsettled_ids), *codec.special_ids, codec.n_vocab - 1])
    return data.draw(st.lists(st.one_of(ordinary, narrow), **sizes))


@pytest.mark.parametrize(("name", "tidy"), CASES)
@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_the_pieces_are_the_decoded_ids(name, tidy, data):
    codec = made(name, tidy=tidy)
    ids = draw_ids(data, codec, min_size=1, max_size=40)
    cut = data.draw(st.integers(0, len(ids) - 1))
    answer, pieces = answered(codec, ids[:cut], ids[cut:])
    assert "".join(pieces) == answer.text == decoded(codec, ids[:cut], ids[cut:])
    whole, _ = answered(codec, [], ids)
    assert whole.text == codec.decode(ids)


@pytest.mark.parametrize(("name", "tidy"), CASES)
@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_an_answer_ends_with_the_first_id_that_completes_a_stop_string(name, tidy, data):
    """Special tokens are a part of the text that stop strings are looked for in; none is a part of the answer."""
    codec = made(name, tidy=tidy)
    ids = draw_ids(data, codec, min_size=1, max_size=16)
    shown = decoded(codec, [], ids, skip=False).replace("\ufffd", "")
    ends = data.draw(st.lists(st.integers(0, len(shown)), min_size=2, max_size=2))
    stop = shown[min(ends) : max(ends)][-12:] or "<|end|>"
    n = next((n for n in range(1, len(ids) + 1) if stop in decoded(codec, [], ids[:n], skip=False).rstrip("\ufffd")), 0)
    answer, pieces = answered(codec, [], ids, stop=stop)
    assert "".join(pieces) == answer.text
    whole = codec.decode(ids[:n] if n else ids)
    assert (answer.finish_reason, answer.ids) == (("stop", ids[:n]) if n else ("length", ids))
    assert whole.startswith(answer.text)
    if not n:
        assert answer.text == whole
    elif not set(ids[:n]) & set(codec.special_ids):
        assert answer.text == whole[: whole.index(stop)]


@pytest.mark.parametrize(
    ("ids", "stop", "text"),
    [
        ("a b <|end|> c", "<|end|>", "ab"),
        ("a b <|end|> c", "b<|end|>", "a"),
        ("a <|end|> b", "a<|end|>b", ""),
        ("a <|end|> <|end|>", "<|end|><|end|>", "a"),
        ("a <|end|> b c", "bc", "a"),
        ("a <|end|> b", "end", "a"),
        ("a b", "<|end|>", "ab"),
    ],
)
def test_stop_strings_of_special_tokens(ids, stop, text):
    codec = made("byte-level")
    drawn = [codec.token_to_id(t) for t in ids.split()]
    answer, pieces = answered(codec, [], drawn, stop=stop)
    assert (answer.text, "".join(pieces)) == (text, text)
    assert answer.finish_reason == ("length" if ids == "a b" else "stop")


def test_a_stop_string_that_the_end_of_the_sequence_completes():
    codec = made("byte-level")
    a, b, end = (codec.token_to_id(t) for t in ("a", "b", "<|end|>"))
    answer, _ = answered(codec, [], [a, b, end, a], stop="b<|end|>", eos_token_id=end)
    assert (answer.ids, answer.text, answer.finish_reason) == ([a, b, end], "a", "stop")
    answer, _ = answered(codec, [], [a, b, end, a], stop="xyz", eos_token_id=end)
    assert (answer.ids, answer.text, answer.finish_reason) == ([a, b, end], "ab", "eos")


def test_the_spaces_of_words_around_a_special_token():
    """Words without a decoder are joined by spaces, and so are special tokens, where they are shown."""
    codec = made("no decoder")
    it, end, ok = (codec.token_to_id(t) for t in ("it", "<|end|>", "ok"))
    assert answered(codec, [], [it, end, ok], stop=" <|end|>")[0].text == "it"
    assert answered(codec, [], [it, end, ok], stop="<|end|> o")[0].text == "it"
    assert answered(codec, [], [end, it, ok], stop="k")[0].text == "it o"


def test_a_prompt_whose_last_character_special_tokens_part():
    """They are skipped, so its bytes belong together, however far apart they are."""
    codec = made("byte-level")
    first, *rest = map(
        codec.token_to_id, pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str("\u0861")[0][0]
    )
    prompt = [first, *[codec.token_to_id("<s>")] * 20, rest[0]]
    assert answered(codec, prompt, rest[1:])[0].text == "\u0861"


def test_a_cut_vocabulary_streams_alike():
    whole = made("byte-fallback", tidy=True)
    cut = KeptTokenizer(whole, range(1, whole.n_vocab))
    ids = [2, 3, 4, 10, 11, 9, 12, 2]
    assert answered(cut, [], [i - 1 for i in ids])[0].text == answered(whole, [], ids)[0].text == whole.decode(ids)
    assert cut.unsettled_ids == {i - 1 for i in whole.unsettled_ids if i}


def test_characters_of_bytes_come_when_the_next_token_does():
    codec = made("byte-fallback")
    you = [codec.token_to_id(f"<0x{b:02X}>") for b in "\u4f60".encode()]
    a, bad = codec.token_to_id("\u2581a"), codec.token_to_id("<0xFF>")
    assert answered(codec, [], [*you, *you, a])[1] == ["", "", "", "", "", "", "\u4f60\u4f60 a"]
    assert answered(codec, [], [*you, bad, a])[0].text == "\ufffd" * 4 + " a"
    assert answered(codec, [], [*you, *you, a], stop="\u4f60")[0].ids == you  # found at once


@settings(deadline=None, max_examples=2000)
@given(text=st.text(" '.?!,ntmsverx\n", max_size=14), data=st.data())
@example(text="do n ' t it  ' s", data=None)
def test_the_clean_up_of_a_stream(text, data):
    cut = 0 if data is None else data.draw(st.integers(0, len(text)))
    stream = CleanUp(text[:cut])
    pieces = "".join(map(stream.push, text[cut:]))
    assert pieces + stream.pending() == "".join(text[p] for p in clean_up._kept(text) if p >= cut)
    assert "".join(text[p] for p in clean_up._kept(text)) == clean_up.clean_up(text)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(" '.?!,ntmsverx", max_size=24), min_size=10, max_size=40))
def test_the_clean_up_of_a_long_stream(pieces):
    stream = CleanUp("")
    assert "".join(map(stream.push, pieces)) + stream.pending() == clean_up.clean_up("".join(pieces))
