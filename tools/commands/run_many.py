"""`miaotui run` with several files, or several workers: parts to whoever is free, results in the order of the input."""

from __future__ import annotations

import sys
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...notices import warn
from ..batch.divided import Divided, Source
from ..batch.inputs import Inputs, columns_of
from ..batch.journal import Commit
from ..batch.outputs import named
from ..batch.parts import unreadable
from ..batch.records import Records, format_of
from ..batch.sources import is_folder, is_several, sources_of
from ..batch.work import Run
from .arguments import load_model
from .run_options import about_of, bar, check_apart, n_lines, parameter_words, parameters_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Generator, Iterator, Mapping

    from ..batch.dispatch import Result
    from ..batch.outcomes import Predict
    from ..batch.parts import Part
    from ..batch.workers import Said

__all__ = ["ENGINES", "check_many", "is_many", "run_many"]

#: The first is the default.
ENGINES = ("processes", "daft")
#: Most workers; a machine has fewer cores.
MOST = 1024


def is_many(args: argparse.Namespace) -> bool:
    """Whether there are several files, or several workers. InputError: --workers or --retries out of range."""
    for name, least in (("workers", 1), ("retries", 0)):
        value = getattr(args, name)
        if not least <= value <= MOST:
            msg = f"--{name} {value}: expected a number from {least} to {MOST}"
            raise InputError(msg)
    return args.workers > 1 or args.engine != ENGINES[0] or is_several(args.input) or is_folder(args.output)


def check_many(args: argparse.Namespace) -> None:
    """InputError: a stream, which has no parts, and belongs to no file."""
    why = f"--workers {args.workers}" if args.workers > 1 else f"--engine {args.engine}"
    why = why if args.workers > 1 or args.engine != ENGINES[0] else f"--input {args.input}"
    for option, path, stream in (
        ("--input", args.input, "standard input"),
        ("--output", args.output, "standard output"),
    ):
        if str(path) == "-":
            msg = f"{option} -: {stream} is one stream, and {why} needs files to divide; name a file or a directory"
            raise InputError(msg)


def run_many(args: argparse.Namespace, task: str, inputs: Inputs, parameters: Mapping[str, Any]) -> int:
    """Run it; 0, also where bad lines were kept apart."""
    sources = _sources(args)
    about = about_of(args, task, "", parameters)

    def about_source(source: Source) -> dict[str, Any]:
        return {**about, "--format": source.form}

    _check_files(args, sources, inputs, about_source)
    total = sum(source.path.stat().st_size for source in sources)
    tally = _Tally()
    with _told_of_interrupts(args, tally), bar(total, Commit()) as step:
        if args.workers == 1 and args.engine == ENGINES[0]:
            _one_by_one(args, sources, about_source, tally, step)
        else:
            _divided(args, sources, about_source, tally, step)
    print(_summary(args, len(sources), tally), file=sys.stderr)
    return 0


class _Tally:
    """What is done, of all files: records, and where they are; `begun`: of that, what an earlier run did."""

    def __init__(self) -> None:
        self.begun = self.now = Commit()
        self.clock = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.clock

    @property
    def new(self) -> int:
        return self.now.good + self.now.bad - self.begun.good - self.begun.bad


def _sources(args: argparse.Namespace) -> list[Source]:
    """What is read, and where results go. InputError."""
    if not is_several(args.input) and not is_folder(args.output):
        check_apart(args)
        form = format_of(args.input, args.format)
        return [Source(args.input, form, args.output, args.errors, str(args.input))]
    sources, passed = sources_of(args.input, args.format, args.output, args.errors)
    if passed:
        n = f"{len(passed):,} file{'' if len(passed) == 1 else 's'}"
        told = f"note: --input {args.input}: {n} passed over, of no known ending (the first is {passed[0].name})"
        print(told, file=sys.stderr)
    return sources


def _check_files(
    args: argparse.Namespace, sources: list[Source], inputs: Inputs, about: Callable[[Source], dict[str, Any]]
) -> None:
    """What can be known before a model is loaded: columns, and outputs of other runs. InputError."""
    for source in sources:
        try:
            stream = source.path.open("rb")
        except OSError as e:
            raise unreadable(source.path, e) from e
        with stream:
            records = Records(stream, source.form, source.name)
            if records.columns:
                inputs.check(records.columns, source.name)
    several = is_several(args.input) or is_folder(args.output)
    for source in sources:
        for option, path in (("--output", source.output), ("--errors", source.errors)):
            if path is not None and several:
                with named(f"{option} {path}"):
                    path.parent.mkdir(parents=True, exist_ok=True)
        if source.output.exists() or (source.errors is not None and source.errors.exists()):
            Run(source.output, source.errors, about(source), restart=args.restart).close()


@contextmanager
def _predictor(args: argparse.Namespace) -> Iterator[tuple[Predict, Inputs]]:
    """The task of `args`, with a model of this process."""
    from ..pipelines.make import pipeline  # noqa: PLC0415 - help must not wait for it
    from ..pipelines.registry import task_of  # noqa: PLC0415 - as above

    task, _ = task_of(args.task)
    parameters = parameters_of(args, task)
    with load_model(args) as model:
        with parameter_words(parameters, args.top_k):
            pipe = pipeline(args.task, model, **parameters)
        yield (lambda values: pipe(iter(values))), Inputs(task.name, columns_of(args.column), tuple(args.keep))


def _one_by_one(
    args: argparse.Namespace,
    sources: list[Source],
    about: Callable[[Source], dict[str, Any]],
    tally: _Tally,
    step: Callable[[Commit], None],
) -> None:
    """File after file, in this process."""
    with _predictor(args) as (predict, inputs):
        for source in sources:
            with (
                source.path.open("rb") as stream,
                Run(source.output, source.errors, about(source), restart=args.restart) as run,
            ):
                records = Records(stream, source.form, source.name, skips=source.errors is not None)
                run.begin(records)
                before = replace(tally.now)
                tally.begun = _sum(tally.begun, run.begun)
                tally.now = _sum(before, run.begun)
                for now in run.work(records, inputs, predict):
                    tally.now = replace(_sum(before, now), seconds=tally.seconds)
                    step(tally.now)


def _sum(one: Commit, other: Commit) -> Commit:
    place = replace(one.place, offset=one.place.offset + other.place.offset)
    return replace(one, place=place, good=one.good + other.good, bad=one.bad + other.bad)


def _divided(
    args: argparse.Namespace,
    sources: list[Source],
    about: Callable[[Source], dict[str, Any]],
    tally: _Tally,
    step: Callable[[Commit], None],
) -> None:
    """In parts, by the engine that was asked for."""
    _share_cores(args)
    going: dict[int, Commit] = {}
    with Divided(sources, about, restart=args.restart) as divided:

        def moved(part: Part, now: Commit) -> None:
            going[part.number] = now
            _tell()

        def _tell() -> None:
            tally.begun, tally.now = divided.begun, divided.now
            for now in going.values():
                tally.now = _sum(tally.now, now)
            tally.now = replace(tally.now, seconds=tally.seconds)
            step(tally.now)

        try:
            with closing(_results(args, divided.parts(), moved)) as results:
                for part, result in results:
                    if isinstance(result, Commit):
                        going[part.number] = result
                    divided.take(part, result)
                    for number in [number for number in going if number < divided.added]:
                        del going[number]
                    _tell()
            _tell()
        except KeyboardInterrupt:
            tally.now = divided.kept()
            raise


def _results(
    args: argparse.Namespace, parts: Iterator[Part | None], moved: Callable[[Part, Commit], None]
) -> Generator[Result]:
    make = partial(_predictor, args)
    if args.engine == "daft":
        from ..batch.by_daft import by_daft  # noqa: PLC0415 - an extra

        return by_daft(parts, make, args.workers)
    from ..batch.dispatch import by_processes  # noqa: PLC0415 - help must not wait for it
    from ..batch.workers import Pool  # noqa: PLC0415 - as above

    pool = Pool(make, args.workers)
    return by_processes(parts, pool, retries=args.retries, step=moved, said=_Once())


def _share_cores(args: argparse.Namespace) -> None:
    """Each worker's threads, where they were not given: what a profile says is for one process."""
    from ...runtime.cores import available_threads  # noqa: PLC0415 - help must not wait for it

    profile = getattr(args, "tuned", None)
    if args.threads in {None, "auto"} or (profile is not None and args.threads == profile.load.get("threads")):
        args.threads = max(1, available_threads() // args.workers)


class _Once:
    """What workers would print, each line once, however many say it."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, said: Said) -> None:
        if said.text in self._said:
            return
        self._said.add(said.text)
        if said.warned:
            warn(said.text)
        else:
            print(said.text, file=sys.stderr, flush=True)


@contextmanager
def _told_of_interrupts(args: argparse.Namespace, tally: _Tally) -> Iterator[None]:
    """Ctrl-C ends a run, which has then kept what is done."""
    try:
        yield
    except KeyboardInterrupt:
        done = tally.now.good + tally.now.bad
        told = f"interrupted: {n_lines(done)} {'is' if done == 1 else 'are'} done; the same command goes on from there"
        print(f"note: {args.output}: {told}", file=sys.stderr)
        raise


def _summary(args: argparse.Namespace, n_files: int, tally: _Tally) -> str:
    """Lines of all files, those that were bad, and how many a second."""
    now, seconds = tally.now, tally.seconds
    told = f"{args.output}: {n_lines(now.good)}" + (f" of {n_files:,} files" if n_files > 1 else "")
    told += f", {now.bad:,} bad in {args.errors}" if now.bad else ""
    if not tally.new and now.good + now.bad:
        return f"{told}; nothing was left to do"
    if tally.begun.good + tally.begun.bad:
        told += f"; {tally.new:,} of them now"
    return f"{told}; {seconds:.1f} s, {tally.new / max(seconds, 1e-9):,.0f} lines/s"
