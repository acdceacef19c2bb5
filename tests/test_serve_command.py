"""`miaotui serve` as a process, over a socket: its first line, its limits, and its end."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest
from miaotui.tools import cli, demo
from miaotui.tools.cli import main
from miaotui.tools.commands import serve
from serve_processes import serving

pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONG = {"model": "story", "prompt": "Once upon a time", "temperature": 0, "max_tokens": 400, "ignore_eos": True}


@contextlib.contextmanager
def _post(port: int, body: dict[str, Any]) -> Iterator[http.client.HTTPResponse]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        with connection.getresponse() as response:
            yield response


def _raw(port: int, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        got = b""
        while piece := connection.recv(4096):
            got += piece
    return got


SMUGGLED = {
    "two lengths": b"content-length: 5\r\ncontent-length: 50\r\n\r\nhello",
    "length and chunks": b"content-length: 5\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a negative length": b"content-length: -1\r\n\r\n",
    "a length of letters": b"content-length: 0x5\r\n\r\nhello",
    "a blank before the colon": b"content-length : 5\r\n\r\nhello",
    "a folded header": b"x-a: b\r\n c: d\r\n\x00\r\n\r\n",
    "too many headers": b"x-a: " + b"b" * (64 << 10) + b"\r\n\r\n",
}


def test_models_are_loaded_by_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that errors tell their names in the place of these."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(serve, "load_model", lambda own: own.model)
    args = argparse.Namespace(cache_tokens=64, device="cpu")
    loaded = [serve._loaded(args, path, [], None) for path in (".", "org/tiny")]
    assert loaded == [str(tmp_path / "here"), "org/tiny"]


@pytest.mark.ci  # 8 s
def test_a_server_and_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "notify"))
    listener.settimeout(60)
    with listener, serving("--grace", "60") as (process, port), contextlib.ExitStack() as opened:
        assert listener.recv(100) == b"READY=1"
        for name, rest in SMUGGLED.items():
            got = _raw(port, b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n" + rest)
            assert got == b"" or got.startswith(b"HTTP/1.1 4"), name
        assert b"403" in _raw(port, b"GET /v1/models HTTP/1.0\r\nhost: evil.example\r\n\r\n").partition(b"\r\n")[0]
        with _post(port, LONG) as response:
            alone = json.load(response)["choices"][0]["text"]
        streams = [opened.enter_context(_post(port, {**LONG, "stream": True})) for _ in range(3)]
        assert all(stream.readline().startswith(b"data: ") for stream in streams)
        process.send_signal(signal.SIGTERM)
        for stream in streams:
            lines = [line for line in stream.read().decode().split("\n\n") if line]
            assert lines[-1].endswith("data: [DONE]")
            texts = [json.loads(line.strip().removeprefix("data: "))["choices"][0]["text"] for line in lines[:-1]]
            assert alone.endswith("".join(texts))
            assert len(alone) - len("".join(texts)) < 12  # the first line's
        process.wait(timeout=60)
        assert process.returncode == 0
        assert listener.recv(100) == b"STOPPING=1"
        assert process.stderr is not None
        process.stderr.seek(0)
        logged = [json.loads(line) for line in process.stderr.read().splitlines()]
        assert [line["status"] for line in logged if "status" in line][-4:] == [200] * 4


@pytest.mark.ci  # 5 s
def test_answers_that_take_too_long_are_cut() -> None:
    body = {**LONG, "max_tokens": 480, "n": 8, "temperature": 1, "seed": 1, "stream": True}
    with (
        serving("--model", f"{demo.path()}=story", "--grace", "0") as (process, port),
        _post(port, body) as stream,
    ):
        stream.readline()
        process.send_signal(signal.SIGTERM)
        *_, error, done = [line for line in stream.read().decode().split("\n\n") if line]
        assert json.loads(error.removeprefix("data: "))["error"]["code"] == "shutting_down"
        assert done == "data: [DONE]"
        process.wait(timeout=60)
        assert process.returncode == 0


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    said = f"miaotui: error: --port {port}: cannot listen at 127.0.0.1:{port} (Address already in use)"
    assert capsys.readouterr().err.strip() == said


def test_on_any_loopback_address_only_its_own_names_are_good() -> None:
    """So that no web page reaches the server by pointing a name of its own there."""
    for host, closed in (
        ("127.0.0.1", True),
        ("127.0.0.9", True),
        ("LocalHost", True),
        ("::1", True),
        ("0.0.0.0", False),  # noqa: S104 - everywhere, by any name
    ):
        args, _ = cli._parse(["serve", "--host", host])
        hosts = serve._settings(args).hosts
        assert ({host.lower(), "localhost"} <= {*hosts}) == closed == bool(hosts)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("LLM.Example", "llm.example"), ("[::1]", "::1"), ("FE80::1", "fe80::1"), ("10.0.0.7", "10.0.0.7")],
)
def test_a_name_is_meant_as_requests_have_it(given: str, meant: str) -> None:
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    assert parser.parse_args(["--allowed-host", given]).allowed_host == [meant]


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (["--port", "70000"], "--port: expected a number from 0 to 65535"),
        (["--host", "256.1.1.1"], "--host 256.1.1.1: cannot listen"),
        (["--model", "a b=c d"], "'c d' is no name for a model"),
        (["--model", "x=one", "--model", "y=one"], "--model one: two have this name"),
        (["--adapter", "x"], "expected NAME=PATH"),
        (["--adapter", "x=y@nobody"], "there is no model nobody"),
        (["--api-keys", os.devnull], "has no key"),
        (["--allowed-host", "https://llm.example"], "--allowed-host: expected a name or an address, without https://"),
        (["--allowed-host", "llm.example:443"], "found 'llm.example:443'"),
        (["--temperature", "-1"], "--temperature -1"),
        (["--max-requests", "0"], "--max-requests 0"),
        (["--tool-calls", "xml"], "--tool-calls xml: expected one of hermes, qwen3_coder,"),
        (["--model", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_options_that_are_wrong(options: list[str], wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    where = [] if "--port" in options else ["--port", "0"]
    try:
        code: object = main(["serve", *where, *options])
    except SystemExit as e:  # argparse's
        code = e.code
    assert code == (1 if wrong in {"has no key", "/nowhere/at/all"} else 2)  # 1: what stands in a file
    assert wrong in capsys.readouterr().err
