"""`miaotui filter`: a text through a file of rules; or an audit's answers once more, to prove its lines."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ...errors import InputError
from ...sizes import counted
from .arguments import given_path
from .generate import as_utf8, standard_input

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from ...filter_files import Filters

__all__ = ["add_arguments", "main"]

#: The exit code where a line of an audit is not what the rules say now.
DIFFERENT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("rules", type=given_path, metavar="RULES", help="rules as JSON, or as TOML where it is .toml")
    parser.add_argument("text", nargs="?", metavar="TEXT", help="the text to filter (default: standard input)")
    parser.add_argument("--findings", action="store_true", help="say on standard error which rules met what, and where")
    parser.add_argument(
        "--replay",
        type=given_path,
        metavar="AUDIT",
        help="filter the answers of an audit that has their texts (--audit-text) again, and say which lines differ; "
        "the exit code is 1 where one does",
    )


def main(args: argparse.Namespace) -> int:
    """Print the filtered text, or what differs; 0, or 1 where something does."""
    from ...filter_files import Filters  # noqa: PLC0415 - help must not wait for it

    if args.replay is not None and (args.text is not None or args.findings):
        msg = "--replay: takes its texts from the audit; leave out TEXT and --findings"
        raise InputError(msg)
    filters = Filters.from_file(args.rules)
    if args.replay is not None:
        return _replayed(filters, args.replay)
    filtered = filters.apply(standard_input() if args.text is None else as_utf8(args.text, "TEXT"))
    if args.findings:
        for f in filtered.findings:
            print(f"{f.start}-{f.end} {f.action} {f.rule}", file=sys.stderr)
    sys.stdout.write(filtered.text if filtered.text.endswith("\n") else f"{filtered.text}\n")
    return 0


def _replayed(filters: Filters, audit: Path) -> int:
    from ...filter_files import audit_records  # noqa: PLC0415 - as above

    lines = different = 0
    for number, record in audit_records(audit):
        lines += 1
        try:
            differs = filters.replay(record)
        except InputError as e:
            msg = f"{audit}: line {number}: {e}"
            raise InputError(msg) from None
        different += bool(differs)
        for each in differs:
            print(f"{audit}: line {number}: {each}")
    print(f"{counted(lines, 'answer')}, {different} with another decision")
    return DIFFERENT if different else 0
