"""docs/architecture.md and docs/glossary.md: what they name is there, and calls what they say it calls."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from miaotui.runtime.cpu.link import KERNELS

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
LINE = re.compile(r"^(\d+)\. `([\w/]+\.py)` `([\w.]+)`(?: \((?:called by (\d+)|(by its address))\))?: ", re.MULTILINE)
#: Hops that each trace may have: half of what they were before records, pages and `prepare`.
MOST = {
    "From ids to text": 11,
    "An answer that is held to a form": 5,
    "From a drawn id to the next mask": 4,
    "One weight, from the header to a kernel": 14,
    "One plan, from": 11,
}


@dataclass(frozen=True)
class Hop:
    """A line of a trace."""

    number: int
    file: str
    function: str
    caller: int | None
    by_address: bool


def hops(title: str) -> list[Hop]:
    section = PAGE[PAGE.index(f"### {title}") :].partition("\n### ")[0]
    got = [Hop(int(n), f, name, int(c) if c else None, bool(a)) for n, f, name, c, a in LINE.findall(section)]
    assert [hop.number for hop in got] == list(range(1, len(got) + 1))
    assert len(got) == len(re.findall(r"^\d+\. ", section, re.MULTILINE)), "a line that is not understood"
    return got


def function(hop: Hop) -> ast.FunctionDef:
    body: list[ast.stmt] = ast.parse((ROOT / hop.file).read_text(encoding="utf-8")).body
    for name in hop.function.split("."):
        *_, node = (n for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == name)
        body = node.body
    assert isinstance(node, ast.FunctionDef)
    return node


def called(node: ast.FunctionDef) -> set[str]:
    """Names that a function calls; `self._run(...)` calls `run`, and a class calls its `__init__`."""
    made = [c.func for c in ast.walk(node) if isinstance(c, ast.Call)]
    names = {f.attr if isinstance(f, ast.Attribute) else f.id for f in made if isinstance(f, ast.Attribute | ast.Name)}
    return names | {name.lstrip("_") for name in names}


@pytest.mark.parametrize("title", MOST)
def test_every_function_of_a_trace_is_there_and_calls_the_next(title: str) -> None:
    trace = hops(title)
    assert 0 < len(trace) <= MOST[title]
    for before, hop in pairwise(trace):
        node, (owner, _, name) = function(hop), hop.function.rpartition(".")
        if hop.by_address:
            assert node.name in KERNELS
            continue
        caller = before if hop.caller is None else trace[hop.caller - 1]
        wanted = owner if name == "__init__" else name
        assert wanted in called(function(caller)), f"{caller.function} does not call {hop.function}"


def test_the_glossary_names_files_that_are_there() -> None:
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    places = re.findall(r"\| `([\w/.]+)` \|$", page, re.MULTILINE)
    assert len(places) > 20
    assert [p for p in places if not (ROOT / p).exists()] == []
    words = re.findall(r"^\| (\w[^|]*) \|", page, re.MULTILINE)[1:]
    assert words == sorted(words, key=str.lower)
