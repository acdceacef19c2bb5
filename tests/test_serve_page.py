"""The server's page: what it is made of, and, in a real browser, a conversation. `./dev soak page` runs the latter."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import soak
from miaotui.tools.server import page
from starlette.applications import Starlette
from starlette.testclient import TestClient

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Where the soak puts its pictures; docs/ has those of the last one that was looked at.
PICTURES = Path(__file__).resolve().parent.parent / "build" / "soak" / "page"
BROWSER = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
STORY = "Tom has a red ball. Anna lives in a small house."


def files() -> dict[str, str]:
    client = TestClient(Starlette(routes=page.routes()))
    return {path: client.get(path).text for path in page.PATHS}


def test_every_file_is_served_with_a_policy_and_nothing_comes_from_elsewhere() -> None:
    client = TestClient(Starlette(routes=page.routes()))
    for path, name in page.PATHS.items():
        reply = client.get(path)
        assert reply.status_code == 200
        assert reply.headers["content-type"] == page.KINDS[name]
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        elsewhere = re.findall(r"(?:https?:)?//[\w.-]+\.\w+", reply.text)
        assert elsewhere == (["http://www.w3.org"] if name == "icon.svg" else [])
    assert client.get("/page/other.js").status_code == 404
    assert client.get("/favicon.ico", follow_redirects=False).headers["location"] == "/page/icon.svg"
    assert {p.name for p in page.FOLDER.iterdir()} == set(page.KINDS)


def test_the_script_finds_what_it_asks_for_and_never_writes_html() -> None:
    """Every `$("id")` is an element; what a model says can only ever become text."""
    html, script, style = (files()[path] for path in ("/", "/page/page.js", "/page/page.css"))
    ids = set(re.findall(r'\bid="([\w-]+)"', html))
    named = set(re.findall(r'\$\("([\w-]+)"\)', script))
    numbers = re.search(r"const NUMBERS = \[(.*?)\]", script)
    assert numbers is not None
    named |= set(re.findall(r'"(\w+)"', numbers[1]))
    assert named <= ids, named - ids
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script)
    assert not re.search(r"<[^>]+\son\w+=|\sstyle=|<script(?![^>]*src=)", html)  # the policy refuses them
    assert "prefers-reduced-motion" in style
    labelled = set(re.findall(r'\bfor="([\w-]+)"', html)) | set(
        re.findall(r"<label[^>]*>(?:(?!</label>).)*?\bid=\"([\w-]+)\"", html, re.DOTALL)
    )
    fields = set(re.findall(r'<(?:input|select|textarea)\b[^>]*\bid="([\w-]+)"', html))
    assert fields <= labelled, fields - labelled


@contextmanager
def served(*options: str) -> Iterator[str]:
    """The address of a server of its own process."""
    command = [sys.executable, "-m", "miaotui", "serve", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"(http://\S+?)/v1", process.stdout.readline())
            assert found is not None
            yield found[1]
        finally:
            process.terminate()


def say(tab: Any, text: str, n: int) -> str:
    """Send a message by the keyboard; the text of the n-th answer, when it is whole."""
    tab.fill("#prompt", text)
    tab.press("#prompt", "Enter")
    tab.wait_for_selector("#send:visible", timeout=60_000)
    tab.wait_for_selector(f"article.assistant:not(.running) >> nth={n - 1}", timeout=60_000)
    return str(tab.inner_text(f"article.assistant .text >> nth={n - 1}"))


@pytest.mark.soak("page")
@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_a_conversation_in_a_real_browser(look: str, tmp_path: Path) -> None:
    """Chat, settings, probabilities by keys, text, stopping, errors, keys; and pictures to look at."""
    sync = pytest.importorskip("playwright.sync_api", reason="pip install playwright (and Debian's chromium)")
    browser = shutil.which("chromium")
    assert browser is not None, "needs Debian's chromium"
    (tmp_path / "keys").write_text("a-key-of-the-test\n", encoding="utf-8")
    PICTURES.mkdir(parents=True, exist_ok=True)
    phone = look == "phone"
    kind: dict[str, Any] = {"viewport": {"width": 390, "height": 780} if phone else {"width": 1200, "height": 760}}
    kind |= {"color_scheme": "dark" if look == "dark" else "light", "is_mobile": phone, "has_touch": phone}
    root = ["--no-sandbox"]  # a root's browser has none
    with served("--api-keys", str(tmp_path / "keys")) as url, sync.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=[*BROWSER, *root])
        tab = chromium.new_context(**kind, device_scale_factor=2 if phone else 1).new_page()
        wrong: list[str] = []
        tab.on("pageerror", lambda e: wrong.append(str(e)))
        tab.on("request", lambda r: wrong.append(r.url) if not r.url.startswith(url) else None)
        tab.goto(f"{url}/")
        tab.wait_for_selector("#wrong:visible")
        assert "API key" in tab.inner_text("#wrong")
        if phone:
            tab.click("#open")
        tab.fill("#key", "a-key-of-the-test")
        tab.press("#key", "Tab")
        tab.wait_for_selector("#model option >> nth=1", state="attached")
        tab.fill("#seed", "7")
        tab.fill("#temperature", "0")
        tab.screenshot(path=PICTURES / f"{look}-settings.png")
        if phone:
            tab.click("#open")
        first = say(tab, f"{STORY} What does Tom have?", 1)
        assert "ball" in first
        assert "of these" in tab.inner_text("article.assistant .foot")
        again = say(tab, "And where does Anna live?", 2)
        reused = re.search(r"of these (\d+) reused", tab.inner_text("article.assistant .foot >> nth=1"))
        assert reused is not None
        assert int(reused[1]) > 20
        # the same conversation with probabilities: the same words, and each has its row of what could have come
        if phone:
            tab.click("#open")
        tab.check("#probabilities")
        if phone:
            tab.click("#open")
        tab.click("article.assistant >> nth=1 >> text=Again")
        tab.wait_for_selector("article.assistant >> nth=1 >> .token >> nth=1", timeout=60_000)
        assert tab.inner_text("article.assistant .text >> nth=1").replace("</s>", "") == again
        tab.focus("article.assistant >> nth=1 >> .token >> nth=0")
        tab.keyboard.press("ArrowRight")
        assert "Token 2 of" in tab.inner_text(".chances")
        assert tab.locator(".chances tr.drawn").count() == 1
        tab.screenshot(path=PICTURES / f"{look}.png")
        # a wrong setting is said, and the message is not lost
        if phone:
            tab.click("#open")
        tab.fill("#top_p", "3")
        if phone:
            tab.click("#open")
        tab.fill("#prompt", "Not sent")
        tab.press("#prompt", "Enter")
        tab.wait_for_selector("#wrong:visible")
        assert "Top p" in tab.inner_text("#wrong")
        assert tab.input_value("#prompt") == "Not sent"
        # text, stopped by a key
        if phone:
            tab.click("#open")
        tab.fill("#top_p", "")
        tab.select_option("#model", "story")
        assert tab.is_checked("input[value=text]")
        assert tab.is_disabled("input[value=chat]")
        if phone:
            tab.click("#open")
        tab.keyboard.press("Alt+N")
        assert tab.locator("article").count() == 0
        tab.fill("#prompt", "Once upon a time")
        tab.press("#prompt", "Enter")
        tab.wait_for_selector("article.assistant")
        tab.keyboard.press("Escape")
        tab.wait_for_selector("#send:visible")
        tab.reload()  # the conversation is still there
        tab.wait_for_selector("article.user")
        assert "Once upon a time" in tab.inner_text("article.user")
        tab.click("#theme")
        assert tab.get_attribute("html", "data-theme") == "light"
        assert not [w for w in wrong if "Failed to fetch" not in w]
        chromium.close()
    soak.count("conversations")
