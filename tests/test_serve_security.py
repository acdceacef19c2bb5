"""What is sent to do harm, over a socket: refused soon, in the route's own form, with the field that is wrong."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from typing import TYPE_CHECKING, Any

import miaotui
import pytest
from adapters_apart import write_adapter
from miaotui.tools import demo

pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
pytest.importorskip("jinja2")

from miaotui.tools.server.app import WIRES
from miaotui.tools.server.generating import OWN, SAMPLING
from miaotui.tools.server.parsing import DEEPEST
from miaotui.tools.server.served import Served
from serving import on_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miaotui.tools.server.fields import Field, Schema

CHAT, COMPLETIONS, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"
USER = [{"role": "user", "content": "Hi"}]
QUESTION = {"type": "noul", "instructions": "Is it?", "criteria": {"true": "yes", "false": "no"}}
#: A right body for each route.
GOOD: dict[str, dict[str, Any]] = {
    CHAT: {"messages": USER, "max_tokens": 1, "temperature": 0},
    COMPLETIONS: {"prompt": "Once", "max_tokens": 1, "temperature": 0},
    MESSAGES: {"messages": USER, "max_tokens": 1, "temperature": 0},
    "/v1/messages/count_tokens": {"messages": USER},
    RESPONSES: {"input": "Hi", "max_output_tokens": 1, "temperature": 0},
    "/v1/embeddings": {"model": "encoder", "input": "a"},
    "/v1/rerank": {"query": "a", "documents": ["b"]},
    "/rerank": {"query": "a", "documents": ["b"]},
    "/v1/systemone": {"model": "chat", "state": "a", "questions": {"q": QUESTION}},
    "/v1/decisions": {"input": "a", "questions": [{"type": "predicate", "name": "q", "instructions": "Is it?"}]},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [5]},
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place = tmp_path_factory.mktemp("adapter")
    write_adapter(place / "polite", demo.path(), "q_proj", seed=1)
    models = {
        "chat": miaotui.load(demo.path("chat"), cache_tokens=2048), "encoder": miaotui.load(demo.path("encoder")),
        "story": miaotui.load(demo.path(), cache_tokens=1024, adapters={"polite": place / "polite"}),
    }  # fmt: skip
    served = Served(models, {"polite": ("story", "polite")})
    with (
        contextlib.closing(served),
        on_loopback(served) as url,
    ):
        yield url.removeprefix("http://")


class Peer:
    """One connection that is kept."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=60)

    def close(self) -> None:
        """End it."""
        self._connection.close()

    def send(self, path: str, body: object, method: str = "POST") -> tuple[int, Any]:
        """Status, and the answer's JSON. Text is sent as it is."""
        data = body if isinstance(body, str) else json.dumps(body)
        self._connection.request(method, path, data.encode(), {"content-type": "application/json"})
        with self._connection.getresponse() as reply:
            assert reply.getheader("content-type") == "application/json"
            return reply.status, json.loads(reply.read())

    def refused(self, path: str, body: object, method: str = "POST") -> dict[str, Any]:
        """What is told of a request that must be refused as the client's fault, in OpenAI's form, and the status."""
        status, told = self.send(path, body, method)
        assert 400 <= status < 500, (path, str(body)[:200], status, told)
        error: dict[str, Any] = told["error"]
        assert len(error["message"]) < 2000
        return {"param": None, **error, "status": status}


@pytest.fixture(scope="module")
def peer(address: str) -> Iterator[Peer]:
    with contextlib.closing(Peer(address)) as peer:
        yield peer


def test_every_route_has_a_right_body(peer: Peer) -> None:
    assert {wire.path for wire in WIRES} == GOOD.keys()
    for path, body in GOOD.items():
        status, told = peer.send(path, body)
        assert status == 200, (path, told)


BAD = ("-1", "1e308", "-1e999", "1" + "0" * 400, "0.5")


def numbers(schema: Schema, at: str) -> Iterator[tuple[str, str, Schema]]:
    """Every number in a value of this type: its place, JSON with X in its place, and its own type."""
    for branch in schema.get("anyOf", [schema]):
        kind = branch.get("type")
        if kind in {"integer", "number"}:
            yield at, "X", branch
        elif kind == "array":
            yield from ((p, f"[{v}]", s) for p, v, s in numbers(branch.get("items", {}), f"{at}[0]"))
        elif kind == "object":
            inside = {**branch.get("properties", {})}
            inside |= {"1": other} if (other := branch.get("additionalProperties")) else {}
            for name, each in inside.items():
                yield from ((p, f'{{"{name}": {v}}}', s) for p, v, s in numbers(each, f"{at}.{name}"))


def numeric_fields() -> Iterator[tuple[str, Field, str, str, Schema]]:
    """Of every route; those that several share, in completions alone."""
    shared = {field.name for field in (*OWN, *SAMPLING)}
    for wire in WIRES:
        for field in wire.fields:
            if wire.path == COMPLETIONS or field.name not in shared:
                yield from ((wire.path, field, *each) for each in numbers(field.schema, field.name))


@pytest.mark.ci  # 8 s
def test_numbers_are_within_their_bounds_or_named(peer: Peer) -> None:
    """Whatever a number is, it is taken or refused by its name; what its type does not allow is refused."""
    n = 0
    for path, field, at, value, schema in numeric_fields():
        for number in BAD:
            rest = {key: each for key, each in GOOD[path].items() if key != field.name}
            body = json.dumps(rest)[:-1] + f'{", " if rest else ""}"{field.name}": {value.replace("X", number)}}}'
            status, told = peer.send(path, body)
            x = float(number)
            most = 2.0**63 if schema["type"] == "integer" else 1e308
            within = schema.get("minimum", -1e308) <= x <= schema.get("maximum", most)
            if within and not (schema["type"] == "integer" and number == "0.5") and status == 200:
                continue
            n += 1
            assert 400 <= status < 500, (path, body, told)
            if not path.startswith(MESSAGES):
                assert told["error"]["param"] is not None, (path, body, told)
                assert told["error"]["param"].split("[")[0].split(".")[0] in {field.name, at}, (path, body, told)
            assert field.name in told["error"]["message"], (path, body, told)
    assert n > 150


@pytest.mark.parametrize("path", GOOD)
def test_what_is_no_json_is_named(peer: Peer, path: str) -> None:
    """Words for numbers that JSON has not, keys that stand twice, brackets in brackets."""
    name = next(iter(GOOD[path]))
    for odd, where in (
        ('{"%s": NaN}', name),
        ('{"%s": [1, {"a": -Infinity}]}', f"{name}[1].a"),
        ('{{"{}": 1, "{}": 1}}'.format("%s", name), name),
        ('{"%s": {"b": [{"a": 1, "a": 1}]}}', f"{name}.b[0].a"),
        ('{"%s": ' + "[" * (DEEPEST + 9) + "]" * (DEEPEST + 9) + "}", name),
        ('{"%s": ' + '{"a":' * (DEEPEST + 9) + "1" + "}" * (DEEPEST + 9) + "}", name),
        ('{"%s": ' + "[" * 200_000 + "]" * 200_000 + "}", ""),
    ):
        status, told = peer.send(path, odd % name)
        if path == "/v1/systemone":
            [fault] = told["detail"]
            assert (status, fault["loc"]) == (422, ["body", where] if where else ["body"])
            assert where in fault["msg"]
        else:
            assert status == 400
            assert path.startswith(MESSAGES) or told["error"]["param"] == (where or None)
            assert where in told["error"]["message"]


DEEP: Any = 1
for _ in range(DEEPEST - 8):
    DEEP = {"a": DEEP}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
CALL = {"id": "1", "type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (CHAT, {"chat_template_kwargs": DEEP}),
        (CHAT, {"documents": [DEEP]}),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "f", "parameters": DEEP}}]}),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "f", "strict": True, "parameters": DEEP}}]}),
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": DEEP}}}),
        (CHAT, {"logit_bias": DEEP}),
        (MESSAGES, {"tools": [{"name": "f", "input_schema": DEEP}]}),
        (RESPONSES, {"tools": [{"type": "function", "name": "f", "parameters": DEEP}]}),
        (RESPONSES, {"text": {"format": {"type": "json_schema", "schema": DEEP}}}),
        ("/v1/systemone", {"state": DEEP}),
        ("/v1/systemone", {"questions": DEEP}),
        ("/v1/decisions", {"input": [DEEP]}),
        ("/v1/decisions", {"questions": [DEEP]}),
        ("/tokenize", {"prompt": None, "messages": [{"role": "user", "content": DEEP}]}),
        ("/tokenize", {"prompt": None, "messages": USER, "chat_template_kwargs": DEEP}),
        ("/tokenize", {"prompt": None, "messages": USER, "tools": [DEEP]}),
        (CHAT, {"messages": [*USER, {"role": "assistant", "content": "", "tool_calls": [
            {**CALL, "function": {"name": "f", "arguments": '{"a":' * 100_000}}]}]}),
        (CHAT, {"messages": [*USER, {"role": "assistant", "content": "", "tool_calls": [
            {**CALL, "function": {"name": "f", "arguments": json.dumps(DEEP)}}]}]}),
    ],
    ids=range(18),
)  # fmt: skip
def test_what_lies_deep_is_no_fault_of_the_servers(peer: Peer, path: str, more: dict[str, Any]) -> None:
    status, told = peer.send(path, {**GOOD[path], **more})
    assert status < 500, told


def raw(address: str, data: bytes) -> bytes:
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(data)
        got = b""
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(65536):
                got += piece
    return got


HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
SECOND = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
#: What is sent -> the code of the one error that comes back.
SMUGGLED: dict[str, tuple[bytes, str]] = {
    "a length and chunks": (
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SECOND,
        "invalid_http",
    ),
    "chunks and a length": (
        b"transfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n0\r\n\r\n" + SECOND,
        "invalid_http",
    ),
    "two lengths": (b"content-length: 5\r\ncontent-length: 50\r\n\r\nhello" + SECOND, "invalid_http"),
    "two lengths in one": (b"content-length: 5, 50\r\n\r\nhello" + SECOND, "invalid_http"),
    "a length with a sign": (b"content-length: +5\r\n\r\nhello" + SECOND, "invalid_http"),
    "a negative length": (b"content-length: -1\r\n\r\n" + SECOND, "invalid_http"),
    "a length of letters": (b"content-length: 0x5\r\n\r\nhello" + SECOND, "invalid_http"),
    "a length of another script": ("content-length: \u0665\r\n\r\nhello".encode() + SECOND, "invalid_http"),
    "a length of a line": (b"content-length: " + b"9" * 5000 + b"\r\n\r\nhello" + SECOND, "invalid_http"),
    "chunks that are none": (b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + SECOND, "invalid_http"),
    "chunks twice": (
        b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SECOND,
        "invalid_http",
    ),
    "chunks of another kind": (b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + SECOND, "invalid_http"),
    "a chunk of a negative size": (b"transfer-encoding: chunked\r\n\r\n-1\r\nab\r\n0\r\n\r\n" + SECOND, "invalid_http"),
    "a blank before the colon": (b"content-length : 5\r\n\r\nhello" + SECOND, "invalid_http"),
    "a blank before the name": (b" content-length: 5\r\n\r\nhello" + SECOND, "invalid_http"),
    "a line feed in a header": (b"x-a: b\nhost: other\rc: d\r\n\r\n" + SECOND, "invalid_http"),
    "a zero byte in a header": (b"x-a: b\x00c\r\n\r\n" + SECOND, "invalid_http"),
    "two hosts": (b"host: other\r\n\r\n" + SECOND, "invalid_http"),
    "another version": (b"\r\n", "invalid_http"),
    "a large header": (b"x-a: " + b"b" * (64 << 10) + b"\r\n\r\n" + SECOND, "headers_too_large"),
    "many headers": (b"a:\r\n" * 1000 + b"\r\n" + SECOND, "headers_too_large"),
    "more headers": (b"a:\r\n" * 100_000 + b"\r\n" + SECOND, "headers_too_large"),
}


@pytest.mark.parametrize("what", SMUGGLED)
def test_a_request_in_a_request_is_refused_with_the_first(address: str, what: str) -> None:
    """One answer, an error; nothing that came after it is read as a request."""
    data, code = SMUGGLED[what]
    if what == "another version":
        data = b"POST /v1/completions HTTP/9.9\r\nhost: localhost\r\n\r\n" + SECOND
    else:
        data = HEAD + data
    got = raw(address, data)
    head, _, body = got.partition(b"\r\n\r\n")
    assert got.count(b"HTTP/1.1 ") == 1, got[:500]
    assert head.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431")), got[:500]
    assert b"connection: close" in head.lower()
    error = json.loads(body)["error"]
    assert sorted(error) == ["code", "message", "param", "type"]
    assert error["code"] in {code, "invalid_http"}


def test_a_folded_header_is_one_header(address: str) -> None:
    """As RFC 9112 (5.2) allows: the line goes on, and is no header of its own, and no end of the headers."""
    folded = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx-a: b\r\n content-length: 50\r\nconnection: close\r\n\r\n"
    got = raw(address, folded)
    assert got.startswith(b"HTTP/1.1 200")
    assert got.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/../../etc/passwd", "/v1/models/..%2f..%2fetc%2fpasswd", "/v1/models/%2e%2e/%2e%2e/etc/passwd",
        "/v1/models/chat%00", "/v1/models/chat/", "/v1/models//chat", "/v1/models/chat%2f..%2fchat", "/v1//models/chat",
        "/page/../fields.py", "/page/%2e%2e%2ffields.py", "/page/..%5cfields.py", "/page//etc/passwd", "/page/", "//",
        "/%", "/%zz", "/%ff%fe", "/v1/models/%ff", "/" + "a" * 9000, "/v1/chat/completions/", "http://localhost/nothing",
        "/tokenizer_info?model=../../etc/passwd", "/tokenizer_info?model=%00",
    ],
)  # fmt: skip
def test_paths_lead_nowhere_else(address: str, path: str) -> None:
    got = raw(address, f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
    head, _, body = got.partition(b"\r\n\r\n")
    if path == "/v1/chat/completions/" and head.startswith(b"HTTP/1.1 307"):
        return  # a redirect to where it is
    assert head.startswith((b"HTTP/1.1 404", b"HTTP/1.1 405")), got[:300]
    assert sorted(json.loads(body)["error"]) == ["code", "message", "param", "type"]
    assert b"root:" not in body


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..", ".", "chat/../chat", "chat\x00", "", "%2e%2e", "polite@chat"]
)
def test_names_of_models_and_adapters_are_names(peer: Peer, name: str) -> None:
    for path, body in GOOD.items():
        status, told = peer.send(path, {**body, "model": name})
        assert status in {400, 404}, (path, told)
        assert "model" in (told["error"]["message"] if "error" in told else told["detail"]["message"])
    assert peer.refused(CHAT, {**GOOD[CHAT], "adapter": name})["param"] == "adapter"


JINJA = (
    "{{ 7*7 }}", "{% for x in range(10**9) %}a{% endfor %}", "{# gone #}{{", "{%- raw -%}}}{{ raise_exception('x') }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
)  # fmt: skip


def spelled(peer: Peer, body: dict[str, Any]) -> str:
    """A conversation as the model reads it."""
    status, told = peer.send("/tokenize", body)
    assert status == 200, told
    text: str = peer.send("/detokenize", {"tokens": told["tokens"]})[1]["prompt"]
    return text


@pytest.mark.parametrize("text", JINJA)
def test_what_a_template_is_told_is_text(peer: Peer, text: str) -> None:
    plain = spelled(peer, {"messages": [{"role": "user", "content": "CONTENT"}]})
    assert spelled(peer, {"messages": [{"role": "user", "content": text}]}) == plain.replace("CONTENT", text)
    told = spelled(peer, {"messages": USER, "chat_template_kwargs": {"enable_thinking": text, "bos_token": "x"}})
    assert "49" not in told
    for path in (CHAT, MESSAGES, RESPONSES):
        said = text if path == RESPONSES else [{"role": "user", "content": text}]
        status, told_ = peer.send(path, {**GOOD[path], ("input" if path == RESPONSES else "messages"): said})
        assert status == 200, told_
    for name in ("chat_template", "messages", "tools", "strftime_now", "self"):
        error = peer.refused(CHAT, {**GOOD[CHAT], "chat_template_kwargs": {name: text}})
        assert name in error["message"]
    assert peer.refused(CHAT, {**GOOD[CHAT], "chat_template": text})["param"] == "chat_template"
    named = {**GOOD[CHAT], "tools": [{"type": "function", "function": {"name": text}}]}
    assert peer.refused(CHAT, named)["param"] == "tools[0].function.name"


LARGE: list[tuple[str, dict[str, Any], str]] = [
    (COMPLETIONS, {"logit_bias": {str(i): 1 for i in range(100_000)}}, "logit_bias"),
    (COMPLETIONS, {"logit_bias": {f"{i:09}": 1 for i in range(60_000)}}, "logit_bias"),
    (COMPLETIONS, {"stop": ["a"] * 17}, "stop"),
    (COMPLETIONS, {"stop": ["a"] * 100_000}, "stop"),
    (COMPLETIONS, {"stop": "ab" * 300_000}, "stop"),
    (MESSAGES, {"stop_sequences": ["a"] * 17}, "stop_sequences"),
    (MESSAGES, {"stop_sequences": ["ab" * 3000]}, "stop_sequences"),
    (COMPLETIONS, {"suppress_tokens": [0] * 100_000}, "suppress_tokens"),
    (COMPLETIONS, {"bad_words_ids": [[1, 2, 3]] * 50_000}, "bad_words_ids"),
    (COMPLETIONS, {"choices": ["a"] * 100_000}, "choices"),
    (COMPLETIONS, {"dry_sequence_breakers": ["a"] * 100_000}, "dry_sequence_breakers"),
    (COMPLETIONS, {"prompt": [5] * 100_000}, "prompt"),
    (COMPLETIONS, {"prompt": ["a"] * 100_000}, "n"),
    (COMPLETIONS, {"prompt": [[5]] * 50_000}, "n"),
    (COMPLETIONS, {"prompt": "ab " * 2_500_000}, "prompt"),
    (CHAT, {"messages": USER * 65_537}, "messages"),
    (CHAT, {"tools": [TOOL] * 129}, "tools"),
    (CHAT, {"documents": [{}] * 100_000}, "documents"),
    ("/v1/embeddings", {"input": ["a"] * 100_000}, "input"),
    ("/v1/rerank", {"documents": ["a"] * 100_000}, "documents"),
    ("/v1/decisions", {"questions": [{}] * 100_000}, "questions"),
    ("/detokenize", {"tokens": [0] * 1_100_000}, "tokens"),
]


@pytest.mark.parametrize(("path", "more", "field"), LARGE, ids=[f"{path} {field}" for path, _, field in LARGE])
def test_what_is_large_is_refused_by_its_name(peer: Peer, path: str, more: dict[str, Any], field: str) -> None:
    error = peer.refused(path, {**GOOD[path], **more})
    assert field in error["message"]
    assert error["status"] == 400
    if path != MESSAGES:
        assert error["param"] is not None
        assert error["param"].startswith(field)


def chain(n: int) -> dict[str, Any]:
    """A schema of `n` that lead to one another."""
    names = {f"d{i}": {"type": "object", "properties": {"n": {"$ref": f"#/$defs/d{i + 1}"}}} for i in range(n)}
    return {"$defs": {**names, f"d{n}": {"type": "null"}}, "$ref": "#/$defs/d0"}


RULES = "".join(f"r{i}: r{i + 1}\n" for i in range(20_000))
PATTERNS = {f"^a{i}_[a-z]+$": {"type": "integer"} for i in range(3000)}
KEYS = {f"k{i}": {"type": "string"} for i in range(5000)}
#: What took minutes, or ended the process: refused before anything is made of it.
EXPLODING: dict[str, dict[str, Any]] = {
    "a long expression": {"regex": "a" * 1_000_000},
    "an expression of options": {"regex": "a?" * 5000 + "a" * 5000},
    "a chain of rules": {"grammar": f'start: r0\n{RULES}r20000: "a"'},
    "a chain in brackets": {
        "grammar": "start: r0\n" + "".join(f"r{i}: {'(' * 9}r{i + 1}{')' * 9}\n" for i in range(900))
    },
    "many alternatives": {"grammar": "root ::= " + " | ".join(f'"w{i}"' for i in range(60_000))},
    "many rules of GBNF": {"grammar": "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(900))},
    "an expression in a grammar": {"grammar": f"start: /{'a?' * 9000}/"},
    "a schema in a grammar": {"grammar": f"start: %json {json.dumps(chain(5000))}"},
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "a chain of references": chain(3000),
    "patterns that are compared": {"type": "object", "patternProperties": PATTERNS, "additionalProperties": False},
    "patterns apart": {"allOf": [{"patternProperties": {name: of}} for name, of in PATTERNS.items()]},
    "keys that may be left out": {"type": "object", "properties": KEYS},
    "many words": {"enum": [f"word{i}" for i in range(100_000)]},
    "a long pattern": {"type": "string", "pattern": "a?" * 9000},
    "patterns that are long": {"anyOf": [{"type": "string", "pattern": "a?" * 4000} for _ in range(9)]},
}


@pytest.mark.parametrize("what", EXPLODING)
def test_what_would_take_for_ever_is_refused_at_once(peer: Peer, what: str) -> None:
    [(field, _)] = EXPLODING[what].items()
    error = peer.refused(COMPLETIONS, {**GOOD[COMPLETIONS], **EXPLODING[what]})
    assert (error["status"], error["param"]) == (400, field)
    assert "expected at most" in error["message"]


@pytest.mark.parametrize("what", SCHEMAS)
def test_schemas_that_would_take_for_ever_are_refused_at_once(peer: Peer, what: str) -> None:
    schema = SCHEMAS[what]
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    error = peer.refused(CHAT, {**GOOD[CHAT], "response_format": form})
    assert (error["status"], error["param"]) == (400, "response_format")
    text = {"format": {"type": "json_schema", "schema": schema}}
    assert peer.refused(RESPONSES, {**GOOD[RESPONSES], "text": text})["param"] == "text.format"


#: Within the bounds: answered, or refused by llguidance's own.
BOUNDED: tuple[dict[str, Any], ...] = (
    {"regex": "((((a{1,99}){1,99}){1,99}){1,99}){1,99}"}, {"regex": "(a|b)*a(a|b){200}"}, {"regex": "(" * 2000},
    {"regex": "(.*a.{200})+b"}, {"grammar": 'start: start start | "a" |'}, {"grammar": "start: start"},
    {"grammar": 'start: x{1000}\nx: y{1000}\ny: z{1000}\nz: "a"'}, {"grammar": f"start: {'(' * 400}"},
    {"regex": "a?" * 2000 + "a" * 2000},
)  # fmt: skip


@pytest.mark.parametrize("held", BOUNDED, ids=range(len(BOUNDED)))
def test_what_is_within_the_bounds_is_answered_or_refused_by_name(peer: Peer, held: dict[str, Any]) -> None:
    status, told = peer.send(COMPLETIONS, {**GOOD[COMPLETIONS], **held, "max_tokens": 3})
    assert status == 200 or (status == 400 and told["error"]["param"] in held), told


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
FILES: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0].type"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "messages[0].content[0].type"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type"),
    (CHAT, {"messages": [{"role": "user", "content": IMAGE}]}, "messages[0].content"),
    (CHAT, {"modalities": ["audio"]}, "modalities[0]"),
    (MESSAGES, {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content"),
    (MESSAGES, {"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages[0].content"),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input"),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input"),
    (COMPLETIONS, {"prompt": {"image": "x"}}, "prompt"),
    ("/v1/embeddings", {"input": [IMAGE]}, "input"),
    ("/v1/rerank", {"documents": [{"image": "x"}]}, "documents"),
    ("/tokenize", {"prompt": ["a"]}, "prompt"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "more", "field"), FILES, ids=range(len(FILES)))
def test_images_and_files_are_refused_where_text_is_expected(
    peer: Peer, path: str, more: dict[str, Any], field: str
) -> None:
    error = peer.refused(path, {**GOOD[path], **more})
    assert field in error["message"]
    assert error["param"] is None or error["param"].startswith(field)
    assert path == MESSAGES or error["param"] is not None
