"""The CPU levels that kernels are compiled for when a wheel is built, and the twins of a few kernels.

The x86-64 levels are those of the psABI. A twin is one kernel once more, by an instruction that only some CPUs of its
level have; a library holds it next to the plain one, and each CPU takes the twins that it can run. Nothing is imported
here but the standard library: a build and a start without llvmlite read it.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["LEVELS", "TWINS", "Forced", "Level", "Twin", "forced"]


class Level(NamedTuple):
    """What a library is compiled for.

    `machine`: as `platform.machine` names it. `triple`, `cpu`, `features`: LLVM's words. `has`: what `target` answers
    while its kernels are compiled, of the features that our own emitters ask for. `needs`: what the CPU must show, in
    Linux' words (/proc/cpuinfo).
    """

    name: str
    machine: str
    triple: str
    cpu: str
    features: str
    has: frozenset[str]
    needs: frozenset[str]


class Twin(NamedTuple):
    """Kernels of a level once more. As `Level`; `features`, `has` and `needs` are added to those of the level."""

    name: str
    level: str
    features: str
    has: frozenset[str]
    needs: frozenset[str]
    kernels: tuple[str, ...]


class Forced(NamedTuple):
    """What MIAOTUI_CPU names: a level, and twins that the CPU must be able to run; no others are taken."""

    level: Level
    twins: tuple[Twin, ...]


_LINUX = "unknown-linux-gnu"
_V3 = frozenset({
    "abm", "avx", "avx2", "bmi1", "bmi2", "cx16", "f16c", "fma", "lahf_lm", "movbe", "pni", "popcnt", "sse4_1",
    "sse4_2", "ssse3", "xsave",
})  # fmt: skip
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}

#: The best of a machine first.
LEVELS = (
    Level("x86-64-v4", "x86_64", f"x86_64-{_LINUX}", "x86-64-v4", "", frozenset({"f16c", "avx512f"}), _V4),
    Level("x86-64-v3", "x86_64", f"x86_64-{_LINUX}", "x86-64-v3", "", frozenset({"f16c"}), _V3),
    Level("aarch64", "aarch64", f"aarch64-{_LINUX}", "generic", "+neon", frozenset(), frozenset()),
)
#: Of a kernel that several have, the first that the CPU can run is taken.
TWINS = (
    Twin("bf16", "x86-64-v4", "+avx512bf16", frozenset({"avx512bf16"}), frozenset({"avx512_bf16"}),
         ("linear_bf16_dot", "attention_bf16_dot", "attention_values_bf16_dot")),
    Twin("vbmi2", "x86-64-v4", "+avx512vnni,+avx512vbmi,+avx512vbmi2", frozenset({"avx512vnni", "avx512vbmi2"}),
         frozenset({"avx512_vnni", "avx512vbmi", "avx512_vbmi2"}),
         ("linear_int8_sparse", "linear_int8_sparse_planes", "linear_bf16_sparse", "linear_f16_sparse")),
    Twin("vnni", "x86-64-v4", "+avx512vnni", frozenset({"avx512vnni"}), frozenset({"avx512_vnni"}),
         ("linear_int8", "linear_int4", "linear_int4a", *(f"linear_{d}_planes" for d in ("int8", "int4", "int4a")))),
)  # fmt: skip


def forced() -> dict[str, Forced]:
    """What MIAOTUI_CPU may be: each level by itself, and the last of x86-64 with twins."""
    plain = {level.name: Forced(level, ()) for level in LEVELS}
    best, twins = LEVELS[0], {twin.name: twin for twin in TWINS}
    return plain | {
        f"{best.name}-vnni": Forced(best, (twins["vnni"],)),
        f"{best.name}-bf16": Forced(best, TWINS),
    }
