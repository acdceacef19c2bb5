"""Hopper's products in the emulator: descriptors against layouts worked by hand, what is refused, and whole kernels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from emulation import EmulatedDevice, Fault, emulate, run_on
from miaotui.runtime.cuda.emulator.wgmma import descriptor_addresses
from miaotui.runtime.cuda.kernels import SPECIAL
from miaotui.runtime.cuda.kernels.hopper import descriptor
from miaotui.runtime.cuda.kernels.tiles import GROUP, tile_at
from miaotui.runtime.cuda.primitives import barrier, registers, sst_i32, st_f32, st_i32, thread
from miaotui.runtime.cuda.tensor import fence_async, wgmma_bf16, wgmma_close, wgmma_fence, wgmma_finish, wgmma_wait
from miaotui.runtime.spec import Weight
from test_cuda_emulator import run
from test_ops import Case

F = np.float32
PAIR_OF_ONES = 0x3F803F80


def encoded(start, leading, stride, mode, base=0):
    """As PTX has it: three numbers of 14 bits, in 16 bytes; base offset and swizzle mode."""
    return start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | base << 49 | mode << 62


@pytest.mark.parametrize(
    ("mode", "start", "row", "column", "address"),
    [
        (1, 1024, 0, 0, 1024),
        (1, 1024, 0, 9, 1024 + 18),  # piece 1 of row 0 stays
        (1, 1024, 1, 0, 1024 + 128 + 16),  # piece 0 of row 1 lies in place 1
        (1, 1024, 3, 8, 1024 + 3 * 128 + 2 * 16),  # 1 xor 3
        (1, 1024, 8, 0, 2048),  # the next eight rows: the stride
        (1, 1024 + 32, 5, 0, 1024 + 5 * 128 + 7 * 16),  # the second sixteen columns: piece 2; 2 xor 5
        (1, 1024 + 96, 7, 15, 1024 + 7 * 128 + 0 * 16 + 14),  # the last: piece 7; 7 xor 7
        (2, 1024, 1, 0, 1024 + 64),  # rows of 64 bytes: two have one number in bits 7 and 8
        (2, 1024, 2, 0, 1024 + 128 + 16),
        (2, 1024, 6, 8, 1024 + 384 + 2 * 16),  # 1 xor 3
        (3, 1024, 3, 8, 1024 + 96 + 16),  # rows of 32 bytes: four have one bit 7
        (3, 1024, 4, 8, 1024 + 128),
        (0, 1024, 1, 7, 1024 + 16 + 14),  # eight rows of 16 bytes
        (0, 1024, 9, 8, 1024 + 1024 + 16 + 256),  # and the leading offset for the next eight columns
    ],
)
def test_descriptors_name_what_was_worked_out_by_hand(mode, start, row, column, address):
    assert descriptor_addresses(encoded(start, 256, 1024, mode), 64)[row, column] == address


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_every_number_has_a_place_of_its_own(mode):
    places = descriptor_addresses(encoded(1024, 128, 1024, mode), 64)
    assert len(np.unique(places)) == places.size


def test_ours_is_the_pattern_of_128_bytes():
    def k(out):
        st_f32(out + 4 * thread(), F(descriptor(2048) == encoded(1024 + 2048, 16, 1024, 1)))

    assert np.all(run(k, 128, 32) == 1)


def test_what_descriptors_cannot_say_is_refused():
    with pytest.raises(Fault, match="base offset"):
        descriptor_addresses(encoded(1024, 16, 1024, 1, base=1), 64)
    with pytest.raises(Fault, match="do not end"):
        descriptor_addresses(encoded(1024 + 112, 16, 1024, 1), 64)


def product(*, fence=True, order=True, same=True, write=False, touch=False, close=True, wait=False):
    """64 x 16 ones times 16 x 16 ones; what a thread's first sum is under way, and at the end."""

    def k(out):
        for i in range(thread(), 80 * 32, 128):
            sst_i32(4 * i, PAIR_OF_ONES)
        if fence:
            fence_async()
        barrier()
        acc = registers(8)
        for i in range(8):
            acc[i] = F(2.0)
        if order:
            wgmma_fence()
        wgmma_bf16(acc, 8, descriptor(0) + (2 if thread() == 5 and not same else 0), descriptor(64 * 128))
        if close:
            wgmma_close()
        if wait:
            wgmma_wait(0)
        barrier()
        st_f32(out + 4 * thread(), acc[0])
        if write and thread() == 0:
            sst_i32(0, 0)
        if touch:
            acc[0] = F(0.0)
        wgmma_finish(acc, 8)
        st_f32(out + 512 + 4 * thread(), acc[0])

    return k


@pytest.mark.parametrize("options", [{}, {"wait": True}], ids=str)
@pytest.mark.parametrize("schedule", ["forward", "backward", "drawn"])
def test_sums_are_there_when_they_were_waited_for(options, schedule):
    under_way, end = run(product(**options), 1024, 128, shared=10240, schedule=schedule).reshape(2, -1)
    assert np.isnan(under_way).all()
    assert np.all(end == 18)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fence": False}, "fence_async"),
        ({"order": False}, "wgmma_fence"),
        ({"same": False}, "different descriptors"),
        ({"write": True}, "under way was written"),
        ({"touch": True}, "sums of a product"),
        ({"close": False}, "wgmma_close"),
    ],
    ids=str,
)
def test_what_has_no_defined_result_is_refused(options, words):
    with pytest.raises(Fault, match=words):
        run(product(**options), 1024, 128, shared=10240)


def test_operands_want_a_barrier():
    def k(_):
        for i in range(thread(), 80 * 32, 128):
            sst_i32(4 * i, PAIR_OF_ONES)
        fence_async()
        acc = registers(8)
        wgmma_fence()
        wgmma_bf16(acc, 8, descriptor(0), descriptor(64 * 128))

    with pytest.raises(Fault, match="race"):
        run(k, 1024, 128, shared=10240)


def test_a_warpgroup_is_four_warps():
    with pytest.raises(Fault, match="whole warpgroups"):
        run(lambda _: wgmma_fence(), 1024, 96)


@pytest.mark.parametrize(("down", "across"), [(1, 1), (1, 5), (16, 3), (17, 2), (35, 4)])
def test_tiles_go_down_in_groups_and_none_is_left_out(down, across):
    def k(out):
        if thread() == 0:
            for tile in range(down * across):
                row, column = tile_at(tile, down, across)
                st_i32(out + 8 * tile, row)
                st_i32(out + 8 * tile + 4, column)

    got = run(k, 8 * down * across, 32).view(np.int32).reshape(-1, 2).tolist()
    assert sorted(got) == [[r, c] for r in range(down) for c in range(across)]
    groups = [r // GROUP for r, _ in got]
    assert groups == sorted(groups)
    assert [r for r, _ in got[: min(GROUP, down)]] == list(range(min(GROUP, down)))


def whole(t, n, k):
    """A product of small whole numbers, which is exact, with bias and residual."""
    rng = np.random.default_rng(t + n + k)
    x, r = (rng.integers(-3, 4, (t, width)).astype(np.float32) for width in (k, n))
    w, b = rng.integers(-3, 4, (n, k)).astype(np.float32), rng.integers(-3, 4, n).astype(np.float32)
    bits = (w.view(np.uint32) >> 16).astype(np.uint16)
    weight, bias = Weight("w", "bf16", (n, k), bits, mapped=False), Weight("b", "f32", (n,), b, mapped=False)
    case = Case(lambda ops, x, r: ops.linear(x, weight, bias, residual=r), [[x, r]], None, fast=True)
    return case, x @ w.T + b + r


@pytest.fixture
def only(monkeypatch):
    """What lets one of the two kernels, and nothing else, take products of every size."""

    def set_(bn):
        (kernel,) = [k for k in SPECIAL["linear_bf16_dot"] if k.name == f"linear_bf16_dot_wgmma{bn}"]
        monkeypatch.setitem(SPECIAL, "linear_bf16_dot", (replace(kernel, fits=lambda *_: True),))
        return kernel

    return set_


@pytest.mark.ci  # 12 s
@pytest.mark.parametrize("bn", [128, 256])
@pytest.mark.parametrize(
    ("t", "n", "k", "schedule"),
    [
        (1, 1, 8, "forward"),
        (127, 127, 56, "backward"),
        (128, 256, 64, "drawn"),
        (129, 257, 72, "forward"),  # more tiles than blocks
        (65, 255, 13 * 64 - 8, "drawn"),  # every stage three times
        (257, 129, 6 * 64 + 8, "backward"),  # stages go on from tile to tile
    ],
)
def test_whole_products_are_exact(bn, t, n, k, schedule, only):
    kernel = only(bn)
    case, expected = whole(t, n, k)
    launched = []
    y, _ = emulate(case, [np.zeros(t, np.int64)], schedule, launched, architecture=kernel.only)
    assert launched[-1] == kernel.name
    np.testing.assert_array_equal(y, expected)


def test_maps_are_made_when_a_line_runs_first_and_once(only):
    made = []

    class Noting(EmulatedDevice):
        def tensor_map(self, wanted, to):
            made.append((wanted.rows, wanted.columns, wanted.stride, wanted.box_rows))
            super().tensor_map(wanted, to)

    only(128)
    case, expected = whole(16, 8, 72)
    twice = replace(case, passes=case.passes * 2)
    y, _ = run_on(Noting(architecture="sm_90a"), twice, [np.zeros(16, np.int64)] * 2)
    assert made == [(16 + 2, 72, 192, 128), (8, 72, 144, 128)]  # all that a step may have, and the weights
    np.testing.assert_array_equal(y, expected)


def test_no_more_blocks_than_run_at_once_take_all_tiles(only):
    grids = []

    class Noting(EmulatedDevice):
        def launch(self, kernel, blocks, *rest):
            grids.append((kernel.stays, blocks))
            super().launch(kernel, blocks, *rest)

    only(128)
    case, expected = whole(129, 130, 8)
    y, _ = run_on(Noting(architecture="sm_90a", blocks=2), case, [np.zeros(129, np.int64)])
    assert grids[-1] == (True, 2)
    np.testing.assert_array_equal(y, expected)
