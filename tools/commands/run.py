"""`miaotui run`: a task on every line of a file, into another file (`tools/batch`)."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING, Any

from ...errors import InputError
from ...loader.files import quote, reason
from .. import demo
from ..batch.inputs import Inputs, columns_of
from ..batch.records import FORMATS, Records, format_of
from ..batch.work import Run
from .arguments import add_adapters, add_draft, add_limits, add_model, given_path, load_model
from .run_many import ENGINES, check_many, is_many, run_many
from .run_options import STANDARD, about_of, bar, check_apart, n_lines, parameter_words, parameters_of, task_words
from .unheard import refuse_given

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["add_arguments", "main"]

#: How often what a dead worker had is tried again.
RETRIES = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("task", metavar="TASK", help="a task of pipelines, for instance text-classification")
    add_model(parser, "the included model that does the task, if there is one")
    parser.add_argument(
        "--input", type=given_path, required=True, metavar="FILE", help="a .txt, .jsonl, .csv or .tsv file, or - "
        "for standard input: a text, a JSON value or a row each; a directory of such files, or a pattern in quotation "
        "marks such as 'mail/*.txt'",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=given_path, required=True, metavar="FILE", help="where the results go, a line of JSON each, "
        "or - for standard output; a directory, of several inputs. A run that was stopped or killed goes on where it "
        "was when it is typed again",
    )  # fmt: skip
    parser.add_argument(
        "--errors", type=given_path, metavar="FILE", help="keep bad lines apart in this file, with their number and "
        "what is wrong, and go on (default: stop at the first); a directory, of several inputs",
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
        "rules met what, and where. A run that goes on adds to what is there; what is done twice is told twice",
    )  # fmt: skip
    parser.add_argument("--audit-text", action="store_true", help="with the text as the model wrote it")
    add_adapters(parser)
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that share the work, each with a model of its "
        "own and its part of the cores (--threads: of each); the output is the same, byte by byte (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--engine", choices=ENGINES, default=ENGINES[0], help="what runs the workers: processes of this machine, or "
        "Daft, on this machine or its cluster (the extra daft; docs/run.md)",
    )  # fmt: skip
    parser.add_argument(
        "--retries", type=int, default=RETRIES, metavar="N", help="try what a worker had that died this often again, "
        f"without a step forward, and then take its line for a bad one (default: {RETRIES})",
    )  # fmt: skip
    parser.add_argument("--restart", action="store_true", help="write over what an earlier run left, from the start")
    add_limits(parser)
    add_draft(parser)


def main(args: argparse.Namespace) -> int:
    """Run it; 0, also where bad lines were kept apart."""
    from ..pipelines.registry import task_of  # noqa: PLC0415 - help must not wait for it

    with task_words("TASK"):
        task, said = task_of(args.task)
    if args.filters is None:
        refuse_given(args, add_arguments, ["audit", "audit_text"], "only with --filters")
    elif args.audit is None:
        refuse_given(args, add_arguments, ["audit_text"], "only with --audit")
    parameters = parameters_of(args, task)
    inputs = Inputs(task.name, columns_of(args.column), tuple(args.keep))
    many = is_many(args)
    if many:
        check_many(args)
    else:
        check_apart(args)
    if args.model is None:
        args.model = str(demo.path(demo.stand_in(task.name, "--model")))
    if many:
        return run_many(args, args.task if said else task.name, inputs, parameters)
    with ExitStack() as opened:
        stream = opened.enter_context(_input(args.input))
        form = args.format or "txt" if args.input == STANDARD else format_of(args.input, args.format)
        records = Records(stream, form, _shown(args.input, "standard input"), skips=args.errors is not None)
        if records.columns:
            inputs.check(records.columns, records.name)
        output = None if args.output == STANDARD else args.output
        about = about_of(args, args.task if said else task.name, form, parameters)
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
        with parameter_words(parameters, args.top_k):
            pipe = pipeline(args.task, model, **parameters)
        total = args.input.stat().st_size if args.input != STANDARD and args.input.is_file() else None
        with bar(total, run.begun) as step:
            for now in run.work(records, inputs, lambda values: pipe(iter(values))):
                step(now)


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


@contextmanager
def _told_of_interrupts(args: argparse.Namespace, run: Run) -> Iterator[None]:
    """Ctrl-C ends a run, which has then kept what is done: say how much that is, and how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        done, place = run.now.good + run.now.bad, run.now.place
        told = f"interrupted: {n_lines(done)} {'is' if done == 1 else 'are'} done"
        kept = f"; the same command goes on after line {place.lines:,}" if done else "; the same command begins again"
        kept = kept if run.journaled else ", and there is no journal by which to go on"
        print(f"note: {_shown(args.output, 'standard output')}: {told}{kept}", file=sys.stderr)
        raise


def _shown(path: Path, stream: str) -> str:
    """A file, or the stream that - stands for."""
    return stream if path == STANDARD else str(path)


def _summary(args: argparse.Namespace, run: Run) -> str:
    """Lines, those that were bad, and how many a second."""
    begun, now, output = run.begun, run.now, _shown(args.output, "standard output")
    new = now.good + now.bad - begun.good - begun.bad
    seconds = now.seconds - begun.seconds
    told = f"{output}: {n_lines(now.good)}"
    told += f", {now.bad:,} bad in {args.errors}" if now.bad else ""
    if begun.good + begun.bad:
        told += f"; {new:,} of them now, after line {begun.place.lines:,}"
    if not new and begun.good + begun.bad:
        return f"{output}: nothing was left to do after line {begun.place.lines:,}"
    return told + (f"; {seconds:.1f} s, {new / seconds:,.0f} lines/s" if new and seconds > 0 else "")
