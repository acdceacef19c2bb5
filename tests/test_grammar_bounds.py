"""How large schemas, grammars and patterns may be: what is just small enough passes, and one more is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from miaotui.errors import InputError
from miaotui.loader.text.bounds import check_grammar, check_regex, check_schema

if TYPE_CHECKING:
    from collections.abc import Callable


def least_refused(check: Callable[[Any], None], make: Callable[[int], Any], most: int) -> int:
    """The first size of these that is refused, which is `most` + 1 if only those above it are."""
    check(make(most))
    with pytest.raises(InputError):
        check(make(most + 1))
    return most + 1


def test_regular_expressions() -> None:
    least_refused(check_regex, "a".__mul__, 8192)
    least_refused(lambda n: check_schema({"pattern": "a" * n}), int, 8192)
    least_refused(lambda n: check_schema({"patternProperties": {"a" * n: {}}}), int, 8192)
    least_refused(lambda n: check_grammar(f"start: /{'a' * n}/"), int, 8190)  # with its two strokes


def test_many_patterns_count_by_their_squares() -> None:
    least_refused(lambda n: check_schema([{"pattern": "a" * 4096}] * n), int, 4)
    check_schema([{"pattern": "a" * 8192}])
    with pytest.raises(InputError, match="characters of patterns"):
        check_schema([{"pattern": "a" * 8192}, {"pattern": "a"}])
    check_schema([{"pattern": 3}, {"pattern": "a" * 8192}])


def test_characters() -> None:
    least_refused(lambda n: check_schema("x" * (n - 2)), int, 2**18)  # with its quotes
    least_refused(lambda n: check_grammar("start: " + "a" * (n - 7)), int, 2**15)
    check_schema("\u00e4" * (2**18 - 2))  # characters, not bytes
    schema = json.dumps("x" * (2**17 - 2))
    check_grammar(f"start: %json {schema} %json {schema}")
    with pytest.raises(InputError, match="its schemas have 262,145"):
        check_grammar(f"start: %json {schema} %json {schema[:-1]}x{schema[-1]}")


@pytest.mark.parametrize("between", ["\n", " ", ""])
def test_rules(between: str) -> None:
    least_refused(check_grammar, f"a:b{between or ' '}".__mul__, 1000)
    least_refused(check_grammar, f"a::=b{between or ' '}".__mul__, 300)


@pytest.mark.parametrize("bracket", ["(", "["])
def test_rules_and_brackets(bracket: str) -> None:
    least_refused(lambda n: check_grammar("a:b " * 400 + bracket * n), int, 600)
    least_refused(lambda n: check_grammar("a::=b " * 300 + bracket * n), int, 700)


def nested(n: int, inner: object = 1) -> Any:
    for i in range(n):
        inner = [inner] if i % 2 else {"items": inner}
    return inner


def test_levels() -> None:
    least_refused(check_schema, nested, 700)
    part = nested(100)
    least_refused(lambda n: check_schema({"$ref": "#/$defs/a", "$defs": {"a": part}, "of": nested(n)}), int, 599)
    for spelled, defs in (
        ("#/$defs/a~1b~0", {"$defs": {"a/b~": part}}), ("#here", {"one": {"$anchor": "here", "of": nested(99)}}),
        ("#/some/1", {"some": [0, part]}),
    ):  # fmt: skip
        least_refused(lambda n, s=spelled, d=defs: check_schema({"$ref": s, **d, "of": nested(n)}), int, 599)  # type: ignore[misc]
    for unknown in ("#/$defs/b", "#there", "#/some/7", "https://example.org"):  # as deep as all there is
        least_refused(lambda n, u=unknown: check_schema({"$ref": u, "of": nested(n)}), int, 349)  # type: ignore[misc]


def patterned(n: int) -> dict[str, Any]:
    return {"patternProperties": {f"p{i}": {} for i in range(n)}}


def optional(n: int, needed: int = 0) -> dict[str, Any]:
    keys = [f"k{i}" for i in range(n + needed)]
    return {"properties": dict.fromkeys(keys, True), "required": keys[:needed]}


def test_pairs_of_keys() -> None:
    least_refused(check_schema, patterned, 126)  # 126 * 125 / 2 = 7,875; 127: 8,001
    least_refused(check_schema, optional, 2000)  # 1,999,000; 2,001: 2,001,000
    least_refused(lambda n: check_schema(optional(n, 50)), int, 2000)
    check_schema([patterned(89), patterned(89)])  # which do not meet: 3,916 pairs each
    least_refused(lambda n: check_schema([{"allOf": []}, patterned(100), patterned(n)]), int, 26)
    least_refused(lambda n: check_schema([{"$ref": "#/x", "items": 1}, patterned(100), patterned(n)]), int, 26)
    check_schema([{"$ref": "#/x", "title": "alone"}, patterned(89), patterned(89)])
    check_schema({"properties": 3, "required": 5, "patternProperties": 7})
    check_schema({"properties": {"a": 1}, "required": ["a", "b", "c"]})
