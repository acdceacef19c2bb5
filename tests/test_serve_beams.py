"""Beams over HTTP: the answers of Python's search, and an end to what nobody waits for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import miaotui
import pytest
from miaotui.tools import demo

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")

from miaotui.errors import InputError
from miaotui.runtime.kvcache import PAGE
from miaotui.runtime.turns import Turns
from miaotui.tools.server.settings import Settings
from serving import Client, Reply, asked

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
PROMPT = "Once upon a time"
FOUND = {"prompt": PROMPT, "max_tokens": 12, "num_beams": 3, "length_penalty": 0.5, "early_stopping": True}
#: Ids of the included model.
EVERY = list(range(1024))


@pytest.fixture(scope="module")
def models() -> Iterator[dict[str, miaotui.Model]]:
    with (
        miaotui.load(demo.path(), cache_tokens=4096) as story,
        miaotui.load(demo.path("chat"), cache_tokens=4096) as chat,
    ):
        yield {"story": story, "chat": chat}


@pytest.fixture(scope="module")
def client(models: dict[str, miaotui.Model]) -> Client:
    return Client(models)


@pytest.mark.parametrize("n", [1, 3])
def test_the_best_answers_of_a_search_in_their_order(client: Client, models: dict[str, miaotui.Model], n: int) -> None:
    how: dict[str, Any] = {"num_beams": 3, "length_penalty": 0.5, "early_stopping": True, "max_new_tokens": 12, "n": n}
    best = models["story"].generate(PROMPT, **how)
    texts = [best.text, *(each.text for each in best.alternatives)]
    assert len({*texts}) == n
    reply = client.post(COMPLETIONS, {**FOUND, "n": n}).json
    assert [(each["index"], each["text"]) for each in reply["choices"]] == [*enumerate(texts)]
    assert {each["finish_reason"] for each in reply["choices"]} <= {"stop", "length"}
    assert reply["usage"]["completion_tokens"] == sum(len(each.ids) for each in (best, *best.alternatives))
    assert reply["usage"]["prompt_tokens"] == len(models["story"].tokenizer.encode(PROMPT))
    assert all("seed" not in each for each in reply["choices"])
    assert [each["score"] for each in reply["choices"]] == [each.score for each in (best, *best.alternatives)]


def test_beams_of_several_prompts_and_of_a_conversation(client: Client, models: dict[str, miaotui.Model]) -> None:
    prompts = [PROMPT, "A dog"]
    reply = client.post(COMPLETIONS, {"prompt": prompts, "max_tokens": 8, "num_beams": 2, "n": 2}).json
    found = [models["story"].generate(p, num_beams=2, n=2, max_new_tokens=8) for p in prompts]
    texts = [each.text for best in found for each in (best, *best.alternatives)]
    assert [each["text"] for each in reply["choices"]] == texts
    assert [each["score"] for each in reply["choices"]] == [e.score for b in found for e in (b, *b.alternatives)]
    messages = [{"role": "user", "content": "Tom had a red ball. What did Tom have?"}]
    reply = client.post(CHAT, {"model": "chat", "messages": messages, "num_beams": 2, "max_tokens": 16}).json
    said = models["chat"].chat(messages, num_beams=2, max_new_tokens=16)
    assert reply["choices"][0]["message"]["content"] == said.text
    assert reply["choices"][0]["score"] == said.score


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"stream": True}, "num_beams", "known at their end"),
        ({"n": 4}, "n", "as many beams"),
        ({"num_beams": 33}, "num_beams", "33 found"),
        ({"num_beams": 0}, "num_beams", "0 found"),
        ({"temperature": 0.5}, "num_beams", "do not go together"),
        ({"logprobs": 0}, "num_beams", "do not go together"),
        ({"regex": "a+"}, "num_beams", "do not go together"),
        ({"stop": "a"}, "num_beams", "=3: stop and beams"),
        ({"response_format": {"type": "json_object"}}, "num_beams", "=3: response_format and beams"),
        ({"num_beams": 32, "max_tokens": 500}, "num_beams", "cache_tokens"),
        ({"mirostat": 2}, "mirostat", "nothing is drawn"),
        ({"xtc_probability": 0.5, "n": 2}, "xtc_probability", "nothing is drawn"),
        ({"top_p": 0.9}, "top_p", "nothing is drawn"),
        ({"suppress_tokens": EVERY}, None, "no id may come after position"),
        ({"suppress_tokens": EVERY, "remove_invalid_values": True}, "num_beams", "no text has a score"),
        ({"early_stopping": "always"}, "early_stopping", "always"),
        ({"early_stopping": 1}, "early_stopping", 'expected true or false or "never"'),
    ],
)
def test_what_beams_do_not_do_is_refused(client: Client, more: dict[str, Any], param: str | None, said: str) -> None:
    reply = client.post(COMPLETIONS, {**FOUND, **more})
    assert (reply.status, reply.error["param"]) == (400, param), reply.body
    assert said in reply.error["message"]


def test_temperature_0_says_that_nothing_is_drawn(client: Client) -> None:
    plain = client.post(COMPLETIONS, FOUND).json["choices"]
    assert "score" not in client.post(COMPLETIONS, {**FOUND, "num_beams": 1}).json["choices"][0]
    assert client.post(COMPLETIONS, {**FOUND, "temperature": 0, "top_p": 0.9}).json["choices"] == plain


@pytest.mark.parametrize("more", [{}, {"no_repeat_ngram_size": 1}])
def test_a_search_and_a_draw_say_alike_that_no_id_may_come(
    models: dict[str, miaotui.Model], more: dict[str, Any]
) -> None:
    """From the first token on, or once the only one that may come has come."""
    left = EVERY[2:] if more else EVERY
    said = []
    for beams in (1, 2):
        with pytest.raises(InputError, match="no id may come after position") as raised:
            models["story"].generate("a", suppress_tokens=[*left, 1], max_new_tokens=4, num_beams=beams, **more)
        said.append(str(raised.value))
    assert said[0] == said[1]


def test_a_search_that_nobody_waits_for_ends_and_others_are_answered(
    models: dict[str, miaotui.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One search runs at a time here; the second begins when the client of the first has gone."""
    model, passes, fifth = models["story"], list[int](), list[Any]()
    client = Client(models, Settings(searches=1))
    run = model.session.run_pass

    def counted(*args: Any, **how: Any) -> Any:
        passes.append(1)
        if len(passes) == 5:
            fifth[0].call_soon_threadsafe(fifth[1].set)
        return run(*args, **how)

    monkeypatch.setattr(model.session, "run_pass", counted)
    long = {"prompt": "The king", "num_beams": 4, "max_tokens": 200, "ignore_eos": True}

    async def leave() -> tuple[Reply, Reply, int]:
        fifth[:] = [asyncio.get_running_loop(), asyncio.Event()]
        gone, reply = asyncio.Event(), Reply()
        first = asyncio.ensure_future(client.ask("POST", COMPLETIONS, long, gone=gone, reply=reply))
        await fifth[1].wait()
        gone.set()
        n = len(passes)
        await first
        return reply, await client.ask("POST", COMPLETIONS, {**FOUND, "max_tokens": 4}), len(passes) - n

    reply, after, n = asked(leave())
    assert not reply.ended
    assert after.json["choices"][0]["text"] == model.generate(PROMPT, num_beams=3, length_penalty=0.5,
                                                              early_stopping=True, max_new_tokens=4).text  # fmt: skip
    assert n <= 2 + 1 + 4  # two of the one that went; the prompt, and four steps
    assert len(client.state.admission) == client.state.admission.n_tokens == 0


def test_a_search_that_waits_for_room_ends_when_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text that has the pages keeps them meanwhile."""
    with miaotui.load(demo.path(), threads=1, max_context=256, cache_tokens=2 * PAGE) as model:
        text = model.sequence()
        text.feed([1] * (PAGE + 1))
        wait, began, ended, loops = Turns._until_one_ends, asyncio.Event(), asyncio.Event(), list[Any]()

        def seen(*args: Any) -> None:
            loops[0].call_soon_threadsafe(began.set)
            try:
                wait(*args)
            finally:
                loops[0].call_soon_threadsafe(ended.set)

        monkeypatch.setattr(Turns, "_until_one_ends", seen)

        async def cancelled() -> None:
            loops.append(asyncio.get_running_loop())
            search = asyncio.ensure_future(model.agenerate(PROMPT, num_beams=2, max_new_tokens=40, ignore_eos=True))
            async with asyncio.timeout(60):
                await began.wait()
            search.cancel()
            with pytest.raises(asyncio.CancelledError):
                await search
            try:
                async with asyncio.timeout(10):
                    await ended.wait()
            finally:
                text.table.waiting.clear()  # or its thread would wait for ever

        Turns.awaiting(text.table, lambda: asyncio.run(cancelled()))
        assert text.table.n_pages == 2


def test_the_tokens_of_all_beams_are_in_flight(models: dict[str, miaotui.Model]) -> None:
    client = Client(models, Settings(max_tokens_in_flight=85))

    async def two() -> tuple[Reply, Reply]:
        gone, reply = asyncio.Event(), Reply()
        body = {"prompt": PROMPT, "max_tokens": 60, "temperature": 0, "ignore_eos": True, "stream": True}
        first = asyncio.ensure_future(client.ask("POST", COMPLETIONS, body, gone=gone, reply=reply))
        await reply.begun.wait()
        second = await client.ask("POST", COMPLETIONS, {**FOUND, "max_tokens": 5})
        gone.set()
        await first
        return reply, second

    first, second = asked(two())
    assert first.status == 200
    assert (second.status, second.error["code"]) == (429, "too_many_tokens")
