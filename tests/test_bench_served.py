"""The benchmark of two servers: what its clients see of one, and what its figures hold; none is asserted."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from miaotui.errors import BackendError, InputError
from miaotui.tools.bench import compare, served
from miaotui.tools.bench.peers import llamaserver

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("uvicorn")

TEXTS = ("", "a", "b c", "d")


async def _asked_of_a_server(new: int, said: dict[str, Any] | None = None) -> tuple[served.Answer, dict[str, Any]]:
    """What a client sees of a server that sends `TEXTS`, or refuses with what is `said`; and what it asked."""
    asked: dict[str, Any] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
        asked.update(json.loads(await reader.readexactly(length)))
        events: list[dict[str, Any]] = [{"choices": [{"text": text}], "usage": None} for text in TEXTS]
        events += [{"choices": [], "usage": {"completion_tokens": 4}}]
        lines = [f"data: {json.dumps(event)}\n\n" for event in events] + ["data: [DONE]\n\n"]
        body = json.dumps(said) if said else "".join(lines)
        writer.write(f"HTTP/1.1 {400 if said else 200} -\r\n\r\n{body}".encode())
        writer.close()

    server = await asyncio.start_server(serve, llamaserver.HOST, 0)
    async with server:
        return await served.asked(server.sockets[0].getsockname()[1], [5, 6], new, {"top_k": 1}), asked


def test_a_client_counts_tokens_and_times_pieces() -> None:
    answer, asked = asyncio.run(_asked_of_a_server(4))
    assert (answer.n_tokens, answer.begins, len(answer.came)) == (4, "a", 3)
    assert answer.at <= answer.came[0] <= answer.came[-1]
    assert (asked["prompt"], asked["max_tokens"], asked["top_k"], asked["temperature"]) == ([5, 6], 4, 1, 0)


def test_fewer_tokens_or_a_refusal_are_an_error() -> None:
    with pytest.raises(BackendError, match=r"answered 4 ids .*, expected 5"):
        asyncio.run(_asked_of_a_server(5))
    with pytest.raises(BackendError, match=r"answered 0 ids .*no such luck.*, expected 4"):
        asyncio.run(_asked_of_a_server(4, {"error": "no such luck"}))


def test_prompts_begin_alike_and_no_question_comes_twice() -> None:
    sizes = served.Sizes.quick()
    first, second = (served.prompts(sizes, 3, 300, seed) for seed in (1, 2))
    every = [tuple(prompt) for of_each in (first, second) for own in of_each for prompt in own]
    assert len(every) == len(set(every)) == 2 * 3 * sizes.each
    assert {len(prompt) for prompt in every} == {sizes.system + sizes.question}
    assert len({prompt[: sizes.system] for prompt in every}) == 1
    assert first == served.prompts(sizes, 3, 300, 1)


def test_what_clients_wait_for() -> None:
    got = served.seen([served.Answer(1.0, [1.5, 1.6, 2.0], 4, "a"), served.Answer(2.0, [2.1, 4.0], 2, "b")])
    assert (got["answers"], got["tokens"], got["seconds"], got["tokens_per_s"]) == (2, 6, 3.0, 2.0)
    assert got["first_ms"]["p50"] == pytest.approx(300)
    assert got["between_ms"]["p50"] == pytest.approx(400)


@pytest.mark.ci  # 10 s
def test_two_servers_are_compared_and_a_missing_one_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours stands in for the other: the same texts, and a ratio of each figure."""
    monkeypatch.setattr(compare, "PAUSE", 0.0)
    out, words = tmp_path / "deep" / "out.json", ["--quick", "--rounds", "2", "--clients", "2", "--threads", "1"]
    words += ["--work", str(tmp_path / "work"), "--out", str(out)]
    assert served.main([*words, "--dtype", "int8"]) == 0
    monkeypatch.setattr(served, "_theirs", lambda _, model, dtype, __, how: served.OurServer(model, dtype, **how))
    monkeypatch.setattr(served, "GREEDY", {})
    assert served.main([*words, "--dtype", "f16"]) == 0
    parts = json.loads(out.read_text(encoding="utf-8"))["parts"]
    assert list(parts) == ["int8", "f16"]
    assert str(tmp_path) not in json.dumps(parts)
    assert "--server" in parts["int8"]["skipped"][0]["reason"]
    assert "ratios" not in parts["int8"]["results"][0]
    [row] = parts["f16"]["results"]
    n = 2 * served.Sizes.quick().each
    assert [each["answers"] for rows in row["rounds"].values() for each in rows] == [n] * 4
    assert row["same_first"] == [3 * n, 3 * n]
    assert set(row["ratios"]) == {"tokens_per_s", "first_ms_p50", "first_ms_p99", "between_ms_p50", "between_ms_p99"}
    assert row["ratios"]["tokens_per_s"]["pairs"] == 2


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"miaotui serve ended .*config\.json"):
        served.OurServer(tmp_path, "f16", slots=1, context=64, threads=1)


@pytest.mark.parametrize("argv", [["--rounds", "0"], ["--clients", "2", "0"], ["--threads", "0"]])
def test_what_cannot_be_measured_is_refused(argv: list[str]) -> None:
    with pytest.raises(InputError, match="at least 1"):
        served.main(argv)
