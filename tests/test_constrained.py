"""Answers that are held to something: masks of ids, choices, ends of blocks, what fills a gap. No llguidance needed."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from generation_models import write_writer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from miaotui.errors import BackendError, InputError
from miaotui.loader.text.choices import Choices
from miaotui.loader.text.fim import infill_of
from miaotui.loader.text.token_bytes import _anchor, token_bytes
from miaotui.loader.text.tokenizer import Tokenizer
from miaotui.loader.text.trie import Spelled, one, trie_of
from miaotui.runtime.blocks import BlockEnd
from miaotui.runtime.sampling import allowed_of
from miaotui.tools import demo
from real_files import real

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

KINDS = ("llama", "t5", "nllb", "mbart")
DEMO = Tokenizer.from_directory(demo.path())
WILD: dict[str, Any] = {"temperature": 2.0, "max_new_tokens": 24}


@pytest.fixture(scope="module")
def model() -> Iterator[miaotui.Model]:
    with miaotui.load(demo.path(), threads=1, max_context=256, cache_tokens=1024) as model:
        yield model


@pytest.fixture(scope="module", params=KINDS)
def writer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[miaotui.Model]:
    with miaotui.load(write_writer(tmp_path_factory.mktemp("writer"), request.param), threads=1) as model:
        yield model


# ---------------------------------------------------------------- bytes of tokens


def check_bytes(tokenizer: Tokenizer, seed: int) -> None:
    """Bytes of tokens, one after the other, are the text's: at its beginning, and in it."""
    spelled, rng = token_bytes(tokenizer, tokenizer.n_vocab + 5), np.random.default_rng(seed)
    texts = [i for i in range(tokenizer.n_vocab) if spelled.after[i]]
    assert not any(spelled.after[i] for i in (*tokenizer.special_ids, tokenizer.n_vocab + 1))
    for _ in range(60):
        ids = rng.choice(texts, rng.integers(1, 9)).tolist()
        if not spelled.first[ids[0]]:
            continue
        data = spelled.first[ids[0]] + b"".join(spelled.after[i] for i in ids[1:])
        if b"\xef\xbf\xbd" not in data and data.decode(errors="replace").encode() == data:
            assert tokenizer.spelled(ids).encode() == data
        assert spelled.begun(ids)
        assert spelled.begun([*ids, *tokenizer.special_ids])
    assert spelled.begun([]) != spelled.differ


@pytest.mark.parametrize("name", ["", "dates", "answers"])
def test_bytes_of_tokens_make_the_text(name: str) -> None:
    check_bytes(Tokenizer.from_directory(demo.path(name) if name else demo.path()), 1)


def test_bytes_of_tokens_of_trained_checkpoints() -> None:
    for path in sorted(real("models").iterdir()):
        if path.is_dir():
            check_bytes(Tokenizer.from_directory(path), 1)


def test_bytes_of_tokens_of_other_tokenizers(writer: miaotui.Model) -> None:
    check_bytes(writer.tokenizer, 2)


# ---------------------------------------------------------------- choices


TAILS = st.tuples(st.integers(0, 70), st.lists(st.integers(0, 2), min_size=1, max_size=4))


@given(st.lists(TAILS, min_size=1, max_size=25), st.sampled_from([1, 1000, 2**29]))
def test_a_trie_has_each_sequence_and_no_other(rows: list[tuple[int, list[int]]], step: int) -> None:
    """Sequences that are alike for longer than a key is, that end where others go on, and that come twice."""
    texts = [[*[step] * n, *(step * i for i in tail)] for n, tail in rows]
    ids = np.array([i for text in texts for i in text], np.int32)
    trie = trie_of(Spelled(np.array([len(text) for text in texts]), ids))
    found, left = [], [(0, list[int]())]
    while left:
        node, text = left.pop()
        found += [tuple(text)] if trie.ends[node] else []
        children = trie.children(node).tolist()
        assert children == sorted(set(children))
        left += [(trie.child(node, token), [*text, token]) for token in children]
    assert sorted(found) == sorted({tuple(text) for text in texts})
    prefixes = {tuple(text[:n]) for text in texts for n in range(len(text) + 1)}
    assert trie.ends.size == len(trie.tokens) + 1 == len(prefixes)


def allowed(mask: NDArray[np.uint32], n: int) -> set[int]:
    return set(np.flatnonzero(allowed_of(mask, n)).tolist())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text("abc \n.é", min_size=1, max_size=8), min_size=1, max_size=30))
@example(["a", "a", "ab", "a b", "\na", " a", "a\n"])
def test_the_trie_allows_what_the_spelled_texts_allow(texts: list[str]) -> None:
    choices, spelled, n, wanted = Choices(texts, DEMO), token_bytes(DEMO, DEMO.n_vocab), DEMO.n_vocab, set(texts)
    assert len(choices) == len(wanted)
    ids = {}
    for text in wanted:
        each = one(text, DEMO, spelled, first=False)
        assert each is not None
        ids[tuple(each)] = text
    assert {DEMO.decode(i) for i in ids} == wanted
    for way in ids:
        walk = choices.begin([5], n)
        for at, token in enumerate(way):
            ahead = walk.ahead(way[at:])
            assert [end for _, end in ahead] == [way[:i] in ids for i in range(at + 1, len(way) + 1)]
            assert walk.ahead([DEMO.n_vocab - 1, *way[at:]]) == [] or DEMO.n_vocab - 1 == token
            mask, may_end = walk.fill()
            assert allowed(mask, n) == {w[at] for w in ids if len(w) > at and w[:at] == way[:at]}
            assert may_end == (way[:at] in ids)
            walk.advance(token)
        mask, may_end = walk.fill()
        assert may_end
        assert allowed(mask, n) == {w[len(way)] for w in ids if len(w) > len(way) and w[: len(way)] == way}


def test_an_answer_is_one_of_the_choices_and_each_comes(model: miaotui.Model) -> None:
    names = ["yes", "no", "yesterday", " maybe", "no way"]
    choices = miaotui.Choices(names, model.tokenizer)
    seen = set()
    for seed in range(60):
        out = model.generate("Is it?", choices=choices, seed=seed, temperature=40.0)
        assert out.finish_reason == "eos"
        assert out.ids[-1] in model.config.eos_ids
        assert not {*out.ids[:-1]} & {*model.config.eos_ids}
        seen.add(out.text)
    assert seen == set(names)


def test_choices_of_a_model_whose_texts_begin_otherwise(writer: miaotui.Model) -> None:
    """An encoder-decoder's answer begins a text, where SentencePiece drops a space."""
    names = ["ab", "ba b", "aba"]
    for seed in range(8):
        out = writer.generate("a b", choices=names, seed=seed, **WILD)
        assert out.text in names, out
        assert out.finish_reason in {"eos", "stop"}


def test_a_language_that_is_forced_stands_before_the_choice(tmp_path: Path) -> None:
    with miaotui.load(write_writer(tmp_path / "nllb", "nllb"), threads=1) as model:
        out = model.generate("a b", choices=["ab", "b a"], forced_bos_token_id="fra_Latn")  # noqa: S106 - a language
        assert out.ids[0] == model.tokenizer.token_to_id("fra_Latn")
        assert out.text in {"ab", "b a"}
        cut = model.generate("a b", choices=["abab ab ab"], forced_eos_token_id="</s>", max_new_tokens=2)  # noqa: S106 - a token
        assert cut.finish_reason == "length"  # no end is forced where the text may not end


def test_without_an_end_id_the_answer_ends_where_nothing_may_come(model: miaotui.Model) -> None:
    out = model.generate("Is it?", choices=["yes"], ignore_eos=True)
    assert (out.text, out.finish_reason) == ("yes", "stop")
    assert model.generate("Is it?", choices=["yes"], ignore_eos=True, max_new_tokens=1).finish_reason == "length"


def test_a_stream_a_list_a_task_and_a_copy_give_the_same(model: miaotui.Model) -> None:
    how: dict[str, Any] = {"choices": ["a house", "a fox", "the sea"], "seed": 4, **WILD}
    prompts = ["Once upon a time", "She saw", "It was"]
    alone = [model.generate(p, **how).ids for p in prompts]
    assert [g.ids for g in model.generate(prompts, **how)] == alone
    assert ["".join(model.stream(p, **how)) for p in prompts] == [model.generate(p, **how).text for p in prompts]

    async def tasks() -> list[Any]:
        return await asyncio.gather(*(model.agenerate(p, **how) for p in prompts))

    assert [g.ids for g in asyncio.run(tasks())] == alone
    made: dict[int, list[int]] = {}
    threads = [
        threading.Thread(target=lambda i=i, p=p: made.update({i: model.generate(p, **how).ids}))
        for i, p in enumerate(prompts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [made[i] for i in range(3)] == alone
    several = model.generate(prompts[0], n=3, **how)
    assert several.ids == alone[0]
    assert {g.text for g in (several, *several.alternatives)} <= set(how["choices"])
    with model.sequence() as text:
        text.feed(model.tokenizer.encode(prompts[0]))
        with text.fork() as twin:
            assert twin.generate(**how).ids == text.generate(**how).ids == alone[0]


def test_the_seed_gives_the_same_text_before_and_after(model: miaotui.Model) -> None:
    plain = model.generate("Once", seed=3, **WILD).ids
    model.generate("Once", seed=3, choices=["x"], **WILD)
    assert model.generate("Once", seed=3, **WILD).ids == plain


@pytest.mark.parametrize("form", ["choices", "regex"])
@pytest.mark.parametrize("draft", ["ngram", False])
def test_an_id_that_ends_an_answer_is_no_text_of_it(model: miaotui.Model, form: str, draft: str | bool) -> None:  # noqa: FBT001 - drawn
    """It comes where the text may end, though the form could go on with what it spells."""
    texts = [" a b", " a c d", " a c d a", " b a b a b"]
    asked: dict[str, Any] = {form: texts if form == "choices" else "|".join(texts)}
    spelt = model.tokenizer.encode
    pieces = [set(spelt(text, add_special_tokens=False)) for text in (" b", " c", " a")]
    seen = set()
    for token in sorted(set.union(*pieces)):
        for seed in range(6):
            try:
                out = model.generate(
                    "a", eos_token_id=token, max_new_tokens=40, temperature=3.0, seed=seed, draft=draft, **asked
                )
            except InputError as e:
                assert "or ends the answer (eos_token_id)" in str(e)  # noqa: PT017 - one of two ends
                seen.add("nothing else")
            else:
                assert out.text in texts
                assert token not in out.ids[:-1]
                seen.add(out.finish_reason)
    assert seen == {"eos", "nothing else"}


def test_other_parameters_go_with_choices(model: miaotui.Model) -> None:
    out = model.generate("Once", choices=["yes", "no"], logprobs=True, top_logprobs=2, repetition_penalty=1.3)
    assert out.text in {"yes", "no"}
    assert out.logprobs is not None
    assert [each.id for each in out.logprobs] == out.ids
    assert model.generate("Once", choices=["yes", "no"], stop="e", seed=1, temperature=5.0).text in {"y", "no"}


@pytest.mark.parametrize("how", [{"min_new_tokens": 9}, {"min_length": 40}, {"suppress_tokens": "ends"}])
@pytest.mark.parametrize("drawn", [{}, {"temperature": 2.0, "seed": 1}])
def test_where_nothing_but_an_end_may_come_no_rule_forbids_it(
    model: miaotui.Model, how: dict[str, Any], drawn: dict[str, Any]
) -> None:
    how = {"suppress_tokens": list(model.config.eos_ids)} if "suppress_tokens" in how else how
    out = model.generate("Once", choices=["yes", "yesterday"], **how, **drawn)
    assert (out.text in {"yes", "yesterday"}, out.finish_reason) == (True, "eos")
    n = len(model.generate("Once", choices=["no"]).ids)  # with the end
    longer = model.generate("Once", choices=["no", "no way at all"], min_new_tokens=n, **drawn)
    assert longer.text == "no way at all", "where more may come, a rule about the end holds"


def test_an_error_says_which_rules_leave_nothing_of_a_mask(model: miaotui.Model) -> None:
    never = [[i] for i in range(model.config.n_vocab) if i not in model.config.eos_ids]
    with pytest.raises(InputError, match=r"choices leaves none that bad_words_ids, .* does not forbid; leave one out"):
        model.generate("Once", choices=["yes"], bad_words_ids=never)


def passes(model: miaotui.Model, monkeypatch: pytest.MonkeyPatch, **how: Any) -> tuple[miaotui.Generation, int]:
    """An answer, and passes that it took."""
    done, run = [], model.session.run_pass
    monkeypatch.setattr(model.session, "run_pass", lambda *a, **k: done.append(1) or run(*a, **k))
    out = model.generate("Once", **how)
    monkeypatch.undo()
    return out, len(done)


def test_what_alone_may_come_takes_no_pass_and_changes_nothing(
    model: miaotui.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With log-probabilities each id is drawn; without, those that must come are read with the next that is drawn."""
    names = ["a small grey mouse", "a small grey fox sat", "the old house"]
    for seed in range(6):
        how: dict[str, Any] = {"choices": names, "temperature": 5.0, "seed": seed}
        drawn, n_drawn = passes(model, monkeypatch, logprobs=True, **how)
        out, n = passes(model, monkeypatch, **how)
        assert (out.ids, out.text, out.finish_reason) == (drawn.ids, drawn.text, drawn.finish_reason)
        assert n_drawn == len(out.ids)
        assert n < n_drawn
    with model.sequence() as text, model.sequence() as other:  # and the text goes on from the same keys
        first = text.generate("Once", choices=names[2:])
        other.generate("Once", choices=names[2:], logprobs=True)
        assert text.ids == other.ids
        assert np.array_equal(text.feed([7]), other.feed([7]))
        assert first.finish_reason == "eos"
    fits = model.n_context - len(model.tokenizer.encode("Once")) - 1
    long = model.generate("Once", choices=["a" * 2000, "b"], seed=1, max_new_tokens=None, temperature=9.0)
    assert len(long.ids) in {2, fits + 2} or long.finish_reason in {"context", "eos"}
    table = Table(*[({20 + i % 3}, False) for i in range(400)])
    out = model.generate("Once", schema=table, max_new_tokens=None)
    assert out.finish_reason == "context"
    assert out.ids == [20 + i % 3 for i in range(len(out.ids))]
    assert len(out.ids) == fits + 2


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"choices": ["a"], "regex": "a"}, "^regex and choices: an answer is held to one of them; give one$"),
    ({"choices": []}, "^choices: no texts"),
    ({"choices": "abc"}, "^choices='abc': expected a list of texts"),
    ({"choices": ["a", ""]}, r"^choices\[1\]='': expected a text"),
    ({"choices": ["a", 3]}, r"^choices\[1\]=3: expected a text"),
    ({"choices": ["a", "\ud800"]}, r"^choices\[1\]='\\ud800': a lone surrogate"),
    ({"choices": ["a"], "num_beams": 2}, "^num_beams=2: choices and beams do not go together"),
    ({"stop_at": "line"}, "^stop_at='line': expected \"block\"$"),
    ({"stop_at": "block", "num_beams": 2}, "^num_beams=2: stop_at and beams"),
]


@pytest.mark.parametrize(("how", "message"), WRONG)
def test_what_is_wrong_is_said(model: miaotui.Model, how: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.generate("Once", **how)


def test_choices_of_another_tokenizer_are_refused(model: miaotui.Model) -> None:
    other = Choices(["a"], Tokenizer.from_directory(demo.path("dates")))
    with pytest.raises(InputError, match=r"choices=.*prepared with another tokenizer"):
        model.generate("Once", choices=other)
    with pytest.raises(InputError, match=r"was made for choices; give it as choices"):
        model.generate("Once", regex=Choices(["a"], model.tokenizer))
    with pytest.raises(InputError, match="constraint: nothing was given"):
        model.constraint()
    assert repr(model.constraint(choices=["a"])).startswith("<miaotui.Choices of 1 texts")


def test_choices_of_a_cut_vocabulary(model: miaotui.Model) -> None:
    """Ids are then rows of the smaller embedding; a text that needs a token that is gone says so."""
    ids = sorted({*range(300), *model.tokenizer.encode("yes no")})
    with miaotui.load(demo.path(), threads=1, prune=miaotui.PrunePlan(vocab=tuple(ids))) as cut:
        assert cut.tokenizer.n_vocab < model.tokenizer.n_vocab
        for seed in range(6):
            assert cut.generate("a", choices=["yes", "no"], seed=seed, temperature=9.0).text in {"yes", "no"}


def test_a_text_that_no_token_spells_is_refused() -> None:
    with pytest.raises(InputError, match=r"choices\[0\]='日本': this tokenizer has no tokens for it"):
        Choices(["日本"], Tokenizer.from_directory(demo.path("answers")))


def test_an_answer_that_is_none_of_them_is_an_error(model: miaotui.Model) -> None:
    choices = Choices(["yes"], model.tokenizer)
    choices.holds = lambda _: False  # type: ignore[method-assign]
    with pytest.raises(BackendError, match="choices: the answer 'yes' is none of them"):
        model.generate("Once", choices=choices)


def test_a_model_without_a_tokenizer_has_no_text_to_hold(tmp_path: Path) -> None:
    directory = write_writer(tmp_path / "bare", "llama")
    (directory / "tokenizer.json").unlink()
    with miaotui.load(directory, threads=1) as bare, pytest.raises(InputError, match="choices: this model has no tok"):
        bare.generate([1, 2], choices=["a"])


class Table:
    """A constraint that is a table: ids of each place, and whether the text may end there."""

    name = "schema"

    def __init__(self, *rows: tuple[set[int], bool]) -> None:
        self.rows = rows

    def begin(self, before: Sequence[int], n_vocab: int) -> Table:
        assert before
        self.at, self.n = 0, n_vocab
        return self

    def fill(self) -> tuple[NDArray[np.uint32], bool]:
        ids, may_end = self.rows[self.at]
        mask = np.zeros((self.n + 31) // 32, np.uint32)
        for i in ids:
            mask[i >> 5] |= np.uint32(1 << (i & 31))
        return mask, may_end

    def advance(self, token: int) -> None:
        assert token in self.rows[self.at][0]
        self.at += 1

    def check(self, text: str) -> None:
        self.checked = text


def test_a_dead_end_is_an_error_of_that_text_alone(model: miaotui.Model) -> None:
    text = model._text
    dead, good = Table(({20, 21}, False), (set(), False)), Table(({20}, False), ({21}, True), (set(), True))
    made = iter([dead, good])
    kept = text.constrain
    object.__setattr__(text, "constrain", lambda _, value: value or next(made))
    try:
        with pytest.raises(InputError, match="schema: after 1 tokens of the answer no token of the vocabulary"):
            model.generate("Once", schema={})
        out = model.generate("Once", schema={})
    finally:
        object.__setattr__(text, "constrain", kept)
    assert out.finish_reason == "eos"
    assert good.checked == out.text


# ---------------------------------------------------------------- ends of blocks

BLOCKS = [
    ("    ", "return x\n\n\ndef g():\n", "return x"),
    ("def f(x):", "\n    y = x\n    return y\nprint(f(2))", "\n    y = x\n    return y"),
    ("", "    a\n        b\n\n    c\nd", "    a\n        b\n\n    c"),
    ("int f() {", "\n  return (1);\n}\nint g", "\n  return (1);"),
    ("  x = ", "[\n1,\n]\n  y\nz", "[\n1,\n]\n  y"),
    ("    ", 'print("a)")  # b\n    z)', 'print("a)")  # b\n    z'),
    ("f(", "a, b) + c", "a, b"),
    ("x = 1\n", "y = 2\nz\n", "y = 2\nz\n"),
    ("    ", "don't\n    (go)\n", "don't\n    (go)\n"),
    ("\tif a:", "\n\t\tb\n\telse:\n\t\tc", "\n\t\tb"),
]


@pytest.mark.parametrize(("line", "text", "wanted"), BLOCKS)
def test_where_a_block_ends(line: str, text: str, wanted: str) -> None:
    for size in range(1, len(text) + 1):
        end, out = BlockEnd(line.rpartition("\n")[2]), ""
        for at in range(0, len(text), size):
            piece = end.push(text[at : at + size])
            assert wanted.startswith(out + piece)  # nothing that is withdrawn
            out += piece
        assert out + end.flush() == wanted
        assert end.stopped == (wanted != text)


@given(st.text("a ({[)]}\n\t'\"\\:", max_size=30), st.text(" a:(\t", max_size=6), st.data())
def test_a_block_s_end_does_not_depend_on_the_pieces(text: str, line: str, data: st.DataObject) -> None:
    whole = BlockEnd(line)
    wanted = whole.push(text) + whole.flush()
    cut, at, out = BlockEnd(line), 0, ""
    while at < len(text):
        n = data.draw(st.integers(1, 7))
        out, at = out + cut.push(text[at : at + n]), at + n
    assert (out + cut.flush(), cut.stopped) == (wanted, whole.stopped)
    assert text.startswith(wanted)
    assert whole.stopped or wanted == text


def test_an_answer_ends_with_its_block(model: miaotui.Model) -> None:
    for prompt, text, wanted in (
        ("x", "a (b) c) d", "a (b) c"),
        ("  x", "a\n  b\nc", "a\n  b"),
        ("x", "a\n  b", "a\n  b"),
    ):
        out = model.generate(prompt, choices=[text], stop_at="block")
        assert (out.text, out.finish_reason) == (wanted, "eos" if wanted == text else "stop")
        assert "".join(model.stream(prompt, choices=[text], stop_at="block")) == wanted


# ---------------------------------------------------------------- fill in the middle


def raised(row: NDArray[np.float32], i: int) -> None:
    row[i] = row.max() + 9


def coder(directory: Path, names: tuple[str, str, str], end: str) -> miaotui.Model:
    """A model whose special tokens are those that a code model has."""
    write_writer(directory, "llama")
    at = directory / "tokenizer.json"
    file = with_names(json.loads(at.read_text(encoding="utf-8")), names, end)
    at.write_text(json.dumps(file, ensure_ascii=False), encoding="utf-8")
    return miaotui.load(directory, threads=1)


def with_names(file: dict[str, Any], names: tuple[str, str, str], end: str) -> dict[str, Any]:
    """A tokenizer's file with other special tokens in the places of its last."""
    vocab = file["model"]["vocab"]
    spare = [token for token in vocab if len(token) > 1 and not token.startswith("<")][-4:]
    for old, new in zip(spare, (*names, end), strict=True):
        vocab[new] = vocab.pop(old)
        file["model"]["merges"] = [m for m in file["model"]["merges"] if "".join(m).replace(" ", "") != old]
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        file["added_tokens"].append({"id": vocab[new], "content": new, **flags})
    return file


NAMES = [
    (("<fim_prefix>", "<fim_suffix>", "<fim_middle>"), "<|endoftext|>"),
    (("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"), "<|fim_pad|>"),
    (("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"), "\u2581<EOT>"),
]


@pytest.mark.parametrize(("names", "end"), NAMES)
def test_a_gap_is_asked_for_by_the_tokens_of_the_tokenizer(
    tmp_path: Path, names: tuple[str, str, str], end: str
) -> None:
    with coder(tmp_path / "coder", names, end) as model:
        tokenizer = model.tokenizer
        before, between, last = (tokenizer.token_to_id(name) for name in names)
        asked = infill_of(tokenizer, "ab", "ba")
        assert asked.ends == (before, between, last, tokenizer.token_to_id(end))
        ab, ba = (tokenizer.encode(text, add_special_tokens=False) for text in ("ab", "ba"))
        assert asked.ids == [tokenizer.bos_id, before, *ab, between, *ba, last]
        out = model.infill("ab", "ba", max_new_tokens=4)
        assert (
            out.ids
            == model.generate(asked.ids, max_new_tokens=4, eos_token_id=[*model.config.eos_ids, *asked.ends]).ids
        )
        ends = {*asked.ends, *model.config.eos_ids}
        assert (out.finish_reason == "eos") == bool({*out.ids} & ends)
        drawn = model.infill(
            "ab",
            "ba",
            logits_processor=lambda _, row: np.where(np.arange(row.size) == asked.ends[0], row, row - 99).astype(
                np.float32
            ),
        )
        assert (drawn.text, drawn.finish_reason) == ("", "eos")


def test_a_gap_s_suffix_has_no_space_of_sentencepiece_s(tmp_path: Path) -> None:
    """A real tokenizer with Code Llama's tokens in the places of four others."""
    file = json.loads((real("models") / "stories260K-hf" / "tokenizer.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(with_names(file, *NAMES[2])), encoding="utf-8")
    tokenizer = Tokenizer.from_directory(tmp_path)
    asked = infill_of(tokenizer, "Once upon", "world")
    first, second, third = (tokenizer.token_to_id(name) for name in NAMES[2][0])
    between = asked.ids.index(second)
    assert asked.ids[0] == first  # its frame has no bos
    assert asked.ids[-1] == third
    prefix, suffix = asked.ids[1:between], asked.ids[between + 1 : -1]
    assert tokenizer.decode(prefix) == "Once upon"
    assert tokenizer.decode([*prefix, *suffix]) == "Once uponworld"


def test_a_model_that_cannot_fill_a_gap_says_so(model: miaotui.Model) -> None:
    with pytest.raises(InputError, match="infill: this model's tokenizer has no tokens to fill in the middle with"):
        model.infill("a", "b")


# ---------------------------------------------------------------- the command line


def test_the_commands_take_choices_from_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from miaotui.tools.cli import main

    names = tmp_path / "names.txt"
    names.write_text("yes\n\nno\n", encoding="utf-8")
    assert main(["generate", "--choices", str(names), "--no-prompt", "Is it?"]) == 0
    assert capsys.readouterr().out in {"yes\n", "no\n"}
    names.write_text("\n", encoding="utf-8")
    assert main(["generate", "--choices", str(names), "x"]) == 2
    assert f"--choices {names}: no line has a text" in capsys.readouterr().err
    assert main(["generate", "--choices", str(names), "--regex", "a", "x"]) == 2
    assert "--regex and --choices: a text is held to one of them; give one" in capsys.readouterr().err
    names.write_text("Yes it is.\nNo.\n", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Is it?\nAnd now?\n")))
    assert main(["chat", "--choices", str(names)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert {*said} <= {"Yes it is.", "No."}
    assert main(["generate", "--suffix", "b", "a"]) == 2
    assert "--suffix: this model's tokenizer has no tokens to fill in the middle" in capsys.readouterr().err


def test_a_model_that_writes_nothing_says_so() -> None:
    with (
        miaotui.load(demo.path("encoder"), threads=1) as encoder,
        pytest.raises(InputError, match=r"^generate: bert is an encoder, which writes no text"),
    ):
        encoder.generate("x", choices=["yes", "no"])


def test_the_token_that_others_are_spelled_after_has_a_text_of_its_own() -> None:
    """Not one without a text, one that its own twin changes or takes away, nor a part of a character."""
    texts = {0: "", 1: "m", 2: "s", 3: "\ufffd", 4: "own"}
    twice = {0: "", 1: "M", 2: "s", 3: "\ufffd\ufffd", 4: "own own"}
    tokenizer: Any = SimpleNamespace(
        token_to_id={"a": 2, "x": 9}.get, spelled=lambda ids: texts[ids[0]] if len(ids) == 1 else twice[ids[0]]
    )
    assert _anchor(tokenizer, [0, 1, 2, 3, 4]) == (4, "own")
    with pytest.raises(InputError, match="no token of this tokenizer has a text of its own"):
        _anchor(tokenizer, [0, 1, 2, 3])


def test_an_answer_that_is_held_to_a_text_is_not_cleaned_up(tmp_path: Path) -> None:
    directory = write_writer(tmp_path, "t5")
    said = directory / "tokenizer_config.json"
    said.write_text(json.dumps(json.loads(said.read_text()) | {"clean_up_tokenization_spaces": True}))
    with miaotui.load(directory, threads=1) as model:
        answer = model.generate("a", choices=["the cat ."], max_new_tokens=20)
        assert answer.text == "the cat ."
        assert model.tokenizer.decode(answer.ids) == "the cat."
