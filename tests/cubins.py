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
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from miaotui.errors import BackendError
from miaotui.runtime.cuda import build
from miaotui.runtime.cuda.kernels import ADVANCE, DRAWS, KERNELS, SPECIAL, Kernel
from miaotui.runtime.cuda.kernels.bandwidth import MEASURES
from miaotui.runtime.cuda.kernels.rounded import FUSED
from miaotui.runtime.cuda.kernels.walker import walker

BUDGETS = Path(__file__).with_name("cuda_budgets.json")
#: Every kernel by its own name.
ALL = {
    k.name: k
    for s in (*KERNELS.values(), *(k for several in SPECIAL.values() for k in several))
    for k in (s, s.then)
    if k is not None
}
ALL |= MEASURES
ALL |= {k.name: k for k in (ADVANCE, *DRAWS)}
#: Walkers that the gate builds, for kernels that small programs of `test_cuda_step.py` name: together every one of a
#: walker's own, every op, every cache, and every kind of matrix.
WALKED = {
    "llama_bf16": "attention_bf16_merge attention_bf16_split embed_bf16 gated_bf16_here linear_bf16_here "
    "linear_bf16_one rms_norm_here rope_write_bf16",
    "llama_f32": "attention_int8_one embed_f32 gated_f32_here linear_f32_here linear_f32_one rms_norm_here "
    "rope_write_int8",
    "mistral_f16": "attention_f32_one embed_f16 gated_f16_here linear_f16_here linear_f16_one rms_norm_here "
    "rope_write_f32",
    "gpt2_int8": "add attention_int8_merge attention_int8_split embed_int8 embed_positions_f32 kv_write_int8 "
    "layer_norm_here linear_int8_here linear_int8_one quantize quantize_inside",
    "llama_packed": "attention_f32_merge attention_f32_split embed_int4 gated_int4a_here linear_int4_here "
    "linear_int4_one linear_int4a_here quantize quantize_inside rms_norm_here rope_write_f32",
    "gpt2_sparse": "add attention_f32_merge attention_f32_split embed_f32 embed_positions_f32 kv_write_f32 layer_norm "
    "layer_norm_here linear_f32_here linear_f32_one linear_f32_sparse",
    "qwen3_mixed": "attention_bf16_one embed_int4a gated_int4_here linear_bf16_dot linear_int4a_here "
    "linear_int8_sparse quantize_here quantize_inside rms_norm rms_norm_here rope_write_bf16 round_bf16",
}
#: What every walker has.
COMMON = "advance argmax_merge argmax_parts"
#: What no small program names, in the walker of its likes.
RARE = {
    "llama_bf16": "gated_bf16_one",
    "llama_f32": "gated_f32_one",
    "mistral_f16": "gated_f16_one rope take_rows",
    "gpt2_int8": "gated_int8_here",
    "qwen3_mixed": "linear_int4a_one",
}
#: What one has that draws its ids.
DRAWN = " ".join(k.name for k in (ADVANCE, *DRAWS))
WALKERS = {name: f"{COMMON} {parts} {RARE.get(name, '')}" for name, parts in WALKED.items()}
WALKERS["llama_bf16_drawn"] = f"{DRAWN} {WALKED['llama_bf16']}"
for _name, _parts in WALKERS.items():
    _kernels = [FUSED[n] if n in FUSED else ALL[n] for n in _parts.split()]
    ALL[f"walk_{_name}"] = replace(walker(_kernels, 2**14, together=True), name=f"walk_{_name}")
#: Architectures whose instructions are read; disassembling takes longest.
LISTED = (build.ARCHITECTURES[0], build.ARCHITECTURES[-1])
#: Products by the tensor core, matrices read for them, and copies to shared memory that go on alongside other work.
KINDS: dict[str, tuple[str, ...]] = {
    "tensor": ("HMMA", "HGMMA", "IMMA"),
    "matrices": ("LDSM",),
    "copies": ("LDGSTS", "UTMALDG", "UBLKCP"),
}
#: Instructions that work on float64.
DOUBLE = re.compile(r"^(DADD|DMUL|DFMA|DSETP|DMNMX|F2F\.\S*64|I2F\.\S*F64|F2I\.\S*F64|MUFU\.\S*64)")


def nvdisasm() -> Path | None:
    """The disassembler of the wheel, or None."""
    got = [p for root in sys.path for p in Path(root).glob("nvidia/*/bin/nvdisasm")]
    return got[0] if got else None


def instructions(code: bytes) -> Counter[str]:
    """How often each instruction stands in a cubin. Errors: `BackendError` without nvdisasm."""
    program = nvdisasm()
    if program is None:
        msg = "nvdisasm is missing: pip install 'miaotui[cuda-test]'"
        raise BackendError(msg)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(code)
        f.flush()
        listing = subprocess.run([program, "-c", "-ndf", f.name], capture_output=True, text=True, check=True).stdout
    return Counter(re.findall(r"\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", listing))


def architectures(kernel: Kernel) -> tuple[str, ...]:
    """Those that a kernel is for."""
    if kernel.only:
        return (kernel.only,)
    return (build.TURING, *build.ARCHITECTURES) if build.least(kernel) == build.LEAST else build.ARCHITECTURES


def measured(ptx: str, architecture: str) -> SimpleNamespace:
    """Registers, spilled and stack bytes, and how many instructions of each kind."""
    cubin = build.assemble(ptx, architecture)
    (registers,) = re.findall(r"Used (\d+) registers", cubin.log)
    ((stack, out, back),) = re.findall(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", cubin.log
    )
    got = instructions(cubin.code) if architecture in LISTED else Counter()
    return SimpleNamespace(
        registers=int(registers), serialized="serialized" in cubin.log, spilled=int(stack) + int(out) + int(back),
        wide_loads=sum(n for op, n in got.items() if op.startswith("LDG") and ".128" in op),
        **{kind: sum(n for op, n in got.items() if op.startswith(ops)) for kind, ops in KINDS.items()},
        double=[op for op in got if DOUBLE.match(op)],
    )  # fmt: skip


def main() -> None:
    """Measure every kernel on every architecture and write the budgets."""
    budgets = {}
    for name, kernel in sorted(ALL.items()):
        ptx = build.to_ptx(kernel)
        every = [measured(ptx, a) for a in architectures(kernel)]
        read = [m for a, m in zip(architectures(kernel), every, strict=True) if a in LISTED]
        budgets[name] = {
            "registers": max(m.registers for m in every),
            "wide_loads": min(m.wide_loads for m in read),
            **{kind: min(getattr(m, kind) for m in read) for kind in KINDS},
        }
        if any(m.spilled for m in every):
            print(f"{name} SPILLS", {a: m.spilled for a, m in zip(architectures(kernel), every, strict=True)})  # noqa: T201
        print(name, budgets[name])  # noqa: T201 - a command
    lines = ",\n".join(f"  {json.dumps(n)}: {json.dumps(b)}" for n, b in budgets.items())
    BUDGETS.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
