"""Who imports whom, read from the sources: what the picture of the packages shows, and what the tests hold.

The graph has an edge from a module to every module that importing it runs: `from ..a.b import c` runs `a/__init__`,
`a/b`, and `a/b/c` where that is a module. What a package's own modules run of it, the `__init__` above them, is not an
edge: it has begun before they do, and needs nothing of them unless it imports them, which is an edge of its own.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FOLDERS", "Graph", "Name", "circles", "edges", "graph_of", "modules_of", "statements"]

FOLDERS = ("loader", "runtime", "tools")

Name = tuple[str, ...]
Graph = dict[Name, set[Name]]


def modules_of(root: Path) -> dict[Name, Path]:
    """Every module of the package whose folder is `root`: () is its own __init__."""
    paths = [*root.glob("*.py"), *(path for folder in FOLDERS for path in (root / folder).rglob("*.py"))]
    return {_name(path.relative_to(root)): path for path in sorted(paths)}


def graph_of(modules: dict[Name, Path]) -> Graph:
    """The edges of every module, late imports among them."""
    names = set(modules)
    trees = {me: ast.parse(path.read_text(encoding="utf-8")) for me, path in modules.items()}
    return {me: edges(me, tree, names, package=modules[me].name == "__init__.py") for me, tree in trees.items()}


def _name(path: Path) -> Name:
    """The dotted name's parts, relative to miaotui; a package's own for its __init__, () for the root's."""
    parts = path.with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def statements(tree: ast.AST) -> list[ast.stmt]:
    """Every import that may run: those inside functions too, not those under `if TYPE_CHECKING:`."""
    if isinstance(tree, ast.Import | ast.ImportFrom):
        return [tree]
    typing = isinstance(tree, ast.If) and ast.unparse(tree.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    inside = tree.orelse if isinstance(tree, ast.If) and typing else ast.iter_child_nodes(tree)
    return [statement for node in inside for statement in statements(node)]


def edges(me: Name, tree: ast.AST, modules: set[Name], *, package: bool) -> set[Name]:
    """Modules of ours that the file `me` imports."""
    out: set[Name] = set()
    for node in statements(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue  # imports of ours are relative: test_packaging holds that
        here = me if package else me[:-1]
        base = (*here[: len(here) - node.level + 1], *(node.module.split(".") if node.module else ()))
        out |= {(*base, alias.name) for alias in node.names if (*base, alias.name) in modules}
        if any((*base, alias.name) not in modules for alias in node.names):
            out.add(base)  # a name that the module itself defines
        # Every package on the way down runs; those that `me` lies in run already.
        out |= {base[:n] for n in range(1, len(base) + 1) if base[:n] in modules and base[:n] != me[:n]}
    return out - {me}


def circles(graph: Graph) -> list[list[Name]]:
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
