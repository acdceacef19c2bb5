"""What an x86-64 CPU can do, asked by its own instructions: two functions in a library that every x86-64 runs.

/proc/cpuinfo says the same, but on Linux alone, and slowly on machines with many cores.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctypes import CDLL

__all__ = ["IR", "PROBE", "features"]

PROBE = "probe.so"
#: `tools/kernels.py` compiles it.
IR = """
target triple = "x86_64-unknown-linux-gnu"
define void @miaotui_cpuid(i64 %leaf, i64 %sub, i64 %out) {
  %l = trunc i64 %leaf to i32
  %s = trunc i64 %sub to i32
  %r = call { i32, i32, i32, i32 } asm sideeffect "cpuid", "={ax},={bx},={cx},={dx},{ax},{cx},~{dirflag},~{fpsr},~{flags}"(i32 %l, i32 %s)
  %p = inttoptr i64 %out to ptr
  store { i32, i32, i32, i32 } %r, ptr %p
  ret void
}
define i64 @miaotui_xgetbv() {
  %r = call { i32, i32 } asm sideeffect "xgetbv", "={ax},={dx},{cx},~{dirflag},~{fpsr},~{flags}"(i32 0)
  %lo = extractvalue { i32, i32 } %r, 0
  %z = zext i32 %lo to i64
  ret i64 %z
}
"""  # noqa: E501 - an instruction of LLVM's is a line
#: (leaf, subleaf, register): {bit: name}, names as in /proc/cpuinfo. Source: Intel SDM, volume 2A, CPUID.
_BITS = {
    (1, 0, 2): {
        0: "pni", 9: "ssse3", 12: "fma", 13: "cx16", 19: "sse4_1", 20: "sse4_2", 22: "movbe", 23: "popcnt",
        27: "xsave", 28: "avx", 29: "f16c",
    },
    (7, 0, 1): {
        3: "bmi1", 5: "avx2", 8: "bmi2", 16: "avx512f", 17: "avx512dq", 28: "avx512cd", 30: "avx512bw", 31: "avx512vl",
    },
    (7, 0, 2): {1: "avx512vbmi", 6: "avx512_vbmi2", 11: "avx512_vnni"},
    (7, 1, 0): {5: "avx512_bf16"},
    (0x80000001, 0, 2): {0: "lahf_lm", 5: "abm"},
}  # fmt: skip
EXTENDED, STRUCTURED = 0x80000000, 7
#: Registers that the system must save when it switches threads (XCR0): 16 and 32 bytes; masks and 64 bytes too.
_YMM, _ZMM = 0b110, 0b11100110
_OF_YMM = {"avx", "avx2", "fma", "f16c"}


def features(probe: CDLL) -> frozenset[str]:
    """Names of what CPU and operating system offer together."""
    probe.miaotui_cpuid.argtypes, probe.miaotui_cpuid.restype = [ctypes.c_int64] * 3, None
    probe.miaotui_xgetbv.argtypes, probe.miaotui_xgetbv.restype = [], ctypes.c_uint64
    out = (ctypes.c_uint32 * 4)()

    def cpuid(leaf: int, sub: int) -> list[int]:
        probe.miaotui_cpuid(leaf, sub, ctypes.addressof(out))
        return list(out)

    last, last_extended = cpuid(0, 0)[0], cpuid(EXTENDED, 0)[0]
    last_sub = cpuid(STRUCTURED, 0)[0] if last >= STRUCTURED else 0
    found = set[str]()
    for (leaf, sub, register), names in _BITS.items():
        if leaf <= (last_extended if leaf >= EXTENDED else last) and sub <= last_sub:
            word = cpuid(leaf, sub)[register]
            found |= {name for bit, name in names.items() if word >> bit & 1}
    saved = probe.miaotui_xgetbv() if "xsave" in found else 0
    if saved & _YMM != _YMM:
        found -= _OF_YMM
    if saved & _ZMM != _ZMM:
        found = {name for name in found if not name.startswith("avx512")}
    return frozenset(found)
