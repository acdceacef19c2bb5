"""docs/clients.md as it stands: other people's clients with a server of the included models, and `llm` without one.

`pip install openai langchain-openai llm`, and `./dev soak clients --minutes 0`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import miaotui as mt
import pytest
from miaotui.tools import demo
from serve_processes import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
ASKED = "Tom had a red ball. What did Tom have?"


def code_of(heading: str, kind: str) -> str:
    """The one block of a section."""
    [section] = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    [block] = re.findall(rf"^```{kind}\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    return str(block)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving() as (_, port):
        yield port


@pytest.fixture(scope="module")
def answer() -> str:
    with mt.load(demo.path("chat")) as model:
        return model.chat([{"role": "user", "content": ASKED}]).text


@pytest.mark.soak("clients")
def test_the_openai_package(port: int, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openai")
    code = code_of("The openai package", "python").replace(":8000/", f":{port}/")
    exec(compile(code, "docs/clients.md", "exec"), {})  # noqa: S102 - it is our own page
    with mt.load(demo.path()) as model:
        story = model.generate("Once upon a time", max_new_tokens=16).text
    assert capsys.readouterr().out == f"{answer}\n{story}"


@pytest.mark.soak("clients")
@pytest.mark.filterwarnings("default")
def test_langchain(port: int, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("langchain_openai")
    code = code_of("LangChain", "python").replace(":8000/", f":{port}/")
    exec(compile(code, "docs/clients.md", "exec"), {})  # noqa: S102 - it is our own page
    assert capsys.readouterr().out == f"{answer}\n{answer}"


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """The command, with the plugin installed as pip does it."""
    pytest.importorskip("llm")
    folder = tmp_path_factory.mktemp("llm")
    shutil.copytree(ROOT / "docs" / "examples" / "llm-miaotui", folder / "source")
    words = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder / "site")]
    command = [sys.executable, "-m", "pip", *words, str(folder / "source")]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr  # setuptools may be too old for it
    path = os.pathsep.join([str(folder / "site"), os.environ.get("PYTHONPATH", "")])
    where = os.environ | {"PYTHONPATH": path, "LLM_USER_PATH": str(folder / "user")}

    def call(*words: str) -> str:
        command = [sys.executable, "-m", "llm", *words]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=where
        )  # what stands at its input would be a part of the prompt
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


@pytest.mark.soak("clients")
def test_llm_without_a_server(llm: Callable[..., str], answer: str) -> None:
    lines = code_of("llm, without a server", "sh").splitlines()
    assert lines[1] == f"llm -m miaotui/chat '{ASKED}' -o temperature 0"
    assert llm("-m", "miaotui/chat", ASKED, "-o", "temperature", "0").strip() == answer.strip()
    assert llm("-m", "miaotui/chat", ASKED, "--no-stream").strip() == answer.strip()
    story = llm("-m", "miaotui/story", "Once upon a time", "-o", "max_tokens", "32", "-o", "seed", "7")
    with mt.load(demo.path()) as model:
        assert story.strip() == model.generate("Once upon a time", max_new_tokens=32, seed=7).text.strip()
    vector = json.loads(llm("embed", "-m", "miaotui/encoder", "-c", "a text"))
    with mt.load(demo.path("encoder")) as model:
        assert vector == pytest.approx(model.encode("a text").tolist(), abs=1e-6)
    assert llm("miaotui", "add", "large", str(demo.path("chat"))) == f"miaotui/large: {demo.path('chat')}\n"
    assert llm("-m", "miaotui/large", ASKED).strip() == answer.strip()
    assert "miaotui/large" in llm("models")


@pytest.mark.soak("clients")
def test_llm_keeps_a_conversation(llm: Callable[..., str]) -> None:
    first = llm("-m", "miaotui/chat", "Ben lives near the old bridge. Where does Ben live?").strip()
    second = llm("-c", "Who lives there?").strip()
    messages = [{"role": "user", "content": "Ben lives near the old bridge. Where does Ben live?"}]
    with mt.load(demo.path("chat")) as model:
        said = model.chat(messages).text
        assert first == said.strip()
        messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "Who lives there?"}]
        assert second == model.chat(messages).text.strip()
