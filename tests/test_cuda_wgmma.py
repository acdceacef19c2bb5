"""Hopper's products in the emulator: descriptors against layouts worked by hand, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from emulation import Fault
from miaotui.runtime.cuda.kernels.hopper import descriptor
from miaotui.runtime.cuda.primitives import barrier, registers, sst_i32, st_f32, thread
from miaotui.runtime.cuda.tensor import fence_async, wgmma_bf16, wgmma_close, wgmma_fence, wgmma_finish, wgmma_wait
from miaotui.runtime.cuda.wgmma_emulated import descriptor_addresses
from test_cuda_emulator import run

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
