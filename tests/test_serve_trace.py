"""GET /trace: the page of a text, with `--trace` alone."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import miaotui
import pytest
from miaotui.tools import demo
from miaotui.tools.trace_page import page

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")
pytest.importorskip("jinja2")

from miaotui.tools.server.settings import Settings
from serving import Client

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def models() -> Iterator[dict[str, miaotui.Model]]:
    with miaotui.load(demo.path()) as story, miaotui.load(demo.path("encoder")) as encoder:
        yield {"story": story, "encoder": encoder}


@pytest.fixture(scope="module")
def client(models: dict[str, miaotui.Model]) -> Client:
    return Client(models, Settings(trace=True))


def test_a_text_s_page_is_that_of_the_command(client: Client, models: dict[str, miaotui.Model]) -> None:
    """But for the place of the model, which is nobody's business."""
    text = 'Once <b>"upon"</b> a'
    for name, model in models.items():
        reply = client.get(f"/trace?text={quote(text)}&model={name}")
        assert reply.status == 200
        html = reply.body.decode()
        assert html == page(model, model.trace(model.tokenizer.encode(text))).replace(str(model.directory), name)
        assert "<b>" not in html
        assert str(model.directory) not in html
        assert reply.headers["content-type"].startswith("text/html")
        assert "script" not in reply.headers["content-security-policy"]
        assert not re.findall(r"<script|<link|src=\"(?!data:)|href=|url\(", html)


def test_without_a_text_there_is_a_form(client: Client) -> None:
    html = client.get("/trace").body.decode()
    assert html.count("<option>") == 2
    assert "<script" not in html
    assert client.get("/trace?model=story").body.decode() == html


def test_what_is_refused(client: Client) -> None:
    reply = client.get("/trace?text=a&model=other")
    assert (reply.status, reply.error["code"]) == (404, "model_not_found")
    reply = client.get("/trace?model=story&text=" + quote("the cat " * 300))
    assert (reply.status, reply.error["param"]) == (400, "text")
    assert "expected at most 256" in reply.error["message"]


def test_one_at_a_time(client: Client) -> None:
    async def both() -> list[Any]:
        return await asyncio.gather(*(client.ask("GET", "/trace?text=Once") for _ in range(2)))

    replies = asyncio.run(both())
    assert sorted(reply.status for reply in replies) == [200, 429]
    assert client.get("/trace?text=Once").status == 200


def test_it_is_there_only_where_it_is_asked_for(client: Client, models: dict[str, miaotui.Model]) -> None:
    plain = Client(models)
    assert plain.get("/trace?text=a").status == 404
    assert "/trace" not in plain.get("/openapi.json").json["paths"]
    assert "get" in client.get("/openapi.json").json["paths"]["/trace"]
