"""Events of streams: acceptance case 10 (chunks, usage, characters, stop texts), and errors after the first byte."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import miaotui
import pytest
from miaotui.tools import demo

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")
pytest.importorskip("jinja2")

from miaotui.tools.server.errors import RequestError
from serving import Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

CHAT, COMPLETIONS, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"
SAID = [{"role": "user", "content": "Tom had a red ball. What did Tom have?"}]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": SAID, "max_tokens": 24},
    COMPLETIONS: {"prompt": "Once upon a time", "max_tokens": 24},
    MESSAGES: {"messages": SAID, "max_tokens": 24},
    RESPONSES: {"input": "What did Tom have?", "max_output_tokens": 24},
}
TEXT = "Zażółć 😀 gęślą 👩‍👩‍👧 日本語"


@pytest.fixture(scope="module")
def chat() -> Iterator[miaotui.Model]:
    with miaotui.load(demo.path("chat"), cache_tokens=2048) as model:
        yield model


@pytest.fixture(scope="module")
def client(chat: miaotui.Model) -> Client:
    return Client({"chat": chat})


def chunks(client: Client, **more: Any) -> list[Any]:
    body = {**BODIES[CHAT], "temperature": 0, "stream": True, "stream_options": {"include_usage": True}, **more}
    return client.post(CHAT, body).events  # which ends with [DONE], or fails


def test_chunks_of_a_chat_and_their_usage(client: Client) -> None:
    whole = client.post(CHAT, {**BODIES[CHAT], "temperature": 0}).json
    *content, last, usage = chunks(client)
    assert content[0]["choices"][0]["delta"]["role"] == "assistant"
    assert all("role" not in chunk["choices"][0]["delta"] for chunk in content[1:])
    assert [chunk["usage"] for chunk in (*content, last)] == [None] * (len(content) + 1)
    assert [chunk["choices"][0]["finish_reason"] for chunk in content] == [None] * len(content)
    assert last["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert usage["choices"] == []
    told, wanted = usage["usage"], whole["usage"]
    assert told["prompt_tokens"] + told["completion_tokens"] == told["total_tokens"]
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [told[name] for name in counts] == [wanted[name] for name in counts]
    joined = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in (*content, last))
    assert joined == whole["choices"][0]["message"]["content"]


def test_no_chunk_splits_a_character(client: Client) -> None:
    """Most of these characters are several tokens."""
    parts = [
        chunk["choices"][0]["delta"].get("content", "") for chunk in chunks(client, choices=[TEXT], max_tokens=200)[:-1]
    ]
    assert "".join(parts) == TEXT
    assert not any("\ufffd" in part for part in parts)
    assert sum(map(bool, parts)) > 5


def test_a_stop_text_never_shows_wherever_it_stands(client: Client) -> None:
    for i in range(0, len(TEXT) - 2, 3):
        stop = TEXT[i : i + 3]
        made = chunks(client, choices=[TEXT], max_tokens=200, stop=["never", stop])
        joined = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in made[:-1])
        assert joined == TEXT[: TEXT.index(stop)]
        assert made[-2]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("wrong", [{"model": "nobody"}, {"max_tokens": 0}, {"max_tokens": "9"}, {"n": 0}])
def test_what_is_wrong_with_a_stream_is_no_stream(client: Client, wrong: dict[str, Any]) -> None:
    reply = client.post(CHAT, {**BODIES[CHAT], "stream": True, **wrong})
    assert 400 <= reply.status < 500
    assert reply.error["param"] in wrong
    assert reply.headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", BODIES)
def test_an_error_after_the_first_byte_is_the_last_event(
    client: Client, chat: miaotui.Model, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the form that the endpoint's clients read, with the next number where events have numbers."""
    achoices = chat.achoices

    async def cut(*args: Any, **how: Any) -> AsyncIterator[Any]:
        made, n = achoices(*args, **how), 0
        try:
            async for each in made:
                yield each
                n += 1
                if n == 5:
                    msg = "cut on purpose"
                    raise RequestError(msg, status=504, code="timeout")
        finally:
            await made.aclose()

    monkeypatch.setattr(chat, "achoices", cut)
    reply = client.post(path, {**BODIES[path], "temperature": 0, "stream": True, "ignore_eos": True} if path != MESSAGES
                        else {**BODIES[path], "temperature": 0, "stream": True})  # fmt: skip
    assert reply.status == 200
    lines = [line for line in reply.body.decode().split("\n\n") if line]
    if path in {CHAT, COMPLETIONS}:
        assert lines.pop() == "data: [DONE]"
    events = [json.loads(line.rpartition("data: ")[2]) for line in lines]
    error = events[-1]
    told = error if path == RESPONSES else error["error"]
    assert told["message"] == "cut on purpose"
    assert sum("cut on purpose" in line for line in lines) == 1
    if path in {MESSAGES, RESPONSES}:
        assert lines[-1].startswith("event: error\n")
        assert error["type"] == "error"
    if path == RESPONSES:
        assert [event["sequence_number"] for event in events] == [*range(len(events))]
        assert sorted(error) == ["code", "message", "param", "sequence_number", "type"]
