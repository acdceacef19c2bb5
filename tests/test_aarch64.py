"""The package on aarch64 Linux, run by qemu: `./dev soak aarch64`. The same bits as here.

Debian's CPython for ARM and PyPI's packages are fetched into build/soak/aarch64; no system is changed. qemu computes
what an ARM core would. It orders memory as this machine does, and so shows nothing of barriers between threads.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import op_bits
import pytest
import soak
from miaotui.runtime.cpu import shipped
from miaotui.tools import kernels
from places import ROOT, story, wheel

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("qemu-aarch64", "apt-get", "dpkg-deb"))),
    reason="takes Debian with qemu-aarch64: apt-get install qemu-user binutils-aarch64-linux-gnu",
)
TESTS = Path(__file__).resolve().parent
FOLDER = ROOT / "build" / "soak" / "aarch64"
#: What pip may install for that Python: `--platform`.
PLATFORMS = [f"manylinux_2_{minor}_aarch64" for minor in (28, 27, 26, 24, 17)]


def fetched(root: Path) -> None:
    """Unpack Debian's python3 for arm64, with what it depends on."""
    state = FOLDER / "apt"
    for part in ("lists/partial", "archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    settings = {
        "APT::Architecture": "arm64", "APT::Architectures": "arm64", "Dir::State": state, "Dir::Cache": state,
        "Dir::State::status": state / "status",
    }  # fmt: skip
    apt = ["apt-get", "-qq", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]
    subprocess.run([*apt, "update"], check=True)
    named = ["python3", "libstdc++6"]
    subprocess.run([*apt, "-y", "--download-only", "--no-install-recommends", "install", *named], check=True)
    unpack = ["dpkg-deb", "-x"]
    for package in (state / "archives").glob("*.deb"):
        subprocess.run([*unpack, package, root], check=True)


def installed(site: Path, python: str, *what: str | Path) -> None:
    """Let pip install for that Python into a folder."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--upgrade"]
    command += ["--target", site, "--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    command += [f"--platform={name}" for name in PLATFORMS]
    subprocess.run([*command, *what], check=True)


def with_kernels(tree: Path) -> Path:
    """Copy our tree, with kernels for aarch64: those of an earlier run where nothing changed since."""
    compiled = FOLDER / "compiled"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "HERE", compiled)
        told = kernels.compile_ahead(compiled, "aarch64")
    assert max(told["bytes"].values()) <= kernels.MOST_BYTES, told["bytes"]
    skipped = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "compiled", "dist", "docs", "tests")
    shutil.copytree(ROOT, tree, ignore=skipped)
    shutil.copytree(compiled, tree / "runtime" / "cpu" / "compiled")
    return tree


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that runs Python's words on aarch64, where our wheel for it is installed."""
    root, site = FOLDER / "root", FOLDER / "site"
    program = root / "usr" / "bin" / "python3"
    if not program.exists():
        fetched(root)
    python = next((root / "usr" / "lib").glob("python3.*")).name.removeprefix("python")
    if not (site / "numpy").is_dir():
        needed = ["numpy", "tokenizers", "safetensors", "huggingface-hub", "pytest"]
        installed(site, python, *needed, f"hypothesis=={version('hypothesis')}")
    built = wheel(tmp_path_factory.mktemp("wheel"), "aarch64", with_kernels(tmp_path_factory.mktemp("tree") / "tree"))
    assert built.name.endswith("-py3-none-manylinux_2_17_aarch64.whl")
    shutil.rmtree(site / "miaotui", ignore_errors=True)
    installed(site, python, "--no-deps", built)
    libraries = json.loads((site / "miaotui" / "runtime" / "cpu" / "compiled" / "manifest.json").read_text())
    assert (libraries["machine"], list(libraries["libraries"])) == ("aarch64", ["aarch64.so"])
    here = {"PATH": os.environ["PATH"], "PYTHONHOME": str(root / "usr"), "PYTHONPATH": f"{site}:{TESTS}"}
    here |= {name: os.environ[name] for name in ("MIAOTUI_SHARED",) if name in os.environ}

    def run(*words: str | Path, cpu: str = "max") -> subprocess.CompletedProcess[str]:
        command = ["qemu-aarch64", "-cpu", cpu, "-L", root, program, *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=here, cwd=TESTS)

    return run


def told(arm: Any, script: str, *words: str | Path, cpu: str = "max") -> dict[str, Any]:
    done = arm(TESTS / script, *words, cpu=cpu)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert (said["level"], said["numba"]) == ("aarch64", False)
    return said["digests"]


def ours(script: str, *words: str | Path) -> dict[str, Any]:
    """What this machine's CPU computes."""
    here = {k: v for k, v in os.environ.items() if k != shipped.CPU} | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, TESTS / script, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=here)
    said: dict[str, Any] = json.loads(done.stdout)
    return said["digests"]


@pytest.mark.soak("aarch64")
def test_the_command_tells_readme_s_story(arm: Any) -> None:
    done = arm("-m", "miaotui", "generate", "Once upon a time")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == story()


@pytest.mark.soak("aarch64")
def test_goldens_are_told(arm: Any) -> None:
    """tests/test_goldens.py there, but for the text whose perplexity takes long."""
    done = arm("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", TESTS, "-c", os.devnull,
               TESTS / "test_goldens.py", "-k", "not perplexity")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " skipped" not in done.stdout.splitlines()[-1] or "MIAOTUI_SHARED" not in os.environ


@pytest.mark.soak("aarch64")
def test_every_op_is_near_its_reference_and_has_our_bits(arm: Any, tmp_path: Path) -> None:
    file = tmp_path / "cases"
    cases = op_bits.drawn(file, 10)
    got, want = told(arm, "op_bits.py", file), ours("op_bits.py", file)
    assert set(got) == set(want)
    assert {name for name in want if got[name] != want[name]} == set()
    soak.count("cases of ops with our bits", cases)


@pytest.mark.soak("aarch64")
@pytest.mark.parametrize(("cpu", "words"), [("max", []), ("cortex-a53", ["few"]), ("cortex-a57", ["few"])])
def test_models_of_every_kind_have_our_bits(arm: Any, cpu: str, words: list[str]) -> None:
    want = ours("digests.py", *words)
    assert told(arm, "digests.py", *words, cpu=cpu) == want
    soak.count(f"digests equal, {cpu}", len(want))
