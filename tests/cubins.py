"""Kernels as machine code, without a GPU: what the compile gate measures. `python tests/cubins.py` writes its budgets.

Needs the extras "cuda" and "cuda-test" (nvdisasm).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

from miaotui.runtime.cuda import build
from miaotui.runtime.cuda.kernels import KERNELS, SPECIAL
from miaotui.runtime.cuda.kernels.bandwidth import MEASURES

BUDGETS = Path(__file__).with_name("cuda_budgets.json")
#: Every kernel by its own name.
ALL = {k.name: k for s in (*KERNELS.values(), *SPECIAL.values()) for k in (s, s.then) if k is not None}
ALL |= MEASURES
#: Architectures whose instructions are read; disassembling takes longest.
LISTED = (build.ARCHITECTURES[0], build.ARCHITECTURES[-1])
#: Instructions that work on float64.
DOUBLE = re.compile(r"^(DADD|DMUL|DFMA|DSETP|DMNMX|F2F\.\S*64|I2F\.\S*F64|F2I\.\S*F64|MUFU\.\S*64)")


def nvdisasm() -> Path | None:
    """The disassembler of the wheel, or None."""
    found = [p for root in sys.path for p in Path(root).glob("nvidia/*/bin/nvdisasm")]
    return found[0] if found else None


def instructions(code: bytes) -> Counter[str]:
    """How often each instruction stands in a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(code)
        f.flush()
        listing = subprocess.run([nvdisasm(), "-c", f.name], capture_output=True, text=True, check=True).stdout
    return Counter(re.findall(r"\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", listing))


def measured(ptx: str, architecture: str) -> SimpleNamespace:
    """Registers, spilled and stack bytes, wide loads, tensor-core and float64 instructions."""
    cubin = build.assemble(ptx, architecture)
    (registers,) = re.findall(r"Used (\d+) registers", cubin.log)
    ((stack, out, back),) = re.findall(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", cubin.log
    )
    found = instructions(cubin.code) if architecture in LISTED else Counter()
    return SimpleNamespace(
        registers=int(registers), spilled=int(stack) + int(out) + int(back),
        wide_loads=sum(n for op, n in found.items() if op.startswith("LDG") and ".128" in op),
        tensor=sum(n for op, n in found.items() if op.startswith(("HMMA", "HGMMA", "IMMA"))),
        double=[op for op in found if DOUBLE.match(op)],
    )  # fmt: skip


def main() -> None:
    """Measure every kernel on every architecture and write the budgets."""
    budgets = {}
    for name, kernel in sorted(ALL.items()):
        ptx = build.to_ptx(kernel)
        every = [measured(ptx, a) for a in build.ARCHITECTURES]
        budgets[name] = {
            "registers": max(m.registers for m in every),
            "wide_loads": min(m.wide_loads for m in (every[0], every[-1])),
            "tensor": min(m.tensor for m in (every[0], every[-1])),
        }
        print(name, budgets[name])  # noqa: T201 - a command
    lines = ",\n".join(f"  {json.dumps(n)}: {json.dumps(b)}" for n, b in budgets.items())
    BUDGETS.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
