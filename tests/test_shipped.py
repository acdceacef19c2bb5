"""Kernels compiled ahead: which of them a CPU takes, that they need no compiler, and that they give the JIT's bits.

The libraries are those of the clone, `./dev kernels`, where it has some.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import op_bits
import pytest
import soak
from checkpoints import small, write_checkpoint
from miaotui.errors import BackendError, InputError
from miaotui.runtime.cpu import cpuid, levels, link, shipped, target
from miaotui.runtime.cpu.layout import ROOTS
from miaotui.tools import demo, kernels
from miaotui.tools.bench import start
from places import ALONE

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).resolve().parent
needs_libraries = pytest.mark.skipif(
    kernels._made(os.uname().machine) is None,
    reason="no kernels compiled ahead: python -m miaotui.tools.kernels runtime/cpu/compiled",
)
x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="asks an x86-64 CPU")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """What was chosen is forgotten, before and after."""
    cached = (shipped.manifest, shipped.chosen, shipped._can, shipped._opened)
    for f in cached:
        f.cache_clear()
    monkeypatch.delenv(shipped.CPU, raising=False)
    yield monkeypatch
    for f in cached:
        f.cache_clear()


def run(script: str, tmp_path: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh process of Python, whose compiled code is kept by itself."""
    here = os.environ | {"MIAOTUI_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    here = {name: value for name, value in (here | environment).items() if value}
    command = [sys.executable, *(["-c", script] if " " in script else [str(TESTS / script), *words])]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=here, timeout=1800)


def test_levels_are_told_apart_by_what_they_need() -> None:
    """Each of a machine needs more than the next; twins add to one; every kernel of a twin is one."""
    x86_64 = [level for level in levels.LEVELS if level.machine == "x86_64"]
    assert all(a.needs > b.needs for a, b in pairwise(x86_64))
    names = {level.name: level for level in levels.LEVELS}
    for twin in levels.TWINS:
        assert not twin.needs <= names[twin.level].needs
        assert set(twin.kernels) <= set(link.KERNELS)
    assert list(levels.forced()) == ["x86-64-v4", "x86-64-v3", "aarch64", "x86-64-v4-vnni", "x86-64-v4-bf16"]
    assert {feature for level in levels.LEVELS for feature in level.has} <= set(target.FEATURES)


@x86
def test_the_cpu_says_what_linux_says(tmp_path: Path) -> None:
    """Of what levels and twins need; a system may hide some of what the CPU has."""
    probe = tmp_path / "probe.o"
    probe.write_bytes(kernels._probe())
    kernels._linked(kernels.linker("x86_64"), "probe", [probe], tmp_path)
    asked = cpuid.features(ctypes.CDLL(str(tmp_path / "probe.so")))
    flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    named = {name for names in cpuid._BITS.values() for name in names.values()}
    assert asked == named & set(flags.split())


def test_what_no_machine_or_linker_has_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="riscv64: kernels are not compiled ahead for this machine; expected one of"):
        kernels.compile_ahead(tmp_path / "none", "riscv64")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(kernels, "find_spec", lambda _: None)
    with pytest.raises(BackendError, match="pip install ziglang"):
        kernels.linker("x86_64")
    monkeypatch.setattr(kernels, "find_spec", lambda _: object())
    assert kernels.linker("x86_64")[1:4] == ["-m", "ziglang", "ld.lld"]


def test_a_clone_without_libraries_compiles(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fresh.setattr(shipped, "SHIPPED", str(tmp_path))
    assert shipped.chosen() is None
    assert "this is a clone or an editable installation" in shipped.needs_compiler()
    shipped.chosen.cache_clear()
    fresh.setenv(shipped.CPU, "x86-64-v9")
    with pytest.raises(BackendError, match="MIAOTUI_CPU='x86-64-v9': no such level; expected one of x86-64-v4, "):
        shipped.chosen()
    fresh.setenv(shipped.CPU, "x86-64-v3")
    with pytest.raises(BackendError, match="MIAOTUI_CPU=x86-64-v3: there is no such code to choose"):
        shipped.chosen()


def test_an_edited_kernel_is_not_hidden_by_an_older_library(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fresh.setattr(shipped, "SHIPPED", str(tmp_path))
    (tmp_path / shipped.MANIFEST).write_text(json.dumps({"sources": "00", "libraries": {}}))
    assert shipped.manifest() is None


@needs_libraries
@x86
def test_a_cpu_takes_the_best_that_it_can_run(fresh: pytest.MonkeyPatch) -> None:
    def chosen(can: frozenset[str]) -> tuple[str, list[str]] | None:
        shipped.chosen.cache_clear()
        fresh.setattr(shipped, "_can", lambda: can)
        got = shipped.chosen()
        return None if got is None else (got.name, [twin.name for twin in got.twins])

    v4, v3 = (level.needs for level in levels.LEVELS[:2])
    assert chosen(v4 | {"avx512_vnni"}) == ("x86-64-v4", ["vnni"])
    assert chosen(v4) == ("x86-64-v4", [])
    assert chosen(v3 | {"avx512f"}) == ("x86-64-v3", [])
    assert chosen(v3 - {"fma", "avx2"}) is None
    assert shipped.needs_compiler() == (
        "kernels must be compiled by Numba (this CPU lacks avx2, fma), which is not installed; "
        "pip install 'miaotui[jit]'"
    )
    fresh.setenv(shipped.CPU, "x86-64-v4-bf16")
    shipped.chosen.cache_clear()
    with pytest.raises(
        BackendError, match=r"MIAOTUI_CPU=x86-64-v4-bf16: this CPU lacks avx2, avx512_bf16, .*; unset it"
    ):
        chosen(v3 - {"fma", "avx2"})


@needs_libraries
@pytest.mark.usefixtures("fresh")
def test_what_asks_for_a_compiler_gets_it() -> None:
    for name, value in (("MIAOTUI_CPU", "jit"), ("MIAOTUI_DEBUG", "1"), ("NUMBA_CPU_NAME", "generic")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(name, value)
            patch.setattr(shipped, "named_cpu", lambda: (os.environ.get("NUMBA_CPU_NAME"), None))
            shipped.chosen.cache_clear()
            assert shipped.chosen() is None
            assert name in shipped.needs_compiler()


@needs_libraries
def test_a_damaged_library_is_never_opened(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(kernels.HERE, tmp_path / "copy")
    fresh.setattr(shipped, "SHIPPED", str(tmp_path / "copy"))
    level = shipped.chosen()
    assert level is not None
    file = tmp_path / "copy" / level.library
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    shipped._opened.cache_clear()
    with pytest.raises(BackendError, match=r"\.so: is damaged; install miaotui again"):
        shipped.addresses(["add"])
    file.unlink()
    with pytest.raises(BackendError, match=r"\.so: is not there; install miaotui again"):
        shipped.addresses(["add"])


@needs_libraries
def test_every_library_has_every_kernel(fresh: pytest.MonkeyPatch) -> None:
    for name in levels.forced():
        fresh.setenv(shipped.CPU, name)
        shipped.chosen.cache_clear()
        try:
            level = shipped.chosen()
        except BackendError:  # not of this machine, or more than this CPU can
            continue
        assert level is not None
        found = shipped.addresses([*ROOTS, *link.KERNELS])
        assert all(found.values())
        assert len(set(found.values())) == len(found)


@needs_libraries
@pytest.mark.ci  # 6 s
def test_no_compiler_is_needed_and_where_it_is_the_error_says_so(tmp_path: Path) -> None:
    text = (
        f"{ALONE}\nimport miaotui.tools.cli as cli; sys.exit(cli.main(['generate', 'Once', '--max-new-tokens', '4']))"
    )
    done = run(text, tmp_path, MIAOTUI_CPU="")
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.iterdir())
    for asked in ({"MIAOTUI_CPU": "jit"}, {"MIAOTUI_DEBUG": "1"}, {"MIAOTUI_EXECUTOR": "prange"}):
        done = run(text, tmp_path, **{"MIAOTUI_CPU": "", **asked})
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "which is not installed; pip install 'miaotui[jit]'" in done.stderr


def told(tmp_path: Path, level: str, *words: str, script: str = "digests.py", **environment: str) -> dict[str, Any]:
    """What a fresh process of this level says."""
    done = run(script, tmp_path, *words, MIAOTUI_CPU=level, **environment)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert said["level"] == (None if level == shipped.JIT else level)
    return said


def runnable(fresh: pytest.MonkeyPatch) -> list[str]:
    """Levels that this CPU can run."""
    found = []
    for name in levels.forced():
        fresh.setenv(shipped.CPU, name)
        shipped.chosen.cache_clear()
        try:
            shipped.chosen()
        except BackendError:
            continue
        found.append(name)
    return found


@needs_libraries
@pytest.mark.soak("levels")  # `./dev wheel` compares all levels, and `test_bits` what runs here with Numba's code
def test_every_level_gives_the_same_bits(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, *others = runnable(fresh)
    want = told(tmp_path, first, "few")["digests"]
    assert len(want) == 6
    for level in others:
        got = told(tmp_path, level, "few")
        assert not got["numba"]
        assert got["digests"] == want, level


@needs_libraries
@pytest.mark.soak("levels")
def test_every_level_gives_the_bits_of_the_jit_for_every_kind(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Goldens, included models and small ones in every dtype, by one to three threads."""
    want = told(tmp_path, shipped.JIT, MIAOTUI_CACHE_DIR="")["digests"]  # the cache that there is
    for level in runnable(fresh):
        got = told(tmp_path, level)
        assert not got["numba"]
        assert got["digests"] == want, level
        soak.count(f"digests equal, {level}", len(want))


@needs_libraries
@pytest.mark.soak("levels")
def test_every_op_has_the_bits_of_the_jit_at_every_level(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "cases"
    cases = op_bits.drawn(file, 25)
    want = told(tmp_path, shipped.JIT, str(file), script="op_bits.py", MIAOTUI_CACHE_DIR="")["digests"]
    for level in runnable(fresh):
        got = told(tmp_path, level, str(file), script="op_bits.py")["digests"]
        assert set(got) == set(want)
        assert {n for n in want if got[n] != want[n]} == set(), level
        soak.count(f"cases of ops equal, {level}", cases)


@pytest.mark.ci  # 12 s
def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    """Two processes emit some kernels for a level, and for a twin, at once."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom miaotui.tools import kernels as k\n"
        "from miaotui.runtime.cpu import levels\n"
        "k.ROOTS, k.KERNELS = ('team_work',), ('rope', 'linear_int8', 'rms_norm', 'argmax')\n"
        "k.TWINS = [t._replace(kernels=('linear_int8',)) for t in levels.TWINS if t.name == 'vnni']\n"
        "k.PARTS = {'all': ('',)}\n"
        "k._emit(levels.LEVELS[0], 'all', Path(sys.argv[1]))"
    )
    places = [tmp_path / "a", tmp_path / "b"]
    started = []
    for i, place in enumerate(places):
        place.mkdir()
        here = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sys.path)), "PYTHONHASHSEED": str(i)}
        started.append(subprocess.Popen([sys.executable, "-c", script, place], env=here))
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    made = [{o.name: o.read_bytes() for o in place.iterdir()} for place in places]
    assert made[0] == made[1]
    assert set(made[0]) == {
        f"{n}.o" for n in ("team_work", "rope", "linear_int8", "linear_int8.vnni", "rms_norm", "argmax")
    }
    assert made[0]["linear_int8.o"] != made[0]["linear_int8.vnni.o"]


@pytest.mark.soak("emission")
def test_the_same_sources_give_the_same_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel of every level of this machine, twice: with what the clone has, if it has them, or once more."""
    machine, there = os.uname().machine, kernels._made(os.uname().machine)
    monkeypatch.setattr(kernels, "HERE", tmp_path / "nowhere")
    monkeypatch.setenv("PYTHONHASHSEED", "1")
    first = kernels.compile_ahead(tmp_path / "a", machine)
    monkeypatch.setenv("PYTHONHASHSEED", "2")
    assert (there or kernels.compile_ahead(tmp_path / "b", machine)) == first


@needs_libraries
def test_libraries_are_small() -> None:
    """Every installation holds all of them, and a start has what it touches of one in memory."""
    told = kernels._made(os.uname().machine)
    assert told is not None
    assert told["bytes"] == {file: (kernels.HERE / file).stat().st_size for file in told["libraries"]}
    assert max(told["bytes"].values()) <= kernels.MOST_BYTES, told["bytes"]


def test_a_large_library_is_an_error_of_those_who_made_it_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {"a.so": kernels.MOST_BYTES, "b.so": kernels.MOST_BYTES + 1}
    monkeypatch.setattr(kernels, "compile_ahead", lambda *_: {"bytes": made})
    assert kernels.main([str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "b.so has 600,001 bytes, and may have 600,000" in said
    assert "a.so" not in said
    made.pop("b.so")
    assert kernels.main([str(tmp_path)]) == 0


def test_a_function_is_shared_with_nobody_who_cannot_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "_AIMED", [])
    monkeypatch.setattr(target, "_APART", {})
    by = (target.BYTE_DOT,)
    assert target.apart("dot", by) == ("dot", "internal", True)  # compiled for this process alone
    target.aim("x86_64", {target.F16C})
    assert target.apart("dot", by) == ("miaotui.dot", "weak_odr", True)
    assert target.apart("dot", by) == ("miaotui.dot", "weak_odr", False)
    assert target.apart("tail") == ("miaotui.tail", "weak_odr", True)
    target.aim("x86_64", {target.F16C, target.BYTE_DOT})
    assert target.apart("dot", by) == ("miaotui.dot.avx512vnni", "weak_odr", True)
    assert target.apart("tail") == ("miaotui.tail", "weak_odr", False)
    assert target.apart("late") == ("miaotui.late", "weak_odr", True)
    target.aim("x86_64", {target.F16C})
    with pytest.raises(BackendError, match="late: of a kernel that was compiled for avx512vnni, f16c, which not every"):
        target.apart("late")


def test_processes_of_a_level_share_no_kernel() -> None:
    """Each kernel and root is emitted by one of them."""
    names = [*ROOTS, *link.KERNELS]
    assert {kernels._part(name) for name in names} == set(kernels.PARTS)
    assert kernels._part("attention_f32") == "attention"
    assert kernels._part("linear_int8") == kernels._part("expert_linear_int8") == "products"


def test_the_benchmark_of_starts_says_what_it_lacks(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fresh.setattr(shipped, "SHIPPED", str(tmp_path))
    with pytest.raises(BackendError, match=r"no start to measure: run \./dev kernels in a clone"):
        start.main(["--rounds", "1"])


@needs_libraries
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say what is held")
def test_the_benchmark_of_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "WAYS", dict.fromkeys(start.WAYS, ""))  # nothing is compiled for it
    write_checkpoint(tmp_path / "m", small("llama"))
    shutil.copy(demo.path() / "tokenizer.json", tmp_path / "m")
    words = ["--rounds", "1", "--model", str(tmp_path / "m"), "--cold", str(tmp_path / "m"), "--out"]
    assert start.main([*words, str(tmp_path / "f.json")]) == 0
    record = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    both = record["start"]["shipped"], record["start"]["jit"]
    assert all(0 < way["best"] <= way["median"] < 100 and way["peak_bytes"] > 2**24 for way in both)
    assert record["cold"]["m"]["bytes"] == (tmp_path / "m" / "model.safetensors").stat().st_size
    assert 0 < record["warm"]["m"]["load"] < record["warm"]["m"]["first_token"]
    assert str(tmp_path) not in record["command"]
    assert "m, cold: read 0." in capsys.readouterr().out
    with pytest.raises(InputError, match="--rounds 0: expected at least 1"):
        start.main(["--rounds", "0"])
    with pytest.raises(InputError, match=r"has no \.safetensors to read"):
        start.main(["--cold", str(tmp_path)])
