"""The command line with closed, full or narrow standard streams, and with a cache that keeps nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import small, write_checkpoint
from miaotui.runtime.cpu import link

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="a shell and /dev/full are needed")


def shell(words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `miaotui` in a shell, with redirections."""
    line = f'"{sys.executable}" -m miaotui {words}'
    return subprocess.run(
        ["/bin/sh", "-c", line],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"MIAOTUI_QUIET": "1"} | env,
    )


def test_closed_streams_are_no_error(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m", small("llama"))
    generate = "generate Once --max-new-tokens 2"
    for words in (f"{generate} >&-", f"{generate} >&- 2>&-", f"{generate} --stats 2>&-", f"{generate} <&- >&- 2>&-",
                  f"quantize {tmp_path}/m {tmp_path}/q >&-", "generate --max-new-tokens 1 <&-"):  # fmt: skip
        done = shell(words)
        assert (done.returncode, done.stderr) == (0, ""), words
    assert (tmp_path / "q" / "model.safetensors").stat().st_size > 1000
    failed = shell("inspect /nowhere 2>&-")
    assert (failed.returncode, failed.stdout) == (1, "")  # the error is not written to another stream


def test_full_streams_are_one_line() -> None:
    done = shell("generate Once --max-new-tokens 2 >/dev/full")
    assert (done.returncode, done.stderr) == (1, "miaotui: error: standard output: No space left on device\n")
    for unbuffered in ("", "1"):
        assert shell("inspect /nowhere 2>/dev/full", PYTHONUNBUFFERED=unbuffered).returncode == 1


@pytest.mark.parametrize("words", ["--help", "--version", "prune --help"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_help_that_cannot_be_written_is_an_error(words: str, unbuffered: str) -> None:
    done = shell(f"{words} >/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (1, "miaotui: error: standard output: No space left on device\n")
    assert shell(f"{words} >&-").returncode == 0


def test_texts_are_utf_8_in_an_ascii_locale() -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:strict"}
    words = 'generate "Zoë said" --stop "é" --max-new-tokens 3'
    wanted, got = shell(words), shell(words, **ascii_only)
    assert (got.returncode, got.stderr) == (0, "")
    assert got.stdout == wanted.stdout.encode("ascii", "replace").decode()
    for path, shown in (("./né", "'./né'"), ("nämé", "'nämé'"), ("./n\udce9", "'./n\\udce9'")):
        failed = shell(f'inspect "{path}"', **ascii_only)
        assert failed.returncode == 1
        assert failed.stderr.startswith(f"miaotui: error: {shown}: no such directory")
        assert failed.stderr.count("\n") == 1
    missing = shell('generate x --vocab "日本"', **ascii_only)
    assert missing.stderr.startswith("miaotui: error: --vocab 日本: cannot be read")


def test_names_are_utf_8_in_an_ascii_locale(tmp_path: Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    write_checkpoint(tmp_path / "mó", small("llama"))
    told = shell(f'inspect "{tmp_path}/mó" --json', **ascii_only)
    assert json.loads(told.stdout)["name"] == "mó"
    assert shell(f'inspect "{tmp_path}/mó"', **ascii_only).stdout.startswith("mó: llama")


@pytest.mark.ci  # 10 s: it compiles what nobody has compiled here
def test_warm_says_where_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIAOTUI_CPU", "jit")  # what a package brings need not be kept
    (tmp_path / "file").write_text("x")
    write_checkpoint(tmp_path / "m", small("llama"))
    done = shell(f"warm --model {tmp_path}/m --threads 1", MIAOTUI_CACHE_DIR=str(tmp_path / "file"), MIAOTUI_QUIET="")
    assert done.returncode == 1
    assert done.stderr.startswith("miaotui: error: nothing is compiled, as it could not be kept: ")  # at once
    assert "set MIAOTUI_CACHE_DIR" in done.stderr
    if (ours := link.cache_directory()) is not None and ours.is_dir():
        shutil.copytree(ours, tmp_path / "cache" / "miaotui" / ours.name, ignore=shutil.ignore_patterns("rope*"))
    kept = shell(f"warm --model {tmp_path}/m --threads 1", MIAOTUI_CACHE_DIR=str(tmp_path / "cache"))
    assert kept.returncode == 0
    assert str(tmp_path / "cache") in kept.stdout
    assert list((tmp_path / "cache").rglob("rope*"))
    for folder in sorted((tmp_path / "cache").rglob("*")):
        folder.chmod(0o555 if folder.is_dir() else 0o444)
    again = shell(f"warm --model {tmp_path}/m --threads 1", MIAOTUI_CACHE_DIR=str(tmp_path / "cache"))
    assert again.returncode == 0, again.stderr  # nothing is missing: nobody need write
