"""The chat templates of a directory.

| file                                  | counts                                                                     |
|---------------------------------------|----------------------------------------------------------------------------|
| chat_template.jinja                   | the template named `default`                                               |
| additional_chat_templates/NAME.jinja  | the template of that name                                                  |
| tokenizer_config.json `chat_template` | where there are none of these files: a template, or a list of named ones   |

Without a name `default` is taken, or `tool_use` where there is one and tools are given. Source: transformers 5.24,
`PreTrainedTokenizerBase.get_chat_template`, `_from_pretrained`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import InputError, TokenizerError, shown
from ...once import once
from ..files import quote, read_bytes
from ..paths import is_there, listed

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DEFAULT", "MAX_TEMPLATE", "ChatTemplates"]

FILE, FOLDER, ENDING = "chat_template.jinja", "additional_chat_templates", ".jinja"
DEFAULT, FOR_TOOLS = "default", "tool_use"
#: Bytes of a file, and characters of a template that is given.
MAX_TEMPLATE = 2**20


class ChatTemplates:
    """The templates of a directory, read when first asked for: name -> text. Errors: `TokenizerError`."""

    def __init__(self, directory: Path, said: object) -> None:
        """`said`: tokenizer_config.json's chat_template."""
        self._directory, self._said = directory, said

    @once
    def named(self) -> dict[str, str]:
        """All of them, none where the directory has none. Errors: `TokenizerError`."""
        d = self._directory
        files = {DEFAULT: d / FILE} if is_there(d / FILE, TokenizerError) else {}
        if is_there(d / FOLDER, TokenizerError):
            names = [name for name in listed(d / FOLDER, TokenizerError) if name.endswith(ENDING)]
            files |= {name.removesuffix(ENDING): d / FOLDER / name for name in names}
        if files:
            return {name: _read(file) for name, file in files.items()}
        return self._from_config()

    def _from_config(self) -> dict[str, str]:
        said = self._said
        if said is None:
            return {}
        if isinstance(said, str):
            said = {DEFAULT: said}
        elif isinstance(said, list) and all(isinstance(each, dict) for each in said):
            said = {each.get("name"): each.get("template") for each in said}
        if isinstance(said, dict) and all(isinstance(text, str) for pair in said.items() for text in pair):
            return said
        msg = (
            f"{self._directory / 'tokenizer_config.json'}: chat_template must be a template, or a list of objects with "
            f"name and template, found {quote(self._said)}"
        )
        raise TokenizerError(msg)

    def chosen(self, given: str | None, *, tools: bool) -> tuple[str, str]:
        """What to call a template, and its text. `given`: a name, or a template. Errors: `InputError`."""
        if given is not None and not isinstance(given, str):
            msg = f"chat_template: {shown(given)} found, expected a template's name or text"
            raise InputError(msg)
        named = self.named
        name = given
        if given is None:
            name = FOR_TOOLS if tools and FOR_TOOLS in named else DEFAULT
        if name in named:
            return f"{self._directory}: the chat template {name!r}", named[name]
        if given is not None and ("{" in given or not given):
            return "chat_template", given
        if given is None and not named:
            msg = (
                f"{self._directory}: has no chat template (chat_template.jinja, or chat_template in "
                "tokenizer_config.json), so it is no chat model, or its files are not complete; give one as "
                "chat_template, or use generate"
            )
            raise InputError(msg)
        msg = f"chat_template={shown(given)}: expected one of {', '.join(sorted(named)) or 'none'}, or a template"
        raise InputError(msg)


def _read(file: Path) -> str:
    data = read_bytes(file, MAX_TEMPLATE, TokenizerError)
    try:
        return data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as e:
        msg = f"{file}: expected a template in UTF-8, found byte 0x{data[e.start]:02x} at {e.start}; download it again"
        raise TokenizerError(msg) from e
