"""A template's syntax tree with the meter in it: a tick in every loop and macro, checks of what is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jinja2 import Environment

__all__ = ["CHECKED", "TICK", "Meters"]

#: Filters that these nodes name.
TICK, CHECKED = "_tick", "_checked"
#: What makes a value without a call: of others, joined or held.
_MAKERS = (nodes.Concat, nodes.List, nodes.Dict, nodes.Tuple)


class Meters(NodeTransformer):
    """Puts them in."""

    def __init__(self, environment: Environment) -> None:
        """Filters are looked up in this environment."""
        self._environment = environment

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:  # noqa: ANN401 - jinja2's
        """The node, or the one in its place."""
        self.generic_visit(node, *args, **kwargs)
        if isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock):
            node.body.insert(0, self._tick(node.body, node.lineno))
        if isinstance(node, nodes.For) and node.test is not None:
            node.test = nodes.And(self._filter(TICK, nodes.Const(1), node.lineno), node.test)
            node.test.set_environment(self._environment).set_lineno(node.lineno)
        stored = isinstance(node, nodes.Tuple) and node.ctx != "load"
        if isinstance(node, _MAKERS) and not stored:
            return self._filter(CHECKED, node, node.lineno)
        return node

    def _tick(self, body: Iterable[nodes.Node], line: int) -> nodes.ExprStmt:
        """What a turn costs: the text that it may write."""
        cost = sum(len(text.data) for node in body for text in _texts(node))
        made = nodes.ExprStmt(self._filter(TICK, nodes.Const(1 + cost), line), lineno=line)
        made.set_environment(self._environment)
        return made

    def _filter(self, name: str, node: nodes.Expr, line: int) -> nodes.Filter:
        made = nodes.Filter(node, name, [], [], None, None)
        made.set_environment(self._environment).set_lineno(line)
        return made


def _texts(node: nodes.Node) -> list[nodes.TemplateData]:
    inner = list(node.find_all(nodes.TemplateData))
    return [node, *inner] if isinstance(node, nodes.TemplateData) else inner
