"""Products of BF16 pairs have one rule on every CPU: steps by the instruction and without it, and kernels.

What is drawn: any bits; sums about 2^-126, below which results are flushed; sums that nearly vanish; denormals, zeros,
infinities and NaN. `./dev soak bf16` draws more.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soak
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.runtime import bf16_dot as rule
from miaotui.runtime.cpu import emitters, flow, lanes, pairs, target
from miaotui.runtime.spec import Weight
from numba import njit
from test_ops import SIZES, THREADS, TOKENS, Case, Draw, exactly, run_kernels

if TYPE_CHECKING:
    from collections.abc import Callable

SPECIAL = np.array([0, 1, 0x7F, 0x80, 0x81, 0x3F80, 0x7F7F, 0x7F80, 0x7FC0], np.uint16)
WAYS = ["instruction", "plain", "careful"]


def steps(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums so far [n, 16] float32, and pairs [n, 32] of BF16, as their bits."""
    sign = rng.integers(0, 2, (2, n, 32), np.uint16) << 15
    x, y = rng.integers(0, 2**16, (2, n, 32), np.uint16)
    acc = rng.integers(0, 2**32, (n, 16), np.uint32)
    kind = rng.integers(0, 4, n)

    edge = kind == 1  # products from 2^-152 to 2^-121, sums that are zero or about 2^-126
    e = rng.integers(30, 100, (n, 32))
    product = rng.integers(-152, -120, (n, 32))
    x[edge] = (x & 0x807F | e.astype(np.uint16) << 7)[edge]
    y[edge] = (y & 0x807F | (product + 254 - e).astype(np.uint16) << 7)[edge]
    few = rng.choice(np.array([0, 0, 0x007FFFFF, 0x00800000, 0x00800001, 0x00800100], np.uint32), acc.shape)
    acc[edge] = (acc & 0x80000000 | few)[edge]

    vanishing = kind == 2
    wide = [(a[:, 1::2].astype(np.uint32) << 16).view(np.float32) for a in (x, y)]
    with np.errstate(all="ignore"):
        opposite = (-(wide[0] * wide[1])).view(np.uint32) ^ rng.integers(0, 4, acc.shape, np.uint32)
    acc[vanishing] = opposite[vanishing]

    special = kind == 3
    x[special] = (sign[0] | rng.choice(SPECIAL, x.shape))[special]
    y[special] = np.where(rng.random(y.shape) < 0.5, y, sign[1] | rng.choice(SPECIAL, y.shape))[special]

    for numbers in (slice(0, None, 2), slice(1, None, 2)):  # so that one product of a pair shows alone
        alone = rng.random(n) < 0.2
        x[alone, numbers] = (sign[0] & 0x8000)[alone, numbers]
    return acc.view(np.float32), x, y


def stepped(acc: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """By the rule."""
    x, y = ((a.astype(np.uint32) << 16).view(np.float32) for a in (x, y))
    with np.errstate(all="ignore"):
        return rule.fma(x[:, ::2], y[:, ::2], rule.fma(x[:, 1::2], y[:, 1::2], acc))


@pytest.fixture(scope="module")
def computed() -> Any:
    """A function (way, acc, x, y) -> what this CPU makes of them, and whether it flushed what others might not."""
    made: dict[str, Any] = {}

    def compiled(way: str) -> Callable[..., int]:
        def walk(b: Any, acc: Any, x: Any, y: Any, out: Any, count: Any) -> None:
            def body(i: Any, _: list[Any]) -> list[Any]:
                at = b.mul(i, flow.c64(64))
                loaded = [pairs.ir_load_pairs(b, b.add(a, at)) for a in (x, y)]
                before = emitters.ir_load(b, b.add(acc, at))
                emitters.ir_store(b, pairs.ir_dot_pairs(b, before, *loaded, careful=way == "careful"), b.add(out, at))
                return []

            flow.ir_loop(b, flow.c64(0), count, 1, [], body)

        dots = lanes.outlined(f"dots_{way}", 5)(walk)
        enter, leave = pairs.flush_mode, pairs.leave_flush_mode

        @njit("int64(int64, int64, int64, int64, int64)")
        def run(acc, x, y, out, count):
            mode = enter()
            dots(acc, x, y, out, count)
            return leave(mode)

        return run

    def call(way: str, acc: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, bool]:
        if way not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(pairs, "bf16_dot", lambda: way == "instruction")
                made[way] = compiled(way)
        out = np.empty(acc.shape, np.float32)
        return out, bool(made[way](*(a.ctypes.data for a in (acc, x, y, out)), len(acc)))

    return call


def equal(got: np.ndarray, want: np.ndarray) -> bool:
    """Every bit, but for NaN, which is where it should be."""
    nan = np.isnan(want)
    return np.array_equal(np.isnan(got), nan) and np.array_equal(got.view(np.int32)[~nan], want.view(np.int32)[~nan])


def holds(computed: Any, way: str, rng: np.random.Generator, n: int) -> np.ndarray:
    if way == "instruction" and not target.bf16_dot():
        pytest.skip("a CPU without AVX-512 BF16")
    drawn = steps(rng, n)
    want = stepped(*drawn)
    got, flushes = computed(way, *drawn)
    assert equal(got, want) or (flushes and way == "plain")
    return want


@pytest.mark.parametrize("way", WAYS)
def test_a_step_is_the_rule(computed: Any, way: str) -> None:
    want = holds(computed, way, np.random.default_rng(1), 6000)
    assert (np.abs(want) == 2.0**-126).sum() > 50
    assert min(np.isnan(want).sum(), np.isinf(want).sum(), (want == 0).sum()) > 1000


@pytest.mark.soak("bf16")
@pytest.mark.parametrize("way", WAYS)
def test_millions_of_steps_are_the_rule(computed: Any, way: str) -> None:
    @settings(max_examples=100, deadline=None)
    @given(st.integers(0, 2**64))
    def rounds(seed: int) -> None:
        want = holds(computed, way, np.random.default_rng(seed), 10_000)
        soak.count(f"steps, {way}", want.size)
        soak.count(f"of them +-2^-126, {way}", int((np.abs(want) == 2.0**-126).sum()))

    rounds()


def test_the_rule_at_the_edge() -> None:
    """What rounds up to 2^-126 as if exponents had no lower end is kept, by either product; what does not, flushed."""
    least, one, none = (np.array([v], np.float32) for v in (2.0**-126, 1.0, 0.0))
    factor = np.array([2.0**-75], np.float32)
    assert rule.fma(factor, -factor / 2, least) == least  # less 2^-151: a tie between 2^-126 and the number before
    assert rule.fma(factor, -factor, least) == 0  # less 2^-150: that number
    assert rule.fma(one, least / 2, least) == least  # a denormal factor is a zero
    assert np.signbit(rule.fma(-one, least / 2, -none))
    assert rule.fma(none, one, least / 2) == 0


def product(w: np.ndarray, threads: int, x: np.ndarray) -> Any:
    weight = Weight("w", "bf16", w.shape, w, mapped=False)
    case = Case(lambda ops, x: ops.linear(x, weight), [[x]], exactly, rows=len(x), fast=True)
    return run_kernels(case, [np.zeros(len(x), np.int64)], threads)[0]


@pytest.mark.parametrize("kind", ["usual", "edge", "special"])
def test_kernels_have_the_rule_s_bits(kind: str) -> None:
    @settings(max_examples=20, deadline=None)
    @given(st.data(), THREADS, SIZES, SIZES | st.sampled_from([1023, 1056, 1300]), TOKENS | st.sampled_from([49, 134]))
    def rounds(data: st.DataObject, threads: int, n: int, k: int, t: int) -> None:
        d = Draw(data.draw)
        n = min(n, 17) if k * t > 5000 else n  # the rule in NumPy takes its time
        x, w = (d.at_the_edge(*shape) if kind == "edge" else d.array(*shape) for shape in ((t, k), (n, k)))
        w = (w.view(np.uint32) >> 16).astype(np.uint16)
        if kind == "special":
            some = d.rng.random(x.shape) < 0.1
            x[some] = d.rng.choice((SPECIAL.astype(np.uint32) << 16).view(np.float32), int(some.sum()))
            x[d.rng.random(x.shape) < 0.1] = 1e-40
            some = d.rng.random(w.shape) < 0.01
            w[some] = d.rng.choice(SPECIAL, int(some.sum()))
        wide = (w.astype(np.uint32) << 16).view(np.float32)
        assert equal(product(w, threads, x), rule.linear_bf16_dot(x, wide))

    rounds()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("tokens", [1, 5, 50])
def test_what_follows_keeps_denormals(tokens: int, threads: int) -> None:
    """The mode is the sums' alone, in every thread: what is added to them, and the next op, see the usual one."""
    w = Weight("w", "bf16", (70, 33), np.zeros((70, 33), np.uint16), mapped=False)
    x, small = np.ones((tokens, 33), np.float32), np.full((tokens, 70), 1e-40, np.float32)

    def build(ops: Any, x: Any, small: Any) -> Any:
        return ops.add(ops.linear(x, w, residual=small), small)

    case = Case(build, [[x, small]], exactly, rows=tokens, fast=True)
    got = run_kernels(case, [np.zeros(tokens, np.int64)], threads)[0]
    assert got is not None
    assert got.tobytes() == (small + small).tobytes()


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="reads MXCSR of glibc's fenv_t")
@pytest.mark.parametrize("tokens", [1, 5, 50])
def test_the_caller_s_mode_changes_nothing_and_is_what_it_was(tokens: int) -> None:
    libm, env = ctypes.CDLL("libm.so.6"), ctypes.create_string_buffer(32)

    def mode() -> int:
        libm.fegetenv(env)
        return int.from_bytes(env.raw[28:32], "little") & ~0x3F  # without what was signalled

    rng = np.random.default_rng(3)
    x = rng.standard_normal((tokens, 40), np.float32)
    w = (rng.standard_normal((21, 40), np.float32).view(np.uint32) >> 16).astype(np.uint16)
    want, usual = product(w, 1, x), mode()
    libm.fesetround(0x800)  # up
    try:
        up = mode()
        got = product(w, 1, x)
        after = mode()
    finally:
        libm.fesetround(0)
    assert (usual, up, after) == (0x1F80, 0x5F80, up)
    assert np.array_equal(got, want)
