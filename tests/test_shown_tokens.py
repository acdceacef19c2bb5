"""`show_tokens`: special tokens that an answer's text shows; without it a text has none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import miaotui
import pytest
from miaotui.errors import InputError
from miaotui.tools import demo

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def model() -> Iterator[miaotui.Model]:
    with miaotui.load(demo.path(), max_context=64) as made:
        yield made


def forced(model: miaotui.Model, special: int) -> dict[str, Any]:
    """An answer of five ids, of which the second and the last are this special token."""
    n = len(model.tokenizer.encode("One day"))
    return {"forced_decoder_ids": [(n + 1, special), (n + 4, special)], "max_new_tokens": 5, "ignore_eos": True}


def test_special_tokens_are_shown_where_they_were_drawn(model: miaotui.Model) -> None:
    special = model.tokenizer.special_ids[0]
    spelled = model.tokenizer.id_to_token(special)
    assert spelled
    parameters = forced(model, special)
    plain = model.generate("One day", **parameters)
    for token in (special, spelled):
        shown = model.generate("One day", show_tokens=[token], **parameters)
        assert shown.ids == plain.ids
        assert shown.text.replace(spelled, "") == plain.text
        assert shown.text.count(spelled) == 2
        assert shown.text.endswith(spelled)
        pieces = [t.text for t in model.tokens("One day", show_tokens=[token], **parameters)]
        assert "".join(pieces) == shown.text
    assert spelled not in plain.text
    if len(model.tokenizer.special_ids) > 1:
        assert model.generate("One day", show_tokens=[model.tokenizer.special_ids[1]], **parameters).text == plain.text


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("<s>", "show_tokens='<s>': expected a list of token ids, or of special tokens as they are spelled"),
        (7, "show_tokens=7: expected a list of token ids"),
        (["<no such>"], r"show_tokens\[0\]='<no such>': the tokenizer has no such token"),
        ([10**9], r"show_tokens\[0\]=1000000000: expected a whole number from 0 to"),
        ([0, True], r"show_tokens\[1\]=True: expected a whole number"),
    ],
)
def test_what_is_no_token_is_refused(model: miaotui.Model, given: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        model.generate("One day", show_tokens=given, max_new_tokens=1)
