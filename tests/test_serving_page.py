"""docs/serving.md: its commands run, and return what the page says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from serve_processes import serving

pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "serving.md").read_text(encoding="utf-8")
ASKED = re.compile(r"^```sh\n(curl .*?)^```(?:\n\n```(json|)\n(.*?)^```)?", re.DOTALL | re.MULTILINE)


def _same(told: Any, page: Any) -> bool:
    """Whether it is what the page says, which leaves out what differs each time."""
    if page == "…":
        return told is not None
    if isinstance(page, dict):
        return isinstance(told, dict) and list(told) == list(page) and all(_same(told[k], page[k]) for k in page)
    if isinstance(page, list):
        return isinstance(told, list) and len(told) == len(page) and all(map(_same, told, page))
    return bool(told == page)


def _events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line.strip()]
    assert lines[-1].strip() == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@pytest.mark.ci  # 5 s
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_page_s_commands_return_what_it_says() -> None:
    asked = ASKED.findall(PAGE)
    assert [kind for _, kind, _ in asked] == ["json", "", "", "json"]
    with serving() as (_, port):
        for command, kind, page in asked:
            words = command.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
            done = subprocess.run(words, shell=True, capture_output=True, text=True, check=True, timeout=60)  # noqa: S602 - it is our own page
            if kind == "json":
                assert _same(json.loads(done.stdout), json.loads(page)), done.stdout
            elif page:
                assert _same(_events(done.stdout), _events(page)), done.stdout
            else:
                assert len(json.loads(done.stdout)["choices"][0]["logprobs"]["tokens"]) == 3


def test_the_page_has_every_field_and_limit() -> None:
    from miaotui.tools.server import chat, completions

    there = set(re.findall(r"`(\w+)`", PAGE))
    silent = {"store", "modalities", "best_of"}  # which are refused, unless they have no effect
    fields = {field.name for field in (*chat.FIELDS, *completions.FIELDS)}
    assert fields - there - silent == set()
