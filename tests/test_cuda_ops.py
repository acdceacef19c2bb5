"""Every kernel of the CUDA backend in the emulator, against the float64 reference: the cases of test_ops, smaller."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
import soak
from emulation import SCHEDULES, emulate
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from miaotui.runtime.cuda.kernels import KERNELS, SPECIAL, chosen
from miaotui.runtime.kvcache import KV_BYTES
from miaotui.runtime.ops import ACT_BACKENDS, ACTS, OPS
from miaotui.runtime.spec import Weight
from test_ops import CASES, Case, Draw, run_reference
from tolerance import bound

SIZES = st.sampled_from([1, 2, 3, 7, 8, 16, 17, 31, 32, 33, 40, 64, 65])
TOKENS = st.sampled_from([1, 1, 2, 3, 5, 6])
ROWS = [(op.name, v) for op in OPS.values() if "cuda" in op.backends for v in (op.variants or ("",))]


GPU_ACTS = tuple(act for act in ACTS if "cuda" in ACT_BACKENDS.get(act, ("cuda",)))


class SmallDraw(Draw):
    """As `Draw`; a thread of the emulator takes a microsecond for an addition."""

    acts = GPU_ACTS

    def __init__(self, draw):
        super().__init__(draw)
        self.t = draw(TOKENS)

    def size(self):
        return self.draw(SIZES)


class TileDraw(SmallDraw):
    """Sizes around the tensor core's tiles; whole 16 bytes a row; numbers that are float16."""

    def __init__(self, draw, tile):
        super().__init__(draw)
        self.t = draw(st.sampled_from([16, 17, tile - 1, tile, tile + 1]))
        self.sizes = [draw(st.sampled_from([8, 24, 40, 136, 264])), draw(st.sampled_from([1, 31, tile, tile + 1]))]

    def size(self):
        return self.sizes.pop()

    def array(self, *shape, scale=1.0):
        return super().array(*shape, scale=scale).astype(np.float16).astype(np.float32)


#: Fields of ops that are the CPU's alone: a GPU's cache is one row of positions.
PAGED = {"pages", "group"}


def test_every_op_has_its_kernels_with_the_slots_of_the_table():
    """A kernel may take fewer than there are: what only the CPU's cache has, it does not know."""
    for op in (op for op in OPS.values() if "cuda" in op.backends):
        for name in op.kernels:
            got = tuple(inspect.signature(KERNELS[name].function).parameters)
            assert got == ("arena", "step", "rows", *(f[2:] for f in KERNELS[name].fields)), name
            assert set(op.names) - set(got) <= PAGED, name


LINEAR = {k.name: (name, k) for name, several in SPECIAL.items() for k in several if name.startswith("linear")}
TILED = {name: found for name, found in LINEAR.items() if found[1].fast}


@pytest.mark.ci  # 26 s
@pytest.mark.parametrize("tiled", sorted(TILED))
def test_many_rows_by_the_tensor_core(tiled, monkeypatch):
    name, kernel = TILED[tiled]
    monkeypatch.setitem(SPECIAL, name, (replace(kernel, fits=lambda *_: True),))
    tile = min(128, int(tiled[len(tiled.rstrip("0123456789")) :]))

    @settings(max_examples=8 if tile <= 64 else 4, deadline=None, phases=[Phase.generate])
    @given(st.data(), st.sampled_from(SCHEDULES))
    def holds(data, schedule):
        d = TileDraw(data.draw, tile)
        case = replace(CASES["linear"](d, name.split("_", 1)[1]), fast=True)
        launched = []
        y, _ = emulate(case, [np.zeros(d.t, np.int64)], schedule, launched, architecture=kernel.only)
        assert tiled in launched
        expected, _ = run_reference(case, [np.zeros(d.t, np.int64)])
        assert np.all(np.abs(y - expected) <= case.tolerance(expected))

    holds()


class ManyDraw(SmallDraw):
    """Sizes around four rows and tokens and a warp's run of these, tiles, panels, and turns of 256 columns."""

    def __init__(self, draw):
        super().__init__(draw)
        self.t = draw(st.sampled_from([8, 9, 31, 32, 33, 65]))
        self.sizes = [draw(st.sampled_from([64, 248, 616, 1128])), draw(st.sampled_from([1, 3, 5, 17, 33, 65]))]

    def size(self):
        return self.sizes.pop()


#: Of the tiles of registers, those with many variants of one body once.
ONCE = ("linear_f32_many", "linear_bf16_many", "linear_int8_tiled32", "linear_int4a_tiled64")


@pytest.mark.ci  # 27 s
@pytest.mark.parametrize("many", soak.rest("cuda", sorted(set(LINEAR) - set(TILED)), ONCE))
def test_many_rows_have_the_bits_of_few(many, monkeypatch):
    name, kernel = LINEAR[many]

    @settings(max_examples=5, deadline=None, phases=[Phase.generate])
    @given(st.data(), st.sampled_from(SCHEDULES))
    def holds(data, schedule):
        d, got = ManyDraw(data.draw), []
        case = CASES["linear"](d, name.split("_", 1)[1])
        for several in ((kernel,), ()):
            monkeypatch.setitem(SPECIAL, name, [replace(k, fits=lambda *_: True) for k in several])
            launched = []
            y, _ = emulate(case, [np.zeros(d.t, np.int64)], schedule, launched)
            assert (many in launched) == bool(several)
            got.append(y.tobytes())
        assert got[0] == got[1]

    holds()


def test_inputs_beyond_float16_become_its_largest_and_nan_stays():
    x, w = np.zeros((16, 8), np.float32), Weight("w", "f16", (1, 8), np.ones((1, 8), np.float16), mapped=False)
    x[:3, 0] = 1e6, -1e6, np.nan
    case = Case(lambda ops, x: ops.linear(x, w), [[x]], None, fast=True)
    launched = []
    y, _ = emulate(case, [np.zeros(16, np.int64)], "forward", launched)
    assert launched == ["linear_f16_tiled64"]
    np.testing.assert_array_equal(y[:4, 0], np.array([65504, -65504, np.nan, 0], np.float32))


def test_floats_are_rounded_to_the_nearest_tf32():
    """Of 1 + i / 2^12: 2^-10 is the last place, a tie goes away from zero; and NaN and infinity stay."""
    numbers = np.array([*(1 + i / 4096 for i in range(9)), -1 - 2 / 4096, np.inf, np.nan], np.float32)
    x = np.zeros((16, 16), np.float32)
    x[np.arange(len(numbers)), np.arange(len(numbers))] = numbers
    w = Weight("w", "f32", (1, x.shape[1]), np.ones((1, x.shape[1]), np.float32), mapped=False)
    launched = []
    case = Case(lambda ops, x: ops.linear(x, w), [[x]], None, fast=True)
    y, _ = emulate(case, [np.zeros(16, np.int64)], "forward", launched)
    assert launched == ["linear_f32_tiled64"]
    wanted = [1 + i / 1024 for i in (0, 0, 1, 1, 1, 1, 2, 2, 2)]
    np.testing.assert_array_equal(y[:12, 0], np.array([*wanted, -1 - 1 / 1024, np.inf, np.nan], np.float32))


def test_the_size_of_a_product_says_which_tile():
    v = {"n": 8192, "k": 2048}
    assert chosen("linear_bf16_dot", 2048, v, fast=True).name == "linear_bf16_dot_tiled128"
    assert chosen("linear_bf16_dot", 128, v, fast=True).name == "linear_bf16_dot_tiled64"
    assert chosen("linear_bf16_dot", 2048, v, fast=True, architecture="sm_90a").name == "linear_bf16_dot_wgmma256"
    assert chosen("linear_bf16_dot", 128, v, fast=True, architecture="sm_90a").name == "linear_bf16_dot_tiled64"
    head = chosen("linear_bf16_dot", 1, v | {"n": 128256}, fast=True, architecture="sm_90a")
    assert head.name == "linear_bf16_dot"  # tiles enough, and no rows
    assert chosen("linear_bf16_dot", 2048, v, fast=True, architecture="sm_100a").name == "linear_bf16_dot_tiled128"
    assert chosen("linear_f16", 128, v, fast=True).name == "linear_f16_tiled64"
    assert chosen("linear_f16", 128, v).name == "linear_f16_many"
    assert chosen("linear_f16", 7, v).name == "linear_f16"
    assert chosen("linear_int8", 128, v).name == "linear_int8_tiled64"
    assert chosen("linear_int8", 128, v | {"n": 1024}, architecture="sm_75").name == "linear_int8"
    assert chosen("linear_int4", 128, v | {"n": 1024}).name == "linear_int4_tiled32"
    assert chosen("linear_int4", 128, v | {"k": 2080}).name == "linear_int4"
    assert chosen("linear_f32", 128, v | {"k": 2046}).name == "linear_f32"
    assert chosen("linear_f32", 2048, v, fast=True).name == "linear_f32_tiled128"
    assert chosen("linear_f32", 2048, v).name == "linear_f32_many"
    assert chosen("linear_bf16_dot", 15, v, fast=True).name == "linear_bf16_dot"
    for architecture in ("sm_80", "sm_90a"):
        odd = chosen("linear_bf16_dot", 2048, v | {"k": 2044}, fast=True, architecture=architecture)
        assert odd.name == "linear_bf16_dot"


@pytest.mark.parametrize(("name", "variant"), ROWS, ids=lambda v: v)
def test_the_kernel_is_its_reference(name, variant):
    @settings(max_examples=15, deadline=None, phases=[Phase.generate])  # shrinking would take minutes
    @given(st.data(), st.sampled_from(SCHEDULES))
    def holds(data, schedule):
        d = SmallDraw(data.draw)
        case = CASES[name](d, variant)
        ids = [d.rng.integers(0, case.n_vocab, len(p[0]) if p else d.t) for p in case.passes]
        y, result = emulate(case, ids, schedule)
        expected, expected_result = run_reference(case, ids)
        assert result == (expected_result or [-1])[-1]
        if expected is not None:
            assert case.read(y).shape == expected.shape
            assert np.all(np.abs(case.read(y) - expected) <= case.tolerance(expected))
            again, _ = emulate(case, ids, "backward")
            assert y.tobytes() == again.tobytes()

    holds()


@pytest.mark.parametrize("variant", KV_BYTES)
@pytest.mark.parametrize("window", [None, 40])
def test_a_query_that_is_split_over_chunks_of_keys_has_the_bits_of_a_whole_one(variant, window):
    rng, n, heads, d_head = np.random.default_rng(0), 290, 2, 20

    def build(ops, q, k, v):
        ops.kv_write(0, k, v, 1)
        return ops.attention(0, q, heads, 1, window=window, scale=d_head**-0.5)

    x = [rng.standard_normal((n, w)).astype(np.float32) for w in (heads * d_head, d_head, d_head)]
    bits = []
    for cuts in ([n - 2, 2], [n - 1, 1]):
        parts = np.split(np.arange(n), np.cumsum(cuts)[:-1])
        case = Case(build, [[a[p] for a in x] for p in parts], None, n_kv_heads=1, d_head=d_head, kv_cache=variant)
        launched = []
        y, _ = emulate(case, parts, "drawn", launched, skip="attention")
        assert (f"attention_{variant}_split" in launched) == (cuts[-1] == 1)
        bits.append(y[-1].tobytes())
    size = (1 + np.abs(x[0]).max() * np.abs(x[1]).max() * d_head**0.5) * np.abs(x[2]).max()
    assert np.abs(y[-1] - run_reference(case, parts)[0][-1]).max() <= bound("attention", variant, d_head + n) * size
    assert bits[0] == bits[1]
