"""The package as users get it: what a wheel holds, what importing costs, and which room may import which."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import miaotui
import pytest
from miaotui.tools.packages_picture import LOWEST

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]
NOT_PACKAGED = {"tests", "docs", "build", "dist", "setup.py"}
#: Modules of the tree that the wheel leaves out: they serve tests or the build, or answered one question.
NOT_IN_THE_WHEEL = ("miaotui.runtime.cuda.emulator", "miaotui.tools.building", "miaotui.tools.studies")
SOURCES = sorted(
    path
    for path in ROOT.rglob("*.py")
    if not (parts := path.relative_to(ROOT).parts)[0].startswith(".") and parts[0] not in NOT_PACKAGED
)


def _module(path: Path) -> list[str]:
    """Return the dotted name's parts, `miaotui` first; a package's own for its __init__."""
    parts = ["miaotui", *path.relative_to(ROOT).with_suffix("").parts]
    return parts[:-1] if parts[-1] == "__init__" else parts


def _imports(path: Path) -> list[tuple[int, int, str]]:
    """Return every import of a file, also the late ones: line, level (0: absolute), full name of what is imported."""
    here = _module(path)
    package = here if path.name == "__init__.py" else here[:-1]
    got = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            got += [(node.lineno, 0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            parts = [*base, *([node.module] if node.module else [])]
            got += [(node.lineno, node.level, ".".join([*parts, alias.name])) for alias in node.names]
    return got


def _within(name: str, *rooms: str) -> bool:
    return any(name == f"miaotui.{room}" or name.startswith(f"miaotui.{room}.") for room in rooms)


def test_the_package_list_is_the_tree() -> None:
    got = {".".join(_module(path)) for path in SOURCES if path.name == "__init__.py"}
    assert sorted(got) == sorted([*PACKAGES, *NOT_IN_THE_WHEEL])
    homeless = [str(p.relative_to(ROOT)) for p in SOURCES if not (p.parent / "__init__.py").exists()]
    assert not homeless


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_are_relative_and_point_one_way(path: Path) -> None:
    me = ".".join(_module(path))
    own = {p.split(".")[1] for p in PACKAGES if "." in p} | {p.stem for p in ROOT.glob("*.py")} | {"miaotui"}
    for line, level, name in _imports(path):
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        if level == 0:
            assert name.split(".")[0] not in own, f"{where}: modules of our own are imported relatively"
            continue
        if _within(me, "runtime"):
            assert _within(name, "runtime", *LOWEST), f"{where}: runtime knows only itself and {LOWEST}"
        if _within(me, "loader"):
            known = (f"runtime.{module}" for module in ("spec", "quantized", "sparse", "sparse_int8", "memory"))
            allowed = _within(name, "loader", *LOWEST, *known)
            assert allowed, f"{where}: of the runtime, loader knows only spec, memory and the quantized forms"
        if _within(me, *LOWEST):
            assert not name.startswith("miaotui"), f"{where}: errors stands alone"
        if _within(me, "model"):
            assert not _within(name, "tools"), f"{where}: tools stand above the model"


def _run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | environment,
    )
    return done.stdout


def test_importing_is_cheap_and_late() -> None:
    code = (
        "import sys, time; began = time.perf_counter(); import miaotui; took = time.perf_counter() - began;"
        "print(took, *sorted({m.split('.')[0] for m in sys.modules} & {'numpy', 'numba', 'tokenizers', 'argparse'}))"
    )
    took, *heavy = min((_run(code).split() for _ in range(5)), key=lambda words: float(words[0]))
    assert heavy == []
    assert float(took) < 0.05


def test_garbage_is_collected_after_an_import_as_before() -> None:
    """Also where the import fails; where it was off, it stays off."""
    code = (
        "import gc, sys, miaotui\n{before}\nold = gc.isenabled()\n"
        "try:\n    miaotui.load\nexcept miaotui.MiaotuiError as e:\n    print('failed')\nprint(gc.isenabled() == old)"
    )
    broken = "sys.modules['numpy'] = None"
    for before, said in (("", ["True"]), ("gc.disable()", ["True"]), (broken, ["failed", "True"])):
        assert _run(code.format(before=before)).split() == said


def test_a_story_imports_what_it_needs() -> None:
    """Other families, and what few calls ask for, are 4 MB and 20 ms of a start; OpenSSL (`installed.py`) as much."""
    code = (
        "import sys, miaotui\nfrom miaotui.tools import demo\n"
        "with miaotui.load(demo.path('story')) as model:\n"
        "    next(iter(model.stream('Once upon a time', max_new_tokens=1)))\n"
        "print(*sys.modules)"
    )
    there = set(_run(code).split())
    assert "tokenizers" in there
    loader = ["families.bert", "adapter", "apart", "prune.export", "prune.mergekit", "text.grammar", "text.fim"]
    others = ["profiles", "encode", "perplexity", "runtime.watermark", "runtime.draft_model", "runtime.filters.filters"]
    others += ["runtime.synthid"]
    late = {f"miaotui.loader.{name}" for name in loader} | {f"miaotui.{name}" for name in others} | {"huggingface_hub"}
    assert there & late == set()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import contextlib, io, sys\nfrom miaotui.tools.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main(['--help'])\n"
        "print(*sorted({m.split('.')[0] for m in sys.modules} & {'numpy', 'numba', 'tokenizers', 'huggingface_hub'}))"
    )
    assert _run(code).split() == []


def test_every_public_name_is_there_and_others_are_not() -> None:
    for name in miaotui.__all__:
        assert getattr(miaotui, name) is not None
    assert set(miaotui.__all__) <= set(dir(miaotui))
    assert miaotui.MiaotuiError is miaotui.errors.MiaotuiError
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = miaotui.nothing


def test_version_is_the_distribution_s() -> None:
    assert miaotui.__version__ == PROJECT["project"]["version"] == importlib.metadata.version("miaotui")


@pytest.mark.parametrize("room", ["runtime", "loader", "tools"])
def test_a_room_by_its_bare_name_is_refused_with_a_reason(room: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\ntry: import {room}\nexcept ImportError as e: print(e)"
    assert f"import miaotui.{room}, not {room}" in _run(code)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Build a wheel from a clean copy of the tree, as pip does; the names of its files."""
    pytest.importorskip("setuptools", "77", reason="building a wheel takes setuptools 77 or later")
    source, out = tmp_path_factory.mktemp("source") / "any-name", tmp_path_factory.mktemp("wheel")
    skipped = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "compiled")
    shutil.copytree(ROOT, source, ignore=skipped)
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    here = os.environ | {"MIAOTUI_BUILD_MACHINE": "none"}  # its kernels: ./dev wheel
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False, env=here
    )
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    assert built.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(built) as archive:
        return archive.namelist()


def test_the_wheel_holds_the_package_and_nothing_else(wheel: list[str]) -> None:
    version = PROJECT["project"]["version"]
    assert {PurePosixPath(name).parts[0] for name in wheel} == {"miaotui", f"miaotui-{version}.dist-info"}
    inside = {name.removeprefix("miaotui/") for name in wheel if name.startswith("miaotui/")}
    demo = ROOT / "tools" / "demo"
    models = [*(demo / "model").glob("*"), *(ROOT / "tools" / "server" / "page").glob("*")]
    models += [path for name in ("models", "adapters") for path in (demo / name).rglob("*") if path.is_file()]
    left_out = tuple(package.removeprefix("miaotui.").replace(".", "/") + "/" for package in NOT_IN_THE_WHEEL)
    names = {path.relative_to(ROOT).as_posix() for path in SOURCES}
    expected = {name for name in names if not name.startswith(left_out)} | {"py.typed"}
    expected |= {path.relative_to(ROOT).as_posix() for path in models}
    expected |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "tools" / "server" / "page").iterdir()}
    assert inside == expected


def test_the_wheel_has_command_licence_and_types(wheel: list[str]) -> None:
    info = f"miaotui-{PROJECT['project']['version']}.dist-info"
    assert {f"{info}/entry_points.txt", f"{info}/licenses/LICENSE", "miaotui/py.typed"} <= set(wheel)
    assert PROJECT["project"]["scripts"] == {"miaotui": "miaotui.tools.cli:main"}


def test_every_extra_has_something_in_it() -> None:
    assert all(PROJECT["project"]["optional-dependencies"].values())
