"""Interpreters in which no model can run are refused by name, before NumPy is imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import miaotui
import pytest
from miaotui.errors import BackendError
from miaotui.interpreters import check_interpreter

DEMO = Path(miaotui.__file__).parent / "tools" / "demo" / "model"

#: In a process of its own: what a sub-interpreter says to an import, and to each public name that needs NumPy.
CHILD = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
code = f'''
import sys
sys.path[:] = {sys.path!r}
import miaotui
from miaotui.errors import MiaotuiError
for name in ("load", "Model", "Sequence", "GenerateParams"):
    try:
        getattr(miaotui, name)
    except MiaotuiError as e:
        print(type(e).__name__, e)
try:
    miaotui.no_such_name
except AttributeError:
    print("AttributeError")
assert "numpy" not in sys.modules
sys.stdout.flush()
'''
interpreters.run_string(interpreters.create(), code)
import miaotui
miaotui.load
print("the main one goes on")
"""


@pytest.mark.skipif(
    not any(find_spec(name) for name in ("_interpreters", "_xxsubinterpreters")), reason="no sub-interpreters here"
)
def test_a_sub_interpreter_is_refused() -> None:
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=False, timeout=60)
    lines = done.stdout.splitlines()
    assert lines[4:] == ["AttributeError", "the main one goes on"], done.stdout + done.stderr
    assert all(line.startswith("BackendError this is a sub-interpreter") for line in lines[:4]), lines
    assert "WSGIApplicationGroup %{GLOBAL}" in lines[0]


@pytest.mark.parametrize("enabled", [True, False])
def test_a_free_threaded_build_is_refused(monkeypatch: pytest.MonkeyPatch, enabled: bool) -> None:  # noqa: FBT001
    """Also where its lock is switched on (PYTHON_GIL=1): an extension is then compiled for another interface."""
    monkeypatch.setattr(sys, "abiflags", "t", raising=False)
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: enabled, raising=False)
    with pytest.raises(BackendError, match=r"free-threaded build.*use the usual build"):
        check_interpreter()


def test_the_interpreter_of_the_tests_is_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    check_interpreter()
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: True, raising=False)  # as Python 3.13 has it
    check_interpreter()


#: In forks of a process that has imported the façade alone: a "handler" loads a model as the n-th module is looked for.
INTERRUPTED = """
import os
import sys
import miaotui
from miaotui.errors import MiaotuiError
import miaotui.interpreters

def said(path, at):
    answers, looked = [], []

    class Handler:
        def find_spec(self, name, path_of_package=None, target=None):
            if not answers:
                looked.append(name)
            if at in (name, str(len(looked))) and not answers:
                answers.append("loads")
                try:
                    miaotui.load(path).close()
                except MiaotuiError as e:
                    answers.append(f"{type(e).__name__}: {e}")
                else:
                    answers.append("loaded")

    sys.meta_path.insert(0, Handler())
    with miaotui.load(path) as model:
        answers.append(model.generate("Once", max_new_tokens=4).text)
    return answers[1:] or looked

for at in sys.argv[2:]:
    if pid := os.fork():
        _, status = os.waitpid(pid, 0)
        if status:
            print("it ended with", status)
    else:
        print(said(sys.argv[1], at), flush=True)
        os._exit(0)
"""


def interrupted(*at: str) -> list[list[str]]:
    """What the handler was answered and the text, per name or number of a module; without it, what is looked for."""
    command = [sys.executable, "-c", INTERRUPTED, str(DEMO), *at]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    lines: list[list[str]] = [ast.literal_eval(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(at), done.stdout + done.stderr
    return lines


@pytest.mark.ci
def test_a_handler_that_loads_while_the_first_load_imports_is_told() -> None:
    [names] = interrupted("never")
    assert len(set(names)) > 200
    lines = interrupted(*(str(1 + len(names) * i // 7) for i in range(7)), "miaotui.loader.families.rope")
    assert all(len(line) == 2 for line in lines), lines
    assert {text for _, text in lines} == {" upon a time,"}
    partial = [answer for answer, _ in lines if answer != "loaded"]
    assert len(partial) >= 4, lines
    assert all(answer.startswith("BackendError: miaotui is called while the same thread is") for answer in partial)
