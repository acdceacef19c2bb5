"""`miaotui generate`: a prompt goes in, its continuation comes out piece by piece."""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import TYPE_CHECKING

from ...errors import InputError, MiaotuiError, SequenceFileError, shown
from ...loader.paths import as_path, is_there
from ...runtime.parameters import OVERFLOWS
from ...sizes import counted, format_bytes
from .arguments import adapter_of, add_adapters, add_draft, add_limits, add_model, config_of, load_model
from .constrained import add_constraints, check_constraints, constraint
from .filtering import add_filters, filters_of
from .sampling import RULES, SAMPLING, add_rules, add_sampling, check_sampling
from .unheard import refuse_given

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...model import Model
    from ...runtime.generate import Generation, Timings, Token
    from ...runtime.parameters import GenerateKwargs

__all__ = ["add_arguments", "as_utf8", "drafted_of", "main", "standard_input"]

#: Most bytes of a prompt on standard input.
MAX_PROMPT = 2**28
#: What the demo model continues where nothing is given.
DEMO_PROMPT = "Once upon a time"

_PARAMETERS = (
    *SAMPLING, *RULES, "max_new_tokens", "ignore_eos", "num_beams", "length_penalty", "early_stopping",
    "renormalize_logits", "num_return_sequences", "overflow", "stop_at",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "prompt",
        nargs="?",
        metavar="PROMPT",
        help="the text to continue, or, of an encoder-decoder, to answer (translate, summarise); "
        'with "-", or none and standard input not a terminal: read it from standard input (without the last newline)',
    )
    add_model(parser)
    add_adapters(parser)
    text = parser.add_argument_group("the text")
    text.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="stop after N tokens (default: 256)")
    text.add_argument(
        "--stop",
        action="append",
        metavar="STR",
        help="stop before this text; may be given several times",
    )
    text.add_argument("--ignore-eos", action="store_true", default=None, help="go on after the model would end")
    text.add_argument(
        "--overflow",
        choices=OVERFLOWS,
        help="what becomes of a text that is longer than the context: it is refused or ends (error, the default), its "
        "prompt is cut on the left (truncate-left), or it goes on, and the model sees its first four tokens and the "
        "newest (window)",
    )
    text.add_argument("--no-prompt", action="store_true", help="print only what the model adds")
    text.add_argument(
        "--session",
        metavar="FILE",
        help="go on with the text that is saved there, if any, and save it again at the end (docs/sessions.md)",
    )
    add_constraints(parser)
    text.add_argument(
        "--suffix",
        metavar="TEXT",
        help="fill in the middle: what comes after the text that is written; PROMPT comes before it (code models)",
    )
    text.add_argument(
        "--stop-at",
        choices=("block",),
        help="stop where the block of code ends in which the text begins: at a bracket that it did not open, or a line "
        "that is indented less",
    )
    add_rules(parser)
    add_sampling(parser)
    _add_beams(parser)
    add_filters(parser)
    add_limits(parser)
    add_draft(parser)
    parser.add_argument("--stats", action="store_true", help="say on standard error how long it took, and the seed")


def _add_beams(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "beam search", "Looks for the text whose tokens are the likeliest together; it is printed once it is found."
    )
    group.add_argument("--num-beams", type=int, metavar="N", help="search with N beams; 1 is off (default)")
    group.add_argument(
        "--length-penalty",
        type=float,
        metavar="X",
        help="scores are divided by length to the power X (default: 1); above 0 favours long texts",
    )
    group.add_argument(
        "--early-stopping",
        type=_early,
        metavar="WHEN",
        help="stop when N texts are finished (true), when no better one is likely (false, the default), or when none "
        "is possible (never)",
    )
    group.add_argument(
        "--renormalize-logits",
        action="store_true",
        default=None,
        help="make scores logarithms of probabilities again once penalties and rules have changed them",
    )
    group.add_argument(
        "--cache-tokens",
        type=int,
        metavar="N",
        help="tokens to reserve for all beams together (default: one context; of an encoder-decoder also four beams of "
        "256 tokens)",
    )
    group.add_argument(
        "--num-return-sequences",
        type=int,
        metavar="K",
        help="print the K best texts, the best first; with sampling and no beams, K texts that are drawn (default: 1)",
    )


def _early(text: str) -> bool | str:
    """`early_stopping`, for argparse."""
    if text not in {"true", "false", "never"}:
        msg = f"expected true, false or never, found {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return text if text == "never" else text == "true"


def main(args: argparse.Namespace) -> int:
    """Stream the continuation to standard output; 0."""
    filters = filters_of(args)
    prompt = _prompt(args)
    stop = None if args.stop is None else [as_utf8(text, "--stop") for text in args.stop]
    if args.draft is not None and (args.num_beams or 1) > 1:
        msg = f"--draft {args.draft}: beams draft nothing; leave out one of --draft and --num-beams"
        raise InputError(msg)
    if args.num_beams in {None, 1}:
        of_beams = ["length_penalty", "early_stopping", "renormalize_logits"]
        refuse_given(args, add_arguments, of_beams, "only with --num-beams of 2 or more")
    _check_writes(args)
    _check_session(args)
    check_constraints(args)
    check_sampling(args)
    more = {"stop_strings": stop, "adapter": adapter_of(args), "filters": filters}
    parameters: GenerateKwargs = {name: getattr(args, name) for name in _PARAMETERS} | more  # type: ignore[assignment]
    with load_model(args) as model:
        parameters = {**parameters, **constraint(model, args)}
        before = "" if args.no_prompt or model.config.seq2seq else prompt
        last: Token | Generation | None
        if args.suffix is not None:
            last = _filled(model, prompt, as_utf8(args.suffix, "--suffix"), parameters, whole=bool(before))
        elif args.session is not None:
            last = _kept(model, args.session, prompt, before, parameters)
        elif (_beams(args, model) or 1) > 1 or (args.num_return_sequences or 1) > 1:
            last = _whole(model, prompt, before, parameters)
        else:
            last = _streamed(model.tokens(prompt, **parameters), before)
        if args.stats and last is not None:
            sys.stderr.write(_stats(model, last, drafts=args.draft is not None))
    return 0


def _check_writes(args: argparse.Namespace) -> None:
    """InputError for a model that writes no text, before anything else about it is found wanting."""
    config, why = config_of(args), ""
    if not config.writes:
        why = f"{config.family} is {config.kind}, which writes no text"
    elif not config.lm_head:
        why = f"this {config.family} has no head: it gives vectors, and writes no text"
    if why:
        msg = f"--model {args.model}: {why}; expected a decoder or an encoder-decoder. In Python, encode gives vectors"
        raise InputError(msg)


def _check_session(args: argparse.Namespace) -> None:
    """InputError for what has no text that could go on."""
    if args.session is None:
        return
    as_path(args.session, "--session")
    why = ""
    if args.device == "cuda":
        why = "a GPU's part of the cache can be neither saved nor loaded; use --device cpu"
    elif config_of(args).seq2seq:
        why = "an encoder-decoder answers a prompt, and has no text to go on with; leave it out"
    elif (args.num_beams or 1) > 1 or (args.num_return_sequences or 1) > 1:
        why = "one text goes on, not several; leave out --num-beams and --num-return-sequences"
    elif args.suffix is not None:
        why = "one text goes on, and --suffix fills a gap; leave one of them out"
    if why:
        msg = f"--session {args.session}: {why}"
        raise InputError(msg)


def _kept(model: Model, file: str, prompt: str, before: str, parameters: GenerateKwargs) -> Token | None:
    """As `_streamed`, after the text of a file, which holds the longer one in the end."""
    there = _is_kept(file)
    adapter = parameters.get("adapter")
    with model.load_sequence(file) if there else model.sequence(adapter=adapter) as text:
        last = _streamed(text.tokens(prompt if prompt or not there else None, **parameters), before)
        text.save(file)
    return last


def _is_kept(file: str | None) -> bool:
    """Whether there is a text that goes on, also without a prompt."""
    return file is not None and is_there(as_path(file, "--session"), SequenceFileError)


def _streamed(steps: Iterator[Token], before: str) -> Token | None:
    """Print a text as it is made; its last step."""
    last, text = None, before
    _write(text)
    try:
        for last in steps:
            _write(last.text)
            text = last.text or text
    except (KeyboardInterrupt, MiaotuiError):
        _write("\n")  # the shell's prompt, or the error, belongs on its own line
        raise
    _write("" if text.endswith("\n") else "\n")
    return last


def _beams(args: argparse.Namespace, model: Model) -> int | None:
    """Those that are asked for, or that the model's files ask for."""
    said: int | None = model.generation_defaults.get("num_beams")
    return said if args.num_beams is None else args.num_beams


def _whole(model: Model, prompt: str, before: str, parameters: GenerateKwargs) -> Generation:
    """Print the texts of a beam search, the best first, or several that are sampled."""
    best = model.generate(prompt, **parameters)
    for each in (best, *best.alternatives):
        text = before + each.text
        _write(text if text.endswith("\n") else f"{text}\n")
    return best


def _filled(model: Model, prefix: str, suffix: str, parameters: GenerateKwargs, *, whole: bool) -> Generation:
    """Print what stands between two texts, or all of it."""
    try:
        best = model.infill(prefix, suffix, **parameters)
    except InputError as e:
        raise InputError(re.sub("^infill: ", "--suffix: ", str(e))) from None
    for each in (best, *best.alternatives):
        text = f"{prefix}{each.text}{suffix}" if whole else each.text
        _write(text if text.endswith("\n") else f"{text}\n")
    return best


def _prompt(args: argparse.Namespace) -> str:
    """Take the argument; else standard input; else nothing, if a saved text goes on; else the demo's beginning."""
    if args.prompt is not None and args.prompt != "-":
        return as_utf8(args.prompt, "PROMPT")
    piped = args.prompt == "-" or (sys.stdin is not None and not sys.stdin.isatty())
    text = standard_input() if piped else ""
    if text or args.prompt == "-" or _is_kept(args.session):
        return text
    if args.model is None:
        return DEMO_PROMPT
    msg = 'PROMPT: none was given; give one as an argument (for instance "Once upon a time") or on standard input'
    raise InputError(msg)


def as_utf8(text: str, name: str) -> str:
    """An argument whose bytes Python read in another encoding, as in an ASCII locale: they are UTF-8 anyhow."""
    if not any("\ud800" <= c <= "\udfff" for c in text):  # bytes that the locale cannot read
        return text
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError as e:
        msg = f"{name}: {shown(text)} is not UTF-8; give it as UTF-8 text"
        raise InputError(msg) from e


def standard_input() -> str:
    """Text of standard input, without its last newline. Errors: `InputError`."""
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


def _stats(model: Model, last: Token | Generation, *, drafts: bool) -> str:
    t = last.timings
    if t is None:
        return ""
    allocated = model.memory.get("allocated", 0)
    return (
        f"load     {t.load_s:8.3f} s   {_threads(model)}, context {model.n_context}, "
        f"{format_bytes(allocated)} besides the mapped files\n"
        f"prefill  {t.prefill_s:8.3f} s   {counted(t.n_prompt, 'token')}, {t.prefill_tps:.1f} tokens/s; "
        f"first token after {t.first_token_s:.3f} s\n"
        f"decode   {t.decode_s:8.3f} s   {counted(t.n_new, 'token')}, {t.decode_tps:.1f} tokens/s; "
        f"ended by: {last.finish_reason}\n" + ("" if last.seed is None else f"seed     {last.seed}\n")
    ) + (_drafted(t, drafts=drafts) + _scores(last))


def _threads(model: Model) -> str:
    """How many; where a token has fewer than a prompt, both."""
    most, least = (model.threads_for(n) for n in (model.session.chunk, 1))
    return counted(most, "thread") if least == most else f"{counted(least, 'thread')} a token, {most} for a prompt"


def _drafted(timings: Timings, *, drafts: bool) -> str:
    """A line of what was drafted, also where a draft was asked for and made no guess."""
    none = "draft    no token guessed: nothing to guess from, or no time to win\n" if drafts else ""
    return drafted_of(timings, "draft    {}\n") or none


def drafted_of(timings: Timings, form: str) -> str:
    """What came of drafted tokens, put into `form`; nothing where there were none."""
    n = timings.n_drafted
    return form.format(f"{counted(n, 'token')} guessed, {timings.n_accepted} of them right") if n else ""


def _scores(last: Token | Generation) -> str:
    """Of beams, the score of each text that was printed."""
    every = [last, *last.alternatives] if hasattr(last, "alternatives") else []
    return "".join(
        f"score    {g.score:8.4f}     {counted(len(g.ids), 'token')}, ended by: {g.finish_reason}\n"
        for g in every
        if g.score is not None
    )
