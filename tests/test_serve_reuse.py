"""Whose texts may reuse what is in the cache: with `--reuse per-key`, and `cache_salt`, nobody else's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import miaotui
import pytest
from miaotui.tools import demo

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")
pytest.importorskip("jinja2")

from miaotui.errors import InputError
from miaotui.tools.cli import main
from miaotui.tools.server.security import Keys
from miaotui.tools.server.settings import Settings
from serving import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

START = "Once upon a time there was a little girl who had a red ball and a blue box, and she said to her friend:"
SAID = [{"role": "user", "content": START}]
#: Endpoint -> a request, and where its answer tells how many tokens were reused.
ASKED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "/v1/completions": ({"prompt": START, "max_tokens": 2}, ("usage", "prompt_tokens_details", "cached_tokens")),
    "/v1/chat/completions": ({"messages": SAID, "max_tokens": 2}, ("usage", "prompt_tokens_details", "cached_tokens")),
    "/v1/messages": ({"messages": SAID, "max_tokens": 2}, ("usage", "cache_read_input_tokens")),
    "/v1/responses": (
        {"input": START, "max_output_tokens": 2}, ("usage", "input_tokens_details", "cached_tokens"),
    ),
    "/v1/decisions": (
        {"input": START, "questions": [{"type": "predicate", "name": "q", "instructions": "Is the ball red?"}]},
        ("usage", "input_tokens_details", "cached_tokens"),
    ),
}  # fmt: skip


@pytest.fixture
def chat() -> Iterator[miaotui.Model]:
    with miaotui.load(demo.path("chat"), cache_tokens=4096) as model:
        yield model


def reused(client: Client, path: str, key: str, **more: Any) -> int:
    body, where = ASKED[path]
    told: Any = client.post(path, {**body, **more}, {"authorization": f"Bearer {key}"}).json
    for name in where:
        told = told[name]
    return int(told)


@pytest.mark.parametrize("path", ASKED)
def test_no_key_reuses_what_another_left(chat: miaotui.Model, path: str) -> None:
    names = ["key-of-one", "key-of-two"]
    client = Client({"chat": chat}, Settings(reuse="per-key"), Keys(names))
    first, again, other, back = (reused(client, path, f"key-of-{who}") for who in ("one", "one", "two", "one"))
    assert (first, other) == (0, 0)
    assert again == back > 16
    other_server = Client({"chat": chat}, Settings(reuse="per-key"), Keys(names))
    assert reused(other_server, path, "key-of-one") == 0


def test_nor_does_ranking(chat: miaotui.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer tells nothing of reuse, but its time does: tokens that are computed."""
    n, run = [0], chat.session.run_pass

    def counted(parts: Any, **how: Any) -> Any:
        n[0] += sum(len(part[1]) for part in parts)
        return run(parts, **how)

    monkeypatch.setattr(chat.session, "run_pass", counted)
    client = Client({"chat": chat}, Settings(reuse="per-key"), Keys(["key-of-one", "key-of-two"]))

    def computed(who: str) -> tuple[int, Any]:
        n[0] = 0
        body = {"query": "Who had a ball?", "documents": [START]}
        reply = client.post("/v1/rerank", body, {"authorization": f"Bearer key-of-{who}"})
        assert reply.status == 200, reply.body
        return n[0], reply.json["results"]

    (first, said), (again, same), (other, too), (back, last) = (computed(who) for who in ("one", "one", "two", "one"))
    assert again < first / 2 > back
    assert other == first
    assert said == same == too == last


def test_keys_share_what_begins_alike_unless_they_are_told_not_to(chat: miaotui.Model) -> None:
    client = Client({"chat": chat}, Settings(), Keys(["key-of-one", "key-of-two"]))
    assert [reused(client, "/v1/completions", f"key-of-{who}") > 16 for who in ("one", "two")] == [False, True]


def test_a_request_may_have_a_salt_of_its_own(chat: miaotui.Model) -> None:
    for settings in (Settings(), Settings(reuse="per-key")):
        client = Client({"chat": chat}, settings, Keys(["key-of-one", "key-of-two"]))
        asked = [("one", "a"), ("one", "b"), ("one", "a"), ("two", "a")]
        made = [reused(client, "/v1/completions", f"key-of-{who}", cache_salt=salt) > 16 for who, salt in asked]
        assert made == [False, False, True, settings.reuse == "shared"]


def test_texts_with_another_salt_share_nothing_and_say_the_same(chat: miaotui.Model) -> None:
    alone = chat.generate(START, max_new_tokens=6)
    for salt in (None, "a", "b"):
        first, again = (chat.generate(START, max_new_tokens=6, cache_salt=salt) for _ in range(2))
        assert first.ids == again.ids == alone.ids
        assert (first.timings.n_reused > 16) == (salt is None)
        assert again.timings.n_reused > 16
        scored = [chat.score(START, [" a"], cache_salt=f"{salt}!")[0] for _ in range(2)]
        assert [score.n_reused > 16 for score in scored] == [False, True]
    with chat.sequence(cache_salt="a") as text, chat.sequence(cache_salt="c") as other:
        assert text.generate(START, max_new_tokens=2).timings.n_reused > 16
        assert text.fork().generate(" and", max_new_tokens=2, cache_salt="a").timings.n_new == 2
        assert other.generate(START, max_new_tokens=2).timings.n_reused == 0
        with pytest.raises(InputError, match="cache_salt='a': this sequence has another"):
            other.generate(" and", cache_salt="a")
    with pytest.raises(InputError, match="cache_salt='': expected a text"):
        chat.generate(START, cache_salt="")


def test_a_draft_model_reuses_nothing_of_another_salt_s_either() -> None:
    with miaotui.load(demo.path(), cache_tokens=2048, draft=str(demo.path())) as model:
        texts = [model.generate(START, max_new_tokens=12, cache_salt=salt).text for salt in ("a", "b", "a")]
    assert len(set(texts)) == 1


def test_reuse_by_key_needs_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "0", "--reuse", "per-key"]) == 2
    assert "--reuse per-key: there are no keys" in capsys.readouterr().err
