"""Who imports whom: no circle, counting what is imported late; and argparse for commands alone.

The graph has an edge from a module to every module that importing it runs: `from ..a.b import c` runs `a/__init__`,
`a/b`, and `a/b/c` where that is a module. What a package's own modules run of it, the `__init__` above them, is not an
edge: it has begun before they do, and needs nothing of them unless it imports them, which is an edge of its own.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("loader", "runtime", "tools")
SOURCES = sorted([*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))])
#: Modules apart from `tools/commands` that are commands too: their `main` reads a command line.
SCRIPTS = ("tools.docs", "tools.bench", "tools.studies", "tools.demo", "tools.prune_plot", "tools.cli")

Name = tuple[str, ...]


def _name(path: Path) -> Name:
    """The dotted name's parts, relative to miaotui; a package's own for its __init__, () for the root's."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


MODULES = {_name(path): path for path in SOURCES}


def _statements(tree: ast.AST) -> list[ast.stmt]:
    """Every import that may run: those inside functions too, not those under `if TYPE_CHECKING:`."""
    if isinstance(tree, ast.Import | ast.ImportFrom):
        return [tree]
    typing = isinstance(tree, ast.If) and ast.unparse(tree.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    inside = tree.orelse if isinstance(tree, ast.If) and typing else ast.iter_child_nodes(tree)
    return [statement for node in inside for statement in _statements(node)]


def edges(me: Name, tree: ast.AST, modules: set[Name], *, package: bool) -> set[Name]:
    """Modules of ours that the file `me` imports."""
    got: set[Name] = set()
    for node in _statements(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue  # imports of ours are relative: test_packaging holds that
        here = me if package else me[:-1]
        base = (*here[: len(here) - node.level + 1], *(node.module.split(".") if node.module else ()))
        got |= {(*base, alias.name) for alias in node.names if (*base, alias.name) in modules}
        if any((*base, alias.name) not in modules for alias in node.names):
            got.add(base)  # a name that the module itself defines
        # Every package on the way down runs; those that `me` lies in run already.
        got |= {base[:n] for n in range(1, len(base) + 1) if base[:n] in modules and base[:n] != me[:n]}
    return got - {me}


def circles(graph: dict[Name, set[Name]]) -> list[list[Name]]:
    """The strongly connected components of more than one module: Tarjan 1972."""
    order: dict[Name, int] = {}
    low: dict[Name, int] = {}
    stack: list[Name] = []
    out: list[list[Name]] = []

    def visit(node: Name) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in order:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], order[other])
        if low[node] == order[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                out.append(sorted(stack[at:]))
            del stack[at:]

    for node in graph:
        if node not in order:
            visit(node)
    return out


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_the_import_graph_has_no_circle() -> None:
    names = set(MODULES)
    graph = {me: edges(me, _tree(path), names, package=path.name == "__init__.py") for me, path in MODULES.items()}
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
    tree, dotted = _tree(MODULES[me]), ".".join(me)
    script = any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)
    if me[:2] == ("tools", "commands") or (script and any(f"{dotted}.".startswith(f"{s}.") for s in SCRIPTS)):
        return
    absolute = {alias.name for node in _statements(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert "argparse" not in absolute, f"{dotted} is no command"
    reached = edges(me, tree, set(MODULES), package=MODULES[me].name == "__init__.py")
    commands = sorted(".".join(name) for name in reached if name[:2] == ("tools", "commands"))
    assert not commands, f"{dotted} is a library and imports {commands}: move what it needs out of the command"
