"""The sanitizer's command, with a binary that says what we tell it to."""

from __future__ import annotations

import json
import stat
import sys

import pytest
from miaotui.errors import BackendError
from miaotui.tools.bench import sanitize

CLEAN = "========= COMPUTE-SANITIZER\n3 passed, 1 skipped in 2.00s\n========= ERROR SUMMARY: 0 errors\n"
RACES = "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
INVALID = """========= COMPUTE-SANITIZER
========= Invalid __global__ read of size 16 bytes
=========     at miaotui_linear_bf16+0x1a0
3 passed in 2.00s
========= ERROR SUMMARY: 2 errors
"""


@pytest.fixture
def fake(tmp_path):
    """A tool that writes down its words, and prints and ends as `says` wants for the tool."""
    binary, words = tmp_path / "compute-sanitizer", tmp_path / "words.json"

    def says(**answers):
        binary.write_text(
            f"#!{sys.executable}\n"
            "import json, pathlib, sys\n"
            f"words = pathlib.Path({str(words)!r})\n"
            "old = json.loads(words.read_text()) if words.exists() else []\n"
            "words.write_text(json.dumps([*old, sys.argv[1:]]))\n"
            f"text, status = {answers!r}[sys.argv[2]]\n"
            "print(text)\n"
            "sys.exit(status)\n",
            encoding="utf-8",
        )
        binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
        return str(binary), words

    return says


def test_every_tool_runs_the_gpu_tests(fake, capsys):
    binary, words = fake(memcheck=(CLEAN, 0), racecheck=("1 passed\n" + RACES, 0), synccheck=(CLEAN, 0))
    assert sanitize.main(["--binary", binary, "-k", "linear"]) == 0
    ran = json.loads(words.read_text(encoding="utf-8"))
    assert [w[1] for w in ran] == ["memcheck", "racecheck", "synccheck"]
    for w in ran:
        assert w[w.index("-m", w.index("pytest")) + 1] == "gpu"
        assert w[-2:] == ["-k", "linear"]
        assert "--error-exitcode" in w
    assert capsys.readouterr().out.count(": clean") == 3


def test_an_error_fails_and_is_shown(fake, capsys):
    binary, _ = fake(memcheck=(INVALID, sanitize.FOUND))
    assert sanitize.main(["--binary", binary, "--tool", "memcheck"]) == 1
    said = capsys.readouterr().out
    assert said.count("miaotui_linear_bf16") == 2  # as it came, and at the end
    assert "memcheck: 2 errors" in said


@pytest.mark.parametrize(
    ("text", "status", "clean"),
    [
        (CLEAN, 0, True),
        (CLEAN, 1, False),  # a test failed
        (INVALID, 0, False),
        ("2 passed\n========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)\n", 0, False),
        (CLEAN + INVALID, 0, False),  # two processes
    ],
)
def test_verdicts(text, status, clean):
    assert sanitize.read("memcheck", text, status).clean is clean


def test_no_summary_or_no_tests_is_no_verdict():
    with pytest.raises(BackendError, match=r"no summary.*cannot attach"):
        sanitize.read("memcheck", "cannot attach\n", 0)
    none = "SKIPPED [3] no NVIDIA GPU is visible\n3 skipped in 1s\n========= ERROR SUMMARY: 0 errors\n"
    with pytest.raises(BackendError, match=r"no test ran.*no NVIDIA GPU"):
        sanitize.read("racecheck", none, 0)


def test_no_binary_says_what_to_install(tmp_path, capsys, monkeypatch):
    assert sanitize.main(["--binary", str(tmp_path / "none")]) == 1
    assert "CUDA toolkit" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    (tmp_path / "bin").mkdir()
    with pytest.raises(BackendError, match="cuda-sanitizer"):
        sanitize.find(str(tmp_path / "bin" / "compute-sanitizer"))
    binary = tmp_path / "bin" / "compute-sanitizer"
    binary.write_text("#!/bin/sh\n", encoding="utf-8")
    binary.chmod(0o755)
    assert sanitize.find() == str(binary)


def test_outside_of_a_clone_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(sanitize, "TESTS", tmp_path / "tests")
    with pytest.raises(BackendError, match="clone"):
        sanitize.run("x", "memcheck", None)
