"""How large a schema, grammar or regular expression may be, before llguidance reads it.

llguidance bounds most of what it does by fuel, but not all: its work grows with the square of some sizes, and it
follows rules into rules by recursion, which a chain of some thousand ends with the process. So these sizes are bounded
here, in characters, pairs and levels; what is let through takes some seconds at most (docs/decisions.md has figures).
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from ...errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["check_grammar", "check_regex", "check_schema"]

#: Characters of a regular expression, and of a pattern in a schema; of a grammar without its schemas; of a schema.
MOST_REGEX, MOST_GRAMMAR, MOST_SCHEMA = 1 << 13, 1 << 15, 1 << 18
#: Rules of a grammar and brackets in it, together: each may be a level of what is followed. 2,000 fit 8 MiB of stack.
MOST_RULES = 1000
#: Rules of GBNF: it is turned into Lark's notation by Python, in time that grows with their square.
MOST_GBNF = 300
#: Lists and objects of a schema that may be followed into one another, through `$ref` too. 1,500 fit that stack.
MOST_LEVELS = 700
#: Pairs of `patternProperties` that may meet in one object: each pair is compared, in some 0.1 ms.
MOST_PATTERN_PAIRS = 8_000
#: Pairs of keys that may be left out of one object.
MOST_KEY_PAIRS = 2_000_000
_JSON = re.compile(r"%json\s*")
_REGEX = re.compile(r"/(?:[^/\\\n]|\\.)+/")
#: Keywords next to which a `$ref` stands alone.
_ALONE = frozenset(("$ref", "$defs", "definitions", "$schema", "$id", "$anchor", "$comment", "title", "description"))


def check_regex(value: str, name: str = "regex") -> None:
    """Errors: `InputError`."""
    if len(value) > MOST_REGEX:
        msg = f"{name}: {len(value):,} characters; expected at most {MOST_REGEX:,}: use choices for many texts"
        raise InputError(msg)


def check_grammar(value: str) -> None:
    """Of a grammar in Lark's notation or GBNF, with the schemas in it (`%json`). Errors: `InputError`."""
    rest = "".join(_without_schemas(value))
    if len(value) - len(rest) > MOST_SCHEMA:
        msg = f"grammar: its schemas have {len(value) - len(rest):,} characters; expected at most {MOST_SCHEMA:,}"
        raise InputError(msg)
    if len(rest) > MOST_GRAMMAR:
        msg = f"grammar: {len(rest):,} characters without its schemas; expected at most {MOST_GRAMMAR:,}"
        raise InputError(msg)
    gbnf = "::=" in rest
    rules, most = rest.count("::=" if gbnf else ":"), MOST_GBNF if gbnf else MOST_RULES
    if rules > most or rules + rest.count("(") + rest.count("[") > MOST_RULES:
        msg = f"grammar: expected at most {most:,} rules, and with the brackets in them {MOST_RULES:,}; join some"
        raise InputError(msg)
    for found in _REGEX.finditer(rest):
        check_regex(found[0], "grammar: a regular expression in it")


def _without_schemas(value: str) -> Iterator[str]:
    """The text around the JSON schemas, which are checked. Errors: `InputError`."""
    at = 0
    while found := _JSON.search(value, at):
        yield value[at : found.end()]
        try:
            schema, at = json.JSONDecoder().raw_decode(value, found.end())
        except (ValueError, RecursionError):  # which llguidance refuses
            at = found.end()
        else:
            check_schema(schema, "grammar: %json")
    yield value[at:]


def check_schema(schema: object, name: str = "schema") -> None:
    """Of a JSON schema, as JSON is in Python. Errors: `InputError`."""
    size = len(json.dumps(schema, ensure_ascii=False))
    if size > MOST_SCHEMA:
        msg = f"{name}: {size:,} characters; expected at most {MOST_SCHEMA:,}: use choices for many texts"
        raise InputError(msg)
    depths = dict[int, int]()
    objects = [*_objects(schema, depths)]
    _check_patterns(objects, name)
    _check_levels(schema, objects, depths, name)
    merges = any("allOf" in each or ("$ref" in each and each.keys() - _ALONE) for each in objects)
    for counts, most, what in (
        ([len(_patterns(each)) for each in objects], MOST_PATTERN_PAIRS, "patternProperties"),
        ([_optional(each) for each in objects], MOST_KEY_PAIRS, "keys that may be left out (see required)"),
    ):
        if _pairs(counts, together=merges) > most:
            msg = f"{name}: {sum(counts):,} {what}; expected at most {round((2 * most) ** 0.5):,} of an object"
            raise InputError(msg)


def _check_patterns(objects: list[dict[str, Any]], name: str) -> None:
    """What they take grows with the square of their lengths. Errors: `InputError`."""
    patterns = [p for each in objects for p in (each.get("pattern"), *_patterns(each)) if isinstance(p, str)]
    for pattern in patterns:
        check_regex(pattern, f"{name}: a pattern")
    if sum(len(pattern) ** 2 for pattern in patterns) > MOST_REGEX**2:
        msg = (
            f"{name}: {sum(map(len, patterns)):,} characters of patterns; expected at most {MOST_REGEX:,} of long ones"
        )
        raise InputError(msg)


def _check_levels(schema: object, objects: list[dict[str, Any]], depths: dict[int, int], name: str) -> None:
    """A way through references passes each that is named once at most. Errors: `InputError`."""
    anchors = {f"#{each['$anchor']}": each for each in objects if isinstance(each.get("$anchor"), str)}
    refs = {ref for each in objects if isinstance(ref := each.get("$ref"), str)}
    whole = depths.get(id(schema), 0)
    levels = whole + sum(depths.get(id(_named(ref, schema, anchors)), whole) for ref in refs)
    if levels > MOST_LEVELS:
        msg = f"{name}: {levels:,} levels in one another, by {len(refs)} $refs; expected at most {MOST_LEVELS}"
        raise InputError(msg)


def _patterns(schema: dict[str, Any]) -> dict[str, Any]:
    """Of keys."""
    given = schema.get("patternProperties")
    return given if isinstance(given, dict) else {}


def _optional(schema: dict[str, Any]) -> int:
    """Keys of an object that may be left out."""
    named, required = schema.get("properties"), schema.get("required")
    needed = len(required) if isinstance(required, list) else 0
    return max(0, len(named) - needed) if isinstance(named, dict) else 0


def _pairs(counts: list[int], *, together: bool) -> int:
    """Pairs of what meets in one object; `together`: all may meet, as schemas are put together."""
    return sum(n * (n - 1) // 2 for n in ([sum(counts)] if together else counts))


def _objects(schema: object, depths: dict[int, int]) -> Iterator[dict[str, Any]]:
    """Every object in it, a schema or not; `depths`: to the id of each list and object, how deep it is."""
    order: list[Any] = [schema]
    for each in order:  # which grows
        inside = each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        order += [value for value in inside if isinstance(value, dict | list)]
        if isinstance(each, dict):
            yield each
    for each in reversed(order):
        inside = each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        depths[id(each)] = 1 + max((depths[id(v)] for v in inside if isinstance(v, dict | list)), default=0)


def _named(ref: str, root: object, anchors: dict[str, dict[str, Any]]) -> object:
    """What a reference names; None where that is not known."""
    if not ref.startswith("#/"):
        return anchors.get(ref)
    at: Any = root
    for name in ref.split("/")[1:]:
        key = name.replace("~1", "/").replace("~0", "~")
        if isinstance(at, list) and key.isascii() and key.isdigit() and int(key[:9]) < len(at):
            at = at[int(key[:9])]
        else:
            at = at.get(key) if isinstance(at, dict) else None
    return at
