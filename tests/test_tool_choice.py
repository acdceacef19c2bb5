"""`tool_choice` and `strict`: what a grammar lets come is a call, which the format's parser reads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import miaotui
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.errors import InputError
from miaotui.tools import demo
from miaotui.tools.server.tool_calls import FORMATS, MISTRAL, Call, Parser
from miaotui.tools.server.tool_calls.choice import Function, Held, forced, guarded

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("llguidance", reason="llguidance is not installed: pip install 'miaotui[grammar]'")

WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
FUNCTIONS = [Function("weather", WEATHER, strict=True), Function("get_time")]
READ = [form for form in FORMATS.values() if form.openers]


@pytest.fixture(scope="module")
def model() -> Iterator[miaotui.Model]:
    with miaotui.load(demo.path(), max_context=256) as made:
        yield made


def allows(model: miaotui.Model, held: Held, text: str) -> bool:
    """Whether an answer may be this text."""
    walk = model.constraint(grammar=held.grammar).begin([1], model.config.n_vocab)
    for token in model.tokenizer.encode(text, add_special_tokens=False):
        mask, _ = walk.fill()
        if not int(mask[token >> 5]) >> (token & 31) & 1:
            return False
        walk.advance(token)
    return walk.fill()[1]


def calls(held: Held, text: str) -> list[tuple[str, Any]]:
    parser = Parser(held.form, {each.name: each.parameters for each in FUNCTIONS})
    deltas = parser.feed(held.begins) + parser.feed(text) + parser.end()
    assert all(isinstance(delta, Call) for delta in deltas), deltas
    return [(d.name, json.loads(d.arguments)) for d in deltas if isinstance(d, Call)]


@pytest.mark.parametrize("form", READ, ids=lambda form: form.name)
@settings(max_examples=3)
@given(seed=st.integers(0, 2**32))
def test_an_answer_that_must_be_a_call_is_one(model: miaotui.Model, form: Any, seed: int) -> None:
    """Even of a model that tells tales."""
    held = forced(form, FUNCTIONS[:1], several=False, template="[ARGS]" * (seed % 2))
    text = model.generate(
        "One day", grammar=model.constraint(grammar=held.grammar), max_new_tokens=120, temperature=1.5, seed=seed
    ).text
    [(name, arguments)] = calls(held, text)
    assert name == "weather"
    assert set(arguments) == {"city", "days"}
    assert arguments["city"] in {"Rome", "Oslo"}


def test_one_of_several_functions_or_several_calls(model: miaotui.Model) -> None:
    one = '{"name": "weather", "arguments": {"city": "Rome", "days": 3}}\n</tool_call>'
    other = '{"name": "get_time", "arguments": {"zone": [1]}}\n</tool_call>'
    two = f"{one}\n<tool_call>\n{other}"
    alone, many = (forced(FORMATS["qwen3_coder"], FUNCTIONS, several=several) for several in (False, True))
    assert calls(alone, one) == [("weather", {"city": "Rome", "days": 3})]
    assert [name for name, _ in calls(many, two)] == ["weather", "get_time"]
    assert allows(model, alone, one)
    assert allows(model, alone, other)
    assert not allows(model, alone, two)
    assert allows(model, many, two)
    for wrong in (one.replace("Rome", "Bonn"), one.replace("weather", "whether"), one[:-1], "Hello"):
        assert not allows(model, many, wrong)
    listed = forced(MISTRAL, FUNCTIONS, several=True)
    text = '{"name": "get_time", "arguments": {}}, {"name": "weather", "arguments": {"city": "Oslo", "days": 1}}]'
    assert allows(model, listed, text)
    assert [name for name, _ in calls(listed, text)] == ["get_time", "weather"]


def test_strict_functions_leave_texts_alone(model: miaotui.Model) -> None:
    held = guarded(FORMATS["hermes"], FUNCTIONS, several=True)
    assert held is not None
    assert not held.begins
    good = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": 3}}\n</tool_call>'
    free = '<tool_call>\n{"name": "get_time", "arguments": {"any": 1}}\n</tool_call>'
    for text in ("", "Once <tool", f"So:\n{good}", f"{good}\n{free}\nthere"):
        assert allows(model, held, text)
    assert not allows(model, held, f"So: {good.replace('3', '30')}")
    assert not allows(model, held, "So: <tool_call>{}")
    once = guarded(FORMATS["hermes"], FUNCTIONS, several=False)
    assert once is not None
    assert allows(model, once, f"So:\n{good}")
    assert not allows(model, once, f"{good}\n{free}")

    bare = guarded(FORMATS["llama3_json"], FUNCTIONS, several=False)
    assert bare is not None
    for text in ("", "Hello {there}", '{"name": "get_time", "parameters": {}}'):
        assert allows(model, bare, text)
    assert not allows(model, bare, '{"name": "weather", "parameters": {}}')
    assert guarded(FORMATS["hermes"], FUNCTIONS[1:], several=True) is None


def test_what_cannot_be_held_to_is_refused() -> None:
    with pytest.raises(InputError, match=r"weather: strict: calls of this model begin with a special token"):
        guarded(MISTRAL, FUNCTIONS, several=True)
    bad = Function("f", {"type": "object", "properties": {"a": {"not": {}}}}, strict=True)
    with pytest.raises(InputError, match=r"f: parameters: .*#/properties/a"):
        forced(FORMATS["hermes"], [FUNCTIONS[0], bad], several=False)
