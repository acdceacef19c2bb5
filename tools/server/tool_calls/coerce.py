"""The text of an argument to JSON, as its schema says: formats with tags write every value as plain text."""

from __future__ import annotations

import ast
import json
from typing import TYPE_CHECKING, Any

from .json_text import parsed

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["coerced", "spelled", "types_of"]

#: How deep references and alternatives are followed.
_DEPTH = 8
_KINDS: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("integer", (int,)), ("number", (int, float)), ("boolean", (bool,)), ("array", (list,)), ("object", (dict,)),
)  # fmt: skip
_WORDS = {"true": "true", "false": "false", "True": "true", "False": "false"}


def spelled(value: object) -> str:
    """JSON text. A half of a surrogate pair stays escaped, as no UTF-8 has it."""
    text = json.dumps(value, ensure_ascii=False)
    return json.dumps(value) if any("\ud800" <= c <= "\udfff" for c in text) else text


def types_of(schema: object, root: Mapping[str, Any], depth: int = _DEPTH) -> frozenset[str]:
    """The types that a schema allows; none: it says nothing of them."""
    if not isinstance(schema, dict) or depth == 0:
        return frozenset()
    said = schema.get("type")
    found = {t for t in (said if isinstance(said, list) else [said]) if isinstance(t, str)}
    for key in ("anyOf", "oneOf", "allOf"):
        for inner in _listed(schema.get(key)):
            found |= types_of(inner, root, depth - 1)
    found |= {_type_name(value) for value in _listed(schema.get("enum"))}
    if "const" in schema:
        found.add(_type_name(schema["const"]))
    if schema.get("nullable") is True:
        found.add("null")
    return frozenset(found) or types_of(_referred(schema.get("$ref"), root), root, depth - 1)


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _type_name(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return next((name for name, kinds in _KINDS if isinstance(value, kinds)), "string")


def _referred(ref: object, root: Mapping[str, Any]) -> object:
    """What a reference inside the schema names."""
    at: object = root
    for name in ref.removeprefix("#/").split("/") if isinstance(ref, str) and ref.startswith("#/") else ("",):
        at = at.get(name) if isinstance(at, dict) else None
    return at


def coerced(text: str, schema: object, root: Mapping[str, Any]) -> str:
    """JSON text of the value that this text stands for. `schema`: the argument's, None where none has its name."""
    types = types_of(schema, root)
    bare = text.strip()
    if "null" in types and bare in {"null", "None"}:
        return "null"
    if not types and schema is None:
        return spelled(text)
    for name, kinds in _KINDS:
        if types and name not in types:
            continue
        made = _as(name, kinds, bare)
        if made is not None:
            return made
    if not types and bare == "null":
        return "null"
    return spelled(text)


def _as(name: str, kinds: tuple[type, ...], text: str) -> str | None:
    """JSON text of a value of this type; None: the text is none."""
    if name == "boolean":
        return _WORDS.get(text)
    try:
        value = parsed(text)
        made = text
    except ValueError:
        if name not in {"array", "object"}:
            return None
        try:
            value = ast.literal_eval(text)  # as str() writes lists and dicts
            made = spelled(value)
            parsed(made)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return None
    return made if isinstance(value, kinds) and not isinstance(value, bool) else None
