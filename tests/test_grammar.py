"""Schemas, grammars and regular expressions that answers are held to, by llguidance; jsonschema says what is valid."""

from __future__ import annotations

import json
import os
import random
import re
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from generation_models import write_writer
from miaotui.errors import BackendError, InputError
from miaotui.loader.text.bounds import check_grammar, check_regex
from miaotui.loader.text.grammar import INDENT, Grammars
from miaotui.loader.text.schema import KEYWORDS, schema_of
from miaotui.loader.text.tokenizer import Tokenizer
from miaotui.runtime.constraints import Steered
from miaotui.runtime.sampling import Sampler, SamplingParams, allowed_of
from miaotui.tools import demo
from real_files import real
from schemas import random_schema
from soak import count

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("llguidance")
validators = pytest.importorskip("jsonschema.validators")

#: next.md's ninth case.
NINTH = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
#: JSON Schema Test Suite, tests/draft2020-12: where it is, for the soak.
SUITE = os.environ.get("MIAOTUI_SCHEMA_SUITE")


@pytest.fixture(scope="module")
def model() -> Iterator[miaotui.Model]:
    with miaotui.load(demo.path(), threads=1, max_context=512) as model:
        yield model


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    tokenizer = Tokenizer.from_directory(demo.path())
    return Grammars(tokenizer, tokenizer.n_vocab + 3)


def accepts(grammars: Grammars, how: dict[str, Any], data: bytes) -> bool:
    """Whether these bytes, one by one, are a whole text."""
    [(name, value)] = how.items()
    matcher: Any = grammars.matcher(grammars.compiled(name, value), first=False)
    first = grammars.vocabulary.bytes_at
    return matcher.try_consume_tokens([first + b for b in data]) == len(data) and matcher.is_accepting()


# ---------------------------------------------------------------- which texts

TAKEN = [
    '{"a":"x"}', '{"a":\r"x"}', '{"a":"\\u00e9"}', '{"a":"\\ud83d\\ude00"}', '{"a":"\N{GRINNING FACE}"}',
    '{ "a" : "x" }', '{\n  "a": "x"\n}', '{"a":""}', '{"a":"\\n\\"\\\\"}', "{\r\n" + " " * INDENT + '"a":\t"x"}',
]  # fmt: skip
REFUSED = [
    '{"a":"\t"}', '{"a":"\n"}', '{"a":"\\q"}', '{"a":"\\u12"}', '{"a":"x",}', '{"a":"x","a":"y"}', '{"a":"x","b":1}',
    "{}", '{"a":1}', '{"a":"x"} ', ' {"a":"x"}', '{"a":"\\ud83d"}', '{"a":  "x"}',
    "{\n" + " " * (INDENT + 1) + '"a":"x"}',
    '{"a":\n\n"x"}', '{"a":"x"', "",
]  # fmt: skip


@pytest.mark.parametrize("text", TAKEN)
def test_json_that_is_allowed(grammars: Grammars, text: str) -> None:
    assert accepts(grammars, {"schema": NINTH}, text.encode())
    assert json.loads(text, strict=True).keys() == {"a"}


@pytest.mark.parametrize("data", [*(text.encode() for text in REFUSED), b'{"a":"\xc0\x80"}', b'{"a":"\xed\xa0\x80"}'])
def test_json_that_is_not(grammars: Grammars, data: bytes) -> None:
    assert not accepts(grammars, {"schema": NINTH}, data)


def test_a_token_that_closes_string_and_object_may_come(model: miaotui.Model) -> None:
    """Of a vocabulary with `"}` as one token: it comes where both end, and neither before nor where one is left."""
    tokenizer = model.tokenizer
    token = next((i for i in range(tokenizer.n_vocab) if tokenizer.id_to_token(i) in {'"}', '."', '!"'}), None)
    assert token is not None
    text = tokenizer.decode([token])
    how = {"regex": re.escape(f"x{text}") + "z"}
    walk = model.constraint(**how).begin([5], model.config.n_vocab)
    for wanted in tokenizer.encode("x", add_special_tokens=False):
        walk.fill()
        walk.advance(wanted)
    mask, may_end = walk.fill()
    assert mask[token >> 5] >> (token & 31) & 1
    assert not may_end


def test_a_drafted_end_leaves_the_walk_as_it_was(model: miaotui.Model) -> None:
    """It is in the mask where the text may end, and no text to a parser, which would give up on it."""
    n_vocab, [x] = model.config.n_vocab, model.tokenizer.encode("x", add_special_tokens=False)
    end = next(i for i in range(n_vocab) if i != x and "x" not in model.tokenizer.decode([i]))
    sampler = Sampler(n_vocab, SamplingParams())
    steered = Steered(model.constraint(regex="x+"), [5], sampler, [end], None)
    for _ in range(3):
        assert not steered.ends_with(x, "x")
        assert sampler.mask is not None
        assert sampler.mask[end >> 5] >> (end & 31) & 1
        assert steered.ahead([end, x]) == []
        assert len(steered.ahead([x, end, x])) == 1


def test_a_key_is_not_spelled_twice(grammars: Grammars) -> None:
    """An escape in a key would be another key to a grammar, and the same to who reads it."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert accepts(grammars, {"schema": schema}, b'{"a":1,"b":"x"}')
    assert not accepts(grammars, {"schema": schema}, b'{"a":1,"\\u0061":"x"}')
    assert not accepts(grammars, {"schema": schema}, b'{"a":1,"a":2}')


DAYS = [
    f"{y:04}-{m:02}-{d:02}"
    for y in (0, 1, 4, 1900, 2000, 2023, 2024, 9999)
    for m in (0, 1, 2, 4, 12, 13)
    for d in (0, 1, 28, 29, 30, 31, 32)
]
TIMES = [
    "23:59:59Z",
    "00:00:00+23:59",
    "12:30:00.123456-01:00",
    "24:00:00Z",
    "23:59:60Z",
    "12:60:00Z",
    "12:30:00",
    "1:30:00Z",
]


def test_a_date_is_one_of_the_calendar(grammars: Grammars) -> None:
    for day in DAYS:
        try:
            there = date.fromisoformat(day)
        except ValueError:
            there = None
        assert accepts(grammars, {"schema": {"type": "string", "format": "date"}}, f'"{day}"'.encode()) == bool(
            there
        ), day
    for time in TIMES:
        assert accepts(grammars, {"schema": {"type": "string", "format": "time"}}, f'"{time}"'.encode()) == (
            time in TIMES[:3]
        )
    both = {"type": "string", "format": "date-time", "pattern": "^2"}
    assert accepts(grammars, {"schema": both}, b'"2024-02-29T10:00:00Z"')
    assert not accepts(grammars, {"schema": both}, b'"2023-02-29T10:00:00Z"')
    assert not accepts(grammars, {"schema": both}, b'"1999-02-28T10:00:00Z"')


def test_blanks_of_a_pattern_are_ecmascript_s(grammars: Grammars) -> None:
    for pattern, taken in (
        (r"^\s$", True),
        (r"^\S$", False),
        (r"^[x\s]$", True),
        (r"^[^\s]$", False),
        (r"^\\S$", False),
    ):
        assert accepts(grammars, {"schema": {"type": "string", "pattern": pattern}}, '"\ufeff"'.encode()) == taken
    with pytest.raises(InputError, match=r"schema: pattern .* \\S among other characters in brackets"):
        schema_of({"type": "string", "pattern": r"[\S ]"})


GRAMMARS = [
    ({"grammar": 'root ::= "a" list | "b"\nlist ::= [0-9]+ ("," [0-9]+)*'}, ["a1", "a1,23", "b"], ["a", "a1,", "ab"]),
    ({"grammar": 'start: "a" list | "b"\nlist: /[0-9]+/ ("," /[0-9]+/)*'}, ["a1", "a1,23", "b"], ["a", "a1,", "ab"]),
    ({"regex": "[a-z]+/é|x\\n"}, ["ab/é", "x\n"], ["ab", "x", "/é", "x\n\n"]),
    ({"schema": {"enum": ["x", 1, None]}}, ['"x"', "1", "null"], ["x", "1.0", '"1"']),
    ({"schema": json.dumps({"type": "array", "items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "integer"}}})},
     ["[]", "[1,-2]"], ["[1.5]", "[1", "1"]),
]  # fmt: skip


@pytest.mark.parametrize(("how", "taken", "refused"), GRAMMARS)
def test_grammars_and_expressions(
    grammars: Grammars, how: dict[str, Any], taken: list[str], refused: list[str]
) -> None:
    assert [text for text in [*taken, *refused] if accepts(grammars, how, text.encode())] == taken


# ---------------------------------------------------------------- what is refused before any pass

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"schema": {}}, "^schema={}: it says nothing about the answer"),
    ({"schema": True}, "^schema=True: it says nothing"),
    ({"schema": "{"}, "^schema='{': not JSON"),
    ({"schema": 3}, "^schema=3: expected a JSON schema as a dict or JSON text, or a pydantic class"),
    ({"schema": {"type": {1, 2}}}, "^schema: Object of type set is not JSON serializable"),
    ({"schema": {"type": "object", "properties": {"a": {"not": {}}}}}, "^schema: #/properties/a: not: not supported"),
    ({"schema": {"type": "string", "x-mine": 1}}, "^schema: #: x-mine: not supported"),
    ({"schema": {"type": "array", "items": {"format": "regex"}}}, "^schema: #/items: format 'regex': not supported"),
    ({"schema": {"anyOf": [{"type": "string"}, 3]}}, "^schema: #/anyOf/1: 3 found, expected a schema"),
    ({"schema": {"properties": {"foo": {}}, "patternProperties": {"^f": {}}}},
     r"^schema: #: the key 'foo' is in properties, and '\^f' in patternProperties matches it too"),
    ({"schema": {"patternProperties": {"(": {}}, "properties": {"a": {}}}}, r"^schema: #: patternProperties '\('"),
    ({"schema": {"type": "object", "minProperties": 2}}, "^schema: #: minProperties with keys that are not all named"),
    ({"schema": {"type": "string", "pattern": "(?=a)"}}, "^schema: llguidance refuses it: .*look-around"),
    ({"schema": {"$ref": "http://x.org/y"}}, "^schema: llguidance refuses it: .*http://x.org/y"),
    ({"schema": {"type": 5}}, "^schema: #: type 5: expected the name of a type"),
    ({"schema": {"type": "string", "format": []}}, r"^schema: #: format \[\]: not supported"),
    ({"schema": {"type": "object", "minProperties": "a"}}, "^schema: #: minProperties 'a': expected an integer"),
    ({"schema": {"type": "integer", "multipleOf": -1}}, "^schema: #: multipleOf -1: expected a number above 0"),
    ({"schema": {"type": "integer", "multipleOf": 1_005_973}}, "^schema: #: multipleOf: more than 100000 remainders"),
    ({"schema": {"type": "number", "allOf": [{"multipleOf": 9.97}, {"multipleOf": 1009}]}},
     "^schema: #: multipleOf: more than 100000 remainders"),
    ({"schema": {"$ref": "#/$defs/a", "multipleOf": 997, "$defs": {"a": {"type": "integer", "multipleOf": 1009}}}},
     "^schema: #: multipleOf: more than 100000 remainders"),
    ({"schema": {"const": "\ud800"}}, "^schema: llguidance refuses it: .*hex escape"),
    ({"schema": {"properties": {"\ud800": {"type": "null"}}}}, "^schema: llguidance refuses it: .*hex escape"),
    ({"schema": {"const": 10**400}}, "^schema: llguidance refuses it: number out of range"),
    ({"schema": {"type": "object", "patternProperties": {"^(a+)+$": {}}, "properties": {"a" * 40 + "b": {}}}},
     "^schema: #: patternProperties .* may take for ever"),
    ({"schema": {"$ref": "#"}}, "^schema: llguidance refuses it: .* no text is as is asked for"),
    ({"regex": r"[^\s\S]"}, r"^regex='.*': llguidance refuses it: .* no text is as is asked for"),
    ({"grammar": 'root ::= root "a"'}, "^grammar='.*': llguidance refuses it: .* no text is as is asked for"),
    ({"regex": "a("}, r"^regex='a\(': llguidance refuses it: .*unclosed group"),
    ({"regex": ""}, "^regex='': expected a text"),
    ({"regex": 3}, "^regex=3: expected a text"),
    ({"grammar": "start: foo"}, "^grammar='start: foo': llguidance refuses it: .*unknown name"),
    ({"grammar": "root ::= ("}, r"^grammar='root ::= \(': llguidance refuses it: Failed to convert the grammar"),
    ({"grammar": 'start: "a', "schema": NINTH}, "^schema and grammar: an answer is held to one of them"),
]  # fmt: skip


@pytest.mark.parametrize(("how", "message"), WRONG)
def test_what_is_wrong_is_said_before_any_pass(model: miaotui.Model, how: dict[str, Any], message: str) -> None:
    with model.sequence() as text:
        text.feed([5, 6])
        with pytest.raises(InputError, match=message):
            text.generate(**how)
        assert text.ids == [5, 6]
    if len(how) == 1:
        with pytest.raises(InputError, match=message):
            model.constraint(**how)


@pytest.mark.parametrize("levels", [5, 60])
def test_a_schema_that_names_another_twice_and_so_on_is_read_once(levels: int) -> None:
    """llguidance writes it out: that of sixty levels would never end."""
    defs: dict[str, Any] = {f"{i}": {"allOf": [{"$ref": f"#/$defs/{i + 1}"}] * 2} for i in range(levels)}
    defs[f"{levels}"] = {"type": "integer", "multipleOf": 3}
    schema = {"$ref": "#/$defs/0", "$defs": defs}
    if levels == 5:
        assert schema_of(schema).given["$defs"]["5"] == defs["5"]
        return
    with pytest.raises(InputError, match=r"^schema: #: its allOf and \$ref are more than 10,000 schemas"):
        schema_of(schema)


def test_schemas_in_one_another_without_end_are_refused() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(300):
        deep = {"type": "array", "items": deep}
    with pytest.raises(InputError, match="schemas lie more than 200 deep"):
        schema_of(deep)
    with pytest.raises(InputError, match=r"schema: .*(recursion|deep)"):
        schema_of(json.loads("[" * 900 + "]" * 900) and {"const": _nested(100_000)})


def _nested(n: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(n):
        made = [made]
    return made


def test_without_llguidance_the_extra_is_named(model: miaotui.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with pytest.raises(BackendError, match=r"pip install 'miaotui\[grammar\]'"):
        Grammars(model.tokenizer, model.config.n_vocab)


def test_without_llguidance_an_error_begins_with_what_was_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from miaotui.tools.cli import main

    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    with (
        miaotui.load(demo.path()) as other,
        pytest.raises(BackendError, match=r"^regex: needs llguidance .*: pip install 'miaotui\[grammar\]'"),
    ):
        other.generate("Once", regex="[a-z]+")
    assert main(["generate", "--regex", "[a-z]+", "Once"]) == 1
    assert capsys.readouterr().err.startswith("miaotui: error: --regex: needs llguidance ")


# ---------------------------------------------------------------- answers


def check(schema: dict[str, Any], out: miaotui.Generation) -> bool:
    """Whether it ended; valid, if so."""
    if out.finish_reason not in {"eos", "stop"}:
        assert out.finish_reason in {"length", "context"}
        return False
    value = json.loads(out.text, parse_float=Decimal)
    given = json.loads(json.dumps(schema), parse_float=Decimal)
    validators.Draft202012Validator(given).validate(value)
    return True


def answered(model: miaotui.Model, n: int, seed: int) -> tuple[int, int]:
    """Answers held to random schemas: how many there are, and how many came to their end."""
    rng, ended, made = random.Random(seed), 0, 0  # noqa: S311 - schemas, no secrets
    for _ in range(n):
        schema = random_schema(rng)
        try:
            compiled = model.constraint(schema=schema)
        except InputError:  # nothing satisfies it
            continue
        out = model.generate("Once upon", schema=compiled, temperature=1.3, seed=rng.getrandbits(32), max_new_tokens=48)
        made, ended = made + 1, ended + check(schema, out)
    return made, ended


def test_answers_are_valid_or_cut(model: miaotui.Model) -> None:
    made, ended = answered(model, 12, 1)
    assert made > 8
    assert ended > 3


def test_answers_of_a_model_that_draws_bytes_are_valid_or_cut(tmp_path: Path) -> None:
    with miaotui.load(write_writer(tmp_path / "llama", "llama"), threads=1) as model:
        made, ended = answered(model, 25, 2)
    assert made > 10
    assert ended > 3


def test_answers_of_a_trained_model_with_byte_fallback_are_valid_or_cut() -> None:
    with miaotui.load(real("models", "stories260K-hf"), threads=1) as model:
        made, ended = answered(model, 25, 3)
        assert made > 10
        assert ended > 3
        held = {"regex": " ?[a-c]{2,3}", "temperature": 3.0}
        for prompt in ("Once", [model.tokenizer.bos_id]):  # at a text's beginning the decoder drops a space
            for seed in range(12):
                out = model.generate(prompt, seed=seed, **held)
                assert re.fullmatch(held["regex"], out.text), out


@pytest.mark.parametrize("kind", ["t5", "nllb", "mbart"])
def test_answers_that_begin_a_text_match(tmp_path: Path, kind: str) -> None:
    """An encoder-decoder's answer begins a text; a vocabulary without brackets says so."""
    with miaotui.load(write_writer(tmp_path / kind, kind), threads=1) as model:
        for seed in range(12):
            out = model.generate("a b", regex="[ab]{2,4}( [ab]+){0,2}", seed=seed, temperature=3.0, max_new_tokens=12)
            assert out.finish_reason == "length" or re.fullmatch("[ab]{2,4}( [ab]+){0,2}", out.text), out
        with pytest.raises(InputError, match="schema: after 0 tokens of the answer no token of the vocabulary"):
            model.generate("a b", schema=NINTH)


@pytest.mark.soak("schemas")
@pytest.mark.parametrize("kind", ["demo", "dates", "llama", "stories260K-hf"])
def test_five_hundred_random_schemas(tmp_path: Path, pytestconfig: pytest.Config, kind: str) -> None:
    at = {"demo": demo.path, "dates": lambda: demo.path("dates"), "llama": lambda: write_writer(tmp_path, kind)}
    with miaotui.load(at[kind]() if kind in at else real("models", kind), threads=1) as model:
        made, ended = answered(model, 500, int(pytestconfig.getoption("hypothesis_seed") or 1))
    count(f"{kind}: answers", made)
    count(f"{kind}: ended", ended)


@pytest.mark.soak("schemas")
def test_nothing_comes_that_the_suite_s_schemas_refuse(grammars: Grammars) -> None:
    """JSON Schema Test Suite, draft 2020-12, in the directory that MIAOTUI_SCHEMA_SUITE names."""
    if SUITE is None:
        pytest.fail("MIAOTUI_SCHEMA_SUITE: name the suite's directory tests/draft2020-12")
    for path in sorted(Path(SUITE).rglob("*.json")):
        for case in json.loads(path.read_text(encoding="utf-8")):
            judge(grammars, f"{path.stem}: {case['description']}", case["schema"], case["tests"])


def judge(grammars: Grammars, where: str, schema: Any, tests: list[dict[str, Any]]) -> None:
    try:
        compiled = grammars.compiled("schema", schema)
    except InputError:
        count("suite: refused", len(tests))
        return
    for test in tests:
        data = json.dumps(test["data"], ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        matcher: Any = grammars.matcher(compiled, first=False)
        first = grammars.vocabulary.bytes_at
        taken = matcher.try_consume_tokens([first + b for b in data]) == len(data) and matcher.is_accepting()
        count(f"suite: {'taken' if taken else 'not taken'}, {'valid' if test['valid'] else 'invalid'}")
        assert test["valid"] or not taken, f"{where}: {test['description']}: {data!r}"


def test_what_a_pydantic_class_allows_is_one_of_it(model: miaotui.Model) -> None:
    pydantic = pytest.importorskip("pydantic")

    class Person(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        name: str = pydantic.Field(max_length=8)
        age: int = pydantic.Field(ge=0, le=99)
        born: date | None = None

    for seed in range(3):
        out = model.generate("Once", schema=Person, temperature=1.0, seed=seed, max_new_tokens=80)
        if out.finish_reason == "eos":
            assert Person.model_validate_json(out.text).age >= 0
    assert schema_of(Person).given["additionalProperties"] is False
    assert schema_of(Person).closed


def test_a_mask_that_allows_all_changes_nothing(model: miaotui.Model) -> None:
    ends = {*model.config.eos_ids}
    for seed in range(4):
        how: dict[str, Any] = {"temperature": 1.0, "seed": seed, "max_new_tokens": 20}
        plain = model.generate("Once upon a time", **how)
        held = model.generate("Once upon a time", regex="(?s:.*)", **how)
        assert held.ids == plain.ids
        assert held.text == plain.text
        assert not {*plain.ids[:-1]} & ends


@pytest.mark.parametrize("how", [{"schema": NINTH}, {"regex": "(the [a-z]+ )+"}, {"grammar": 'root ::= ("a" | "bc")+'}])
def test_masks_ahead_are_those_that_come(model: miaotui.Model, how: dict[str, Any]) -> None:
    """Of ids that may follow one another, from anywhere on a way; looking ahead leaves the way as it is."""
    n_vocab, held = model.config.n_vocab, model.constraint(**how)
    for seed in range(6):
        rng, walk, masks = np.random.default_rng(seed), held.begin([5], n_vocab), list[tuple[bytes, bool]]()
        way: list[int] = []
        while True:
            mask, may_end = walk.fill()
            masks.append((mask.tobytes(), may_end))
            ids = np.flatnonzero(allowed_of(mask, n_vocab))
            if not ids.size or len(way) == 12:
                break
            way.append(int(rng.choice(ids)))
            walk.advance(way[-1])
        walk = held.begin([5], n_vocab)
        for at, token in enumerate(way):
            now, _ = walk.fill()
            assert now.tobytes() == masks[at][0]
            drafted = way[at : at + 4]
            assert [(m.tobytes(), end) for m, end in walk.ahead(drafted)] == masks[at + 1 : at + 1 + len(drafted)]
            wrong = next((i for i in range(n_vocab) if not now[i >> 5] >> (i & 31) & 1), None)
            assert wrong is None or walk.ahead([wrong, *drafted]) == []
            assert now.tobytes() == masks[at][0]
            walk.advance(token)


def test_what_is_given_up_on_ahead_is_no_matter(model: miaotui.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ids that are perhaps never drawn: the way goes on from where it is."""
    walk: Any = model.constraint(regex="(the [a-z]+ )+").begin([5], model.config.n_vocab)
    ids = model.tokenizer.encode("the cat the dog ", add_special_tokens=False)
    for token in ids[:2]:
        walk.fill()
        walk.advance(token)
    before, before_end = walk.fill()
    before = before.copy()
    filled, left = walk._filled, [2]

    def gives_up(mask: Any) -> bool:
        left[0] -= 1
        if left[0] == 0:
            raise InputError
        return filled(mask)

    monkeypatch.setattr(walk, "_filled", gives_up)
    assert len(walk.ahead(ids[2:5])) == 1
    monkeypatch.undo()
    after, after_end = walk.fill()
    assert (after.tobytes(), after_end) == (before.tobytes(), before_end)
    walk.advance(ids[2])
    assert walk.fill()[0].any()


def test_the_end_comes_at_the_end_alone(model: miaotui.Model) -> None:
    ends = {*model.config.eos_ids}
    out = model.generate("Once", regex="[ab]{5}", temperature=9.0, seed=1, max_new_tokens=20)
    assert re.fullmatch("[ab]{5}", out.text)
    assert out.finish_reason == "eos"
    assert out.ids[-1] in ends
    assert not {*out.ids[:-1]} & ends
    cut = model.generate("Once", regex="[ab]{50}", max_new_tokens=4)
    assert cut.finish_reason == "length"
    free = model.generate("Once", regex="[ab]{5}", ignore_eos=True)
    assert (free.finish_reason, len(free.text)) == ("stop", 5)


def test_an_answer_that_is_not_valid_is_an_error() -> None:
    schema = schema_of(NINTH)
    schema.check('{"a": "x"}')
    with pytest.raises(BackendError, match=r"schema: the answer '\{' is no JSON"):
        schema.check("{")
    with pytest.raises(BackendError, match=r"schema: the answer .* is not valid \(\$: "):
        schema.check('{"b": 1}')
    schema_of({"type": "number", "multipleOf": 0.1}).check("0.3")


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "integer"}, "1" * 5000),  # more digits than Python turns into a number
        ({"type": "number", "multipleOf": 3}, "3e400"),  # a remainder of more digits than Decimal's
        ({"type": "number", "minimum": 3}, "1e99999999999999999999999"),
        ({"type": "string", "pattern": "^(?:(a+)+b|a{30})$"}, '"' + "a" * 30 + '"'),  # hours, tried one by one
    ],
)
def test_what_python_cannot_check_is_no_fault(schema: dict[str, Any], text: str) -> None:
    schema_of(schema).check(text)


@pytest.mark.parametrize("step", [1e5, 100_000, 0.001, 2.5, 10, 12_000.0])
def test_a_step_is_as_large_as_its_digits(grammars: Grammars, step: float) -> None:
    assert accepts(grammars, {"schema": {"type": "number", "multipleOf": step}}, b"300000")


def test_a_grammar_of_another_tokenizer_is_refused(model: miaotui.Model) -> None:
    """Its masks are bits of other ids, though there be as many."""
    theirs = demo.path().parent / "models" / "chat"
    with miaotui.load(theirs, threads=1) as other:
        assert other.config.n_vocab == model.config.n_vocab
        compiled = other.constraint(regex="[a-z]+")
        other.generate("Once", regex=compiled, max_new_tokens=2)
        with pytest.raises(InputError, match=r"^regex=.*: prepared with another tokenizer; use this model's"):
            model.generate("Once", regex=compiled)


def test_every_keyword_of_the_list_is_supported(grammars: Grammars) -> None:
    """What the page lists compiles; the library may refuse a keyword in a later version."""
    values: dict[str, Any] = {
        "items": {"type": "integer"}, "prefixItems": [{"type": "integer"}], "additionalProperties": False,
        "properties": {"a": {"type": "integer"}}, "patternProperties": {"^a": {"type": "integer"}}, "required": ["a"],
        "anyOf": [{"type": "string"}], "oneOf": [{"type": "string"}], "allOf": [{"type": "string"}], "$anchor": "x",
        "$defs": {}, "definitions": {}, "$ref": "#/$defs/n", "type": "string", "enum": ["a"], "const": "a",
        "pattern": "a", "format": "date", "multipleOf": 2, "discriminator": {"propertyName": "a"}, "$id": "http://x.org/a",
        "$schema": "https://json-schema.org/draft/2020-12/schema", "examples": [1], "default": 1,
    }  # fmt: skip
    numbers = {
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
    }
    for name in sorted(KEYWORDS):
        value = values.get(
            name, 3 if name in numbers else 1 if "Properties" in name else True if "Only" in name else "x"
        )
        if name == "deprecated":
            value = True
        schema = {name: value, "$defs": {"n": {"type": "integer"}}} if name == "$ref" else {name: value}
        assert grammars.compiled("schema", schema).name == "schema", name


def test_what_a_signal_s_handler_raises_is_raised(model: miaotui.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokenizer is asked from inside llguidance, to which an exception is a fault of its own."""
    from miaotui.loader.text import grammar

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(grammar, "one", interrupted)
    with pytest.raises(KeyboardInterrupt):  # of the first mask
        model.constraint(regex="never asked before")
    compiled = model.constraint(regex="(now|ever) asked before")
    with pytest.raises(KeyboardInterrupt):
        model.generate("Once", regex=compiled)
    monkeypatch.undo()
    assert model.generate("Once", regex="never asked before").text == "never asked before"
    assert model.generate("Once", regex=compiled).text in {"now asked before", "ever asked before"}


def test_the_command_takes_a_schema_and_an_expression(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from miaotui.tools.cli import main

    file = tmp_path / "s.json"
    file.write_text(json.dumps(NINTH["properties"]["a"] | {"maxLength": 3}), encoding="utf-8")
    assert main(["generate", "--schema", str(file), "--no-prompt", "Once"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), str)
    file.write_text('{"type": "array", "contains": {}}', encoding="utf-8")
    assert main(["generate", "--schema", str(file), "Once"]) == 2
    assert f"--schema {file}: #: contains: not supported" in capsys.readouterr().err
    assert main(["generate", "--regex", "a(", "Once"]) == 2
    assert capsys.readouterr().err.startswith("miaotui: error: --regex a(: llguidance refuses it: invalid regex")
    file.write_text("start: foo", encoding="utf-8")
    assert main(["generate", "--grammar", str(file), "Once"]) == 2
    assert f"--grammar {file}: llguidance refuses it: 1(8): unknown name" in capsys.readouterr().err
    assert main(["generate", "--grammar", str(tmp_path / "none"), "Once"]) == 2
    assert "--grammar: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("check", "fits", "over", "said"),
    [
        (check_regex, "a" * 8192, "a" * 8193, "regex: 8,193 characters; expected at most 8,192"),
        (check_grammar, "a: b\n" * 1000, "a: b\n" * 1001, "expected at most 1,000 rules"),
        (check_grammar, "a: (b)\n" * 500, "a: (b)\n" * 500 + "a: b\n", "with the brackets in them 1,000"),
        (check_grammar, "a: [b]\n" * 500, "a: [b]\n" * 501, "with the brackets in them 1,000"),
        (check_grammar, "a ::= b\n" * 300, "a ::= b\n" * 301, "expected at most 300 rules"),
        (check_grammar, "a: b" + " " * 32764, "a: b" + " " * 32765, "32,769 characters without its schemas"),
    ],
)
def test_each_bound_of_a_form_is_where_its_error_says(check: Any, fits: str, over: str, said: str) -> None:
    check(fits)
    with pytest.raises(InputError, match=re.escape(said)):
        check(over)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_cannot_spell_is_no_part_of_a_schema(number: float) -> None:
    with pytest.raises(InputError, match="expected what JSON can spell"):
        schema_of({"type": "number", "maximum": number})
