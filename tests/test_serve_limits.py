"""Who is let in, for how long, and what becomes of those who go away, read slowly, or are cut."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import resource
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import miaotui
import pytest
from miaotui.tools import demo

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")

from miaotui.errors import InputError
from miaotui.tools.server.running import _most_connections
from miaotui.tools.server.security import LOOPBACK, host_of, read_keys
from miaotui.tools.server.served import Served
from miaotui.tools.server.settings import Settings
from serving import Client, Reply, asked, on_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPLETIONS = "/v1/completions"
LONG = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 400, "ignore_eos": True, "stream": True}
SHORT = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 4}


@pytest.fixture(scope="module")
def model() -> Iterator[miaotui.Model]:
    with miaotui.load(demo.path(), cache_tokens=4096) as model:
        yield model


def _client(model: miaotui.Model, **settings: Any) -> Client:
    return Client({"story": model}, Settings(**settings))


@pytest.mark.parametrize("stream", [True, False])
def test_who_goes_away_costs_no_more_passes(model: miaotui.Model, stream, monkeypatch: pytest.MonkeyPatch) -> None:
    client, passes = _client(model), list[int]()
    loop, fifth = list[asyncio.AbstractEventLoop](), asyncio.Event()
    run = model.session.run_pass

    def counted(*args: Any, **how: Any) -> Any:
        passes.append(1)
        if len(passes) == 5:
            loop[0].call_soon_threadsafe(fifth.set)
        return run(*args, **how)

    monkeypatch.setattr(model.session, "run_pass", counted)

    async def leave() -> tuple[Reply, int]:
        gone, reply = asyncio.Event(), Reply()
        loop.append(asyncio.get_running_loop())
        asking = asyncio.ensure_future(
            client.ask("POST", COMPLETIONS, {**LONG, "stream": stream}, gone=gone, reply=reply)
        )
        await fifth.wait()
        gone.set()
        n = len(passes)
        await asking
        assert not reply.ended
        assert len(client.state.admission) == client.state.admission.n_tokens == 0
        after = await client.ask("POST", COMPLETIONS, SHORT)
        return after, len(passes) - n

    after, n = asked(leave())
    assert after.json["choices"][0]["text"] == model.generate(SHORT["prompt"], max_new_tokens=4).text
    assert n <= 2 + 1 + 4  # two of the one that went; the prompt, and four tokens
    assert 'status="499"} 1.0' in client.get("/metrics").body.decode()


def test_slow_readers_hold_nobody_up(model: miaotui.Model) -> None:
    client = _client(model)

    async def slow_and_plain() -> tuple[list[Reply], list[Reply]]:
        hold = asyncio.Event()
        slow_replies = [Reply() for _ in range(20)]
        slow = [
            asyncio.ensure_future(client.ask("POST", COMPLETIONS, {**SHORT, "stream": True}, hold=hold, reply=reply))
            for reply in slow_replies
        ]
        for reply in slow_replies:
            await reply.begun.wait()
        plain = await asyncio.gather(*(client.ask("POST", COMPLETIONS, SHORT) for _ in range(20)))
        assert not any(task.done() for task in slow)
        hold.set()
        return list(await asyncio.gather(*slow)), plain

    slow, plain = asked(slow_and_plain())
    wanted = model.generate(SHORT["prompt"], max_new_tokens=4).text
    assert {reply.json["choices"][0]["text"] for reply in plain} == {wanted}
    assert {"".join(e["choices"][0]["text"] for e in reply.events) for reply in slow} == {wanted}


def test_more_requests_than_are_let_in(model: miaotui.Model) -> None:
    client = _client(model, max_requests=2)

    async def three() -> tuple[Reply, list[Reply]]:
        hold, replies = asyncio.Event(), [Reply(), Reply()]
        two = [
            asyncio.ensure_future(client.ask("POST", COMPLETIONS, {**SHORT, "stream": True}, hold=hold, reply=reply))
            for reply in replies
        ]
        for reply in replies:
            await reply.begun.wait()
        third = await client.ask("POST", COMPLETIONS, SHORT)
        hold.set()
        return third, list(await asyncio.gather(*two))

    third, two = asked(three())
    assert (third.status, third.error["type"]) == (429, "rate_limit_error")
    assert 1 <= int(third.headers["retry-after"]) <= 60
    assert [reply.status for reply in two] == [200, 200]
    assert client.post(COMPLETIONS, SHORT).status == 200


def test_more_tokens_than_are_let_in(model: miaotui.Model) -> None:
    client = _client(model, max_tokens_in_flight=100)

    async def two() -> tuple[Reply, Reply, Reply]:
        gone, reply = asyncio.Event(), Reply()
        first = asyncio.ensure_future(client.ask("POST", COMPLETIONS, LONG, gone=gone, reply=reply))
        await reply.begun.wait()
        second = await client.ask("POST", COMPLETIONS, SHORT)
        gone.set()
        await first
        return reply, second, await client.ask("POST", COMPLETIONS, SHORT)

    first, second, third = asked(two())
    assert first.status == 200  # alone it may have what its model holds
    assert (second.status, second.error["code"]) == (429, "too_many_tokens")
    assert third.status == 200


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_takes_too_long(model: miaotui.Model, stream) -> None:
    client = _client(model, request_timeout=0.02)
    reply = client.post(COMPLETIONS, {**LONG, "max_tokens": 480, "n": 3, "temperature": 1, "stream": stream})
    if reply.status == 200:
        assert reply.events[-1]["error"]["code"] == "timeout"
    else:
        assert (reply.status, reply.error["code"]) == (504, "timeout")


def test_an_end_that_lets_answers_end(model: miaotui.Model) -> None:
    client = _client(model)

    async def end() -> tuple[list[Reply], Reply, Reply]:
        replies = [Reply(), Reply()]
        admission = client.state.admission
        bodies = [{**LONG, "max_tokens": 20}, {**LONG, "max_tokens": 480, "prompt": "The"}]
        running = [
            asyncio.ensure_future(client.ask("POST", COMPLETIONS, body, reply=reply))
            for body, reply in zip(bodies, replies, strict=True)
        ]
        for reply in replies:
            await reply.begun.wait()
        admission.close()
        refused, unready = await client.ask("POST", COMPLETIONS, SHORT), await client.ask("GET", "/ready")
        await running[0]
        assert not await admission.empty(0)
        admission.cut("the server is ending")
        await asyncio.gather(*running)
        assert await admission.empty(0)
        return replies, refused, unready

    (whole, cut), refused, unready = asked(end())
    assert whole.events[-1]["choices"][0]["finish_reason"] == "length"
    assert cut.events[-1]["error"] == {
        "message": "the server is ending", "type": "server_error", "param": None, "code": "shutting_down",
    }  # fmt: skip
    assert (refused.status, refused.error["code"]) == (503, "shutting_down")
    assert unready.status == 503
    assert client.get("/health").status == 200


def test_a_closed_model_is_no_health() -> None:
    model = miaotui.load(demo.path())
    client = _client(model)
    assert client.get("/health").status == 200
    model.close()
    reply = client.get("/health")
    assert (reply.status, reply.json["closed"]) == (503, ["story"])
    assert client.post(COMPLETIONS, SHORT).status >= 400


def test_bodies_and_their_limits(model: miaotui.Model) -> None:
    client = _client(model, max_body=100)
    reply = client.post(COMPLETIONS, {"prompt": "a" * 100})
    assert (reply.status, reply.error["code"]) == (413, "body_too_large")
    lying = client.post(COMPLETIONS, {"prompt": "a" * 100}, {"content-length": "2"})
    assert lying.status == 413
    packed = client.post(COMPLETIONS, gzip.compress(json.dumps(SHORT).encode()), {"content-encoding": "gzip"})
    assert (packed.status, packed.error["param"]) == (415, "content-encoding")
    assert client.post(COMPLETIONS, SHORT, {"content-encoding": "identity"}).status == 200


def test_headers_that_do_not_come_hold_no_connection(model: miaotui.Model) -> None:
    """Of a first request or a further one; and a client that says nothing is not waited for either."""
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with on_loopback(Served({"story": model}), Settings(body_timeout=0.3)) as url:
        host, port = url.removeprefix("http://").split(":")
        for first, then in ((b"", b""), (b"", whole[:20]), (whole, whole[:20])):
            with socket.create_connection((host, int(port)), timeout=60) as made:
                made.sendall(first)
                told = b""
                while first and not told.endswith(b'{"status":"ok"}'):
                    told += made.recv(4096)
                made.sendall(then)
                told += b"".join(iter(lambda made=made: made.recv(4096), b""))
            assert told.count(b"HTTP/1.1 200") == bool(first)
            assert told.count(b"HTTP/1.1 408") == told.count(b'"code":"timeout"') == bool(then)


def test_more_connections_than_are_taken(model: miaotui.Model, caplog: pytest.LogCaptureFixture) -> None:
    """One more is closed at once, and one taken when another has gone."""
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with on_loopback(Served({"story": model}), Settings(max_connections=2)) as url:
        host, port = url.removeprefix("http://").split(":")

        def told(made: socket.socket) -> bytes:
            with contextlib.suppress(OSError):  # it may be closed by then
                made.sendall(whole)
                return made.recv(4096)
            return b""

        def more() -> bytes:
            with socket.create_connection((host, int(port)), timeout=60) as made:
                return told(made)

        first, second = (socket.create_connection((host, int(port)), timeout=60) for _ in range(2))
        with first:
            with second:
                assert all(told(made).startswith(b"HTTP/1.1 200") for made in (first, second))
                assert [more(), more()] == [b"", b""]
            while not (again := more()):
                pass
            assert again.startswith(b"HTTP/1.1 200")
    [warned] = [record.getMessage() for record in caplog.records if record.name == "miaotui.server"]
    assert warned.startswith("2 connections are open, and more are closed at once")


def test_connections_are_what_the_limit_of_open_files_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, least, most in ((1024, 600, 767), (100, 16, 16), (resource.RLIM_INFINITY, 1 << 16, 1 << 16)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert least <= _most_connections() <= most
    monkeypatch.undo()
    monkeypatch.setattr(Path, "iterdir", lambda _: (_ for _ in ()).throw(FileNotFoundError()))  # no /proc
    assert 16 <= _most_connections() <= 1 << 16


def test_a_fault_of_ours_tells_nothing_of_it(
    model: miaotui.Model, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    client = _client(model)

    def broken(*_: object, **__: object) -> None:
        msg = "a secret"
        raise RuntimeError(msg)

    monkeypatch.setattr(model, "achoices", broken)
    reply = client.post(COMPLETIONS, SHORT)
    assert (reply.status, reply.error["code"]) == (500, "internal")
    assert b"secret" not in reply.body
    assert "a secret" in caplog.text


def test_keys_and_names(model: miaotui.Model, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# those of two\nfirst-key-of-ours\n\nsecond-key-of-ours\n")
    client = Client({"story": model}, Settings(hosts=LOOPBACK), read_keys(tmp_path / "keys"))
    for headers in ({}, {"authorization": "Bearer first-key"}, {"authorization": "Basic first-key-of-ours"}):
        reply = client.post(COMPLETIONS, SHORT, headers)
        assert (reply.status, reply.error["type"]) == (401, "authentication_error")
    for headers in ({"authorization": "Bearer second-key-of-ours"}, {"x-api-key": "first-key-of-ours"}):
        assert client.post(COMPLETIONS, SHORT, headers).status == 200
    assert client.get("/health").status == 200
    assert client.get("/health", {"host": "10.0.0.7:8000"}).status == 200  # as an orchestrator asks
    assert client.get("/metrics").status == 401
    known = {"authorization": "Bearer first-key-of-ours"}
    for host in ("evil.example", "localhost.evil.example", "", "[::2]:80"):
        assert client.post(COMPLETIONS, SHORT, {**known, "host": host}).status == 403
    for origin in ("https://evil.example", "null", "http://[", "http://[zz]:1", ""):
        assert client.post(COMPLETIONS, SHORT, {**known, "origin": origin}).status == 403
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST"):
        assert client.post(COMPLETIONS, SHORT, {**known, "host": host}).status == 200


@pytest.mark.parametrize(
    ("text", "wrong"), [("", "has no key"), ("short\n", "line 1"), ("good-enough\na b c d e f g\n", "line 2")]
)
def test_files_that_are_no_keys(tmp_path: Path, text: str, wrong: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(InputError, match=wrong) as e:
        read_keys(tmp_path / "keys")
    assert "good" not in str(e.value)


def test_ids_of_requests(model: miaotui.Model) -> None:
    client = _client(model)
    assert client.get("/health", {"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    for odd in ("a" * 200, 'a"b', "a b"):
        assert client.get("/health", {"x-request-id": odd}).headers["x-request-id"].startswith("req_")


def test_the_log_has_no_texts_unless_it_is_asked_to(model: miaotui.Model, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "miaotui.access")
    _client(model).post(COMPLETIONS, SHORT)
    [line] = [record.getMessage() for record in caplog.records]
    assert "Once upon" not in line
    assert all(word in line for word in ('"status": 200', '"prompt_tokens": 5', '"completion_tokens": 4'))
    caplog.clear()
    _client(model, log_texts=True).post(COMPLETIONS, SHORT)
    assert "Once upon" in caplog.text


def test_hosts() -> None:
    assert [host_of(h) for h in ("a:1", "A", "[::1]:80", "[::1]", "")] == ["a", "a", "::1", "::1", ""]
