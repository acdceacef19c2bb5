"""A plugin for `llm`: the included models, and those that `llm miaotui add NAME PATH` named, without a server.

A model is loaded at its first prompt, and stays for those that follow.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import click
import llm
import miaotui as mt
from miaotui.tools import demo
from pydantic import Field

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

#: Included models that write, and the one that makes vectors.
WRITERS, ENCODER = ("chat", "story"), "encoder"


@cache
def loaded(path: str) -> mt.Model:
    """A model, once in a process."""
    return mt.load(path)


def added_file() -> Path:
    """Where `add` writes: names and paths, as JSON."""
    return llm.user_dir() / "miaotui.json"


def added() -> dict[str, str]:
    """What was added."""
    file = added_file()
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


class Writer(llm.Model):
    """A model that writes: it answers by its chat template, or continues the text."""

    can_stream = True

    class Options(llm.Options):
        """Those of `generate`; without one of sampling the answer is the likeliest."""

        max_tokens: int | None = Field(None, description="most tokens of an answer")
        temperature: float | None = Field(None, description="0: the likeliest; above 1: wilder")
        top_p: float | None = Field(None, description="draw from the fewest tokens with this probability together")
        top_k: int | None = Field(None, description="draw from this many of the likeliest tokens")
        seed: int | None = Field(None, description="the same seed gives the same text")

    def __init__(self, name: str, path: str) -> None:
        """`name`: after `miaotui/`; `path`: a directory or hub name."""
        self.model_id, self._path = f"miaotui/{name}", path

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any) -> Iterator[str]:  # noqa: ANN401, ARG002, FBT001 - llm's
        """The answer, in pieces."""
        given = {name: value for name, value in prompt.options.model_dump().items() if value is not None}
        given["max_new_tokens"] = given.pop("max_tokens", 256)
        model = loaded(self._path)
        if model.tokenizer.chat_template is None:
            made = model.stream(prompt.prompt, **given)
        else:
            made = model.chat_stream(messages_of(prompt), **given)
        yield from made if stream else ["".join(made)]


def messages_of(prompt: Any) -> list[dict[str, str]]:  # noqa: ANN401 - llm's
    """The conversation up to what is asked now, as texts."""
    return [
        {"role": message.role, "content": "".join(part.text for part in message.parts if hasattr(part, "text"))}
        for message in prompt.messages
    ]


class Encoder(llm.EmbeddingModel):
    """A model that makes vectors."""

    def __init__(self, name: str, path: str) -> None:
        """`name`: after `miaotui/`; `path`: a directory or hub name."""
        self.model_id, self._path = f"miaotui/{name}", path

    def embed_batch(self, items: Iterable[str | bytes]) -> Iterator[list[float]]:
        """A vector for each text."""
        texts = [item if isinstance(item, str) else item.decode() for item in items]
        return iter(loaded(self._path).encode(texts).tolist())


@llm.hookimpl
def register_models(register: Any) -> None:  # noqa: ANN401 - llm's
    """Those that write."""
    for name in WRITERS:
        register(Writer(name, str(demo.path(name))))
    for name, path in added().items():
        register(Writer(name, path))


@llm.hookimpl
def register_embedding_models(register: Any) -> None:  # noqa: ANN401 - llm's
    """Any can make vectors; the included encoder was trained to."""
    register(Encoder(ENCODER, str(demo.path(ENCODER))))
    for name, path in added().items():
        register(Encoder(name, path))


@llm.hookimpl
def register_commands(cli: Any) -> None:  # noqa: ANN401 - llm's
    """`llm miaotui`."""

    @cli.group(name="miaotui")
    def group() -> None:
        """Models of miaotui, in this process."""

    @group.command()
    @click.argument("name")
    @click.argument("path")
    def add(name: str, path: str) -> None:
        """Name a model: a directory, or a hub name."""
        every = added() | {name: path}
        added_file().write_text(json.dumps(every, indent=1), encoding="utf-8")
        click.echo(f"miaotui/{name}: {path}")
