"""Damage to what is read from outside, drawn by a seed: to bytes, to texts, and to JSON that stays JSON.

Bytes: bits flipped, ranges cut, inserted, repeated, moved. JSON: values of another type, numbers at every edge (0, -1,
2**31, 2**63, 1e308, NaN), keys twice, renamed, gone, lone surrogates, long texts, nesting beyond any parser's depth.
Everything is a function of the `Random` that is handed in.
"""

from __future__ import annotations

import copy
import json
import re
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from random import Random

__all__ = ["Case", "Draw", "Raw", "dump", "mutated_bytes", "mutated_json", "mutated_text", "words_of"]

#: Reads the case that was written, and words of which an error must hold one.
Case: TypeAlias = "tuple[Callable[[], object], tuple[str, ...]]"
Draw: TypeAlias = "Callable[[Random], Case]"

#: Characters of the longest JSON: every reader's time goes with it.
LARGEST = 2_000_000
NUMBERS: tuple[int | float, ...] = (
    *(0, -1, 1, 2, 3, 4, 7, 8, 12, 16, 255, 256, 4096, 10**5, 2**16, 2**20, 2**22, 2**24 + 1),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, -(2**31), -(2**63), 10**400),
    *(0.5, 0.999, 1.0, 1.5, 1e-300, 5e-324, 1e16, 1e308, -1e308, -0.0, float("nan"), float("inf"), float("-inf")),
)
TEXTS = (
    *("", " ", "a", "0", "-1", "1e308", "null", "true", "\0", "\n", "\ud800", "\udfff\ud800", "\u202e", "\ufeff"),
    *("é", "日本", "\U0001f600", "../../x", "/", "%s{}%n", "\\", '"', "'", "=", ";", ",", ":", "x" * 300, "x" * 5000),
    *("0-2", "0,0", "5-2", "0-4194303", "0-999999999", "0-", "1_000", "١٢", "2:4", "0.5/4x4", "stored"),
)
#: What is no JSON number, or none that Python writes.
NO_NUMBERS = ("1" * 5000, "-" + "9" * 400, "1e400", "0." + "1" * 5000, "-0", "1E-400", "01", "+1", ".5")
#: How deep values are nested: beyond what a stack holds.
DEEP = (100, 900, 5000, 100_000)


class Raw:
    """A piece of JSON's text that `dump` writes as it is."""

    def __init__(self, text: str) -> None:
        self.text = text


def dump(value: object, limit: int = LARGEST) -> str:
    """`json.dumps` that knows `Raw`; what makes more than `limit` characters is cut there."""
    text, n = list[str](), 0
    for piece in _pieces(value):
        text.append(piece)
        n += len(piece)
        if n > limit:
            break
    return "".join(text)[:limit]


def _pieces(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield "{"
        for i, (key, of) in enumerate(value.items()):
            yield f"{', ' if i else ''}{json.dumps(str(key))}: "
            yield from _pieces(of)
        yield "}"
    elif isinstance(value, list):
        yield "["
        for i, of in enumerate(value):
            yield ", " if i else ""
            yield from _pieces(of)
        yield "]"
    else:
        yield value.text if isinstance(value, Raw) else json.dumps(value)


def words_of(*values: object) -> tuple[str, ...]:
    """Every key and short text in some JSON: what a mutation writes where it does not belong."""
    words: dict[str, None] = {}
    for value in values:
        inside = (*value.keys(), *value.values()) if isinstance(value, dict) else value
        for piece in inside if isinstance(inside, list | tuple) else ():
            words |= dict.fromkeys((piece,) if isinstance(piece, str) and len(piece) < 40 else words_of(piece))
    return tuple(words)


def odd(rng: Random, words: Sequence[str]) -> Any:  # any JSON
    """A value that nobody expects."""
    value: Any = rng.choice(_ODD)(rng, words)
    return value


def _number(rng: Random, _: Sequence[str]) -> int | float:
    if rng.random() < 0.8:
        return rng.choice(NUMBERS)
    return rng.randrange(-(2 ** rng.randrange(70)), 2 ** rng.randrange(70))


def _nested(rng: Random, _: Sequence[str]) -> Raw:
    depth, (opens, closes) = rng.choice(DEEP), rng.choice((("[", "]"), ('{"a":', "}")))
    return Raw(opens * depth + "0" + closes * depth)


def _object(rng: Random, words: Sequence[str]) -> dict[str, Any]:
    if rng.random() < 0.2:  # as many layers as no model has
        one = odd(rng, words)
        return {str(i): one for i in range(300)}
    return {rng.choice((*words, *TEXTS)): odd(rng, words) for _ in range(rng.randrange(4))}


#: How a value is drawn, as often as it stands here.
_ODD: tuple[Callable[[Random, Sequence[str]], Any], ...] = (
    *(_number, _number, _number, _number, _nested, _object),
    lambda rng, _: rng.choice(TEXTS),
    lambda rng, _: rng.choice(TEXTS),
    lambda rng, words: rng.choice(words),
    lambda rng, _: rng.choice((None, True, False)),
    lambda rng, _: Raw(rng.choice(NO_NUMBERS)),
    lambda rng, words: [odd(rng, words) for _ in range(rng.randrange(4))],
)


def mutated_json(rng: Random, document: Any, words: Sequence[str]) -> bytes:
    """One to three of its values changed; now and then the bytes too, or in another encoding."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        document = _changed(rng, document, words)
    data = dump(document).encode("utf-8", "surrogatepass")
    dice = rng.random()
    if dice < 0.1:
        data = mutated_bytes(rng, data, words)
    elif dice < 0.12:
        data = data.decode("utf-8", "surrogatepass").encode(
            rng.choice(("utf-16", "utf-8-sig", "utf-32")), "surrogatepass"
        )
    return data


def _changed(rng: Random, document: Any, words: Sequence[str]) -> Any:
    """The document, or what stands in its place, with one value changed."""
    parent, key, here = None, None, document
    while isinstance(here, dict | list) and here and (parent is None or rng.random() < 0.75):
        parent, key = here, rng.choice(list(here) if isinstance(here, dict) else range(len(here)))
        here = here[key]
    if parent is None or rng.random() < 0.01:
        return odd(rng, words)
    rng.choice(_WAYS)(rng, parent, key, words)
    return document


def _replace(rng: Random, parent: Any, key: Any, words: Sequence[str]) -> None:
    parent[key] = odd(rng, words)


def _nudge(rng: Random, parent: Any, key: Any, words: Sequence[str]) -> None:
    """A little more or less of the same type; a number as a text, a text cut."""
    value = parent[key]
    if isinstance(value, bool) or value is None:
        parent[key] = not value
    elif isinstance(value, int):
        parent[key] = rng.choice(
            (value + 1, value - 1, -value, 2 * value, value // 2, Raw(f"{value}.0"), str(value), [value])
        )
    elif isinstance(value, float):
        parent[key] = rng.choice((-value, value * 1e3, value * 1e-3, value // 1, str(value)))
    elif isinstance(value, str):
        parent[key] = mutated_text(rng, value, words)
    elif isinstance(value, list):
        parent[key] = rng.choice((value * 2, value[1:], value[::-1], [value], value[:1] * 1000, {"0": value}))
    elif isinstance(value, dict):
        parent[key] = rng.choice(([value], list(value.values()), list(value), {**value, rng.choice(words): 1},
                                  {str(i): rng.choice(list(value.values()) or [1]) for i in range(300)}))  # fmt: skip


def _drop(rng: Random, parent: Any, key: Any, words: Sequence[str]) -> None:  # noqa: ARG001 - as the others
    del parent[key]


def _rename(rng: Random, parent: Any, key: Any, words: Sequence[str]) -> None:
    if isinstance(parent, dict):
        parent[rng.choice((*words, *TEXTS))] = parent.pop(key)
    else:
        parent.insert(key, parent[key])


def _add(rng: Random, parent: Any, key: Any, words: Sequence[str]) -> None:
    if isinstance(parent, dict):
        parent[rng.choice((*words, *TEXTS))] = odd(rng, words)
    else:
        parent.insert(key, odd(rng, words))


def _twice(rng: Random, parent: Any, key: Any, words: Sequence[str]) -> None:
    """A key given twice: within this value, and with another one."""
    name = json.dumps(str(rng.choice(words)))
    parent[key] = Raw(f"{{{name}: {dump(parent[key])}, {name}: {dump(odd(rng, words))}}}")


def _swap(rng: Random, parent: Any, key: Any, words: Sequence[str]) -> None:  # noqa: ARG001 - as the others
    other = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    parent[key], parent[other] = parent[other], parent[key]


_WAYS: tuple[Callable[[Random, Any, Any, Sequence[str]], None], ...] = (
    *(_replace, _replace, _replace, _nudge, _nudge, _nudge, _drop, _rename, _add, _add, _twice, _swap),
)


def mutated_bytes(rng: Random, data: bytes, words: Sequence[str]) -> bytes:
    """One to eight pieces of damage."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at, n = rng.randrange(len(out) + 1), rng.choice((1, 1, 2, 4, 16, 200))
        kind = rng.randrange(10)
        if kind < 3 and at < len(out):
            out[at] = out[at] ^ 1 << rng.randrange(8) if kind < 2 else rng.randrange(256)
        elif kind == 3:
            del out[at:]
        elif kind == 4:
            del out[at : at + n]
        elif kind == 5:
            out[at:at] = rng.randbytes(n)
        elif kind == 6:
            out[at:at] = rng.choice((*words, *TEXTS)).encode("utf-8", "surrogatepass")
        elif kind == 7:
            out[at:at] = out[at : at + n]
        elif kind == 8:
            to = rng.randrange(len(out) + 1)
            out[to : to + n] = out[at : at + n]
        else:
            _other_number(rng, out)
    return bytes(out)


def _other_number(rng: Random, out: bytearray) -> None:
    numbers = list(re.finditer(rb"-?[0-9.]+", out))
    if numbers:
        span = rng.choice(numbers).span()
        out[slice(*span)] = dump(rng.choice(NUMBERS)).encode()


def mutated_text(rng: Random, text: str, words: Sequence[str]) -> str:
    """One to three pieces of damage to a text, which may hold lone surrogates after it."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, n = rng.randrange(len(text) + 1), rng.choice((1, 1, 2, 8))
        way = rng.randrange(6)
        numbers = list(re.finditer(r"[0-9.]+", text))
        if way == 0:
            text = text[:at] + text[at + n :]
        elif way == 1:
            text = text[:at] + rng.choice((*words, *TEXTS)) + text[at:]
        elif way == 2:
            text = text[:at] + chr(rng.choice((rng.randrange(128), rng.randrange(0x110000)))) + text[at + 1 :]
        elif way == 3:
            text = text[:at] + text[at : at + n] * rng.choice((2, 3, 400)) + text[at + n :]
        elif way == 4 and numbers:
            first, last = rng.choice(numbers).span()
            text = text[:first] + dump(rng.choice(NUMBERS)) + text[last:]
        else:
            text = text[:at]
    return text
