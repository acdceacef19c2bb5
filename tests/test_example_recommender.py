"""The recommender of docs/examples: it runs by one command, and beats what sells best."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers import complaint
from task_models import write_model

if TYPE_CHECKING:
    from types import ModuleType

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "examples" / "recommender"


@pytest.fixture
def recommender(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("recommender", FOLDER / "recommender.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_text_beats_sales_and_both_beat_text(recommender: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert recommender.main([]) == 0
    out = capsys.readouterr().out
    scores = dict(re.findall(r"^([a-z ]+?) +(0\.\d{3}) ", out, re.MULTILINE))
    assert list(scores) == ["most sold", "text", "text and sales"]
    sold, text, both = map(float, scores.values())
    assert 1.2 * sold < text < both
    assert len(re.findall(r"^[* ] \S", out.partition("recommended")[2], re.MULTILINE)) == recommender.K


def test_precision_is_the_share_that_is_bought_next(recommender: Any) -> None:
    people = [recommender.shop.Customer([0], [1, 2]), recommender.shop.Customer([1], [4])]
    assert recommender.precision(lambda history: [1, 3] if history == [0] else [4, 2], people, 2) == 0.5


def test_the_shop_is_the_same_each_time_and_nothing_is_bought_twice(recommender: Any) -> None:
    books = recommender.shop.titles()
    assert books == recommender.shop.titles()
    assert len({title for title, _ in books}) == len(books) == 240
    people = recommender.shop.customers(books, 20, 1)
    assert people == recommender.shop.customers(books, 20, 1)
    assert people != recommender.shop.customers(books, 20, 2)
    for person in people:
        assert len({*person.before, *person.after}) == recommender.shop.BEFORE + recommender.shop.NEXT


def test_it_takes_another_encoder_and_says_what_is_wrong(
    recommender: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recommender.main(["--model", str(write_model(tmp_path / "bert", "bert")), "--customer", "3"]) == 0
    assert "precision@8 of 300 customers" in capsys.readouterr().out
    assert recommender.main(["--model", str(tmp_path / "none")]) == 1
    assert complaint(capsys.readouterr().err).startswith("recommender: ")
    with pytest.raises(SystemExit):
        recommender.main(["--customer", "300"])
