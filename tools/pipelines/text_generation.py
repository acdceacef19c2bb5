"""text-generation: what follows a text, or the answer in a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import InputError, shown
from ...runtime.parameters import CHAT_NAMES, one_of, switch
from .foreign import named_input
from .generation import GENERATION, GenerationPipeline
from .truncation import TOKENIZER, cutting

if TYPE_CHECKING:
    from .base import Options

__all__ = ["TextGeneration"]

#: What `tokenizer_encode_kwargs` may say of a conversation; the rest are the template's variables.
_OF_CHATS = tuple(name for name in CHAT_NAMES if name not in {"continue_final_message", "template_variables"})


class TextGeneration(GenerationPipeline):
    """`pipe(text)`: `[{"generated_text"}]`, the text and what follows; of a list a list of such lists.

    An item may be a conversation, a list of messages; its `generated_text` is the list with the answer at its end.
    `return_full_text=False`: the new text alone; `return_tensors`: `generated_token_ids`, a list, of prompt and answer.
    `continue_final_message`: go on with the last message (default: where it is the assistant's). Parameters of
    `generate`, with `max_length` and `min_length`; by default 256 tokens are drawn, at temperature 0.7. `logprobs`: a
    result has "logprobs" too.
    """

    parameters: ClassVar[Mapping[str, object]] = {
        "return_full_text": None, "return_tensors": None, "return_text": None, "clean_up_tokenization_spaces": True,
        "prefix": None, "handle_long_generation": None, "stop_sequence": None, "truncation": None, "padding": None,
        "add_special_tokens": True, "continue_final_message": None, "skip_special_tokens": None,
        "tokenizer_encode_kwargs": None, **GENERATION,
    }  # fmt: skip
    switches = (
        "return_full_text", "return_tensors", "return_text", "clean_up_tokenization_spaces", "add_special_tokens",
        "continue_final_message", "skip_special_tokens", "do_sample",
    )  # fmt: skip
    defaults: ClassVar[Mapping[str, object]] = {"max_new_tokens": 256, "do_sample": True, "temperature": 0.7}

    def __call__(self, inputs: object = None, **parameters: object) -> Any:  # noqa: ANN401 - as the input
        """As `Pipeline.__call__`; the input may be given as `text_inputs`."""
        inputs = named_input(inputs, "text_inputs", parameters)
        return super().__call__(inputs, **parameters)

    def single(self, inputs: object, options: Options) -> bool:  # noqa: ARG002 - as `Pipeline.single`
        """A text, or a conversation: a list of messages."""
        return isinstance(inputs, str | Mapping) or _is_chat(inputs)

    def options(self, given: Mapping[str, object]) -> Options:
        """As `Pipeline.options`; parameters that exclude each other are an `InputError`."""
        options = super().options(given)
        asked = [n for n in ("return_full_text", "return_tensors", "return_text") if options[n] is not None]
        if len(asked) > 1:
            msg = f"{asked[0]} and {asked[1]} exclude each other; give one of them"
            raise InputError(msg)
        if options["handle_long_generation"] is not None:
            one_of("handle_long_generation", options["handle_long_generation"], ("hole",))
        if options["prefix"] is not None and not isinstance(options["prefix"], str):
            msg = f"prefix={shown(options['prefix'])}: expected a text"
            raise InputError(msg)
        encoding = options["tokenizer_encode_kwargs"]
        if encoding is not None and not isinstance(encoding, Mapping):
            msg = f"tokenizer_encode_kwargs={shown(encoding)}: expected names and values"
            raise InputError(msg)
        return options

    def answer(self, item: object, options: Options) -> list[dict[str, Any]]:
        """As `GenerationPipeline.answer`."""
        chat = _is_chat(item)
        if not (_is_whole(item) if chat else isinstance(item, str)):
            msg = f"{self.task}: {shown(item)} found, expected a text, or a list of messages with role and content"
            raise InputError(msg)
        ids = self._chat_ids(item, options) if chat else self._text_ids(str(item), options)
        prompt = self._with_a_hole(ids or list(self.model.config.bos_ids[:1]), options)
        before = len(self.decoded(ids and prompt, options))
        results: list[dict[str, Any]] = []
        for made in self.generated(prompt, options, **self.stops(options)):
            whole = [*prompt, *made.ids]
            told = self.told(made)
            if options["return_tensors"]:
                results.append({"generated_token_ids": whole, **told})
                continue
            new: Any = self.decoded(whole, options)[before:] if made.filtered is None else made.text
            if options["return_full_text"] is not False:
                new = _appended(item, new, self._goes_on(item, options)) if chat else f"{item}{new}"
            results.append({"generated_text": new, **told})
        return results

    def _text_ids(self, text: str, options: Options) -> list[int]:
        prefix = self.prefix() if options["prefix"] is None else options["prefix"]
        how = {name: options[name] for name in ("truncation", "max_length", "add_special_tokens")}
        how = TOKENIZER | how | dict(options["tokenizer_encode_kwargs"] or {})
        [pieces] = self.model.tokenizer.windows(
            prefix + text,
            cutting=cutting(self, how),
            add_special_tokens=switch("add_special_tokens", how["add_special_tokens"]),
        )
        return pieces.ids

    def _chat_ids(self, messages: Any, options: Options) -> list[int]:  # noqa: ANN401 - checked there
        how = dict(options["tokenizer_encode_kwargs"] or {})
        told = {name: how.pop(name) for name in _OF_CHATS if name in how}
        ids = self.model.tokenizer.chat_ids(
            messages, continue_final_message=options["continue_final_message"], template_variables=how, **told
        )
        cut = cutting(self, {"truncation": options["truncation"], "max_length": options["max_length"]})
        return ids if cut is None else ids[: cut.max_tokens] if cut.side == "right" else ids[-cut.max_tokens :]

    def _goes_on(self, messages: Any, options: Options) -> bool:  # noqa: ANN401 - messages
        said = options["continue_final_message"]
        return messages[-1].get("role") == "assistant" if said is None else bool(said)

    def _with_a_hole(self, ids: list[int], options: Options) -> list[int]:
        """`handle_long_generation="hole"`: the end of a prompt that leaves the answer no room."""
        if options["handle_long_generation"] is None:
            return ids
        new = options["max_new_tokens"] or self.defaults["max_new_tokens"]
        room = self.max_tokens - new if isinstance(new, int) else 0
        if room < 1:
            msg = f"handle_long_generation='hole': an answer of {new} tokens leaves no room of {self.max_tokens}"
            raise InputError(msg)
        return ids[-room:]


def _is_chat(item: object) -> bool:
    return isinstance(item, list | tuple) and bool(item) and isinstance(item[0], Mapping)


def _is_whole(messages: Any) -> bool:  # noqa: ANN401 - a list or a tuple
    return all(isinstance(message, Mapping) and {"role", "content"} <= message.keys() for message in messages)


def _appended(messages: Any, new: str, goes_on: bool) -> list[Any]:  # noqa: ANN401, FBT001 - messages
    """A conversation with the answer, or with more of its last message."""
    if not goes_on:
        return [*messages, {"role": "assistant", "content": new}]
    last, content = messages[-1], messages[-1]["content"]
    if isinstance(content, list | tuple):  # of parts: the last text goes on, as in the prompt
        at = max(n for n, part in enumerate(content) if isinstance(part, Mapping) and isinstance(part.get("text"), str))
        content = [*content[:at], {**content[at], "text": content[at]["text"] + new}, *content[at + 1 :]]
    else:
        content = content + new
    return [*messages[:-1], {"role": last["role"], "content": content}]
