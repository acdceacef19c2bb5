"""Calls in answers: however a text is cut, nothing of it is lost, and what is no call stays content."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from miaotui.errors import InputError
from miaotui.tools.server.tool_calls import (
    FORMATS,
    HERMES,
    LLAMA3_JSON,
    MISTRAL,
    PLAIN,
    PYTHONIC,
    QWEN3_CODER,
    Call,
    Content,
    Delta,
    Format,
    Parser,
    Reasoning,
    format_named,
    format_of,
    thinks_at_end,
)

TOOLS: dict[str, dict[str, Any]] = {
    "f": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}, "c": {}}},
    "get_time": {},
}
#: What formats write, and what breaks it.
PARTS = (
    "<tool_call>", "</tool_call>", "<function=f>", "<function=", "</function>", "<parameter=a>", "</parameter>",
    "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]1x", "<|python_tag|>", "<|python_start|>", "<|python_end|>", "<think>",
    "</think>", "[THINK]", "[/THINK]", '{"name": "f", "arguments": {"a": 1}}',
    '{"name": "f", "parameters": {"b": "<"}}', "[f(a=1, b='x')]", "f(", "{", "}", "[", "]",
    '"', "'", "\\", "\n", " ", ";", ",", ":", "f", "1", "é", '"name"',
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(PARTS), max_size=12).map("".join)
FORMS = st.sampled_from(sorted(FORMATS)).map(FORMATS.get)


def parse(form: Format, *pieces: str, cut: bool = False, thinks: str | None = None) -> list[Delta]:
    """Deltas of the pieces, neighbours of a kind joined."""
    parser = Parser(form, TOOLS, "key", thinks=thinks)
    deltas = [delta for piece in pieces for delta in parser.feed(piece)] + parser.end(cut=cut)
    joined: list[Delta] = []
    for delta in deltas:
        last = joined[-1] if joined else None
        if isinstance(delta, Content) and isinstance(last, Content):
            joined[-1] = Content(last.text + delta.text)
        elif isinstance(delta, Reasoning) and isinstance(last, Reasoning):
            joined[-1] = Reasoning(last.text + delta.text)
        else:
            joined.append(delta)
    return joined


def pieces(text: str, at: list[int]) -> list[str]:
    """The text, cut at these places."""
    places = sorted({0, len(text), *(i % (len(text) + 1) for i in at)})
    return [text[a:b] for a, b in pairwise(places)]


@given(FORMS, TEXTS, st.lists(st.integers(0, 200)), st.booleans(), st.sampled_from([None, "<think>"]))
def test_any_cutting_gives_the_same(form: Format, text: str, at: list[int], cut: bool, thinks: str | None) -> None:  # noqa: FBT001 - drawn
    whole = parse(form, text, cut=cut, thinks=thinks)
    assert parse(form, *pieces(text, at), cut=cut, thinks=thinks) == whole
    assert parse(form, *text, cut=cut, thinks=thinks) == whole


@given(FORMS, TEXTS)
def test_an_answer_without_calls_is_what_was_written(form: Format, text: str) -> None:
    made = parse(form, text)
    if not any(isinstance(delta, Call | Reasoning) for delta in made) and not text.lstrip().startswith(("<th", "[TH")):
        assert made == ([Content(text)] if text else [])


@given(FORMS, TEXTS, st.booleans())
def test_every_call_has_a_name_an_object_and_the_next_number(form: Format, text: str, cut: bool) -> None:  # noqa: FBT001 - drawn
    calls = [delta for delta in parse(form, text, cut=cut) if isinstance(delta, Call)]
    assert [call.index for call in calls] == [*range(len(calls))]
    assert len({call.id for call in calls}) == len(calls)
    for call in calls:
        assert call.name.encode()
        assert isinstance(json.loads(call.arguments), dict)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10**20) | st.sampled_from([0.5, -1e-5, 1e21]) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=3)
CALLS = st.lists(st.tuples(st.sampled_from(sorted(TOOLS)), OBJECTS), min_size=1, max_size=3)
WAYS = {
    "hermes": lambda name, args: f'<tool_call>\n{{"name": "{name}", "arguments": {args}}}\n</tool_call>\n',
    "mistral": lambda name, args: f"[TOOL_CALLS]{name}[ARGS]{args}",
    "llama3_json": lambda name, args: f'{{"name": "{name}", "parameters": {args}}}; ',
}


@given(st.sampled_from(sorted(WAYS)), CALLS, st.booleans())
def test_arguments_come_back_to_the_letter(way: str, calls: list[tuple[str, Any]], ascii_only: bool) -> None:  # noqa: FBT001 - drawn
    texts = [(name, json.dumps(value, ensure_ascii=ascii_only)) for name, value in calls]
    written = "".join(WAYS[way](name, text) for name, text in texts)
    made = parse(FORMATS[way], *written)
    assert [(d.name, d.arguments) for d in made if isinstance(d, Call)] == texts
    assert not any(isinstance(d, Content) and d.text.strip(" ;") for d in made)


@given(st.dictionaries(st.sampled_from("abc"), st.text(st.characters(codec="ascii"), max_size=20), max_size=3))
def test_plain_values_come_back_as_texts(values: dict[str, str]) -> None:
    strings = {"s": {"properties": {key: {"type": "string"} for key in values}}}
    body = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    parser = Parser(QWEN3_CODER, strings)
    deltas = parser.feed(f"<tool_call>\n<function=s>\n{body}</function>\n</tool_call>") + parser.end()
    assert [json.loads(d.arguments) for d in deltas if isinstance(d, Call)] == [values]


def said(deltas: list[Delta]) -> list[Any]:
    return [(d.name, d.arguments) if isinstance(d, Call) else d.text for d in deltas]


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        (HERMES, 'Hi.\n<tool_call>{"name": "f"}</tool_call>\n', ["Hi.", ("f", "{}")]),
        (HERMES, '<tool_call>{"name": "f", "arguments": {}}\n{"name": "g", "arguments": {}}</tool_call>!',
         [("f", "{}"), ("g", "{}"), "!"]),
        (HERMES, '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}', [("f", '{"a": 1}')]),
        (HERMES, '<tool_call>{"name": "f", "arguments": {"a": "x\ny"}}', [("f", '{"a": "x\\ny"}')]),
        (HERMES, '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>', None),
        (HERMES, '<tool_call>{"name": "f", "arguments": {"a": [-1e999]}}</tool_call>', None),
        (HERMES, '<tool_call>{"name": "f", "arguments": {"a": 1, "a": 2}}</tool_call>', None),
        (HERMES, '<tool_call>{"name": 7, "arguments": {}}</tool_call>', None),
        (HERMES, '<tool_call>{"name": "f", "arguments": [1]}</tool_call>', None),
        (HERMES, '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call><tool_call>{"name": "g"}</tool_call>',
         ['<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>', ("g", "{}")]),
        (HERMES, "a <tool", None),
        (LLAMA3_JSON, '{"name": "f", "parameters": {}}; {"name": "get_time", "parameters": {}}',
         [("f", "{}"), ("get_time", "{}")]),
        (LLAMA3_JSON, '{"name": "Ada", "parameters": {}}', None),
        (LLAMA3_JSON, 'So: {"name": "f", "parameters": {}}', None),
        (MISTRAL, '[TOOL_CALLS]f{"a": 1}', [("f", '{"a": 1}')]),
        (MISTRAL, '[TOOL_CALLS] [{"name": "f", "arguments": {}}, oops', [("f", "{}"), ", oops"]),
        (PYTHONIC, "[f(a=-1, b=None), get_time()]", [("f", '{"a": -1, "b": null}'), ("get_time", "{}")]),
        (PYTHONIC, "[f(a=__import__('os'))]", None),
        (PYTHONIC, "[g(a=1)]", None),
        (PYTHONIC, "[a link](https://example.org)", None),
        (QWEN3_CODER, "<function=f><parameter=a>7</parameter></function>", [("f", '{"a": 7}')]),
        (QWEN3_CODER, "<function=g><parameter=a>7</parameter></function>", None),
        (QWEN3_CODER, "<tool_call><function=f><parameter=c>[1, 'x']</parameter><parameter=z>1</parameter></function>",
         [("f", '{"c": [1, "x"], "z": "1"}')]),
        (QWEN3_CODER, "<tool_call><function=f><parameter=a>7</tool_call>", None),
        (PLAIN, "<think>\nhm\n</think>\n\n<tool_call>{}", ["hm", "<tool_call>{}"]),
    ],
)  # fmt: skip
def test_what_is_read(form: Format, text: str, expected: list[Any] | None) -> None:
    """None: it is content, to the letter."""
    assert said(parse(form, text)) == ([text] if expected is None else expected)


def test_what_a_limit_cut_off_is_no_call_and_no_content() -> None:
    text = '<tool_call>{"name": "f", "arguments": {}}</tool_call>\n<tool_call>{"name": "f", "arguments": {"b": "rm'
    assert said(parse(HERMES, text, cut=True)) == [("f", "{}")]
    assert said(parse(HERMES, text)) == [("f", "{}"), '\n<tool_call>{"name": "f", "arguments": {"b": "rm']


def test_content_comes_as_soon_as_it_is_certain() -> None:
    parser = Parser(HERMES, TOOLS)
    assert parser.feed("Let me see.") == [Content("Let me see.")]
    assert parser.feed("\n<tool") == []
    assert parser.feed("box> ") == [Content("\n<toolbox>")]
    assert parser.feed('<tool_call>{"name": "f", "arguments": {"a"') == []
    assert [type(d) for d in parser.feed(": 1}}")] == [Call]


def test_ids_depend_on_the_key_and_the_number_alone() -> None:
    def ids(form: Format, text: str, key: str) -> list[str]:
        parser = Parser(form, TOOLS, key)
        return [d.id for d in (*parser.feed(text), *parser.end()) if isinstance(d, Call)]

    two = '<tool_call>{"name": "f"}</tool_call>' * 2
    assert ids(HERMES, two, "7") == ids(HERMES, "Hello " + two, "7") != ids(HERMES, two, "8")
    (short,) = ids(MISTRAL, "[TOOL_CALLS]f[ARGS]{}", "7")
    assert len(short) == 9
    assert short.isalnum()


@pytest.mark.parametrize("unit", ["<tool_call>", '<tool_call>{"', "{[", "[TOOL_CALLS][", "<function=f>", "[f(", "\\"])
@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
def test_work_grows_with_the_text(form: Format, unit: str) -> None:
    """Characters that the reading takes a second time are few, whatever a model writes."""
    text = unit * 2000
    parser = Parser(form, TOOLS)
    steps = 0
    has = parser.reading.has

    def counted(n: int) -> Any:
        nonlocal steps
        steps += 1
        return has(n)

    parser.reading.has = counted  # type: ignore[method-assign]
    deltas = parser.feed(text) + parser.end()
    assert "".join(d.text for d in deltas if isinstance(d, Content)) == text
    assert steps < 20 * len(text) + 100


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{% for t in tools %}<tool_call>{% endfor %}", "hermes"),
        ("<tool_call>\n<function={{ name }}>", "qwen3_coder"),
        ("{{ '[TOOL_CALLS] [' }}", "mistral"),
        ("{{ '<|python_tag|>' }}", "llama3_json"),
        ("<|python_start|>", "pythonic"),
        ("{{ messages }}", "none"),
        (None, "none"),
    ],
)
def test_a_template_tells_the_format(template: str | None, name: str) -> None:
    assert format_of(template).name == name
    assert format_named(name).name == name


def test_an_unknown_format_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InputError, match="tool_call_format='xml': expected one of hermes, "):
        format_named("xml")


def test_a_prompt_that_ends_in_reasoning() -> None:
    assert thinks_at_end(HERMES, "<|im_start|>assistant\n<think>\n") == "<think>"
    assert thinks_at_end(HERMES, "<think>\n\n</think>\n\n") is None
    assert said(parse(HERMES, 'so\n</think>\n\nyes<tool_call>{"name": "f"}', thinks="<think>")) == [
        "so", "yes", ("f", "{}"),
    ]  # fmt: skip


def test_the_python_of_the_page_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "tools.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    [printed] = re.findall(r"^```text\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    exec(compile(code, "docs/tools.md", "exec"), {})  # noqa: S102 - it is our own page
    assert capsys.readouterr().out == printed
    assert re.findall(r"^\| `(\w+)`", text, re.MULTILINE) == [form.name for form in FORMATS.values()]
