"""`miaotui chat`: a conversation, a line a message; answers are printed as they are made."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError, MiaotuiError
from ...loader.files import read_text
from .. import demo
from .arguments import adapter_of, add_adapters, add_draft, add_limits, add_model, load_model
from .constrained import add_constraints, check_constraints, constraint
from .filtering import add_filters, filters_of
from .generate import as_utf8, drafted_of
from .sampling import SAMPLING, add_sampling, check_sampling

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from ...model import Model
    from ..conversation import Conversation

__all__ = ["add_arguments", "main"]

#: Most bytes of a message.
MAX_LINE = 2**24
PROMPT = "> "
HELP = """\
/reset       begin again (the --system message stays)
/save FILE   write the messages as JSON
/load FILE   read messages, and go on from there
/adapter X   let the adapter X, of --adapters, answer from now on; without a name, the model alone
/exit        end; so does the end of input (Ctrl-D)
//...        a message that begins with a slash
Ctrl-C stops an answer.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_model(parser, "the included chat model, which answers questions about a paragraph")
    add_adapters(parser)
    group = parser.add_argument_group("the conversation")
    group.add_argument("--system", metavar="TEXT", help="a system message: what the model should be, or do")
    group.add_argument(
        "--chat-template",
        metavar="NAME_OR_FILE",
        help="the name of one of the model's templates, or a file with one (default: the model's own)",
    )
    group.add_argument(
        "--max-new-tokens", type=int, default=None, metavar="N", help="tokens of an answer (default: as many as fit)"
    )
    add_constraints(parser)
    add_sampling(parser)
    add_filters(parser)
    add_limits(parser)
    add_draft(parser)
    parser.add_argument("--stats", action="store_true", help="say on standard error what each turn cost, and its seed")


def main(args: argparse.Namespace) -> int:
    """Talk until the end of input; 0. In a pipe the first error ends it."""
    system = None if args.system is None else as_utf8(args.system, "--system")
    filters = filters_of(args)
    from ..conversation import Conversation  # noqa: PLC0415 - help must not wait for it

    if args.model is None and args.revision is None:
        args.model = str(demo.path(demo.stand_in("chat", "--model")))
    check_constraints(args)
    check_sampling(args)
    adapter = adapter_of(args)
    with load_model(args) as model:
        template = _template(args, model)
        talk = Conversation(model, system, adapter=adapter, chat_template=template)
        parameters = {name: getattr(args, name) for name in ("max_new_tokens", *SAMPLING)} | {"filters": filters}
        parameters |= constraint(model, args)
        terminal = sys.stdin.isatty()
        with contextlib.closing(talk):
            for line in _typed() if terminal else _piped():
                try:
                    if not _told(talk, line):
                        break
                    if _is_message(line):
                        _answer(talk, line.removeprefix("/") if line.startswith("//") else line, parameters, args)
                except MiaotuiError as e:
                    if not terminal:
                        raise
                    print(f"miaotui: {e}", file=sys.stderr)
    return 0


def _template(args: argparse.Namespace, model: Model) -> str | None:
    """Which template, checked before the first message."""
    given: str | None = args.chat_template
    templates = model.tokenizer.templates
    if given is not None and given not in templates.named:
        given = read_text(Path(given), InputError)
    if given is None and not templates.named:
        msg = f"--model: {args.model} has no chat template, so it is no chat model; name one that has, or use generate"
        raise InputError(msg)
    model.tokenizer.check_chat_template(given)
    return given


def _is_message(line: str) -> bool:
    return bool(line.strip()) and (line.startswith("//") or not line.startswith("/"))


def _told(talk: Conversation, line: str) -> bool:
    """Do what a command says; False where it ends the conversation. Errors: `InputError` for an unknown one."""
    if _is_message(line) or not line.strip():
        return True
    word, _, name = line.strip().partition(" ")
    with_file: dict[str, Callable[[Path], None]] = {"/save": talk.save, "/load": talk.load}
    if word in with_file and name.strip():
        with_file[word](Path(name.strip()).expanduser())
        print(f"({len(talk.messages)} messages)", file=sys.stderr)
    elif word in {"/exit", "/quit", "/bye"}:
        return False
    elif word == "/reset":
        talk.reset()
    elif word == "/adapter":
        if (name := name.strip()) and name not in talk.adapters:
            what = f"expected one of {', '.join(talk.adapters)}" if talk.adapters else "start with --adapters NAME=PATH"
            msg = f"/adapter {name}: there is no such adapter; {what}"
            raise InputError(msg)
        talk.use(name or None)
    elif word in {"/help", "/?"}:
        sys.stderr.write(HELP)
    else:
        what = "needs a file's name" if word in with_file else "is no command"
        msg = f"{word}: {what}; /help lists the commands, and a message may begin with //"
        raise InputError(msg)
    return True


def _answer(talk: Conversation, text: str, parameters: dict[str, object], args: argparse.Namespace) -> None:
    """Print the answer as it is made; Ctrl-C ends it, and not the program."""
    shown, last = "", None
    try:
        with contextlib.closing(talk.reply(text, **parameters)) as made:
            for last in made:
                piece = last.text if shown else last.text.lstrip()  # many models begin an answer with a space
                sys.stdout.write(piece)
                sys.stdout.flush()
                shown = piece or shown
    except KeyboardInterrupt:
        print("(stopped)", file=sys.stderr)
    except MiaotuiError:
        sys.stdout.write("\n" if shown else "")  # the error belongs on its own line
        raise
    sys.stdout.write("" if shown.endswith("\n") else "\n")
    sys.stdout.flush()
    if args.stats and last is not None and last.timings is not None:
        t = last.timings
        seed = "" if last.seed is None else f", seed {last.seed}"
        said = f"(read {t.n_prompt} tokens at {t.prefill_tps:.1f}/s, wrote {t.n_new} at {t.decode_tps:.1f}/s, "
        said += drafted_of(t, "{}, ")
        print(f"{said}ended by: {last.finish_reason}{seed})", file=sys.stderr)


def _typed() -> Iterator[str]:
    """Lines of a terminal, with a prompt, and with editing where Python has it."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401, PLC0415 - its import is what gives `input` a history
    while True:
        try:
            yield input(PROMPT)
        except KeyboardInterrupt:
            print("\n(Ctrl-D or /exit ends)", file=sys.stderr)
        except EOFError:
            sys.stdout.write("\n")
            return


def _piped() -> Iterator[str]:
    """Lines of standard input. Errors: `InputError`: no text, or too long."""
    number = 0
    while line := sys.stdin.buffer.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            msg = f"standard input: line {number} has more than {MAX_LINE} bytes"
            raise InputError(msg)
        try:
            yield line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as e:
            msg = f"standard input: byte {e.start} of line {number} is not UTF-8; give messages as UTF-8 text"
            raise InputError(msg) from e
