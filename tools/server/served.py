"""Models and adapters by the names that requests have for them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ...loader.text.token_bytes import TokenBytes, token_bytes
from ...once import once
from .errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
    """What a name stands for: a model, or one of its adapters."""

    name: str
    model: Model
    spelled: Spelled
    adapter: str | None = None
    parent: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))


class Served:
    """Every name that is served. The first is meant where a request names none."""

    def __init__(self, models: Mapping[str, Model], adapters: Mapping[str, tuple[str, str]] | None = None) -> None:
        """`models`: by name, at least one; `adapters`: name -> the model's name, and the adapter's in that model."""
        self.models = dict(models)
        self._entries = {name: Entry(name, model, Spelled(model)) for name, model in models.items()}
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

    def close(self) -> None:
        """Close every model."""
        for model in self.models.values():
            model.close()
