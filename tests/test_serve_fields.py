"""The table of fields says what JSON Schema says: laws, with jsonschema as the judge."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from miaotui.tools.server.errors import RequestError
from miaotui.tools.server.fields import Field, array, expected, read, read_fields
from miaotui.tools.server.parsing import parse_json

jsonschema = pytest.importorskip("jsonschema")

WHOLE = st.integers(-9, 9)
LEAVES = st.one_of(
    st.builds(lambda a, b: {"type": "integer", "minimum": min(a, b), "maximum": max(a, b)}, WHOLE, WHOLE),
    st.builds(lambda a: {"type": "number", "exclusiveMinimum": a}, WHOLE),
    st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 4)),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"enum": ["a", "b"]}, {"enum": [False]}, {}]),
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inside: st.one_of(
        st.builds(
            lambda items, least, more: array(items, least=least, most=least + more), inside, *[st.integers(0, 2)] * 2
        ),
        st.builds(lambda a, b: {"anyOf": [a, b]}, inside, inside),
        st.builds(
            lambda a, b, closed: {
                "type": "object", "properties": {"a": a, "b": b}, "required": ["a"],
                **({"additionalProperties": False} if closed else {}),
            },
            inside, inside, st.booleans(),
        ),
    ),
    max_leaves=5,
)  # fmt: skip
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), WHOLE, st.floats(allow_nan=False, allow_infinity=False), st.text("ab", max_size=5)
    ),
    lambda inside: st.one_of(
        st.lists(inside, max_size=3), st.dictionaries(st.sampled_from(["a", "b", "c"]), inside, max_size=3)
    ),
    max_leaves=6,
)


@given(SCHEMAS, VALUES)
def test_what_is_read_is_what_the_schema_allows(schema: dict[str, Any], value: Any) -> None:
    valid = jsonschema.Draft202012Validator(schema).is_valid(value)
    assert expected(schema)
    if valid:
        assert read(value, schema, "x") == value
        return
    with pytest.raises(RequestError) as e:
        read(value, schema, "x")
    assert e.value.param is not None
    assert e.value.param.startswith("x")
    assert str(e.value).startswith(e.value.param)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" + "0" * 400])
def test_numbers_that_are_not_finite(number: str) -> None:
    body = parse_json(b'{"a": ' + number.encode() + b"}")
    for schema in ({"type": "number"}, {"type": "integer"}):
        with pytest.raises(RequestError, match="found, expected"):
            read_fields([Field("a", schema, "")], body)


def test_a_whole_number_may_have_a_point() -> None:
    made = read(3.0, {"type": "integer"}, "a")
    assert (made, type(made)) == (3, int)


@given(st.binary(max_size=30))
def test_any_bytes_are_a_body_or_an_error(data: bytes) -> None:
    with contextlib.suppress(RequestError):
        assert parse_json(data) == json.loads(data)


def test_unknown_and_missing_fields() -> None:
    fields = [Field("prompt", {"type": "string"}, "", required=True), Field("stop", {"type": "string"}, "")]
    assert read_fields(fields, {"prompt": "a", "stop": None}) == {"prompt": "a"}
    with pytest.raises(RequestError, match="did you mean prompt") as e:
        read_fields(fields, {"promt": "a"})
    assert e.value.code == "unknown_parameter"
    with pytest.raises(RequestError, match="missing; expected a text"):
        read_fields(fields, {})
    with pytest.raises(RequestError, match=r"'\\ud800'"):
        read_fields(fields, {"prompt": "a", "\ud800": 1})
