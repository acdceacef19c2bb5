"""Interpreters in which no model can run are refused by name, before NumPy is imported."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest
from miaotui.errors import BackendError
from miaotui.interpreters import check_interpreter

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
