"""Soaks of the server. `./dev soak serve --minutes 0`: one round is ten minutes of 64 clients, then SIGTERM.

`./dev soak serve-bodies --minutes 30`: a round is 2,000 bodies. `./dev soak serve-fuzz --minutes 0`: schemathesis,
where it is installed, over a socket; over 20,000 requests in half an hour.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import miaotui
import pytest
import serve_load
import soak
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from miaotui.tools import demo

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")

from miaotui.tools.server.app import WIRES
from miaotui.tools.server.settings import Settings
from serve_bodies import bodies
from serve_load import Question, percentile, rss, run
from serve_processes import serving
from serving import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serve_load import Load

CLIENTS = 64
#: Of a round, before the signal; another number for a shorter look.
SECONDS = float(os.environ.get("SERVE_LOAD_SECONDS", "590"))
#: What a server may have grown by, between the first third of the time and its end.
GROWTH = 24 << 20
WORDS = ("cat", "dog", "fox", "bird", "fish", "girl", "boy", "king", "cow", "hen", "mouse", "frog")


def _questions(model: miaotui.Model) -> list[Question]:
    made = []
    for i, word in enumerate(WORDS * 4):
        prompt, n = f"Once upon a time there was a {word}", 1 + i % 3
        drawn: dict[str, Any] = {"temperature": 0.9, "seed": i} if i % 2 else {"temperature": 0}
        length = 8 + 7 * (i % 9)
        alone = model.generate(prompt, max_new_tokens=length, n=n if i % 2 else 1, **drawn)
        texts = (alone.text, *(other.text for other in alone.alternatives))
        body = {"prompt": prompt, "max_tokens": length, "n": n, **drawn}
        made.append(Question(body, texts if i % 2 else texts * n))
    return made


#: What a server that ends sends -> whether it is told as wrong.
OK = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
ENDS = {
    "nothing": (b"", False),
    "503": (b"HTTP/1.1 503 Ending\r\n\r\n{}", False),
    "a cut after a 200": (OK, True),
    "an error after a 200": (OK + b'14\r\ndata: {"error": {}}\n\r\n1\r\n\n\r\n0\r\n\r\n', True),
}


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("action", ["whole", "stream"])
def test_what_a_server_promised_it_must_keep_at_its_end(
    monkeypatch: pytest.MonkeyPatch, action: str, ends: str, *, reset: bool
) -> None:
    """The load tells a request that was refused from an answer that was cut."""
    monkeypatch.setattr(serve_load, "ACTIONS", {action: 1})
    sent, wrong = ENDS[ends]

    async def asked() -> Load:
        load, ending = serve_load.Load(), asyncio.Event()

        async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            ending.set()
            await reader.readuntil(b"}")
            writer.write(sent)
            await writer.drain()
            if reset:
                linger = struct.pack("ii", 1, 0)  # closed at once, by a reset
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.close()

        async with await asyncio.start_server(end, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            question = Question({"prompt": "a"}, ("b",))
            await serve_load._client(port, [question], ending, random.Random(0), load)  # noqa: S311 - a client's habits
        return load

    load = asyncio.run(asked())
    assert (len(load.wrong), load.refused) == ((1, 0) if wrong else (0, 1)), load


@pytest.mark.soak("serve")
def test_64_clients_and_an_end(request: pytest.FixtureRequest) -> None:
    """No answer is lost or mixed up, memory is flat, and at the end every request that was taken is answered."""
    seed = int(request.config.getoption("--hypothesis-seed") or 0)
    with miaotui.load(demo.path(), cache_tokens=4096) as model:
        questions = _questions(model)
    options = ("--model", f"{demo.path()}=story", "--grace", "60", "--max-requests", "100")
    with serving(*options) as (process, port):
        sizes: list[int] = []

        async def loaded() -> Load:
            ending, began = asyncio.Event(), time.monotonic()
            asking = asyncio.ensure_future(run(port, questions, CLIENTS, ending, seed))
            for share in (1 / 3, 1):
                await asyncio.sleep(began + share * SECONDS - time.monotonic())
                sizes.append(rss(process.pid))
            ending.set()
            process.send_signal(signal.SIGTERM)
            return await asking

        load = asyncio.run(loaded())
        process.wait(timeout=90)
        assert process.returncode == 0
    for what, n in load.done.items():
        soak.count(what, n)
    soak.count("refused at the end", load.refused)
    soak.count("first token p50, ms", round(1000 * percentile(load.first_s, 0.5)))
    soak.count("first token p99, ms", round(1000 * percentile(load.first_s, 0.99)))
    soak.count("private MiB at a third", sizes[0] >> 20)
    soak.count("private MiB at the end", sizes[1] >> 20)
    assert load.wrong == []
    assert load.done["kill"] > 0
    assert sizes[1] - sizes[0] < GROWTH


#: Of schemathesis' own process: CPython before 3.11.8 counts in one place how deep its threads' `ast.parse` are
#: (gh-106905).
FUZZERS_OWN = "SystemError: AST constructor recursion depth mismatch"


def _faults(report: dict[str, Any], said: str) -> tuple[list[Any], int]:
    """What schemathesis found, by its report and what it said, and how many of its errors are its own known one.

    A request that was not answered in time, or by a connection that broke, is a "Network Error".
    """
    found: list[Any] = [each for each in report["failures"] if each["count"]]
    own = 0
    for error in report["errors"]:
        if error["title"] == "Runtime Error":  # whatever it does not know; each is told with its traceback
            own = min(said.count(FUZZERS_OWN), error["count"])
            error = {**error, "count": error["count"] - own}  # noqa: PLW2901 - what is left of it
        found += [error] if error["count"] else []
    ran = report["operations"]
    if not report["complete"] or ran["tested"] != ran["total"]:
        found.append({"stopped": report["stop_reason"], "operations": ran})
    return found, own


REPORT: dict[str, Any] = {
    "complete": True, "stop_reason": "completed", "failures": [], "errors": [], "operations": {"tested": 3, "total": 3},
}  # fmt: skip
RUNTIME = {"title": "Runtime Error", "count": 2}


@pytest.mark.parametrize(
    ("changed", "said", "wrong"),
    [
        ({}, "", 0),
        ({"errors": [RUNTIME]}, f" | {FUZZERS_OWN} (before=1)\n | {FUZZERS_OWN}", 0),
        ({"errors": [RUNTIME]}, f" | {FUZZERS_OWN} (before=1)\n | TimeoutError", 1),
        ({"errors": [{"title": "Network Error", "count": 1}]}, FUZZERS_OWN, 1),
        ({"failures": [{"title": "Server error", "count": 1}]}, FUZZERS_OWN, 1),
        ({"operations": {"tested": 2, "total": 3}}, "", 1),
        ({"complete": False}, "", 1),
    ],
)
def test_a_fuzzer_s_own_error_is_told_from_the_servers(changed: dict[str, Any], said: str, wrong: int) -> None:
    found, own = _faults(REPORT | changed, said)
    assert len(found) == wrong
    assert own == (said.count(FUZZERS_OWN) if RUNTIME in changed.get("errors", ()) else 0)


@pytest.mark.soak("serve-fuzz")
def test_a_fuzzer_of_the_openapi_document_finds_no_fault(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """What schemathesis makes of the document, valid or not, is answered in a minute, and by no 5xx."""
    program = shutil.which("schemathesis", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("schemathesis is not installed")
    seed = str(request.config.getoption("--hypothesis-seed") or 0)
    with serving() as (process, port):
        root = f"http://127.0.0.1:{port}"
        # One worker: Hypothesis reads its lambdas by `ast.parse`, which may fail in several threads of CPython 3.11.
        options = (
            "--workers 1 --checks not_a_server_error --phases coverage,fuzzing --max-examples 1500 "
            "--request-timeout 60 --suppress-health-check all --continue-on-failure --warnings off --no-color"
        )
        command = [program, "run", f"{root}/openapi.json", *options.split(), "--seed", seed]
        command.append(f"--report-json-path={tmp_path / 'report.json'}")
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3600)
        with urllib.request.urlopen(f"{root}/metrics", timeout=60) as told:  # noqa: S310 - ours
            lines = re.findall(r'requests_total{.*status="(\d+)"} ([0-9.e+]+)', told.read().decode())
        assert process.poll() is None
    for status, n in lines:
        soak.count(f"status {status}", int(float(n)))
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    found, own = _faults(report, done.stdout)
    soak.count("test cases", report["test_cases"]["generated"])
    soak.count("the fuzzer's own errors", own)
    assert found == [], done.stdout[-4000:] + done.stderr[-1000:]
    assert sum(float(n) for _, n in lines) >= 20_000
    assert all(int(status) < 500 for status, _ in lines)


#: What keeps answers short, and draws them from a model that there is, where the field is known.
SHORT = {"max_tokens": 3, "max_output_tokens": 3}
#: What a half of the bodies say that have messages: most that are drawn are refused for one of them.
SAID = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with miaotui.load(demo.path("chat"), cache_tokens=2048) as chat, miaotui.load(demo.path("encoder")) as encoder:
        yield Client({"chat": chat, "encoder": encoder}, Settings(request_timeout=30, max_tokens=8))


@pytest.mark.soak("serve-bodies")
@settings(max_examples=2000, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_body_makes_a_fault(client: Client, data: st.DataObject) -> None:
    """Whatever is asked is answered, or refused by a status from 400 to 499 with the field."""
    wire = data.draw(st.sampled_from(WIRES))
    body = data.draw(bodies(wire.fields, SHORT | (SAID if data.draw(st.booleans()) else {})))
    reply = client.post(wire.path, json.dumps(body).encode())
    soak.count(f"{wire.path} {reply.status}")
    assert reply.ended
    assert reply.status < 500, (wire.path, body, reply.body)
    if reply.status >= 400:
        assert reply.json
    elif "text/event-stream" in reply.headers["content-type"]:
        assert b"internal" not in reply.body
