"""The primitives as the emulator has them: what the hardware computes, one thread at a time."""

from __future__ import annotations

import math
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from .bulk import bulk
from .memory import Fault
from .tensor import bf16_bits, tensor
from .wgmma import wgmma
from .whole import whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .grid import Grid, Thread

__all__ = ["BUILTINS", "binding"]

F = np.float32
LOW32 = 0xFFFFFFFF


def binding(grid: Grid) -> dict[str, Any]:
    """Every primitive by name, for one launch."""
    mine = _who(grid) | _global(grid) | _grid(grid) | _shared(grid) | _warp(grid) | _tensor(grid)
    return mine | tensor(grid) | wgmma(grid) | bulk(grid) | whole(grid) | NUMBERS


def _who(grid: Grid) -> dict[str, Any]:
    return {
        "thread": lambda: grid.now.number,
        "threads": lambda: grid.kernel.threads,
        "block": lambda: grid.now.at,
        "blocks": lambda: grid.blocks,
        "anew": lambda value, _: value,
        "rolled": lambda: None,
    }


def _global(grid: Grid) -> dict[str, Any]:
    memory, races = grid.memory, grid.races
    load, store, constants = memory.load, memory.store, memory.load

    if races is not None:

        def load(address: int, kind: str, size: int, count: int = 1) -> Any:
            races.read(grid.now, address, size * count)
            return memory.load(address, kind, size, count)

        def store(address: int, kind: str, size: int, value: Any) -> None:
            races.write(grid.now, address, size)
            memory.store(address, kind, size, value)

        def constants(address: int, kind: str, size: int, count: int = 1) -> Any:
            races.constant(address, size * count)
            return memory.load(address, kind, size, count)

    def store4(address: int, words: Sequence[int]) -> None:
        if address % 16:
            msg = f"a store of 16 bytes at {address:#x}"
            raise Fault(msg)
        for i, word in enumerate(words):
            store(address + 4 * i, "u32", 4, word & LOW32)

    return {
        "ld_i64": lambda a: int(load(a, "i64", 8)),
        "ld_i32": lambda a: int(load(a, "i32", 4)),
        "ld_u32": lambda a: int(load(a, "u32", 4)),
        "ld_u16": lambda a: int(load(a, "u16", 2)),
        "ld_u8": lambda a: int(load(a, "u8", 1)),
        "ld_i8": lambda a: int(load(a, "i8", 1)),
        "ld_f32": lambda a: load(a, "f32", 4),
        "ld_bf16": lambda a: from_bits(int(load(a, "u16", 2)) << 16),
        "ld_f16": lambda a: F(load(a, "f16", 2)),
        "ld4_f32": lambda a: load(a, "f32", 4, 4),
        "ld4_u32": lambda a: tuple(map(int, load(a, "u32", 4, 4))),
        "weights4": lambda a: tuple(map(int, constants(a, "u32", 4, 4))),
        "st4_u32": store4,
        "st_i64": lambda a, v: store(a, "i64", 8, v),
        "st_i32": lambda a, v: store(a, "u32", 4, int(v) & LOW32),
        "st_u16": lambda a, v: store(a, "u16", 2, int(v) & 0xFFFF),
        "st_u8": lambda a, v: store(a, "u8", 1, int(v) & 0xFF),
        "st_f32": lambda a, v: store(a, "f32", 4, v),
    }


def _grid(grid: Grid) -> dict[str, Any]:
    """A thread that acquires what it saw before lets others run first: it may be spinning."""
    memory, races = grid.memory, grid.races

    def release_add(address: int, value: int) -> None:
        grid.news += 1
        if races is not None:
            races.release(grid.now, address)
        memory.store(address, "i64", 8, memory.load(address, "i64", 8) + value)

    def acquire_i64(address: int) -> int:
        me = grid.now
        if me.polled == (address, int(memory.load(address, "i64", 8))):
            me.spun = grid.news
            me.hub.switch()
        value = int(memory.load(address, "i64", 8))
        me.polled = (address, value)
        if races is not None:
            races.acquire(me, address)
        return value

    def prefetch(address: int) -> None:
        memory.region(address, 1)

    return {"release_add": release_add, "acquire_i64": acquire_i64, "prefetch": prefetch}


def _shared(grid: Grid) -> dict[str, Any]:
    def now() -> Thread:
        return grid.now

    return {
        "sld_f32": lambda a: now().shared.load(a, "f32", now().moment),
        "sld4_f32": lambda a: now().shared.load4(a, now().moment),
        "sst_f32": lambda a, v: now().shared.store(a, "f32", v, now().moment),
        "sld_i32": lambda a: int(now().shared.load(a, "i32", now().moment)),
        "sst_i32": lambda a, v: now().shared.store(a, "u32", int(v) & LOW32, now().moment),
        "sld_i64": lambda a: now().shared.load8(a, now().moment),
        "sst_i64": lambda a, v: now().shared.store8(a, v, now().moment),
        "barrier": lambda: now().block.meet(now(), "barrier", None, lambda all_: all_),
    }


def _warp(grid: Grid) -> dict[str, Any]:
    def meet(what: str, combine: Any) -> Any:
        def f(value: Any = None) -> Any:
            me = grid.now
            return me.warp.meet(me, what, value, combine)

        return f

    def take(what: str) -> Any:
        def f(value: Any, lane: int) -> Any:
            me = grid.now
            return me.warp.meet(me, what, (value, lane), lambda all_: [all_[lane & 31][0] for _, lane in all_])

        return f

    return {
        "warp_barrier": meet("warp_barrier", lambda all_: all_),
        "warp_sum": meet("warp_sum", _butterfly),
        "warp_max": meet("warp_max", lambda all_: [F(np.fmax.reduce(np.array(all_, np.float32)))] * len(all_)),
        "warp_max_size": meet("warp_max_size", lambda all_: [reduce(_larger_size, all_)] * len(all_)),
        "warp_sum_i": meet("warp_sum_i", lambda all_: [sum(all_)] * len(all_)),
        "warp_before_i": meet("warp_before_i", lambda all_: [sum(all_[:i]) for i in range(len(all_))]),
        "warp_take": take("warp_take"),
        "warp_take_i": take("warp_take_i"),
    }


def _tensor(grid: Grid) -> dict[str, Any]:
    def copy16(shared: int, address: int, count: int) -> None:
        if address % 16:
            msg = f"a copy of 16 bytes at {address:#x}"
            raise Fault(msg)
        source = grid.memory.view(address, 16) if count else np.zeros(16, np.uint8)
        grid.now.copies[-1].append((shared, source))  # read when it is waited for, as late as may be

    def copies_wait(left: int) -> None:
        me = grid.now
        while len(me.copies) - 1 > left:
            for shared, source in me.copies.pop(0):
                me.shared.copy(shared, source, me.moment)

    def ld_matrix4(shared: int) -> tuple[int, ...]:
        me = grid.now
        rows = me.warp.meet(me, "ld_matrix4", shared, lambda all_: [all_] * len(all_))
        lane = me.number % len(rows)
        loaded = (me.shared.load(rows[8 * i + lane // 4] + lane % 4 * 4, "u32", me.moment) for i in range(4))
        return tuple(map(int, loaded))

    return {
        "copy16": copy16, "copies_close": lambda: grid.now.copies.append([]), "copies_wait": copies_wait,
        "ld_matrix4": ld_matrix4, "registers": lambda n: [F(np.nan)] * n,
    }  # fmt: skip


def _butterfly(values: Sequence[Any]) -> list[Any]:
    v, lanes = np.array(values, np.float32), np.arange(len(values))
    for step in (16, 8, 4, 2, 1):
        v = v + v[lanes ^ step]
    return list(v)


def from_bits(x: int) -> Any:
    """A float32 of its bits."""
    return np.uint32(x & LOW32).view(np.float32)


def _half(x: int) -> Any:
    return F(np.uint16(x & 0xFFFF).view(np.float16))


def _dot4(unsigned: int, signed: int, total: int) -> int:
    for shift in (0, 8, 16, 24):
        s = signed >> shift & 0xFF
        total += (unsigned >> shift & 0xFF) * (s - 256 if s > 127 else s)
    return total


def _to_int(x: Any) -> int:
    return 0 if math.isnan(x) else int(max(-(1 << 31), min(float(x), (1 << 31) - 1)))


def _larger_size(x: Any, y: Any) -> Any:
    return x if F(x).view(np.uint32) > F(y).view(np.uint32) else y


def _as_the_hardware(of_integers: Any, of_floats: np.ufunc) -> Any:
    """Of two float32, a NaN loses."""

    def f(*values: Any) -> Any:
        return F(of_floats.reduce(values)) if any(isinstance(v, np.floating) for v in values) else of_integers(*values)

    return f


#: Python's own functions that mean something else on a GPU.
BUILTINS = {"max": _as_the_hardware(max, np.fmax), "min": _as_the_hardware(min, np.fmin)}
NUMBERS = {
    "fma": lambda a, b, c: F(float(a) * float(b) + float(c)),
    "sqrt": lambda x: np.sqrt(F(x)),
    "larger_size": _larger_size,
    "rint": lambda x: np.rint(F(x)),
    "to_int": _to_int,
    "bits": lambda x: int(F(x).view(np.uint32)),
    "from_bits": from_bits,
    "low_bf16": lambda pair: from_bits(pair << 16),
    "high_bf16": lambda pair: from_bits(pair & 0xFFFF0000),
    "low_f16": _half,
    "high_f16": lambda pair: _half(pair >> 16),
    "to_bf16": bf16_bits,
    "dot4": _dot4,
    "ones": lambda x: (x & LOW32).bit_count(),
    "first_one": lambda x: (x & -x).bit_length() - 1,
}
