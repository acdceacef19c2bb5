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
BROWSER = [  # a root's browser has no sandbox
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
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


class Tab:
    """A page in a browser, as a person uses it; on a phone the settings are opened and shut."""

    def __init__(self, page: Any, url: str, *, phone: bool) -> None:
        self.page, self.phone, self.wrong = page, phone, list[str]()
        page.on("pageerror", lambda e: self.wrong.append(str(e)))
        page.on("request", lambda r: None if r.url.startswith(url) else self.wrong.append(r.url))
        page.goto(f"{url}/")

    @contextmanager
    def settings(self) -> Iterator[Any]:
        """Change some."""
        if self.phone:
            self.page.click("#open")
        yield self.page
        if self.phone:
            self.page.click("#open")

    def say(self, text: str, n: int) -> str:
        """Send a message by the keyboard; the text of the n-th answer, when it is whole."""
        self.send(text)
        self.page.wait_for_selector("#send:visible", timeout=60_000)
        self.page.wait_for_selector(f"article.assistant:not(.running) >> nth={n - 1}", timeout=60_000)
        return self.text(f"article.assistant .text >> nth={n - 1}")

    def send(self, text: str) -> None:
        """Send a message by the keyboard."""
        self.page.fill("#prompt", text)
        self.page.press("#prompt", "Enter")

    def text(self, selector: str) -> str:
        """What an element says."""
        return str(self.page.inner_text(selector))


def asks_for_a_key(tab: Tab, key: str, picture: Path) -> None:
    tab.page.wait_for_selector("#wrong:visible")
    assert "API key" in tab.text("#wrong")
    with tab.settings() as page:
        page.fill("#key", key)
        page.press("#key", "Tab")
        page.wait_for_selector("#model option >> nth=1", state="attached")
        page.fill("#seed", "7")
        page.fill("#temperature", "0")
        page.screenshot(path=picture)


def reuses_what_was_read(tab: Tab) -> str:
    assert "ball" in tab.say(f"{STORY} What does Tom have?", 1)
    answer = tab.say("And where does Anna live?", 2)
    reused = re.search(r"of these (\d+) reused", tab.text("article.assistant .foot >> nth=1"))
    assert reused is not None
    assert int(reused[1]) > 20
    return answer


def shows_probabilities(tab: Tab, answer: str, picture: Path) -> None:
    """The same conversation once more: the same words, and each has its row of what could have come."""
    page, first = tab.page, "article.assistant >> nth=1 >> .token >> nth=0"
    with tab.settings():
        page.check("#probabilities")
    page.click("article.assistant >> nth=1 >> text=Again")
    page.wait_for_selector("#send:visible", timeout=60_000)
    page.wait_for_selector(first, timeout=60_000)
    assert tab.text("article.assistant .text >> nth=1").replace("</s>", "") == answer
    page.focus(first)
    page.keyboard.press("ArrowRight")
    assert "Token 2 of" in tab.text(".chances")
    assert page.locator(".chances tr.drawn").count() == 1
    bottom = "e => e.getBoundingClientRect().bottom"
    assert page.eval_on_selector(".chances", bottom) <= page.eval_on_selector("#log", bottom)  # all of it is seen
    page.screenshot(path=picture)


def loses_no_message(tab: Tab) -> None:
    """A wrong setting is said."""
    with tab.settings() as page:
        page.fill("#top_p", "3")
    tab.send("Not sent")
    page.wait_for_selector("#wrong:visible")
    assert "Top p" in tab.text("#wrong")
    assert page.input_value("#prompt") == "Not sent"
    with tab.settings():
        page.fill("#top_p", "")


def searches_with_beams(tab: Tab) -> None:
    """The answer comes whole, with its score; the settings for draws stay."""
    said = [tab.say("Where does Anna live?", 3)]
    with tab.settings() as page:
        page.fill("#num_beams", "3")
        page.fill("#length_penalty", "0.5")
    said.append(tab.say("And what does Tom have?", 4))
    assert all(said), said
    feet = [tab.text(f"article.assistant .foot >> nth={n}") for n in (2, 3)]
    assert "score" not in feet[0]
    assert re.search(r"score -\d+\.\d{3}", feet[1]), feet[1]
    assert page.locator("article.assistant >> nth=3 >> .token").count() == 0
    with tab.settings():
        page.fill("#num_beams", "")
        page.fill("#length_penalty", "")


def goes_on_with_a_text(tab: Tab) -> None:
    """Stopped by a key, and still there when the page is loaded again."""
    with tab.settings() as page:
        page.select_option("#model", "story")
        assert page.is_checked("input[value=text]")
        assert page.is_disabled("input[value=chat]")
    page.keyboard.press("Alt+N")
    assert page.locator("article").count() == 0
    tab.send("Once upon a time")
    page.wait_for_selector("article.assistant")
    page.keyboard.press("Escape")
    page.wait_for_selector("#send:visible")
    page.reload()
    page.wait_for_selector("article.user")
    assert "Once upon a time" in tab.text("article.user")
    page.click("#theme")
    assert page.get_attribute("html", "data-theme") == "light"


@pytest.mark.soak("page")
@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_a_conversation_in_a_real_browser(look: str, tmp_path: Path) -> None:
    sync = pytest.importorskip("playwright.sync_api", reason="pip install playwright (and Debian's chromium)")
    browser, phone, key = shutil.which("chromium"), look == "phone", "a-key-of-the-test"
    assert browser is not None, "needs Debian's chromium"
    (tmp_path / "keys").write_text(f"{key}\n", encoding="utf-8")
    PICTURES.mkdir(parents=True, exist_ok=True)
    kind: dict[str, Any] = {"viewport": {"width": 390, "height": 780} if phone else {"width": 1200, "height": 760}}
    kind |= {"color_scheme": "dark" if look == "dark" else "light", "is_mobile": phone, "has_touch": phone}
    with served("--api-keys", str(tmp_path / "keys")) as url, sync.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=BROWSER)
        context = chromium.new_context(**kind, device_scale_factor=2 if phone else 1)
        tab = Tab(context.new_page(), url, phone=phone)
        asks_for_a_key(tab, key, PICTURES / f"{look}-settings.png")
        shows_probabilities(tab, reuses_what_was_read(tab), PICTURES / f"{look}.png")
        loses_no_message(tab)
        searches_with_beams(tab)
        goes_on_with_a_text(tab)
        assert not tab.wrong
        chromium.close()
    soak.count("conversations")
