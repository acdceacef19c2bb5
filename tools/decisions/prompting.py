"""A message from outside as ids that an answer may follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...loader.text.control import ControlTokens

if TYPE_CHECKING:
    from ...model import Model

__all__ = ["Prompting"]

#: What comes before an answer where no chat template says so.
ANSWER = "\nAnswer:"


class Prompting:
    """Of a model that writes: by its chat template, if it has one."""

    def __init__(self, model: Model, *, chat: bool = False) -> None:
        """`chat`: by the chat template in any case. Errors: `TokenizerError`."""
        self.model, self.tokenizer = model, model.tokenizer
        template = self.tokenizer.chat_template
        self.chat = chat or (template is not None and model.config.decoding is None)
        named = template.values() if isinstance(template, dict) else [template or ""]
        self.control = ControlTokens(self.tokenizer, "\0".join(named))

    def prompt(self, text: str) -> tuple[list[int], str]:
        """Ids, and what stands before an answer that follows them."""
        marked = self.control.marked(text)
        if self.chat:
            message = [{"role": "user", "content": marked}]
            rendered = self.tokenizer.apply_chat_template(
                message, add_generation_prompt=True, tokenize=False, enable_thinking=False
            )
            return self.control.encode(rendered), " " if rendered.endswith(":") else ""
        if self.model.config.decoding is not None:  # its encoder reads the question, its decoder begins the answer
            return self.control.framed(marked), ""
        return self.control.framed(f"{marked}{ANSWER}"), " "
