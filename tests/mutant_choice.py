"""Which tests may notice a mutant, the nearest first: by the lines that each test runs (`mutant_lines.py`).

Kernels run as machine code, so for them it is the kernels that a test asks for. Modules that only run in other
processes have the tests whose file imports them.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from mutants import Mutant

__all__ = ["Choice", "Told", "read_lines"]

#: Seconds that the imports of one more test file take.
FILE = 1.5
#: The part of the budget that tests of one file may take while others wait.
PART = 1 / 3
#: Cases of one test that are chosen while others wait.
CASES = 3


@dataclass(frozen=True)
class Told:
    """What a test took and ran: file -> lines, as bits; kernels by name."""

    seconds: float
    lines: Mapping[str, int]
    kernels: frozenset[str]


def read_lines(folder: Path) -> dict[str, Told]:
    """The tests that passed, by their ids; of two runs of a test the later counts."""
    told = {}
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime):
        for test, says in json.loads(path.read_text(encoding="utf-8")).items():
            lines = {file: int(bits, 16) for file, bits in says["lines"].items()}
            told[test] = Told(says["seconds"], lines, frozenset(says["kernels"]))
            if not says["passed"] or "\n" in test:
                del told[test]
    return told


@dataclass
class Choice:
    """Chooses for a tree at `root`. `kernels`: name -> file of its function."""

    root: Path
    tests: dict[str, Told]
    kernels: Mapping[str, str]
    _imports: dict[str, frozenset[str]] = field(default_factory=dict)

    def of(self, mutant: Mutant, budget: float, but: Collection[str] = ()) -> list[str]:
        """Ids of tests that take about `budget` seconds at most, by files, the nearest first; none of `but`."""
        kernels, left = self._kernels_of(mutant), self.tests.keys() - {*but}
        ranks = {test: rank for test in left if (rank := self._rank(mutant, test, kernels)) is not None}
        order = sorted(ranks, key=lambda test: (ranks[test], test))
        chosen, spent = dict[str, None](), 0.0
        files, functions = dict[str, float](), Counter[str]()
        for most, cases in ((PART * budget, CASES), (PART * budget, len(order)), (budget, len(order))):
            for test in order:
                file, function = test.partition("::")[0], test.partition("[")[0]
                cost = self.tests[test].seconds + (0 if file in files else FILE)
                used = files.get(file, 0.0)
                fits = spent + cost <= budget and used + cost <= most and functions[function] < cases
                if fits and test not in chosen:
                    chosen[test] = None
                    spent, files[file] = spent + cost, used + cost
                    functions[function] += 1
        rank_of = {file: at for at, file in enumerate(files)}
        return sorted(chosen, key=lambda test: rank_of[test.partition("::")[0]])

    def _rank(self, mutant: Mutant, test: str, kernels: tuple[frozenset[str], ...]) -> tuple[int, bool, float] | None:
        told = self.tests[test]
        lines = told.lines.get(mutant.file, 0)
        first, last = mutant.within or (0, 0)
        named, near, far = kernels
        folder, _, name = mutant.file.rpartition("/")
        imports, stem = self._imports_of(test.partition("::")[0]), name.removesuffix(".py")
        near_imports = mutant.file in imports or (mutant.within is None and f"{folder}/__init__.py" in imports)
        if lines >> mutant.line & 1 or told.kernels & named:
            tier = 0
        elif mutant.within is None and stem in re.split(r"\W+", test.partition("[")[2]):
            tier = 0  # a table that others read, of a test's case: [albert-vocab_size]
        elif (lines >> first & ((1 << (last - first + 1)) - 1) and first) or told.kernels & near:
            tier = 1
        elif lines or told.kernels & far:
            tier = 2
        elif near_imports:
            tier = 3
        else:
            return None
        return tier, not near_imports, (1 + len(told.lines)) * (0.05 + told.seconds)

    def _kernels_of(self, mutant: Mutant) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
        """Kernels that are the function, that lie in the module, and that are made of it."""
        names = {name.rstrip("_") for name in mutant.names}
        near = frozenset(name for name, file in self.kernels.items() if file == mutant.file)
        far = frozenset(name for name, file in self.kernels.items() if mutant.file in self._made_of[file])
        return near & names, near, far

    @cached_property
    def _made_of(self) -> dict[str, frozenset[str]]:
        """A kernel's file -> the files that it imports, and they."""
        return {file: frozenset(self._reached(file, set())) for file in set(self.kernels.values())}

    def _reached(self, file: str, seen: set[str]) -> set[str]:
        if file not in seen:
            seen.add(file)
            for other in self._imports_of(file):
                self._reached(other, seen)
        return seen

    def _imports_of(self, file: str) -> frozenset[str]:
        """Files of the package that a file imports, wherever in it."""
        if file not in self._imports:
            tree = ast.parse((self.root / file).read_text(encoding="utf-8"))
            found = set[str]()
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom):
                    parts = file.split("/")[: -node.level] if node.level else []
                    base = ".".join([*parts, *([node.module] if node.module else [])])
                    found |= {base, *(f"{base}.{name.name}" for name in node.names)}
                elif isinstance(node, ast.Import):
                    found |= {name.name for name in node.names}
            stems = [re.sub(r"^miaotui\.", "", name).replace(".", "/") for name in found]
            paths = [stem + end for stem in stems for end in (".py", "/__init__.py")]
            self._imports[file] = frozenset(path for path in paths if (self.root / path).is_file())
        return self._imports[file]
