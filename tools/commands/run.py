"""`miaotui run`: a task on every line of a file, into another file (`tools/batch`)."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ...errors import InputError
from ...load_options import LOAD_DEFAULTS
from ...loader.files import quote, read_text, reason
from ...loader.hub import locate
from .. import demo
from ..batch.fingerprint import fingerprint
from ..batch.inputs import Inputs, columns_of
from ..batch.records import FORMATS, Records, format_of
from ..batch.work import Run, journal_of
from .arguments import (
    adapter_of,
    adapters_of,
    add_adapters,
    add_draft,
    add_limits,
    add_model,
    chosen,
    given_path,
    load_model,
    prune_of,
)
from .unheard import refuse_given

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping

    from ...filter_files import Filters
    from ..batch.journal import Commit
    from ..pipelines.registry import Task

__all__ = ["add_arguments", "main"]

STANDARD = Path("-")
#: Options of loading that the results depend on, apart from what is kept of the model.
DEPENDS = ("quantize", "kv_cache", "precision", "device", "max_context")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("task", metavar="TASK", help="a task of pipelines, for instance text-classification")
    add_model(parser, "the included model that does the task, if there is one")
    parser.add_argument(
        "--input", type=given_path, required=True, metavar="FILE", help="a .txt, .jsonl, .csv or .tsv file, or - "
        "for standard input: a text, a JSON value or a row each",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=given_path, required=True, metavar="FILE", help="where the results go, a line of JSON each, "
        "or - for standard output. A run that was stopped or killed goes on where it was when it is typed again",
    )  # fmt: skip
    parser.add_argument(
        "--errors", type=given_path, metavar="FILE", help="keep bad lines apart in this file, with their number and "
        "what is wrong, and go on (default: stop at the first)",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=FORMATS, help="what --input holds (default: by its ending; of standard input txt)"
    )
    parser.add_argument(
        "--column", action="append", default=[], metavar="[FIELD=]COLUMN", help="where a field of the task stands, for "
        "instance review, or question=frage (default: the fields have their own names; text is the text)",
    )  # fmt: skip
    parser.add_argument(
        "--keep", action="append", default=[], metavar="COLUMN", help="copy this field of a record to its result; id "
        "always is. May be given several times",
    )  # fmt: skip
    parser.add_argument("--top-k", metavar="N", type=int, help="as the pipeline's top_k: how many answers to give")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the pipeline's call, for "
        "instance aggregation_strategy=simple; the value is JSON, or else a text. May be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--seed", metavar="N", type=int, help="tasks that write text: what is drawn (default: 0); the same seed gives "
        "the same texts, also of a run that goes on",
    )  # fmt: skip
    parser.add_argument(
        "--filters", type=given_path, metavar="FILE", help="tasks that write text: words and regular expressions that "
        "a result does not show, as JSON, or as TOML where it is .toml (docs/filters.md)",
    )  # fmt: skip
    parser.add_argument(
        "--audit", type=given_path, metavar="FILE", help="with --filters: add a line of JSON for each answer: which "
        "rules met what, and where. A run that goes on adds to what is there",
    )  # fmt: skip
    parser.add_argument("--audit-text", action="store_true", help="with the text as the model wrote it")
    add_adapters(parser)
    parser.add_argument("--restart", action="store_true", help="write over what an earlier run left, from the start")
    add_limits(parser)
    add_draft(parser)


def main(args: argparse.Namespace) -> int:
    """Run it; 0, also where bad lines were kept apart."""
    from ..pipelines.registry import task_of  # noqa: PLC0415 - help must not wait for it

    with _named("TASK"):
        task, said = task_of(args.task)
    parameters = _parameters(args, task)
    inputs = Inputs(task.name, columns_of(args.column), tuple(args.keep))
    _check_apart(args)
    if args.model is None:
        args.model = str(demo.path(demo.stand_in(task.name, "--model")))
    with ExitStack() as opened:
        stream = opened.enter_context(_input(args.input))
        form = args.format or "txt" if args.input == STANDARD else format_of(args.input, args.format)
        records = Records(stream, form, _shown(args.input, "standard input"), skips=args.errors is not None)
        if records.columns:
            inputs.check(records.columns, records.name)
        output = None if args.output == STANDARD else args.output
        about = _about(args, args.task if said else task.name, form, parameters)
        run = Run(output, args.errors, about, restart=args.restart)
        opened.enter_context(_told_of_interrupts(args, run))
        opened.enter_context(run)
        _work(args, run, records, inputs, parameters)
    print(_summary(args, run), file=sys.stderr)
    return 0


def _work(args: argparse.Namespace, run: Run, records: Records, inputs: Inputs, parameters: Mapping[str, Any]) -> None:
    """Load the model, and answer what is left."""
    from ..pipelines.make import pipeline  # noqa: PLC0415 - help must not wait for it

    run.begin(records)
    with load_model(args) as model:
        with _set(parameters, args.top_k):
            pipe = pipeline(args.task, model, **parameters)
        with _bar(args.input, run.begun) as step:
            for now in run.work(records, inputs, lambda values: pipe(iter(values))):
                step(now)


def _parameters(args: argparse.Namespace, task: Task) -> dict[str, Any]:
    """Those of the pipeline, by name: what is drawn is drawn by a seed, so that a run that goes on draws the same.

    Errors: `InputError`.
    """
    parameters: dict[str, Any] = {} if args.top_k is None else {"top_k": args.top_k}
    draws = "seed" in task.cls.parameters
    if args.seed is not None and not draws:
        msg = f"--seed {args.seed}: only of tasks that write text, and {task.name} draws nothing"
        raise InputError(msg)
    parameters |= {} if args.seed is None else {"seed": args.seed}
    if args.filters is None:
        refuse_given(args, add_arguments, ["audit", "audit_text"], "only with --filters")
    elif args.audit is None:
        refuse_given(args, add_arguments, ["audit_text"], "only with --audit")
    parameters |= {} if args.filters is None else {"filters": _filters(args, task)}
    name = adapter_of(args)
    parameters |= {} if name is None else {"adapter": name}
    for words in args.set:
        name, sign, text = words.partition("=")
        options = (*LOAD_DEFAULTS, "filters")  # the adapter's name among them: --adapter-name
        if not sign or not name.isidentifier() or name in parameters or name in options:
            what = "it has an option of its own" if name in options else "given twice"
            what = what if sign and name.isidentifier() else "expected NAME=VALUE"
            msg = f"--set {words}: {what}"
            raise InputError(msg)
        try:
            parameters[name] = json.loads(text)
        except (ValueError, RecursionError):
            parameters[name] = text
    if draws and "seed" not in parameters:
        args.seed = parameters["seed"] = 0
    return parameters


def _filters(args: argparse.Namespace, task: Task) -> Filters:
    """Errors: `InputError`: the task writes no text, or the file's rules."""
    file: Path = args.filters
    if "filters" not in task.cls.parameters:
        msg = f"--filters {file}: only of tasks that write text, and {task.name} writes none"
        raise InputError(msg)
    from ...filter_files import Filters  # noqa: PLC0415 - help must not wait for it

    return Filters.from_file(file, audit=args.audit, audit_text=args.audit_text)


@contextmanager
def _named(option: str) -> Iterator[None]:
    """An error about an argument in Python's words begins with the command's name for it."""
    try:
        yield
    except InputError as e:
        msg = f"{option}: {str(e).removeprefix('task=')}"
        raise InputError(msg) from e


@contextmanager
def _set(parameters: Mapping[str, Any], top_k: int | None) -> Iterator[None]:
    """As `_named`, of a pipeline's parameters."""
    try:
        yield
    except InputError as e:
        words, first = re.findall(r"\w+", str(e)), re.split(r"\W", str(e), maxsplit=1)[0]
        name = first if first in parameters else next((word for word in words if word in parameters), None)
        if name is None or (name == "top_k" and top_k is not None):
            raise
        msg = f"--set {e}" if name == first else f"--set {name}: {e}"
        raise InputError(msg) from e


def _check_apart(args: argparse.Namespace) -> None:
    """No file is read and written, or written twice. `InputError`."""
    named = [("--input", args.input), ("--output", args.output), ("--errors", args.errors), ("--audit", args.audit)]
    files = [(option, path) for option, path in named if path not in (None, STANDARD)]
    if args.output != STANDARD:
        files.insert(0, (f"the journal of --output {args.output}", journal_of(args.output)))
    for i, (first, one) in enumerate(files):
        for second, other in files[i + 1 :]:
            if _same_file(one, other):
                msg = f"{second} {other}: it is {first}{'' if ' ' in first else ' too'}; name another file"
                raise InputError(msg)


def _same_file(one: Path, other: Path) -> bool:
    """Also by a link. What the system cannot look up is refused where it is opened, with its option's name."""
    try:
        return one.resolve() == other.resolve() or (one.is_file() and other.is_file() and one.samefile(other))
    except (OSError, RuntimeError):  # RuntimeError: a link to itself
        return False


@contextmanager
def _input(path: Path) -> Iterator[IO[bytes]]:
    if path == STANDARD:
        yield sys.stdin.buffer
        return
    try:
        stream = path.open("rb")
    except OSError as e:
        msg = f"--input {quote(str(path), 300)[1:-1]}: cannot be read ({reason(e)})"
        raise InputError(msg) from e
    with stream:
        yield stream


def _about(args: argparse.Namespace, task: str, form: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What the results depend on, in the command's words."""
    directory = locate(chosen(args), revision=args.revision)
    kept = prune_of(args)
    prune = dict(kept or {}) if getattr(args, "tuned_prune", None) is None else {"profile": json.dumps(kept)}
    plan = prune.get("plan")
    return {
        "TASK": task,
        "--model": f"{directory.resolve().name}, its files {fingerprint(directory)}",
        "--adapter": None if args.adapter is None else f"its files {fingerprint(locate(args.adapter))}",
        "--adapters": {n: f"its files {fingerprint(locate(p))}" for n, p in (adapters_of(args) or {}).items()} or None,
        "miaotui": version("miaotui"),
        "--format": form,
        "--column": columns_of(args.column) or None,
        "--keep": args.keep or None,
        **{_option(args, name): getattr(value, "digest", value) for name, value in parameters.items()},
        **{f"--{name.replace('_', '-')}": getattr(args, name) for name in DEPENDS},
        **{f"--{name.replace('_', '-')}": value for name, value in prune.items()},
        "--prune": None if plan is None else hashlib.sha256(read_text(Path(plan), InputError).encode()).hexdigest(),
    }


def _option(args: argparse.Namespace, parameter: str) -> str:
    """How a parameter was given."""
    if parameter == "adapter":
        return "--adapter-name"
    own = parameter in ("top_k", "seed", "filters") and getattr(args, parameter) is not None
    return f"--{parameter.replace('_', '-')}" if own else f"--set {parameter}"


@contextmanager
def _told_of_interrupts(args: argparse.Namespace, run: Run) -> Iterator[None]:
    """Ctrl-C ends a run, which has then kept what is done: say how much that is, and how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        done, place = run.now.good + run.now.bad, run.now.place
        told = f"interrupted: {_lines(done)} {'is' if done == 1 else 'are'} done"
        kept = f"; the same command goes on after line {place.lines:,}" if done else "; the same command begins again"
        kept = kept if run.journaled else ", and there is no journal by which to go on"
        print(f"note: {_shown(args.output, 'standard output')}: {told}{kept}", file=sys.stderr)
        raise


@contextmanager
def _bar(path: Path, begun: Commit) -> Iterator[Callable[[Commit], None]]:
    """What shows how far it is: tqdm's bar on a terminal, where the extra `progress` is installed; else nothing."""
    try:
        from tqdm import tqdm  # noqa: PLC0415 - an extra
    except ImportError:
        yield lambda _: None
        return
    total = path.stat().st_size if path != STANDARD and path.is_file() else None
    at = begun.place.offset
    with tqdm(total=total, initial=at, unit="B", unit_scale=True, file=sys.stderr, disable=None) as bar:

        def step(now: Commit) -> None:
            done, seconds = now.good + now.bad, max(now.seconds - begun.seconds, 1e-9)
            bar.set_postfix_str(f"{done:,} lines, {(done - begun.good - begun.bad) / seconds:,.0f}/s", refresh=False)
            bar.update(now.place.offset - bar.n)

        yield step


def _shown(path: Path, stream: str) -> str:
    """A file, or the stream that - stands for."""
    return stream if path == STANDARD else str(path)


def _lines(n: int) -> str:
    return f"{n:,} line{'' if n == 1 else 's'}"


def _summary(args: argparse.Namespace, run: Run) -> str:
    """Lines, those that were bad, and how many a second."""
    begun, now, output = run.begun, run.now, _shown(args.output, "standard output")
    new = now.good + now.bad - begun.good - begun.bad
    seconds = now.seconds - begun.seconds
    told = f"{output}: {_lines(now.good)}"
    told += f", {now.bad:,} bad in {args.errors}" if now.bad else ""
    if begun.good + begun.bad:
        told += f"; {new:,} of them now, after line {begun.place.lines:,}"
    if not new and begun.good + begun.bad:
        return f"{output}: nothing was left to do after line {begun.place.lines:,}"
    return told + (f"; {seconds:.1f} s, {new / seconds:,.0f} lines/s" if new and seconds > 0 else "")
