"""Many clients of one server over sockets: each checks what it gets, and some behave badly.

    python serve_load.py PORT BODY

is one that asks and reads, until somebody kills it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping

__all__ = ["MALFORMED", "Load", "Question", "ask_until_killed", "percentile", "rss", "run"]

#: Bodies that are refused, whatever they are.
MALFORMED = (
    b"", b"{", b"[1]", b'{"prompt": "a", "max_tokens": -1}', b'{"prompt": "a", "temperature": 1e999}', b"\xff\xfe",
    b'{"prompt": [999999999]}', b'{"prompt": "a", "n": 1000000}', b'{"prompt": "a", "logit_bias": {"-1": 5}}',
    b"[" * 20_000, b'{"prompt": "a", "regex": "(("}', b'{"prompt": "a", "model": "../../etc/passwd"}',
    b'{"prompt": {"a": 1}}', b'{"prompt": "a", "stop": [""]}', b'{"prompt": "\\ud800"}',
)  # fmt: skip
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
#: What a client does, and how often.
ACTIONS = {"whole": 40, "stream": 30, "leave": 10, "slow": 8, "malformed": 8, "hang up": 4}
#: Processes that ask, and are killed, at most: at once, and in all.
PROCESSES, KILLS = 2, 1000


@dataclass(frozen=True)
class Question:
    """A body, and the texts that are the only right answers to it."""

    body: Mapping[str, Any]
    texts: tuple[str, ...]


@dataclass
class Load:
    """What came of it."""

    done: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    refused: int = 0  # while the server ended
    tokens: int = 0

    def count(self, what: str) -> None:
        """One more."""
        self.done[what] = self.done.get(what, 0) + 1


def percentile(values: list[float], share: float) -> float:
    """The value that this share of all is not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def rss(pid: int) -> int:
    """Bytes of a process that are in memory and its own."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


async def run(port: int, questions: list[Question], clients: int, ending: asyncio.Event, seed: int) -> Load:
    """Ask until `ending` is set, and what was begun is answered. Besides, `PROCESSES` ask that are killed."""
    load = Load()
    each = [random.Random(f"{seed} {i}") for i in range(clients + PROCESSES)]  # noqa: S311 - a client's habits
    killers = [_killing(port, questions, ending, rng, load) for rng in each[clients:]]
    await asyncio.gather(*(_client(port, questions, ending, rng, load) for rng in each[:clients]), *killers)
    return load


async def _killing(port: int, questions: list[Question], ending: asyncio.Event, rng: random.Random, load: Load) -> None:
    """A process after the other that asks; it is killed (SIGKILL) at a random moment after it has connected."""
    while not ending.is_set() and load.done.get("kill", 0) < KILLS:
        body = json.dumps({**rng.choice(questions).body, "stream": rng.random() < 0.7})
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-S", __file__, str(port), body, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(60):
                said = await process.stdout.readline()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(rng.uniform(0, 2)):
                        await ending.wait()
        except TimeoutError:
            load.wrong.append("kill: the process did not connect")
            said = b""
        with contextlib.suppress(ProcessLookupError):  # it was refused, or read all there was
            process.kill()
        await process.wait()
        if said:
            load.count("kill")


def ask_until_killed(port: int, body: str) -> None:
    """Ask again and again, reading what comes; say when the first question is sent. Ends where nobody listens."""
    data = body.encode()
    with contextlib.suppress(ConnectionError):
        for i in range(1000):
            with socket.create_connection(("127.0.0.1", port)) as made:
                made.sendall(HEAD % len(data) + data)
                if not i:
                    sys.stdout.write("asked\n")
                    sys.stdout.flush()
                while made.recv(100):
                    pass


async def _client(port: int, questions: list[Question], ending: asyncio.Event, rng: random.Random, load: Load) -> None:
    names, weights = list(ACTIONS), list(ACTIONS.values())
    while not ending.is_set():
        [action] = rng.choices(names, weights)
        question = rng.choice(questions)
        try:
            async with asyncio.timeout(120):
                await _ACTIONS[action](port, question, rng, load)
        except _RefusedError:
            if not ending.is_set():
                load.wrong.append(f"{action}: refused while the server runs")
            load.refused += 1
        except Exception as e:  # noqa: BLE001 - all of them are told
            load.wrong.append(f"{action}: {type(e).__name__} {e}")
        else:
            load.count(action)


class _RefusedError(Exception):
    """The server takes no more, and says so."""


@contextlib.asynccontextmanager
async def _sent(port: int, data: bytes) -> AsyncIterator[tuple[int, asyncio.StreamReader]]:
    """A request, its status, and what reads the body. A 200 is a promise: who is cut after it was not refused."""
    status = 0
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
    except OSError as e:
        raise _RefusedError from e
    try:
        writer.write(HEAD % len(data) + data)
        first = await reader.readline()
        if not first:
            raise _RefusedError
        status = int(first.split()[1])
        while (await reader.readline()).strip():
            continue
        yield status, reader
    except (ConnectionResetError, BrokenPipeError) as e:
        assert status != 200, "cut after a 200"
        raise _RefusedError from e
    finally:
        writer.close()


async def _body(reader: asyncio.StreamReader, status: int) -> Any:
    """A body that is JSON, whole, or in chunks."""
    data = await reader.read()
    if status == 503:
        raise _RefusedError
    return json.loads(data)


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The chunks of a body; EOFError where it is cut."""
    while size := int((await reader.readline() or b"x").strip() or b"x", 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[Any]:
    """The events of a stream, which ends with [DONE]."""
    buffer, done = b"", False
    async for chunk in _chunks(reader):
        buffer += chunk
        *events, buffer = buffer.split(b"\n\n")
        for event in events:
            data = event.removeprefix(b"data: ")
            assert not done, "an event after the end"
            done = data == b"[DONE]"
            if not done:
                yield json.loads(data)
    assert done, "a stream without its end"


async def _whole(port: int, question: Question, _: random.Random, load: Load) -> None:
    async with _sent(port, json.dumps(question.body).encode()) as (status, reader):
        body = await _body(reader, status)
        texts = tuple(choice["text"] for choice in body["choices"])
        assert texts == question.texts, f"{question.body} -> {texts}, expected {question.texts}"
        load.tokens += body["usage"]["completion_tokens"]


async def _stream(port: int, question: Question, rng: random.Random, load: Load, *, slow: bool = False) -> None:
    texts, began = [""] * len(question.texts), time.monotonic()
    async with _sent(port, json.dumps({**question.body, "stream": True}).encode()) as (status, reader):
        if status != 200:
            await _body(reader, status)
            raise AssertionError(status)
        first = True
        async for event in _events(reader):
            assert "error" not in event, f"an error after a 200: {event}"
            if first and not slow:
                load.first_s.append(time.monotonic() - began)
            first = False
            choice = event["choices"][0]
            texts[choice["index"]] += choice["text"]
            if slow:
                await asyncio.sleep(rng.uniform(0, 0.2))  # it is what a slow reader does
    assert tuple(texts) == question.texts, f"{question.body} -> {texts}, expected {question.texts}"


async def _slow(port: int, question: Question, rng: random.Random, load: Load) -> None:
    await _stream(port, question, rng, load, slow=True)


async def _leave(port: int, question: Question, rng: random.Random, __: Load) -> None:
    """Go away in the middle of a stream, or before the first byte."""
    stream = rng.random() < 0.7
    async with _sent(port, json.dumps({**question.body, "stream": stream}).encode()) as (_status, reader):
        await reader.read(rng.randrange(1, 300))


async def _hang_up(port: int, _: Question, rng: random.Random, __: Load) -> None:
    """Say that there is more to come, and go."""
    writer = await _opened(port)
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n" + b"{" * rng.randrange(500)
    )
    await writer.drain()
    writer.close()


async def _opened(port: int) -> asyncio.StreamWriter:
    try:
        return (await asyncio.open_connection("127.0.0.1", port))[1]
    except OSError as e:
        raise _RefusedError from e


async def _malformed(port: int, _: Question, rng: random.Random, __: Load) -> None:
    data = rng.choice(MALFORMED)
    async with _sent(port, data) as (status, reader):
        body = await _body(reader, status)
        assert 400 <= status < 500, f"{data[:80]!r} -> {status}"
        assert sorted(body["error"]) == ["code", "message", "param", "type"]


_ACTIONS: dict[str, Callable[[int, Question, random.Random, Load], Coroutine[Any, Any, None]]] = {
    "whole": _whole, "stream": _stream, "leave": _leave, "slow": _slow, "malformed": _malformed, "hang up": _hang_up,
}  # fmt: skip


if __name__ == "__main__":
    ask_until_killed(int(sys.argv[1]), sys.argv[2])
