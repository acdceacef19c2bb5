"""How compiled code comes to be there: kept, checked, loaded without Numba, compiled again where anything is amiss."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import llvmlite.binding as llvm
import miaotui
import pytest
from helpers import slow_kernels
from miaotui.runtime.cpu import build, cache, link, object_files, target
from miaotui.runtime.cpu.kernels import KERNELS
from miaotui.runtime.cpu.object_files import undefined
from miaotui.tools import demo

if TYPE_CHECKING:
    from pathlib import Path

CHILD = """
import sys, hashlib, miaotui
with miaotui.load(sys.argv[1], threads=2) as model:
    print(hashlib.sha256(model.logits([1, 5, 9, 2]).tobytes()).hexdigest())
print("numba" in sys.modules)
"""
#: It compiles three kernels, where nobody has.
FEW = "from miaotui.runtime.cpu import link; link.addresses(['rope', 'embed_bf16', 'take_rows'])"


def ran(cache_directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh Python, which has run."""
    here = os.environ | {"MIAOTUI_CACHE_DIR": str(cache_directory), "MIAOTUI_QUIET": "", "MIAOTUI_CPU": "jit"}
    here |= environment
    command = [sys.executable, "-c", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=here)
    assert done.returncode == 0, done.stderr
    return done


def start(cache_directory: Path, **environment: str) -> SimpleNamespace:
    """Logits' digest, whether Numba was imported, and what was said, of a fresh process."""
    done = ran(cache_directory, CHILD, str(demo.path()), **environment)
    digest, numba = done.stdout.split()
    return SimpleNamespace(digest=digest, numba=numba == "True", said=done.stderr)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A directory in which a start has left its code, and the logits' digest."""
    path = slow_kernels(tmp_path_factory.mktemp("filled"))
    first = start(path)
    assert "compiling for this CPU, once" in first.said
    return path, first.digest


@pytest.fixture
def copied(filled: tuple[Path, str], tmp_path: Path) -> Path:
    shutil.copytree(filled[0], tmp_path / "cache")
    return tmp_path / "cache"


def code_files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.code"))


def test_a_warm_start_leaves_numba_alone(filled: tuple[Path, str]) -> None:
    path, digest = filled
    warm = start(path)
    assert (warm.digest, warm.numba, warm.said) == (digest, False, "")


def test_the_executor_of_numba_gives_the_same(filled: tuple[Path, str]) -> None:
    path, digest = filled
    other = start(path, MIAOTUI_EXECUTOR="prange")
    assert (other.digest, other.numba, other.said) == (digest, True, "")


@pytest.mark.ci  # 11 s
@pytest.mark.parametrize("damage", ["cut", "empty", "one bit of the seal", "one bit of the code", "another's"])
def test_damaged_code_is_compiled_again_and_only_that(copied: Path, filled: tuple[Path, str], damage: str) -> None:
    *_, before, last = code_files(copied)
    data, bad = last.read_bytes(), bytearray(last.read_bytes())
    bad[{"one bit of the seal": 5}.get(damage, len(data) // 2)] ^= 4
    last.write_bytes({"cut": data[:100], "empty": b"", "another's": before.read_bytes()}.get(damage, bytes(bad)))
    again = start(copied)
    assert again.digest == filled[1]
    assert "compiled 1 kernel " in again.said
    assert cache.read(last.parent, last.stem)
    assert start(copied).said == ""


@pytest.mark.ci  # 8 s
def test_code_under_another_key_is_not_looked_at(copied: Path, filled: tuple[Path, str]) -> None:
    """Files of another version, even in the place of ours, do not match: the key is in the seal."""
    (directory,) = (copied / "miaotui").iterdir()
    assert directory.name == target.code_key()
    assert "compiling" in ran(copied, FEW, NUMBA_CPU_NAME="generic").stderr
    (generic,) = (d for d in (copied / "miaotui").iterdir() if d != directory)
    for file in generic.iterdir():
        shutil.copy(file, directory)
    again = start(copied)
    assert again.digest == filled[1]
    assert f"compiled {len(code_files(generic))} kernels" in again.said


def test_the_key_is_the_same_with_and_without_numba_and_follows_the_cpu() -> None:
    script = "import sys, {} as _\nfrom miaotui.runtime.cpu.target import code_key; print(code_key())"
    keys = set()
    for change in ({}, {"NUMBA_CPU_NAME": "generic"}, {"NUMBA_CPU_FEATURES": "+avx"}, {"NUMBA_OPT": "2"}):
        got = {
            subprocess.run(
                [sys.executable, "-c", script.format(module)],
                capture_output=True, text=True, check=True, env=os.environ | change,
            ).stdout
            for module in ("numba", "os")
        }  # fmt: skip
        assert len(got) == 1, change
        keys |= got
    assert len(keys) == 4


@pytest.mark.ci  # 10 s
def test_several_processes_may_start_at_once(filled: tuple[Path, str], tmp_path: Path) -> None:
    slow_kernels(tmp_path)
    here = os.environ | {"MIAOTUI_CACHE_DIR": str(tmp_path), "MIAOTUI_CPU": "jit"}
    command = [sys.executable, "-c", CHILD, demo.path()]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=here) for _ in range(3)]
    digests = {process.communicate(timeout=300)[0].split()[0] for process in started}
    assert [process.returncode for process in started] == [0, 0, 0]
    assert digests == {filled[1]}
    warm = start(tmp_path)
    assert (warm.numba, warm.said) == (False, "")
    assert not list(tmp_path.rglob(".draft*"))


def test_a_cache_that_cannot_be_written_is_read_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    there = ran(tmp_path / "file", FEW)  # a file, in which no directory can be made, for root neither
    assert there.stderr.count("compiling") == 1
    assert "cannot be written" in there.stderr
    assert (tmp_path / "file").read_text() == ""


def made_object(name: str, calls: str) -> bytes:
    """An object whose entry calls a function that some process may have."""
    module = llvm.parse_assembly(
        f"declare i32 @{calls}()\n"
        f"define void @miaotui_{name}() {{\n %r = call i32 @{calls}()\n ret void\n}}\n"
    )  # fmt: skip
    object_files._initialised()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(jit=True)
    return machine.emit_object(module)


def test_code_that_calls_what_is_not_there_is_never_loaded(tmp_path: Path) -> None:
    there, absent = made_object("add", "sched_yield"), made_object("add", "no_such_function_anywhere")
    assert undefined(there) == ["sched_yield"]
    assert object_files.load(there, "add") is not None
    assert object_files.load(there, "argmax") is None  # another's entry
    assert object_files.load(absent, "add") is None
    assert object_files.load(b"\x7fELF\x02\x01", "add") is None
    assert object_files.load(b"MZ", "add") is None
    assert cache.write(tmp_path, "add", absent)
    assert object_files.kept(tmp_path, "add") is None
    assert build.build(["add"], tmp_path)["add"] != 0
    assert undefined(cache.read(tmp_path, "add") or b"") == []  # and what could not be loaded was replaced


def test_kernels_need_nothing_of_numba_s(filled: tuple[Path, str]) -> None:
    (directory,) = (filled[0] / "miaotui").iterdir()
    needed = {n for file in directory.iterdir() for n in undefined(cache.read(directory, file.stem) or b"")}
    team = {
        "clock_gettime",
        "pthread_create",
        "pthread_getcpuclockid",
        "pthread_join",
        "pthread_self",
        "sched_yield",
        "sem_destroy",
        "sem_init",
        "sem_post",
        "sem_wait",
        "usleep",
    }
    assert needed <= {*team, "memset", "memcpy", "memmove"}


def test_an_unknown_numba_compiles_for_this_process_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                           capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    from miaotui.runtime.cpu import emit

    def moved(name: str) -> bytes:
        raise AttributeError(name)

    monkeypatch.setattr(emit, "object_code", moved)
    monkeypatch.delenv("MIAOTUI_QUIET", raising=False)
    assert build.build(["take_rows"], tmp_path)["take_rows"] != 0
    assert "cannot be kept" in capsys.readouterr().err
    assert cache.read(tmp_path, "take_rows") is None


def test_without_workers_everything_is_compiled_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["take_rows", "argmax", "add", "kv_write_f32", "embed_f32", "rope"]
    monkeypatch.setattr(build, "available_threads", lambda: 2)
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    got = build.build(names, tmp_path)
    assert set(got) == set(names)
    assert all(cache.read(tmp_path, name) for name in names)


def test_workers_compile_what_this_process_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from miaotui.runtime.cpu import emit

    names = ["take_rows", "argmax", "add", "kv_write_f32", "embed_f32", "rope"]
    monkeypatch.setattr(build, "available_threads", lambda: 2)
    assert sorted(build._by_workers(names, tmp_path)) == sorted(names)
    for name in names:
        assert undefined(cache.read(tmp_path, name) or b"") == undefined(emit.object_code(name))


def test_a_terminal_sees_kernels_being_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.delenv("MIAOTUI_QUIET", raising=False)
    with build.Progress(2, lost=None) as progress:
        progress.tick("add")
        assert terminal.getvalue().endswith("1 of 2: add")
        progress.tick("rope")
    assert terminal.getvalue().splitlines()[-1].endswith("s")
    monkeypatch.setenv("MIAOTUI_QUIET", "1")
    before = terminal.getvalue()
    with build.Progress(2, lost=None) as progress:
        progress.tick("add")
    assert terminal.getvalue() == before


def test_names_come_from_the_op_table_alone() -> None:
    assert set(link.KERNELS) == set(KERNELS)
    with pytest.raises(miaotui.errors.BackendError, match="no kernel 'nothing'"):
        link.addresses(["nothing"])
