"""Kernels compiled ahead: what building the package does. `python -m miaotui.tools.kernels FOLDER [MACHINE]` by hand.

Each level's functions are emitted by Numba in processes of its own, since tiles take their shapes when kernels are
imported; then a linker makes a library of them. What this machine's CPU can do plays no part: the same sources and
versions give the same bytes anywhere. The linker is the system's, or the one in the PyPI package `ziglang`.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BackendError, InputError
from ..runtime.cpu.cpuid import IR, PROBE
from ..runtime.cpu.environment import sources
from ..runtime.cpu.layout import ROOTS
from ..runtime.cpu.levels import LEVELS, TWINS, Level, Twin
from ..runtime.cpu.link import KERNELS
from ..runtime.cpu.object_files import SECTION_UNDEFINED, symbols
from ..runtime.cpu.shipped import MANIFEST, SHIPPED
from .clashes import check_clashes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["OUTSIDE", "compile_ahead", "linker", "main"]

#: Where the libraries of this package lie.
HERE = Path(__file__).resolve().parents[1] / "runtime" / "cpu" / SHIPPED
#: All that a library may call that is not in it: of libc, found in the process.
OUTSIDE = frozenset({
    "clock_gettime", "memcpy", "memmove", "memset", "pthread_create", "pthread_getcpuclockid", "pthread_join",
    "pthread_self", "sched_yield", "sem_destroy", "sem_init", "sem_post", "sem_wait", "usleep",
})  # fmt: skip
#: Of our own process that emits: nothing that changes code may come from whoever builds.
_CLEAN = ("NUMBA_", "MIAOTUI_")
#: Parts of a level, each emitted by a process, and how the names of their kernels begin.
PARTS = {
    "attention": ("attention", "cross_attention"),
    "products": ("linear", "expert_linear", "head_products"),
    "rest": ("",),
}
#: Of functions that are compiled for size, how Numba's names for them say it: attention's books, draws, whose loops are
#: vectors as they stand, the rows of a cache, and what is done once to a model.
SMALL = (
    "12attention_of", "15attention_split", "15attention_parts", "16attention_scores5edges", "8kv_cache", "7packing",
    "7kernels4draw", "11draw_stages", "12draw_weights", "13draw_boundary",
)  # fmt: skip
#: Bytes of a library, at most: each is installed everywhere, and what a start touches of it is in memory.
MOST_BYTES = 600_000
EMULATIONS = {"x86_64": "elf_x86_64", "aarch64": "aarch64linux"}
EMIT = "--emit"


def compile_ahead(folder: Path, machine: str) -> dict[str, Any]:
    """Write a machine's libraries and their manifest into a folder; the manifest. Errors: `BackendError`.

    Where a clone has them already, of these very sources, versions and machine, they are copied.
    """
    if (told := _made(machine)) is not None:
        if folder.resolve() != HERE:
            shutil.copytree(HERE, folder, dirs_exist_ok=True)
        return told
    levels = [level for level in LEVELS if level.machine == machine]
    if not levels:
        known = ", ".join(dict.fromkeys(level.machine for level in LEVELS))
        msg = f"{machine}: kernels are not compiled ahead for this machine; expected one of {known}"
        raise InputError(msg)
    link, libraries = linker(machine), dict[str, str]()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        jobs = [(level, part, Path(made) / level.name / part) for part in PARTS for level in levels]
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # each waits for a process
            list(pool.map(_emitted, *zip(*jobs, strict=True)))
        for level in levels:
            libraries |= _linked(link, level.name, (Path(made) / level.name).glob("*/*.o"), folder)
        if machine == "x86_64":
            probe = Path(made) / "probe.o"
            probe.write_bytes(_probe())
            libraries |= _linked(link, Path(PROBE).stem, [probe], folder)
    checks = {file: zlib.crc32((folder / file).read_bytes()) for file in libraries}
    told = {"sources": sources().hex(), "versions": _versions(), "machine": machine, "libraries": libraries}
    told |= {"checks": checks, "bytes": {file: (folder / file).stat().st_size for file in libraries}}
    (folder / MANIFEST).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return told


def _made(machine: str) -> dict[str, Any] | None:
    """The manifest of what this clone has, if it is what compiling would give."""
    file = HERE / MANIFEST
    if not file.is_file():
        return None
    told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    wanted = {"sources": sources().hex(), "versions": _versions(), "machine": machine}
    return told if "bytes" in told and all(told.get(name) == value for name, value in wanted.items()) else None


def _versions() -> dict[str, str]:
    import llvmlite.binding as llvm  # noqa: PLC0415 - help must not wait for it
    import numba  # noqa: PLC0415 - as above

    return {"numba": numba.__version__, "llvm": ".".join(map(str, llvm.llvm_version_info))}


def _emitted(level: Level, part: str, place: Path) -> None:
    """Emit the objects of a part of a level and its twins, in a fresh process."""
    place.mkdir(parents=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_CLEAN)}
    search = os.pathsep.join(str(path) for path in sys.path)
    done = subprocess.run(  # noqa: S603 - our own module, in our own interpreter
        [sys.executable, "-m", __spec__.name, EMIT, level.name, part, place],
        env=kept | {"PYTHONPATH": search, "NUMBA_DISABLE_INTEL_SVML": "1", "OPENBLAS_NUM_THREADS": "1"},
        cwd=place, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip() or "nothing was said").splitlines()[-1]
        msg = f"{level.name}: kernels could not be compiled ({last})"
        raise BackendError(msg)


def linker(machine: str) -> list[str]:
    """Words that begin the command of a linker of ELF. Errors: `BackendError`: there is none."""
    emulation = EMULATIONS[machine]
    native = platform.system() == "Linux" and platform.machine() == machine
    for name in (*(("ld",) if native else ()), "ld.lld", f"{machine}-linux-gnu-ld"):
        found = shutil.which(name)
        if found is not None:
            return [found, "-m", emulation]
    if find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "ld.lld", "-m", emulation]
    msg = "compiling kernels ahead needs a linker: install binutils or lld, or `pip install ziglang`"
    raise BackendError(msg)


def _linked(link: Sequence[str], name: str, objects: Iterable[Path], folder: Path) -> dict[str, str]:
    """Make a library of objects; its file and SHA-256. Errors: `BackendError`."""
    # Of what several share the first's is linked: the level's own before those of twins, which not every CPU can run.
    objects = sorted(objects, key=lambda o: (o.name.count(".") > 1, o.name))
    check_clashes(name, objects)
    named = [pair for o in objects for pair in symbols(o.read_bytes())]
    missing = {symbol for symbol, section in named if section == SECTION_UNDEFINED}
    outside = missing - {symbol for symbol, section in named if section != SECTION_UNDEFINED} - OUTSIDE
    if outside:
        msg = f"{name}: kernels call {', '.join(sorted(outside))}, which is not to be found everywhere"
        raise BackendError(msg)
    file = folder / f"{name}.so"
    with tempfile.TemporaryDirectory() as made:
        shown = Path(made) / "shown"
        shown.write_text("{ global: miaotui_*; local: *; };\n", encoding="utf-8")
        done = subprocess.run(  # noqa: S603 - a linker that we found, on files that we made
            [*link, "-shared", "-s", "-o", file, *objects, f"--version-script={shown}", f"-soname={file.name}",
             "-z", "noexecstack", "-z", "relro", "-z", "now", "-z", "text", "-z", "noseparate-code",
             "--hash-style=gnu", "--build-id=none", "--gc-sections"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        msg = f"{file.name} could not be linked: {' '.join(done.stderr.split())[:300]}"
        raise BackendError(msg)
    file.chmod(0o644)
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}


def _probe() -> bytes:
    """The object that asks an x86-64 CPU what it can do."""
    import llvmlite.binding as llvm  # noqa: PLC0415 - as above

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    llvm.initialize_native_asmparser()
    target = llvm.Target.from_triple("x86_64-unknown-linux-gnu")
    made = target.create_target_machine(cpu="x86-64", features="", opt=2, reloc="pic", codemodel="small")
    return bytes(made.emit_object(llvm.parse_assembly(IR)))


def _emit(level: Level, part: str, place: Path) -> None:
    """Write the objects of a part of a level, and of its twins; the whole of a process's life."""
    from numba.core.bytecode import FunctionIdentity  # noqa: PLC0415 - as above

    gc.disable()  # a tenth of the time, for some memory more
    # Numba numbers functions to tell their symbols apart: of two processes too, whose objects become one library
    FunctionIdentity._unique_ids = itertools.count(10**6 * (1 + list(PARTS).index(part)))  # noqa: SLF001
    aim = _aiming(level)
    aim(None)
    from ..runtime.cpu import emit  # noqa: PLC0415 - it imports the kernels, which must know what they are for

    for name in dict.fromkeys((*ROOTS, *KERNELS)):
        if _part(name) == part:
            (place / f"{name}.o").write_bytes(emit.object_code(name, linked=True))
    for twin in sorted(TWINS, key=lambda twin: len(twin.needs)):  # what it shares with one that needs more is its own
        names = [name for name in twin.kernels if twin.level == level.name and _part(name) == part]
        if names:
            aim(twin)
            for name in names:
                (place / f"{name}.{twin.name}.o").write_bytes(emit.object_code(name, twin.name, linked=True))


def _part(name: str) -> str:
    return next(part for part, begins in PARTS.items() if name.startswith(begins))


def _for_size(module: Any) -> Any:  # noqa: ANN401 - llvmlite has no types
    for function in module.functions:
        if not function.is_declaration and any(name in function.name for name in SMALL):
            function.attributes.add("optsize")
    return module


def _aiming(level: Level) -> Callable[[Twin | None], None]:
    """What makes Numba and our emitters compile for a level, or a twin of it, from then on.

    At first for the level, before any kernel is imported: what kernels share is the level's, in twins too.
    """
    import llvmlite.binding as llvm  # noqa: PLC0415 - as above
    from numba.core import codegen  # noqa: PLC0415 - as above
    from numba.core.registry import cpu_target  # noqa: PLC0415 - as above

    from ..runtime.cpu.target import aim  # noqa: PLC0415 - as above

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()

    class Library(codegen.AOTCodeLibrary):  # type: ignore[misc]  # Numba has no types
        def get_pointer_to_function(self, _: str) -> int:
            return 0  # of functions that kernels alone call: Numba wants an address, nobody jumps to it

        def add_ir_module(self, module: Any) -> None:  # noqa: ANN401 - as above
            super().add_ir_module(_for_size(module))

    class Codegen(codegen.CPUCodegen):  # type: ignore[misc]  # as above
        _library_class = Library

        def _init(self, _: object) -> None:
            self.turn(level.features)
            self._target_data = self._tm.target_data
            self._data_layout = str(self._target_data)
            self._loopvect, self._opt_level = False, 0  # of Numba's first, cheap pass: as it does by default

        def turn(self, features: str) -> None:
            """Compile for these features of the level's CPU."""
            self._tm_features, target = features, llvm.Target.from_triple(level.triple)
            self._tm = target.create_target_machine(
                cpu=level.cpu, features=features, opt=3, reloc="pic", codemodel="small"
            )

        def _create_empty_module(self, name: str) -> Any:  # noqa: ANN401 - llvmlite has no types
            module = super()._create_empty_module(name)
            module.triple = level.triple
            return module

        def _add_module(self, _: object) -> None:
            """Load nothing."""

        def set_env(self, *_: object) -> None:
            """There is no function to tell it to."""

    context = cpu_target.target_context
    context.refresh()  # what Numba needs for itself is compiled for this machine, now
    made = context._internal_codegen = Codegen("miaotui")  # noqa: SLF001 - no public interface has it

    def turn(twin: Twin | None) -> None:
        if twin is None:
            aim(level.machine, level.has)
        else:
            made.turn(",".join(filter(None, [level.features, twin.features])))
            aim(level.machine, level.has | twin.has)

    return turn


def main(arguments: list[str]) -> int:
    """Compile for a machine (this one's kind, if none is named) into a folder, and say what was made.

    0, or 1 where a library is too large: no reason not to build a package, which another Numba may do.
    """
    if arguments[:1] == [EMIT]:
        _emit(next(level for level in LEVELS if level.name == arguments[1]), arguments[2], Path(arguments[3]))
        return 0
    told = compile_ahead(Path(arguments[0]), arguments[1] if arguments[1:] else platform.machine())
    print(json.dumps(told, indent=1))
    large = {file: size for file, size in told["bytes"].items() if size > MOST_BYTES}
    for file, size in large.items():
        print(
            f"{file} has {size:,} bytes, and may have {MOST_BYTES:,}: what kernels have in common should be a function "
            f"that they share (`ir_apart`, `SMALL`); docs/decisions.md says what was done",
            file=sys.stderr,
        )
    return int(bool(large))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
