"""A JSON body by a table of typed fields: the table checks it, and the OpenAPI document is made of the same table.

A field's type is a piece of JSON Schema, of the words that `read` knows: type, enum, minimum, maximum,
exclusiveMinimum, minLength, maxLength, items, minItems, maxItems, properties, required, additionalProperties,
maxProperties, anyOf.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from ...dataclass import dataclass
from ...errors import shown, spelled_like
from .errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "Field", "Schema", "array", "expected", "key_of", "kind_of", "names_of", "optional_of", "read", "read_fields",
]  # fmt: skip

Schema = dict[str, Any]

#: Largest integer where a field has no bound.
_WHOLE = 2**63 - 1
_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,), "boolean": (bool,), "object": (dict,), "array": (list,), "integer": (int, float),
    "number": (int, float), "null": (type(None),),
}  # fmt: skip


@dataclass(frozen=True)
class Field:
    """A field of a body: its name, type and meaning. null is "not given", unless its type says otherwise.

    `to`: the parameter of `generate` that it is, if it is one. `refused`: why no other value is taken than those of the
    type: it is known, and not supported.
    """

    name: str
    schema: Schema
    about: str
    to: str | None = None
    required: bool = False
    refused: str = ""

    @property
    def wanted(self) -> str:
        """The type in words; of many types, as `about` tells it."""
        many = len(self.schema.get("anyOf", ())) > 2  # noqa: PLR2004 - as many are read with ease
        return self.about[:1].lower() + self.about[1:].rstrip(".") if many else expected(self.schema)


def array(items: Schema, *, least: int = 0, most: int | None = None) -> Schema:
    """A list's type."""
    return {"type": "array", "items": items, "minItems": least} | ({} if most is None else {"maxItems": most})


def names_of(fields: Iterable[Field]) -> dict[str, str]:
    """Parameters of `generate`, and fields, with what a request calls them."""
    return {field.to or field.name: field.name for field in fields}


def optional_of(fields: Iterable[Field], given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of `generate` that were given."""
    return {field.to: given[field.name] for field in fields if field.to is not None and field.name in given}


def read_fields(fields: Sequence[Field], body: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, checked, without what is null. Errors: `RequestError`, which names the field."""
    known = {field.name: field for field in fields}
    for name in body:
        if name not in known:
            near = spelled_like(name, known, 1)
            msg = f"{key_of(name)}: there is no such field" + (f"; did you mean {near[0]}?" if near else "")
            raise RequestError(msg, param=key_of(name), code="unknown_parameter")
    given = {}
    for name, field in known.items():
        value = body.get(name)
        if value is None:
            if field.required:
                msg = f"{name}: this field is missing; expected {field.wanted}"
                raise RequestError(msg, param=name, code="missing_required_parameter")
            continue
        try:
            given[name] = read(value, field.schema, name)
        except RequestError as e:
            if not field.refused:
                raise
            msg = f"{e}: {field.refused}"
            raise RequestError(msg, param=e.param, code="unsupported_value") from None
    return given


def read(value: Any, schema: Schema, where: str) -> Any:  # noqa: ANN401 - JSON
    """The value, where it is of this type. Errors: `RequestError`; `where`: its place in the body."""
    if "anyOf" in schema:
        return read(value, _branch(value, schema["anyOf"], schema, where), where)
    if "enum" in schema:
        if not any(type(value) is type(each) and value == each for each in schema["enum"]):
            raise _wrong(value, schema, where)
        return value
    kind = schema.get("type")
    if kind is None:
        _check_any(value, where)
        return value
    if not _is(value, kind):
        raise _wrong(value, schema, where)
    return _READERS[kind](value, schema, where)


def _is(value: object, kind: str) -> bool:
    return isinstance(value, _KINDS[kind]) and (not isinstance(value, bool) or kind == "boolean")


def _branch(value: object, branches: list[Schema], whole: Schema, where: str) -> Schema:
    """The one of several types that a value is of, as far as it can be seen without looking closely."""
    alike = [b for b in branches if "type" not in b or _is(value, b["type"])]
    for branch in alike:
        try:
            read(value, branch, where)
        except RequestError:
            continue
        return branch
    if len(alike) > 1:
        alike = _meant(value, alike, where)
    if len(alike) == 1 and "type" in alike[0]:
        return alike[0]  # which says what is wrong inside
    raise _wrong(value, whole, where)


def _meant(value: object, alike: list[Schema], where: str) -> list[Schema]:
    """Of types of objects, those that the value's own `type` names; of lists, those of the kind of its first item.

    Errors: `RequestError` for a `type` that none has.
    """
    if isinstance(value, list):
        return [b for b in alike if value and _is(value[0], b.get("items", {}).get("type", "null"))]
    if not isinstance(value, dict):
        return alike
    types = [b.get("properties", {}).get("type", {}).get("enum", []) for b in alike]
    if "type" not in value:
        return [b for b, named in zip(alike, types, strict=True) if not named or "type" not in b.get("required", ())]
    if all(types) and not any(value["type"] in named for named in types):
        raise _wrong(value["type"], {"enum": [each for named in types for each in named]}, f"{where}.type")
    return [b for b, named in zip(alike, types, strict=True) if value["type"] in named]


def _text(value: str, schema: Schema, where: str) -> str:
    if any("\ud800" <= c <= "\udfff" for c in value):
        msg = f"{where}: has half of a surrogate pair, which is no character"
        raise RequestError(msg, param=where)
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", _WHOLE):
        raise _wrong(value, schema, where)
    return value


def _number(value: float, schema: Schema, where: str) -> float:
    try:
        made = float(value)
    except OverflowError:
        made = math.inf
    if not math.isfinite(made) or not _within(made, schema):
        raise _wrong(value, schema, where)
    return value


def _integer(value: float, schema: Schema, where: str) -> int:
    if isinstance(value, float) and not value.is_integer():  # nor is an infinite one
        raise _wrong(value, schema, where)
    if not -_WHOLE <= value <= _WHOLE or not _within(value, schema):
        raise _wrong(value, schema, where)
    return int(value)


def _within(value: float, schema: Schema) -> bool:
    least, most = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    return bool(least <= value <= most) and value > schema.get("exclusiveMinimum", -math.inf)


def _boolean(value: bool, _: Schema, __: str) -> bool:  # noqa: FBT001 - it reads one
    return value


def _array(value: list[Any], schema: Schema, where: str) -> list[Any]:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", _WHOLE):
        raise _wrong(value, schema, where)
    items = schema.get("items", {})
    return [read(item, items, f"{where}[{i}]") for i, item in enumerate(value)]


def _object(value: dict[str, Any], schema: Schema, where: str) -> dict[str, Any]:
    properties, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    if len(value) > schema.get("maxProperties", _WHOLE):
        msg = f"{where}: an object of {len(value)} found, expected {expected(schema)}"
        raise RequestError(msg, param=where, code="invalid_value")
    made = {}
    for name, item in value.items():
        inside = f"{where}.{key_of(name)}"
        if name not in properties and others is False:
            msg = f"{inside}: there is no such field; known are {', '.join(properties)}"
            raise RequestError(msg, param=inside, code="unknown_parameter")
        made[name] = read(item, properties.get(name, others), inside)
    for name in schema.get("required", ()):
        if name not in value:
            msg = f"{where}.{name}: this field is missing; expected {expected(properties[name])}"
            raise RequestError(msg, param=f"{where}.{name}", code="missing_required_parameter")
    return made


def _null(value: None, _: Schema, __: str) -> None:
    return value


_READERS: dict[str, Any] = {
    "string": _text, "number": _number, "integer": _integer, "boolean": _boolean, "array": _array, "object": _object,
    "null": _null,
}  # fmt: skip


def _check_any(value: object, where: str) -> None:
    """Of a value of any type: its numbers are finite, its texts are texts."""
    left: list[tuple[object, str]] = [(value, where)]
    while left:
        item, at = left.pop()
        if isinstance(item, str):
            _text(item, {}, at)
        elif isinstance(item, float):
            _number(item, {"type": "number"}, at)
        elif isinstance(item, list):
            left += [(each, f"{at}[{i}]") for i, each in enumerate(item)]
        elif isinstance(item, dict):
            for name, each in item.items():
                _text(name, {}, at)
                left.append((each, f"{at}.{name}"))


def key_of(name: str) -> str:
    """A name from outside, as a message may show it."""
    return name if name.isascii() and name.isprintable() and len(name) <= 80 else shown(name, 80)  # noqa: PLR2004 - a line


def kind_of(value: object) -> str:
    """In words."""
    return next((_AN[kind] for kind in _KINDS if _is(value, kind)), "something else")


_AN = {
    "string": "a text", "boolean": "true or false", "object": "an object", "array": "a list", "integer": "an integer",
    "number": "a number", "null": "null",
}  # fmt: skip


def expected(schema: Schema) -> str:
    """A type in words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(expected(branch) for branch in schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(json.dumps(each) for each in schema["enum"][:-1]) + (
            f" or {json.dumps(schema['enum'][-1])}" if len(schema["enum"]) > 1 else json.dumps(schema["enum"][0])
        )
    kind = schema.get("type")
    if kind is None:
        return "any JSON value"
    words: str = _AN[kind]
    if kind == "array":
        words += f" (of {expected(schema['items'])})" if schema.get("items") else ""
    if kind == "array" and schema.get("minItems") == 1 and "maxItems" not in schema:
        return f"{words}, not empty"
    return words + _bounds(schema, {"string": " characters", "array": " items", "object": " keys"}.get(kind, ""))


def _bounds(schema: Schema, unit: str) -> str:
    """Of a number, or of how long a text or a list may be."""
    least = schema.get("minimum", schema.get("minLength", schema.get("minItems", 0) or None))
    most = next(
        (schema[name] for name in ("maximum", "maxLength", "maxItems", "maxProperties") if name in schema), None
    )
    if "exclusiveMinimum" in schema:
        return f" above {schema['exclusiveMinimum']}" + ("" if most is None else f", at most {most}")
    if least is not None and most is not None:
        return f" of {least} to {most}{unit}" if unit else f" from {least} to {most}"
    word, bound = ("at most", most) if least is None else ("at least", least)
    if bound is None:
        return ""
    return f" of {word} {bound}{unit}" if unit else f", {word} {bound}"


def _wrong(value: object, schema: Schema, where: str) -> RequestError:
    msg = f"{where}: {_seen(value)} found, expected {expected(schema)}"
    return RequestError(msg, param=where, code="invalid_value")


def _seen(value: object) -> str:
    """A value from outside, as a message shows it: short, and a list or an object by its size alone."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int) and abs(value) > _WHOLE:
        return "an integer that is too large"
    return shown(value, 80)
