"""Pages that a command writes: they are what the parsers say, and the examples in them are understood."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from miaotui.errors import InputError
from miaotui.loader.families import FAMILIES
from miaotui.loader.prune.plan import PrunePlan
from miaotui.tools import cli, demo, docs, packages_picture

if TYPE_CHECKING:
    from argparse import ArgumentParser

ROOT = Path(__file__).resolve().parent.parent


def parser_of(name: str) -> ArgumentParser:
    return cli._parser([name])


@pytest.mark.parametrize("path", ["README.md", "README.zh.md", "docs/cli.md", "docs/packages.svg"])
def test_a_page_is_what_the_parsers_say(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert text == docs.pages(ROOT)[ROOT / path], "run ./dev docs"


@pytest.mark.parametrize("path", ["README.md", "README.zh.md"])
def test_the_table_of_families_has_each(path: str) -> None:
    """By the letters of its name alone; three are called otherwise there."""
    rows = [line for line in (ROOT / path).read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    there = re.sub("[^a-z]", "", "".join(rows).lower())
    short = {"hunyuan_v1_dense": "hunyuan", "xlm-roberta": "xlm-r", "blenderbot-small": "small"}
    names = (short.get(name, name.removesuffix("_text")) for name in FAMILIES)
    assert [name for name in names if re.sub("[^a-z]", "", name) not in there] == []


def test_no_arrow_between_the_packages_points_upwards(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = packages_picture.packages_picture(ROOT)
    arrows = [tuple(map(int, ends)) for ends in re.findall(r'class="arrow" d="M\d+,(\d+) V(\d+)"', picture)]
    assert arrows
    assert all(start < end for start, end in arrows)
    monkeypatch.setattr(packages_picture, "LOWEST", ("errors",))  # `once`, which the runtime imports, above it
    with pytest.raises(ValueError, match="imports point upwards"):
        packages_picture.packages_picture(ROOT)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_that_help_names_is_on_the_page(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser_of(name).parse_args([name, "--help"])
    named = {word.strip("[],") for word in capsys.readouterr().out.split() if word.strip("[],").startswith("--")}
    page = docs.cli_page()
    section = page[page.index(f"## `miaotui {name}") :].partition("\n## ")[0]
    for title, first in re.findall(r"^### ([^\n]+)\n\nThe same as for `miaotui (\w+)`, above", section, re.MULTILINE):
        there = page[page.index(f"## `miaotui {first}") :]
        section += there[there.index(f"### {title}\n") :].partition("\n### ")[0]
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


# README and README.zh.md


def pages_of_readme() -> tuple[str, str]:
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md"))
    table = re.compile(r"<!-- commands: .*?<!-- /commands -->\n", re.DOTALL)  # the Chinese page has its own
    return table.sub("", english), re.sub(r"\n## 命令\n\n\|.*?\n\n", "\n", chinese, flags=re.DOTALL)


def fenced(text: str) -> list[str]:
    """Lines of the code, without comments."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [re.sub(r"\s+# .*", "", line) for block in blocks for line in block.splitlines()]


def test_both_readmes_have_the_same_commands_figures_and_links() -> None:
    english, chinese = pages_of_readme()
    assert fenced(english) == fenced(chinese)
    assert len(fenced(english)) > 12
    for what in (r"\d+(?:\.\d+)*", r"`[^`\n]+`", r"\]\(([^)]+)\)", r"^> .*"):
        both = [re.findall(what, text, re.MULTILINE) for text in (english, chinese)]
        counts = [Counter(of) - Counter(["README.md", "README.zh.md"]) for of in both]
        assert counts[0] == counts[1]
    for command in cli.COMMANDS:
        assert f"| `miaotui {command}" in (ROOT / "README.zh.md").read_text(encoding="utf-8")


def test_the_readme_refuses_no_family_that_it_reads() -> None:
    for name, heading in (("README.md", "What it is not"), ("README.zh.md", "它不是什么")):
        text = (ROOT / name).read_text(encoding="utf-8")
        [section] = re.findall(rf"^## {heading}\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)
        words = {word.lower() for word in re.findall(r"[A-Za-z]{2,}", section)}
        assert not words & {re.split(r"[-_\d]", family)[0] for family in FAMILIES}, name


def test_the_readme_s_commands_are_understood() -> None:
    commands = [line for line in fenced(pages_of_readme()[0]) if line.startswith("miaotui ")]
    assert len(commands) >= 7
    for line in commands:
        _, *words = shlex.split(line)
        assert parser_of(words[0]).parse_args(words).command == words[0]


OTHER_PAGES = sorted(
    str(p.relative_to(ROOT)) for folder in ("docs", "tools/demo") for p in ROOT.glob(f"{folder}/**/*.md")
)


def test_the_other_pages_commands_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """With paths and names that stand for the reader's."""
    monkeypatch.chdir(ROOT)
    understood: Counter[str] = Counter()
    for page in OTHER_PAGES:
        for line in fenced((ROOT / page).read_text(encoding="utf-8")):
            if line.startswith("miaotui "):
                _, *words = shlex.split(re.split(r" [<>|] ", line)[0])
                assert parser_of(words[0]).parse_args(words).command == words[0], f"{page}: {line}"
                understood[page] += 1
    assert understood.keys() >= {f"docs/{name}.md" for name in ("chat", "cli", "evaluation", "pruning", "run")}
    assert understood["docs/examples/qa_evaluation/README.md"] == 1


@pytest.mark.parametrize(("page", "stands_for"), [("sessions", "path/or/hub-name"), ("chat", "path/to/a/chat/model")])
def test_the_python_of_a_page_runs_with_an_included_model(
    page: str, stands_for: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    assert stands_for in code
    code = code.replace(stands_for, str(demo.path("chat" if page == "chat" else "story")))
    exec(compile(code, f"docs/{page}.md", "exec"), {"text": "<|im_end|>"})  # noqa: S102 - it is our own page
    assert len(capsys.readouterr().out) > 20


def test_the_index_of_examples_has_each_with_its_picture() -> None:
    folder = ROOT / "docs" / "examples"
    index = (folder / "README.md").read_text(encoding="utf-8")
    names = {path.parent.name for path in folder.glob("*/README.md")}
    assert len(names) > 4
    assert set(re.findall(r"\]\((\w+)/README\.md\)", index)) == names
    assert set(re.findall(r"!\[[^\]]+\]\(\w+/(\w+)\.svg\)", index)) == names
    for name in names:
        assert (folder / name / f"{name}.svg").is_file()
        assert f"python docs/examples/{name}/{name}.py\n" in index


def test_the_readme_s_python_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = pages_of_readme()[0]
    [code] = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    [printed] = re.findall(r"^```text\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(code.splitlines()) == 6
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 - it is our own page
    assert capsys.readouterr().out == printed


def test_the_readme_s_story_is_the_command_s(capsys: pytest.CaptureFixture[str]) -> None:
    quoted = " ".join(line.removeprefix("> ") for line in pages_of_readme()[0].splitlines() if line.startswith("> "))
    assert cli.main(["generate", "Once upon a time"]) == 0
    assert capsys.readouterr().out == quoted + "\n"


@pytest.mark.parametrize("page", [*sorted(p.name for p in ROOT.glob("*.md")), *OTHER_PAGES])
def test_links_lead_to_files_that_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for path, _, heading in links:
        target = ((ROOT / page).parent / path) if path else ROOT / page
        assert target.exists(), f"{page}: {path}"
        if heading:
            titles = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, page


def test_every_key_of_a_plan_is_documented() -> None:
    text = (ROOT / "docs" / "plans.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in text.splitlines() if line[:3] == "| `")))
    assert told == {"format", "version", *(field.name for field in fields(PrunePlan))}
    examples = re.findall(r"^```json\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    one, two = (PrunePlan.from_dict(json.loads(example)) for example in examples)
    assert one.layers == (0, 1, 2, 5)
    assert two.encoder is not None
    assert two.encoder.layers == (0, 2, 3, 4, 5)
