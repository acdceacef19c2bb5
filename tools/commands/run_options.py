"""What `miaotui run` was told, of one file and of many: parameters, what results depend on, progress."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...load_options import LOAD_DEFAULTS
from ...loader.files import read_text
from ...loader.hub import locate
from ..batch.fingerprint import fingerprint
from ..batch.inputs import columns_of
from ..batch.work import journal_of
from .arguments import adapter_of, adapters_of, chosen, prune_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping

    from ...filter_files import Filters
    from ..batch.journal import Commit
    from ..pipelines.registry import Task

__all__ = ["STANDARD", "about_of", "bar", "check_apart", "n_lines", "parameter_words", "parameters_of", "task_words"]

STANDARD = Path("-")
#: Options of loading that the results depend on, apart from what is kept of the model.
DEPENDS = ("quantize", "kv_cache", "precision", "device", "max_context")


def parameters_of(args: argparse.Namespace, task: Task) -> dict[str, Any]:
    """Those of the pipeline, by name: what is drawn is drawn by a seed, so that a run that goes on draws the same.

    Errors: `InputError`.
    """
    parameters: dict[str, Any] = {} if args.top_k is None else {"top_k": args.top_k}
    draws = "seed" in task.cls.parameters
    if args.seed is not None and not draws:
        msg = f"--seed {args.seed}: only of tasks that write text, and {task.name} draws nothing"
        raise InputError(msg)
    parameters |= {} if args.seed is None else {"seed": args.seed}
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
def task_words(option: str) -> Iterator[None]:
    """An error about an argument in Python's words begins with the command's name for it."""
    try:
        yield
    except InputError as e:
        msg = f"{option}: {str(e).removeprefix('task=')}"
        raise InputError(msg) from e


@contextmanager
def parameter_words(parameters: Mapping[str, Any], top_k: int | None) -> Iterator[None]:
    """As `task_words`, of a pipeline's parameters."""
    try:
        yield
    except InputError as e:
        words, first = re.findall(r"\w+", str(e)), re.split(r"\W", str(e), maxsplit=1)[0]
        name = first if first in parameters else next((word for word in words if word in parameters), None)
        if name is None or (name == "top_k" and top_k is not None):
            raise
        msg = f"--set {e}" if name == first else f"--set {name}: {e}"
        raise InputError(msg) from e


def about_of(args: argparse.Namespace, task: str, form: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
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


def check_apart(args: argparse.Namespace) -> None:
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
def bar(total: int | None, begun: Commit) -> Iterator[Callable[[Commit], None]]:
    """What shows how far it is: tqdm's bar on a terminal, where the extra `progress` is installed; else nothing.

    `total`: bytes of the input, where they are known.
    """
    try:
        from tqdm import tqdm  # noqa: PLC0415 - an extra
    except ImportError:
        yield lambda _: None
        return
    at = begun.place.offset
    with tqdm(total=total, initial=at, unit="B", unit_scale=True, file=sys.stderr, disable=None) as shown:

        def step(now: Commit) -> None:
            done, seconds = now.good + now.bad, max(now.seconds - begun.seconds, 1e-9)
            shown.set_postfix_str(f"{done:,} lines, {(done - begun.good - begun.bad) / seconds:,.0f}/s", refresh=False)
            shown.update(now.place.offset - shown.n)

        yield step


def n_lines(n: int) -> str:
    """As it is said."""
    return f"{n:,} line{'' if n == 1 else 's'}"
