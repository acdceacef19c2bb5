"""A conversation with a model: its messages, and one `Sequence` that has read them, so that a turn costs what is new.

Every turn the messages are rendered by the chat template as a whole. What the sequence has read already, up to the
first id that differs, stays; only the rest is fed. So the ids are always those of the messages, also where a template
says old messages in another way (many drop the reasoning), and a conversation that was loaded goes on like its own.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..loader.files import first_bytes, parse_json
from ..loader.text.chat_messages import as_messages

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from ..model import Model
    from ..runtime.generate import Token
    from ..runtime.parameters import GenerateKwargs

__all__ = ["Conversation"]

#: Most bytes of a conversation's file.
MAX_FILE = 2**28


class Conversation:
    """`messages`: so far, dicts with role and content. `fed`: ids that the model read and wrote, the last turn's."""

    def __init__(
        self,
        model: Model,
        system: str | None = None,
        *,
        adapter: str | None = None,
        **template: Any,  # noqa: ANN401 - `chat_ids`'
    ) -> None:
        """`system`: the message that every conversation begins with. `template`: as `ChatKwargs` has it.

        `adapter`: of the model's, the one that reads and answers.
        """
        self._model, self._sequence, self._template = model, model.sequence(adapter=adapter), template
        self._first = [] if system is None else [{"role": "system", "content": system}]
        self.messages: list[dict[str, Any]] = list(self._first)
        self.fed = 0

    def reset(self) -> None:
        """Forget all messages but the system's."""
        self.messages = list(self._first)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names that `use` takes."""
        return self._model.adapters

    def use(self, adapter: str | None) -> None:
        """Let another adapter answer, or the model alone; it reads the messages first. Errors: `InputError`."""
        before, self._sequence = self._sequence, self._model.sequence(adapter=adapter)
        before.close()

    def reply(self, text: str, **parameters: Any) -> Generator[Token, None, None]:  # noqa: ANN401 - `GenerateKwargs`
        """Answer a message of the user's, a token at a time. What was answered before an interruption stays.

        Refused before its first token, the message is no part of the conversation. Errors: those of `Model.chat`.
        """
        before = list(self.messages)
        self.messages.append({"role": "user", "content": text})
        pieces: list[str] = []
        begun = False
        try:
            for token in self._tokens(parameters):  # type: ignore[arg-type]  # checked there
                begun = True
                pieces.append(token.text)
                yield token
        finally:
            if begun:
                self.messages.append({"role": "assistant", "content": "".join(pieces)})
            else:
                self.messages = before

    def _tokens(self, parameters: GenerateKwargs) -> Generator[Token, None, None]:
        sequence = self._sequence
        ids = self._model.tokenizer.chat_ids(self.messages, **self._template)
        n = _common(ids, sequence.ids)
        n = min(n, len(ids) - 1)  # an answer follows at least one id
        sequence.truncate(n)
        self.fed = len(ids) - n
        for token in sequence.tokens(ids[n:], **parameters):
            yield token
            self.fed += 1
        self.fed -= 1  # the last id drawn is read when the conversation goes on

    def save(self, file: Path) -> None:
        """Write the messages as JSON. Errors: `InputError`."""
        try:
            file.write_text(json.dumps(self.messages, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        except (OSError, ValueError) as e:  # ValueError: a NUL byte in the name, a lone surrogate in a text
            msg = f"{file}: cannot be written ({getattr(e, 'strerror', None) or e})"
            raise InputError(msg) from e

    def load(self, file: Path) -> None:
        """Read messages as JSON; the conversation goes on from there. Errors: `InputError`; it is then as it was."""
        data = first_bytes(file, MAX_FILE + 1, InputError)
        if len(data) > MAX_FILE:
            msg = f"{file}: has more than {MAX_FILE} bytes; expected messages as JSON"
            raise InputError(msg)
        parsed = parse_json(data, str(file), InputError)
        if not isinstance(parsed, list):
            msg = f'{file}: expected a list of messages such as {{"role": "user", "content": "Hello"}}'
            raise InputError(msg)
        try:
            as_messages(parsed or [{}])
        except InputError as e:
            msg = f"{file}: {e}"
            raise InputError(msg) from None
        self.messages = parsed

    def close(self) -> None:
        """Free the sequence's pages."""
        self._sequence.close()


def _common(a: list[int], b: list[int]) -> int:
    """Ids that two lists begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
