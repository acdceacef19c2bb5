"""`miaotui evaluate`: a task's metrics of a model on a data file (`tools/evaluate`)."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError, shown, spelled_like
from .. import demo
from ..evaluate.formats import ALIASES, FORMATS, TASKS
from ..streams import as_text
from .arguments import add_limits, add_model, given_path, load_model
from .unheard import refuse_given

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ...model import Model
    from ..evaluate.evaluation import Evaluation, Predict
    from ..evaluate.examples import Example
    from ..evaluate.measured import Outcome
    from ..evaluate.readers import Data
    from ..evaluate.swap import Swap
    from ..evaluate.tasks import Settings

__all__ = ["add_arguments", "main"]

#: Options that only some tasks read.
_OF_TASKS = {
    "labels": ("text-classification", "token-classification"),
    "chinese": ("question-answering",),
    "tokenize": ("text2text-generation", "summarization", "translation", "text-generation"),
    "max_new_tokens": ("text2text-generation", "summarization", "translation", "text-generation"),
    "src_lang": ("translation",),
    "tgt_lang": ("translation",),
    "hypothesis_template": ("zero-shot-classification",),
    "template": ("multiple-choice",),
    "window": ("perplexity",),
    "plot": ("text-classification", "zero-shot-classification"),
}
_PIPELINE = ("max_new_tokens", "src_lang", "tgt_lang", "hypothesis_template")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    others = ", ".join(f"{alias} for {name}" for alias, name in ALIASES.items())
    parser.add_argument("task", type=_task, metavar="TASK", help=f"one of {', '.join(TASKS)}; or {others}")
    parser.add_argument("--data", type=given_path, metavar="FILE", required=True, help="examples, with what is right")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        metavar="FORMAT",
        help=f"what FILE is (default: by its name): {'; '.join(f'{name}: {what}' for name, what in FORMATS.items())}",
    )
    parser.add_argument(
        "--columns",
        type=_mapping,
        metavar="FIELD=NAME,...",
        help="names of FILE's columns, for instance text=review,label=stars (default: the usual names)",
    )
    parser.add_argument(
        "--labels",
        type=_mapping,
        metavar="CLASS=LABEL,...",
        help="text-classification, token-classification: what the model calls FILE's classes, or types of entities, "
        "where the names differ",
    )
    parser.add_argument("--sample", type=int, metavar="N", help="draw N examples (default: all of them)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which examples are drawn (default: 0)")
    _add_how(parser)
    report = parser.add_argument_group("the report")
    report.add_argument("--json", type=given_path, metavar="FILE", help="write the report, with all options, as JSON")
    report.add_argument(
        "--predictions", type=given_path, metavar="FILE", help="write every example's answer and score as JSON lines"
    )
    report.add_argument(
        "--swap",
        type=given_path,
        metavar="FILE",
        help="fairness: exchange the pairs of terms of FILE, a pair such as he,she a line, in every text, "
        "and say how many answers and by how much scores move",
    )
    report.add_argument(
        "--plot", type=given_path, metavar="FILE", help="draw the confusion matrix and the reliability of the scores"
    )
    report.add_argument(
        "--log",
        nargs=2,
        metavar=("WHERE", "DIR"),
        help="tensorboard DIR: add the metrics to DIR, where a run is a step, for TensorBoard",
    )
    add_model(parser, "the included model that does the task")
    add_limits(parser)


def _add_how(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how a task is done")
    how.add_argument(
        "--chinese", action="store_true", help="question-answering: exact match and F1 as CMRC 2018 has them"
    )
    how.add_argument(
        "--tokenize", metavar="NAME", help="generation: sacrebleu's tokenizer, such as zh (default: 13a); ROUGE follows"
    )
    how.add_argument("--max-new-tokens", type=int, metavar="N", help="generation: tokens of an answer at most")
    how.add_argument("--src-lang", metavar="LANG", help="translation: the language of the texts")
    how.add_argument("--tgt-lang", metavar="LANG", help="translation: the language to translate into")
    how.add_argument(
        "--hypothesis-template", metavar="TEXT", help="zero-shot-classification: a sentence with {} for the class"
    )
    how.add_argument(
        "--template",
        default="{question}",
        metavar="TEXT",
        help="multiple-choice: what the model reads before a choice, for instance 'Q: {question} A:' "
        "(default: {question})",
    )
    how.add_argument(
        "--window", type=int, default=256, metavar="N", help="perplexity: predictions in a window (default: 256)"
    )


class Names(dict[str, str]):
    """Names by names, with the text that they were read from, for errors."""

    typed: str


def _mapping(text: str) -> Names:
    """Names by names, for argparse."""
    parts = [part.partition("=") for part in text.split(",")]
    if not all(a and b for a, _, b in parts) or len({a for a, _, _ in parts}) < len(parts):
        msg = f"expected NAME=NAME, parted by commas, each once; found {text!r}"
        raise argparse.ArgumentTypeError(msg)
    names = Names({a: b for a, _, b in parts})
    names.typed = text
    return names


def _task(text: str) -> str:
    """A task by any of its names, for argparse."""
    name = ALIASES.get(text, text)
    if name not in TASKS:
        near = spelled_like(text, (*TASKS, *ALIASES), 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        msg = f"invalid choice: {text!r} (choose from {', '.join((*TASKS, *ALIASES))}){meant}"
        raise argparse.ArgumentTypeError(msg)
    return name


def main(args: argparse.Namespace) -> int:
    """Evaluate, print the report, and write it where asked; 0."""
    _check(args)
    from ..evaluate.extras import check_extras  # noqa: PLC0415 - help must not wait for it

    plot, tensorboard = args.plot is not None, args.log is not None
    check_extras(args.task, plot=plot, tensorboard=tensorboard, tokenize=args.tokenize)
    from ..evaluate.evaluation import drawn, evaluate  # noqa: PLC0415 - help must not wait for it
    from ..evaluate.readers import read  # noqa: PLC0415 - as above
    from ..evaluate.report import table  # noqa: PLC0415 - as above
    from ..evaluate.swap import read_swap  # noqa: PLC0415 - as above

    name = None if args.model is not None else demo.stand_in(args.task, "--model")
    args.model = args.model if name is None else str(demo.path(name))
    data = read(args.data, args.task, args.format, args.columns)
    swap = None if args.swap is None else read_swap(args.swap)
    examples: list[Example] = data.examples if args.sample is None else drawn(data.examples, args.sample, args.seed)
    settings = _settings(args)
    began = time.perf_counter()
    with load_model(args) as model:
        from ..evaluate.answers import fitted, of_model  # noqa: PLC0415 - as above

        examples, settings = fitted(args.task, examples, model, settings, args.labels)
        predict = _shown(of_model(args.task, model, settings), args.task)
        done = evaluate(args.task, examples, predict, settings, swap)
        facts = _facts(args, data, examples, model, name) | {"seconds": time.perf_counter() - began}
    skipped = f"; {data.skipped} without a class are left out" if data.skipped else ""
    n = f"{len(examples)} example{'s' if len(examples) > 1 else ''}"
    print(f"{args.task}, {as_text(args.data.name)}: {n}{skipped}")
    print(f"model: {facts['model']['name']} ({facts['model']['family']}{', included' if name else ''})")
    print(table(done))
    _write(args, done, examples, facts, swap)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot be done before anything is read: InputError."""
    for name in ("sample", "window", "max_new_tokens"):
        value = getattr(args, name)
        if value is not None and value < 1:
            msg = f"--{name.replace('_', '-')} {value}: expected at least 1"
            raise InputError(msg)
    for name, tasks in _OF_TASKS.items():
        if args.task not in tasks:
            refuse_given(args, add_arguments, [name], f"only of {', '.join(tasks)}, and the task is {args.task}")
    _check_folders(args)
    if "{question}" not in args.template:
        msg = f"--template {shown(args.template)}: lacks {{question}}, in whose place the question goes; add it"
        raise InputError(msg)
    if args.log is not None and (args.log[0] != "tensorboard" or not args.log[1]):
        msg = f"--log {' '.join(args.log)}: expected tensorboard and a directory"
        raise InputError(msg)
    if args.seed < 0:
        msg = f"--seed {args.seed}: expected 0 or more"
        raise InputError(msg)
    if args.task == "perplexity" and args.max_context is None:
        args.max_context = args.window
        args.spelled = getattr(args, "spelled", {}) | {"--max-context": "--window"}


def _check_folders(args: argparse.Namespace) -> None:
    """What is written at the end has a place: not found out after hours. InputError."""
    for name in ("json", "predictions", "plot"):
        path: Path | None = getattr(args, name)
        if path is not None and not path.absolute().parent.is_dir():
            msg = f"--{name} {path}: there is no directory {path.absolute().parent} to write it to"
            raise InputError(msg)


def _settings(args: argparse.Namespace) -> Settings:
    from ..evaluate.tasks import Settings as Made  # noqa: PLC0415 - as above

    given: dict[str, Any] = {name: getattr(args, name) for name in _PIPELINE if getattr(args, name) is not None}
    return Made(
        chinese=args.chinese or args.format == "cmrc2018", tokenize=args.tokenize, template=args.template,
        window=args.window, parameters=given,
    )  # fmt: skip


def _shown(predict: Predict, task: str) -> Predict:
    """The same with a bar while it works, where tqdm is installed (the extra `progress`), on a terminal alone."""
    from ..pipelines.inputs import barred  # noqa: PLC0415 - as above

    def shown(examples: Sequence[Example]) -> Iterator[Outcome]:
        return barred(predict(examples), len(examples), task)

    return shown


def _facts(
    args: argparse.Namespace, data: Data, examples: Sequence[Example], model: Model, included: str | None
) -> dict[str, Any]:
    """What stands in the JSON before the metrics. `included`: the name of the model, where it is one of ours."""
    own = as_text(Path(args.model).name)
    hidden = {"command", "debug", "spelled"}
    options = {name: _plain(value) for name, value in vars(args).items() if name not in hidden}
    return {
        "task": args.task,
        "model": {"name": included or own, "family": model.config.family, "included": included is not None},
        "data": {
            "file": as_text(args.data.name), "sha256": data.sha256, "format": data.format, "examples": len(examples),
            "of": len(data.examples), "skipped": data.skipped,
        },
        "seed": args.seed,
        "options": options,
    }  # fmt: skip


def _plain(value: object) -> object:
    return as_text(str(value)) if isinstance(value, Path) else value


def _write(
    args: argparse.Namespace, done: Evaluation, examples: Iterable[Example], facts: dict[str, Any], swap: Swap | None
) -> None:
    """The files that were asked for."""
    from ...loader.write import write_whole  # noqa: PLC0415 - as above
    from ..evaluate.report import answers_as_lines, as_json, document  # noqa: PLC0415 - as above

    if swap is not None:
        facts = facts | {"swap": {"file": as_text(args.swap.name), "sha256": swap.sha256}}
    if args.json:
        write_whole(args.json, as_json(document(done, **facts), indent=1) + "\n")
    if args.predictions:
        write_whole(args.predictions, answers_as_lines(args.task, examples, done))
    if args.plot:
        from ..evaluate.pictures import draw  # noqa: PLC0415 - as above

        draw(done.measured, args.plot)
    if args.log:
        from ..evaluate.tensorboard import log  # noqa: PLC0415 - as above

        step = log(Path(args.log[1]), args.task, done.measured, facts["options"])
        print(f"note: {args.log[1]}: step {step}", file=sys.stderr)
