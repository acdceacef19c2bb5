"""Messages to a prompt: a chat template, rendered in a sandbox (`sandbox.py`) under a meter (`meter.py`).

Source: transformers 5.24, `PreTrainedTokenizerBase.apply_chat_template`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

from ...errors import BackendError, InputError, MiaotuiError, TokenizerError, shown
from ...handlers import raised_in_handler
from ...runtime.memory import memory_named
from ..files import printable
from .chat_messages import as_documents, as_messages, cut_at_mark, marked, plain
from .meter import Meter, SpentError, metered, size
from .template_files import DEFAULT, MAX_TEMPLATE
from .tool_schema import as_tools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import jinja2

    from .chat_messages import Messages
    from .template_files import ChatTemplates

__all__ = ["SECONDS", "Chats"]

#: Processor time of a rendering.
SECONDS = 2.0
#: Arguments of transformers that ask for something else than a list of ids.
_ELSEWHERE = frozenset({
    "padding", "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask",
    "tokenizer_kwargs",
})  # fmt: skip

#: Names of arguments, and of what is made of them.
_OWN = frozenset({
    "messages", "tools", "documents", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize",
    "strftime_now", "self",
})  # fmt: skip


class Chats:
    """Of `Tokenizer`: messages to text or ids."""

    #: Of the directory.
    templates: ChatTemplates
    #: "bos_token" -> "<s>": the special tokens that have a name, as templates read them.
    special_tokens: Mapping[str, str]

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """As `Tokenizer.encode`."""
        raise NotImplementedError

    @property
    def chat_template(self) -> str | dict[str, str] | None:
        """The chat template; where several have names, all of them; None where there is none. `TokenizerError`."""
        named = self.templates.named
        return named[DEFAULT] if list(named) == [DEFAULT] else dict(named) or None

    def check_chat_template(self, chat_template: str | None = None) -> None:
        """Compile the template that a conversation would use, before its first message. Errors: as below."""
        where, template = self.templates.chosen(chat_template, tools=False)
        _sandbox()
        _compiled(template, where)

    @overload
    def apply_chat_template(
        self,
        messages: Messages,
        tools: Iterable[Mapping[str, Any] | Callable[..., Any]] | None = None,
        documents: Iterable[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tokenize: Literal[True] = True,
        strftime_now: Callable[[str], str] | None = None,
        **variables: Any,  # noqa: ANN401 - what the template reads
    ) -> list[int]: ...

    @overload
    def apply_chat_template(
        self,
        messages: Messages,
        tools: Iterable[Mapping[str, Any] | Callable[..., Any]] | None = None,
        documents: Iterable[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tokenize: Literal[False],
        strftime_now: Callable[[str], str] | None = None,
        **variables: Any,  # noqa: ANN401 - what the template reads
    ) -> str: ...

    def apply_chat_template(  # noqa: PLR0913 - transformers'
        self,
        messages: Messages,
        tools: Iterable[Mapping[str, Any] | Callable[..., Any]] | None = None,
        documents: Iterable[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tokenize: bool = True,
        strftime_now: Callable[[str], str] | None = None,
        **variables: Any,
    ) -> list[int] | str:
        """Ids of a conversation as the model was trained to read it, or (`tokenize=False`) its text.

        `messages`: dicts with role and content. `tools`: JSON schemas, or functions with type hints and a docstring.
        `documents`: dicts, for templates that read them. `chat_template`: another template, or the name of one of the
        directory's. `add_generation_prompt`: end with what begins an answer; `continue_final_message`: end inside the
        last message's content, or (a name) another text of it. `strftime_now`: what tells the date, for templates that
        ask. Further keywords are the template's variables, such as `enable_thinking`.
        The template writes the special tokens, `<s>` among them, so none is added when its text becomes ids.
        Errors: `InputError`, where the template raises an exception too; `TokenizerError`: the template is broken, or
        takes more than its bounds; `BackendError`: jinja2 is not installed.
        """
        if misplaced := sorted(_ELSEWHERE & variables.keys()):
            msg = f"{misplaced[0]}: apply_chat_template returns a list of ids, or a text; leave it out"
            raise InputError(msg)
        where, template = self.templates.chosen(chat_template, tools=tools is not None)
        if continue_final_message and add_generation_prompt:
            msg = (
                "continue_final_message and add_generation_prompt exclude each other: the last message goes on, or not"
            )
            raise InputError(msg)
        if strftime_now is not None and not callable(strftime_now):
            msg = f"strftime_now={shown(strftime_now)}: expected a function of a form such as '%d %b %Y'"
            raise InputError(msg)
        plain_messages, last = as_messages(messages), ""
        if continue_final_message:
            name = continue_final_message if isinstance(continue_final_message, str) else "content"
            last = marked(plain_messages, name, template)
        given = {
            **self.special_tokens,
            **plain(variables),
            "messages": plain_messages,
            "tools": None if tools is None else plain(as_tools(tools)),
            "documents": as_documents(documents),
            "add_generation_prompt": bool(add_generation_prompt),
        }
        text = _rendered(template, where, given, strftime_now)
        text = cut_at_mark(text, last) if continue_final_message else text
        return self.encode(text, add_special_tokens=False) if tokenize else text

    def chat_ids(  # noqa: PLR0913 - those of `ChatKwargs`
        self,
        messages: Messages,
        *,
        tools: Iterable[Mapping[str, Any] | Callable[..., Any]] | None = None,
        documents: Iterable[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        continue_final_message: bool | str | None = None,
        template_variables: Mapping[str, Any] | None = None,
        strftime_now: Callable[[str], str] | None = None,
    ) -> list[int]:
        """The prompt that an answer to the last message follows, or its continuation. Errors: those of the template.

        `continue_final_message` None: where the last message is the assistant's.
        """
        listed_messages = as_messages(messages)
        goes_on = continue_final_message
        if goes_on is None:
            goes_on = listed_messages[-1].get("role") == "assistant"
        variables = {} if template_variables is None else template_variables
        if not isinstance(variables, Mapping) or not all(isinstance(name, str) for name in variables):
            msg = f"template_variables: {shown(variables)} found, expected a dict of names and values"
            raise InputError(msg)
        if own := sorted(_OWN & variables.keys()):
            msg = f"template_variables: {own[0]!r} is an argument itself"
            raise InputError(msg)
        return self.apply_chat_template(
            listed_messages,
            tools,
            documents,
            chat_template,
            add_generation_prompt=not goes_on,
            continue_final_message=goes_on,
            strftime_now=strftime_now,
            **variables,
        )


def _rendered(template: str, where: str, given: dict[str, Any], now: Callable[[str], str] | None) -> str:
    """Render. Errors: as `apply_chat_template`."""
    if len(template) > MAX_TEMPLATE:
        msg = f"{where}: has {len(template):,} characters, expected at most {MAX_TEMPLATE:,}"
        raise TokenizerError(msg)
    sandbox = _sandbox()
    ready = _compiled(template, where)
    given["strftime_now"] = sandbox.dated(sandbox.strftime_now if now is None else now)
    pieces, total = list[str](), 0
    try:
        with memory_named(where), metered(Meter(len(template) + size(given, 2**40), SECONDS)) as meter:
            for piece in ready.generate(given):
                total += len(piece)
                meter.room(total)
                pieces.append(piece)
    except (MiaotuiError, MemoryError):
        raise
    except Exception as e:
        raised_in_handler(e)
        raise _typed(e, where) from e
    return "".join(pieces)


def _sandbox() -> Any:  # noqa: ANN401 - a module
    """`sandbox.py`, which needs jinja2. Errors: `BackendError`."""
    try:
        from . import sandbox  # noqa: PLC0415 - an extra
    except ImportError as e:
        msg = f"chat templates need jinja2 3.1.6 or newer ({e}): pip install 'miaotui[chat]', or in a clone '.[chat]'"
        raise BackendError(msg) from e
    return sandbox


def _compiled(template: str, where: str) -> jinja2.Template:
    try:
        ready: jinja2.Template = _sandbox().compiled(template)
    except Exception as e:
        raised_in_handler(e)
        line = getattr(e, "lineno", None)
        at = "" if line is None else f" in line {line}"
        msg = f"{where}: is no valid Jinja template{at} ({printable(e).rstrip('.')}); mend it, or get the file again"
        raise TokenizerError(msg) from e
    return ready


def _typed(e: Exception, where: str) -> MiaotuiError:
    """What went wrong inside a template, in words."""
    name = type(e).__name__
    if name == "RaisedError":
        return InputError(f"messages: the chat template refuses them: {printable(e)}")
    if name == "SecurityError":
        return TokenizerError(f"{where}: asks for what no template may have: {printable(e)}")
    if isinstance(e, SpentError | OverflowError | RecursionError):
        what = "it nests too deep" if isinstance(e, RecursionError) else printable(e) or name
        return TokenizerError(f"{where}: was stopped: {what}; it is damaged, or was made to do harm")
    return InputError(
        f"messages: {where.removeprefix('chat_template')[-200:] or 'the chat template'} cannot render them "
        f"({name}: {printable(e)}); give them as this model's template expects them"
    )
