"""The chat model that comes along: it is what `chat` and conversations use where no model is named."""

from __future__ import annotations

import io
import itertools
import re
import sys
from pathlib import Path

import miaotui
import pytest
from helpers import complaint
from miaotui.errors import InputError
from miaotui.tools import cli, demo
from miaotui.tools.conversation import Conversation
from miaotui.tools.demo.recipes import chat, talks
from tokenizers import Tokenizer

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "chat.md").read_text(encoding="utf-8")
#: The page's conversation: message -> answer, by turns.
TALK = dict(re.findall(r"^> (.*)\n(.*)\n", PAGE.split("\nmiaotui chat\n")[1].split("```")[0], re.MULTILINE))


@pytest.fixture(scope="module")
def model():
    with miaotui.load(demo.path("chat")) as m:
        yield m


def test_its_template_renders_what_it_was_trained_on(model):
    tokenizer = Tokenizer.from_file(str(demo.path("chat") / "tokenizer.json"))
    for turns in itertools.islice(talks.conversations(5), 200):
        messages = [
            {"role": role, "content": text}
            for turn in turns
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        ids, labels = chat.learnt(tokenizer, turns)
        assert model.tokenizer.apply_chat_template(messages) == ids
        asked = model.tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True)
        assert ids[: len(asked)] == asked
        assert labels[len(asked) - 1] == chat.UNLEARNT
        assert labels[len(asked) :] == ids[len(asked) :]


def test_it_answers_as_its_page_says_and_reads_each_token_once(model):
    assert len(TALK) >= 4
    talk, fed = Conversation(model), []
    for said, answer in TALK.items():
        assert "".join(t.text for t in talk.reply(said)).strip() == answer
        fed.append(talk.fed)
    assert max(fed[1:]) < 40 < fed[0]
    assert model.chat([{"role": "user", "content": next(iter(TALK))}]).finish_reason == "eos"


def test_other_roles_are_refused_by_name(model):
    with pytest.raises(InputError, match="this model knows the roles user and assistant, not system"):
        model.chat([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}])


def test_chat_without_a_model_talks_with_it(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(TALK).encode())))
    assert cli.main(["chat"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == list(TALK.values())
    assert (
        complaint(err)
        == "note: no --model is given; chat uses the included model 'chat', which answers questions about a paragraph\n"
    )


def test_text_generation_without_a_model_answers_and_tells_stories(capsys):
    with miaotui.pipeline("text-generation", do_sample=False, return_full_text=False) as write:
        said, answer = next(iter(TALK.items()))
        [made] = write([{"role": "user", "content": said}])
        assert made["generated_text"].strip() == answer
        [story] = write("Once upon a time")
    assert " named " in story["generated_text"]
    assert len(story["generated_text"].split()) > 60
    assert "no model is given; text-generation uses the included model 'chat'" in capsys.readouterr().err
