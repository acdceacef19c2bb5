"""Who imports whom: no circle, counting what is imported late; and argparse for commands alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from miaotui.tools.import_graph import Name, circles, edges, graph_of, modules_of, statements

ROOT = Path(__file__).resolve().parent.parent
MODULES = modules_of(ROOT)
#: Modules apart from `tools/commands` that are commands too: their `main` reads a command line.
SCRIPTS = ("tools.docs", "tools.bench", "tools.studies", "tools.demo", "tools.prune_plot", "tools.cli")


def test_the_import_graph_has_no_circle() -> None:
    graph = graph_of(MODULES)
    assert sum(map(len, graph.values())) > len(graph)  # the edges were seen
    told = [" <-> ".join(".".join(name) or "miaotui" for name in circle) for circle in circles(graph)]
    assert not told, "these modules import each other: move what they share to a module of its own\n" + "\n".join(told)


def test_late_imports_and_packages_count_and_typing_does_not() -> None:
    names: set[Name] = {(), ("a",), ("a", "b"), ("a", "c"), ("d",)}

    def of(me: Name, text: str, *, package: bool = False) -> set[Name]:
        return edges(me, ast.parse(text), names, package=package)

    assert of(("a", "b"), "def f():\n from .c import x") == {("a", "c")}
    assert of(("a", "b"), "if TYPE_CHECKING:\n from .c import x\nelse:\n from ..d import x") == {("d",)}
    assert of(("d",), "from .a.b import x") == {("a",), ("a", "b")}  # a/__init__ runs
    assert of(("a", "b"), "from . import c") == {("a", "c")}
    assert of(("a", "b"), "from . import thing") == {("a",)}
    assert of(("a",), "from .b import x", package=True) == {("a", "b")}
    assert circles({("a",): {("a", "b")}, ("a", "b"): {("d",)}, ("d",): set()}) == []
    assert circles({("a",): {("d",)}, ("a", "b"): {("a",)}, ("d",): {("a",)}}) == [[("a",), ("d",)]]


@pytest.mark.parametrize("me", sorted(MODULES), ids=lambda me: ".".join(me) or "miaotui")
def test_only_commands_import_argparse_and_libraries_import_no_command(me: Name) -> None:
    """Commands are `tools/cli`, `tools/commands` and the scripts of `SCRIPTS` that are run by `python -m`."""
    tree, dotted = ast.parse(MODULES[me].read_text(encoding="utf-8")), ".".join(me)
    script = any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)
    if me[:2] == ("tools", "commands") or (script and any(f"{dotted}.".startswith(f"{s}.") for s in SCRIPTS)):
        return
    absolute = {alias.name for node in statements(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert "argparse" not in absolute, f"{dotted} is no command"
    reached = edges(me, tree, set(MODULES), package=MODULES[me].name == "__init__.py")
    commands = sorted(".".join(name) for name in reached if name[:2] == ("tools", "commands"))
    assert not commands, f"{dotted} is a library and imports {commands}: move what it needs out of the command"
