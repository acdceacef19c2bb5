"""`miaotui tune`: settings for one model on this machine, measured within limits (`tools/tuning`)."""

from __future__ import annotations

import math
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ...errors import InputError, ProfileError
from ..evaluate.formats import ALIASES, TASKS, WRITING
from .arguments import add_adapter, given_model, given_path, located, size
from .sampling import SAMPLING, add_sampling, check_sampling, drawing
from .unheard import refuse_given

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from pathlib import Path

    from ...loader.open import Opened
    from ...profiles import Profile
    from ..tuning.knobs import Knobs
    from ..tuning.records import Limits
    from ..tuning.subject import Subject
    from ..tuning.tune import Tuned

__all__ = ["add_arguments", "main"]

#: Options of a text alone, and of a task's data alone.
_OF_TEXT, _OF_DATA = ("prompt", "new", "max_kl"), ("data", "examples", "max_drop")
#: Stories of the demo model, where no text is given.
STORIES = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "model",
        nargs="?",
        type=given_model,
        metavar="MODEL",
        help="a Hugging Face directory, or a hub name such as org/name (default: the demo model that is included)",
    )
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a hub name")
    add_adapter(parser)
    parser.add_argument(
        "--goal",
        choices=["latency", "throughput"],
        default="latency",
        help="latency: one answer at a time (default); throughput: several together",
    )
    _add_measured(parser)
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-memory",
        type=size,
        metavar="SIZE",
        help="most memory for weights, mapped ones too, arena and cache, for instance 2GiB (default: no limit)",
    )
    limits.add_argument(
        "--max-kl",
        type=float,
        default=0.02,
        metavar="NATS",
        help="with a text: most mean KL divergence from the model as it is, a token (default: 0.02)",
    )
    limits.add_argument(
        "--max-drop",
        type=float,
        default=0.01,
        metavar="X",
        help="with --task: most that its first metric may be less; of perplexity, this share more (default: 0.01)",
    )
    limits.add_argument(
        "--max-seconds", type=float, default=300, metavar="S", help="end after S seconds (default: 300)"
    )
    _add_settings(parser)
    out = parser.add_argument_group("the result")
    out.add_argument(
        "--out",
        type=given_path,
        metavar="FILE",
        help="write the profile, which every command takes. One that is there already stays chosen where it is as good",
    )
    out.add_argument("--plot", type=given_path, metavar="FILE", help="draw time against memory (.svg or .png)")
    out.add_argument("--json", action="store_true", help="print the profile as JSON, and no table")
    add_sampling(parser)
    for action in parser._actions:  # noqa: SLF001 - argparse lists its arguments nowhere else
        if action.dest == "seed":  # of generate, whose help names an option of its own
            action.help = "which texts and examples are drawn (default: of texts another each time, of examples 0)"


def _add_measured(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is measured")
    group.add_argument(
        "--text",
        type=given_path,
        metavar="FILE",
        help="a text file: prompts, and what KL is measured on (default of the demo model: stories that it has not "
        "seen; of others, only settings that change no answer are tried)",
    )
    group.add_argument("--prompt", type=int, default=128, metavar="N", help="tokens of a prompt (default: 128)")
    group.add_argument("--new", type=int, default=32, metavar="N", help="tokens of an answer (default: 32)")
    group.add_argument(
        "--task", choices=(*TASKS, *ALIASES), metavar="TASK", help="measure a task of `miaotui evaluate` on --data"
    )
    group.add_argument("--data", type=given_path, metavar="FILE", help="with --task: examples, with what is right")
    group.add_argument("--examples", type=int, metavar="N", help="with --task: draw N examples (default: all)")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is varied")
    group.add_argument(
        "--vary",
        metavar="NAMES",
        help="only these, joined by commas: threads, prefill_chunk, batch, draft, precision, kv_cache, prune, sampling "
        "(of --try-sampling), and what is rounded: embed, attention, ffn (default: all)",
    )
    group.add_argument(
        "--plan",
        action="append",
        default=[],
        metavar="PLAN",
        help='try this pruning plan: a file, or short forms such as "ffn=0.75; drop-layers=5"; may be given several '
        "times (default: two shares of the feed-forward)",
    )
    group.add_argument(
        "--try-sampling",
        action="append",
        type=drawing,
        default=[],
        metavar="WORDS",
        help='try to draw ids so: options of sampling without their dashes, for instance "temperature=0.8 top-k=40"; '
        "may be given several times. With a text its time alone is measured, with --task the metric too",
    )
    group.add_argument("--max-context", type=int, metavar="N", help="tokens of prompt and answer to reserve memory for")


def main(args: argparse.Namespace) -> int:
    """Tune, print the table, and write the profile and the picture where asked; 0."""
    _check(args)
    from ...loader.open import open_model  # noqa: PLC0415 - help must not wait for it
    from ..tuning.records import Limits  # noqa: PLC0415 - as above

    if args.plot is not None:
        from ..tuning.table import figure_class  # noqa: PLC0415 - as above

        figure_class()  # not found to be missing after minutes
    directory = located(args)
    kept = _kept(args.out)
    limits = Limits(args.max_memory or math.inf, args.max_drop if args.task else args.max_kl, seconds=args.max_seconds)
    with open_model(directory, adapter=args.adapter) as opened:
        subject = _subject(args, opened)
        knobs = _knobs(args, opened, judged=getattr(subject, "judged", True))
        tuned = _tuned(args, directory, opened, (knobs, subject, limits), kept)
    _report(args, tuned, subject, limits, directory.resolve().name)
    if tuned.ended == "interrupted":
        raise KeyboardInterrupt
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot be done before anything is read: InputError."""
    for name in ("prompt", "new", "examples", "max_seconds"):
        value = getattr(args, name)
        if value is not None and not 1 <= value < math.inf:
            msg = f"--{name.replace('_', '-')} {value:g}: expected at least 1"
            raise InputError(msg)
    for name in ("max_kl", "max_drop"):
        if not 0 <= getattr(args, name) < math.inf:
            msg = f"--{name.replace('_', '-')} {getattr(args, name):g}: expected a number of at least 0"
            raise InputError(msg)
    check_sampling(args)
    if args.task is None:
        refuse_given(args, add_arguments, _OF_DATA, "only with --task, whose examples are measured")
    else:
        refuse_given(args, add_arguments, (*_OF_TEXT, "text"), "not with --task, whose examples are measured")
        given = [name for name in SAMPLING if name not in {"seed", "do_sample"}]
        refuse_given(args, add_arguments, given, "not with --task, which says how ids are drawn")
        if args.try_sampling and ALIASES.get(args.task, args.task) not in WRITING:
            msg = f"--try-sampling: --task {args.task} draws no ids; it is for {', '.join(WRITING)}"
            raise InputError(msg)
        if args.data is None:
            msg = f"--task {args.task}: its examples are missing; give --data FILE"
            raise InputError(msg)
    for name in ("out", "plot"):
        path: Path | None = getattr(args, name)
        if path is not None and not path.absolute().parent.is_dir():
            msg = f"--{name} {path}: there is no directory {path.absolute().parent} to write it to"
            raise InputError(msg)


def _kept(out: Path | None) -> Profile | None:
    """What was chosen before. InputError: the file is there, and is no profile."""
    from ...profiles import read_profile  # noqa: PLC0415 - help must not wait for it

    if out is None or not out.exists():
        return None
    try:
        return read_profile(out)
    except ProfileError as e:
        msg = f"--out {out}: is there already, and is not written over: {e}"
        raise InputError(msg) from e


def _subject(args: argparse.Namespace, opened: Opened) -> Subject:
    """What is measured. Errors: `InputError`."""
    from ...loader.files import read_text  # noqa: PLC0415 - as above
    from ...loader.text.tokenizer import Tokenizer  # noqa: PLC0415 - as above
    from ..perplexity import check_predicts  # noqa: PLC0415 - as above
    from ..tuning.subject import TaskSubject, TextSubject  # noqa: PLC0415 - as above

    if args.task is not None:
        from ..evaluate.evaluation import drawn  # noqa: PLC0415 - as above
        from ..evaluate.readers import read  # noqa: PLC0415 - as above
        from ..evaluate.tasks import Settings  # noqa: PLC0415 - as above

        task = ALIASES.get(args.task, args.task)
        examples: Any = read(args.data, task).examples
        examples = examples if args.examples is None else drawn(examples, args.examples, args.seed or 0)
        return TaskSubject(task, examples, Settings(), args.goal, seed=args.seed or 0)
    check_predicts(opened.config, "--text" if args.text else f"MODEL {args.model}")
    ids = list(range(1, opened.config.n_vocab))
    judged = args.text is not None or args.model is None
    if judged:
        text = _stories() if args.text is None else read_text(args.text, InputError)
        ids = Tokenizer.from_directory(opened.directory).encode(text)
    if len(ids) < 2:  # noqa: PLR2004 - one to start from, one to predict
        msg = f"--text {args.text}: {len(ids)} tokens; expected at least 2"
        raise InputError(msg)
    how = _sampling(args)
    return TextSubject(ids, args.goal, args.prompt, args.new, judged=judged, parameters=how)


def _stories() -> str:
    from ..demo.corpus import held_out  # noqa: PLC0415 - only where it is used

    return "\n".join(held_out(STORIES))


def _sampling(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in SAMPLING if getattr(args, name) is not None}


def _knobs(args: argparse.Namespace, opened: Opened, *, judged: bool) -> Knobs:
    """What is varied. InputError: nothing is left of it, or it needs a text."""
    from ..tuning.knobs import AXES, GROUPS, knobs_of  # noqa: PLC0415 - help must not wait for it

    lossy = ("precision", "kv_cache", "prune", *GROUPS)
    vary = [name for name in AXES if judged or name not in lossy] if args.vary is None else args.vary.split(",")
    if args.try_sampling and "sampling" not in vary:
        msg = f"--try-sampling: --vary {args.vary} leaves it out; add sampling to it"
        raise InputError(msg)
    if not judged and (wrong := [name for name in vary if name in lossy]):
        msg = f"--vary {args.vary}: {wrong[0]} changes answers: give --text FILE to measure by how much"
        raise InputError(msg)
    context = args.max_context or min(opened.config.n_context, 2048)
    timed = args.task is None
    if timed and args.prompt + args.new > context:
        msg = f"--prompt {args.prompt} --new {args.new}: more than the context of {context}; give fewer"
        raise InputError(msg)
    knobs = knobs_of(
        opened,
        goal=args.goal,
        vary=vary,
        plans=args.plan,
        fixed={n: v for n in ("max_context", "adapter") if (v := getattr(args, n)) is not None},
        prompt=args.prompt if timed else 0,
        new=args.new if timed else 0,
        samplings={each.typed: each for each in args.try_sampling},
    )
    if not knobs.space.axes:
        msg = f"--vary {','.join(vary)}: this model has one way of each here, and there is nothing to compare"
        raise InputError(msg)
    return knobs


def _tuned(
    args: argparse.Namespace,
    directory: Path,
    opened: Opened,
    what: tuple[Knobs, Subject, Limits],
    kept: Profile | None,
) -> Tuned:
    """Tune, with a bar."""
    from ..bench.shared import public_command  # noqa: PLC0415 - help must not wait for it
    from ..importance.progress import progress  # noqa: PLC0415 - as above
    from ..tuning.tune import tune  # noqa: PLC0415 - as above

    steps = 3 * len(list(what[0].space.singles())) + 32
    with ExitStack() as opened_bar:
        step: Callable[[int], None] = opened_bar.enter_context(progress(steps, 0, "tuning", quiet=args.json))
        return tune(
            directory,
            opened,
            *what,
            generate=_sampling(args),
            previous=kept,
            command=public_command("miaotui", sys.argv),
            seed=args.seed or 0,
            told=lambda *_: step(1),
        )


def _report(args: argparse.Namespace, tuned: Tuned, subject: Subject, limits: Limits, name: str) -> None:
    """Print and write. Errors: `MemoryLimitError`, `InputError`: there is nothing to write."""
    from ..tuning.table import draw, table  # noqa: PLC0415 - help must not wait for it
    from ..tuning.tune import nothing_fits  # noqa: PLC0415 - as above

    if tuned.profile is None:
        if tuned.ended == "interrupted":
            return
        raise nothing_fits(tuned, limits, name)
    if args.json:
        print(tuned.profile.to_json(), end="")
    else:
        print(table(tuned.rows, subject))
        early = {"time": f"; --max-seconds {args.max_seconds:g} ended it early", "interrupted": "; interrupted"}
        measured = sum(row["pairs"] > 0 for row in tuned.rows)
        print(f"{measured} settings measured in {tuned.seconds:.1f} s{early.get(tuned.ended, '')}")
        told = ", ".join(f"{key}={value}" for key, value in (tuned.profile.load | tuned.profile.generate).items())
        print(f"chosen: {told or 'the usual settings'}")
    if args.out is not None:
        tuned.profile.save(args.out)
    if args.plot is not None:
        draw(tuned.rows, subject, name, args.plot)
