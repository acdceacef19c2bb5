"""`--filters` of commands that print answers: rules from a file, an audit, and a person who decides."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ...errors import InputError
from .arguments import given_path
from .unheard import refuse_given

if TYPE_CHECKING:
    import argparse

    from ...filter_files import Filters
    from ...runtime.filters.filters import Filtered

__all__ = ["add_filters", "filters_of"]

#: What is read from the terminal, and what `hold` returns for it.
_ANSWERS = {"y": "release", "yes": "release", "n": "refuse", "no": "refuse", "": "refuse"}


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add `--filters` and what goes with it."""
    group = parser.add_argument_group(
        "output filters", "Words and regular expressions that an answer does not show (docs/filters.md)."
    )
    group.add_argument("--filters", type=given_path, metavar="FILE", help="rules as JSON, or as TOML where it is .toml")
    group.add_argument(
        "--audit",
        type=given_path,
        metavar="FILE",
        help="add a line of JSON for each answer: which rules met what, and where",
    )
    group.add_argument("--audit-text", action="store_true", help="with the text as the model wrote it")
    group.add_argument(
        "--hold", action="store_true", help="show an answer once you have said yes to it, on the terminal"
    )


def filters_of(args: argparse.Namespace) -> Filters | None:
    """What the options ask for. Errors: `InputError`."""
    if args.filters is None:
        refuse_given(args, add_filters, ["audit", "audit_text", "hold"], "only with --filters")
        return None
    if args.audit is None:
        refuse_given(args, add_filters, ["audit_text"], "only with --audit")
    if args.hold and not (sys.stdin is not None and sys.stdin.isatty()):
        msg = "--hold: standard input is no terminal, so nobody can be asked; leave it out"
        raise InputError(msg)
    from ...filter_files import Filters  # noqa: PLC0415 - help must not wait for it

    hold = _asked if args.hold else None
    return Filters.from_file(args.filters, hold=hold, audit=args.audit, audit_text=args.audit_text)


def _asked(filtered: Filtered) -> str:
    """Show the answer and what was met in it on standard error, and ask."""
    met = "".join(f"  {f.rule} ({f.action}): characters {f.start} to {f.end}\n" for f in filtered.findings)
    sys.stderr.write(f"--- held answer\n{filtered.text}\n---\n{met}")
    while True:
        sys.stderr.write("Show it? [y/N] ")
        sys.stderr.flush()
        said = sys.stdin.readline()
        if (what := _ANSWERS.get(said.strip().lower())) is not None:
            return what
