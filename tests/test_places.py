"""Archives, frozen apps, machines where nothing can be written, other CPUs: the package runs, or says what it lacks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soak
from miaotui.errors import InputError
from miaotui.runtime.cpu import shipped
from miaotui.tools import cli, demo, kernels
from places import ALONE, archive, can_lock, locked, story, wheel

needs_libraries = pytest.mark.skipif(
    kernels._made(os.uname().machine) is None,
    reason="no kernels compiled ahead: python -m miaotui.tools.kernels runtime/cpu/compiled",
)
needs_locks = pytest.mark.skipif(not can_lock(), reason="unshare (util-linux) may not mount file systems here")
x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="an x86-64 CPU")
ASKED = ("generate", "Once upon a time", "--max-new-tokens", "24", "--threads", "1")
#: An application begins so, where it may not write and nobody is known.
NOTHING = """
import os, pwd
assert "HOME" not in os.environ
try:
    sys.exit(f"this user has a name: {pwd.getpwuid(os.getuid())}")
except KeyError:
    pass
for place in (".", "/dev/shm", os.path.dirname(os.path.abspath(sys.argv[0]))):
    assert not os.access(place, os.W_OK), place
"""


@needs_libraries
@needs_locks
@pytest.mark.ci  # 8 s
def test_an_archive_runs_where_nothing_can_be_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """No HOME, an unknown user, read-only file systems, a temporary directory where nothing may be executed."""
    assert cli.main(list(ASKED)) == 0
    told = capfd.readouterr().out
    assert told.split() == story()[: len(told.split())]
    app = archive(tmp_path / "app.pyz", ALONE + NOTHING)
    done = locked([sys.executable, app, *ASKED], tmp_path / "spare")
    assert (done.returncode, done.stdout, done.stderr) == (0, told, "")
    done = locked([sys.executable, app, *ASKED], tmp_path / "spare", how="ro")
    assert done.returncode == 1
    assert "model lie in an archive, and could not be unpacked" in done.stderr
    assert "let TMPDIR name a directory that can be written" in done.stderr
    done = locked([sys.executable, app, *ASKED, "--model", demo.path()], tmp_path / "spare", how="ro")
    assert (done.returncode, done.stdout, done.stderr) == (0, told, "")


@needs_libraries
@needs_locks
@pytest.mark.ci  # 3 s
def test_a_package_runs_from_a_place_where_nothing_may_be_executed(tmp_path: Path) -> None:
    app, spare = archive(tmp_path / "app.pyz", ALONE), tmp_path / "spare"
    script = 'python=$1 app=$2 at=$3; shift 3; "$python" -m zipfile -e "$app" "$at" && exec "$python" "$at" "$@"'
    done = locked(["bash", "-c", script, "run", sys.executable, app, spare / "app", *ASKED], spare)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == story()[: len(done.stdout.split())] != []
    direct = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    script = 'python=$1 app=$2 at=$3; "$python" -m zipfile -e "$app" "$at" && "$python" -c "$4" "$at/$5"'
    probe = "miaotui/runtime/cpu/compiled/probe.so"
    done = locked(["bash", "-c", script, "run", sys.executable, app, spare / "app", direct, probe], spare)
    assert "OSError" in done.stderr, "libraries could be opened there: the test shows nothing"


@needs_libraries
@x86
@pytest.mark.ci  # 2 s
def test_an_archive_on_a_cpu_below_every_level_says_what_it_lacks(tmp_path: Path) -> None:
    begin = f"{ALONE}\nfrom miaotui.runtime.cpu import shipped\nshipped._can = lambda: frozenset({{'pni', 'sse4_2'}})"
    app = archive(tmp_path / "app.pyz", begin)
    done = subprocess.run([sys.executable, app, *ASKED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "kernels must be compiled by Numba (this CPU lacks abm, avx, avx2, bmi1, " in done.stderr
    assert "pip install 'miaotui[jit]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_included_files_that_are_nowhere_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "__file__", "/nowhere/demo/__init__.py")
    monkeypatch.setattr(demo, "ADAPTERS", ("absent",))
    with pytest.raises(InputError, match="the included files adapters/absent are missing; install miaotui again"):
        demo.adapter("absent")


@needs_libraries
@x86
@pytest.mark.soak("emulated")
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="no qemu-x86_64: apt-get install qemu-user")
def test_an_image_that_was_built_here_runs_on_other_cpus(tmp_path: Path) -> None:
    """Each CPU takes its own level, with the bits that we have; one below every level says what it lacks."""
    here = {k: v for k, v in os.environ.items() if k != shipped.CPU} | {"PYTHONPATH": os.pathsep.join(sys.path)}
    script = tmp_path / "alone.py"
    digests = Path(__file__).with_name("digests.py")
    script.write_text(f"{ALONE}\nimport runpy\nrunpy.run_path({str(digests)!r}, run_name='__main__')\n")

    def run(*emulator: str) -> subprocess.CompletedProcess[str]:
        command = [*emulator, sys.executable, script, "few"]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=here)

    want: dict[str, Any] = json.loads(run().stdout)
    for cpu in ("Haswell", "Skylake-Client"):
        done = run("qemu-x86_64", "-cpu", cpu)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == want | {"level": "x86-64-v3"}
        soak.count("CPUs with the same bits")
    done = run("qemu-x86_64", "-cpu", "Nehalem")
    assert done.returncode == 1
    assert "BackendError: kernels must be compiled by Numba (this CPU lacks abm, avx, avx2, " in done.stderr


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment without a compiler, with PyInstaller and our wheel; its programs."""
    folder = tmp_path_factory.mktemp("frozen")
    built = wheel(folder, os.uname().machine)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    programs = folder / "venv" / "bin"
    install = [programs / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*install, built, "pyinstaller>=6,<7"], check=True)
    return programs


APP = """
import os, sys
import miaotui
from miaotui.runtime.cpu import shipped
from miaotui.tools import demo

assert sys.frozen and shipped.chosen() is not None
assert not {"numba", "llvmlite"} & set(sys.modules)
with miaotui.load(demo.path("story"), threads=2) as model:
    print('Once upon a time' + model.generate('Once upon a time', max_new_tokens=24).text)
    for quantize in ("int8", "int4"):
        with miaotui.load(demo.path("story"), quantize=quantize) as other:
            other.generate("Once upon a time", max_new_tokens=2)
print(miaotui.__version__)
"""


@needs_libraries
@needs_locks
@pytest.mark.soak("frozen")
@pytest.mark.parametrize("how", ["--onedir", "--onefile"])
def test_pyinstaller_freezes_an_application_without_options(frozen: Path, tmp_path: Path, how: str) -> None:
    """Its hook comes with the wheel. The app runs without HOME where nothing can be written but what it unpacks to."""
    (tmp_path / "app.py").write_text(APP)
    command = [frozen / "pyinstaller", "--log-level", "WARN", how, "app.py"]
    here = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MIAOTUI_CACHE_DIR")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=here)
    assert done.returncode == 0, done.stderr
    made = tmp_path / "dist" / "app"
    app = made / "app" if how == "--onedir" else made
    files = [f for f in (made, *made.rglob("*")) if f.is_file() and not f.is_symlink()]
    size = sum(f.stat().st_size for f in files)
    soak.count(f"megabytes, {how}", round(size / 1e6))
    done = locked([app], tmp_path / "spare", how="ro" if how == "--onedir" else "exec")
    assert (done.returncode, done.stderr) == (0, "")
    *text, version = done.stdout.split()
    want = subprocess.run(
        [frozen / "python", "-I", "-c", "import miaotui; print(miaotui.__version__)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert version == want.stdout.strip()
    assert text == story()[: len(text)]
