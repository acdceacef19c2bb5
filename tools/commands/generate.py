"""`miaotui generate`: a prompt goes in, its continuation comes out piece by piece."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from ...errors import InputError, MiaotuiError, shown
from ...sizes import format_bytes
from .arguments import add_limits, add_model, load_model

if TYPE_CHECKING:
    import argparse

    from ...model import Model
    from ...runtime.generate import Token

__all__ = ["add_arguments", "main"]

#: Most bytes of a prompt on standard input.
MAX_PROMPT = 2**28
#: What the demo model continues where nothing is given.
DEMO_PROMPT = "Once upon a time"

_PARAMETERS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "ignore_eos", "do_sample")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "prompt",
        nargs="?",
        metavar="PROMPT",
        help='the text to continue; with "-", or none and standard input not a terminal: read it from standard input '
        "(without the last newline)",
    )
    add_model(parser)
    text = parser.add_argument_group("the text")
    text.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="stop after N tokens (default: 256)")
    text.add_argument(
        "--stop",
        action="append",
        metavar="STR",
        help="stop before this text; may be given several times",
    )
    text.add_argument("--ignore-eos", action="store_true", default=None, help="go on after the model would end")
    text.add_argument("--no-prompt", action="store_true", help="print only what the model adds")
    _add_sampling(parser)
    add_limits(parser)
    parser.add_argument("--stats", action="store_true", help="say on standard error how long it took, and the seed")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "sampling",
        "Without these the likeliest token is taken. Temperature, top-k, top-p or min-p turn sampling on. They apply "
        "in the order repetition penalty, temperature, top-k, top-p, min-p.",
    )
    group.add_argument("--temperature", type=float, metavar="T", help="below 1 safer, above 1 wilder; 0 is greedy")
    group.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens; 0 is off")
    group.add_argument(
        "--top-p", type=float, metavar="P", help="draw from the fewest tokens whose probabilities sum to P"
    )
    group.add_argument(
        "--min-p", type=float, metavar="P", help="draw only tokens at least P times as likely as the likeliest"
    )
    group.add_argument(
        "--repetition-penalty", type=float, metavar="X", help="above 1: make tokens that already occur less likely"
    )
    group.add_argument(
        "--seed", type=int, metavar="N", help="which of the possible texts (default: drawn afresh; --stats prints it)"
    )
    how = group.add_mutually_exclusive_group()
    how.add_argument(
        "--sample", dest="do_sample", action="store_true", default=None, help="sample, whatever else is given"
    )
    how.add_argument("--greedy", dest="do_sample", action="store_false", help="do not sample, whatever else is given")


def main(args: argparse.Namespace) -> int:
    """Stream the continuation to standard output; 0."""
    prompt = _prompt(args)
    stop = None if args.stop is None else [_as_utf8(text, "--stop") for text in args.stop]
    parameters = {name: getattr(args, name) for name in _PARAMETERS}
    with load_model(args) as model:
        steps = model.tokens(prompt, max_new_tokens=args.max_new_tokens, stop_strings=stop, **parameters)
        last, text = None, "" if args.no_prompt or model.config.seq2seq else prompt
        _write(text)
        try:
            for last in steps:
                _write(last.text)
                text = last.text or text
        except (KeyboardInterrupt, MiaotuiError):
            _write("\n")  # the shell's prompt, or the error, belongs on its own line
            raise
        if not text.endswith("\n"):
            _write("\n")
        if args.stats and last is not None:
            sys.stderr.write(_stats(model, last))
    return 0


def _prompt(args: argparse.Namespace) -> str:
    """Take the argument; else standard input; else, for the demo model alone, a beginning that it knows."""
    if args.prompt is not None and args.prompt != "-":
        return _as_utf8(args.prompt, "PROMPT")
    piped = args.prompt == "-" or (sys.stdin is not None and not sys.stdin.isatty())
    text = _standard_input() if piped else ""
    if text or args.prompt == "-":
        return text
    if args.model is None:
        return DEMO_PROMPT
    msg = 'PROMPT: none was given; give one as an argument (for instance "Once upon a time") or on standard input'
    raise InputError(msg)


def _as_utf8(text: str, name: str) -> str:
    """An argument whose bytes Python read in another encoding, as in an ASCII locale: they are UTF-8 anyhow."""
    if not any("\ud800" <= c <= "\udfff" for c in text):  # bytes that the locale cannot read
        return text
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError as e:
        msg = f"{name}: {shown(text)} is not UTF-8; give it as UTF-8 text"
        raise InputError(msg) from e


def _standard_input() -> str:
    try:
        data = sys.stdin.buffer.read(MAX_PROMPT + 1)
    except OSError as e:  # a directory, a terminal that is gone
        msg = f"standard input: cannot be read ({e.strerror})"
        raise InputError(msg) from e
    if len(data) > MAX_PROMPT:
        msg = f"standard input: has more than {MAX_PROMPT} bytes; expected a prompt of at most as many"
        raise InputError(msg)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        msg = f"PROMPT: byte {e.start} of standard input is not UTF-8; give the prompt as UTF-8 text"
        raise InputError(msg) from e
    return text.removesuffix("\n").removesuffix("\r")


def _write(text: str) -> None:
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()


def _stats(model: Model, last: Token) -> str:
    t = last.timings
    if t is None:
        return ""
    allocated = model.memory.get("allocated", 0)
    return (
        f"load     {t.load_s:8.3f} s   {model.threads} threads, context {model.n_context}, "
        f"{format_bytes(allocated)} besides the mapped files\n"
        f"prefill  {t.prefill_s:8.3f} s   {t.n_prompt} tokens, {t.prefill_tps:.1f} tokens/s; "
        f"first token after {t.first_token_s:.3f} s\n"
        f"decode   {t.decode_s:8.3f} s   {t.n_new} tokens, {t.decode_tps:.1f} tokens/s; "
        f"ended by: {last.finish_reason}\n" + ("" if last.seed is None else f"seed     {last.seed}\n")
    )
