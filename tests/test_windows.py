"""`Tokenizer.windows`: tokens with their places, cut as `tokenizers` itself cuts them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import miaotui as mt
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError
from miaotui.loader.text.pieces import Cutting
from miaotui.loader.text.tokenizer import Tokenizer
from task_models import KINDS, write_model

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = st.lists(st.sampled_from(["Ana", "flew", "日本", "e\u0301", "😀", "company ", "."]), max_size=12).map(" ".join)


@pytest.fixture(scope="module", params=KINDS)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("task") / request.param, request.param)


def test_windows_are_those_of_tokenizers(directory: Path) -> None:
    ours = Tokenizer.from_directory(directory)

    @settings(deadline=None, max_examples=150)
    @given(
        TEXTS, st.none() | TEXTS, st.integers(5, 30), st.none() | st.integers(0, 8),
        st.sampled_from(["longest_first", "only_first", "only_second"]), st.sampled_from(["left", "right"]),
    )  # fmt: skip
    def alike(text: str, pair: str | None, most: int, stride: int | None, strategy: str, side: str) -> None:
        strategy = strategy if pair is not None else "longest_first"
        theirs = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        lengths = [len(theirs.encode(t or "", add_special_tokens=False)) for t in (text, pair)]
        frame = theirs.num_special_tokens_to_add(pair is not None)
        both = strategy == "longest_first" and pair is not None and sum(lengths) + frame > most
        cutting = Cutting(most, strategy, None if both else stride, side)
        if both and min(lengths) == 0:
            return  # theirs leaves a text with nothing
        try:
            theirs.enable_truncation(most, stride=cutting.stride or 0, strategy=strategy, direction=side)
            wanted = theirs.encode(text, pair)
        except BaseException as e:  # their panic is no Exception
            if isinstance(e, KeyboardInterrupt):
                raise
            if sum(lengths) + frame <= most:
                return  # nothing is cut, and theirs looked at the numbers alone
            with pytest.raises(InputError):
                ours.windows(text, pair, cutting=cutting)
            return
        try:
            got = ours.windows(text, pair, cutting=cutting)
        except InputError:
            kept = [wanted.sequence_ids.count(i) for i in (0, 1)]
            assert any(k == 0 < n for k, n in zip(kept, lengths, strict=True))  # nothing left: we say so
            return
        every = [wanted, *wanted.overflowing] if cutting.stride is not None else [wanted]
        assert [p.ids for p in got] == [e.ids for e in every]
        assert [p.words for p in got] == [e.word_ids for e in every]
        assert [p.types for p in got] == [e.type_ids for e in every]
        assert [p.texts for p in got] == [e.sequence_ids for e in every]
        assert [p.special for p in got] == [[bool(s) for s in e.special_tokens_mask] for e in every]
        assert [p.offsets for p in got] == [e.offsets for e in every]

    alike()


def test_a_stride_without_room_is_an_error_with_both_numbers(directory: Path) -> None:
    t = Tokenizer.from_directory(directory)
    long = "Ana flew " * 40
    room = 12 - len(t.encode(""))
    with pytest.raises(InputError, match=f"stride={room}: a window of 12 tokens has room for {room} of the text"):
        t.windows(long, cutting=Cutting(12, stride=room))
    assert len(t.windows(long, cutting=Cutting(12, stride=room - 1))) > 10
    assert len(t.windows(long, cutting=Cutting(12, stride=room + 7, shrinks=True))) > 10
    with pytest.raises(InputError, match=r"no room for the text, next to \d that frame it and \d of the other"):
        t.windows(long, "Ana flew Ana flew", cutting=Cutting(5, "only_first"))


def test_of_a_cut_vocabulary_places_stay(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model", "bert", "masked_lm")
    whole = Tokenizer.from_directory(directory)
    gone = whole.token_to_id("Ana")
    assert gone is not None
    kept = tuple(i for i in range(whole.n_vocab) if i != gone)
    with mt.load(directory, prune=mt.PrunePlan(vocab=kept, vocab_fallback="unk")) as model:
        [got], [all_] = (t.windows("Ana flew", "Ana") for t in (model.tokenizer, whole))
        assert (got.offsets, got.words, got.types, got.special) == (
            all_.offsets, all_.words, all_.types, all_.special,
        )  # fmt: skip
        assert [model.tokenizer.id_to_token(i) for i in got.ids] == [
            "[UNK]" if i == gone else whole.id_to_token(i) for i in all_.ids
        ]
