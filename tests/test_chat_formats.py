"""Rendered text is transformers': public formats, drawn conversations, functions as tools; what a template may not."""

from __future__ import annotations

import dataclasses
import enum
import json
import time
import tracemalloc
from typing import Any, Literal

import numpy as np
import pytest
from chat_formats import CONVERSATIONS, FORMATS, TOKENS, TOOLS
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError, MiaotuiError, TokenizerError
from miaotui.loader.text import chat_template
from miaotui.loader.text.chat_template import Chats
from miaotui.loader.text.template_files import ChatTemplates
from miaotui.loader.text.tool_schema import as_tool

DATE = "%d %b %Y"


class Renders(Chats):
    """A tokenizer of which only templates are asked."""

    def __init__(self, tmp_path):
        self.templates = ChatTemplates(tmp_path, None)
        self.special_tokens = TOKENS


@pytest.fixture
def ours(tmp_path):
    def render(template, messages, **how):
        return Renders(tmp_path).apply_chat_template(messages, chat_template=template, tokenize=False, **how)

    return render


def test_a_part_that_training_marks_is_there(ours):
    """`{% generation %}` says which tokens a model is trained on; the text is as it was without."""
    marked = "a {% generation %}{% for m in messages %}[{{ m.content }}]{% endfor %}{% endgeneration %} c"
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    assert ours(marked, messages) == "a [x][y] c"


def theirs(template, messages, *, continue_final_message=False, tools=None, documents=None, **how):
    """transformers' text, or the error's."""
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    chat = utils._normalize_chat_messages(messages)
    try:
        return utils.render_jinja_template(
            [chat], tools, documents, template, continue_final_message=continue_final_message, **{**TOKENS, **how}
        )[0][0]
    except Exception as e:  # noqa: BLE001 - whatever it raises, we must refuse too
        return e


EXPECTED = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n  Hi é\"<&'😀\n<|im_end|>\n"
    "<|im_start|>assistant\n Hello. <|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    "llama-2": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n  Hi é\"<&'😀 [/INST] Hello. </s><s>[INST] Bye [/INST]",
    "vicuna": "<s>Be brief. USER: Hi é\"<&'😀 ASSISTANT: Hello.</s> USER: Bye ASSISTANT:",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_formats_are_spelled_as_their_cards_say(ours, name):
    messages, how = CONVERSATIONS[2]
    assert ours(FORMATS[name], messages, **how) == EXPECTED[name]


@pytest.mark.ci  # 5 s: transformers
@pytest.mark.parametrize("name", FORMATS)
def test_text_is_transformers(ours, name):
    rendered = 0
    for messages, how in CONVERSATIONS:
        wanted = theirs(FORMATS[name], messages, **how)
        if isinstance(wanted, Exception):
            with pytest.raises(MiaotuiError):
                ours(FORMATS[name], messages, **how)
        else:
            assert ours(FORMATS[name], messages, **how) == wanted
            rendered += 1
    assert rendered > len(CONVERSATIONS) / 2


texts = st.text(max_size=12) | st.sampled_from(["<|im_end|>", "</think>", "\n\n", "{{ x }}", "é\r\n", "<s>"])
chats = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)


@pytest.mark.ci  # 5 s: transformers
@settings(deadline=None)
@given(chats, st.sampled_from(sorted(FORMATS)), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 2))
def test_text_is_transformers_of_drawn_conversations(tmp_path_factory, turns, name, system, prompt, tools, documents):
    messages = [{"role": "system", "content": "S"}] * system
    for said, answered in turns:
        messages += [{"role": "user", "content": said}, {"role": "assistant", "content": answered, "name": None}]
    messages = messages[: -1 if prompt else None]
    how: dict[str, Any] = {"add_generation_prompt": prompt, "tools": TOOLS if tools else None}
    how["documents"] = [{"title": turns[0][0], "text": turns[0][1]}] * documents or None
    wanted = theirs(FORMATS[name], messages, **how)
    chat = Renders(tmp_path_factory.getbasetemp())
    if isinstance(wanted, Exception):
        with pytest.raises(MiaotuiError):
            chat.apply_chat_template(messages, chat_template=FORMATS[name], tokenize=False, **how)
    else:
        assert chat.apply_chat_template(messages, chat_template=FORMATS[name], tokenize=False, **how) == wanted


class Unit(enum.Enum):
    C = "celsius"
    F = "fahrenheit"


def simple(city: str, days: int = 1) -> str:
    """The weather.

    Args:
        city: Where it is,
            on two lines
        days (int): How many (choices: [1, 3])

    Returns:
        What it is like

    """
    return f"{city}{days}"


def rich(
    a: int | None,
    b: list[dict[str, float]],
    c: Literal["x", 1, None],  # noqa: PYI061 - a hint that users write
    d: Unit,
    e: str | int | list[str],
    f: tuple[int, str] = (1, ""),
    g: dict | None = None,  # type: ignore[type-arg]
) -> dict[str, Any]:
    """Do much.

    More of it.

    Args:
        a: one
        b: two
        c: three
        d: four
        e: five
        f: six
        g: seven

    """
    return {str(x): x for x in (a, b, c, d, e, f, g)}


class Tools:
    def method(self, x: bool) -> None:  # noqa: FBT001 - a tool's argument
        """Do it.

        Args:
            x: whether

        """


@pytest.mark.ci  # 5 s: transformers
@pytest.mark.parametrize("tool", [simple, rich, Tools().method], ids=["simple", "rich", "method"])
def test_functions_become_schemas_as_transformers_makes_them(tool):
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    assert as_tool(tool) == utils.get_json_schema(tool)
    assert json.dumps(as_tool(tool)) == json.dumps(utils.get_json_schema(tool))


def test_functions_that_say_too_little_are_refused():
    def bare(x: int) -> int:
        return x

    def unhinted(x):
        """Do.

        Args:
            x: it

        """
        return x

    def unsaid(x: int) -> int:
        """Do."""
        return x

    def odd(x: Renders) -> None:
        """Do.

        Args:
            x: it

        """

    def choosy(x: int) -> None:
        """Do.

        Args:
            x: it (choices: [1, )

        """

    for tool, words in (
        (bare, "bare has no docstring"), (unhinted, "no type hint for the argument 'x'"),
        (unsaid, "says nothing of the argument 'x'"), (odd, "argument 'x' of type"), (choosy, "no JSON list"),
        (3, "int found"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            as_tool(tool)


def test_a_template_sees_plain_data_only(ours):
    @dataclasses.dataclass
    class Message:
        role: str
        content: object

    seen = "{{ messages[0].content }}|{{ messages[0].content is string }}|{{ x }}"
    assert ours(seen, [Message("user", "hi")], x=np.float32(0.5)) == "hi|True|0.5"
    assert ours(seen, [{"role": "user", "content": object()}], x=np.zeros(1, bool)[0]) == "<object>|True|False"
    given = [{"role": "user", "content": "hi", "name": None}]
    assert ours("{{ 'name' in messages[0] }}", given) == "False"
    assert given == [{"role": "user", "content": "hi", "name": None}]
    deep: Any = "x"
    for _ in range(300):
        deep = [deep]
    with pytest.raises(InputError, match="nested more than 200 deep"):
        ours("", [{"role": "user", "content": deep}])


def test_the_date_is_told_by_whom_is_asked(ours):
    hi = [{"role": "user", "content": "hi"}]
    assert ours("{{ strftime_now('%Y') }}", hi, strftime_now=lambda form: f"<{form}>") == "<%Y>"
    assert ours("{% macro d() %}{{ strftime_now('%Y') }}{% endmacro %}{{ d() }}", hi) == time.strftime("%Y")
    with pytest.raises(InputError, match=r"^strftime_now='1999': expected a function of a form such as"):
        ours("{{ strftime_now('%Y') }}", hi, strftime_now="1999")


BAD = [
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{{ i }}{% endfor %}{% endfor %}",
    "{% for i in range(99999) if range(99999) | select('odd') | list | length == 1 %}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(99) }}",
    "{{ 'a' * 10**10 }}", "{{ 10**10 * [0] }}", "{{ 2**10000000 }}", "{{ [[1] * 100000] * 100000 }}",
    "{% set n = namespace(s='aaaa') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "{% set n = namespace(s='aaaa') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s == n.s }}",
    "{% set n = namespace(s=(1,)) %}{% for i in range(99) %}{% set n.s = (n.s, n.s) %}{% endfor %}{{ {n.s: 1} }}",
    "{% set n = namespace(s={}) %}{% for i in range(99) %}{% set n.s = {1: n.s, 2: n.s} %}{% endfor %}{{ n.s }}",
    "{{ '%1000000000d' % 3 }}", "{{ '%*d' % (1000000000, 3) }}", "{{ '%1000000000d' | format(3) }}",
    "{{ '{:>1000000000}'.format(3) }}", "{{ '{:>{}}'.format(3, 1000000000) }}",
    "{{ 'x' | center(10**9) }}", "{{ 'x'.rjust(10**9) }}", "{{ 'x'.zfill(width=10**9) }}",
    "{{ ('\t' * 99999).expandtabs(99999) }}", "{{ 'x' | indent(10**9, true) }}",
    "{{ ('\n' * 99999) | indent('y' * 99999) }}", "{{ [1] | batch(10**9, 2) | list }}",
    "{{ ('a' * 999999) | replace('a', 'b' * 999999) }}", "{{ ('a' * 999999).replace('a', 'b' * 999999) }}",
    "{{ ('a' * 99999).join(('a' * 99999) | list) }}", "{{ range(99999) | map('string') | join('a' * 99999) }}",
    "{{ ('a' * 99999).translate({97: 'b' * 99999}) }}", "{{ ('{}' * 99999).format(*([('a' * 99999)] * 9)) }}",
    "{{ strftime_now('%1000000000d') }}", "{{ messages | tojson(indent=10**9) }}",
    "{% set x %}{% for i in range(99999) %}{{ 'a' * 99999 }}{% endfor %}{% endset %}",
    "{{ ''.__class__ }}", "{{ ''['__class__'] }}", "{{ '' | attr('__class__') }}", "{{ messages.append(1) }}",
    "{{ messages | map(attribute='__class__') | list }}", "{{ cycler.__init__.__globals__ }}", "{{ namespace(_x=1) }}",
    "{{ '{0.__class__}'.format(1) }}", "{{ dict.__call__ }}", "{% for m in messages %}", "{{ 1 +", "{% nothing %}",
    "{{ 'x' | nothing }}", "x" * (2**20 + 1) + "{",
]  # fmt: skip


@pytest.mark.parametrize("template", BAD, ids=[bad[:60] for bad in BAD])
def test_what_no_template_may_do(ours, template, monkeypatch):
    """Refused in time; a test that hangs, or takes the machine's memory, fails by itself."""
    monkeypatch.setattr(chat_template, "SECONDS", 0.1)
    began = time.thread_time()
    with pytest.raises(TokenizerError):
        ours(template, [{"role": "user", "content": "hi"}])
    assert time.thread_time() - began < 5


def test_a_word_is_not_wrapped_a_letter_at_a_time(ours):
    """What is left of a word is copied for every line: two seconds for half a million letters."""
    began = time.thread_time()
    with pytest.raises(TokenizerError, match="characters on its way"):
        ours("{{ ('a' * 400000) | wordwrap(1) }}", [{"role": "user", "content": "hi"}])
    assert time.thread_time() - began < 0.5
    assert ours("{{ ('a' * 9) | wordwrap(4) }} {{ ('word ' * 9000) | wordwrap }}", [{"role": "user", "content": "hi"}])


@pytest.mark.parametrize("how", ["| replace('a', 'b' * 9000)", ".replace('a', 'b' * 9000)"])
def test_a_text_that_would_be_too_large_is_not_made(ours, how):
    """Of 81 MB, which there is room for: only a look before it is made refuses it."""
    ours("{{ ('a' * 9) " + how + " }}", [{"role": "user", "content": "hi"}])  # what is loaded once
    tracemalloc.start()
    try:
        with pytest.raises(TokenizerError, match="characters"):
            ours("{{ ('a' * 9000) " + how + " }}", [{"role": "user", "content": "hi"}])
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_nor_one_that_stands_between_the_letters_of_another(ours):
    tracemalloc.start()
    try:
        with pytest.raises(TokenizerError, match="characters"):
            ours("{{ ('b' * 9000).join('a' * 9000) }}", [{"role": "user", "content": "hi"}])
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_long_conversations_are_no_abuse(ours):
    """A megabyte of messages; a template that joins them one by one."""
    messages = [{"role": "user" if i % 2 == 0 else "assistant", "content": "word " * 400} for i in range(500)]
    joins = "{% set n = namespace(s='') %}{% for m in messages %}{% set n.s = n.s ~ m.content %}{% endfor %}{{ n.s }}"
    assert len(ours(joins, messages)) == 500 * 2000
    assert ours(FORMATS["qwen"], messages, tools=TOOLS).count("<|im_end|>") == 501
