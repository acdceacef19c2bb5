"""Random JSON schemas of what `schema=` supports, for the tests of answers that are held to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

__all__ = ["random_schema"]

_NAMES = ("a", "b", "name", "né", "a b", 'q"', "x/y")
_PATTERNS = ("^[a-c]{1,3}$", "^x+$", "[0-9]{2}")
_FORMATS = ("date", "time", "uuid", "ipv4", "email")


def random_schema(rng: random.Random, depth: int = 2) -> dict[str, Any]:
    """Short answers mostly: a random model then ends some of them."""
    kinds: list[Callable[[random.Random, int], dict[str, Any]]] = [
        _string,
        _integer,
        _number,
        _constant,
        _simple,
    ]
    if depth:
        kinds += [_object, _object, _array, _either]
    return rng.choice(kinds)(rng, depth)


def _simple(rng: random.Random, _: int) -> dict[str, Any]:
    return {"type": rng.choice(["boolean", "null"])}


def _string(rng: random.Random, _: int) -> dict[str, Any]:
    how = rng.randrange(4)
    if how == 0:
        return {"type": "string", "maxLength": rng.randint(0, 6)}
    if how == 1:
        return {"type": "string", "pattern": rng.choice(_PATTERNS)}
    if how == 2:
        return {"type": "string", "format": rng.choice(_FORMATS)}
    least = rng.randint(0, 3)
    return {"type": "string", "minLength": least, "maxLength": least + rng.randint(0, 4)}


def _integer(rng: random.Random, _: int) -> dict[str, Any]:
    least = rng.randint(-50, 50)
    more = {"multipleOf": rng.randint(1, 7)} if rng.random() < 0.3 else {}
    return {"type": "integer", "minimum": least, "maximum": least + rng.randint(10, 300), **more}


def _number(rng: random.Random, _: int) -> dict[str, Any]:
    least = rng.randint(-9, 9)
    return {"type": "number", "exclusiveMinimum": least, "maximum": least + rng.randint(1, 9)}


def _constant(rng: random.Random, _: int) -> dict[str, Any]:
    values: list[Any] = ["é", 'a"b', "", 3, -1.5, None, True, ["x"], {"k": 1}, "\n"]
    return {"enum": rng.sample(values, rng.randint(1, 4))} if rng.randrange(2) else {"const": rng.choice(values)}


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(_NAMES, rng.randint(1, 3))
    made: dict[str, Any] = {
        "type": "object",
        "properties": {name: random_schema(rng, depth - 1) for name in names},
        "required": rng.sample(names, rng.randint(0, len(names))),
    }
    more = rng.randrange(4)
    if more:
        made["additionalProperties"] = False if more > 1 else random_schema(rng, 0)
    return made


def _array(rng: random.Random, depth: int) -> dict[str, Any]:
    least = rng.randint(0, 2)
    made = {"type": "array", "items": random_schema(rng, depth - 1), "minItems": least, "maxItems": least + 2}
    if rng.random() < 0.2:
        made["prefixItems"] = [random_schema(rng, 0)]
    return made


def _either(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [random_schema(rng, depth - 1) for _ in range(2)]}
