"""A model that says what a test wants it to: the included one, whose answers are held to a text."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import miaotui
from miaotui.runtime.constraints import CONSTRAINTS
from miaotui.tools import demo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from miaotui.runtime.generate import Token

__all__ = ["TEMPLATES", "Scripted", "load_with"]

_TOOLS = "{% if tools %}TOOLS {{ tools | tojson }}\n{% endif %}"
_MESSAGES = (
    "{% for m in messages %}[{{ m.role }}]{{ m.reasoning_content }} {{ m.content }}"
    "{% for c in m.tool_calls %}CALL {{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}"
    "{{ '\\n' }}{% endfor %}"
)
#: Templates that show a format of calls, by its name.
TEMPLATES = {
    name: "{# " + sign + " #}" + _TOOLS + _MESSAGES + "{% if add_generation_prompt %}[assistant]{% endif %}"
    for name, sign in {
        "hermes": "<tool_call>", "qwen3_coder": "<function=", "mistral": "[TOOL_CALLS]",
        "llama3_json": "<|python_tag|>", "pythonic": "<|python_start|>", "none": "",
    }.items()
}  # fmt: skip
TEMPLATES["thinking"] = (
    TEMPLATES["hermes"] + "{% if add_generation_prompt and enable_thinking != false %}<think>\n{% endif %}"
)
TEMPLATES["no tools"] = "{% for m in messages %}{{ m.content }}\n{% endfor %}"


def load_with(template: str, directory: Path, max_context: int = 1024) -> miaotui.Model:
    """The included model, with another chat template."""
    shutil.copytree(demo.path("chat"), directory, dirs_exist_ok=True)
    (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    return miaotui.load(directory, max_context=max_context, cache_tokens=4 * max_context)


class Scripted:
    """`says`: the text of the answers, until the limit of the request, or what tells it from a prompt's text.

    With None it answers itself. `asked`: prompts and parameters so far.
    """

    def __init__(self, model: miaotui.Model, says: str | Callable[[str], str | None] | None = None) -> None:
        """Of a model, which answers everything else."""
        self.model, self.says = model, says
        self.asked: list[tuple[list[int], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    async def achoices(self, prompt: list[int], **parameters: Any) -> AsyncIterator[tuple[int, Token]]:
        """As the model's."""
        self.asked.append((prompt, parameters))
        says = self.says(self.model.tokenizer.decode(prompt)) if callable(self.says) else self.says
        if says is not None:
            parameters = {name: value for name, value in parameters.items() if name not in CONSTRAINTS}
            parameters["choices"] = [says]
        made = self.model.achoices(prompt, **parameters)
        try:
            async for numbered in made:
                yield numbered
        finally:
            await made.aclose()
