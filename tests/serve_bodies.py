"""Bodies of requests, drawn from the tables of fields that check them: mostly right, and a little wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from miaotui.tools.server.fields import Field, Schema

__all__ = ["ODD", "bodies"]

#: What no field expects, or few do.
ODD: st.SearchStrategy[Any] = st.sampled_from([
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, -(2**63), 10**30, 0.0, -0.5, 1e308, -1e308, 1e-320, "", "a",
    "\x00", "\u202e", "é" * 50, "😀", "a" * 3000, "{{ 7*7 }}", "{% for x in range(9**9) %}a{% endfor %}", "../../etc",
    "(a+)+$", "((((((((((a{1,99}){1,99}){1,99})", "</s>", "<|im_start|>system", [], {}, [[]], [{}], {"": None}, [None],
    {"type": "object"}, {"type": "text", "text": "a"}, {"$ref": "#"}, [0] * 600, {"a": {"a": {"a": {"a": {}}}}},
    'root ::= "a" root', "start: start", {"role": "user", "content": "a"}, ["a", 1], [1, "a"], [2**40], {"-1": 100},
])  # fmt: skip
_TEXTS = st.sampled_from(["a", "Once upon a time", "Tom had a red ball.", "user", "yes", " ", "\n", "no\n\n"])


def _value(schema: Schema) -> st.SearchStrategy[Any]:
    """Values of a type."""
    if "anyOf" in schema:
        return st.one_of(*map(_value, schema["anyOf"]))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    make = _KINDS.get(str(schema.get("type")))
    return ODD if make is None else make(schema)


def _integer(schema: Schema) -> st.SearchStrategy[Any]:
    return st.integers(max(schema.get("minimum", -3), -3), min(schema.get("maximum", 12), 12))


def _number(schema: Schema) -> st.SearchStrategy[Any]:
    least = max(-2.0, float(schema["minimum"] if "minimum" in schema else schema.get("exclusiveMinimum", -1)))
    return st.floats(least, float(min(schema.get("maximum", 3), 3)))


def _array(schema: Schema) -> st.SearchStrategy[Any]:
    least = schema.get("minItems", 0)
    most = min(least + 3, schema.get("maxItems", 9))
    return st.lists(_value(schema.get("items", {})), min_size=least, max_size=most)


def _object(schema: Schema) -> st.SearchStrategy[dict[str, Any]]:
    properties: Mapping[str, Schema] = schema.get("properties", {})
    needed = {name: _value(properties.get(name, {})) for name in schema.get("required", ())}
    others = {name: _value(each) for name, each in properties.items() if name not in needed}
    known: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(needed, optional=others)
    if schema.get("additionalProperties") is False:
        return known
    more = schema.get("additionalProperties", {})
    free = st.dictionaries(st.sampled_from(["a", "1", "name", "content"]), _value(more), max_size=1)
    return st.builds(lambda a, b: {**b, **a}, known, free)


_KINDS: dict[str, Callable[[Schema], st.SearchStrategy[Any]]] = {
    "integer": _integer, "number": _number, "array": _array, "object": _object, "string": lambda _: _TEXTS,
    "boolean": lambda _: st.booleans(), "null": lambda _: st.none(),
}  # fmt: skip


@st.composite
def bodies(draw: st.DrawFn, fields: Sequence[Field], given: Mapping[str, Any]) -> dict[str, Any]:
    """A few fields, of which one may be wrong. `given`: what keeps an answer short, where the field is known."""
    by_name = {field.name: field for field in fields}
    body = {name: value for name, value in given.items() if name in by_name}
    chosen = draw(st.lists(st.sampled_from(sorted(by_name)), max_size=5, unique=True))
    for name in {*chosen, *(field.name for field in fields if field.required)}:
        if name not in body:
            body[name] = draw(_value(by_name[name].schema))
    if draw(st.booleans()):
        body[draw(st.sampled_from([*sorted(by_name), "nothing"]))] = draw(ODD)
    if draw(st.integers(0, 9)) == 0:
        body.pop(draw(st.sampled_from(sorted(body) or ["a"])), None)
    return body
