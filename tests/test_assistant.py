"""The assistant of docs/examples: it answers what its list has, and passes on the rest."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path

import miaotui
import pytest
from miaotui.errors import InputError
from miaotui.tools import demo

FILE = Path(__file__).resolve().parent.parent / "docs" / "examples" / "assistant" / "assistant.py"
PARCEL = ("Where is my parcel?", "On its way, in a red van.")


@pytest.fixture(scope="module")
def app():
    spec = importlib.util.spec_from_file_location("assistant", FILE)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look there
        spec.loader.exec_module(module)
        yield module


def test_it_answers_what_it_knows_and_passes_on_the_rest(app, capsys):
    assert app.main([]) == 0
    *said, report = capsys.readouterr().out.split("\n\n")
    assert len(said) == len(app.ASKED)
    passed = [question for question, text in zip(app.ASKED, said, strict=True) if "colleague" in text]
    assert passed == list(app.ASKED[-2:])
    listed = ("My order is late. What can I do?", "How do I return an item?", "Do you ship to other countries?")
    assert all(entry in text for entry, text in zip(listed, said, strict=False))
    n, right, wrong, on, told, strange = map(int, re.findall(r"\d+", report))
    assert right + wrong + on == n == told
    assert right > 3 * wrong
    assert strange > 0.8 * told


def test_another_list_and_threshold(app, tmp_path, capsys):
    file = tmp_path / "faq.json"
    file.write_text(json.dumps([dict(zip(("question", "answer"), PARCEL, strict=True))]))
    assert app.main(["Where is my parcel?", "--faq", str(file)]) == 0
    assert capsys.readouterr().out == f"> {PARCEL[0]}\n  ██████████ 1.00  {PARCEL[0]}\n  {PARCEL[1]}\n\n"
    assert app.main(["Is this shop open?", "--faq", str(file), "--threshold", "1.1"]) == 0
    assert "colleague" in capsys.readouterr().out


@pytest.mark.parametrize(("score", "words"), [(0.99, "a red van"), (0.9, "")])
def test_a_reader_marks_the_words_that_matter_if_it_is_sure(app, score, words):
    def reader(*, question, context):
        assert (question, context) == PARCEL
        return {"answer": "a red van", "score": score}

    with miaotui.load(demo.path("encoder")) as encoder:
        [reply] = app.Assistant(encoder, [PARCEL], reader=reader).replies([PARCEL[0]])
    assert (reply.answer, reply.words) == (PARCEL[1], words)
    assert ("! a red van" in app.shown(PARCEL[0], reply)) == bool(words)


def test_the_included_reader_marks_figures_as_its_page_says(app, capsys):
    page = (FILE.parent / "README.md").read_text(encoding="utf-8")
    [(command, shown)] = re.findall(
        r"```sh\n(python \S+assistant\.py --reader .*)\n```\n\n```text\n(.*?)```", page, re.DOTALL
    )
    assert app.main(shlex.split(command)[2:]) == 0
    assert capsys.readouterr().out == shown
    assert app.main(["--reader", "answers", "How do I cancel my order?", "What does shipping cost?"]) == 0
    cancel, cost = capsys.readouterr().out.split("\n\n")[:2]
    assert "!" not in cancel
    assert "Shipping costs 4.90 euros" in cost


@pytest.mark.parametrize("text", ["", "[]", "{}", '[{"question": "a"}]', '[{"question": 1, "answer": "a"}]', "[7]"])
def test_a_list_that_is_none_is_refused(app, tmp_path, text, capsys):
    file = tmp_path / "faq.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"--faq .*faq\.json: .*expected"):
        app.read_faq(file)
    assert app.main(["Where?", "--faq", str(file)]) == 1
    assert "assistant: --faq" in capsys.readouterr().err
