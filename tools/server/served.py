"""Models and adapters by the names that requests have for them."""

from __future__ import annotations

import re
import time
from dataclasses import field, replace
from typing import TYPE_CHECKING

from ...dataclass import dataclass
from ...loader.text.token_bytes import TokenBytes, token_bytes
from ...once import once
from .errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ...model import Model

__all__ = ["Entry", "Served", "Spelled"]


class Spelled:
    """What a model's tokens are spelled as; found when it is first asked for."""

    def __init__(self, model: Model) -> None:
        """Nothing is read yet."""
        self._model = model

    @once
    def _bytes(self) -> TokenBytes:
        return token_bytes(self._model.tokenizer, self._model.config.n_vocab)

    def read(self) -> None:
        """Find all, which may take a while for a large vocabulary."""
        self._bytes  # noqa: B018 - what is kept at first use

    def token(self, token_id: int) -> tuple[str, bytes]:
        """A token's text and bytes, as log-probabilities tell them; one that is no whole character is "bytes:..."."""
        data = self._bytes.after[token_id]
        if not data:  # a special one is shown as it is spelled
            text = self._model.tokenizer.id_to_token(token_id) or ""
            return text, text.encode()
        try:
            return data.decode("utf-8"), data
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data), data


@dataclass(frozen=True)
class Entry:
    """What a name stands for: a model, or one of its adapters.

    `tool_calls`: the format in which it writes calls; None: that of its chat template.
    """

    name: str
    model: Model
    spelled: Spelled
    adapter: str | None = None
    parent: str | None = None
    tool_calls: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    def check_talks(self) -> None:
        """Errors: `RequestError` for a model that has no chat template."""
        if self.model.tokenizer.chat_template is None:
            msg = f"model: {self.name} has no chat template, so it reads no messages; ask another, or /v1/completions"
            raise RequestError(msg, param="model", code="not_supported")


def _places(paths: Iterable[str]) -> re.Pattern[str]:
    """What finds these paths in a text, the longest first, and no part of a longer name."""
    some = "|".join(map(re.escape, sorted(paths, key=len, reverse=True))) or "(?!)"
    return re.compile(rf"(?<![\w./-])(?:{some})(?=[\s/\\:;,)\]'\"]|\.(?:\s|$)|$)")


class Served:
    """Every name that is served. The first is meant where a request names none."""

    def __init__(
        self,
        models: Mapping[str, Model],
        adapters: Mapping[str, tuple[str, str]] | None = None,
        tool_calls: str | None = None,
    ) -> None:
        """`models`: by name, at least one; `adapters`: name -> the model's name, and the adapter's in that model.

        `tool_calls`: the format in which all of them write calls of tools.
        """
        self.models = dict(models)
        self._entries = {
            name: Entry(name, model, Spelled(model), tool_calls=tool_calls) for name, model in models.items()
        }
        for name, (parent, adapter) in (adapters or {}).items():
            self._entries[name] = replace(self._entries[parent], name=name, adapter=adapter, parent=parent)

    def __iter__(self) -> Iterator[Entry]:
        """All of them, in order."""
        return iter(self._entries.values())

    def find(self, name: str | None) -> Entry:
        """By a request's `model`. Errors: `RequestError` 404."""
        if name is None:
            return next(iter(self._entries.values()))
        entry = self._entries.get(name)
        if entry is None:
            msg = f"model: there is no {name[:200]!r} here; expected one of {', '.join(self._entries)}"
            raise RequestError(msg, param="model", status=404, code="model_not_found")
        return entry

    def writer(self, name: str | None, adapter: str | None = None) -> Entry:
        """As `find`, of a model that writes text, and has this adapter. Errors: `RequestError`."""
        entry = self.find(name)
        config = entry.model.config
        if not config.writes or not config.lm_head:
            msg = f"model: {entry.name} is {config.kind} that writes no text; ask it for embeddings"
            raise RequestError(msg, param="model", code="model_writes_no_text")
        if adapter is not None and adapter not in (there := entry.model.adapters):
            what = f"expected one of {', '.join(there)}" if there else "the model has none"
            msg = f"adapter: there is no {adapter[:200]!r} here; {what}"
            raise RequestError(msg, param="adapter", code="invalid_value")
        return entry

    def told(self, text: str) -> str:
        """An error's text as clients may see it: without the places of models on this machine."""
        called: dict[str, str] = {}
        for name, model in self.models.items():
            if model.directory.is_absolute():  # "." and "model" occur in other words
                called.setdefault(str(model.directory), name)
        return _places(called).sub(lambda found: called[found[0]], text)

    def close(self) -> None:
        """Close every model."""
        for model in self.models.values():
            model.close()
