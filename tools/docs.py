"""Pages written from the sources: the README's commands and figures, docs/cli.md with every option, docs/packages.svg.

python -m miaotui.tools.docs            # in a clone: write them
python -m miaotui.tools.docs --check    # or say which of them are not as the parsers are; 1 where one is not
"""

from __future__ import annotations

import argparse
import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .bench.run_all import LARGE
from .bench.table import pairs, read_reports
from .cli import COMMANDS
from .packages_picture import packages_picture

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["cli_page", "command_table", "main", "pages"]

ROOT = Path(__file__).resolve().parent.parent
FIGURES = re.compile(r"(<!-- figures: [^\n]* -->\n).*?(<!-- /figures -->\n)", re.DOTALL)
MARKED = re.compile(r"(<!-- commands: [^\n]* -->\n).*?(<!-- /commands -->\n)", re.DOTALL)
#: argparse's own groups.
_UNTITLED = ("positional arguments", "options")
INTRODUCTION = """\
# The command line

Written by `./dev docs` from the commands' parsers. `miaotui COMMAND --help` says the same, and `miaotui --version`
prints the version. Every command takes `--debug`, which adds the traceback to an error.

| exit code | |
|---|---|
| 0 | done |
| 1 | an error of the model, the machine, or what stands in a file: it does not exist, is damaged or not supported, \
does not fit the memory, or has a bad line; the message begins with the file, and the line where there is one |
| 2 | wrong usage: an option or argument that is unknown, missing, out of range, does not suit this model, or names a \
file of data that cannot be opened; the message begins with it, as you typed it |
| 130 | interrupted (Ctrl-C) |
| 141 | the reader of the output went away |
"""


def pages(root: Path) -> dict[Path, str]:
    """What the generated files of a clone should hold. Errors: `InputError` where its README has no marks."""
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    if len(MARKED.findall(text)) != 1:
        msg = f"{readme}: expected a README with one pair of commands' marks; run this in a clone of the repository"
        raise InputError(msg)
    text = MARKED.sub(lambda marks: f"{marks[1]}{command_table()}{marks[2]}", text)
    docs, chinese = root / "docs", root / "README.zh.md"
    told = {readme: text} | ({chinese: chinese.read_text(encoding="utf-8")} if chinese.is_file() else {})
    if any(map(FIGURES.search, told.values())):
        table = figures(docs / "benchmarks")
        told = {file: FIGURES.sub(lambda marks: f"{marks[1]}{table}{marks[2]}", page) for file, page in told.items()}
    return {**told, docs / "cli.md": cli_page(), docs / "packages.svg": packages_picture(root)}


def figures(folder: Path) -> str:
    """The README's table of speeds, from the comparisons in a folder."""
    reports = [report for report in read_reports(sorted(folder.glob("peers-*.json"))) if report["results"]]
    return pairs(sorted(reports, key=lambda report: LARGE.index(report["shape"])))


def command_table() -> str:
    """The README's table: a row a command."""
    rows = ["| | |", "|---|---|"]
    for name, command in COMMANDS.items():
        words = f"{command.summary}; {command.note}" if command.note else command.summary
        rows.append(f"| `{_usage(name, _parser(name))}` | {_cell(words)} |")
    return "\n".join(rows) + "\n"


def cli_page() -> str:
    """docs/cli.md; options that several commands share are told where they come first."""
    lines, told = [INTRODUCTION], dict[str, str]()
    for name, command in COMMANDS.items():
        parser = _parser(name)
        lines += [f"## `{_usage(name, parser)}`", "", command.description, "", "```", *command.examples, "```", ""]
        for title, text in _groups(parser):
            first = told.setdefault(text, name)
            lines += [f"### {title}", ""] if title else []
            lines.append(text if first == name or not title else f"The same as for `miaotui {first}`, above.\n")
    return "\n".join(lines)


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"miaotui {name}", add_help=False)
    import_module(f".commands.{name}", __package__).add_arguments(parser)
    return parser


def _usage(name: str, parser: argparse.ArgumentParser) -> str:
    positionals = [a for a in _actions(parser) if not a.option_strings]
    return " ".join([f"miaotui {name}", *(f"[{a.metavar}]" if a.nargs == "?" else f"{a.metavar}" for a in positionals)])


def _groups(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Title, "" for argparse's own, and text of each group of arguments."""
    for group in parser._action_groups:  # noqa: SLF001 - argparse lists its groups nowhere else
        actions = group._group_actions  # noqa: SLF001 - as above
        if not actions:
            continue
        title = "" if group.title in _UNTITLED else str(group.title)
        column = "option" if actions[0].option_strings else "argument"
        told = [group.description, ""] if group.description else []
        rows = [f"| {_spelled(a)} | {_cell(a.help or '')} |" for a in actions]
        yield title[:1].upper() + title[1:], "\n".join([*told, f"| {column} | |", "|---|---|", *rows, ""])


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return parser._actions  # noqa: SLF001 - argparse lists its arguments nowhere else


def _spelled(action: argparse.Action) -> str:
    """An argument as it is typed: `--threads N [N ...]`."""
    names = action.metavar if isinstance(action.metavar, tuple) else (action.metavar,)
    value = " ".join(filter(None, names)) or "|".join(map(str, action.choices or ()))
    if action.nargs in ("+", "?"):
        value = f"{value} [{value} ...]" if action.nargs == "+" else f"[{value}]"
    return _cell(", ".join(f"`{f'{name} {value}'.strip()}`" for name in action.option_strings or [""]))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages, or with `--check` compare them; 0, or 1 where one differs."""
    parser = argparse.ArgumentParser(prog="python -m miaotui.tools.docs", description="Pages written from the parsers.")
    parser.add_argument("--check", action="store_true", help="write nothing; say which pages are not as they should be")
    args = parser.parse_args(argv)
    old = 0
    for path, text in pages(ROOT).items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        old += 1
        print(f"{path.relative_to(ROOT)}: {'is not what the parsers say; run ./dev docs' if args.check else 'written'}")
        if not args.check:
            path.write_text(text, encoding="utf-8")
    return int(args.check and old > 0)


if __name__ == "__main__":
    raise SystemExit(main())
