"""A JSON schema that is asked for: read, checked, and made such that what a grammar lets come is what it says.

llguidance ignores keywords that it does not know, lets the last of two equal keys win, and takes 30 February for a
date. So each schema is checked first, keyword by keyword, and refused by name and path; dates and times become
patterns. What must hold of an answer is checked again in the end.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ...dataclass import dataclass
from ...errors import BackendError, InputError, shown
from ..expressions import takes_long
from .bounds import check_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["KEYWORDS", "Schema", "schema_of"]

#: Keywords that say nothing about what is valid.
_NOTES = (
    "$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly",
    "discriminator",
)  # fmt: skip
#: Keywords whose values hold schemas: one, a list, or a dict of them.
_ONE, _LISTS = ("items", "additionalProperties"), ("anyOf", "oneOf", "allOf", "prefixItems")
_DICTS = ("properties", "patternProperties", "$defs", "definitions")
#: Keywords that a schema may have.
KEYWORDS = frozenset((
    *_NOTES, *_ONE, *_LISTS, *_DICTS, "$ref", "$anchor", "type", "enum", "const", "minLength", "maxLength", "pattern",
    "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems",
    "required", "minProperties", "maxProperties",
))  # fmt: skip
#: A day of a year from 1 to 9999, by the Gregorian calendar; a time without leap seconds (RFC 3339, section 5.6).
_YEAR = r"(000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP = r"([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_DAY = (
    rf"({_YEAR}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
    rf"|{_LEAP}-02-29)"
)
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_EXACT = {"date": f"^{_DAY}$", "time": f"^{_TIME}$", "date-time": f"^{_DAY}T{_TIME}$"}
#: Formats that llguidance knows, besides.
_FORMATS = ("duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
#: Most levels of schemas in one another.
_DEEPEST = 200
#: Schemas that a value follows at once: llguidance writes them out.
_WRITTEN_OUT = 10_000
#: llguidance tells remainders apart, each by a state: a hundred thousand take a second, a million a minute.
_REMAINDERS = 100_000


@dataclass(frozen=True)
class Schema:
    """`given`: the schema as asked for; `rules`: as a grammar is made of it; `closed`: no key but those named comes.

    `slow`: it has a pattern that Python may match for ever, so that no answer is validated.
    """

    given: Any
    rules: Any
    closed: bool
    slow: bool

    def check(self, text: str) -> None:
        """Errors: `BackendError` where a whole answer is not valid: a fault that must not pass for an answer."""
        try:
            value = json.loads(text, parse_float=Decimal)  # in binary 0.3 is no multiple of 0.1
        except json.JSONDecodeError as e:
            msg = f"schema: the answer {shown(text)} is no JSON ({e}); that is a fault of miaotui's, please report it"
            raise BackendError(msg) from e
        except (RecursionError, ValueError, ArithmeticError):
            return  # brackets deeper, or numbers longer, than Python reads
        if self.slow:
            return
        try:
            validators = import_module("jsonschema.validators")
        except ImportError:
            return
        given = json.loads(json.dumps(self.given), parse_float=Decimal)
        kind = validators.validator_for(given, default=validators.Draft202012Validator)
        try:
            error = next(kind(given).iter_errors(value), None)
        except (re.error, RecursionError, ArithmeticError):
            return  # a pattern in the words of llguidance alone; a remainder of more digits than Python's
        if error is not None:
            why = f"{error.json_path}: {shown(error.message)}"
            msg = (
                f"schema: the answer {shown(text)} is not valid ({why}); that is a fault of miaotui's, please report it"
            )
            raise BackendError(msg)


def schema_of(value: object) -> Schema:
    """A schema from a dict, JSON text, or a class of pydantic's, whose objects then have no keys but its fields.

    Errors: `InputError`, with the path of what is not supported, as in #/properties/name.
    """
    given = _read(value)
    if not isinstance(given, dict) or not given:
        msg = (
            f"schema={shown(given)}: it says nothing about the answer; expected a JSON schema such as "
            '{"type": "object"}, which allows any object'
        )
        raise InputError(msg)
    try:
        plain = json.loads(json.dumps(given, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as e:
        msg = f"schema: {e}; expected what JSON can spell: dicts with texts for keys, lists, texts, numbers"
        raise InputError(msg) from None
    closed, slow, sizes = True, False, dict[str, int]()
    check_schema(plain)
    for path, schema in _walk(plain, "#", 0):
        _check(path, schema, plain)
        if _written_out(schema, plain, sizes) > _WRITTEN_OUT:
            msg = f"schema: {path}: its allOf and $ref are more than {_WRITTEN_OUT:,} schemas once they are written "
            msg += "out; join some"
            raise InputError(msg)
        closed, slow = closed and not _open(schema), slow or _is_slow(schema)
    if not closed:
        for path, schema in _walk(plain, "#", 0):
            if isinstance(schema, dict) and schema.get("minProperties", 0) > 1:
                msg = f"schema: {path}: minProperties with keys that are not all named: the same may come twice, and "
                msg_0 = f"{msg}count once; name them (properties, additionalProperties false)"
                raise InputError(msg_0)
    return Schema(plain, _mapped(plain, _exact), closed, slow)


def _read(value: object) -> object:
    if isinstance(value, str):
        try:
            read: object = json.loads(value)
        except (ValueError, RecursionError) as e:
            msg = (
                f"schema={shown(value, 80)}: not JSON ({e}); give a schema as a dict, as JSON text, or a pydantic class"
            )
            raise InputError(msg) from None
        return read
    of_class = getattr(value, "model_json_schema", None)
    if isinstance(value, type) and callable(of_class):
        try:
            made: object = of_class()
        except Exception as e:  # pydantic's classes are not to be had without it
            msg = f"schema={value.__name__}: pydantic makes no JSON schema of it ({type(e).__name__}: {e})"
            raise InputError(msg) from e
        return _mapped(made, _closed)
    if isinstance(value, dict | bool):
        return value
    msg = f"schema={shown(value)}: expected a JSON schema as a dict or JSON text, or a pydantic class"
    raise InputError(msg)


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """With no keys but those named, where it does not say otherwise."""
    if "properties" in schema and schema.get("type") == "object":
        return {"additionalProperties": False, **schema}
    return schema


def _mapped(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:  # noqa: ANN401 - JSON
    """The schema with each schema in it changed, itself last."""
    if not isinstance(schema, dict):
        return schema
    made = dict(schema)
    for key in (*_ONE, *_LISTS, *_DICTS):
        inner = made.get(key)
        if key in _ONE and key in made:
            made[key] = _mapped(inner, change)
        elif isinstance(inner, list):
            made[key] = [_mapped(each, change) for each in inner]
        elif isinstance(inner, dict):
            made[key] = {name: _mapped(each, change) for name, each in inner.items()}
    return change(made)


def _walk(schema: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - JSON
    """Each schema in a schema, with its path."""
    if depth > _DEEPEST:
        msg = f"schema: {path[:60]}...: schemas lie more than {_DEEPEST} deep in one another; name them in $defs"
        raise InputError(msg)
    yield path, schema
    if not isinstance(schema, dict):
        return
    for key in _ONE:
        if key in schema:
            yield from _walk(schema[key], f"{path}/{key}", depth + 1)
    for key in (*_LISTS, *_DICTS):
        inner = schema.get(key)
        named: Any = inner.items() if isinstance(inner, dict) else enumerate(inner) if isinstance(inner, list) else ()
        for name, each in named:
            yield from _walk(each, f"{path}/{key}/{name}", depth + 1)


def _check(path: str, schema: Any, root: Any) -> None:  # noqa: ANN401 - JSON
    """Errors: `InputError` for a schema (in `root`) that is none, or that asks for what is not held to."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        msg = f"schema: {path}: {shown(schema)} found, expected a schema: a dict, True or False"
        raise InputError(msg)
    unknown = sorted(set(schema) - KEYWORDS)
    if unknown:
        msg = f"schema: {path}: {', '.join(unknown)}: not supported; leave it out, or say it otherwise. Supported are "
        raise InputError(msg + ", ".join(sorted(KEYWORDS - {*_NOTES})))
    _check_values(path, schema, root)
    kind = schema.get("format")
    if kind is not None and kind not in (*_EXACT, *_FORMATS):
        names = ", ".join([*_EXACT, *_FORMATS])
        msg = f"schema: {path}: format {shown(kind)}: not supported; use a pattern, or one of {names}"
        raise InputError(msg)
    for pattern in schema.get("patternProperties") or ():
        both = next((name for name in schema.get("properties") or () if _matches(pattern, name, path)), None)
        if both is not None:
            msg = (
                f"schema: {path}: the key {shown(both)} is in properties, and {shown(pattern)} in patternProperties "
                "matches it too; what both say is not put together: change one of them"
            )
            raise InputError(msg)


def _check_values(path: str, schema: dict[str, Any], root: Any) -> None:  # noqa: ANN401 - JSON
    """Of keywords that are read here; llguidance checks the others. Errors: `InputError`."""
    kind, least = schema.get("type", "string"), schema.get("minProperties", 0)
    if not isinstance(kind, str | list):
        msg = f"schema: {path}: type {shown(kind)}: expected the name of a type, or a list of them"
        raise InputError(msg)
    if type(least) is not int or least < 0:
        msg = f"schema: {path}: minProperties {shown(least)}: expected an integer >= 0"
        raise InputError(msg)
    if _remainders(schema, path, root, set()) > _REMAINDERS:
        msg = f"schema: {path}: multipleOf: more than {_REMAINDERS} remainders to tell apart; round it, or leave it out"
        raise InputError(msg)


def _remainders(schema: Any, path: str, root: Any, seen: set[str]) -> int:  # noqa: ANN401 - JSON
    """How many remainders tell whether a number is one of `multipleOf`, of all that it must be at once."""
    if not isinstance(schema, dict):
        return 1
    parts, ref = schema.get("allOf"), schema.get("$ref")
    parts = [*parts] if isinstance(parts, list) else []
    if isinstance(ref, str) and ref not in seen:
        seen.add(ref)
        parts.append(_referred(ref, root))
    several = math.lcm(*(_remainders(part, path, root, seen) for part in parts))
    step = schema.get("multipleOf")
    if step is None:
        return several
    if isinstance(step, bool) or not isinstance(step, int | float) or step <= 0:
        msg = f"schema: {path}: multipleOf {shown(step)}: expected a number above 0"
        raise InputError(msg)
    if step > _REMAINDERS:
        return _REMAINDERS + 1
    sign, digits, exponent = Decimal(str(step)).normalize().as_tuple()
    assert isinstance(exponent, int)  # noqa: S101 - of a finite number
    return math.lcm(several, int(Decimal((sign, digits, max(exponent, 0)))))


def _written_out(schema: Any, root: Any, sizes: dict[str, int]) -> int:  # noqa: ANN401 - JSON
    """How many schemas a value must follow at once, with all that `allOf` and `$ref` name; a circle counts once."""
    if not isinstance(schema, dict):
        return 1
    parts, ref = schema.get("allOf"), schema.get("$ref")
    n = 1 + sum(_written_out(part, root, sizes) for part in (parts if isinstance(parts, list) else ()))
    if isinstance(ref, str):
        if ref not in sizes:
            sizes[ref] = 1
            sizes[ref] = _written_out(_referred(ref, root), root, sizes)
        n += sizes[ref]
    return n


def _is_slow(schema: Any) -> bool:  # noqa: ANN401 - JSON
    """Whether it has a pattern that Python may match for ever; llguidance's time for it is bounded."""
    if not isinstance(schema, dict):
        return False
    patterns = [schema.get("pattern"), *(schema.get("patternProperties") or ())]
    return any(isinstance(pattern, str) and takes_long(pattern) for pattern in patterns)


def _referred(ref: str, root: Any) -> Any:  # noqa: ANN401 - JSON
    """What a reference within the schema stands for; None for others, and for what is not there."""
    at = root
    for name in ref.removeprefix("#").split("/")[1:]:
        key = name.replace("~1", "/").replace("~0", "~")
        at = at.get(key) if isinstance(at, dict) else None
    return at if ref.startswith("#/") else None


def _matches(pattern: str, name: str, path: str) -> bool:
    if takes_long(pattern):
        msg = (
            f"schema: {path}: patternProperties {shown(pattern)}: next to properties a pattern may not have many "
            "repetitions in a row, or repeat a group that repeats or chooses inside, as it may take for ever to match"
        )
        raise InputError(msg)
    try:
        return re.search(pattern, name) is not None
    except (re.error, RecursionError, OverflowError) as e:
        msg = f"schema: {path}: patternProperties {shown(pattern)}: no regular expression ({e})"
        raise InputError(msg) from None


def _blanks(pattern: str) -> str:
    """A pattern whose blanks are ECMAScript's: U+FEFF is one. Errors: `InputError` for what cannot be said so."""
    out, at, inside = [], 0, False
    while at < len(pattern):
        piece = pattern[at : at + (2 if pattern[at] == "\\" else 1)]
        at += len(piece)
        inside = piece == "[" or (inside and piece != "]")
        if piece == r"\s":
            piece = r"\s\x{FEFF}" if inside else r"[\s\x{FEFF}]"
        elif piece == r"\S" and not inside:
            piece = r"[^\s\x{FEFF}]"
        elif piece == r"\S":
            msg = (
                rf"schema: pattern {shown(pattern)}: \S among other characters in brackets is not supported; name them"
            )
            raise InputError(msg)
        out.append(piece)
    return "".join(out)


def _open(schema: Any) -> bool:  # noqa: ANN401 - JSON
    """Whether keys may come that it does not name."""
    if isinstance(schema, bool) or not schema:
        return schema is not False
    elsewhere = any(key in schema for key in ("anyOf", "oneOf", "$ref")) and "properties" not in schema
    if elsewhere or "const" in schema or "enum" in schema:
        return False
    kind = schema.get("type")
    if "object" not in ([kind] if isinstance(kind, str) else kind or ["object"]):
        return False
    return schema.get("additionalProperties") is not False or "patternProperties" in schema


def _exact(schema: dict[str, Any]) -> dict[str, Any]:
    """With a pattern in the place of a format of dates and times, which is what it means, and ECMAScript's blanks."""
    if isinstance(schema.get("pattern"), str):
        schema = schema | {"pattern": _blanks(schema["pattern"])}
    kind = schema.get("format")
    pattern = _EXACT.get(kind) if isinstance(kind, str) else None
    if pattern is None:
        return schema
    made = {key: value for key, value in schema.items() if key != "format"}
    if "pattern" not in made:
        return made | {"pattern": pattern}
    return made | {"allOf": [*made.get("allOf", []), {"pattern": pattern}]}
