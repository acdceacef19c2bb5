"""Pages that a command writes: they are what the parsers say, and the examples in them are understood."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from miaotui.errors import InputError
from miaotui.tools import cli, docs

if TYPE_CHECKING:
    from argparse import ArgumentParser

ROOT = Path(__file__).resolve().parent.parent


def parser_of(name: str) -> ArgumentParser:
    return cli._parser([name])


@pytest.mark.parametrize("path", ["README.md", "docs/cli.md", "docs/packages.svg"])
def test_a_page_is_what_the_parsers_say(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert text == docs.pages(ROOT)[ROOT / path], "run ./dev docs"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_that_help_names_is_on_the_page(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser_of(name).parse_args([name, "--help"])
    named = {word.strip("[],") for word in capsys.readouterr().out.split() if word.strip("[],").startswith("--")}
    page = docs.cli_page()
    section = page[page.index(f"## `miaotui {name}") :].partition("\n## ")[0]
    if "As of `miaotui generate`" in section:
        section += page[page.index("### What to keep") :].partition("### The text")[0]
    of_its_own = {option for option in named if option.rstrip(".:;)") == option} - {"--help", "--debug"}
    assert len(of_its_own) > 1
    assert [option for option in sorted(of_its_own) if f"`{option}" not in section] == []


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_examples_are_understood(name: str) -> None:
    for example in cli.COMMANDS[name].examples:
        program, *words = shlex.split(example.partition(" < ")[0])
        assert (program, words[0]) == ("miaotui", name)
        assert parser_of(name).parse_args(words).command == name


def test_check_says_which_page_is_old_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    with pytest.raises(InputError, match="one pair"):
        docs.main([])
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("a\n<!-- commands: x -->\nold\n<!-- /commands -->\nb\n")
    assert docs.main(["--check"]) == 1
    assert capsys.readouterr().out.count("run ./dev docs") == 3
    assert not (tmp_path / "docs" / "cli.md").exists()
    assert docs.main([]) == 0
    assert docs.main(["--check"]) == 0
    text = (tmp_path / "README.md").read_text()
    assert text == f"a\n<!-- commands: x -->\n{docs.command_table()}<!-- /commands -->\nb\n"
