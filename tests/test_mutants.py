"""Mutants of a made-up module are what is expected; one is killed, one survives. `./dev soak mutants` makes ours."""

from __future__ import annotations

import ast
import json
from typing import TYPE_CHECKING

import pytest
import soak
from hypothesis import given, settings
from hypothesis import strategies as st
from mutant_choice import Choice, Told, read_lines
from mutant_run import LINES, NOT_RUN, PACKAGES, ROOT, SLOW, Outcome, Tree, collect, many, report, run
from mutants import Mutant, modules, mutants_of, sample

if TYPE_CHECKING:
    from pathlib import Path

SMALL = '''\
"""A module that is 3 lines long."""

from __future__ import annotations

__all__ = ["f"]

LIMIT: int = 4


def f(x: list[int], n: int = 1) -> int | None:
    """No 5."""
    if len(x) < n and not x:
        msg = f"{n + 1} or " + "more"
        raise ValueError(msg)
    x.append(-n)
    return max(x)
'''
EXPECTED = [
    ("number", 7, "LIMIT: int = 5"),
    ("number", 7, "LIMIT: int = 3"),
    ("number", 10, "def f(x: list[int], n: int = 2) -> int | None:"),
    ("and, or", 12, "if len(x) < n or not x:"),
    ("comparison", 12, "if len(x) <= n and not x:"),
    ("condition", 12, "if not (len(x) < n and not x):"),
    ("not, sign", 12, "if len(x) < n and  x:"),
    ("statement removed", 14, "pass"),
    ("not, sign", 15, "x.append( n)"),
    ("statement removed", 15, "pass"),
    ("min, max", 16, "return min(x)"),
    ("return", 16, "return None"),
]


def test_mutants_of_a_small_module() -> None:
    got = mutants_of(SMALL, "small.py")
    assert sorted((m.what, m.line, m.after.strip()) for m in got) == sorted(EXPECTED)
    assert {m.within for m in got} == {None, (10, 16)}


@pytest.mark.parametrize("file", ["runtime/left.py", "runtime/cpu/kernels/flushing.py", "loader/pieces.py"])
def test_each_changes_one_line_of_ours_and_parses(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    found = mutants_of(text, file)
    assert len(found) > 10
    assert len({(m.line, m.after) for m in found}) > 0.95 * len(found)  # two ways may come to the same
    for mutant in found:
        mutated = mutant.apply(text).split("\n")
        differing = [n for n, (a, b) in enumerate(zip(text.split("\n"), mutated, strict=True), 1) if a != b]
        assert differing == [mutant.line]
        ast.parse("\n".join(mutated))
    with pytest.raises(ValueError, match=rf"{file}:{found[0].line}: .*expected"):
        found[0].apply("\n" * 1000)


@settings(max_examples=8)  # each parses the modules
@given(n=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_a_sample_is_spread_over_the_lines_and_repeated_by_its_seed(n: int, seed: int) -> None:
    files = ["runtime/left.py", "runtime/floats.py", "loader/pieces.py"]
    got = sample(ROOT, files, n, seed)
    assert got == sample(ROOT, files, n, seed)
    assert n - 2 <= len(got) <= n  # of a line nothing may parse
    assert len({(m.file, m.line) for m in got}) == len(got)
    if n > 6:
        assert {m.file for m in got} == {*files}


def test_ours_are_all_modules_but_those_of_the_gpu() -> None:
    files = [*modules(ROOT, PACKAGES)]
    assert {"runtime/generate.py", "runtime/cpu/kernels/linear.py", "loader/prune/plan.py"} <= {*files}
    assert files == sorted(set(files), key=files.index)


@pytest.fixture
def small(tmp_path: Path) -> tuple[Tree, Choice]:
    """A package of one module, with a test of it and one that fails, as it is."""
    root = tmp_path / "root"
    for name, text in {
        "__init__.py": "",
        "runtime/__init__.py": "",
        "runtime/small.py": SMALL,
        "tests/test_far.py": "import miaotui\n\ndef test_nothing(): ...\n",
        "tests/test_small.py": "from miaotui.runtime.small import f\n\ndef test_f(): assert f([3, 4], 2) == 4\n",
        "tests/test_slow.py": "import miaotui.runtime.small\n\ndef test_endless():\n    while True: ...\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    tree = Tree(root, tmp_path / "at")
    ran = sum(1 << line for line in (12, 15, 16))
    tests = {
        "tests/test_far.py::test_nothing": Told(0.1, {}, frozenset()),
        "tests/test_small.py::test_f": Told(0.1, {"runtime/small.py": ran}, frozenset()),
        "tests/test_slow.py::test_endless": Told(90.0, {"runtime/small.py": ran}, frozenset()),
    }
    return tree, Choice(tree.plain, tests, {})


def test_one_is_killed_and_one_survives_and_the_tree_is_as_it_was(small: tuple[Tree, Choice]) -> None:
    tree, choice = small
    killed, survivor = (
        next(m for m in mutants_of(SMALL, "runtime/small.py") if m.after.strip() == after)
        for after in ("return min(x)", "def f(x: list[int], n: int = 2) -> int | None:")
    )
    first, second = (run(tree, choice, mutant, [10.0, 20.0]) for mutant in (killed, survivor))
    assert (first.outcome, first.by) == ("killed", "tests/test_small.py::test_f")
    assert (second.outcome, second.by, second.tests) == ("survived", "", 1)
    assert (tree.plain / "runtime" / "small.py").read_text() == SMALL
    told = report([first, second])
    assert told["all"] == {"mutants": 2, "killed": 1, "survived": 1, "score": 50.0}
    assert told["packages"] == {"runtime": told["all"]} == {"runtime": told["modules"]["runtime/small.py"]}
    assert told["survivors"] == [f"runtime/small.py:10: {survivor.before}  ->  {survivor.after}"]
    assert json.loads(json.dumps(told))["mutants"][0]["before"] == "    return max(x)"


def test_a_run_that_takes_too_long_ends(small: tuple[Tree, Choice]) -> None:
    tree, _ = small
    [mutant, *_] = mutants_of(SMALL, "runtime/small.py")
    assert tree.run(mutant, ["tests/test_slow.py::test_endless"], 1.5)[0] is None


def test_the_nearest_are_first_and_none_is_beyond_the_budget(small: tuple[Tree, Choice]) -> None:
    tree, _ = small
    line, other = 1 << 12, 1 << 14

    def told(seconds: float, ran: int, *more: str) -> Told:
        return Told(seconds, {"runtime/small.py": ran, **dict.fromkeys(more, 1)}, frozenset())

    tests = {
        "tests/test_far.py::elsewhere": told(0.1, 1 << 2),
        "tests/test_far.py::same_function": told(0.1, other),
        "tests/test_far.py::long": told(30, line),
        "tests/test_small.py::much": told(0.2, line, "a.py", "b.py", "c.py"),
        "tests/test_small.py::little": told(0.1, line),
    }
    mutant = Mutant("runtime/small.py", 12, "", "", "", (10, 16), ("f",))
    choice = Choice(tree.plain, tests, {})
    chosen = choice.of(mutant, 12)
    assert chosen == [f"tests/{t}" for t in ("test_small.py::little", "test_small.py::much",
                                             "test_far.py::same_function", "test_far.py::elsewhere")]  # fmt: skip
    assert choice.of(mutant, 100, but=chosen) == ["tests/test_far.py::long"]
    module = Mutant("runtime/small.py", 7, "", "", "")
    assert len(choice.of(module, 12)) == 4


def test_kernels_have_the_tests_that_ask_for_them() -> None:
    kernels = {"rms_norm": "runtime/cpu/kernels/norm.py", "rope": "runtime/cpu/kernels/elementwise.py"}
    tests = {f"tests/test_ops.py::{name}": Told(1, {}, frozenset({name})) for name in kernels}
    choice = Choice(ROOT, tests, kernels)
    norm = Mutant("runtime/cpu/kernels/norm.py", 9, "", "", "", (8, 20), ("rms_norm",))
    assert choice.of(norm, 10) == ["tests/test_ops.py::rms_norm"]
    lanes = Mutant("runtime/cpu/lanes.py", 9, "", "", "", (8, 20), ("add",))
    assert {*choice.of(lanes, 10)} == {*tests}


def test_lines_of_tests_that_failed_are_not_taken(tmp_path: Path) -> None:
    told = {"seconds": 1, "passed": True, "lines": {"a.py": "6"}, "kernels": []}
    (tmp_path / "1.json").write_text(json.dumps({"good": told, "bad": told | {"passed": False}, "a\nb": told}))
    assert read_lines(tmp_path) == {"good": Told(1, {"a.py": 0b110}, frozenset())}


@pytest.mark.soak("mutants")
def test_a_few_of_our_own(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Says which were killed, module by module, and the survivors; these are for a person to judge."""
    if not any(LINES.glob("*.json")):
        assert collect([]) in (0, 1)  # some test may fail that is followed
    tree = Tree(ROOT, tmp_path)
    told = read_lines(LINES)
    there, kernels = tree.prepare(told)
    choice = Choice(tree.plain, {test: told[test] for test in there}, kernels)
    files = [file for file in modules(tree.plain, PACKAGES) if not file.startswith(SLOW)]
    seed = int(request.config.getoption("--hypothesis-seed") or 0)
    mutants = sample(tree.plain, files, 16, seed)
    for outcome in many(tree, choice, [Outcome(mutant, NOT_RUN, "", 0, 0.0) for mutant in mutants], minutes=60):
        soak.count(outcome.outcome)
        soak.count(f"{outcome.mutant.file}: {outcome.outcome}")
        if not outcome.killed:
            soak.count(f"survived: {outcome.mutant}")
