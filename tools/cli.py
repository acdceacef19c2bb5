"""The command `miaotui`: finds the subcommand, runs it, and turns what goes wrong into one line and an exit code.

Each subcommand is a module of `commands` with `add_arguments(parser)` and `main(args) -> int`; only the one asked for
is imported, so that `miaotui --help` costs no more than Python itself.

Exit codes: 0 done; 2 wrong usage: an option or argument that is unknown, missing, out of range, does not fit the model,
or names a file of data that cannot be opened; the message then begins with it; 1 any other error, of the model, the
machine, or what stands in a file, whose message begins with the file and the line; 130 interrupted (Ctrl-C); 141 the
reader of our output went away.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import re
import sys
import traceback
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from ..dataclass import dataclass
from ..errors import InputError, MiaotuiError, PlanError, ProfileError, spelled_like
from ..interpreters import check_interpreter, check_room, not_imported
from .notes import warnings_as_notes
from .streams import open_streams, settle, with_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["COMMANDS", "Command", "main"]

FAILED, USAGE, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141
#: What a stream says that takes nothing more; every other file has its name in the error.
UNWRITABLE = (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EBADF)


@dataclass(frozen=True)
class Command:
    """A subcommand: what it is for, in a line and in a paragraph, and examples; `docs.py` writes pages from them."""

    summary: str
    description: str
    examples: tuple[str, ...]
    #: What the README's table adds to the summary.
    note: str = ""


COMMANDS = {
    "generate": Command(
        "continue a text",
        "Continue a text, and print it as it is made. The likeliest token is taken each time, unless an option asks "
        "for sampling; the same options and seed give the same text on every machine.",
        (
            'miaotui generate "Once upon a time"',
            'miaotui generate "Tom had a red ball." --temperature 0.8 --top-p 0.95 --seed 7',
            'miaotui generate --model path/to/checkpoint --max-new-tokens 64 --stats "The capital of France is"',
            "miaotui generate --model org/name --no-prompt < prompt.txt",
        ),
        "streams; greedy unless `--temperature`, `--top-k`, `--top-p`, `--min-p` ask otherwise",
    ),
    "chat": Command(
        "talk with a chat model",
        "A conversation: each line is a message, each answer is printed as it is made. The model keeps what it has "
        "read, so a turn costs its new tokens alone. /help lists the commands (/reset, /save FILE, /load FILE, /exit); "
        "Ctrl-C stops an answer, the end of input ends the program. In a pipe, answers alone are printed, and the "
        "first error ends it. Needs the chat extra: pip install 'miaotui[chat]'.",
        (
            "miaotui chat",
            "miaotui chat --model path/to/checkpoint",
            'miaotui chat --model org/name --system "Answer in one sentence." --temperature 0.7',
            "miaotui chat --model path/to/checkpoint --max-new-tokens 200 < questions.txt",
        ),
        "streams; `/reset`, `/save`, `/load`; works in pipes",
    ),
    "serve": Command(
        "serve models over HTTP, in the words of OpenAI's API",
        "Answer /v1/chat/completions, /v1/completions and more over HTTP, streamed and not, for many clients at once, "
        "until SIGTERM or Ctrl-C. Its address is printed when it is ready; a line of JSON for each request goes to "
        "standard error. Needs the serve extra: pip install 'miaotui[serve]'. docs/serving.md.",
        (
            "miaotui serve",
            "miaotui serve --model path/to/checkpoint --port 8080",
            "miaotui serve --model org/name=large --model path/to/checkpoint=small --api-keys keys.txt",
            "miaotui serve --model path/to/checkpoint --adapter polite=path/to/adapter --host 0.0.0.0",
        ),
        "several models and adapters by name; batches, reuse of prefixes; a page to talk to them; needs `[serve]`",
    ),
    "run": Command(
        "do a task on every line of a file",
        "Do a task on every line of a text file, every JSON value or every row of a CSV file, and write a line of JSON "
        "for each, in order. A run that was stopped or killed goes on where it was when the same command is given "
        "again: no line is lost or written twice, and an input or options that changed are refused. Memory is bounded, "
        "however long the file is. Of a directory, every file has its own results; with --workers several processes "
        "share the work, and the output stays the same, byte by byte.",
        (
            "miaotui run text-classification --model path/to/checkpoint --input reviews.txt --output labels.jsonl",
            "miaotui run ner --model org/name --input mail.csv --column body --output names.jsonl --errors bad.jsonl",
            "miaotui run text-classification --model path/to/checkpoint --input - --output - --top-k 3 < reviews.txt",
            "miaotui run ner --model org/name --input a.jsonl --output b.jsonl --set aggregation_strategy=simple",
            "miaotui run text-generation --input openings.txt --output stories.jsonl --seed 7 --set max_new_tokens=60",
            "miaotui run text-classification --model org/name --input mail --output labels --errors bad --workers 4",
        ),
        "in order, resumed after a kill; `--errors FILE` keeps bad lines apart",
    ),
    "inspect": Command(
        "describe a checkpoint and the memory it needs, without loading it",
        "Read config.json and the headers of the weight files, and say what the model is, how its weights will be "
        "used, and how much memory it needs. No tensor's data is read, unless --ffn, a share as --width, "
        "--sparsity stored or --hash asks for it. (A hub name is downloaded first.)",
        (
            "miaotui inspect path/to/checkpoint",
            "miaotui inspect path/to/checkpoint --max-context 4096 --program",
            "miaotui inspect path/to/checkpoint --json",
            "miaotui inspect path/to/checkpoint --keep-layers 0-2 --receipt",
        ),
        "family, sizes, plan, memory by part; `--program` lists every instruction; `--json`",
    ),
    "quantize": Command(
        "write a checkpoint with int8, int4a or int4 matrices",
        "Round a checkpoint's matrices once and write the result as a new checkpoint, which every command loads "
        "without rounding again. (--quantize of the other commands rounds while reading, and writes nothing.)",
        (
            "miaotui quantize path/to/checkpoint smaller",
            "miaotui quantize path/to/checkpoint smaller --quantize int4,embed=int8",
            "miaotui quantize path/to/checkpoint smaller --quantize int4 --method gptq --text calibration.txt",
        ),
        "the result is memory-mapped; every other command takes `--quantize` and rounds while reading",
    ),
    "prune": Command(
        "write a smaller checkpoint: some layers, heads, neurons or tokens of another",
        "Write what a plan, or its short forms, keeps of a checkpoint as a new checkpoint. Where all layers have the "
        "same sizes, transformers loads it too. (--prune and its short forms of the other commands cut while reading, "
        "and write nothing.)",
        (
            "miaotui prune path/to/checkpoint smaller --keep-layers 0-2",
            "miaotui prune path/to/checkpoint smaller --prune plan.json",
            "miaotui prune path/to/checkpoint smaller --ffn 0.75 --drop-heads 3:0,1 --vocab text.txt",
            "miaotui prune path/to/checkpoint smaller --method greedy --keep 4 --text calibration.txt",
            "miaotui prune path/to/checkpoint smaller --method sparsegpt --sparsity 2:4 --text calibration.txt",
            "miaotui prune path/to/checkpoint --sweep --text calibration.txt --out sweep --min-speedup 1.3",
        ),
        "by a plan or by a `--method`; `--sweep` compares methods; every other command takes `--prune` and its short "
        "forms and cuts while reading",
    ),
    "bench": Command(
        "measure tokens per second, and how much of the memory bandwidth is used",
        "Measure prefill and decode speed, time to the first token and peak memory, and the machine's read bandwidth "
        "in the same run.",
        (
            "miaotui bench",
            "miaotui bench --model path/to/checkpoint --threads 1 2 --json figures.json",
            "miaotui bench --device cuda --profile",
        ),
        "prefill and decode, time to first token, memory; `--profile` by kernel; `--json FILE`",
    ),
    "perplexity": Command(
        "how well a model predicts a text file",
        "exp of the mean negative log-likelihood of a text's tokens, in windows of --window predictions: each window "
        "starts from its first token with nothing before it. Lower is better.",
        (
            "miaotui perplexity story.txt",
            "miaotui perplexity wiki.test.raw --model path/to/checkpoint --window 512 --tokens 4096 --json",
        ),
    ),
    "trace": Command(
        "what a model computes for a text, step by step",
        "Every product, norm, attention and layer in float64, by the names of the model's modules: shapes and sizes, "
        "or with --save the numbers. docs/trace.md.",
        (
            'miaotui trace "Once upon a time"',
            'miaotui trace "Once upon a time" --html trace.html',
            'miaotui trace --model path/to/checkpoint --ids "1 5 9" --save trace.safetensors',
        ),
        "by the names of its modules; `--html FILE`, `--json`, `--save FILE`",
    ),
    "compare": Command(
        "where two models part: the first step that differs, and by how much",
        "Both read the same text; every step that both have is compared in float64. The second may be another "
        "checkpoint, the same one rounded or cut, or what another program saved as safetensors, by the same names. "
        "docs/trace.md.",
        (
            'miaotui compare path/to/checkpoint path/to/other --text "Once upon a time"',
            'miaotui compare path/to/checkpoint --quantize int4 --text "Once upon a time"',
            'miaotui compare path/to/checkpoint activations.safetensors --ids "1 5 9"',
        ),
        "two checkpoints, a rounded or cut one, or saved activations",
    ),
    "evaluate": Command(
        "how good a model's answers are: a task's metrics on a data file",
        "Ask a model for an answer to every example of a file, and report the task's metrics: a report of classes, "
        "F1 of entities, exact match and F1 of answers, BLEU, chrF and ROUGE of made texts, correlation of "
        "similarities, accuracy of choices, perplexity and bits a byte. docs/evaluation.md shows each. Libraries: "
        "pip install 'miaotui[eval]'.",
        (
            "miaotui evaluate text-classification --data dev.jsonl --model path/to/checkpoint --json report.json",
            "miaotui evaluate token-classification --data test.conll --model path/to/checkpoint",
            "miaotui evaluate question-answering --data dev-v2.0.json --model org/name --sample 500 --seed 1",
            "miaotui evaluate multiple-choice --data questions.jsonl --model org/name --template 'Q: {question} A:'",
            "miaotui evaluate text-classification --data dev.csv --model org/name --swap terms.csv --plot report.svg",
        ),
        "JSON lines, CSV, CoNLL, SQuAD, CLUE, Parquet; `--swap` for fairness; `--json`, `--plot`, `--log tensorboard`",
    ),
    "filter": Command(
        "show what output filters make of a text, or prove an audit",
        "Put a text through a file of rules, as the commands that print answers do with theirs, or, with --replay, do "
        "the decisions of an audit again and say where they differ. docs/filters.md has the rules.",
        (
            "miaotui filter rules.json 'a text that is checked'",
            "miaotui filter rules.toml --findings < answer.txt",
            "miaotui filter rules.json --replay audit.jsonl",
        ),
        "words and regular expressions that mask, block or stop; `--replay AUDIT` proves an audit",
    ),
    "tune": Command(
        "find the fastest settings for a model on this machine, within limits of memory and of what is lost",
        "Measure threads, prompt chunks, rounding by role, the KV cache, precision, drafts, pruning plans and batches "
        "on this machine, each next to the model as it is; print those that nothing beats, and write the choice as a "
        "profile, which load(profile=...) and the other commands take. Ctrl-C keeps the best so far. See "
        "docs/tuning.md.",
        (
            "miaotui tune --max-seconds 60 --out profile.json",
            "miaotui tune path/to/checkpoint --text text.txt --max-kl 0.02 --max-memory 2GiB --out profile.json",
            "miaotui tune org/name --goal throughput --text text.txt --plot tune.svg --out profile.json",
            "miaotui tune org/name --task text-classification --data dev.jsonl --max-drop 0.005 --out profile.json",
        ),
        "`--goal`, `--max-memory`, `--max-kl`; `--out profile.json`, which every other command takes as `--profile`",
    ),
    "warm": Command(
        "compile ahead of time where Numba compiles: in a clone, and with the jit extra",
        "An installed package brings its kernels with it. Elsewhere, compile them for this processor and keep them in "
        "the cache: those that --model needs with the options given, or, without --model, all kernels for the CPU. "
        "The other options need --model.",
        ("miaotui warm", "miaotui warm --model path/to/checkpoint"),
        "an installed package brings its kernels, and has nothing to compile",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's); the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    open_streams()
    args: argparse.Namespace | None = None
    options: Mapping[str, str] = {}
    try:
        check_interpreter()
        args, options = _parse(arguments)
        debug = args.debug
        run: Callable[[argparse.Namespace], int] = import_module(f".commands.{args.command}", __package__).main
        with warnings_as_notes(partial(_as_typed, args=vars(args))):
            code = run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        if debug:
            traceback.print_exc()
        return INTERRUPTED
    except BrokenPipeError:
        settle()
        return PIPE_CLOSED
    except Exception as e:  # noqa: BLE001 - the last line of defence: whatever it is, say it in one line
        settle()
        lost = "standard output: " if isinstance(e, OSError) and e.filename is None and e.errno in UNWRITABLE else ""
        text = _begun(_as_typed(_one_line(e), vars(args) if args else {}), e, args, options)
        text = with_bytes(text, arguments)
        with contextlib.suppress(OSError, ValueError):  # standard error is a full disk: the exit code says it
            if debug:
                traceback.print_exc()
            print(f"miaotui: error: {lost}{text}", file=sys.stderr, flush=True)
        settle()
        return USAGE if isinstance(e, InputError | PlanError | ProfileError) and _ARGUMENT.match(text) else FAILED
    return code


#: How an error about the command line begins: with an option, or with the name of an argument in capitals.
_ARGUMENT = re.compile(r"--[a-z]|[A-Z][A-Z_]+: ")


def _one_line(error: Exception) -> str:
    """Say what went wrong; for what we did not foresee, name the type and how to learn more."""
    text = " ".join(str(error).split())
    if isinstance(error, MiaotuiError):
        return text
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, ImportError):
        return str(not_imported(error))
    if isinstance(error, MemoryError):
        return f"out of memory{': ' + text if text else ''}; --memory-limit refuses before loading"
    return f"{type(error).__name__}: {text} (not foreseen: --debug shows where)"


def _begun(text: str, error: Exception, args: argparse.Namespace | None, options: Mapping[str, str]) -> str:
    """Of a file that cannot be opened, with the option or argument that names it before its name."""
    if not isinstance(error, InputError) or not isinstance(error.__cause__, OSError):
        return text
    from ..loader.files import quote  # noqa: PLC0415 - loads NumPy

    paths = ((option, getattr(args, name, None)) for name, option in options.items())
    named = (o for o, path in paths if isinstance(path, os.PathLike) and text.startswith(f"{quote(str(path), 300)}: "))
    option = next(named, "")
    return f"{option}: {text}" if option else text


#: Python's name of an argument -> the option's, where they differ.
_OPTIONS = {"stop_strings": "stop"}
#: Arguments that errors name with a value to give instead: "load with threads=2".
_ADVISED = ("device", "revision", "precision", "kv_cache", "threads", "max_context", "quantize")
#: Advice that the command line has no option for.
_PYTHON_ONLY = re.compile(r" or prefill_chunk \(now \d+\)|, or None \(until the context is full\)")


def _as_typed(text: str, args: Mapping[str, object]) -> str:
    """An error in Python's words, "threads=0: ..." or "a smaller max_context", in the words of the command line."""
    text = _PYTHON_ONLY.sub("", text)
    names = {name: name for name in args} | _OPTIONS
    for python, name in names.items():
        option, given = f"--{name.replace('_', '-')}", args.get(name)
        for value in given if isinstance(given, list) else [given]:
            plain = f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)
            plain = ",".join(map(str, value)) if isinstance(value, list) else plain
            typed = f"{option} {getattr(value, 'typed', plain) or repr(value)}"
            shown = [re.escape(repr(value)), re.escape(str(value))]
            shown += [re.escape(f"{value:,}")] if isinstance(value, int) else []
            pattern = rf"\b{python}(\[\d+\])?=({'|'.join(shown)})(?![\w,.])"
            text = re.sub(pattern, typed.replace("\\", r"\\"), text)
        if "_" in python and name in args:
            text = re.sub(rf"(?<![\w/.'\"-])(?<!--set ){python}(?![\w/.'\"=-])", option, text)
    for python in _ADVISED:
        if python in args:
            option = f"--{python.replace('_', '-')}"
            text = re.sub(rf"(?<![\w/.'\"-])(?<!--set ){python}=('?)([\w,=]+)\1(?![\w/.=])", rf"{option} \2", text)
    if "adapters" in args:
        text = re.sub(r"load\(adapter='([^']*)'\)", r"--adapter \1", re.sub(r"^adapters: ", "--adapters: ", text))
    if "overflow" in args:
        text = text.replace("or see overflow", "or see --overflow")
    spelled = args.get("spelled")
    for first, name in spelled.items() if isinstance(spelled, dict) else ():
        text = re.sub(rf"(?<![\w-]){first}(?![\w-])", name, text)
    return text


class _Parser(argparse.ArgumentParser):
    """Says which command or option may have been meant. `commands`: the parser of each; `words`: what was typed."""

    def __init__(self, **how: Any) -> None:  # noqa: ANN401 - argparse's own
        super().__init__(**how)
        self.commands: dict[str, _Parser] = {}
        self.words: Sequence[str] = ()

    def _print_message(self, message: str, file: Any = None) -> None:  # noqa: ANN401 - argparse's own
        """As argparse's, which drops an `OSError`: a full disk would end with 0."""
        if message:
            (file or sys.stderr).write(message)

    def error(self, message: str) -> NoReturn:
        """One line: the message, the nearest name, and the usage without its options. Exit code 2."""
        message = re.sub(r"(?<=^argument )--\S+(?=:)", self._as_typed, message)
        wrong = re.match(r"argument COMMAND: invalid choice: '([^']+)", message)
        advice = _did_you_mean(wrong[1], COMMANDS) if wrong is not None else ""
        self._refuse(message.removeprefix("argument ") + advice)

    def _as_typed(self, names: re.Match[str]) -> str:
        """Of an option's several names, "--prune/--plan", the one that was given."""
        several = names[0].split("/")
        given = (word.partition("=")[0] for word in self.words if word.startswith("--"))
        return next((word for word in given if any(name.startswith(word) for name in several)), names[0])

    def refuse_unknown(self, words: Sequence[str]) -> NoReturn:
        """The same for words that no argument takes: options by name only, as the next word may be another's."""
        options = [word for word in words if word.startswith("-")]
        if options:
            known = [o for action in self._actions for o in action.option_strings if o.startswith("--")]
            name = options[0].split("=")[0]
            self._refuse(f"unknown option: {options[0]}{_did_you_mean(name, known)}")
        quote = '; a text of several words needs quotation marks: "Once upon a time"'
        self._refuse(f"unrecognized arguments: {' '.join(words)}{quote if self.prog.endswith(' generate') else ''}")

    def format_help(self) -> str:
        """As argparse's, whose usage of a command with many options is a screenful: they are listed below it anyway."""
        if not self.commands:
            self.usage = self._usage().replace("%", "%%")
        return super().format_help()

    def _refuse(self, message: str) -> NoReturn:
        self.exit(USAGE, f"miaotui: error: {message} (usage: {self._usage()}; --help explains them)\n")

    def _usage(self) -> str:
        """What must be given, by name."""
        needed = [f"{a.option_strings[0]} {a.metavar}" for a in self._actions if a.option_strings and a.required]
        taken = [a for a in self._actions if not a.option_strings]
        words = [f"[{a.metavar}]" if a.nargs == "?" else f"{a.metavar}" for a in taken]
        return " ".join([self.prog, "[OPTION ...]", *needed, *words])


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    near = spelled_like(word, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The arguments, and how each is called; what no command knows is refused by the command's own parser."""
    parser = _parser(arguments)
    try:
        args, unknown = parser.parse_known_args(arguments)
    except SystemExit:
        sys.stdout.flush()  # the help, or the version: where it cannot be written, that is said
        raise
    if unknown:
        parser.commands[args.command].refuse_unknown(unknown)
    command = parser.commands[args.command]
    if getattr(args, "tuned", None) is not None or getattr(args, "auto", False):
        from .commands.arguments import profile_defaults  # noqa: PLC0415 - only where one is asked for

        command.set_defaults(**profile_defaults(args, command))
        args = parser.parse_args(arguments)
    args.spelled = _other_names(command, arguments)
    actions = command._actions  # noqa: SLF001 - has no public name
    return args, {a.dest: a.option_strings[0] if a.option_strings else str(a.metavar or a.dest) for a in actions}


def _other_names(command: argparse.ArgumentParser, arguments: Sequence[str]) -> dict[str, str]:
    """Options that were typed by another name than their first, as `--plan` for `--prune`: the first -> the typed."""
    typed = {argument.partition("=")[0] for argument in arguments}
    known = command._option_string_actions.items()  # noqa: SLF001 - has no public name
    return {
        first: name
        for name, first in ((name, action.option_strings[0]) for name, action in known)
        if name != first and name in typed and name.startswith("--") and first.startswith("--")
    }


def _parser(arguments: Sequence[str]) -> _Parser:
    """Build the parser; only a command that is named gets its own arguments."""
    parser = _Parser(
        prog="miaotui",
        description="Run Hugging Face checkpoints on the CPU.",
        epilog='`miaotui COMMAND --help` explains a command. First steps: miaotui generate "Once upon a time"',
        formatter_class=_Formatter,
    )
    parser.add_argument("--version", action=_Version)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    for name, command in COMMANDS.items():
        sub = parser.commands[name] = commands.add_parser(
            name,
            help=command.summary,
            description=command.description,
            epilog="examples:\n" + "\n".join(f"  {example}" for example in command.examples),
            formatter_class=_Formatter,
        )
        sub.words = arguments
        if name in arguments:
            check_room()
            import_module(f".commands.{name}", __package__).add_arguments(sub)
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show an error's traceback")
    return parser


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the examples' lines, and gives a command's name and its help one line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._action_max_length = 16  # argparse forgets that commands are indented twice

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("examples:"):
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)  # noqa: SLF001 - the parent's parent


class _Version(argparse.Action):
    """Prints the version; looked up only when asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="print the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # noqa: PLC0415 - only for this

        print(f"miaotui {version('miaotui')}")
        parser.exit()
