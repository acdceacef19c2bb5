"""The installed package, by itself: no compiler, no clone. `python -I tests/installed.py WHEEL` in its environment.

Prints sizes, and what each CPU level computes; ends with an error where levels differ or the story is not README's.
"""

from __future__ import annotations

import importlib.util
import os
import re
import site
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = """
import hashlib, sys, miaotui as mt
from miaotui.tools import demo
for how in ({}, {"quantize": "int8"}, {"quantize": "int4"}, {"kv_cache": "int8"}):
    with mt.load(demo.path("story"), threads=2, **how) as model:
        answer = model.generate("Once upon a time", max_new_tokens=24)
        print(hashlib.sha256(model.logits(answer.ids).tobytes()).hexdigest())
"""
#: What a story brings into the process.
STORY = """
import sys, miaotui as mt
from miaotui.tools import demo
with mt.load(demo.path("story")) as model:
    next(iter(model.stream("Once upon a time", max_new_tokens=1)))
print(*sys.modules)
"""
#: What none of them is for: it would be in memory all the same.
LATE = ("base64", "difflib", "miaotui.runtime.beams", "miaotui.tools.kernels")
#: Megabytes (10**6 bytes) of the wheel, and of each of its libraries.
MOST_WHEEL, MOST_LIBRARY = 8, 0.6


def size(path: Path) -> float:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6


def main(wheel: Path) -> None:
    for name in ("numba", "llvmlite", "torch"):
        assert importlib.util.find_spec(name) is None, f"{name} is installed: this environment shows nothing"
    (place,) = (Path(p) for p in site.getsitepackages())
    import miaotui

    assert Path(miaotui.__file__ or "").is_relative_to(place)
    story = re.search(r"^> (.*?)\n\n", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert story is not None
    here = {k: v for k, v in os.environ.items() if not k.startswith(("MIAOTUI_", "NUMBA_", "PYTHON"))}
    command = [str(Path(sys.executable).with_name("miaotui")), "generate", "Once upon a time"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=here)
    assert done.stderr == "", done.stderr
    assert done.stdout.split() == story[1].replace("\n> ", " ").split()
    done = subprocess.run([sys.executable, "-I", "-c", STORY], capture_output=True, text=True, check=True, env=here)
    came = {*LATE, "_hashlib", "numba", "llvmlite"} & set(done.stdout.split())
    assert not came, f"a story imported {', '.join(sorted(came))}, which it has no use for"
    with zipfile.ZipFile(wheel) as archive:
        sizes = {i.filename: i.file_size / 1e6 for i in archive.infolist() if i.filename.endswith(".so")}
    levels = list(sizes)
    for name, megabytes in sizes.items():
        print(f"{name} {megabytes:.3f} MB, of {MOST_LIBRARY} at most")
        assert megabytes <= MOST_LIBRARY, f"{name} is too large: see docs/decisions.md"
    seen = {}
    for level in ("", *(Path(name).stem for name in levels if "probe" not in name), "x86-64-v4-vnni", "x86-64-v4-bf16"):
        done = subprocess.run(
            [sys.executable, "-I", "-c", SCRIPT], capture_output=True, text=True, check=False,
            env=here | ({"MIAOTUI_CPU": level} if level else {}),
        )  # fmt: skip
        if done.returncode:
            assert "this CPU lacks" in done.stderr or "there is no such code" in done.stderr, done.stderr
            print(f"{level}: {done.stderr.strip().splitlines()[-1]}")
            continue
        seen[level or "this CPU's own"] = done.stdout
    assert len(set(seen.values())) == 1, seen
    pip = sum(size(path) for name in ("pip*", "setuptools*", "pkg_resources") for path in place.glob(name))
    installed, packed = size(place) - pip, wheel.stat().st_size / 1e6
    print(
        f"the same bits: {', '.join(seen)}; installed {installed:.1f} MB (pip and setuptools apart), "
        f"the wheel {packed:.2f} MB"
    )
    assert packed <= MOST_WHEEL


if __name__ == "__main__":
    main(Path(sys.argv[1]))
