"""One-line changes of our own modules, which some test should notice: `mutant_run.py` asks which does.

A mutant changes one line in one place. What is changed: comparisons, arithmetic, `and`, `or`, `not`, signs, numbers,
`True` and `False`, conditions, `min` and `max`, what is returned, `break` and `continue`, and statements that raise,
call, or assign to an attribute or item. What is not: texts, annotations, decorators, assertions, imports and `__all__`.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

__all__ = ["Mutant", "mutants_of", "sample"]

COMPARED = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}  # fmt: skip
COMPUTED = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "+"), ast.Div: ("/", "*"), ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"), ast.Pow: ("**", "*"), ast.LShift: ("<<", ">>"), ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"), ast.BitXor: ("^", "|"), ast.MatMult: ("@", "*"),
}  # fmt: skip
CALLED = {
    "min": "max", "max": "min", "any": "all", "all": "any", "minimum": "maximum", "maximum": "minimum",
    "ceil": "floor", "floor": "ceil", "argmax": "argmin", "argmin": "argmax",
}  # fmt: skip
#: A variable that holds an error's text, by custom of this project.
TEXT = "msg"


@dataclass(frozen=True)
class Mutant:
    """`line` (from 1) of `file` reads `after` where it read `before`; it lies in a function of the lines `within`."""

    file: str
    line: int
    what: str
    before: str
    after: str
    within: tuple[int, int] | None = None
    names: tuple[str, ...] = ()  # of the functions around it, the outermost first

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.before.strip()}  ->  {self.after.strip()}"

    def apply(self, text: str) -> str:
        """The module with this change. ValueError: the line is another one."""
        lines = text.split("\n")
        if lines[self.line - 1] != self.before:
            msg = f"{self.file}:{self.line}: {lines[self.line - 1]!r}, expected {self.before!r}"
            raise ValueError(msg)
        lines[self.line - 1] = self.after
        return "\n".join(lines)


def mutants_of(text: str, file: str) -> list[Mutant]:
    """Every mutant of a module, by line. Each parses, and as something else than the module."""
    return [mutant for mutant in _found(text, file) if _differs(mutant, text)]


def sample(root: Path, files: Sequence[str], n: int, seed: int) -> list[Mutant]:
    """`n` lines at equal distances, from a place that the seed draws, among all that can be changed; a change of each.

    So a module has mutants by its size, and each line is as likely as any other.
    """
    random = Random(seed)  # noqa: S311 - which are drawn is no secret
    texts = {file: (root / file).read_text(encoding="utf-8") for file in files}
    found = [mutant for file, text in texts.items() for mutant in _found(text, file)]
    lines = [list(group) for _, group in groupby(found, key=lambda m: (m.file, m.line))]
    n, start = min(n, len(lines)), random.random()
    chosen = list[Mutant]()
    for i in range(n):
        line = lines[int((i + start) * len(lines) / n)]
        random.shuffle(line)
        chosen += next(([mutant] for mutant in line if _differs(mutant, texts[mutant.file])), [])
    return chosen


def _found(text: str, file: str) -> list[Mutant]:
    """Mutants by line; a few of them may not parse, or change nothing."""
    finder = _Finder(text, file)
    finder.visit(ast.parse(text))
    return sorted(finder.mutants, key=lambda m: (m.line, m.what, m.after))


@lru_cache(1)
def _tree(text: str) -> str:
    return ast.dump(ast.parse(text))


def _differs(mutant: Mutant, text: str) -> bool:
    try:
        return ast.dump(ast.parse(mutant.apply(text))) != _tree(text)
    except SyntaxError:
        return False


class _Finder(ast.NodeVisitor):
    """Walks a module and notes `mutants`."""

    def __init__(self, text: str, file: str) -> None:
        self.file, self.lines, self.mutants = file, text.split("\n"), list[Mutant]()
        self.around = list[ast.FunctionDef | ast.AsyncFunctionDef]()

    def note(self, what: str, line: int, start: int, end: int, new: str) -> None:
        """In this line, UTF-8 bytes from `start` to `end` become `new`."""
        before = self.lines[line - 1]
        data = before.encode()
        after = (data[:start] + new.encode() + data[end:]).decode()
        outer = self.around[0] if self.around else None
        within = None if outer is None else (outer.lineno, outer.end_lineno or outer.lineno)
        names = tuple(f.name for f in self.around)
        self.mutants.append(Mutant(self.file, line, what, before, after, within, names))

    def instead(self, what: str, node: ast.expr | ast.stmt, new: str | Callable[[str], str]) -> None:
        """Write something else for a node, if it stands in one line; a function is given what it reads now."""
        if node.lineno == node.end_lineno and node.end_col_offset is not None:
            old = self.lines[node.lineno - 1].encode()[node.col_offset : node.end_col_offset].decode()
            word = new if isinstance(new, str) else new(old)
            self.note(what, node.lineno, node.col_offset, node.end_col_offset, word)

    def between(self, what: str, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        """Write another operator between two operands, if no line ends between them."""
        if left.end_lineno == right.lineno and left.end_col_offset is not None:
            gap = self.lines[right.lineno - 1].encode()[left.end_col_offset : right.col_offset].decode()
            if found := re.fullmatch(rf"([\s)]*)({re.escape(old)})([\s(]*)", gap):
                start = left.end_col_offset + len(found[1].encode())
                self.note(what, right.lineno, start, start + len(found[2].encode()), new)

    # What is walked, and what is not.

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.around.append(node)
        for part in (*node.args.defaults, *node.args.kw_defaults, *node.body):
            if part is not None:
                self.visit(part)
        self.around.pop()

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - the name is Python's

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.body)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in node.body:
            self.visit(part)

    def visit_Import(self, node: ast.Import) -> None: ...
    def visit_ImportFrom(self, node: ast.ImportFrom) -> None: ...
    def visit_Assert(self, node: ast.Assert) -> None: ...
    def visit_JoinedStr(self, node: ast.JoinedStr) -> None: ...

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None and "TypeAlias" not in ast.dump(node.annotation):
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        names = {target.id for target in node.targets if isinstance(target, ast.Name)}
        if not names & {"__all__", "__slots__", TEXT}:
            if self.around and not names and not isinstance(node.targets[0], ast.Tuple):
                self.instead("statement removed", node, "pass")
            self.generic_visit(node)

    # What is changed.

    def visit_Compare(self, node: ast.Compare) -> None:
        for op, (left, right) in zip(node.ops, pairwise([node.left, *node.comparators]), strict=True):
            self.between("comparison", left, right, *COMPARED[type(op)])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if not any(isinstance(side, ast.JoinedStr) or _is_text(side) for side in (node.left, node.right)):
            self.between("arithmetic", node.left, node.right, *COMPUTED[type(node.op)])
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        old, new = COMPUTED[type(node.op)]
        if node.target.end_lineno == node.value.lineno and node.target.end_col_offset is not None:
            start = node.target.end_col_offset
            gap = self.lines[node.value.lineno - 1].encode()[start : node.value.col_offset].decode()
            at = gap.index(old)
            self.note("arithmetic", node.value.lineno, start + at, start + at + len(old), new)
        self.visit(node.value)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in pairwise(node.values):
            self.between("and, or", left, right, old, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.USub | ast.Invert) and node.lineno == node.operand.lineno:
            self.note("not, sign", node.lineno, node.col_offset, node.operand.col_offset, " ")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.instead("True, False", node, str(not value))
        elif isinstance(value, int):
            self.instead("number", node, lambda old: f"{old} + 1" if not old.isdecimal() else str(value + 1))
            if value > 1:
                self.instead("number", node, lambda old: f"({old} - 1)" if not old.isdecimal() else str(value - 1))
        elif isinstance(value, float) and value == value and abs(value) != float("inf"):  # noqa: PLR0124 - no NaN
            self.instead("number", node, repr(value * 2 if value else 1.0))

    def visit_If(self, node: ast.If | ast.While | ast.IfExp) -> None:
        if "TYPE_CHECKING" in ast.dump(node.test):
            return
        self.instead("condition", node.test, lambda old: f"not ({old})")
        self.generic_visit(node)

    visit_While = visit_If  # noqa: N815 - the name is Python's
    visit_IfExp = visit_If  # noqa: N815 - the name is Python's

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self.instead("condition", test, lambda old: f"not ({old})")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in CALLED and node.func.end_col_offset is not None:
            line, end = node.func.end_lineno or 0, node.func.end_col_offset
            self.note("min, max", line, end - len(name), end, CALLED[name])
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self.instead("statement removed", node, "pass")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self.instead("statement removed", node, "pass")

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self.instead("return", node, "return None")
            self.generic_visit(node)

    def visit_Break(self, node: ast.Break) -> None:
        self.instead("break, continue", node, "continue")

    def visit_Continue(self, node: ast.Continue) -> None:
        self.instead("break, continue", node, "break")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)


def modules(root: Path, packages: Sequence[str]) -> Iterator[str]:
    """Files of packages, in the order of their names."""
    for package in packages:
        yield from sorted(str(path.relative_to(root)) for path in (root / package).rglob("*.py"))
